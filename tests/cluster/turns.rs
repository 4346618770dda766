//! One live session per project; the others wait their turn.

use super::harness::{Lab, eventually, text};
use super::reading::{end_reason, is_true, open_message, status};
use sandglass::api::session::Phase;
use serde_json::json;
use std::process::Stdio;

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_one_project_take_turns() {
    let lab = Lab::shared("turns").await;
    let first = lab.open("first", json!({})).await;
    lab.session("second", json!({})).await;
    let waiting = lab.until_reason("second", "ProjectBusy").await;
    assert!(open_message(&waiting).contains("waiting for"), "{}", open_message(&waiting));
    assert!(open_message(&waiting).contains("first"), "{}", open_message(&waiting));
    assert_eq!((status(&waiting).phase, status(&waiting).pod), (Some(Phase::Waiting), None));
    assert!(!is_true(&waiting, "Stalled"), "nobody need do anything");
    // Another project does not wait.
    lab.open("other", json!({ "project": "backend" })).await;

    // Who logs in meanwhile sees why they wait, and lands in a shell when it is their turn.
    let told = lab.path("told");
    let mut client = lab.client_of("ssh", &waiting);
    client.args(["s", "echo landed"]).stdout(Stdio::piped()).stderr(std::fs::File::create(&told).expect("created"));
    let client = client.spawn().expect("ssh");
    let busy = async || std::fs::read_to_string(&told).expect("read").contains("waiting: ProjectBusy");
    eventually("the user to be told why", 30, busy).await;
    lab.change("first", json!({ "end": true })).await.expect("ended");
    let second = lab.until_open("second").await;
    let output = client.wait_with_output().await.expect("ssh");
    assert_eq!(text(&output.stdout), "landed\n", "{output:?}");
    assert_eq!(end_reason(&lab.until_ended("first", 15).await), "EndRequested");
    assert!(lab.pod(&first).await.is_none(), "the first one's pod went before the second one's came");
    assert_ne!(status(&first).pod, status(&second).pod);
}
