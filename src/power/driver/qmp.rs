//! QEMU without anything around it: its QMP socket, and a program that starts it. Every capture is a conversation of its own, so
//! that one that hangs does not take the next one along. Files are opened here and sent to QEMU open: it may run as another user.

use super::{Driver, DriverError, Evidence, Part, Sight, State};
use crate::power::deadline::Deadline;
use crate::power::options::Machine;
use crate::power::program;
use crate::power::qmp::{Qmp, QmpError, gone};
use crate::power::spool::Spool;
use serde_json::{Value, json};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// How long QEMU may take to carry out a reset.
const RESET_LIMIT: Duration = Duration::from_secs(5);
/// How long QEMU's process may outlive its socket: it closes its disks.
const EXIT_LIMIT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// A VM behind a QMP socket.
pub struct Monitor<'a> {
    vm: &'a str,
    machine: &'a Machine,
    spool: &'a Spool,
    /// QEMU gave no greeting: asked for each further item, it would take the time of all.
    silent: Cell<bool>,
}

impl<'a> Monitor<'a> {
    pub const fn new(vm: &'a str, machine: &'a Machine, spool: &'a Spool) -> Self {
        Self { vm, machine, spool, silent: Cell::new(false) }
    }

    fn connect(&self, deadline: Deadline) -> Result<Qmp, DriverError> {
        let socket = self.machine.socket.as_deref().unwrap_or(Path::new("/"));
        Qmp::connect(socket, deadline).map_err(DriverError::Qmp)
    }

    fn ask(&self, command: &str, arguments: &Value, deadline: Deadline) -> Result<Value, DriverError> {
        self.connect(deadline)?.execute(command, arguments, deadline).map_err(DriverError::Qmp)
    }

    fn ask_for_json(&self, command: &str, deadline: Deadline) -> Result<Evidence, DriverError> {
        let answer = self.ask(command, &json!({}), deadline)?;
        Ok(Evidence::Bytes(format!("{answer:#}\n").into_bytes()))
    }

    fn registers(&self, deadline: Deadline) -> Result<Evidence, DriverError> {
        let answer = self.ask("human-monitor-command", &json!({"command-line": "info registers -a"}), deadline)?;
        let text = answer.as_str().ok_or_else(|| DriverError::Unexpected("QEMU's registers are not text".into()))?;
        Ok(Evidence::Bytes(text.as_bytes().to_vec()))
    }

    fn screen(&self, deadline: Deadline) -> Result<Evidence, DriverError> {
        let (written, read) = self.spool.nameless().map_err(|source| DriverError::File { doing: "make a file", source })?;
        let mut qmp = self.connect(deadline)?;
        let set = qmp.execute_with_file("add-fd", &json!({}), written.as_fd(), deadline).map_err(DriverError::Qmp)?;
        let name = format!("/dev/fdset/{}", set.get("fdset-id").and_then(Value::as_u64).unwrap_or_default());
        let taken = qmp.execute("screendump", &json!({"filename": name, "format": "png"}), deadline);
        match taken {
            // QEMU before 7.1 knows no other format than PPM.
            Err(QmpError::Refused { words, .. }) if words.contains("'format'") => {
                qmp.execute("screendump", &json!({"filename": name}), deadline).map_err(DriverError::Qmp)?
            }
            taken => taken.map_err(DriverError::Qmp)?,
        };
        Ok(Evidence::File(read))
    }

    /// In the background of QEMU, which goes on answering: a dump that takes too long does not stop what comes next.
    fn memory(&self, deadline: Deadline) -> Result<Evidence, DriverError> {
        let (written, read) = self.spool.nameless().map_err(|source| DriverError::File { doing: "make a file", source })?;
        let mut qmp = self.connect(deadline)?;
        qmp.execute_with_file("getfd", &json!({"fdname": "memory"}), written.as_fd(), deadline).map_err(DriverError::Qmp)?;
        let arguments = json!({"paging": false, "protocol": "fd:memory", "format": "kdump-zlib", "detach": true});
        qmp.execute("dump-guest-memory", &arguments, deadline).map_err(DriverError::Qmp)?;
        let event = qmp.event("DUMP_COMPLETED", deadline).map_err(DriverError::Qmp)?;
        if event.pointer("/data/result/status").and_then(Value::as_str) == Some("completed") {
            return Ok(Evidence::File(read));
        }
        let words = event.pointer("/data/error").and_then(Value::as_str).unwrap_or("without a word");
        Err(DriverError::Unexpected(format!("QEMU's memory dump failed: {words}")))
    }

    fn is_off(&self, deadline: Deadline) -> bool {
        matches!(self.connect(deadline), Err(DriverError::Qmp(QmpError::Off(_))))
    }
}

impl Driver for Monitor<'_> {
    fn look(&self, deadline: Deadline) -> Result<Sight, DriverError> {
        let state = match self.ask("query-status", &json!({}), deadline) {
            Err(DriverError::Qmp(QmpError::Off(_))) => State::Off,
            answer => {
                let answer = answer?;
                let word = answer.get("status").and_then(Value::as_str);
                State::of_qemu(word.ok_or_else(|| DriverError::Unexpected("QEMU's status is not understood".into()))?)
            }
        };
        Ok(Sight { state, locked: None })
    }

    fn parts(&self) -> &'static [(Part, &'static str)] {
        &[
            (Part::State, "state.json"),
            (Part::Console, "console.log"),
            (Part::Screen, "screen.png"),
            (Part::Processors, "cpus.json"),
            (Part::Registers, "registers.txt"),
            (Part::Blocks, "block.json"),
            (Part::Memory, "memory.kdump"),
        ]
    }

    fn capture(&self, part: Part, deadline: Deadline) -> Result<Evidence, DriverError> {
        if self.silent.get() {
            return Err(DriverError::Skipped("QEMU does not answer"));
        }
        let captured = match part {
            Part::State => self.ask_for_json("query-status", deadline),
            Part::Processors => self.ask_for_json("query-cpus-fast", deadline),
            Part::Blocks => self.ask_for_json("query-block", deadline),
            Part::Registers => self.registers(deadline),
            Part::Screen => self.screen(deadline),
            Part::Memory => self.memory(deadline),
            Part::Configuration | Part::Console => Err(DriverError::Skipped("not known to QEMU")),
        };
        self.silent.set(matches!(captured, Err(DriverError::Qmp(QmpError::Silent(_)))));
        captured
    }

    fn can_start(&self) -> Result<(), DriverError> {
        match &self.machine.start {
            Some(program) => super::executable(program),
            None => Err(DriverError::Unexpected("no --start program is configured for this VM".into())),
        }
    }

    fn can_start_again(&self, _: Deadline) -> Result<(), DriverError> {
        // What its start program needs is not known here.
        self.can_start()
    }

    fn reset(&self, deadline: Deadline) -> Result<(), DriverError> {
        let mut qmp = self.connect(deadline)?;
        qmp.execute("system_reset", &json!({}), deadline).map_err(DriverError::Qmp)?;
        // The answer says that it was asked for, the event that it was done. An old QEMU may not tell.
        let soon = Deadline::after(RESET_LIMIT).min(deadline);
        match qmp.event("RESET", soon) {
            Ok(_) | Err(QmpError::TimedOut(_)) => {}
            Err(QmpError::Closed(_)) => {
                return Err(DriverError::Unexpected("QEMU ended at the reset (it was started with -no-reboot): use start".into()));
            }
            Err(failure) => return Err(DriverError::Qmp(failure)),
        }
        let status = qmp.execute("query-status", &json!({}), deadline).map_err(DriverError::Qmp)?;
        if status.get("status").and_then(Value::as_str) != Some("running") {
            qmp.execute("cont", &json!({}), deadline).map_err(DriverError::Qmp)?;
        }
        Ok(())
    }

    fn stop(&self, deadline: Deadline) -> Result<(), DriverError> {
        let mut qmp = self.connect(deadline)?;
        let process = qmp.peer();
        match qmp.execute("quit", &json!({}), deadline) {
            // It may be gone before its answer is read.
            Ok(_) | Err(QmpError::Closed(_)) => {}
            Err(failure) => return Err(DriverError::Qmp(failure)),
        }
        drop(qmp);
        while !self.is_off(Deadline::after(TICK).min(deadline)) {
            if !deadline.pause(TICK) {
                return Err(DriverError::Unexpected("QEMU still listens after it was told to quit".into()));
            }
        }
        if let Some(process) = process {
            // Best effort: who listens need not be QEMU itself.
            let _ = gone(&process, deadline.left().unwrap_or_default().min(EXIT_LIMIT));
        }
        Ok(())
    }

    fn start(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.can_start()?;
        if !self.is_off(Deadline::after(RESET_LIMIT).min(deadline)) {
            return Err(DriverError::Unexpected("QEMU still listens on its socket: a second one is not started".into()));
        }
        let program = self.machine.start.as_deref().unwrap_or(Path::new("/"));
        program::launch(program, self.vm, self.spool, deadline).map_err(DriverError::Program)
    }
}
