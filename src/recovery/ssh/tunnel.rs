//! `ssh -L` by way of the machine: a TCP connection that it makes for the user.

use super::Connection;
use super::pump::{Reader, bridge};
use super::signals::printable;
use crate::link::client::Socket;
use russh::client::Msg;
use russh::{ChannelOpenFailure, ChannelWriteHalf};
use std::time::Duration;

/// How long the machine may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A TCP connection from the machine.
pub struct Tunnel {
    reader: Reader,
    write: ChannelWriteHalf<Msg>,
    connection: Connection,
}

impl Connection {
    /// Connects from the machine to `host:port`, as it knows them.
    ///
    /// # Errors
    /// A text for the user.
    pub async fn connect_to(self, host: &str, port: u16) -> Result<Tunnel, String> {
        let failed = |reason: &str| format!("failed to connect to {}:{port} from {}: {reason}", printable(host), self.what);
        match tokio::time::timeout(CONNECT_LIMIT, self.direct_tcpip(host, port)).await {
            Ok(Ok((reader, write))) => Ok(Tunnel { reader, write, connection: self }),
            Ok(Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited))) => {
                Err(failed(&format!("it allows none ({}); AllowTcpForwarding and PermitOpen in its sshd_config", self.refusal().await)))
            }
            Ok(Err(russh::Error::ChannelOpenFailure(_))) => Err(failed(&self.refusal().await)),
            Ok(Err(_)) => Err(self.lost().to_string()),
            Err(_) => Err(failed(&format!("no answer within {} s", CONNECT_LIMIT.as_secs()))),
        }
    }
}

impl Tunnel {
    /// Bytes both ways with half-closes, until either side is done.
    pub async fn bridge(self, socket: Socket) {
        tokio::select! {
            () = bridge(socket, self.reader, &self.write) => {}
            _ = self.connection.silence() => {}
        }
    }
}
