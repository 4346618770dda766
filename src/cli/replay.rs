//! Plays one channel of a recording in the terminal: waits as the user did, and can be paused, hurried and searched.
//!
//! [`Playback`] is the clock and the position in it and does no IO; `Screen`, `Keyboard` and `Signals` are the terminal. Nothing
//! goes to the terminal but through the [`Neutraliser`], unless the caller asks for the bytes as they are.

use crate::recording::neutral::{Neutraliser, RESET};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal as _, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How far the arrow keys go.
const SHORT: Duration = Duration::from_secs(5);
/// How far the brackets and page keys go.
const LONG: Duration = Duration::from_mins(1);
/// The bytes of one key arrive within this time; ESC and something later are two keys.
const ONE_KEY: Duration = Duration::from_millis(100);
/// Speeds beyond these are of no use.
const SPEEDS: (f64, f64) = (1.0 / 64.0, 1024.0);

/// What a recording played as it is may have left behind and nobody else would put right: a string without an end, the mouse,
/// focus, pasting, synchronised output, margins at the sides, and the keyboard's modes.
const RAW_MODES_OFF: &[u8] = b"\x1b\\\x1b[?9;69;1000;1001;1002;1003;1004;1005;1006;1015;1016;2004;2026l\x1b[>4;0m\x1b[=0u\x1b>";
/// Everything that outlasts a program put right, without moving the cursor.
const PUT_RIGHT: &[u8] = b"\x1b7\x1b[r\x1b8\x1b[!p\x1b[?1;5l\x1b[?7;25h\x1b[4;20l\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[?5W\x1b[0 q\x1b[m\r\n";

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

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Pause,
    Step,
    Back(Duration),
    Forward(Duration),
    Start,
    Marker,
    Faster,
    Slower,
    End,
}

/// The keys of what was read, which may end within one.
#[derive(Debug, Default)]
struct Keys {
    held: Vec<u8>,
    read: Duration,
}

impl Keys {
    fn parse(&mut self, bytes: &[u8], now: Duration) -> Vec<Key> {
        if now.saturating_sub(self.read) > ONE_KEY || self.held.len() > 64 {
            self.held.clear();
        }
        self.read = now;
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        let mut keys = Vec::new();
        while let Some((key, tail)) = first_key(rest) {
            keys.extend(key);
            rest = tail;
        }
        self.held.extend_from_slice(rest);
        keys
    }
}

/// The first key and what follows it, `None` when there is no complete one. Other keys, and answers of the terminal, are nothing.
fn first_key(bytes: &[u8]) -> Option<(Option<Key>, &[u8])> {
    match bytes {
        [] | [0x1b] | [0x1b, b'O'] => None,
        [0x1b, b'[', rest @ ..] => {
            let (sequence, rest) = rest.split_at_checked(rest.iter().position(|byte| (0x40..0x7f).contains(byte))? + 1)?;
            Some((named_key(sequence), rest))
        }
        [0x1b, b'O', last, rest @ ..] => Some((named_key(&[*last]), rest)),
        [0x1b, _, rest @ ..] => Some((None, rest)),
        [byte, rest @ ..] => Some((plain_key(*byte), rest)),
    }
}

fn named_key(sequence: &[u8]) -> Option<Key> {
    match sequence {
        b"C" => Some(Key::Forward(SHORT)),
        b"D" => Some(Key::Back(SHORT)),
        b"6~" => Some(Key::Forward(LONG)),
        b"5~" => Some(Key::Back(LONG)),
        b"H" | b"1~" | b"7~" => Some(Key::Start),
        _ => None,
    }
}

fn plain_key(byte: u8) -> Option<Key> {
    match byte {
        b' ' => Some(Key::Pause),
        b'.' => Some(Key::Step),
        b']' => Some(Key::Forward(LONG)),
        b'[' => Some(Key::Back(LONG)),
        b'm' => Some(Key::Marker),
        // On most keyboards they are the same key.
        b'+' | b'=' => Some(Key::Faster),
        b'-' => Some(Key::Slower),
        // Ctrl-C: the terminal makes no signal of it while we read keys.
        b'q' | 0x03 => Some(Key::End),
        _ => None,
    }
}

/// What a key means for the screen; of several the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Nothing,
    /// The hint is new.
    Hint,
    /// Everything is to be shown from the beginning: we went back, or the hint has to go.
    Redraw,
    End,
}

/// The clock of a replay and the position in it. Positions are times of the replay at normal speed, with idle times cut.
#[derive(Debug)]
struct Playback<'a> {
    moments: &'a [Moment],
    /// Position of each moment.
    positions: Vec<Duration>,
    idle_limit: Duration,
    speed: f64,
    /// How many moments were shown.
    next: usize,
    /// Where we were...
    position: Duration,
    /// ...at this time of the clock; `None` in a pause.
    since: Option<Duration>,
}

impl<'a> Playback<'a> {
    /// Begins at time zero of the clock.
    fn new(moments: &'a [Moment], options: &Options) -> Self {
        let idle_limit = options.idle_limit.unwrap_or(Duration::MAX);
        let (mut before, mut position) = (Duration::ZERO, Duration::ZERO);
        let mut positions = Vec::with_capacity(moments.len());
        for moment in moments {
            position = position.saturating_add(moment.at.saturating_sub(before).min(idle_limit));
            before = moment.at;
            positions.push(position);
        }
        let speed = if options.speed.is_finite() && options.speed > 0.0 { options.speed.clamp(SPEEDS.0, SPEEDS.1) } else { 1.0 };
        let mut playback = Self { moments, positions, idle_limit, speed, next: 0, position: Duration::ZERO, since: Some(Duration::ZERO) };
        playback.position = playback.position_of(options.start);
        playback
    }

    /// When the last moment is.
    fn total(&self) -> Duration {
        self.positions.last().copied().unwrap_or_default()
    }

    fn position(&self, now: Duration) -> Duration {
        let Some(since) = self.since else { return self.position };
        let gone = Duration::try_from_secs_f64(now.saturating_sub(since).as_secs_f64() * self.speed).unwrap_or(Duration::MAX);
        self.position.saturating_add(gone).min(self.total())
    }

    /// The position at which a time of the recording is shown.
    fn position_of(&self, at: Duration) -> Duration {
        let after = self.moments.partition_point(|moment| moment.at <= at);
        let (before, position) = self.known_before(after);
        position.saturating_add(at.saturating_sub(before).min(self.idle_limit)).min(self.total())
    }

    /// The time of the recording that is shown at a position.
    fn recorded_at(&self, position: Duration) -> Duration {
        let after = self.positions.partition_point(|known| *known <= position);
        let (before, known) = self.known_before(after);
        before.saturating_add(position.saturating_sub(known))
    }

    /// Time and position of the moment before that number.
    fn known_before(&self, number: usize) -> (Duration, Duration) {
        let index = number.checked_sub(1);
        index.and_then(|index| Some((self.moments.get(index)?.at, *self.positions.get(index)?))).unwrap_or_default()
    }

    /// What is to be shown now; it counts as shown.
    fn due(&mut self, now: Duration) -> &'a [Moment] {
        if self.since.is_none() {
            return &[];
        }
        let position = self.position(now);
        let from = self.next;
        self.next = from.max(self.positions.partition_point(|known| *known <= position));
        self.moments.get(from..self.next).unwrap_or_default()
    }

    /// What was shown.
    fn shown(&self) -> &'a [Moment] {
        self.moments.get(..self.next).unwrap_or_default()
    }

    fn is_paused(&self) -> bool {
        self.since.is_none()
    }

    /// Everything was shown, and nobody wants to look at it.
    fn is_over(&self) -> bool {
        !self.is_paused() && self.next >= self.moments.len()
    }

    /// How long until the next moment; `None` in a pause.
    fn wait(&self, now: Duration) -> Option<Duration> {
        self.since?;
        let left = self.positions.get(self.next).copied().unwrap_or_default().saturating_sub(self.position(now));
        let wait = Duration::try_from_secs_f64(left.as_secs_f64() / self.speed).unwrap_or(Duration::MAX);
        // Rounding must not wake us a moment too early again and again.
        Some(if left.is_zero() { wait } else { wait.saturating_add(Duration::from_micros(1)) })
    }

    /// A key was pressed.
    fn press(&mut self, key: Key, now: Duration) -> Turn {
        let position = self.position(now);
        match key {
            Key::End => Turn::End,
            Key::Pause if self.is_paused() => {
                self.since = Some(now);
                Turn::Redraw
            }
            Key::Pause => {
                (self.position, self.since) = (position, None);
                Turn::Hint
            }
            Key::Faster => self.change_speed(self.speed * 2.0, now),
            Key::Slower => self.change_speed(self.speed / 2.0, now),
            Key::Step if !self.is_paused() => Turn::Nothing,
            Key::Step => self.show_up_to(self.next, now),
            Key::Marker => {
                let later = self.moments.iter().skip(self.next).position(|moment| matches!(moment.what, What::Marker(_)));
                later.map_or(Turn::Nothing, |later| self.show_up_to(self.next.saturating_add(later), now))
            }
            Key::Start => self.seek(Duration::ZERO, now),
            Key::Back(by) => self.seek(position.saturating_sub(by), now),
            Key::Forward(by) => self.seek(position.saturating_add(by), now),
        }
    }

    fn change_speed(&mut self, speed: f64, now: Duration) -> Turn {
        self.stand(self.position(now), now);
        self.speed = speed.clamp(SPEEDS.0, SPEEDS.1);
        if self.is_paused() { Turn::Hint } else { Turn::Nothing }
    }

    /// Puts the position, without showing anything.
    fn stand(&mut self, position: Duration, now: Duration) {
        self.position = position;
        self.since = self.since.map(|_| now);
    }

    /// Goes to a position. Going on needs no redrawing: what lies between is due.
    fn seek(&mut self, position: Duration, now: Duration) -> Turn {
        self.stand(position.min(self.total()), now);
        let next = self.positions.partition_point(|known| *known <= self.position);
        if next >= self.next && !self.is_paused() {
            return Turn::Nothing;
        }
        self.next = next;
        Turn::Redraw
    }

    /// Goes to the moment of that number and shows it.
    fn show_up_to(&mut self, number: usize, now: Duration) -> Turn {
        let Some(position) = self.positions.get(number).copied() else { return Turn::Nothing };
        self.stand(position, now);
        if self.is_paused() {
            self.next = number.saturating_add(1);
            return Turn::Redraw;
        }
        Turn::Nothing
    }

    /// The line that is shown in a pause, for a terminal of that size.
    fn hint(&self, width: u16, height: u16) -> String {
        let recorded = self.moments.last().map(|last| last.at).unwrap_or_default();
        let mut line = format!(" paused {} / {}  {}x", time(self.recorded_at(self.position)), time(recorded), self.speed);
        let mut latest = self.shown().iter().rev();
        if let Some(What::Marker(text)) = latest.clone().map(|moment| &moment.what).find(|what| matches!(what, What::Marker(_))) {
            let text: String = text.chars().map(|character| if matches!(character, ' '..='~') { character } else { '?' }).collect();
            line = format!("{line}  [{text}]");
        }
        if let Some(What::Resize { width: wide, height: high }) =
            latest.find(|moment| matches!(moment.what, What::Resize { .. })).map(|moment| &moment.what)
            && (*wide > width || *high > height)
        {
            line = format!("{line}  recorded at {wide}x{high}, shown at {width}x{height}");
        }
        line += "  space: go on  .: step  arrows, [ ]: seek  m: marker  + -: speed  q: end ";
        // The last column stays free: some terminals would go to the next line.
        line.truncate(usize::from(width.saturating_sub(1)));
        line
    }
}

/// As h:mm:ss.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The viewer's terminal; put right when dropped.
struct Screen {
    raw: bool,
    colours: bool,
    /// Runs for raw bytes too: it knows whether the alternate screen is shown.
    neutraliser: Neutraliser,
    hint: bool,
}

impl Screen {
    /// Moves what is on the screen into the scrollback, and begins with an empty one.
    fn open(raw: bool) -> io::Result<Self> {
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

    fn feed(&mut self, moments: &[Moment]) -> io::Result<()> {
        let bytes = self.shown(moments);
        write(&bytes)
    }

    /// Shows everything up to here from the beginning, in one write.
    fn redraw(&mut self, playback: &Playback<'_>) -> io::Result<()> {
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

    fn hint(&mut self, playback: &Playback<'_>) -> io::Result<()> {
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
struct Keyboard {
    saved: Termios,
    keys: Keys,
}

impl Keyboard {
    /// `None` where standard input is no terminal.
    fn open() -> io::Result<Option<Self>> {
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
    fn read(&mut self, now: Duration) -> io::Result<Vec<Key>> {
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
struct Signals {
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
    fn listen() -> io::Result<Option<Self>> {
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
    fn arrived(&mut self) -> bool {
        let mut context = Context::from_waker(&self.waker);
        self.listened.iter_mut().any(|signal| signal.poll_recv(&mut context).is_ready())
    }
}

/// Waits for a key, a signal or the time. Whether it was a key.
fn keyboard_ready(keyboard: Option<&Keyboard>, signals: Option<&Signals>, wait: Option<Duration>) -> io::Result<bool> {
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

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn output(at: u64) -> Moment {
        Moment { at: seconds(at), what: What::Output(Bytes::from(format!("{at} "))) }
    }

    fn marker(at: u64, text: &str) -> Moment {
        Moment { at: seconds(at), what: What::Marker(text.into()) }
    }

    fn times(moments: &[Moment]) -> Vec<u64> {
        moments.iter().map(|moment| moment.at.as_secs()).collect()
    }

    /// Output at 1, 2, 12, 12, 100 seconds.
    fn recording() -> Vec<Moment> {
        vec![output(1), output(2), output(12), output(12), output(100)]
    }

    #[test]
    fn plays_in_time() {
        let moments = recording();
        let mut playback = Playback::new(&moments, &Options::default());
        assert_eq!(times(playback.due(Duration::ZERO)), [0u64; 0]);
        assert_eq!(playback.wait(Duration::ZERO), Some(seconds(1) + Duration::from_micros(1)));
        assert_eq!(times(playback.due(seconds(1))), [1]);
        assert_eq!(times(playback.due(seconds(1))), [0u64; 0], "once is enough");
        assert_eq!(times(playback.due(seconds(50))), [2, 12, 12], "what is late comes together");
        assert!(!playback.is_over());
        assert_eq!(times(playback.due(seconds(100))), [100]);
        assert!(playback.is_over());
        assert_eq!(playback.position(seconds(1000)), seconds(100), "there is nothing beyond the end");
        assert!(Playback::new(&[], &Options::default()).is_over());
    }

    #[test]
    fn plays_faster_and_slower() {
        let moments = recording();
        let mut playback = Playback::new(&moments, &Options { speed: 4.0, ..Options::default() });
        assert_eq!(times(playback.due(seconds(3))), [1, 2, 12, 12]);
        assert_eq!(playback.wait(seconds(3)), Some(seconds(22) + Duration::from_micros(1)));
        // From second 12 of the recording at half of that, then at a quarter.
        assert_eq!(playback.press(Key::Slower, seconds(3)), Turn::Nothing);
        assert_eq!(playback.position(seconds(13)), seconds(32));
        playback.press(Key::Slower, seconds(13));
        assert_eq!(playback.position(seconds(23)), seconds(42));
        playback.press(Key::Faster, seconds(23));
        assert_eq!(playback.position(seconds(33)), seconds(62));
        assert_eq!(times(playback.due(seconds(52))), [100]);
        for nonsense in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let playback = Playback::new(&moments, &Options { speed: nonsense, ..Options::default() });
            assert_eq!(playback.position(seconds(7)), seconds(7), "speed {nonsense}");
        }
        for _ in 0..100 {
            playback.press(Key::Faster, seconds(33));
        }
        assert_eq!(playback.speed.to_bits(), SPEEDS.1.to_bits());
    }

    /// Waiting as long as it says and looking then is enough to see everything: no moment is missed, no loop spins.
    #[test]
    fn its_waits_end_when_something_is_due() {
        let moments: Vec<Moment> = (1..500_u64)
            .map(|number| Moment { at: Duration::from_nanos(number * 333_333_337), what: What::Output(Bytes::new()) })
            .collect();
        for speed in [0.3, 1.0, 1.7, 64.0] {
            let mut playback = Playback::new(&moments, &Options { speed, ..Options::default() });
            let (mut now, mut turns) = (Duration::ZERO, 0);
            while !playback.is_over() {
                now += playback.wait(now).expect("not paused");
                playback.due(now);
                turns += 1;
            }
            assert!(turns <= 500, "{turns} turns at speed {speed}");
        }
    }

    #[test]
    fn idle_times_are_cut() {
        let moments = recording();
        let mut playback = Playback::new(&moments, &Options { idle_limit: Some(seconds(3)), ..Options::default() });
        assert_eq!(playback.positions, [1, 2, 5, 5, 8].map(seconds));
        assert_eq!(times(playback.due(seconds(5))), [1, 2, 12, 12]);
        assert_eq!(times(playback.due(seconds(8))), [100]);
        // There and back, for what the hint tells and for where it begins.
        assert_eq!(playback.recorded_at(seconds(4)), seconds(4));
        assert_eq!(playback.recorded_at(seconds(5)), seconds(12));
        assert_eq!(playback.recorded_at(seconds(7)), seconds(14));
        assert_eq!([0, 1, 3, 9, 12, 99, 100, 1000].map(|at| playback.position_of(seconds(at)).as_secs()), [0, 1, 3, 5, 5, 8, 8, 8]);
        let mut late = Playback::new(&moments, &Options { idle_limit: Some(seconds(3)), start: seconds(13), ..Options::default() });
        assert_eq!(times(late.due(Duration::ZERO)), [1, 2, 12, 12], "all before the start, at once");
        assert_eq!(late.wait(Duration::ZERO), Some(seconds(2) + Duration::from_micros(1)));
    }

    #[test]
    fn pauses_and_steps() {
        let moments = recording();
        let mut playback = Playback::new(&moments, &Options::default());
        playback.due(seconds(1));
        assert_eq!(playback.press(Key::Step, seconds(1)), Turn::Nothing, "only in a pause");
        assert_eq!(playback.press(Key::Pause, seconds(1)), Turn::Hint);
        assert_eq!((playback.wait(seconds(9)), times(playback.due(seconds(90)))), (None, vec![]));
        for shown in [vec![1, 2], vec![1, 2, 12], vec![1, 2, 12, 12], vec![1, 2, 12, 12, 100]] {
            assert_eq!(playback.press(Key::Step, seconds(90)), Turn::Redraw);
            assert_eq!(times(playback.shown()), shown);
        }
        assert_eq!(playback.press(Key::Step, seconds(90)), Turn::Nothing);
        assert!(!playback.is_over(), "one may look at the end");
        playback.press(Key::Back(LONG), seconds(90));
        assert_eq!(playback.press(Key::Pause, seconds(95)), Turn::Redraw);
        assert_eq!(playback.position(seconds(97)), seconds(42), "went on from where it stood");
    }

    #[test]
    fn seeks_both_ways() {
        let moments = recording();
        let mut playback = Playback::new(&moments, &Options::default());
        playback.due(seconds(1));
        assert_eq!(playback.press(Key::Forward(SHORT), seconds(1)), Turn::Nothing, "what lies between is due");
        assert_eq!(times(playback.due(seconds(1))), [2]);
        assert_eq!(playback.press(Key::Forward(LONG), seconds(1)), Turn::Nothing);
        assert_eq!((times(playback.due(seconds(1))), playback.position(seconds(1))), (vec![12, 12], seconds(66)));
        assert_eq!(playback.press(Key::Back(LONG), seconds(1)), Turn::Redraw);
        assert_eq!((times(playback.shown()), times(playback.due(seconds(1)))), (vec![1, 2], vec![]));
        assert_eq!(times(playback.due(seconds(7))), [12, 12]);
        assert_eq!(playback.press(Key::Start, seconds(7)), Turn::Redraw);
        assert_eq!((times(playback.shown()), playback.position(seconds(7))), (vec![], Duration::ZERO));
        playback.press(Key::Pause, seconds(7));
        assert_eq!(playback.press(Key::Forward(SHORT), seconds(20)), Turn::Redraw, "the hint is in the way");
        assert_eq!(times(playback.shown()), [1, 2]);
        assert_eq!(playback.press(Key::Back(LONG), seconds(20)), Turn::Redraw);
        assert_eq!(times(playback.shown()), [0u64; 0]);
        playback.press(Key::Pause, seconds(20));
        playback.press(Key::Forward(seconds(1000)), seconds(20));
        assert_eq!(playback.due(seconds(20)).len(), 5);
        assert!(playback.is_over(), "beyond the end is the end");
        assert_eq!(playback.press(Key::End, seconds(20)), Turn::End);
    }

    #[test]
    fn goes_to_markers() {
        let moments = vec![marker(0, "login"), output(1), marker(30, "cut\x1b[31m\u{fc}"), output(40)];
        let mut playback = Playback::new(&moments, &Options::default());
        playback.due(Duration::ZERO);
        assert_eq!(playback.press(Key::Marker, Duration::ZERO), Turn::Nothing);
        assert_eq!(times(playback.due(Duration::ZERO)), [1, 30]);
        assert_eq!(playback.press(Key::Marker, Duration::ZERO), Turn::Nothing, "there is none");
        assert_eq!(playback.position(Duration::ZERO), seconds(30));
        playback.press(Key::Pause, Duration::ZERO);
        assert!(
            playback.hint(200, 24).starts_with(" paused 0:00:30 / 0:00:40  1x  [cut?[31m?]  space: go on"),
            "{}",
            playback.hint(200, 24)
        );
        playback.press(Key::Start, Duration::ZERO);
        assert_eq!(playback.press(Key::Marker, Duration::ZERO), Turn::Redraw);
        assert_eq!(times(playback.shown()), [0, 1, 30]);
    }

    #[test]
    fn the_hint_fits_and_tells_of_another_size() {
        let moments = vec![Moment { at: Duration::ZERO, what: What::Resize { width: 132, height: 24 } }, output(3725)];
        let mut playback = Playback::new(&moments, &Options { speed: 0.5, ..Options::default() });
        playback.due(Duration::ZERO);
        playback.press(Key::Pause, seconds(6));
        assert!(playback.hint(132, 24).starts_with(" paused 0:00:03 / 1:02:05  0.5x  space"));
        assert!(playback.hint(80, 24).contains("recorded at 132x24, shown at 80x24"));
        assert!(playback.hint(132, 20).contains("recorded at 132x24, shown at 132x20"));
        for width in 0..300 {
            assert!(playback.hint(width, 24).len() <= usize::from(width.saturating_sub(1)));
        }
    }

    #[test]
    fn keys_are_read() {
        let keys = |bytes: &[u8]| Keys::default().parse(bytes, Duration::ZERO);
        assert_eq!(keys(b" .m+=-q\x03"), {
            use Key::{End, Faster, Marker, Pause, Slower, Step};
            [Pause, Step, Marker, Faster, Faster, Slower, End, End]
        });
        assert_eq!(keys(b"\x1b[D\x1bOD\x1b[C\x1bOC"), [Key::Back(SHORT), Key::Back(SHORT), Key::Forward(SHORT), Key::Forward(SHORT)]);
        assert_eq!(keys(b"[]\x1b[5~\x1b[6~"), [Key::Back(LONG), Key::Forward(LONG), Key::Back(LONG), Key::Forward(LONG)]);
        assert_eq!(keys(b"\x1b[H\x1bOH\x1b[1~\x1b[7~"), [Key::Start; 4]);
        assert_eq!(keys(b"xyz\x1b[A\x1b[15~\x1bq\x1b[?62;1c\x1b[<0;1;1Mq"), [Key::End], "others, and answers, are nothing");
    }

    #[test]
    fn keys_may_come_in_pieces() {
        let mut keys = Keys::default();
        for piece in [b"\x1b".as_slice(), b"[", b"6"] {
            assert_eq!(keys.parse(piece, Duration::ZERO), []);
        }
        assert_eq!(keys.parse(b"~", Duration::ZERO), [Key::Forward(LONG)]);
        // A lone ESC is none.
        assert_eq!(keys.parse(b"\x1b", seconds(1)), []);
        assert_eq!(keys.parse(b"q", seconds(2)), [Key::End]);
    }

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
