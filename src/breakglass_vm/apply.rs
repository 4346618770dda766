//! Step four: writes. What guards the pod comes before it and goes after it: the pod is deleted first and confirmed gone, then
//! the holes in its network policy, then the identity that Vault knows.

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};
use std::collections::BTreeSet;

use super::build::{Desired, Prepared, Recovery, Step, account_name};
use super::context::Context;
use crate::api::conditions::Reason;
use crate::api::session::Session as _;
use crate::api::{BreakglassVM, names};
use crate::kubernetes::{CallError, call, call_or_absent};
use crate::lifecycle::apply::{self, ApplyError, Outcome, precondition};
use crate::lifecycle::{Cause, Ending, Identity, end, orphans};

/// Written. The only state that is reported.
pub(super) struct Applied(pub Outcome);

/// Writes.
pub(super) async fn apply(desired: Desired<Prepared>, context: &Context) -> Result<Desired<Applied>, ApplyError> {
    let Desired { session, identity, state: Prepared(step) } = desired;
    let outcome = match step {
        Step::End(ending, pod) => end(&session, &identity, ending, pod, context).await?,
        Step::Hold(cause) => Outcome::Held(cause),
        Step::Create(recovery) => create(&identity, *recovery, context).await?,
        Step::Keep(pod, state) => Outcome::Standing(pod, state),
    };
    Ok(Desired { session, identity, state: Applied(outcome) })
}

async fn create(identity: &Identity, recovery: Recovery, context: &Context) -> Result<Outcome, ApplyError> {
    let Recovery { account, policy, pod } = recovery;
    let sessions = context.base.sessions_of(&identity.name.namespace);
    let live = call_or_absent("read the recovery", sessions.get(&identity.name.name)).await.map_err(ApplyError::Call)?;
    if !live.is_some_and(|live| apply::may_start(&live, identity)) {
        return Err(ApplyError::Stale);
    }
    let made = make("create the pod's ServiceAccount", &account, context).await?
        && make("create the pod's NetworkPolicy", &policy, context).await?;
    if !made {
        let names = format!("{}, {}", account.name_any(), policy.name_any());
        let message = format!("a ServiceAccount or NetworkPolicy that is not Sandglass's stands in the way: delete it ({names})");
        return Ok(Outcome::Held(Cause::new(Reason::PodRefused, message)));
    }
    apply::create(&context.base.beside_pods(), &pod, identity).await
}

/// Creates an object, or finds it there from an earlier pass. Returns whether it is ours.
async fn make<K>(what: &'static str, wanted: &K, context: &Context) -> Result<bool, ApplyError>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = context.base.beside_pods();
    match call(what, api.create(&PostParams::default(), wanted)).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == 409 => {
            let standing = call_or_absent(what, api.get(&wanted.name_any())).await.map_err(ApplyError::Call)?.ok_or(ApplyError::Stale)?;
            Ok(standing.meta().labels == wanted.meta().labels)
        }
        Err(error) => Err(ApplyError::Call(error)),
    }
}

async fn end(
    session: &BreakglassVM,
    identity: &Identity,
    ending: Ending,
    pod: Option<Box<Pod>>,
    context: &Context,
) -> Result<Outcome, ApplyError> {
    let pods: Api<Pod> = context.base.beside_pods();
    let outcome = apply::end(&pods, ending, pod).await?;
    let Outcome::Ending { ending, pod, gone: true } = outcome else { return Ok(outcome) };
    delete_policy(identity, context).await.map_err(ApplyError::Call)?;
    let account = account_name(&identity.name.namespace, &session.spec.vault.role);
    // Another object of the same role may be about to start.
    let wanted = accounts_wanted(context, Some(&identity.uid));
    delete_accounts(context, |name| name == account && !wanted.contains(name)).await.map_err(ApplyError::Call)?;
    Ok(Outcome::Ending { ending, pod, gone: true })
}

async fn delete_policy(identity: &Identity, context: &Context) -> Result<(), CallError> {
    let policies: Api<NetworkPolicy> = context.base.beside_pods();
    let name = identity.pod_name();
    let standing = call_or_absent("read the pod's NetworkPolicy", policies.get(&name)).await?;
    if let Some(policy) = standing.filter(|policy| policy.labels().get(names::OWNER_UID) == Some(&identity.uid)) {
        call_or_absent("delete the pod's NetworkPolicy", policies.delete(&name, &precondition(policy.metadata.uid))).await?;
    }
    Ok(())
}

/// Deletes those accounts among `which` that no pod runs as.
async fn delete_accounts(context: &Context, which: impl Fn(&str) -> bool) -> Result<(), CallError> {
    let accounts: Api<ServiceAccount> = context.base.beside_pods();
    let ours = ListParams::default().labels(&names::of_kind(BreakglassVM::KIND));
    let listed = call("list the ServiceAccounts of recoveries", accounts.list(&ours)).await?.items;
    let candidates: Vec<ServiceAccount> = listed.into_iter().filter(|account| which(&account.name_any())).collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let pods: Api<Pod> = context.base.beside_pods();
    let pods = call("list the recovery pods", pods.list(&ListParams::default())).await?.items;
    let used: BTreeSet<String> = pods.into_iter().filter_map(|pod| pod.spec?.service_account_name).collect();
    for account in candidates.into_iter().filter(|account| !used.contains(&account.name_any())) {
        let name = account.name_any();
        call_or_absent("delete a ServiceAccount", accounts.delete(&name, &precondition(account.metadata.uid))).await?;
    }
    Ok(())
}

/// Deletes policies and accounts of objects that are gone: a deleted object without a finalizer is never reconciled again.
pub(super) async fn collect(context: &Context) -> Result<(), CallError> {
    let policies: Api<NetworkPolicy> = context.base.beside_pods();
    let pods: Api<Pod> = context.base.beside_pods();
    let ours = ListParams::default().labels(&names::of_kind(BreakglassVM::KIND));
    for policy in call("list the NetworkPolicies of recoveries", policies.list(&ours)).await?.items {
        let name = policy.name_any();
        // It has its pod's name. While the pod is there, it stays.
        if orphans::is_orphan(&policy.metadata, &context.base).await?
            && call_or_absent("read a recovery pod", pods.get(&name)).await?.is_none()
        {
            call_or_absent("delete an orphaned NetworkPolicy", policies.delete(&name, &precondition(policy.metadata.uid))).await?;
        }
    }
    let wanted = accounts_wanted(context, None);
    delete_accounts(context, |name| !wanted.contains(name)).await
}

/// Accounts of objects that are not over, `but` one.
fn accounts_wanted(context: &Context, but: Option<&str>) -> BTreeSet<String> {
    let all = context.base.sessions.state();
    let live = all.iter().filter_map(|guarded| guarded.0.as_ref().ok()).filter(|session| !end::is_over(*session));
    let others = live.filter(|session| session.metadata.uid.as_deref() != but || but.is_none());
    others.filter_map(|session| Some(account_name(session.metadata.namespace.as_deref()?, &session.spec.vault.role))).collect()
}
