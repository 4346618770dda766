//! From what the gateway asks for to a running process with streams the agent can read and write.

use super::environment::Environment;
use super::launcher::Launcher;
use super::plan::{Candidate, Plan};
use super::terminal;
use crate::link::message::{Process, Program, Size};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// A running process and its streams.
pub struct Running {
    /// Talks to the supervisor (see that module). Dropping it kills everything.
    pub control: UnixStream,
    /// The streams.
    pub streams: Streams,
}

/// Where input goes and output comes from.
pub enum Streams {
    /// A terminal: one stream both ways.
    Terminal(AsyncFd<OwnedFd>),
    /// Pipes.
    Pipes {
        /// To standard input.
        stdin: pipe::Sender,
        /// From standard output.
        stdout: pipe::Receiver,
        /// From standard error.
        stderr: pipe::Receiver,
    },
}

/// A pipe this large lets a program write a whole frame while the agent sends the one before.
const PIPE_SIZE: i32 = 256 * 1024;

/// Starts `process`.
///
/// # Errors
/// When the kernel refuses a terminal, a pipe or a process.
pub async fn launch(launcher: &Launcher, process: &Process, environment: &Environment, agent_socket: Option<&str>) -> io::Result<Running> {
    let plan = plan(process, environment, agent_socket);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let streams = match &process.terminal {
        Some(wanted) => {
            let (master, slave) = terminal::open(wanted)?;
            launcher.fork_supervisor([&slave, &slave, &slave], &theirs)?;
            Streams::Terminal(watched(master)?)
        }
        None => {
            let (input, stdin) = pipe_pair()?;
            let (stdout, output) = pipe_pair()?;
            let (stderr, errors) = pipe_pair()?;
            launcher.fork_supervisor([&input, &output, &errors], &theirs)?;
            Streams::Pipes {
                stdin: pipe::Sender::from_owned_fd(stdin)?,
                stdout: pipe::Receiver::from_owned_fd(stdout)?,
                stderr: pipe::Receiver::from_owned_fd(stderr)?,
            }
        }
    };
    let mut control = UnixStream::from_std(ours)?;
    control.write_all(&plan.encode()).await?;
    Ok(Running { control, streams })
}

/// The safe constructor is deprecated since other types than an owned descriptor may lie about what they own.
#[allow(deprecated)]
fn watched(master: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(master)
}

/// A pipe: (read end, write end). Only the agent's own end is made non-blocking, by tokio, which needs it so beforehand.
fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // Best effort: a user may be over the system's limit for pipe memory.
    let _ = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    Ok((reader, writer))
}

fn plan(process: &Process, environment: &Environment, agent_socket: Option<&str>) -> Plan {
    let mut variables = environment.for_process(process);
    if let Some(socket) = agent_socket {
        variables.push(("SSH_AUTH_SOCK".into(), socket.into()));
    }
    let shells = environment.shells();
    let (programs, without_program) = match &process.program {
        Program::Shell => (
            shells.into_iter().map(|path| Candidate { name: login_name(&path), path, arguments: vec![] }).collect(),
            "this image has no shell that runs: use sftp, or name an image with a shell in spec.tools".to_owned(),
        ),
        Program::Command(text) => (
            shells
                .into_iter()
                .map(|path| Candidate {
                    name: path.file_name().map_or_else(|| "sh".into(), Into::into),
                    path,
                    arguments: vec!["-c".into(), text.into()],
                })
                .collect(),
            "this image has no shell to run commands with: use sftp, or name an image with a shell in spec.tools".to_owned(),
        ),
        Program::Sftp => (
            vec![Candidate { path: environment.agent_path(), name: "sandglass-agent".into(), arguments: vec!["sftp".into()] }],
            "the agent's sftp server could not be started".to_owned(),
        ),
    };
    Plan { programs, environment: variables, directory: environment.directory(), terminal: process.terminal.is_some(), without_program }
}

/// A login shell's name begins with a dash.
fn login_name(path: &std::path::Path) -> OsString {
    let mut name = OsString::from("-");
    name.push(path.file_name().unwrap_or_default());
    name
}

impl Streams {
    /// Sets the terminal's size; nothing without one.
    pub fn resize(&self, size: Size) {
        if let Self::Terminal(master) = self {
            terminal::resize(master.get_ref(), size);
        }
    }
}
