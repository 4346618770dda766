//! The whole controller against an API server in memory.

mod golden;
pub(crate) mod life;
mod world;
