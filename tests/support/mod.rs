//! A gateway on loopback with the real agent and the real OpenSSH client: no cluster, everything else as it is.
#![allow(dead_code)]

pub mod archives;

use chrono::{TimeDelta, Utc};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use sandglass::api::{AnySession, DebugSession};
use sandglass::domain::configuration::Configuration;
use sandglass::gateway::admission::{Admission, TokenReviewer};
use sandglass::gateway::directory::Directory;
use sandglass::gateway::limits::Limits;
use sandglass::gateway::metrics::Metrics;
use sandglass::gateway::report::{Report, Reports};
use sandglass::gateway::watch::Farewell;
use sandglass::gateway::{Gateway, listener};
use sandglass::link::registry::Registry;
use sandglass::link::server::Refusal;
use sandglass::link::settings::{AgentSettings, VARIABLE};
use sandglass::link::{server, tls};
use sandglass::recording::archive::Archive;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The pod of the test session.
pub const POD_UID: &str = "11111111-2222-3333-4444-555555555555";
/// What the reviewer takes for that pod's token.
pub const TOKEN: &str = "token-of-the-pod";

struct OneToken;

impl TokenReviewer for OneToken {
    async fn review(&self, token: &str) -> Result<String, Refusal> {
        if token == TOKEN { Ok(POD_UID.into()) } else { Err(Refusal::Denied("not authenticated".into())) }
    }
}

/// A running gateway, its agent, and a user's key.
pub struct Bench {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where agents link.
    pub link: SocketAddr,
    /// What it reports.
    pub reports: mpsc::Receiver<Report>,
    /// Files of the test.
    pub folder: TempDir,
    /// The link CA, PEM.
    pub certificate_authority: String,
    agent: Option<Child>,
}

/// How a bench differs from the usual one.
pub struct Options {
    /// More lines of the configuration.
    pub configuration: &'static str,
    /// Changes the session before it is stored.
    pub change: fn(&mut DebugSession),
    /// Addresses the agent must find closed.
    pub must_be_closed: Vec<SocketAddr>,
    /// The gateway's clock.
    pub now: fn() -> chrono::DateTime<Utc>,
    /// Where it records.
    pub archive: Option<Arc<Archive>>,
    /// `recording.keystrokes`.
    pub keystrokes: &'static str,
    /// What a connection that is cut is given: so much that a busy machine's client hears its last line.
    pub farewell: Farewell,
}

impl Default for Options {
    fn default() -> Self {
        let [words, leave, close] = [10, 20, 25].map(Duration::from_secs);
        let farewell = Farewell { words, leave, close };
        let (change, must_be_closed) = (|_: &mut DebugSession| {}, Vec::new());
        Self { configuration: "", change, must_be_closed, now: Utc::now, archive: None, keystrokes: "Never", farewell }
    }
}

impl Bench {
    /// Everything up, and the agent linked.
    pub async fn start(options: Options) -> Self {
        let mut bench = Self::without_agent(&options).await;
        bench.start_agent(options.must_be_closed);
        bench.wait_for_link().await;
        bench
    }

    /// A gateway that no pod is linked to.
    pub async fn without_agent(options: &Options) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("folder");
        let text = format!(
            "gateway: {{ host: 127.0.0.1 }}\nsessions: {{ agentImage: i }}\nrecording: {{ mode: Off, keystrokes: {} }}\n{}",
            options.keystrokes, options.configuration
        );
        let configuration = Arc::new(Configuration::parse(&text).expect("valid"));
        let (reports, received) = Reports::new();
        let gateway = Arc::new(Gateway {
            limits: Arc::new(Limits::new(configuration.login.clone())),
            configuration,
            directory: Arc::new(Directory::default()),
            registry: Arc::new(Registry::default()),
            reports,
            budget: Arc::default(),
            archive: options.archive.clone(),
            metrics: Metrics::default(),
            drain: CancellationToken::new(),
            farewell: options.farewell,
            now: options.now,
        });
        let (certificate_authority, key) = tls::new_authority().expect("CA");
        let acceptor = tls::acceptor(&certificate_authority, key.expose()).expect("acceptor");
        let link_listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let link = link_listener.local_addr().expect("address");
        let admission = Arc::new(Admission::new(Arc::clone(&gateway), OneToken));
        tokio::spawn(server::serve(link_listener, acceptor, Arc::clone(&gateway.registry), admission));
        let ssh = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = ssh.local_addr().expect("address");
        let host_key = new_key();
        std::fs::write(folder.path().join("known_hosts"), known_hosts(address, &host_key)).expect("written");
        tokio::spawn(listener::serve(ssh, Arc::new(listener::configuration(host_key)), Arc::clone(&gateway), CancellationToken::new()));
        let user_key = new_key();
        write_key(&folder.path().join("id"), &user_key);
        let mut session = session(&user_key.public_key().to_openssh().expect("encoded"));
        (options.change)(&mut session);
        gateway.directory.put(session.into());
        let bench = Self { gateway, address, link, reports: received, folder, certificate_authority, agent: None };
        bench.write_ssh_config();
        bench
    }

    /// Starts the real agent.
    pub fn start_agent(&mut self, must_be_closed: Vec<SocketAddr>) {
        let run_folder = self.folder.path().join("run");
        std::fs::create_dir_all(&run_folder).expect("folder");
        std::fs::write(self.folder.path().join("token"), TOKEN).expect("written");
        let settings = AgentSettings {
            links: vec![self.link],
            certificate_authority: self.certificate_authority.clone(),
            must_be_closed,
            expires_at: Utc::now() + TimeDelta::minutes(30),
            remaining_seconds: 1800,
            environment: vec![("CI".into(), "true".into())],
            working_directory: Some("/tmp".into()),
            stripped_environment: vec!["NPM_TOKEN".into()],
            known_hosts: vec![],
            tools: false,
            token_path: self.folder.path().join("token").display().to_string(),
            run_folder: run_folder.display().to_string(),
        };
        let log = std::fs::File::create(self.folder.path().join("agent.log")).expect("log");
        let agent = Command::new(env!("CARGO_BIN_EXE_sandglass-agent"))
            .arg("serve")
            // Of the build, and nothing that a pod has.
            .env_remove("SANDGLASS_PLAYER")
            .env(VARIABLE, serde_json::to_string(&settings).expect("encoded"))
            .stderr(log)
            .spawn()
            .expect("agent");
        self.agent = Some(agent);
    }

    /// The agent's process.
    pub fn agent_id(&self) -> u32 {
        self.agent.as_ref().expect("an agent").id()
    }

    /// Sends the agent what the kubelet sends before it kills; gives its exit code.
    pub fn stop_agent(&mut self) -> Option<i32> {
        let mut agent = self.agent.take().expect("an agent");
        Command::new("kill").args(["-TERM", &agent.id().to_string()]).status().expect("kill");
        agent.wait().expect("ended").code()
    }

    /// Waits until the agent is linked and ready.
    pub async fn wait_for_link(&self) {
        let gateway = Arc::clone(&self.gateway);
        eventually("the agent's link", move || gateway.registry.is_ready(POD_UID)).await;
    }

    /// A program of OpenSSH with the test's configuration; the session is the host `s`.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-F").arg(self.path("ssh_config")).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }

    /// Runs a command in the session: its output, and its exit code.
    pub async fn run(&self, arguments: &[&str], input: &[u8]) -> std::process::Output {
        let mut command = self.client("ssh");
        let (options, words): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|argument| argument.starts_with('-'));
        command.args(options).arg("s").args(words);
        finish(command, input.to_vec()).await
    }

    /// Runs a script on this side, in which `ssh`, `scp` and `sftp` use the test's configuration and `$D` is its folder.
    pub async fn script(&self, text: &str) -> std::process::Output {
        let mut command = Command::new("bash");
        let prelude = "set -euo pipefail; ssh() { command ssh -F $D/ssh_config \"$@\"; }; scp() { command scp -F $D/ssh_config \"$@\"; }; \
                       sftp() { command sftp -F $D/ssh_config \"$@\"; };";
        command.arg("-c").arg(format!("{prelude}\n{text}")).env("D", self.folder.path()).env_remove("SSH_AUTH_SOCK");
        finish(command, Vec::new()).await
    }

    fn write_ssh_config(&self) {
        let folder = self.folder.path().display();
        let text = format!(
            "Host s\n HostName 127.0.0.1\n Port {}\n User ci.build-42\n IdentityFile {folder}/id\n IdentitiesOnly yes\n BatchMode yes\n \
             StrictHostKeyChecking yes\n UserKnownHostsFile {folder}/known_hosts\n LogLevel ERROR\n \
             ConnectTimeout 30\n ServerAliveInterval 15\n ServerAliveCountMax 4\n", // a gateway that is stuck fails a test, and does not hang it
            self.address.port()
        );
        std::fs::write(self.path("ssh_config"), text).expect("written");
    }

    /// A file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes the session as the API server would.
    pub fn change_session(&self, change: impl FnOnce(&mut DebugSession)) {
        let name = sandglass::domain::names::ObjectName { namespace: "ci".into(), name: "build-42".into() };
        let stored = self.gateway.directory.named(&name).into_iter().next().expect("stored");
        let AnySession::Debug(mut session) = (*stored).clone() else { panic!("of another kind") };
        change(&mut session);
        self.gateway.directory.put(AnySession::Debug(session));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// Runs a command to its end, within a limit.
pub async fn finish(mut command: Command, input: Vec<u8>) -> std::process::Output {
    use std::io::Write;
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        let mut stdin = child.stdin.take().expect("stdin");
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("ended");
        let _ = writer.join();
        output
    });
    tokio::time::timeout(Duration::from_mins(3), run).await.expect("ends within its limit").expect("joined")
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a program printed, which must have ended well.
pub fn succeeded(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{:?}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// Waits for a condition, with a limit.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        tick.tick().await;
    }
}

/// A fresh ed25519 key.
pub fn new_key() -> PrivateKey {
    sandglass::gateway::keys::new_ed25519().expect("key")
}

/// Writes a key as OpenSSH keeps it.
pub fn write_key(path: &Path, key: &PrivateKey) {
    key.write_openssh_file(path, LineEnding::LF).expect("written");
}

fn known_hosts(address: SocketAddr, key: &PrivateKey) -> String {
    format!("[{}]:{} {}\n", address.ip(), address.port(), key.public_key().to_openssh().expect("encoded"))
}

fn session(key: &str) -> DebugSession {
    let now = Utc::now().to_rfc3339();
    serde_json::from_value(serde_json::json!({
        "apiVersion": "sandglass.dev/v1alpha1",
        "kind": "DebugSession",
        "metadata": { "name": "build-42", "namespace": "ci", "uid": "uid-of-build-42", "creationTimestamp": now },
        "spec": {
            "source": { "image": "registry.example.com/go:1" },
            "requester": "octocat",
            "access": { "authorizedKeys": [key], "allow": ["Sftp", "LocalForward", "AgentForward"] }
        },
        "status": {
            "phase": "Open",
            "pod": { "namespace": "sandglass-debug", "name": "ci-build-42", "uid": POD_UID }
        }
    }))
    .expect("a session")
}

/// A client of the SSH library's own, for what the ordinary one cannot be made to do.
pub struct AnyHost;

impl russh::client::Handler for AnyHost {
    type Error = russh::Error;
    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// Logs in with the user's key.
pub async fn raw_client(bench: &Bench) -> russh::client::Handle<AnyHost> {
    let configuration = Arc::new(russh::client::Config::default());
    let mut session = russh::client::connect(configuration, bench.address, AnyHost).await.expect("connected");
    let key = PrivateKey::from_openssh(std::fs::read(bench.path("id")).expect("key")).expect("key");
    let key = russh::keys::PrivateKeyWithHashAlg::new(Arc::new(key), None);
    let outcome = session.authenticate_publickey("ci.build-42", key).await.expect("authenticated");
    assert!(outcome.success());
    session
}

/// Dials the link port as an agent would, with any bearer; an error is the gateway's answer.
pub async fn dial_link(
    bench: &Bench,
    path: &str,
    bearer: &str,
) -> Result<tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>, String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bench.certificate_authority.as_bytes()).expect("certificate")).expect("added");
    let configuration = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(bench.link).await.expect("connected");
    let name = ServerName::try_from(sandglass::link::SERVER_NAME).expect("name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(configuration)).connect(name, stream).await.expect("TLS");
    let mut request = format!("wss://{}{path}", sandglass::link::SERVER_NAME).into_client_request().expect("request");
    if !bearer.is_empty() {
        request.headers_mut().insert("authorization", format!("Bearer {bearer}").parse().expect("header"));
    }
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            Err(format!("{} {}", response.status(), response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default()))
        }
        Err(other) => Err(other.to_string()),
    }
}

/// A server that accepts and never reads: a forward to it stalls.
pub async fn silent_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    address
}
