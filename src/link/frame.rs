//! Frames on a channel's socket: the first byte says which stream, as in Kubernetes' remote command
//! protocol `v5.channel.k8s.io` (KEP-4006); [`SIGNAL`], [`AGENT_CONNECTION`] and what follows it are ours.

use bytes::{Bytes, BytesMut};

/// User to process.
pub const STDIN: u8 = 0;
/// Process to user.
pub const STDOUT: u8 = 1;
/// Process to user, extended data.
pub const STDERR: u8 = 2;
/// JSON [`super::message::Exit`]: the last frame of a process.
pub const STATUS: u8 = 3;
/// JSON [`super::message::Size`].
pub const RESIZE: u8 = 4;
/// One byte: number of the signal to deliver to the process group.
pub const SIGNAL: u8 = 5;
/// Eight bytes, big endian: somebody connected to the forwarded ssh-agent's socket; open a channel to the user's agent.
pub const AGENT_CONNECTION: u8 = 6;
/// Process to user's recording: keystrokes that went into a terminal while its echo was on. Only where [`super::message::Process`] asks.
pub const KEYSTROKES: u8 = 7;
/// Hypervisor to gateway: a piece of what `sandglass-power` writes ([`super::record`]). An empty one comes first: from there on the verb may
/// take effect.
pub const POWER: u8 = 8;
/// One byte: the stream that ends (half-close).
pub const CLOSE: u8 = 255;

/// Output is gathered to frames of this size: measured the fastest of 32 to 240 KiB.
pub const FULL: usize = 240 * 1024;

/// A frame of `stream` with `payload`.
#[must_use]
pub fn encode(stream: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 1);
    frame.extend_from_slice(&[stream]);
    frame.extend_from_slice(payload);
    frame.freeze()
}

/// Splits a frame into its stream and its payload; `None` for an empty one.
#[must_use]
pub fn decode(mut frame: Bytes) -> Option<(u8, Bytes)> {
    let stream = *frame.first()?;
    Some((stream, frame.split_off(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_a_round_trip() {
        for (stream, payload) in [(STDIN, &b"ls\n"[..]), (CLOSE, &[STDIN]), (STDOUT, b"")] {
            assert_eq!(decode(encode(stream, payload)), Some((stream, Bytes::copy_from_slice(payload))));
        }
        assert_eq!(decode(Bytes::new()), None);
    }
}
