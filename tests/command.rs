//! The command line: every mistake is one line that names what is wrong, and nothing is begun.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::process::{Command, Output};

fn sandglass(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sandglass")).args(arguments).output().expect("ran")
}

#[test]
fn mistakes_are_one_line_that_names_them() {
    for (arguments, named) in [
        (&["gateway", "--ssh", "x"][..], "--ssh"),
        (&["gateway", "--advertise", "10.0.0.1:8443"], "--advertise"),
        (&["controller", "--health"], "--health"),
        (&["nonsense"], "nonsense"),
        (&["config", "check"], "FILE"),
        (&["config", "check", "/does/not/exist"], "/does/not/exist"),
        (&["gateway", "--config", "/does/not/exist"], "/does/not/exist"),
    ] {
        let output = sandglass(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        assert!(said.starts_with("sandglass: ") && said.contains(named), "{arguments:?}: {said}");
    }
}

#[test]
fn a_bad_configuration_names_its_field() {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), "gateway: { host: h }\nsessions: { agentImage: i, ttlCap: 25h }\nrecording: { mode: Off }\n")
        .expect("written");
    let output = sandglass(&["config", "check", &file.path().display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.lines().count() == 1 && said.contains("sessions.ttlCap"), "{said}");
}

#[test]
fn help_has_examples_and_succeeds() {
    for arguments in [&["--help"][..], &["controller", "--help"], &["gateway", "--help"], &["install-keys", "--help"]] {
        let output = sandglass(arguments);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("Example:"), "{arguments:?}");
    }
}
