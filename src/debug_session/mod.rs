//! The controller of `DebugSession`, in five steps: [`observe`] reads, [`validate`] decides, [`build`] makes the pod,
//! [`apply`] writes it, [`report`] writes the status. The middle ones are pure. [`run`] feeds the driver.

mod apply;
mod build;
mod context;
mod error;
mod metrics;
mod observe;
mod orphans;
mod pod_state;
mod report;
mod run;
mod source;
mod status;
mod turn;
mod validate;

#[cfg(test)]
mod tests;

use kube::runtime::controller::Action;
use std::sync::Arc;

use crate::api::DebugSession;

pub use context::{Context, Guarded, Settings};
pub use error::Error;
pub use metrics::Metrics;
pub use run::run;

/// One pass over one object: the same result from any starting point.
///
/// # Errors
/// Which step failed, and how. Nothing is remembered: the next pass begins anew.
pub async fn reconcile(session: Arc<DebugSession>, context: &Context) -> Result<Action, Error> {
    let now = context.clock.now();
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
    let decision = validate::decide(&observed, &context.settings, now);
    let desired = build::build(&observed, decision, &context.settings, now);
    let applied = apply::apply(desired, context).await?;
    Ok(report::report(applied, context, now).await?)
}
