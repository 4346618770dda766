//! Leadership by a Lease: one replica works, the others stand by. A replica that loses the Lease stops at once, in the middle
//! of whatever it does (all of which can be interrupted anywhere); one that exits gives it back, so that the next begins
//! within a second.

use anyhow::Context as _;
use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Shutdown;

/// Seconds a Lease is good for without renewal; a dead leader is missed for this long.
const DURATION: u64 = 15;
/// Seconds before its end at which the leader renews.
const GRACE: u64 = 5;

/// Which Lease, and as whom.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who asks: the pod's name.
    pub identity: String,
    gauge: Gauge,
}

impl Leadership {
    /// Also registers the gauge `sandglass_leader`.
    #[must_use]
    pub fn register(registry: &mut Registry, namespace: String, name: String, identity: String) -> Self {
        let gauge = Gauge::default();
        registry.register("sandglass_leader", "1 while this replica leads", gauge.clone());
        Self { namespace, name, identity, gauge }
    }
}

/// Runs `work` whenever this replica leads, from the beginning each time, until `shutdown`; then lets it finish and gives the
/// Lease back. `standby` is called whenever another one leads.
///
/// # Errors
/// The Lease cannot be read or created; or `work` returned before it was asked to.
pub async fn while_leading<Work>(
    client: Client,
    leadership: &Leadership,
    shutdown: Shutdown,
    standby: impl Fn(),
    work: impl Fn() -> Work,
) -> anyhow::Result<()>
where
    Work: Future<Output = anyhow::Result<()>>,
{
    let manager = LeaseManagerBuilder::new(client, &leadership.name)
        .with_namespace(&leadership.namespace)
        .with_identity(&leadership.identity)
        // One writer per replica: the API server refuses a second holder as a conflict.
        .with_field_manager(format!("sandglass-{}", leadership.identity))
        .with_duration(DURATION)
        .with_grace(GRACE)
        .build()
        .await
        .context("failed to read or create the Lease: does the ServiceAccount have its Role in this namespace?")?;
    let (mut leads, task) = manager.watch().await;
    loop {
        let leading = *leads.borrow_and_update();
        leadership.gauge.set(i64::from(leading));
        if leading {
            tracing::info!(lease = leadership.name, "leading");
            tokio::select! {
                finished = work() => {
                    finished?;
                    anyhow::ensure!(shutdown.is_requested(), "the leader's work ended by itself");
                    break;
                }
                // Dropping the work is what stops the writers.
                changed = leads.changed() => changed.context("the Lease is not looked after any more")?,
            }
            tracing::warn!(lease = leadership.name, "not leading any more");
        } else {
            standby();
            tokio::select! {
                () = shutdown.requested() => break,
                changed = leads.changed() => changed.context("the Lease is not looked after any more")?,
            }
        }
    }
    leadership.gauge.set(0);
    // Nobody listens any more: the manager gives the Lease back and ends.
    drop(leads);
    match task.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the Lease was not given back; it runs out by itself");
            Ok(())
        }
        Err(error) => Err(error).context("the task that looks after the Lease panicked"),
    }
}
