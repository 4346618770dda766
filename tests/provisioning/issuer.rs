//! An issuer on loopback that publishes keys, and can be slow, away, wrong, or elsewhere.

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

/// How it behaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// As it should.
    Well,
    /// Answers after this time.
    Slow(Duration),
    /// Answers 503.
    Away,
    /// Answers what is no JSON.
    Garbage,
    /// Answers 10 MiB.
    Large,
    /// Sends to another address.
    Elsewhere(String),
    /// Names another issuer.
    Impostor,
    /// Publishes a set without a key.
    Empty,
}

/// The issuer.
pub struct Issuer {
    /// Its `iss`.
    pub url: String,
    /// How it behaves from now on.
    pub mode: Mutex<Mode>,
    /// What it publishes.
    pub keys: Mutex<Vec<Value>>,
    /// Paths that were asked for.
    pub asked: Mutex<Vec<String>>,
}

impl Issuer {
    /// Listens until the test ends.
    pub async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address: SocketAddr = listener.local_addr().expect("bound");
        let issuer = Arc::new(Self {
            url: format!("http://{address}"),
            mode: Mutex::new(Mode::Well),
            keys: Mutex::default(),
            asked: Mutex::default(),
        });
        let served = Arc::clone(&issuer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let issuer = Arc::clone(&served);
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        let issuer = Arc::clone(&issuer);
                        async move { Ok::<_, Infallible>(issuer.answer(request.uri().path()).await) }
                    });
                    // A client that gives up ends its connection badly: that is what some tests are about.
                    let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        issuer
    }

    /// How it behaves from now on.
    pub fn become_(&self, mode: Mode) {
        *self.mode.lock().expect("lock") = mode;
    }

    /// What it publishes from now on.
    pub fn publish(&self, keys: Vec<Value>) {
        *self.keys.lock().expect("lock") = keys;
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        self.asked.lock().expect("lock").iter().filter(|path| *path == "/.well-known/openid-configuration").count()
    }

    async fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        self.asked.lock().expect("lock").push(path.to_owned());
        let mode = self.mode.lock().expect("lock").clone();
        let (status, body) = match mode {
            Mode::Away => (503, "away".into()),
            Mode::Garbage => (200, "<html>".into()),
            Mode::Large => (200, " ".repeat(10 * 1024 * 1024)),
            Mode::Elsewhere(target) => {
                return Response::builder().status(302).header("location", target).body(Full::default()).expect("an answer");
            }
            mode => {
                if let Mode::Slow(time) = mode {
                    tokio::time::sleep(time).await;
                }
                let own = if mode == Mode::Impostor { "https://other.example.com" } else { &self.url };
                let keys = if mode == Mode::Empty { Vec::new() } else { self.keys.lock().expect("lock").clone() };
                match path {
                    "/.well-known/openid-configuration" => {
                        (200, json!({ "issuer": own, "jwks_uri": format!("{}/keys", self.url) }).to_string())
                    }
                    "/keys" => (200, json!({ "keys": keys }).to_string()),
                    _ => (404, "nothing".into()),
                }
            }
        };
        Response::builder().status(status).body(Full::new(Bytes::from(body))).expect("an answer")
    }
}
