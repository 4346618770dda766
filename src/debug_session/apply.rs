//! Step four: writes the pod, or deletes it. Every creation follows a live read of the object, every deletion a live read of
//! the pod and carries its UID.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};

use super::build::{Desired, Prepared, Step};
use super::context::Context;
use super::observe::Identity;
use super::pod_state::PodState;
use super::validate::{self, Cause, Ending};
use crate::api::conditions::Reason;
use crate::api::names;
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

/// Written. The only state that is reported.
pub(super) struct Applied(pub Outcome);

/// How things stand after the write.
pub(super) enum Outcome {
    /// The object itself is gone.
    Removed,
    /// Ending, with or without a pod that is left.
    Ending { ending: Ending, pod: Option<Box<Pod>>, gone: bool },
    /// No pod.
    Held(Cause),
    /// The pod is there, in this state.
    Standing(Box<Pod>, PodState),
}

/// Writes.
pub(super) async fn apply(desired: Desired<Prepared>, context: &Context) -> Result<Desired<Applied>, ApplyError> {
    let Desired { session, identity, state: Prepared(step) } = desired;
    let outcome = match step {
        Step::Remove => remove(&identity, context).await?,
        Step::End(ending, pod) => end(ending, pod, context).await?,
        Step::Hold(cause) => Outcome::Held(cause),
        Step::Create { pod, project } => create(&identity, &pod, &project, context).await?,
        Step::Keep(pod, state) => Outcome::Standing(pod, state),
    };
    Ok(Desired { session, identity, state: Applied(outcome) })
}

async fn create(identity: &Identity, pod: &Pod, project: &str, context: &Context) -> Result<Outcome, ApplyError> {
    let busy = |who: &str| Outcome::Held(Cause::new(Reason::ProjectBusy, format!("waiting for {who}: sessions of one project take turns")));
    let Some(_claim) = context.claims.take(project) else { return Ok(busy("another session that is just being started")) };
    let pods: Api<Pod> = context.in_debug_namespace();
    let sessions = context.sessions_of(&identity.name.namespace);
    let of_sessions =
        ListParams::default().labels(&format!("{}={},{}=DebugSession", names::MANAGED_BY, names::MANAGED_BY_VALUE, names::OWNER_KIND));
    let (live, others) = futures::try_join!(
        call_or_absent("read the session", sessions.get(&identity.name.name)),
        call("list the session pods", pods.list(&of_sessions)),
    )
    .map_err(ApplyError::Call)?;
    let live = live.filter(|live| live.metadata.uid.as_deref() == Some(identity.uid.as_str())).ok_or(ApplyError::Stale)?;
    let ended = live.status.as_ref().is_some_and(|status| status.ended_at.is_some());
    if ended || live.spec.end || live.metadata.deletion_timestamp.is_some() || !validate::has_no_pod_yet(&live) {
        return Err(ApplyError::Stale);
    }
    let annotation = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let of_project = others.items.iter().filter(|other| annotation(other, names::PROJECT).as_deref() == Some(project));
    let others: Vec<&Pod> = of_project.filter(|other| !validate::is_own(other, &identity.uid)).collect();
    if let Some(other) = others.first().filter(|_| others.len() >= context.settings.configuration.sessions.per_project as usize) {
        return Ok(busy(&annotation(other, names::OWNER_NAME).unwrap_or_default()));
    }
    let created = match call("create the session's pod", pods.create(&PostParams::default(), pod)).await {
        Ok(created) => created,
        Err(error) => return not_created(error, identity, &pods).await,
    };
    tracing::info!(session = %identity.name, uid = identity.uid, pod = identity.pod_name(), "pod created");
    Ok(fresh(created))
}

fn fresh(pod: Pod) -> Outcome {
    Outcome::Standing(Box::new(pod), PodState::Starting(Cause::new(Reason::Scheduling, "the pod is created; waiting for a node")))
}

/// Admission's refusals are states of the session, not failures of the pass.
async fn not_created(error: CallError, identity: &Identity, pods: &Api<Pod>) -> Result<Outcome, ApplyError> {
    let held = |reason, message| Ok(Outcome::Held(Cause::new(reason, message)));
    let words = error.message();
    match error.code() {
        // An earlier pass created it and could not say so.
        409 => {
            let standing = call_or_absent("read the session's pod", pods.get(&identity.pod_name())).await.map_err(ApplyError::Call)?;
            standing.filter(|pod| validate::is_own(pod, &identity.uid)).map(fresh).ok_or(ApplyError::Stale)
        }
        403 if words.contains("exceeded quota") => {
            held(Reason::QuotaExceeded, format!("the debug namespace's quota is used up; waiting for room ({words})"))
        }
        400 | 403 | 422 => held(Reason::PodRefused, format!("the API server refused the session's pod: {words}")),
        _ => Err(ApplyError::Call(error)),
    }
}

async fn end(ending: Ending, pod: Option<Box<Pod>>, context: &Context) -> Result<Outcome, ApplyError> {
    let Some(pod) = pod else { return Ok(Outcome::Ending { ending, pod: None, gone: true }) };
    if !ending.announced || pod.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Ending { ending, pod: Some(pod), gone: false });
    }
    let pods: Api<Pod> = context.in_debug_namespace();
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

async fn remove(identity: &Identity, context: &Context) -> Result<Outcome, ApplyError> {
    let sessions = context.sessions_of(&identity.name.namespace);
    let live = call_or_absent("read the session", sessions.get(&identity.name.name)).await.map_err(ApplyError::Call)?;
    if let Some(live) = live.filter(|live| live.metadata.uid.as_deref() == Some(identity.uid.as_str())) {
        let parameters = precondition(live.metadata.uid);
        call_or_absent("delete the ended session", sessions.delete(&identity.name.name, &parameters)).await.map_err(ApplyError::Call)?;
        tracing::info!(session = %identity.name, uid = identity.uid, "ended session removed");
    }
    Ok(Outcome::Removed)
}

/// Deletes this very object or none.
pub(super) fn precondition(uid: Option<String>) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..DeleteParams::default() }
}
