//! Who logs in, and how it is signed: by an ssh-agent socket of another process. No private key comes here.

use crate::recovery::keyholder::Identity;
use russh::Signer;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PublicKey};
use tokio::net::UnixStream;

/// The hash of an RSA key's signatures; other keys have none. SHA-1 is never used.
pub(super) fn hash(identity: &Identity) -> Option<HashAlg> {
    let algorithm = match identity {
        Identity::Key(key) => key.algorithm(),
        Identity::Certificate(certificate) => certificate.algorithm(),
    };
    algorithm.is_rsa().then_some(HashAlg::Sha512)
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    /// The connection ended meanwhile.
    #[error("the connection ended")]
    Gone(#[from] russh::SendError),
    /// The key holder declined or broke.
    #[error("{0}")]
    Holder(#[source] russh::keys::Error),
}

/// The key holder's socket.
pub(super) struct Holder(pub AgentClient<UnixStream>);

impl Signer for Holder {
    type Error = SignError;

    async fn auth_sign(&mut self, identity: &AgentIdentity, hash: Option<HashAlg>, data: Vec<u8>) -> Result<Vec<u8>, SignError> {
        let AgentIdentity::Certificate { certificate, comment } = identity else {
            return self.0.sign_request(identity, hash, data).await.map_err(SignError::Holder);
        };
        // The signature is the key's. Holders keep a certificate beside its key, under its own name, or not at all.
        let key = PublicKey::new(certificate.public_key().clone(), comment.as_str());
        let bare = AgentIdentity::PublicKey { key, comment: comment.clone() };
        match self.0.sign_request(&bare, hash, data.clone()).await {
            Err(russh::keys::Error::AgentFailure) => self.0.sign_request(identity, hash, data).await.map_err(SignError::Holder),
            outcome => outcome.map_err(SignError::Holder),
        }
    }
}
