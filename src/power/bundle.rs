//! The forensics bundle: what is known of a VM before it is touched, item by item, each with its own limit and outcome. Nothing
//! here fails a verb: evidence is worth seconds, not the machine.

use super::deadline::Deadline;
use super::driver::{Driver, DriverError, Evidence, Part, State};
use super::options::Options;
use super::output::{Output, Unsent};
use crate::link::record::{Capture, Item, Record};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

/// How much of the console's end is captured.
const CONSOLE_LIMIT: u64 = 256 * 1024;

/// How many items were captured, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Captured and sent.
    pub captured: usize,
    /// Tried.
    pub tried: usize,
}

/// What is captured, and where it goes.
pub struct Bundle<'a, F> {
    /// The VM.
    pub driver: &'a dyn Driver,
    /// Its state, if known.
    pub state: Option<&'a State>,
    /// The console's file.
    pub console: Option<&'a Path>,
    /// All options.
    pub options: &'a Options,
    /// To the client.
    pub output: &'a mut Output<F>,
}

impl<F: AsFd> Bundle<'_, F> {
    /// Captures and sends everything there is.
    pub fn capture(mut self) -> Count {
        let mut count = Count::default();
        let all = Deadline::after(self.options.limits.capture);
        for (part, name) in self.driver.parts() {
            // Evidence goes to the client only. Without one, the machine need not wait.
            if self.output.is_broken() {
                break;
            }
            let item = self.item(*part, name, all);
            count.tried += usize::from(item.outcome != Capture::Skipped);
            count.captured += usize::from(item.outcome == Capture::Captured);
            self.output.record(&Record::Item(item));
        }
        count
    }

    fn item(&mut self, part: Part, name: &str, all: Deadline) -> Item {
        let began = Instant::now();
        let (capture, send) = if part == Part::Memory {
            let limit = Deadline::after(self.options.limits.memory);
            (limit, limit)
        } else {
            (Deadline::after(self.options.limits.item).min(all), all)
        };
        let mut item = Item { item: name.to_owned(), outcome: Capture::Captured, bytes: 0, milliseconds: 0, message: None };
        let mut ended = |outcome, message: String| (item.outcome, item.message) = (outcome, Some(message));
        if let Some(why) = self.skipped(part) {
            ended(Capture::Skipped, why.to_owned());
        } else if capture.passed() {
            ended(Capture::TimedOut, "the bundle's limit had passed before its turn".to_owned());
        } else {
            match self.evidence(part, capture) {
                Ok(evidence) => self.send(&mut item, evidence, send),
                Err(DriverError::Skipped(why)) => ended(Capture::Skipped, why.to_owned()),
                Err(failure) if failure.timed_out() => ended(Capture::TimedOut, failure.to_string()),
                Err(failure) => ended(Capture::Failed, failure.to_string()),
            }
        }
        item.milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        item
    }

    fn skipped(&self, part: Part) -> Option<&'static str> {
        match part {
            Part::Console if self.console.is_none() => Some("no --console is configured for this VM"),
            Part::Memory if !self.options.memory_dump => Some("not asked for: --memory-dump is not configured"),
            Part::Console | Part::State | Part::Configuration => None,
            _ if self.state == Some(&State::Off) => Some("the VM is off"),
            _ => None,
        }
    }

    fn evidence(&self, part: Part, deadline: Deadline) -> Result<Evidence, DriverError> {
        match self.console {
            Some(path) if part == Part::Console => {
                tail(path).map(Evidence::Bytes).map_err(|source| DriverError::File { doing: "read the console's file", source })
            }
            _ => self.driver.capture(part, deadline),
        }
    }

    fn send(&mut self, item: &mut Item, evidence: Evidence, deadline: Deadline) {
        let mut source: Box<dyn Read> = match evidence {
            Evidence::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
            Evidence::File(file) => Box::new(file),
        };
        let mut piece = Vec::new();
        loop {
            let first = item.bytes == 0 && piece.is_empty();
            piece.clear();
            if let Err(failure) = source.by_ref().take(CONSOLE_LIMIT).read_to_end(&mut piece) {
                (item.outcome, item.message) = (Capture::Failed, Some(format!("failed to read what was captured: {failure}")));
                return;
            }
            if piece.is_empty() {
                return;
            }
            // QEMU before 7.1, and libvirt with it, have no PNG.
            if first && item.item == "screen.png" && piece.starts_with(b"P6") {
                item.item = String::from("screen.ppm");
            }
            match self.output.data(&item.item, &piece, deadline) {
                Ok(()) => item.bytes += piece.len() as u64,
                Err(Unsent::TooSlow) => {
                    (item.outcome, item.message) = (Capture::TimedOut, Some("the client reads too slowly".to_owned()));
                    return;
                }
                Err(Unsent::Broken) => {
                    (item.outcome, item.message) = (Capture::Failed, Some("the client does not read".to_owned()));
                    return;
                }
            }
        }
    }
}

/// The end of a file that is still written to. Not waiting for one that is no file.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.seek(SeekFrom::Start(found.len().saturating_sub(CONSOLE_LIMIT)))?;
    let mut text = Vec::new();
    file.take(CONSOLE_LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read_from_its_end_and_never_waited_for() {
        let folder = std::env::temp_dir().join(format!("sandglass-tail-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("create");
        let path = folder.join("console");
        let mut text = vec![b'a'; 1000];
        text.extend(vec![b'b'; 256 * 1024]);
        std::fs::write(&path, text).expect("write");
        assert_eq!(tail(&path).expect("reads"), vec![b'b'; 256 * 1024]);
        let pipe = folder.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        assert!(tail(&pipe).is_err());
        std::fs::remove_dir_all(folder).expect("remove");
    }
}
