//! `sandglass recordings` over a folder of recordings that real sessions made.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use object_store::local::LocalFileSystem;
use sandglass::store::Bucket;
use std::process::Output;
use std::sync::Arc;
use support::archives::Records;
use support::{Bench, Options, succeeded, text};
use tempfile::TempDir;

/// A program that tries to act on the viewer: clipboard, title, a question that the terminal would answer.
const HOSTILE: &str = r"printf 'red \033[31mrose\033[0m\033]52;c;cHduZWQ=\007\033]0;title\007\033[c end\n'";

struct Made {
    folder: TempDir,
    records: Records,
    connection: String,
}

impl Made {
    /// One recorded command at a terminal.
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalFileSystem::new_with_prefix(folder.path()).expect("store");
        let records = Records::over(Bucket::new(Arc::new(store), false));
        let change = |session: &mut sandglass::api::DebugSession| {
            session.spec.build = serde_json::from_value(serde_json::json!({ "commit": "0a1b2c3", "pullRequest": "17" })).expect("a build");
        };
        let bench = Bench::start(Options { archive: Some(Arc::clone(&records.archive)), change, ..Options::default() }).await;
        succeeded(&bench.run(&["-tt", &format!("{HOSTILE}; sleep 2")], b"").await);
        let connection = records.closed().await.name.connection;
        let key = records.key.to_openssh().expect("encoded");
        std::fs::write(folder.path().join("key.pub"), key).expect("written");
        Self { folder, records, connection }
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let store = format!("file://{}/prefix", self.folder.path().display());
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sandglass"));
        command.args(["recordings", "--store", &store]).args(arguments).output().expect("sandglass")
    }

    fn verify(&self) -> Output {
        let key = self.folder.path().join("key.pub").display().to_string();
        self.call(&["verify", &self.connection, "--key", &key])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_are_found_shown_exported_and_replayed() {
    let made = Made::new().await;
    for (filter, found) in [
        (&["--namespace", "ci"][..], true),
        (&["--name", "build-42", "--commit", "0a1b2c3", "--pull-request", "17", "--actor", "octocat", "--since", "1h"], true),
        (&["--commit", "other"], false),
        (&["--namespace", "other"], false),
        (&["--until", "2020-01-01"], false),
    ] {
        let listed = succeeded(&made.call(&[&["list"], filter].concat()));
        assert_eq!(listed.contains(&made.connection), found, "{filter:?}\n{listed}");
    }
    let listed: serde_json::Value = serde_json::from_str(&succeeded(&made.call(&["list", "--output", "json"]))).expect("JSON");
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&"build-42".into(), &"Complete".into()));
    assert!(listed[0]["recording"].as_str().is_some_and(|name| name.ends_with(&made.connection)), "{listed}");
    let shown = succeeded(&made.call(&["show", &made.connection]));
    for part in ["ci/build-42", "octocat", "0a1b2c3", "Complete", "\"event\":\"login\"", "\"event\":\"exit\""] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let cast = succeeded(&made.call(&["export", &made.connection]));
    let lines: Vec<serde_json::Value> = cast.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["version"], 2);
    assert!(lines[1..].iter().all(|line| line.as_array().is_some_and(|line| line.len() == 3)));
    assert!(cast.contains("rose"));
    let read = succeeded(&made.call(&["export", &made.connection, "--format", "text"]));
    assert!(read.ends_with("red rose end"), "{read}");
    let replayed = made.call(&["replay", &made.connection]).stdout;
    let whole = text(&replayed);
    assert!(whole.contains("red \u{1b}[31mrose\u{1b}[0m end"), "{whole:?}");
    let raw = text(&made.call(&["replay", &made.connection, "--raw"]).stdout);
    assert!(raw.contains("\u{1b}]52;c;"), "{raw:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_has_an_exit_code_and_names_what_is_wrong() {
    let made = Made::new().await;
    assert!(succeeded(&made.verify()).starts_with("complete"));
    let loaded = made.records.closed().await;
    let chunk = made.folder.path().join("prefix").join(loaded.name.to_string()).join("output-00000000.zst");
    std::fs::remove_file(chunk).expect("removed");
    let verified = made.verify();
    assert_eq!(verified.status.code(), Some(1));
    assert!(text(&verified.stdout).contains("output-00000000.zst: missing"), "{}", text(&verified.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_at_a_terminal_waits_and_obeys_keys() {
    let made = Made::new().await;
    let store = format!("file://{}/prefix", made.folder.path().display());
    // A hundredth of its speed: without the key it would take minutes. The terminal is `script`'s.
    let replay = format!("{} recordings --store {store} replay {} --speed 0.01", env!("CARGO_BIN_EXE_sandglass"), made.connection);
    let screen = made.folder.path().join("screen");
    let script = format!(
        "S={}; touch $S; until_shown() {{ for _ in $(seq 600); do ! grep -aq \"$1\" $S || break; sleep 0.05; done; }}
         {{ until_shown rose; printf ' '; until_shown paused; printf q; }} | timeout 60 script -qec '{replay}' /dev/null >$S",
        screen.display()
    );
    let output =
        std::process::Command::new("bash").args(["-c", &script]).env("TERM", "xterm").env_remove("NO_COLOR").output().expect("bash");
    let screen = text(&std::fs::read(screen).expect("shown"));
    assert!(output.status.success(), "{output:?} {screen:?}");
    assert!(screen.contains("paused"), "{screen:?}");
    assert!(!screen.contains("\u{1b}]52"), "{screen:?}");
}

#[test]
fn mistakes_are_one_line_with_the_cure() {
    let call = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sandglass"));
        let output = command.arg("recordings").args(arguments).env_remove("SANDGLASS_RECORDINGS").output().expect("sandglass");
        assert!(!output.status.success());
        text(&output.stderr)
    };
    let folder = tempfile::tempdir().expect("folder");
    let store = format!("file://{}", folder.path().display());
    for (arguments, cure) in [
        (&["list"][..], "--store s3://BUCKET/PREFIX"),
        (&["list", "--store", "ftp://x"], "there are s3, gs, az and file"),
        (&["list", "--store", &store, "--since", "soon"], "2026-11-25"),
        (&["show", "nosuch", "--store", &store], "sandglass recordings list"),
        (&["verify", "a/b", "--store", &store, "--key", "/dev/null"], "DATE/NAMESPACE/NAME/UID/CONNECTION"),
    ] {
        let message = call(arguments);
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains(cure), "{arguments:?}: {message}");
    }
}
