//! `Start::Process` on a machine: shell, command or SFTP, with terminal, environment, signals and the user's ssh-agent. The frames are those
//! of a local process, but there are no keystrokes among them: whether the machine's terminal echoes cannot be seen from here, and what is typed
//! without echo must not be told.
//! OpenSSH's server delivers no signals to root's processes, only to those of other accounts; a terminal's ^C is a character and arrives.

use super::pump::{Came, Input, Reader, Sink, come, send};
use super::{Connection, Forwards};
use crate::link::client::Socket;
use crate::link::frame;
use crate::link::message::{Exit, Process, Program, Terminal};
use bytes::Bytes;
use russh::client::Msg;
use russh::{ChannelWriteHalf, Pty};
use std::sync::atomic::Ordering;
use tokio::sync::{Mutex, Notify};

impl Connection {
    /// Runs a process on the machine until it has ended or the gateway closed the channel. The last frame says how it ended.
    /// [`Process::keystrokes`] is not heeded: none are told.
    pub async fn process(mut self, process: &Process, socket: Socket, forwards: &Forwards) {
        let (sender, mut receiver) = socket.split();
        let sink = Mutex::new(sender);
        let mut arrivals = std::mem::replace(&mut self.arrivals, tokio::sync::mpsc::channel(1).1);
        let opened = tokio::select! {
            opened = self.session() => opened,
            silent = self.silence() => Err(silent),
        };
        let (mut reader, write) = match opened {
            Ok(halves) => halves,
            Err(failure) => {
                finish(&sink, &Exit::Failed(failure.to_string())).await;
                drop(self);
                return receiver.drain().await;
            }
        };
        let started = Notify::new();
        let input = Input { write: &write, terminal: process.terminal.is_some(), started: &started };
        let run = async {
            let exit = match self.start(process, &mut reader, &write).await {
                Ok(()) => {
                    started.notify_one();
                    self.output(&mut reader, &sink).await
                }
                Err(reason) => Exit::Failed(reason),
            };
            finish(&sink, &exit).await;
        };
        let silence = async {
            let exit = Exit::Failed(self.silence().await.to_string());
            finish(&sink, &exit).await;
        };
        // Whichever comes first drops the rest, and the connection with it: the machine hangs up on what still runs.
        let has_ended = tokio::select! {
            () = run => true,
            () = input.carry(&mut receiver) => false,
            () = silence => true,
            () = forwards.announce(&mut arrivals, &self.told.gate, &sink) => false,
        };
        drop((reader, write, arrivals, self));
        if has_ended {
            receiver.drain().await;
        }
    }

    /// Makes the requests that come before the program, and the program's.
    async fn start(&self, process: &Process, reader: &mut Reader, write: &ChannelWriteHalf<Msg>) -> Result<(), String> {
        let what = self.what;
        let lost = |_: russh::Error| self.lost().to_string();
        for (name, value) in &process.environment {
            // Without an answer: most servers refuse most variables (AcceptEnv), and programs do without.
            write.set_env(false, name, value).await.map_err(lost)?;
        }
        if process.agent_forward {
            self.told.agent_asked.store(true, Ordering::Relaxed);
            write.agent_forward(true).await.map_err(lost)?;
        }
        if let Some(terminal) = &process.terminal {
            request_terminal(terminal, write).await.map_err(lost)?;
        }
        if process.agent_forward && !self.answer(reader).await? {
            // As with ssh: the program has no socket, and finds that out if it looks for one.
            self.told.agent_asked.store(false, Ordering::Relaxed);
        }
        if process.terminal.is_some() && !self.answer(reader).await? {
            return Err(format!(
                "{what} gives no terminal (PermitTTY in its sshd_config, or /dev/pts is not mounted): `ssh -T` works without one"
            ));
        }
        let refused = match &process.program {
            Program::Shell => {
                write.request_shell(true).await.map_err(lost)?;
                "refuses to start a shell"
            }
            Program::Command(command) => {
                write.exec(true, command.as_bytes()).await.map_err(lost)?;
                "refuses to run a command"
            }
            Program::Sftp => {
                write.request_subsystem(true, "sftp").await.map_err(lost)?;
                "has no SFTP server (`Subsystem sftp` in its sshd_config)"
            }
        };
        if self.answer(reader).await? { Ok(()) } else { Err(format!("{what} {refused}")) }
    }

    /// The answer to a request; nothing else comes before the program's start.
    pub(super) async fn answer(&self, reader: &mut Reader) -> Result<bool, String> {
        loop {
            match come(reader).await {
                Some(Came::Answer(granted)) => return Ok(granted),
                Some(Came::Frame(_) | Came::Exit(_)) => {}
                Some(Came::Closed) => return Err(format!("{} closed the session before it began", self.what)),
                None => return Err(self.lost().to_string()),
            }
        }
    }

    /// Sends output until the machine closed the channel; gives how the program ended.
    async fn output(&self, reader: &mut Reader, sink: &Sink) -> Exit {
        let mut exit = None;
        loop {
            match come(reader).await {
                Some(Came::Frame(frame)) => {
                    if send(sink, frame).await.is_err() {
                        return Exit::Failed("the gateway is gone".into());
                    }
                }
                Some(Came::Exit(ended)) => exit = Some(ended),
                Some(Came::Answer(_)) => {}
                Some(Came::Closed) => {
                    return exit.unwrap_or_else(|| Exit::Failed(format!("{} closed the session without an exit status", self.what)));
                }
                None => return exit.unwrap_or_else(|| Exit::Failed(self.lost().to_string())),
            }
        }
    }
}

async fn request_terminal(terminal: &Terminal, write: &ChannelWriteHalf<Msg>) -> Result<(), russh::Error> {
    let modes: Vec<(Pty, u32)> = terminal.modes.iter().filter_map(|(code, value)| Some((Pty::from_u8(*code)?, *value))).collect();
    let (columns, rows) = (u32::from(terminal.size.width), u32::from(terminal.size.height));
    write.request_pty(true, &terminal.name, columns, rows, 0, 0, &modes).await
}

/// Tells how the process ended and closes the channel.
async fn finish(sink: &Sink, exit: &Exit) {
    let status = Bytes::from(serde_json::to_vec(exit).unwrap_or_default());
    if send(sink, frame::encode(frame::STATUS, &status)).await.is_ok() {
        sink.lock().await.close().await;
    }
}
