//! Whose tokens are believed: one issuer, its keys, and what its claims are called.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

use super::super::configuration::{ConfigurationError, refuse};
use super::{check_duration, check_template, checked};

/// One issuer of OIDC tokens.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    /// How rules and logs call it.
    pub name: String,
    /// The `iss` of its tokens, and where its discovery document is: `https://…`, or `http://` to a loopback address.
    pub url: String,
    /// The `aud` that its tokens must carry.
    pub audience: String,
    /// What makes its signatures. Never taken from the token.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Which CI system it is of: decides what the claims are called.
    #[serde(default)]
    pub provider: Provider,
    /// With `provider: Other`: what the claims are called.
    #[serde(default)]
    pub claims: Option<ClaimNames>,
    /// Where its keys are. Default: what its discovery document says.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// Certificates that vouch for it, PEM, in place of the public authorities.
    #[serde(default)]
    pub ca_bundle: Option<String>,
    /// Keys older than this are fetched again.
    #[serde(default = "default_refresh_interval")]
    pub refresh_interval: String,
    /// For how long beyond that keys are used while the issuer cannot be asked.
    #[serde(default = "default_stale_window")]
    pub stale_window: String,
    /// Shortest time between two fetches, whatever the tokens say.
    #[serde(default = "default_fetch_interval")]
    pub fetch_interval: String,
}

/// A signature algorithm (RFC 7518, RFC 8037). No symmetric one, and not `none`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    RS256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    RS384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    RS512,
    /// RSA PSS with SHA-256.
    PS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    /// The word in a token's header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// Which CI system.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum Provider {
    /// GitHub Actions.
    #[default]
    GitHub,
    /// GitLab CI/CD.
    GitLab,
    /// Another: `claims` says what its claims are called.
    Other,
}

/// What an issuer calls the claims that tell one job from another.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimNames {
    /// The repository, for people.
    pub repository: String,
    /// The repository, as it stays when it is renamed.
    pub repository_id: String,
    /// The run.
    pub run: String,
    /// Which attempt of it. Default: a run has one.
    #[serde(default)]
    pub attempt: Option<String>,
    /// The commit.
    #[serde(default)]
    pub commit: Option<String>,
    /// Address of the run's page, with `{claim}` for claims. Must begin with a fixed `https://` and host.
    #[serde(default)]
    pub page: Option<String>,
}

fn default_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256]
}
fn default_refresh_interval() -> String {
    "10m".into()
}
fn default_stale_window() -> String {
    "1h".into()
}
fn default_fetch_interval() -> String {
    "30s".into()
}
impl Issuer {
    /// What its claims are called.
    #[must_use]
    pub fn claim_names(&self) -> ClaimNames {
        let names = |repository: &str, repository_id: &str, run: &str, attempt: &str, page: Option<String>| ClaimNames {
            repository: repository.into(),
            repository_id: repository_id.into(),
            run: run.into(),
            attempt: Some(attempt.into()),
            commit: Some("sha".into()),
            page,
        };
        // GitLab has no attempts: a job that is run again is another job of the same pipeline.
        let gitlab = || names("project_path", "project_id", "pipeline_id", "job_id", self.page("/{project_path}/-/jobs/{job_id}"));
        match (self.provider, &self.claims) {
            (Provider::Other, Some(claims)) => claims.clone(),
            (Provider::GitLab, _) => gitlab(),
            _ => {
                let page = self.page("/{repository}/actions/runs/{run_id}/attempts/{run_attempt}");
                names("repository", "repository_id", "run_id", "run_attempt", page)
            }
        }
    }

    /// A page on the server of the issuer; none where that is a loopback address.
    fn page(&self, path: &str) -> Option<String> {
        let server = match self.provider {
            Provider::GitHub if self.url == "https://token.actions.githubusercontent.com" => "https://github.com",
            Provider::GitHub => self.url.strip_suffix("/_services/token")?,
            _ => self.url.trim_end_matches('/'),
        };
        server.starts_with("https://").then(|| format!("{server}{path}"))
    }

    /// See the field.
    #[must_use]
    pub fn refresh_interval(&self) -> Duration {
        checked(&self.refresh_interval)
    }

    /// See the field.
    #[must_use]
    pub fn stale_window(&self) -> Duration {
        checked(&self.stale_window)
    }

    /// See the field.
    #[must_use]
    pub fn fetch_interval(&self) -> Duration {
        checked(&self.fetch_interval)
    }

    pub(super) fn check(&self, path: &str) -> Result<(), ConfigurationError> {
        if self.name.is_empty() || !self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(refuse(format!("{path}.name"), "must be letters, digits and dashes"));
        }
        for (field, url) in [("url", Some(&self.url)), ("jwksUrl", self.jwks_url.as_ref())] {
            if url.is_some_and(|url| !is_trusted_url(url)) {
                return Err(refuse(
                    format!("{path}.{field}"),
                    "must be an https:// URL (http:// only to a loopback address such as 127.0.0.1)",
                ));
            }
        }
        if self.audience.is_empty() || self.audience.chars().any(char::is_control) {
            return Err(refuse(format!("{path}.audience"), "must be what the tokens carry as aud, e.g. https://debug.example.com"));
        }
        if self.algorithms.is_empty() {
            return Err(refuse(format!("{path}.algorithms"), "must name at least one, e.g. [RS256]"));
        }
        for (field, text) in
            [("refreshInterval", &self.refresh_interval), ("staleWindow", &self.stale_window), ("fetchInterval", &self.fetch_interval)]
        {
            check_duration(&format!("{path}.{field}"), text)?;
        }
        let page = self.claims.as_ref().and_then(|claims| claims.page.as_deref());
        match (self.provider, &self.claims) {
            (Provider::Other, None) => Err(refuse(format!("{path}.claims"), "must say what the claims are called: provider is Other")),
            (Provider::Other, Some(_)) => match page {
                Some(page) if !has_fixed_host(page) => {
                    Err(refuse(format!("{path}.claims.page"), "must begin with https://, a host without {claims}, and a slash"))
                }
                Some(page) => check_template(&format!("{path}.claims.page"), page),
                None => Ok(()),
            },
            (_, Some(_)) => Err(refuse(format!("{path}.claims"), "is for provider: Other; the others' claims are known")),
            (_, None) => Ok(()),
        }
    }
}

/// Whether keys may come from there: over TLS, or from this very machine.
#[must_use]
pub fn is_trusted_url(text: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(text) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none() && !host.is_empty();
    plain && (url.scheme() == "https" || (url.scheme() == "http" && host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())))
}

fn has_fixed_host(page: &str) -> bool {
    page.strip_prefix("https://")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(host, _)| !host.is_empty() && !host.contains(['{', '}', '@']))
}
