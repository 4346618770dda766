//! A real `OpenBao`, a stand-in for the API server's `TokenReview`, and a TLS proxy in between that counts, records and breaks.

use base64::Engine as _;
use sandglass::vault::Vault;
use serde_json::{Value, json};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

/// Where `e2e/vault/server install` puts the program.
pub fn program() -> PathBuf {
    let cache = std::env::var_os("SANDGLASS_E2E_CACHE")
        .map_or_else(|| std::env::home_dir().expect("a home").join(".cache/sandglass-e2e"), PathBuf::from);
    let program = cache.join("vault/bao");
    assert!(program.exists(), "{} is missing: run e2e/vault/server install", program.display());
    program
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<String> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()))
    }
}

pub enum Reply {
    Answer(u16, String),
    Redirect(String),
    Cut,
    Hang,
}

type Handler = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

pub fn handler<F: Future<Output = Reply> + Send + 'static>(f: impl Fn(Request) -> F + Send + Sync + 'static) -> Handler {
    Arc::new(move |request| Box::pin(f(request)))
}

/// An HTTPS server of one answer a connection; gives its port and the PEM of its certificate.
pub async fn serve(handler: Handler) -> (u16, String) {
    serve_as(handler, "127.0.0.1").await
}

pub async fn serve_as(handler: Handler, name: &str) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, handler) = (acceptor.clone(), handler.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                let Some(request) = read(&mut stream).await else { return };
                let (status, body, more) = match handler(request).await {
                    Reply::Answer(status, body) => (status, body, String::new()),
                    Reply::Redirect(to) => (307, String::new(), format!("location: {to}\r\n")),
                    Reply::Cut => return,
                    Reply::Hang => return tokio::time::sleep(Duration::from_mins(1)).await,
                };
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, made.cert.pem())
}

async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Request> {
    let mut raw = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(raw[..end].to_vec()).unwrap();
            let mut first = head.split(' ');
            let mut request =
                Request { method: first.next()?.to_owned(), path: first.next()?.to_owned(), head: head.clone(), body: String::new() };
            let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
            if raw.len() >= end + 4 + length {
                request.body = String::from_utf8(raw[end + 4..end + 4 + length].to_vec()).unwrap();
                return Some(request);
            }
        }
        let count = stream.read(&mut buffer).await.ok()?;
        if count == 0 {
            return None;
        }
        raw.extend_from_slice(&buffer[..count]);
    }
}

pub struct Bao {
    child: Child,
    pub address: String,
    pub ca: String,
    pub unseal: String,
    root: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn jwt(namespace: &str, account: &str, audience: &str) -> Zeroizing<String> {
    let part = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iss": "https://kubernetes.default.svc", "aud": [audience], "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "iat": now, "nbf": now, "exp": now + 600,
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": "11111111-2222-3333-4444-555555555555"}}});
    Zeroizing::new(format!("{}.{}.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg\n", part(json!({"alg": "RS256", "kid": "k", "typ": "JWT"})), part(claims)))
}

/// The stand-in for `TokenReview`: believes every token but those of the account `deleted`.
async fn review(request: Request) -> Reply {
    let review: Value = serde_json::from_str(&request.body).unwrap();
    let token = review["spec"]["token"].as_str().unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    let status = if claims["sub"].as_str().unwrap().ends_with(":deleted") {
        json!({"authenticated": false, "error": "invalid bearer token"})
    } else {
        json!({"authenticated": true, "audiences": review["spec"]["audiences"],
            "user": {"username": claims["sub"], "uid": "11111111-2222-3333-4444-555555555555", "groups": ["system:serviceaccounts"]}})
    };
    Reply::Answer(
        201,
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "status": status}).to_string(),
    )
}

impl Bao {
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program())
            .args(["server", "-dev", "-dev-tls", "-dev-root-token-id=root", "-dev-no-store-token"])
            .arg(format!("-dev-tls-cert-dir={}", folder.path().display()))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env_clear()
            .env("HOME", folder.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_mins(1);
        let said = loop {
            let said = std::fs::read_to_string(folder.path().join("log")).unwrap();
            if said.contains("Development mode should NOT") {
                break said;
            }
            assert!(Instant::now() < until, "{said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let ca = std::fs::read_to_string(folder.path().join("vault-ca.pem")).unwrap();
        let unseal = said.lines().find_map(|line| line.strip_prefix("Unseal Key: ")).unwrap().to_owned();
        let root =
            reqwest::Client::builder().tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes()).unwrap()]).no_proxy().build().unwrap();
        let bao = Self { child, address: format!("https://127.0.0.1:{port}"), ca, unseal, root, _folder: folder };
        bao.furnish().await;
        bao
    }

    async fn furnish(&self) {
        let (port, ca) = serve(handler(review)).await;
        self.write("sys/auth/kubernetes", json!({"type": "kubernetes"})).await;
        let config = json!({"kubernetes_host": format!("https://127.0.0.1:{port}"), "kubernetes_ca_cert": ca, "token_reviewer_jwt": "a.b.c", "disable_local_ca_jwt": true});
        self.write("auth/kubernetes/config", config).await;
        self.write("sys/mounts/vms", json!({"type": "kv", "options": {"version": "2"}})).await;
        self.write("sys/mounts/ssh", json!({"type": "ssh"})).await;
        self.write("ssh/config/ca", json!({"generate_signing_key": true, "key_type": "ed25519"})).await;
        let role = json!({"key_type": "ca", "allow_user_certificates": true, "allowed_users": "debug", "default_user": "debug", "ttl": "300", "max_ttl": "600",
            "default_extensions": {"permit-pty": ""}, "allowed_extensions": "permit-pty", "allowed_user_key_lengths": {"ed25519": [0]}});
        self.write("ssh/roles/recovery", role).await;
        let secret = json!({"data": {"key": KEY.replace('\n', "\r\n").trim_end(), "number": 5, "other": "OTHER-SECRET"}});
        self.write("vms/data/breakglass/devvm", secret).await;
        self.write("vms/data/breakglass/second", json!({"data": {"key": "second-key"}})).await;
    }

    pub async fn call(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.root.request(method.parse().unwrap(), format!("{}/v1/{path}", self.address)).header("X-Vault-Token", token);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    pub async fn write(&self, path: &str, body: Value) {
        let (status, answer) = self.call("POST", path, "root", Some(body)).await;
        assert!(status < 300, "{path}: {status} {answer}");
    }

    /// A policy and a role of one name; `more` overrides the role's settings.
    pub async fn role(&self, name: &str, policy: &str, more: Value) {
        self.write(&format!("sys/policies/acl/{name}"), json!({ "policy": policy })).await;
        let mut role = json!({"bound_service_account_names": ["infra.devvm"], "bound_service_account_namespaces": ["sandglass-vm"], "audience": "vault",
            "token_policies": [name], "token_ttl": "60s", "token_max_ttl": "60s", "token_no_default_policy": true});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.write(&format!("auth/kubernetes/role/{name}"), role).await;
    }

    pub fn vault(&self, role: &str) -> Vault {
        Vault {
            address: self.address.clone(),
            certificate_authority: self.ca.clone(),
            auth_mount: "kubernetes".to_owned(),
            role: role.to_owned(),
        }
    }

    /// How many tokens live, the root token among them.
    pub async fn tokens(&self) -> usize {
        let (_, list) = self.call("LIST", "auth/token/accessors", "root", None).await;
        list["data"]["keys"].as_array().unwrap().len()
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap().success());
    }

    /// A proxy before it, with what went through; `breaks` may answer in its stead.
    pub async fn proxy(
        &self,
        role: &str,
        breaks: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> (Vault, Arc<Mutex<Vec<Request>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, client, address, breaks) = (seen.clone(), self.root.clone(), self.address.clone(), Arc::new(breaks));
        let (port, ca) = serve(handler(move |request: Request| {
            let (record, client, address, breaks) = (record.clone(), client.clone(), address.clone(), breaks.clone());
            async move {
                let count = {
                    let mut record = record.lock().unwrap();
                    record.push(request.clone());
                    record.iter().filter(|earlier: &&Request| earlier.path == request.path).count()
                };
                if let Some(reply) = breaks(&request, count) {
                    return reply;
                }
                let mut forward =
                    client.request(request.method.parse().unwrap(), format!("{address}{}", request.path)).body(request.body.clone());
                if let Some(token) = request.header("x-vault-token") {
                    forward = forward.header("X-Vault-Token", token);
                }
                let answer = forward.send().await.unwrap();
                Reply::Answer(answer.status().as_u16(), answer.text().await.unwrap())
            }
        }))
        .await;
        let vault = Vault { address: format!("https://127.0.0.1:{port}"), certificate_authority: ca, ..self.vault(role) };
        (vault, seen)
    }
}

/// What must never be seen in a message or a log.
pub const KEY: &str =
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUTESTKEYTESTKEY\n-----END OPENSSH PRIVATE KEY-----\n";

pub const NARROW: &str = r#"
path "vms/data/breakglass/devvm" { capabilities = ["read"] }
path "ssh/sign/recovery" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
"#;
