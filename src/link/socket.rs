//! A channel's socket: frames both ways, each behind its length in four bytes, big endian. Where bytes pass in bulk, each pass over them counts:
//! a frame is encrypted from where it lies and read to where it stays. While nothing comes, no buffer is kept.

use super::read_ahead::ReadAhead;
use bytes::buf::Chain;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io::{self, Cursor};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::TlsStream;

/// Bytes of the length.
const LENGTH: usize = 4;
/// The longest frame that is taken: a pod's agent is not trusted with the gateway's memory.
const LONGEST: usize = 1 << 20;
/// Room for what comes first: a keystroke's frame in one piece.
const FIRST: usize = 256;

const fn is_length(length: usize) -> bool {
    0 < length && length <= LONGEST
}

/// Bytes as they pass the link.
pub type Stream = TlsStream<ReadAhead>;

/// A channel's socket, either end. Small: it is handed from one future to the next, and what is large of it stays where it is.
#[derive(Debug)]
pub struct Socket {
    sender: Sender,
    receiver: Receiver,
}

impl Socket {
    /// A socket over a stream that was upgraded, of which `buffer` was read already.
    #[must_use]
    pub fn new(stream: impl Into<Stream>, buffer: BytesMut) -> Self {
        let (reader, writer) = tokio::io::split(stream.into());
        Self { sender: Sender { writer, left: nothing() }, receiver: Receiver { reader, buffer } }
    }

    /// Its two halves.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

/// A frame behind its length, as far as it is not written.
type Left = Chain<Cursor<[u8; LENGTH]>, Bytes>;

fn nothing() -> Left {
    let mut left = Buf::chain(Cursor::new([0; LENGTH]), Bytes::new());
    left.advance(LENGTH);
    left
}

/// Where frames go.
#[derive(Debug)]
pub struct Sender {
    writer: WriteHalf<Stream>,
    /// What is not written yet of a frame whose sending was given up.
    left: Left,
}

impl Sender {
    /// Sends a frame. Given up halfway, the rest of it goes before the next one.
    ///
    /// # Errors
    /// When the connection is gone, or the frame is empty or longer than a megabyte.
    pub async fn send(&mut self, frame: Bytes) -> io::Result<()> {
        let length = u32::try_from(frame.len()).ok().filter(|_| is_length(frame.len())).ok_or(io::ErrorKind::InvalidInput)?;
        self.writer.write_all_buf(&mut self.left).await?;
        self.left = Buf::chain(Cursor::new(length.to_be_bytes()), frame);
        self.writer.write_all_buf(&mut self.left).await?;
        // TLS has it now: the memory is whoever's who made the frame.
        self.left = nothing();
        self.writer.flush().await
    }

    /// Tells the other end that no more frames come.
    pub async fn close(&mut self) {
        if self.writer.write_all_buf(&mut self.left).await.is_ok() {
            let _ = self.writer.shutdown().await;
        }
    }
}

/// Where frames come from.
#[derive(Debug)]
pub struct Receiver {
    reader: ReadHalf<Stream>,
    buffer: BytesMut,
}

impl Receiver {
    /// The next frame; `None` when the other end closed, broke, or sent what is no frame. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Bytes> {
        // Many small frames come with one read: who sends nothing else must not keep this thread to itself.
        tokio::task::coop::consume_budget().await;
        loop {
            let missing = match self.buffer.first_chunk::<LENGTH>() {
                Some(length) => {
                    let length = usize::try_from(u32::from_be_bytes(*length)).ok().filter(|length| is_length(*length))?;
                    if self.buffer.len() >= LENGTH + length {
                        self.buffer.advance(LENGTH);
                        return Some(self.take(length));
                    }
                    LENGTH + length - self.buffer.len()
                }
                None => FIRST,
            };
            self.buffer.reserve(missing);
            // Not beyond the frame: a frame holds no memory but its own, whatever the other end sends.
            let mut room = (&mut self.buffer).limit(missing);
            if self.reader.read_buf(&mut room).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Waits for the other end to close, whatever it still sends. A connection that is dropped with something unread takes back what the other
    /// end has not read yet.
    pub async fn drain(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Splits a frame off; keeps no memory that nothing is in.
    fn take(&mut self, length: usize) -> Bytes {
        if self.buffer.len() == length {
            return std::mem::take(&mut self.buffer).freeze();
        }
        self.buffer.split_to(length).freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{SERVER_NAME, provider, tls};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::net::{TcpListener, TcpStream};

    /// Two ends of a connection, by the link's own TLS.
    async fn pair() -> (Stream, Stream) {
        let (certificate, key) = tls::new_authority().expect("a CA");
        let acceptor = tls::acceptor(&certificate, key.expose()).expect("an acceptor");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")).expect("a certificate");
        let configuration = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let near = async { acceptor.accept(ReadAhead::new(listener.accept().await.expect("accepted").0)).await.expect("TLS") };
        let far = async {
            let stream = ReadAhead::new(TcpStream::connect(address).await.expect("connected"));
            let name = ServerName::try_from(SERVER_NAME).expect("a name");
            tokio_rustls::TlsConnector::from(Arc::new(configuration)).connect(name, stream).await.expect("TLS")
        };
        let (near, far) = tokio::join!(near, far);
        (near.into(), far.into())
    }

    fn frame(length: usize) -> Bytes {
        (0..=250).cycle().take(length).collect()
    }

    #[tokio::test]
    async fn frames_of_any_length_arrive_whole_and_in_order() {
        let (near, far) = pair().await;
        let (mut sender, _) = Socket::new(near, BytesMut::new()).split();
        let lengths = [1, 3, 255, 256, 257, 5, 16 * 1024, 240 * 1024, 2, LONGEST, 7];
        let sent = tokio::spawn(async move {
            for length in lengths {
                sender.send(frame(length)).await.expect("sent");
            }
            sender.close().await;
        });
        let (_sender, mut receiver) = Socket::new(far, BytesMut::new()).split();
        for length in lengths {
            assert!(receiver.next().await.expect("a frame") == frame(length), "{length} bytes");
        }
        assert_eq!(receiver.next().await, None);
        assert!(receiver.buffer.capacity() <= FIRST, "memory is kept for nothing: {}", receiver.buffer.capacity());
        sent.await.expect("sent");
    }

    #[tokio::test]
    async fn what_came_with_the_upgrade_is_its_beginning() {
        let (near, mut far) = pair().await;
        let early = BytesMut::from(&[0, 0, 0, 1, b'a', 0, 0][..]);
        let (_sender, mut receiver) = Socket::new(near, early).split();
        far.write_all(&[0, 2, b'b', b'c']).await.expect("sent");
        far.flush().await.expect("sent");
        assert_eq!(receiver.next().await.expect("a frame"), "a");
        assert_eq!(receiver.next().await.expect("a frame"), "bc");
    }

    #[tokio::test]
    async fn a_frame_that_is_empty_or_too_long_ends_it_and_is_not_sent() {
        for length in [0, u32::MAX] {
            let (near, mut far) = pair().await;
            let (mut sender, mut receiver) = Socket::new(near, BytesMut::new()).split();
            assert!(sender.send(frame(usize::try_from(length).expect("fits").min(LONGEST + 1))).await.is_err());
            far.write_all(&length.to_be_bytes()).await.expect("sent");
            far.flush().await.expect("sent");
            assert_eq!(receiver.next().await, None);
            assert!(receiver.buffer.capacity() <= FIRST, "room was made for it: {}", receiver.buffer.capacity());
        }
    }

    #[tokio::test]
    async fn a_frame_holds_no_memory_but_its_own() {
        let (near, mut far) = pair().await;
        let (mut sender, mut receiver) = Socket::new(near, BytesMut::new()).split();
        let sent = frame(100_000);
        sender.send(sent.clone()).await.expect("sent");
        assert!(sent.is_unique(), "the sender keeps what it has sent");
        let small = [&5_u32.to_be_bytes()[..], b"small"].concat();
        let large = [&100_000_u32.to_be_bytes()[..], &sent].concat();
        far.write_all(&[&large[..], &small, &large, &small].concat()).await.expect("sent");
        far.flush().await.expect("sent");
        for length in [100_000, 5, 100_000, 5] {
            let capacity = BytesMut::from(receiver.next().await.expect("a frame")).capacity();
            assert!(capacity <= length + FIRST, "{length} bytes in {capacity}");
        }
    }

    #[tokio::test]
    async fn a_sending_that_was_given_up_spoils_nothing() {
        let (near, far) = pair().await;
        let (mut sender, _) = Socket::new(near, BytesMut::new()).split();
        let (_sender, mut receiver) = Socket::new(far, BytesMut::new()).split();
        // Until the other end must read for it to go on.
        let mut given_up = 0;
        while tokio::time::timeout(Duration::from_millis(50), sender.send(frame(LONGEST))).await.is_ok() {
            given_up += 1;
        }
        let last = tokio::spawn(async move { sender.send(frame(5)).await });
        for _ in 0..=given_up {
            assert!(receiver.next().await.expect("a frame") == frame(LONGEST));
        }
        assert!(receiver.next().await.expect("a frame") == frame(5));
        last.await.expect("ended").expect("sent");
    }
}
