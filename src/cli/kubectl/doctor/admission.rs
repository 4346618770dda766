//! Whether the admission policies are there, bound, refuse when they cannot be evaluated, and say what the shipped ones say.

use super::finding::Finding;
use super::installation::Installation;
use super::known::{Known, read};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy as Policy, ValidatingAdmissionPolicyBinding as Binding};
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::Value;

const CHECK: &str = "admission";
const CURE: &str = "kubectl apply --server-side -f manifests/base/admission-policies.yaml, of the version that the installation runs";

/// The shipped policies and bindings: what this version expects.
const SHIPPED: &str = include_str!("../../../../manifests/base/admission-policies.yaml");

/// What was read.
pub(super) struct Facts {
    /// Every policy of the cluster.
    pub policies: Known<Vec<Policy>>,
    /// Every binding of the cluster.
    pub bindings: Known<Vec<Binding>>,
}

/// Reads policies and bindings.
pub(super) async fn facts(client: &Client) -> Facts {
    let (policies, bindings): (Api<Policy>, Api<Binding>) = (Api::all(client.clone()), Api::all(client.clone()));
    let everything = ListParams::default();
    let (policies, bindings) = futures::join!(
        read("list the admission policies", "list validatingadmissionpolicies", policies.list(&everything)),
        read("list the bindings of the admission policies", "list validatingadmissionpolicybindings", bindings.list(&everything)),
    );
    Facts { policies: items(policies), bindings: items(bindings) }
}

fn items<K: Clone>(known: Known<kube::core::ObjectList<K>>) -> Known<Vec<K>> {
    match known {
        Known::There(list) => Known::There(list.items),
        Known::Absent => Known::Absent,
        Known::Unknown(unknown) => Known::Unknown(unknown),
    }
}

/// The verdict. `recoveries`: whether the policies of the recovery pods are asked for.
pub(super) fn judge(facts: &Facts, installation: &Installation, recoveries: bool) -> Vec<Finding> {
    let none = Vec::new();
    let (policies, bindings) = match (&facts.policies, &facts.bindings) {
        (Known::Unknown(unknown), _) | (_, Known::Unknown(unknown)) => return vec![unknown.finding(CHECK)],
        (Known::Absent, _) | (_, Known::Absent) => (&none, &Vec::new()),
        (Known::There(policies), Known::There(bindings)) => (policies, bindings),
    };
    let Some((own_policies, own_bindings)) = shipped() else {
        return vec![Finding::fail(CHECK, "this program's own policies cannot be read", "report this as a fault of Sandglass")];
    };
    let wanted = |name: Option<&str>| recoveries || !name.is_some_and(|name| name.starts_with("sandglass-recovery-"));
    let mut findings = Vec::new();
    let mut count = 0;
    for own in own_policies.iter().filter(|own| wanted(own.metadata.name.as_deref())) {
        count += 1;
        findings.extend(policy_trouble(own, policies));
    }
    let renamed = installation.debug != "sandglass-debug" || installation.vm != "sandglass-vm";
    for own in own_bindings.iter().filter(|own| wanted(own.metadata.name.as_deref())) {
        findings.extend(binding_trouble(own, bindings, renamed));
    }
    if findings.is_empty() {
        let message = format!("{count} policies are there and bound, say what this version ships, and refuse what they cannot evaluate");
        findings.push(Finding::ok(CHECK, message));
    }
    findings
}

fn shipped() -> Option<(Vec<Policy>, Vec<Binding>)> {
    let (mut policies, mut bindings) = (Vec::new(), Vec::new());
    for document in serde_saphyr::from_multiple::<Value>(SHIPPED).ok()? {
        match document.get("kind").and_then(Value::as_str) {
            Some("ValidatingAdmissionPolicy") => policies.push(serde_json::from_value(document).ok()?),
            Some("ValidatingAdmissionPolicyBinding") => bindings.push(serde_json::from_value(document).ok()?),
            _ => {}
        }
    }
    Some((policies, bindings))
}

fn policy_trouble(own: &Policy, policies: &[Policy]) -> Option<Finding> {
    let name = own.metadata.name.as_deref().unwrap_or_default();
    let Some(policy) = policies.iter().find(|policy| policy.metadata.name == own.metadata.name) else {
        return Some(Finding::fail(CHECK, format!("the admission policy {name} is missing: what it forbids is allowed"), CURE));
    };
    let spec = policy.spec.as_ref();
    // Unset means Fail.
    let failure = spec.and_then(|spec| spec.failure_policy.as_deref()).unwrap_or("Fail");
    if failure != "Fail" {
        let message = format!("the admission policy {name} has failurePolicy {failure}: what it cannot evaluate is allowed");
        return Some(Finding::fail(CHECK, message, CURE));
    }
    let rules = |policy: &Policy| {
        let spec = policy.spec.as_ref();
        let rules = spec.and_then(|spec| spec.validations.clone()).unwrap_or_default();
        let variables = spec.and_then(|spec| spec.variables.clone()).unwrap_or_default();
        let conditions = spec.and_then(|spec| spec.match_conditions.clone()).unwrap_or_default();
        (rules, variables, conditions)
    };
    if rules(policy) != rules(own) {
        let message = format!("the admission policy {name} does not say what version {} ships", env!("CARGO_PKG_VERSION"));
        return Some(Finding::warn(CHECK, message, CURE));
    }
    let checked = policy.status.as_ref().and_then(|status| status.type_checking.as_ref());
    let warning = checked.and_then(|checked| checked.expression_warnings.as_ref()).and_then(|warnings| warnings.first())?;
    let message = format!("the API server does not understand the admission policy {name}: {}: {}", warning.field_ref, warning.warning);
    Some(Finding::warn(CHECK, message, "use a cluster of a version that the README names"))
}

fn binding_trouble(own: &Binding, bindings: &[Binding], renamed: bool) -> Option<Finding> {
    let name = own.metadata.name.as_deref().unwrap_or_default();
    let own = own.spec.as_ref()?;
    let policy = own.policy_name.as_deref().unwrap_or_default();
    let Some(binding) = bindings.iter().find(|binding| binding.metadata.name.as_deref() == Some(name)) else {
        return Some(Finding::fail(
            CHECK,
            format!("the binding {name} of the admission policy {policy} is missing: the policy holds nowhere"),
            CURE,
        ));
    };
    let Some(spec) = &binding.spec else {
        return Some(Finding::fail(CHECK, format!("the binding {name} of the admission policy {policy} is empty"), CURE));
    };
    let trouble = |problem: &str| Some(Finding::fail(CHECK, format!("the binding {name} {problem}"), CURE));
    if spec.policy_name != own.policy_name {
        return trouble(&format!("does not bind the policy {policy}"));
    }
    if !spec.validation_actions.iter().flatten().any(|action| action == "Deny") {
        return trouble("does not deny: its validationActions lack Deny");
    }
    let when_missing = |binding: &k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBindingSpec| {
        binding.param_ref.as_ref().and_then(|reference| reference.parameter_not_found_action.clone())
    };
    if when_missing(spec) != when_missing(own) {
        return trouble("does not deny when its parameters are missing: parameterNotFoundAction must be Deny");
    }
    let selector = |binding: &k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBindingSpec| {
        let resources = binding.match_resources.as_ref();
        let selector = resources.and_then(|resources| resources.namespace_selector.clone()).unwrap_or_default();
        let narrowed = resources.is_some_and(|resources| {
            let excluded = resources.exclude_resource_rules.as_ref().is_some_and(|rules| !rules.is_empty());
            let objects = resources.object_selector.clone().unwrap_or_default();
            excluded || objects != k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector::default()
        });
        (selector, narrowed)
    };
    if !renamed && selector(spec) != selector(own) {
        return trouble("does not hold where it must: its matchResources are not the shipped ones");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::installation::tests::installation;
    use crate::cli::kubectl::doctor::known::Unknown;
    use serde_json::json;

    fn whole() -> (Vec<Policy>, Vec<Binding>) {
        shipped().expect("the shipped policies")
    }

    fn found(policies: Vec<Policy>, bindings: Vec<Binding>, recoveries: bool) -> Vec<Finding> {
        let mut place = installation("{}", &[]);
        (place.debug, place.vm) = ("sandglass-debug".into(), "sandglass-vm".into());
        judge(&Facts { policies: Known::There(policies), bindings: Known::There(bindings) }, &place, recoveries)
    }

    #[test]
    fn the_shipped_ones_are_well_and_recoveries_have_their_own() {
        let (policies, bindings) = whole();
        assert!(policies.len() >= 8 && policies.len() == bindings.len(), "{} {}", policies.len(), bindings.len());
        let findings = found(policies.clone(), bindings.clone(), true);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Ok), "{findings:?}");
        let of_sessions = |name: &Option<String>| !name.as_deref().unwrap_or_default().starts_with("sandglass-recovery-");
        let policies: Vec<_> = policies.into_iter().filter(|policy| of_sessions(&policy.metadata.name)).collect();
        assert_eq!(found(policies.clone(), bindings.clone(), false)[0].level, Level::Ok);
        assert!(found(policies, bindings, true).iter().all(|finding| finding.level == Level::Fail));
    }

    #[test]
    fn each_weakness_is_named_and_nothing_else() {
        let changed = |change: &dyn Fn(&mut Value, &mut Value)| {
            let (policies, bindings) = whole();
            let (mut policies, mut bindings) = (json!(policies), json!(bindings));
            change(&mut policies, &mut bindings);
            let policies = serde_json::from_value(policies).expect("policies");
            found(policies, serde_json::from_value(bindings).expect("bindings"), true)
        };
        let remove = |list: &mut Value| drop(list.as_array_mut().expect("a list").remove(1));
        for (findings, word, level) in [
            (changed(&|policies, _| remove(policies)), "policy sandglass-session-pods is missing", Level::Fail),
            (changed(&|_, bindings| remove(bindings)), "binding sandglass-session-pods of", Level::Fail),
            (changed(&|policies, _| policies[1]["spec"]["failurePolicy"] = json!("Ignore")), "failurePolicy Ignore", Level::Fail),
            (changed(&|policies, _| policies[1]["spec"]["validations"][3]["expression"] = json!("true")), "does not say", Level::Warn),
            (changed(&|_, bindings| bindings[1]["spec"]["validationActions"] = json!(["Audit"])), "lack Deny", Level::Fail),
            (changed(&|_, bindings| bindings[1]["spec"]["policyName"] = json!("other")), "does not bind", Level::Fail),
            (changed(&|_, bindings| bindings[1]["spec"]["paramRef"]["parameterNotFoundAction"] = json!("Allow")), "NotFound", Level::Fail),
            (
                changed(&|_, bindings| bindings[1]["spec"]["matchResources"]["namespaceSelector"] = json!({ "matchLabels": { "a": "b" } })),
                "where it must",
                Level::Fail,
            ),
        ] {
            assert!(findings.len() == 1 && findings[0].level == level && findings[0].message.contains(word), "{word}: {findings:?}");
        }
    }

    #[test]
    fn without_the_right_it_is_skipped() {
        let facts = Facts { policies: Known::Unknown(Unknown::Right("list x".into())), bindings: Known::There(whole().1) };
        assert_eq!(judge(&facts, &installation("{}", &[]), true)[0].level, Level::Skip);
    }
}
