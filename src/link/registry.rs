//! Which pods are linked to this replica, and the tickets of channels that are being opened.

use super::message::{Start, ToAgent};
use super::socket::Socket;
use base64::Engine;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long an agent has to dial a channel it was asked for.
const OPEN_LIMIT: Duration = Duration::from_secs(15);

/// Why a channel could not be opened. The texts are for the user.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No link from that pod to this replica.
    #[error("the session's pod is not linked to this gateway any more")]
    NotLinked,
    /// The agent did not dial.
    #[error("the session's pod did not answer within {} s: it may be out of memory or stopped", OPEN_LIMIT.as_secs())]
    Silent,
    /// The agent said why not.
    #[error("{0}")]
    Refused(String),
}

/// A channel that was opened. Dropping it tells the agent to kill what it started.
pub struct OpenChannel {
    /// Frames both ways.
    pub socket: Socket,
    /// Cancels on drop.
    pub guard: CancelGuard,
}

/// Tells the agent that a channel is gone, also when the channel's own socket is stalled.
pub struct CancelGuard {
    registry: Arc<Registry>,
    pod_uid: String,
    ticket: String,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.tickets.remove(&self.ticket);
        let Some(link) = state.links.get(&self.pod_uid) else { return };
        if let Err(mpsc::error::TrySendError::Full(message)) =
            link.sender.try_send(ToAgent::Cancel { ticket: std::mem::take(&mut self.ticket) })
        {
            let sender = link.sender.clone();
            tokio::spawn(async move { sender.send(message).await });
        }
    }
}

type Answer = Result<Socket, String>;

struct Link {
    id: u64,
    sender: mpsc::Sender<ToAgent>,
    ready: bool,
}

#[derive(Default)]
struct State {
    links: HashMap<String, Link>,
    tickets: HashMap<String, oneshot::Sender<Answer>>,
    next: u64,
}

/// The links of this replica. Cheap to share.
pub struct Registry {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// Link addresses of every replica, this one included.
    pub peers: watch::Sender<Vec<SocketAddr>>,
    /// This replica's own link address as agents see it.
    pub this: Option<SocketAddr>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Registry {
    /// A registry of the replica whose link port agents see at `this`.
    #[must_use]
    pub fn new(this: Option<SocketAddr>) -> Self {
        let peers = watch::Sender::new(this.into_iter().collect());
        Self { state: Mutex::default(), changed: watch::Sender::new(()), peers, this }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the pod is linked and serving.
    #[must_use]
    pub fn is_ready(&self, pod_uid: &str) -> bool {
        self.lock().links.get(pod_uid).is_some_and(|link| link.ready)
    }

    /// Wakes whenever a link comes, goes or becomes ready.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Registers a link; a newer one of the same pod replaces the older. Gives its number.
    pub(super) fn join(&self, pod_uid: &str, sender: mpsc::Sender<ToAgent>) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        // Isolation is the pod's, not the link's: proven on one, it holds for the next.
        let ready = state.links.get(pod_uid).is_some_and(|older| older.ready);
        state.links.insert(pod_uid.to_owned(), Link { id, sender, ready });
        id
    }

    pub(super) fn make_ready(&self, pod_uid: &str, id: u64) {
        if let Some(link) = self.lock().links.get_mut(pod_uid).filter(|link| link.id == id) {
            link.ready = true;
        }
        self.changed.send_replace(());
    }

    pub(super) fn leave(&self, pod_uid: &str, id: u64) {
        let mut state = self.lock();
        if state.links.get(pod_uid).is_some_and(|link| link.id == id) {
            state.links.remove(pod_uid);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Hands a ticket's socket to whoever waits for it; false for a ticket that is unknown, used or too old.
    pub(super) fn redeem(&self, ticket: &str) -> Option<oneshot::Sender<Answer>> {
        self.lock().tickets.remove(ticket)
    }

    pub(super) fn refuse(&self, ticket: &str, message: String) {
        if let Some(waiting) = self.redeem(ticket) {
            let _ = waiting.send(Err(message));
        }
    }

    /// Asks the pod's agent for a channel and waits for it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(self: &Arc<Self>, pod_uid: &str, start: Start) -> Result<OpenChannel, OpenError> {
        let ticket = new_ticket().ok_or(OpenError::NotLinked)?;
        let (answer, waiting) = oneshot::channel();
        let sender = {
            let mut state = self.lock();
            let link = state.links.get(pod_uid).filter(|link| link.ready).ok_or(OpenError::NotLinked)?;
            let sender = link.sender.clone();
            state.tickets.insert(ticket.clone(), answer);
            sender
        };
        let guard = CancelGuard { registry: Arc::clone(self), pod_uid: pod_uid.to_owned(), ticket: ticket.clone() };
        let answer = async {
            sender.send(ToAgent::Open { ticket, start }).await.map_err(|_| OpenError::NotLinked)?;
            match waiting.await {
                Ok(Ok(socket)) => Ok(socket),
                Ok(Err(message)) => Err(OpenError::Refused(message)),
                Err(_) => Err(OpenError::NotLinked),
            }
        };
        match tokio::time::timeout(OPEN_LIMIT, answer).await {
            Ok(opened) => opened.map(|socket| OpenChannel { socket, guard }),
            Err(_) => Err(OpenError::Silent),
        }
    }
}

/// 256 random bits.
fn new_ticket() -> Option<String> {
    let mut bytes = [0; 32];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ticket_works_once_and_only_while_somebody_waits() {
        let registry = Arc::new(Registry::default());
        let (sender, mut asked) = mpsc::channel(1);
        let id = registry.join("uid", sender);
        assert!(matches!(registry.open("uid", connect()).await, Err(OpenError::NotLinked)), "not ready yet");
        registry.make_ready("uid", id);
        let opening = tokio::spawn({
            let registry = Arc::clone(&registry);
            async move { registry.open("uid", connect()).await.err().map(|failure| failure.to_string()) }
        });
        let Some(ToAgent::Open { ticket, .. }) = asked.recv().await else { panic!("asked for a channel") };
        assert!(registry.redeem("another").is_none());
        registry.refuse(&ticket, "no shell".into());
        assert_eq!(opening.await.expect("ended"), Some("no shell".into()));
        assert!(registry.redeem(&ticket).is_none(), "used");
    }

    #[test]
    fn an_older_link_cannot_unregister_a_newer_one() {
        let registry = Registry::default();
        let (sender, _asked) = mpsc::channel(1);
        let older = registry.join("uid", sender.clone());
        let newer = registry.join("uid", sender);
        registry.make_ready("uid", older);
        assert!(!registry.is_ready("uid"));
        registry.make_ready("uid", newer);
        registry.leave("uid", older);
        assert!(registry.is_ready("uid"));
    }

    fn connect() -> Start {
        Start::Connect { host: "h".into(), port: 1 }
    }
}
