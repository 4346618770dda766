//! What every test needs: a namespace, a key, sessions to wait for, and the OpenSSH client with a session's own connection data.

use super::reading::{condition, has_ended, is_open, is_true, open_message, status, uid};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use russh::keys::ssh_key::LineEnding;
use sandglass::api::DebugSession;
use sandglass::api::names::OWNER_UID;
use sandglass::api::session::Session;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Where the session pods are.
pub const DEBUG: &str = "sandglass-debug";
/// Where Sandglass is.
pub const SYSTEM: &str = "sandglass-system";
/// The image that looks like a build's: bash, coreutils, `USER root`.
pub const BUILD_IMAGE: &str = "local.test/ci-build:1";
/// Busybox and netprobe.
pub const PROBE_IMAGE: &str = "local.test/probe:1";

/// Most tests share the cluster, some need it for themselves.
static CLUSTER: RwLock<()> = RwLock::const_new(());

#[allow(dead_code)]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// One test's corner of the cluster. Deleted at the end; if the test fails, what the cluster says is printed.
pub struct Lab {
    /// As the cluster's administrator.
    pub client: Client,
    /// Of this test.
    pub namespace: String,
    /// The user's public key.
    pub public_key: String,
    folder: TempDir,
    began: Instant,
    _turn: Turn,
}

impl Lab {
    /// A corner beside others.
    pub async fn shared(test: &str) -> Self {
        let turn = Turn::Shared(CLUSTER.read().await);
        Self::new(test, turn).await
    }

    /// The whole cluster.
    pub async fn alone(test: &str) -> Self {
        let turn = Turn::Alone(CLUSTER.write().await);
        Self::new(test, turn).await
    }

    async fn new(test: &str, turn: Turn) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_default().await.expect("a cluster: set KUBECONFIG, or run this by e2e/cluster/enter");
        let folder = tempfile::tempdir().expect("folder");
        let key = sandglass::gateway::keys::new_ed25519().expect("key");
        key.write_openssh_file(folder.path().join("id"), LineEnding::LF).expect("written");
        let public_key = key.public_key().to_openssh().expect("encoded");
        let namespace = format!("test-{test}-{}", suffix());
        println!("{namespace}: begins");
        let lab = Self { client, namespace, public_key, folder, began: Instant::now(), _turn: turn };
        lab.add_namespace(&lab.namespace).await;
        lab
    }

    async fn add_namespace(&self, name: &str) {
        let object = json!({ "metadata": { "name": name, "labels": { "sandglass.dev/test": "true" } } });
        let object: Namespace = serde_json::from_value(object).expect("a namespace");
        Api::all(self.client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
    }

    /// The objects of a kind in this test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The objects of a kind in another one.
    pub fn api_in<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates any object in this test's namespace.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let object: K = serde_json::from_value(object).expect("an object of this kind");
        self.api().create(&PostParams::default(), &object).await.expect("created")
    }

    /// The manifest of a small session; `spec` replaces its fields, `null` removes one.
    pub fn manifest(&self, name: &str, spec: Value) -> Value {
        let mut whole = json!({
            "source": { "image": BUILD_IMAGE },
            "ttl": "5m",
            "requester": "octocat",
            "access": { "authorizedKeys": [self.public_key] },
            "resources": { "limits": { "cpu": "500m", "memory": "128Mi", "ephemeral-storage": "256Mi" } },
        });
        let (Some(fields), Value::Object(spec)) = (whole.as_object_mut(), spec) else { panic!("a spec is an object") };
        for (field, value) in spec {
            if value.is_null() {
                fields.remove(&field)
            } else {
                fields.insert(field, value)
            };
        }
        json!({
            "apiVersion": "sandglass.dev/v1alpha1",
            "kind": "DebugSession",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": whole,
        })
    }

    /// Creates a session of that manifest.
    pub async fn session(&self, name: &str, spec: Value) -> DebugSession {
        self.create(self.manifest(name, spec)).await
    }

    /// A session that is open.
    pub async fn open(&self, name: &str, spec: Value) -> DebugSession {
        self.session(name, spec).await;
        self.until_open(name).await
    }

    /// Waits until the session is open; fails at once when it is over or stalled.
    pub async fn until_open(&self, name: &str) -> DebugSession {
        let decided = |session: &DebugSession| is_open(session) || has_ended(session) || is_true(session, "Stalled");
        let session = self.until(name, 60, "open", decided).await;
        assert!(is_open(&session), "{name} did not open: {}", open_message(&session));
        session
    }

    /// Waits until the session is over and everything of it is gone.
    pub async fn until_ended(&self, name: &str, seconds: u64) -> DebugSession {
        self.until(name, seconds, "over, with everything gone", |session| has_ended(session) && is_true(session, "Ready")).await
    }

    /// Waits until `Open` is not true for this reason.
    pub async fn until_reason(&self, name: &str, reason: &str) -> DebugSession {
        let what = format!("not open for the reason {reason}");
        self.until(name, 60, &what, |session| condition(session, "Open").is_some_and(|open| open.reason == reason)).await
    }

    /// Waits by watch.
    pub async fn until(&self, name: &str, seconds: u64, what: &str, fulfilled: impl Fn(&DebugSession) -> bool) -> DebugSession {
        self.until_of(name, seconds, what, fulfilled).await
    }

    /// The same for an object of either kind.
    pub async fn until_of<S: Session>(&self, name: &str, seconds: u64, what: &str, fulfilled: impl Fn(&S) -> bool) -> S {
        let waiting = await_condition(self.api(), name, |session: Option<&S>| session.is_some_and(&fulfilled));
        let waited = tokio::time::timeout(Duration::from_secs(seconds), waiting).await;
        waited.unwrap_or_else(|_| panic!("{name} is not {what} after {seconds} s")).expect("watched").expect("there")
    }

    /// The session now.
    pub async fn get(&self, name: &str) -> DebugSession {
        self.api().get(name).await.expect("the session")
    }

    /// Merges `spec` into a session's.
    pub async fn change(&self, name: &str, spec: Value) -> Result<DebugSession, kube::Error> {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await
    }

    /// Deletes a session, as `kubectl delete` does.
    pub async fn delete(&self, name: &str) {
        self.api::<DebugSession>().delete(name, &DeleteParams::default()).await.expect("deleted");
    }

    /// The session's pod, where there is one.
    pub async fn pod(&self, session: &DebugSession) -> Option<Pod> {
        let of_session = ListParams::default().labels(&format!("{OWNER_UID}={}", uid(session)));
        let mut pods = self.api_in::<Pod>(DEBUG).list(&of_session).await.expect("listed").items;
        assert!(pods.len() <= 1, "more than one pod of {}", session.name_any());
        pods.pop()
    }

    /// Waits until no pod of the session is left.
    pub async fn until_no_pod(&self, session: &DebugSession, seconds: u64) {
        let name = status(session).pod.expect("a pod").name;
        let gone = await_condition(self.api_in::<Pod>(DEBUG), &name, |pod: Option<&Pod>| pod.is_none());
        let waited = tokio::time::timeout(Duration::from_secs(seconds), gone).await;
        waited.unwrap_or_else(|_| panic!("the pod {name} is still there after {seconds} s")).expect("watched");
    }

    /// A pod that may do what it likes, in this test's namespace.
    pub async fn plain_pod(&self, name: &str, image: &str, command: &[&str]) -> Pod {
        self.create::<Pod>(json!({
            "metadata": { "name": name },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "main", "image": image, "command": command }],
            },
        }))
        .await;
        let ready =
            |pod: Option<&Pod>| pod.and_then(|pod| pod.status.as_ref()).is_some_and(|status| status.phase.as_deref() == Some("Running"));
        let waiting = await_condition(self.api(), name, ready);
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("runs within 30 s").expect("watched").expect("there")
    }

    // --- OpenSSH ------------------------------------------------------------------------------

    /// A program of OpenSSH that knows the session as the host `s`, by nothing but its status.
    pub fn client_of<S: Session>(&self, program: &str, session: &S) -> Command {
        let connection = status(session).connection.unwrap_or_else(|| panic!("{} has no connection in its status", session.name_any()));
        let folder = self.folder.path().display();
        let known_hosts = self.path(&format!("{}.known_hosts", session.name_any()));
        replace_file(&known_hosts, &(connection.known_hosts.join("\n") + "\n"));
        let configuration = self.path(&format!("{}.ssh_config", session.name_any()));
        let text = format!(
            "Host s\n HostName {}\n Port {}\n User {}\n IdentityFile {folder}/id\n IdentitiesOnly yes\n BatchMode yes\n ConnectTimeout 10\n \
             StrictHostKeyChecking yes\n UserKnownHostsFile {}\n LogLevel ERROR\n",
            connection.host,
            connection.port,
            connection.user,
            known_hosts.display()
        );
        replace_file(&configuration, &text);
        let mut command = Command::new(program);
        command.arg("-F").arg(configuration).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command in the session.
    pub async fn ssh<S: Session>(&self, session: &S, command: &str) -> Output {
        let mut client = self.client_of("ssh", session);
        client.arg("s").arg(command);
        finish(client, 60).await
    }

    /// Runs a command in the session that must succeed; its output.
    pub async fn run<S: Session>(&self, session: &S, command: &str) -> String {
        let output = self.ssh(session, command).await;
        assert!(output.status.success(), "{command}: {:?}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// A login at a terminal that stays: its command prints `here` first.
    pub async fn stay<S: Session>(&self, session: &S, command: &str) -> Login {
        let output = self.path(&format!("login-{}", suffix()));
        let file = std::fs::File::create(&output).expect("created");
        let mut client = self.client_of("ssh", session);
        client.args(["-tt", "s", &format!("echo he''re; {command}")]);
        client.stdin(Stdio::piped()).stdout(file.try_clone().expect("cloned")).stderr(file);
        let mut login = Login { child: client.spawn().expect("ssh"), output };
        let began = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while !login.seen().contains("here") {
            let waits = login.goes_on() && began.elapsed() < Duration::from_secs(30);
            assert!(waits, "no login after {:?}: {}", began.elapsed(), login.seen());
            tick.tick().await;
        }
        login
    }

    /// What a login that must be refused is told.
    pub async fn refused_login<S: Session>(&self, session: &S) -> String {
        let output = self.ssh(session, "true").await;
        assert_eq!(output.status.code(), Some(255), "a login got through: {}", text(&output.stdout));
        text(&output.stderr)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        } else {
            println!("{}: passed after {:.1} s", self.namespace, self.began.elapsed().as_secs_f32());
        }
        kubectl(&["delete", "namespace", &self.namespace, "--wait=false", "--ignore-not-found"]);
    }
}

impl Lab {
    fn tell(&self) {
        let namespace = self.namespace.as_str();
        println!("--- {namespace} failed after {:.1} s", self.began.elapsed().as_secs_f32());
        for (title, arguments) in [
            ("sessions", &["get", "debugsessions", "-n", namespace, "-o", "yaml"][..]),
            ("events", &["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"]),
            ("recoveries", &["get", "breakglassvms", "-n", namespace, "-o", "yaml"]),
            ("recovery pods", &["get", "pods", "-n", "sandglass-vm", "-o", "wide"]),
            ("logs of recovery pods", &["logs", "-n", "sandglass-vm", "-l", "sandglass.dev/owner-kind=BreakglassVM", "--tail=40"]),
            ("session pods", &["get", "pods", "-n", DEBUG, "-o", "wide"]),
            ("events of the session pods", &["get", "events", "-n", DEBUG, "--sort-by=.lastTimestamp"]),
            ("controller", &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=controller", "--tail=40"]),
            ("gateway", &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=gateway", "--tail=40"]),
        ] {
            let output = kubectl(arguments);
            let lines: Vec<&str> = output.lines().collect();
            println!("--- {title} ({namespace})\n{}", lines[lines.len().saturating_sub(150)..].join("\n"));
        }
    }
}

/// Writes a file that another client may be reading: it finds the old one or the new one, never half of it.
fn replace_file(path: &Path, text: &str) {
    let new = path.with_extension(suffix());
    std::fs::write(&new, text).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

/// Runs kubectl; what it prints.
pub fn kubectl(arguments: &[&str]) -> String {
    let output = std::process::Command::new("kubectl").arg("--request-timeout=20s").args(arguments).output().expect("kubectl");
    text(&output.stdout) + &text(&output.stderr)
}

/// A login that stays.
pub struct Login {
    child: Child,
    output: PathBuf,
}

impl Login {
    /// Everything it was shown.
    pub fn seen(&self) -> String {
        text(&std::fs::read(&self.output).unwrap_or_default())
    }

    /// The last line it was shown.
    pub fn last_line(&self) -> String {
        self.seen().lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
    }

    /// Types.
    pub async fn type_in(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("an input");
        stdin.write_all(text.as_bytes()).await.expect("typed");
    }

    /// Waits until it ended, and tells how and when.
    pub async fn ended(&mut self, seconds: u64) -> (ExitStatus, DateTime<Utc>) {
        let ended = tokio::time::timeout(Duration::from_secs(seconds), self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("the login goes on after {seconds} s: {}", self.seen())).expect("waited");
        (status, Utc::now())
    }

    /// Whether it goes on.
    pub fn goes_on(&mut self) -> bool {
        self.child.try_wait().expect("asked").is_none()
    }
}

/// Runs a program to its end, within a limit.
pub async fn finish(mut command: Command, seconds: u64) -> Output {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    tokio::time::timeout(Duration::from_secs(seconds), output).await.expect("ends within its limit").expect("started")
}

/// Waits for a condition, with a limit.
pub async fn eventually(what: &str, seconds: u64, condition: impl AsyncFn() -> bool) {
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while !condition().await {
        assert!(began.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s");
        tick.tick().await;
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Six random letters and digits.
pub fn suffix() -> String {
    random(6)
}

/// Random small letters and digits.
pub fn random(count: usize) -> String {
    let mut bytes = vec![0; count];
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut bytes).expect("random");
    bytes.iter().map(|byte| char::from(b"abcdefghijkmnpqrstuvwxyz23456789"[usize::from(*byte) % 32])).collect()
}
