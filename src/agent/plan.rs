//! What a supervisor's program is to be, as it travels over the control socket. No JSON: environments hold any bytes but zero.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Everything that is needed to become the program.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to try, in order; the first that can be executed runs.
    pub programs: Vec<Candidate>,
    /// Environment, complete.
    pub environment: Vec<(OsString, OsString)>,
    /// Working directory; `/` where it does not exist.
    pub directory: PathBuf,
    /// Whether standard input is a terminal that becomes the controlling one.
    pub terminal: bool,
    /// What to tell the user when nothing could be executed.
    pub without_program: String,
}

/// A program to try.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Path of the file.
    pub path: PathBuf,
    /// Its `argv[0]`.
    pub name: OsString,
    /// The other arguments.
    pub arguments: Vec<OsString>,
}

/// A list of byte strings, each ended by a zero; lists within it are preceded by their length.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn put(&mut self, text: impl AsRef<OsStr>) {
        self.0.extend(text.as_ref().as_bytes().iter().filter(|byte| **byte != 0));
        self.0.push(0);
    }

    fn count(&mut self, count: usize) {
        self.put(count.to_string());
    }
}

struct Reader<'a>(std::slice::Split<'a, u8, fn(&u8) -> bool>);

impl Reader<'_> {
    fn text(&mut self) -> Option<OsString> {
        self.0.next().map(|bytes| OsString::from_vec(bytes.to_vec()))
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count: usize = self.text()?.to_str()?.parse().ok()?;
        (0..count).map(|_| item(self)).collect()
    }
}

impl Plan {
    /// The bytes for the control socket: their number (eight bytes, little endian), then the strings.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.put(if self.terminal { "terminal" } else { "pipes" });
        writer.put(&self.directory);
        writer.put(&self.without_program);
        writer.count(self.programs.len());
        for program in &self.programs {
            writer.put(&program.path);
            writer.put(&program.name);
            writer.count(program.arguments.len());
            program.arguments.iter().for_each(|argument| writer.put(argument));
        }
        writer.count(self.environment.len());
        for (name, value) in &self.environment {
            writer.put(name);
            writer.put(value);
        }
        let mut bytes = (writer.0.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut writer.0);
        bytes
    }

    /// Reads what [`Self::encode`] wrote; `None` when the other end is gone.
    pub fn read(from: &mut impl Read) -> Option<Self> {
        let mut length = [0; 8];
        from.read_exact(&mut length).ok()?;
        let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length)).ok()?];
        from.read_exact(&mut bytes).ok()?;
        let is_end: fn(&u8) -> bool = |byte| *byte == 0;
        let mut reader = Reader(bytes.split(is_end));
        Some(Self {
            terminal: reader.text()? == "terminal",
            directory: reader.text()?.into(),
            without_program: reader.text()?.into_string().ok()?,
            programs: reader.list(|reader| {
                Some(Candidate { path: reader.text()?.into(), name: reader.text()?, arguments: reader.list(Reader::text)? })
            })?,
            environment: reader.list(|reader| Some((reader.text()?, reader.text()?)))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_survive_a_round_trip_with_any_bytes() {
        let plan = Plan {
            programs: vec![Candidate { path: "/bin/sh".into(), name: "-sh".into(), arguments: vec!["-c".into(), "".into()] }],
            environment: vec![("A".into(), OsString::from_vec(vec![0xff, b'=', b'\n'])), ("EMPTY".into(), "".into())],
            directory: "/w".into(),
            terminal: true,
            without_program: "no shell".into(),
        };
        assert_eq!(Plan::read(&mut plan.encode().as_slice()), Some(plan));
        assert_eq!(Plan::read(&mut &[5, 0, 0][..]), None);
    }
}
