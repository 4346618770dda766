//! An API server in memory, behind a real `kube::Client`: objects with versions and UIDs, preconditions, server-side apply of
//! a status, watches. It records every call, can crash its client at any of them, and checks what must hold for each.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a rule of a Role is about: verb, API group, resource with subresource, namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub namespace: String,
}

thread_local! {
    /// Every kind of call made on this thread, by whichever server: a test is one thread.
    static RECORD: RefCell<BTreeSet<Call>> = const { RefCell::new(BTreeSet::new()) };
}

/// What was called on this thread until now.
pub(crate) fn record() -> BTreeSet<Call> {
    RECORD.with_borrow(Clone::clone)
}

type Key = (String, String, String, String);
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Where a crash happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The call never arrives.
    Before,
    /// The call is carried out, and its answer is lost.
    After,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    log: Vec<(u64, Key, &'static str, Value)>,
    version: u64,
    calls: Vec<Call>,
    crash: Option<(usize, Crash)>,
    dead: bool,
    refuse_pods: Option<(u16, String)>,
    graceful: bool,
    forbidden: Option<(String, String)>,
    owned: BTreeMap<(Key, String), BTreeSet<String>>,
    pods_created: usize,
    now: DateTime<Utc>,
    next_uid: u64,
}

/// The server. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    changed: tokio::sync::watch::Sender<u64>,
}

struct Target {
    group: String,
    resource: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
    query: BTreeMap<String, String>,
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (code, json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message }))
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).expect("hex"), 16).expect("hex"));
            }
            b'+' => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn target(request: &Request<Body>) -> Target {
    let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let query = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(key, value)| (key.to_owned(), percent_decode(value))).collect();
    let (group, rest) = match path.as_slice() {
        ["api", "v1", rest @ ..] => (String::new(), rest),
        ["apis", group, _, rest @ ..] => ((*group).to_owned(), rest),
        other => panic!("no such path: {other:?}"),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => ((*namespace).to_owned(), rest),
        rest => (String::new(), rest),
    };
    let part = |at: usize| rest.get(at).map(|part| (*part).to_owned());
    Target { group, resource: part(0).expect("a resource"), namespace, name: part(1), subresource: part(2), query }
}

fn matches_selector(object: &Value, query: &BTreeMap<String, String>) -> bool {
    let terms =
        query.get("labelSelector").map(String::as_str).unwrap_or_default().split(',').filter(|term| !term.is_empty()).collect::<Vec<_>>();
    let by_label = terms.iter().all(|term| {
        let (key, value) = term.split_once('=').expect("an equality");
        object["metadata"]["labels"].get(key).and_then(Value::as_str) == Some(value)
    });
    let by_field = query.get("fieldSelector").is_none_or(|selector| {
        let (key, value) = selector.split_once('=').expect("an equality");
        object.pointer(&format!("/{}", key.replace('.', "/"))).and_then(Value::as_str) == Some(value)
    });
    by_label && by_field
}

impl Fake {
    pub(crate) fn new(now: DateTime<Utc>) -> Self {
        let state = State { now, version: 1, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: tokio::sync::watch::channel(0).0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// A client of it. After a crash, a new process needs a new one.
    pub(crate) fn client(&self) -> kube::Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { fake.serve(request).await }
        });
        kube::Client::new(service, "default")
    }

    async fn serve(&self, request: Request<Body>) -> Result<Answer, std::io::Error> {
        let target = target(&request);
        let method = request.method().clone();
        let watching = target.query.get("watch").is_some_and(|value| value == "true" || value == "1");
        let body = request.into_body().collect_bytes().await.expect("a body");
        let verb = match (method.as_str(), &target.name) {
            ("GET", _) if watching => "watch",
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", _) => "create",
            ("PATCH", _) => "patch",
            ("PUT", _) => "update",
            ("DELETE", _) => "delete",
            other => panic!("no such verb: {other:?}"),
        };
        let mut state = self.state();
        let dead = || std::io::Error::other("connection refused");
        if state.dead {
            return Err(dead());
        }
        let resource = target.subresource.as_ref().map_or_else(|| target.resource.clone(), |sub| format!("{}/{sub}", target.resource));
        let call = Call { verb: verb.into(), group: target.group.clone(), resource, namespace: target.namespace.clone() };
        let forbidden = state.forbidden.as_ref() == Some(&(verb.to_owned(), target.resource.clone()));
        RECORD.with_borrow_mut(|record| record.insert(call.clone()));
        state.calls.push(call);
        let crash = state.crash.filter(|(at, _)| *at == state.calls.len()).map(|(_, crash)| crash);
        state.dead = crash.is_some();
        if crash == Some(Crash::Before) {
            return Err(dead());
        }
        if forbidden {
            let (code, body) = failure(403, "Forbidden", "the ServiceAccount may not do that");
            return Ok(whole(code, &body));
        }
        if verb == "watch" {
            drop(state);
            return Ok(self.watch(target));
        }
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
        let (code, answer) = state.act(verb, &target, body);
        let version = state.version;
        drop(state);
        self.changed.send_replace(version);
        if crash == Some(Crash::After) {
            return Err(dead());
        }
        Ok(whole(code, &answer))
    }

    fn watch(&self, target: Target) -> Answer {
        let from: u64 = target.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
        let changes = self.changed.subscribe();
        let stream = futures::stream::unfold((self.clone(), target, from, changes), |(fake, target, from, mut changes)| async move {
            loop {
                let next = fake
                    .state()
                    .log
                    .iter()
                    .find(|(version, key, _, object)| {
                        *version > from
                            && key.0 == target.group
                            && key.1 == target.resource
                            && (target.namespace.is_empty() || key.2 == target.namespace)
                            && matches_selector(object, &target.query)
                    })
                    .cloned();
                if let Some((version, _, kind, object)) = next {
                    let line = format!("{}\n", json!({ "type": kind, "object": object }));
                    let frame = Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from(line)));
                    return Some((frame, (fake, target, version, changes)));
                }
                changes.changed().await.ok()?;
            }
        });
        Response::builder().status(200).body(StreamBody::new(stream).boxed_unsync()).expect("a response")
    }

    // What the tests do to the cluster, past the record.

    pub(crate) fn put(&self, group: &str, resource: &str, mut object: Value) -> Value {
        let mut state = self.state();
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (group.to_owned(), resource.to_owned(), text("/metadata/namespace"), text("/metadata/name"));
        let known = state.objects.contains_key(&key);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(state.uid());
        }
        if object["metadata"]["creationTimestamp"].is_null() {
            object["metadata"]["creationTimestamp"] = json!(state.timestamp());
        }
        if object["metadata"]["generation"].is_null() {
            object["metadata"]["generation"] = json!(1);
        }
        let object = state.store(key, object, if known { "MODIFIED" } else { "ADDED" });
        let version = state.version;
        drop(state);
        self.changed.send_replace(version);
        object
    }

    pub(crate) fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(group.into(), resource.into(), namespace.into(), name.into())).cloned()
    }

    pub(crate) fn all(&self, group: &str, resource: &str) -> Vec<Value> {
        self.state().objects.iter().filter(|(key, _)| key.0 == group && key.1 == resource).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn remove(&self, group: &str, resource: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        state.delete((group.into(), resource.into(), namespace.into(), name.into()));
        let version = state.version;
        drop(state);
        self.changed.send_replace(version);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Grows with every change of an object.
    pub(crate) fn version(&self) -> u64 {
        self.state().version
    }

    /// Calls that wrote something, but for events.
    pub(crate) fn writes(&self) -> usize {
        let reads = ["get", "list", "watch"];
        self.state().calls.iter().filter(|call| !reads.contains(&call.verb.as_str()) && call.resource != "events").count()
    }

    pub(crate) fn pods_created(&self) -> usize {
        self.state().pods_created
    }

    pub(crate) fn crash_at(&self, call: usize, crash: Crash) {
        self.state().crash = Some((call, crash));
    }

    /// The process is started again; returns whether it had crashed.
    pub(crate) fn revive(&self) -> bool {
        let mut state = self.state();
        state.crash = None;
        std::mem::take(&mut state.dead)
    }

    pub(crate) fn refuse_pods(&self, refusal: Option<(u16, &str)>) {
        self.state().refuse_pods = refusal.map(|(code, message)| (code, message.to_owned()));
    }

    pub(crate) fn forbid(&self, verb: &str, resource: &str) {
        self.state().forbidden = Some((verb.into(), resource.into()));
    }

    pub(crate) fn delete_gracefully(&self) {
        self.state().graceful = true;
    }

    pub(crate) fn set_now(&self, now: DateTime<Utc>) {
        self.state().now = now;
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.state().now
    }
}

fn whole(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).expect("a response")
}

impl State {
    fn uid(&mut self) -> String {
        self.next_uid += 1;
        format!("{:08x}-0000-4000-8000-000000000000", self.next_uid)
    }

    fn timestamp(&self) -> String {
        self.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    fn store(&mut self, key: Key, mut object: Value, kind: &'static str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push((self.version, key.clone(), kind, object.clone()));
        self.objects.insert(key, object.clone());
        object
    }

    fn delete(&mut self, key: Key) {
        if let Some(mut object) = self.objects.remove(&key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.log.push((self.version, key, "DELETED", object));
        }
    }

    fn act(&mut self, verb: &str, target: &Target, body: Value) -> (u16, Value) {
        let name = target.name.clone().or_else(|| body["metadata"]["name"].as_str().map(str::to_owned)).unwrap_or_default();
        let key = (target.group.clone(), target.resource.clone(), target.namespace.clone(), name);
        match verb {
            "list" => self.list(target),
            "create" => self.create(key, body),
            _ => {
                let Some(object) = self.objects.get(&key).cloned() else { return failure(404, "NotFound", "there is no such object") };
                match verb {
                    "get" => (200, object),
                    "delete" => self.remove(key, object, &body),
                    "patch" => self.patch(key, object, target, &body),
                    other => panic!("not served: {other}"),
                }
            }
        }
    }

    fn list(&self, target: &Target) -> (u16, Value) {
        let of_kind =
            |key: &Key| key.0 == target.group && key.1 == target.resource && (target.namespace.is_empty() || key.2 == target.namespace);
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, object)| of_kind(key) && matches_selector(object, &target.query))
            .map(|(_, object)| object)
            .collect();
        (200, json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": self.version.to_string() }, "items": items }))
    }

    fn create(&mut self, key: Key, mut object: Value) -> (u16, Value) {
        if key.1 == "pods" {
            if let Some((code, message)) = &self.refuse_pods {
                return failure(*code, "Forbidden", message);
            }
            assert!(object["spec"]["activeDeadlineSeconds"].is_i64(), "a pod without a deadline");
            assert_eq!(object["spec"]["automountServiceAccountToken"], json!(false));
            let expires = object["metadata"]["annotations"][crate::api::names::EXPIRES_AT].as_str().expect("an annotation");
            assert!(DateTime::parse_from_rfc3339(expires).expect("a time") > self.now, "a pod created after its end");
        }
        if self.objects.contains_key(&key) {
            return failure(409, "AlreadyExists", "it exists already");
        }
        self.pods_created += usize::from(key.1 == "pods");
        object["metadata"]["uid"] = json!(self.uid());
        object["metadata"]["namespace"] = json!(key.2);
        object["metadata"]["creationTimestamp"] = json!(self.timestamp());
        (201, self.store(key, object, "ADDED"))
    }

    fn remove(&mut self, key: Key, mut object: Value, options: &Value) -> (u16, Value) {
        let uid = options.pointer("/preconditions/uid").expect("every delete carries a UID");
        if *uid != object["metadata"]["uid"] {
            return failure(409, "Conflict", "another object of this name");
        }
        if self.graceful && key.1 == "pods" {
            object["metadata"]["deletionTimestamp"] = json!(self.timestamp());
            return (200, self.store(key, object, "MODIFIED"));
        }
        self.delete(key);
        (200, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
    }

    fn patch(&mut self, key: Key, mut object: Value, target: &Target, patch: &Value) -> (u16, Value) {
        for field in ["uid", "resourceVersion"] {
            let wanted = &patch["metadata"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return failure(409, "Conflict", "the object has been modified");
            }
        }
        let before = object.clone();
        if target.subresource.as_deref() == Some("status") {
            let manager = target.query.get("fieldManager").cloned().expect("a field manager");
            let owned = self.owned.entry((key.clone(), manager)).or_default();
            apply_status(&mut object, patch["status"].as_object().expect("a status"), owned);
        } else {
            assert!(key.1 != "debugsessions", "nobody writes a user's spec");
            merge(&mut object, patch);
        }
        if object == before {
            return (200, object);
        }
        (200, self.store(key, object, "MODIFIED"))
    }
}

/// Server-side apply, as far as the status needs it: fields of this manager that are no longer applied go; conditions are a
/// map by type.
fn apply_status(object: &mut Value, patch: &serde_json::Map<String, Value>, owned: &mut BTreeSet<String>) {
    let gone: Vec<String> = owned.iter().filter(|field| !patch.contains_key(*field)).cloned().collect();
    if object["status"].is_null() {
        object["status"] = json!({});
    }
    let status = object["status"].as_object_mut().expect("an object");
    for field in gone {
        status.remove(&field);
    }
    for (field, value) in patch {
        status.insert(field.clone(), value.clone());
    }
    *owned = patch.keys().cloned().collect();
}

fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}
