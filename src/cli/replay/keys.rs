//! The keys of a replay, out of the bytes that a terminal sends for them. Pure.

use std::time::Duration;

/// How far the arrow keys go.
pub(super) const SHORT: Duration = Duration::from_secs(5);
/// How far the brackets and page keys go.
pub(super) const LONG: Duration = Duration::from_mins(1);
/// The bytes of one key arrive within this time; ESC and something later are two keys.
const ONE_KEY: Duration = Duration::from_millis(100);

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
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
pub(super) struct Keys {
    held: Vec<u8>,
    read: Duration,
}

impl Keys {
    /// Takes what was read; gives the keys that are complete with it.
    pub(super) fn parse(&mut self, bytes: &[u8], now: Duration) -> Vec<Key> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(keys.parse(b"\x1b", Duration::from_secs(1)), []);
        assert_eq!(keys.parse(b"q", Duration::from_secs(2)), [Key::End]);
    }
}
