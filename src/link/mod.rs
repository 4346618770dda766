//! The link between a pod's agent and the gateway. Both ends share what is here: the messages, the frames, and the
//! settings an agent starts with. No policy, no SSH, no Kubernetes.

pub mod client;
pub mod frame;
pub mod message;
pub mod read_ahead;
pub mod record;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
pub mod settings;
#[cfg(feature = "server")]
pub mod signals;
pub mod socket;
#[cfg(feature = "server")]
pub mod tls;

/// Path of the control WebSocket: one per agent and gateway replica. The version is that of both paths: who speaks another is refused here, and
/// not when a user comes.
pub const CONTROL_PATH: &str = "/link/v2/control";
/// Path of a channel: one per SSH channel.
pub const CHANNEL_PATH: &str = "/link/v2/channel";
/// What a channel's connection is upgraded to: see [`socket`].
pub const CHANNEL_PROTOCOL: &str = "sandglass-channel";

/// What TLS encrypts before it waits for the network, at most: a whole frame has room.
const WRITE_BUFFER: usize = 2 * frame::FULL;

/// Finds out about a peer whose machine is gone: its socket would otherwise stay open, and whoever waits for it with it.
pub fn keep_alive(stream: &tokio::net::TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    use std::time::Duration;
    let _ = stream.set_nodelay(true);
    let _ = set_socket_keepalive(stream, true);
    let _ = set_tcp_keepidle(stream, Duration::from_secs(15));
    let _ = set_tcp_keepintvl(stream, Duration::from_secs(5));
    let _ = set_tcp_keepcnt(stream, 3);
}

/// The link's cryptography: TLS 1.3, AES with the shorter key first. Everything passes it twice, and in bulk that is what there is to save.
#[must_use]
pub fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    use rustls::crypto::ring::{cipher_suite, default_provider};
    let cipher_suites =
        vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    std::sync::Arc::new(rustls::crypto::CryptoProvider { cipher_suites, ..default_provider() })
}

/// TLS server name of the gateway's link port: fixed, so that swapping the address gains nothing.
pub const SERVER_NAME: &str = "link.sandglass.internal";
