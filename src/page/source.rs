//! What the page shows and where it gets it from: plain rows, and the trait that brings them. No markup, no IO.

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use std::fmt;

/// Where the page gets what it shows. Each method keeps a deadline of its own: the page waits for it.
pub trait Source: Send + Sync + 'static {
    /// All sessions, in any order, from memory.
    fn sessions(&self) -> Vec<SessionRow>;

    /// The recordings that match, newest first.
    ///
    /// # Errors
    /// The store cannot be read.
    fn recordings(&self, filter: &Filter) -> impl Future<Output = Result<Vec<RecordingRow>, SourceError>> + Send;

    /// One recording without its output.
    ///
    /// # Errors
    /// There is no such recording, or the store cannot be read.
    fn recording(&self, key: &RecordingKey) -> impl Future<Output = Result<RecordingDetail, SourceError>> + Send;

    /// The output of one channel: a whole asciicast v2 file.
    ///
    /// # Errors
    /// There is no such recording or channel, or the store cannot be read.
    fn cast(&self, key: &RecordingKey, channel: u32) -> impl Future<Output = Result<Bytes, SourceError>> + Send;

    /// Writes to the audit stream that `who` is about to see this recording. Called before anything of it is read.
    ///
    /// # Errors
    /// It could not be written: the recording is not shown then.
    fn opened(&self, who: &str, key: &RecordingKey) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// Why a source has nothing to give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It does not exist.
    #[error("there is no such recording")]
    Missing,
    /// It could not be read or written now: for people, what failed.
    #[error("{0}")]
    Unavailable(String),
}

/// One session.
#[derive(Clone, Debug, Default, Hash)]
pub struct SessionRow {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// `status.phase`: Waiting, Starting, Open, Ended or Failed.
    pub phase: String,
    /// Who asked for it.
    pub requester: String,
    /// Its project.
    pub project: String,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it ended.
    pub end_reason: Option<String>,
    /// What to type to get in.
    pub command: Option<String>,
    /// Connections that are open now.
    pub connections: usize,
}

impl SessionRow {
    /// Not over.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.ended_at.is_none() && !matches!(self.phase.as_str(), "Ended" | "Failed")
    }
}

/// Which recordings. What is `None` does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Namespace of the session.
    pub namespace: Option<String>,
    /// Name of the session.
    pub name: Option<String>,
    /// Commit of the failed build.
    pub commit: Option<String>,
    /// Pull request of the failed build.
    pub pull_request: Option<String>,
    /// Who asked for the session.
    pub actor: Option<String>,
    /// Day of the login (UTC).
    pub day: Option<NaiveDate>,
}

/// Where a recording lies: `<date>/<namespace>/<name>/<uid>/<connection>` below the store's prefix (docs/recording.md).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordingKey([String; 5]);

impl RecordingKey {
    /// Takes five components, each of 1 to 253 characters out of `[A-Za-z0-9._-]`, not beginning with a dot and without `..`.
    #[must_use]
    pub fn new(components: [&str; 5]) -> Option<Self> {
        components.iter().all(|component| is_safe(component)).then(|| Self(components.map(str::to_owned)))
    }

    /// The five components in their order: date, namespace, name, UID, connection.
    #[must_use]
    pub const fn components(&self) -> &[String; 5] {
        &self.0
    }

    /// Day of the login.
    #[must_use]
    pub fn date(&self) -> &str {
        let [date, ..] = &self.0;
        date
    }

    /// Namespace of the session.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let [_, namespace, ..] = &self.0;
        namespace
    }

    /// Name of the session.
    #[must_use]
    pub fn name(&self) -> &str {
        let [_, _, name, ..] = &self.0;
        name
    }

    /// UID of the session.
    #[must_use]
    pub fn uid(&self) -> &str {
        let [_, _, _, uid, _] = &self.0;
        uid
    }

    /// Identifier of the connection.
    #[must_use]
    pub fn connection(&self) -> &str {
        let [.., connection] = &self.0;
        connection
    }
}

impl fmt::Display for RecordingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("/"))
    }
}

fn is_safe(component: &str) -> bool {
    (1..=253).contains(&component.len())
        && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !component.starts_with('.')
        && !component.contains("..")
}

/// How far a recording got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingState {
    /// Sealed by the gateway that wrote it.
    Complete,
    /// Sealed by another replica: its own died.
    Incomplete,
    /// The connection is open.
    Running,
}

/// One recording in the list.
#[derive(Clone, Debug)]
pub struct RecordingRow {
    /// Where it lies; also namespace and name of its session.
    pub key: RecordingKey,
    /// Who asked for the session.
    pub requester: String,
    /// Whose key it was: SHA-256 fingerprint.
    pub fingerprint: String,
    /// When the connection began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How far it got.
    pub state: RecordingState,
    /// Commit of the failed build.
    pub commit: Option<String>,
    /// Pull request of the failed build.
    pub pull_request: Option<String>,
}

/// One recording by itself.
#[derive(Clone, Debug)]
pub struct RecordingDetail {
    /// What the list says.
    pub row: RecordingRow,
    /// Address and port that the connection came from.
    pub remote_address: Option<String>,
    /// The user certificate that logged in.
    pub certificate: Option<String>,
    /// Why it ended.
    pub end_reason: Option<String>,
    /// Whether chunks, chain and signature are as they were written.
    pub verification: Verification,
    /// Its channels.
    pub channels: Vec<ChannelRow>,
    /// The audit stream: JSON lines.
    pub audit: String,
}

/// Result of the verification.
#[derive(Clone, Debug)]
pub struct Verification {
    /// In one word.
    pub verdict: Verdict,
    /// In words.
    pub text: String,
}

/// Result of the verification in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is as it was written.
    Intact,
    /// Something is missing or was changed.
    Broken,
    /// There is no manifest yet.
    NotSealed,
}

/// One channel of a recording.
#[derive(Clone, Debug)]
pub struct ChannelRow {
    /// Its number.
    pub number: u32,
    /// Shell, Command, Sftp, `LocalForward` or `AgentForward`.
    pub kind: String,
    /// The command.
    pub command: Option<String>,
    /// How it ended: a status, a signal, a failure.
    pub exit: Option<String>,
    /// Whether it has output that can be played: shells and commands have.
    pub playable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_five_plain_components() {
        let key = RecordingKey::new(["2026-11-25", "ci", "build-42", "0a1b", "c.1_x"]).expect("plain");
        assert_eq!(key.to_string(), "2026-11-25/ci/build-42/0a1b/c.1_x");
        assert_eq!(
            (key.date(), key.namespace(), key.name(), key.uid(), key.connection()),
            ("2026-11-25", "ci", "build-42", "0a1b", "c.1_x")
        );
        for bad in ["", ".", "..", "a..b", ".a", "a/b", "a\\b", "%2e", "a b", "a\0", "é", "a\n", &"a".repeat(254)] {
            for place in 0..5 {
                let mut components = ["x"; 5];
                components[place] = bad;
                assert_eq!(RecordingKey::new(components), None, "{bad:?} at {place}");
            }
        }
    }

    #[test]
    fn a_session_is_live_until_anything_says_otherwise() {
        let row = |phase: &str, ended_at| SessionRow { phase: phase.into(), ended_at, ..SessionRow::default() };
        for phase in ["Waiting", "Starting", "Open", ""] {
            assert!(row(phase, None).is_live(), "{phase}");
        }
        assert!(!row("Open", Some(DateTime::UNIX_EPOCH)).is_live());
        assert!(!row("Ended", None).is_live());
        assert!(!row("Failed", None).is_live());
    }
}
