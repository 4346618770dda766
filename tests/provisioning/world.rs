//! The real door on loopback, with a real issuer of the test's and a pretended API server.

use async_trait::async_trait;
use chrono::Utc;
use prometheus_client::registry::Registry;
use sandglass::api::DebugSession;
use sandglass::domain::configuration::Configuration;
use sandglass::kubernetes::time::Clock;
use sandglass::kubernetes::{CallError, call};
use sandglass::provisioning::keyring::Keyring;
use sandglass::provisioning::listener::{self, Certificate};
use sandglass::provisioning::metrics::Metrics;
use sandglass::provisioning::published::Published;
use sandglass::provisioning::sessions::Sessions;
use sandglass::provisioning::{Door, Parts};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::issuer::Issuer;
use super::signer::Signer;

/// What the tokens are for.
pub const AUDIENCE: &str = "https://debug.example.com";
/// A public key that people have.
pub const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f octocat";

/// What was logged in this process.
pub fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    LOG.get_or_init(Mutex::default)
}

struct Writer;

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        log().lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A pretended API server: objects by namespace and name.
#[derive(Default)]
pub struct Objects {
    /// What is there.
    pub stored: Mutex<BTreeMap<(String, String), DebugSession>>,
    /// Creations that were asked for.
    pub created: AtomicUsize,
    /// What it refuses everything with: status and message.
    pub refusal: Mutex<Option<(u16, String)>>,
}

fn failed(code: u16, message: &str) -> kube::Error {
    let status = json!({ "status": "Failure", "code": code, "message": message, "reason": "Test", "kind": "Status", "apiVersion": "v1" });
    kube::Error::Api(Box::new(serde_json::from_value(status).expect("a status")))
}

impl Objects {
    fn refused(&self) -> Result<(), kube::Error> {
        self.refusal.lock().expect("lock").as_ref().map_or(Ok(()), |(code, message)| Err(failed(*code, message)))
    }
}

#[async_trait]
impl Sessions for Objects {
    async fn get(&self, namespace: &str, name: &str) -> Result<Option<DebugSession>, CallError> {
        let found = self.stored.lock().expect("lock").get(&(namespace.to_owned(), name.to_owned())).cloned();
        call("read", async { self.refused().map(|()| found) }).await
    }

    async fn create(&self, session: &DebugSession) -> Result<DebugSession, CallError> {
        self.created.fetch_add(1, Ordering::SeqCst);
        let key = (session.metadata.namespace.clone().expect("namespace"), session.metadata.name.clone().expect("name"));
        call("create", async {
            self.refused()?;
            let mut stored = self.stored.lock().expect("lock");
            if stored.contains_key(&key) {
                return Err(failed(409, "already exists"));
            }
            stored.insert(key, session.clone());
            Ok(session.clone())
        })
        .await
    }
}

/// An answer.
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: reqwest::header::HeaderMap,
    /// Its body.
    pub body: Value,
}

impl Reply {
    /// The one line.
    pub fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

/// Everything.
pub struct World {
    /// The issuer.
    pub issuer: Arc<Issuer>,
    /// Its key.
    pub signer: Signer,
    /// The pretended API server.
    pub objects: Arc<Objects>,
    /// Where the door is.
    pub url: String,
    door: Arc<Door>,
    registry: Registry,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    /// A world whose door has these limits, and an issuer with these settings (YAML).
    pub async fn with(limits: &str, settings: &str) -> Self {
        // Another test of this process may have been first.
        let _started = tracing_subscriber::fmt().json().with_env_filter("info,sandglass=debug").with_writer(|| Writer).try_init();
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let issuer = Issuer::start().await;
        let signer = Signer::rsa();
        issuer.publish(vec![signer.jwk("one")]);
        let text = format!(
            "gateway: {{ host: debug.example.com }}
sessions: {{ agentImage: 'registry.example.com/sandglass:1' }}
recording: {{ mode: Off }}
allowedImages: [{{ prefix: registry.example.com/ }}]
provisioning:
  issuers:
    - {{ name: github, url: '{url}', audience: '{AUDIENCE}', algorithms: [RS256, ES256]{settings} }}
  limits: {{ failures: 1000{limits} }}
  rules:
    - issuer: github
      claims: {{ repository: 'my-org/*', ref: 'refs/heads/*' }}
      namespace: ci
      project: '{{repository}}'
      requester: '{{actor}}'
      ttlCap: 45m
      images: [registry.example.com/builders]
      allow: [Sftp, LocalForward]
    - {{ issuer: github, claims: {{ repository: 'other/x' }}, namespace: other, requester: 'ci-{{gone}}' }}
",
            url = issuer.url,
        );
        let configuration = Arc::new(Configuration::parse(&text).expect("a configuration"));
        let provisioning = configuration.provisioning.clone().expect("there is one");
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let keyring = |issuer| Keyring::new(issuer, Box::new(Published::new(issuer).expect("a client")), metrics.clone());
        let keyrings = provisioning.issuers.iter().map(|issuer| (issuer.name.clone(), keyring(issuer))).collect();
        let objects = Arc::new(Objects::default());
        let sessions: Arc<dyn Sessions> = objects.clone();
        let door = Arc::new(Door::new(Parts { configuration, provisioning, keyrings, sessions, clock: Clock::system(), metrics }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let stop = CancellationToken::new();
        tokio::spawn(listener::serve(listener, None, Arc::clone(&door), stop.clone()));
        Self { issuer, signer, objects, url, door, registry, stop }
    }

    /// A world as it is shipped.
    pub async fn new() -> Self {
        Self::with("", "").await
    }

    /// The same door with a certificate of its own: its port.
    pub async fn serve_tls(&self, certificate: PathBuf, key: PathBuf) -> (u16, Arc<Certificate>) {
        let certificate = Arc::new(Certificate::read(certificate, key).expect("reads"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(listener::serve(listener, Some(Arc::clone(&certificate)), Arc::clone(&self.door), self.stop.clone()));
        (port, certificate)
    }

    /// Claims of a job of `my-org/x`.
    pub fn claims(&self) -> Value {
        let now = Utc::now().timestamp();
        json!({
            "iss": self.issuer.url, "aud": AUDIENCE, "sub": "repo:my-org/x:ref:refs/heads/main",
            "exp": now + 300, "nbf": now - 10, "iat": now,
            "repository": "my-org/x", "repository_id": "7001", "run_id": "42", "run_attempt": "1",
            "actor": "octocat", "ref": "refs/heads/main", "sha": "0a1b2c3d",
        })
    }

    /// The same with another value.
    pub fn claims_with(&self, name: &str, value: impl Into<Value>) -> Value {
        let mut claims = self.claims();
        claims[name] = value.into();
        claims
    }

    /// A token of the issuer's.
    pub fn token(&self, claims: &Value) -> String {
        self.signer.token(&json!({ "alg": "RS256", "kid": "one", "typ": "JWT" }), claims)
    }

    /// Asks for a session.
    pub async fn post(&self, token: &str, body: impl Into<reqwest::Body>) -> Reply {
        let request = client().post(format!("{}/v1/debugsessions", self.url)).header("content-type", "application/json");
        send(request.header("authorization", format!("Bearer {token}")).body(body)).await
    }

    /// Asks for a session as a job of `my-org/x` does.
    pub async fn ask(&self, token: &str) -> Reply {
        self.post(token, request().to_string()).await
    }

    /// Reads a session.
    pub async fn get(&self, token: &str, path: &str) -> Reply {
        send(client().get(format!("{}{path}", self.url)).header("authorization", format!("Bearer {token}"))).await
    }

    /// Objects that are there.
    pub fn objects(&self) -> usize {
        self.objects.stored.lock().expect("lock").len()
    }

    /// A counter.
    pub fn counted(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("encodes");
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in\n{text}"))
    }
}

/// What a job asks for.
pub fn request() -> Value {
    json!({ "image": "registry.example.com/builders/go:1", "job": "test", "authorizedKeys": [KEY] })
}

/// A client as there are many.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([]).no_proxy().build().expect("a client")
}

/// Sends, and reads the answer.
pub async fn send(request: reqwest::RequestBuilder) -> Reply {
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.expect("a body");
    Reply { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}
