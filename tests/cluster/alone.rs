//! What needs the cluster for itself: replicas killed, a policy removed, the quota used up, the node full. `e2e/test` runs these first, by the
//! name of this module.

use super::census::Census;
use super::harness::{DEBUG, Lab, SYSTEM, eventually, finish, kubectl, random, text};
use super::machine::{Machine, process, script};
use super::node::{self, on_the_node};
use super::reading::{condition, end_reason, has_ended, is_open, is_true, open_message, status};
use super::recording::{list, recordings, verify};
use chrono::Utc;
use futures::FutureExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use sandglass::api::breakglass_vm::PowerState;
use sandglass::api::session::Phase;
use sandglass::api::{BreakglassVM, DebugSession};
use serde_json::json;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[path = "priority.rs"]
mod priority;

async fn replicas(lab: &Lab, component: &str) -> Vec<Pod> {
    let of_component = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    lab.api_in::<Pod>(SYSTEM).list(&of_component).await.expect("listed").items
}

/// Kills a replica as a node that loses power would: its processes first, so that it cannot say goodbye, then the object.
async fn kill(lab: &Lab, pod: &Pod) {
    if on_the_node() {
        for process in node::processes_of(&pod.uid().expect("a UID")) {
            process.signal("KILL");
        }
    }
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let _ = lab.api_in::<Pod>(SYSTEM).delete(&pod.name_any(), &at_once).await;
}

/// A pod that is ready and stays.
fn serves(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none() && conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Goes by the pods themselves: a Deployment's status counts the dead for a moment.
async fn until_complete(lab: &Lab, component: &str) {
    let complete = async || {
        let pods = replicas(lab, component).await;
        pods.len() == 2 && pods.iter().all(serves)
    };
    eventually(&format!("both replicas of the {component}"), 60, complete).await;
}

/// The node's rules for a Service follow its pods by a second or so: waits until they lead to the living only.
async fn until_reachable(session: &DebugSession) {
    let connection = status(session).connection.expect("a connection");
    let banner = async || {
        let mut stream = TcpStream::connect((connection.host.as_str(), u16::try_from(connection.port).expect("a port"))).await?;
        let mut banner = [0; 17];
        stream.read_exact(&mut banner).await?;
        std::io::Result::Ok(banner)
    };
    let all_answer = async || {
        for _ in 0..16 {
            let answered = tokio::time::timeout(Duration::from_secs(1), banner()).await;
            if !matches!(answered, Ok(Ok(banner)) if &banner == b"SSH-2.0-Sandglass") {
                return false;
            }
        }
        true
    };
    eventually("sixteen connections in a row", 30, all_answer).await;
}

async fn leader(lab: &Lab) -> Option<String> {
    let lease: Lease = lab.api_in(SYSTEM).get("sandglass-controller").await.expect("the Lease");
    let spec = lease.spec.expect("a spec");
    let renewed = spec.renew_time?.0.as_second();
    // A Lease of somebody dead runs out after 15 s.
    spec.holder_identity.filter(|holder| !holder.is_empty() && Utc::now().timestamp() - renewed < 15)
}

/// A fraction of a second, other each time, and printed.
async fn moment(longest_milliseconds: u64) {
    let number: u64 = random(6).bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte));
    let pause = number % longest_milliseconds;
    println!("the leader is killed after {pause} ms");
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_is_killed_again_and_again() {
    let lab = Lab::alone("crash").await;
    until_complete(&lab, "controller").await;
    let census = Census::begin(&lab).await;
    let names = ["a", "b", "c", "d", "e"];
    eventually("a leader", 30, async || leader(&lab).await.is_some()).await;
    let kill_the_controllers = async || {
        for pod in replicas(&lab, "controller").await {
            kill(&lab, &pod).await;
        }
    };
    let create = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        for name in names {
            tick.tick().await;
            lab.session(name, json!({ "project": name })).await;
        }
    };
    // The first blow falls while they are being created, the second while the next leader takes them up.
    tokio::join!(create, async {
        moment(600).await;
        kill_the_controllers().await;
    });
    let dead = leader(&lab).await;
    eventually("another leader", 40, async || leader(&lab).await.is_some_and(|holder| Some(holder) != dead)).await;
    moment(1500).await;
    kill_the_controllers().await;
    for name in names {
        let session = lab.until(name, 90, "open", |session| is_open(session) || has_ended(session)).await;
        assert!(is_open(&session), "{name}: {}", open_message(&session));
        assert_eq!(census.pods_of(&session), 1, "pods ever of {name}");
    }
    // And while they end.
    for name in names {
        lab.change(name, json!({ "end": true })).await.expect("ended");
    }
    moment(300).await;
    kill_the_controllers().await;
    for name in names {
        let session = lab.until_ended(name, 60).await;
        assert_eq!((status(&session).phase, end_reason(&session).as_str()), (Some(Phase::Ended), "EndRequested"));
        lab.until_no_pod(&session, 10).await;
        assert_eq!(census.pods_of(&session), 1, "pods ever of {name}");
    }
    until_complete(&lab, "controller").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_gateway_takes_over() {
    let lab = Lab::alone("failover").await;
    until_complete(&lab, "gateway").await;
    let session = lab.open("s", json!({})).await;
    lab.run(&session, "echo still here > /tmp/mark").await;
    for abruptly in [true, false] {
        let before = status(&lab.get("s").await).connections.len();
        let mut login = lab.stay(&session, "exec sleep 600").await;
        let reported = lab.until("s", 45, "told of the login", |session| status(session).connections.len() > before).await;
        let connections = status(&reported).connections;
        let newest = connections.iter().filter(|one| one.ended_at.is_none()).max_by_key(|one| one.started_at.0).expect("a connection");
        let mut serving = None;
        for pod in replicas(&lab, "gateway").await {
            let log = lab.api_in::<Pod>(SYSTEM).logs(&pod.name_any(), &kube::api::LogParams::default()).await.expect("a log");
            if log.contains(&newest.id) {
                serving = Some(pod);
            }
        }
        let serving = serving.expect("the replica that serves the login");
        if abruptly {
            kill(&lab, &serving).await;
        } else {
            lab.api_in::<Pod>(SYSTEM).delete(&serving.name_any(), &DeleteParams::default()).await.expect("deleted");
        }
        let (code, _) = login.ended(20).await;
        let killed = Instant::now();
        assert_ne!(code.code(), Some(0));
        if !abruptly {
            assert!(login.seen().contains("this gateway restarts. The session goes on: log in again to get back"), "{}", login.seen());
        }
        // A replica that goes in good order is no longer asked before it stops. One that died is, until the cluster has noticed.
        let patience = Duration::from_secs(if abruptly { 30 } else { 0 });
        loop {
            let mut again = lab.client_of("ssh", &session);
            let impatience: &[&str] = if abruptly { &["-o", "ConnectTimeout=2"] } else { &[] };
            again.args(impatience).args(["s", "cat /tmp/mark"]);
            let again = finish(again, 20).await;
            if again.status.success() {
                assert_eq!(text(&again.stdout), "still here\n");
                break;
            }
            assert!(killed.elapsed() < patience, "no login {:?} after the end: {}", killed.elapsed(), text(&again.stderr));
        }
        assert_eq!(status(&lab.get("s").await).pod, status(&session).pod, "the same pod");
        assert!(is_open(&lab.get("s").await));
        until_complete(&lab, "gateway").await;
        until_reachable(&session).await;
    }
    // The new replicas have their own links to the pod: whichever is asked, it serves.
    for _ in 0..5 {
        let both = tokio::join!(lab.run(&session, "cat /tmp/mark"), lab.run(&session, "cat /tmp/mark"));
        assert_eq!(both, ("still here".to_owned(), "still here".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_default_deny_policy_nothing_opens() {
    let lab = Lab::alone("policy").await;
    let census = Census::begin(&lab).await;
    let live = lab.open("live", json!({ "project": "live" })).await;
    let policies = lab.api_in::<NetworkPolicy>(DEBUG);
    let mut policy = policies.get("default-deny").await.expect("the policy");
    policies.delete("default-deny", &DeleteParams::default()).await.expect("deleted");
    let refused = AssertUnwindSafe(async {
        lab.session("s", json!({})).await;
        let held = lab.until_reason("s", "NamespaceNotIsolated").await;
        let message = open_message(&held);
        assert!(message.contains("the namespace sandglass-debug has no NetworkPolicy that selects every pod"), "{message}");
        assert!(message.contains("apply the manifests of Sandglass"), "{message}");
        assert!(is_true(&held, "Stalled"), "{:?}", condition(&held, "Stalled"));
        assert_eq!((census.pods_of(&held), status(&held).pod.clone()), (0, None));
        // What was open is not isolated any more either: it ends.
        let ended = lab.until("live", 30, "over", has_ended).await;
        assert_eq!(end_reason(&ended), "NamespaceNotIsolated", "{}", open_message(&ended));
        lab.until_no_pod(&live, 15).await;
    });
    let outcome = refused.catch_unwind().await;
    policy.metadata.managed_fields = None;
    policy.metadata.resource_version = None;
    policy.metadata.uid = None;
    policies.create(&PostParams::default(), &policy).await.expect("the policy is back");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    let session = lab.until("s", 30, "open", is_open).await;
    assert!(condition(&session, "Stalled").is_none());
    assert_eq!(census.pods_of(&session), 1);
    assert_eq!(lab.run(&session, "echo in").await, "in");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quota_is_waiting() {
    let lab = Lab::alone("quota").await;
    let pods = lab.api_in::<Pod>(DEBUG);
    let nobody_leaves =
        async || pods.list(&ListParams::default()).await.expect("listed").iter().all(|pod| pod.metadata.deletion_timestamp.is_none());
    eventually("pods of other tests to be gone", 40, nobody_leaves).await;
    let standing = pods.list(&ListParams::default()).await.expect("listed").items.len();
    let quotas = lab.api_in::<ResourceQuota>(DEBUG);
    let name = format!("quota-{}", lab.namespace);
    let quota: ResourceQuota =
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "hard": { "pods": (standing + 1).to_string() } } }))
            .expect("a quota");
    quotas.create(&PostParams::default(), &quota).await.expect("created");
    let outcome = AssertUnwindSafe(async {
        let counted = async || quotas.get(&name).await.expect("the quota").status.is_some_and(|status| status.used.is_some());
        eventually("the quota to be counted", 20, counted).await;
        lab.open("first", json!({ "project": "a" })).await;
        lab.session("second", json!({ "project": "b" })).await;
        let waiting = lab.until_reason("second", "QuotaExceeded").await;
        assert!(
            open_message(&waiting).contains("the isolated namespace's quota is used up; waiting for room"),
            "{}",
            open_message(&waiting)
        );
        assert_eq!((status(&waiting).phase, status(&waiting).pod.clone()), (Some(Phase::Waiting), None));
        assert!(!is_true(&waiting, "Stalled"), "nobody need do anything");
        lab.change("first", json!({ "end": true })).await.expect("ended");
        lab.until("second", 30, "open", is_open).await;
        assert_eq!(end_reason(&lab.until_ended("first", 15).await), "EndRequested");
    })
    .catch_unwind()
    .await;
    quotas.delete(&name, &DeleteParams::default()).await.expect("deleted");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_in_the_middle_loses_two_seconds_at_most_and_is_closed_by_another() {
    let lab = Lab::alone("cutoff").await;
    let session = lab.open("s", json!({})).await;
    // Ten lines a second, each with its number.
    let mut login = lab.stay(&session, "n=0; while :; do n=$((n+1)); echo line $n.; sleep 0.1; done").await;
    let last_line = |text: &str| text.matches("line ").count();
    eventually("some seconds of output", 30, async || last_line(&login.seen()) > 50).await;
    let reported = lab.until("s", 45, "told of the login", |session| !status(session).connections.is_empty()).await;
    let connection = status(&reported).connections.pop().expect("a connection");
    let replicas = ListParams::default().labels("app.kubernetes.io/component=gateway");
    let mut killed = false;
    for pod in lab.api_in::<Pod>(SYSTEM).list(&replicas).await.expect("listed").items {
        let log = lab.api_in::<Pod>(SYSTEM).logs(&pod.name_any(), &kube::api::LogParams::default()).await.expect("a log");
        if log.contains(&connection.id) && on_the_node() {
            for process in node::processes_of(&pod.uid().expect("a UID")) {
                process.signal("KILL");
            }
            killed = true;
        }
    }
    assert!(killed || !on_the_node(), "the replica of the login");
    if !killed {
        return;
    }
    let (_, began) = (login.ended(15).await, Instant::now());
    let shown = last_line(&login.seen());
    let sealed = async || list(&lab, &[]).await.first().is_some_and(|one| one["state"] == "Incomplete");
    eventually("the recording to be closed by another replica", 60, sealed).await;
    println!("closed {:?} after the kill", began.elapsed());
    assert!(began.elapsed() < Duration::from_mins(1));
    let verified = verify(&lab, &connection.id).await;
    assert!(verified.status.success() && text(&verified.stdout).starts_with("incomplete"), "{verified:?}");
    let exported = recordings(&lab, &["export", &connection.id, "--format", "raw"]).await;
    let recorded = last_line(&text(&exported.stdout));
    println!("{recorded} of {shown} lines are recorded");
    assert!(recorded + 20 >= shown, "{recorded} of {shown} lines are recorded: more than two seconds are lost");
    let seen = login.seen();
    let recorded = text(&exported.stdout);
    let common = seen.len().min(recorded.len());
    assert_eq!(recorded.get(..common), seen.get(..common), "what is recorded is what was seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_of_the_spec_runs_once() {
    let lab = Lab::alone("vmonce").await;
    let machine = Machine::take(&lab).await;
    script("vm/vm", &["pause"], "").await;
    machine.create(&lab, "devvm", json!({ "power": { "verb": "Cycle" } })).await;
    let done = |session: &BreakglassVM| {
        let power = session.status.as_ref().and_then(|status| status.power.as_ref());
        power.is_some_and(|power| power.state != PowerState::Running)
    };
    let session = lab.until_of("devvm", 120, "done with spec.power", done).await;
    let power = session.status.as_ref().and_then(|status| status.power.clone()).expect("a power status");
    assert_eq!(
        (power.state, power.before.as_deref(), power.after.as_deref()),
        (PowerState::Succeeded, Some("paused"), Some("running")),
        "{power:?}"
    );
    assert!(power.evidence.is_some_and(|address| address.contains("/evidence/")) && power.finished_at.is_some());
    let connections = status(
        &lab.until_of("devvm", 10, "told of the run", |session: &BreakglassVM| {
            status(session).connections.iter().any(|one| one.remote_address == "spec.power" && one.ended_at.is_some())
        })
        .await,
    )
    .connections;
    assert!(connections.iter().any(|one| one.recording.is_some()), "{connections:?}");
    // A gateway that begins anew finds it done.
    let before = process();
    kubectl(&["rollout", "restart", "deployment/sandglass-gateway", "-n", SYSTEM]);
    kubectl(&["rollout", "status", "deployment/sandglass-gateway", "-n", SYSTEM, "--timeout=90s"]);
    let open = |session: &BreakglassVM| is_open(session);
    let session = lab.until_of("devvm", 30, "open", open).await;
    eventually("the machine is back", 60, async || lab.ssh(&session, "true").await.status.success()).await;
    assert_eq!(process(), before, "it was started a second time");
    machine.end(&lab, "devvm").await;
}
