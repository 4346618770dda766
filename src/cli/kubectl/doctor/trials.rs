//! Whether the admission policies are in force: dry runs of what they must refuse. Nothing is made, whatever the answer is.

use super::finding::Finding;
use super::installation::Installation;
use super::known::Unknown;
use crate::api::DebugSession;
use crate::kubernetes::{CallError, call};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

const CHECK: &str = "admission";

/// What became of a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Refused, in these words.
    Refused(String),
    /// It would have been made.
    Accepted,
    /// It was not tried.
    Unknown(Unknown),
}

/// A dry run and its outcome.
pub(super) struct Trial {
    /// The policy that must refuse it.
    policy: &'static str,
    /// What was tried, as in "a plain pod in sandglass-debug".
    what: String,
    /// What the API server said.
    answer: Answer,
}

/// Tries everything.
pub(super) async fn facts(client: &Client, installation: &Installation, recoveries: bool, session_namespace: &str) -> Vec<Trial> {
    let (debug, vm) = (installation.debug.as_str(), installation.vm.as_str());
    let mut trials = vec![trial::<Pod>(client, "sandglass-session-pods", "a plain pod", debug, pod())];
    // The longest that the schema knows: an installation whose cap is as long has nothing to refuse.
    if installation.configuration().is_some_and(|configuration| configuration.ttl_cap() < std::time::Duration::from_hours(24)) {
        let what = "a session of 24 hours";
        trials.push(trial::<DebugSession>(client, "sandglass-sessions", what, session_namespace, session()));
    }
    if recoveries {
        let account = json!({ "metadata": { "name": "sandglass-doctor" } });
        let secret = json!({ "metadata": { "name": "sandglass-doctor" }, "type": "Opaque" });
        let hole =
            json!({ "metadata": { "name": "sandglass-doctor" }, "spec": { "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}] } });
        trials.extend([
            trial::<Pod>(client, "sandglass-recovery-pods", "a plain pod", vm, pod()),
            trial::<ServiceAccount>(client, "sandglass-recovery-accounts", "a ServiceAccount of no owner", vm, account),
            trial::<Secret>(client, "sandglass-recovery-secrets", "a Secret of type Opaque, without data", vm, secret),
            trial::<NetworkPolicy>(client, "sandglass-recovery-holes", "a NetworkPolicy that opens everything", vm, hole),
        ]);
    }
    futures::stream::iter(trials).buffered(8).collect().await
}

/// Harmless to Pod Security and to the quota, so that only the policy can refuse it.
fn pod() -> Value {
    let quantities = json!({ "cpu": "10m", "memory": "16Mi", "ephemeral-storage": "16Mi" });
    json!({
        "metadata": { "name": "sandglass-doctor" },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "doctor", "image": "sandglass.invalid/doctor", "resources": { "limits": quantities, "requests": quantities },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    })
}

fn session() -> Value {
    json!({
        "metadata": { "name": "sandglass-doctor" },
        "spec": {
            "source": { "image": "sandglass.invalid/doctor" }, "ttl": "24h", "requester": "sandglass-doctor",
            "access": { "principals": ["sandglass-doctor"] },
        },
    })
}

fn trial<'a, K>(client: &Client, policy: &'static str, what: &str, namespace: &str, object: Value) -> BoxFuture<'a, Trial>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let (what, right) = (format!("{what} in {namespace}"), format!("create {} in {namespace}", K::plural(&())));
    async move {
        let answer = match serde_json::from_value::<K>(object) {
            Err(error) => Answer::Unknown(Unknown::Failed(format!("failed to build {what}: {error}"))),
            Ok(object) => {
                let dry = PostParams { dry_run: true, ..PostParams::default() };
                match call("try what must be refused", api.create(&dry, &object)).await {
                    Ok(_) => Answer::Accepted,
                    Err(error) => refusal(&error, &right),
                }
            }
        };
        Trial { policy, what, answer }
    }
    .boxed()
}

/// The API server's authorization refuses with the same code as its admission, but in other words.
fn refusal(error: &CallError, right: &str) -> Answer {
    let message = error.message();
    match error.code() {
        401 => Answer::Unknown(Unknown::Right(right.to_owned())),
        403 if message.contains(" cannot create resource ") => Answer::Unknown(Unknown::Right(right.to_owned())),
        403 | 422 | 400 => Answer::Refused(message.to_owned()),
        404 => Answer::Unknown(Unknown::Failed(format!("the API server does not know where to {right}"))),
        _ => Answer::Unknown(Unknown::of(error, right)),
    }
}

/// The verdict: one line if every policy refused what it must.
pub(super) fn judge(trials: &[Trial]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = trials.iter().filter_map(trouble).collect();
    let refused: Vec<&str> = trials.iter().filter(|trial| trouble(trial).is_none()).map(|trial| trial.policy).collect();
    if !refused.is_empty() {
        findings.insert(0, Finding::ok(CHECK, format!("in force, tried by dry runs: {}", refused.join(", "))));
    }
    findings
}

fn trouble(Trial { policy, what, answer }: &Trial) -> Option<Finding> {
    match answer {
        Answer::Refused(message) if message.contains(&format!("ValidatingAdmissionPolicy '{policy}'")) => None,
        Answer::Refused(message) => Some(Finding::warn(
            CHECK,
            format!("{what} was refused, but not by {policy}: {message}"),
            "see what else refuses it, and whether the policy is bound",
        )),
        Answer::Accepted => Some(Finding::fail(
            CHECK,
            format!("the policy {policy} is not in force: {what} would be admitted"),
            "kubectl apply --server-side -f manifests/base/admission-policies.yaml; a new binding takes some seconds to hold",
        )),
        Answer::Unknown(unknown) => Some(unknown.finding(CHECK)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;

    fn refused(code: u16, message: &str) -> CallError {
        let status = kube::core::Status { code, message: message.into(), ..kube::core::Status::default() };
        CallError::Refused { what: "try what must be refused", source: Box::new(kube::Error::Api(Box::new(status))) }
    }

    #[test]
    fn only_the_policys_own_refusal_counts() {
        let by_policy = "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'sandglass-session-pods' with binding 'b' denied request: no";
        let no_right = "pods is forbidden: User \"jane\" cannot create resource \"pods\" in API group \"\" in the namespace \"debug\"";
        let other = "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"";
        for (answer, level) in [
            (refusal(&refused(403, by_policy), "create pods in debug"), Level::Ok),
            (refusal(&refused(403, no_right), "create pods in debug"), Level::Skip),
            (refusal(&refused(403, other), "create pods in debug"), Level::Warn),
            (refusal(&refused(500, "boom"), "create pods in debug"), Level::Fail),
            (Answer::Accepted, Level::Fail),
        ] {
            let trial = Trial { policy: "sandglass-session-pods", what: "a plain pod in debug".into(), answer: answer.clone() };
            let findings = judge(&[trial]);
            assert_eq!((findings.len(), findings[0].level), (1, level), "{answer:?} {findings:?}");
        }
    }
}
