//! What PID 1 and its keyholder say to each other: one JSON value a line. There is no message that holds a private key, and there must not be.

use crate::link::settings::{KeyPlace, VaultEndpoint};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The first line: what to hold. Nothing in it is a secret.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRequest {
    /// The Vault server, and as what to log in.
    pub vault: VaultEndpoint,
    /// Path of the projected token for Vault.
    pub vault_token_path: PathBuf,
    /// Where the machine's key is had.
    pub target: KeyPlace,
    /// Where the hypervisor's key is had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<KeyPlace>,
    /// Where the agent's socket is to be. Its folder is made with mode 0700 where it is missing.
    pub socket: PathBuf,
}

/// Which key.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Which {
    /// The machine's.
    Target,
    /// The hypervisor's.
    Hypervisor,
}

/// A line to the keyholder.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// Fetch everything.
    Load,
    /// As what to log in now.
    Identity(Which),
    /// Wipe everything.
    Close,
}

/// A line from the keyholder. Keys and certificates are lines in OpenSSH's format.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Everything is there; the public keys, the target's first.
    Loaded(Vec<String>),
    /// Log in with this public key.
    Key(String),
    /// Log in with this certificate.
    Certificate(String),
    /// It did not work.
    Failed(KeyError),
    /// Nothing is held any more.
    Closed,
}

/// Why a key cannot be had or used.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct KeyError {
    /// For a condition: one of `crate::vault::VaultError`'s reasons, or `KeyholderFailed`.
    pub reason: String,
    /// For people, with the cure. Never a byte of a key.
    pub message: String,
    /// Whether the same may work later with nothing changed.
    pub transient: bool,
}

impl KeyError {
    /// A fault of the keyholder itself, not of Vault or of the key.
    pub(in crate::recovery) fn failed(message: impl Into<String>) -> Self {
        Self { reason: "KeyholderFailed".to_owned(), message: message.into(), transient: false }
    }

    /// There is a key, or a certificate, that cannot be used.
    pub(in crate::recovery) fn unusable(place: &KeyPlace, why: &str) -> Self {
        let message = match place {
            KeyPlace::Kv { mount, path, field } => format!("the key in Vault at {mount}/{path}, field {field}, is not usable: {why}"),
            KeyPlace::Ssh { mount, role, .. } => format!("the certificate from Vault's {mount}/sign/{role} is not usable: {why}"),
        };
        Self { reason: "VaultKeyUnusable".to_owned(), message, transient: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_the_other_end_expects() {
        let written = |value: &Ask| serde_json::to_string(value).unwrap();
        assert_eq!(written(&Ask::Load), r#""load""#);
        assert_eq!(written(&Ask::Identity(Which::Hypervisor)), r#"{"identity":"hypervisor"}"#);
        let failed = Answer::Failed(KeyError { reason: "VaultSealed".into(), message: "Vault is sealed".into(), transient: true });
        let text = r#"{"failed":{"reason":"VaultSealed","message":"Vault is sealed","transient":true}}"#;
        assert_eq!(serde_json::to_string(&failed).unwrap(), text);
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), failed);
    }
}
