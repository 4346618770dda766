//! What a session takes of a failed build: the failed container's or step's image, its literal environment, its working directory.
//! Nothing else: not its command, arguments, volumes, annotations or account. Pure.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use super::tekton::{self, TaskRun};
use crate::api::debug_session::{DebugSession, WorkloadReference};
use crate::domain::environment::{self, Variable};
use crate::domain::images::Reference;

/// What was read of `spec.source`.
#[derive(Clone, Debug)]
pub(super) enum SourceRead {
    /// It names an image: there is nothing to read.
    Image,
    /// The named pod, or the pods of the named job.
    Pods(Vec<Pod>),
    /// The named TaskRun, or the first that failed of the named PipelineRun; with its pod, if that is still there.
    TaskRun(Box<TaskRun>, Option<Box<Pod>>),
    /// No TaskRun of the named PipelineRun has failed.
    NoneFailed,
    /// There is none of this name.
    Absent,
    /// The controller may not read it; the API server's words.
    Forbidden(String),
}

/// What is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub image: String,
    pub environment: Vec<Variable>,
    pub working_directory: Option<String>,
}

/// Why nothing is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceProblem {
    Missing(String),
    Forbidden(String),
}

/// Takes what is needed, or says why not.
pub(super) fn take(session: &DebugSession, read: &SourceRead) -> Result<Taken, SourceProblem> {
    let source = &session.spec.source;
    if let Some(image) = &source.image {
        return Ok(Taken { image: image.clone(), environment: Vec::new(), working_directory: None });
    }
    let (what, container) = named(session);
    match read {
        SourceRead::Pods(pods) => from_pods(pods, &what, container),
        SourceRead::TaskRun(run, pod) => from_task_run(run, pod.as_deref(), container),
        SourceRead::NoneFailed => Err(SourceProblem::Missing(format!("the {what} has no failed TaskRun"))),
        SourceRead::Forbidden(message) => Err(SourceProblem::Forbidden(format!(
            "the controller may not read the {what}: bind the ClusterRole sandglass-source-reader to it in this namespace ({message})"
        ))),
        SourceRead::Absent | SourceRead::Image => Err(SourceProblem::Missing(format!("there is no {what} in this namespace"))),
    }
}

/// What `spec.source` names, in words, and which container or step of it.
fn named(session: &DebugSession) -> (String, Option<&str>) {
    let source = &session.spec.source;
    let workload = |kind: &str, reference: &'_ WorkloadReference| format!("{kind} {}", reference.name);
    if let Some(pod) = &source.pod {
        (workload("pod", pod), pod.container.as_deref())
    } else if let Some(job) = &source.job {
        (workload("job", job), job.container.as_deref())
    } else if let Some(run) = &source.task_run {
        (format!("TaskRun {}", run.name), run.step.as_deref())
    } else {
        (source.pipeline_run.as_ref().map_or_else(|| "source".into(), |run| format!("PipelineRun {}", run.name)), None)
    }
}

/// As of a container; of a step whose pod is gone the Task's template comes first.
fn from_task_run(run: &TaskRun, pod: Option<&Pod>, step: Option<&str>) -> Result<Taken, SourceProblem> {
    let name = run.metadata.name.as_deref().unwrap_or_default();
    let failed = tekton::failed_step(run, pod, step).map_err(|why| SourceProblem::Missing(format!("the TaskRun {name} {why}")))?;
    let last = |of: fn(&Container) -> Option<&String>| failed.layers.iter().rev().find_map(of).cloned();
    Ok(Taken {
        image: pinned(last(|layer| layer.image.as_ref()).unwrap_or_default(), Some(&failed.image_id)),
        environment: failed.layers.iter().flat_map(environment::of_container).collect(),
        working_directory: last(|layer| layer.working_dir.as_ref()).filter(|directory| directory.starts_with('/')),
    })
}

fn from_pods(pods: &[Pod], what: &str, named: Option<&str>) -> Result<Taken, SourceProblem> {
    let mut failed: Vec<(&Pod, &Container, Option<&ContainerStatus>)> =
        pods.iter().filter_map(|pod| failed_container(pod, named).map(|(one, status)| (pod, one, status))).collect();
    failed.sort_by_key(|(pod, ..)| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let Some((_, container, status)) = failed.pop() else {
        let which = named.map_or_else(|| "no container of it".into(), |name| format!("its container {name} has not"));
        let verb = if named.is_some() { "failed" } else { "has failed" };
        return Err(SourceProblem::Missing(format!("the {what} is not a failed build: {which} {verb}")));
    };
    Ok(Taken {
        image: pinned(container.image.clone().unwrap_or_default(), status.map(|status| status.image_id.as_str())),
        environment: environment::of_container(container),
        working_directory: container.working_dir.clone().filter(|directory| directory.starts_with('/')),
    })
}

/// The container that failed: the named one, else the first. `None` if none did.
fn failed_container<'a>(pod: &'a Pod, named: Option<&str>) -> Option<(&'a Container, Option<&'a ContainerStatus>)> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref()?;
    let statuses = || status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let mut containers =
        spec.init_containers.iter().flatten().chain(&spec.containers).filter(|one| named.is_none_or(|name| one.name == name));
    let status_of = |container: &Container| statuses().find(|status| status.name == container.name);
    containers.clone().map(|one| (one, status_of(one))).find(|(_, status)| status.is_some_and(has_failed)).or_else(|| {
        // Evicted before the kubelet could say which container.
        let whole = status.phase.as_deref() == Some("Failed") && statuses().all(|status| !has_ended(status));
        whole.then(|| if named.is_some() { containers.next() } else { spec.containers.first() }).flatten().map(|one| (one, None))
    })
}

fn has_ended(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.terminated.is_some())
}

fn has_failed(status: &ContainerStatus) -> bool {
    [&status.state, &status.last_state].into_iter().flatten().filter_map(|state| state.terminated.as_ref()).any(|end| end.exit_code != 0)
}

/// The image by the digest that ran, where the node reports one that can be pulled: of the same repository as the one asked for.
fn pinned(asked: String, ran: Option<&str>) -> String {
    let ran = ran.map(|ran| ran.rsplit_once("://").map_or(ran, |(_, id)| id));
    let pinned = ran.filter(|ran| match (Reference::parse(ran), Reference::parse(&asked)) {
        (Ok(ran), Ok(asked)) => ran.digest.is_some() && ran.name() == asked.name(),
        _ => false,
    });
    pinned.map(str::to_owned).unwrap_or(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn session(source: &serde_json::Value) -> DebugSession {
        serde_json::from_value(json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession", "metadata": { "name": "s", "namespace": "ci" },
            "spec": { "source": source, "requester": "octocat", "access": { "principals": ["octocat"] } },
        }))
        .expect("a session")
    }

    fn pod(name: &str, created: &str, exit: [i32; 2]) -> Pod {
        let digest = format!("registry.example.com/go@sha256:{}", "1".repeat(64));
        serde_json::from_value(json!({
            "metadata": { "name": name, "creationTimestamp": created },
            "spec": { "containers": [
                { "name": "proxy", "image": "registry.example.com/proxy:1" },
                { "name": "job", "image": "registry.example.com/go:1", "workingDir": "/workspace", "env": [{ "name": "CI", "value": name }] },
            ] },
            "status": { "phase": "Failed", "containerStatuses": [
                { "name": "proxy", "image": "", "imageID": "sha256:00", "ready": false, "restartCount": 0,
                  "state": { "terminated": { "exitCode": exit[0] } } },
                { "name": "job", "image": "", "imageID": digest, "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": exit[1] } } },
            ] },
        }))
        .expect("a pod")
    }

    #[test]
    fn the_failed_container_gives_digest_environment_and_folder() {
        let taken = take(&session(&json!({ "pod": { "name": "a" } })), &SourceRead::Pods(vec![pod("a", "2026-01-01T00:00:00Z", [0, 1])]));
        let taken = taken.expect("failed");
        assert_eq!(taken.image, format!("registry.example.com/go@sha256:{}", "1".repeat(64)));
        assert_eq!(taken.environment, [Variable::Literal("CI".into(), "a".into())]);
        assert_eq!(taken.working_directory.as_deref(), Some("/workspace"));
    }

    #[test]
    fn without_a_usable_digest_the_spec_decides() {
        let pods = vec![pod("a", "2026-01-01T00:00:00Z", [1, 0])];
        let taken = take(&session(&json!({ "pod": { "name": "a", "container": "proxy" } })), &SourceRead::Pods(pods));
        assert_eq!(taken.expect("failed").image, "registry.example.com/proxy:1");
    }

    #[test]
    fn a_job_gives_its_last_failed_pod() {
        let pods = vec![
            pod("second", "2026-01-02T00:00:00Z", [0, 1]),
            pod("third", "2026-01-03T00:00:00Z", [0, 0]),
            pod("first", "2026-01-01T00:00:00Z", [0, 1]),
        ];
        let taken = take(&session(&json!({ "job": { "name": "nightly" } })), &SourceRead::Pods(pods)).expect("failed");
        assert_eq!(taken.environment, [Variable::Literal("CI".into(), "second".into())]);
    }

    #[test]
    fn what_cannot_be_taken_is_said_clearly() {
        let named = |container: &str| session(&json!({ "pod": { "name": "a", "container": container } }));
        let any = session(&json!({ "pod": { "name": "a" } }));
        let healthy = SourceRead::Pods(vec![pod("a", "2026-01-01T00:00:00Z", [0, 0])]);
        for (session, read, words) in [
            (&any, &healthy, "not a failed build"),
            (&named("job"), &healthy, "container job"),
            (&any, &SourceRead::Absent, "there is no pod a"),
        ] {
            let problem = take(session, read).expect_err("must be refused");
            assert!(matches!(&problem, SourceProblem::Missing(message) if message.contains(words)), "{problem:?}");
        }
        let forbidden = take(&any, &SourceRead::Forbidden("no".into())).expect_err("must be refused");
        assert!(matches!(forbidden, SourceProblem::Forbidden(message) if message.contains("sandglass-source-reader")));
    }
}
