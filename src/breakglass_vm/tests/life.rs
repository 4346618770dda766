//! A recovery from its creation to its tombstone, and everything that can go wrong with it.

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::world::World;
use crate::lifecycle::fake::Crash;

#[tokio::test]
pub(crate) async fn from_creation_to_tombstone() {
    let mut world = World::new();
    world.create_with("devvm", &json!({}));
    world.round().await.expect("a pass");
    assert_eq!(world.condition("devvm", "Ready"), "False/Scheduling");
    assert_eq!(world.status("devvm")["connection"]["command"], "ssh -p 2222 infra.devvm@debug.example.com");
    assert_eq!(world.beside("", "serviceaccounts"), ["infra.devvm"]);
    assert_eq!(world.beside("", "pods"), world.beside("networking.k8s.io", "networkpolicies"));
    world.open("devvm").await;
    world.change("devvm", |object| {
        object["status"]["power"] = json!({ "verb": "Cycle", "state": "Running", "startedAt": "2027-01-15T08:00:00Z" });
    });

    world.advance(TimeDelta::minutes(30));
    world.round().await.expect("a pass");
    assert_eq!(world.condition("devvm", "Open"), "False/Expired");
    assert_eq!(world.left().len(), 3, "first the condition, then the deletion");
    world.round().await.expect("a pass");
    assert_eq!(world.left().len(), 2, "the pod first, what guards it later");
    world.settle().await;
    assert_eq!(world.condition("devvm", "Ready"), "True/Expired");
    assert_eq!(world.left(), Vec::<String>::new());
    let status = world.status("devvm");
    assert!(status["link"].is_object() && status["power"].is_object(), "what gateways wrote stays");
    let calls = world.fake.calls().len();
    world.round().await.expect("a pass");
    assert_eq!(world.fake.calls().len(), calls, "a tombstone costs no call at all");
    assert_eq!(world.fake.pods_created(), 1);
}

#[tokio::test]
pub(crate) async fn what_vault_says_stands_in_the_conditions() {
    let mut world = World::new();
    world.create_with("devvm", &json!({}));
    world.settle().await;
    world.run_pod();
    world.link("devvm", "Waiting", Some("VaultSealed"));
    world.settle().await;
    assert_eq!(world.condition("devvm", "Stalled"), "True/VaultSealed");
    assert_eq!(world.message("devvm"), "says the pod");
    assert_eq!(world.left().len(), 3, "it tries on");
    world.link("devvm", "Ready", None);
    world.settle().await;
    assert_eq!(world.condition("devvm", "Open"), "True/SessionOpen");
    assert_eq!(world.condition("devvm", "Stalled"), "");
    world.link("devvm", "Refused", Some("VaultRoleTooBroad"));
    world.settle().await;
    assert_eq!(world.condition("devvm", "Stalled"), "True/VaultRoleTooBroad");
    assert_eq!(world.status("devvm")["phase"], "Failed");
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_refused_and_ended_before_anybody_looked_says_what_it_refused() {
    let mut world = World::new();
    world.create_with("devvm", &json!({}));
    world.settle().await;
    world.link("devvm", "Refused", Some("VaultRoleTooBroad"));
    world.end_pod(3);
    world.settle().await;
    assert_eq!(world.condition("devvm", "Stalled"), "True/VaultRoleTooBroad");
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
pub(crate) async fn a_deleted_object_leaves_nothing() {
    let mut world = World::new();
    world.create_with("devvm", &json!({}));
    world.open("devvm").await;
    world.forget("devvm");
    world.collect().await;
    assert_eq!(world.beside("", "pods"), Vec::<String>::new());
    world.collect().await;
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
pub(crate) async fn two_recoveries_of_one_role_share_an_identity_until_the_last_is_gone() {
    let mut world = World::new();
    world.create_with("a", &json!({}));
    world.create_with("b", &json!({}));
    world.settle().await;
    assert_eq!((world.beside("", "pods").len(), world.beside("", "serviceaccounts").len()), (2, 1));
    world.change("a", |object| object["spec"]["end"] = json!(true));
    world.settle().await;
    world.collect().await;
    assert_eq!((world.beside("", "pods").len(), world.beside("", "serviceaccounts").len()), (1, 1));
    world.change("b", |object| object["spec"]["end"] = json!(true));
    world.settle().await;
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn what_the_schema_cannot_see_is_refused_with_the_field() {
    let target = |address: &str| {
        let mut target = super::world::recovery("x")["spec"]["target"].clone();
        target["address"] = json!(address);
        json!({ "target": target })
    };
    let vault = |field: &str, value: Value| {
        let mut vault = super::world::recovery("x")["spec"]["vault"].clone();
        vault[field] = value;
        json!({ "vault": vault })
    };
    for (changes, reason, words) in [
        (target("devvm.example.com"), "InvalidSpec", "spec.target.address"),
        (target("192.0.2.1"), "AddressNotAllowed", "recoveries.allowedNetworks"),
        (vault("address", json!("https://vault.example.com")), "InvalidSpec", "spec.vault.address"),
        (vault("address", json!("https://10.96.0.1:443")), "AddressNotAllowed", "recoveries.vaultServers"),
        // A server of the requester's own, inside the networks: it would be shown a token that opens the real one.
        (vault("address", json!("https://10.0.20.102:8200")), "AddressNotAllowed", "recoveries.vaultServers"),
        (vault("audience", json!("sandglass-gateway")), "InvalidSpec", "audience"),
        (vault("targetKey", json!({ "kv": { "mount": "secret", "path": "a/../b", "field": "f" } })), "InvalidSpec", ".."),
        (vault("targetKey", json!({})), "InvalidSpec", "exactly one"),
    ] {
        let mut world = World::new();
        world.create_with("devvm", &changes);
        world.settle().await;
        assert_eq!(world.condition("devvm", "Stalled"), format!("True/{reason}"), "{changes}");
        assert!(world.message("devvm").contains(words), "{}", world.message("devvm"));
        assert_eq!(world.left(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_crash_anywhere_changes_nothing() {
    async fn end_of(world: &mut World) -> Value {
        world.create_with("devvm", &json!({}));
        world.settle().await;
        world.run_pod();
        world.settle().await;
        world.link("devvm", "Ready", None);
        world.settle().await;
        world.advance(TimeDelta::minutes(30));
        world.settle().await;
        world.status("devvm")
    }
    let mut clean = World::new();
    let expected = end_of(&mut clean).await;
    let calls = clean.fake.calls().len();
    for crash in [Crash::Before, Crash::After] {
        for call in 1..=calls {
            let mut world = World::new();
            world.fake.crash_at(call, crash);
            assert_eq!(end_of(&mut world).await, expected, "crash {crash:?} at call {call}");
            assert_eq!((world.fake.pods_created(), world.left()), (1, Vec::new()), "crash {crash:?} at call {call}");
        }
    }
}

#[tokio::test]
pub(crate) async fn a_stranger_in_the_way_is_not_touched() {
    let mut world = World::new();
    world.fake.put(
        "",
        "serviceaccounts",
        json!({ "metadata": { "name": "infra.devvm", "namespace": "sandglass-vm", "labels": { "a": "b" } } }),
    );
    world.create_with("devvm", &json!({}));
    world.settle().await;
    assert_eq!(world.condition("devvm", "Stalled"), "True/PodRefused");
    world.change("devvm", |object| object["spec"]["end"] = json!(true));
    world.settle().await;
    assert_eq!(world.left(), ["infra.devvm"], "only the stranger");
}

/// The whole controller, with its watches, its queue and its clock.
#[tokio::test]
pub(crate) async fn watches_drive_it() {
    let world = World::new();
    let fake = world.fake.clone();
    let (context, writer) = super::world::process(&fake, &super::world::settings());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (listed, ready) = tokio::sync::oneshot::channel();
    let until_stopped = async move {
        let _ = stopped.await;
    };
    let running = tokio::spawn(crate::lifecycle::run(context, writer, move || listed.send(()).expect("somebody waits"), until_stopped));
    ready.await.expect("listed");
    world.create_with("devvm", &json!({}));
    eventually(|| world.condition("devvm", "Open") == "False/Scheduling").await;
    world.forget("devvm");
    eventually(|| world.left().is_empty()).await;
    stop.send(()).expect("it runs");
    running.await.expect("it stops");
}

async fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(15);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "not so within fifteen seconds");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
pub(crate) async fn a_silent_pod_is_asked_for_its_events() {
    let mut world = World::new();
    world.create_with("devvm", &json!({}));
    world.settle().await;
    world.take_pod();
    world.advance(TimeDelta::seconds(5));
    world.settle().await;
    assert_eq!(world.condition("devvm", "Open"), "False/Starting");
}
