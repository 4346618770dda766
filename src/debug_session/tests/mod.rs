//! The whole controller against an API server in memory.

mod golden;
mod life;
mod refusals;
mod rights;
mod robustness;
pub(crate) mod world;
