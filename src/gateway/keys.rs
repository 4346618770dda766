//! The installation's own key material: made once by `install-keys`, read at every start. It identifies the installation
//! and opens nothing.

use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use std::path::{Path, PathBuf};

/// File of the host key, OpenSSH's format.
pub const HOST_KEY: &str = "ssh_host_ed25519_key";
/// File of its public half.
pub const HOST_KEY_PUBLIC: &str = "ssh_host_ed25519_key.pub";
/// File of the key that signs recordings, OpenSSH's format.
pub const RECORDING_KEY: &str = "recording_ed25519_key";
/// File of its public half.
pub const RECORDING_KEY_PUBLIC: &str = "recording_ed25519_key.pub";
/// File of the link CA's certificate, PEM.
pub const LINK_CA: &str = "link-ca.crt";
/// File of the link CA's key, PEM.
pub const LINK_CA_KEY: &str = "link-ca.key";

/// Why keys could not be had. Never with any of their bytes.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read.
    #[error("failed to read {path}: {source}; run `sandglass install-keys`, or provide the Secret yourself")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not a key.
    #[error("failed to read {path}: not an unencrypted private key in OpenSSH format")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// No randomness.
    #[error("failed to make a key: no randomness")]
    NoRandomness,
}

/// A new ed25519 key.
///
/// # Errors
/// [`KeyError::NoRandomness`].
pub fn new_ed25519() -> Result<PrivateKey, KeyError> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(seed.as_mut()).map_err(|_| KeyError::NoRandomness)?;
    PrivateKey::new(KeypairData::from(Ed25519Keypair::from_seed(&seed)), "").map_err(|_| KeyError::NoRandomness)
}

/// Reads a private key: the file is one of those above.
///
/// # Errors
/// See [`KeyError`].
pub fn read_key(folder: &Path, file: &str) -> Result<PrivateKey, KeyError> {
    let path = folder.join(file);
    let text = read(&path)?;
    PrivateKey::from_openssh(text.as_bytes()).ok().filter(|key| !key.is_encrypted()).ok_or(KeyError::NotAKey { path })
}

/// Reads a text file, wiped from memory when dropped.
///
/// # Errors
/// [`KeyError::Read`].
pub fn read(path: &Path) -> Result<zeroize::Zeroizing<String>, KeyError> {
    std::fs::read_to_string(path).map(Into::into).map_err(|source| KeyError::Read { path: path.into(), source })
}
