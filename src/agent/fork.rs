//! The one place with `unsafe`: `fork`, and descriptors by their numbers.
//!
//! Why not spawn: a channel's supervisor must be a process between the agent and the user's, and a fork of a small process
//! costs a few dirty pages where starting a program afresh costs its relocations and a heap.
#![allow(unsafe_code)]

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::{ForkResult, Pid, fork};

/// Runs `body` in a child process, which ends with the code it returns; gives the child's id.
///
/// All signals are blocked in the child: the agent's handlers must never run there.
pub fn in_child(body: impl FnOnce() -> i32) -> nix::Result<Pid> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: only processes with one thread fork: the agent before its runtime starts, the launcher and the supervisors. The
    // child never returns.
    let forked = unsafe { fork() };
    match forked {
        Ok(ForkResult::Child) => std::process::exit(body()),
        Ok(ForkResult::Parent { child }) => {
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Ok(child)
        }
        Err(failure) => {
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Err(failure)
        }
    }
}

/// Replaces descriptors 0 to `keep.len() - 1` by `keep` and closes all others. Only for a forked child, which owns nothing else.
pub fn keep_only(keep: &[std::os::fd::RawFd]) -> nix::Result<()> {
    // First out of the way, so that no target is a source still to be copied.
    let mut parked = [0; 8];
    for (slot, source) in parked.iter_mut().zip(keep) {
        // SAFETY: plain descriptor numbers; the result is owned by this process until it is closed or replaced below.
        *slot = nix::errno::Errno::result(unsafe { nix::libc::fcntl(*source, nix::libc::F_DUPFD, 64) })?;
    }
    for (target, source) in (0..).zip(parked.iter().take(keep.len())) {
        // SAFETY: as above.
        nix::errno::Errno::result(unsafe { nix::libc::dup2(*source, target) })?;
    }
    let first = u32::try_from(keep.len()).unwrap_or(3);
    // SAFETY: closes descriptors that nothing in this child uses.
    nix::errno::Errno::result(unsafe { nix::libc::close_range(first, u32::MAX, 0) }).map(drop)
}

/// Takes ownership of a descriptor that was received or left open for this process.
pub fn own(descriptor: std::os::fd::RawFd) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the callers are given the number by the kernel or by `keep_only`, and nobody else uses it.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor) }
}

/// Puts `/dev/null` in the place of a descriptor whose owner lives on: its file is closed for everybody else to see.
pub fn replace_by_null(descriptor: std::os::fd::BorrowedFd<'_>) {
    use std::os::fd::AsRawFd;
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        // SAFETY: both are open descriptors of this process; the owner keeps a valid descriptor of the same number.
        let _ = nix::errno::Errno::result(unsafe { nix::libc::dup3(null.as_raw_fd(), descriptor.as_raw_fd(), nix::libc::O_CLOEXEC) });
    }
}
