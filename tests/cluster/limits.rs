//! Limits of a session: what happens to those who go over them, and what they are told.

use super::harness::{DEBUG, Lab};
use super::node::{self, on_the_node};
use super::reading::{condition, end_reason, is_true, open_message, status};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory() {
    let lab = Lab::shared("memory").await;
    let session = lab.open("s", json!({})).await;
    let pod = status(&session).pod.expect("a pod");
    let eat = "head -c 400M /dev/zero | tail -c 400M | wc -c";
    // The kernel takes the largest process: the session goes on.
    let eaten = lab.ssh(&session, eat).await;
    assert_ne!(super::harness::text(&eaten.stdout).trim(), "419430400", "400 MB fit in 128 MiB");
    assert_eq!(lab.run(&session, "echo here").await, "here");
    assert!(super::reading::is_open(&lab.get("s").await));
    if !on_the_node() {
        return;
    }
    // If it takes the agent, the session is over, and says why.
    let mut login = lab.stay(&session, &format!("read go; {eat}; exec sleep 600")).await;
    let agent = node::agent_of(&pod.uid);
    for process in node::processes_of(&pod.uid) {
        process.offer_to_the_oom_killer(if process.id == agent.id { 1000 } else { 0 });
    }
    login.type_in("go\n").await;
    let (cut, _) = login.ended(30).await;
    assert_ne!(cut.code(), Some(0), "{}", login.seen());
    let ended = lab.until_ended("s", 30).await;
    assert_eq!(end_reason(&ended), "OutOfMemory", "{}", open_message(&ended));
    let message = "OutOfMemory: the session went over its memory limit: raise spec.resources.limits.memory in a new DebugSession";
    assert_eq!(open_message(&ended), message);
    lab.until_no_pod(&ended, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_storage() {
    let lab = Lab::shared("storage").await;
    let limits = json!({ "cpu": "500m", "memory": "128Mi", "ephemeral-storage": "32Mi" });
    let session = lab.open("s", json!({ "resources": { "limits": limits } })).await;
    // It may be cut in the middle.
    let _ = lab.ssh(&session, "head -c 100M /dev/zero > /var/tmp/big; sync").await;
    let ended = lab.until_ended("s", 90).await;
    assert_eq!(end_reason(&ended), "Evicted", "{}", open_message(&ended));
    assert!(open_message(&ended).contains("raise spec.resources.limits.ephemeral-storage"), "{}", open_message(&ended));
    assert!(condition(&ended, "Stalled").is_none() && is_true(&ended, "Ready"));
    lab.until_no_pod(&ended, 10).await;
    let left = super::harness::kubectl(&["get", "pods", "-n", DEBUG, "-o", "name"]);
    assert!(!left.contains(&status(&session).pod.expect("a pod").name), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_installation_allows() {
    let lab = Lab::shared("maximum").await;
    lab.session("s", json!({ "resources": { "limits": { "memory": "64Gi" } } })).await;
    let held = lab.until_reason("s", "InvalidSpec").await;
    assert!(
        open_message(&held).contains("spec.resources.limits.memory: 64Gi is above the installation's maximum, 16Gi"),
        "{}",
        open_message(&held)
    );
    assert!(is_true(&held, "Stalled"));
    assert_eq!(status(&held).pod, None);
    // The cap of the installation, told by the API server itself.
    let manifest = lab.manifest("t", json!({ "ttl": "2h" }));
    let session: sandglass::api::DebugSession = serde_json::from_value(manifest).expect("a session");
    let refused = lab.api::<sandglass::api::DebugSession>().create(&kube::api::PostParams::default(), &session).await;
    let message = refused.expect_err("must be refused").to_string();
    assert!(message.contains("spec.ttl is 2h, and this installation allows at most 1h: ask for less"), "{message}");
}
