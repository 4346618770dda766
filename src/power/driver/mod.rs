//! How a VM is looked at, captured, stopped and started: one driver for each kind of hypervisor. A driver does what it is told
//! within the deadline it is given. It does not decide, does not wait for the state it wanted, and does not write to the client.

mod qm;
mod qmp;
mod virsh;

use super::deadline::Deadline;
use super::options::{Kind, Machine, Options};
use super::program::ProgramError;
use super::qmp::QmpError;
use super::request::VmId;
use super::spool::Spool;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// The state of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// Its processors are stopped.
    Paused,
    /// There is no such process.
    Off,
    /// The guest's kernel has said that it panicked.
    Panicked,
    /// The hypervisor's own word for anything else.
    Other(String),
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Off => "off",
            Self::Panicked => "panicked",
            Self::Other(word) => word,
        })
    }
}

impl State {
    /// The state of QEMU's own word (`RunState` in its qapi/run-state.json).
    fn of_qemu(word: &str) -> Self {
        match word {
            "running" => Self::Running,
            "paused" => Self::Paused,
            "guest-panicked" => Self::Panicked,
            word => Self::Other(word.to_lowercase()),
        }
    }
}

/// What a look at a VM shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its state.
    pub state: State,
    /// What holds its lock.
    pub locked: Option<String>,
}

/// A part of the forensics bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The hypervisor's words on its state.
    State,
    /// How it is set up.
    Configuration,
    /// Its processors.
    Processors,
    /// Their registers.
    Registers,
    /// Its disks.
    Blocks,
    /// A picture of its screen.
    Screen,
    /// The end of its serial console.
    Console,
    /// Its memory.
    Memory,
}

/// What was captured.
#[derive(Debug)]
pub enum Evidence {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file, from its beginning.
    File(File),
}

/// Why a driver did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A program failed.
    #[error(transparent)]
    Program(ProgramError),
    /// QEMU's socket failed.
    #[error(transparent)]
    Qmp(QmpError),
    /// The hypervisor keeps others off this VM.
    #[error("the VM is locked ({0}): it is left alone until that is over")]
    Locked(String),
    /// A file failed.
    #[error("failed to {doing}: {source}")]
    File {
        /// What was going on.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An answer that is not understood, or a state in which this cannot be done.
    #[error("{0}")]
    Unexpected(String),
    /// This driver does not do that.
    #[error("{0}")]
    Skipped(&'static str),
}

impl DriverError {
    /// Whether a limit has passed.
    pub const fn timed_out(&self) -> bool {
        matches!(self, Self::Program(ProgramError::TimedOut { .. }) | Self::Qmp(QmpError::TimedOut(_) | QmpError::Silent(_)))
    }
}

/// One VM.
pub trait Driver {
    /// Its state and lock.
    fn look(&self, deadline: Deadline) -> Result<Sight, DriverError>;
    /// What can be captured, and as what.
    fn parts(&self) -> &'static [(Part, &'static str)];
    /// Captures one part; never [`Part::Console`].
    fn capture(&self, part: Part, deadline: Deadline) -> Result<Evidence, DriverError>;
    /// Whether it could be started.
    fn can_start(&self) -> Result<(), DriverError>;
    /// Whether it could be started once it has been stopped: asked before a cycle stops it. Changes nothing.
    fn can_start_again(&self, deadline: Deadline) -> Result<(), DriverError>;
    /// Presses the reset button, and lets the processors run.
    fn reset(&self, deadline: Deadline) -> Result<(), DriverError>;
    /// Pulls the plug.
    fn stop(&self, deadline: Deadline) -> Result<(), DriverError>;
    /// Switches it on; an error if it is on.
    fn start(&self, deadline: Deadline) -> Result<(), DriverError>;
}

/// The driver of a VM.
pub fn open<'a>(options: &'a Options, vm: &'a VmId, machine: &'a Machine, spool: &'a Spool) -> Box<dyn Driver + 'a> {
    match options.kind {
        Kind::Qm => Box::new(qm::Qm { program: &options.places.qm, pvesh: &options.places.pvesh, vm: vm.text(), spool }),
        Kind::Virsh => {
            Box::new(virsh::Virsh { program: &options.places.virsh, connection: &options.places.connection, vm: vm.text(), spool })
        }
        Kind::Qmp => Box::new(qmp::Monitor::new(vm.text(), machine, spool)),
    }
}

/// Whether a file is there and may be executed.
fn executable(program: &Path) -> Result<(), DriverError> {
    rustix::fs::access(program, rustix::fs::Access::EXEC_OK)
        .map_err(|errno| DriverError::Unexpected(format!("{} cannot be executed: {errno}", program.display())))
}

fn open_file(path: &Path) -> Result<Evidence, DriverError> {
    File::open(path).map(Evidence::File).map_err(|source| DriverError::File { doing: "read what the hypervisor wrote", source })
}
