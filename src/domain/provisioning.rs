//! The part of the configuration that is about CI outside the cluster: whose tokens are believed, and what a job that
//! shows one may have. Its shape, its defaults, what is refused, and how a rule is applied to claims.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

mod claims;

pub use claims::{Claims, fill};

use claims::{matches, parts};

use super::configuration::{ConfigurationError, refuse};
use super::lifetime::parse_duration;
use crate::api::debug_session::Network;
use crate::api::session::Capability;

/// The door for CI outside the cluster.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provisioning {
    /// Whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// What a job may have, by its claims. The first rule that matches decides; where none does, the job is refused.
    pub rules: Vec<Rule>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Addresses of the ingress: what it says in `X-Forwarded-For` about its client is believed.
    #[serde(default)]
    pub proxies: Vec<IpNet>,
}

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

/// What a job may have.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Name of the issuer.
    pub issuer: String,
    /// Claims that must all be so: a value, or one with a single `*` that is not at its beginning and stands for one or more
    /// characters of any kind, `/` too.
    pub claims: BTreeMap<String, String>,
    /// Namespace of the objects.
    pub namespace: String,
    /// `spec.project`, with `{claim}` for claims; made a valid label. Default: the namespace.
    #[serde(default)]
    pub project: Option<String>,
    /// `spec.requester`, with `{claim}` for claims.
    pub requester: String,
    /// Longest ttl. Default: that of the installation.
    #[serde(default)]
    pub ttl_cap: Option<String>,
    /// Prefixes of images, as in `allowedImages`, which applies too. Empty: only that applies.
    #[serde(default)]
    pub images: Vec<String>,
    /// What may be allowed beyond shell and commands.
    #[serde(default = "default_allow")]
    pub allow: Vec<Capability>,
    /// Networks that may be asked for.
    #[serde(default = "default_network")]
    pub network: Vec<Network>,
}

/// Limits of one replica.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions that one repository may have made within `creationsPer`.
    pub creations: u32,
    /// See there.
    pub creations_per: String,
    /// Tokens from one address (an IPv4 address or an IPv6 /64) that may turn out bad within `failuresPer`.
    pub failures: u32,
    /// See there.
    pub failures_per: String,
    /// Connections at once; more wait.
    pub connections: u32,
    /// The same from one address, but for proxies; more are closed.
    pub connections_per_address: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            creations: 10,
            creations_per: "10m".into(),
            failures: 30,
            failures_per: "1m".into(),
            connections: 256,
            connections_per_address: 32,
        }
    }
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
fn default_allow() -> Vec<Capability> {
    vec![Capability::Sftp]
}
fn default_network() -> Vec<Network> {
    vec![Network::Isolated]
}

/// A duration that was checked when the file was read.
fn checked(text: &str) -> Duration {
    parse_duration(text).unwrap_or(Duration::from_mins(1))
}

impl Limits {
    /// See the field.
    #[must_use]
    pub fn creations_per(&self) -> Duration {
        checked(&self.creations_per)
    }

    /// See the field.
    #[must_use]
    pub fn failures_per(&self) -> Duration {
        checked(&self.failures_per)
    }

    fn check(&self) -> Result<(), ConfigurationError> {
        if [self.creations, self.failures, self.connections, self.connections_per_address].contains(&0) {
            return Err(refuse("provisioning.limits", "creations, failures, connections and connectionsPerAddress must be at least 1"));
        }
        for (field, text) in [("creationsPer", &self.creations_per), ("failuresPer", &self.failures_per)] {
            check_duration(&format!("provisioning.limits.{field}"), text)?;
        }
        Ok(())
    }
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

    fn check(&self, path: &str) -> Result<(), ConfigurationError> {
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

impl Rule {
    /// Whether it is for tokens of this issuer with these claims.
    #[must_use]
    pub fn matches(&self, issuer: &str, claims: &Claims) -> bool {
        self.issuer == issuer
            && !self.claims.is_empty()
            && self.claims.iter().all(|(name, pattern)| claims.get(name).is_some_and(|value| matches(pattern, value)))
    }

    /// Longest ttl.
    #[must_use]
    pub fn ttl_cap(&self, installation: Duration) -> Duration {
        self.ttl_cap.as_deref().and_then(parse_duration).map_or(installation, |cap| cap.min(installation))
    }

    fn check(&self, path: &str, issuers: &[Issuer], installation: Duration) -> Result<(), ConfigurationError> {
        if !issuers.iter().any(|issuer| issuer.name == self.issuer) {
            return Err(refuse(format!("{path}.issuer"), "must be the name of one of provisioning.issuers"));
        }
        if self.claims.is_empty() {
            return Err(refuse(format!("{path}.claims"), "must not be empty: everybody on that CI system would match"));
        }
        for (name, pattern) in &self.claims {
            if pattern.is_empty() || pattern.starts_with('*') || pattern.matches('*').count() > 1 {
                return Err(refuse(
                    format!("{path}.claims.{name}"),
                    "must be a value, or one with a single * that is not at its beginning, e.g. my-org/*",
                ));
            }
        }
        super::configuration::check_label(&format!("{path}.namespace"), &self.namespace)?;
        check_template(&format!("{path}.requester"), &self.requester)?;
        if let Some(project) = &self.project {
            check_template(&format!("{path}.project"), project)?;
        }
        let in_range = |cap| cap >= Duration::from_mins(1) && cap <= installation;
        if self.ttl_cap.as_deref().is_some_and(|cap| !parse_duration(cap).is_some_and(in_range)) {
            return Err(refuse(format!("{path}.ttlCap"), "must be a duration between 1m and sessions.ttlCap, e.g. 30m"));
        }
        if self.images.iter().any(String::is_empty) {
            return Err(refuse(format!("{path}.images"), "must not hold an empty prefix: name a registry, e.g. registry.example.com/"));
        }
        if self.network.is_empty() {
            return Err(refuse(format!("{path}.network"), "must name at least one, e.g. [Isolated]"));
        }
        Ok(())
    }
}

impl Provisioning {
    /// The first rule for a token of this issuer.
    #[must_use]
    pub fn rule(&self, issuer: &str, claims: &Claims) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(issuer, claims))
    }

    /// The claims that the rules for this issuer look at, with what the token says: `None` where it says nothing.
    #[must_use]
    pub fn looked_at(&self, issuer: &str, claims: &Claims) -> BTreeMap<String, Option<String>> {
        let rules = self.rules.iter().filter(|rule| rule.issuer == issuer);
        rules.flat_map(|rule| rule.claims.keys()).map(|name| (name.clone(), claims.get(name).cloned())).collect()
    }

    pub(super) fn check(&self, installation: Duration) -> Result<(), ConfigurationError> {
        if self.issuers.is_empty() {
            return Err(refuse("provisioning.issuers", "must name at least one: without, every token is refused"));
        }
        for (index, issuer) in self.issuers.iter().enumerate() {
            let path = format!("provisioning.issuers[{index}]");
            issuer.check(&path)?;
            let before = self.issuers.iter().take(index);
            if before.into_iter().any(|other| other.name == issuer.name || other.url == issuer.url) {
                return Err(refuse(path, "has the name or the url of one before it"));
            }
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check(&format!("provisioning.rules[{index}]"), &self.issuers, installation)?;
        }
        self.limits.check()
    }
}

fn check_duration(field: &str, text: &str) -> Result<(), ConfigurationError> {
    match parse_duration(text) {
        Some(duration) if duration >= Duration::from_secs(1) && duration <= Duration::from_hours(24) => Ok(()),
        _ => Err(refuse(field, "must be a duration between 1s and 24h, e.g. 10m")),
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

fn check_template(field: &str, template: &str) -> Result<(), ConfigurationError> {
    match parts(template) {
        Some(_) if !template.is_empty() => Ok(()),
        _ => Err(refuse(field, "must be a text in which a claim stands as {name}")),
    }
}

#[cfg(test)]
mod tests;
