//! A controller, its API server, and what the rest of a cluster would do.

use chrono::{DateTime, TimeDelta, Utc};
use kube::core::DeserializeGuard;
use kube::runtime::reflector;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::api::BreakglassVM;
use crate::api::session::Session as _;
use crate::breakglass_vm::{Context, reconcile};
use crate::domain::configuration::Configuration;
use crate::kubernetes::Recorder;
use crate::kubernetes::time::Clock;
use crate::lifecycle::fake::Fake;
use crate::lifecycle::{Base, Driver as _, Error, Guarded, Metrics, Passes, Settings};

const GROUP: &str = "sandglass.dev";
const RECOVERIES: &str = "breakglassvms";
pub(crate) const BOX: &str = "sandglass-vm";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ target";
const HYPERVISOR_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti hypervisor";

pub(crate) fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
}

pub(crate) fn settings() -> Settings {
    let configuration = Configuration::parse(
        "gateway: { host: debug.example.com, port: 2222 }\n\
         sessions: { agentImage: 'registry.example.com/sandglass:1' }\n\
         recoveries: { allowedNetworks: [10.0.20.0/24], avoidNodeLabels: [example.com/gpu], imagePullSecrets: [pull-secret], vaultServers: [{ address: 'https://10.0.20.50:8200/' }] }\n\
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

/// A recovery with everything in it; all names differ, so that a swap shows.
pub(crate) fn recovery(name: &str) -> Value {
    json!({
        "apiVersion": "sandglass.dev/v1alpha1",
        "kind": "BreakglassVM",
        "metadata": { "name": name, "namespace": "infra" },
        "spec": {
            "target": { "address": "10.0.20.102", "port": 22, "user": "breakglass", "hostKeys": [KEY] },
            "hypervisor": { "address": "10.0.20.2", "port": 2022, "user": "power", "hostKeys": [HYPERVISOR_KEY], "vm": "102",
                "verbs": ["Status", "Cycle"] },
            "vault": {
                "address": "https://10.0.20.50:8200", "caBundle": "-----BEGIN CERTIFICATE-----\n$vault\n-----END CERTIFICATE-----\n",
                "authMount": "kubernetes", "role": "devvm", "audience": "vault",
                "targetKey": { "kv": { "mount": "secret", "path": "breakglass/devvm", "field": "private_key" } },
                "hypervisorKey": { "ssh": { "mount": "ssh-client-signer", "role": "signer" } },
            },
            "requester": "alice",
            "ttl": "30m",
            "access": { "authorizedKeys": [KEY] },
            "placement": { "avoidNodeLabels": ["example.com/storage"] },
        },
    })
}

pub(crate) struct World {
    pub fake: Fake,
    settings: Settings,
    context: Arc<Context>,
    writer: Writer<Guarded<BreakglassVM>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let fake = Fake::new(start());
        fake.put(
            "",
            "namespaces",
            json!({ "metadata": { "name": BOX, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } }),
        );
        fake.put(
            "networking.k8s.io",
            "networkpolicies",
            json!({ "metadata": { "name": "default-deny", "namespace": BOX }, "spec": { "podSelector": {}, "policyTypes": ["Ingress", "Egress"] } }),
        );
        let settings = settings();
        let (context, writer) = process(&fake, &settings);
        Self { fake, settings, context, writer }
    }

    /// A new process; everything in memory is gone.
    fn restart(&mut self) {
        (self.context, self.writer) = process(&self.fake, &self.settings);
    }

    /// Creates one whose spec differs in these fields.
    pub(crate) fn create_with(&self, name: &str, changes: &Value) {
        let mut object = recovery(name);
        for (field, value) in changes.as_object().expect("fields") {
            object["spec"][field] = value.clone();
        }
        self.fake.put(GROUP, RECOVERIES, object);
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.fake.get(GROUP, RECOVERIES, "infra", name).expect("the recovery");
        change(&mut object);
        self.fake.put(GROUP, RECOVERIES, object);
    }

    pub(crate) fn forget(&self, name: &str) {
        self.fake.remove(GROUP, RECOVERIES, "infra", name);
    }

    pub(crate) fn status(&self, name: &str) -> Value {
        self.fake.get(GROUP, RECOVERIES, "infra", name).expect("the recovery")["status"].clone()
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

    /// Names of what lies in the namespace of the pods, of a resource.
    pub(crate) fn beside(&self, group: &str, resource: &str) -> Vec<String> {
        let all = self.fake.all(group, resource).into_iter();
        let here = all.filter(|object| object["metadata"]["namespace"] == BOX).map(|object| object["metadata"]["name"].clone());
        here.filter_map(|name| name.as_str().map(str::to_owned)).filter(|name| name != "default-deny").collect()
    }

    /// Everything that was made for recoveries and is still there.
    pub(crate) fn left(&self) -> Vec<String> {
        let policies = self.beside("networking.k8s.io", "networkpolicies");
        [self.beside("", "pods"), policies, self.beside("", "serviceaccounts")].concat()
    }

    fn sync(&mut self) {
        self.writer.apply_watcher_event(&Event::Init);
        for object in self.fake.all(GROUP, RECOVERIES) {
            let guarded: DeserializeGuard<BreakglassVM> = serde_json::from_value(object).expect("metadata");
            self.writer.apply_watcher_event(&Event::InitApply(guarded));
        }
        self.writer.apply_watcher_event(&Event::InitDone);
    }

    /// One pass over each object, with a fresh cache, and one look for orphans.
    pub(crate) async fn round(&mut self) -> Result<(), Error> {
        self.sync();
        for guarded in self.context.base.sessions.state() {
            self.sync();
            let Some(current) = self.context.base.sessions.get(&reflector::ObjectRef::from_obj(guarded.as_ref())) else { continue };
            reconcile(Arc::new(current.0.as_ref().expect("readable").clone()), &self.context).await?;
        }
        Ok(())
    }

    /// One look for what objects left that are gone.
    pub(crate) async fn collect(&mut self) {
        self.sync();
        crate::lifecycle::orphans::collect(&self.context.base).await.expect("collected");
        self.context.collect_guards().await.expect("collected");
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

    /// A node takes the pod, and says nothing about it.
    pub(crate) fn take_pod(&self) {
        let mut pod = self.fake.all("", "pods").pop().expect("a pod");
        pod["spec"]["nodeName"] = json!("node");
        pod["status"] = json!({ "phase": "Pending" });
        self.fake.put("", "pods", pod);
    }

    /// The pod ends by itself.
    pub(crate) fn end_pod(&self, code: i32) {
        let mut pod = self.fake.all("", "pods").pop().expect("a pod");
        pod["spec"]["nodeName"] = json!("node");
        pod["status"] = json!({ "phase": "Failed", "containerStatuses": [
            { "name": "recovery", "image": "", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "terminated": { "exitCode": code } } },
        ] });
        self.fake.put("", "pods", pod);
    }

    pub(crate) fn run_pod(&self) {
        let mut pod = self.fake.all("", "pods").pop().expect("a pod");
        let running = json!({ "running": { "startedAt": self.fake.now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true) } });
        pod["spec"]["nodeName"] = json!("node");
        pod["status"] = json!({ "phase": "Running", "containerStatuses": [
            { "name": "recovery", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": running },
        ] });
        self.fake.put("", "pods", pod);
    }

    /// What a gateway writes.
    pub(crate) fn link(&self, name: &str, state: &str, reason: Option<&str>) {
        self.change(name, |object| {
            let uid = object["status"]["pod"]["uid"].clone();
            object["status"]["link"] = json!({ "podUid": uid, "state": state, "reason": reason, "message": "says the pod" });
        });
    }

    pub(crate) async fn open(&mut self, name: &str) {
        self.settle().await;
        self.run_pod();
        self.settle().await;
        self.link(name, "Ready", None);
        self.settle().await;
        assert_eq!(self.condition(name, "Open"), "True/SessionOpen");
    }
}

pub(crate) fn process(fake: &Fake, settings: &Settings) -> (Arc<Context>, Writer<Guarded<BreakglassVM>>) {
    let (store, writer) = reflector::store();
    let time = fake.clone();
    let recorder = Recorder::new(fake.client(), crate::api::names::CONTROLLER_MANAGER, None);
    let mut registry = Registry::default();
    let passes = Passes::register(&mut registry);
    let metrics = Metrics::register(&mut registry, BreakglassVM::KIND, "breakglass_vms", &passes);
    let base = Base::new(fake.client(), store, BOX.into(), settings.clone(), Clock::of(move || time.now()), recorder, metrics);
    (Arc::new(Context::new(base)), writer)
}
