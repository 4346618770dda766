//! Messages on the control WebSocket: JSON text, one message a frame.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// From the gateway to the agent.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ToAgent {
    /// First message, and again when the set of replicas changes: dial all of these.
    Peers {
        /// Link addresses of every replica, this one included. Empty: unknown, keep what you have.
        addresses: Vec<SocketAddr>,
        /// This replica's own address: where its channels are dialled, since a Service's address leads to any replica.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        this: Option<SocketAddr>,
    },
    /// Dial a channel with this ticket and serve `start` on it.
    Open {
        /// Single-use, short-lived bearer of the channel.
        ticket: String,
        /// What to run.
        start: Start,
    },
    /// The user's channel is gone: kill what was started with this ticket, also when the channel's socket is stalled.
    Cancel {
        /// The ticket of the channel.
        ticket: String,
    },
}

/// From the agent to the gateway.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ToGateway {
    /// The isolation probe passed: serving.
    Ready,
    /// An address that must be closed stayed open: the agent refuses to serve and exits.
    NotIsolated {
        /// The address, `IP:port`.
        address: SocketAddr,
    },
    /// It cannot serve: not yet, or never.
    Held {
        /// Whether it will never, and ends.
        last: bool,
        /// In one word: a reason of the `Open` condition.
        reason: String,
        /// In words, with the cure; nothing secret.
        message: String,
    },
    /// A channel could not be started; its ticket will not be used.
    Refused {
        /// The ticket.
        ticket: String,
        /// Why, for the user: says what to do.
        message: String,
    },
}

/// What a channel is for.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Start {
    /// A process: shell, command or subsystem.
    Process(Process),
    /// `ssh -L`: a TCP connection from the pod.
    Connect {
        /// Host name or address, as the user gave it.
        host: String,
        /// Port.
        port: u16,
    },
    /// A power verb on the machine's hypervisor.
    Power {
        /// The word.
        verb: String,
    },
    /// The other side of a connection to the forwarded ssh-agent socket.
    AgentConnection {
        /// Number that the agent gave in [`super::frame::AGENT_CONNECTION`].
        connection: u64,
    },
}

/// A process in the pod.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// What to run.
    pub program: Program,
    /// Terminal, where the user asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// Variables the client sent and the gateway let through.
    pub environment: Vec<(String, String)>,
    /// Whether the process gets a socket to the user's ssh-agent.
    pub agent_forward: bool,
    /// Whether keystrokes are told that went into the terminal while its echo was on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keystrokes: bool,
}

/// What to run.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Program {
    /// The login shell.
    Shell,
    /// `sh -c COMMAND`.
    Command(String),
    /// The agent's own SFTP server.
    Sftp,
}

/// A pseudo-terminal (RFC 4254, 6.2).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Terminal {
    /// Value of TERM.
    pub name: String,
    /// Its size.
    pub size: Size,
    /// Encoded modes, opcode and argument (RFC 4254, 8), that both sides know.
    pub modes: Vec<(u8, u32)>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a process ended; the payload of [`super::frame::STATUS`].
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    /// Exit code.
    Code(u8),
    /// Killed by a signal: its number.
    Signal(u8),
    /// Could not be started: for the user.
    Failed(String),
}
