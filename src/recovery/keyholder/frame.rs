//! How the keyholder and its helpers pass bytes through a pipe: a kind (1 byte), a length (4 bytes, big-endian), the bytes.
//!
//! No JSON around a key: nothing has to be unescaped, and the bytes go from the pipe into locked pages without a stop in between.

use super::memory::Locked;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest private key: an RSA key of 16384 bits takes 9 KiB.
const LONGEST_KEY: usize = 64 * 1024;
/// Longest anything else: an agent message, and a request with certificates in it.
const LONGEST: usize = 512 * 1024;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON: what to do.
    Request = 1,
    /// A private key in OpenSSH's binary format, not encrypted (OpenSSH's PROTOCOL.key).
    Key = 2,
    /// A public key or a certificate, a line in OpenSSH's format.
    Line = 3,
    /// What to sign.
    Data = 4,
    /// A signature as the agent protocol wants it: algorithm and value, both with their lengths.
    Signature = 5,
    /// JSON: a [`super::KeyError`].
    Failure = 6,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Request, Self::Key, Self::Line, Self::Data, Self::Signature, Self::Failure];
}

/// One frame, received.
#[derive(Debug)]
pub enum Frame {
    /// A private key.
    Key(Locked),
    /// Anything else.
    Open(Kind, Vec<u8>),
}

/// Sends one frame.
pub async fn write(pipe: &mut (impl AsyncWrite + Unpin), kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    pipe.write_u8(kind as u8).await?;
    pipe.write_u32(length).await?;
    pipe.write_all(bytes).await
}

/// The next frame; none at the end.
pub async fn read(pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let kind = match pipe.read_u8().await {
        Ok(kind) => kind,
        Err(failure) if failure.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind).ok_or(io::ErrorKind::InvalidData)?;
    let length = usize::try_from(pipe.read_u32().await?).map_err(|_| io::ErrorKind::InvalidData)?;
    if length > if kind == Kind::Key { LONGEST_KEY } else { LONGEST } {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if kind == Kind::Key {
        let mut key = Locked::zeroed(length).map_err(|failure| {
            io::Error::new(failure.kind(), format!("failed to lock {length} bytes of memory for a key ({failure}): raise RLIMIT_MEMLOCK"))
        })?;
        pipe.read_exact(&mut key).await?;
        return Ok(Some(Frame::Key(key)));
    }
    let mut bytes = vec![0; length];
    pipe.read_exact(&mut bytes).await?;
    Ok(Some(Frame::Open(kind, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent() {
        let mut wire = Vec::new();
        write(&mut wire, Kind::Key, b"secret").await.unwrap();
        write(&mut wire, Kind::Data, b"").await.unwrap();
        assert_eq!(wire, b"\x02\0\0\0\x06secret\x04\0\0\0\0");
        let mut wire = wire.as_slice();
        assert!(matches!(read(&mut wire).await.unwrap(), Some(Frame::Key(key)) if *key == *b"secret"));
        assert!(matches!(read(&mut wire).await.unwrap(), Some(Frame::Open(Kind::Data, bytes)) if bytes.is_empty()));
        assert!(read(&mut wire).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        for wire in [&b"\0\0\0\0\0"[..], b"\x07\0\0\0\0", b"\x02\0\x01\0\x01", b"\x04\xff\xff\xff\xff", b"\x02\0\0\0\x02a", b"\x02\0\0"] {
            assert!(read(&mut &*wire).await.is_err(), "{wire:?}");
        }
    }
}
