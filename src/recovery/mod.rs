//! What runs in a recovery pod: dials the gateways, has its keys fetched by a process of their own, and serves what users ask for on
//! the machine and on its hypervisor. It knows nothing of Kubernetes, listens on nothing, and never sees a private key.
//!
//! Processes: this one, and below it the [`keyholder`], which alone talks to Vault.

pub mod fetch;
pub mod keyholder;
mod readiness;
mod serve;
pub mod ssh;

use crate::link::client::deadline::Deadline;
use crate::link::client::{self, Client, Dialer, Readiness, probe};
use crate::link::settings::{Endpoint, RECOVERY_VARIABLE, RecoverySettings};
use anyhow::Context as _;
use keyholder::{KeyRequest, Keyholder};
use serve::{Hypervisor, Machine};
use ssh::Place;
use std::path::Path;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit code after a refusal: the condition says why.
const EXIT_REFUSED: u8 = 3;
/// Exit code when the keyholder is gone.
const EXIT_NO_KEYS: u8 = 4;
/// Exit code after a signal to stop. Not 0: of a pod whose containers all succeeded the kubelet forgets that it evicted it.
const EXIT_STOPPED: u8 = 128 + 15;

/// Runs until the deadline; returns the process's exit code.
///
/// # Errors
/// Anything that keeps it from starting.
pub fn run() -> anyhow::Result<u8> {
    // What connects to a machine may not be read by anybody beside it: no ptrace, no core dump. Children inherit it.
    nix::sys::prctl::set_dumpable(false).context("failed to become non-dumpable")?;
    let text = std::env::var(RECOVERY_VARIABLE).with_context(|| {
        format!("{RECOVERY_VARIABLE} is not set: this is started by the Sandglass controller in recovery pods, not by hand")
    })?;
    let settings: RecoverySettings = serde_json::from_str(&text).with_context(|| format!("failed to read {RECOVERY_VARIABLE}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the runtime")?;
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, serve(settings));
    // Not waiting for a thread that hangs: the deadline is the deadline.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: RecoverySettings) -> anyhow::Result<u8> {
    tracing::info!("started");
    let dialer = Dialer::new(&settings.certificate_authority)?;
    let deadline = Deadline::new(settings.expires_at, settings.remaining_seconds);
    let isolation = probe::start(settings.must_be_closed.clone(), probe::PATIENCE, dialer.reached());
    let keyholder = Rc::new(Keyholder::start(&key_request(&settings)).await.context("failed to start the keyholder")?);
    let (sender, readiness) = watch::channel(Readiness::Unknown);
    tokio::task::spawn_local(readiness::prepare(isolation, Rc::clone(&keyholder), sender));
    let machine = machine(&settings, &keyholder)?;
    client::start(&settings.links, &Rc::new(Client::new(dialer, settings.token_path.into(), readiness.clone(), machine)));
    let code = tokio::select! {
        () = deadline.passed() => 0,
        () = readiness::refused(readiness) => EXIT_REFUSED,
        () = keyholder.ended() => EXIT_NO_KEYS,
        () = stopped() => EXIT_STOPPED,
    };
    keyholder.close().await;
    Ok(code)
}

fn key_request(settings: &RecoverySettings) -> KeyRequest {
    KeyRequest {
        vault: settings.vault.clone(),
        vault_token_path: settings.vault_token_path.clone().into(),
        target: settings.target.key.clone(),
        hypervisor: settings.hypervisor.as_ref().map(|hypervisor| hypervisor.endpoint.key.clone()),
        socket: Path::new(&settings.run_folder).join("keys").join("agent.sock"),
    }
}

fn machine(settings: &RecoverySettings, keyholder: &Rc<Keyholder>) -> anyhow::Result<Machine> {
    let hypervisor = settings.hypervisor.as_ref().map(|hypervisor| {
        let place = place(ssh::HYPERVISOR, &hypervisor.endpoint)?;
        anyhow::Ok(Hypervisor { place, vm: hypervisor.vm.clone(), verbs: hypervisor.verbs.clone() })
    });
    Ok(Machine {
        place: place(ssh::MACHINE, &settings.target)?,
        hypervisor: hypervisor.transpose()?,
        keyholder: Rc::clone(keyholder),
        forwards: ssh::Forwards::default(),
    })
}

fn place(what: &'static str, endpoint: &Endpoint) -> anyhow::Result<Place> {
    let keys = endpoint.host_keys.iter().map(|line| russh::keys::PublicKey::from_openssh(line));
    let host_keys = keys.collect::<Result<_, _>>().with_context(|| format!("failed to read a host key of {what}"))?;
    Ok(Place { what, address: endpoint.address, user: endpoint.user.clone(), host_keys })
}

/// SIGTERM and SIGINT, which PID 1 only sees when it asks for them.
async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
}
