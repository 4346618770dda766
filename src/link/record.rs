//! What `sandglass-power` writes to its standard output, and the parser for the side that reads it.
//!
//! A stream of records, each one JSON object on one line ending in `\n`; a record of type `data` is followed by exactly
//! `bytes` raw bytes. The last record, and only that one, has the type `result`. Types this side does not know are skipped:
//! an older reader understands a newer writer. Depends on nothing else here.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The longest line a reader accepts, in bytes, without the line feed.
pub const LINE_LIMIT: usize = 16 * 1024;
/// The most raw bytes after one `data` record.
pub const DATA_LIMIT: usize = 256 * 1024;
/// The longest name of an item.
const NAME_LIMIT: usize = 64;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Record {
    /// Words for a person: what is being done.
    Progress {
        /// The words.
        message: String,
    },
    /// A piece of an item; that many raw bytes follow the line.
    Data {
        /// Which item.
        item: String,
        /// How many bytes follow, at most [`DATA_LIMIT`].
        bytes: u64,
    },
    /// An item is complete, or will not come.
    Item(Item),
    /// The end.
    Result(Outcome),
}

/// What became of one item of the forensics bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its name, which is fit for a file name.
    pub item: String,
    /// How it went.
    pub outcome: Capture,
    /// How many bytes were sent.
    pub bytes: u64,
    /// How long it took, sending included.
    pub milliseconds: u64,
    /// Why, unless it was captured.
    pub message: Option<String>,
}

/// How the capture of an item went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capture {
    /// Captured and sent whole.
    Captured,
    /// Tried in vain.
    Failed,
    /// Not done within its limit, or the bundle's.
    TimedOut,
    /// Not tried.
    Skipped,
}

/// What became of the verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The verb, unless it was not understood.
    pub verb: Option<String>,
    /// The VM's id, unless it was not understood.
    pub vm: Option<String>,
    /// How it ended.
    pub state: Ending,
    /// The VM's state before: `running`, `paused`, `off`, `panicked`, or the hypervisor's own word.
    pub before: Option<String>,
    /// The same afterwards.
    pub after: Option<String>,
    /// What holds the VM's lock, if it is locked.
    pub locked: Option<String>,
    /// When the request came in.
    pub started_at: DateTime<Utc>,
    /// When it was done.
    pub finished_at: DateTime<Utc>,
    /// Words for a person.
    pub message: String,
}

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Done, and the wanted state was seen.
    Succeeded,
    /// Tried; the wanted state was not reached within its limit.
    Failed,
    /// Not tried.
    Refused,
}

/// What the parser found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Words for a person.
    Progress(String),
    /// A piece of an item.
    Data {
        /// Which item.
        item: String,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// An item is complete, or will not come.
    Item(Item),
    /// The end.
    Result(Outcome),
}

/// Why a stream is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No line feed within the limit.
    #[error("a record's line is longer than {LINE_LIMIT} bytes")]
    LongLine,
    /// Not a record.
    #[error("a line is not a record: {0}")]
    BadRecord(String),
    /// More raw bytes than allowed.
    #[error("a data record announces {0} bytes, more than {DATA_LIMIT}")]
    MuchData(u64),
    /// A name that could be a path.
    #[error("an item's name is not fit for a file name")]
    BadName,
    /// Bytes behind the result.
    #[error("there is something behind the result")]
    AfterResult,
    /// The stream ended before the result.
    #[error("the stream ended without a result: what became of the machine is not known")]
    NoResult,
}

/// Reads a stream of records piece by piece. Holds at most one line or one piece of data.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// The data being read: its item and how many bytes it has.
    data: Option<(String, usize)>,
    complete: bool,
    failure: Option<ParseError>,
}

impl Parser {
    /// A parser at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and returns what they complete. What came before an error in the same piece is returned first;
    /// the error comes with the next call, and again with each one after it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Parsed>, ParseError> {
        let mut found = Vec::new();
        let mut rest = bytes;
        while self.failure.is_none() && !rest.is_empty() {
            match self.step(&mut rest) {
                Ok(parsed) => found.extend(parsed),
                Err(failure) => self.failure = Some(failure),
            }
        }
        match &self.failure {
            Some(failure) if found.is_empty() => Err(failure.clone()),
            _ => Ok(found),
        }
    }

    /// Tells whether the stream that has ended was whole.
    pub fn finish(&self) -> Result<(), ParseError> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None if !self.complete => Err(ParseError::NoResult),
            None => Ok(()),
        }
    }

    fn step(&mut self, rest: &mut &[u8]) -> Result<Option<Parsed>, ParseError> {
        if self.complete {
            return Err(ParseError::AfterResult);
        }
        if let Some((_, wanted)) = &self.data {
            let (taken, left) = rest.split_at(rest.len().min(wanted - self.buffer.len()));
            self.buffer.extend_from_slice(taken);
            *rest = left;
            if self.buffer.len() < *wanted {
                return Ok(None);
            }
            let bytes = std::mem::take(&mut self.buffer);
            return Ok(self.data.take().map(|(item, _)| Parsed::Data { item, bytes }));
        }
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (taken, left) = rest.split_at(end.unwrap_or(rest.len()));
        if self.buffer.len() + taken.len() > LINE_LIMIT {
            return Err(ParseError::LongLine);
        }
        self.buffer.extend_from_slice(taken);
        let Some((_, left)) = left.split_first() else {
            *rest = left;
            return Ok(None);
        };
        *rest = left;
        let line = std::mem::take(&mut self.buffer);
        self.record(&line)
    }

    fn record(&mut self, line: &[u8]) -> Result<Option<Parsed>, ParseError> {
        #[derive(Deserialize)]
        struct Kind {
            r#type: String,
        }
        let bad = |failure: serde_json::Error| ParseError::BadRecord(failure.to_string());
        let kind: Kind = serde_json::from_slice(line).map_err(bad)?;
        if !matches!(kind.r#type.as_str(), "progress" | "data" | "item" | "result") {
            return Ok(None);
        }
        match serde_json::from_slice(line).map_err(bad)? {
            Record::Progress { message } => Ok(Some(Parsed::Progress(message))),
            Record::Data { item, bytes } => {
                check_name(&item)?;
                let length = usize::try_from(bytes).ok().filter(|length| *length <= DATA_LIMIT).ok_or(ParseError::MuchData(bytes))?;
                if length > 0 {
                    self.data = Some((item, length));
                }
                Ok(None)
            }
            Record::Item(item) => check_name(&item.item).map(|()| Some(Parsed::Item(item))),
            Record::Result(outcome) => {
                self.complete = true;
                Ok(Some(Parsed::Result(outcome)))
            }
        }
    }
}

/// The reading side makes file names and object keys of it.
fn check_name(name: &str) -> Result<(), ParseError> {
    let fit = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fit && !name.is_empty() && !name.starts_with('.') && name.len() <= NAME_LIMIT { Ok(()) } else { Err(ParseError::BadName) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &Record) -> Vec<u8> {
        let mut line = serde_json::to_vec(record).expect("serializes");
        line.push(b'\n');
        line
    }

    fn outcome() -> Outcome {
        let at = |text: &str| text.parse().expect("a time");
        Outcome {
            verb: Some("cycle".into()),
            vm: Some("102".into()),
            state: Ending::Succeeded,
            before: Some("panicked".into()),
            after: Some("running".into()),
            locked: None,
            started_at: at("2026-03-04T05:06:07Z"),
            finished_at: at("2026-03-04T05:06:17Z"),
            message: "done".into(),
        }
    }

    fn stream() -> (Vec<u8>, Vec<Parsed>) {
        let item = Item { item: "screen.png".into(), outcome: Capture::Captured, bytes: 3, milliseconds: 41, message: None };
        let mut bytes = line(&Record::Progress { message: "capturing".into() });
        bytes.extend(line(&Record::Data { item: "screen.png".into(), bytes: 3 }));
        bytes.extend(b"\n{\n");
        bytes.extend(b"{\"type\":\"of the future\",\"bytes\":{}}\n");
        bytes.extend(line(&Record::Item(item.clone())));
        bytes.extend(line(&Record::Result(outcome())));
        let parsed = vec![
            Parsed::Progress("capturing".into()),
            Parsed::Data { item: "screen.png".into(), bytes: b"\n{\n".to_vec() },
            Parsed::Item(item),
            Parsed::Result(outcome()),
        ];
        (bytes, parsed)
    }

    #[test]
    fn pieces_of_any_size_parse_alike() {
        let (bytes, expected) = stream();
        for size in 1..=bytes.len() {
            let mut parser = Parser::new();
            let parsed: Vec<Parsed> = bytes.chunks(size).flat_map(|piece| parser.feed(piece).expect("parses")).collect();
            assert_eq!(parsed, expected, "pieces of {size}");
            assert_eq!(parser.finish(), Ok(()));
        }
    }

    #[test]
    fn the_lines_are_as_documented() {
        let text = String::from_utf8(line(&Record::Result(outcome()))).expect("text");
        assert_eq!(
            text,
            concat!(
                r#"{"type":"result","verb":"cycle","vm":"102","state":"Succeeded","before":"panicked","after":"running","locked":null,"#,
                r#""startedAt":"2026-03-04T05:06:07Z","finishedAt":"2026-03-04T05:06:17Z","message":"done"}"#,
                "\n"
            )
        );
        assert_eq!(line(&Record::Data { item: "a".into(), bytes: 7 }), b"{\"type\":\"data\",\"item\":\"a\",\"bytes\":7}\n");
        let item = Item { item: "a".into(), outcome: Capture::TimedOut, bytes: 0, milliseconds: 9, message: Some("slow".into()) };
        let expected = "{\"type\":\"item\",\"item\":\"a\",\"outcome\":\"TimedOut\",\"bytes\":0,\"milliseconds\":9,\"message\":\"slow\"}\n";
        assert_eq!(line(&Record::Item(item)), expected.as_bytes());
    }

    #[test]
    fn bounds_are_kept() {
        let cases: [(Vec<u8>, ParseError); 7] = [
            (vec![b'x'; LINE_LIMIT + 1], ParseError::LongLine),
            (b"{\"type\":\"data\",\"item\":\"a\",\"bytes\":262145}\n".to_vec(), ParseError::MuchData(262_145)),
            (b"{\"type\":\"data\",\"item\":\"../a\",\"bytes\":1}\n".to_vec(), ParseError::BadName),
            (b"{\"type\":\"data\",\"item\":\".a\",\"bytes\":1}\n".to_vec(), ParseError::BadName),
            (b"{\"type\":\"data\",\"item\":\"\",\"bytes\":1}\n".to_vec(), ParseError::BadName),
            (line(&Record::Data { item: "a".repeat(65), bytes: 1 }), ParseError::BadName),
            (b"\n".to_vec(), ParseError::BadRecord("EOF while parsing a value at line 1 column 0".into())),
        ];
        for (bytes, failure) in cases {
            let mut parser = Parser::new();
            assert_eq!(parser.feed(&bytes), Err(failure.clone()));
            assert_eq!(parser.feed(b"{\"type\":\"progress\",\"message\":\"\"}\n"), Err(failure.clone()), "an error stays");
            assert_eq!(parser.finish(), Err(failure));
        }
    }

    #[test]
    fn what_came_before_an_error_is_not_lost() {
        let (mut bytes, expected) = stream();
        bytes.extend(b"more");
        let mut parser = Parser::new();
        assert_eq!(parser.feed(&bytes), Ok(expected));
        assert_eq!(parser.feed(b""), Err(ParseError::AfterResult));
        assert_eq!(parser.finish(), Err(ParseError::AfterResult));
    }

    #[test]
    fn a_stream_without_a_result_is_not_whole() {
        let (bytes, _) = stream();
        for length in [0, 5, 40, 80, bytes.len() - 1] {
            let mut parser = Parser::new();
            parser.feed(&bytes[..length]).expect("parses");
            assert_eq!(parser.finish(), Err(ParseError::NoResult), "after {length} bytes");
        }
    }
}
