//! One run of a power verb: followed to its end by a task of its own, whoever asked for it may be gone by then. Words for whoever
//! looks, evidence for the store, the result for the records.

use super::Gateway;
use crate::domain::line::one_line;
use crate::link::frame;
use crate::link::message::{Exit, Start};
use crate::link::record::{Capture, Ending, Outcome, Parsed, Parser};
use crate::link::registry::OpenChannel;
use crate::link::socket::Socket;
use crate::recording::audit::AuditEvent;
use crate::recording::evidence::{Evidence, Kept};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest run; docs/hypervisor.md says that the hypervisor's own limits must be shorter.
const LONGEST: Duration = Duration::from_mins(10);
/// How long a run may go on when this replica is to stop.
const DRAIN: Duration = Duration::from_secs(35);
/// Words that wait for somebody to look; more are dropped, never waited for.
const WORDS: usize = 256;

/// A run under way, as it is followed.
struct Run {
    verb: String,
    parser: Parser,
    evidence: Option<Evidence>,
    outcome: Option<Outcome>,
    failure: Option<String>,
    /// It may have taken effect.
    begun: bool,
    words: mpsc::Sender<String>,
}

/// A run that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the hypervisor answered last.
    pub outcome: Option<Outcome>,
    /// Whether it did what it should; `None` where nobody knows.
    pub succeeded: Option<bool>,
    /// Exit code of the hypervisor's program, where it came to an end.
    pub code: Option<u8>,
    /// In words.
    pub message: String,
    /// Folder of the evidence.
    pub evidence: Option<String>,
    /// For the records.
    items: Vec<Kept>,
    verb: String,
}

/// Runs `verb` through the pod, to its end. Gives the words to show, and the end.
pub fn start(
    gateway: &Arc<Gateway>,
    pod: &str,
    verb: &str,
    evidence: Option<Evidence>,
) -> (mpsc::Receiver<String>, impl Future<Output = Ended> + Send + use<>) {
    let (words, shown) = mpsc::channel(WORDS);
    let run = Run { verb: verb.to_owned(), parser: Parser::default(), evidence, outcome: None, failure: None, begun: false, words };
    (shown, follow(Arc::clone(gateway), pod.to_owned(), run))
}

async fn follow(gateway: Arc<Gateway>, pod: String, mut run: Run) -> Ended {
    let opened = gateway.registry.open(&pod, Start::Power { verb: run.verb.clone() }).await;
    let exit = match opened {
        Ok(OpenChannel { socket, guard }) => {
            let drained = async {
                gateway.drain.cancelled().await;
                tokio::time::sleep(DRAIN).await;
            };
            let exit = tokio::select! {
                exit = run.read(socket) => exit,
                () = tokio::time::sleep(LONGEST) => Exit::Failed(format!("no result within {} minutes", LONGEST.as_secs() / 60)),
                () = drained => Exit::Failed("the gateway restarts".into()),
            };
            drop(guard);
            exit
        }
        Err(failure) => Exit::Failed(failure.to_string()),
    };
    run.end(&exit).await
}

impl Run {
    /// Until the stream ends; gives how the hypervisor's program did.
    async fn read(&mut self, socket: Socket) -> Exit {
        let (_sender, mut receiver) = socket.split();
        while let Some(frame) = receiver.next().await {
            match frame::decode(frame) {
                Some((frame::POWER, piece)) => self.take(&piece).await,
                Some((frame::STDERR, words)) => self.say(String::from_utf8_lossy(&words).trim_end()),
                Some((frame::STATUS, status)) => {
                    return serde_json::from_slice(&status).unwrap_or_else(|_| Exit::Failed("the pod's answer is not understood".into()));
                }
                _ => {}
            }
        }
        Exit::Failed("the recovery's pod is gone".into())
    }

    fn say(&self, words: &str) {
        for line in words.lines() {
            let _ = self.words.try_send(one_line(line, 512));
        }
    }

    /// Takes a piece of what the hypervisor says.
    async fn take(&mut self, piece: &Bytes) {
        self.begun = true;
        if self.failure.is_some() {
            return;
        }
        let parsed = match self.parser.feed(piece) {
            Ok(parsed) => parsed,
            Err(failure) => {
                self.failure = Some(format!("the hypervisor's answer is not understood: {failure}"));
                return;
            }
        };
        for one in parsed {
            match one {
                Parsed::Progress(message) => self.say(&message),
                Parsed::Data { item, bytes } => {
                    if let Some(evidence) = &mut self.evidence {
                        evidence.piece(&item, &bytes.into()).await;
                    }
                }
                Parsed::Item(item) => {
                    let message = item.message.as_deref().map(|message| one_line(message, 512));
                    if let Some(evidence) = &mut self.evidence {
                        evidence.item(&item.item, word(item.outcome), message.as_deref()).await;
                    }
                    let why = message.map(|message| format!(": {message}")).unwrap_or_default();
                    self.say(&format!("{} {} ({} bytes){why}", word(item.outcome).to_lowercase(), item.item, item.bytes));
                }
                Parsed::Result(outcome) => self.outcome = Some(harmless(outcome)),
            }
        }
    }

    /// The stream is over.
    async fn end(mut self, exit: &Exit) -> Ended {
        if let Some(evidence) = &mut self.evidence {
            evidence.end(None, "the stream ended before this was complete").await;
        }
        let (evidence, items) = self.evidence.as_ref().map(|evidence| (evidence.address(), evidence.kept().to_vec())).unwrap_or_default();
        let (succeeded, message) = match (&self.outcome, self.failure, exit) {
            (Some(outcome), ..) => (Some(outcome.state == Ending::Succeeded), outcome.message.clone()),
            (None, _, Exit::Failed(why)) if !self.begun => (Some(false), format!("{why}; {} was not begun", self.verb)),
            (None, Some(failure), _) => (None, failure),
            (None, None, Exit::Failed(why)) => (None, format!("{why}: whether {} took effect is not known", self.verb)),
            (None, None, _) => (None, "the hypervisor ended without a result: what became of the machine is not known".into()),
        };
        let code = if let Exit::Code(code) = exit { Some(*code) } else { None };
        Ended { outcome: self.outcome, succeeded, code, message, evidence, items, verb: self.verb }
    }
}

impl Ended {
    /// `Succeeded`, `Failed`, `Refused` or `Unknown`.
    #[must_use]
    pub fn state(&self) -> String {
        match (&self.outcome, self.succeeded) {
            (Some(outcome), _) => format!("{:?}", outcome.state),
            (None, Some(_)) => "Failed".into(),
            (None, None) => "Unknown".into(),
        }
    }

    /// The event for the records.
    #[must_use]
    pub fn event(&self, channel: u32) -> AuditEvent {
        let of = |field: fn(&Outcome) -> Option<String>| self.outcome.as_ref().and_then(field);
        AuditEvent::Power {
            channel,
            verb: self.verb.clone(),
            vm: of(|outcome| outcome.vm.clone()).unwrap_or_default(),
            state: self.state(),
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
            || json!({ "verb": self.verb, "state": self.state(), "message": self.message }),
            |outcome| serde_json::to_value(outcome).unwrap_or_default(),
        );
        if let Some(fields) = result.as_object_mut() {
            fields.insert("evidence".into(), json!(self.evidence));
        }
        format!("{result}\n")
    }

    /// As the fence agents have it: 2 for a machine that is off, 1 for what failed or is not known.
    #[must_use]
    pub fn exit(&self) -> u8 {
        self.code.filter(|_| self.outcome.is_some()).unwrap_or(1)
    }
}

/// What a hypervisor says is shown on terminals and stands in objects.
fn harmless(mut outcome: Outcome) -> Outcome {
    outcome.message = one_line(&outcome.message, 512);
    for field in [&mut outcome.verb, &mut outcome.vm, &mut outcome.before, &mut outcome.after, &mut outcome.locked] {
        *field = field.take().map(|text| one_line(&text, 64));
    }
    outcome
}

const fn word(capture: Capture) -> &'static str {
    match capture {
        Capture::Captured => "Captured",
        Capture::Failed => "Failed",
        Capture::TimedOut => "TimedOut",
        Capture::Skipped => "Skipped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(state: &str) -> String {
        format!(
            r#"{{"type":"result","verb":"cycle","vm":"102","state":"{state}","before":"running","after":"off","locked":null,"startedAt":"2027-01-15T08:00:00Z","finishedAt":"2027-01-15T08:00:01Z","message":"m\u001b[2J"}}"#
        ) + "\n"
    }

    async fn run(stream: &[u8], exit: Exit) -> (Vec<String>, Ended) {
        let (words, mut shown) = mpsc::channel(WORDS);
        let verb = "cycle".into();
        let mut run = Run { verb, parser: Parser::default(), evidence: None, outcome: None, failure: None, begun: false, words };
        if !stream.is_empty() {
            run.take(&Bytes::copy_from_slice(stream)).await;
        }
        let ended = run.end(&exit).await;
        let mut said = Vec::new();
        while let Some(words) = shown.recv().await {
            said.push(words);
        }
        (said, ended)
    }

    #[tokio::test]
    async fn a_result_is_told_without_control_characters() {
        let progress = "{\"type\":\"progress\",\"message\":\"stop\\u001b]0;x\\u0007\"}\n";
        let (words, ended) = run((progress.to_owned() + &result("Succeeded")).as_bytes(), Exit::Code(0)).await;
        assert_eq!(words, ["stop ]0;x "]);
        assert_eq!((ended.succeeded, ended.message.as_str(), ended.exit()), (Some(true), "m [2J", 0));
        assert!(ended.line().contains("\"state\":\"Succeeded\"") && ended.line().ends_with("}\n"));
        let (_, failed) = run(result("Failed").as_bytes(), Exit::Code(1)).await;
        assert_eq!((failed.succeeded, failed.state(), failed.exit()), (Some(false), "Failed".into(), 1));
    }

    #[tokio::test]
    async fn what_was_not_begun_has_failed_and_what_was_begun_is_not_known() {
        let gone = || Exit::Failed("the pod is gone".into());
        for (stream, exit, state, words) in [
            (&b""[..], gone(), "Failed", "the pod is gone; cycle was not begun"),
            (b"{\"type\":\"progress\",\"message\":\"stop\"}\n", gone(), "Unknown", "whether cycle took effect is not known"),
            (b"nonsense\n", Exit::Code(0), "Unknown", "not understood"),
            (b"{}\n", Exit::Code(0), "Unknown", "not"),
        ] {
            let (_, ended) = run(stream, exit).await;
            assert_eq!((ended.state().as_str(), ended.exit()), (state, 1), "{}", ended.message);
            assert!(ended.message.contains(words), "{}", ended.message);
            assert!(ended.line().contains(state));
        }
    }
}
