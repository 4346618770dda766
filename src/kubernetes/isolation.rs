//! Whether a namespace is isolated: its Pod Security labels and its default-deny policy. Two reads, one pure verdict.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use kube::api::ListParams;
use kube::{Api, Client};

use super::{CallError, call, call_or_absent};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const ENFORCE_VERSION: &str = "pod-security.kubernetes.io/enforce-version";

/// What was read.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The namespace, where it exists.
    pub namespace: Option<Namespace>,
    /// Its network policies.
    pub policies: Vec<NetworkPolicy>,
}

/// Reads the namespace and its policies.
///
/// # Errors
/// What the API server says.
pub async fn read(client: &Client, namespace: &str) -> Result<Facts, CallError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), namespace);
    let everything = ListParams::default();
    let (namespace, policies) = futures::try_join!(
        call_or_absent("read the isolated namespace", namespaces.get(namespace)),
        call("list the network policies of the isolated namespace", policies.list(&everything)),
    )?;
    Ok(Facts { namespace, policies: policies.items })
}

/// The verdict: `Err` says what is missing, and what to do. `baseline` is enough where capabilities are configured: `restricted`
/// would refuse the pods.
///
/// # Errors
/// What is missing.
pub fn verify(facts: &Facts, name: &str, baseline: bool) -> Result<(), String> {
    let Some(namespace) = &facts.namespace else {
        return Err(format!("the namespace {name} does not exist: apply the manifests of Sandglass"));
    };
    let label = |key: &str| namespace.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    match label(ENFORCE) {
        Some("restricted") => {}
        Some("baseline") if baseline => {}
        other => {
            let wanted = if baseline { "restricted or baseline" } else { "restricted" };
            return Err(format!("the namespace {name} must carry the label {ENFORCE}: {wanted}; it is {}", other.unwrap_or("not set")));
        }
    }
    if let Some(version) = label(ENFORCE_VERSION).filter(|version| *version != "latest") {
        return Err(format!("the namespace {name} must carry the label {ENFORCE_VERSION}: latest; it is {version}"));
    }
    let specs = || facts.policies.iter().filter_map(|policy| policy.spec.as_ref());
    if !specs().any(denies_everything) {
        return Err(format!(
            "the namespace {name} has no NetworkPolicy that selects every pod and denies both ingress and egress: apply the manifests of Sandglass"
        ));
    }
    match facts.policies.iter().find(|policy| policy.spec.as_ref().is_some_and(allows_everything)) {
        Some(policy) => Err(format!(
            "the NetworkPolicy {} of the namespace {name} has a rule without peers and ports, which opens everything: remove it",
            policy.metadata.name.as_deref().unwrap_or_default()
        )),
        None => Ok(()),
    }
}

fn denies_everything(spec: &NetworkPolicySpec) -> bool {
    let every_pod = spec.pod_selector.as_ref().is_none_or(|selector| {
        selector.match_labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty)
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    });
    let types = spec.policy_types.iter().flatten();
    let both = types.clone().any(|kind| kind == "Ingress") && types.clone().any(|kind| kind == "Egress");
    every_pod && both && spec.ingress.as_ref().is_none_or(Vec::is_empty) && spec.egress.as_ref().is_none_or(Vec::is_empty)
}

fn allows_everything(spec: &NetworkPolicySpec) -> bool {
    let out = spec
        .egress
        .iter()
        .flatten()
        .any(|rule| rule.to.as_ref().is_none_or(Vec::is_empty) && rule.ports.as_ref().is_none_or(Vec::is_empty));
    let into = spec
        .ingress
        .iter()
        .flatten()
        .any(|rule| rule.from.as_ref().is_none_or(Vec::is_empty) && rule.ports.as_ref().is_none_or(Vec::is_empty));
    out || into
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(labels: &serde_json::Value, policies: &[serde_json::Value]) -> Facts {
        let namespace = json!({ "metadata": { "name": "box", "labels": labels } });
        let policies = policies.iter().map(|spec| json!({ "metadata": { "name": "policy" }, "spec": spec }));
        Facts {
            namespace: Some(serde_json::from_value(namespace).expect("a namespace")),
            policies: policies.map(|policy| serde_json::from_value(policy).expect("a policy")).collect(),
        }
    }

    #[test]
    fn labels_and_default_deny_are_demanded() {
        let restricted = json!({ ENFORCE: "restricted", ENFORCE_VERSION: "latest" });
        let deny = json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] });
        assert_eq!(verify(&facts(&restricted, std::slice::from_ref(&deny)), "box", false), Ok(()));
        assert_eq!(verify(&facts(&json!({ ENFORCE: "baseline" }), std::slice::from_ref(&deny)), "box", true), Ok(()));
        let open = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}] });
        let half = json!({ "podSelector": {}, "policyTypes": ["Ingress"] });
        let some = json!({ "podSelector": { "matchLabels": { "a": "b" } }, "policyTypes": ["Ingress", "Egress"] });
        for (labels, policies, word) in [
            (json!({}), vec![deny.clone()], "not set"),
            (json!({ ENFORCE: "baseline" }), vec![deny.clone()], "restricted"),
            (json!({ ENFORCE: "privileged" }), vec![deny.clone()], "privileged"),
            (json!({ ENFORCE: "restricted", ENFORCE_VERSION: "v1.30" }), vec![deny.clone()], "v1.30"),
            (restricted.clone(), vec![], "NetworkPolicy"),
            (restricted.clone(), vec![half], "NetworkPolicy"),
            (restricted.clone(), vec![some], "NetworkPolicy"),
            (restricted.clone(), vec![deny.clone(), open], "remove it"),
        ] {
            let problem = verify(&facts(&labels, &policies), "box", false).expect_err("must be refused");
            assert!(problem.contains(word), "{problem}");
        }
        let gone = Facts { namespace: None, policies: Vec::new() };
        assert!(verify(&gone, "box", false).is_err_and(|problem| problem.contains("does not exist")));
    }
}
