//! Writes the status, at most once in a pass and only if it differs, and says when to look again.

use chrono::{DateTime, TimeDelta, Utc};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

use super::apply::Outcome;
use super::context::Base;
use super::identity::Identity;
use super::pod_state::PodState;
use crate::api::conditions::OPEN;
use crate::api::names::CONTROLLER_MANAGER;
use crate::api::session::{Phase, Session, SessionStatus};
use crate::kubernetes::time::to_chrono;
use crate::kubernetes::{CallError, call};

/// A failed report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Call(CallError),
}

/// While something is under way; the tick of the whole controller comes every ten seconds anyway.
const SOON: Duration = Duration::from_secs(2);
/// What the gateways write.
const OF_GATEWAYS: [&str; 3] = ["link", "connections", "power"];

/// Writes `status`, the controller's part, and an event about it. `shared` is the part of it that both kinds have.
///
/// # Errors
/// What the API server says.
pub async fn report<S: Session>(
    base: &Base<S>,
    session: &S,
    identity: &Identity,
    status: &impl Serialize,
    shared: &SessionStatus,
    now: DateTime<Utc>,
) -> Result<(), ReportError> {
    if !patch(base, session, identity, status).await? {
        return Ok(());
    }
    announce(base, session, identity, shared).await;
    if shared.phase == Some(Phase::Open)
        && let Some(started) = &shared.started_at
    {
        base.metrics.started(now - to_chrono(started));
    }
    Ok(())
}

/// A first status, where a pass failed before it could write one. Best effort: the failed pass is reported anyway.
pub async fn first_sight<S: Session>(base: &Base<S>, session: &S, identity: &Identity, status: &impl Serialize) {
    if let Err(error) = patch(base, session, identity, status).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "the first status was not written");
    }
}

/// Server-side apply of the controller's part. The object's version goes with it: a pass that saw an older one must not
/// overwrite what it did not know. Returns whether it wrote.
async fn patch<S: Session>(base: &Base<S>, session: &S, identity: &Identity, status: &impl Serialize) -> Result<bool, ReportError> {
    let wanted = own_part(serde_json::to_value(status).unwrap_or_default());
    let current = serde_json::to_value(session).unwrap_or_default().get_mut("status").map(Value::take);
    if current.filter(|status| !status.is_null()).map(own_part).as_ref() == Some(&wanted) {
        return Ok(false);
    }
    let patch = json!({
        "apiVersion": S::api_version(&()),
        "kind": S::kind(&()),
        "metadata": {
            "name": identity.name.name,
            "namespace": identity.name.namespace,
            "uid": identity.uid,
            "resourceVersion": session.meta().resource_version,
        },
        "status": wanted,
    });
    let sessions = base.sessions_of(&identity.name.namespace);
    let parameters = PatchParams::apply(CONTROLLER_MANAGER).force();
    match call("write the session's status", sessions.patch_status(&identity.name.name, &parameters, &Patch::Apply(&patch))).await {
        Ok(_) => Ok(true),
        // The object is gone: nobody is left to tell.
        Err(error) if error.code() == 404 => Ok(false),
        Err(error) => Err(ReportError::Call(error)),
    }
}

/// The controller's part of a status.
fn own_part(mut status: Value) -> Value {
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|name, _| !OF_GATEWAYS.contains(&name.as_str()));
    }
    status
}

/// A log line and an event, where the reason changed.
async fn announce<S: Session>(base: &Base<S>, session: &S, identity: &Identity, status: &SessionStatus) {
    let of = |status: &SessionStatus| status.conditions.iter().find(|condition| condition.type_ == OPEN).cloned();
    let Some(open) = of(status) else { return };
    if session.state().and_then(of).is_some_and(|before| before.reason == open.reason) {
        return;
    }
    tracing::info!(session = %identity.name, kind = S::KIND, uid = identity.uid, reason = open.reason, because = open.message, "session changed");
    let warning = status.phase == Some(Phase::Failed);
    base.recorder.publish(&session.object_ref(&()), &open.reason, &open.message, warning).await;
}

/// When to look again.
#[must_use]
pub fn next(outcome: &Outcome, identity: &Identity, now: DateTime<Utc>) -> Action {
    let until_end = (identity.expires_at - now).max(TimeDelta::milliseconds(50)).to_std().unwrap_or(SOON);
    match outcome {
        Outcome::Removed | Outcome::Ending { gone: true, .. } => Action::await_change(),
        Outcome::Ending { .. } => Action::requeue(SOON),
        Outcome::Standing(_, PodState::Open) | Outcome::Held(_) => Action::requeue(until_end),
        Outcome::Standing(..) => Action::requeue(SOON.min(until_end)),
    }
}
