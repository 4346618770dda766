//! The control links: one to every gateway replica, dialled again whenever it breaks.

use super::Readiness;
use super::Socket;
use super::dial::{Control, DialError, Dialer};
use crate::link::message::{Start, ToAgent, ToGateway};
use futures_util::{SinkExt, StreamExt};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tracing::{debug, info, warn};

/// What a pod serves on its channels.
pub trait Serve: 'static {
    /// Serves `start` on the socket that `dial` gives, until either side is done. Dropping the future ends what was started.
    ///
    /// # Errors
    /// A text for the user when it could not be started; the socket was not opened then.
    fn serve(&self, dial: impl Future<Output = Result<Socket, String>>, start: Start) -> impl Future<Output = Result<(), String>>;
}

/// A pod's end of its links.
pub struct Client<S> {
    dialer: Dialer,
    /// Where the kubelet keeps the current token.
    token_path: PathBuf,
    /// Whether the pod can serve.
    readiness: watch::Receiver<Readiness>,
    serve: S,
    /// Channels that can be cancelled, by ticket. They outlive the control link that asked for them.
    cancels: RefCell<HashMap<String, oneshot::Sender<()>>>,
}

impl<S: Serve> Client<S> {
    /// Puts the parts together.
    #[must_use]
    pub fn new(dialer: Dialer, token_path: PathBuf, readiness: watch::Receiver<Readiness>, serve: S) -> Self {
        Self { dialer, token_path, readiness, serve, cancels: RefCell::default() }
    }
}

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// A new pod's network opens a moment after its start: who tries again soon is linked as soon as it does.
const AT_FIRST: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_millis(20);
/// A link with no word from its gateway for this long is dead: gateways ping every 15 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// The replicas dialled so far. Shared by the links, any of which may learn of more.
struct Known {
    addresses: RefCell<HashSet<SocketAddr>>,
    /// Links to replicas that others told of.
    to_replicas: watch::Sender<usize>,
}

/// Dials `addresses`, and every replica they tell of.
pub fn start<S: Serve>(addresses: &[SocketAddr], client: &Rc<Client<S>>) {
    let known = Rc::new(Known { addresses: RefCell::default(), to_replicas: watch::Sender::new(0) });
    dial_all(addresses, client, &known, Keep::Always);
}

/// Whether a link is dialled again after it broke.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Given by the controller: a Service's address, behind which there is some replica. Only needed while none is known by its
    /// own address: a second link to one replica would take the place of the first.
    Always,
    /// A replica that others told of: given up when it stays away.
    WhileThere,
}

/// A replica that could not be reached so many times in a row is forgotten until others tell of it again.
const FORGET_AFTER: u32 = 8;

fn dial_all<S: Serve>(addresses: &[SocketAddr], client: &Rc<Client<S>>, known: &Rc<Known>, keep: Keep) {
    for address in addresses {
        if known.addresses.borrow_mut().insert(*address) {
            tokio::task::spawn_local(keep_linked(*address, Rc::clone(client), Rc::clone(known), keep));
        }
    }
}

async fn keep_linked<S: Serve>(address: SocketAddr, client: Rc<Client<S>>, known: Rc<Known>, keep: Keep) {
    let (began, mut new) = (Instant::now(), keep == Keep::Always);
    let mut backoff = FIRST_BACKOFF;
    let mut failures = 0;
    loop {
        if keep == Keep::Always {
            let _ = known.to_replicas.subscribe().wait_for(|links| *links == 0).await;
        }
        let token = std::fs::read_to_string(&client.token_path).unwrap_or_default();
        match client.dialer.control(address, &token).await {
            Ok(socket) => {
                info!(%address, "linked");
                backoff = FIRST_BACKOFF;
                failures = 0;
                new = false;
                let counted = usize::from(keep == Keep::WhileThere);
                known.to_replicas.send_modify(|links| *links += counted);
                converse(socket, address, &client, &known).await;
                known.to_replicas.send_modify(|links| *links -= counted);
                info!(%address, "link ended");
            }
            Err(DialError::Unreachable { source, .. }) if new && began.elapsed() < AT_FIRST => {
                debug!(%address, %source, "not reachable yet");
                tokio::time::sleep(SOON).await;
                continue;
            }
            Err(failure) => {
                failures += 1;
                warn!(%failure, "no link yet");
            }
        }
        if keep == Keep::WhileThere && failures >= FORGET_AFTER {
            known.addresses.borrow_mut().remove(&address);
            return;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

async fn converse<S: Serve>(socket: Control, address: SocketAddr, client: &Rc<Client<S>>, known: &Rc<Known>) {
    let (mut sink, mut stream) = socket.split();
    let (outgoing, mut queue) = mpsc::channel::<ToGateway>(64);
    let mut readiness = client.readiness.clone();
    readiness.mark_changed();
    let mut channels_at = address;
    loop {
        tokio::select! {
            message = tokio::time::timeout(SILENCE_LIMIT, stream.next()) => match message {
                Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str(&text) {
                    Ok(ToAgent::Peers { addresses, this }) => {
                        channels_at = this.unwrap_or(address);
                        dial_all(&addresses, client, known, Keep::WhileThere);
                    }
                    Ok(ToAgent::Open { ticket, start }) => open(channels_at, ticket, start, client, &outgoing),
                    Ok(ToAgent::Cancel { ticket }) => drop(client.cancels.borrow_mut().remove(&ticket)),
                    Err(failure) => debug!(%failure, "message of another version skipped"),
                },
                Ok(Some(Ok(Message::Ping(_)))) => if sink.flush().await.is_err() { return },
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) | Err(_) => return,
            },
            message = queue.recv() => if let Some(message) = message
                && send(&mut sink, &message).await.is_err() { return },
            changed = readiness.changed() => {
                if changed.is_err() { return }
                let Some(message) = report(&readiness.borrow_and_update()) else { continue };
                if send(&mut sink, &message).await.is_err() || matches!(message, ToGateway::NotIsolated { .. }) {
                    return;
                }
            }
        }
    }
}

/// What there is to tell.
fn report(readiness: &Readiness) -> Option<ToGateway> {
    match readiness {
        Readiness::Unknown => None,
        Readiness::Ready => Some(ToGateway::Ready),
        Readiness::NotIsolated(address) => Some(ToGateway::NotIsolated { address: *address }),
        Readiness::Held { last, reason, message } => {
            Some(ToGateway::Held { last: *last, reason: reason.clone(), message: message.clone() })
        }
    }
}

async fn send(sink: &mut (impl SinkExt<Message> + Unpin), message: &ToGateway) -> Result<(), ()> {
    let text = serde_json::to_string(message).map_err(drop)?;
    sink.send(Message::text(text)).await.map_err(drop)
}

/// Dials and serves one channel in a task of its own.
fn open<S: Serve>(address: SocketAddr, ticket: String, start: Start, client: &Rc<Client<S>>, outgoing: &mpsc::Sender<ToGateway>) {
    let (cancel, cancelled) = oneshot::channel();
    client.cancels.borrow_mut().insert(ticket.clone(), cancel);
    let (client, outgoing) = (Rc::clone(client), outgoing.clone());
    tokio::task::spawn_local(async move {
        let dial = async { client.dialer.channel(address, &ticket).await.map_err(|failure| failure.to_string()) };
        let outcome = tokio::select! {
            outcome = client.serve.serve(dial, start) => outcome,
            _ = cancelled => Ok(()),
        };
        if let Err(message) = outcome {
            let _ = outgoing.send(ToGateway::Refused { ticket: ticket.clone(), message }).await;
        }
        client.cancels.borrow_mut().remove(&ticket);
    });
}
