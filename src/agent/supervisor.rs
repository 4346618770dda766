//! A process of its own for each channel, forked by the launcher: starts the user's program, adopts whatever that leaves
//! behind, and kills all of it when the channel ends. Plain blocking code in a small process.
//!
//! Its control socket speaks thus. In: the [`Plan`], then one byte for each signal to the program's group; end of file means
//! kill everything and end. Out: [`EXITED`] with the signal (0: none) and the code, or [`FAILED`] with a text.

use super::fork;
use super::plan::Plan;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setsid};
use std::io::{Read, Write};
use std::os::fd::{AsFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

/// Time between SIGHUP and SIGKILL at the end of a channel.
const HANGUP_GRACE: Duration = Duration::from_millis(200);
/// Number of the control socket's descriptor in the supervisor, after the program's three streams.
const CONTROL: RawFd = 3;

/// First byte of a message from the supervisor.
pub const EXITED: u8 = b'x';
/// See [`EXITED`].
pub const FAILED: u8 = b'f';

/// Runs in the forked child, with the program's streams and the control socket as its only descriptors.
pub fn supervise() -> i32 {
    let mut control = UnixStream::from(fork::own(CONTROL));
    let _ = nix::sys::prctl::set_child_subreaper(true);
    // Closed when the program runs, or could not: until then the control socket is the program's to read.
    let Ok((started, starting)) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) else { return 1 };
    let program = match fork::in_child(|| run_program(&mut control)) {
        Ok(program) => program,
        Err(failure) => {
            report_failure(&mut control, &format!("failed to start a process: {failure}"));
            return 1;
        }
    };
    drop(starting);
    let _ = nix::unistd::read(&started, &mut [0]);
    drop(started);
    release_streams();
    let Ok(children) = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) else {
        end_everything(program);
        return 1;
    };
    watch(&mut control, &children, program);
    end_everything(program);
    0
}

/// The program's streams belong to the program alone, else their other ends never see an end of file.
fn release_streams() {
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        // Given away: `keep_only` closes it.
        let null = null.into_raw_fd();
        let _ = fork::keep_only(&[null, null, null, CONTROL]);
    }
}

/// Becomes the user's program; only returns when that fails.
fn run_program(control: &mut UnixStream) -> i32 {
    let _ = nix::fcntl::fcntl(control.as_fd(), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
    let Some(plan) = Plan::read(control) else { return 127 };
    let _ = setsid();
    if plan.terminal {
        let _ = rustix::process::ioctl_tiocsctty(std::io::stdin());
    }
    // Blocked since the fork, and exec would pass that on.
    let _ = SigSet::empty().thread_set_mask();
    if std::env::set_current_dir(&plan.directory).is_err() {
        let _ = std::env::set_current_dir("/");
    }
    let mut failure = None;
    for program in &plan.programs {
        let variables = plan.environment.iter().map(|(name, value)| (name, value));
        let mut command = std::process::Command::new(&program.path);
        failure = Some(command.arg0(&program.name).args(&program.arguments).env_clear().envs(variables).exec());
    }
    let reason = failure.map_or_else(|| plan.without_program.clone(), |failure| format!("{} ({failure})", plan.without_program));
    report_failure(control, &reason);
    127
}

fn report_failure(control: &mut UnixStream, text: &str) {
    let mut message = vec![FAILED];
    message.extend_from_slice(text.as_bytes());
    let _ = control.write_all(&message);
}

/// Reaps, passes signals on, reports the program's end; returns when the agent closed the control socket.
fn watch(control: &mut UnixStream, children: &SignalFd, program: Pid) {
    loop {
        reap(control, program);
        let mut waiting = [PollFd::new(control.as_fd(), PollFlags::POLLIN), PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        let [from_agent, _] = waiting;
        if from_agent.revents().is_some_and(|events| !events.is_empty()) {
            let mut byte = [0];
            match control.read(&mut byte) {
                Ok(1) => {
                    if let Ok(signal) = Signal::try_from(i32::from(byte[0])) {
                        let _ = killpg(program, signal);
                    }
                }
                _ => return,
            }
        }
        while let Ok(Some(_)) = children.read_signal() {}
    }
}

fn reap(control: &mut UnixStream, program: Pid) {
    loop {
        let (signal, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(child, code)) if child == program => (0, u8::try_from(code & 0xff).unwrap_or(0)),
            Ok(WaitStatus::Signaled(child, signal, _)) if child == program => (u8::try_from(signal as i32).unwrap_or(9), 0),
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => continue,
        };
        let _ = control.write_all(&[EXITED, signal, code]);
    }
}

/// Kills every descendant: they all are children of this process, or become so when their parent dies.
fn end_everything(program: Pid) {
    let _ = killpg(program, Signal::SIGHUP);
    let _ = killpg(program, Signal::SIGCONT);
    let mut killing = false;
    let began = Instant::now();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(WaitStatus::StillAlive) => {
                killing = killing || began.elapsed() >= HANGUP_GRACE;
                if killing {
                    kill_descendants();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn kill_descendants() {
    let parents = process_parents();
    let me = getpid().as_raw();
    let mut doomed = vec![me];
    let mut next = 0;
    while let Some(parent) = doomed.get(next).copied() {
        doomed.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        next += 1;
    }
    for process in doomed.into_iter().skip(1) {
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
}

/// Each process and its parent, from `/proc` (proc(5), `/proc/PID/stat`).
fn process_parents() -> Vec<(i32, i32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let process: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            // The name stands in parentheses and may hold anything, also parentheses.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((process, parent))
        })
        .collect()
}
