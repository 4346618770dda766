//! A folder of its own for each test, and the program run in it.

use sandglass::link::record::{Capture, Item, Outcome, Parsed, Parser};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a run left.
pub struct Ran {
    pub code: i32,
    pub parsed: Vec<Parsed>,
    pub took: Duration,
}

impl Ran {
    pub fn outcome(&self) -> &Outcome {
        match self.parsed.last() {
            Some(Parsed::Result(outcome)) => outcome,
            other => panic!("no result: {other:?}"),
        }
    }

    pub fn item(&self, name: &str) -> &Item {
        let found = self
            .parsed
            .iter()
            .find_map(|parsed| if let Parsed::Item(item) = parsed { Some(item).filter(|item| item.item == name) } else { None });
        found.unwrap_or_else(|| panic!("no {name} in {:?}", self.parsed))
    }

    /// The bytes of an item, which was captured.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let item = self.item(name);
        assert_eq!(item.outcome, Capture::Captured, "{item:?}");
        let pieces = self.parsed.iter().filter_map(|parsed| match parsed {
            Parsed::Data { item, bytes } if item == name => Some(bytes.as_slice()),
            _ => None,
        });
        let bytes = pieces.collect::<Vec<_>>().concat();
        assert_eq!(bytes.len() as u64, item.bytes);
        bytes
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).expect("text")
    }
}

/// A folder, removed at the end.
pub struct Stage {
    folder: PathBuf,
}

impl Stage {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sandglass-power-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("create");
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The system's log.
    pub fn log(&self) -> UnixDatagram {
        let socket = UnixDatagram::bind(self.path("log")).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        socket
    }

    /// A program. Written by another process: one that is open for writing in this one cannot be executed when another test forks.
    pub fn program(&self, name: &str, text: &str) -> String {
        let path = self.text(name);
        let script = "printf '%s' \"$1\" >\"$2\" && chmod 755 \"$2\"";
        let written = Command::new("sh").args(["-c", script, "sh", text, &path]).status().expect("sh");
        assert!(written.success());
        path
    }

    /// The program as sshd starts it for a forced command.
    pub fn command(&self, options: &[&str], asked: &str) -> Command {
        let mut command = self.bare(options);
        command.env("SSH_ORIGINAL_COMMAND", asked).env("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 22");
        command
    }

    fn bare(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandglass-power"));
        command.args(["--spool", &self.text(""), "--log-socket", &self.text("log")]).args(options);
        command.env_remove("SSH_ORIGINAL_COMMAND").stdin(Stdio::null());
        command
    }

    pub fn asked(&self, options: &[&str], asked: &str) -> Ran {
        run(self.command(options, asked))
    }

    pub fn by_hand(&self, words: &[&str]) -> Ran {
        run(self.bare(words))
    }

    /// `--help`.
    pub fn usage() -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandglass-power"));
        command.arg("--help").env_remove("SSH_ORIGINAL_COMMAND").stdin(Stdio::null());
        String::from_utf8(command.output().expect("runs").stdout).expect("text")
    }

    /// `--check` with the exit code.
    pub fn check(&self, options: &[&str]) -> (i32, String) {
        let output = self.bare(options).arg("--check").output().expect("runs");
        (output.status.code().expect("a code"), String::from_utf8(output.stdout).expect("text"))
    }

    /// Nothing of what was captured stays.
    pub fn assert_nothing_left(&self) {
        let spool = self.path(&format!("sandglass-power-{}", user()));
        let names = std::fs::read_dir(spool).expect("list").map(|entry| entry.expect("entry").file_name().into_string().expect("text"));
        let left: Vec<String> = names.filter(|name| Path::new(name).extension().is_some_and(|end| end == "captured")).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(mut command: Command) -> Ran {
    let began = Instant::now();
    let output = command.stderr(Stdio::inherit()).output().expect("runs");
    let took = began.elapsed();
    let mut parser = Parser::new();
    let parsed = parser.feed(&output.stdout).expect("parses");
    parser.finish().expect("a whole stream");
    Ran { code: output.status.code().expect("a code"), parsed, took }
}

/// One line of the log.
pub fn line(log: &UnixDatagram) -> String {
    let mut buffer = [0; 2048];
    let length = log.recv(&mut buffer).expect("a line in the log");
    String::from_utf8(buffer[..length].to_vec()).expect("text")
}

pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Waits for something with a limit.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
