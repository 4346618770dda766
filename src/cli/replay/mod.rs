//! Plays one channel of a recording in the terminal: waits as the user did, and can be paused, hurried and searched.
//!
//! `playback` is the clock and the position in it, `keys` are what the viewer types; both do no IO. `terminal` is the screen, the
//! keyboard and the signals. Nothing goes to the terminal but through the [`Neutraliser`], unless the caller asks for the bytes as
//! they are.

mod keys;
mod playback;
mod terminal;

use bytes::Bytes;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use self::playback::{Playback, Turn};
use self::terminal::{Keyboard, Screen, Signals, keyboard_ready};
use crate::recording::neutral::Neutraliser;

/// One thing of a channel, in the order of time.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Time since the recording began.
    pub at: Duration,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// Bytes on the user's terminal.
    Output(Bytes),
    /// Output or errors of a program that had no terminal: a line feed there also means the beginning of a line.
    Piped(Bytes),
    /// The user's terminal has another size. It is told in the pause; the viewer's terminal keeps its own.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Something of ours: a login, a warning, why the channel was cut.
    Marker(String),
}

/// How to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// Times faster than it was. What is not a positive number counts as 1.
    pub speed: f64,
    /// Longest time without output; longer ones are cut to this.
    pub idle_limit: Option<Duration>,
    /// The bytes as they are. They may act on the viewer's terminal.
    pub raw: bool,
    /// Where to begin, as time since the recording began.
    pub start: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { speed: 1.0, idle_limit: None, raw: false, start: Duration::ZERO }
    }
}

/// Plays to the terminal on standard output; blocks until the end, `q` or Ctrl-C. Keys are read where standard input is a
/// terminal. Without a terminal on standard output it prints the bytes without waiting.
///
/// SIGTERM, SIGINT and SIGHUP end it in good order when it is called within a multi-threaded runtime of tokio, outside of its
/// tasks (`Handle::enter`, or `spawn_blocking`); without one they kill the process as they always do. Once
/// called so, the process has to see to these signals itself.
///
/// # Errors
/// When the terminal cannot be read, written or set up; [`io::ErrorKind::Interrupted`] after one of the signals.
pub fn play(moments: &[Moment], options: &Options) -> io::Result<()> {
    if !io::stdout().is_terminal() {
        return print(moments, options.raw);
    }
    let mut signals = Signals::listen()?;
    let mut keyboard = Keyboard::open()?;
    let mut screen = Screen::open(options.raw)?;
    let mut playback = Playback::new(moments, options);
    let clock = Instant::now();
    loop {
        screen.feed(playback.due(clock.elapsed()))?;
        if playback.is_over() {
            return Ok(());
        }
        if signals.as_mut().is_some_and(Signals::arrived) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "ended by a signal"));
        }
        let wait = playback.wait(clock.elapsed());
        if !keyboard_ready(keyboard.as_ref(), signals.as_ref(), wait)? {
            continue;
        }
        let Some(keyboard) = &mut keyboard else { continue };
        let now = clock.elapsed();
        // Of several keys at once the screen shows the sum.
        let turn = keyboard.read(now)?.into_iter().map(|key| playback.press(key, now)).max();
        match turn.unwrap_or(Turn::Nothing) {
            Turn::Nothing => {}
            Turn::Hint => screen.hint(&playback)?,
            Turn::Redraw => screen.redraw(&playback)?,
            Turn::End => return Ok(()),
        }
    }
}

/// Prints everything. A reader that has seen enough is no error.
fn print(moments: &[Moment], raw: bool) -> io::Result<()> {
    let mut neutraliser = Neutraliser::default();
    let mut out = io::stdout().lock();
    let mut show = || {
        for moment in moments {
            match &moment.what {
                What::Output(bytes) | What::Piped(bytes) if raw => out.write_all(bytes)?,
                What::Output(bytes) | What::Piped(bytes) => out.write_all(&neutraliser.pass(bytes))?,
                What::Resize { .. } | What::Marker(_) => {}
            }
        }
        out.write_all(&neutraliser.end())?;
        out.flush()
    };
    show().or_else(|error: io::Error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}
