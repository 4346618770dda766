//! Recordings on the real cluster, in its real S3 server, read back by the program itself.

use super::harness::{Lab, SYSTEM, eventually, text};
use super::reading::status;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::process::Output;
use tokio::process::Command;

/// `sandglass recordings`, as an administrator with the store's keys would call it.
pub async fn recordings(lab: &Lab, arguments: &[&str]) -> Output {
    let keys: Secret = lab.api_in(SYSTEM).get("sandglass-recording-store").await.expect("the store's keys");
    let key = |name: &str| text(&keys.data.as_ref().expect("data")[name].0);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandglass"));
    command.args(["recordings", "--store", "s3://recordings/e2e", "--endpoint", "http://10.244.0.1:8333"]).args(arguments);
    command.env("AWS_ACCESS_KEY_ID", key("access-key-id")).env("AWS_SECRET_ACCESS_KEY", key("secret-access-key"));
    command.output().await.expect("sandglass")
}

/// What lies in a folder of the store: names and sizes.
pub async fn objects(lab: &Lab, folder: &str) -> Vec<(String, u64)> {
    let keys: Secret = lab.api_in(SYSTEM).get("sandglass-recording-store").await.expect("the store's keys");
    for name in ["access-key-id", "secret-access-key"] {
        std::fs::write(lab.path(name), &keys.data.as_ref().expect("data")[name].0).expect("written");
    }
    let store =
        json!({ "s3": { "bucket": "recordings", "endpoint": "http://10.244.0.1:8333", "allowHttp": true, "credentials": lab.path("") } });
    let store = sandglass::store::open(&serde_json::from_value(store).expect("a store")).expect("a bucket");
    store.list(folder).await.expect("listed").into_iter().map(|entry| (entry.name, entry.size)).collect()
}

/// The audit events of all recordings of this test, that are closed.
pub async fn audit(lab: &Lab) -> String {
    let mut events = String::new();
    for recording in list(lab, &[]).await {
        if recording["state"] == "Running" {
            continue;
        }
        let id = recording["recording"].as_str().unwrap_or_default();
        events += &text(&recordings(lab, &["export", id, "--format", "audit"]).await.stdout);
    }
    events
}

/// What `recordings list` says of this test, as JSON.
pub async fn list(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let output = recordings(lab, &[&["list", "--output", "json", "--namespace", &lab.namespace], arguments].concat()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// `recordings verify` with the installation's key.
pub async fn verify(lab: &Lab, recording: &str) -> Output {
    let public: ConfigMap = lab.api_in(SYSTEM).get("sandglass-public").await.expect("the public keys");
    let file = lab.path("recording_ed25519_key.pub");
    std::fs::write(&file, &public.data.expect("data")["recording_ed25519_key.pub"]).expect("written");
    recordings(lab, &["verify", recording, "--key", &file.display().to_string()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_recorded_announced_and_verified() {
    let lab = Lab::shared("recording").await;
    let session = lab.open("s", json!({ "build": { "commit": "0a1b2c3", "pullRequest": "17" } })).await;
    assert_eq!(lab.run(&session, "echo seen by the user").await, "seen by the user");
    let reported =
        lab.until("s", 45, "told of the recording", |session| status(session).connections.iter().any(|one| one.recording.is_some())).await;
    let connection = status(&reported).connections.pop().expect("a connection");
    let address = connection.recording.expect("an address");
    assert!(address.starts_with("s3://recordings/e2e/") && address.ends_with(&connection.id), "{address}");
    let announced = async || {
        let events = lab.api::<Event>().list(&ListParams::default()).await.expect("events").items;
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("Recorded") && event.note.as_ref().is_some_and(|note| note.contains(&address)))
    };
    eventually("the event", 45, announced).await;
    let closed = async || list(&lab, &["--commit", "0a1b2c3"]).await.first().is_some_and(|one| one["state"] == "Complete");
    eventually("the closed recording", 45, closed).await;
    assert_eq!(list(&lab, &["--pull-request", "17", "--actor", "octocat", "--since", "1h"]).await.len(), 1);
    assert!(list(&lab, &["--commit", "other"]).await.is_empty());
    let verified = verify(&lab, &address).await;
    assert!(verified.status.success() && text(&verified.stdout).starts_with("complete"), "{verified:?}");
    let exported = recordings(&lab, &["export", &connection.id, "--format", "text"]).await;
    assert_eq!(text(&exported.stdout), "seen by the user\n", "{}", text(&exported.stderr));
}

/// A GET of the gateway's web page, as the ingress on the node would send it.
async fn page(lab: &Lab, path: &str, who: Option<&str>) -> String {
    let replicas = ListParams::default().labels("app.kubernetes.io/component=gateway");
    let pods = lab.api_in::<Pod>(SYSTEM).list(&replicas).await.expect("listed").items;
    let address = pods.iter().find_map(|pod| pod.status.as_ref()?.pod_ip.clone()).expect("a gateway");
    let mut command = Command::new("curl");
    command.args(["-sS", "-m", "20", "-w", "%{http_code}", &format!("http://{address}:8080{path}")]);
    if let Some(who) = who {
        command.args(["-H", &format!("X-Forwarded-User: {who}")]);
    }
    text(&command.output().await.expect("curl").stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_sessions_and_recordings_to_whom_the_ingress_knows() {
    let lab = Lab::shared("page").await;
    let session = lab.open("s", json!({})).await;
    assert_eq!(lab.run(&session, "echo on the page").await, "on the page");
    assert!(page(&lab, "/", None).await.ends_with("403"), "without an identity");
    let sessions = page(&lab, "/", Some("alice")).await;
    assert!(sessions.contains(&lab.namespace) && sessions.contains("Open") && sessions.ends_with("200"), "{sessions}");
    let closed = async || list(&lab, &[]).await.first().is_some_and(|one| one["state"] == "Complete");
    eventually("the closed recording", 45, closed).await;
    let found = page(&lab, &format!("/recordings?namespace={}", lab.namespace), Some("alice")).await;
    let name = list(&lab, &[]).await[0]["recording"].as_str().expect("a name").to_owned();
    assert!(found.contains(&name) && found.ends_with("200"), "{found}");
    let detail = page(&lab, &format!("/recordings/{name}"), Some("alice")).await;
    assert!(detail.contains("chunks are as they were written and signed"), "{detail}");
    let channel = detail.split("/channel-").nth(1).and_then(|rest| rest.split('.').next()).expect("a channel").to_owned();
    let cast = page(&lab, &format!("/recordings/{name}/channel-{channel}.cast"), Some("alice")).await;
    assert!(cast.contains(r#""on the page\r\n""#), "{cast}");
}
