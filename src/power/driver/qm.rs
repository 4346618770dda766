//! Proxmox VE, through `qm` and, for QEMU's monitor, `pvesh`. `qm monitor` is not used: it wants a terminal. Never `--skiplock`.
//!
//! Formats: qemu-server, src/PVE/CLI/qm.pm (`status`, `config`), src/PVE/QemuServer.pm (`vmstatus`); a lock's words from
//! pve-guest-common, src/PVE/AbstractConfig.pm.

use super::{Driver, DriverError, Evidence, Part, Sight, State};
use crate::power::deadline::Deadline;
use crate::power::program::{self, ProgramError};
use crate::power::spool::Spool;
use std::path::Path;

/// A VM of this Proxmox node.
pub struct Qm<'a> {
    pub program: &'a Path,
    pub pvesh: &'a Path,
    pub vm: &'a str,
    pub spool: &'a Spool,
}

impl Qm<'_> {
    fn qm(&self, arguments: &[&str], deadline: Deadline) -> Result<Vec<u8>, DriverError> {
        program::run(self.program, arguments, self.spool, deadline).map_err(told)
    }

    fn monitor(&self, command: &str, deadline: Deadline) -> Result<Vec<u8>, DriverError> {
        let node = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_err(|source| DriverError::File { doing: "read this node's name", source })?;
        let node = node.trim().split('.').next().unwrap_or("localhost");
        let path = format!("/nodes/{node}/qemu/{}/monitor", self.vm);
        program::run(self.pvesh, &["create", &path, "--command", command], self.spool, deadline).map_err(told)
    }

    fn screen(&self, deadline: Deadline) -> Result<Evidence, DriverError> {
        let path = self.spool.path("screen");
        let words = self.monitor(&format!("screendump {} -f png", path.display()), deadline)?;
        if path.exists() {
            return super::open_file(&path);
        }
        // The monitor's errors are words like any other.
        Err(DriverError::Unexpected(format!("no picture was made: {}", String::from_utf8_lossy(&words).trim())))
    }
}

impl Driver for Qm<'_> {
    fn look(&self, deadline: Deadline) -> Result<Sight, DriverError> {
        let text = self.qm(&["status", self.vm, "--verbose"], deadline)?;
        let text = String::from_utf8_lossy(&text);
        sight(&text).ok_or_else(|| DriverError::Unexpected("`qm status --verbose` tells no status".into()))
    }

    fn parts(&self) -> &'static [(Part, &'static str)] {
        &[
            (Part::State, "state.txt"),
            (Part::Console, "console.log"),
            (Part::Screen, "screen.png"),
            (Part::Configuration, "config.txt"),
            (Part::Processors, "cpus.txt"),
            (Part::Registers, "registers.txt"),
            (Part::Blocks, "block.txt"),
            (Part::Memory, "memory.kdump"),
        ]
    }

    fn capture(&self, part: Part, deadline: Deadline) -> Result<Evidence, DriverError> {
        match part {
            Part::State => self.qm(&["status", self.vm, "--verbose"], deadline).map(Evidence::Bytes),
            Part::Configuration => self.qm(&["config", self.vm], deadline).map(Evidence::Bytes),
            Part::Processors => self.monitor("info cpus", deadline).map(Evidence::Bytes),
            Part::Registers => self.monitor("info registers -a", deadline).map(Evidence::Bytes),
            Part::Blocks => self.monitor("info block", deadline).map(Evidence::Bytes),
            Part::Screen => self.screen(deadline),
            Part::Memory => Err(DriverError::Skipped("Proxmox has no command for it that can be waited for")),
            Part::Console => Err(DriverError::Skipped("not known to Proxmox")),
        }
    }

    fn can_start(&self) -> Result<(), DriverError> {
        super::executable(self.program)
    }

    fn can_start_again(&self, _: Deadline) -> Result<(), DriverError> {
        // Its configuration stays when it is stopped.
        self.can_start()
    }

    fn reset(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.qm(&["reset", self.vm], deadline)?;
        // A VM that was not running is not made to run by a reset.
        if self.look(deadline)?.state != State::Running {
            self.qm(&["resume", self.vm], deadline)?;
        }
        Ok(())
    }

    fn stop(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.qm(&["stop", self.vm], deadline).map(drop)
    }

    fn start(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.qm(&["start", self.vm], deadline).map(drop)
    }
}

/// What `qm status --verbose` tells: `key: value` lines, what belongs to a key indented.
fn sight(text: &str) -> Option<Sight> {
    let value = |wanted: &str| text.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(": ")).map(str::trim);
    let state = match (value("status")?, value("qmpstatus")) {
        ("stopped", _) => State::Off,
        (_, Some(word)) | (word, None) => State::of_qemu(word),
    };
    Some(Sight { state, locked: value("lock").map(str::to_owned) })
}

/// Finds a lock in a program's words.
fn told(failure: ProgramError) -> DriverError {
    let ProgramError::Failed { words, .. } = &failure else { return DriverError::Program(failure) };
    if let Some((_, after)) = words.split_once("VM is locked (") {
        return DriverError::Locked(after.split(')').next().unwrap_or_default().to_owned());
    }
    // Another command of Proxmox holds the lock of its configuration file.
    if words.contains("can't lock file") {
        return DriverError::Locked("configuration".to_owned());
    }
    DriverError::Program(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verbose_status_is_understood() {
        let running = "balloon: 2147483648\nblockstat:\n\tscsi0:\n\t\tstatus: stopped\n\t\tlock: no\nname: web\nqmpstatus: running\nstatus: running\nvmid: 102\n";
        assert_eq!(sight(running), Some(Sight { state: State::Running, locked: None }));
        let backup = "lock: backup\nqmpstatus: prelaunch\nstatus: running\n";
        assert_eq!(sight(backup), Some(Sight { state: State::Other("prelaunch".into()), locked: Some("backup".into()) }));
        assert_eq!(sight("qmpstatus: stopped\nstatus: stopped\n"), Some(Sight { state: State::Off, locked: None }));
        assert_eq!(sight("qmpstatus: guest-panicked\nstatus: running\n").map(|sight| sight.state), Some(State::Panicked));
        assert_eq!(sight("status: running\n").map(|sight| sight.state), Some(State::Running));
        assert_eq!(sight("nothing\n"), None);
    }
}
