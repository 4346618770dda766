//! The types users write and read, and the names Sandglass puts on objects.
//! No client and no IO: what is here is the contract, as `crds/` publishes it.

pub mod breakglass_vm;
pub mod conditions;
pub mod debug_session;
pub mod names;
pub mod session;

#[cfg(test)]
mod schema_tests;

pub use breakglass_vm::{BreakglassVM, BreakglassVMSpec, BreakglassVMStatus};
pub use debug_session::{DebugSession, DebugSessionSpec, DebugSessionStatus};
pub use session::AnySession;
