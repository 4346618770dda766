//! Whether the `ServiceAccounts` of the installation have the rights that the shipped manifests give them, and none that they must not have.
//! Asked of the API server's authorizer, so whatever grants a right is seen.

use super::finding::Finding;
use super::installation::Installation;
use super::known::{Known, Unknown, read};
use crate::api::names::DEBUG_SERVICE_ACCOUNT;
use futures::StreamExt as _;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Deserialize;
use std::collections::BTreeSet;

const CHECK: &str = "rights";
/// Questions at once.
const AT_ONCE: usize = 12;
/// At most so many rights are named in one line.
const NAMED: usize = 4;

/// The shipped roles: what this version needs.
const SHIPPED: [(&str, &str); 2] = [
    ("sandglass-controller", include_str!("../../../../manifests/base/rbac-controller.yaml")),
    ("sandglass-gateway", include_str!("../../../../manifests/base/rbac-gateway.yaml")),
];

/// The account of the door for CI outside the cluster, and what it needs in each namespace that a rule names.
const DOOR: &str = "sandglass-provision";
const DOORS_OWN: [&str; 3] = ["create", "get", "impersonate-requester"];

/// What no account of Sandglass may do, as verb, API group, resource with its part, and where: the system, debug or vm namespace, `kube-system`, or
/// everywhere.
const FORBIDDEN: [(&str, &str, &str, Where); 25] = [
    ("*", "*", "*", Where::Everywhere),
    ("get", "", "secrets", Where::System),
    ("list", "", "secrets", Where::System),
    ("get", "", "secrets", Where::Debug),
    ("get", "", "secrets", Where::Vm),
    ("get", "", "secrets", Where::KubeSystem),
    ("list", "", "secrets", Where::Everywhere),
    ("create", "", "pods/exec", Where::Debug),
    ("create", "", "pods/exec", Where::Vm),
    ("create", "", "pods/attach", Where::Debug),
    ("create", "", "pods/attach", Where::Vm),
    ("create", "", "pods/portforward", Where::Vm),
    ("patch", "", "pods/ephemeralcontainers", Where::Debug),
    ("patch", "", "pods/ephemeralcontainers", Where::Vm),
    ("create", "", "serviceaccounts/token", Where::Vm),
    ("create", "", "serviceaccounts/token", Where::System),
    ("create", "", "pods", Where::System),
    ("create", "", "pods", Where::KubeSystem),
    ("patch", "", "configmaps", Where::System),
    ("patch", "apps", "deployments", Where::System),
    ("patch", "", "namespaces", Where::Everywhere),
    ("delete", "admissionregistration.k8s.io", "validatingadmissionpolicybindings", Where::Everywhere),
    ("impersonate", "", "users", Where::Everywhere),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles", Where::Everywhere),
    ("bind", "rbac.authorization.k8s.io", "clusterroles", Where::Everywhere),
];

/// What only the controller may do.
const CONTROLLERS_OWN: [(&str, &str, &str, Where); 4] = [
    ("create", "", "pods", Where::Debug),
    ("delete", "", "pods", Where::Debug),
    ("create", "", "pods", Where::Vm),
    ("delete", "sandglass.dev", "debugsessions", Where::Everywhere),
];

/// What a session pod's account must not do beside that: nothing, of which these are the likeliest.
const SESSIONS_NEVER: [(&str, &str, &str, Where); 4] = [
    ("list", "", "pods", Where::Debug),
    ("get", "", "configmaps", Where::System),
    ("get", "sandglass.dev", "debugsessions", Where::Everywhere),
    ("create", "sandglass.dev", "debugsessions", Where::Everywhere),
];

#[derive(Clone, Copy, Debug)]
enum Where {
    System,
    Debug,
    Vm,
    KubeSystem,
    Everywhere,
}

/// One right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    verb: String,
    group: String,
    resource: String,
    /// Of one object only.
    name: Option<String>,
    /// Everywhere, where there is none.
    namespace: Option<String>,
}

impl std::fmt::Display for Right {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(formatter, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(formatter, " {name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(formatter, " in {namespace}"),
            None => formatter.write_str(" everywhere"),
        }
    }
}

/// One account, and the answers about it.
#[derive(Debug)]
pub(super) struct Facts {
    /// Name of the `ServiceAccount`.
    account: &'static str,
    /// What it needs, and whether it has it.
    needed: Vec<(Right, Known<bool>)>,
    /// What it must not have, and whether it has it.
    forbidden: Vec<(Right, Known<bool>)>,
}

/// Asks about every account.
pub(super) async fn facts(client: &Client, installation: &Installation, recoveries: bool) -> Vec<Facts> {
    let mut facts = Vec::new();
    for (account, manifest) in SHIPPED {
        let needed = needed(account, manifest, installation, recoveries);
        let own: &[_] = if account == "sandglass-controller" { &[] } else { &CONTROLLERS_OWN };
        let forbidden = resolve(FORBIDDEN.iter().chain(own), installation, recoveries);
        let namespace = &installation.system;
        let (needed, forbidden) = futures::join!(ask(client, namespace, account, needed), ask(client, namespace, account, forbidden));
        facts.push(Facts { account, needed, forbidden });
    }
    let of_door = doors_needs(installation);
    if !of_door.is_empty() {
        let forbidden = resolve(FORBIDDEN.iter().chain(&CONTROLLERS_OWN), installation, recoveries);
        let namespace = &installation.system;
        let (needed, forbidden) = futures::join!(ask(client, namespace, DOOR, of_door), ask(client, namespace, DOOR, forbidden));
        facts.push(Facts { account: DOOR, needed, forbidden });
    }
    let forbidden = resolve(FORBIDDEN.iter().chain(&CONTROLLERS_OWN).chain(&SESSIONS_NEVER), installation, recoveries);
    let forbidden = ask(client, &installation.debug, DEBUG_SERVICE_ACCOUNT, forbidden).await;
    facts.push(Facts { account: DEBUG_SERVICE_ACCOUNT, needed: Vec::new(), forbidden });
    facts
}

#[derive(Deserialize)]
struct Role {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// What the door needs, by its rules; nothing where there is no door.
fn doors_needs(installation: &Installation) -> Vec<Right> {
    let rules = installation.configuration().and_then(|configuration| configuration.provisioning.as_ref()).map(|door| &door.rules);
    let namespaces: BTreeSet<&str> = rules.into_iter().flatten().map(|rule| rule.namespace.as_str()).collect();
    let right = |namespace: &str, verb: &str| Right {
        verb: verb.to_owned(),
        group: "sandglass.dev".to_owned(),
        resource: "debugsessions".to_owned(),
        name: None,
        namespace: Some(namespace.to_owned()),
    };
    namespaces.into_iter().flat_map(|namespace| DOORS_OWN.iter().map(move |verb| right(namespace, verb))).collect()
}

/// Every right of the account's shipped roles.
fn needed(account: &str, manifest: &str, installation: &Installation, recoveries: bool) -> Vec<Right> {
    let place = |namespace: &str| match namespace {
        "sandglass-debug" => installation.debug.clone(),
        "sandglass-vm" => installation.vm.clone(),
        _ => installation.system.clone(),
    };
    let roles = serde_saphyr::from_multiple::<Role>(manifest).unwrap_or_default();
    let mut rights = Vec::new();
    for role in roles.iter().filter(|role| role.metadata.name == account && matches!(role.kind.as_str(), "Role" | "ClusterRole")) {
        let shipped = role.metadata.namespace.as_deref();
        if shipped == Some("sandglass-vm") && !recoveries {
            continue;
        }
        for rule in &role.rules {
            rights.extend(rights_of(rule, shipped.map(place).as_ref(), &place));
        }
    }
    rights
}

fn rights_of(rule: &Rule, namespace: Option<&String>, place: &impl Fn(&str) -> String) -> Vec<Right> {
    let mut rights = Vec::new();
    for (group, resource) in rule.api_groups.iter().flat_map(|group| rule.resources.iter().map(move |resource| (group, resource))) {
        for verb in &rule.verbs {
            let right = |name: Option<String>| Right {
                verb: verb.clone(),
                group: group.clone(),
                resource: resource.clone(),
                name,
                namespace: namespace.cloned(),
            };
            if rule.resource_names.is_empty() {
                rights.push(right(None));
            }
            // The shipped names of namespaces stand for those of this installation.
            let names = rule.resource_names.iter().map(|name| if resource == "namespaces" { place(name) } else { name.clone() });
            rights.extend(names.map(|name| right(Some(name))));
        }
    }
    rights
}

fn resolve<'a>(
    table: impl Iterator<Item = &'a (&'static str, &'static str, &'static str, Where)>,
    installation: &Installation,
    recoveries: bool,
) -> Vec<Right> {
    let table = table.filter(|(.., place)| recoveries || !matches!(place, Where::Vm));
    let right = |(verb, group, resource, place): &(&str, &str, &str, Where)| Right {
        verb: (*verb).to_owned(),
        group: (*group).to_owned(),
        resource: (*resource).to_owned(),
        name: None,
        namespace: match place {
            Where::System => Some(installation.system.clone()),
            Where::Debug => Some(installation.debug.clone()),
            Where::Vm => Some(installation.vm.clone()),
            Where::KubeSystem => Some("kube-system".to_owned()),
            Where::Everywhere => None,
        },
    };
    table.map(right).collect()
}

/// Asks the API server's authorizer about each right of an account.
async fn ask(client: &Client, namespace: &str, account: &str, rights: Vec<Right>) -> Vec<(Right, Known<bool>)> {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answers = rights.into_iter().map(|right| {
        let (reviews, review) = (reviews.clone(), review(namespace, account, &right));
        async move {
            let parameters = PostParams::default();
            let answer = reviews.create(&parameters, &review);
            let answer = match read("ask about a right", "create subjectaccessreviews", answer).await {
                Known::There(review) => Known::There(review.status.is_some_and(|status| status.allowed)),
                Known::Absent => Known::Unknown(Unknown::Failed("the API server answers no SubjectAccessReview".into())),
                Known::Unknown(unknown) => Known::Unknown(unknown),
            };
            (right, answer)
        }
    });
    futures::stream::iter(answers).buffered(AT_ONCE).collect().await
}

fn review(namespace: &str, account: &str, right: &Right) -> SubjectAccessReview {
    let (resource, part) =
        right.resource.split_once('/').map_or((right.resource.as_str(), None), |(resource, part)| (resource, Some(part)));
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}"), "system:authenticated".to_owned()];
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{account}")),
            groups: Some(groups.to_vec()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(right.verb.clone()),
                group: Some(right.group.clone()),
                resource: Some(resource.to_owned()),
                subresource: part.map(str::to_owned),
                name: right.name.clone(),
                namespace: right.namespace.clone(),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

/// The verdict on every account.
pub(super) fn judge(facts: &[Facts]) -> Vec<Finding> {
    let unknown = facts.iter().flat_map(|facts| facts.needed.iter().chain(&facts.forbidden)).find_map(|(_, answer)| match answer {
        Known::Unknown(unknown) => Some(unknown.finding(CHECK)),
        Known::There(_) | Known::Absent => None,
    });
    match unknown {
        Some(finding) => vec![finding],
        None => facts.iter().flat_map(verdict).collect(),
    }
}

fn verdict(Facts { account, needed, forbidden }: &Facts) -> Vec<Finding> {
    let with = |rights: &[(Right, Known<bool>)], wanted: bool| {
        let found = rights.iter().filter(|(_, answer)| answer.there() == Some(&wanted));
        found.map(|(right, _)| right.to_string()).collect::<Vec<_>>()
    };
    let (missing, excess) = (with(needed, false), with(forbidden, true));
    let mut findings = Vec::new();
    if !missing.is_empty() {
        let cure = if *account == DOOR {
            "bind the ClusterRole sandglass-provision in each namespace that a rule names: manifests/provisioning/example-rolebinding.yaml"
                .into()
        } else {
            let file = account.replace("sandglass-", "rbac-");
            format!("kubectl apply --server-side -f manifests/base/{file}.yaml, of the version that the installation runs")
        };
        findings.push(Finding::fail(CHECK, format!("the ServiceAccount {account} lacks rights: {}", few(&missing)), cure));
    }
    if !excess.is_empty() {
        findings.push(Finding::fail(
            CHECK,
            format!("the ServiceAccount {account} has rights that it must not have: {}", few(&excess)),
            format!("find what grants them and take it away: kubectl get rolebindings,clusterrolebindings -A -o wide | grep -e {account} -e system:serviceaccounts -e system:authenticated"),
        ));
    }
    if findings.is_empty() {
        let none = format!("none of {} that it must not have", forbidden.len());
        findings.push(Finding::ok(
            CHECK,
            match needed.len() {
                0 => format!("the ServiceAccount {account} needs no rights, and has {none}"),
                count => format!("the ServiceAccount {account} has the {count} rights it needs, and {none}"),
            },
        ));
    }
    findings
}

fn few(rights: &[String]) -> String {
    let named: Vec<&str> = rights.iter().take(NAMED).map(String::as_str).collect();
    match rights.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
#[path = "rights_tests.rs"]
mod tests;
