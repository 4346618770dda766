//! Step four: writes the pod, or deletes it. Every creation follows a live read of the object, every deletion a live read of
//! the pod and carries its UID.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use super::build::{Desired, Prepared, Step};
use super::context::Context;
use crate::api::DebugSession;
use crate::api::conditions::Reason;
use crate::api::names;
use crate::api::session::Session as _;
use crate::kubernetes::{call, call_or_absent};
use crate::lifecycle::apply::{self, ApplyError, Outcome, precondition};
use crate::lifecycle::end::is_own;
use crate::lifecycle::{Cause, Identity};

/// Written. The only state that is reported.
pub(super) struct Applied(pub Outcome);

/// Writes.
pub(super) async fn apply(desired: Desired<Prepared>, context: &Context) -> Result<Desired<Applied>, ApplyError> {
    let Desired { session, identity, state: Prepared(step) } = desired;
    let outcome = match step {
        Step::Remove => remove(&identity, context).await?,
        Step::End(ending, pod) => apply::end(&context.base.beside_pods(), ending, pod).await?,
        Step::Hold(cause) => Outcome::Held(cause),
        Step::Create { pod, project } => create(&identity, &pod, &project, context).await?,
        Step::Keep(pod, state) => Outcome::Standing(pod, state),
    };
    Ok(Desired { session, identity, state: Applied(outcome) })
}

async fn create(identity: &Identity, pod: &Pod, project: &str, context: &Context) -> Result<Outcome, ApplyError> {
    let busy = |who: &str| Outcome::Held(Cause::new(Reason::ProjectBusy, format!("waiting for {who}: sessions of one project take turns")));
    let Some(_claim) = context.claims.take(project) else { return Ok(busy("another session that is just being started")) };
    let pods: Api<Pod> = context.base.beside_pods();
    let sessions = context.base.sessions_of(&identity.name.namespace);
    let of_sessions = ListParams::default().labels(&names::of_kind(DebugSession::KIND));
    let (live, others) = futures::try_join!(
        call_or_absent("read the session", sessions.get(&identity.name.name)),
        call("list the session pods", pods.list(&of_sessions)),
    )
    .map_err(ApplyError::Call)?;
    if !live.is_some_and(|live| apply::may_start(&live, identity)) {
        return Err(ApplyError::Stale);
    }
    let annotation = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let of_project = others.items.iter().filter(|other| annotation(other, names::PROJECT).as_deref() == Some(project));
    let others: Vec<&Pod> = of_project.filter(|other| !is_own(other, &identity.uid)).collect();
    if let Some(other) = others.first().filter(|_| others.len() >= context.base.settings.configuration.sessions.per_project as usize) {
        return Ok(busy(&annotation(other, names::OWNER_NAME).unwrap_or_default()));
    }
    apply::create(&pods, pod, identity).await
}

async fn remove(identity: &Identity, context: &Context) -> Result<Outcome, ApplyError> {
    let sessions = context.base.sessions_of(&identity.name.namespace);
    let live = call_or_absent("read the session", sessions.get(&identity.name.name)).await.map_err(ApplyError::Call)?;
    if let Some(live) = live.filter(|live| live.metadata.uid.as_deref() == Some(identity.uid.as_str())) {
        let parameters = precondition(live.metadata.uid);
        call_or_absent("delete the ended session", sessions.delete(&identity.name.name, &parameters)).await.map_err(ApplyError::Call)?;
        tracing::info!(session = %identity.name, uid = identity.uid, "ended session removed");
    }
    Ok(Outcome::Removed)
}
