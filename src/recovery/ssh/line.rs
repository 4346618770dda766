//! The machine's TCP connection under the SSH library: measured, stopped and cut from outside. The library gives window credit on receipt and
//! waits for its own writes before it reads, so both back-pressure and freedom from deadlock are made here. No SSH in it.

use crate::link::read_ahead::ReadAhead;
use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A channel's window: what the machine may send before it is taken.
pub(super) const WINDOW: u32 = 2 << 20;
/// Output that waits for the user before the connection is not read any more.
const HELD_LIMIT: u32 = 2 << 20;
/// What a message costs beside its bytes.
const MESSAGE_COST: u32 = 128;
/// Messages that a channel's queue must hold: it never fills before the limit, so the library's loop never waits for it.
pub(super) const MESSAGES: usize = (HELD_LIMIT / MESSAGE_COST) as usize + 1024;
/// Read while a write waits: all that a machine can have under way.
const AHEAD_LIMIT: usize = WINDOW as usize + (1 << 20);
const CHUNK: usize = 16 * 1024;

/// Nothing heard for so long is the end. A machine paused for half a minute goes on: what was sent meanwhile is repeated by TCP after 51 s at the
/// latest.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(75);

/// TCP's own limits, for what is not read: as patient as [`SILENCE_LIMIT`].
pub(super) fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt::{set_tcp_keepcnt, set_tcp_keepintvl, set_tcp_user_timeout};
    crate::link::keep_alive(stream);
    let _ = set_tcp_keepintvl(stream, Duration::from_secs(10));
    let _ = set_tcp_keepcnt(stream, 6);
    let _ = set_tcp_user_timeout(stream, u32::try_from(SILENCE_LIMIT.as_millis()).unwrap_or(u32::MAX));
}

/// What waits for the user, and when the machine was last heard.
pub(super) struct Gate {
    held: Mutex<Held>,
    reader: AtomicWaker,
    began: Instant,
    /// Milliseconds after `began`; zero: never.
    heard: AtomicU64,
    /// The machine closed it, or it broke.
    ended: AtomicBool,
}

#[derive(Default)]
struct Held {
    /// By the channel's number.
    channels: HashMap<u32, i64>,
    closed: bool,
}

impl Held {
    fn total(&self) -> u64 {
        self.channels.values().map(|held| u64::try_from(*held).unwrap_or(0)).sum()
    }
}

impl Gate {
    fn new() -> Self {
        Self {
            held: Mutex::default(),
            reader: AtomicWaker::new(),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel's output counts from here on.
    pub(super) fn count(&self, channel: u32) {
        self.lock().channels.insert(channel, 0);
    }

    /// The library put a message of so many bytes in the channel's queue.
    pub(super) fn put(&self, channel: u32, bytes: usize) {
        let mut held = self.lock();
        if let Some(waiting) = held.channels.get_mut(&channel) {
            *waiting += cost(bytes);
            held.closed |= held.total() > u64::from(HELD_LIMIT);
        }
    }

    /// It was taken out, which may be seen before it was put.
    pub(super) fn took(&self, channel: u32, bytes: usize) {
        let mut held = self.lock();
        if let Some(waiting) = held.channels.get_mut(&channel) {
            *waiting -= cost(bytes);
        }
        self.open_below(held);
    }

    /// Nobody reads that channel any more.
    pub(super) fn forget(&self, channel: u32) {
        let mut held = self.lock();
        held.channels.remove(&channel);
        self.open_below(held);
    }

    fn open_below(&self, mut held: MutexGuard<'_, Held>) {
        if held.closed && held.total() < u64::from(HELD_LIMIT / 2) {
            held.closed = false;
            drop(held);
            // It could not be heard while nobody listened.
            self.hear();
            self.reader.wake();
        }
    }

    fn hear(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now.max(1), Ordering::Relaxed);
    }

    /// Whether anything ever came.
    pub(super) fn was_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) != 0
    }

    /// Whether the machine closed the connection, or it broke.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// For how long nothing came; zero while it is not read.
    pub(super) fn silent_for(&self) -> Duration {
        if self.lock().closed {
            self.hear();
        }
        self.began.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }
}

fn cost(bytes: usize) -> i64 {
    i64::try_from(bytes as u64 + u64::from(MESSAGE_COST)).unwrap_or(i64::MAX)
}

/// Ends the connection at once when dropped, whatever the library is doing.
pub(super) struct Cut(Option<OwnedFd>);

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
    }
}

/// The library's end of the connection.
pub(super) struct Line {
    stream: ReadAhead,
    /// Came while a write waited.
    ahead: BytesMut,
    gate: Arc<Gate>,
}

impl Line {
    /// Wraps a connection that nothing was read of.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub(super) fn new(stream: TcpStream) -> io::Result<(Self, Arc<Gate>, Cut)> {
        let cut = Cut(Some(stream.as_fd().try_clone_to_owned()?));
        let gate = Arc::new(Gate::new());
        Ok((Self { stream: ReadAhead::new(stream), ahead: BytesMut::new(), gate: Arc::clone(&gate) }, gate, cut))
    }

    /// Takes in what the machine sends while it does not take what we send: some stop reading until they are rid of their own.
    fn read_beside(&mut self, context: &mut Context<'_>) {
        let mut chunk = [0; CHUNK];
        while self.ahead.len() < AHEAD_LIMIT {
            let mut buffer = ReadBuf::new(&mut chunk);
            // An end or a failure comes again with the next read.
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.gate.hear();
                    self.ahead.extend_from_slice(buffer.filled());
                }
                _ => return,
            }
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, wanted: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.gate.reader.register(context.waker());
        if self.gate.lock().closed {
            return Poll::Pending;
        }
        if self.ahead.is_empty() {
            let before = wanted.filled().len();
            let outcome = ready!(Pin::new(&mut self.stream).poll_read(context, wanted));
            if wanted.filled().len() > before {
                self.gate.hear();
            } else {
                self.gate.ended.store(true, Ordering::Relaxed);
            }
            return Poll::Ready(outcome);
        }
        let count = self.ahead.len().min(wanted.remaining());
        wanted.put_slice(self.ahead.get(..count).unwrap_or_default());
        self.ahead.advance(count);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, data);
        if written.is_pending() {
            self.read_beside(context);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    const MUCH: usize = 3 << 20;
    const LIMIT: usize = HELD_LIMIT as usize;

    async fn pair() -> (TcpStream, TcpStream) {
        // Small buffers: what is under way is in nobody's kernel.
        let small = || {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(32 * 1024).expect("set");
            socket.set_send_buffer_size(32 * 1024).expect("set");
            socket
        };
        let server = small();
        server.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let listener = server.listen(1).expect("listens");
        let near = small().connect(listener.local_addr().expect("address")).await.expect("connected");
        (near, listener.accept().await.expect("accepted").0)
    }

    #[tokio::test]
    async fn a_peer_that_reads_only_after_it_has_written_is_no_deadlock() {
        let (near, mut far) = pair().await;
        let (mut line, gate, _cut) = Line::new(near).expect("a line");
        tokio::spawn(async move {
            far.write_all(&vec![1; MUCH]).await.expect("written");
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("read");
            far.write_all(&[u8::from(all.len() == MUCH)]).await.expect("written");
        });
        assert!(!gate.was_heard());
        let run = async {
            line.write_all(&vec![2; MUCH]).await.expect("written");
            line.shutdown().await.expect("shut down");
            let mut all = Vec::new();
            line.read_to_end(&mut all).await.expect("read");
            (all.len(), all.last().copied())
        };
        let outcome = tokio::time::timeout(Duration::from_secs(20), run).await.expect("no deadlock");
        assert_eq!(outcome, (MUCH + 1, Some(1)));
        assert!(gate.was_heard() && gate.has_ended());
    }

    #[tokio::test]
    async fn what_waits_stops_the_reading_until_it_is_taken() {
        let (near, mut far) = pair().await;
        let (mut line, gate, cut) = Line::new(near).expect("a line");
        gate.count(0);
        gate.count(7);
        // Seen in either order; a channel that nobody counts is none of ours.
        gate.took(7, 1000);
        gate.put(7, 1000);
        gate.put(9, 1 << 30);
        gate.put(0, LIMIT);
        far.write_all(b"x").await.expect("written");
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(200), line.read(&mut byte)).await;
        assert!(early.is_err());
        assert!(gate.silent_for() < Duration::from_millis(200));
        let release = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            gate.took(0, LIMIT);
        };
        let read = tokio::time::timeout(Duration::from_secs(10), line.read(&mut byte));
        assert_eq!(tokio::join!(read, release).0.expect("it is woken").expect("read"), 1);
        gate.put(7, 2 * LIMIT);
        assert!(gate.lock().closed);
        gate.forget(7);
        assert!(!gate.lock().closed);
        drop(cut);
        assert_eq!(line.read(&mut byte).await.expect("an end"), 0);
    }
}
