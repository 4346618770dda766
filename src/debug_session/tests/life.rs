//! A session from its creation to its tombstone.

use chrono::TimeDelta;
use serde_json::json;

use super::world::{BOX, GROUP, SESSIONS, World, session};

#[tokio::test]
pub(super) async fn from_creation_to_tombstone() {
    let mut world = World::new();
    world.create("build-42");
    world.round().await.expect("a pass");
    assert_eq!(world.condition("build-42", "Ready"), "False/Scheduling");
    assert_eq!(world.status("build-42")["phase"], "Starting");
    assert_eq!(world.status("build-42")["observedGeneration"], 1);
    assert_eq!(world.status("build-42")["connection"]["command"], "ssh -p 2222 ci.build-42@debug.example.com");
    assert_eq!(world.status("build-42")["connection"]["knownHosts"], json!(["[debug.example.com]:2222 ssh-ed25519 AAAAhost"]));
    world.run_pod();
    world.settle().await;
    assert_eq!(world.condition("build-42", "Open"), "False/Starting");
    world.link("build-42", "Ready");
    world.settle().await;
    assert_eq!(world.condition("build-42", "Open"), "True/SessionOpen");
    assert_eq!(world.condition("build-42", "Ready"), "True/SessionOpen");
    assert!(world.status("build-42")["image"].as_str().is_some_and(|image| image.contains("@sha256:777")));

    world.advance(TimeDelta::minutes(30));
    world.round().await.expect("a pass");
    assert_eq!(world.condition("build-42", "Ready"), "False/Terminating");
    assert_eq!(world.condition("build-42", "Open"), "False/Expired");
    assert_eq!(world.pods().len(), 1, "first the condition, then the deletion");
    world.round().await.expect("a pass");
    assert!(world.pods().is_empty());
    world.settle().await;
    let status = world.status("build-42");
    assert_eq!(world.condition("build-42", "Ready"), "True/Expired");
    assert_eq!((&status["phase"], &status["endReason"]), (&json!("Ended"), &json!("Expired")));
    assert_eq!(status["endedAt"], status["expiresAt"]);
    assert!(status["connection"].is_null() && status["link"].is_object(), "what gateways wrote stays");
    assert_eq!(world.fake.pods_created(), 1);
}

#[tokio::test]
pub(super) async fn the_end_can_be_asked_for() {
    let mut world = World::new();
    world.create("s");
    world.open("s").await;
    let mut object = world.object("s");
    object["spec"]["end"] = json!(true);
    object["metadata"]["generation"] = json!(2);
    world.fake.put(GROUP, SESSIONS, object);
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "True/EndRequested");
    assert_eq!(world.status("s")["observedGeneration"], 2);
    assert!(world.pods().is_empty());
}

#[tokio::test]
pub(super) async fn ended_stays_ended() {
    let mut world = World::new();
    world.create("s");
    world.open("s").await;
    let pod = world.pods().pop().expect("a pod");
    world.fake.remove("", "pods", BOX, pod["metadata"]["name"].as_str().expect("a name"));
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "True/PodGone");
    // Whatever happens now: time passes, the process starts again, somebody makes a pod of that name.
    world.advance(TimeDelta::hours(3));
    world.restart();
    world.settle().await;
    assert_eq!(world.status("s")["endReason"], "PodGone");
    assert_eq!(world.fake.pods_created(), 1);
}

#[tokio::test]
pub(super) async fn a_deletion_that_takes_time_is_waited_for() {
    let mut world = World::new();
    world.fake.delete_gracefully();
    world.create("s");
    world.open("s").await;
    world.advance(TimeDelta::minutes(31));
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "False/Terminating");
    let pod = world.pods().pop().expect("still there");
    world.fake.remove("", "pods", BOX, pod["metadata"]["name"].as_str().expect("a name"));
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "True/Expired");
}

#[tokio::test]
pub(super) async fn a_restored_backup_opens_nothing() {
    let mut world = World::new();
    let until = world.fake.now() + TimeDelta::minutes(10);
    let not_after = json!({ "notAfter": until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true) });
    world.create_with("s", &not_after);
    world.open("s").await;
    world.advance(TimeDelta::minutes(10));
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "True/Expired");
    // The backup brings it back: a new UID, a new creation, no status.
    world.fake.remove(GROUP, SESSIONS, "ci", "s");
    world.create_with("s", &not_after);
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "True/Expired");
    assert_eq!(world.fake.pods_created(), 1);
}

#[tokio::test]
pub(super) async fn an_object_created_again_has_its_own_pod() {
    let mut world = World::new();
    world.create("s");
    world.open("s").await;
    let first = world.pods().pop().expect("a pod");
    world.fake.remove(GROUP, SESSIONS, "ci", "s");
    world.create("s");
    world.settle().await;
    assert_eq!(world.condition("s", "Open"), "False/ProjectBusy", "the first one's pod still stands");
    world.sync();
    assert_eq!(crate::lifecycle::orphans::collect(&world.context().base).await.expect("a pass"), 1);
    world.settle().await;
    let second = world.pods().pop().expect("a pod");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    assert_eq!(world.status("s")["pod"]["uid"], second["metadata"]["uid"]);
}

#[tokio::test]
pub(super) async fn a_deleted_object_takes_its_pod_with_it_and_leaves_others_alone() {
    let mut world = World::new();
    world.create("s");
    world.open("s").await;
    world.create_with("t", &json!({ "project": "other" }));
    world.settle().await;
    world.fake.remove(GROUP, SESSIONS, "ci", "s");
    world.sync();
    assert_eq!(crate::lifecycle::orphans::collect(&world.context().base).await.expect("a pass"), 1);
    assert_eq!(crate::lifecycle::orphans::collect(&world.context().base).await.expect("a pass"), 0);
    assert_eq!(world.pods().len(), 1);
}

#[tokio::test]
pub(super) async fn sessions_of_a_project_take_turns() {
    let mut world = World::new();
    world.create("first");
    world.advance(TimeDelta::seconds(1));
    world.create("second");
    world.create_with("other", &json!({ "project": "other" }));
    world.settle().await;
    assert_eq!(world.condition("second", "Open"), "False/ProjectBusy");
    assert!(world.message("second").contains("ci/first"));
    assert_eq!(world.status("second")["phase"], "Waiting");
    assert_eq!(world.pods().len(), 2, "another project does not wait");
    let mut object = world.object("first");
    object["spec"]["end"] = json!(true);
    world.fake.put(GROUP, SESSIONS, object);
    world.settle().await;
    assert_eq!(world.condition("second", "Open"), "False/Scheduling");
    // Waiting counts against its own time.
    assert_eq!(world.status("second")["expiresAt"], "2027-01-15T08:30:01Z");
}

#[tokio::test]
pub(super) async fn an_ended_object_may_be_removed_after_a_while() {
    let mut world = World::new();
    world.create_with("s", &json!({ "retention": "Delete", "deleteAfter": "5m" }));
    world.open("s").await;
    world.advance(TimeDelta::minutes(34));
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "True/Expired");
    world.advance(TimeDelta::minutes(1));
    world.settle().await;
    assert!(world.fake.get(GROUP, SESSIONS, "ci", "s").is_none());
}

#[tokio::test]
pub(super) async fn an_object_being_deleted_ends() {
    let mut world = World::new();
    world.create("s");
    world.open("s").await;
    let mut object = world.object("s");
    object["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:01:00Z");
    object["metadata"]["finalizers"] = json!(["example.com/another-tool"]);
    world.fake.put(GROUP, SESSIONS, object);
    world.settle().await;
    assert_eq!(world.condition("s", "Ready"), "True/Deleted");
    assert!(world.pods().is_empty());
}

#[tokio::test]
async fn a_session_that_never_had_a_pod_ends_in_one_pass() {
    let mut world = World::new();
    let mut object = session("s");
    object["metadata"]["creationTimestamp"] = json!("2026-12-31T00:00:00Z");
    world.fake.put(GROUP, SESSIONS, object);
    world.round().await.expect("a pass");
    assert_eq!(world.condition("s", "Ready"), "True/Expired");
    assert_eq!(world.fake.writes(), 1);
}

#[tokio::test]
pub(super) async fn an_end_that_is_asked_for_after_the_end_is_observed_and_changes_nothing() {
    let mut world = World::new();
    world.create("s");
    world.open("s").await;
    world.advance(TimeDelta::minutes(30));
    world.settle().await;
    let before = world.status("s");
    let mut object = world.object("s");
    object["spec"]["end"] = json!(true);
    object["metadata"]["generation"] = json!(2);
    world.fake.put(GROUP, SESSIONS, object);
    let written = world.fake.writes();
    world.settle().await;
    let after = world.status("s");
    assert_eq!((&after["observedGeneration"], world.condition("s", "Ready").as_str()), (&json!(2), "True/Expired"));
    assert_eq!((&after["endedAt"], &after["endReason"]), (&before["endedAt"], &before["endReason"]));
    assert_eq!((world.pods().len(), world.fake.writes()), (0, written + 1), "one write, and it is a tombstone again");
}
