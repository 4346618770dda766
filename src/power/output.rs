//! Standard output, written without ever waiting longer than allowed: a client that reads nothing must not keep a machine
//! from being started again. Once a record could not be written whole the stream is broken, and everything after it is dropped.

use super::deadline::Deadline;
use crate::link::record::{Capture, Outcome, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::Duration;

/// A pipe or socket that is writable takes this much without blocking: POSIX's `PIPE_BUF`, on Linux a page.
const PIECE: usize = 4096;
/// How much of an item goes into one `data` record. Less than the protocol allows, so that a slow reader is noticed early.
const DATA: usize = 64 * 1024;
/// How long a record may take to be written.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

/// For whom the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A program: records and raw data.
    Program,
    /// A person at a terminal: words.
    Person,
}

/// Why an item was not sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The limit passed; the stream itself is in order.
    TooSlow,
    /// Nobody reads.
    Broken,
}

/// Standard output.
#[derive(Debug)]
pub struct Output<F> {
    to: F,
    reader: Reader,
    broken: bool,
}

impl<F: AsFd> Output<F> {
    /// An output to `to`.
    pub const fn new(to: F, reader: Reader) -> Self {
        Self { to, reader, broken: false }
    }

    /// Words on what is being done.
    pub fn progress(&mut self, message: &str) {
        self.record(&Record::Progress { message: message.to_owned() });
    }

    /// Writes a record, or drops it.
    pub fn record(&mut self, record: &Record) {
        let line = match self.reader {
            Reader::Program => serde_json::to_string(record).ok(),
            Reader::Person => words(record),
        };
        if let Some(line) = line {
            self.write(format!("{line}\n").as_bytes());
        }
    }

    /// Writes a piece of an item; a person at a terminal gets none. Nothing is begun after `deadline`.
    pub fn data(&mut self, item: &str, bytes: &[u8], deadline: Deadline) -> Result<(), Unsent> {
        if self.reader == Reader::Person {
            return Ok(());
        }
        for piece in bytes.chunks(DATA) {
            if deadline.passed() {
                return Err(Unsent::TooSlow);
            }
            self.record(&Record::Data { item: item.to_owned(), bytes: piece.len() as u64 });
            self.write(piece);
            if self.broken {
                return Err(Unsent::Broken);
            }
        }
        Ok(())
    }

    /// Whether the stream is broken.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    fn write(&mut self, bytes: &[u8]) {
        let deadline = Deadline::after(RECORD_LIMIT);
        let mut rest = bytes;
        while !self.broken && !rest.is_empty() {
            if !writable_within(&self.to, deadline) {
                self.broken = true;
                return;
            }
            match rustix::io::write(&self.to, rest.get(..PIECE).unwrap_or(rest)) {
                Ok(length) => rest = rest.get(length..).unwrap_or_default(),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.broken = true,
            }
        }
    }
}

/// Whether a write would not block now.
pub fn is_writable(to: &impl AsFd) -> bool {
    ready(to, Duration::ZERO)
}

fn writable_within(to: &impl AsFd, deadline: Deadline) -> bool {
    while let Some(left) = deadline.left() {
        if ready(to, left) {
            return true;
        }
    }
    false
}

fn ready(to: &impl AsFd, limit: Duration) -> bool {
    let mut watched = [PollFd::new(to, PollFlags::OUT)];
    let limit = Timespec::try_from(limit).ok();
    // An error or a hang-up is for the write to find.
    poll(&mut watched, limit.as_ref()).is_ok_and(|count| count > 0)
}

/// A record as a person reads it.
fn words(record: &Record) -> Option<String> {
    match record {
        Record::Progress { message } => Some(message.clone()),
        Record::Data { .. } => None,
        Record::Item(item) => Some(match (item.outcome, &item.message) {
            (Capture::Captured, _) => format!("  {}: captured, {} bytes, {} ms", item.item, item.bytes, item.milliseconds),
            (outcome, Some(message)) => format!("  {}: {outcome:?}: {message}", item.item),
            (outcome, None) => format!("  {}: {outcome:?}", item.item),
        }),
        Record::Result(Outcome { state, message, .. }) => Some(format!("{state:?}: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::record::{Parsed, Parser};
    use std::io::Read;

    #[test]
    fn what_is_written_is_what_a_reader_parses() {
        let (mut from, to) = std::io::pipe().expect("a pipe");
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map(|_| bytes)
        });
        let mut output = Output::new(to, Reader::Program);
        let evidence: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        assert_eq!(output.data("a", &evidence, Deadline::after(RECORD_LIMIT)), Ok(()));
        drop(output);
        let parsed = Parser::new().feed(&reading.join().expect("joins").expect("reads")).expect("parses");
        let read: Vec<u8> =
            parsed.iter().flat_map(|parsed| if let Parsed::Data { bytes, .. } = parsed { bytes.clone() } else { vec![] }).collect();
        assert_eq!(read, evidence);
    }

    #[test]
    fn nobody_who_reads_nothing_is_waited_for() {
        let (from, to) = std::io::pipe().expect("a pipe");
        let mut output = Output::new(to, Reader::Program);
        let began = std::time::Instant::now();
        assert_eq!(output.data("a", &vec![0; 1 << 20], Deadline::after(Duration::from_mins(1))), Err(Unsent::Broken));
        assert!(began.elapsed() < RECORD_LIMIT * 2, "one record's limit");
        let began = std::time::Instant::now();
        output.progress("dropped");
        assert!(output.is_broken() && began.elapsed() < RECORD_LIMIT, "a broken stream costs no time");
        drop(from);
    }

    #[test]
    fn nothing_is_begun_after_the_deadline() {
        let (_from, to) = std::io::pipe().expect("a pipe");
        let mut output = Output::new(to, Reader::Program);
        assert_eq!(output.data("a", b"a", Deadline::after(Duration::ZERO)), Err(Unsent::TooSlow));
        assert!(!output.is_broken());
    }
}
