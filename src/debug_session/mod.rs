//! The controller of `DebugSession`, in five steps: [`observe`] reads, [`validate`] decides, [`build`] makes the pod,
//! [`apply`] writes it, [`report`] writes the status. The middle ones are pure.

mod apply;
mod build;
mod context;
mod observe;
mod report;
mod source;
mod status;
mod tekton;
mod turn;
mod validate;

#[cfg(test)]
mod tests;

use kube::runtime::controller::Action;
use std::sync::Arc;

use crate::api::DebugSession;
use crate::lifecycle::Error;

pub use context::Context;

/// One pass over one object: the same result from any starting point.
///
/// # Errors
/// Which step failed, and how. Nothing is remembered: the next pass begins anew.
pub async fn reconcile(session: Arc<DebugSession>, context: &Context) -> Result<Action, Error> {
    let now = context.base.clock.now();
    let outcome = Box::pin(pass(&session, context, now)).await;
    // An object without any status counts as healthy for GitOps tools: say something, even if the pass failed.
    if outcome.is_err() && session.status.is_none() {
        report::first_sight(&session, context, now).await;
    }
    outcome
}

async fn pass(session: &Arc<DebugSession>, context: &Context, now: chrono::DateTime<chrono::Utc>) -> Result<Action, Error> {
    let Some(observed) = Box::pin(observe::observe(session, context, now)).await? else {
        return Ok(Action::await_change());
    };
    let settings = &context.base.settings;
    let decision = validate::decide(&observed, settings, now);
    let desired = build::build(&observed, decision, settings, now);
    let applied = apply::apply(desired, context).await?;
    Ok(report::report(applied, context, now).await?)
}
