//! The gateway's end of the link: TLS 1.3, HTTP/1.1, and two upgrades: a WebSocket for control, a [`Socket`] for each channel. Who may come in is the [`Authority`]'s decision.

use super::message::{ToAgent, ToGateway};
use super::read_ahead::ReadAhead;
use super::registry::Registry;
use super::socket::Socket;
use super::{CHANNEL_PATH, CHANNEL_PROTOCOL, CONTROL_PATH};
use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::{info, warn};

/// The control link's WebSocket at the gateway. Handed from one future to the next: its state, over a kilobyte, stays where it is.
type Control = Pin<Box<WebSocketStream<TlsStream<ReadAhead>>>>;

/// The pod behind a token, once the authority has let it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// UID of the pod.
    pub pod_uid: String,
    /// Kind of the session object.
    pub kind: &'static str,
    /// Namespace of the session object.
    pub namespace: String,
    /// Name of the session object.
    pub name: String,
}

/// Why an agent is not admitted. The texts hold nothing of its token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no right.
    #[error("{0}")]
    Denied(String),
    /// Nobody could be asked: a new link is refused, one that is open stays.
    #[error("{0}")]
    Unavailable(String),
}

/// Decides which agents may link, and hears what they report.
pub trait Authority: Send + Sync + 'static {
    /// Reviews a token.
    fn admit(&self, token: &str) -> impl Future<Output = Result<Admitted, Refusal>> + Send;
    /// An agent is ready, or found itself not isolated.
    fn report(&self, pod: &Admitted, message: &ToGateway) -> impl Future<Output = ()> + Send;
}

/// Handshakes in progress at once, in all and from one address: no pod keeps the others out.
const HANDSHAKES: usize = 1024;
const HANDSHAKES_PER_SOURCE: usize = 32;
/// What an agent may report on one link; one that says more is not ours.
const REPORTS: u32 = 32;
/// How long an agent may take to read a message.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Limit for TLS and the HTTP request.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// An open link's token and object are looked at again this often.
const REVIEW: Duration = Duration::from_mins(1);
const PING: Duration = Duration::from_secs(15);

/// Serves links on `listener` for ever.
pub async fn serve<A: Authority>(listener: TcpListener, tls: TlsAcceptor, registry: Arc<Registry>, authority: Arc<A>) {
    let handshakes = Arc::new(Handshakes::default());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(failure) => {
                // Out of descriptors: others will be closed.
                warn!(%failure, "failed to accept a link");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = handshakes.enter(peer.ip()) else { continue };
        let (tls, registry, authority) = (tls.clone(), Arc::clone(&registry), Arc::clone(&authority));
        tokio::spawn(async move {
            let serve = serve_connection(stream, peer, &tls, registry, authority);
            // The upgraded socket lives on in a task of its own.
            let _ = tokio::time::timeout(HANDSHAKE_LIMIT, serve).await;
            drop(place);
        });
    }
}

/// The handshakes in progress, by source.
#[derive(Default)]
struct Handshakes(Mutex<HashMap<IpAddr, usize>>);

/// One handshake's place; given back when dropped.
struct Place {
    handshakes: Arc<Handshakes>,
    source: IpAddr,
}

impl Handshakes {
    fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = counts.get(&source).copied().unwrap_or(0);
        if mine >= HANDSHAKES_PER_SOURCE || counts.values().sum::<usize>() >= HANDSHAKES {
            return None;
        }
        counts.insert(source, mine + 1);
        Some(Place { handshakes: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.handshakes.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.source)),
        }
    }
}

async fn serve_connection<A: Authority>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &TlsAcceptor,
    registry: Arc<Registry>,
    authority: Arc<A>,
) {
    super::keep_alive(&stream);
    let Ok(mut stream) = tls.accept(ReadAhead::new(stream)).await else { return };
    stream.get_mut().1.set_buffer_limit(Some(super::WRITE_BUFFER));
    let service = hyper::service::service_fn(move |request| {
        let (registry, authority) = (Arc::clone(&registry), Arc::clone(&authority));
        async move { Ok::<_, std::convert::Infallible>(answer(request, peer, registry, authority).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

fn refusal(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}

async fn answer<A: Authority>(
    request: Request<Incoming>,
    peer: SocketAddr,
    registry: Arc<Registry>,
    authority: Arc<A>,
) -> Response<Full<Bytes>> {
    let Some(bearer) = bearer(&request) else {
        return refusal(StatusCode::UNAUTHORIZED, "a bearer is needed");
    };
    match request.uri().path() {
        CONTROL_PATH => {
            let Some(accept) = websocket_key(&request) else {
                return refusal(StatusCode::BAD_REQUEST, "a WebSocket upgrade (RFC 6455) is needed");
            };
            match authority.admit(&bearer).await {
                Ok(pod) => {
                    tokio::spawn(control(request, registry, authority, pod, bearer));
                    switching("websocket", Some(&accept))
                }
                Err(reason) => {
                    warn!(%peer, %reason, "link refused");
                    let status = match &reason {
                        Refusal::Denied(_) => StatusCode::FORBIDDEN,
                        Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
                    };
                    refusal(status, &reason.to_string())
                }
            }
        }
        CHANNEL_PATH if !asks_for(&request, CHANNEL_PROTOCOL) => {
            refusal(StatusCode::BAD_REQUEST, &format!("an upgrade to {CHANNEL_PROTOCOL} is needed"))
        }
        CHANNEL_PATH => match registry.redeem(&bearer) {
            Some(waiting) => {
                tokio::spawn(async move {
                    if let Some((stream, read)) = upgraded(request).await {
                        let _ = waiting.send(Ok(Socket::new(stream, read)));
                    }
                });
                switching(CHANNEL_PROTOCOL, None)
            }
            None => refusal(StatusCode::FORBIDDEN, "unknown, used or expired ticket"),
        },
        _ => refusal(StatusCode::NOT_FOUND, "no such path"),
    }
}

fn bearer(request: &Request<Incoming>) -> Option<String> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned)
}

/// Whether a request asks for this upgrade.
fn asks_for(request: &Request<Incoming>, protocol: &str) -> bool {
    let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    request.method() == Method::GET
        && header(UPGRADE).eq_ignore_ascii_case(protocol)
        && header(CONNECTION).to_ascii_lowercase().contains("upgrade")
}

/// The `Sec-WebSocket-Accept` value for a request that asks for a WebSocket (RFC 6455, 4.2).
fn websocket_key(request: &Request<Incoming>) -> Option<String> {
    let asks = asks_for(request, "websocket") && request.headers().get(SEC_WEBSOCKET_VERSION)? == "13";
    asks.then(|| request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes())))?
}

fn switching(protocol: &'static str, accept: Option<&str>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(accept) = accept.and_then(|accept| HeaderValue::from_str(accept).ok()) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// The stream itself, without hyper's wrapping, and what was read of it behind the request.
async fn upgraded(request: Request<Incoming>) -> Option<(TlsStream<ReadAhead>, BytesMut)> {
    let upgraded = hyper::upgrade::on(request).await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TlsStream<ReadAhead>>>().ok()?;
    // Copied: hyper's own buffer is larger by far.
    Some((parts.io.into_inner(), BytesMut::from(&parts.read_buf[..])))
}

async fn websocket(request: Request<Incoming>) -> Option<Control> {
    let (stream, read) = upgraded(request).await?;
    let configuration = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(1 << 20))
        .max_frame_size(Some(1 << 20));
    Some(Box::pin(WebSocketStream::from_partially_read(stream, read.to_vec(), Role::Server, Some(configuration)).await))
}

/// One agent's control link, from the upgrade to its end.
async fn control<A: Authority>(request: Request<Incoming>, registry: Arc<Registry>, authority: Arc<A>, pod: Admitted, token: String) {
    let Some(socket) = websocket(request).await else { return };
    let (sender, queue) = mpsc::channel(64);
    let id = registry.join(&pod.pod_uid, sender);
    info!(namespace = pod.namespace, name = pod.name, pod_uid = pod.pod_uid, "agent linked");
    let ended = tokio::select! {
        reason = converse(socket, queue, &registry, &*authority, &pod, id) => reason,
        reason = reviewed(&*authority, &token) => reason,
    };
    registry.leave(&pod.pod_uid, id);
    info!(namespace = pod.namespace, name = pod.name, pod_uid = pod.pod_uid, reason = ended, "agent's link ended");
}

/// Looks at the token and its session again and again; returns when they do not count any more.
async fn reviewed<A: Authority>(authority: &A, token: &str) -> String {
    let mut review = tokio::time::interval_at(tokio::time::Instant::now() + REVIEW, REVIEW);
    loop {
        review.tick().await;
        match authority.admit(token).await {
            Err(Refusal::Denied(reason)) => return reason,
            Err(Refusal::Unavailable(reason)) => warn!(reason, "a link could not be reviewed"),
            Ok(_) => {}
        }
    }
}

async fn converse<A: Authority>(
    socket: Control,
    mut queue: mpsc::Receiver<ToAgent>,
    registry: &Registry,
    authority: &A,
    pod: &Admitted,
    id: u64,
) -> String {
    let (mut sink, mut stream) = socket.split();
    let mut peers = registry.peers.subscribe();
    peers.mark_changed();
    // Told again now and then: an agent forgets a replica that it cannot reach for a while.
    let mut reminder = tokio::time::interval_at(tokio::time::Instant::now() + REVIEW, REVIEW);
    let mut ping = tokio::time::interval(PING);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard = true;
    let mut reports = 0;
    loop {
        let outgoing = tokio::select! {
            message = stream.next() => {
                heard = true;
                match message {
                    Some(Ok(Message::Text(text))) => {
                        match serde_json::from_str::<ToGateway>(&text) {
                            Ok(ToGateway::Refused { ticket, message }) => registry.refuse(&ticket, message),
                            Ok(_) if reports >= REPORTS => return "it reports without end".into(),
                            Ok(message) => {
                                reports += 1;
                                authority.report(pod, &message).await;
                                if message == ToGateway::Ready { registry.make_ready(&pod.pod_uid, id); }
                            }
                            Err(_) => return "it said something that is no message".into(),
                        }
                        continue;
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return "closed".into(),
                }
            }
            message = queue.recv() => match message {
                Some(message) => encode(&message),
                // A newer link of the same pod took this one's place.
                None => return "another took its place".into(),
            },
            changed = peers.changed() => {
                if changed.is_err() { return "shutting down".into() }
                encode(&ToAgent::Peers { addresses: peers.borrow_and_update().clone(), this: registry.this })
            }
            _ = reminder.tick() => encode(&ToAgent::Peers { addresses: peers.borrow().clone(), this: registry.this }),
            _ = ping.tick() => {
                if !std::mem::take(&mut heard) { return "silent".into() }
                Message::Ping(Bytes::new())
            }
        };
        if !matches!(tokio::time::timeout(WRITE_LIMIT, sink.send(outgoing)).await, Ok(Ok(()))) {
            return "it does not read".into();
        }
    }
}

fn encode(message: &ToAgent) -> Message {
    Message::text(serde_json::to_string(message).unwrap_or_default())
}
