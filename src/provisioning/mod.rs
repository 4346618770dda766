//! The door for CI outside the cluster: a job shows the OIDC token of its CI system and gets a `DebugSession`, as the first matching
//! rule of the configuration says. Every request ends in one answer or one [`problem::Problem`]; nothing of a token reaches a log,
//! an object or an answer but its checked claims.
//!
//! A request goes through the files in this order: [`listener`], [`service`], `token`, [`keyring`] (the issuer's keys, from
//! [`published`]), `request`, `build`, [`sessions`], [`answer`]. May not: read anything but `DebugSessions`, or change one.

pub mod answer;
mod build;
pub mod keyring;
mod keys;
pub mod limits;
pub mod listener;
mod message;
pub mod metrics;
pub mod openapi;
mod origin;
pub mod problem;
pub mod published;
mod request;
pub mod service;
pub mod sessions;
mod token;

pub use service::{Door, Parts};
