//! Tests of `sandglass-power` as sshd and a person start it: the program itself, against a pretended QEMU, a real one where it is
//! installed, and stand-ins for `qm` and `virsh`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "power/client.rs"]
mod client;
#[path = "power/pretended_qemu.rs"]
mod pretended_qemu;
#[path = "power/programs.rs"]
mod programs;
#[path = "power/qemu.rs"]
mod qemu;
#[path = "power/stage.rs"]
mod stage;

use sandglass::link::record::{Ending, Parsed};
use stage::Stage;

#[test]
fn what_is_not_two_allowed_words_is_refused_and_logged() {
    let stage = Stage::new("refused");
    let log = stage.log();
    let options = ["--driver", "qm", "--vm", "102", "--verbs", "status,stop"];
    for asked in ["", "status", "status 103", "stop 102; reboot", "status $(reboot)", "cycle 102", "sh", "status 102 now", "status 102\n"] {
        let ran = stage.asked(&options, asked);
        assert_eq!(ran.code, 1, "{asked}");
        assert_eq!(ran.parsed.len(), 1, "one line: {:?}", ran.parsed);
        let outcome = ran.outcome();
        assert_eq!((outcome.state, &outcome.verb, &outcome.before), (Ending::Refused, &None, &None), "{asked}: {outcome:?}");
        let line = stage::line(&log);
        assert!(line.starts_with("<36>") && line.contains("refused request=") && !line.contains('\n'), "{line}");
        assert!(stage::line(&log).contains("Refused verb=- vm=-"), "{asked}");
    }
}

#[test]
fn a_mistake_in_the_options_is_told_to_the_client() {
    let stage = Stage::new("mistake");
    let ran = stage.asked(&["--driver", "qm", "--vm", "102", "--skip", "lock"], "status 102");
    assert_eq!((ran.code, ran.outcome().state), (1, Ending::Refused));
    assert!(ran.outcome().message.contains("there is no option --skip"), "{:?}", ran.outcome());
    let ran = stage.asked(&["--driver", "qm", "--vm", "102", "stop", "102"], "status 102");
    assert!(ran.outcome().message.contains("names no verb"), "{:?}", ran.outcome());
}

#[test]
fn by_hand_the_words_come_from_the_command_line() {
    let stage = Stage::new("hand");
    let ran = stage.by_hand(&["--driver", "qm", "--vm", "102", "status", "103"]);
    assert_eq!((ran.code, ran.outcome().message.as_str()), (1, "that VM is not one of those allowed here"));
    let help = Stage::usage();
    assert!(help.contains("restrict,command=\"/usr/local/bin/sandglass-power --driver qm --vm 102\""), "{help}");
}

#[test]
fn what_others_can_enter_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new("spool");
    let folder = stage.path(&format!("sandglass-power-{}", stage::user()));
    std::fs::create_dir(&folder).expect("create");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("permissions");
    let ran = stage.asked(&["--driver", "qm", "--vm", "102"], "status 102");
    assert_eq!((ran.code, ran.outcome().state), (1, Ending::Failed));
    assert!(ran.outcome().message.contains("only this user can enter"), "{:?}", ran.outcome());
    assert!(!ran.parsed.iter().any(|parsed| matches!(parsed, Parsed::Item(_))));
}
