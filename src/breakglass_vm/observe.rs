//! Step one: reads what the decision needs, and nothing else.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::sync::Arc;

use super::context::Context;
use crate::api::BreakglassVM;
use crate::kubernetes::{call_or_absent, isolation};
use crate::lifecycle::observe::{ObserveError, PodEvent, events};
use crate::lifecycle::{Identity, end, pod_state};

/// Everything the decision needs.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub session: Arc<BreakglassVM>,
    pub identity: Identity,
    /// The pod under this object's pod name: ours, or a stranger's.
    pub pod: Option<Pod>,
    /// Events of the pod, read only where its own status is silent for too long.
    pub events: Vec<PodEvent>,
    /// The verdict on the namespace of the pods; not asked for once the recovery ended.
    pub isolation: Result<(), String>,
}

/// Reads. `None`: a tombstone, about which there is nothing to do.
pub(super) async fn observe(session: &Arc<BreakglassVM>, context: &Context, now: DateTime<Utc>) -> Result<Option<Observed>, ObserveError> {
    let base = &context.base;
    let identity = Identity::of(&**session, base.settings.configuration.ttl_cap())?;
    if end::is_tombstone(&**session, &identity, now) {
        return Ok(None);
    }
    let pods: Api<Pod> = base.beside_pods();
    let pod_name = identity.pod_name();
    let read_pod = call_or_absent("read the session's pod", pods.get(&pod_name));
    let mut observed = Observed { session: Arc::clone(session), identity, pod: None, events: Vec::new(), isolation: Ok(()) };
    if end::ending(&**session, &observed.identity, now).is_some() {
        observed.pod = read_pod.await.map_err(ObserveError::Call)?;
        return Ok(Some(observed));
    }
    let namespace = &base.pods_namespace;
    let (pod, facts) = futures::try_join!(read_pod, isolation::read(&base.client, namespace)).map_err(ObserveError::Call)?;
    observed.isolation = isolation::verify(&facts, namespace, false);
    if let Some(pod) = pod.as_ref().filter(|pod| pod_state::is_silent(pod, now)) {
        observed.events = events(&base.client, namespace, pod).await?;
    }
    observed.pod = pod;
    Ok(Some(observed))
}
