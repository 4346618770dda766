//! The clock of a replay and the position in it, and what keys do to them. Pure: time is an argument.

use std::time::Duration;

use super::keys::Key;
use super::{Moment, Options, What};

/// Speeds beyond these are of no use.
const SPEEDS: (f64, f64) = (1.0 / 64.0, 1024.0);

/// What a key means for the screen; of several the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Nothing,
    /// The hint is new.
    Hint,
    /// Everything is to be shown from the beginning: we went back, or the hint has to go.
    Redraw,
    End,
}

/// The clock of a replay and the position in it. Positions are times of the replay at normal speed, with idle times cut.
#[derive(Debug)]
pub(super) struct Playback<'a> {
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
    pub(super) fn new(moments: &'a [Moment], options: &Options) -> Self {
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
    pub(super) fn due(&mut self, now: Duration) -> &'a [Moment] {
        if self.since.is_none() {
            return &[];
        }
        let position = self.position(now);
        let from = self.next;
        self.next = from.max(self.positions.partition_point(|known| *known <= position));
        self.moments.get(from..self.next).unwrap_or_default()
    }

    /// What was shown.
    pub(super) fn shown(&self) -> &'a [Moment] {
        self.moments.get(..self.next).unwrap_or_default()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.since.is_none()
    }

    /// Everything was shown, and nobody wants to look at it.
    pub(super) fn is_over(&self) -> bool {
        !self.is_paused() && self.next >= self.moments.len()
    }

    /// How long until the next moment; `None` in a pause.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        self.since?;
        let left = self.positions.get(self.next).copied().unwrap_or_default().saturating_sub(self.position(now));
        let wait = Duration::try_from_secs_f64(left.as_secs_f64() / self.speed).unwrap_or(Duration::MAX);
        // Rounding must not wake us a moment too early again and again.
        Some(if left.is_zero() { wait } else { wait.saturating_add(Duration::from_micros(1)) })
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: Key, now: Duration) -> Turn {
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
    pub(super) fn hint(&self, width: u16, height: u16) -> String {
        let recorded = self.moments.last().map(|last| last.at).unwrap_or_default();
        let mut line = format!(" paused {} / {}  {}x", time(self.recorded_at(self.position)), time(recorded), self.speed);
        let mut latest = self.shown().iter().rev().map(|moment| &moment.what);
        if let Some(What::Marker(text)) = latest.clone().find(|what| matches!(what, What::Marker(_))) {
            let text: String = text.chars().map(|character| if matches!(character, ' '..='~') { character } else { '?' }).collect();
            line = format!("{line}  [{text}]");
        }
        if let Some(What::Resize { width: wide, height: high }) = latest.find(|what| matches!(what, What::Resize { .. }))
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

#[cfg(test)]
mod tests {
    use super::super::keys::{LONG, SHORT};
    use super::*;
    use bytes::Bytes;

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
}
