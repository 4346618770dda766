//! What one channel shows and carries, as the recorder is told of it: between the channel's task, its output and the recording.

use super::connection::Connection;
use super::power::Ended;
use crate::domain::recording::Keystrokes;
use crate::link::message::{Exit, Process, Program, Size};
use crate::recording::audit::{AuditEvent, Ending, Opening, TerminalSize, Traffic};
use crate::recording::format::Kind;
use crate::recording::recorder::{Recorder, Shown, Stopped};
use crate::recording::sftp::{SftpEvent, SftpObserver};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What is recorded of a channel.
enum View {
    /// Every byte that is shown.
    Shown,
    /// File operations.
    Sftp(Box<Mutex<SftpObserver>>),
    /// A forward: where to, and how much.
    Forward(String, u16),
    /// A use of the user's ssh-agent: how much.
    Agent,
}

/// One channel, as it is recorded.
pub struct Sight {
    connection: Arc<Connection>,
    channel: u32,
    view: View,
    to_user: AtomicU64,
    from_user: AtomicU64,
    ended: AtomicBool,
}

impl Sight {
    fn new(connection: &Arc<Connection>, channel: u32, view: View) -> Arc<Self> {
        let (to_user, from_user) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { connection: Arc::clone(connection), channel, view, to_user, from_user, ended: AtomicBool::new(false) })
    }

    /// A channel with a process.
    #[must_use]
    pub fn process(connection: &Arc<Connection>, channel: u32, process: &Process) -> Arc<Self> {
        let (view, kind, command) = match &process.program {
            Program::Shell => (View::Shown, "Shell", None),
            Program::Command(command) => (View::Shown, "Command", Some(command.clone())),
            Program::Sftp => (View::Sftp(Box::default()), "Sftp", None),
        };
        let sight = Self::new(connection, channel, view);
        let terminal = process.terminal.as_ref();
        let terminal = terminal.map(|one| TerminalSize { name: one.name.clone(), width: one.size.width, height: one.size.height });
        sight.begin(Opening { kind: kind.into(), command, terminal });
        sight
    }

    /// Something that was asked for and is not run: all that comes of it is why.
    #[must_use]
    pub fn refused(connection: &Arc<Connection>, channel: u32, asked: &str) -> Arc<Self> {
        let sight = Self::new(connection, channel, View::Shown);
        sight.begin(Opening { kind: "Refused".into(), command: Some(asked.to_owned()), terminal: None });
        sight
    }

    /// A power verb.
    #[must_use]
    pub fn power(connection: &Arc<Connection>, channel: u32, verb: &str) -> Arc<Self> {
        let sight = Self::new(connection, channel, View::Shown);
        sight.begin(Opening { kind: "Power".into(), command: Some(format!("power {verb}")), terminal: None });
        sight
    }

    /// What became of it.
    pub fn powered(&self, ended: &Ended) {
        if let Some(recorder) = self.recorder() {
            recorder.audit(&ended.event(self.channel));
        }
    }

    /// A forward of the user's.
    #[must_use]
    pub fn forward(connection: &Arc<Connection>, channel: u32, host: &str, port: u16) -> Arc<Self> {
        let sight = Self::new(connection, channel, View::Forward(host.to_owned(), port));
        sight.begin(Opening { kind: "LocalForward".into(), command: None, terminal: None });
        sight
    }

    /// A use of the user's ssh-agent.
    #[must_use]
    pub fn agent(connection: &Arc<Connection>, channel: u32) -> Arc<Self> {
        let sight = Self::new(connection, channel, View::Agent);
        sight.begin(Opening { kind: "AgentForward".into(), command: None, terminal: None });
        sight
    }

    fn recorder(&self) -> Option<&Recorder> {
        self.connection.recorder()
    }

    fn begin(&self, opening: Opening) {
        let Some(recorder) = self.recorder() else { return };
        recorder.note(Kind::Open, self.channel, serde_json::to_vec(&opening).unwrap_or_default());
        if matches!(self.view, View::Shown) {
            recorder.note(Kind::Marker, self.channel, "login");
        }
        recorder.audit(&AuditEvent::Channel { channel: self.channel, opening });
    }

    /// Returns when the store has everything so far: no shell before that.
    ///
    /// # Errors
    /// [`Stopped`], with words for the user.
    pub async fn is_recorded(&self) -> Result<(), Stopped> {
        let (Some(recorder), Some(archive)) = (self.recorder(), &self.connection.gateway.archive) else { return Ok(()) };
        let outcome = recorder.flush(archive.patience).await;
        if outcome.is_err() {
            archive.metrics.refused.inc();
        }
        outcome
    }

    /// Bytes that are about to be shown.
    ///
    /// # Errors
    /// [`Stopped`]: they must not be.
    pub async fn to_user(&self, stream: Shown, bytes: &Bytes) -> Result<(), Stopped> {
        self.to_user.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match (&self.view, self.recorder(), stream) {
            // Beside a protocol, words of ours or of the program's are shown too.
            (View::Shown, Some(recorder), _) | (_, Some(recorder), Shown::Error) => recorder.shown(self.channel, stream, bytes).await,
            (View::Sftp(observer), Some(recorder), Shown::Output) => {
                let events = observer.lock().unwrap_or_else(PoisonError::into_inner).to_user(bytes);
                self.operations(recorder, events);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Bytes on their way to the pod.
    pub fn from_user(&self, bytes: &[u8]) {
        self.from_user.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let (View::Sftp(observer), Some(recorder)) = (&self.view, self.recorder()) {
            let events = observer.lock().unwrap_or_else(PoisonError::into_inner).from_user(bytes);
            self.operations(recorder, events);
        }
    }

    fn operations(&self, recorder: &Recorder, events: Vec<SftpEvent>) {
        for operation in events {
            recorder.audit(&AuditEvent::Sftp { channel: self.channel, operation });
        }
    }

    /// The terminal has another size.
    pub fn resized(&self, size: Size) {
        if let (View::Shown, Some(recorder)) = (&self.view, self.recorder()) {
            let size = serde_json::json!({ "width": size.width, "height": size.height });
            recorder.note(Kind::Resize, self.channel, size.to_string());
        }
    }

    /// Keystrokes that the terminal echoed, where the configuration asks for them.
    pub fn typed(&self, keys: Bytes) {
        let asked = self.connection.gateway.configuration.recording.keystrokes == Keystrokes::Echoed;
        if let (View::Shown, Some(recorder), true) = (&self.view, self.recorder(), asked) {
            recorder.note(Kind::Keystrokes, self.channel, keys);
        }
    }

    /// Words of ours are shown.
    pub fn marked(&self, text: &str) {
        if let (View::Shown, Some(recorder)) = (&self.view, self.recorder()) {
            recorder.note(Kind::Marker, self.channel, text.to_owned());
        }
    }

    /// The channel ended: the first one to say how counts.
    pub fn ended(&self, how: Ending) {
        let Some(recorder) = self.recorder().filter(|_| !self.ended.swap(true, Ordering::Relaxed)) else { return };
        let bytes =
            Traffic { bytes_to_user: self.to_user.load(Ordering::Relaxed), bytes_from_user: self.from_user.load(Ordering::Relaxed) };
        let channel = self.channel;
        match &self.view {
            View::Shown => recorder.note(Kind::Exit, channel, serde_json::to_vec(&how).unwrap_or_default()),
            View::Sftp(observer) => {
                let events = observer.lock().unwrap_or_else(PoisonError::into_inner).end();
                self.operations(recorder, events);
            }
            View::Forward(host, port) => {
                return recorder.audit(&AuditEvent::Forward { channel, host: host.clone(), port: *port, bytes });
            }
            View::Agent => return recorder.audit(&AuditEvent::Agent { channel, bytes }),
        }
        recorder.audit(&AuditEvent::Exit { channel, how, bytes });
    }
}

/// How a process ended, in the audit's terms.
#[must_use]
pub fn ending(exit: &Exit) -> Ending {
    match exit {
        Exit::Code(code) => Ending::Code(u32::from(*code)),
        Exit::Signal(number) => Ending::Signal(*number),
        Exit::Failed(message) => Ending::Failure(message.clone()),
    }
}
