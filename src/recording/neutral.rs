//! Makes recorded output safe to show on somebody's terminal: what draws passes, what acts on the terminal, its window, its
//! clipboard or its keyboard, or makes it answer, is dropped. Pure: bytes in, bytes out; no IO, and no memory of more than one
//! short sequence.
//!
//! The parser is the one of DEC's VT500 as <https://vt100.net/emu/dec_ansi_parser> draws it, behind a UTF-8 decoder; the
//! sequences are those of ECMA-48 and of xterm's `ctlseqs`. What is allowed is listed, everything else goes. What passes comes
//! out in its 7-bit form, so the bytes 0x80 to 0x9F are in the output as parts of characters only: the viewer's terminal has to
//! be one that expects UTF-8.

/// Longest control sequence that passes, without its two bytes of introduction.
const LONGEST: usize = 64;

/// What a full reset (RIS) becomes: the real one also empties the viewer's scrollback and changes the size of the window. Clears
/// the screen, and passes a [`Neutraliser`] unchanged.
pub const RESET: &[u8] =
    b"\x1b[!p\x1b[?1049l\x1b[?1;5;6l\x1b[?7;25h\x1b[4;20l\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[?5W\x1b[0 q\x1b[r\x1b[m\x1b[H\x1b[J";

/// Private modes that draw: cursor keys (for the sake of programs that set it with others; it ends with the replay), reverse
/// video, origin, wrap, cursor blinking and shown, the alternate screen.
const MODES: &[u32] = &[1, 5, 6, 7, 12, 25, 47, 1047, 1048, 1049];
/// Those among them that switch to the alternate screen.
const ALTERNATE: &[u32] = &[47, 1047, 1049];

/// Where in a sequence we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After CSI.
    Sequence,
    /// In a string: DCS, SOS, PM, APC, or OSC, which BEL ends too.
    Text { bell: bool },
    /// In a title of `screen` and `tmux` (ESC k). Other terminals show it as text, so no more than a line of it is taken away.
    Title,
}

/// Neutralises one stream of output, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Neutraliser {
    state: State,
    /// Of an unfinished sequence, what follows its introduction; never much longer than [`LONGEST`].
    held: Vec<u8>,
    character: Character,
    alternate: bool,
}

/// A character of UTF-8 that is not complete.
#[derive(Debug, Default)]
struct Character {
    bytes: Vec<u8>,
    missing: usize,
    /// What the next byte may be, both ends included.
    low: u8,
    high: u8,
}

impl Character {
    /// Whether `byte` begins a character (RFC 3629, 4); if so it is kept.
    fn begin(&mut self, byte: u8) -> bool {
        (self.missing, self.low, self.high) = match byte {
            0xc2..=0xdf => (1, 0x80, 0xbf),
            0xe0 => (2, 0xa0, 0xbf),
            0xed => (2, 0x80, 0x9f),
            0xe1..=0xef => (2, 0x80, 0xbf),
            0xf0 => (3, 0x90, 0xbf),
            0xf1..=0xf3 => (3, 0x80, 0xbf),
            0xf4 => (3, 0x80, 0x8f),
            _ => return false,
        };
        self.bytes.push(byte);
        true
    }

    /// Whether `byte` goes on with the character that was begun; if so it is kept.
    fn go_on(&mut self, byte: u8) -> bool {
        if self.bytes.is_empty() || !(self.low..=self.high).contains(&byte) {
            return false;
        }
        self.bytes.push(byte);
        (self.missing, self.low, self.high) = (self.missing.saturating_sub(1), 0x80, 0xbf);
        true
    }
}

impl Neutraliser {
    /// What may be shown of the next bytes. An unfinished sequence or character is kept for the next call.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some((&first, tail)) = rest.split_first() {
            if self.state == State::Ground && self.character.bytes.is_empty() {
                let plain = rest.iter().take_while(|byte| (0x20..0x7f).contains(*byte)).count();
                if plain > 0 {
                    let (text, tail) = rest.split_at(plain);
                    out.extend_from_slice(text);
                    rest = tail;
                    continue;
                }
            }
            self.byte(first, &mut out);
            rest = tail;
        }
        out
    }

    /// The recording is over: what may be shown of what was kept. Afterwards all is as in the beginning.
    pub fn end(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.broken_character(&mut out);
        *self = Self::default();
        out
    }

    /// Whether what has passed so far leaves a terminal on its alternate screen.
    #[must_use]
    pub const fn is_alternate(&self) -> bool {
        self.alternate
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.character.go_on(byte) {
            if self.character.missing == 0 {
                let mut character = std::mem::take(&mut self.character.bytes);
                match character.as_slice() {
                    // U+0080 to U+009F: controls as well, for terminals that decode first.
                    [0xc2, control @ 0x80..=0x9f] => self.high_control(*control),
                    text => self.high_text(text, out),
                }
                character.clear();
                self.character.bytes = character;
            }
            return;
        }
        self.broken_character(out);
        match byte {
            0x00..=0x1f => self.control(byte, out),
            0x20..=0x7e => self.printable(byte, out),
            0x7f => {}
            0x80..=0x9f => self.high_control(byte),
            _ if self.character.begin(byte) => {}
            _ => self.high_text(&[byte], out),
        }
    }

    /// A character breaks off: its bytes pass, but for those that would be controls on their own.
    fn broken_character(&mut self, out: &mut Vec<u8>) {
        let mut bytes = std::mem::take(&mut self.character.bytes);
        bytes.retain(|byte| !matches!(byte, 0x80..=0x9f));
        if !bytes.is_empty() {
            self.high_text(&bytes, out);
        }
        bytes.clear();
        self.character.bytes = bytes;
    }

    fn enter(&mut self, state: State) {
        self.held.clear();
        self.state = state;
    }

    /// C0. Within a sequence they act at once, as on a real terminal.
    fn control(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (byte, self.state) {
            (0x1b, _) => self.enter(State::Escape),
            // CAN and SUB abort; BEL ends an OSC.
            (0x18 | 0x1a, _) | (0x07, State::Text { bell: true }) => self.enter(State::Ground),
            (_, State::Text { .. }) => {}
            (_, state) => {
                if state == State::Title {
                    self.enter(State::Ground);
                }
                // BS, HT, LF, VT, FF, CR, SO, SI. ENQ makes the terminal answer, XOFF stops it, BEL is only a noise.
                if matches!(byte, 0x08..=0x0f) {
                    out.push(byte);
                }
            }
        }
    }

    /// C1, as one byte or as a character: what it introduces is read like the 7-bit form, the others are dropped.
    fn high_control(&mut self, byte: u8) {
        match (byte, self.state) {
            (0x9c, _) => self.enter(State::Ground),
            // Within a string a terminal for UTF-8 sees no controls but its end.
            (_, State::Text { .. } | State::Title) => {}
            (0x9b, _) => self.enter(State::Sequence),
            (0x9d, _) => self.enter(State::Text { bell: true }),
            (0x90 | 0x98 | 0x9e | 0x9f, _) => self.enter(State::Text { bell: false }),
            _ => self.enter(State::Ground),
        }
    }

    /// A character beyond ASCII, or bytes that are none. No sequence has them, so an unfinished one is over.
    fn high_text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if !matches!(self.state, State::Text { .. } | State::Title) {
            self.enter(State::Ground);
            out.extend_from_slice(text);
        }
    }

    fn printable(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (self.state, byte) {
            (State::Ground, _) => out.push(byte),
            (State::Text { .. } | State::Title, _) => {}
            (State::Escape, 0x20..=0x2f) | (State::Sequence, 0x20..=0x3f) => {
                // One byte too many is kept: it says that the sequence is over-long.
                if self.held.len() <= LONGEST {
                    self.held.push(byte);
                }
            }
            (State::Escape, _) => self.escape(byte, out),
            (State::Sequence, _) => {
                let held = std::mem::take(&mut self.held);
                self.enter(State::Ground);
                if held.len() <= LONGEST {
                    self.sequence(&held, byte, out);
                }
                self.held = held;
                self.held.clear();
            }
        }
    }

    /// The last byte of an escape sequence.
    fn escape(&mut self, last: u8, out: &mut Vec<u8>) {
        let mut passes = false;
        let mut next = State::Ground;
        match (self.held.as_slice(), last) {
            ([], b'[') => next = State::Sequence,
            ([], b']') => next = State::Text { bell: true },
            ([], b'P' | b'X' | b'^' | b'_') => next = State::Text { bell: false },
            ([], b'k') => next = State::Title,
            ([], b'c') => {
                out.extend_from_slice(RESET);
                self.alternate = false;
            }
            // Cursor saved and restored, index and line feed, tab stop, single and locking shifts; charsets of G0 to G3; double
            // height and width, the screen of E.
            ([], b'6'..=b'9' | b'D' | b'E' | b'H' | b'M'..=b'O' | b'n' | b'o' | b'|'..=b'~')
            | ([b'('..=b'+'], b'0'..=b'~')
            | ([b'#'], b'3'..=b'6' | b'8') => passes = true,
            _ => {}
        }
        if passes {
            out.push(0x1b);
            out.extend_from_slice(&self.held);
            out.push(last);
        }
        self.enter(next);
    }

    /// A complete control sequence: `held` is what stands between CSI and its last byte.
    fn sequence(&mut self, held: &[u8], last: u8, out: &mut Vec<u8>) {
        let (private, held) = match held.split_first() {
            Some((private @ 0x3c..=0x3f, rest)) => (Some(*private), rest),
            _ => (None, held),
        };
        let end = held.iter().take_while(|byte| matches!(byte, b'0'..=b';')).count();
        let (parameters, intermediates) = held.split_at(end);
        let passes = match (private, intermediates, last) {
            (Some(b'?'), b"", b'h' | b'l') => return self.modes(parameters, last, out),
            (None, b"", _) => draws(parameters, last),
            // Selective erase, tab stops as in the beginning.
            (Some(b'?'), b"", b'J' | b'K') => one_of(parameters, &[0, 1, 2]),
            (Some(b'?'), b"", b'W') => one_of(parameters, &[5]),
            // Shape of the cursor, scrolling sideways, insertion and deletion of columns, protected characters.
            (None, b" ", b'q' | b'@' | b'A') | (None, b"'", b'}' | b'~') | (None, b"\"", b'q') => single(parameters),
            // Soft reset.
            (None, b"!", b'p') => parameters.is_empty(),
            _ => false,
        };
        if passes {
            out.extend_from_slice(b"\x1b[");
            out.extend(private);
            out.extend_from_slice(held);
            out.push(last);
        }
    }

    /// Private modes: of several, those pass that are allowed.
    fn modes(&mut self, parameters: &[u8], last: u8, out: &mut Vec<u8>) {
        let allowed: Vec<u32> = parameters.split(|byte| *byte == b';').filter_map(number).filter(|mode| MODES.contains(mode)).collect();
        if allowed.iter().any(|mode| ALTERNATE.contains(mode)) {
            self.alternate = last == b'h';
        }
        if !allowed.is_empty() {
            let allowed: Vec<String> = allowed.iter().map(u32::to_string).collect();
            out.extend_from_slice(b"\x1b[?");
            out.extend_from_slice(allowed.join(";").as_bytes());
            out.push(last);
        }
    }
}

/// Whether a control sequence without prefix and intermediates only draws.
fn draws(parameters: &[u8], last: u8) -> bool {
    match last {
        // Colours and the like: colons separate parts of a parameter.
        b'm' => parameters.split(|byte| matches!(byte, b';' | b':')).all(is_number),
        // Cursor and tabs (A to I, Z, `, a, d, e, f, g), erasing, inserting, deleting, the scroll region.
        b'@'..=b'I' | b'K'..=b'M' | b'P' | b'X' | b'Z' | b'`' | b'a' | b'd'..=b'g' | b'r' => {
            parameters.split(|byte| *byte == b';').all(is_number)
        }
        // 3 would empty the viewer's scrollback.
        b'J' => one_of(parameters, &[0, 1, 2]),
        // T with five parameters waits for the mouse.
        b'S' | b'T' => single(parameters),
        // Repetition of a character: up to a screenful.
        b'b' => single(parameters) && number(parameters).is_none_or(|times| times < 10_000),
        // Insert and newline mode.
        b'h' | b'l' => parameters.split(|byte| *byte == b';').all(|parameter| number(parameter).is_some_and(|mode| matches!(mode, 4 | 20))),
        // Cursor saved and restored; with parameters they are something else.
        b's' | b'u' => parameters.is_empty(),
        _ => false,
    }
}

/// A parameter's value, `None` for one that is left out or out of all proportion.
fn number(parameter: &[u8]) -> Option<u32> {
    if parameter.len() > 5 || !parameter.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(parameter).ok()?.parse().ok()
}

fn is_number(parameter: &[u8]) -> bool {
    parameter.is_empty() || number(parameter).is_some()
}

/// At most one parameter.
fn single(parameters: &[u8]) -> bool {
    is_number(parameters)
}

/// At most one parameter, of these values; left out it is 0.
fn one_of(parameters: &[u8], values: &[u32]) -> bool {
    single(parameters) && values.contains(&number(parameters).unwrap_or(0))
}

#[cfg(test)]
mod tests;
