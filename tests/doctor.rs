//! `kubectl sandglass doctor` against the real installation: nothing fails while it is whole; each thing that is broken is found, by its own
//! check, with its cure. What is broken is restored whatever happens.
//!
//! Runs in the network of a cluster where Sandglass is installed (a step of `e2e/doors/test`); breaks the installation on purpose, so alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[allow(dead_code, reason = "the cluster's own tests use more of it")]
#[path = "cluster/harness.rs"]
mod harness;
#[allow(dead_code, reason = "the cluster's own tests use more of it")]
#[path = "cluster/reading.rs"]
mod reading;

use harness::{BUILD_IMAGE, DEBUG, Lab, SYSTEM, eventually, kubectl, suffix};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::config::Config;
use kube::{Api, Client};
use sandglass::api::DebugSession;
use sandglass::cli::kubectl::doctor::{Form, Options, Verdict, doctor};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A client whose default namespace is this one, as `--namespace` makes it; in the name of somebody, where said.
async fn client(namespace: &str, user: Option<&str>) -> Client {
    let mut configuration = Config::infer().await.expect("a cluster");
    namespace.clone_into(&mut configuration.default_namespace);
    configuration.default_retry = false;
    configuration.auth_info.impersonate = user.map(str::to_owned);
    Client::try_from(configuration).expect("a client")
}

fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options { system_namespace: SYSTEM.to_owned(), image: None, no_canary: false, output: Form::Json };
    change(&mut options);
    options
}

/// One line of the report.
struct Found {
    check: String,
    level: String,
    message: String,
    cure: String,
}

/// Runs it and reads what it says.
async fn examined(client: Client, options: &Options) -> (Verdict, Vec<Found>) {
    let began = Instant::now();
    let mut out = Vec::new();
    let verdict = doctor(client, options, &mut out).await.expect("a verdict");
    assert!(began.elapsed() < Duration::from_mins(1), "it took {:?}", began.elapsed());
    let list: Vec<Value> = serde_json::from_slice(&out).expect("JSON");
    let word = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let found = list.iter().map(|finding| Found {
        check: word(finding, "check"),
        level: word(finding, "level"),
        message: word(finding, "message"),
        cure: word(finding, "cure"),
    });
    let found: Vec<Found> = found.collect();
    println!("after {:.1} s:", began.elapsed().as_secs_f32());
    for Found { check, level, message, cure } in &found {
        println!("  {level:<4}  {check:<13}  {message}{}{cure}", if cure.is_empty() { "" } else { "\n        -> " });
        assert_eq!(level == "ok", cure.is_empty(), "{check}: {message}: everything but ok has its cure");
        assert!(!message.contains('\n') && !cure.contains('\n'), "one line each");
    }
    (verdict, found)
}

fn of_level<'a>(found: &'a [Found], level: &str) -> Vec<&'a Found> {
    found.iter().filter(|finding| finding.level == level).collect()
}

/// Nothing is left of a canary, neither the object nor its pod.
async fn until_nothing_is_left(lab: &Lab) {
    assert_eq!(lab.api::<DebugSession>().list(&ListParams::default()).await.expect("listed").items.len(), 0, "a canary is left");
    let pods: Api<Pod> = lab.api_in(DEBUG);
    let of_lab = async || {
        let pods = pods.list(&ListParams::default()).await.expect("listed").items;
        pods.iter().all(|pod| {
            let owner = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get("sandglass.dev/owner-namespace"));
            owner != Some(&lab.namespace)
        })
    };
    eventually("no pod of the canary", 15, of_lab).await;
}

/// What the test broke, put back when it is dropped.
struct Restore<'a>(Vec<Vec<&'a str>>);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        for arguments in &self.0 {
            println!("restored: {}", kubectl(arguments).trim());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_installation_is_well() {
    let lab = Lab::shared("doctor").await;
    let (verdict, found) = examined(client(&lab.namespace, None).await, &options(|_| ())).await;
    let failed: Vec<&str> = of_level(&found, "fail").iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!((verdict, failed), (Verdict::Well, vec![]));
    for (check, words) in [
        ("isolation", "sandglass-debug is labelled"),
        ("isolation", "sandglass-vm is labelled"),
        ("admission", "refuse what they cannot evaluate"),
        ("admission", "in force, tried by dry runs: sandglass-session-pods, sandglass-sessions, sandglass-recovery-pods"),
        ("rights", "the ServiceAccount sandglass-controller has the"),
        ("rights", "the ServiceAccount sandglass-gateway has the"),
        ("gateway", "answers with the published host key SHA256:"),
        ("canary", "let ssh in"),
        ("network", "the gateway's link port is open, and closed the gateway's health port and the API server"),
        ("recording", "the store is writable: the login is recorded at "),
        ("clock", "the clock of the gateway agrees"),
        ("clock", "the clock of the leading controller"),
        ("canary", "its pod was gone"),
    ] {
        let there = found.iter().any(|finding| finding.check == check && finding.level == "ok" && finding.message.contains(words));
        assert!(there, "no ok of {check} says: {words}");
    }
    until_nothing_is_left(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_only_open_sessions_sees_what_is_not_checked_and_why() {
    let lab = Lab::shared("doctor").await;
    let user = format!("jane-{}", suffix());
    lab.create::<k8s_openapi::api::rbac::v1::RoleBinding>(json!({
        "metadata": { "name": "jane" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sandglass-requester" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    }))
    .await;
    let client = client(&lab.namespace, Some(&user)).await;
    let (verdict, found) = examined(client, &options(|options| options.image = Some(BUILD_IMAGE.into()))).await;
    assert_eq!((verdict, of_level(&found, "fail").len()), (Verdict::Well, 0));
    for (check, right) in [
        ("isolation", "get namespaces"),
        ("admission", "list validatingadmissionpolicies"),
        ("admission", "create pods in sandglass-debug"),
        ("rights", "create subjectaccessreviews"),
        ("definitions", "get customresourcedefinitions"),
        ("workloads", "get deployments in sandglass-system"),
        ("keys", "get secrets in sandglass-system"),
        ("quota", "list resourcequotas in sandglass-debug"),
        ("clock", "list leases in kube-node-lease"),
        ("configuration", "get configmaps in sandglass-system"),
    ] {
        let told = found.iter().filter(|finding| finding.check == check);
        let told: Vec<&Found> = told.collect();
        assert!(told.iter().any(|finding| finding.level == "skip" && finding.message.contains(right)), "{check}: {right}");
        // What everybody may see: the clock of the API server, the published keys.
        let seen = |finding: &Found| match check {
            "clock" => !finding.message.contains("node"),
            "keys" => finding.message.contains("published"),
            _ => false,
        };
        assert!(told.iter().all(|finding| finding.level != "ok" || seen(finding)), "{check} is not ok unseen");
    }
    // Her own rights are enough for the canary, and for what it proves.
    for check in ["canary", "network", "recording"] {
        assert!(found.iter().any(|finding| finding.check == check && finding.level == "ok"), "{check}");
    }
    until_nothing_is_left(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_nothing_is_told_so() {
    let lab = Lab::shared("doctor").await;
    let nobody = client(&lab.namespace, Some(&format!("nobody-{}", suffix()))).await;
    let (verdict, found) = examined(nobody, &options(|options| options.image = Some(BUILD_IMAGE.into()))).await;
    assert_eq!((verdict, of_level(&found, "fail").len()), (Verdict::Well, 0));
    let canary = found.iter().find(|finding| finding.check == "canary").expect("a finding");
    assert!(canary.level == "skip" && canary.message.contains("create debugsessions in"), "{}", canary.message);
    for check in ["network", "recording"] {
        assert!(found.iter().all(|finding| finding.check != check || finding.level == "skip"), "{check} is unproven");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_allowed_fails_the_canary_alone() {
    let lab = Lab::shared("doctor").await;
    let client = client(&lab.namespace, None).await;
    let (verdict, found) = examined(client, &options(|options| options.image = Some("elsewhere.invalid/x:1".into()))).await;
    let failed = of_level(&found, "fail");
    assert!(verdict == Verdict::Failed && failed.len() == 1, "{} failures", failed.len());
    assert!(failed[0].check == "canary" && failed[0].message.contains("ImageNotAllowed") && failed[0].cure.contains("--image"));
    until_nothing_is_left(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_doctor_leaves_nothing() {
    // The signal comes to every doctor of this process.
    let lab = Lab::alone("doctor").await;
    let client = client(&lab.namespace, None).await;
    let options = options(|options| options.image = Some(BUILD_IMAGE.into()));
    let mut out = std::io::sink();
    let sessions = lab.api::<DebugSession>();
    let interrupt = async {
        let is_made = async || !sessions.list(&ListParams::default()).await.expect("listed").items.is_empty();
        eventually("a canary", 30, is_made).await;
        let this = i32::try_from(std::process::id()).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(this), nix::sys::signal::Signal::SIGINT).expect("sent");
        Instant::now()
    };
    let (outcome, interrupted) = futures::join!(doctor(client, &options, &mut out), interrupt);
    assert!(interrupted.elapsed() < Duration::from_secs(5), "it took {:?} to end", interrupted.elapsed());
    assert!(outcome.is_err_and(|error| error.to_string() == "interrupted"));
    until_nothing_is_left(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_found_by_its_own_check() {
    let lab = Lab::alone("doctor").await;
    let client = client(&lab.namespace, None).await;
    let without = options(|options| options.no_canary = true);
    let binding = kept::<ValidatingAdmissionPolicyBinding>(&lab, Api::all(client.clone()), "sandglass-session-pods").await;
    let policy = kept::<NetworkPolicy>(&lab, lab.api_in(DEBUG), "default-deny").await;

    let label = "pod-security.kubernetes.io/enforce";
    breaks(
        &client,
        &without,
        &["label", "namespace", DEBUG, &format!("{label}-")],
        &["label", "namespace", DEBUG, &format!("{label}=restricted")],
        &[("isolation", "not set", "kubectl label --overwrite namespace sandglass-debug")],
    )
    .await;
    breaks(
        &client,
        &without,
        &["delete", "validatingadmissionpolicybinding", "sandglass-session-pods"],
        &["apply", "--server-side", "-f", &binding],
        &[
            ("admission", "binding sandglass-session-pods", "admission-policies.yaml"),
            ("admission", "sandglass-session-pods is not in force", "admission-policies.yaml"),
        ],
    )
    .await;
    breaks(
        &client,
        &without,
        &["delete", "networkpolicy", "-n", DEBUG, "default-deny"],
        &["apply", "--server-side", "-f", &policy],
        &[("isolation", "no NetworkPolicy that selects every pod", "network-policies.yaml")],
    )
    .await;
    let granting = [
        "create",
        "clusterrolebinding",
        "sandglass-doctor-test",
        "--clusterrole=system:aggregate-to-edit",
        "--serviceaccount=sandglass-system:sandglass-gateway",
    ];
    breaks(
        &client,
        &without,
        &granting,
        &["delete", "clusterrolebinding", "sandglass-doctor-test"],
        &[("rights", "sandglass-gateway has rights that it must not have", "rolebindings,clusterrolebindings")],
    )
    .await;
}

/// A file with the object as it was installed, to be applied again as the installation did.
async fn kept<K>(lab: &Lab, api: Api<K>, name: &str) -> String
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let mut object = api.get(name).await.expect("installed");
    let metadata = object.meta_mut();
    (metadata.uid, metadata.resource_version, metadata.creation_timestamp) = (None, None, None);
    (metadata.managed_fields, metadata.generation) = (None, None);
    let file = lab.path(&format!("{name}.json"));
    std::fs::write(&file, serde_json::to_string(&object).expect("JSON")).expect("written");
    file.to_str().expect("a path").to_owned()
}

/// Breaks something, looks, and puts it back.
async fn breaks(client: &Client, options: &Options, breaking: &[&str], restoring: &[&str], expected: &[(&str, &str, &str)]) {
    println!("broken: {}", breaking.join(" "));
    let _restore = Restore(vec![restoring.to_vec()]);
    println!("{}", kubectl(breaking).trim());
    // The API server takes a moment to forget a binding, and to know a right.
    let began = Instant::now();
    let found = loop {
        let (_, found) = examined(client.clone(), options).await;
        if of_level(&found, "fail").len() == expected.len() || began.elapsed() > Duration::from_secs(15) {
            break found;
        }
    };
    let failed = of_level(&found, "fail");
    assert_eq!(failed.len(), expected.len(), "{breaking:?}");
    for (check, message, cure) in expected {
        let found =
            failed.iter().any(|finding| finding.check == *check && finding.message.contains(message) && finding.cure.contains(cure));
        assert!(found, "{breaking:?} is not found as {check}: {message}: {cure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_opens_the_network_is_found_by_the_canary() {
    let lab = Lab::alone("doctor").await;
    let client = client(&lab.namespace, None).await;
    // As a network plugin that enforces nothing, for this namespace: everything is open although default-deny is there.
    let open = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "doctor-test", "namespace": DEBUG },
        "spec": { "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "to": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }] }] },
    });
    let file = lab.path("open.json");
    std::fs::write(&file, open.to_string()).expect("written");
    breaks(
        &client,
        &options(|options| options.image = Some(BUILD_IMAGE.into())),
        &["apply", "-f", file.to_str().expect("a path")],
        &["delete", "networkpolicy", "-n", DEBUG, "doctor-test"],
        &[("network", "network policies do not hold", "network plugin that enforces NetworkPolicy")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_away_is_found_and_no_canary_is_opened() {
    let lab = Lab::alone("doctor").await;
    let client = client(&lab.namespace, None).await;
    let gateway = ["-n", SYSTEM, "deployment/sandglass-gateway"];
    let scale = |replicas: &'static str| [&["scale", replicas][..], &gateway].concat();
    let wait = [&["rollout", "status", "--timeout=19s"][..], &gateway].concat();
    let restore = Restore(vec![scale("--replicas=2"), wait]);
    println!("{}", kubectl(&scale("--replicas=0")).trim());
    let began = Instant::now();
    let found = loop {
        let (verdict, found) = examined(client.clone(), &options(|_| ())).await;
        // Its Service still leads to it while it says goodbye, and a connection may be taken and closed.
        let failed = of_level(&found, "fail");
        let nobody = failed.iter().any(|finding| finding.cure.contains("get service,endpoints sandglass-gateway"));
        if (failed.len() == 2 && nobody) || began.elapsed() > Duration::from_secs(20) {
            assert_eq!(verdict, Verdict::Failed);
            break found;
        }
    };
    let failed = of_level(&found, "fail");
    assert_eq!(failed.iter().map(|finding| finding.check.as_str()).collect::<Vec<_>>(), ["workloads", "gateway"]);
    assert!(failed[0].cure.contains("scale deployment sandglass-gateway --replicas=2"), "{}", failed[0].cure);
    assert!(failed[1].cure.contains("get service,endpoints sandglass-gateway"), "{}", failed[1].cure);
    let canary = found.iter().find(|finding| finding.check == "canary").expect("a finding");
    assert!(canary.level == "skip" && canary.message.contains("workloads"), "{}", canary.message);
    until_nothing_is_left(&lab).await;
    drop(restore);
    // Ready is not yet reachable: its Service and its network policies follow.
    let answers = async || {
        let (_, found) = examined(client.clone(), &options(|options| options.no_canary = true)).await;
        found.iter().any(|finding| finding.check == "gateway" && finding.level == "ok")
    };
    eventually("the gateway to answer again", 30, answers).await;
}
