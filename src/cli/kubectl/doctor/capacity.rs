//! Whether the pods can be scheduled: priority classes, and room in the quotas, which also bound what can ever run.

use super::finding::Finding;
use super::installation::Installation;
use super::known::{Known, read};
use crate::domain::quantity::thousandths;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::ListParams;
use kube::{Api, Client};

const PRIORITY: &str = "priority";
const QUOTA: &str = "quota";
/// The highest value that the admission policy lets a session pod have.
const HIGHEST_FOR_SESSIONS: i32 = 1_000_000;
/// Resources of which a pod takes some: without room in one of them it waits.
const TAKEN: [&str; 4] = ["pods", "limits.cpu", "limits.memory", "limits.ephemeral-storage"];

/// What was read.
pub(super) struct Facts {
    /// The classes that are asked for, by name.
    pub classes: Vec<(String, Known<PriorityClass>)>,
    /// Quotas by namespace.
    pub quotas: Vec<(String, Known<Vec<ResourceQuota>>)>,
}

/// Reads classes and quotas.
pub(super) async fn facts(client: &Client, installation: &Installation, recoveries: bool) -> Facts {
    let sessions = installation.configuration().map_or("sandglass-debug", |configuration| configuration.sessions.priority_class.as_str());
    let mut names = vec![sessions.to_owned(), "sandglass-system".to_owned()];
    let mut namespaces = vec![installation.debug.clone()];
    if recoveries {
        let name =
            installation.configuration().map_or("sandglass-breakglass", |configuration| configuration.recoveries.priority_class.as_str());
        names.push(name.to_owned());
        namespaces.push(installation.vm.clone());
    }
    let api: Api<PriorityClass> = Api::all(client.clone());
    let mut classes = Vec::new();
    for name in names {
        let known = read("read a priority class", "get priorityclasses", api.get(&name)).await;
        classes.push((name, known));
    }
    let mut quotas = Vec::new();
    for namespace in namespaces {
        let api: Api<ResourceQuota> = Api::namespaced(client.clone(), &namespace);
        let right = format!("list resourcequotas in {namespace}");
        let everything = ListParams::default();
        let known = match read("list the quotas", &right, api.list(&everything)).await {
            Known::There(list) => Known::There(list.items),
            Known::Absent => Known::Absent,
            Known::Unknown(unknown) => Known::Unknown(unknown),
        };
        quotas.push((namespace, known));
    }
    Facts { classes, quotas }
}

/// The verdict.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    // The first class is the sessions'.
    let classes: Vec<Finding> =
        facts.classes.iter().enumerate().filter_map(|(index, (name, known))| class_trouble(name, known, index == 0)).collect();
    let mut findings = if classes.is_empty() {
        let names: Vec<&str> = facts.classes.iter().map(|(name, _)| name.as_str()).collect();
        vec![Finding::ok(PRIORITY, format!("the priority classes are there: {}", names.join(", ")))]
    } else {
        classes
    };
    findings.extend(facts.quotas.iter().map(|(namespace, known)| quota(namespace, known)));
    findings
}

fn class_trouble(name: &str, known: &Known<PriorityClass>, sessions: bool) -> Option<Finding> {
    const CURE: &str = "kubectl apply --server-side -f manifests/base/priority-classes.yaml";
    match known {
        Known::There(class) if sessions => {
            let preempts = class.preemption_policy.as_deref() != Some("Never");
            (preempts || class.value > HIGHEST_FOR_SESSIONS).then(|| {
                let message =
                    format!("the priority class {name} preempts, or is above {HIGHEST_FOR_SESSIONS}: every session pod is refused");
                Finding::fail(PRIORITY, message, CURE)
            })
        }
        Known::There(_) => None,
        Known::Absent => Some(Finding::fail(PRIORITY, format!("there is no priority class {name}: its pods are refused"), CURE)),
        Known::Unknown(unknown) => Some(unknown.finding(PRIORITY)),
    }
}

fn quota(namespace: &str, known: &Known<Vec<ResourceQuota>>) -> Finding {
    const CURE: &str = "kubectl apply --server-side -f manifests/base/quota.yaml";
    let quotas = match known {
        Known::There(quotas) => quotas.as_slice(),
        Known::Absent => &[],
        Known::Unknown(unknown) => return unknown.finding(QUOTA),
    };
    let amounts = |name: &str| {
        let both = |quota: &ResourceQuota| {
            // Until the quota is counted for the first time there is its spec alone.
            let status = quota.status.as_ref();
            let hard = status.and_then(|status| status.hard.as_ref()).or(quota.spec.as_ref()?.hard.as_ref())?;
            let used = status.and_then(|status| status.used.as_ref()?.get(name)).and_then(thousandths);
            Some((used.unwrap_or(0), thousandths(hard.get(name)?)?))
        };
        quotas.iter().filter_map(both).min_by_key(|(used, hard)| hard.saturating_sub(*used))
    };
    let Some((used, hard)) = amounts("pods") else {
        return Finding::fail(QUOTA, format!("no quota bounds the number of pods in {namespace}"), CURE);
    };
    let full: Vec<&str> = TAKEN.into_iter().filter(|name| amounts(name).is_some_and(|(used, hard)| used >= hard)).collect();
    if full.is_empty() {
        return Finding::ok(QUOTA, format!("{} of {} pods are used in {namespace}", used / 1000, hard / 1000));
    }
    Finding::warn(
        QUOTA,
        format!("the quota of {namespace} is used up in {}: what comes now waits with QuotaExceeded", full.join(", ")),
        "end sessions that are not needed, or raise the ResourceQuota",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::known::Unknown;
    use serde_json::json;

    fn class(value: i32, preemption: &str) -> Known<PriorityClass> {
        Known::There(serde_json::from_value(json!({ "value": value, "preemptionPolicy": preemption })).expect("a class"))
    }

    #[test]
    fn classes_of_sessions_never_preempt() {
        let level = |known| class_trouble("x", &known, true).map(|finding| finding.level);
        assert_eq!(level(class(1_000_000, "Never")), None);
        assert_eq!(level(class(1_000_001, "Never")), Some(Level::Fail));
        assert_eq!(level(class(1, "PreemptLowerPriority")), Some(Level::Fail));
        assert_eq!(level(Known::Absent), Some(Level::Fail));
        assert_eq!(level(Known::Unknown(Unknown::Right("get priorityclasses".into()))), Some(Level::Skip));
        assert!(class_trouble("x", &class(10_000_000, "PreemptLowerPriority"), false).is_none());
    }

    #[test]
    fn room_is_what_the_tightest_quota_leaves() {
        let quota = |used: serde_json::Value| -> ResourceQuota {
            let hard = json!({ "pods": "20", "limits.cpu": "40", "limits.memory": "80Gi" });
            serde_json::from_value(json!({ "spec": { "hard": hard }, "status": { "hard": hard, "used": used } })).expect("a quota")
        };
        let found = |used| super::quota("box", &Known::There(vec![quota(used)]));
        let well = found(json!({ "pods": "3", "limits.cpu": "1500m", "limits.memory": "1Gi" }));
        assert_eq!((well.level, well.message.as_str()), (Level::Ok, "3 of 20 pods are used in box"));
        let full = found(json!({ "pods": "3", "limits.cpu": "40", "limits.memory": "1Gi" }));
        assert!(full.level == Level::Warn && full.message.contains("limits.cpu:"), "{full:?}");
        let uncounted = serde_json::from_value(json!({ "spec": { "hard": { "pods": "20" } } })).expect("a quota");
        assert_eq!(super::quota("box", &Known::There(vec![uncounted])).message, "0 of 20 pods are used in box");
        assert_eq!(super::quota("box", &Known::There(Vec::new())).level, Level::Fail);
    }
}
