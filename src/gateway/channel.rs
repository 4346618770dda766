//! One SSH channel: a task of its own between the user's side ([`Shared`], [`Output`]) and a WebSocket of the pod's agent.

use super::connection::{Connection, in_words};
use super::inbox::{Inbox, Input};
use super::metrics::Kind;
use super::output::{Output, Stream};
use super::waiting::linked_pod;
use super::{EXIT_CUT, EXIT_NOT_STARTED};
use crate::domain::names::ObjectName;
use crate::link::frame;
use crate::link::message::{Exit, Process, Size, Start};
use crate::link::registry::{CancelGuard, OpenChannel};
use crate::link::server::ChannelSocket;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use russh::ChannelOpenFailure;
use russh::server::{ChannelOpenHandle, Handle};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// Signals that wait to be passed on; more are dropped.
const SIGNALS: usize = 16;
/// How long a forward waits for a pod that is not linked yet.
const FORWARD_PATIENCE: Duration = Duration::from_secs(30);
/// A pod that vanished may be news that the session ended: how long to wait for the better message.
const VERDICT_PATIENCE: Duration = Duration::from_millis(1500);
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
}

/// The task's ends of what is in [`Shared`].
pub struct Ends {
    size: watch::Receiver<Size>,
    signals: mpsc::Receiver<u8>,
}

/// A new channel's shared part, and the task's ends.
#[must_use]
pub fn shared() -> (Arc<Shared>, Ends) {
    let (size, size_end) = watch::channel(Size::default());
    let (signals, signals_end) = mpsc::channel(SIGNALS);
    let shared = Shared { inbox: Inbox::default(), closed: CancellationToken::new(), size, signals };
    (Arc::new(shared), Ends { size: size_end, signals: signals_end })
}

/// Everything a channel's task needs.
pub struct Channel {
    /// The connection.
    pub connection: Arc<Connection>,
    /// The session.
    pub session: ObjectName,
    /// The user's side, in.
    pub shared: Arc<Shared>,
    /// The task's ends of it.
    pub ends: Ends,
    /// The user's side, out.
    pub output: Output,
    /// To open channels to the user's ssh-agent.
    pub handle: Handle,
}

type Sink = SplitSink<ChannelSocket, Message>;
type Incoming = SplitStream<ChannelSocket>;

impl Channel {
    /// Runs a process in the pod for the user, from waiting for the pod to the exit status.
    pub async fn run_process(mut self, process: Process) {
        let closed = self.shared.closed.clone();
        let mut cut = self.connection.cut.subscribe();
        let reason = tokio::select! {
            () = closed.cancelled() => None,
            () = self.serve_process(process) => None,
            reason = cut.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
        };
        if let Some(reason) = reason {
            self.last_words(&reason).await;
        }
        self.forget();
    }

    async fn serve_process(&mut self, process: Process) {
        let pod = linked_pod(&self.connection.gateway, &self.session, Some(&self.output)).await;
        self.greet().await;
        let opened = self.connection.gateway.registry.open(&pod, Start::Process(process)).await;
        let exit = match opened {
            Ok(OpenChannel { socket, guard }) => {
                let exit = self.bridge(socket, &pod).await;
                drop(guard);
                exit
            }
            Err(failure) => Some(Exit::Failed(failure.to_string())),
        };
        let exit = match exit {
            Some(exit) => exit,
            None => {
                // Let the connection's watch speak first, if the session is over.
                tokio::time::sleep(VERDICT_PATIENCE).await;
                Exit::Failed("the session's pod is gone".into())
            }
        };
        if let Exit::Failed(message) = &exit {
            let _ = self.output.say(message).await;
        }
        self.output.finish(&exit).await;
    }

    /// Tells people at a terminal how long they have.
    async fn greet(&self) {
        let Some(login) = self.connection.login().filter(|_| self.output.is_terminal()) else { return };
        let end = login.authorized.expires_at();
        let left = (end - (self.connection.gateway.now)()).num_seconds();
        let _ = self.output.say(&format!("this session ends at {} UTC, in {}", end.format("%H:%M:%S"), in_words(left))).await;
    }

    /// Carries frames both ways until the process ended; `None` when the pod's side broke.
    async fn bridge(&mut self, socket: ChannelSocket, pod: &str) -> Option<Exit> {
        let (sink, incoming) = socket.split();
        let Self { connection, shared, ends, output, handle, .. } = self;
        tokio::select! {
            exit = outward(incoming, output, connection, handle, pod) => exit,
            never = inward(sink, &shared.inbox, ends) => match never {},
            never = notices(connection, output) => match never {},
        }
    }

    async fn last_words(&self, reason: &str) {
        let words = async {
            let _ = self.output.say(reason).await;
            self.output.finish_with(EXIT_CUT).await;
        };
        let _ = tokio::time::timeout(LAST_WORDS, words).await;
    }

    /// Connects from the pod to `host:port` for the user (`ssh -L`), and answers the open request with the outcome.
    pub async fn run_connect(mut self, reply: ChannelOpenHandle, host: String, port: u16) {
        let closed = self.shared.closed.clone();
        let mut cut = self.connection.cut.subscribe();
        tokio::select! {
            () = closed.cancelled() => {}
            () = self.serve_connect(reply, host, port) => {}
            _ = cut.wait_for(Option::is_some) => {}
        }
        let _ = tokio::time::timeout(LAST_WORDS, self.output.close()).await;
        self.forget();
    }

    async fn serve_connect(&mut self, reply: ChannelOpenHandle, host: String, port: u16) {
        let wait = linked_pod(&self.connection.gateway, &self.session, None);
        let opened = match tokio::time::timeout(FORWARD_PATIENCE, wait).await {
            Ok(pod) => {
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
        self.connection.channels().remove(&self.output.id());
    }
}

/// From the pod to the user, until the process's status or the end of the stream.
async fn outward(mut incoming: Incoming, output: &Output, connection: &Arc<Connection>, handle: &Handle, pod: &str) -> Option<Exit> {
    while let Some(Ok(message)) = incoming.next().await {
        let Message::Binary(data) = message else { continue };
        let Some((stream, payload)) = frame::decode(data) else { continue };
        match stream {
            frame::STDOUT => output.send(Stream::Out, payload).await.ok()?,
            frame::STDERR => output.send(Stream::Error, payload).await.ok()?,
            frame::STATUS => return serde_json::from_slice(&payload).ok(),
            frame::CLOSE => output.end().await.ok()?,
            frame::AGENT_CONNECTION => {
                if let Ok(number) = <[u8; 8]>::try_from(payload.as_ref()) {
                    connect_to_agent(connection, handle, pod, u64::from_be_bytes(number));
                }
            }
            _ => {}
        }
    }
    None
}

/// From the user to the pod. Never ends by itself: the process's end, or the channel's, does.
async fn inward(mut sink: Sink, inbox: &Inbox, ends: &mut Ends) -> std::convert::Infallible {
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
                Ok(Input::Frame(frame)) => frame,
                Ok(Input::End) | Err(_) => {
                    open = false;
                    frame::encode(frame::CLOSE, &[frame::STDIN])
                }
            },
            else => std::future::pending().await,
        };
        if sink.send(Message::Binary(frame)).await.is_err() {
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

/// A program in the pod connected to the forwarded socket: join it with a channel to the user's ssh-agent.
fn connect_to_agent(connection: &Arc<Connection>, handle: &Handle, pod: &str, number: u64) {
    let (connection, handle, pod) = (Arc::clone(connection), handle.clone(), pod.to_owned());
    tokio::spawn(async move {
        let Some(login) = connection.login() else { return };
        let Ok(channel) = handle.channel_open_agent().await else { return };
        connection.gateway.metrics.channel(Kind::AgentForward);
        let (shared, ends) = shared();
        // Our own reading half would block the connection's loop: bytes come through the handler.
        let (_, write) = channel.split();
        let output = Output::new(write, handle.clone(), false, Arc::clone(&connection));
        connection.channels().insert(output.id(), Arc::clone(&shared));
        let mut channel = Channel { connection, session: login.session, shared, ends, output, handle };
        let closed = channel.shared.closed.clone();
        let serve = async {
            let opened = channel.connection.gateway.registry.open(&pod, Start::AgentConnection { connection: number }).await;
            if let Ok(OpenChannel { socket, guard }) = opened {
                let _guard: CancelGuard = guard;
                channel.bridge(socket, &pod).await;
            }
        };
        tokio::select! { () = serve => {} () = closed.cancelled() => {} }
        let _ = tokio::time::timeout(LAST_WORDS, channel.output.close()).await;
        channel.forget();
    });
}

/// Refuses on a channel whose request was already answered.
pub async fn refuse(output: Output, text: &str) {
    let _ = output.say(text).await;
    output.finish_with(EXIT_NOT_STARTED).await;
}

/// Bytes that came for a channel; false when the channel must be closed.
#[must_use]
pub fn take_input(connection: &Connection, shared: &Shared, data: &[u8]) -> bool {
    connection.touch();
    connection.gateway.metrics.bytes_in.inc_by(data.len() as u64);
    match shared.inbox.push(data) {
        Ok(()) => true,
        Err(failure) => {
            tracing::warn!(connection = connection.id, %failure, "channel closed");
            false
        }
    }
}
