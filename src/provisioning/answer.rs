//! What is told of a session, to the job that asked for it. Pure.

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeSet;

use super::origin::{ORIGIN, Origin, STRIPPED};
use crate::api::DebugSession;
use crate::api::conditions::{OPEN, STALLED};
use crate::api::session::{Connection, Phase, Session as _};
use crate::kubernetes::time::to_chrono;

/// A session, for the job that asked for it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DebugSession")]
pub struct Answer {
    /// Namespace of the object.
    #[schemars(length(min = 1, max = 63))]
    namespace: String,
    /// Name of the object.
    #[schemars(length(min = 1, max = 63))]
    name: String,
    /// Where it is in its life.
    phase: Phase,
    /// Whether `ssh` would be let in now.
    open: bool,
    /// Whether it is over. It does not open again.
    ended: bool,
    /// Whether it will not proceed without a human: `message` says what to do.
    stalled: bool,
    /// Why it is as it is, in one word; empty where nobody has looked at it yet.
    reason: String,
    /// The same in a sentence.
    message: String,
    /// Who asked, as the rule says.
    requester: String,
    /// When it ends (RFC 3339); null where nobody has looked at it yet.
    #[schemars(extend("format" = "date-time"))]
    expires_at: Option<String>,
    /// How to get in; null until that is known.
    connection: Option<Way>,
    /// Names of variables that were dropped because they look like secrets.
    stripped_env: Vec<String>,
}

/// How to get in.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Connection")]
struct Way {
    /// Host name or address.
    host: String,
    /// Port.
    #[schemars(range(min = 1, max = 65535))]
    port: i32,
    /// User name.
    user: String,
    /// The whole command.
    command: String,
    /// Lines for a `known_hosts` file.
    known_hosts: Vec<String>,
}

impl From<&Connection> for Way {
    fn from(connection: &Connection) -> Self {
        Self {
            host: connection.host.clone(),
            port: connection.port,
            user: connection.user.clone(),
            command: connection.command.clone(),
            known_hosts: connection.known_hosts.clone(),
        }
    }
}

/// Which job an object was made for; `None` for objects of others.
pub(super) fn origin_of(session: &DebugSession) -> Option<Origin> {
    serde_json::from_str(session.metadata.annotations.as_ref()?.get(ORIGIN)?).ok()
}

impl Answer {
    /// What is told of an object.
    #[must_use]
    pub fn of(session: &DebugSession) -> Self {
        let status = session.status.clone().unwrap_or_default();
        let state = &status.session;
        let condition = |kind: &str| state.conditions.iter().find(|condition| condition.type_ == kind);
        let is_true = |condition: Option<&Condition>| condition.is_some_and(|condition| condition.status == "True");
        let (open, stalled) = (condition(OPEN), condition(STALLED).filter(|condition| condition.status == "True"));
        let phase = state.phase.unwrap_or(Phase::Waiting);
        let told = stalled.or(open);
        let before = session.metadata.annotations.as_ref().and_then(|annotations| annotations.get(STRIPPED));
        let mut stripped: BTreeSet<String> = status.stripped_env.into_iter().collect();
        stripped.extend(before.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(str::to_owned));
        Self {
            namespace: session.metadata.namespace.clone().unwrap_or_default(),
            name: session.metadata.name.clone().unwrap_or_default(),
            phase,
            open: is_true(open),
            ended: state.ended_at.is_some() || matches!(phase, Phase::Ended | Phase::Failed),
            stalled: stalled.is_some(),
            reason: told.map(|condition| condition.reason.clone()).unwrap_or_default(),
            message: told.map(|condition| condition.message.clone()).unwrap_or_default(),
            requester: session.terms().requester.to_owned(),
            expires_at: state.expires_at.as_ref().map(|time| timestamp(to_chrono(time))),
            connection: state.connection.as_ref().map(Way::from),
            stripped_env: stripped.into_iter().collect(),
        }
    }
}

fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(object: serde_json::Value) -> serde_json::Value {
        let session: DebugSession = serde_json::from_value(object).expect("a session");
        serde_json::to_value(Answer::of(&session)).expect("JSON")
    }

    fn object(status: &serde_json::Value) -> serde_json::Value {
        json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession",
            "metadata": { "name": "x-1", "namespace": "ci", "annotations": { STRIPPED: "NPM_TOKEN,AWS_SECRET" } },
            "spec": { "source": { "image": "x" }, "requester": "octocat", "access": { "principals": ["octocat"] } },
            "status": status,
        })
    }

    #[test]
    fn an_open_session_says_how_to_get_in() {
        let told = answer(object(&json!({
            "phase": "Open", "expiresAt": "2026-11-26T12:00:00Z", "strippedEnv": ["SSH_KEY", "NPM_TOKEN"],
            "conditions": [{ "type": "Open", "status": "True", "reason": "SessionOpen", "message": "open", "lastTransitionTime": "2026-11-26T11:30:00Z" }],
            "connection": { "host": "debug.example.com", "port": 2222, "user": "ci.x-1", "command": "ssh -p 2222 ci.x-1@debug.example.com", "knownHosts": ["k"] },
        })));
        assert_eq!(
            told,
            json!({
                "namespace": "ci", "name": "x-1", "phase": "Open", "open": true, "ended": false, "stalled": false,
                "reason": "SessionOpen", "message": "open", "requester": "octocat", "expiresAt": "2026-11-26T12:00:00Z",
                "connection": { "host": "debug.example.com", "port": 2222, "user": "ci.x-1", "command": "ssh -p 2222 ci.x-1@debug.example.com", "knownHosts": ["k"] },
                "strippedEnv": ["AWS_SECRET", "NPM_TOKEN", "SSH_KEY"],
            })
        );
    }

    #[test]
    fn a_new_one_waits_and_a_stalled_one_says_what_to_do() {
        let new = answer(object(&serde_json::Value::Null));
        assert_eq!(
            (&new["phase"], &new["open"], &new["connection"], &new["expiresAt"]),
            (&json!("Waiting"), &json!(false), &json!(null), &json!(null))
        );
        let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason, "message": format!("of {reason}"), "lastTransitionTime": "2026-11-26T11:30:00Z" });
        let stalled = answer(object(&json!({
            "phase": "Failed", "endedAt": "2026-11-26T11:31:00Z",
            "conditions": [condition("Open", "False", "PodFailed"), condition("Stalled", "True", "ImageRefused")],
        })));
        assert_eq!((&stalled["stalled"], &stalled["ended"], &stalled["reason"]), (&json!(true), &json!(true), &json!("ImageRefused")));
        assert_eq!(stalled["message"], "of ImageRefused");
    }
}
