//! A machine (a real sshd) and a key holder (a real ssh-agent).

use super::user::{Gateway, User};
use russh::keys::{PrivateKey, PublicKey};
use sandglass::link::message::{Process, Program};
use sandglass::recovery::ssh::{ConnectError, Connection, Identity, MACHINE, Place, connect};
use std::fs::Permissions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A port where nobody listens.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address")
}

/// An account of the machine beside root.
pub const USER: &str = "tester";

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program that must succeed.
pub fn finish(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output().expect("started");
    assert!(output.status.success(), "{name} {arguments:?}: {}", text(&output.stderr));
}

/// Makes a key in a file of that name.
pub fn new_key(folder: &Path, name: &str, kind: &str) -> PublicKey {
    finish("ssh-keygen", &["-q", "-t", kind, "-N", "", "-C", name, "-f", &folder.join(name).display().to_string()]);
    PublicKey::from_openssh(&std::fs::read_to_string(folder.join(format!("{name}.pub"))).expect("a key")).expect("a key")
}

/// Waits for a condition, with a limit.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process is there and no zombie.
pub fn is_running(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Bytes that a process wrote.
pub fn written(process: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Kilobytes of this process in memory.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A process's description.
pub fn program(program: Program) -> Process {
    Process { program, terminal: None, environment: vec![], agent_forward: false, keystrokes: false }
}

/// A command's description.
pub fn command(line: &str) -> Process {
    program(Program::Command(line.into()))
}

/// A real ssh-agent.
pub struct Agent {
    child: Child,
    /// Its socket.
    pub socket: PathBuf,
}

impl Agent {
    /// Starts one without keys.
    pub fn start(folder: &Path, name: &str) -> Self {
        let socket = folder.join(format!("{name}.sock"));
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().expect("ssh-agent");
        let began = Instant::now();
        while !socket.exists() {
            assert!(began.elapsed() < Duration::from_secs(10), "ssh-agent does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, socket }
    }

    /// Gives it a key, and the certificate beside it.
    pub fn add(&self, file: &Path) {
        let output = Command::new("ssh-add").arg("-q").arg(file).env("SSH_AUTH_SOCK", &self.socket).output().expect("ssh-add");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A real sshd, and the holder of the key for it.
pub struct Machine {
    /// Files of the test.
    pub folder: TempDir,
    /// Holds the key.
    pub agent: Agent,
    /// Of three kinds.
    pub host_keys: Vec<PublicKey>,
    key: PublicKey,
    address: SocketAddr,
    server: Child,
}

impl Machine {
    /// Starts a server with more lines of configuration.
    pub async fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display();
        // One who is not root: sshd delivers no signals to root's processes.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("set");
        let host_keys = ["ed25519", "ecdsa", "rsa"].map(|kind| new_key(folder.path(), &format!("host-{kind}"), kind)).to_vec();
        let key = new_key(folder.path(), "id", "ed25519");
        let agent = Agent::start(folder.path(), "holder");
        agent.add(&folder.path().join("id"));
        std::fs::copy(folder.path().join("id.pub"), folder.path().join("authorized_keys")).expect("copied");
        let address = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address");
        let configuration = format!(
            "{more}\nListenAddress {address}\nHostKey {path}/host-ed25519\nHostKey {path}/host-ecdsa\nHostKey {path}/host-rsa\n\
             AuthorizedKeysFile {path}/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nMaxStartups 100\n\
             PrintMotd no\nPrintLastLog no\n"
        );
        std::fs::write(folder.path().join("sshd_config"), configuration).expect("written");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let accounts = format!("{USER}:x:4242:4242::/tmp:/bin/sh\n");
        let server = super::sshd::serve(folder.path(), &folder.path().join("sshd_config"), &accounts);
        let mut server = server.expect("no sshd: run e2e/vm/build");
        let server = server.stdin(Stdio::null()).stderr(log).spawn().expect("unshare");
        let machine = Self { folder, agent, host_keys, key, address, server };
        eventually("sshd listens", || machine.log().contains("Server listening on")).await;
        machine
    }

    /// A file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Lets a key in.
    pub fn authorize(&self, key: &PublicKey) {
        let mut file = std::fs::OpenOptions::new().append(true).open(self.path("authorized_keys")).expect("opened");
        writeln!(file, "{}", key.to_openssh().expect("encoded")).expect("written");
    }

    /// The place as a recovery pod knows it.
    pub fn place(&self) -> Place {
        Place { what: MACHINE, address: self.address, user: "root".into(), host_keys: self.host_keys.clone() }
    }

    /// The same for [`USER`].
    pub fn users_place(&self) -> Place {
        Place { user: USER.into(), ..self.place() }
    }

    /// As [`Machine::run`], for [`USER`].
    pub async fn run_as_user(&self, gateway: &Gateway, process: Process) -> User {
        let connection = connect(&self.users_place(), &self.identity(), &self.agent.socket).await.expect("connected");
        gateway.serve(connection, process).await
    }

    /// Who logs in.
    pub fn identity(&self) -> Identity {
        Identity::Key(self.key.clone())
    }

    /// Logs in.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        connect(&self.place(), &self.identity(), &self.agent.socket).await
    }

    /// Logs in and runs a process, as the pod would.
    pub async fn run(&self, gateway: &Gateway, process: Process) -> User {
        gateway.serve(self.connect().await.expect("connected"), process).await
    }

    /// The first host key's private half.
    pub fn host_private_key(&self) -> PrivateKey {
        PrivateKey::from_openssh(std::fs::read(self.path("host-ed25519")).expect("a key")).expect("a key")
    }

    fn client(&self, line: &str) -> String {
        format!(
            "ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -c aes256-gcm@openssh.com -i {} -p {} \
             root@127.0.0.1 '{line}'",
            self.path("id").display(),
            self.address.port()
        )
    }

    /// How long the OpenSSH client takes.
    pub fn ssh(&self, line: &str, sink: &str) -> Duration {
        let began = Instant::now();
        finish("sh", &["-c", &format!("{} | {sink}", self.client(line))]);
        began.elapsed()
    }

    /// How long it takes with 512 MiB of input.
    pub fn ssh_with_input(&self, line: &str) -> Duration {
        let began = Instant::now();
        finish("sh", &["-c", &format!("head -c 536870912 /dev/zero | {}", self.client(line))]);
        began.elapsed()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
