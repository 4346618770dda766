//! What the controller, the sweeper and the Lease call, over all scenarios, is exactly what the shipped Roles allow.

use chrono::TimeDelta;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::world::{BOX, World};
use super::{life, refusals, robustness};
use crate::breakglass_vm::tests::life as recovery;
use crate::kubernetes::time::Clock;
use crate::lifecycle::fake;
use crate::runtime::{Leadership, Supervisor, while_leading};
use crate::sweeper::Sweeper;

const SYSTEM: &str = "sandglass-system";
const RECOVERIES: &str = "sandglass-vm";

/// Where a rule holds, API group, resource, verb.
type Right = (String, String, String, String);

fn granted() -> BTreeSet<Right> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/base/rbac-controller.yaml");
    let text = std::fs::read_to_string(&path).expect("the manifest");
    let mut rights = BTreeSet::new();
    for document in serde_saphyr::from_multiple::<Value>(&text).expect("YAML") {
        let place = match (document["kind"].as_str(), document["metadata"]["name"].as_str(), document["metadata"]["namespace"].as_str()) {
            (Some("ClusterRole"), Some("sandglass-source-reader"), _) => "source",
            (Some("ClusterRole"), ..) => "cluster",
            (Some("Role"), _, Some(namespace)) => namespace,
            _ => continue,
        };
        for rule in Vec::<Rule>::deserialize(&document["rules"]).expect("rules") {
            for group in &rule.api_groups {
                for resource in &rule.resources {
                    for verb in &rule.verbs {
                        assert!(![group, resource, verb].contains(&&"*".to_owned()), "no wildcards");
                        rights.insert((place.to_owned(), group.clone(), resource.clone(), verb.clone()));
                    }
                }
            }
        }
    }
    rights
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

fn used() -> BTreeSet<Right> {
    let place = |call: &fake::Call| match (call.namespace.as_str(), call.group.as_str(), call.resource.as_str()) {
        (BOX | RECOVERIES | SYSTEM, ..) => call.namespace.clone(),
        (_, "", "pods") | (_, "batch", "jobs") | (_, "tekton.dev", _) => "source".into(),
        _ => "cluster".into(),
    };
    fake::record().into_iter().map(|call| (place(&call), call.group, call.resource, call.verb)).collect()
}

#[tokio::test]
async fn the_sweeper_deletes_what_everybody_else_forgot() {
    let mut world = World::new();
    world.create("s");
    world.settle().await;
    let (client, time) = (world.fake.client(), world.fake.clone());
    let clock = Clock::of(move || time.now());
    let sweeper = Sweeper { client, namespace: BOX.into(), cap: Duration::from_hours(1), clock };
    world.advance(TimeDelta::minutes(34));
    assert_eq!(sweeper.sweep().await.expect("a sweep"), 0);
    world.advance(TimeDelta::minutes(2));
    assert_eq!(sweeper.sweep().await.expect("a sweep"), 1);
    assert!(world.pods().is_empty());
}

#[tokio::test]
async fn the_lease_is_taken_and_given_back() {
    let world = World::new();
    let supervisor = Supervisor::new();
    let mut registry = prometheus_client::registry::Registry::default();
    let leadership = Leadership::register(&mut registry, SYSTEM.into(), "sandglass-controller".into(), "replica-1".into());
    let shutdown = supervisor.shutdown();
    let client = world.fake.client();
    let (sender, leading) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let stop = shutdown.clone();
    let work = move || {
        let sender = sender.lock().expect("not poisoned").take();
        let stop = stop.clone();
        async move {
            sender.map(|sender| sender.send(()));
            stop.requested().await;
            Ok(())
        }
    };
    let task = tokio::spawn(async move { while_leading(client, &leadership, shutdown, || {}, work).await });
    leading.await.expect("leads");
    let holder = || {
        world.fake.get("coordination.k8s.io", "leases", SYSTEM, "sandglass-controller").expect("a lease")["spec"]["holderIdentity"].clone()
    };
    assert_eq!(holder(), "replica-1");
    // The supervisor is gone: time to stop.
    drop(supervisor);
    task.await.expect("no panic").expect("it ends well");
    assert!(holder().as_str().is_none_or(str::is_empty), "given back: {}", holder());
}

#[test]
fn the_rights_used_are_the_rights_granted() {
    macro_rules! run {
        ($($scenario:path),* $(,)?) => { $($scenario();)* };
    }
    run!(
        the_sweeper_deletes_what_everybody_else_forgot,
        the_lease_is_taken_and_given_back,
        life::from_creation_to_tombstone,
        life::the_end_can_be_asked_for,
        life::ended_stays_ended,
        life::a_deletion_that_takes_time_is_waited_for,
        life::a_restored_backup_opens_nothing,
        life::an_object_created_again_has_its_own_pod,
        life::a_deleted_object_takes_its_pod_with_it_and_leaves_others_alone,
        life::sessions_of_a_project_take_turns,
        life::an_ended_object_may_be_removed_after_a_while,
        life::an_object_being_deleted_ends,
        refusals::a_failed_pod_or_job_is_taken_without_its_secrets,
        refusals::the_failed_step_of_a_tekton_run_is_taken_as_a_failed_pod_is,
        refusals::a_tekton_run_that_has_not_failed_is_said_to_be_so,
        refusals::a_source_that_cannot_be_used_stalls_with_a_clear_message_and_mends_itself,
        refusals::a_source_that_may_not_be_read_says_which_role_is_missing,
        refusals::what_the_configuration_does_not_allow_is_refused,
        refusals::admission_and_quota_speak_for_themselves,
        refusals::nothing_opens_in_a_namespace_that_is_not_isolated,
        refusals::an_agent_that_reaches_what_must_be_closed_ends_the_session,
        refusals::another_pods_link_counts_for_nothing,
        refusals::the_ways_a_pod_ends_each_have_a_reason,
        refusals::pods_that_cannot_start_name_what_to_change,
        refusals::what_may_pass_is_waited_for_but_not_for_ever,
        refusals::a_sandbox_that_cannot_be_made_is_read_from_the_events,
        refusals::waiting_for_a_node_says_why,
        refusals::a_strangers_pod_is_never_touched,
        robustness::a_crash_anywhere_changes_nothing,
        robustness::its_own_output_gives_it_nothing_to_do,
        robustness::applying_the_manifest_again_and_again_makes_one_pod,
        robustness::a_stale_cache_neither_opens_nor_overwrites,
        robustness::two_sessions_of_a_project_that_start_at_once_make_one_pod,
        robustness::watches_drive_it,
        a_repeated_event_is_folded,
        recovery::from_creation_to_tombstone,
        recovery::what_vault_says_stands_in_the_conditions,
        recovery::a_deleted_object_leaves_nothing,
        recovery::two_recoveries_of_one_role_share_an_identity_until_the_last_is_gone,
        recovery::a_silent_pod_is_asked_for_its_events,
        recovery::a_stranger_in_the_way_is_not_touched,
        recovery::watches_drive_it,
    );
    let (used, granted) = (used(), granted());
    let missing: Vec<_> = used.difference(&granted).collect();
    let unused: Vec<_> = granted.difference(&used).collect();
    assert!(missing.is_empty() && unused.is_empty(), "missing in the Roles: {missing:?}; in the Roles, but not used: {unused:?}");
}

/// Into a series, which is a patch.
#[tokio::test]
async fn a_repeated_event_is_folded() {
    let mut world = World::new();
    world.create("s");
    world.settle().await;
    for _ in 0..2 {
        world.pod_waits("session", "ErrImagePull", "i/o timeout");
        world.settle().await;
        world.pod_status(serde_json::json!({ "phase": "Pending" }));
        world.settle().await;
    }
}
