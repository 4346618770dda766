//! Why a machine could not be reached: texts for the user, which say what to do.

use super::{MACHINE, Place};
use std::net::SocketAddr;
use std::time::Duration;

/// Limit for the TCP connection.
pub(super) const TCP_LIMIT: Duration = Duration::from_secs(10);
/// Limit for the SSH server's first byte: the library waits for ever.
pub(super) const BANNER_LIMIT: Duration = Duration::from_secs(10);
/// Limit for everything up to the end of the login.
pub(super) const WHOLE_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no session on the machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens.
    #[error("{what} at {address} refuses connections: is its SSH server running, and is this its port?{}", hint(what))]
    Refused {
        /// What is meant.
        what: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// No answer on TCP.
    #[error("{what} at {address} accepts no connections (nothing within {} s): it may be wedged, or a firewall drops them{}", TCP_LIMIT.as_secs(), hint(what))]
    Silent {
        /// What is meant.
        what: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// The network says no.
    #[error("failed to reach {what} at {address}: {reason}; check the address and the pod's network policy{}", hint(what))]
    Unreachable {
        /// What is meant.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
    /// TCP is accepted by the kernel, and nobody speaks.
    #[error(
        "{what} at {address} accepts connections, but its SSH server said nothing within {} s: it may be wedged{}",
        BANNER_LIMIT.as_secs(),
        hint(what)
    )]
    NoBanner {
        /// What is meant.
        what: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// It began and did not come to an end.
    #[error("{what} at {address} did not finish the login within {} s: it may be overloaded; try again{}", WHOLE_LIMIT.as_secs(), hint(what))]
    Slow {
        /// What is meant.
        what: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// A key that is not pinned. Nothing was said of who wants to log in.
    #[error(
        "{what} at {address} shows the host key {got}, expected {}: it was reinstalled, or this is another machine; if the new key is right, \
         put it in the object's host keys and open a new session",
        listed(expected)
    )]
    HostKey {
        /// What is meant.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Fingerprints of the pinned keys, `SHA256:…`.
        expected: Vec<String>,
        /// Fingerprint of its key.
        got: String,
    },
    /// Nothing in common, or no SSH.
    #[error("failed to agree with {what} at {address} on an encrypted connection: {reason}")]
    Handshake {
        /// What is meant.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The library's words.
        reason: String,
    },
    /// The login was refused.
    #[error(
        "{what} does not take the key for user {user}: is its public half in authorized_keys, or the CA in TrustedUserCAKeys and {user} among the \
         certificate's principals?{}",
        if *more { " It took the key, but wants another login step, which there is none for" } else { "" }
    )]
    Denied {
        /// What is meant.
        what: &'static str,
        /// The account.
        user: String,
        /// The key was taken, and more is wanted.
        more: bool,
    },
    /// The key holder gives no signature.
    #[error("failed to sign the login at {what}: the pod's key holder says: {reason}")]
    NotSigned {
        /// What is meant.
        what: &'static str,
        /// Its words.
        reason: String,
    },
    /// The connection ended.
    #[error("the connection to {what} broke: {reason}")]
    Lost {
        /// What is meant.
        what: &'static str,
        /// How.
        reason: String,
    },
    /// The session or its command was refused after the login.
    #[error("{what} refuses {request}")]
    NotStarted {
        /// What is meant.
        what: &'static str,
        /// What was asked, and its words.
        request: String,
    },
}

impl ConnectError {
    /// What TCP said.
    pub(super) fn tcp(place: &Place, failure: &std::io::Error) -> Self {
        let (what, address) = (place.what, place.address);
        match failure.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::Refused { what, address },
            std::io::ErrorKind::TimedOut => Self::Silent { what, address },
            _ => Self::Unreachable { what, address, reason: failure.to_string() },
        }
    }
}

/// What works where the machine's own SSH server does not.
fn hint(what: &str) -> &'static str {
    if what == MACHINE { "; `power status` and `power forensics` work without it" } else { "" }
}

fn listed(fingerprints: &[String]) -> String {
    if fingerprints.is_empty() { "none: no host key is known".into() } else { fingerprints.join(" or ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::ssh::HYPERVISOR;

    #[test]
    fn texts_say_what_to_do() {
        let address = SocketAddr::from(([192, 0, 2, 7], 22));
        let text = ConnectError::Silent { what: MACHINE, address }.to_string();
        assert!(text.starts_with("the machine at 192.0.2.7:22 accepts no connections"), "{text}");
        assert!(text.ends_with("`power status` and `power forensics` work without it"), "{text}");
        assert!(!ConnectError::Silent { what: HYPERVISOR, address }.to_string().contains("power"));
        let expected = vec!["SHA256:a".to_owned(), "SHA256:b".to_owned()];
        let text = ConnectError::HostKey { what: MACHINE, address, expected, got: "SHA256:c".into() }.to_string();
        assert!(text.contains("host key SHA256:c, expected SHA256:a or SHA256:b"), "{text}");
        let text = ConnectError::HostKey { what: MACHINE, address, expected: vec![], got: "SHA256:c".into() }.to_string();
        assert!(text.contains("no host key is known"), "{text}");
    }
}
