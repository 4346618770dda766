//! The process `recovery-fetch`: reads the projected token, asks Vault once, parses what came, passes it to the keyholder and ends, and with
//! it all that TLS, HTTP, JSON and the parser left in its memory. It must not keep anything, and must not be asked twice.

use super::keyholder::frame::{self, Frame, Kind};
use super::keyholder::{KeyError, parse, process};
use crate::link::settings::{KeyPlace, VaultEndpoint};
use crate::vault::{self, Given, Vault, Want};
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tokio::net::unix::pipe;
use zeroize::Zeroizing;

/// Longest projected token that is read.
const LONGEST_TOKEN: u64 = 64 * 1024;

/// What to fetch. Nothing in it is a secret.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FetchRequest {
    /// The Vault server, and as what to log in.
    pub(super) vault: VaultEndpoint,
    /// Path of the projected token.
    pub(super) token_path: PathBuf,
    /// In this order the answers come.
    pub(super) wants: Vec<Wanted>,
}

/// One key or certificate.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wanted {
    /// Where.
    pub(super) place: KeyPlace,
    /// What to sign, where it is an SSH engine: a line in OpenSSH's format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) public_key: Option<String>,
}

impl Wanted {
    fn want(&self) -> Want {
        match self.place.clone() {
            KeyPlace::Kv { mount, path, field } => Want::Kv { mount, path, field },
            KeyPlace::Ssh { mount, role, principal } => {
                Want::Sign { mount, role, public_key: self.public_key.clone().unwrap_or_default(), principal }
            }
        }
    }
}

/// Runs the process; returns its exit code. Started by the keyholder, never by hand.
///
/// For a key it gives its bytes and the line of its public half, for a certificate its line; or one failure.
#[must_use]
pub fn serve() -> i32 {
    // An error means that there is a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    process::run("recovery-fetch", process::Life::Task, |mut input, mut output| async move {
        let frames = fetch(&mut input)
            .await
            .unwrap_or_else(|error| vec![(Kind::Failure, Zeroizing::new(serde_json::to_vec(&error).unwrap_or_default()))]);
        for (kind, bytes) in frames {
            if frame::write(&mut output, kind, &bytes).await.is_err() {
                return 1;
            }
        }
        0
    })
}

async fn fetch(input: &mut pipe::Receiver) -> Result<Vec<(Kind, Zeroizing<Vec<u8>>)>, KeyError> {
    let request = match frame::read(input).await {
        Ok(Some(Frame::Open(Kind::Request, text))) => serde_json::from_slice::<FetchRequest>(&text).ok(),
        _ => None,
    };
    let request = request.ok_or_else(|| KeyError::failed("recovery-fetch is started by the keyholder, not by hand"))?;
    let token = token(&request.token_path)?;
    let VaultEndpoint { address, certificate_authority, auth_mount, role } = request.vault;
    let wants: Vec<Want> = request.wants.iter().map(Wanted::want).collect();
    let fetched = vault::fetch(&Vault { address, certificate_authority, auth_mount, role }, &token, &wants).await;
    let fetched = fetched.map_err(|error| KeyError {
        reason: error.reason().to_owned(),
        message: error.to_string(),
        transient: error.is_transient(),
    })?;
    let mut frames = Vec::new();
    for (wanted, given) in request.wants.iter().zip(fetched.given) {
        match given {
            Given::Certificate(line) => frames.push((Kind::Line, Zeroizing::new(line.into_bytes()))),
            Given::Key(text) => {
                let key = parse::private_key(&text).map_err(|why| KeyError::unusable(&wanted.place, why))?;
                let unusable = |_| KeyError::unusable(&wanted.place, "it does not encode");
                let line = key.public_key().to_openssh().map_err(unusable)?;
                frames.push((Kind::Key, key.to_bytes().map_err(unusable)?));
                frames.push((Kind::Line, Zeroizing::new(line.into_bytes())));
            }
        }
    }
    Ok(frames)
}

/// What the projected token's file holds.
fn token(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let mut token = Zeroizing::new(String::new());
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST_TOKEN).read_to_string(&mut token));
    match read {
        Ok(_) => Ok(token),
        Err(error) => {
            let path = path.display();
            Err(KeyError {
                reason: "VaultDenied".to_owned(),
                message: format!("failed to read the token for Vault at {path}: {error}; the pod needs a serviceAccountToken volume there"),
                transient: false,
            })
        }
    }
}
