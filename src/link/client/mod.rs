//! The pod's end of the link: dials the gateways, keeps linked, proves isolation, knows the end. What is served on the link is
//! the caller's business: see [`Serve`].

pub mod control;
pub mod deadline;
pub mod dial;
pub mod probe;

pub use super::socket::Socket;
pub use control::{Client, Serve, start};
pub use dial::{BadCertificate, Dialer};

use std::net::SocketAddr;

/// Whether the pod can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not known yet.
    Unknown,
    /// Everything that must be closed is, and everything that is needed is there.
    Ready,
    /// This address must be closed and is open.
    NotIsolated(SocketAddr),
    /// Something is missing.
    Held {
        /// It will never come.
        last: bool,
        /// In one word: a reason of the `Open` condition.
        reason: String,
        /// In words, with the cure.
        message: String,
    },
}
