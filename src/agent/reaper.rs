//! PID 1's duty: every process whose parent died ends up here and must be waited for.

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Reaps in the background for as long as the agent lives.
///
/// # Errors
/// When the signal handler cannot be installed.
pub fn start() -> io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    tokio::task::spawn_local(async move {
        while children.recv().await.is_some() {
            while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
        }
    });
    Ok(())
}
