//! From a prepared channel to what runs on it: a process in the pod, or a power verb through it. Still the translator: the task
//! that is spawned does the work.

use super::channel::{Channel, Ends, Shared};
use super::connection::Login;
use super::handler::Client;
use super::metrics::Kind;
use super::output::Output;
use super::sight::Sight;
use crate::api::BreakglassVM;
use crate::api::breakglass_vm::Verb;
use crate::api::session::{Capability, Session as _};
use crate::domain::power;
use crate::domain::recording::Keystrokes;
use crate::link::message::{Process, Program, Start, Terminal};
use russh::server::{Msg, Session};
use russh::{ChannelId, ChannelWriteHalf};
use std::sync::Arc;
use tracing::info;

/// A session channel before its program: what the client asked for so far.
pub(super) struct Prepared {
    pub write: ChannelWriteHalf<Msg>,
    pub shared: Arc<Shared>,
    pub ends: Ends,
    pub terminal: Option<Terminal>,
    pub environment: Vec<(String, String)>,
    /// Whether the client asked for it.
    pub agent_forward: bool,
}

impl Client {
    /// Starts a program on a prepared channel, in a task of its own.
    pub(super) fn start(&mut self, id: ChannelId, program: Program, session: &mut Session) -> Result<(), russh::Error> {
        let (Some(prepared), Some(login)) = (self.prepared.remove(&id), self.connection.login()) else {
            return session.channel_failure(id);
        };
        let mut prepared = prepared;
        let program = match (login.authorized.forced_command(), program) {
            (Some(forced), asked) => {
                // Where forced commands look for what was asked, as with sshd.
                if let Program::Command(command) = asked {
                    prepared.environment.push(("SSH_ORIGINAL_COMMAND".into(), command));
                }
                Program::Command(forced.to_owned())
            }
            (None, program) => program,
        };
        let verb = match &program {
            Program::Command(command) if login.authorized.object_kind() == BreakglassVM::KIND => {
                power::asked(command, login.authorized.verbs())
            }
            _ => None,
        };
        let kind = match (&verb, &program) {
            (Some(_), _) => Kind::Power,
            (None, Program::Shell) => Kind::Shell,
            (None, Program::Command(_)) => Kind::Command,
            (None, Program::Sftp) => Kind::Sftp,
        };
        self.connection.gateway.metrics.channel(kind);
        info!(connection = self.connection.id, session = %login.session, ?kind, terminal = prepared.terminal.is_some(), "channel");
        session.channel_success(id)?;
        match verb {
            Some(verb) => self.power(id, prepared, login, verb, session),
            None => self.process(id, prepared, login, program, session),
        }
        Ok(())
    }

    /// Says no to a program, as its only output: most clients show nothing of a request that is only declined.
    pub(super) fn decline(&mut self, id: ChannelId, asked: &str, reason: &str, session: &mut Session) -> Result<(), russh::Error> {
        self.connection.refused(Some(id), asked, reason);
        let (Some(prepared), Some(login)) = (self.prepared.remove(&id), self.connection.login()) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let Prepared { write, shared, ends, terminal, .. } = prepared;
        let sight = Sight::refused(&self.connection, id.into(), asked);
        let begun = Begun { write, shared, ends, terminal: terminal.is_some(), agent_forward: false, note: None };
        tokio::spawn(self.begin(begun, login, sight, session).run_refused(reason.to_owned()));
        Ok(())
    }

    fn process(&self, id: ChannelId, prepared: Prepared, login: Login, program: Program, session: &Session) {
        let allowed = login.authorized.allows(Capability::AgentForward);
        let agent_forward = prepared.agent_forward && allowed;
        let note = (prepared.agent_forward && !allowed).then(|| format!("your ssh-agent stays outside: {}", self.lacks("AgentForward")));
        let terminal = prepared.terminal.is_some();
        let recording = &self.connection.gateway.configuration.recording;
        let keystrokes = terminal && self.connection.recorder().is_some() && recording.keystrokes == Keystrokes::Echoed;
        let Prepared { write, shared, ends, terminal: size, environment, .. } = prepared;
        let process = Process { program, terminal: size, environment, agent_forward, keystrokes };
        let sight = Sight::process(&self.connection, id.into(), &process);
        let channel = self.begin(Begun { write, shared, ends, terminal, agent_forward, note }, login, sight, session);
        tokio::spawn(channel.run(Start::Process(process)));
    }

    fn power(&self, id: ChannelId, prepared: Prepared, login: Login, verb: Result<Verb, String>, session: &Session) {
        let Prepared { write, shared, ends, terminal, .. } = prepared;
        let begun = Begun { write, shared, ends, terminal: terminal.is_some(), agent_forward: false, note: None };
        let word = verb.as_ref().map_or("", |verb| verb.word());
        let sight = Sight::power(&self.connection, id.into(), word);
        let channel = self.begin(begun, login, sight, session);
        match verb {
            Ok(verb) => drop(tokio::spawn(channel.run(Start::Power { verb: verb.word().to_owned() }))),
            Err(reason) => {
                self.connection.refused(Some(id), "power verb", &reason);
                tokio::spawn(channel.run_refused(reason));
            }
        }
    }

    fn begin(&self, begun: Begun, login: Login, sight: Arc<Sight>, session: &Session) -> Channel {
        let Begun { write, shared, ends, terminal, agent_forward, note } = begun;
        let _ = shared.sight.set(Arc::clone(&sight));
        let handle = session.handle();
        let output = Output::new(write, handle.clone(), terminal, Arc::clone(&self.connection), sight);
        Channel { connection: Arc::clone(&self.connection), login, shared, ends, output, handle, agent_forward, note }
    }
}

/// A channel whose program is known.
struct Begun {
    write: ChannelWriteHalf<Msg>,
    shared: Arc<Shared>,
    ends: Ends,
    terminal: bool,
    agent_forward: bool,
    note: Option<String>,
}
