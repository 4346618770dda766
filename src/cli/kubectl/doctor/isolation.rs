//! Whether the namespaces of the pods are isolated, by the controller's own rule, and whether their pods may reach the gateways.

use super::finding::Finding;
use super::installation::Installation;
use super::known::{Known, read};
use crate::kubernetes::isolation;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Api, Client};

const CHECK: &str = "isolation";

/// Of one namespace.
pub(super) struct Facts {
    /// Its name.
    pub name: String,
    /// The namespace.
    pub namespace: Known<Namespace>,
    /// Its network policies.
    pub policies: Known<Vec<NetworkPolicy>>,
    /// Whether its label may be `baseline`. Unknown is taken for yes: the controller, who knows, refuses otherwise.
    pub baseline: bool,
}

/// Reads a namespace and its policies.
pub(super) async fn facts(client: &Client, name: &str, baseline: bool) -> Facts {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), name);
    let everything = ListParams::default();
    let right = format!("list networkpolicies in {name}");
    let (namespace, policies) = futures::join!(
        read("read an isolated namespace", "get namespaces", namespaces.get(name)),
        read("list the network policies of an isolated namespace", &right, policies.list(&everything)),
    );
    let policies = match policies {
        Known::There(list) => Known::There(list.items),
        Known::Absent => Known::Absent,
        Known::Unknown(unknown) => Known::Unknown(unknown),
    };
    Facts { name: name.to_owned(), namespace, policies, baseline }
}

/// Whether the debug namespace may be labelled `baseline`.
pub(super) fn may_be_baseline(installation: &Installation) -> bool {
    installation.configuration().is_none_or(|configuration| !configuration.sessions.extra_capabilities.is_empty())
}

/// The verdict. `optional`: an installation without recoveries has no such namespace.
pub(super) fn judge(facts: &Facts, optional: bool) -> Vec<Finding> {
    let name = &facts.name;
    let namespace = match &facts.namespace {
        Known::There(namespace) => Some(namespace.clone()),
        Known::Absent if optional => {
            let message = format!("there is no namespace {name}: this installation recovers no machines");
            return vec![Finding::skip(CHECK, message, "nothing, unless it should")];
        }
        Known::Absent => None,
        Known::Unknown(unknown) => return vec![unknown.finding(CHECK)],
    };
    let policies = match &facts.policies {
        Known::There(policies) => policies.clone(),
        Known::Absent => Vec::new(),
        Known::Unknown(unknown) => return vec![unknown.finding(CHECK)],
    };
    let linked = policies.iter().any(|policy| policy.metadata.name.as_deref() == Some("gateway-link"));
    let read = isolation::Facts { namespace, policies };
    let mut findings = vec![match isolation::verify(&read, name, facts.baseline) {
        Ok(()) => Finding::ok(CHECK, format!("{name} is labelled as it must be and denies all traffic by default")),
        // The sentence has its cure after the colon or the semicolon; where it has none, the manifests are the cure.
        Err(problem) => Finding::fail(CHECK, problem, cure(&read, name)),
    }];
    if read.namespace.is_some() && !linked {
        findings.push(Finding::warn(
            CHECK,
            format!("{name} has no NetworkPolicy gateway-link: its pods reach no gateway, unless another policy lets them"),
            "apply the manifests of Sandglass (manifests/base/network-policies.yaml)",
        ));
    }
    findings
}

fn cure(read: &isolation::Facts, name: &str) -> String {
    let Some(labels) = read.namespace.as_ref().map(|namespace| namespace.metadata.labels.clone().unwrap_or_default()) else {
        return "apply the manifests of Sandglass (manifests/base/namespaces.yaml)".into();
    };
    let is = |key: &str, wanted: &[&str]| labels.get(key).is_some_and(|value| wanted.contains(&value.as_str()));
    let labelled = is("pod-security.kubernetes.io/enforce", &["restricted", "baseline"])
        && (!labels.contains_key("pod-security.kubernetes.io/enforce-version")
            || is("pod-security.kubernetes.io/enforce-version", &["latest"]));
    if labelled {
        "apply manifests/base/network-policies.yaml, and remove policies that open everything".into()
    } else {
        format!(
            "kubectl label --overwrite namespace {name} pod-security.kubernetes.io/enforce=restricted \
             pod-security.kubernetes.io/enforce-version=latest"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::known::Unknown;
    use serde_json::{Value, json};

    fn facts(labels: &Value, policies: &[(&str, Value)]) -> Facts {
        let namespace = json!({ "metadata": { "name": "box", "labels": labels } });
        let policy = |(name, spec): &(&str, Value)| serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec }));
        Facts {
            name: "box".into(),
            namespace: Known::There(serde_json::from_value(namespace).expect("a namespace")),
            policies: Known::There(policies.iter().map(|each| policy(each).expect("a policy")).collect()),
            baseline: false,
        }
    }

    #[test]
    fn each_gap_has_its_own_cure() {
        let restricted = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let deny = ("default-deny", json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }));
        let link = ("gateway-link", json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "ports": [{ "port": 8443 }] }] }));
        let open = ("open", json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}] }));
        let all = [deny.clone(), link.clone()];
        let judged = |facts: &Facts| {
            let found = judge(facts, false);
            found.into_iter().map(|finding| (finding.level, finding.cure.unwrap_or_default())).collect::<Vec<_>>()
        };
        assert_eq!(judged(&facts(&restricted, &all)), [(Level::Ok, String::new())]);
        let found = judged(&facts(&json!({}), &all));
        assert!(
            found.len() == 1 && found[0].0 == Level::Fail && found[0].1.contains("kubectl label --overwrite namespace box"),
            "{found:?}"
        );
        for policies in [vec![link.clone()], vec![deny.clone(), link, open]] {
            let found = judged(&facts(&restricted, &policies));
            assert!(found.len() == 1 && found[0].0 == Level::Fail && found[0].1.contains("network-policies.yaml"), "{found:?}");
        }
        let found = judged(&facts(&restricted, &[deny]));
        assert!(found.len() == 2 && found[0].0 == Level::Ok && found[1].0 == Level::Warn, "{found:?}");
    }

    #[test]
    fn what_is_absent_or_unread_is_said() {
        let mut facts = facts(&json!({}), &[]);
        facts.namespace = Known::Absent;
        assert_eq!(judge(&facts, true)[0].level, Level::Skip);
        assert_eq!(judge(&facts, false)[0].level, Level::Fail);
        facts.policies = Known::Unknown(Unknown::Right("list networkpolicies in box".into()));
        let finding = judge(&facts, false).remove(0);
        assert!(finding.level == Level::Skip && finding.message.contains("list networkpolicies in box"), "{finding:?}");
    }
}
