//! Between a channel's frames and an SSH channel: what comes from the machine, gathered to large frames; what goes to it, as its window allows.

use super::line::Gate;
use crate::link::client::Socket;
use crate::link::frame;
use crate::link::message::{Exit, Size};
use crate::link::signals::named;
use crate::link::socket::{Receiver, Sender};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use russh::client::Msg;
use russh::{ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use std::sync::Arc;
use tokio::sync::{Mutex, Notify, mpsc};

/// The outgoing half of a channel's socket, shared by those who tell something on it.
pub(super) type Sink = Mutex<Sender>;

/// Extended data type of standard error (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// A frame that is longer already gets room for a full one.
const BULK: usize = 16 * 1024;

/// What comes from the machine on one channel, counted.
pub(super) struct Reader {
    half: ChannelReadHalf,
    channel: ChannelId,
    gate: Arc<Gate>,
    next: Option<ChannelMsg>,
}

impl Reader {
    /// Reads a channel that the gate counts.
    pub(super) const fn new(half: ChannelReadHalf, channel: ChannelId, gate: Arc<Gate>) -> Self {
        Self { half, channel, gate, next: None }
    }

    /// The next message; `None` when the connection is gone. Nothing is lost when it is dropped.
    pub(super) async fn next(&mut self) -> Option<ChannelMsg> {
        if let Some(message) = self.next.take() {
            return Some(message);
        }
        let message = self.half.wait().await;
        self.count(message)
    }

    fn count(&self, message: Option<ChannelMsg>) -> Option<ChannelMsg> {
        if let Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) = &message {
            self.gate.took(self.channel.number(), data.len());
        }
        message
    }

    /// More of the same stream that is there at once.
    fn more(&mut self, wanted: u8) -> Option<Bytes> {
        let message = self.half.wait().now_or_never().flatten();
        match self.count(message)? {
            ChannelMsg::Data { data } if wanted == frame::STDOUT => Some(data),
            ChannelMsg::ExtendedData { data, ext: STDERR } if wanted == frame::STDERR => Some(data),
            other => {
                self.next = Some(other);
                None
            }
        }
    }

    /// A frame that begins with `first`.
    fn frame(&mut self, stream: u8, first: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(first.len() + 1);
        frame.put_u8(stream);
        frame.extend_from_slice(first);
        while frame.len() < frame::FULL && self.next.is_none() {
            let Some(data) = self.more(stream) else { break };
            if frame.len() > BULK {
                frame.reserve((frame::FULL + 1).saturating_sub(frame.len()).max(data.len()));
            }
            frame.extend_from_slice(&data);
        }
        frame.freeze()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.gate.forget(self.channel.number());
    }
}

/// What came, ready for the link.
pub(super) enum Came {
    /// To send as it is.
    Frame(Bytes),
    /// How the program ended.
    Exit(Exit),
    /// The answer to a request.
    Answer(bool),
    /// The machine closed the channel.
    Closed,
}

/// What comes next that matters; `None` when the connection is gone.
pub(super) async fn come(reader: &mut Reader) -> Option<Came> {
    loop {
        return Some(match reader.next().await? {
            ChannelMsg::Data { data } => Came::Frame(reader.frame(frame::STDOUT, &data)),
            ChannelMsg::ExtendedData { data, ext: STDERR } => Came::Frame(reader.frame(frame::STDERR, &data)),
            ChannelMsg::Eof => Came::Frame(frame::encode(frame::CLOSE, &[frame::STDOUT])),
            // A shell's convention: the low byte.
            ChannelMsg::ExitStatus { exit_status } => Came::Exit(Exit::Code(exit_status.to_le_bytes()[0])),
            ChannelMsg::ExitSignal { signal_name, .. } => Came::Exit(super::signals::ended_by(&signal_name)),
            ChannelMsg::Success => Came::Answer(true),
            ChannelMsg::Failure => Came::Answer(false),
            ChannelMsg::Close => Came::Closed,
            _ => continue,
        });
    }
}

/// Sends a frame; `Err` when the gateway is gone.
pub(super) async fn send(sink: &Sink, frame: Bytes) -> Result<(), ()> {
    sink.lock().await.send(frame).await.map_err(drop)
}

/// Frames of input that wait for the machine: beside what it does not take, sizes and signals pass and the socket is watched for its end.
const INPUT_WAITING: usize = 8;

/// To where input goes.
pub(super) struct Input<'a> {
    /// The channel.
    pub write: &'a ChannelWriteHalf<Msg>,
    /// Whether a terminal reads it.
    pub terminal: bool,
    /// Told when input may be sent.
    pub started: &'a Notify,
}

impl Input<'_> {
    /// Passes input, sizes and signals on; returns when the gateway closed the channel.
    pub(super) async fn carry(&self, receiver: &mut Receiver) {
        let (queue, waiting) = mpsc::channel(INPUT_WAITING);
        let frames = async {
            while let Some(frame) = receiver.next().await {
                // Errors: the machine takes no more input, or the connection is gone, which the reader finds.
                match frame::decode(frame) {
                    Some((frame::STDIN, data)) if !data.is_empty() => drop(queue.send(Some(data)).await),
                    Some((frame::CLOSE, _)) => drop(queue.send(None).await),
                    Some((frame::RESIZE, data)) if self.terminal => self.resize(&data).await,
                    Some((frame::SIGNAL, data)) => self.signal(&data).await,
                    _ => {}
                }
            }
        };
        tokio::select! {
            () = frames => {}
            () = self.write_all(waiting) => {}
        }
    }

    /// Never returns.
    async fn write_all(&self, mut waiting: mpsc::Receiver<Option<Bytes>>) {
        self.started.notified().await;
        while let Some(input) = waiting.recv().await {
            let Some(data) = input else {
                if self.terminal {
                    // A terminal's end of file is a character of its own; the channel's end alone would not be seen.
                    let _ = self.write.data_bytes(Bytes::from_static(&[4])).await;
                }
                let _ = self.write.eof().await;
                break;
            };
            if self.write.data_bytes(data).await.is_err() {
                break;
            }
        }
        drop(waiting);
        std::future::pending::<()>().await;
    }

    async fn resize(&self, data: &[u8]) {
        if let Ok(size) = serde_json::from_slice::<Size>(data) {
            let _ = self.write.window_change(u32::from(size.width), u32::from(size.height), 0, 0).await;
        }
    }

    async fn signal(&self, data: &[u8]) {
        if let Some(signal) = data.first().copied().and_then(named) {
            let _ = self.write.signal(signal).await;
        }
    }
}

/// Bytes both ways with half-closes, until the machine closed the channel or the gateway the socket.
pub(super) async fn bridge(socket: Socket, mut reader: Reader, write: &ChannelWriteHalf<Msg>) {
    let (sender, mut receiver) = socket.split();
    let sink = Mutex::new(sender);
    let started = Notify::new();
    started.notify_one();
    let outward = async {
        loop {
            match come(&mut reader).await {
                Some(Came::Frame(frame)) => {
                    if send(&sink, frame).await.is_err() {
                        break;
                    }
                }
                Some(Came::Exit(_) | Came::Answer(_)) => {}
                Some(Came::Closed) | None => break,
            }
        }
        sink.lock().await.close().await;
    };
    let input = Input { write, terminal: false, started: &started };
    let has_ended = tokio::select! {
        () = outward => true,
        () = input.carry(&mut receiver) => false,
    };
    let _ = write.close().await;
    if has_ended {
        receiver.drain().await;
    }
}
