//! The gateway's counters. Labels are closed sets: never a name, a user or a text.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How a connection's login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Login {
    /// Let in.
    Accepted,
    /// No right.
    Denied,
    /// Left, or never tried.
    Abandoned,
    /// Had to make room for others.
    Evicted,
    /// Not even heard: a penalised source.
    Penalised,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoginLabels {
    outcome: Login,
}

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Kind {
    /// A login shell.
    Shell,
    /// A command.
    Command,
    /// A power verb.
    Power,
    /// File transfer.
    Sftp,
    /// `ssh -L`.
    LocalForward,
    /// A connection to the user's ssh-agent.
    AgentForward,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelLabels {
    kind: Kind,
}

/// The gateway's counters.
#[derive(Clone, Default)]
pub struct Metrics {
    logins: Family<LoginLabels, Counter>,
    channels: Family<ChannelLabels, Counter>,
    /// Connections that are logged in.
    pub connections: Gauge,
    /// Bytes to users.
    pub bytes_out: Counter,
    /// Bytes from users.
    pub bytes_in: Counter,
    /// Connections that were cut by their session's end.
    pub cuts: Counter,
}

impl Metrics {
    /// Makes the counters known.
    pub fn register(&self, registry: &mut Registry) {
        // From the start, at zero: a rate needs the count before the first one.
        for outcome in [Login::Accepted, Login::Denied, Login::Abandoned, Login::Evicted, Login::Penalised] {
            drop(self.logins.get_or_create(&LoginLabels { outcome }));
        }
        for kind in [Kind::Shell, Kind::Command, Kind::Power, Kind::Sftp, Kind::LocalForward, Kind::AgentForward] {
            drop(self.channels.get_or_create(&ChannelLabels { kind }));
        }
        registry.register("sandglass_gateway_logins", "Connections by the outcome of their login", self.logins.clone());
        registry.register("sandglass_gateway_channels", "Channels opened, by kind", self.channels.clone());
        registry.register("sandglass_gateway_connections", "Connections that are logged in", self.connections.clone());
        registry.register("sandglass_gateway_bytes_to_users", "Bytes of output sent to users", self.bytes_out.clone());
        registry.register("sandglass_gateway_bytes_from_users", "Bytes of input taken from users", self.bytes_in.clone());
        registry.register(
            "sandglass_gateway_cuts",
            "Connections cut because their session ended or their access was taken away",
            self.cuts.clone(),
        );
    }

    /// Counts a login's outcome.
    pub fn login(&self, outcome: Login) {
        self.logins.get_or_create(&LoginLabels { outcome }).inc();
    }

    /// Counts a channel.
    pub fn channel(&self, kind: Kind) {
        self.channels.get_or_create(&ChannelLabels { kind }).inc();
    }
}
