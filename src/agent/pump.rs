//! From where output comes to the channel's socket: gathered to large frames, read without waiting into the frame itself.

use crate::link::frame;
use crate::link::socket::Sender;
use bytes::{BufMut, Bytes, BytesMut};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Smallest free space worth a read: below it the frame is sent and a new one begun.
const READ_SIZE: usize = 32 * 1024;

/// Sends everything of `source` until its end of file.
pub async fn pump(mut source: impl Source, stream: u8, sender: &mut Sender) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = next_frame(&mut source, stream, &mut buffer).await? {
        sender.send(frame).await?;
    }
    Ok(())
}

/// How long a terminal may still bring what its program wrote before it ended.
const TAIL: Duration = Duration::from_millis(50);
/// Frames after the program's end: others may hold the terminal open and write for ever.
const TAIL_FRAMES: u32 = 64;

/// As [`pump_shared`]; once the program has `exited`, only what it left behind.
pub async fn pump_terminal(
    mut master: &AsyncFd<OwnedFd>,
    sender: &tokio::sync::Mutex<Sender>,
    exited: &tokio::sync::Notify,
) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut left = None;
    while left != Some(0) {
        let frame = tokio::select! {
            biased;
            frame = next_frame(&mut master, frame::STDOUT, &mut buffer) => frame?,
            () = exited.notified(), if left.is_none() => {
                left = Some(TAIL_FRAMES);
                continue;
            }
            () = tokio::time::sleep(TAIL), if left.is_some() => None,
        };
        let Some(frame) = frame else { return Ok(()) };
        // However slow the user's line: what was written is delivered.
        sender.lock().await.send(frame).await?;
        left = left.map(|frames| frames - 1);
    }
    Ok(())
}

/// As [`pump`], beside others that use the socket.
pub async fn pump_shared(mut source: impl Source, stream: u8, sender: &tokio::sync::Mutex<Sender>) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = next_frame(&mut source, stream, &mut buffer).await? {
        sender.lock().await.send(frame).await?;
    }
    Ok(())
}

/// Waits for output, then takes what else is there at once, up to a full frame. `None` at the end of file.
async fn next_frame<S: Source>(source: &mut S, stream: u8, buffer: &mut BytesMut) -> std::io::Result<Option<Bytes>> {
    let size = S::READ;
    loop {
        source.readable().await?;
        // Dropped while it waits, it is begun anew with the same buffer.
        buffer.clear();
        buffer.reserve(size + 1);
        buffer.put_u8(stream);
        match source.try_read(buffer) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(failure) if failure.kind() == std::io::ErrorKind::WouldBlock => {
                if buffer.capacity() < frame::FULL {
                    *buffer = BytesMut::new();
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    while buffer.len() > size / 2 && buffer.len() < frame::FULL {
        buffer.reserve(frame::FULL + 1 - buffer.len());
        // An end of file or a failure comes again with the next frame.
        if !matches!(source.try_read(buffer), Ok(1..)) {
            break;
        }
    }
    // After a large frame more is likely, into the same memory; after a small one none is kept.
    let frame = if buffer.len() > size { buffer.split() } else { std::mem::take(buffer) };
    Ok(Some(frame.freeze()))
}

/// Where output comes from: read without waiting, into the frame itself.
pub trait Source {
    /// Smallest free space worth a read.
    const READ: usize = READ_SIZE;

    async fn readable(&mut self) -> std::io::Result<()>;
    fn try_read(&mut self, buffer: &mut BytesMut) -> std::io::Result<usize>;
}

impl Source for &tokio::net::unix::pipe::Receiver {
    async fn readable(&mut self) -> std::io::Result<()> {
        tokio::net::unix::pipe::Receiver::readable(self).await
    }
    fn try_read(&mut self, buffer: &mut BytesMut) -> std::io::Result<usize> {
        self.try_read_buf(buffer)
    }
}

impl Source for tokio::net::tcp::OwnedReadHalf {
    async fn readable(&mut self) -> std::io::Result<()> {
        tokio::net::tcp::OwnedReadHalf::readable(self).await
    }
    fn try_read(&mut self, buffer: &mut BytesMut) -> std::io::Result<usize> {
        self.try_read_buf(buffer)
    }
}

impl Source for tokio::net::unix::OwnedReadHalf {
    async fn readable(&mut self) -> std::io::Result<()> {
        tokio::net::unix::OwnedReadHalf::readable(self).await
    }
    fn try_read(&mut self, buffer: &mut BytesMut) -> std::io::Result<usize> {
        self.try_read_buf(buffer)
    }
}

/// A terminal gives at most this much at once.
const TERMINAL_READ: usize = 4096;

impl Source for &AsyncFd<OwnedFd> {
    const READ: usize = TERMINAL_READ;

    async fn readable(&mut self) -> std::io::Result<()> {
        AsyncFd::readable(self).await.map(|mut ready| ready.retain_ready())
    }

    fn try_read(&mut self, buffer: &mut BytesMut) -> std::io::Result<usize> {
        let mut chunk = [0; TERMINAL_READ];
        let outcome = self.try_io(tokio::io::Interest::READABLE, |master| rustix::io::read(master, &mut chunk).map_err(Into::into));
        match outcome {
            // Nobody has it open any more.
            Err(failure) if failure.raw_os_error() == Some(nix::libc::EIO) => Ok(0),
            Err(failure) => Err(failure),
            Ok(count) => {
                buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                Ok(count)
            }
        }
    }
}
