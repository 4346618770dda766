//! A stand-in for Vault: the five calls that a recovery pod makes, over TLS, on loopback. It must not be used by anything but this test.

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::certificate::Builder;
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// What it has and what it saw.
pub struct State {
    /// Path below `vms/data/` to the field `key`.
    pub keys: BTreeMap<String, String>,
    /// Signs.
    pub authority: PrivateKey,
    /// Life of certificates, in seconds.
    pub life: u64,
    /// Answers everything with 503.
    pub sealed: bool,
    /// Answers nothing.
    pub silent: bool,
    /// Calls: method and path.
    pub calls: Vec<String>,
}

/// A running one.
#[derive(Clone)]
pub struct StandIn {
    /// Its state.
    pub state: Arc<Mutex<State>>,
    /// `https://127.0.0.1:port`.
    pub address: String,
    /// PEM.
    pub certificate_authority: String,
}

impl StandIn {
    pub async fn start() -> Self {
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let authority = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
        let state = State { keys: BTreeMap::new(), authority, life: 300, sealed: false, silent: false, calls: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let (acceptor, shared) = (TlsAcceptor::from(Arc::new(config)), state.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(socket).await else { return };
                    let Some((call, body)) = receive(&mut stream).await else { return };
                    if shared.lock().unwrap().silent {
                        return std::future::pending().await;
                    }
                    let (status, body) = shared.lock().unwrap().answer(&call, &body);
                    let body = body.to_string();
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let _ = stream.write_all((head + &body).as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { state, address, certificate_authority: made.cert.pem() }
    }

    pub fn put(&self, path: &str, text: &str) {
        self.state.lock().unwrap().keys.insert(path.to_owned(), text.to_owned());
    }

    /// How often it signed.
    pub fn signed(&self) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|call| call.contains("/ssh/sign/")).count()
    }
}

impl State {
    fn answer(&mut self, call: &str, body: &Value) -> (u16, Value) {
        self.calls.push(call.to_owned());
        let call = call.trim_end_matches('?');
        if self.sealed {
            return (503, json!({"errors": ["Vault is sealed"]}));
        }
        if let Some(path) = call.strip_prefix("GET /v1/vms/data/") {
            return match self.keys.get(path) {
                Some(text) => (200, json!({"data": {"data": {"key": text}, "metadata": {"version": 1}}})),
                None => (404, json!({"errors": []})),
            };
        }
        match call {
            "POST /v1/auth/kubernetes/login" => (200, json!({"auth": {"client_token": "hvs.standin", "token_type": "service"}})),
            "POST /v1/sys/capabilities-self" => (200, json!({ "data": self.capabilities(&body["paths"]) })),
            "POST /v1/ssh/sign/recovery" => (200, json!({"data": {"signed_key": self.sign(body)}})),
            "POST /v1/auth/token/revoke-self" => (200, json!({})),
            _ => (403, json!({"errors": ["permission denied"]})),
        }
    }

    fn capabilities(&self, paths: &Value) -> Value {
        let of = |path: &str| match path {
            "ssh/sign/recovery" | "auth/token/revoke-self" => "update",
            _ if path.strip_prefix("vms/data/").is_some_and(|key| self.keys.contains_key(key)) => "read",
            _ => "deny",
        };
        paths.as_array().unwrap().iter().map(|path| path.as_str().unwrap()).map(|path| (path.to_owned(), json!([of(path)]))).collect()
    }

    fn sign(&self, body: &Value) -> String {
        let key = PublicKey::from_openssh(body["public_key"].as_str().unwrap()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut builder = Builder::new_with_random_nonce(&mut safe_rng(), &key, now - 30, now + self.life).unwrap();
        builder.valid_principal(body["valid_principals"].as_str().unwrap()).unwrap().key_id("vault").unwrap();
        builder.extension("permit-pty", "").unwrap();
        builder.sign(&self.authority).unwrap().to_openssh().unwrap()
    }
}

/// One request: method and path, and its JSON.
async fn receive(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<(String, Value)> {
    let mut raw = Vec::new();
    loop {
        if let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&raw[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
            if raw.len() >= end + 4 + length {
                let head = String::from_utf8_lossy(&raw[..end]).into_owned();
                let mut words = head.split(' ');
                let call = format!("{} {}", words.next()?, words.next()?);
                return Some((call, serde_json::from_slice(&raw[end + 4..end + 4 + length]).unwrap_or(Value::Null)));
            }
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        raw.extend_from_slice(&buffer[..count]);
    }
}
