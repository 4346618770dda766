//! Step five: writes the status, at most once in a pass and only if it differs, and says when to look again.

use chrono::{DateTime, TimeDelta, Utc};
use kube::Resource;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::{Value, json};
use std::time::Duration;

use super::apply::{Applied, Outcome};
use super::build::Desired;
use super::context::Context;
use super::observe::Identity;
use super::pod_state::PodState;
use super::status;
use crate::api::DebugSession;
use crate::api::conditions::OPEN;
use crate::api::debug_session::{DebugSessionStatus, Phase};
use crate::api::names::CONTROLLER_MANAGER;
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

/// Writes the status and an event about it, and returns when to look again.
pub(super) async fn report(applied: Desired<Applied>, context: &Context, now: DateTime<Utc>) -> Result<Action, ReportError> {
    let Desired { session, identity, state: Applied(outcome) } = applied;
    let Some(status) = status::status(&session, &identity, &outcome, &context.settings, now) else { return Ok(Action::await_change()) };
    if patch(&session, &identity, &status, context).await? {
        announce(&session, &identity, &status, context).await;
        if status.phase == Some(Phase::Open)
            && let Some(started) = &status.started_at
        {
            context.metrics.started(now - to_chrono(started));
        }
    }
    Ok(next(&outcome, &identity, now))
}

/// A first status, where a pass failed before it could write one. Best effort: the failed pass is reported anyway.
pub(super) async fn first_sight(session: &DebugSession, context: &Context, now: DateTime<Utc>) {
    let Ok(identity) = Identity::of(session, context.settings.configuration.ttl_cap()) else { return };
    let status = status::unknown(session, &identity, &context.settings, now);
    if let Err(error) = patch(session, &identity, &status, context).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "the first status was not written");
    }
}

/// Server-side apply of the controller's part. The object's version goes with it: a pass that saw an older one must not
/// overwrite what it did not know. Returns whether it wrote.
async fn patch(session: &DebugSession, identity: &Identity, status: &DebugSessionStatus, context: &Context) -> Result<bool, ReportError> {
    let wanted = value(status);
    if session.status.as_ref().map(own_part).as_ref() == Some(&wanted) {
        return Ok(false);
    }
    let patch = json!({
        "apiVersion": DebugSession::api_version(&()),
        "kind": DebugSession::kind(&()),
        "metadata": {
            "name": identity.name.name,
            "namespace": identity.name.namespace,
            "uid": identity.uid,
            "resourceVersion": session.metadata.resource_version,
        },
        "status": wanted,
    });
    let sessions = context.sessions_of(&identity.name.namespace);
    let parameters = PatchParams::apply(CONTROLLER_MANAGER).force();
    match call("write the session's status", sessions.patch_status(&identity.name.name, &parameters, &Patch::Apply(&patch))).await {
        Ok(_) => Ok(true),
        // The object is gone: nobody is left to tell.
        Err(error) if error.code() == 404 => Ok(false),
        Err(error) => Err(ReportError::Call(error)),
    }
}

/// The controller's part of a status.
fn own_part(status: &DebugSessionStatus) -> Value {
    value(&DebugSessionStatus { link: None, connections: Vec::new(), ..status.clone() })
}

fn value(status: &DebugSessionStatus) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

/// A log line and an event, where the reason changed.
async fn announce(session: &DebugSession, identity: &Identity, status: &DebugSessionStatus, context: &Context) {
    let of = |status: &DebugSessionStatus| status.conditions.iter().find(|condition| condition.type_ == OPEN).cloned();
    let Some(open) = of(status) else { return };
    if session.status.as_ref().and_then(of).is_some_and(|before| before.reason == open.reason) {
        return;
    }
    tracing::info!(session = %identity.name, uid = identity.uid, reason = open.reason, because = open.message, "session changed");
    let warning = status.phase == Some(Phase::Failed);
    context.recorder.publish(&session.object_ref(&()), &open.reason, &open.message, warning).await;
}

fn next(outcome: &Outcome, identity: &Identity, now: DateTime<Utc>) -> Action {
    let until_end = (identity.expires_at - now).max(TimeDelta::milliseconds(50)).to_std().unwrap_or(SOON);
    match outcome {
        Outcome::Removed | Outcome::Ending { gone: true, .. } => Action::await_change(),
        Outcome::Ending { .. } => Action::requeue(SOON),
        Outcome::Standing(_, PodState::Open) | Outcome::Held(_) => Action::requeue(until_end),
        Outcome::Standing(..) => Action::requeue(SOON.min(until_end)),
    }
}
