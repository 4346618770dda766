//! The connection: one HTTP client with every setting explicit, one call, the token wiped at the end.
//!
//! Vaultrs' own client adds the given authority to the system's, follows redirects, takes proxies from the environment, and its settings'
//! defaults come from `VAULT_*` variables. So its endpoints and its middleware are used, and the client under them is made here.

use super::refusal::Refusal;
use super::{Vault, VaultError};
use reqwest::redirect::Policy;
use rustify::clients::reqwest::Client;
use rustify::endpoint::Endpoint;
use std::time::Duration;
use vaultrs::api::EndpointMiddleware;
use zeroize::{Zeroize as _, Zeroizing};

/// Longest wait for a connection with TLS on it. A stopped server still accepts connections, so this covers the handshake too.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest call, from the first byte out to the last byte in.
const CALL: Duration = Duration::from_secs(10);

/// A client of one Vault, with a token once there is one.
pub(super) struct Session {
    http: Client,
    middleware: EndpointMiddleware,
    /// For messages.
    pub(super) address: String,
}

impl Session {
    /// A session without a token; nothing is sent yet.
    pub(super) fn open(vault: &Vault) -> Result<Self, VaultError> {
        provider()?;
        let untrusted = |why: &str| VaultError::Tls { address: vault.address.clone(), why: why.to_owned() };
        let authorities = reqwest::Certificate::from_pem_bundle(vault.certificate_authority.as_bytes())
            .map_err(|_| untrusted("the given certificate authority is not PEM"))?;
        if authorities.is_empty() {
            return Err(untrusted("the given certificate authority holds no certificate"));
        }
        let http = reqwest::Client::builder()
            .tls_backend_rustls()
            .tls_certs_only(authorities)
            .tls_danger_accept_invalid_certs(false)
            .tls_sslkeylogfile(false)
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .build()
            .map_err(|_| untrusted("the given certificate authority is not usable"))?;
        Ok(Self {
            http: Client::new(&vault.address, http),
            middleware: EndpointMiddleware { token: String::new(), version: "v1".to_owned(), wrap: None, namespace: None },
            address: vault.address.clone(),
        })
    }

    /// Every later call carries this token. It is moved, not copied.
    pub(super) fn set_token(&mut self, mut token: Zeroizing<String>) {
        self.middleware.token.zeroize();
        self.middleware.token = std::mem::take(&mut *token);
    }

    /// One call. The body is wiped when dropped; what TLS, HTTP and JSON buffers hold of it is out of reach and ends with the process.
    pub(super) async fn call<E: Endpoint>(&self, endpoint: E) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        match endpoint.with_middleware(&self.middleware).exec(&self.http).await {
            Ok(answer) => Ok(Zeroizing::new(answer.response.into_body())),
            Err(error) => Err(Refusal::of(error)),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.middleware.token.zeroize();
    }
}

/// The process's cryptography. Without one the HTTP client would panic.
fn provider() -> Result<&'static rustls::crypto::CryptoProvider, VaultError> {
    rustls::crypto::CryptoProvider::get_default().map(AsRef::as_ref).ok_or_else(|| VaultError::Setting {
        what: "program",
        why: "has no cryptography: main must install rustls' ring provider first".to_owned(),
    })
}

/// 16 hexadecimal digits that nobody can have named anything after.
pub(super) fn random_name() -> Result<String, VaultError> {
    let mut bytes = [0; 8];
    provider()?
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| VaultError::Setting { what: "program", why: "has no random numbers".to_owned() })?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}
