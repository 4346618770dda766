//! What every process of Sandglass needs around its work: supervised tasks, shutdown, health, metrics, logs and leadership;
//! and the wiring of the controller.
//!
//! A process is put together like this:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use sandglass::runtime::{Health, Supervisor, metrics, serve};
//! use std::time::Duration;
//!
//! let mut supervisor = Supervisor::new();
//! let health = Health::default();
//! let mut registry = metrics::registry();
//! let listening = health.gate("listener bound"); // /readyz answers 503 until every gate is open
//! let shutdown = supervisor.shutdown(); // resolves at the first SIGTERM or SIGINT; clones freely
//! supervisor.spawn("health", serve("0.0.0.0:8080".parse()?, Site { health: health.clone(), registry, page: None }, shutdown.clone()));
//! supervisor.spawn("gateway", async move {
//!     listening.open();
//!     shutdown.requested().await; // then drain, and return
//!     Ok(())
//! });
//! supervisor.run(Duration::from_secs(20)).await // Err, so a non-zero exit, if a task ends before it was asked to
//! # }
//! ```

pub mod controller;
pub mod gateway;
mod health;
mod http;
mod leader;
pub mod logs;
pub mod metrics;
pub mod provisioning;
mod shutdown;
mod supervisor;

pub use health::{Gate, Health};
pub use http::{Site, serve};
pub use leader::{Leadership, while_leading};
pub use shutdown::Shutdown;
pub use supervisor::{SupervisionError, Supervisor};
