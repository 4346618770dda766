//! Tekton: a failed run as a source, and the task for a pipeline's `finally`. By real runs of a real Tekton (`e2e/doors/tekton`).

use super::harness::{BUILD_IMAGE, Lab, eventually, kubectl};
use super::reading::{is_open, status};
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::await_condition;
use sandglass::api::DebugSession;
use sandglass::api::session::Retention;
use serde_json::{Value, json};
use std::time::Duration;

/// The image of the task.
const SANDGLASS_IMAGE: &str = "local.test/sandglass:e2e";

/// Objects of Tekton's in the test's namespace.
fn tekton(lab: &Lab, kind: &str, version: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("tekton.dev", version, kind));
    Api::namespaced_with(lab.client.clone(), &lab.namespace, &resource)
}

async fn create(lab: &Lab, kind: &str, name: &str, spec: Value) -> DynamicObject {
    let object = json!({ "apiVersion": "tekton.dev/v1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let object = serde_json::from_value(object).expect("an object");
    tekton(lab, kind, "v1").create(&PostParams::default(), &object).await.expect("created")
}

/// The condition `Succeeded` of a run, once it is decided.
async fn ended(lab: &Lab, kind: &str, name: &str) -> (String, DynamicObject) {
    let succeeded = |run: &DynamicObject| {
        let conditions = run.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().find(|one| one["type"] == "Succeeded").map(|one| one["status"].as_str().unwrap_or_default().to_owned())
    };
    let decided = |run: Option<&DynamicObject>| run.and_then(succeeded).is_some_and(|status| status != "Unknown");
    let waited = tokio::time::timeout(Duration::from_mins(2), await_condition(tekton(lab, kind, "v1"), name, decided)).await;
    let run = waited.unwrap_or_else(|_| panic!("{kind} {name} goes on: {}", kubectl(&["describe", kind, name, "-n", &lab.namespace])));
    let run = run.expect("watched").expect("there");
    (succeeded(&run).expect("decided"), run)
}

/// What manifests/tekton has, as a user applies it.
fn install(lab: &Lab) {
    let folder = format!("{}/manifests/tekton", env!("CARGO_MANIFEST_DIR"));
    let applied = kubectl(&["apply", "-n", &lab.namespace, "-f", &format!("{folder}/access.yaml"), "-f", &format!("{folder}/task.yaml")]);
    assert_eq!(applied.lines().filter(|line| line.ends_with(" created")).count(), 5, "{applied}");
}

/// The parameters of the task in `finally`; `more` comes first.
fn parameters(more: &[(&str, &str)]) -> Value {
    let given = [
        ("debug", "$(params.debug)"),
        ("status", "$(tasks.status)"),
        ("pipeline-run", "$(context.pipelineRun.name)"),
        ("run", "$(context.pipelineRun.uid)"),
        ("image", SANDGLASS_IMAGE),
        ("ttl", "5m"),
    ];
    let others = given.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    others.chain(more).map(|(name, value)| json!({ "name": name, "value": value })).collect()
}

/// A pipeline of one build and the door, and a run of it.
async fn run(lab: &Lab, name: &str, debug: &str, build: &str, more: &[(&str, &str)]) -> (String, DynamicObject) {
    let spec = json!({
        "params": [{ "name": "debug", "value": debug }],
        "pipelineSpec": {
            "params": [{ "name": "debug", "type": "string" }],
            "tasks": [{ "name": "test", "taskSpec": { "steps": [
                { "name": "fetch", "image": BUILD_IMAGE, "command": ["true"], "env": [{ "name": "STEP", "value": "fetch" }] },
                { "name": "unit", "image": BUILD_IMAGE, "command": ["bash", "-c", build], "workingDir": "/workspace/tests",
                  "env": [{ "name": "STEP", "value": "unit" }, { "name": "DEPLOY_TOKEN", "value": "canary-of-tekton" }] },
                { "name": "upload", "image": BUILD_IMAGE, "command": ["true"], "env": [{ "name": "STEP", "value": "upload" }] },
            ] } }],
            "finally": [{ "name": "debug", "taskRef": { "name": "sandglass-debug" }, "params": parameters(more) }],
        },
        "taskRunSpecs": [{ "pipelineTaskName": "debug", "serviceAccountName": "sandglass-debug" }],
    });
    create(lab, "PipelineRun", name, spec).await;
    ended(lab, "PipelineRun", name).await
}

/// The TaskRun of the door; it never fails.
async fn door(lab: &Lab, pipeline_run: &str) -> (DynamicObject, String) {
    let labels = format!("tekton.dev/pipelineRun={pipeline_run},tekton.dev/pipelineTask=debug");
    let runs = tekton(lab, "TaskRun", "v1").list(&ListParams::default().labels(&labels)).await.expect("listed").items;
    assert_eq!(runs.len(), 1);
    let (succeeded, run) = ended(lab, "TaskRun", runs[0].metadata.name.as_deref().expect("a name")).await;
    let log = kubectl(&["logs", "-n", &lab.namespace, run.data["status"]["podName"].as_str().expect("a pod"), "-c", "step-open"]);
    assert_eq!(succeeded, "True", "{log}");
    (run, log)
}

fn result<'a>(run: &'a DynamicObject, name: &str) -> &'a str {
    let results = run.data["status"]["results"].as_array().expect("results");
    results.iter().find(|one| one["name"] == name).and_then(|one| one["value"].as_str()).unwrap_or_else(|| panic!("no result {name}"))
}

async fn sessions(lab: &Lab) -> Vec<DebugSession> {
    lab.api::<DebugSession>().list(&ListParams::default()).await.expect("listed").items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pipeline_opens_a_session_on_the_step_that_failed() {
    let lab = Lab::shared("tekton-door").await;
    install(&lab);
    let (succeeded, pipeline) =
        run(&lab, "build-42", "true", "exit 3", &[("authorized-keys", &lab.public_key), ("commit", "0a1b2c3")]).await;
    assert_eq!(succeeded, "False", "the build's own result stays");
    let (task_run, log) = door(&lab, "build-42").await;
    let found = sessions(&lab).await;
    assert_eq!(found.len(), 1, "{log}");
    let session = lab.until_open(found[0].metadata.name.as_deref().expect("a name")).await;
    let name = session.metadata.name.clone().expect("a name");
    let connection = status(&session).connection.expect("a connection");

    assert_eq!(result(&task_run, "name"), name);
    assert_eq!(result(&task_run, "command"), connection.command);
    assert_eq!(result(&task_run, "expires-at"), status(&session).expires_at.expect("an end").0.to_string());
    for words in [connection.command.as_str(), &connection.known_hosts[0], "left out  DEPLOY_TOKEN", "recorded"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(log.lines().next().is_some_and(|line| line.starts_with("┌─ Sandglass")), "{log}");

    let seen = lab.run(&session, "echo $STEP; pwd; env").await;
    assert!(seen.starts_with("unit\n/workspace/tests\n") && !seen.contains("canary-of-tekton"), "{seen}");
    let image = session.status.as_ref().and_then(|status| status.image.clone()).expect("an image");
    assert!(image.starts_with("local.test/ci-build@sha256:"), "what really ran: {image}");

    let spec = &session.spec;
    assert_eq!(spec.requester, format!("system:serviceaccount:{}:sandglass-debug", lab.namespace));
    assert_eq!((spec.retention, spec.delete_after.as_deref()), (Retention::Delete, Some("24h")));
    assert!(spec.not_after.is_some());
    let build = spec.build.as_ref().expect("a build");
    assert_eq!((build.commit.as_deref(), build.run.as_ref()), (Some("0a1b2c3"), pipeline.metadata.uid.as_ref()));

    // A retry of the task, with the same run, finds the session and makes no other.
    let mut again = task_run.data["spec"].clone();
    again.as_object_mut().expect("a spec").remove("status");
    create(&lab, "TaskRun", "again", again).await;
    let (succeeded, again) = ended(&lab, "TaskRun", "again").await;
    assert_eq!(succeeded, "True");
    assert_eq!(result(&again, "command"), connection.command);
    assert_eq!(sessions(&lab).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_turns_a_pipeline_red_and_nothing_is_opened_for_one_that_passed() {
    let lab = Lab::shared("tekton-quiet").await;
    install(&lab);
    let key = [("authorized-keys", lab.public_key.as_str())];
    for (name, debug, build, more, result, words) in [
        ("passed", "true", "true", &key[..], "True", "not Failed"),
        ("off", "false", "exit 1", &key[..], "False", "debugging is off"),
        ("without-a-key", "true", "exit 1", &[], "False", "nobody could log in"),
        ("without-the-right", "true", "exit 1", &[key[0], ("requester", "mona")], "False", "impersonate-requester"),
        ("odd-words", "true", "exit 1", &[key[0], ("ttl", "soon\n--strict")], "False", "--ttl is"),
    ] {
        let (succeeded, _) = run(&lab, name, debug, build, more).await;
        assert_eq!(succeeded, result, "{name}");
        let (task_run, log) = door(&lab, name).await;
        assert!(log.contains(words), "{name}: {log}");
        assert_eq!(
            task_run.data["status"]["results"].as_array().map_or(0, |results| results.iter().filter(|one| one["value"] != "").count()),
            0,
            "{name}"
        );
    }
    assert!(sessions(&lab).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_open_is_said_to_be_so_in_time() {
    let lab = Lab::shared("tekton-stalled").await;
    install(&lab);
    // The controller is not let in: the session stalls.
    kubectl(&["delete", "rolebinding", "sandglass-source-reader", "-n", &lab.namespace]);
    let (succeeded, _) = run(&lab, "build", "true", "exit 1", &[("authorized-keys", &lab.public_key), ("wait", "30s")]).await;
    assert_eq!(succeeded, "False");
    let (_, log) = door(&lab, "build").await;
    assert!(log.contains("is not open") && log.contains("sandglass-source-reader") && log.contains("kubectl describe"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_may_create_and_read_sessions_and_nothing_else() {
    let lab = Lab::shared("tekton-rights").await;
    install(&lab);
    let account = format!("system:serviceaccount:{}:sandglass-debug", lab.namespace);
    let rights = || kubectl(&["auth", "can-i", "--list", "--no-headers", "-n", &lab.namespace, "--as", &account]);
    eventually("the binding to be known", 30, async || rights().contains("debugsessions")).await;
    let list = rights();
    let ours: Vec<&str> = list.lines().filter(|line| !line.contains("selfsubject") && !line.trim_start().starts_with('[')).collect();
    assert_eq!(ours.len(), 1, "{list}");
    assert!(ours[0].starts_with("debugsessions.sandglass.dev") && ours[0].trim_end().ends_with("[create get]"), "{list}");
    let elsewhere = kubectl(&["auth", "can-i", "create", "debugsessions.sandglass.dev", "-n", "default", "--as", &account]);
    assert!(elsewhere.contains("no"), "{elsewhere}");
}

/// Tekton deletes the pod of a run that took too long; what it was made of stands in the TaskRun. Of several failed tasks the
/// first counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_took_too_long_is_a_source_too() {
    let lab = Lab::shared("tekton-timeout").await;
    install(&lab);
    let step = |name: &str, command: &str| {
        json!({ "name": name, "taskSpec": { "steps": [{ "name": "work", "image": BUILD_IMAGE, "command": ["bash", "-c", command],
            "workingDir": "/workspace", "env": [{ "name": "TASK", "value": name }, { "name": "FOR", "value": "$(context.taskRun.namespace)" }] }] } })
    };
    let mut slow = step("slow", "sleep 600");
    slow["timeout"] = json!("25s");
    let spec = json!({ "pipelineSpec": { "tasks": [slow] } });
    create(&lab, "PipelineRun", "late", spec).await;
    assert_eq!(ended(&lab, "PipelineRun", "late").await.0, "False");
    let session = lab.open("late", json!({ "source": { "pipelineRun": { "name": "late" } } })).await;
    assert_eq!(lab.run(&session, "echo $TASK $FOR; pwd").await, format!("slow {}\n/workspace", lab.namespace));
    lab.change("late", json!({ "end": true })).await.expect("ended");
    lab.until_ended("late", 30).await;

    let spec = json!({ "pipelineSpec": { "tasks": [step("first", "exit 1"), step("second", "sleep 20; exit 1")] } });
    create(&lab, "PipelineRun", "two", spec).await;
    assert_eq!(ended(&lab, "PipelineRun", "two").await.0, "False");
    let session = lab.open("two", json!({ "source": { "pipelineRun": { "name": "two" } } })).await;
    assert!(is_open(&session));
    assert_eq!(lab.run(&session, "echo $TASK").await, "first");
}
