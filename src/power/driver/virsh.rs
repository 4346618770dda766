//! libvirt, through `virsh`. Its words are those of the C locale: programs are started without one.
//!
//! Formats: libvirt, tools/virsh-domain-monitor.c (`domstate`, `dominfo`) and tools/virsh-domain.c
//! (`domjobinfo`).

use super::{Driver, DriverError, Evidence, Part, Sight, State};
use crate::power::deadline::Deadline;
use crate::power::program::{self, ProgramError};
use crate::power::spool::Spool;
use std::path::Path;

/// A domain of this libvirt.
pub struct Virsh<'a> {
    pub program: &'a Path,
    pub connection: &'a str,
    pub vm: &'a str,
    pub spool: &'a Spool,
}

impl Virsh<'_> {
    fn virsh(&self, arguments: &[&str], deadline: Deadline) -> Result<Vec<u8>, DriverError> {
        let all: Vec<&str> = ["--connect", self.connection].iter().chain(arguments).copied().collect();
        program::run(self.program, &all, self.spool, deadline).map_err(told)
    }

    fn text(&self, arguments: &[&str], deadline: Deadline) -> Result<String, DriverError> {
        self.virsh(arguments, deadline).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    fn state(&self, deadline: Deadline) -> Result<State, DriverError> {
        let text = self.text(&["domstate", self.vm, "--reason"], deadline)?;
        state(&text).ok_or_else(|| DriverError::Unexpected(format!("`virsh domstate` tells no state: {text}")))
    }

    fn monitor(&self, arguments: &[&str], deadline: Deadline) -> Result<Evidence, DriverError> {
        let all: Vec<&str> = ["qemu-monitor-command", self.vm].iter().chain(arguments).copied().collect();
        self.virsh(&all, deadline).map(Evidence::Bytes)
    }

    fn written(&self, name: &str, before: &[&str], after: &[&str], deadline: Deadline) -> Result<Evidence, DriverError> {
        let path = self.spool.path(name);
        let text = path.display().to_string();
        let all: Vec<&str> = before.iter().copied().chain([self.vm, text.as_str()]).chain(after.iter().copied()).collect();
        self.virsh(&all, deadline)?;
        super::open_file(&path)
    }
}

impl Driver for Virsh<'_> {
    fn look(&self, deadline: Deadline) -> Result<Sight, DriverError> {
        let state = self.state(deadline)?;
        if state == State::Off {
            return Ok(Sight { state, locked: None });
        }
        // Not every kind of domain has jobs.
        let locked = self.text(&["domjobinfo", self.vm], deadline).ok().and_then(|text| job(&text));
        Ok(Sight { state, locked })
    }

    fn parts(&self) -> &'static [(Part, &'static str)] {
        &[
            (Part::State, "state.txt"),
            (Part::Console, "console.log"),
            (Part::Screen, "screen.png"),
            (Part::Configuration, "domain.xml"),
            (Part::Processors, "cpus.json"),
            (Part::Registers, "registers.txt"),
            (Part::Blocks, "block.json"),
            (Part::Memory, "memory.kdump"),
        ]
    }

    fn capture(&self, part: Part, deadline: Deadline) -> Result<Evidence, DriverError> {
        match part {
            Part::State => {
                let mut text = self.virsh(&["domstate", self.vm, "--reason"], deadline)?;
                text.extend(self.virsh(&["dominfo", self.vm], deadline)?);
                Ok(Evidence::Bytes(text))
            }
            Part::Configuration => self.virsh(&["dumpxml", self.vm], deadline).map(Evidence::Bytes),
            Part::Processors => self.monitor(&["--pretty", r#"{"execute":"query-cpus-fast"}"#], deadline),
            Part::Registers => self.monitor(&["--hmp", "info registers -a"], deadline),
            Part::Blocks => self.monitor(&["--pretty", r#"{"execute":"query-block"}"#], deadline),
            Part::Screen => self.written("screen", &["screenshot"], &[], deadline),
            Part::Memory => self.written("memory", &["dump"], &["--memory-only", "--live", "--format", "kdump-zlib"], deadline),
            Part::Console => Err(DriverError::Skipped("not known to libvirt")),
        }
    }

    fn can_start(&self) -> Result<(), DriverError> {
        super::executable(self.program)
    }

    fn can_start_again(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.can_start()?;
        match persistent(&self.text(&["dominfo", self.vm], deadline)?) {
            Some("yes") => Ok(()),
            Some("no") => Err(DriverError::Unexpected(
                "the domain is transient: once stopped it no longer exists; make it persistent (`virsh define`), or use reset".into(),
            )),
            _ => Err(DriverError::Unexpected("`virsh dominfo` does not tell whether the domain is persistent: it is not stopped".into())),
        }
    }

    fn reset(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.virsh(&["reset", self.vm], deadline)?;
        // A domain that was not running is not made to run by a reset.
        if self.state(deadline)? != State::Running {
            self.virsh(&["resume", self.vm], deadline)?;
        }
        Ok(())
    }

    fn stop(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.virsh(&["destroy", self.vm], deadline).map(drop)
    }

    fn start(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.virsh(&["start", self.vm], deadline).map(drop)
    }
}

/// The state in `running (booted)`.
fn state(text: &str) -> Option<State> {
    let (word, reason) = text.strip_suffix(')').and_then(|text| text.split_once(" (")).unwrap_or((text, ""));
    Some(match (word, reason) {
        ("", _) => return None,
        ("running", _) => State::Running,
        ("shut off", _) => State::Off,
        ("crashed", _) | ("paused", "crashed") => State::Panicked,
        ("paused", _) => State::Paused,
        (word, _) => State::Other(word.to_lowercase()),
    })
}

/// The word after `Persistent:` in the words of `dominfo`: `yes`, `no` or `unknown`.
fn persistent(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("Persistent:")).map(str::trim)
}

/// The job in the words of `domjobinfo`: `None`, or a type and mostly an operation.
fn job(text: &str) -> Option<String> {
    let value = |wanted: &str| text.lines().find_map(|line| line.strip_prefix(wanted)).map(|value| value.trim().to_lowercase());
    let kind = value("Job type:").filter(|kind| !matches!(kind.as_str(), "none" | "completed" | "failed" | "cancelled"))?;
    Some(value("Operation:").filter(|operation| operation != "unknown").unwrap_or(kind))
}

/// Finds a lock in virsh's words.
fn told(failure: ProgramError) -> DriverError {
    let ProgramError::Failed { words, .. } = &failure else { return DriverError::Program(failure) };
    match words.split_once("cannot acquire state change lock") {
        Some((_, after)) => {
            let holder = after.trim_start().strip_prefix("(held by ").and_then(|after| after.split(')').next());
            DriverError::Locked(holder.unwrap_or("another command of libvirt").to_owned())
        }
        None => DriverError::Program(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_understood() {
        let cases = [
            ("running (booted)", Some(State::Running)),
            ("running", Some(State::Running)),
            ("shut off (destroyed)", Some(State::Off)),
            ("paused (user)", Some(State::Paused)),
            ("paused (crashed)", Some(State::Panicked)),
            ("crashed (panicked)", Some(State::Panicked)),
            ("pmsuspended (unknown)", Some(State::Other("pmsuspended".into()))),
            ("in shutdown (unknown)", Some(State::Other("in shutdown".into()))),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(state(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_persistent_is_understood() {
        let text = |line: &str| format!("Id:             1\nName:           web\nState:          running\n{line}Autostart:      disable\n");
        for word in ["yes", "no", "unknown"] {
            assert_eq!(persistent(&text(&format!("Persistent:     {word}\n"))), Some(word));
        }
        assert_eq!(persistent(&text("")), None);
    }

    #[test]
    fn jobs_are_understood() {
        assert_eq!(job("Job type:         None"), None);
        assert_eq!(job("Job type:         Unbounded   \nOperation:        Backup      \nTime elapsed:     12 ms"), Some("backup".into()));
        assert_eq!(job("Job type:         Bounded     "), Some("bounded".into()));
    }
}
