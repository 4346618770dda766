//! Starts a program with no signal blocked: the one place of this room with `unsafe`. It must not know what the program is.
//!
//! What this process blocks (`keep_going`) its children inherit, through `exec` too, and the standard library does not take it
//! back. A QEMU that a start program leaves behind would be deaf to SIGTERM for life, and so would be all that it starts.
#![allow(unsafe_code)]

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Starts it. Nothing in this room starts a program in another way.
///
/// # Errors
/// Those of [`Command::spawn`]; also when the mask cannot be set: then the program is not executed.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let none = SigSet::empty();
    // SAFETY: what runs between `fork` and `exec` makes one call, sigprocmask, which is async-signal-safe (POSIX.1-2024, XSH
    // 2.4.3), on a set made before the fork. It takes no lock and no memory; the failure it may return is a number only.
    unsafe {
        command.pre_exec(move || sigprocmask(SigmaskHow::SIG_SETMASK, Some(&none), None).map_err(io::Error::from));
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_blocked_here_is_not_blocked_there() {
        // In a thread of its own: a mask is a thread's.
        let blocked = || {
            SigSet::all().thread_block().expect("blocks");
            let mut command = Command::new("/bin/cat");
            command.arg("/proc/self/status").stdout(std::process::Stdio::piped());
            spawn(&mut command).and_then(Child::wait_with_output).expect("runs").stdout
        };
        let status = String::from_utf8(std::thread::spawn(blocked).join().expect("joins")).expect("text");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).map(str::trim);
        assert_eq!(mask, Some("0000000000000000"), "{status}");
    }
}
