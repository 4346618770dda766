//! The SSH front: who gets in, what they may do, and when they are cut. It knows sessions from the [`directory`] and pods
//! from the link's registry, and touches neither pods nor Kubernetes itself.

pub mod admission;
pub mod channel;
pub mod connection;
pub mod directory;
pub mod handler;
pub mod inbox;
pub mod keys;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod output;
pub mod power;
pub mod power_once;
mod program;
pub mod report;
pub mod sight;
pub mod socket;
mod waiting;
pub mod watch;

use crate::domain::configuration::Configuration;
use crate::link::registry::Registry;
use crate::recording::archive::Archive;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Exit status of a channel that was cut because its session ended or its access was taken away.
pub const EXIT_CUT: u32 = 124;
/// Exit status of a channel whose process could not be started.
pub const EXIT_NOT_STARTED: u32 = 126;

/// What every connection of one replica shares.
pub struct Gateway {
    /// The configuration.
    pub configuration: Arc<Configuration>,
    /// The sessions.
    pub directory: Arc<directory::Directory>,
    /// The linked pods.
    pub registry: Arc<Registry>,
    /// Limits before login.
    pub limits: Arc<limits::Limits>,
    /// What goes into the objects' status.
    pub reports: report::Reports,
    /// What input that nobody took may use.
    pub budget: Arc<inbox::Budget>,
    /// Where everything is recorded; `None` where the configuration says that nothing is.
    pub archive: Option<Arc<Archive>>,
    /// Counters.
    pub metrics: metrics::Metrics,
    /// Cancelled when this replica is to stop: its connections are ended with a message.
    pub drain: CancellationToken,
    /// What a connection that is cut is given.
    pub farewell: watch::Farewell,
    /// The clock.
    pub now: fn() -> DateTime<Utc>,
}

impl Gateway {
    /// Returns when no connection is logged in any more, and everything that was shown is stored.
    pub async fn connections_ended(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while self.metrics.connections.get() > 0 {
            tick.tick().await;
        }
        if let Some(archive) = &self.archive {
            archive.closed().await;
        }
    }
}
