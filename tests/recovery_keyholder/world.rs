//! What the keyholder's tests stand on: keys, requests, the process itself by its pipes, an sshd.

use super::vault::StandIn;
use russh::keys::{PrivateKey, PublicKey};
use sandglass::link::settings::{KeyPlace, VaultEndpoint};
use sandglass::recovery::keyholder::KeyRequest;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sandglass");
/// Nobody.
pub const NOBODY: u32 = 65534;
/// Is in the token and in nothing else.
pub const TOKEN: &str = "dG9rZW4taGVhZGVy.dG9rZW4tcGF5bG9hZA.dG9rZW4tc2lnbmF0dXJl";

/// A folder, a stand-in for Vault, a projected token.
pub struct World {
    pub folder: TempDir,
    pub vault: StandIn,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Self { folder, vault: StandIn::start().await }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a key with `ssh-keygen`, stores it in Vault under `name`, gives its text and its public half.
    pub fn key(&self, name: &str, arguments: &[&str]) -> (String, PublicKey) {
        let file = self.path(&name.replace('/', "-"));
        let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "", "-f"]).arg(&file).args(arguments).status();
        assert!(made.unwrap().success());
        let (text, line) = (std::fs::read_to_string(&file).unwrap(), std::fs::read_to_string(file.with_extension("pub")).unwrap());
        std::fs::remove_file(&file).unwrap();
        self.vault.put(name, &text);
        (text, PublicKey::from_openssh(line.trim()).unwrap())
    }

    pub fn request(&self, target: KeyPlace, hypervisor: Option<KeyPlace>) -> KeyRequest {
        let vault = VaultEndpoint {
            address: self.vault.address.clone(),
            certificate_authority: self.vault.certificate_authority.clone(),
            auth_mount: "kubernetes".to_owned(),
            role: "infra-devvm".to_owned(),
        };
        KeyRequest { vault, vault_token_path: self.path("token"), target, hypervisor, socket: self.path("run/agent/socket") }
    }
}

pub fn kv(path: &str) -> KeyPlace {
    KeyPlace::Kv { mount: "vms".to_owned(), path: path.to_owned(), field: "key".to_owned() }
}

pub fn ssh(principal: &str) -> KeyPlace {
    KeyPlace::Ssh { mount: "ssh".to_owned(), role: "recovery".to_owned(), principal: principal.to_owned() }
}

/// The process, spoken to by its pipes.
pub struct Raw {
    pub child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Raw {
    pub fn start(request: &KeyRequest) -> Self {
        Self::start_by(Command::new(PROGRAM).arg("recovery-keyholder"), request)
    }

    /// As another user, from a place that user can reach, optionally with a limit of locked memory.
    pub fn start_as(world: &World, user: u32, limit: Option<&str>, request: &KeyRequest) -> Self {
        let copy = world.path("sandglass");
        if !copy.exists() {
            // Not by this process: what another test forks meanwhile would keep the copy open for writing, and so from being run.
            assert!(Command::new("cp").arg(PROGRAM).arg(&copy).status().unwrap().success());
        }
        let mut command = Command::new("sh");
        let limit = limit.map_or(String::new(), |limit| format!("ulimit -l {limit}; "));
        command.args(["-c", &format!("{limit}exec \"$0\" recovery-keyholder")]).arg(copy);
        Self::start_by(command.uid(user).gid(user), request)
    }

    pub fn start_by(command: &mut Command, request: &KeyRequest) -> Self {
        let mut child = command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut raw = Self { child, input, output };
        raw.send(&serde_json::to_string(request).unwrap());
        raw
    }

    pub fn send(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.line()
    }

    pub fn line(&mut self) -> String {
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    /// Loads; the test fails if that does.
    pub fn load(&mut self) {
        let answer = self.ask(r#""load""#);
        assert!(answer.starts_with(r#"{"loaded":"#), "{answer}");
    }

    /// The end of its standard input.
    pub fn hang_up(&mut self) {
        self.input = None;
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can do this");
    }
    root
}

/// Waits for a condition, at most 20 s.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process is running, and not only waiting to be reaped.
pub fn lives(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

/// An sshd that lets `root` in: with `key`, or with a certificate of `authority`.
pub struct Sshd {
    child: Child,
    pub port: u16,
}

impl Sshd {
    /// None where there is no sshd, or no root to run it.
    pub fn start(folder: &Path, key: &PublicKey, authority: &PrivateKey) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).unwrap();
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        let host = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join("host")).status();
        assert!(host.unwrap().success());
        write("authorized", &key.to_openssh().unwrap());
        write("authorities", &authority.public_key().to_openssh().unwrap());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = folder.display();
        let settings = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized\nTrustedUserCAKeys {at}/authorities\n\
             PermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
        );
        write("sshd_config", &settings);
        let mut command = super::sshd::serve(folder, &folder.join("sshd_config"), "")?;
        let log = std::fs::File::create(folder.join("sshd.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Some(Self { child, port })
    }

    pub async fn is_up(&self) {
        eventually("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()).await;
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
