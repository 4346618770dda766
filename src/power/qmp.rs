//! A client of QEMU's machine protocol (docs/interop/qmp-spec in QEMU's source), for one short conversation. QEMU talks to one
//! client at a time and greets the next one only then, and it sends events between answers: every wait has a deadline, and an
//! answer is known by its id.

use super::deadline::Deadline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde_json::{Value, json};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest line from QEMU: `query-block` of a machine with many disks is tens of kilobytes.
const LINE_LIMIT: usize = 8 * 1024 * 1024;
/// How many events are kept for a later look.
const EVENT_LIMIT: usize = 64;

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens: QEMU is not running.
    #[error("no QEMU listens on {0}")]
    Off(PathBuf),
    /// The socket cannot be used.
    #[error("failed to connect to {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No greeting.
    #[error("QEMU does not answer on {0}: it hangs, or another client is connected")]
    Silent(PathBuf),
    /// A command or event was not answered in time.
    #[error("QEMU did not answer {0} in time")]
    TimedOut(String),
    /// The conversation ended.
    #[error("QEMU closed the connection during {0}")]
    Closed(String),
    /// The connection failed.
    #[error("failed to talk to QEMU during {doing}: {source}")]
    Talk {
        /// What was going on.
        doing: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QEMU says no.
    #[error("QEMU refused {command}: {words}")]
    Refused {
        /// The command.
        command: String,
        /// Its words.
        words: String,
    },
    /// Not the protocol.
    #[error("what listens on the socket does not speak QMP: {0}")]
    NotQmp(&'static str),
}

/// A conversation.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    buffer: Vec<u8>,
    commands: u64,
    events: Vec<Value>,
}

impl Qmp {
    /// Connects, waits for the greeting, and enters command mode.
    pub fn connect(path: &Path, deadline: Deadline) -> Result<Self, QmpError> {
        let stream = open(path, deadline)?;
        let mut qmp = Self { stream, buffer: Vec::new(), commands: 0, events: Vec::new() };
        let greeting = qmp.line("the greeting", deadline).map_err(|failure| match failure {
            QmpError::TimedOut(_) => QmpError::Silent(path.to_owned()),
            failure => failure,
        })?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::NotQmp("no greeting"));
        }
        qmp.execute("qmp_capabilities", &json!({}), deadline)?;
        Ok(qmp)
    }

    /// Executes a command and returns its answer.
    pub fn execute(&mut self, command: &str, arguments: &Value, deadline: Deadline) -> Result<Value, QmpError> {
        self.send(command, arguments, None, deadline)?;
        self.answer(command, deadline)
    }

    /// The same, with an open file sent along: QEMU needs no right to open it.
    pub fn execute_with_file(
        &mut self,
        command: &str,
        arguments: &Value,
        file: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<Value, QmpError> {
        self.send(command, arguments, Some(file), deadline)?;
        self.answer(command, deadline)
    }

    /// Waits for an event, also one that came already.
    pub fn event(&mut self, name: &str, deadline: Deadline) -> Result<Value, QmpError> {
        loop {
            let found = self.events.iter().position(|event| event.get("event").and_then(Value::as_str) == Some(name));
            if let Some(index) = found {
                return Ok(self.events.swap_remove(index));
            }
            let line = self.line(name, deadline)?;
            self.keep_event(line);
        }
    }

    /// The process that listens on the other side, to be waited for.
    pub fn peer(&self) -> Option<OwnedFd> {
        let peer = nix::sys::socket::getsockopt(&self.stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        let process = rustix::process::Pid::from_raw(peer.pid())?;
        rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).ok()
    }

    fn send(&mut self, command: &str, arguments: &Value, file: Option<BorrowedFd<'_>>, deadline: Deadline) -> Result<(), QmpError> {
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => QmpError::TimedOut(command.to_owned()),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => QmpError::Closed(command.to_owned()),
            _ => QmpError::Talk { doing: command.to_owned(), source },
        };
        self.commands += 1;
        let text = format!("{}\n", json!({"execute": command, "arguments": arguments, "id": self.commands}));
        let left = deadline.left().ok_or_else(|| QmpError::TimedOut(command.to_owned()))?;
        self.stream.set_write_timeout(Some(left)).map_err(failed)?;
        let mut sent = 0;
        if let Some(file) = file {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let files = [file];
            control.push(SendAncillaryMessage::ScmRights(&files));
            let bytes = [IoSlice::new(text.as_bytes())];
            sent = rustix::net::sendmsg(&self.stream, &bytes, &mut control, SendFlags::NOSIGNAL).map_err(|errno| failed(errno.into()))?;
        }
        self.stream.write_all(text.as_bytes().get(sent..).unwrap_or_default()).map_err(failed)
    }

    fn answer(&mut self, command: &str, deadline: Deadline) -> Result<Value, QmpError> {
        loop {
            let mut line = self.line(command, deadline)?;
            // An answer without an id is to a line that QEMU could not parse: to ours, since there is no other client.
            let ours = line.get("id").is_none_or(|id| id.as_u64() == Some(self.commands));
            if let Some(error) = line.get("error").filter(|_| ours) {
                let words = error.get("desc").and_then(Value::as_str).unwrap_or("without a word").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), words });
            }
            if let Some(value) = line.get_mut("return").filter(|_| ours) {
                return Ok(value.take());
            }
            self.keep_event(line);
        }
    }

    fn keep_event(&mut self, line: Value) {
        if line.get("event").is_some() && self.events.len() < EVENT_LIMIT {
            self.events.push(line);
        }
    }

    fn line(&mut self, doing: &str, deadline: Deadline) -> Result<Value, QmpError> {
        let mut piece = [0; 16 * 1024];
        let mut searched = 0;
        loop {
            let unsearched = self.buffer.get(searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=searched + end).collect();
                return serde_json::from_slice(&line).map_err(|_| QmpError::NotQmp("a line is not JSON"));
            }
            searched = self.buffer.len();
            if searched > LINE_LIMIT {
                return Err(QmpError::NotQmp("a line without end"));
            }
            let left = deadline.left().ok_or_else(|| QmpError::TimedOut(doing.to_owned()))?;
            let talk = |source| QmpError::Talk { doing: doing.to_owned(), source };
            self.stream.set_read_timeout(Some(left)).map_err(talk)?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(QmpError::Closed(doing.to_owned())),
                Ok(length) => self.buffer.extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(failure) => match failure.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset => return Err(QmpError::Closed(doing.to_owned())),
                    _ => return Err(talk(failure)),
                },
            }
        }
    }
}

/// Connects within the deadline: with a full queue of waiting clients, a connect waits too.
fn open(path: &Path, deadline: Deadline) -> Result<UnixStream, QmpError> {
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => QmpError::Off(path.to_owned()),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => QmpError::Silent(path.to_owned()),
        _ => QmpError::Connect { path: path.to_owned(), source },
    };
    let errno = |errno: rustix::io::Errno| failed(errno.into());
    let address = SocketAddrUnix::new(path).map_err(errno)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(errno)?;
    let left = deadline.left().ok_or_else(|| QmpError::Silent(path.to_owned()))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left)).map_err(errno)?;
    rustix::net::connect(&socket, &address).map_err(errno)?;
    Ok(UnixStream::from(socket))
}

/// Waits until a process is gone; false when it is still there after `limit`.
pub fn gone(process: &OwnedFd, limit: Duration) -> bool {
    let mut watched = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let limit = Timespec::try_from(limit).ok();
    poll(&mut watched, limit.as_ref()).is_ok_and(|count| count > 0)
}
