//! The node's own view: the processes of a pod as the host sees them.

use super::harness::text;
use std::path::Path;

/// A process of a container.
pub struct Process {
    /// Number on the node.
    pub id: u32,
    /// Its arguments, joined by spaces.
    pub command: String,
}

impl Process {
    /// Real, effective, saved and file system user on the node.
    pub fn users(&self) -> Vec<u32> {
        let status = read(format!("/proc/{}/status", self.id));
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill").args([&format!("-{name}"), &self.id.to_string()]).status().expect("kill");
        let is_gone = || !std::path::Path::new(&format!("/proc/{}", self.id)).exists();
        assert!(status.success() || is_gone(), "{name} to {} ({})", self.id, self.command);
    }

    /// How soon the kernel kills it when memory is short: 0, the last, to 1000, the first.
    pub fn offer_to_the_oom_killer(&self, rank: u16) {
        std::fs::write(format!("/proc/{}/oom_score_adj", self.id), rank.to_string()).expect("written");
    }
}

/// The processes of a pod, but for its sandbox.
pub fn processes_of(pod_uid: &str) -> Vec<Process> {
    let marks = [format!("pod{pod_uid}"), format!("pod{}", pod_uid.replace('-', "_"))];
    let numbers = std::fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let of_pod = numbers.filter(|id: &u32| {
        let groups = read(format!("/proc/{id}/cgroup"));
        marks.iter().any(|mark| groups.contains(mark.as_str()))
    });
    let with_command = of_pod.map(|id| {
        let command = read(format!("/proc/{id}/cmdline")).replace('\0', " ");
        Process { id, command: command.trim().to_owned() }
    });
    with_command.filter(|process| !process.command.is_empty() && process.command != "/pause").collect()
}

/// The agent of a session's pod: PID 1 of its container.
pub fn agent_of(pod_uid: &str) -> Process {
    let serves = |process: &Process| process.command.ends_with("sandglass-agent serve");
    let mut agents: Vec<Process> = processes_of(pod_uid).into_iter().filter(serves).collect();
    agents.sort_by_key(|process| process.id);
    agents.into_iter().next().expect("an agent")
}

/// Whether this machine is the cluster's node, so that its processes can be looked at.
pub fn on_the_node() -> bool {
    let external = std::env::var_os("KUBECONFIG_E2E").is_some();
    if external {
        println!("skipped in part: the node's processes cannot be seen from here");
    }
    !external
}

/// Reads a small file of `/proc`, which may be gone by now.
pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read(path).map(|bytes| text(&bytes)).unwrap_or_default()
}
