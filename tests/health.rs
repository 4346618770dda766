//! The health scripts for Argo CD, run as Argo CD runs them but in a Lua 5.1 with nothing in it beside table access: over every
//! status that the controllers can write, over objects that lack something, and over objects that changed since.

// A test that cannot go on fails where it stands, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;
use mlua::{HookTriggers, Lua, LuaOptions, LuaSerdeExt as _, SerializeOptions, StdLib, VmState};
use sandglass::api::breakglass_vm::PowerState;
use sandglass::api::conditions::Reason;
use sandglass::api::session::{Phase, Session, SessionStatus};
use sandglass::api::{BreakglassVM, DebugSession};
use sandglass::domain::configuration::Configuration;
use sandglass::lifecycle::apply::Outcome;
use sandglass::lifecycle::{Cause, Ending, Identity, PodState, Settings, status};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

const WORDS: &str = "the words of the cause";
const COMMAND: &str = "ssh -p 2222 ci.one@debug.example.com";

/// What Argo CD is told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Health {
    status: String,
    message: String,
}

fn file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()))
}

fn script(kind: &str) -> String {
    file(&format!("manifests/argocd/{}-health.lua", kind.to_lowercase()))
}

/// Runs a script on an object: what it returns, or Lua's error. A JSON null is nil, as in Argo CD.
fn run(script: &str, object: &Value) -> mlua::Result<Health> {
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::default())?;
    let globals = lua.globals();
    let names = globals.pairs::<mlua::Value, mlua::Value>().map(|pair| Ok(pair?.0)).collect::<mlua::Result<Vec<_>>>()?;
    for name in names {
        globals.raw_remove(name)?;
    }
    let options = SerializeOptions::new().serialize_none_to_null(false).serialize_unit_to_null(false);
    globals.set("obj", lua.to_value_with(object, options)?)?;
    let every = HookTriggers::new().every_nth_instruction(100_000);
    lua.set_hook(every, |_, _| -> mlua::Result<VmState> { Err(mlua::Error::runtime("it does not end")) })?;
    let returned: mlua::Table = lua.load(script).eval()?;
    let keys = returned.pairs::<String, String>().map(|pair| Ok(pair?.0)).collect::<mlua::Result<BTreeSet<_>>>()?;
    assert_eq!(keys, BTreeSet::from(["message".to_owned(), "status".to_owned()]));
    Ok(Health { status: returned.get("status")?, message: returned.get("message")? })
}

/// The health of an object, by its kind's script.
fn health(object: &Value) -> Health {
    let kind = object["kind"].as_str().expect("a kind");
    let health = run(&script(kind), object).unwrap_or_else(|problem| panic!("{problem}\n{object:#}"));
    assert!(["Healthy", "Progressing", "Degraded"].contains(&health.status.as_str()), "{health:?}");
    assert!(!health.message.is_empty(), "{object:#}");
    health
}

fn created() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
}

fn settings() -> Settings {
    let configuration = Configuration::parse(
        "gateway: { host: debug.example.com, port: 2222 }\n\
         sessions: { agentImage: 'registry.example.com/sandglass:1' }\n\
         recording: { mode: Off }\n",
    );
    Settings {
        configuration: configuration.expect("valid"),
        links: Vec::new(),
        link_certificate_authority: String::new(),
        host_keys: vec!["ssh-ed25519 AAAAhost".into()],
        must_be_closed: Vec::new(),
    }
}

/// An object as the API server has it before anybody wrote its status.
fn fresh(kind: &str) -> Value {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let spec = match kind {
        "DebugSession" => json!({ "source": { "image": "registry.example.com/go:1" } }),
        "BreakglassVM" => json!({
            "target": { "address": "10.0.20.102", "user": "breakglass", "hostKeys": [key] },
            "vault": {
                "address": "https://10.0.20.50:8200", "caBundle": "pem", "role": "devvm",
                "targetKey": { "kv": { "mount": "secret", "path": "devvm", "field": "private_key" } },
            },
        }),
        _ => panic!("no such kind: {kind}"),
    };
    let mut object = json!({
        "apiVersion": "sandglass.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": "one", "namespace": "ci", "uid": "uid-1", "generation": 3, "creationTimestamp": "2027-01-15T08:00:00Z" },
        "spec": spec,
    });
    object["spec"]["requester"] = json!("octocat");
    object["spec"]["ttl"] = json!("30m");
    object["spec"]["access"] = json!({ "authorizedKeys": [key] });
    object
}

/// What must be told of a session in which this is so: an answer for each reason, so that a new one needs a decision here.
fn needs_a_human(reason: Reason) -> bool {
    match reason {
        Reason::SessionOpen
        | Reason::ProjectBusy
        | Reason::QuotaExceeded
        | Reason::Scheduling
        | Reason::Pulling
        | Reason::Starting
        | Reason::Expired
        | Reason::EndRequested
        | Reason::Deleted
        | Reason::PodFailed
        | Reason::PodGone
        | Reason::OutOfMemory
        | Reason::Evicted
        | Reason::DeadlineExceeded
        | Reason::Preempted
        | Reason::VaultUnreachable
        | Reason::Terminating => false,
        Reason::ImageRefused
        | Reason::ImageNotAllowed
        | Reason::UserNamespacesUnsupported
        | Reason::ImageVolumeUnsupported
        | Reason::ContainerRefused
        | Reason::PodRefused
        | Reason::NamespaceNotIsolated
        | Reason::NetworkNotIsolated
        | Reason::LinkFailed
        | Reason::InvalidSpec
        | Reason::SourceNotFound
        | Reason::SourceForbidden
        | Reason::VaultSealed
        | Reason::VaultTlsFailed
        | Reason::VaultRoleUnknown
        | Reason::VaultDenied
        | Reason::VaultAudienceWrong
        | Reason::VaultRoleTooBroad
        | Reason::VaultPolicyTooNarrow
        | Reason::VaultKeyMissing
        | Reason::VaultKeyUnusable
        | Reason::VaultFailed
        | Reason::AddressNotAllowed => true,
    }
}

/// An object in one state, and what Argo CD must be told of it.
struct Case {
    object: Value,
    status: &'static str,
    words: String,
}

/// Every outcome of a pass, with what must be told of it, `after` the object's creation.
fn outcomes(reason: Reason, after: TimeDelta) -> Vec<(Outcome, &'static str, String)> {
    let cause = || Cause::new(reason, WORDS);
    let ending = || Ending { cause: cause(), at: created() + after, announced: true };
    let pod = || Box::new(Pod::default());
    let held = if needs_a_human(reason) { "Degraded" } else { "Progressing" };
    let is_late = after >= TimeDelta::minutes(30);
    let needed = needs_a_human(reason) && !is_late;
    let words = || format!("{}: {WORDS}", reason.as_str());
    let leaving = if needed { words() } else { format!("Terminating: {WORDS}; the pod is being deleted") };
    let gone = if needed { words() } else { format!("ended, {}", words()) };
    vec![
        (Outcome::Held(cause()), held, words()),
        (Outcome::Standing(pod(), PodState::Starting(cause())), held, words()),
        (Outcome::Standing(pod(), PodState::Over(cause())), held, words()),
        (
            Outcome::Standing(pod(), PodState::Running { since: created() }),
            "Progressing",
            "Starting: the pod runs; waiting for its agent".to_owned(),
        ),
        (Outcome::Standing(pod(), PodState::Open), "Healthy", format!("open until 2027-01-15T08:30:00Z: {COMMAND}")),
        (Outcome::Ending { ending: ending(), pod: Some(pod()), gone: false }, if needed { "Degraded" } else { "Progressing" }, leaving),
        (Outcome::Ending { ending: ending(), pod: None, gone: true }, if needed { "Degraded" } else { "Healthy" }, gone),
    ]
}

/// Every state of a kind: the statuses that the controllers' own function writes.
fn cases<S: Session>() -> Vec<Case> {
    let settings = settings();
    let session: S = serde_json::from_value(fresh(S::KIND)).expect("an object");
    let identity = Identity::of(&session, Duration::from_hours(1)).expect("an identity");
    let with = |shared: SessionStatus, status: &'static str, words: &str| {
        let mut object = fresh(S::KIND);
        object["status"] = serde_json::to_value(&shared).expect("JSON");
        let whole: S = serde_json::from_value(object.clone()).expect("a status of this kind");
        assert_eq!(whole.state(), Some(&shared));
        Case { object, status, words: words.to_owned() }
    };
    let seen = status::unknown(&session, &identity, &settings, created());
    let mut cases = vec![
        Case { object: fresh(S::KIND), status: "Progressing", words: "has not seen it".into() },
        with(seen, "Progressing", "first sight of the object"),
    ];
    for reason in Reason::ALL {
        for after in [TimeDelta::minutes(1), TimeDelta::minutes(31)] {
            for (outcome, told, words) in outcomes(*reason, after) {
                let shared = status::status(&session, &identity, &outcome, &settings, created() + after).expect("a status");
                cases.push(with(shared, told, &words));
            }
        }
    }
    cases
}

/// Both kinds' states.
fn all() -> Vec<Case> {
    cases::<DebugSession>().into_iter().chain(cases::<BreakglassVM>()).collect()
}

#[test]
fn every_state_is_told_as_it_is() {
    let cases = all();
    for case in &cases {
        let health = health(&case.object);
        assert!(health.status == case.status && health.message.contains(&case.words), "{health:?}\n{:#}", case.object);
    }
    let phases: HashSet<Phase> =
        cases.iter().filter_map(|case| serde_json::from_value(case.object["status"]["phase"].clone()).ok()).collect();
    let every = [Phase::Waiting, Phase::Starting, Phase::Open, Phase::Ended, Phase::Failed];
    assert_eq!(phases, HashSet::from(every), "the cases are every phase");
    let told: BTreeSet<&str> = cases.iter().map(|case| case.status).collect();
    assert_eq!(told, BTreeSet::from(["Degraded", "Healthy", "Progressing"]));
}

#[test]
fn a_change_that_is_not_seen_yet_is_waited_for_unless_it_is_over() {
    for mut case in all() {
        case.object["metadata"]["generation"] = json!(4);
        let health = health(&case.object);
        if case.object["status"]["endedAt"].is_null() {
            assert_eq!(health.status, "Progressing", "{:#}", case.object);
        } else {
            assert_eq!(health.status, case.status, "{:#}", case.object);
        }
    }
}

#[test]
fn the_order_of_conditions_and_other_conditions_do_not_matter() {
    let other = json!({ "type": "Other", "status": "True", "reason": "Other", "message": "another program's" });
    for case in all() {
        let before = health(&case.object);
        let mut object = case.object;
        let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { continue };
        conditions.reverse();
        conditions.insert(0, other.clone());
        assert_eq!(health(&object), before, "{object:#}");
    }
}

/// Pointers to everything in a value.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, child)| (name.replace('~', "~0").replace('/', "~1"), child)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        let pointer = format!("{at}/{name}");
        pointers(child, &pointer, found);
        found.push(pointer);
    }
}

#[test]
fn an_object_that_lacks_something_is_no_error_and_never_healthier() {
    let rank = |status: &str| ["Healthy", "Progressing", "Degraded"].iter().position(|one| *one == status).expect("a status");
    let mut tried = 0;
    // One of each shape is enough: reasons are words.
    let mut shapes = HashSet::new();
    for case in all() {
        let mut found = Vec::new();
        pointers(&case.object, "", &mut found);
        if !shapes.insert((case.object["kind"].to_string(), case.status, found.clone())) {
            continue;
        }
        for pointer in found.iter().filter(|pointer| *pointer != "/kind") {
            let mut object = case.object.clone();
            *object.pointer_mut(pointer).expect("there") = Value::Null;
            tried += 1;
            let health = health(&object);
            let is_worse = rank(&health.status) >= rank(case.status);
            // Only what says that a human is needed can be lost; then it is waited for.
            assert!(is_worse || health.status == "Progressing", "without {pointer}: {health:?}\n{:#}", case.object);
        }
    }
    assert!(tried > 300, "{tried}");
    for kind in [DebugSession::KIND, BreakglassVM::KIND] {
        for status in [json!({}), json!({ "conditions": [] }), json!({ "conditions": [{}] }), json!({ "conditions": [null] })] {
            assert_eq!(health(&json!({ "kind": kind, "metadata": {}, "status": status })).status, "Progressing");
        }
        assert_eq!(health(&json!({ "kind": kind })).status, "Progressing");
    }
}

#[test]
fn a_power_verb_is_told_and_makes_nothing_unhealthy() {
    let open = cases::<BreakglassVM>().into_iter().find(|case| case.status == "Healthy").expect("an open one").object;
    let states = [PowerState::Running, PowerState::Succeeded, PowerState::Failed, PowerState::Unknown];
    for state in states {
        // A state that is added must be told too.
        match state {
            PowerState::Running | PowerState::Succeeded | PowerState::Failed | PowerState::Unknown => {}
        }
        let mut object = open.clone();
        let state = serde_json::to_value(state).expect("JSON");
        object["status"]["power"] = json!({ "verb": "Cycle", "state": state, "startedAt": "2027-01-15T08:00:00Z", "message": "in words" });
        let _: BreakglassVM = serde_json::from_value(object.clone()).expect("a status of this kind");
        let health = health(&object);
        let told = format!("; power Cycle: {}, in words", state.as_str().expect("a word"));
        assert!(health.status == "Healthy" && health.message.ends_with(&told), "{health:?}");
    }
}

#[test]
fn the_box_has_nothing_in_it_and_ends_what_does_not_end() {
    let object = json!({ "kind": "DebugSession" });
    for call in ["tostring(1)", "ipairs({})", "string.len('x')", "os.time()", "require('os')", "load('')", "('x'):upper()", "print(1)"] {
        let problem = run(&format!("local x = {call}\nreturn {{ status = 'Healthy', message = '' }}"), &object).expect_err(call);
        assert!(problem.to_string().contains("attempt to"), "{call}: {problem}");
    }
    let problem = run("while true do end", &object).expect_err("endless");
    assert!(problem.to_string().contains("it does not end"), "{problem}");
    let whole = run("return { status = obj.kind, message = 'x' }", &object).expect("table access works");
    assert_eq!(whole.status, "DebugSession");
}

#[test]
fn the_config_map_has_the_scripts_as_they_are() {
    let map: Value = serde_saphyr::from_str(&file("manifests/argocd/argocd-cm.yaml")).expect("YAML");
    assert_eq!((map["kind"].as_str(), map["metadata"]["name"].as_str()), (Some("ConfigMap"), Some("argocd-cm")));
    let scripts =
        [DebugSession::KIND, BreakglassVM::KIND].map(|kind| (format!("resource.customizations.health.sandglass.dev_{kind}"), script(kind)));
    let data = map["data"].as_object().expect("data");
    assert_eq!(data.len(), scripts.len());
    for (key, script) in scripts {
        assert_eq!(data[&key].as_str(), Some(script.as_str()), "{key}: put the text of the .lua file there");
    }
}
