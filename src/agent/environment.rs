//! What a process in the session sees around it: variables, working directory, shells. Read once at start.

use crate::link::message::Process;
use crate::link::settings::{AGENT_PATH, AgentSettings, TOOLS_FOLDER, VARIABLE};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The surroundings of every process of the session.
pub struct Environment {
    variables: Vec<(OsString, OsString)>,
    directory: PathBuf,
    shells: Vec<PathBuf>,
    agent: PathBuf,
    run_folder: PathBuf,
}

/// The entry of `/etc/passwd` for the user the agent runs as.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: String,
    home: String,
    shell: String,
}

impl Environment {
    /// Reads the image's environment and accounts.
    pub fn of(settings: &AgentSettings) -> Self {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let account = account(&passwd, nix::unistd::getuid().as_raw());
        let home = home(account.as_ref(), Path::new(&settings.run_folder));
        let shells = shells(account.as_ref(), settings.tools);
        let inherited = std::env::vars_os().filter(|(name, _)| is_passed_on(&name.to_string_lossy()));
        let mut variables: Vec<(OsString, OsString)> = inherited.collect();
        let mut set = |name: &str, value: OsString| {
            variables.retain(|(known, _)| known != name);
            variables.push((name.into(), value));
        };
        let name = account.as_ref().map_or("user", |account| account.name.as_str());
        set("HOME", home.clone().into());
        set("USER", name.into());
        set("LOGNAME", name.into());
        if let Some(shell) = shells.first() {
            set("SHELL", shell.clone().into());
        }
        if !settings.known_hosts.is_empty() {
            let path = Path::new(&settings.run_folder).join("known_hosts");
            set("GIT_SSH_COMMAND", format!("ssh -o UserKnownHostsFile='{} ~/.ssh/known_hosts'", path.display()).into());
        }
        for (name, value) in &settings.environment {
            set(name, value.into());
        }
        let path = variables.iter().find(|(name, _)| name == "PATH").map_or_else(|| DEFAULT_PATH.into(), |(_, value)| value.clone());
        variables.retain(|(name, _)| name != "PATH");
        variables.push(("PATH".into(), with_tools(path, settings.tools)));
        let working = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let directory = settings.working_directory.as_ref().map_or(working, PathBuf::from);
        let agent = std::env::current_exe().unwrap_or_else(|_| AGENT_PATH.into());
        Self { variables, directory, shells, agent, run_folder: PathBuf::from(&settings.run_folder) }
    }

    /// The variables of one process: the session's, then what its client sent.
    pub fn for_process(&self, process: &Process) -> Vec<(OsString, OsString)> {
        let mut variables = self.variables.clone();
        let terminal = process.terminal.as_ref().map(|terminal| ("TERM".to_owned(), terminal.name.clone()));
        for (name, value) in process.environment.iter().cloned().chain(terminal) {
            variables.retain(|(known, _)| known != name.as_str());
            variables.push((name.into(), value.into()));
        }
        variables
    }

    /// Shells to try, best first.
    pub fn shells(&self) -> Vec<PathBuf> {
        self.shells.clone()
    }

    /// Where processes start.
    pub fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    /// The agent's writable folder.
    pub fn run_folder(&self) -> &Path {
        &self.run_folder
    }

    /// The agent's own file.
    pub fn agent_path(&self) -> PathBuf {
        self.agent.clone()
    }
}

/// The agent's settings stay its own, and the API server's address is of no use inside.
fn is_passed_on(name: &str) -> bool {
    name != VARIABLE && !name.starts_with("KUBERNETES_")
}

fn with_tools(path: OsString, tools: bool) -> OsString {
    let mut path = path;
    if tools {
        // Behind the image's own, so that nothing of the build is shadowed.
        path.push(":");
        path.push(TOOLS_FOLDER);
    }
    path
}

fn account(passwd: &str, user: u32) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, _, _, home, shell] = fields.as_slice() else { return None };
        (number.parse() == Ok(user)).then(|| Account { name: (*name).into(), home: (*home).into(), shell: (*shell).into() })
    })
}

/// The account's home where it can be written, else a folder of the agent's.
fn home(account: Option<&Account>, run_folder: &Path) -> PathBuf {
    let own = account.map(|account| PathBuf::from(&account.home)).filter(|home| is_writable(home));
    own.unwrap_or_else(|| run_folder.join("home"))
}

fn is_writable(folder: &Path) -> bool {
    folder.is_dir() && nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).is_ok()
}

fn shells(account: Option<&Account>, tools: bool) -> Vec<PathBuf> {
    let own = account
        .map(|account| account.shell.clone())
        .filter(|shell| !shell.is_empty() && !shell.ends_with("nologin") && !shell.ends_with("/false"));
    let mut candidates: Vec<PathBuf> = own.map(PathBuf::from).into_iter().collect();
    candidates.extend(["/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/busybox/sh"].map(PathBuf::from));
    if tools {
        candidates.extend(["bash", "sh"].map(|name| Path::new(TOOLS_FOLDER).join(name)));
    }
    candidates.retain(|shell| shell.is_file());
    candidates.dedup();
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken line\nci:x:10001:10001::/home/ci:/bin/sh\n";
        assert_eq!(account(passwd, 10001), Some(Account { name: "ci".into(), home: "/home/ci".into(), shell: "/bin/sh".into() }));
        assert_eq!(account(passwd, 7), None);
    }

    #[test]
    fn the_agents_settings_are_not_passed_on() {
        assert!(!is_passed_on(VARIABLE));
        assert!(!is_passed_on("KUBERNETES_SERVICE_HOST"));
        assert!(is_passed_on("GOFLAGS"));
    }

    #[test]
    fn tools_come_last_on_the_path() {
        assert_eq!(with_tools("/bin".into(), true), format!("/bin:{TOOLS_FOLDER}").as_str());
        assert_eq!(with_tools("/bin".into(), false), "/bin");
    }
}
