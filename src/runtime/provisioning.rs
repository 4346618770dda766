//! The wiring of `sandglass provision`: configuration in, a listener and the issuers' keys out.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::controller::read_configuration;
use super::{Health, Site, Supervisor, metrics, serve};
use crate::domain::provisioning::Provisioning;
use crate::kubernetes::connect;
use crate::kubernetes::time::Clock;
use crate::provisioning::keyring::Keyring;
use crate::provisioning::listener::{self, Certificate};
use crate::provisioning::metrics::Metrics;
use crate::provisioning::published::Published;
use crate::provisioning::sessions::Cluster;
use crate::provisioning::{Door, Parts};

/// How long requests may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(40);
/// How often the files of the certificate are read again.
const RELOAD: Duration = Duration::from_mins(1);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub configuration: PathBuf,
    /// Where jobs ask.
    pub listen: SocketAddr,
    /// Certificate chain and key, PEM; without, plain HTTP.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub health: SocketAddr,
}

/// One keyring per issuer, empty.
fn keyrings(provisioning: &Provisioning, metrics: &Metrics) -> anyhow::Result<BTreeMap<String, Arc<Keyring>>> {
    let keyring = |issuer| anyhow::Ok(Keyring::new(issuer, Box::new(Published::new(issuer)?), metrics.clone()));
    provisioning.issuers.iter().map(|issuer| Ok((issuer.name.clone(), keyring(issuer)?))).collect()
}

/// Runs the door until a signal.
///
/// # Errors
/// Anything that keeps it from starting, or a task that ended by itself.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let configuration = Arc::new(read_configuration(&options.configuration)?);
    let provisioning = configuration.provisioning.clone().with_context(|| {
        format!("{} has no part provisioning: say there whose tokens are believed, and what for", options.configuration.display())
    })?;
    let certificate = options.certificate.map(|(certificate, key)| Certificate::read(certificate, key)).transpose()?.map(Arc::new);
    let client = connect().await?;
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("failed to listen on {}: is the port taken?", options.listen))?;

    let mut supervisor = Supervisor::new();
    let shutdown = supervisor.shutdown();
    let health = Health::default();
    let listening = health.gate("listener bound");
    let mut registry = metrics::registry();
    let counters = Metrics::default();
    counters.register(&mut registry);
    let keyrings = keyrings(&provisioning, &counters)?;
    supervisor.spawn("health", serve(options.health, Site { health, registry, page: None }, shutdown.clone()));
    // An issuer that is away now may be there when a job comes: this keeps nobody from starting.
    for keyring in keyrings.values().map(Arc::clone) {
        tokio::spawn(async move { keyring.warm(Instant::now()).await });
    }
    if let Some(certificate) = certificate.clone() {
        let stop = shutdown.clone();
        supervisor.spawn("certificate", async move {
            loop {
                tokio::select! { () = stop.requested() => return Ok(()), () = tokio::time::sleep(RELOAD) => () }
                if let Err(error) = certificate.reload() {
                    tracing::warn!(%error, "the certificate was not read again: the one before stays in use");
                }
            }
        });
    }
    let door = Door::new(Parts {
        configuration,
        provisioning,
        keyrings,
        sessions: Arc::new(Cluster(client)),
        clock: Clock::system(),
        metrics: counters,
    });
    supervisor.spawn("door", async move {
        let stop = CancellationToken::new();
        let serving = listener::serve(listener, certificate, Arc::new(door), stop.clone());
        let stopped = async {
            shutdown.requested().await;
            stop.cancel();
        };
        listening.open();
        tokio::join!(serving, stopped);
        Ok(())
    });
    supervisor.run(DRAIN).await
}
