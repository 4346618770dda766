//! The wiring of `sandglass gateway`: configuration and keys in, listeners and watches out.

mod feed;
mod ledger;
pub mod page;
mod peers;
mod reporter;

use anyhow::Context as _;
use backon::ExponentialBuilder;
use chrono::Utc;
use futures::{Stream, TryStreamExt as _};
use kube::runtime::watcher::ExponentialBackoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::page::Shown;
use super::controller::read_configuration;
use super::{Health, Site, Supervisor, metrics, serve};
use crate::api::names::LINK_AUDIENCE;
use crate::api::{BreakglassVM, DebugSession};
use crate::domain::configuration::Configuration;
use crate::gateway::admission::{Admission, TokenReviewer};
use crate::gateway::directory::Directory;
use crate::gateway::keys::{HOST_KEY, LINK_CA, LINK_CA_KEY, RECORDING_KEY, read, read_key};
use crate::gateway::limits::Limits;
use crate::gateway::metrics::Metrics;
use crate::gateway::report::Reports;
use crate::gateway::watch::Farewell;
use crate::gateway::{Gateway, listener, power_once};
use crate::kubernetes::connect;
use crate::kubernetes::token_review::pod_of_token;
use crate::link::registry::Registry;
use crate::link::server::Refusal;
use crate::link::{server, tls};
use crate::page::{Page, Settings};
use crate::recording::archive::{Archive, PATIENCE, Setup};
use crate::{recording, store};

/// A watch that says nothing for so long is begun anew: a connection may die without a word.
const WATCH_SECONDS: u32 = 60;
/// How long connections may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(45);

/// A watch that is begun anew for ever, after a pause. Its events are without `Init`, which comes before each list and would pass
/// for a success: the pauses would not grow. Logins wait for the next list: the longest pause, at most twice as long by its jitter,
/// stays below [`directory::BEHIND`](crate::gateway::directory::BEHIND).
fn watched<K>(api: Api<K>, configuration: watcher::Config) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100)).with_max_delay(Duration::from_secs(2));
    let pauses: ExponentialBackoff = pauses.with_jitter().without_max_times().into();
    let events = watcher(api, configuration.timeout(WATCH_SECONDS));
    events.try_filter(|event| std::future::ready(!matches!(event, watcher::Event::Init))).backoff(pauses)
}

/// What the command line and the environment say.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub configuration: PathBuf,
    /// Folder with the host key and the link CA.
    pub keys: PathBuf,
    /// Where users come in.
    pub ssh: SocketAddr,
    /// Where agents link.
    pub link: SocketAddr,
    /// Address of this replica as agents see it; the port is the link's.
    pub advertise: Option<IpAddr>,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub health: SocketAddr,
    /// Namespace of the gateway, where its replicas are looked up.
    pub namespace: String,
    /// Name of this replica, in recordings.
    pub name: String,
}

/// The archive, where recording is required.
fn archive(
    configuration: &Configuration,
    keys: &Path,
    name: &str,
    metrics: recording::metrics::Metrics,
) -> anyhow::Result<Option<Arc<Archive>>> {
    let Some(store) = configuration.recording.required() else { return Ok(None) };
    let setup = Setup {
        bucket: store::open(store)?,
        address: store.address(),
        prefix: configuration.recording.prefix.clone(),
        // Two processes never share it, not even those of one pod.
        replica: format!("{name}-{}", listener::identifier()),
        key: read_key(keys, RECORDING_KEY)?,
        patience: PATIENCE,
        metrics,
        now: Utc::now,
    };
    Ok(Some(Archive::new(setup)))
}

/// Asks the API server.
struct Reviewer(kube::Client);

impl TokenReviewer for Reviewer {
    async fn review(&self, token: &str) -> Result<String, Refusal> {
        match pod_of_token(&self.0, LINK_AUDIENCE, token).await {
            Ok(Some(pod)) => Ok(pod),
            Ok(None) => Err(Refusal::Denied("the token is not one of a session's pod, or no longer valid".into())),
            Err(failure) => {
                tracing::warn!(%failure, category = failure.category().as_str(), "a token could not be reviewed");
                Err(Refusal::Unavailable("the API server cannot be asked about the token".into()))
            }
        }
    }
}

/// The web page, where the configuration has one.
fn page(gateway: &Arc<Gateway>) -> Option<Page<Shown>> {
    let configured = gateway.configuration.page.clone()?;
    let settings = Settings { identity_header: configured.identity_header, proxies: configured.proxies };
    let recordings = gateway.archive.as_ref().map(|archive| (archive.library(), archive.public_key().clone()));
    Some(Page::new(settings, Shown { gateway: Arc::clone(gateway), recordings, turn: tokio::sync::Mutex::default() }))
}

/// Runs the gateway until a signal.
///
/// # Errors
/// Anything that keeps it from starting, or a task that ended by itself.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let configuration = Arc::new(read_configuration(&options.configuration)?);
    let host_key = read_key(&options.keys, HOST_KEY)?;
    let acceptor = tls::acceptor(&read(&options.keys.join(LINK_CA))?, &read(&options.keys.join(LINK_CA_KEY))?)?;
    let client = connect().await?;
    let ssh = TcpListener::bind(options.ssh).await.with_context(|| format!("failed to listen on {}", options.ssh))?;
    let link = TcpListener::bind(options.link).await.with_context(|| format!("failed to listen on {}", options.link))?;

    let mut supervisor = Supervisor::new();
    let shutdown = supervisor.shutdown();
    let health = Health::default();
    let mut registry = metrics::registry();
    let recorded = recording::metrics::Metrics::default();
    recorded.register(&mut registry);
    let archive = archive(&configuration, &options.keys, &options.name, recorded)?;
    let (reports, received) = Reports::new();
    let gateway = Arc::new(Gateway {
        limits: Arc::new(Limits::new(configuration.login.clone())),
        configuration,
        directory: Arc::new(Directory::default()),
        registry: Arc::new(Registry::new(options.advertise.map(|address| SocketAddr::new(address, options.link.port())))),
        reports,
        budget: Arc::default(),
        archive: archive.clone(),
        metrics: Metrics::default(),
        drain: CancellationToken::new(),
        farewell: Farewell::default(),
        now: Utc::now,
    });
    gateway.metrics.register(&mut registry);

    let listed = health.gate("first list of sessions");
    let recoveries_listed = health.gate("first list of recoveries");
    supervisor.spawn("health", serve(options.health, Site { health, registry, page: page(&gateway) }, shutdown.clone()));
    let until_shutdown = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let stop = shutdown.clone();
        async move {
            tokio::select! { () = stop.requested() => (), () = task => () }
            Ok(())
        }
    };
    let sessions = feed::sessions::<DebugSession>(client.clone(), Arc::clone(&gateway.directory), listed);
    supervisor.spawn("sessions", until_shutdown(Box::pin(sessions)));
    let recoveries = feed::sessions::<BreakglassVM>(client.clone(), Arc::clone(&gateway.directory), recoveries_listed);
    supervisor.spawn("recoveries", until_shutdown(Box::pin(recoveries)));
    supervisor.spawn("peers", until_shutdown(Box::pin(peers::watch(client.clone(), options.namespace, Arc::clone(&gateway.registry)))));
    let power = power_once::run(Arc::clone(&gateway), Arc::new(ledger::Status(client.clone())));
    supervisor.spawn("power", until_shutdown(Box::pin(power)));
    let admission = Arc::new(Admission::new(Arc::clone(&gateway), Reviewer(client.clone())));
    let links = server::serve(link, acceptor, Arc::clone(&gateway.registry), admission);
    supervisor.spawn("links", until_shutdown(Box::pin(links)));
    if let Some(archive) = archive {
        // Until the last recording is stored: a replica that gives no sign while it drains would be taken for dead.
        let (stop, draining) = (shutdown.clone(), Arc::clone(&gateway));
        supervisor.spawn("recordings", async move {
            let drained = async {
                stop.requested().await;
                draining.connections_ended().await;
            };
            tokio::select! { () = drained => (), () = recording::seal::keep(&archive) => () }
            Ok(())
        });
    }
    let stop = shutdown.clone();
    let connections = Arc::clone(&gateway);
    supervisor.spawn("reports", async move {
        // Reports of connections that end while draining are still written.
        let drained = async {
            stop.requested().await;
            connections.connections_ended().await;
        };
        reporter::write(client, received, drained).await;
        Ok(())
    });
    supervisor.spawn("ssh", async move {
        let stop = CancellationToken::new();
        let accepting = listener::serve(ssh, Arc::new(listener::configuration(host_key)), Arc::clone(&gateway), stop);
        tokio::select! { () = accepting => (), () = shutdown.requested() => () }
        gateway.drain.cancel();
        gateway.connections_ended().await;
        Ok(())
    });
    supervisor.run(DRAIN).await
}
