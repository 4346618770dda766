//! A controller, its API server, and what the rest of a cluster would do.

use chrono::{DateTime, TimeDelta, Utc};
use kube::core::DeserializeGuard;
use kube::runtime::reflector;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::api::DebugSession;
use crate::api::session::Session as _;
use crate::debug_session::{Context, reconcile};
use crate::domain::configuration::Configuration;
use crate::kubernetes::Recorder;
use crate::kubernetes::time::Clock;
use crate::lifecycle::fake::Fake;
use crate::lifecycle::{Base, Error, Guarded, Metrics, Passes, Settings};

pub(crate) const GROUP: &str = "sandglass.dev";
pub(crate) const SESSIONS: &str = "debugsessions";
pub(crate) const BOX: &str = "sandglass-debug";

pub(crate) fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
}

pub(crate) fn settings() -> Settings {
    let configuration = Configuration::parse(
        "gateway: { host: debug.example.com, port: 2222 }\n\
         sessions: { agentImage: 'registry.example.com/sandglass:1', imagePullSecrets: [ pull-secret ] }\n\
         allowedImages: [ { prefix: 'registry.example.com/builds/' } ]\n\
         knownHosts: [ 'git.example.com ssh-ed25519 AAAAgit' ]\n\
         recording: { mode: Off }\n",
    );
    Settings {
        configuration: configuration.expect("valid"),
        links: vec!["10.96.0.20:8443".parse().expect("an address")],
        link_certificate_authority: "-----BEGIN CERTIFICATE-----\nlink\n-----END CERTIFICATE-----\n".into(),
        host_keys: vec!["ssh-ed25519 AAAAhost comment".into()],
        must_be_closed: vec!["10.96.0.1:443".parse().expect("an address")],
    }
}

/// The smallest valid session.
pub(crate) fn session(name: &str) -> Value {
    json!({
        "apiVersion": "sandglass.dev/v1alpha1",
        "kind": "DebugSession",
        "metadata": { "name": name, "namespace": "ci" },
        "spec": {
            "source": { "image": "registry.example.com/builds/go:1" },
            "requester": "octocat",
            "ttl": "30m",
            "access": { "authorizedKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake"] },
        },
    })
}

/// Everything a namespace needs to count as isolated.
pub(crate) fn isolate(fake: &Fake) {
    fake.put("", "namespaces", json!({ "metadata": { "name": BOX, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } }));
    fake.put(
        "networking.k8s.io",
        "networkpolicies",
        json!({
            "metadata": { "name": "default-deny", "namespace": BOX },
            "spec": { "podSelector": {}, "policyTypes": ["Ingress", "Egress"] },
        }),
    );
}

pub(crate) struct World {
    pub fake: Fake,
    settings: Settings,
    context: Arc<Context>,
    writer: Writer<Guarded<DebugSession>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let fake = Fake::new(start());
        isolate(&fake);
        let (context, writer) = process(&fake, &settings);
        Self { fake, settings, context, writer }
    }

    /// A new process; everything in memory is gone.
    pub(crate) fn restart(&mut self) {
        (self.context, self.writer) = process(&self.fake, &self.settings);
    }

    pub(crate) fn context(&self) -> Arc<Context> {
        Arc::clone(&self.context)
    }

    pub(crate) fn create(&self, name: &str) {
        self.fake.put(GROUP, SESSIONS, session(name));
    }

    /// Creates one whose spec differs in these fields.
    pub(crate) fn create_with(&self, name: &str, changes: &Value) {
        let mut object = session(name);
        for (field, value) in changes.as_object().expect("fields") {
            object["spec"][field] = value.clone();
        }
        self.fake.put(GROUP, SESSIONS, object);
    }

    pub(crate) fn object(&self, name: &str) -> Value {
        self.fake.get(GROUP, SESSIONS, "ci", name).expect("the session")
    }

    pub(crate) fn status(&self, name: &str) -> Value {
        self.object(name)["status"].clone()
    }

    /// Status and reason of a condition: `False/Scheduling`; empty where it is absent.
    pub(crate) fn condition(&self, name: &str, kind: &str) -> String {
        let status = self.status(name);
        let found = status["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
        found
            .map(|one| format!("{}/{}", one["status"].as_str().unwrap_or_default(), one["reason"].as_str().unwrap_or_default()))
            .unwrap_or_default()
    }

    pub(crate) fn message(&self, name: &str) -> String {
        let status = self.status(name);
        let found = status["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Open");
        found.and_then(|one| one["message"].as_str()).unwrap_or_default().to_owned()
    }

    pub(crate) fn pods(&self) -> Vec<Value> {
        self.fake.all("", "pods").into_iter().filter(|pod| pod["metadata"]["namespace"] == BOX).collect()
    }

    /// The cache catches up with the server.
    pub(crate) fn sync(&mut self) {
        self.writer.apply_watcher_event(&Event::Init);
        for object in self.fake.all(GROUP, SESSIONS) {
            let guarded: DeserializeGuard<DebugSession> = serde_json::from_value(object).expect("metadata");
            self.writer.apply_watcher_event(&Event::InitApply(guarded));
        }
        self.writer.apply_watcher_event(&Event::InitDone);
    }

    /// One pass over each session, with a fresh cache.
    pub(crate) async fn round(&mut self) -> Result<(), Error> {
        self.sync();
        for guarded in self.context.base.sessions.state() {
            self.sync();
            let Some(current) = self.context.base.sessions.get(&reflector::ObjectRef::from_obj(guarded.as_ref())) else { continue };
            let session = current.0.as_ref().expect("readable").clone();
            reconcile(Arc::new(session), &self.context).await?;
        }
        Ok(())
    }

    /// Passes until nothing is written any more. A crash on the way starts a new process.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..30 {
            let before = self.fake.version();
            let result = self.round().await;
            if self.fake.revive() {
                self.restart();
                continue;
            }
            result.expect("a pass");
            if self.fake.version() == before {
                return;
            }
        }
        panic!("it never settles");
    }

    pub(crate) fn advance(&self, delta: TimeDelta) {
        self.fake.set_now(self.fake.now() + delta);
    }

    // The rest of the cluster.

    /// Changes the status of the one pod there is.
    pub(crate) fn pod_status(&self, status: Value) {
        let mut pod = self.pods().pop().expect("a pod");
        pod["spec"]["nodeName"] = json!("node");
        pod["status"] = status;
        self.fake.put("", "pods", pod);
    }

    pub(crate) fn run_pod(&self) {
        let running = json!({ "running": { "startedAt": self.fake.now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true) } });
        let id = format!("registry.example.com/builds/go@sha256:{}", "7".repeat(64));
        self.pod_status(json!({ "phase": "Running", "containerStatuses": [
            { "name": "session", "image": "", "imageID": id, "ready": true, "restartCount": 0, "state": running },
        ] }));
    }

    /// A container that waits.
    pub(crate) fn pod_waits(&self, container: &str, reason: &str, message: &str) {
        let list = if container == "session" { "containerStatuses" } else { "initContainerStatuses" };
        self.pod_status(json!({ "phase": "Pending", list: [
            { "name": container, "image": "", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "waiting": { "reason": reason, "message": message } } },
        ] }));
    }

    /// What a gateway writes.
    pub(crate) fn link(&self, name: &str, state: &str) {
        let mut object = self.object(name);
        object["status"]["link"] = json!({ "podUid": object["status"]["pod"]["uid"], "state": state, "message": "10.96.0.1:443" });
        self.fake.put(GROUP, SESSIONS, object);
    }

    pub(crate) async fn open(&mut self, name: &str) {
        self.settle().await;
        self.run_pod();
        self.settle().await;
        self.link(name, "Ready");
        self.settle().await;
        assert_eq!(self.condition(name, "Open"), "True/SessionOpen");
    }
}

pub(crate) fn process(fake: &Fake, settings: &Settings) -> (Arc<Context>, Writer<Guarded<DebugSession>>) {
    let (store, writer) = reflector::store();
    let time = fake.clone();
    let recorder = Recorder::new(fake.client(), crate::api::names::CONTROLLER_MANAGER, None);
    let mut registry = Registry::default();
    let passes = Passes::register(&mut registry);
    let metrics = Metrics::register(&mut registry, DebugSession::KIND, "debug_sessions", &passes);
    let base = Base::new(fake.client(), store, BOX.into(), settings.clone(), Clock::of(move || time.now()), recorder, metrics);
    (Arc::new(Context::new(base)), writer)
}
