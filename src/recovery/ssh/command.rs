//! A command on the machine without a user at the other end: its output in pieces, and how it ended. For the power verbs on a hypervisor.

use super::pump::{Came, Reader, come};
use super::{ConnectError, Connection};
use crate::link::frame;
use crate::link::message::Exit;
use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::client::Msg;

/// A running command. Dropping it ends the connection at once.
pub struct CommandStream {
    reader: Reader,
    _write: ChannelWriteHalf<Msg>,
    connection: Connection,
    exit: Option<Exit>,
    ended: bool,
}

/// What comes from a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Standard output, at most about [`frame::FULL`] bytes.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// The last piece: how it ended.
    Ended(Exit),
}

impl Connection {
    /// Starts `command` without a terminal and without input.
    ///
    /// # Errors
    /// When the machine refuses the session or the command, or the connection broke.
    pub async fn command(self, command: &str) -> Result<CommandStream, ConnectError> {
        let start = async {
            let (mut reader, write) = self.session().await?;
            let _ = write.exec(true, command.as_bytes()).await;
            let refused = |request: String| ConnectError::NotStarted { what: self.what, request };
            if !self.answer(&mut reader).await.map_err(&refused)? {
                return Err(refused("to run a command".into()));
            }
            let _ = write.eof().await;
            Ok((reader, write))
        };
        let (reader, write) = tokio::select! {
            started = start => started?,
            silent = self.silence() => return Err(silent),
        };
        Ok(CommandStream { reader, _write: write, connection: self, exit: None, ended: false })
    }
}

impl CommandStream {
    /// The next piece; `None` after [`Piece::Ended`]. Nothing is lost when it is dropped. While nobody asks, the command waits.
    pub async fn next(&mut self) -> Option<Piece> {
        while !self.ended {
            let came = tokio::select! {
                came = come(&mut self.reader) => came,
                silent = self.connection.silence() => {
                    self.ended = true;
                    return Some(Piece::Ended(Exit::Failed(silent.to_string())));
                }
            };
            match came {
                Some(Came::Frame(frame)) => match frame::decode(frame) {
                    Some((frame::STDOUT, data)) if !data.is_empty() => return Some(Piece::Stdout(data)),
                    Some((frame::STDERR, data)) if !data.is_empty() => return Some(Piece::Stderr(data)),
                    _ => {}
                },
                Some(Came::Exit(exit)) => self.exit = Some(exit),
                Some(Came::Answer(_)) => {}
                Some(Came::Closed) => {
                    self.ended = true;
                    let unsaid = || Exit::Failed(format!("{} closed the session without an exit status", self.connection.what));
                    return Some(Piece::Ended(self.exit.take().unwrap_or_else(unsaid)));
                }
                None => {
                    self.ended = true;
                    return Some(Piece::Ended(self.exit.take().unwrap_or_else(|| Exit::Failed(self.connection.lost().to_string()))));
                }
            }
        }
        None
    }
}
