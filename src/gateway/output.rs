//! Every byte to a user passes through here, and past the recorder first: the program's output, and our own words.

use super::connection::Connection;
use super::sight::{Sight, ending};
use crate::link::message::Exit;
use crate::link::signals::named;
use crate::recording::audit::Ending;
use crate::recording::recorder::Shown;
use bytes::Bytes;
use russh::server::{Handle, Msg};
use russh::{ChannelId, ChannelWriteHalf, Sig};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The user is gone.
#[derive(Debug, thiserror::Error)]
#[error("the connection is gone")]
pub struct Gone;

/// Extended data type of standard error (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

impl Stream {
    const fn shown(self) -> Shown {
        match self {
            Self::Out => Shown::Output,
            Self::Error => Shown::Error,
        }
    }
}

/// One channel's way to its user.
pub struct Output {
    write: ChannelWriteHalf<Msg>,
    handle: Handle,
    terminal: bool,
    connection: Arc<Connection>,
    sight: Arc<Sight>,
    /// Recording and sending are one step: what two tasks say is shown in the order in which it is recorded.
    turn: Mutex<()>,
}

impl Output {
    /// An output; `terminal` says how our own words are written.
    #[must_use]
    pub const fn new(write: ChannelWriteHalf<Msg>, handle: Handle, terminal: bool, connection: Arc<Connection>, sight: Arc<Sight>) -> Self {
        Self { write, handle, terminal, connection, sight, turn: Mutex::const_new(()) }
    }

    /// What is recorded of it.
    #[must_use]
    pub const fn sight(&self) -> &Arc<Sight> {
        &self.sight
    }

    /// The channel's number.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.write.id()
    }

    /// Whether the user looks at a terminal.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Records bytes and sends them; waits for the recorder's room and the user's window. Never returns when the connection dies meanwhile: race it
    /// with the channel's end.
    ///
    /// # Errors
    /// [`Gone`], also when they cannot be recorded: the connection is cut then.
    pub async fn send(&self, stream: Stream, bytes: Bytes) -> Result<(), Gone> {
        let _turn = self.turn.lock().await;
        self.sight.to_user(stream.shown(), &bytes).await.map_err(|_| Gone)?;
        self.write(stream, bytes).await
    }

    async fn write(&self, stream: Stream, bytes: Bytes) -> Result<(), Gone> {
        self.connection.gateway.metrics.bytes_out.inc_by(bytes.len() as u64);
        match stream {
            Stream::Out => self.write.data_bytes(bytes).await,
            Stream::Error => self.write.extended_data_bytes(STDERR, bytes).await,
        }
        .map_err(|_| Gone)
    }

    /// Sends a line of ours: on the terminal where there is one, else on standard error. Recorded like everything else, but said also where
    /// nothing can be recorded any more: it says so.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn say(&self, text: &str) -> Result<(), Gone> {
        let (stream, bytes) = if self.terminal {
            (Stream::Out, Bytes::from(format!("\r\nsandglass: {}\r\n", text.replace('\n', "\r\n"))))
        } else {
            (Stream::Error, Bytes::from(format!("sandglass: {text}\n")))
        };
        let _turn = self.turn.lock().await;
        self.sight.marked(text);
        let _ = self.sight.to_user(stream.shown(), &bytes).await;
        self.write(stream, bytes).await
    }

    /// The program closed its output, the channel stays.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn end(&self) -> Result<(), Gone> {
        self.write.eof().await.map_err(|_| Gone)
    }

    /// Tells how the program ended, and closes the channel.
    pub async fn finish(&self, exit: &Exit) {
        self.sight.ended(ending(exit));
        let _ = match exit {
            Exit::Code(code) => self.write.exit_status(u32::from(*code)).await.map_err(drop),
            Exit::Signal(number) => {
                let signal = signal_name(*number);
                self.handle.exit_signal_request(self.id(), signal, false, String::new(), String::new()).await
            }
            Exit::Failed(_) => self.write.exit_status(super::EXIT_NOT_STARTED).await.map_err(drop),
        };
        self.close().await;
    }

    /// Closes the channel with a status of ours, for this reason.
    pub async fn finish_with(&self, status: u32, reason: &str) {
        self.sight.ended(Ending::Failure(reason.to_owned()));
        let _ = self.write.exit_status(status).await;
        self.close().await;
    }

    /// Closes the channel.
    pub async fn close(&self) {
        let _ = self.write.eof().await;
        let _ = self.write.close().await;
    }
}

/// The name under which a client is told of a signal: the RFC's, or one of ours.
fn signal_name(number: u8) -> Sig {
    let of_the_rfc = named(number).filter(|signal| !matches!(signal, Sig::Custom(_)));
    of_the_rfc.unwrap_or_else(|| Sig::Custom(format!("{number}@sandglass.dev")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_without_a_name_have_one_of_ours() {
        assert!(matches!(signal_name(15), Sig::TERM));
        for number in [12, 31] {
            assert!(matches!(signal_name(number), Sig::Custom(name) if name == format!("{number}@sandglass.dev")));
        }
    }
}
