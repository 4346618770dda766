//! What goes over one SFTP channel, told as audit events: files with what was read and written, and every other change.
//! A pure observer of the bytes of both directions (draft-ietf-secsh-filexfer-02, version 3, with `OpenSSH`'s extensions: its
//! PROTOCOL file, 4): no IO, and nothing is changed. Neither side is trusted: what is remembered is bounded, and what cannot be
//! followed is said in an event instead of guessed.

mod conversation;
mod transfer;
mod wire;

use serde::Serialize;

use self::conversation::State;
use self::transfer::after;
use self::wire::{Loss, Piece, Stream};

const LONGEST_PATH: usize = 4096;
/// Status of what was under way when the channel could no longer be followed.
const UNREADABLE: &str = "unreadable";

/// One event of the audit stream, `sftp` in docs/recording.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SftpEvent {
    /// `file` when a file was closed, `open` when it could not be opened; `list`, `mkdir`, `rmdir`, `remove`, `rename`, `symlink`,
    /// `hardlink`, `readlink`, `setstat`, `copy`; `extended` for an unknown extension. `unreadable` when the channel could not be
    /// followed any further, and then, at its end, `unread` with the bytes that passed since.
    pub operation: &'static str,
    /// As the client sent it, at most 4096 bytes; the name of an unknown extension.
    pub path: String,
    /// The new name, or what a link points to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Bytes to the user, of a file opened for reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_read: Option<u64>,
    /// Bytes from the user that the server did not refuse, of a file opened for writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_written: Option<u64>,
    /// Hexadecimal SHA-256 of what was read; absent unless that was from the start, without gaps, and once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_read: Option<String>,
    /// The same for what was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_written: Option<String>,
    /// `ok`, the name of the server's status code, or why there is none; for `unreadable`, what was wrong.
    pub status: String,
}

impl SftpEvent {
    fn new(operation: &'static str, path: &[u8]) -> Self {
        Self { operation, path: text(path), ..Self::default() }
    }

    fn with_target(self, target: &[u8]) -> Self {
        Self { target: Some(text(target)), ..self }
    }

    fn with_status(self, status: impl Into<String>) -> Self {
        Self { status: status.into(), ..self }
    }
}

/// Who sent something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    User,
    Pod,
}

/// Follows one SFTP channel.
#[derive(Default)]
pub struct SftpObserver {
    user: Stream,
    pod: Stream,
    state: State,
    lost: bool,
    /// Bytes from and to the user since the channel could not be followed any further.
    unread: (u64, u64),
}

impl SftpObserver {
    /// An observer of a channel on which nothing was sent yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the user's client, in pieces of any size, before the pod gets them. Gives the events that follow.
    pub fn from_user(&mut self, bytes: &[u8]) -> Vec<SftpEvent> {
        self.watch(Side::User, bytes)
    }

    /// Takes bytes to the user's client, in pieces of any size. Gives the events that follow.
    pub fn to_user(&mut self, bytes: &[u8]) -> Vec<SftpEvent> {
        self.watch(Side::Pod, bytes)
    }

    /// The channel ended: events for what was never answered or closed.
    pub fn end(&mut self) -> Vec<SftpEvent> {
        let mut ended = std::mem::take(self);
        let mut events = ended.state.abandon("not answered", "not closed");
        if ended.lost {
            let unread = SftpEvent::new("unread", b"").with_status(UNREADABLE);
            events.push(SftpEvent { bytes_written: Some(ended.unread.0), bytes_read: Some(ended.unread.1), ..unread });
        }
        events
    }

    fn watch(&mut self, side: Side, mut bytes: &[u8]) -> Vec<SftpEvent> {
        let mut events = Vec::new();
        if !self.lost
            && let Err(Loss(reason)) = self.follow(side, &mut bytes, &mut events)
        {
            events.append(&mut self.state.abandon(UNREADABLE, UNREADABLE));
            events.push(SftpEvent::new(UNREADABLE, b"").with_status(reason));
            *self = Self { lost: true, ..Self::default() };
        }
        if self.lost {
            let unread = if side == Side::User { &mut self.unread.0 } else { &mut self.unread.1 };
            *unread = after(*unread, bytes);
        }
        events
    }

    fn follow(&mut self, side: Side, bytes: &mut &[u8], events: &mut Vec<SftpEvent>) -> Result<(), Loss> {
        let stream = if side == Side::User { &mut self.user } else { &mut self.pod };
        while let Some(piece) = stream.next(bytes)? {
            match (piece, side) {
                (Piece::Head, Side::User) => self.state.request(stream.fields(), stream.left, events)?,
                (Piece::Head, Side::Pod) => self.state.answer(stream.fields(), stream.left, events)?,
                (Piece::Body(data), _) => self.state.payload(side, data),
            }
            if stream.left == 0 {
                self.state.packet_ended(side, events);
            }
        }
        Ok(())
    }
}

/// A path as text, within bounds.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes.get(..LONGEST_PATH).unwrap_or(bytes)).into_owned();
    text.truncate(text.floor_char_boundary(LONGEST_PATH));
    text
}

#[cfg(test)]
mod tests;
