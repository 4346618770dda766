//! The wiring of `sandglass controller`: configuration and files in, tasks out.

use anyhow::{Context as _, ensure};
use kube::runtime::reflector;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Health, Leadership, Site, Supervisor, metrics, serve, while_leading};
use crate::debug_session::{self, Context, Metrics, Settings};
use crate::domain::configuration::Configuration;
use crate::kubernetes::time::Clock;
use crate::kubernetes::{Recorder, connect, connect_for_lease};
use crate::sweeper::Sweeper;

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
    let session_metrics = Metrics::register(&mut registry);
    let leadership = Leadership::register(&mut registry, options.namespace, LEASE.into(), options.identity.clone());
    let listed = health.gate("first list of sessions");
    let recorder = Recorder::new(client.clone(), crate::api::names::CONTROLLER_MANAGER, Some(options.identity));

    supervisor.spawn("health", serve(options.health, Site { health, registry, page: None }, shutdown.clone()));
    let sweeper = Sweeper {
        client: client.clone(),
        namespace: settings.configuration.debug_namespace.clone(),
        cap: settings.configuration.ttl_cap(),
        clock: Clock::system(),
    };
    let stop = shutdown.clone();
    supervisor.spawn("sweeper", async move {
        tokio::select! {
            () = stop.requested() => {}
            () = sweeper.run() => {}
        }
        Ok(())
    });
    supervisor.spawn("debug-session", async move {
        let standing_by = listed.clone();
        let work = || {
            let (store, writer) = reflector::store();
            let context = Context::new(client.clone(), store, settings.clone(), Clock::system(), recorder.clone(), session_metrics.clone());
            let (listed, stop) = (listed.clone(), shutdown.clone());
            async move {
                debug_session::run(Arc::new(context), writer, move || listed.open(), async move { stop.requested().await }).await;
                Ok(())
            }
        };
        while_leading(lease_client, &leadership, shutdown.clone(), move || standing_by.open(), work).await
    });
    supervisor.run(DRAIN).await
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
