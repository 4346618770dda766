//! The whole controller against an API server in memory.

pub(crate) mod fake;
mod golden;
mod life;
mod refusals;
mod rights;
mod robustness;
pub(crate) mod world;
