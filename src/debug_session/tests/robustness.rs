//! Quiescence, crashes at every call, stale caches, and two sessions that start at once.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::world::{BOX, GROUP, SESSIONS, World};
use crate::lifecycle::fake::Crash;

/// What happens to a session in its life; what the controller makes of it must not depend on where it was interrupted.
async fn life(world: &mut World) {
    world.create("s");
    world.settle().await;
    world.run_pod();
    world.settle().await;
    world.link("s", "Ready");
    world.settle().await;
    world.advance(TimeDelta::minutes(30));
    world.settle().await;
}

/// A life that ends because the pod does.
async fn short_life(world: &mut World) {
    world.create("s");
    world.settle().await;
    world.pod_waits("session", "InvalidImageName", "bad");
    world.settle().await;
}

async fn end_of(scenario: usize, world: &mut World) -> Value {
    if scenario == 0 {
        life(world).await;
    } else {
        short_life(world).await;
    }
    world.status("s")
}

#[tokio::test]
pub(super) async fn a_crash_anywhere_changes_nothing() {
    for scenario in [0, 1] {
        let mut clean = World::new();
        let expected = end_of(scenario, &mut clean).await;
        let calls = clean.fake.calls().len();
        assert!(calls > 10, "{calls}");
        for crash in [Crash::Before, Crash::After] {
            for call in 1..=calls {
                let mut world = World::new();
                world.fake.crash_at(call, crash);
                let end = end_of(scenario, &mut world).await;
                assert_eq!(end, expected, "crash {crash:?} at call {call}");
                assert_eq!(world.fake.pods_created(), 1, "crash {crash:?} at call {call}");
                assert!(world.pods().is_empty());
            }
        }
    }
}

#[tokio::test]
pub(super) async fn its_own_output_gives_it_nothing_to_do() {
    let mut world = World::new();
    world.create("s");
    let quiet = async |world: &mut World| {
        let before = world.fake.writes();
        world.restart();
        world.round().await.expect("a pass");
        world.round().await.expect("a pass");
        assert_eq!(world.fake.writes(), before);
    };
    world.settle().await;
    quiet(&mut world).await;
    world.run_pod();
    world.settle().await;
    quiet(&mut world).await;
    world.link("s", "Ready");
    world.settle().await;
    quiet(&mut world).await;
    world.advance(TimeDelta::seconds(100));
    quiet(&mut world).await;
    world.advance(TimeDelta::minutes(30));
    world.settle().await;
    let before = world.fake.calls().len();
    quiet(&mut world).await;
    assert_eq!(world.fake.calls().len(), before, "a tombstone costs no call at all");
}

#[tokio::test]
pub(super) async fn applying_the_manifest_again_and_again_makes_one_pod() {
    let mut world = World::new();
    world.create("s");
    for minute in 0..40 {
        // A GitOps tool writes the same spec: a new version of the object, nothing else.
        let object = world.object("s");
        world.fake.put(GROUP, SESSIONS, object);
        world.settle().await;
        if minute == 1 {
            world.run_pod();
        }
        world.advance(TimeDelta::minutes(1));
    }
    assert_eq!(world.fake.pods_created(), 1);
    assert_eq!(world.condition("s", "Ready"), "True/Expired");
}

#[tokio::test]
pub(super) async fn a_stale_cache_neither_opens_nor_overwrites() {
    let mut world = World::new();
    world.create("s");
    world.sync();
    let stale = world.context().base.sessions.state().pop().expect("cached");
    world.open("s").await;
    let pod = world.pods().pop().expect("a pod");
    world.fake.remove("", "pods", BOX, pod["metadata"]["name"].as_str().expect("a name"));
    let before = world.status("s");
    // This pass still sees an object without a status, and no pod.
    let session = stale.0.as_ref().expect("readable").clone();
    let error = super::super::reconcile(std::sync::Arc::new(session), &world.context()).await.expect_err("must be refused");
    assert_eq!(error.category().as_str(), "conflict");
    assert_eq!(world.status("s"), before);
    assert_eq!(world.fake.pods_created(), 1);
}

#[tokio::test]
pub(super) async fn two_sessions_of_a_project_that_start_at_once_make_one_pod() {
    for _ in 0..20 {
        let mut world = World::new();
        // The younger one is first by name, and each knows only itself.
        let mut passes = Vec::new();
        for name in ["b", "a"] {
            world.create(name);
            world.sync();
            let cached = world.context().base.sessions.state();
            let guarded =
                cached.into_iter().find(|guarded| guarded.0.as_ref().is_ok_and(|session| session.metadata.name.as_deref() == Some(name)));
            let session = std::sync::Arc::new(guarded.expect("cached").0.as_ref().expect("readable").clone());
            let context = world.context();
            passes.push(tokio::spawn(async move { super::super::reconcile(session, &context).await }));
        }
        for pass in passes {
            pass.await.expect("no panic").expect("a pass");
        }
        assert_eq!(world.pods().len(), 1);
        world.settle().await;
        assert_eq!(world.pods().len(), 1);
    }
}

#[tokio::test]
async fn a_pod_is_deleted_even_if_its_end_cannot_be_announced() {
    let mut world = World::new();
    world.create("s");
    world.open("s").await;
    world.fake.forbid("patch", SESSIONS);
    world.advance(TimeDelta::minutes(30));
    world.round().await.expect_err("the status cannot be written");
    assert_eq!(world.pods().len(), 1);
    world.advance(TimeDelta::seconds(16));
    let _ = world.round().await;
    assert!(world.pods().is_empty(), "the deadline does not depend on a status");
}

#[tokio::test]
async fn a_first_status_is_written_even_if_the_pass_fails() {
    let mut world = World::new();
    world.fake.forbid("list", "networkpolicies");
    world.create("s");
    world.round().await.expect_err("a pass");
    assert_eq!(world.condition("s", "Ready"), "Unknown/Starting");
}

/// The whole controller, with its watches, its queue and its clock.
#[tokio::test]
pub(super) async fn watches_drive_it() {
    let world = World::new();
    let fake = world.fake.clone();
    let (context, writer) = super::world::process(&fake, &super::world::settings());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (listed, ready) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(crate::lifecycle::run(
        context,
        writer,
        move || {
            let _ = listed.send(());
        },
        async move {
            let _ = stopped.await;
        },
    ));
    ready.await.expect("listed");
    // One that cannot be read does not stop the others.
    fake.put(GROUP, SESSIONS, json!({ "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession", "metadata": { "name": "bad", "namespace": "ci" }, "spec": 7 }));
    world.create("first");
    eventually(|| world.condition("first", "Open") == "False/Scheduling").await;
    world.create("second");
    eventually(|| world.condition("second", "Open") == "False/ProjectBusy").await;
    // The object goes, its pod follows, and the next one starts: by events, long before the next tick.
    fake.remove(GROUP, SESSIONS, "ci", "first");
    eventually(|| world.condition("second", "Open") == "False/Scheduling").await;
    assert_eq!(world.pods().len(), 1);
    world.run_pod();
    world.link("second", "Ready");
    eventually(|| world.condition("second", "Open") == "True/SessionOpen").await;
    stop.send(()).expect("it runs");
    running.await.expect("it stops");
}

async fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(9);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "not so before the next tick");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
