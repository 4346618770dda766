//! `kubectl sandglass ssh`: the OpenSSH client with a session's own connection data. Its host key is known from the object, so
//! nobody is asked whether to trust it.

use super::cluster::ClusterOptions;
use super::complete;
use super::failure::Failure;
use super::sessions::{self, Entry, Name};
use super::wait::{self, Sight};
use crate::domain::names::ObjectName;
use clap::Args;
use clap_complete::ArgValueCompleter;
use kube::ResourceExt as _;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// How long a new object may be without connection data: the controller writes its first status within a second.
const FIRST_STATUS: Duration = Duration::from_secs(30);

/// What is handed to the OpenSSH client.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientOptions {
    /// Forward your ssh-agent; the session must allow `AgentForward`.
    #[arg(long, short = 'A')]
    pub forward_agent: bool,
    /// Forward a local port; the session must allow `LocalForward`.
    #[arg(long, short = 'L', value_name = "[BIND:]PORT:HOST:PORT")]
    pub local_forward: Vec<String>,
    /// Give the command a terminal.
    #[arg(long, short = 't')]
    pub tty: bool,
    /// File of the key to log in with. Default: as your ssh does.
    #[arg(long, short = 'i', value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub identity: Option<PathBuf>,
}

/// Into which session.
#[derive(Args, Debug)]
pub struct Ssh {
    /// The session: NAME, dbg/NAME or bgvm/NAME.
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::live_sessions))]
    name: Name,
    #[command(flatten)]
    client: ClientOptions,
    /// A command, after `--`. Default: a shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    host: String,
    port: u16,
    user: String,
    known_hosts: Vec<String>,
}

/// Logs in; gives the exit code of ssh.
///
/// # Errors
/// There is no such session, or it is not open.
pub async fn run(options: &ClusterOptions, arguments: Ssh) -> Result<u8, Failure> {
    let cluster = options.connect().await?;
    let entry = sessions::find(&cluster, &arguments.name).await?;
    let entry = reachable(&cluster, entry).await?;
    log_in(&destination(&entry)?, &arguments.client, &arguments.command).await
}

/// The session as soon as it can be dialled. The gateway itself shows a user what a session that is not open yet waits for.
///
/// # Errors
/// It is over, or will not open.
pub async fn reachable(cluster: &super::cluster::Cluster, entry: Entry) -> Result<Entry, Failure> {
    let name = entry.object.name_any();
    let can_be_dialled = |entry: &Entry| match wait::judge(entry) {
        Sight::Hopeless(why) => Err(Failure::NotOpen(why)),
        _ => Ok(entry.status().connection.is_some()),
    };
    if can_be_dialled(&entry)? {
        return Ok(entry);
    }
    wait::until(cluster, entry.kind, &name, FIRST_STATUS, can_be_dialled).await
}

/// The connection data of a session. What would be more than an address is refused: they become arguments of a program.
///
/// # Errors
/// There are none, or they do not belong to this object.
pub fn destination(entry: &Entry) -> Result<Destination, Failure> {
    let name = entry.object.name_any();
    let Some(connection) = entry.status().connection else {
        return Err(Failure::NotOpen(format!("{name} has no connection data yet: see `kubectl get {} -o yaml`", entry.reference())));
    };
    let expected = ObjectName { namespace: entry.object.namespace().unwrap_or_default(), name: name.clone() }.ssh_user();
    let is_address = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-_".contains(&byte)) && !host.starts_with('-')
    };
    let in_one_line = |line: &String| !line.contains(char::is_control);
    let port = u16::try_from(connection.port).ok().filter(|port| *port != 0);
    match port {
        Some(port)
            if connection.user == expected
                && is_address(&connection.host)
                && connection.known_hosts.iter().all(in_one_line)
                && !connection.known_hosts.is_empty() =>
        {
            Ok(Destination { host: connection.host, port, user: connection.user, known_hosts: connection.known_hosts })
        }
        _ => Err(Failure::Failed(format!("status.connection of {name} is not what Sandglass writes: ask who administers it"))),
    }
}

/// Runs the OpenSSH client; gives its exit code, or 128 and the number of the signal that ended it.
///
/// # Errors
/// It cannot be started.
pub async fn log_in(destination: &Destination, options: &ClientOptions, command: &[String]) -> Result<u8, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("failed to write the gateway's host key to a temporary file: {error}"));
    let mut known_hosts = tempfile::Builder::new().prefix("sandglass-known-hosts-").tempfile().map_err(failed)?;
    for line in &destination.known_hosts {
        writeln!(known_hosts, "{line}").map_err(failed)?;
    }
    known_hosts.flush().map_err(failed)?;
    let mut ssh = Command::new("ssh");
    ssh.args(arguments(destination, options, known_hosts.path(), command));
    let child = ssh.spawn().map_err(|error| Failure::Failed(format!("failed to start ssh ({error}): install the OpenSSH client")))?;
    let status = ended(child).await.map_err(|error| Failure::Failed(format!("failed to wait for ssh: {error}")))?;
    Ok(exit_code(status))
}

/// Waits for ssh. Ctrl-C and Ctrl-\ are its affair: the terminal sends them to both. What only this process gets is passed on.
async fn ended(mut child: Child) -> std::io::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let pass_on = |signal| {
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return status,
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = terminate.recv() => pass_on(Signal::TERM),
            _ = hang_up.recv() => pass_on(Signal::HUP),
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The arguments of ssh. Everything after `--` is destination and command, whatever it begins with.
fn arguments(destination: &Destination, options: &ClientOptions, known_hosts: &Path, command: &[String]) -> Vec<OsString> {
    // Quoted, and with its percent signs doubled: the value is a list with tokens.
    let file = known_hosts.display().to_string().replace('%', "%%");
    let mut words: Vec<OsString> = vec!["-p".into(), destination.port.to_string().into()];
    for option in [
        format!("UserKnownHostsFile=\"{file}\""),
        "GlobalKnownHostsFile=/dev/null".into(),
        "StrictHostKeyChecking=yes".into(),
        "UpdateHostKeys=no".into(),
        "CheckHostIP=no".into(),
    ] {
        words.extend(["-o".into(), option.into()]);
    }
    if let Some(file) = &options.identity {
        words.extend(["-i".into(), file.into()]);
    }
    if options.forward_agent {
        words.push("-A".into());
    }
    for forward in &options.local_forward {
        words.extend(["-L".into(), forward.into()]);
    }
    if options.tty {
        words.push("-t".into());
    }
    words.extend(["--".into(), format!("{}@{}", destination.user, destination.host).into()]);
    words.extend(command.iter().map(OsString::from));
    words
}

#[cfg(test)]
mod tests {
    use super::super::sessions::tests::entry;
    use super::*;
    use serde_json::{Value, json};

    fn connection(changes: &Value) -> Entry {
        let mut connection = json!({
            "host": "debug.example.com", "port": 2222, "user": "ci.build-42", "command": "ssh -p 2222 ci.build-42@debug.example.com",
            "knownHosts": ["[debug.example.com]:2222 ssh-ed25519 AAAA"],
        });
        for (field, value) in changes.as_object().expect("an object") {
            connection[field] = value.clone();
        }
        entry(&json!({ "connection": connection }))
    }

    #[test]
    fn the_client_is_told_everything_it_needs_and_asks_nothing() {
        let destination = destination(&connection(&json!({}))).expect("connection data");
        let options = ClientOptions {
            forward_agent: true,
            local_forward: vec!["8080:localhost:80".into()],
            tty: false,
            identity: Some("/k/id".into()),
        };
        let words = arguments(&destination, &options, Path::new("/tmp/a b/50%"), &["-v".into(), "ls".into()]);
        let words: Vec<String> = words.into_iter().map(|word| word.into_string().expect("text")).collect();
        assert_eq!(words[..4], ["-p", "2222", "-o", "UserKnownHostsFile=\"/tmp/a b/50%%\""]);
        assert!(words.contains(&"StrictHostKeyChecking=yes".to_owned()));
        let tail = ["-i", "/k/id", "-A", "-L", "8080:localhost:80", "--", "ci.build-42@debug.example.com", "-v", "ls"];
        assert_eq!(words[words.len() - tail.len()..], tail);
    }

    #[test]
    fn connection_data_that_are_no_address_are_refused() {
        for changes in [
            json!({ "host": "-oProxyCommand=sh" }),
            json!({ "host": "a b" }),
            json!({ "host": "" }),
            json!({ "user": "-x" }),
            json!({ "user": "ci.other" }),
            json!({ "port": 0 }),
            json!({ "port": 70000 }),
            json!({ "knownHosts": [] }),
            json!({ "knownHosts": ["a\nb"] }),
        ] {
            assert!(matches!(destination(&connection(&changes)), Err(Failure::Failed(_))), "{changes}");
        }
        assert!(matches!(destination(&entry(&json!({}))), Err(Failure::NotOpen(_))));
    }
}
