//! The `qm` and `virsh` drivers, against stand-ins: shell scripts that keep a state in a file and say what the real ones say.
//! Their words come from qemu-server (src/PVE/CLI/qm.pm, src/PVE/QemuServer.pm) and from virsh 9.0 here; neither Proxmox nor a
//! libvirt daemon is run. The real `virsh` is asked too, with libvirt's built-in test driver, where it is installed.

use crate::stage::{Ran, Stage};
use sandglass::link::record::{Capture, Ending};
use std::process::Command;
use std::time::Duration;

const QM: &str = r#"#!/bin/sh
cd FOLDER; echo "qm $*" >>calls
running() { case "$(cat state)" in stopped) return 1;; esac; }
locked() { if [ -f lock ]; then echo "VM is locked ($(cat lock))" >&2; exit 255; fi; }
case "$1" in
  status) echo "balloon: 2147483648"; printf 'blockstat:\n\tscsi0:\n\t\trd_bytes: 3405824\n'; [ -f lock ] && [ ! -f late ] && echo "lock: $(cat lock)"
    echo "name: web"; echo "qmpstatus: $(cat state)"; if running; then echo "status: running"; else echo "status: stopped"; fi; echo "vmid: $2";;
  config) echo "cipassword: **********"; echo "memory: 2048";;
  stop) [ -f hang ] && sleep 3600; locked; echo stopped >state;;
  start) locked; if running; then echo "VM $2 already running" >&2; exit 255; fi; echo running >state;;
  reset) locked; running || { echo "VM $2 not running" >&2; exit 255; }; [ "$(cat state)" = running ] || echo prelaunch >state;;
  resume) echo running >state;;
  *) exit 1;;
esac
"#;

const PVESH: &str = r#"#!/bin/sh
cd FOLDER; echo "pvesh $1 $3 $4" >>calls
case "$2" in /nodes/*/qemu/102/monitor) ;; *) exit 1;; esac
case "$4" in
  "info registers -a") printf 'CPU#0\nRIP=ffffffff81a00000\n';;
  "info cpus") echo "* CPU #0: thread_id=4242";;
  "info block") echo "drive-scsi0: /dev/zvol/rpool/vm-102-disk-0 (raw)";;
  "screendump "*" -f png") set -- $4; printf '\211PNG\r\n\032\n' >"$2"; echo;;
esac
"#;

const VIRSH: &str = r#"#!/bin/sh
cd FOLDER; echo "virsh $*" >>calls
[ "$1 $2" = "--connect qemu:///system" ] || exit 1
shift 2
case "$1" in
  domstate) if [ -f transient ] && [ "$(cat state)" = off ]; then echo "error: failed to get domain '$2'" >&2; exit 1; fi
    case "$(cat state)" in off) echo "shut off (destroyed)";; crashed) echo "crashed (panicked)";; *) echo "$(cat state) (unknown)";; esac; echo;;
  domjobinfo) if [ -f job ]; then printf 'Job type:         Unbounded   \nOperation:        Backup      \n'; else echo "Job type:         None"; fi; echo;;
  dominfo) if [ -f transient ]; then persistent=no; else persistent=yes; fi
    printf 'Id:             1\nName:           %s\nState:          running\nPersistent:     %s\nAutostart:      disable\n\n' "$2" $persistent;;
  dumpxml) echo "<domain type='kvm' id='1'/>";;
  screenshot) printf 'P6\n2 2\n255\n' >"$3"; echo "Screenshot saved to $3, with type of image/x-portable-pixmap";;
  qemu-monitor-command) case "$3" in --hmp) echo "RIP=0";; --pretty) echo '{ "return": [] }';; esac;;
  dump) [ "$4 $5 $6 $7" = "--memory-only --live --format kdump-zlib" ] || exit 1; printf 'KDUMP   ' >"$3"; echo "Domain '$2' dumped to $3";;
  destroy) if [ -f held ]; then echo "error: Failed to destroy domain '$2'" >&2; echo "error: Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainBackupBegin)" >&2; exit 1; fi
    echo off >state; echo "Domain '$2' destroyed";;
  start) echo running >state; echo "Domain '$2' started";;
  reset) [ "$(cat state)" = running ] || echo paused >state; echo "Domain '$2' was reset";;
  resume) echo running >state; echo "Domain '$2' resumed";;
  *) exit 1;;
esac
"#;

struct StandIn {
    stage: Stage,
    options: Vec<String>,
    vm: &'static str,
}

impl StandIn {
    fn qm(name: &str, begins: &str) -> Self {
        let stage = Stage::new(name);
        std::fs::write(stage.path("state"), begins).expect("write");
        let qm = stage.program("qm", &QM.replace("FOLDER", &stage.text("")));
        let pvesh = stage.program("pvesh", &PVESH.replace("FOLDER", &stage.text("")));
        let options = ["--driver", "qm", "--vm", "102", "--qm", &qm, "--pvesh", &pvesh].map(str::to_owned).to_vec();
        Self { stage, options, vm: "102" }
    }

    fn virsh(name: &str, begins: &str) -> Self {
        let stage = Stage::new(name);
        std::fs::write(stage.path("state"), begins).expect("write");
        let virsh = stage.program("virsh", &VIRSH.replace("FOLDER", &stage.text("")));
        let options = ["--driver", "virsh", "--vm", "web", "--virsh", &virsh].map(str::to_owned).to_vec();
        Self { stage, options, vm: "web" }
    }

    fn with(self, file: &str, text: &str) -> Self {
        std::fs::write(self.stage.path(file), text).expect("write");
        self
    }

    fn ask(&self, verb: &str, more: &[&str]) -> Ran {
        let options: Vec<&str> = self.options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.stage.asked(&options, &format!("{verb} {}", self.vm))
    }

    /// What was called that changes something.
    fn acts(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.stage.path("calls")).unwrap_or_default().replace("--connect qemu:///system ", "");
        let acts = ["stop", "start", "reset", "resume", "destroy", "unlock"];
        let lines = calls.lines().filter(|line| line.split(' ').nth(1).is_some_and(|word| acts.contains(&word)));
        lines.map(str::to_owned).collect()
    }
}

#[test]
fn proxmox_cycles() {
    let qm = StandIn::qm("qm-cycle", "guest-panicked");
    let ran = qm.ask("cycle", &["--memory-dump"]);
    assert_eq!((ran.code, ran.outcome().state), (0, Ending::Succeeded), "{:?}", ran.outcome());
    assert_eq!((ran.outcome().before.as_deref(), ran.outcome().after.as_deref()), (Some("panicked"), Some("running")));
    assert_eq!(qm.acts(), ["qm stop 102", "qm start 102"]);
    assert!(ran.bytes("screen.png").starts_with(b"\x89PNG"));
    assert!(ran.text("registers.txt").contains("RIP=") && ran.text("cpus.txt").contains("thread_id"));
    assert!(ran.text("config.txt").contains("cipassword: **********") && ran.text("block.txt").contains("scsi0"));
    assert_eq!(ran.item("memory.kdump").outcome, Capture::Skipped);
    qm.stage.assert_nothing_left();
}

#[test]
fn proxmox_resets_what_is_paused() {
    let qm = StandIn::qm("qm-reset", "paused");
    let ran = qm.ask("reset", &[]);
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (0, Some("running")), "{:?}", ran.outcome());
    assert_eq!(qm.acts(), ["qm reset 102", "qm resume 102"]);
    let off = StandIn::qm("qm-off", "stopped");
    assert_eq!((off.ask("status", &[]).code, off.ask("start", &[]).code, off.ask("status", &[]).code), (2, 0, 0));
}

#[test]
fn a_lock_of_proxmox_is_respected() {
    let seen = StandIn::qm("qm-locked", "running").with("lock", "backup");
    // The lock that comes between the look and the act is told by qm itself.
    let late = StandIn::qm("qm-locked-late", "running").with("lock", "backup").with("late", "");
    for (qm, acts) in [(&seen, 0), (&late, 1)] {
        let ran = qm.ask("cycle", &[]);
        assert_eq!((ran.code, ran.outcome().state), (1, Ending::Failed));
        assert_eq!(ran.outcome().locked.as_deref(), Some("backup"), "{:?}", ran.outcome());
        assert_eq!(ran.outcome().after.as_deref(), Some("running"));
        assert_eq!(qm.acts().len(), acts, "{:?}", qm.acts());
        let calls = std::fs::read_to_string(qm.stage.path("calls")).expect("read");
        assert!(!calls.contains("skiplock") && !calls.contains("unlock"));
    }
    assert_eq!(seen.ask("status", &[]).outcome().locked.as_deref(), Some("backup"));
}

#[test]
fn a_program_that_hangs_is_given_up_in_time() {
    let qm = StandIn::qm("qm-hang", "running").with("hang", "");
    let ran = qm.ask("stop", &["--verify-seconds", "1"]);
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (1, Some("running")));
    assert!(ran.outcome().message.contains("was not done in time and was killed"), "{:?}", ran.outcome());
    assert!(ran.took < Duration::from_secs(20), "{:?}", ran.took);
    // One that always hangs: each item takes its limit, all of them no more than the bundle's.
    let options = qm.stage.program("qm", "#!/bin/sh\nsleep 3600\n");
    let pvesh = qm.stage.program("pvesh", "#!/bin/sh\nsleep 3600\n");
    let limits = ["--qm", &options, "--pvesh", &pvesh, "--item-seconds", "1", "--capture-seconds", "3", "--verify-seconds", "1"];
    let ran = qm.ask("cycle", &limits);
    assert_eq!((ran.code, ran.outcome().before.as_deref()), (1, Some("unknown")));
    let last = ran.item("block.txt");
    assert_eq!((last.outcome, last.milliseconds < 100), (Capture::TimedOut, true), "{last:?}");
    assert!(ran.took < Duration::from_secs(12), "{:?}", ran.took);
}

#[test]
fn libvirt_cycles() {
    let virsh = StandIn::virsh("virsh-cycle", "crashed");
    let ran = virsh.ask("cycle", &["--memory-dump"]);
    assert_eq!((ran.code, ran.outcome().state), (0, Ending::Succeeded), "{:?}", ran.outcome());
    assert_eq!((ran.outcome().before.as_deref(), ran.outcome().after.as_deref()), (Some("panicked"), Some("running")));
    assert_eq!(virsh.acts(), ["virsh destroy web", "virsh start web"]);
    assert_eq!((ran.bytes("screen.ppm"), ran.text("memory.kdump")), (b"P6\n2 2\n255\n".to_vec(), "KDUMP   ".to_owned()));
    assert!(ran.text("state.txt").starts_with("crashed (panicked)") && ran.text("domain.xml").contains("<domain"));
    assert_eq!(ran.text("registers.txt"), "RIP=0\n");
    virsh.stage.assert_nothing_left();
    let crashed = StandIn::virsh("virsh-reset", "crashed");
    assert_eq!(crashed.ask("reset", &[]).outcome().after.as_deref(), Some("running"));
    assert_eq!(crashed.acts(), ["virsh reset web", "virsh resume web"]);
}

#[test]
fn what_is_gone_once_stopped_is_not_cycled() {
    let virsh = StandIn::virsh("virsh-transient", "running").with("transient", "");
    let ran = virsh.ask("cycle", &[]);
    assert_eq!((ran.code, ran.outcome().state, ran.outcome().after.as_deref()), (1, Ending::Failed, Some("running")));
    assert!(ran.outcome().message.starts_with("the domain is transient: once stopped it no longer exists"), "{:?}", ran.outcome());
    assert_eq!((virsh.acts(), ran.parsed.len()), (vec![], 1), "nothing is captured and nothing done: {:?}", ran.parsed);
    let options: Vec<&str> = virsh.options.iter().map(String::as_str).collect();
    let (code, text) = virsh.stage.check(&options);
    assert!(code == 1 && text.starts_with("web: the domain is transient"), "{text}");
    let narrowed = virsh.stage.check(&[options.as_slice(), &["--verbs", "stop,start"]].concat());
    assert_eq!(narrowed, (0, "web: ok, running, no console configured\n".to_owned()));
    // Nobody can tell a domain that is gone from one that never was.
    let ran = virsh.ask("stop", &["--verify-seconds", "5"]);
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (1, Some("unknown")), "{:?}", ran.outcome());
    assert_eq!(virsh.acts(), ["virsh destroy web"]);
}

#[test]
fn a_job_of_libvirt_is_respected() {
    let job = StandIn::virsh("virsh-job", "running").with("job", "");
    let ran = job.ask("stop", &[]);
    assert_eq!((ran.code, ran.outcome().locked.as_deref(), job.acts().len()), (1, Some("backup"), 0));
    let held = StandIn::virsh("virsh-held", "running").with("held", "");
    let ran = held.ask("stop", &[]);
    assert_eq!((ran.code, ran.outcome().locked.as_deref()), (1, Some("monitor=remoteDispatchDomainBackupBegin")));
}

#[test]
fn the_real_virsh_is_understood() {
    if Command::new("virsh").arg("--version").output().is_err() {
        eprintln!("skipped: virsh is not installed");
        return;
    }
    // Its domains begin anew with each process: what was stopped runs again, and that is noticed.
    let stage = Stage::new("virsh-real");
    let options = ["--driver", "virsh", "--vm", "test", "--vm", "other", "--connect", "test:///default", "--verify-seconds", "8"];
    assert_eq!(stage.asked(&options, "status test").outcome().after.as_deref(), Some("running"));
    let ran = stage.asked(&options, "stop test");
    assert_eq!((ran.code, ran.outcome().state), (1, Ending::Failed));
    assert!(ran.outcome().message.contains("it should be off after 8 s and is running"), "{:?}", ran.outcome());
    assert!(ran.bytes("screen.png").starts_with(b"\x89PNG"));
    assert!(ran.text("domain.xml").contains("<name>test</name>") && ran.text("state.txt").contains("Persistent:"));
    assert_eq!(ran.item("registers.txt").outcome, Capture::Failed);
    // Persistent, so a cycle goes as far as the stop.
    let ran = stage.asked(&options, "cycle test");
    assert!(ran.outcome().message.contains("it should be off after 8 s and is running"), "{:?}", ran.outcome());
    assert_eq!(stage.asked(&options, "reset test").outcome().state, Ending::Succeeded);
    let ran = stage.asked(&options, "status other");
    assert_eq!((ran.code, ran.outcome().after.as_deref()), (1, Some("unknown")));
    assert!(ran.outcome().message.contains("failed to get domain 'other'"), "{:?}", ran.outcome());
}
