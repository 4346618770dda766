//! A small process, forked before the agent's heap grows, that forks a supervisor for each channel. A supervisor forked from
//! the agent itself would keep a copy of every page that the agent changes later: hundreds of kilobytes a session.

use super::{fork, supervisor};
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// Descriptors of one request: the program's three streams and the supervisor's control socket.
const DESCRIPTORS: usize = 4;
/// Number of the request socket's descriptor in the launcher.
const REQUESTS: RawFd = 3;

/// The agent's end.
pub struct Launcher(OwnedFd);

impl Launcher {
    /// Forks the launcher. To be called first, while this process is small and has one thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start() -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let (null, theirs) = (null.as_raw_fd(), theirs.as_raw_fd());
        fork::in_child(|| match fork::keep_only(&[null, null, 2, theirs]) {
            Ok(()) => serve(),
            Err(_) => 1,
        })?;
        Ok(Self(ours))
    }

    /// Has a supervisor forked with these descriptors.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub fn fork_supervisor(&self, stdio: [&OwnedFd; 3], control: &impl AsRawFd) -> io::Result<()> {
        let [stdin, stdout, stderr] = stdio.map(AsRawFd::as_raw_fd);
        let descriptors = [stdin, stdout, stderr, control.as_raw_fd()];
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(b"f")], &[ControlMessage::ScmRights(&descriptors)], MsgFlags::empty(), None)?;
        Ok(())
    }
}

/// Forks and reaps until the agent is gone.
fn serve() -> i32 {
    let requests = fork::own(REQUESTS);
    let Ok(children) = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) else {
        return 1;
    };
    loop {
        let mut waiting = [PollFd::new(requests.as_fd(), PollFlags::POLLIN), PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::NONE).is_err() {
            return 1;
        }
        let [asked, _] = waiting;
        let asked = asked.revents().is_some_and(|events| !events.is_empty());
        while let Ok(Some(_)) = children.read_signal() {}
        while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
        if asked && !fork_one(&requests) {
            return 0;
        }
    }
}

/// Takes one request; false when the agent is gone.
fn fork_one(requests: &OwnedFd) -> bool {
    let Some(descriptors) = receive(requests) else { return false };
    if let Ok(descriptors) = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) {
        // A fork that fails drops the control socket, which the agent notices.
        let _ = fork::in_child(|| match fork::keep_only(&descriptors.each_ref().map(AsRawFd::as_raw_fd)) {
            Ok(()) => supervisor::supervise(),
            Err(_) => 1,
        });
    }
    true
}

fn receive(requests: &OwnedFd) -> Option<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([RawFd; DESCRIPTORS]);
    let message = recvmsg::<()>(requests.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).ok()?;
    if message.bytes == 0 {
        return None;
    }
    let received = message.cmsgs().ok()?.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Some(received.flatten().map(fork::own).collect())
}
