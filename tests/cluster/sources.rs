//! What a session takes of a failed build, and what it must never take: the demo's path with canaries.

use super::harness::{DEBUG, Lab, SYSTEM, eventually, kubectl, random};
use super::node::{self, on_the_node, read};
use super::reading::{status, uid};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use sandglass::api::DebugSession;
use serde_json::{Value, json};

/// Secrets of a build. None may arrive anywhere.
struct Canaries(Vec<String>);

impl Canaries {
    fn new() -> Self {
        Self(Vec::new())
    }

    /// Another one; `prefix` makes it look like a token of a known kind.
    fn add(&mut self, prefix: &str) -> String {
        let canary = format!("{prefix}{}", random(36));
        self.0.push(canary.clone());
        canary
    }

    fn assert_none_in(&self, what: &str, text: &str) {
        let base64 = |canary: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, canary);
        for canary in &self.0 {
            let found = text.contains(canary.as_str()) || text.contains(&base64(canary));
            assert!(!found, "a secret of the build is in {what}");
        }
    }
}

async fn let_the_controller_read_builds(lab: &Lab) {
    lab.create::<RoleBinding>(json!({
        "metadata": { "name": "sandglass-source-reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sandglass-source-reader" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": SYSTEM, "name": "sandglass-controller" }],
    }))
    .await;
}

/// A build with a secret in every place where builds have them.
async fn failing_build(lab: &Lab, canaries: &mut Canaries) -> Value {
    lab.create::<Secret>(json!({
        "metadata": { "name": "ci-secrets" },
        "stringData": { "NPM_AUTH": canaries.add("canary-"), "DATABASE_URL": canaries.add("canary-"), "id_rsa": canaries.add("canary-") },
    }))
    .await;
    lab.create::<ConfigMap>(json!({ "metadata": { "name": "ci-settings" }, "data": { "REGISTRY": canaries.add("canary-") } })).await;
    lab.create::<ServiceAccount>(json!({ "metadata": { "name": "builder" } })).await;
    json!({
        "metadata": {
            "labels": { "build": "42" },
            "annotations": { "ci.example.com/token": canaries.add("canary-") },
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "serviceAccountName": "builder",
            "volumes": [
                { "name": "secrets", "secret": { "secretName": "ci-secrets" } },
                { "name": "settings", "configMap": { "name": "ci-settings" } },
            ],
            "initContainers": [{
                "name": "fetch", "image": "local.test/ci-build:1", "command": ["true"],
                "env": [{ "name": "CLONE_URL", "value": format!("https://octocat:{}@git.example.com/x", canaries.add("canary-")) }],
            }],
            "containers": [{
                "name": "build",
                "image": "local.test/ci-build:1",
                "workingDir": "/workspace/tests",
                "command": ["/workspace/build.sh"],
                "args": ["--password", canaries.add("canary-")],
                "env": [
                    { "name": "BUILD_CAUSE", "value": "pull-request-17" },
                    { "name": "PRICE", "value": "$(HOME) 5$" },
                    { "name": "DEPLOY_TOKEN", "value": canaries.add("canary-") },
                    { "name": "UPLOAD_AS", "value": canaries.add("ghp_") },
                    { "name": "MIRROR", "value": format!("https://ci:{}@mirror.example.com/", canaries.add("canary-")) },
                    { "name": "DATABASE_URL", "valueFrom": { "secretKeyRef": { "name": "ci-secrets", "key": "DATABASE_URL" } } },
                    { "name": "REGISTRY", "valueFrom": { "configMapKeyRef": { "name": "ci-settings", "key": "REGISTRY" } } },
                ],
                "envFrom": [{ "secretRef": { "name": "ci-secrets" } }, { "configMapRef": { "name": "ci-settings" } }],
                "volumeMounts": [
                    { "name": "secrets", "mountPath": "/secrets" },
                    { "name": "settings", "mountPath": "/settings" },
                ],
            }],
        },
    })
}

const STRIPPED: [&str; 7] =
    ["DATABASE_URL", "DEPLOY_TOKEN", "MIRROR", "REGISTRY", "UPLOAD_AS", "envFrom:configmap/ci-settings", "envFrom:secret/ci-secrets"];

/// Looks wherever a secret could have gone.
async fn assert_clean(lab: &Lab, session: &DebugSession, canaries: &Canaries) {
    let seen = lab
        .run(
            session,
            "env; for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; tr '\\0' '\\n' < $p/cmdline; cat $p/mountinfo; done 2>/dev/null; \
             grep -rIs 'canary-\\|ghp_' / --exclude-dir=proc --exclude-dir=sys; ls -d /secrets /settings 2>&1; true",
        )
        .await;
    assert!(seen.contains("BUILD_CAUSE=pull-request-17"), "{seen}");
    canaries.assert_none_in("the session", &seen);
    assert_eq!(session.status.as_ref().expect("a status").stripped_env, STRIPPED);
    let pod = status(session).pod.expect("a pod");
    if on_the_node() {
        for process in node::processes_of(&pod.uid) {
            canaries.assert_none_in("a process of the pod", &(read(format!("/proc/{}/environ", process.id)) + &process.command));
        }
    }
    for (what, arguments) in [
        ("the session's pod", &["get", "pod", &pod.name, "-n", DEBUG, "-o", "json", "--show-managed-fields"][..]),
        ("the session", &["get", "debugsessions", "-n", &lab.namespace, "-o", "json", "--show-managed-fields"]),
        ("the session's events", &["get", "events", "-n", &lab.namespace, "-o", "json"]),
        ("the pod's events", &["get", "events", "-n", DEBUG, "-o", "json"]),
        ("the controller's log", &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=controller", "--tail=-1"]),
        ("the gateway's log", &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=gateway", "--tail=-1"]),
        ("the agent's log", &["logs", "-n", DEBUG, &pod.name]),
    ] {
        let text = kubectl(arguments);
        assert!(!text.contains("Error from server"), "{what}: {text}");
        canaries.assert_none_in(what, &text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_without_its_secrets() {
    let lab = Lab::shared("job").await;
    let mut canaries = Canaries::new();
    let template = failing_build(&lab, &mut canaries).await;
    // Before the controller may read it, the session says what to do, and goes on by itself when that is done.
    lab.create::<Job>(json!({ "metadata": { "name": "build-42" }, "spec": { "backoffLimit": 0, "template": template } })).await;
    let failed = async || lab.api::<Job>().get("build-42").await.expect("a Job").status.is_some_and(|status| status.failed == Some(1));
    eventually("the Job's failure", 40, failed).await;
    lab.session("s", json!({ "source": { "job": { "name": "build-42" } }, "env": [{ "name": "EXTRA", "value": "given" }] })).await;
    let held = lab.until_reason("s", "SourceForbidden").await;
    let message = super::reading::condition(&held, "Stalled").map(|stalled| stalled.message.clone()).unwrap_or_default();
    assert!(message.contains("bind the ClusterRole sandglass-source-reader"), "{message}");
    assert_eq!(status(&held).pod, None);
    let_the_controller_read_builds(&lab).await;
    let session = lab.until("s", 30, "open", super::reading::is_open).await;

    let image = session.status.as_ref().expect("a status").image.clone().expect("an image");
    let pod = lab.pod(&session).await.expect("a pod");
    assert!(image.starts_with("local.test/ci-build"), "{image}");
    let around = lab.run(&session, "cat /etc/os-release; pwd; id -u; echo \"$PRICE\"; echo $EXTRA; /workspace/build.sh; true").await;
    for line in ["ID=ci-build", "/workspace/tests", "0", "$(HOME) 5$", "given"] {
        assert!(around.lines().any(|shown| shown == line), "{line} is not in {around}");
    }
    assert!(around.contains("FAILED  greeting.txt"), "the same failure again: {around}");
    assert_clean(&lab, &session, &canaries).await;
    assert_eq!(pod.spec.expect("a spec").service_account_name.as_deref(), Some("sandglass-debug"), "never the build's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pod_without_its_secrets() {
    let lab = Lab::shared("pod").await;
    let_the_controller_read_builds(&lab).await;
    let mut canaries = Canaries::new();
    let mut build = failing_build(&lab, &mut canaries).await;
    build["metadata"]["name"] = "runner-x".into();
    let runner: Pod = lab.create(build).await;
    let failed = async || {
        let pod = lab.api::<Pod>().get(&runner.name_any()).await.expect("a pod");
        pod.status.and_then(|status| status.phase).as_deref() == Some("Failed")
    };
    eventually("the build's failure", 40, failed).await;
    let session = lab.open("s", json!({ "source": { "pod": { "name": "runner-x", "container": "build" } } })).await;
    assert_eq!(lab.run(&session, "pwd").await, "/workspace/tests");
    assert_clean(&lab, &session, &canaries).await;

    // Of a container that did not fail nothing is taken.
    let other = json!({ "source": { "pod": { "name": "runner-x", "container": "fetch" } }, "project": "other" });
    lab.session("fetch", other).await;
    let held = lab.until_reason("fetch", "SourceNotFound").await;
    assert!(super::reading::open_message(&held).contains("its container fetch has not failed"), "{}", super::reading::open_message(&held));
    assert_eq!(lab.pod(&held).await.map(|pod| uid_of(&pod)), None);
    assert_ne!(uid(&held), uid(&session));
}

fn uid_of(pod: &Pod) -> String {
    pod.uid().unwrap_or_default()
}
