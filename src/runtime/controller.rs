//! The wiring of `sandglass controller`: configuration and files in, tasks out.

use anyhow::{Context as _, ensure};
use kube::Client;
use kube::runtime::reflector;
use kube::runtime::reflector::store::Writer;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Gate, Health, Leadership, Shutdown, Site, Supervisor, metrics, serve, while_leading};
use crate::api::session::Session;
use crate::api::{BreakglassVM, DebugSession, names};
use crate::domain::configuration::Configuration;
use crate::kubernetes::time::Clock;
use crate::kubernetes::{Recorder, connect, connect_for_lease};
use crate::lifecycle::{self, Base, Driver, Guarded, Metrics, Passes, Settings};
use crate::sweeper::Sweeper;
use crate::{breakglass_vm, debug_session};

/// How long the passes under way may take after a signal.
const DRAIN: Duration = Duration::from_secs(15);
const LEASE: &str = "sandglass-controller";

/// What the command line and the environment say.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub configuration: PathBuf,
    /// Folder with `link-ca.crt` and `ssh_host_ed25519_key.pub`.
    pub public_directory: PathBuf,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub health: SocketAddr,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of this replica.
    pub identity: String,
    /// Address of the gateway's link port from the environment, where the configuration names none.
    pub link: Option<SocketAddr>,
    /// The API server as pods see it.
    pub api_server: Option<SocketAddr>,
}

/// Runs the controller until a signal.
///
/// # Errors
/// Anything that keeps it from starting, or a task that ended by itself.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let settings = settings(&options)?;
    let client = connect().await?;
    let lease_client = connect_for_lease().await?;
    let mut supervisor = Supervisor::new();
    let shutdown = supervisor.shutdown();
    let health = Health::default();
    let mut registry = metrics::registry();
    let passes = Passes::register(&mut registry);
    let session_metrics = Metrics::register(&mut registry, DebugSession::KIND, "debug_sessions", &passes);
    let recovery_metrics = Metrics::register(&mut registry, BreakglassVM::KIND, "breakglass_vms", &passes);
    let leadership = Leadership::register(&mut registry, options.namespace, LEASE.into(), options.identity.clone());
    let listed = health.gate("first list of sessions");
    let recoveries_listed = health.gate("first list of recoveries");
    let recorder = Recorder::new(client.clone(), names::CONTROLLER_MANAGER, Some(options.identity));

    supervisor.spawn("health", serve(options.health, Site { health, registry, page: None }, shutdown.clone()));
    let configuration = &settings.configuration;
    for namespace in [&configuration.debug_namespace, &configuration.vm_namespace] {
        let (client, cap) = (client.clone(), configuration.ttl_cap());
        let sweeper = Sweeper { client, namespace: namespace.clone(), cap, clock: Clock::system() };
        let stop = shutdown.clone();
        supervisor.spawn("sweeper", async move {
            tokio::select! {
                () = stop.requested() => {}
                () = sweeper.run() => {}
            }
            Ok(())
        });
    }
    supervisor.spawn("controllers", async move {
        let gates = [listed.clone(), recoveries_listed.clone()];
        let work = || {
            let parts = Parts { client: client.clone(), settings: settings.clone(), recorder: recorder.clone() };
            let configuration = &settings.configuration;
            let sessions = parts.clone().base(&configuration.debug_namespace, session_metrics.clone());
            let recoveries = parts.base(&configuration.vm_namespace, recovery_metrics.clone());
            let sessions = work(sessions, debug_session::Context::new, listed.clone(), shutdown.clone());
            let recoveries = work(recoveries, breakglass_vm::Context::new, recoveries_listed.clone(), shutdown.clone());
            async move {
                tokio::join!(sessions, recoveries);
                Ok(())
            }
        };
        Box::pin(while_leading(lease_client, &leadership, shutdown.clone(), move || gates.iter().for_each(Gate::open), work)).await
    });
    supervisor.run(DRAIN).await
}

/// What every controller is made of.
#[derive(Clone)]
struct Parts {
    client: Client,
    settings: Settings,
    recorder: Recorder,
}

impl Parts {
    /// The base of one controller, and what fills its cache.
    fn base<S: Session>(self, namespace: &str, metrics: Metrics) -> (Base<S>, Writer<Guarded<S>>) {
        let (store, writer) = reflector::store();
        let Self { client, settings, recorder } = self;
        (Base::new(client, store, namespace.to_owned(), settings, Clock::system(), recorder, metrics), writer)
    }
}

/// One controller at work.
async fn work<D: Driver>(
    (base, writer): (Base<D::Session>, Writer<Guarded<D::Session>>),
    context: impl FnOnce(Base<D::Session>) -> D,
    listed: Gate,
    stop: Shutdown,
) {
    lifecycle::run(Arc::new(context(base)), writer, move || listed.open(), async move { stop.requested().await }).await;
}

/// Reads a configuration file.
///
/// # Errors
/// One line that names the file, and the field where it is about one.
pub fn read_configuration(path: &Path) -> anyhow::Result<Configuration> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read the configuration {}", path.display()))?;
    Configuration::parse(&text).with_context(|| format!("the configuration {} is refused", path.display()))
}

fn settings(options: &Options) -> anyhow::Result<Settings> {
    let configuration = read_configuration(&options.configuration)?;
    let read = |name: &str| {
        let path = options.public_directory.join(name);
        std::fs::read_to_string(&path).with_context(|| {
            format!(
                "failed to read {}: `sandglass install-keys` makes it; is the ConfigMap sandglass-public mounted there?",
                path.display()
            )
        })
    };
    let link_certificate_authority = read("link-ca.crt")?;
    ensure!(link_certificate_authority.contains("-----BEGIN CERTIFICATE-----"), "link-ca.crt holds no certificate in PEM format");
    let host_keys: Vec<String> =
        read("ssh_host_ed25519_key.pub")?.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    for key in &host_keys {
        russh::keys::PublicKey::from_openssh(key).context("ssh_host_ed25519_key.pub holds a line that is no OpenSSH public key")?;
    }
    let link = configuration.gateway.link.or(options.link).context(
        "the address of the gateway's link port is not known: set gateway.link in the configuration, or create the Service \
         sandglass-gateway-link before the controller starts",
    )?;
    let must_be_closed = options.api_server.into_iter().chain(configuration.sessions.must_be_closed.iter().copied()).collect();
    Ok(Settings { configuration, links: vec![link], link_certificate_authority, host_keys, must_be_closed })
}
