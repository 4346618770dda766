//! Writes that both controllers make. Every deletion follows a live read of the pod and carries its UID.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use super::end::{self, Cause, Ending};
use super::identity::Identity;
use super::pod_state::PodState;
use crate::api::conditions::Reason;
use crate::api::session::Session;
use crate::kubernetes::{CallError, call, call_or_absent};

/// A failed write.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Call(CallError),
    /// The object is not any more what this pass decided about.
    #[error("the session changed since it was observed")]
    Stale,
}

/// How things stand after the write.
pub enum Outcome {
    /// The object itself is gone.
    Removed,
    /// Ending, with or without a pod that is left.
    Ending {
        /// The end.
        ending: Ending,
        /// The pod that is left.
        pod: Option<Box<Pod>>,
        /// Nothing is left.
        gone: bool,
    },
    /// No pod.
    Held(Cause),
    /// The pod is there, in this state.
    Standing(Box<Pod>, PodState),
}

/// Whether an object, read live, may still get its first pod.
#[must_use]
pub fn may_start<S: Session>(live: &S, identity: &Identity) -> bool {
    let metadata = live.meta();
    metadata.uid.as_deref() == Some(identity.uid.as_str())
        && metadata.deletion_timestamp.is_none()
        && !live.terms().end
        && !end::has_ended(live)
        && end::has_no_pod_yet(live)
}

/// Creates the pod of an object that may start.
///
/// # Errors
/// What the API server says; admission's refusals are states of the session, not failures of the pass.
pub async fn create(pods: &Api<Pod>, pod: &Pod, identity: &Identity) -> Result<Outcome, ApplyError> {
    match call("create the session's pod", pods.create(&PostParams::default(), pod)).await {
        Ok(created) => {
            tracing::info!(session = %identity.name, uid = identity.uid, pod = identity.pod_name(), "pod created");
            Ok(fresh(created))
        }
        Err(error) => not_created(error, identity, pods).await,
    }
}

fn fresh(pod: Pod) -> Outcome {
    Outcome::Standing(Box::new(pod), PodState::Starting(Cause::new(Reason::Scheduling, "the pod is created; waiting for a node")))
}

async fn not_created(error: CallError, identity: &Identity, pods: &Api<Pod>) -> Result<Outcome, ApplyError> {
    let held = |reason, message| Ok(Outcome::Held(Cause::new(reason, message)));
    let words = error.message();
    match error.code() {
        // An earlier pass created it and could not say so.
        409 => {
            let standing = call_or_absent("read the session's pod", pods.get(&identity.pod_name())).await.map_err(ApplyError::Call)?;
            standing.filter(|pod| end::is_own(pod, &identity.uid)).map(fresh).ok_or(ApplyError::Stale)
        }
        403 if words.contains("exceeded quota") => {
            held(Reason::QuotaExceeded, format!("the isolated namespace's quota is used up; waiting for room ({words})"))
        }
        // Admission looks its account up in a cache of its own, which may be a moment behind.
        403 if words.contains("error looking up service account") => Err(ApplyError::Stale),
        400 | 403 | 422 => held(Reason::PodRefused, format!("the API server refused the session's pod: {words}")),
        _ => Err(ApplyError::Call(error)),
    }
}

/// Deletes the pod of a session whose end is announced.
///
/// # Errors
/// What the API server says.
pub async fn end(pods: &Api<Pod>, ending: Ending, pod: Option<Box<Pod>>) -> Result<Outcome, ApplyError> {
    let Some(pod) = pod else { return Ok(Outcome::Ending { ending, pod: None, gone: true }) };
    if !ending.announced || pod.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Ending { ending, pod: Some(pod), gone: false });
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let parameters = precondition(pod.metadata.uid.clone());
    let gone = match call("delete the session's pod", pods.delete(name, &parameters)).await {
        Ok(_) => false,
        // Gone already, or another one of this name by now.
        Err(error) if error.code() == 404 => true,
        Err(error) => return Err(ApplyError::Call(error)),
    };
    Ok(Outcome::Ending { ending, pod: Some(pod), gone })
}

/// Deletes this very object or none.
#[must_use]
pub fn precondition(uid: Option<String>) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..DeleteParams::default() }
}
