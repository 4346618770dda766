//! A client's socket that can be shut down from outside the SSH library: its loop may be stuck in a write to a client that
//! stopped reading.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Reads after which the client is acknowledged at once: those of its login. Its next message waits for that (Nagle's algorithm, RFC 896), and
/// the kernel would wait 40 ms for an answer to send with it, where there is none: the client's key exchange follows its proposal so.
const EAGER: u8 = 64;

/// A socket shared between the SSH library and its [`Cut`].
pub struct Shared {
    stream: Arc<TcpStream>,
    /// Reads left to acknowledge at once.
    eager: u8,
}

/// Ends the connection, whatever its loop is doing.
#[derive(Clone)]
pub struct Cut(Arc<TcpStream>);

/// Splits off the means to end `stream`.
#[must_use]
pub fn share(stream: TcpStream) -> (Shared, Cut) {
    let stream = Arc::new(stream);
    (Shared { stream: Arc::clone(&stream), eager: EAGER }, Cut(stream))
}

impl Shared {
    fn acknowledge(&mut self) {
        if self.eager > 0 {
            self.eager -= 1;
            let _ = rustix::net::sockopt::set_tcp_quickack(&*self.stream, true);
        }
    }
}

impl Cut {
    /// Shuts both directions down: reads give an end of file, writes fail.
    pub fn now(&self) {
        let _ = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both);
    }
}

impl AsyncRead for Shared {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    self.acknowledge();
                    return Poll::Ready(Ok(()));
                }
                Err(failure) if failure.kind() == io::ErrorKind::WouldBlock => {}
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write(data) {
                Err(failure) if failure.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write).map_err(Into::into))
    }
}
