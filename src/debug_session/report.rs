//! Step five: writes the status, and says when to look again.

use chrono::{DateTime, Utc};
use kube::runtime::controller::Action;

use super::apply::Applied;
use super::build::Desired;
use super::context::Context;
use super::status;
use crate::api::DebugSession;
use crate::lifecycle::report::{self, ReportError};
use crate::lifecycle::{Identity, status as shared_status};

/// Writes the status and an event about it, and returns when to look again.
pub(super) async fn report(applied: Desired<Applied>, context: &Context, now: DateTime<Utc>) -> Result<Action, ReportError> {
    let Desired { session, identity, state: Applied(outcome) } = applied;
    let base = &context.base;
    let Some(shared) = shared_status::status(&*session, &identity, &outcome, &base.settings, now) else {
        return Ok(Action::await_change());
    };
    let status = status::status(&session, shared, Some(&outcome));
    report::report(base, &*session, &identity, &status, &status.session, now).await?;
    Ok(report::next(&outcome, &identity, now))
}

/// A first status, where a pass failed before it could write one.
pub(super) async fn first_sight(session: &DebugSession, context: &Context, now: DateTime<Utc>) {
    let base = &context.base;
    let Ok(identity) = Identity::of(session, base.settings.configuration.ttl_cap()) else { return };
    let shared = shared_status::unknown(session, &identity, &base.settings, now);
    report::first_sight(base, session, &identity, &status::status(session, shared, None)).await;
}
