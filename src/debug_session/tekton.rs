//! What of Tekton's TaskRuns and PipelineRuns matters to a session, and which step of them failed. Own small types, after
//! Tekton's API `tekton.dev/v1`; everything else in these objects is passed over. Pure.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::object::Object;
use kube::core::{ApiResource, GroupVersionKind};
use serde::{Deserialize, Serialize};

/// A TaskRun. What was asked is in its status too, with parameters filled in.
pub(super) type TaskRun = Object<Option<Unread>, TaskRunStatus>;
/// A PipelineRun, of which only name and UID are read.
pub(super) type PipelineRun = Object<Option<Unread>, Unread>;

/// How a TaskRun is asked for.
pub(super) fn task_runs() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("tekton.dev", "v1", "TaskRun"), "taskruns")
}

/// How a PipelineRun is asked for.
pub(super) fn pipeline_runs() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("tekton.dev", "v1", "PipelineRun"), "pipelineruns")
}

/// A part that is not read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Unread {}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TaskRunStatus {
    conditions: Vec<Condition>,
    completion_time: Option<Time>,
    /// The pod in which the steps ran, or run.
    pub pod_name: String,
    steps: Vec<StepState>,
    task_spec: TaskSpec,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

/// How a step ended. In the order of the steps.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct StepState {
    name: String,
    container: String,
    #[serde(rename = "imageID")]
    image_id: String,
    terminated: Option<Terminated>,
    #[serde(rename = "terminationReason")]
    termination_reason: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    exit_code: i32,
}

/// The Task as it ran. Of a step the fields that a container has too are read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct TaskSpec {
    steps: Vec<Container>,
    step_template: Option<Container>,
}

/// The step that failed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FailedStep {
    /// Its containers, the later one on top of the earlier: of the pod, or where Tekton has deleted it (after a timeout) of the TaskRun.
    pub layers: Vec<Container>,
    /// What the node says which image ran.
    pub image_id: String,
}

/// Of the TaskRuns of a PipelineRun the first that failed; not one that may (`onError: continue`).
pub(super) fn first_failed(runs: Vec<TaskRun>) -> Option<TaskRun> {
    let ended = |run: &TaskRun| run.status.as_ref().and_then(|status| status.completion_time.clone());
    runs.into_iter()
        .filter(|run| has_failed(run) && !is_ignored(run))
        .min_by_key(|run| (ended(run).is_none(), ended(run).map(|time| time.0), run.metadata.name.clone()))
}

fn has_failed(run: &TaskRun) -> bool {
    succeeded(run).is_some_and(|condition| condition.status == "False")
}

fn is_ignored(run: &TaskRun) -> bool {
    succeeded(run).is_some_and(|condition| condition.reason == "FailureIgnored")
}

fn succeeded(run: &TaskRun) -> Option<&Condition> {
    run.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.kind == "Succeeded")
}

/// The step of this name, else the first that failed. `pod` is the TaskRun's, if it is still there.
///
/// # Errors
/// Why there is none: the end of a sentence about the TaskRun.
pub(super) fn failed_step(run: &TaskRun, pod: Option<&Pod>, named: Option<&str>) -> Result<FailedStep, String> {
    if !has_failed(run) {
        return Err("has not failed".into());
    }
    let status = run.status.as_ref().ok_or("has no status")?;
    let mut failed = status.steps.iter().enumerate().filter(|(_, step)| step.has_failed());
    let chosen = failed.find(|(_, step)| named.is_none_or(|name| step.name == name));
    let (place, step) = chosen.ok_or_else(|| match named {
        Some(name) => format!("has no failed step {name}"),
        None => format!("failed before a step of it ran: {}", succeeded(run).map_or("", |condition| condition.message.as_str())),
    })?;
    let owned = pod.filter(|pod| pod.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == run.metadata.uid.as_ref()));
    let containers = owned.and_then(|pod| pod.spec.as_ref()).map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let layers: Vec<Container> = match containers.iter().find(|container| container.name == step.container) {
        Some(container) => vec![container.clone()],
        None => status.task_spec.step_template.iter().chain(status.task_spec.steps.get(place)).cloned().collect(),
    };
    if layers.iter().all(|layer| layer.image.is_none()) {
        return Err(format!("does not say which image its step {} had, and its pod is gone", step.name));
    }
    Ok(FailedStep { layers, image_id: step.image_id.clone() })
}

impl StepState {
    /// A step that was passed over after another's failure ends with an exit code too, and so does one whose failure does not matter.
    fn has_failed(&self) -> bool {
        let ended_badly = self.terminated.as_ref().is_some_and(|end| end.exit_code != 0);
        ended_badly && !matches!(self.termination_reason.as_str(), "Skipped" | "Continued")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn step(name: &str, exit: i32, reason: &str) -> Value {
        json!({ "name": name, "container": format!("step-{name}"), "imageID": format!("registry.example.com/{name}@sha256:{}", "1".repeat(64)),
            "terminated": { "exitCode": exit, "reason": "Error", "finishedAt": "2026-01-01T00:00:00Z" }, "terminationReason": reason })
    }

    fn run(name: &str, steps: &Value, succeeded: &str, completed: Option<&str>) -> TaskRun {
        serde_json::from_value(json!({
            "apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": { "name": name, "uid": "u-1" }, "spec": { "params": [{ "name": "x", "value": ["1"] }] },
            "status": {
                "podName": format!("{name}-pod"), "completionTime": completed,
                "conditions": [{ "type": "Succeeded", "status": succeeded, "reason": "Failed", "message": "the pod could not be made" }],
                "steps": steps,
                "taskSpec": {
                    "stepTemplate": { "env": [{ "name": "FROM", "value": "template" }] },
                    "steps": [
                        { "name": "fetch", "image": "registry.example.com/fetch:1", "script": "true" },
                        { "name": "test", "image": "registry.example.com/test:1", "workingDir": "/workspace/source", "computeResources": {}, "onError": "stopAndFail" },
                    ],
                },
            },
        }))
        .expect("a TaskRun")
    }

    fn pod(owner: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "ownerReferences": [{ "apiVersion": "tekton.dev/v1", "kind": "TaskRun", "name": "a", "uid": owner }] },
            "spec": { "containers": [
                { "name": "step-fetch", "image": "registry.example.com/fetch:1" },
                { "name": "step-test", "image": "registry.example.com/test:1", "workingDir": "/workspace/pod" },
            ] },
        }))
        .expect("a pod")
    }

    #[test]
    fn the_first_step_that_matters_is_the_failed_one() {
        let steps = json!([step("fetch", 1, "Continued"), step("test", 3, "Error"), step("upload", 1, "Skipped")]);
        let found = failed_step(&run("a", &steps, "False", None), Some(&pod("u-1")), None).expect("failed");
        assert!(found.image_id.starts_with("registry.example.com/test@"));
        assert_eq!(found.layers.len(), 1);
        assert_eq!(found.layers[0].working_dir.as_deref(), Some("/workspace/pod"));
    }

    #[test]
    fn without_its_pod_the_task_run_tells() {
        let steps = json!([step("fetch", 0, "Completed"), step("test", 1, "")]);
        for pod in [None, Some(pod("of another"))] {
            let found = failed_step(&run("a", &steps, "False", None), pod.as_ref(), None).expect("failed");
            let folders: Vec<_> = found.layers.iter().map(|layer| layer.working_dir.as_deref()).collect();
            assert_eq!(folders, [None, Some("/workspace/source")]);
        }
    }

    #[test]
    fn what_cannot_be_taken_is_said() {
        let steps = json!([step("fetch", 0, "Completed"), step("test", 1, "Error")]);
        for (run, named, words) in [
            (run("a", &steps, "Unknown", None), None, "has not failed"),
            (run("a", &steps, "False", None), Some("fetch"), "has no failed step fetch"),
            (run("a", &json!([]), "False", None), None, "failed before a step of it ran: the pod could not be made"),
            (run("a", &json!([step("a", 0, ""), step("b", 0, ""), step("c", 1, "")]), "False", None), None, "its pod is gone"),
        ] {
            let problem = failed_step(&run, None, named).expect_err("must be refused");
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn of_a_pipeline_run_the_first_failure_counts() {
        let steps = json!([step("test", 1, "Error")]);
        let runs = vec![
            run("later", &steps, "False", Some("2026-01-01T00:00:09Z")),
            run("fine", &steps, "True", Some("2026-01-01T00:00:01Z")),
            run("first", &steps, "False", Some("2026-01-01T00:00:05Z")),
            run("goes-on", &steps, "Unknown", None),
            run("without-time", &steps, "False", None),
        ];
        assert_eq!(first_failed(runs).expect("one failed").metadata.name.as_deref(), Some("first"));
        let mut may_fail = run("may-fail", &steps, "False", Some("2026-01-01T00:00:02Z"));
        may_fail.status.as_mut().expect("a status").conditions[0].reason = "FailureIgnored".into();
        let runs = vec![may_fail.clone(), run("first", &steps, "False", Some("2026-01-01T00:00:05Z"))];
        assert_eq!(first_failed(runs).expect("one failed").metadata.name.as_deref(), Some("first"));
        assert!(first_failed(vec![may_fail]).is_none());
        assert!(first_failed(vec![run("fine", &steps, "True", None)]).is_none());
    }

    #[test]
    fn an_object_without_a_status_is_read() {
        let run: TaskRun =
            serde_json::from_value(json!({ "apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": { "name": "a" }, "spec": {} }))
                .expect("read");
        assert_eq!(failed_step(&run, None, None), Err("has not failed".into()));
    }
}
