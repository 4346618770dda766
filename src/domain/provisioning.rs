//! The part of the configuration that is about CI outside the cluster: whose tokens are believed, and what a job that
//! shows one may have. Its shape, its defaults, what is refused, and how a rule is applied to claims.

mod claims;
mod issuers;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

use self::claims::{matches, parts};
use super::configuration::{ConfigurationError, refuse};
use super::lifetime::parse_duration;
use crate::api::debug_session::Network;
use crate::api::session::Capability;

pub use self::claims::{Claims, fill};
pub use self::issuers::{Algorithm, ClaimNames, Issuer, Provider, is_trusted_url};

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

fn check_template(field: &str, template: &str) -> Result<(), ConfigurationError> {
    match parts(template) {
        Some(_) if !template.is_empty() => Ok(()),
        _ => Err(refuse(field, "must be a text in which a claim stands as {name}")),
    }
}

#[cfg(test)]
mod tests;
