//! Everything that can go wrong with a session: each ends in its own reason, with the cure in the message.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::world::{BOX, World, settings};
use crate::domain::configuration::AgentDelivery;

fn pod(name: &str, namespace: &str, exit: i32) -> Value {
    json!({
        "metadata": { "name": name, "namespace": namespace, "labels": { "batch.kubernetes.io/job-name": "nightly" },
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "nightly", "uid": "job-uid" }] },
        "spec": { "containers": [{ "name": "job", "image": "registry.example.com/builds/go:1", "workingDir": "/workspace",
            "env": [{ "name": "CI", "value": "true" }, { "name": "NPM_TOKEN", "value": "x" },
                    { "name": "DSN", "value": "postgres://u:p@db" }, { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
            "envFrom": [{ "secretRef": { "name": "canary" } }] }] },
        "status": { "phase": if exit == 0 { "Succeeded" } else { "Failed" }, "containerStatuses": [
            { "name": "job", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": exit } } }] },
    })
}

#[tokio::test]
pub(super) async fn a_failed_pod_or_job_is_taken_without_its_secrets() {
    for source in [json!({ "pod": { "name": "runner" } }), json!({ "job": { "name": "nightly" } })] {
        let mut world = World::new();
        world.fake.put("", "pods", pod("runner", "ci", 1));
        world.fake.put("batch", "jobs", json!({ "metadata": { "name": "nightly", "namespace": "ci", "uid": "job-uid" } }));
        world.create_with("s", &json!({ "source": source, "env": [{ "name": "EXTRA", "value": "$(HOME) $x" }] }));
        world.settle().await;
        assert_eq!(world.status("s")["strippedEnv"], json!(["DSN", "NODE", "NPM_TOKEN", "envFrom:secret/canary"]));
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(world.pods().pop().expect("a pod")).expect("a pod");
        let agent = super::super::build::settings_of(&pod).expect("settings");
        assert_eq!(agent.environment, [("CI".into(), "true".into()), ("EXTRA".into(), "$(HOME) $x".into())]);
        assert_eq!(agent.working_directory.as_deref(), Some("/workspace"));
        let text = serde_json::to_string(&pod.spec).expect("JSON");
        assert!(!text.contains('$'), "the kubelet must find nothing to expand");
        assert!(!text.contains("postgres"));
    }
}

/// A TaskRun of the PipelineRun `nightly`, whose second step failed in the pod `run-pod`.
fn task_run(name: &str, pipeline: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "ci", "uid": format!("{name}-uid"), "labels": { "tekton.dev/pipelineRun": "nightly" },
            "ownerReferences": [{ "apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": "nightly", "uid": pipeline }] },
        "spec": {},
        "status": {
            "podName": "runner", "conditions": [{ "type": "Succeeded", "status": "False" }], "completionTime": "2026-01-01T00:00:00Z",
            "steps": [{ "name": "job", "container": "job", "imageID": "", "terminated": { "exitCode": 1 } }],
        },
    })
}

#[tokio::test]
pub(super) async fn the_failed_step_of_a_tekton_run_is_taken_as_a_failed_pod_is() {
    for source in [json!({ "taskRun": { "name": "run" } }), json!({ "pipelineRun": { "name": "nightly" } })] {
        let mut world = World::new();
        let mut pod = pod("runner", "ci", 1);
        pod["metadata"]["ownerReferences"][0]["uid"] = json!("run-uid");
        world.fake.put("", "pods", pod);
        world.fake.put(
            "tekton.dev",
            "pipelineruns",
            json!({ "metadata": { "name": "nightly", "namespace": "ci", "uid": "pipeline-uid" } }),
        );
        world.fake.put("tekton.dev", "taskruns", task_run("run", "pipeline-uid"));
        world.fake.put("tekton.dev", "taskruns", task_run("a-stranger", "of another"));
        world.create_with("s", &json!({ "source": source }));
        world.settle().await;
        assert_eq!(world.status("s")["strippedEnv"], json!(["DSN", "NODE", "NPM_TOKEN", "envFrom:secret/canary"]), "{source}");
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(world.pods().pop().expect("a pod")).expect("a pod");
        let agent = super::super::build::settings_of(&pod).expect("settings");
        assert_eq!(agent.environment, [("CI".into(), "true".into())]);
        assert_eq!(agent.working_directory.as_deref(), Some("/workspace"));
    }
}

#[tokio::test]
pub(super) async fn a_tekton_run_that_has_not_failed_is_said_to_be_so() {
    let mut world = World::new();
    world.create_with("s", &json!({ "source": { "pipelineRun": { "name": "nightly" } } }));
    world.settle().await;
    assert!(world.message("s").contains("there is no PipelineRun nightly"), "{}", world.message("s"));
    world.fake.put("tekton.dev", "pipelineruns", json!({ "metadata": { "name": "nightly", "namespace": "ci", "uid": "pipeline-uid" } }));
    world.settle().await;
    assert!(world.message("s").contains("the PipelineRun nightly has no failed TaskRun"), "{}", world.message("s"));
    assert_eq!(world.condition("s", "Stalled"), "True/SourceNotFound");
}

#[tokio::test]
pub(super) async fn a_source_that_cannot_be_used_stalls_with_a_clear_message_and_mends_itself() {
    let mut world = World::new();
    world.create_with("s", &json!({ "source": { "pod": { "name": "runner" } } }));
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "True/SourceNotFound");
    assert_eq!(world.status("s")["phase"], "Failed");
    assert!(world.message("s").contains("there is no pod runner"));
    world.fake.put("", "pods", pod("runner", "ci", 0));
    world.settle().await;
    assert!(world.message("s").contains("not a failed build"));
    world.fake.put("", "pods", pod("runner", "ci", 1));
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "");
    assert_eq!(world.condition("s", "Open"), "False/Scheduling");
}

#[tokio::test]
pub(super) async fn a_source_that_may_not_be_read_says_which_role_is_missing() {
    let mut world = World::new();
    world.fake.put("batch", "jobs", json!({ "metadata": { "name": "nightly", "namespace": "ci" } }));
    world.fake.forbid("get", "jobs");
    world.create_with("s", &json!({ "source": { "job": { "name": "nightly" } } }));
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "True/SourceForbidden");
    assert!(world.message("s").contains("sandglass-source-reader"));
}

#[tokio::test]
pub(super) async fn what_the_configuration_does_not_allow_is_refused() {
    let big: Vec<Value> = ["A", "B", "C"].iter().map(|name| json!({ "name": name, "value": "x".repeat(32000) })).collect();
    for (change, reason, words) in [
        (json!({ "source": { "image": "registry.example.com/other/x:1" } }), "ImageNotAllowed", "registry.example.com/other/x:1"),
        (json!({ "source": { "image": "alpine" } }), "ImageNotAllowed", "docker.io/library/alpine"),
        (json!({ "tools": { "image": "evil.example/tools" } }), "ImageNotAllowed", "spec.tools.image"),
        (json!({ "source": { "image": "registry.example.com/builds/../x" } }), "InvalidSpec", "spec.source"),
        (json!({ "resources": { "limits": { "memory": "64Gi" } } }), "InvalidSpec", "spec.resources.limits.memory"),
        (json!({ "resources": { "limits": { "cpu": "0" } } }), "InvalidSpec", "spec.resources.limits.cpu"),
        (json!({ "env": big }), "InvalidSpec", "spec.env"),
    ] {
        let mut world = World::new();
        world.create_with("s", &change);
        world.settle().await;
        assert_eq!(world.condition("s", "Stalled"), format!("True/{reason}"), "{}", world.message("s"));
        assert!(world.message("s").contains(words), "{}", world.message("s"));
        assert!(world.pods().is_empty());
        // At its end it is a tombstone like any other.
        world.advance(TimeDelta::minutes(31));
        world.settle().await;
        assert_eq!((world.condition("s", "Ready"), world.condition("s", "Stalled")), ("True/Expired".into(), String::new()));
    }
}

#[tokio::test]
pub(super) async fn admission_and_quota_speak_for_themselves() {
    let mut world = World::new();
    world.fake.refuse_pods(Some((403, "pods \"x\" is forbidden: exceeded quota: sessions, requested: pods=1")));
    world.create("s");
    world.settle().await;
    assert_eq!(world.condition("s", "Open"), "False/QuotaExceeded");
    assert_eq!(world.condition("s", "Stalled"), "", "it waits inside its own time");
    world.fake.refuse_pods(Some((403, "violates PodSecurity")));
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "True/PodRefused");
    assert!(world.message("s").contains("violates PodSecurity"));
    world.fake.refuse_pods(None);
    world.settle().await;
    assert_eq!(world.condition("s", "Open"), "False/Scheduling");
}

#[tokio::test]
pub(super) async fn nothing_opens_in_a_namespace_that_is_not_isolated() {
    let mut world = World::new();
    world.fake.remove("networking.k8s.io", "networkpolicies", BOX, "default-deny");
    world.create("s");
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "True/NamespaceNotIsolated");
    assert!(world.pods().is_empty());
    super::world::isolate(&world.fake);
    world.open("s").await;
    // Taken away under an open session, it ends: what it could reach is not known any more.
    world.fake.remove("networking.k8s.io", "networkpolicies", BOX, "default-deny");
    world.settle().await;
    assert_eq!(world.status("s")["endReason"], "NamespaceNotIsolated");
    assert!(world.pods().is_empty());
}

#[tokio::test]
pub(super) async fn an_agent_that_reaches_what_must_be_closed_ends_the_session() {
    let mut world = World::new();
    world.create("s");
    world.settle().await;
    world.run_pod();
    world.settle().await;
    world.link("s", "NotIsolated");
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "True/NetworkNotIsolated");
    assert!(world.message("s").contains("10.96.0.1:443"));
    assert!(world.pods().is_empty());
}

#[tokio::test]
pub(super) async fn another_pods_link_counts_for_nothing() {
    let mut world = World::new();
    world.create("s");
    world.settle().await;
    world.run_pod();
    let mut object = world.object("s");
    object["status"]["link"] = json!({ "podUid": "another", "state": "Ready" });
    world.fake.put(super::world::GROUP, super::world::SESSIONS, object);
    world.settle().await;
    assert_eq!(world.condition("s", "Open"), "False/Starting");
    world.advance(TimeDelta::seconds(61));
    world.settle().await;
    assert_eq!(world.condition("s", "Open"), "False/LinkFailed");
    assert_eq!(world.pods().len(), 1, "the gateway may come back");
}

/// Status of the pod, what comes of it, and a word of the cure.
fn pod_ends() -> Vec<(Value, &'static str, &'static str)> {
    let terminated = |reason: &str, exit: i32, message: &str| {
        json!({ "phase": "Failed", "containerStatuses": [{ "name": "session", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "reason": reason, "exitCode": exit, "message": message } } }] })
    };
    let disrupted =
        |reason: &str| json!({ "phase": "Running", "conditions": [{ "type": "DisruptionTarget", "status": "True", "reason": reason }] });
    vec![
        (terminated("OOMKilled", 137, ""), "OutOfMemory", "limits.memory"),
        (terminated("Error", 3, "agent: no gateway"), "PodFailed", "agent: no gateway"),
        (
            json!({ "phase": "Failed", "reason": "Evicted", "message": "Usage of EmptyDir volume \"run\" exceeds the limit" }),
            "Evicted",
            "ephemeral-storage",
        ),
        (json!({ "phase": "Failed", "reason": "DeadlineExceeded" }), "DeadlineExceeded", "kubelet"),
        (disrupted("PreemptionByScheduler"), "Preempted", "higher priority"),
        (disrupted("DeletionByTaintManager"), "Evicted", "evicted"),
        (json!({ "phase": "Failed", "reason": "NodeAffinity", "message": "does not fit" }), "PodFailed", "does not fit"),
        (
            terminated("StartError", 128, "exec: \"/.sandglass/bin/sandglass-agent\": stat: no such file or directory"),
            "ImageVolumeUnsupported",
            "InitContainer",
        ),
    ]
}

#[tokio::test]
pub(super) async fn the_ways_a_pod_ends_each_have_a_reason() {
    for (status, reason, words) in pod_ends() {
        let mut world = World::new();
        world.create("s");
        world.settle().await;
        world.pod_status(status);
        world.round().await.expect("a pass");
        assert_eq!(world.condition("s", "Open"), format!("False/{reason}"));
        assert_eq!(world.condition("s", "Ready"), "False/Terminating", "first the condition");
        assert!(world.message("s").contains(words), "{}", world.message("s"));
        world.settle().await;
        assert!(world.pods().is_empty());
        assert_eq!(world.status("s")["endReason"], reason);
    }
}

#[tokio::test]
pub(super) async fn pods_that_cannot_start_name_what_to_change() {
    let missing = "failed to pull and unpack image: not found";
    for (container, waiting, message, reason, words) in [
        ("session", "ErrImagePull", missing, "ImageRefused", "the session's image"),
        ("session", "ErrImageNeverPull", "registry.example.com/sandglass:1 is not present", "ImageRefused", "sessions.agentImage"),
        ("copy-tools", "ErrImagePull", missing, "ImageRefused", "spec.tools.image"),
        ("install-agent", "ImagePullBackOff", missing, "ImageRefused", "sessions.agentImage"),
        (
            "session",
            "CreateContainerError",
            "failed to generate spec: failed to mkdir \"\": mkdir : no such file",
            "ImageVolumeUnsupported",
            "InitContainer",
        ),
        ("session", "CreateContainerError", "failed to set up idmapped mount", "UserNamespacesUnsupported", "Restricted"),
    ] {
        let mut world = World::new();
        world.create("s");
        world.settle().await;
        world.pod_waits(container, waiting, message);
        world.settle().await;
        assert_eq!(world.condition("s", "Stalled"), format!("True/{reason}"), "{}", world.message("s"));
        assert!(world.message("s").contains(words) && world.message("s").contains(message), "{}", world.message("s"));
        assert!(world.pods().is_empty());
    }
}

#[tokio::test]
pub(super) async fn what_may_pass_is_waited_for_but_not_for_ever() {
    for (waiting, message, seconds, first, last) in [
        ("ErrImagePull", "i/o timeout", 31, "Pulling", "ImageRefused"),
        ("CreateContainerError", "context deadline exceeded", 21, "Starting", "ContainerRefused"),
    ] {
        let mut world = World::new();
        world.create("s");
        world.settle().await;
        world.pod_waits("session", waiting, message);
        world.settle().await;
        assert_eq!(world.condition("s", "Open"), format!("False/{first}"));
        world.advance(TimeDelta::seconds(seconds));
        world.settle().await;
        assert_eq!(world.condition("s", "Stalled"), format!("True/{last}"));
    }
}

#[tokio::test]
pub(super) async fn a_sandbox_that_cannot_be_made_is_read_from_the_events() {
    let mut world = World::new();
    world.create("s");
    world.settle().await;
    world.pod_status(json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "True" }] }));
    let uid = world.pods().pop().expect("a pod")["metadata"]["uid"].clone();
    let message = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
    let event = json!({ "metadata": { "name": "e", "namespace": BOX }, "involvedObject": { "uid": uid }, "reason": "FailedCreatePodSandBox", "message": message });
    world.fake.put("", "events", event);
    world.settle().await;
    assert_eq!(world.condition("s", "Open"), "False/Starting", "the events are not asked at once");
    world.advance(TimeDelta::seconds(4));
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "True/UserNamespacesUnsupported");
    assert!(world.message("s").contains("Restricted"));
}

#[tokio::test]
pub(super) async fn waiting_for_a_node_says_why() {
    let mut world = World::new();
    world.create("s");
    world.settle().await;
    world.pod_status(json!({ "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: insufficient memory" }] }));
    world.settle().await;
    assert_eq!(world.condition("s", "Open"), "False/Scheduling");
    assert!(world.message("s").contains("insufficient memory"));
}

#[tokio::test]
pub(super) async fn a_strangers_pod_is_never_touched() {
    let mut world = World::new();
    world.create("s");
    let uid = world.object("s")["metadata"]["uid"].as_str().expect("a UID").to_owned();
    let name = crate::domain::names::ObjectName { namespace: "ci".into(), name: "s".into() }.pod_name(&uid);
    world.fake.put("", "pods", json!({ "metadata": { "name": name, "namespace": BOX }, "spec": { "containers": [] } }));
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "True/PodRefused");
    world.advance(TimeDelta::hours(1));
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "True/Expired");
    assert_eq!(world.pods().len(), 1);
}

#[tokio::test]
async fn a_tools_copy_that_fails_is_told_apart() {
    let mut settings = settings();
    settings.configuration.sessions.agent = AgentDelivery::InitContainer;
    let mut world = World::with(settings);
    world.create_with("s", &json!({ "tools": { "image": "registry.example.com/builds/tools:1" } }));
    world.settle().await;
    world.pod_status(
        json!({ "phase": "Failed", "initContainerStatuses": [{ "name": "copy-tools", "image": "", "imageID": "", "ready": false,
        "restartCount": 0, "state": { "terminated": { "exitCode": 2, "message": "there is no /tools" } } }] }),
    );
    world.settle().await;
    assert_eq!(world.condition("s", "Stalled"), "True/ContainerRefused");
    assert!(world.message("s").contains("there is no /tools"));
}
