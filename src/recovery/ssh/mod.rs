//! A machine reached by SSH: what the gateway asks of a recovery pod is done there, one connection a channel, so that a stalled channel
//! never stops its neighbours. Knows no policy, no Vault and no private key: signatures come from the key holder's ssh-agent socket.

mod command;
mod connect;
mod error;
mod forward;
mod handler;
mod identity;
mod line;
mod pump;
mod signals;
mod start;
mod tunnel;

pub use super::keyholder::Identity;
pub use command::{CommandStream, Piece};
pub use connect::{Connection, connect};
pub use error::ConnectError;
pub use forward::{AgentChannel, Forwards};
pub use tunnel::Tunnel;

use russh::keys::PublicKey;
use std::net::SocketAddr;

/// The name of the broken machine in texts for the user.
pub const MACHINE: &str = "the machine";
/// The name of its hypervisor.
pub const HYPERVISOR: &str = "the hypervisor";

/// Where to connect, and whom to meet there.
#[derive(Clone, Debug)]
pub struct Place {
    /// [`MACHINE`] or [`HYPERVISOR`]: what texts for the user call it.
    pub what: &'static str,
    /// Its SSH server. No names are looked up.
    pub address: SocketAddr,
    /// The account.
    pub user: String,
    /// The host keys it may show; any other is refused.
    pub host_keys: Vec<PublicKey>,
}
