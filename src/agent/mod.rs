//! What runs as PID 1 in a session pod: dials the gateways, starts what they ask for, and ends everything at the
//! deadline. It knows nothing of Kubernetes or SSH, listens on nothing, and trusts only what the link CA vouches for.
//!
//! Processes: the agent; the [`launcher`], forked first; for each channel a [`supervisor`], forked by that, and below it
//! whatever the user runs.

mod channel;
mod environment;
mod files;
mod fork;
mod forward;
mod install;
mod launch;
mod launcher;
mod log;
mod plan;
mod pump;
mod reaper;
mod sftp;
mod supervisor;
mod terminal;

pub use install::{copy_tree, install};
pub use log::log_to_standard_error;
pub use sftp::serve as serve_sftp;

use crate::link::client::deadline::Deadline;
use crate::link::client::{self, BadCertificate, Client, Dialer, probe};
use crate::link::settings::{AgentSettings, VARIABLE};
use std::rc::Rc;
use tracing::error;

/// Exit code of an agent that refused to serve.
pub const EXIT_REFUSED: i32 = 3;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The variable is missing: not started by the controller.
    #[error("{VARIABLE} is not set: sandglass-agent is started by the Sandglass controller, not by hand")]
    NoSettings,
    /// The variable does not parse.
    #[error("failed to read {VARIABLE}: {0}")]
    BadSettings(#[source] serde_json::Error),
    /// The link CA's certificate does not parse.
    #[error(transparent)]
    BadCertificate(BadCertificate),
    /// The run folder cannot be prepared.
    #[error("failed to prepare {path}: {source}")]
    Folder {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The runtime or signal handlers cannot be set up.
    #[error("failed to start: {0}")]
    Start(#[source] std::io::Error),
}

/// Runs the agent until its deadline; returns the process's exit code.
///
/// # Errors
/// See [`AgentError`].
pub fn serve() -> Result<i32, AgentError> {
    // Not readable by the shell's user: no ptrace, no /proc/1/environ, no core dump. Forked children inherit it.
    if let Err(failure) = nix::sys::prctl::set_dumpable(false) {
        error!(%failure, "failed to become non-dumpable");
    }
    let text = std::env::var(VARIABLE).map_err(|_| AgentError::NoSettings)?;
    let launcher = launcher::Launcher::start().map_err(AgentError::Start)?;
    let settings: AgentSettings = serde_json::from_str(&text).map_err(AgentError::BadSettings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Start)?;
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&runtime, run(settings, launcher));
    // Not waiting for a resolver thread that hangs: the deadline is the deadline.
    runtime.shutdown_background();
    outcome
}

async fn run(settings: AgentSettings, launcher: launcher::Launcher) -> Result<i32, AgentError> {
    let dialer = Dialer::new(&settings.certificate_authority).map_err(AgentError::BadCertificate)?;
    files::prepare(&settings)?;
    reaper::start().map_err(AgentError::Start)?;
    let deadline = Deadline::new(settings.expires_at, settings.remaining_seconds);
    let environment = environment::Environment::of(&settings);
    let isolation = probe::start(settings.must_be_closed.clone(), probe::SHORT_PATIENCE, dialer.reached());
    let shells = channel::Shells { launcher, environment, forwards: forward::Pending::default() };
    let client = Client::new(dialer, settings.token_path.clone().into(), isolation.clone(), shells);
    client::start(&settings.links, &Rc::new(client));
    let code = tokio::select! {
        () = deadline.passed() => 0,
        () = probe::refused(isolation) => EXIT_REFUSED,
        () = stopped() => EXIT_STOPPED,
    };
    Ok(code)
}

/// Exit code after a signal to stop. Not 0: of a pod whose containers all succeeded the kubelet forgets that it evicted it.
const EXIT_STOPPED: i32 = 128 + 15;

/// SIGTERM and SIGINT, which PID 1 only sees when it asks for them.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
}
