//! The controller of `BreakglassVM`, in five steps: [`observe`] reads, [`validate`] decides, [`build`] makes the pod and what
//! guards it, [`apply`] writes them, [`report`] writes the status. The middle ones are pure. Keys are none of its business: the
//! pod fetches them, and only gateways talk to it.

mod apply;
mod build;
mod context;
mod observe;
mod report;
mod validate;

#[cfg(test)]
pub(crate) mod tests;

use chrono::{DateTime, Utc};
use kube::runtime::controller::Action;
use std::sync::Arc;

use crate::api::BreakglassVM;
use crate::lifecycle::Error;

pub use context::Context;

/// One pass over one object: the same result from any starting point.
///
/// # Errors
/// Which step failed, and how. Nothing is remembered: the next pass begins anew.
pub async fn reconcile(session: Arc<BreakglassVM>, context: &Context) -> Result<Action, Error> {
    let now = context.base.clock.now();
    let outcome = Box::pin(pass(&session, context, now)).await;
    // An object without any status counts as healthy for GitOps tools: say something, even if the pass failed.
    if outcome.is_err() && session.status.is_none() {
        report::first_sight(&session, context, now).await;
    }
    outcome
}

async fn pass(session: &Arc<BreakglassVM>, context: &Context, now: DateTime<Utc>) -> Result<Action, Error> {
    let Some(observed) = Box::pin(observe::observe(session, context, now)).await? else {
        return Ok(Action::await_change());
    };
    let settings = &context.base.settings;
    let decision = validate::decide(&observed, settings, now);
    let desired = build::build(&observed, decision, settings, now);
    let applied = apply::apply(desired, context).await?;
    Ok(report::report(applied, context, now).await?)
}
