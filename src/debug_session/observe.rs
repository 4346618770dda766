//! Step one: reads what the decision needs, and nothing else. Reads of what is written later are live, never from the cache.

use chrono::{DateTime, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use std::sync::Arc;

use super::context::Context;
use super::source::SourceRead;
use super::tekton::{self, PipelineRun, TaskRun};
use super::turn::{self, Turn};
use super::validate;
use crate::api::DebugSession;
use crate::api::debug_session::WorkloadReference;
use crate::kubernetes::{CallError, call, call_or_absent, isolation};
use crate::lifecycle::observe::{ObserveError, PodEvent, events};
use crate::lifecycle::{Identity, end, pod_state};

/// Everything the decision needs.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub session: Arc<DebugSession>,
    pub identity: Identity,
    /// The pod under this object's pod name: ours, or a stranger's.
    pub pod: Option<Pod>,
    /// Events of the pod, read only where its own status is silent for too long.
    pub events: Vec<PodEvent>,
    /// The verdict on the debug namespace; not asked for once the session ended.
    pub isolation: Result<(), String>,
    /// Whose turn it is; asked only while there is no pod.
    pub turn: Turn,
    /// What `spec.source` names; read once, when the pod is to be built.
    pub source: Option<SourceRead>,
}

/// Reads. `None`: a tombstone, about which there is nothing to do.
pub(super) async fn observe(session: &Arc<DebugSession>, context: &Context, now: DateTime<Utc>) -> Result<Option<Observed>, ObserveError> {
    let base = &context.base;
    let configuration = &base.settings.configuration;
    let identity = Identity::of(&**session, configuration.ttl_cap())?;
    if validate::is_tombstone(session, &identity, now) {
        return Ok(None);
    }
    let pods: Api<Pod> = base.beside_pods();
    let pod_name = identity.pod_name();
    let mut observed = Observed {
        session: Arc::clone(session),
        identity,
        pod: None,
        events: Vec::new(),
        isolation: Ok(()),
        turn: Turn::Mine,
        source: None,
    };
    if end::ending(&**session, &observed.identity, now).is_some() {
        observed.pod = call_or_absent("read the session's pod", pods.get(&pod_name)).await.map_err(ObserveError::Call)?;
        return Ok(Some(observed));
    }
    let namespace = &configuration.debug_namespace;
    let (pod, facts) =
        futures::try_join!(call_or_absent("read the session's pod", pods.get(&pod_name)), isolation::read(&base.client, namespace))
            .map_err(ObserveError::Call)?;
    observed.isolation = isolation::verify(&facts, namespace, !configuration.sessions.extra_capabilities.is_empty());
    observed.pod = pod;
    match &observed.pod {
        Some(pod) if pod_state::is_silent(pod, now) => observed.events = events(&base.client, namespace, pod).await?,
        None if end::has_no_pod_yet(&**session) => {
            let cached = base.sessions.state();
            let siblings = turn::siblings(session, cached.iter().map(AsRef::as_ref));
            observed.turn = turn::turn(&observed.identity.name, observed.identity.created, &siblings, configuration.sessions.per_project);
            if observed.turn == Turn::Mine && observed.isolation.is_ok() {
                observed.source = Some(source(context, session, &observed.identity.name.namespace).await?);
            }
        }
        _ => {}
    }
    Ok(Some(observed))
}

async fn source(context: &Context, session: &DebugSession, namespace: &str) -> Result<SourceRead, ObserveError> {
    let source = &session.spec.source;
    let read = if let Some(pod) = &source.pod {
        read_pod(context, namespace, pod).await
    } else if let Some(job) = &source.job {
        read_job(context, namespace, job).await
    } else if let Some(run) = &source.task_run {
        read_task_run(context, namespace, &run.name).await
    } else if let Some(run) = &source.pipeline_run {
        read_pipeline_run(context, namespace, &run.name).await
    } else {
        return Ok(SourceRead::Image);
    };
    match read {
        Err(error) if error.code() == 403 => Ok(SourceRead::Forbidden(error.message().to_owned())),
        other => other.map_err(ObserveError::Call),
    }
}

async fn read_pod(context: &Context, namespace: &str, reference: &WorkloadReference) -> Result<SourceRead, CallError> {
    let pods: Api<Pod> = Api::namespaced(context.base.client.clone(), namespace);
    let pod = call_or_absent("read the source pod", pods.get(&reference.name)).await?;
    Ok(pod.map_or(SourceRead::Absent, |pod| SourceRead::Pods(vec![pod])))
}

async fn read_job(context: &Context, namespace: &str, reference: &WorkloadReference) -> Result<SourceRead, CallError> {
    let jobs: Api<Job> = Api::namespaced(context.base.client.clone(), namespace);
    let Some(job) = call_or_absent("read the source job", jobs.get(&reference.name)).await? else { return Ok(SourceRead::Absent) };
    let pods: Api<Pod> = Api::namespaced(context.base.client.clone(), namespace);
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", reference.name));
    let mut items = call("list the source job's pods", pods.list(&of_job)).await?.items;
    // The label finds them; the owner's UID proves them.
    items.retain(|pod| pod.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref()));
    Ok(SourceRead::Pods(items))
}

async fn read_task_run(context: &Context, namespace: &str, name: &str) -> Result<SourceRead, CallError> {
    let runs: Api<TaskRun> = Api::namespaced_with(context.base.client.clone(), namespace, &tekton::task_runs());
    match call_or_absent("read the source TaskRun", runs.get(name)).await? {
        Some(run) => with_pod(context, namespace, run).await,
        None => Ok(SourceRead::Absent),
    }
}

async fn read_pipeline_run(context: &Context, namespace: &str, name: &str) -> Result<SourceRead, CallError> {
    let pipelines: Api<PipelineRun> = Api::namespaced_with(context.base.client.clone(), namespace, &tekton::pipeline_runs());
    let Some(pipeline) = call_or_absent("read the source PipelineRun", pipelines.get(name)).await? else { return Ok(SourceRead::Absent) };
    let runs: Api<TaskRun> = Api::namespaced_with(context.base.client.clone(), namespace, &tekton::task_runs());
    let of_pipeline = ListParams::default().labels(&format!("tekton.dev/pipelineRun={name}"));
    let mut items = call("list the source PipelineRun's TaskRuns", runs.list(&of_pipeline)).await?.items;
    items.retain(|run| run.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == pipeline.metadata.uid.as_ref()));
    match tekton::first_failed(items) {
        Some(run) => with_pod(context, namespace, run).await,
        None => Ok(SourceRead::NoneFailed),
    }
}

/// A TaskRun and its pod. Tekton deletes the pods of runs that took too long.
async fn with_pod(context: &Context, namespace: &str, run: TaskRun) -> Result<SourceRead, CallError> {
    let pods: Api<Pod> = Api::namespaced(context.base.client.clone(), namespace);
    let name = run.status.as_ref().map(|status| status.pod_name.as_str()).filter(|name| !name.is_empty());
    let pod = match name {
        Some(name) => call_or_absent("read the source TaskRun's pod", pods.get(name)).await?,
        None => None,
    };
    Ok(SourceRead::TaskRun(Box::new(run), pod.map(Box::new)))
}
