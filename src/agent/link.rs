//! The control links: one to every gateway replica, dialled again whenever it breaks.

use super::dial::{Dialer, Socket};
use super::environment::Environment;
use super::launcher::Launcher;
use super::probe::Verdict;
use super::{channel, forward};
use crate::link::message::{Start, ToAgent, ToGateway};
use crate::link::{CHANNEL_PATH, CONTROL_PATH};
use futures_util::{SinkExt, StreamExt};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::Message;
use tracing::{debug, info, warn};

/// What every task of the agent shares.
pub struct Agent {
    /// Dials gateways.
    pub dialer: Dialer,
    /// Forks supervisors.
    pub launcher: Launcher,
    /// Where the kubelet keeps the current token.
    pub token_path: PathBuf,
    /// Surroundings of the session's processes.
    pub environment: Environment,
    /// Whether the pod is isolated.
    pub verdict: watch::Receiver<Verdict>,
    /// Channels that can be cancelled, by ticket. They outlive the control link that asked for them.
    pub cancels: RefCell<HashMap<String, oneshot::Sender<()>>>,
    /// Connections to forwarded ssh-agent sockets.
    pub forwards: forward::Pending,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// A link with no word from its gateway for this long is dead: gateways ping every 15 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// The replicas dialled so far. Shared by the links, any of which may learn of more.
struct Known {
    addresses: RefCell<HashSet<SocketAddr>>,
    /// Links to replicas that others told of.
    to_replicas: watch::Sender<usize>,
}

/// Dials `addresses`, and every replica they tell of.
pub fn start(addresses: &[SocketAddr], agent: Rc<Agent>) {
    let known = Rc::new(Known { addresses: RefCell::default(), to_replicas: watch::Sender::new(0) });
    dial_all(addresses, &agent, &known, Keep::Always);
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

fn dial_all(addresses: &[SocketAddr], agent: &Rc<Agent>, known: &Rc<Known>, keep: Keep) {
    for address in addresses {
        if known.addresses.borrow_mut().insert(*address) {
            tokio::task::spawn_local(keep_linked(*address, Rc::clone(agent), Rc::clone(known), keep));
        }
    }
}

async fn keep_linked(address: SocketAddr, agent: Rc<Agent>, known: Rc<Known>, keep: Keep) {
    let mut backoff = FIRST_BACKOFF;
    let mut failures = 0;
    loop {
        if keep == Keep::Always {
            let _ = known.to_replicas.subscribe().wait_for(|links| *links == 0).await;
        }
        let token = std::fs::read_to_string(&agent.token_path).unwrap_or_default();
        match agent.dialer.dial(address, CONTROL_PATH, &token).await {
            Ok(socket) => {
                info!(%address, "linked");
                backoff = FIRST_BACKOFF;
                failures = 0;
                let counted = usize::from(keep == Keep::WhileThere);
                known.to_replicas.send_modify(|links| *links += counted);
                converse(socket, address, &agent, &known).await;
                known.to_replicas.send_modify(|links| *links -= counted);
                info!(%address, "link ended");
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

async fn converse(socket: Socket, address: SocketAddr, agent: &Rc<Agent>, known: &Rc<Known>) {
    let (mut sink, mut stream) = socket.split();
    let (outgoing, mut queue) = mpsc::channel::<ToGateway>(64);
    let mut verdict = agent.verdict.clone();
    let mut told = false;
    loop {
        tokio::select! {
            message = tokio::time::timeout(SILENCE_LIMIT, stream.next()) => match message {
                Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str(&text) {
                    Ok(ToAgent::Peers { addresses }) => dial_all(&addresses, agent, known, Keep::WhileThere),
                    Ok(ToAgent::Open { ticket, start }) => open(address, ticket, start, agent, &outgoing),
                    Ok(ToAgent::Cancel { ticket }) => drop(agent.cancels.borrow_mut().remove(&ticket)),
                    Err(failure) => debug!(%failure, "message of another version skipped"),
                },
                Ok(Some(Ok(Message::Ping(_)))) => if sink.flush().await.is_err() { return },
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) | Err(_) => return,
            },
            message = queue.recv() => if let Some(message) = message
                && send(&mut sink, &message).await.is_err() { return },
            changed = verdict.wait_for(|verdict| *verdict != Verdict::Unknown && (!told || matches!(verdict, Verdict::Open(_)))) => {
                let message = match changed.as_deref() {
                    Ok(Verdict::Open(address)) => ToGateway::NotIsolated { address: *address },
                    Ok(_) => ToGateway::Ready,
                    Err(_) => return,
                };
                if send(&mut sink, &message).await.is_err() || matches!(message, ToGateway::NotIsolated { .. }) {
                    return;
                }
                told = true;
            }
        }
    }
}

async fn send(sink: &mut (impl SinkExt<Message> + Unpin), message: &ToGateway) -> Result<(), ()> {
    let text = serde_json::to_string(message).map_err(drop)?;
    sink.send(Message::text(text)).await.map_err(drop)
}

/// Dials and serves one channel in a task of its own.
fn open(address: SocketAddr, ticket: String, start: Start, agent: &Rc<Agent>, outgoing: &mpsc::Sender<ToGateway>) {
    let (cancel, cancelled) = oneshot::channel();
    agent.cancels.borrow_mut().insert(ticket.clone(), cancel);
    let (agent, outgoing) = (Rc::clone(agent), outgoing.clone());
    tokio::task::spawn_local(async move {
        let dial = async { agent.dialer.dial(address, CHANNEL_PATH, &ticket).await.map_err(|failure| failure.to_string()) };
        let serve = channel::serve(dial, start, &agent);
        let outcome = tokio::select! {
            outcome = serve => outcome,
            _ = cancelled => Ok(()),
        };
        if let Err(message) = outcome {
            let _ = outgoing.send(ToGateway::Refused { ticket: ticket.clone(), message }).await;
        }
        agent.cancels.borrow_mut().remove(&ticket);
    });
}
