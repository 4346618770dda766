//! How sessions end: at their time, by hand, and never twice.

use super::census::Census;
use super::harness::{Lab, eventually};
use super::node::{self, on_the_node};
use super::reading::{assert_cut_in_time, condition, end_reason, has_ended, is_open, is_true, open_message, since, status, uid};
use chrono::{DurationRound, TimeDelta, Utc};
use kube::api::{Patch, PatchParams};
use sandglass::api::DebugSession;
use sandglass::api::session::Phase;
use serde_json::{Value, json};
use std::time::Duration;

fn assert_tombstone(session: &DebugSession, reason: &str) {
    assert_eq!((status(session).phase, end_reason(session).as_str()), (Some(Phase::Ended), reason));
    assert!(is_true(session, "Ready"), "{:?}", condition(session, "Ready"));
    assert_eq!(condition(session, "Open").map(|open| (open.status.as_str(), open.reason.as_str())), Some(("False", reason)));
    assert!(condition(session, "Stalled").is_none());
    assert!(status(session).connection.is_none(), "nobody should try to connect");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_comes_while_somebody_is_logged_in() {
    let lab = Lab::shared("expiry").await;
    let session = lab.open("s", json!({ "ttl": "1m" })).await;
    let expires_at = status(&session).expires_at.expect("an end");
    let created = session.metadata.creation_timestamp.clone().expect("created");
    assert_eq!(since(&created, sandglass::kubernetes::time::to_chrono(&expires_at)), TimeDelta::minutes(1));
    let mut login = lab.stay(&session, "exec sleep 600").await;
    let mut silent = lab.client_of("ssh", &session);
    let silent = silent.args(["s", "sleep 600"]).output();
    let (ended, silent) = tokio::join!(login.ended(75), silent);
    assert_cut_in_time(since(&expires_at, ended.1));
    assert_eq!(ended.0.code(), Some(124), "{}", login.seen());
    assert!(login.seen().contains("this session ends at"), "not told how long it lasts: {}", login.seen());
    assert_eq!(login.last_line(), "sandglass: the session has expired (Expired)", "{}", login.seen());
    let silent = silent.expect("ssh");
    assert_eq!(silent.status.code(), Some(124), "without a terminal it is the same");
    assert_eq!(super::harness::text(&silent.stderr).lines().next(), Some("sandglass: the session has expired (Expired)"));
    lab.until_no_pod(&session, 20).await;
    assert_tombstone(&lab.until_ended("s", 10).await, "Expired");
    let refusal = lab.refused_login(&session).await;
    assert!(refusal.contains("sandglass: the session has expired. It does not open again"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_delete_cuts_and_cleans() {
    let lab = Lab::shared("delete").await;
    let session = lab.open("s", json!({})).await;
    let mut login = lab.stay(&session, "exec sleep 600").await;
    let deleted_at = Utc::now();
    lab.delete("s").await;
    assert!(lab.api::<DebugSession>().get_opt("s").await.expect("asked").is_none(), "no finalizer holds it");
    let (code, at) = login.ended(15).await;
    assert!(at - deleted_at <= TimeDelta::seconds(5), "cut after {}", at - deleted_at);
    assert_eq!(code.code(), Some(124), "{}", login.seen());
    assert!(login.last_line().starts_with("sandglass: the session was deleted"), "{}", login.seen());
    lab.until_no_pod(&session, 15).await;
    let refusal = lab.refused_login(&session).await;
    assert!(refusal.contains("Permission denied (publickey)"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn end_cuts_once_and_for_all() {
    let lab = Lab::shared("end").await;
    let session = lab.open("s", json!({})).await;
    let mut login = lab.stay(&session, "exec sleep 600").await;
    let refused = |result: Result<DebugSession, kube::Error>, words: &str| match result {
        Err(kube::Error::Api(answer)) => assert!(answer.code == 422 && answer.message.contains(words), "{}", answer.message),
        other => panic!("must be refused: {other:?}"),
    };
    let another = sandglass::gateway::keys::new_ed25519().expect("key").public_key().to_openssh().expect("encoded");
    let change = lab.change("s", json!({ "access": { "authorizedKeys": [another] } })).await;
    refused(change, "spec.access is immutable: create another DebugSession instead");
    refused(lab.change("s", json!({ "ttl": "1h" })).await, "spec.ttl is immutable: create another DebugSession instead");
    assert!(login.goes_on());

    let ended_at = Utc::now();
    lab.change("s", json!({ "end": true })).await.expect("ended");
    let (code, at) = login.ended(15).await;
    assert!(at - ended_at <= TimeDelta::seconds(5), "cut after {}", at - ended_at);
    assert_eq!(code.code(), Some(124), "{}", login.seen());
    assert_eq!(login.last_line(), "sandglass: the session has ended: EndRequested (Ended)", "{}", login.seen());
    lab.until_no_pod(&session, 15).await;
    assert_tombstone(&lab.until_ended("s", 10).await, "EndRequested");
    refused(
        lab.change("s", json!({ "end": false })).await,
        "spec.end may only go from false to true: an ended session cannot be opened again",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_changes_nothing_about_the_end() {
    if !on_the_node() {
        return;
    }
    let lab = Lab::shared("stopped").await;
    let session = lab.open("s", json!({ "ttl": "1m" })).await;
    let expires_at = status(&session).expires_at.expect("an end");
    let mut login = lab.stay(&session, "exec sleep 600").await;
    let pod = status(&session).pod.expect("a pod");
    for process in node::processes_of(&pod.uid) {
        process.signal("STOP");
    }
    let agent = node::agent_of(&pod.uid);
    let state = super::node::read(format!("/proc/{}/stat", agent.id));
    assert!(state.contains(") T "), "the agent is stopped: {state}");
    let (code, at) = login.ended(75).await;
    assert_cut_in_time(since(&expires_at, at));
    assert_eq!(code.code(), Some(124), "{}", login.seen());
    let left = 30 - since(&expires_at, Utc::now()).num_seconds();
    lab.until_no_pod(&session, left.max(1).unsigned_abs()).await;
    assert!(node::processes_of(&pod.uid).is_empty(), "a process outlived the pod");
    assert_tombstone(&lab.until_ended("s", 10).await, "Expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_every_second_it_acts_once() {
    let lab = Lab::shared("reapplied").await;
    let census = Census::begin(&lab).await;
    let manifest = lab.manifest("s", json!({ "ttl": "1m" }));
    let apply = async |manager: &str| -> DebugSession {
        let parameters = PatchParams::apply(manager).force();
        lab.api().patch("s", &parameters, &Patch::Apply(&manifest)).await.expect("applied")
    };
    let first = apply("gitops").await;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut opened = false;
    let end = Utc::now() + TimeDelta::seconds(80);
    while Utc::now() < end {
        tick.tick().await;
        let now = Utc::now();
        let session = apply("gitops").await;
        assert_eq!(uid(&session), uid(&first), "it is the same object all the time");
        opened |= is_open(&session);
        if let Some(expires_at) = &status(&session).expires_at {
            let over = since(expires_at, now);
            assert!(over < TimeDelta::seconds(15) || has_ended(&session), "{over} over and {}", open_message(&session));
        }
    }
    assert!(opened, "it never opened");
    let session = lab.until_ended("s", 10).await;
    assert_tombstone(&session, "Expired");
    assert_eq!(census.pods_of(&session), 1, "pods ever");
    lab.until_no_pod(&session, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_not_after_nothing_opens() {
    let lab = Lab::shared("notafter").await;
    let census = Census::begin(&lab).await;
    let past = Value::from((Utc::now() - TimeDelta::minutes(1)).to_rfc3339());
    lab.session("late", json!({ "notAfter": past })).await;
    let late = lab.until_ended("late", 20).await;
    assert_tombstone(&late, "Expired");
    assert_eq!(status(&late).pod, None);

    // The earlier of both decides: seconds from now, although the TTL says minutes.
    let soon = (Utc::now() + TimeDelta::seconds(20)).duration_trunc(TimeDelta::seconds(1)).expect("in range");
    let session = lab.open("soon", json!({ "notAfter": soon.to_rfc3339() })).await;
    let mut login = lab.stay(&session, "exec sleep 600").await;
    let (code, at) = login.ended(40).await;
    assert_eq!(code.code(), Some(124), "{}", login.seen());
    assert_cut_in_time(at - soon);
    assert_tombstone(&lab.until_ended("soon", 20).await, "Expired");
    // Every pass that could have made a pod is over by then.
    eventually("both counted", 1, async || census.pods_of(&session) == 1).await;
    assert_eq!(census.pods_of(&late), 0, "pods ever");
}
