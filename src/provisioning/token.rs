//! An OIDC token as it arrives: a compact JWS (RFC 7515) with a JSON Web Token in it (RFC 7519). Pure: takes it apart and checks
//! what needs no key. Nothing of it is believed before `keys` has seen its signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::domain::line::is_line;
use crate::domain::provisioning::{Algorithm, Claims, Issuer};

/// Longest token, in bytes.
pub(super) const LONGEST: usize = 16 * 1024;
/// How far the clocks of issuer and door may be apart.
const LEEWAY_SECONDS: i64 = 30;

/// Why a token is refused. One line for the caller; nothing of the token in it but names of claims.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum TokenError {
    #[error("the token is longer than {} KiB: it is not one of a CI system", LONGEST / 1024)]
    TooLong,
    #[error("the token is not a signed JSON Web Token: send the OIDC token of the CI system as it is")]
    Shape,
    #[error("the token's header has crit: no extension of the format is known here")]
    Critical,
    #[error("the token's header names no key (kid)")]
    NoKey,
    #[error("the token is not of an issuer that this installation believes: ask who runs Sandglass to add it under provisioning.issuers")]
    UnknownIssuer,
    #[error("the token's algorithm is not one of {allowed}, which are allowed for its issuer")]
    Algorithm { allowed: String },
    #[error("the token is for another audience: ask the CI system for one with the audience {audience}")]
    Audience { audience: String },
    #[error("the token has expired: ask the CI system for a new one")]
    Expired,
    #[error("the token has no {claim}, or one that is no time")]
    NoTime { claim: &'static str },
    #[error("the token is not valid yet ({claim}): set the clocks right")]
    NotYet { claim: &'static str },
    #[error("the claim {name} holds control characters: such a token is not used")]
    Control { name: String },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    // Whatever it holds, `null` too: its mere presence is the refusal.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    // What else a header may say (jku, jwk, x5u, x5c) is not looked at: keys come from the configured issuer only.
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A token, taken apart.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What is signed.
    pub signed: &'a [u8],
    /// The signature.
    pub signature: Vec<u8>,
    /// Name of the key.
    pub key: String,
    algorithm: String,
    payload: Map<String, Value>,
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Shape)
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    pub(super) fn parse(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > LONGEST {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Shape)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Shape)?;
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Shape)?;
        if header.typ.as_deref().is_some_and(|kind| !kind.eq_ignore_ascii_case("JWT")) {
            return Err(TokenError::Shape);
        }
        if header.crit {
            return Err(TokenError::Critical);
        }
        let key = header.kid.filter(|key| !key.is_empty() && key.len() <= 256).ok_or(TokenError::NoKey)?;
        let payload = serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Shape)?;
        Ok(Self { signed: signed.as_bytes(), signature: decode(signature)?, key, algorithm: header.alg, payload })
    }

    /// The issuer that it names, among those that are believed.
    pub(super) fn issuer<'i>(&self, issuers: &'i [Issuer]) -> Result<&'i Issuer, TokenError> {
        let named = self.payload.get("iss").and_then(Value::as_str);
        issuers.iter().find(|issuer| named == Some(issuer.url.as_str())).ok_or(TokenError::UnknownIssuer)
    }

    /// The algorithm, if it is one that the configuration allows for the issuer.
    pub(super) fn algorithm(&self, issuer: &Issuer) -> Result<Algorithm, TokenError> {
        let allowed = || issuer.algorithms.iter().map(|algorithm| algorithm.as_str()).collect::<Vec<_>>().join(", ");
        let found = issuer.algorithms.iter().find(|algorithm| algorithm.as_str() == self.algorithm);
        found.copied().ok_or_else(|| TokenError::Algorithm { allowed: allowed() })
    }

    /// The claims, if the token is for this door and for now. To be called when the signature is proved.
    pub(super) fn claims(&self, issuer: &Issuer, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        let audience = match self.payload.get("aud") {
            Some(Value::String(audience)) => *audience == issuer.audience,
            Some(Value::Array(audiences)) => audiences.iter().any(|audience| audience.as_str() == Some(&issuer.audience)),
            _ => false,
        };
        if !audience {
            return Err(TokenError::Audience { audience: issuer.audience.clone() });
        }
        let now = now.timestamp();
        if self.time("exp")?.ok_or(TokenError::NoTime { claim: "exp" })? <= now.saturating_sub(LEEWAY_SECONDS) {
            return Err(TokenError::Expired);
        }
        for claim in ["nbf", "iat"] {
            if self.time(claim)?.is_some_and(|time| time > now.saturating_add(LEEWAY_SECONDS)) {
                return Err(TokenError::NotYet { claim });
            }
        }
        self.plain()
    }

    /// A `NumericDate` (RFC 7519, section 2), in whole seconds.
    fn time(&self, claim: &'static str) -> Result<Option<i64>, TokenError> {
        let Some(value) = self.payload.get(claim) else { return Ok(None) };
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and no clock gets there")]
        let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64));
        seconds.map(Some).ok_or(TokenError::NoTime { claim })
    }

    fn plain(&self) -> Result<Claims, TokenError> {
        let mut claims = Claims::new();
        for (name, value) in &self.payload {
            if !is_line(name) {
                return Err(TokenError::Control { name: "with a name of its own making".into() });
            }
            if !is_all_line(value) {
                return Err(TokenError::Control { name: name.chars().take(100).collect() });
            }
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => continue,
            };
            claims.insert(name.clone(), text);
        }
        Ok(claims)
    }
}

/// The parser bounds how deep a value is.
fn is_all_line(value: &Value) -> bool {
    match value {
        Value::String(text) => is_line(text),
        Value::Array(values) => values.iter().all(is_all_line),
        Value::Object(values) => values.iter().all(|(name, value)| is_line(name) && is_all_line(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
