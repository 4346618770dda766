//! One channel of a recording as asciicast v2 (docs.asciinema.org/manual/asciicast/v2), or as text. Pure.

use super::format::{Kind, Record};
use avt::Terminal;
use avt::observer::Transcript;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::time::Duration;

/// Where a channel had no terminal.
const SIZE: (u16, u16) = (80, 24);

/// The data of an `open` record, as far as it is needed here.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Opened {
    /// What the channel is for.
    pub kind: String,
    /// The command, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The terminal, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<OpenedTerminal>,
}

/// A terminal.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct OpenedTerminal {
    /// Value of TERM.
    #[serde(rename = "type", default)]
    pub name: String,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A channel that showed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Channel {
    /// Its number.
    pub channel: u32,
    /// What it was for.
    #[serde(flatten)]
    pub opened: Opened,
    /// How it ended: `code 0`, `signal 9`, in words, or nothing where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// Bytes it showed.
    pub bytes: u64,
}

/// Every channel that shows something, in the order of their beginning. File transfers and forwards do so only if there were words beside them.
#[must_use]
pub fn channels(records: &[Record]) -> Vec<Channel> {
    let mut channels: Vec<Channel> = Vec::new();
    for record in records {
        if record.kind == Kind::Open {
            let opened = serde_json::from_slice(&record.data);
            let opened = opened.unwrap_or_else(|_| Opened { kind: "Unknown".into(), command: None, terminal: None });
            channels.push(Channel { channel: record.channel, opened, exit: None, bytes: 0 });
            continue;
        }
        let Some(channel) = channels.iter_mut().rfind(|channel| channel.channel == record.channel) else { continue };
        match record.kind {
            Kind::Output | Kind::Error => channel.bytes += record.data.len() as u64,
            Kind::Exit => channel.exit = Some(exit(&record.data)),
            _ => {}
        }
    }
    channels.retain(|channel| channel.bytes > 0 || matches!(channel.opened.kind.as_str(), "Shell" | "Command" | "Unknown"));
    channels
}

/// `{"code":0}` as `code 0`.
fn exit(data: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
    let word = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{name}: {text}"),
        other => format!("{name} {other}"),
    };
    value.as_object().and_then(|fields| fields.iter().next()).map(word).unwrap_or_default()
}

/// What happens to a viewer's terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Bytes are shown. Line ends are a terminal's, also where the channel had none.
    Output(Vec<u8>),
    /// The terminal has another size.
    Resize(u16, u16),
    /// Words of ours.
    Marker(String),
    /// Typed with the echo on.
    Typed(String),
}

/// One channel's events with their times since the recording's start.
#[must_use]
pub fn events(records: &[Record], channel: &Channel) -> Vec<(Duration, What)> {
    let has_terminal = channel.opened.terminal.is_some();
    let shown = |data: &[u8]| if has_terminal { data.to_vec() } else { with_returns(data) };
    let event = |record: &Record| match record.kind {
        Kind::Output | Kind::Error => Some(What::Output(shown(&record.data))),
        Kind::Marker => Some(What::Marker(String::from_utf8_lossy(&record.data).into_owned())),
        Kind::Exit => Some(What::Marker(format!("exit: {}", exit(&record.data)))),
        Kind::Resize => serde_json::from_slice::<OpenedTerminal>(&record.data).ok().map(|size| What::Resize(size.width, size.height)),
        Kind::Keystrokes => Some(What::Typed(String::from_utf8_lossy(&record.data).into_owned())),
        Kind::Open => None,
    };
    records.iter().filter(|record| record.channel == channel.channel).filter_map(|record| Some((record.at, event(record)?))).collect()
}

/// The exact bytes that the channel showed, both streams in the order in which they were shown.
#[must_use]
pub fn raw(records: &[Record], channel: &Channel) -> Vec<u8> {
    let shown = |record: &&Record| record.channel == channel.channel && matches!(record.kind, Kind::Output | Kind::Error);
    records.iter().filter(shown).flat_map(|record| record.data.iter().copied()).collect()
}

fn with_returns(data: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(data.len() + data.len() / 32);
    for byte in data {
        if *byte == b'\n' {
            text.push(b'\r');
        }
        text.push(*byte);
    }
    text
}

fn size(channel: &Channel) -> (u16, u16) {
    let told = channel.opened.terminal.as_ref().map(|terminal| (terminal.width, terminal.height));
    told.filter(|(width, height)| *width > 0 && *height > 0).unwrap_or(SIZE)
}

/// The channel as one asciicast v2 file.
#[must_use]
pub fn asciicast(records: &[Record], channel: &Channel, title: &str, started_at: DateTime<Utc>) -> String {
    let (width, height) = size(channel);
    let term = channel.opened.terminal.as_ref().map_or("xterm-256color", |terminal| terminal.name.as_str());
    let header = serde_json::json!({
        "version": 2, "width": width, "height": height, "timestamp": started_at.timestamp(), "title": title, "env": { "TERM": term },
    });
    let mut text = format!("{header}\n");
    let mut line = |at: Duration, code: &str, data: &str| {
        let data = serde_json::Value::from(data);
        let _ = writeln!(text, "[{}.{:06}, \"{code}\", {data}]", at.as_secs(), at.subsec_micros());
    };
    let mut decoder = Utf8::default();
    let mut last = Duration::ZERO;
    for (at, what) in events(records, channel) {
        last = at;
        match what {
            What::Output(bytes) => {
                let shown = decoder.decode(&bytes);
                if !shown.is_empty() {
                    line(at, "o", &shown);
                }
            }
            What::Resize(width, height) => line(at, "r", &format!("{width}x{height}")),
            What::Marker(label) => line(at, "m", &label),
            What::Typed(keys) => line(at, "i", &keys),
        }
    }
    let rest = decoder.end();
    if !rest.is_empty() {
        line(last, "o", &rest);
    }
    text
}

/// The channel as text: what a terminal would have shown, line by line, without colours and movement.
#[must_use]
pub fn transcript(records: &[Record], channel: &Channel) -> String {
    let (width, height) = size(channel);
    let Ok(mut terminal) = Terminal::new(width.into(), height.into()) else { return String::new() };
    let mut transcript = Transcript::new();
    let mut decoder = Utf8::default();
    let mut lines: Vec<String> = Vec::new();
    for (_, what) in events(records, channel) {
        match what {
            What::Output(bytes) => lines.extend(terminal.feed_with(decoder.decode(&bytes).as_str(), &mut transcript)),
            // A size of nothing is no size.
            What::Resize(width, height) => terminal.resize(width.into(), height.into()),
            What::Marker(_) | What::Typed(_) => {}
        }
    }
    lines.extend(terminal.feed_with(decoder.end().as_str(), &mut transcript));
    lines.extend(transcript.finish(&terminal));
    let mut text: String = lines.iter().flat_map(|line| [line.trim_end(), "\n"]).collect();
    let length = text.trim_end().len();
    text.truncate(length);
    text.push('\n');
    text
}

/// Bytes to text across the borders of records; what is no UTF-8 becomes U+FFFD.
#[derive(Default)]
struct Utf8(Vec<u8>);

impl Utf8 {
    fn decode(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_unfinished(invalid) {
                self.0 = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }

    fn end(&mut self) -> String {
        if std::mem::take(&mut self.0).is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() }
    }
}

/// Whether bytes could be the beginning of a character.
fn is_unfinished(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn record(kind: Kind, at: u64, data: &[u8]) -> Record {
        Record { kind, channel: 1, at: Duration::from_millis(at), data: Bytes::copy_from_slice(data) }
    }

    fn terminal() -> Vec<Record> {
        vec![
            record(Kind::Open, 0, br#"{"kind":"Shell","terminal":{"type":"xterm","width":20,"height":5}}"#),
            record(Kind::Output, 5, b"gr\xc3"),
            record(Kind::Output, 6, b"\xbc\xc3\x9fe \xff\r\n\x1b[31mred\x1b[0m"),
            record(Kind::Resize, 7, br#"{"width":100,"height":30}"#),
            record(Kind::Marker, 8, "1 minute left".as_bytes()),
            record(Kind::Exit, 1009, br#"{"code":3}"#),
        ]
    }

    #[test]
    fn a_channel_is_an_asciicast_file() {
        let records = terminal();
        let channels = channels(&records);
        assert_eq!(channels.len(), 1);
        assert_eq!(channels[0].exit.as_deref(), Some("code 3"));
        let cast = asciicast(&records, &channels[0], "ci/build-42", DateTime::UNIX_EPOCH);
        let lines: Vec<serde_json::Value> = cast.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((&lines[0]["version"], &lines[0]["width"], &lines[0]["height"]), (&2.into(), &20.into(), &5.into()));
        assert_eq!(lines[1], serde_json::json!([0.005, "o", "gr"]));
        assert_eq!(lines[2], serde_json::json!([0.006, "o", "\u{fc}\u{df}e \u{fffd}\r\n\u{1b}[31mred\u{1b}[0m"]));
        assert_eq!(lines[3], serde_json::json!([0.007, "r", "100x30"]));
        assert_eq!(lines[4], serde_json::json!([0.008, "m", "1 minute left"]));
        assert_eq!(lines[5], serde_json::json!([1.009, "m", "exit: code 3"]));
    }

    #[test]
    fn text_is_what_was_seen() {
        let records = terminal();
        assert_eq!(transcript(&records, &channels(&records)[0]), "gr\u{fc}\u{df}e \u{fffd}\nred\n");
    }

    #[test]
    fn without_a_terminal_lines_still_begin_at_the_left() {
        let records = [
            record(Kind::Open, 0, br#"{"kind":"Command","command":"ls"}"#),
            record(Kind::Output, 1, b"a\nb\n"),
            record(Kind::Error, 2, b"c\n"),
        ];
        let channel = &channels(&records)[0];
        assert_eq!(transcript(&records, channel), "a\nb\nc\n");
        assert!(asciicast(&records, channel, "t", DateTime::UNIX_EPOCH).contains(r#""a\r\nb\r\n""#));
    }

    #[test]
    fn characters_are_whole_wherever_they_were_cut() {
        let whole = "a\u{e9}\u{20ac}\u{1f600}z".as_bytes();
        for cut in 0..=whole.len() {
            let mut decoder = Utf8::default();
            let text = decoder.decode(&whole[..cut]) + &decoder.decode(&whole[cut..]) + &decoder.end();
            assert_eq!(text.as_bytes(), whole, "{cut}");
        }
    }
}
