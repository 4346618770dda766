//! The link between a pod's agent and the gateway. Both ends share what is here: the messages, the frames, and the
//! settings an agent starts with. No policy, no SSH, no Kubernetes.

pub mod frame;
pub mod message;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
pub mod settings;
#[cfg(feature = "server")]
pub mod tls;

/// Path of the control WebSocket: one per agent and gateway replica.
pub const CONTROL_PATH: &str = "/link/v1/control";
/// Path of a channel's WebSocket: one per SSH channel.
pub const CHANNEL_PATH: &str = "/link/v1/channel";
/// TLS server name of the gateway's link port: fixed, so that swapping the address gains nothing.
pub const SERVER_NAME: &str = "link.sandglass.internal";
