//! Sandglass: access that exists for half an hour and then is gone.
//!
//! The rooms, from top to bottom; an upper one may use a lower one, never the reverse and never sideways:
//! `runtime` and `cli`, the controllers (`debug_session`, `breakglass_vm`, `sweeper`; `lifecycle` is what they share), the data path (`gateway`, `link`, `agent`), `page`, `provisioning`, `recording`,
//! `kubernetes` and `store` (the adapters), `domain` and `api` (pure).

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod breakglass_vm;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod debug_session;
#[cfg(feature = "server")]
pub mod domain;
#[cfg(feature = "server")]
pub mod gateway;
#[cfg(feature = "server")]
pub mod kubernetes;
#[cfg(feature = "server")]
pub mod lifecycle;
pub mod link;
#[cfg(feature = "server")]
pub mod page;
#[cfg(feature = "power")]
pub mod power;
#[cfg(feature = "server")]
pub mod provisioning;
#[cfg(feature = "server")]
pub mod recording;
#[cfg(feature = "server")]
pub mod recovery;
#[cfg(feature = "server")]
pub mod runtime;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod sweeper;
#[cfg(feature = "server")]
pub mod vault;
