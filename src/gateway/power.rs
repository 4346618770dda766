//! One run of a power verb, as the gateway follows it: words for whoever looks, evidence for the store, the result for the records.

use crate::link::record::{Capture, Ending, Outcome, Parsed, Parser};
use crate::recording::audit::AuditEvent;
use crate::recording::evidence::Evidence;
use bytes::Bytes;
use serde_json::json;

/// A run under way.
pub struct Run {
    verb: String,
    parser: Parser,
    evidence: Option<Evidence>,
    outcome: Option<Outcome>,
    failure: Option<String>,
}

/// A run that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the hypervisor answered last.
    pub outcome: Option<Outcome>,
    /// Whether it did what it should; `None` where nobody knows.
    pub succeeded: Option<bool>,
    /// In words.
    pub message: String,
    /// Folder of the evidence.
    pub evidence: Option<String>,
    /// For the records.
    items: Vec<crate::recording::evidence::Kept>,
    verb: String,
}

impl Run {
    /// A run that begins; `evidence` is where it may be kept.
    #[must_use]
    pub fn new(verb: &str, evidence: Option<Evidence>) -> Self {
        Self { verb: verb.to_owned(), parser: Parser::default(), evidence, outcome: None, failure: None }
    }

    /// Takes a piece of what the hypervisor says; gives words to show.
    pub async fn take(&mut self, piece: &Bytes) -> Vec<String> {
        if self.failure.is_some() {
            return Vec::new();
        }
        let parsed = match self.parser.feed(piece) {
            Ok(parsed) => parsed,
            Err(failure) => {
                self.failure = Some(format!("the hypervisor's answer is not understood: {failure}"));
                return Vec::new();
            }
        };
        let mut words = Vec::new();
        for one in parsed {
            match one {
                Parsed::Progress(message) => words.push(printable(&message)),
                Parsed::Data { item, bytes } => {
                    if let Some(evidence) = &mut self.evidence {
                        evidence.piece(&item, &bytes.into()).await;
                    }
                }
                Parsed::Item(item) => {
                    let message = item.message.as_deref().map(printable);
                    if let Some(evidence) = &mut self.evidence {
                        evidence.item(&item.item, word(item.outcome), message.as_deref()).await;
                    }
                    let why = message.map(|message| format!(": {message}")).unwrap_or_default();
                    words.push(format!("{} {} ({} bytes){why}", word(item.outcome).to_lowercase(), item.item, item.bytes));
                }
                Parsed::Result(outcome) => self.outcome = Some(outcome),
            }
        }
        words
    }

    /// The stream is over; `broken` says why, where it was not the hypervisor's doing.
    pub async fn end(mut self, broken: Option<&str>) -> Ended {
        if let Some(evidence) = &mut self.evidence {
            evidence.end(None, "the stream ended before this was complete").await;
        }
        let (address, items) = self.evidence.as_ref().map(|evidence| (evidence.address(), evidence.kept().to_vec())).unwrap_or_default();
        let (succeeded, message) = match (&self.outcome, &self.failure, broken) {
            (Some(outcome), ..) => (Some(outcome.state == Ending::Succeeded), printable(&outcome.message)),
            (None, Some(failure), _) => (None, failure.clone()),
            (None, None, Some(broken)) => (None, format!("{broken}: whether {} took effect is not known", self.verb)),
            (None, None, None) => (None, "the hypervisor ended without a result: what became of the machine is not known".into()),
        };
        Ended { outcome: self.outcome, succeeded, message, evidence: address, items, verb: self.verb }
    }
}

impl Ended {
    /// The event for the records.
    #[must_use]
    pub fn event(&self, channel: u32) -> AuditEvent {
        let of = |field: fn(&Outcome) -> Option<String>| self.outcome.as_ref().and_then(field);
        AuditEvent::Power {
            channel,
            verb: self.verb.clone(),
            vm: of(|outcome| outcome.vm.clone()).unwrap_or_default(),
            state: self.outcome.as_ref().map_or_else(|| "Unknown".into(), |outcome| format!("{:?}", outcome.state)),
            before: of(|outcome| outcome.before.clone()),
            after: of(|outcome| outcome.after.clone()),
            message: self.message.clone(),
            evidence: self.evidence.clone(),
            items: self.items.clone(),
        }
    }

    /// The result, one line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let mut result = self.outcome.as_ref().map_or_else(
            || json!({ "verb": self.verb, "state": "Unknown", "message": self.message }),
            |outcome| serde_json::to_value(outcome).unwrap_or_default(),
        );
        if let Some(fields) = result.as_object_mut() {
            fields.insert("evidence".into(), json!(self.evidence));
        }
        format!("{result}\n")
    }
}

const fn word(capture: Capture) -> &'static str {
    match capture {
        Capture::Captured => "Captured",
        Capture::Failed => "Failed",
        Capture::TimedOut => "TimedOut",
        Capture::Skipped => "Skipped",
    }
}

/// What a hypervisor says is shown on a terminal: one line, without control characters.
fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).take(512).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(state: &str) -> String {
        format!(
            r#"{{"type":"result","verb":"cycle","vm":"102","state":"{state}","before":"running","after":"off","locked":null,"startedAt":"2027-01-15T08:00:00Z","finishedAt":"2027-01-15T08:00:01Z","message":"m\u001b[2J"}}"#
        ) + "\n"
    }

    async fn run(stream: &[u8], broken: Option<&str>) -> (Vec<String>, Ended) {
        let mut run = Run::new("cycle", None);
        let words = run.take(&Bytes::copy_from_slice(stream)).await;
        (words, run.end(broken).await)
    }

    #[tokio::test]
    async fn a_result_is_told_without_control_characters() {
        let progress = "{\"type\":\"progress\",\"message\":\"stop\\u001b]0;x\\u0007\"}\n";
        let (words, ended) = run((progress.to_owned() + &result("Succeeded")).as_bytes(), None).await;
        assert_eq!(words, ["stop ]0;x "]);
        assert_eq!((ended.succeeded, ended.message.as_str()), (Some(true), "m [2J"));
        assert!(ended.line().contains("\"state\":\"Succeeded\"") && ended.line().ends_with("}\n"));
        assert_eq!(run(result("Failed").as_bytes(), None).await.1.succeeded, Some(false));
    }

    #[tokio::test]
    async fn a_run_without_a_result_is_not_known_to_have_failed() {
        for (stream, broken, words) in [
            (&b""[..], Some("the pod is gone"), "the pod is gone: whether cycle took effect is not known"),
            (b"nonsense\n", None, "not understood"),
            (b"", None, "without a result"),
        ] {
            let (_, ended) = run(stream, broken).await;
            assert_eq!(ended.succeeded, None);
            assert!(ended.message.contains(words), "{}", ended.message);
            assert!(ended.line().contains("Unknown"));
        }
    }
}
