//! What the controllers of both kinds share: who an object is, when it ends, where its pod is, how all that is told, and the
//! driver that hands out objects one pass at a time. Nothing here knows what is in a pod, or why.

pub mod apply;
mod backoff;
pub mod context;
pub mod end;
mod error;
pub mod identity;
pub mod look;
mod metrics;
pub mod observe;
pub mod orphans;
pub mod pod;
pub mod pod_state;
pub mod report;
mod run;
pub mod status;

#[cfg(test)]
pub(crate) mod fake;

pub use context::{Base, Guarded, Settings};
pub use end::{Cause, Ending};
pub use error::Error;
pub use identity::Identity;
pub use metrics::{Metrics, Passes};
pub use pod_state::PodState;
pub use run::{Driver, run};
