//! The viewer's terminal: the screen, the keyboard, and the signals that end a replay. The IO, and what has to be put right after it.

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal as _, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::keys::{Key, Keys};
use super::playback::Playback;
use super::{Moment, What};
use crate::recording::neutral::{Neutraliser, RESET};

/// What a recording played as it is may have left behind and nobody else would put right: a string without an end, the mouse,
/// focus, pasting, synchronised output, margins at the sides, and the keyboard's modes.
const RAW_MODES_OFF: &[u8] = b"\x1b\\\x1b[?9;69;1000;1001;1002;1003;1004;1005;1006;1015;1016;2004;2026l\x1b[>4;0m\x1b[=0u\x1b>";
/// Everything that outlasts a program put right, without moving the cursor.
const PUT_RIGHT: &[u8] = b"\x1b7\x1b[r\x1b8\x1b[!p\x1b[?1;5l\x1b[?7;25h\x1b[4;20l\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[?5W\x1b[0 q\x1b[m\r\n";

/// The viewer's terminal; put right when dropped.
pub(super) struct Screen {
    raw: bool,
    colours: bool,
    /// Runs for raw bytes too: it knows whether the alternate screen is shown.
    neutraliser: Neutraliser,
    hint: bool,
}

impl Screen {
    /// Moves what is on the screen into the scrollback, and begins with an empty one.
    pub(super) fn open(raw: bool) -> io::Result<Self> {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let screen = Self { raw, colours, neutraliser: Neutraliser::default(), hint: false };
        let (_, height) = size();
        write(&[format!("\x1b[{height};1H{}", "\n".repeat(height.into())).as_bytes(), RESET].concat())?;
        Ok(screen)
    }

    fn shown(&mut self, moments: &[Moment]) -> Vec<u8> {
        let mut out = Vec::new();
        for moment in moments {
            let bytes = match &moment.what {
                What::Output(bytes) => bytes.clone(),
                What::Piped(bytes) => with_carriage_returns(bytes),
                What::Resize { .. } | What::Marker(_) => continue,
            };
            let neutral = self.neutraliser.pass(&bytes);
            out.extend_from_slice(if self.raw { &bytes } else { &neutral });
        }
        out
    }

    /// Shows what is due.
    pub(super) fn feed(&mut self, moments: &[Moment]) -> io::Result<()> {
        write(&self.shown(moments))
    }

    /// Shows everything up to here from the beginning, in one write.
    pub(super) fn redraw(&mut self, playback: &Playback<'_>) -> io::Result<()> {
        self.neutraliser = Neutraliser::default();
        let mut out = if self.raw { RAW_MODES_OFF.to_vec() } else { Vec::new() };
        out.extend_from_slice(RESET);
        out.extend(self.shown(playback.shown()));
        self.hint = playback.is_paused();
        if self.hint {
            out.extend(self.drawn_hint(playback));
        }
        write(&out)
    }

    /// Shows the hint, on top of what is there.
    pub(super) fn hint(&mut self, playback: &Playback<'_>) -> io::Result<()> {
        self.hint = true;
        write(&self.drawn_hint(playback))
    }

    /// The hint on the last line; cursor, colours and charset stay. What was saved of them does not: going on redraws.
    fn drawn_hint(&self, playback: &Playback<'_>) -> Vec<u8> {
        let (width, height) = size();
        let (text, style) = (playback.hint(width, height), if self.colours { "\x1b[0;7m" } else { "\x1b[0m" });
        format!("\x1b7\x1b[?6l\x1b(B\x0f\x1b[{height};1H\x1b[0m\x1b[2K{style}{text}\x1b[0m\x1b8").into_bytes()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = Vec::new();
        if self.hint {
            out.extend_from_slice(format!("\x1b7\x1b[?6l\x1b[{};1H\x1b[0m\x1b[2K\x1b8", size().1).as_bytes());
        }
        if self.neutraliser.is_alternate() {
            out.extend_from_slice(b"\x1b[?1049l");
        }
        if self.raw {
            out.extend_from_slice(RAW_MODES_OFF);
        }
        out.extend_from_slice(PUT_RIGHT);
        let _ = write(&out);
    }
}

/// Columns and rows of the viewer's terminal.
fn size() -> (u16, u16) {
    let known = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or((80, 24), |size| (size.ws_col, size.ws_row))
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// For a terminal that does nothing of its own: each line feed gets its carriage return.
fn with_carriage_returns(bytes: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => out.extend([line, b"\r\n"].concat()),
            None => out.extend_from_slice(line),
        }
    }
    out.into()
}

/// Standard input, set to give single keys; set back when dropped.
pub(super) struct Keyboard {
    saved: Termios,
    keys: Keys,
}

impl Keyboard {
    /// `None` where standard input is no terminal.
    pub(super) fn open() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let saved = tcgetattr(io::stdin())?;
        let mut single_keys = saved.clone();
        single_keys.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &single_keys)?;
        Ok(Some(Self { saved, keys: Keys::default() }))
    }

    /// The keys that are there. A terminal that is gone ends the replay.
    pub(super) fn read(&mut self, now: Duration) -> io::Result<Vec<Key>> {
        let mut bytes = [0; 256];
        match rustix::io::read(io::stdin(), &mut bytes) {
            Ok(0) | Err(rustix::io::Errno::IO) => Ok(vec![Key::End]),
            Ok(count) => Ok(self.keys.parse(bytes.get(..count).unwrap_or_default(), now)),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // What was typed and not read was meant for us.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.saved);
    }
}

/// The signals that end a process, turned into a byte in a pipe that can be waited for.
pub(super) struct Signals {
    listened: Vec<Signal>,
    nudges: PipeReader,
    waker: Waker,
}

struct Nudge(PipeWriter);

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        let _ = (&self.0).write(&[0]);
    }
}

impl Signals {
    /// `None` where nobody would deliver them.
    pub(super) fn listen() -> io::Result<Option<Self>> {
        let delivered = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        if !delivered {
            return Ok(None);
        }
        let (nudges, nudge) = io::pipe()?;
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let listened = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
        Ok(Some(Self { listened, nudges, waker: Waker::from(Arc::new(Nudge(nudge))) }))
    }

    /// Whether one has come; if not, the next one writes into the pipe.
    pub(super) fn arrived(&mut self) -> bool {
        let mut context = Context::from_waker(&self.waker);
        self.listened.iter_mut().any(|signal| signal.poll_recv(&mut context).is_ready())
    }
}

/// Waits for a key, a signal or the time. Whether it was a key.
pub(super) fn keyboard_ready(keyboard: Option<&Keyboard>, signals: Option<&Signals>, wait: Option<Duration>) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut waited_for = Vec::with_capacity(2);
    waited_for.extend(signals.map(|signals| PollFd::new(&signals.nudges, PollFlags::IN)));
    waited_for.extend(keyboard.map(|_| PollFd::new(&stdin, PollFlags::IN)));
    let wait = wait.map(|wait| Timespec::try_from(wait.min(Duration::from_hours(1)))).transpose().map_err(io::Error::other)?;
    match poll(&mut waited_for, wait.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready: Vec<bool> = waited_for.iter().map(|fd| !fd.revents().is_empty()).collect();
    if let Some(signals) = signals
        && ready.first() == Some(&true)
    {
        let _ = (&signals.nudges).read(&mut [0; 64]);
    }
    Ok(keyboard.is_some() && ready.last() == Some(&true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_terminal_begin_on_the_left() {
        assert_eq!(with_carriage_returns(b"a\nb\n\nc"), b"a\r\nb\r\n\r\nc".as_slice());
        assert_eq!(with_carriage_returns(b"a\r\n"), b"a\r\r\n".as_slice());
        assert_eq!(with_carriage_returns(b""), b"".as_slice());
    }

    #[test]
    fn what_puts_the_terminal_right_is_harmless() {
        let mut neutraliser = Neutraliser::default();
        assert_eq!(neutraliser.pass(PUT_RIGHT), PUT_RIGHT);
    }
}
