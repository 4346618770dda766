//! A real OpenSSH server for tests: the machine's own, or the one that `e2e/vm/build` unpacked, with accounts of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The program, and where its libraries are if not where the machine has them.
fn program() -> Option<(PathBuf, Option<PathBuf>)> {
    let cache = std::env::var_os("SANDGLASS_E2E_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache/sandglass-e2e")))?.join("vm/sshd");
    let known = [(PathBuf::from("/usr/sbin/sshd"), None), (cache.join("sshd"), Some(cache.join("lib")))];
    known.into_iter().find(|(program, _)| program.exists())
}

/// A command that serves `configuration` in the foreground, in a mount namespace where `/etc/passwd` has these accounts too. None
/// where there is no such program. Needs root.
pub fn serve(folder: &Path, configuration: &Path, accounts: &str) -> Option<Command> {
    let (program, libraries) = program()?;
    let users = std::fs::read_to_string("/etc/passwd").expect("read");
    // The account of its unprivileged half.
    let own = if users.contains("\nsshd:") { "" } else { "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n" };
    std::fs::write(folder.join("passwd"), format!("{users}{own}{accounts}")).expect("written");
    std::fs::create_dir_all("/run/sshd").expect("root");
    let line =
        format!("mount --bind {}/passwd /etc/passwd && exec {} -D -e -f {}", folder.display(), program.display(), configuration.display());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &line]);
    if let Some(libraries) = libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    Some(command)
}
