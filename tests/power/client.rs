//! Clients that go away, read nothing, or come at the same time.

use crate::pretended_qemu::PretendedQemu;
use crate::stage::{Stage, line};
use sandglass::link::record::{Ending, Parsed};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn options(stage: &Stage, qemu: &PretendedQemu) -> Vec<String> {
    let start = stage.program("start", &format!("#!/bin/sh\n: >{}\n", stage.text("started")));
    std::fs::write(stage.path("console"), vec![b'x'; 256 * 1024]).expect("write");
    let vm = format!("vm-1={}", qemu.socket);
    let (start, console) = (format!("vm-1={start}"), format!("vm-1={}", stage.text("console")));
    ["--driver", "qmp", "--vm", &vm, "--start", &start, "--console", &console].map(str::to_owned).to_vec()
}

#[test]
fn a_cycle_goes_through_when_its_client_is_gone() {
    let stage = Stage::new("vanished");
    let log = stage.log();
    let qemu = PretendedQemu::start(&stage, "running");
    let options = options(&stage, &qemu);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut child = stage.command(&options, "cycle vm-1").stdout(Stdio::piped()).spawn().expect("spawn");
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut first).expect("a line");
    assert!(first.contains("\"progress\""), "{first}");
    drop(stdout);
    for signal in ["-HUP", "-TERM"] {
        Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
    }
    assert_eq!(child.wait().expect("wait").code(), Some(0), "it ends by itself");
    assert_eq!(qemu.seen.lock().expect("lock").status, "running");
    assert!(qemu.commands().contains(&"quit".to_owned()), "{:?}", qemu.commands());
    assert!(line(&log).contains("client=192.0.2.7 begins verb=cycle vm=vm-1"));
    assert!(line(&log).contains("Succeeded verb=cycle vm=vm-1 before=running after=running"));
    stage.assert_nothing_left();
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_it_up() {
    let stage = Stage::new("stuck");
    let qemu = PretendedQemu::start(&stage, "running");
    let options = options(&stage, &qemu);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let began = Instant::now();
    let mut child = stage.command(&options, "cycle vm-1").stdout(Stdio::piped()).spawn().expect("spawn");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(qemu.commands().contains(&"quit".to_owned()));
    assert_eq!(qemu.seen.lock().expect("lock").status, "running");
}

#[test]
fn a_second_verb_on_the_same_vm_is_refused_when_it_has_waited() {
    let stage = Stage::new("busy");
    let qemu = PretendedQemu::silent(&stage);
    let vm = format!("vm-1={}", qemu.socket);
    let options = ["--driver", "qmp", "--vm", &vm, "--item-seconds", "5"];
    let mut first = stage.command(&options, "stop vm-1").stdout(Stdio::piped()).spawn().expect("spawn");
    let lock = stage.path(&format!("sandglass-power-{}/vm-1.lock", crate::stage::user()));
    crate::stage::wait_for("the lock", || std::fs::read_to_string(&lock).is_ok_and(|text| text.starts_with("stop since ")));
    let second = stage.asked(&[&options[..4], &["--item-seconds", "1"]].concat(), "cycle vm-1");
    assert!(second.took >= Duration::from_secs(1), "{:?}", second.took);
    assert_eq!((second.code, second.outcome().state), (1, Ending::Refused));
    assert!(second.outcome().message.contains("another verb is being carried out on this VM: stop since 20"), "{:?}", second.outcome());
    first.kill().expect("kill");
    first.wait().expect("wait");
}

#[test]
fn a_second_verb_waits_for_one_that_ends_soon() {
    let stage = Stage::new("waits");
    let qemu = PretendedQemu::start(&stage, "running");
    let options = options(&stage, &qemu);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    // While another client is connected QEMU says nothing: the first verb takes its whole limit.
    let client = UnixStream::connect(&qemu.socket).expect("connect");
    let hangs = [options.as_slice(), &["--item-seconds", "3"]].concat();
    let mut first = stage.command(&hangs, "status vm-1").stdout(Stdio::null()).spawn().expect("spawn");
    let lock = stage.path(&format!("sandglass-power-{}/vm-1.lock", crate::stage::user()));
    crate::stage::wait_for("the lock", || std::fs::read_to_string(&lock).is_ok_and(|text| text.starts_with("status since ")));
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| stage.asked(&options, "cycle vm-1"));
        assert_eq!(first.wait().expect("wait").code(), Some(1), "it has seen nothing");
        drop(client);
        second.join().expect("joins")
    });
    assert_eq!((second.code, second.outcome().state), (0, Ending::Succeeded), "{:?}", second.outcome());
    let first = second.parsed.first();
    let waits = matches!(first, Some(Parsed::Progress(words)) if words.starts_with("waiting for another verb on this VM: status since 20"));
    assert!(waits, "{first:?}");
    assert!(qemu.commands().contains(&"quit".to_owned()), "{:?}", qemu.commands());
}
