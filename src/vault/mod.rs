//! The adapter to Vault (and `OpenBao`), for a short-lived process of a recovery pod: logs in with the pod's projected token, makes sure the
//! role can do nothing else, fetches the key or the certificate, and revokes its token.
//!
//! It writes nothing to Vault, renews nothing, looks nothing up in the background: every call counts against `token_num_uses`. The calls
//! are one login (free), one `sys/capabilities-self`, one per want, one `auth/token/revoke-self`: the role needs `token_num_uses` 0 or at
//! least the number of wants plus 2. With 1 less all works too: the last read ends the token, and its revocation finds it gone. No call but
//! the revocation is repeated.
//!
//! What capabilities cannot show, the role's owner has to get right: `allowed_users` and `allowed_critical_options` of an SSH role, and that
//! no policy names another secret in full.
//!
//! Nothing of this room's is logged but that a token could not be revoked. The library below logs each failed call's path at level
//! error, no token, no value and no text of Vault's; a caller that wants it quiet filters `rustify`.

mod answer;
mod error;
mod input;
mod refusal;
mod scope;
mod session;
mod steps;

pub use error::VaultError;

use std::fmt;
use zeroize::Zeroizing;

/// Which Vault, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    /// `https://HOST:PORT`; an IP address where the pod has no name service. Redirects are not followed: name the active server.
    pub address: String,
    /// The only authorities that Vault's certificate may come from: one or more PEM certificates.
    pub certificate_authority: String,
    /// Mount of the Kubernetes auth method, without `auth/`.
    pub auth_mount: String,
    /// Role of that method.
    pub role: String,
}

/// One thing to fetch. Mounts, paths and names consist of letters, digits and `-_.@:`, with slashes between segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// One field of the latest version of a secret in a KV version 2 engine.
    Kv {
        /// Mount of the engine.
        mount: String,
        /// Path of the secret in it, without `data/`.
        path: String,
        /// Name of the field that holds the key.
        field: String,
    },
    /// A user certificate from an SSH engine. Lifetime and extensions are the role's.
    Sign {
        /// Mount of the engine.
        mount: String,
        /// Its role.
        role: String,
        /// The public key, a line in OpenSSH's format.
        public_key: String,
        /// The one user name the certificate is for.
        principal: String,
    },
}

/// What a want became.
#[derive(Clone, PartialEq, Eq)]
pub enum Given {
    /// The field's text with Unix line ends and one at the end, otherwise as it is stored: not parsed.
    Key(Zeroizing<String>),
    /// A certificate, a line in OpenSSH's format without a line end. Neither its signature nor what it allows is checked.
    Certificate(String),
}

impl fmt::Debug for Given {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(_) => formatter.write_str("Key(…)"),
            Self::Certificate(_) => formatter.write_str("Certificate(…)"),
        }
    }
}

/// All that was wanted.
#[derive(Debug)]
pub struct Fetched {
    /// In the order of the wants.
    pub given: Vec<Given>,
    /// Why Vault's token could not be revoked. It is forgotten here, and lives in Vault until its ttl ends.
    pub not_revoked: Option<VaultError>,
}

/// Fetches all wants or none.
///
/// Sends nothing if the arguments are unusable, reads nothing if the role can do more or less than it should. Takes at most 10 s for each
/// of the calls and 32 s for the revocation. The process must have a rustls provider installed. Run it to its end: dropped half-way it
/// cannot revoke.
///
/// # Errors
/// [`VaultError`], whose text says what to change; nothing is retried here but the revocation.
pub async fn fetch(vault: &Vault, token: &Zeroizing<String>, wants: &[Want]) -> Result<Fetched, VaultError> {
    input::check(vault, wants)?;
    let token = input::token(token)?;
    let scope = scope::Scope::new(vault, wants, &session::random_name()?);
    let mut session = session::Session::open(vault)?;
    let kind = steps::log_in(&mut session, vault, &token).await?;
    let given = obtain_all(&session, &kind, vault, &scope, wants).await;
    let not_revoked = steps::revoke(&session).await.err();
    if let Some(error) = &not_revoked {
        tracing::warn!(%error, "Vault's token was not revoked");
    }
    Ok(Fetched { given: given?, not_revoked })
}

/// Everything between login and revocation.
async fn obtain_all(
    session: &session::Session,
    kind: &str,
    vault: &Vault,
    scope: &scope::Scope,
    wants: &[Want],
) -> Result<Vec<Given>, VaultError> {
    if kind == "batch" {
        return Err(VaultError::Irrevocable { mount: vault.auth_mount.clone(), role: vault.role.clone(), kind: kind.to_owned() });
    }
    let least = wants.len() + 2;
    steps::check_scope(session, scope, least).await?;
    let mut given = Vec::with_capacity(wants.len());
    for want in wants {
        given.push(steps::obtain(session, want, least).await?);
    }
    Ok(given)
}
