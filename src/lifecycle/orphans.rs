//! Pods whose session is gone. A deleted object without a finalizer is never reconciled again, so its pod is found from the
//! other side: from the pods' labels to the object they name.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::ListParams;

use super::apply::precondition;
use super::context::Base;
use crate::api::names;
use crate::api::session::Session;
use crate::kubernetes::{CallError, call, call_or_absent};

/// Looks at every session pod once; deletes those whose owner is not there any more. Returns how many.
///
/// # Errors
/// The first call that failed. The next tick begins anew.
pub async fn collect<S: Session>(context: &Base<S>) -> Result<usize, CallError> {
    let pods: Api<Pod> = context.beside_pods();
    let of_sessions = ListParams::default().labels(&names::of_kind(S::KIND));
    let mut deleted = 0;
    for pod in call("list the session pods", pods.list(&of_sessions)).await?.items {
        if pod.metadata.deletion_timestamp.is_none() && is_orphan(&pod.metadata, context).await? && delete(&pod, &pods).await? {
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// Whether the object that something names is not there, or is another one of that name. The cache may say that it is there;
/// only the API server may say that it is not.
///
/// # Errors
/// What the API server says.
pub async fn is_orphan<S: Session>(metadata: &ObjectMeta, context: &Base<S>) -> Result<bool, CallError> {
    let text = |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| map.as_ref().and_then(|map| map.get(key)).cloned();
    let uid = text(&metadata.labels, names::OWNER_UID);
    let namespace = text(&metadata.annotations, names::OWNER_NAMESPACE);
    let name = text(&metadata.annotations, names::OWNER_NAME);
    let (Some(uid), Some(namespace), Some(name)) = (uid, namespace, name) else {
        // Not made by the builder: the sweeper takes it by its deadline.
        return Ok(false);
    };
    let is_it = |session: &S| session.meta().uid.as_deref() == Some(uid.as_str());
    let cached = context.sessions.find(|guarded| {
        guarded.0.as_ref().is_ok_and(is_it) || guarded.0.as_ref().is_err_and(|invalid| invalid.metadata.uid.as_ref() == Some(&uid))
    });
    if cached.is_some() {
        return Ok(false);
    }
    let sessions: Api<kube::core::PartialObjectMeta<S>> = Api::namespaced(context.client.clone(), &namespace);
    let live = call_or_absent("read a pod's session", sessions.get(&name)).await?;
    Ok(live.is_none_or(|live| live.metadata.uid.as_ref() != Some(&uid)))
}

async fn delete(listed: &Pod, pods: &Api<Pod>) -> Result<bool, CallError> {
    let name = listed.metadata.name.as_deref().unwrap_or_default();
    let Some(live) = call_or_absent("read an orphaned pod", pods.get(name)).await? else { return Ok(false) };
    if live.metadata.uid != listed.metadata.uid || live.metadata.labels != listed.metadata.labels {
        return Ok(false);
    }
    let deleted = call_or_absent("delete an orphaned pod", pods.delete(name, &precondition(live.metadata.uid))).await?;
    if deleted.is_some() {
        tracing::info!(pod = name, "pod of a deleted session deleted");
    }
    Ok(deleted.is_some())
}
