//! Larger reads under TLS. rustls asks its socket for four kilobytes at a time, so a record costs four system calls; in bulk
//! that is a fifth of the work. While little comes in, nothing is buffered and nothing allocated.

use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What is read at once in bulk.
const AHEAD: usize = 64 * 1024;

/// A socket that reads ahead while data comes in bulk.
#[derive(Debug)]
pub struct ReadAhead {
    stream: TcpStream,
    buffer: BytesMut,
    bulk: bool,
}

impl ReadAhead {
    /// Wraps a socket that nothing was read of by others.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), bulk: false }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, wanted: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() && self.bulk {
            self.buffer.reserve(AHEAD);
            let Self { stream, buffer, .. } = &mut *self;
            let read = loop {
                ready!(stream.poll_read_ready(context))?;
                match stream.try_read_buf(buffer) {
                    Err(failure) if failure.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => break outcome?,
                }
            };
            self.bulk = read > wanted.remaining();
            if read == 0 {
                self.buffer = BytesMut::new();
                return Poll::Ready(Ok(()));
            }
        }
        if self.buffer.is_empty() {
            let room = wanted.remaining();
            let before = wanted.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(context, wanted))?;
            self.bulk = wanted.filled().len() - before == room;
            return Poll::Ready(Ok(()));
        }
        let count = self.buffer.len().min(wanted.remaining());
        wanted.put_slice(self.buffer.get(..count).unwrap_or_default());
        self.buffer.advance(count);
        if self.buffer.is_empty() && !self.bulk {
            self.buffer = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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

    #[tokio::test]
    async fn bytes_keep_their_order_and_the_buffer_goes_when_bulk_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let data: Vec<u8> = (0..1_000_003_u32).map(|number| (number % 251) as u8).collect();
        let sent = data.clone();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(&sent).await.expect("sent");
        });
        let mut reader = ReadAhead::new(listener.accept().await.expect("accepted").0);
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        while let count @ 1.. = reader.read(&mut chunk).await.expect("read") {
            all.extend_from_slice(&chunk[..count]);
        }
        assert!(all == data);
        assert_eq!(reader.buffer.capacity(), 0);
    }
}
