//! The QMP driver, against a pretended QEMU and a real one.

use crate::pretended_qemu::PretendedQemu;
use crate::stage::{Ran, Stage, wait_for};
use sandglass::link::record::{Capture, Ending};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

fn ask(stage: &Stage, qemu: &PretendedQemu, more: &[&str], verb: &str) -> Ran {
    let vm = format!("vm-1={}", qemu.socket);
    let options: Vec<&str> = ["--driver", "qmp", "--vm", &vm].iter().chain(more).copied().collect();
    stage.asked(&options, &format!("{verb} vm-1"))
}

/// A start program that the pretended QEMU waits for.
fn start_program(stage: &Stage) -> String {
    format!("vm-1={}", stage.program("start", &format!("#!/bin/sh\necho \"started $#: $1\"\n: >{}\n", stage.text("started"))))
}

#[test]
fn status_tells_the_state_between_events() {
    for (status, word) in [("running", "running"), ("guest-panicked", "panicked"), ("paused", "paused"), ("io-error", "io-error")] {
        let stage = Stage::new(&format!("status-{status}"));
        let qemu = PretendedQemu::start(&stage, status);
        let ran = ask(&stage, &qemu, &[], "status");
        assert_eq!((ran.code, ran.outcome().state), (0, Ending::Succeeded));
        assert_eq!((ran.outcome().before.as_deref(), ran.outcome().after.as_deref()), (Some(word), Some(word)));
    }
}

#[test]
fn a_qemu_that_is_gone_is_off() {
    let stage = Stage::new("gone");
    let missing = PretendedQemu { seen: std::sync::Arc::default(), socket: stage.text("nothing.sock") };
    let ran = ask(&stage, &missing, &[], "status");
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (2, Some("off")));
    // After SIGKILL the file stays, and refuses.
    drop(std::os::unix::net::UnixListener::bind(stage.text("left.sock")).expect("bind"));
    let left = PretendedQemu { seen: std::sync::Arc::default(), socket: stage.text("left.sock") };
    let ran = ask(&stage, &left, &[], "status");
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (2, Some("off")));
    assert_eq!(ask(&stage, &left, &[], "reset").outcome().message, "the VM is off: use start");
}

#[test]
fn a_reset_of_a_paused_vm_lets_it_run() {
    let stage = Stage::new("paused");
    let qemu = PretendedQemu::start(&stage, "paused");
    let ran = ask(&stage, &qemu, &[], "reset");
    assert_eq!((ran.code, ran.outcome().state), (0, Ending::Succeeded), "{:?}", ran.outcome());
    assert_eq!((ran.outcome().before.as_deref(), ran.outcome().after.as_deref()), (Some("paused"), Some("running")));
    assert_eq!(ran.text("registers.txt"), "RIP=ffffffff HLT=1\r\n");
    assert_eq!((ran.item("memory.kdump").outcome, ran.item("console.log").outcome), (Capture::Skipped, Capture::Skipped));
    assert_eq!(ran.item("screen.png").outcome, Capture::Failed);
    let acts: Vec<String> = qemu.commands().into_iter().rev().take(2).collect();
    assert_eq!(acts, ["cont", "system_reset"]);
    stage.assert_nothing_left();
}

#[test]
fn a_silent_socket_costs_one_limit_and_no_start() {
    let stage = Stage::new("silent");
    let qemu = PretendedQemu::silent(&stage);
    let start = start_program(&stage);
    let ran = ask(&stage, &qemu, &["--item-seconds", "1", "--verify-seconds", "1", "--start", &start], "cycle");
    assert_eq!((ran.code, ran.outcome().state), (1, Ending::Failed));
    assert!(ran.outcome().message.contains("QEMU does not answer"), "{:?}", ran.outcome());
    assert_eq!((ran.item("state.json").outcome, ran.item("cpus.json").outcome), (Capture::TimedOut, Capture::Skipped));
    assert!(!stage.path("started").exists(), "a second QEMU on the same disk");
    assert!(ran.took < Duration::from_secs(20), "{:?}", ran.took);
}

#[test]
fn while_another_client_is_connected_there_is_no_greeting() {
    let stage = Stage::new("second");
    let qemu = PretendedQemu::start(&stage, "running");
    let first = UnixStream::connect(&qemu.socket).expect("connect");
    let ran = ask(&stage, &qemu, &["--item-seconds", "1"], "status");
    assert_eq!(ran.code, 1);
    assert!(ran.outcome().message.contains("another client is connected"), "{:?}", ran.outcome());
    drop(first);
    assert_eq!(ask(&stage, &qemu, &[], "status").code, 0);
}

#[test]
fn a_cycle_stops_and_starts() {
    let stage = Stage::new("cycle");
    let qemu = PretendedQemu::start(&stage, "guest-panicked");
    std::fs::write(stage.path("console"), "Kernel panic - not syncing").expect("write");
    let console = format!("vm-1={}", stage.text("console"));
    let ran = ask(&stage, &qemu, &["--start", &start_program(&stage), "--console", &console], "cycle");
    assert_eq!((ran.code, ran.outcome().state), (0, Ending::Succeeded), "{:?}", ran.outcome());
    assert_eq!((ran.outcome().before.as_deref(), ran.outcome().after.as_deref()), (Some("panicked"), Some("running")));
    assert_eq!(ran.text("console.log"), "Kernel panic - not syncing");
    let log = stage.path(&format!("sandglass-power-{}/vm-1.start.log", crate::stage::user()));
    assert_eq!(std::fs::read_to_string(log).expect("read"), "started 1: vm-1\n");
    stage.assert_nothing_left();
}

#[test]
fn what_cannot_be_started_is_not_stopped() {
    let stage = Stage::new("unstartable");
    let qemu = PretendedQemu::start(&stage, "running");
    let ran = ask(&stage, &qemu, &[], "cycle");
    assert_eq!((ran.code, ran.outcome().message.as_str()), (1, "no --start program is configured for this VM"));
    assert_eq!(qemu.commands(), Vec::<String>::new());
}

#[test]
fn a_start_program_that_hangs_is_killed() {
    let stage = Stage::new("hanging-start");
    let missing = PretendedQemu { seen: std::sync::Arc::default(), socket: stage.text("nothing.sock") };
    let start = format!("vm-1={}", stage.program("start", "#!/bin/sh\nsleep 3600\n"));
    let ran = ask(&stage, &missing, &["--start", &start, "--verify-seconds", "1"], "start");
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (1, Some("off")));
    assert!(ran.outcome().message.contains("was not done in time and was killed"), "{:?}", ran.outcome());
    assert!(ran.took < Duration::from_secs(20), "{:?}", ran.took);
}

/// What is started stays for as long as the VM: nothing of the mask that protects a verb may go with it.
#[test]
fn a_start_program_has_no_signal_blocked() {
    let stage = Stage::new("mask");
    let missing = PretendedQemu { seen: std::sync::Arc::default(), socket: stage.text("nothing.sock") };
    let script = format!("#!/bin/sh\nexec grep SigBlk /proc/self/status >{}\n", stage.text("mask"));
    let start = format!("vm-1={}", stage.program("start", &script));
    ask(&stage, &missing, &["--start", &start, "--verify-seconds", "5"], "start");
    assert_eq!(std::fs::read_to_string(stage.path("mask")).expect("read"), "SigBlk:\t0000000000000000\n");
}

#[test]
fn check_tells_each_vm() {
    let stage = Stage::new("check");
    let qemu = PretendedQemu::start(&stage, "running");
    let vm = format!("vm-1={}", qemu.socket);
    let options = ["--driver", "qmp", "--vm", &vm, "--vm", "vm-2=/nowhere/qmp.sock", "--start", &start_program(&stage)];
    let (code, text) = stage.check(&options);
    assert_eq!(
        (code, text.as_str()),
        (1, "vm-1: ok, running, no console configured\nvm-2: no --start program is configured for this VM\n")
    );
    let (code, text) = stage.check(&["--driver", "qmp", "--vm", &vm, "--verbs", "status"]);
    assert_eq!((code, text.as_str()), (0, "vm-1: ok, running, no console configured\n"));
}

/// A real QEMU with nothing in it but its firmware; killed at the end by the id it wrote itself.
struct RealQemu<'a>(&'a Stage);

impl Drop for RealQemu<'_> {
    fn drop(&mut self) {
        if let Ok(id) = std::fs::read_to_string(self.0.path("pid")) {
            let _ = Command::new("kill").args(["-9", id.trim()]).status();
        }
    }
}

#[test]
fn a_real_qemu_is_captured_reset_and_cycled() {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        eprintln!("skipped: qemu-system-x86_64 is not installed");
        return;
    }
    let stage = Stage::new("real");
    let _qemu = RealQemu(&stage);
    let socket = stage.text("qmp.sock");
    let program = format!(
        "#!/bin/sh\nexec qemu-system-x86_64 -M q35 -accel tcg -m 64 -smp 2 -nodefaults -no-user-config -display none -vga std \
         -device pvpanic-pci -action panic=pause -serial file:{} -pidfile {} -daemonize -qmp unix:{socket},server=on,wait=off\n",
        stage.text("console"),
        stage.text("pid"),
    );
    let start = format!("vm-1={}", stage.program("start", &program));
    let console = format!("vm-1={}", stage.text("console"));
    let qemu = PretendedQemu { seen: std::sync::Arc::default(), socket };
    let more = ["--start", start.as_str(), "--console", &console, "--memory-dump"];

    let ran = ask(&stage, &qemu, &more, "start");
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (0, Some("running")), "{:?}", ran.outcome());
    let ran = ask(&stage, &qemu, &more, "forensics");
    assert_eq!((ran.code, ran.outcome().state), (0, Ending::Succeeded), "{:?}", ran.outcome());
    assert!(ran.bytes("screen.png").starts_with(b"\x89PNG\r\n\x1a\n"));
    assert!(ran.text("registers.txt").contains("CPU#1"), "both processors");
    assert!(ran.text("cpus.json").contains("thread-id"));
    assert!(ran.text("state.json").contains("\"running\""));
    let dump = ran.bytes("memory.kdump");
    assert!(dump.starts_with(b"makedumpfile"), "{:?}", dump.get(..16));
    ran.bytes("console.log");

    monitor(&qemu.socket, "stop");
    assert_eq!(ask(&stage, &qemu, &more, "status").outcome().after.as_deref(), Some("paused"));
    let ran = ask(&stage, &qemu, &more[..4], "reset");
    assert_eq!((ran.code, ran.outcome().before.as_deref()), (0, Some("paused")), "{:?}", ran.outcome());
    let before = std::fs::read_to_string(stage.path("pid")).expect("read");
    let ran = ask(&stage, &qemu, &more[..4], "cycle");
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (0, Some("running")), "{:?}", ran.outcome());
    assert_ne!(std::fs::read_to_string(stage.path("pid")).expect("read"), before, "another process");
    let ran = ask(&stage, &qemu, &more[..4], "stop");
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (0, Some("off")), "{:?}", ran.outcome());
    assert_eq!(ask(&stage, &qemu, &more, "status").code, 2);
    wait_for("the process to be gone", || !stage.path("pid").exists());
    stage.assert_nothing_left();
}

/// One command by another client, which then goes.
fn monitor(socket: &str, command: &str) {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = UnixStream::connect(socket).expect("connect");
    let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
    lines.next().expect("a greeting").expect("a greeting");
    for (id, command) in [(1, "qmp_capabilities"), (2, command)] {
        writeln!(stream, "{{\"execute\":\"{command}\",\"id\":{id}}}").expect("write");
        assert!(lines.any(|line| line.expect("a line").contains(&format!("\"id\": {id}"))));
    }
}
