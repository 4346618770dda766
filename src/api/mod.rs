//! The types users write and read, and the names Sandglass puts on objects.
//! No client and no IO: what is here is the contract, as `crds/` publishes it.

pub mod conditions;
pub mod debug_session;
pub mod names;

#[cfg(test)]
mod debug_session_tests;

pub use debug_session::{DebugSession, DebugSessionSpec, DebugSessionStatus};
