//! The process `recovery-sign`: makes one key, or signs once, and ends. It must not open a file or a socket.
//!
//! Why a process: a signature leaves copies of the key on the stack, and for RSA on the heap, where nobody wipes them. They end with it.

use super::frame::{self, Frame, Kind};
use super::memory::Locked;
use super::messages::KeyError;
use super::process;
use russh::keys::key::safe_rng;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{Algorithm, HashAlg, PrivateKey};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;

/// What to do.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Make an Ed25519 key: gives the key and the line of its public half.
    Make,
    /// Sign the data of the third frame with the key of the second: gives the signature.
    Sign(Hash),
}

/// With which hash an RSA key signs; SHA-1 is not among them. The other kinds have but one.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Hash {
    /// `rsa-sha2-256` (RFC 8332).
    Sha256,
    /// `rsa-sha2-512`.
    Sha512,
}

/// Runs the process; returns its exit code.
#[must_use]
pub fn serve() -> i32 {
    process::run("recovery-sign", process::Life::Task, |mut input, mut output| async move {
        let done = match work(&mut input).await {
            Ok(Done::Made(key, line)) => match frame::write(&mut output, Kind::Key, &key).await {
                Ok(()) => frame::write(&mut output, Kind::Line, line.as_bytes()).await,
                Err(error) => Err(error),
            },
            Ok(Done::Signed(signature)) => frame::write(&mut output, Kind::Signature, &signature).await,
            Err(error) => frame::write(&mut output, Kind::Failure, &serde_json::to_vec(&error).unwrap_or_default()).await,
        };
        i32::from(done.is_err())
    })
}

enum Done {
    Made(Locked, String),
    Signed(Vec<u8>),
}

async fn work(input: &mut pipe::Receiver) -> Result<Done, KeyError> {
    let unread = |error: std::io::Error| KeyError::failed(format!("failed to read what to sign: {error}"));
    let task = match frame::read(input).await.map_err(unread)? {
        Some(Frame::Open(Kind::Request, text)) => serde_json::from_slice(&text).ok(),
        _ => None,
    };
    match task.ok_or_else(|| KeyError::failed("recovery-sign is started by the keyholder, not by hand"))? {
        Task::Make => make(),
        Task::Sign(hash) => {
            let key = frame::read(input).await.map_err(unread)?;
            let data = frame::read(input).await.map_err(unread)?;
            let (Some(Frame::Key(key)), Some(Frame::Open(Kind::Data, data))) = (key, data) else {
                return Err(KeyError::failed("failed to read what to sign: frames are missing"));
            };
            sign(&key, hash, &data).map(Done::Signed)
        }
    }
}

fn make() -> Result<Done, KeyError> {
    let failed = |_| KeyError::failed("failed to make a key");
    let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(failed)?;
    let line = key.public_key().to_openssh().map_err(failed)?;
    let bytes = key.to_bytes().map_err(failed)?;
    let locked = Locked::copy_of(&bytes).map_err(|error| KeyError::failed(format!("failed to lock memory for a key: {error}")))?;
    Ok(Done::Made(locked, line))
}

fn sign(key: &[u8], hash: Hash, data: &[u8]) -> Result<Vec<u8>, KeyError> {
    let key = PrivateKey::from_bytes(key).map_err(|_| KeyError::failed("failed to sign: the key is damaged"))?;
    let hash = match hash {
        Hash::Sha256 => HashAlg::Sha256,
        Hash::Sha512 => HashAlg::Sha512,
    };
    let signature = match key.key_data() {
        KeypairData::Rsa(pair) => (pair, Some(hash)).try_sign(data),
        other => other.try_sign(data),
    };
    signature.ok().and_then(|signature| signature.encode_vec().ok()).ok_or_else(|| KeyError::failed("failed to sign with the key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::signature::Verifier as _;
    use russh::keys::ssh_encoding::Decode as _;
    use russh::keys::ssh_key::{EcdsaCurve, Signature};

    #[test]
    fn signatures_of_each_kind_verify() {
        for algorithm in [
            Algorithm::Ed25519,
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        ] {
            let key = PrivateKey::random(&mut safe_rng(), algorithm.clone()).unwrap();
            let blob = sign(&key.to_bytes().unwrap(), Hash::Sha512, b"data").unwrap();
            let signature = Signature::decode(&mut blob.as_slice()).unwrap();
            assert_eq!(signature.algorithm(), algorithm);
            key.public_key().key_data().verify(b"data", &signature).unwrap();
            assert!(key.public_key().key_data().verify(b"date", &signature).is_err());
        }
    }

    #[test]
    fn a_made_key_is_the_one_of_its_line() {
        let Ok(Done::Made(key, line)) = make() else { panic!("no key") };
        let key = PrivateKey::from_bytes(&key).unwrap();
        assert_eq!(key.public_key().to_openssh().unwrap(), line);
    }

    #[test]
    fn damaged_keys_do_not_sign() {
        for bytes in [&b""[..], b"openssh-key-v1\0", &[0; 300]] {
            assert_eq!(sign(bytes, Hash::Sha256, b"data").unwrap_err().reason, "KeyholderFailed");
        }
    }
}
