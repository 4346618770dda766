//! One SSH channel: a task of its own between the user's side ([`Shared`], [`Output`]) and a socket of the pod's agent.

use super::connection::{Connection, Login};
use super::handler::MOST_CHANNELS;
use super::inbox::{Budget, Inbox, Input};
use super::metrics::Kind;
use super::output::{Output, Stream};
use super::power;
use super::sight::Sight;
use super::waiting::linked_pod;
use super::watch::in_words;
use super::{EXIT_CUT, EXIT_NOT_STARTED};
use crate::link::frame;
use crate::link::message::{Exit, Size, Start};
use crate::link::registry::{CancelGuard, OpenChannel};
use crate::link::socket::{Receiver, Sender, Socket};
use crate::recording::audit::Ending;
use crate::recording::recorder::Stopped;
use russh::ChannelOpenFailure;
use russh::server::{ChannelOpenHandle, Handle};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Signals that wait to be passed on; more are dropped.
const SIGNALS: usize = 16;
/// How long a forward waits for a pod that is not linked yet.
const FORWARD_PATIENCE: Duration = Duration::from_secs(30);
/// A pod that vanished may be news that the session ended: how long to wait for the better message.
const VERDICT_PATIENCE: Duration = Duration::from_millis(1500);
/// How long a client may take to answer that its ssh-agent is reachable.
const AGENT_PATIENCE: Duration = Duration::from_secs(10);
/// After a longer wait for the pod, the recording store is asked once more.
const FRESH: Duration = Duration::from_secs(5);
/// How long last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the connection's loop and the channel's task share.
pub struct Shared {
    /// Input that the process has not taken yet.
    pub inbox: Inbox,
    /// The user's side closed the channel, or the connection is gone.
    pub closed: CancellationToken,
    /// Size of the terminal.
    pub size: watch::Sender<Size>,
    /// Signals to deliver.
    pub signals: mpsc::Sender<u8>,
    /// Set once: why input cannot be taken any more.
    pub overflow: watch::Sender<Option<Arc<str>>>,
    /// What is recorded of it, once it is known what the channel is for.
    pub sight: OnceLock<Arc<Sight>>,
}

/// The task's ends of what is in [`Shared`].
pub struct Ends {
    size: watch::Receiver<Size>,
    signals: mpsc::Receiver<u8>,
}

/// A new channel's shared part, and the task's ends.
#[must_use]
pub fn shared(budget: &Arc<Budget>) -> (Arc<Shared>, Ends) {
    let (size, size_end) = watch::channel(Size::default());
    let (signals, signals_end) = mpsc::channel(SIGNALS);
    let inbox = Inbox::new(Arc::clone(budget));
    let shared =
        Shared { inbox, closed: CancellationToken::new(), size, signals, overflow: watch::Sender::new(None), sight: OnceLock::new() };
    (Arc::new(shared), Ends { size: size_end, signals: signals_end })
}

/// Everything a channel's task needs.
pub struct Channel {
    /// The connection.
    pub connection: Arc<Connection>,
    /// Who is served, and what they logged in to.
    pub login: Login,
    /// The user's side, in.
    pub shared: Arc<Shared>,
    /// The task's ends of it.
    pub ends: Ends,
    /// The user's side, out.
    pub output: Output,
    /// To open channels to the user's ssh-agent.
    pub handle: Handle,
    /// Whether this channel's process may reach the user's ssh-agent: what the pod says about it does not count.
    pub agent_forward: bool,
    /// What the user is told at the beginning, at a terminal.
    pub note: Option<String>,
}

impl Channel {
    /// Runs a process in the pod, or a power verb through it, for the user: from waiting for the pod to the exit status.
    pub async fn run(mut self, start: Start) {
        let closed = self.shared.closed.clone();
        let mut cut = self.connection.cut.subscribe();
        let mut overflow = self.shared.overflow.subscribe();
        let reason = tokio::select! {
            () = closed.cancelled() => None,
            () = self.serve(start) => None,
            reason = cut.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
            reason = overflow.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
        };
        if let Some(reason) = reason {
            self.last_words(&reason).await;
        }
        self.forget();
    }

    async fn serve(&mut self, start: Start) {
        let began = Instant::now();
        let linked = async { Ok(linked_pod(&self.connection.gateway, &self.login, Some(&self.output)).await) };
        let pod = match tokio::try_join!(linked, self.output.sight().is_recorded()) {
            Ok((pod, ())) => pod,
            Err(unrecorded) => return self.refuse(&unrecorded).await,
        };
        if began.elapsed() > FRESH
            && let Err(unrecorded) = self.output.sight().is_recorded().await
        {
            return self.refuse(&unrecorded).await;
        }
        self.greet().await;
        if let Start::Power { verb } = &start {
            return self.power(&pod, verb).await;
        }
        let opened = self.connection.gateway.registry.open(&pod, start).await;
        let exit = match opened {
            Ok(OpenChannel { socket, guard }) => {
                let exit = self.bridge(socket, &pod).await;
                drop(guard);
                exit
            }
            Err(failure) => Some(Exit::Failed(failure.to_string())),
        };
        let exit = if let Some(exit) = exit {
            exit
        } else {
            // Let the connection's watch speak first, if the session is over.
            tokio::time::sleep(VERDICT_PATIENCE).await;
            Exit::Failed("the session's pod is gone".into())
        };
        if let Exit::Failed(message) = &exit {
            let _ = self.output.say(message).await;
        }
        self.output.finish(&exit).await;
    }

    /// Runs a power verb: one line of JSON on standard output, and the exit code of a fence agent. It goes on, and on record, when the
    /// user leaves.
    async fn power(&self, pod: &str, verb: &str) {
        let evidence = self.connection.evidence(self.output.id().into());
        let (mut words, ended) = power::start(&self.connection.gateway, pod, verb, evidence);
        let sight = Arc::clone(self.output.sight());
        let run = tokio::spawn(async move {
            let ended = ended.await;
            sight.powered(&ended);
            ended
        });
        while let Some(words) = words.recv().await {
            let _ = self.output.say(&words).await;
        }
        let Ok(ended) = run.await else { return };
        let _ = self.output.send(Stream::Out, ended.line().into()).await;
        if ended.outcome.is_none() {
            let _ = self.output.say(&ended.message).await;
        }
        self.output.finish(&Exit::Code(ended.exit())).await;
    }

    /// Says no to a command, as its only output.
    pub async fn run_refused(self, reason: String) {
        // A client that leaves no room for words has its channel closed all the same.
        let _ = tokio::time::timeout(LAST_WORDS, self.output.say(&reason)).await;
        let _ = tokio::time::timeout(LAST_WORDS, self.output.finish(&Exit::Code(1))).await;
        self.forget();
    }

    /// What cannot be recorded is not started.
    async fn refuse(&self, unrecorded: &Stopped) {
        let _ = self.output.say(&unrecorded.0).await;
        self.output.finish_with(EXIT_NOT_STARTED, &unrecorded.0).await;
    }

    /// Tells people at a terminal how long they have.
    async fn greet(&self) {
        let Some(login) = self.connection.login().filter(|_| self.output.is_terminal()) else { return };
        let end = login.authorized.expires_at();
        let left = (end - (self.connection.gateway.now)()).num_seconds();
        let _ = self.output.say(&format!("this session ends at {} UTC, in {}", end.format("%H:%M:%S"), in_words(left))).await;
        if let Some(note) = &self.note {
            let _ = self.output.say(note).await;
        }
    }

    /// Carries frames both ways until the process ended; `None` when the pod's side broke.
    async fn bridge(&mut self, socket: Socket, pod: &str) -> Option<Exit> {
        let (sender, receiver) = socket.split();
        let Self { connection, shared, ends, output, handle, agent_forward, .. } = self;
        let forward =
            agent_forward.then(|| AgentForward { connection: Arc::clone(connection), handle: handle.clone(), pod: pod.to_owned() });
        tokio::select! {
            exit = outward(receiver, output, connection, forward) => exit,
            never = inward(sender, shared, ends, output.sight()) => match never {},
            never = notices(connection, output) => match never {},
        }
    }

    async fn last_words(&self, reason: &str) {
        self.output.sight().ended(Ending::Failure(reason.to_owned()));
        // A client that leaves no room for words has its channel closed all the same.
        let _ = tokio::time::timeout(LAST_WORDS, self.output.say(reason)).await;
        let _ = tokio::time::timeout(LAST_WORDS, self.output.finish_with(EXIT_CUT, reason)).await;
    }

    /// Connects from the pod to `host:port` for the user (`ssh -L`), and answers the open request with the outcome.
    pub async fn run_connect(mut self, reply: ChannelOpenHandle, host: String, port: u16) {
        let closed = self.shared.closed.clone();
        let mut cut = self.connection.cut.subscribe();
        let mut overflow = self.shared.overflow.subscribe();
        tokio::select! {
            () = closed.cancelled() => {}
            () = self.serve_connect(reply, host, port) => {}
            _ = cut.wait_for(Option::is_some) => {}
            _ = overflow.wait_for(Option::is_some) => {}
        }
        let _ = tokio::time::timeout(LAST_WORDS, self.output.close()).await;
        self.forget();
    }

    async fn serve_connect(&mut self, reply: ChannelOpenHandle, host: String, port: u16) {
        let wait = async { Ok(linked_pod(&self.connection.gateway, &self.login, None).await) };
        let wait = async { tokio::try_join!(wait, self.output.sight().is_recorded()) };
        let opened = match tokio::time::timeout(FORWARD_PATIENCE, wait).await {
            Ok(Err(unrecorded)) => Err(unrecorded.to_string()),
            Ok(Ok((pod, ()))) => {
                let opened = self.connection.gateway.registry.open(&pod, Start::Connect { host, port }).await;
                opened.map(|opened| (pod, opened)).map_err(|failure| failure.to_string())
            }
            Err(_) => Err("the session is not open yet".into()),
        };
        match opened {
            Ok((pod, OpenChannel { socket, guard })) => {
                reply.accept().await;
                self.bridge(socket, &pod).await;
                drop(guard);
            }
            // 2 is SSH_OPEN_CONNECT_FAILED (RFC 4254, 5.1), with our words.
            Err(reason) => reply.reject(ChannelOpenFailure::Other { code: 2, reason }).await,
        }
    }

    fn forget(&self) {
        self.output.sight().ended(Ending::Failure("the client closed the channel".into()));
        self.connection.channels().remove(&self.output.id());
    }
}

/// From the pod to the user, until the process's status or the end of the stream.
async fn outward(mut receiver: Receiver, output: &Output, connection: &Connection, forward: Option<AgentForward>) -> Option<Exit> {
    while let Some(frame) = receiver.next().await {
        connection.touch();
        let Some((stream, payload)) = frame::decode(frame) else { continue };
        match stream {
            _ if payload.is_empty() => {}
            frame::STDOUT => output.send(Stream::Out, payload).await.ok()?,
            frame::STDERR => output.send(Stream::Error, payload).await.ok()?,
            frame::KEYSTROKES => output.sight().typed(payload),
            frame::STATUS => return serde_json::from_slice(&payload).ok(),
            frame::CLOSE => output.end().await.ok()?,
            frame::AGENT_CONNECTION => {
                if let (Some(forward), Ok(number)) = (&forward, <[u8; 8]>::try_from(payload.as_ref())) {
                    forward.connect(u64::from_be_bytes(number));
                }
            }
            _ => {}
        }
    }
    None
}

/// From the user to the pod. Never ends by itself: the process's end, or the channel's, does.
async fn inward(mut sender: Sender, shared: &Shared, ends: &mut Ends, sight: &Sight) -> std::convert::Infallible {
    let inbox = &shared.inbox;
    let mut open = true;
    loop {
        let frame = tokio::select! {
            biased;
            Ok(()) = ends.size.changed() => {
                let size = *ends.size.borrow_and_update();
                frame::encode(frame::RESIZE, &serde_json::to_vec(&size).unwrap_or_default())
            }
            Some(signal) = ends.signals.recv() => frame::encode(frame::SIGNAL, &[signal]),
            input = inbox.next(), if open => match input {
                Ok(Input::Frame(frame)) => {
                    sight.from_user(frame.get(1..).unwrap_or_default());
                    frame
                }
                Ok(Input::End) => {
                    open = false;
                    frame::encode(frame::CLOSE, &[frame::STDIN])
                }
                // Never an end of input where some was lost.
                Err(failure) => {
                    shared.overflow.send_replace(Some(failure.to_string().into()));
                    return std::future::pending().await;
                }
            },
            else => std::future::pending().await,
        };
        if sender.send(frame).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Passes warnings on to people at a terminal.
async fn notices(connection: &Connection, output: &Output) -> std::convert::Infallible {
    let mut notice = connection.notice.subscribe();
    while notice.changed().await.is_ok() {
        let text = notice.borrow_and_update().clone();
        if let Some(text) = text.filter(|_| output.is_terminal()) {
            let _ = output.say(&text).await;
        }
    }
    std::future::pending().await
}

/// The right of one process to reach the user's ssh-agent.
struct AgentForward {
    connection: Arc<Connection>,
    handle: Handle,
    pod: String,
}

impl AgentForward {
    /// A program connected to the forwarded socket: join it with a channel to the user's ssh-agent.
    fn connect(&self, number: u64) {
        let place = Arc::clone(&self.connection.agent_connections).try_acquire_owned();
        let (Ok(place), true) = (place, self.connection.channels().len() < MOST_CHANNELS) else {
            return self.connection.refused(None, "connection to the user's ssh-agent", "this connection has as many as it may have");
        };
        let (connection, handle, pod) = (Arc::clone(&self.connection), self.handle.clone(), self.pod.clone());
        tokio::spawn(async move {
            join_agent(connection, handle, &pod, number).await;
            drop(place);
        });
    }
}

async fn join_agent(connection: Arc<Connection>, handle: Handle, pod: &str, number: u64) {
    let Some(login) = connection.login() else { return };
    let Ok(Ok(channel)) = tokio::time::timeout(AGENT_PATIENCE, handle.channel_open_agent()).await else { return };
    connection.gateway.metrics.channel(Kind::AgentForward);
    let (shared, ends) = shared(&connection.gateway.budget);
    // Our own reading half would block the connection's loop: bytes come through the handler.
    let (_, write) = channel.split();
    let sight = Sight::agent(&connection, write.id().into());
    let output = Output::new(write, handle.clone(), false, Arc::clone(&connection), sight);
    connection.channels().insert(output.id(), Arc::clone(&shared));
    let mut channel = Channel { connection, login, shared, ends, output, handle, agent_forward: false, note: None };
    let closed = channel.shared.closed.clone();
    let mut cut = channel.connection.cut.subscribe();
    let serve = async {
        if channel.output.sight().is_recorded().await.is_err() {
            return;
        }
        let opened = channel.connection.gateway.registry.open(pod, Start::AgentConnection { connection: number }).await;
        if let Ok(OpenChannel { socket, guard }) = opened {
            let _guard: CancelGuard = guard;
            channel.bridge(socket, pod).await;
        }
    };
    tokio::select! { () = serve => {} () = closed.cancelled() => {} _ = cut.wait_for(Option::is_some) => {} }
    let _ = tokio::time::timeout(LAST_WORDS, channel.output.close()).await;
    channel.forget();
}

/// Bytes that came for a channel. What cannot be taken closes it.
pub fn take_input(connection: &Connection, shared: &Shared, data: &[u8]) {
    connection.touch();
    connection.gateway.metrics.bytes_in.inc_by(data.len() as u64);
    if shared.overflow.borrow().is_some() {
        return;
    }
    if let Err(failure) = shared.inbox.push(data) {
        tracing::warn!(connection = connection.id, %failure, "channel closed");
        shared.overflow.send_replace(Some(failure.to_string().into()));
    }
}
