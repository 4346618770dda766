//! The closing manifest: what a recording is about, the list of all its chunks, and the installation's signature. Pure.

use super::format::{FORMAT, Stream};
use chrono::{DateTime, Utc};
use russh::keys::ssh_key::{LineEnding, SshSig};
use russh::keys::{HashAlg, PrivateKey, PublicKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the manifest's object.
pub const OBJECT: &str = "manifest.json";
/// Namespace of the signature (PROTOCOL.sshsig).
pub const NAMESPACE: &str = "recording@sandglass.dev";

/// Why a manifest cannot be written or believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not of the form.
    #[error("manifest.json cannot be read")]
    Unreadable,
    /// Signed by nobody, or changed.
    #[error("manifest.json: the signature does not fit")]
    Signature,
    /// The key cannot sign.
    #[error("failed to sign the manifest")]
    Signing,
}

/// Whose session, and who logged in.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The session.
    pub namespace: String,
    /// The session.
    pub name: String,
    /// The session.
    pub uid: String,
    /// Who asked for it.
    pub requester: String,
    /// Commit of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Pull request of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<String>,
    /// Run of the CI system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Where the user came from.
    pub remote_address: String,
    /// SHA-256 fingerprint of the key.
    pub fingerprint: String,
    /// The certificate's id and serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// One chunk.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Chunk {
    /// Number in its stream.
    pub sequence: u32,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// What is signed.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The connection.
    pub recording: String,
    /// What it is about.
    #[serde(flatten)]
    pub about: About,
    /// When and how it ended.
    #[serde(flatten)]
    pub closing: Closing,
    /// Every chunk.
    pub streams: BTreeMap<Stream, Vec<Chunk>>,
}

/// When and how a recording ended.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Closing {
    /// When the user logged in.
    pub started_at: DateTime<Utc>,
    /// When the connection ended, as far as is known.
    pub ended_at: DateTime<Utc>,
    /// Whether the replica that recorded closed it.
    pub complete: bool,
    /// Why the connection ended.
    pub end_reason: String,
    /// The replica that signed.
    pub sealed_by: String,
}

impl Manifest {
    /// The manifest of a recording.
    #[must_use]
    pub fn new(recording: &str, about: About, closing: Closing, streams: BTreeMap<Stream, Vec<Chunk>>) -> Self {
        Self { format: FORMAT.into(), recording: recording.into(), about, closing, streams }
    }

    /// Chunks of a stream.
    #[must_use]
    pub fn chunks(&self, stream: Stream) -> &[Chunk] {
        self.streams.get(&stream).map(Vec::as_slice).unwrap_or_default()
    }

    /// The object's bytes: the manifest as text, and its signature.
    ///
    /// # Errors
    /// [`ManifestError::Signing`].
    pub fn seal(&self, key: &PrivateKey) -> Result<Vec<u8>, ManifestError> {
        let manifest = serde_json::to_string(self).map_err(|_| ManifestError::Signing)?;
        let signature = key.sign(NAMESPACE, HashAlg::Sha512, manifest.as_bytes()).map_err(|_| ManifestError::Signing)?;
        let signature = signature.to_pem(LineEnding::LF).map_err(|_| ManifestError::Signing)?;
        let public_key = key.public_key().to_openssh().map_err(|_| ManifestError::Signing)?;
        serde_json::to_vec(&Envelope { manifest, signature, public_key }).map_err(|_| ManifestError::Signing)
    }

    /// Reads the object's bytes; `key`, where given, must have signed them.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn open(bytes: &[u8], key: Option<&PublicKey>) -> Result<Self, ManifestError> {
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| ManifestError::Unreadable)?;
        if let Some(key) = key {
            let signature = SshSig::from_pem(&envelope.signature).map_err(|_| ManifestError::Signature)?;
            key.verify(NAMESPACE, envelope.manifest.as_bytes(), &signature).map_err(|_| ManifestError::Signature)?;
        }
        let manifest: Self = serde_json::from_str(&envelope.manifest).map_err(|_| ManifestError::Unreadable)?;
        if manifest.format == FORMAT { Ok(manifest) } else { Err(ManifestError::Unreadable) }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    manifest: String,
    signature: String,
    public_key: String,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gateway::keys::new_ed25519;

    /// Of nobody in particular.
    pub fn about() -> About {
        About {
            namespace: "ci".into(),
            name: "build-42".into(),
            uid: "u-1".into(),
            requester: "octocat".into(),
            commit: Some("0a1b2c3".into()),
            pull_request: Some("17".into()),
            run: None,
            remote_address: "192.0.2.7:51234".into(),
            fingerprint: "SHA256:x".into(),
            certificate: None,
        }
    }

    fn manifest() -> Manifest {
        let closing = Closing {
            started_at: DateTime::UNIX_EPOCH,
            ended_at: DateTime::UNIX_EPOCH,
            complete: true,
            end_reason: "the client left".into(),
            sealed_by: "gateway-1".into(),
        };
        let chunk = Chunk { sequence: 0, size: 3, sha256: super::super::format::sha256(b"abc") };
        Manifest::new("c0ffee", about(), closing, BTreeMap::from([(Stream::Audit, vec![chunk]), (Stream::Output, vec![])]))
    }

    #[test]
    fn what_was_signed_is_read_back() {
        let key = new_ed25519().expect("key");
        let sealed = manifest().seal(&key).expect("sealed");
        assert_eq!(Manifest::open(&sealed, Some(key.public_key())).expect("opened"), manifest());
    }

    #[test]
    fn a_changed_manifest_and_another_key_are_refused() {
        let key = new_ed25519().expect("key");
        let sealed = String::from_utf8(manifest().seal(&key).expect("sealed")).expect("text");
        let changed = sealed.replace("octocat", "mallory");
        assert_ne!(changed, sealed);
        assert!(matches!(Manifest::open(changed.as_bytes(), Some(key.public_key())), Err(ManifestError::Signature)));
        let other = new_ed25519().expect("key");
        assert!(matches!(Manifest::open(sealed.as_bytes(), Some(other.public_key())), Err(ManifestError::Signature)));
        assert!(matches!(Manifest::open(b"{}", None), Err(ManifestError::Unreadable)));
    }
}
