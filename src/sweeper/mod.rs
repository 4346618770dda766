//! The second code path of the deadline: lists the pods of an isolated namespace by label and deletes those past their
//! annotated end. It looks at no custom resource and shares nothing with the controllers, so that a fault there does not
//! keep a pod alive. Every replica runs it: deleting twice is harmless.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client};
use std::time::Duration;

use crate::api::names;
use crate::kubernetes::time::{Clock, to_chrono};
use crate::kubernetes::{CallError, call, call_or_absent};

/// How often.
const PERIOD: Duration = Duration::from_secs(30);
/// How long after the end: everybody else had their chance before.
const GRACE: TimeDelta = TimeDelta::minutes(5);

/// What it sweeps.
#[derive(Clone)]
pub struct Sweeper {
    /// The API server.
    pub client: Client,
    /// The isolated namespace.
    pub namespace: String,
    /// Longest life of a pod: what a pod without a readable annotation is measured by.
    pub cap: Duration,
    /// The time.
    pub clock: Clock,
}

impl Sweeper {
    /// Sweeps for ever; failures are logged, and the next round begins anew.
    pub async fn run(&self) {
        let mut interval = tokio::time::interval(PERIOD);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a sweep failed; the next one tries again");
            }
        }
    }

    /// One round. Returns how many pods were deleted.
    ///
    /// # Errors
    /// What the API server says to the list. One pod that cannot be deleted does not keep the others.
    pub async fn sweep(&self) -> Result<usize, CallError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let ours = ListParams::default().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGED_BY_VALUE));
        let now = self.clock.now();
        let mut deleted = 0;
        for pod in call("list the pods to sweep", pods.list(&ours)).await?.items {
            if pod.metadata.deletion_timestamp.is_none() && is_overdue(&pod, self.cap, now) {
                match self.delete(&pods, &pod).await {
                    Ok(done) => deleted += usize::from(done),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, pod = pod.metadata.name, "an overdue pod stands");
                    }
                }
            }
        }
        Ok(deleted)
    }

    async fn delete(&self, pods: &Api<Pod>, listed: &Pod) -> Result<bool, CallError> {
        let name = listed.metadata.name.as_deref().unwrap_or_default();
        let Some(live) = call_or_absent("read an overdue pod", pods.get(name)).await? else { return Ok(false) };
        if live.metadata.uid != listed.metadata.uid || !is_overdue(&live, self.cap, self.clock.now()) {
            return Ok(false);
        }
        let preconditions = Some(Preconditions { uid: live.metadata.uid, resource_version: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let done = call_or_absent("delete an overdue pod", pods.delete(name, &parameters)).await?.is_some();
        if done {
            tracing::warn!(pod = name, "an overdue pod was swept: somebody before the sweeper failed");
        }
        Ok(done)
    }
}

/// Whether a pod has outlived its annotated end, or, without a readable one, the cap; and the grace on top.
fn is_overdue(pod: &Pod, cap: Duration, now: DateTime<Utc>) -> bool {
    let annotation = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(names::EXPIRES_AT));
    let annotated = annotation.and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|end| end.to_utc());
    let created = pod.metadata.creation_timestamp.as_ref().map(to_chrono);
    let longest = created.and_then(|created| created.checked_add_signed(TimeDelta::from_std(cap).ok()?));
    // An annotation cannot lengthen a life beyond the cap.
    let end = match (annotated, longest) {
        (Some(annotated), Some(longest)) => Some(annotated.min(longest)),
        (annotated, longest) => annotated.or(longest),
    };
    end.is_some_and(|end| now > end + GRACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn overdue_by_annotation_or_by_the_cap() {
        let pod = |annotation: Option<&str>| -> Pod {
            let annotations = annotation.map_or(json!({}), |end| json!({ names::EXPIRES_AT: end }));
            serde_json::from_value(json!({ "metadata": { "creationTimestamp": "2026-01-01T12:00:00Z", "annotations": annotations } }))
                .expect("a pod")
        };
        let at = |text: &str| DateTime::parse_from_rfc3339(text).expect("valid").to_utc();
        let overdue = |annotation, now| is_overdue(&pod(annotation), Duration::from_hours(1), at(now));
        let end = Some("2026-01-01T12:30:00Z");
        assert!(!overdue(end, "2026-01-01T12:35:00Z"));
        assert!(overdue(end, "2026-01-01T12:35:01Z"));
        for unreadable in [None, Some("tomorrow"), Some("2099-01-01T00:00:00Z")] {
            assert!(!overdue(unreadable, "2026-01-01T13:05:00Z"), "{unreadable:?}");
            assert!(overdue(unreadable, "2026-01-01T13:05:01Z"), "{unreadable:?}");
        }
    }
}
