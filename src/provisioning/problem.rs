//! What a request is refused with: `application/problem+json` (RFC 9457), one line of words with the cure.

use prometheus_client::encoding::EncodeLabelValue;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Declares [`Kind`] once: variant, HTTP status, last part of the type's URI, title.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $status:literal $slug:literal $title:literal,)+) => {
        /// Kinds of refusals. A closed set: it is also a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
        pub enum Kind { $($(#[doc = $doc])+ $name,)+ }

        impl Kind {
            /// HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// Last part of the type's URI, and the word in logs.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)+ }
            }

            /// The same for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

kinds! {
    /// No bearer token.
    TokenMissing = 401 "token-missing" "No token",
    /// The token is not one that is believed.
    TokenInvalid = 401 "token-invalid" "Token refused",
    /// No rule of the configuration is for it.
    NoRule = 403 "no-rule" "No rule matches",
    /// The token lacks a claim that the rule needs.
    ClaimMissing = 403 "claim-missing" "A claim is missing or unusable",
    /// The rule does not allow what is asked for.
    NotAllowed = 403 "not-allowed" "Not allowed by the rule",
    /// No such path, or no such object of this repository.
    NotFound = 404 "not-found" "Not found",
    /// The path is there, the method is not.
    MethodNotAllowed = 405 "method-not-allowed" "Method not allowed",
    /// The body did not arrive in time.
    TooSlow = 408 "too-slow" "Request too slow",
    /// Another object has the name.
    NameTaken = 409 "name-taken" "Name taken",
    /// The body is too large.
    TooLarge = 413 "too-large" "Body too large",
    /// The body is not JSON.
    NotJson = 415 "not-json" "Not JSON",
    /// The body is not what the document describes.
    InvalidRequest = 422 "invalid-request" "Invalid request",
    /// Too many sessions of this repository.
    RepositoryLimited = 429 "repository-limited" "Too many requests of this repository",
    /// Too many bad tokens from this address.
    AddressLimited = 429 "address-limited" "Too many bad tokens from this address",
    /// The issuer's keys cannot be had.
    IssuerUnavailable = 503 "issuer-unavailable" "Issuer unavailable",
    /// The API server cannot be asked, or does not let us.
    ClusterUnavailable = 503 "cluster-unavailable" "Cluster unavailable",
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which kind.
    pub kind: Kind,
    /// One line: what is wrong, and the cure.
    pub detail: String,
    /// With [`Kind::NoRule`]: the claims that were looked at.
    pub claims: Option<BTreeMap<String, Option<String>>>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// With [`Kind::MethodNotAllowed`]: the method that is allowed.
    pub allow: Option<&'static str>,
}

impl Problem {
    /// A refusal. `detail` is one line.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), claims: None, retry_after: None, allow: None }
    }

    /// When to try again.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What is sent.
    #[must_use]
    pub fn document(&self) -> Document<'_> {
        Document {
            kind: format!("https://sandglass.dev/problems/{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status(),
            detail: &self.detail,
            claims: self.claims.as_ref(),
        }
    }
}

/// A refusal as it is sent.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct Document<'a> {
    /// Which kind: its last part never changes.
    #[serde(rename = "type")]
    #[schemars(url)]
    kind: String,
    /// The kind for people.
    title: &'static str,
    /// HTTP status.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// One line: what is wrong, and the cure.
    #[schemars(length(min = 1))]
    detail: &'a str,
    /// With `no-rule`: the claims that the rules looked at, with what the token says; null where it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<&'a BTreeMap<String, Option<String>>>,
}
