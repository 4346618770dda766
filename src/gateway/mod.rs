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
pub mod report;
pub mod socket;
mod waiting;

use crate::domain::configuration::Configuration;
use crate::link::registry::Registry;
use chrono::{DateTime, Utc};
use std::sync::Arc;

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
    /// Counters.
    pub metrics: metrics::Metrics,
    /// The clock.
    pub now: fn() -> DateTime<Utc>,
}
