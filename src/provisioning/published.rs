//! Where an issuer's keys come from: its discovery document (`OpenID` Connect Discovery 1.0), then the key set that it names. Over
//! TLS, without redirects, with a limit on time and size.

use async_trait::async_trait;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};
use serde::Deserialize;
use std::time::Duration;

use super::keyring::Source;
use super::keys::KeySet;
use crate::domain::line::one_line;
use crate::domain::provisioning::{Issuer, is_trusted_url};

/// One answer of an issuer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest document, in bytes.
const LARGEST: usize = 256 * 1024;

/// Why keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The settings make no client.
    #[error("failed to set up TLS to the issuer {issuer}: {why}")]
    Setup {
        /// Name of the issuer.
        issuer: String,
        /// Why.
        why: String,
    },
    /// No answer, or none that is read.
    #[error("failed to get {url}: {why}")]
    Get {
        /// From where.
        url: String,
        /// Why.
        why: String,
    },
    /// An answer that says something else.
    #[error("failed to use {url}: {why}")]
    Content {
        /// From where.
        url: String,
        /// Why.
        why: &'static str,
    },
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The keys that an issuer publishes.
pub struct Published {
    issuer: Issuer,
    client: Client,
}

impl Published {
    /// Nothing is fetched yet.
    ///
    /// # Errors
    /// `caBundle` holds no usable certificate.
    pub fn new(issuer: &Issuer) -> Result<Self, FetchError> {
        let refuse = |why: &str| FetchError::Setup { issuer: issuer.name.clone(), why: one_line(why, 200) };
        let authorities = match &issuer.ca_bundle {
            Some(bundle) => Certificate::from_pem_bundle(bundle.as_bytes()).map_err(|_| refuse("caBundle is not PEM"))?,
            // The public authorities are part of the program: its image has no others.
            None => webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter_map(|der| Certificate::from_der(der).ok()).collect(),
        };
        if authorities.is_empty() {
            return Err(refuse("caBundle holds no certificate"));
        }
        let mut builder = Client::builder()
            .tls_backend_rustls()
            .tls_certs_only(authorities)
            .tls_sslkeylogfile(false)
            .http1_only()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE);
        if issuer.url.starts_with("http://") {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| refuse(&chain(&error)))?;
        Ok(Self { issuer: issuer.clone(), client })
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let failed = |why: String| FetchError::Get { url: one_line(url, 200), why };
        let mut answer = self.client.get(url).send().await.map_err(|error| failed(chain(&error)))?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(failed(format!("the answer is {}", answer.status())));
        }
        let mut document = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| failed(chain(&error)))? {
            if document.len() + chunk.len() > LARGEST {
                return Err(failed(format!("the answer is larger than {} KiB", LARGEST / 1024)));
            }
            document.extend_from_slice(&chunk);
        }
        Ok(document)
    }

    async fn key_set_url(&self) -> Result<String, FetchError> {
        if let Some(url) = &self.issuer.jwks_url {
            return Ok(url.clone());
        }
        let url = format!("{}/.well-known/openid-configuration", self.issuer.url.trim_end_matches('/'));
        let document = self.get(&url).await?;
        let refuse = |why| FetchError::Content { url: url.clone(), why };
        let discovery: Discovery = serde_json::from_slice(&document).map_err(|_| refuse("it is no discovery document"))?;
        if discovery.issuer != self.issuer.url {
            return Err(refuse("it names another issuer than the configuration does"));
        }
        if !is_trusted_url(&discovery.jwks_uri) {
            return Err(refuse("its jwks_uri is no https:// URL"));
        }
        Ok(discovery.jwks_uri)
    }
}

#[async_trait]
impl Source for Published {
    async fn keys(&self) -> Result<KeySet, FetchError> {
        let url = self.key_set_url().await?;
        let document = self.get(&url).await?;
        KeySet::parse(&document).map_err(|why| FetchError::Content { url: one_line(&url, 200), why })
    }
}

/// The deepest cause, in one line, without the address.
fn chain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", PATIENCE.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    one_line(&cause.to_string(), 200)
}
