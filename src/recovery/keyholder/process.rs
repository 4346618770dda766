//! What each process that sees a key makes of itself before it sees one: closed to debuggers, without core dumps, dead when its parent is.
//! It must not read a request, know a key, or go on where closing itself failed.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use tokio::net::unix::pipe;
use tracing::{debug, error, info};

/// Exit code of a process that could not make itself safe, or was started without pipes.
pub const EXIT_REFUSED: i32 = 3;

/// How long a process lives, which is how much its start is worth in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As long as the session.
    Session,
    /// For one task.
    Task,
}

/// Makes the process safe, then runs `body` between its standard input and output, which must be pipes. Gives the exit code.
pub fn run<F: Future<Output = i32>>(name: &'static str, life: Life, body: impl FnOnce(pipe::Receiver, pipe::Sender) -> F) -> i32 {
    if let Err(failure) = harden() {
        error!(process = name, %failure, "failed to close the process to others: it holds no key");
        return EXIT_REFUSED;
    }
    let locked = lock_all();
    match life {
        Life::Session => info!(process = name, "{locked}"),
        Life::Task => debug!(process = name, "{locked}"),
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(failure) => {
            error!(process = name, %failure, "failed to start");
            return EXIT_REFUSED;
        }
    };
    let code = runtime.block_on(async {
        match pipes() {
            Ok((input, output)) => body(input, output).await,
            Err(failure) => {
                error!(process = name, %failure, "failed to take standard input and output: they are pipes to the process that starts this one");
                EXIT_REFUSED
            }
        }
    });
    runtime.shutdown_background();
    code
}

/// No `ptrace` and no `/proc/PID/mem` for anybody but root, no core, and no life without the parent.
///
/// The kernel takes the thread that started this process for the parent (prctl(2)): that must be one that lasts. Where the parent ended
/// before this line, the end of standard input says so.
fn harden() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    Ok(())
}

/// Locks everything where there is no limit. Under a limit it would not fit, or the first allocation past the limit would end the process:
/// there the buffers of keys are locked, each by itself, and a key without a locked buffer is refused.
fn lock_all() -> String {
    let most = rustix::process::getrlimit(Resource::Memlock).maximum;
    let _ = rustix::process::setrlimit(Resource::Memlock, Rlimit { current: most, maximum: most });
    if let Some(bytes) = most {
        return format!("memory for keys is locked, the rest is not: RLIMIT_MEMLOCK is {bytes} bytes");
    }
    // What is never touched need not be there.
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => "all memory is locked".to_owned(),
        Err(failure) => format!("memory for keys is locked, the rest is not: {failure}"),
    }
}

/// Own descriptors, so that no buffer of the standard library stands between the pipe and a locked page.
fn pipes() -> io::Result<(pipe::Receiver, pipe::Sender)> {
    let input = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let output = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
    Ok((input, output))
}
