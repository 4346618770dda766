//! The body of `POST /v1/debugsessions`: its shape, which is also its documentation, and what is refused of it. Pure.

use schemars::JsonSchema;
use serde::Deserialize;

use super::problem::{Kind, Problem};
use crate::api::debug_session::Network;
use crate::api::session::Capability;
use crate::domain::images::Reference;
use crate::domain::lifetime::parse_duration;
use crate::domain::line::{LINE, is_line, one_line};
use russh::keys::PublicKey;
use std::collections::BTreeSet;
use std::time::Duration;

/// Largest body, in bytes.
pub(super) const LARGEST: usize = 64 * 1024;

/// What a job asks for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "DebugSessionRequest", example = example())]
#[schemars(extend("anyOf" = [
    { "required": ["authorizedKeys"], "properties": { "authorizedKeys": { "minItems": 1 } } },
    { "required": ["principals"], "properties": { "principals": { "minItems": 1 } } },
]))]
pub(super) struct SessionRequest {
    /// The build's image, best by digest.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$"))]
    pub image: String,
    /// Id of the job, with its place in a matrix. With run and attempt, which the token tells, it names the session: the same job
    /// that asks again is answered with the same session.
    #[schemars(length(min = 1, max = 256), regex(pattern = LINE))]
    pub job: String,
    /// Public keys in the format of an OpenSSH `.pub` file, without options. One of this and `principals` is needed.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 4096), regex(pattern = LINE)))]
    pub authorized_keys: Vec<String>,
    /// Principals that a user certificate must carry, at least one of them.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253), regex(pattern = LINE)))]
    pub principals: Vec<String>,
    /// What is allowed beyond shell and commands. Default: `Sftp`, where the rule allows it.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub allow: Option<Vec<Capability>>,
    /// Environment of the shell. What looks like a secret is dropped before anything is stored, and named in the answer.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub env: Vec<Variable>,
    /// Where the shell starts.
    #[serde(default)]
    #[schemars(length(max = 1024), regex(pattern = r"^/[^\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"))]
    pub working_dir: Option<String>,
    /// How long: `30m`, `1h`, `1h15m`. Default: `30m`, or the rule's cap where that is shorter.
    #[serde(default)]
    #[schemars(length(min = 2, max = 12), regex(pattern = r"^([0-9]{1,3}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$"))]
    pub ttl: Option<String>,
    /// Why, for the people who read the records.
    #[serde(default)]
    #[schemars(length(max = 1024), regex(pattern = LINE))]
    pub reason: Option<String>,
    /// What the session can reach. Default: `Isolated`.
    #[serde(default)]
    pub network: Option<Network>,
    /// The commit, where the token does not tell it.
    #[serde(default)]
    #[schemars(length(max = 128), regex(pattern = LINE))]
    pub commit: Option<String>,
    /// Number of the pull request, where the token does not tell it.
    #[serde(default)]
    #[schemars(length(max = 128), regex(pattern = LINE))]
    pub pull_request: Option<String>,
    /// Address of the build's page, where the token does not tell it.
    #[serde(default)]
    #[schemars(length(max = 1024), regex(pattern = r"^https?://[^\u0000-\u0020\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]+$"))]
    pub url: Option<String>,
}

/// One environment variable, literal.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "EnvironmentVariable")]
pub(super) struct Variable {
    /// Name; each once.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"))]
    pub name: String,
    /// Value.
    #[serde(default)]
    #[schemars(length(max = 32768), regex(pattern = r"^[^\u0000]*$"))]
    pub value: String,
}

fn example() -> serde_json::Value {
    serde_json::json!({
        "image": "registry.example.com/builders/go:1",
        "job": "test-2",
        "authorizedKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f octocat"],
        "env": [{ "name": "CI", "value": "true" }],
        "ttl": "30m",
        "reason": "flaky integration test"
    })
}

fn refuse(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::InvalidRequest, detail)
}

/// What the parser says, without the values that it quotes: they are nobody else's. Names of fields stay.
fn without_quotes(message: &str) -> String {
    let without = |quote: char, begins: &str| {
        let (before, rest) = message.split_once(quote).filter(|(before, _)| before.contains(begins))?;
        let (_, after) = if quote == '"' { rest.rsplit_once(quote)? } else { rest.split_once(quote)? };
        Some(format!("{before}{quote}…{quote}{after}"))
    };
    let text = without('`', "unknown variant").or_else(|| without('"', ""));
    one_line(text.as_deref().unwrap_or(message), 300)
}

impl SessionRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let request: Self = serde_json::from_slice(body)
            .map_err(|error| refuse(format!("the body is not what /v1/openapi.json describes: {}", without_quotes(&error.to_string()))))?;
        request.check()?;
        Ok(request)
    }

    /// The requested time to live.
    pub(super) fn ttl(&self) -> Option<Duration> {
        self.ttl.as_deref().and_then(parse_duration)
    }

    fn check(&self) -> Result<(), Problem> {
        Reference::parse(&self.image).map_err(|error| refuse(format!("image: {}", one_line(&error.to_string(), 300))))?;
        text("job", &self.job, 1, 256)?;
        if self.authorized_keys.is_empty() && self.principals.is_empty() {
            return Err(refuse("authorizedKeys or principals must name somebody: otherwise nobody could get in"));
        }
        for (field, count, most) in [
            ("authorizedKeys", self.authorized_keys.len(), 32),
            ("principals", self.principals.len(), 32),
            ("allow", self.allow.as_ref().map_or(0, Vec::len), 8),
            ("env", self.env.len(), 256),
        ] {
            if count > most {
                return Err(refuse(format!("{field} may hold at most {most} entries")));
            }
        }
        for (index, key) in self.authorized_keys.iter().enumerate() {
            check_key(&format!("authorizedKeys[{index}]"), key)?;
        }
        for (index, principal) in self.principals.iter().enumerate() {
            text(&format!("principals[{index}]"), principal, 1, 253)?;
        }
        self.check_environment()?;
        self.check_optional()
    }

    fn check_environment(&self) -> Result<(), Problem> {
        let mut names = BTreeSet::new();
        for (index, variable) in self.env.iter().enumerate() {
            let name = &variable.name;
            let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || b"-._".contains(&byte));
            if !first || name.len() > 256 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
                return Err(refuse(format!("env[{index}].name must be letters, digits and -._, and not begin with a digit")));
            }
            if !names.insert(name) {
                return Err(refuse(format!("env[{index}].name is there already: name each variable once")));
            }
            if variable.value.contains('\0') || variable.value.chars().count() > 32768 {
                return Err(refuse(format!("env[{index}].value may have at most 32768 characters, and no NUL")));
            }
        }
        Ok(())
    }

    fn check_optional(&self) -> Result<(), Problem> {
        for (field, value, most) in [
            ("workingDir", &self.working_dir, 1024),
            ("reason", &self.reason, 1024),
            ("commit", &self.commit, 128),
            ("pullRequest", &self.pull_request, 128),
            ("url", &self.url, 1024),
        ] {
            text(field, value.as_deref().unwrap_or_default(), 0, most)?;
        }
        if self.working_dir.as_ref().is_some_and(|directory| !directory.starts_with('/')) {
            return Err(refuse("workingDir must begin with /"));
        }
        let is_web = |url: &str| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(' '))
        };
        if self.url.as_deref().is_some_and(|url| !is_web(url)) {
            return Err(refuse("url must begin with https:// or http://, and hold no space"));
        }
        let in_range = |ttl| ttl >= Duration::from_mins(1) && ttl <= Duration::from_hours(24);
        // The length is the schema's: longer ones are not stored.
        let short = |ttl: &String| ttl.len() <= 12;
        if self.ttl.is_some() && !(self.ttl.as_ref().is_some_and(short) && self.ttl().is_some_and(in_range)) {
            return Err(refuse("ttl must be a duration between 1m and 24h, such as 30m or 1h15m"));
        }
        Ok(())
    }
}

fn text(field: &str, value: &str, least: usize, most: usize) -> Result<(), Problem> {
    let count = value.chars().count();
    if count < least || count > most || !is_line(value) {
        return Err(refuse(format!("{field} must be one line of {least} to {most} characters, without control characters")));
    }
    Ok(())
}

/// The types that the custom resource's schema takes.
const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

fn check_key(field: &str, key: &str) -> Result<(), Problem> {
    text(field, key, 1, 4096)?;
    let (kind, rest) = key.split_once(' ').unwrap_or((key, ""));
    let blob = rest.split(' ').next().unwrap_or_default();
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if !KEY_TYPES.contains(&kind) || !blob.bytes().all(is_base64) || PublicKey::from_openssh(key).is_err() {
        return Err(refuse(format!("{field} is not a public key as a .pub file has it, without options: ssh-ed25519 AAAA… comment")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
