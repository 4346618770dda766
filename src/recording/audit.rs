//! The events of the audit stream, as docs/recording.md lists them. A typed stream of its own, beside the log. Pure.

use super::sftp::SftpEvent;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

/// One event.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum AuditEvent {
    /// The first of a recording.
    Connection(Box<super::manifest::About>),
    /// Another replica took the one that records for dead and closed the recording: this one goes on where that ended.
    Continues {
        /// The recording that was closed.
        recording: String,
    },
    /// A decision about a login on this connection.
    Login {
        /// Whether it was let in.
        accepted: bool,
        /// SHA-256 fingerprint of the key.
        fingerprint: String,
        /// The certificate's id and serial.
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate: Option<String>,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A channel begins.
    Channel {
        /// Its number.
        channel: u32,
        /// What it is for.
        #[serde(flatten)]
        opening: Opening,
    },
    /// The client asked for something and did not get it.
    Refused {
        /// The channel's number, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<u32>,
        /// What was asked for.
        request: String,
        /// Why not.
        reason: String,
    },
    /// A file operation.
    Sftp {
        /// The channel's number.
        channel: u32,
        /// What was done.
        #[serde(flatten)]
        operation: SftpEvent,
    },
    /// A forward ended.
    Forward {
        /// The channel's number.
        channel: u32,
        /// Where to.
        host: String,
        /// Where to.
        port: u16,
        /// Bytes carried.
        #[serde(flatten)]
        bytes: Traffic,
    },
    /// A use of the user's ssh-agent ended.
    Agent {
        /// The channel's number.
        channel: u32,
        /// Bytes carried.
        #[serde(flatten)]
        bytes: Traffic,
    },
    /// A power verb was run on a machine's hypervisor.
    Power {
        /// The channel's number.
        channel: u32,
        /// The verb.
        verb: String,
        /// What the hypervisor calls the machine.
        vm: String,
        /// `Succeeded`, `Failed`, `Refused`, or `Unknown` where no answer came.
        state: String,
        /// State of the machine before.
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// State of the machine after.
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// In words.
        message: String,
        /// Folder of the evidence.
        #[serde(skip_serializing_if = "Option::is_none")]
        evidence: Option<String>,
        /// The evidence.
        items: Vec<super::evidence::Kept>,
    },
    /// A process ended.
    Exit {
        /// The channel's number.
        channel: u32,
        /// How.
        #[serde(flatten)]
        how: Ending,
        /// Bytes carried.
        #[serde(flatten)]
        bytes: Traffic,
    },
    /// The last of a complete recording.
    End {
        /// Why the connection ended.
        reason: String,
    },
}

/// What a channel is for: also the data of an `open` record.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Opening {
    /// `Shell`, `Command`, `Power`, `Sftp`, `LocalForward` or `AgentForward`.
    pub kind: String,
    /// The command, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The terminal, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// A terminal.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminalSize {
    /// Value of TERM.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a process ended: also the data of an `exit` record.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Ending {
    /// With this code.
    Code(u32),
    /// Killed by this signal.
    Signal(u8),
    /// Not started, or cut: in words.
    Failure(String),
}

/// Bytes of one channel.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// From the pod to the user.
    pub bytes_to_user: u64,
    /// From the user to the pod.
    pub bytes_from_user: u64,
}

/// Appends an event as one JSON line.
pub fn put_line(buffer: &mut Vec<u8>, now: DateTime<Utc>, event: &AuditEvent) {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        #[serde(flatten)]
        event: &'a AuditEvent,
    }
    let line = Line { time: now.to_rfc3339_opts(SecondsFormat::Micros, true), event };
    // The types above cannot fail to encode.
    buffer.extend_from_slice(&serde_json::to_vec(&line).unwrap_or_default());
    buffer.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_line_each() {
        let mut buffer = Vec::new();
        let now = DateTime::from_timestamp_micros(1_800_000_000_000_004).expect("valid");
        let bytes = Traffic { bytes_to_user: 5, bytes_from_user: 6 };
        put_line(&mut buffer, now, &AuditEvent::Exit { channel: 2, how: Ending::Signal(9), bytes });
        let opening = Opening { kind: "Command".into(), command: Some("printf 'a\nb'".into()), terminal: None };
        put_line(&mut buffer, now, &AuditEvent::Channel { channel: 2, opening });
        let text = String::from_utf8(buffer).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                r#"{"time":"2027-01-15T08:00:00.000004Z","event":"exit","channel":2,"signal":9,"bytesToUser":5,"bytesFromUser":6}"#,
                r#"{"time":"2027-01-15T08:00:00.000004Z","event":"channel","channel":2,"kind":"Command","command":"printf 'a\nb'"}"#,
            ]
        );
    }
}
