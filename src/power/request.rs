//! What is asked for: two words, and nothing else. Pure.

use super::options::Options;
use std::ffi::OsStr;
use std::fmt;

/// The longest request, in bytes.
const REQUEST_LIMIT: usize = 256;
/// The longest id of a VM.
const ID_LIMIT: usize = 63;

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Tell the state.
    Status,
    /// Capture the forensics bundle, change nothing.
    Forensics,
    /// The reset button.
    Reset,
    /// Pull the plug.
    Stop,
    /// Switch on.
    Start,
    /// Pull the plug, switch on.
    Cycle,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Status, Self::Forensics, Self::Reset, Self::Stop, Self::Start, Self::Cycle];

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Forensics => "forensics",
            Self::Reset => "reset",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Cycle => "cycle",
        }
    }

    /// The verb of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.word() == word)
    }

    /// Whether it changes the VM's state.
    #[must_use]
    pub const fn acts(self) -> bool {
        !matches!(self, Self::Status | Self::Forensics)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// The id of a VM: the hypervisor's own name or number of it. Never begins with a dash, holds no slash and no space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmId(String);

impl VmId {
    /// The id in `text`, if it is one.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let fit = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let begins = text.starts_with(|character: char| character.is_ascii_alphanumeric());
        (fit && begins && text.len() <= ID_LIMIT).then(|| Self(text.to_owned()))
    }

    /// The id's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A verb and a VM, both allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The verb.
    pub verb: Verb,
    /// The VM.
    pub vm: VmId,
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing asked.
    #[error("nothing was asked: give a verb and a VM, such as `status 102`")]
    Empty,
    /// Too much asked.
    #[error("the request is longer than {REQUEST_LIMIT} bytes")]
    TooLong,
    /// Not text.
    #[error("the request is not UTF-8 text")]
    NotText,
    /// Not two words.
    #[error("a request is exactly two words, a verb and a VM, with nothing that means something to a shell")]
    NotTwoWords,
    /// No such verb.
    #[error("there is no such verb: use status, forensics, reset, stop, start or cycle")]
    UnknownVerb,
    /// A verb this key may not use.
    #[error("`{0}` is not allowed here")]
    VerbNotAllowed(Verb),
    /// A VM this key may not use, or none.
    #[error("that VM is not one of those allowed here")]
    VmNotAllowed,
}

impl Request {
    /// Reads a request against what `options` allow.
    pub fn of(text: &OsStr, options: &Options) -> Result<Self, Refusal> {
        if text.len() > REQUEST_LIMIT {
            return Err(Refusal::TooLong);
        }
        let text = text.to_str().ok_or(Refusal::NotText)?;
        if text.trim().is_empty() {
            return Err(Refusal::Empty);
        }
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let (Some(verb), Some(vm), None) = (words.next(), words.next(), words.next()) else {
            return Err(Refusal::NotTwoWords);
        };
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._- ".contains(&byte)) {
            return Err(Refusal::NotTwoWords);
        }
        let verb = Verb::of(verb).ok_or(Refusal::UnknownVerb)?;
        if !options.verbs.contains(&verb) {
            return Err(Refusal::VerbNotAllowed(verb));
        }
        let vm = VmId::of(vm).filter(|vm| options.machines.contains_key(vm)).ok_or(Refusal::VmNotAllowed)?;
        Ok(Self { verb, vm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn options(more: &[&str]) -> Options {
        let words = ["--driver", "qm", "--vm", "102", "--vm", "103"].iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<_>>();
        Options::parse(&words).expect("options")
    }

    #[test]
    fn two_words_and_nothing_else() {
        let options = options(&[]);
        let good = [("status 102", Verb::Status), ("cycle 102", Verb::Cycle), ("  stop   102 ", Verb::Stop), ("reset 102", Verb::Reset)];
        for (text, verb) in good {
            assert_eq!(Request::of(OsStr::new(text), &options), Ok(Request { verb, vm: VmId("102".into()) }), "{text}");
        }
        let long = format!("status {}", "1".repeat(REQUEST_LIMIT));
        let long_id = format!("status {}", "1".repeat(ID_LIMIT + 1));
        let bad: [(&[u8], Refusal); 26] = [
            (b"", Refusal::Empty),
            (b" \t\n", Refusal::Empty),
            (b"status", Refusal::NotTwoWords),
            (b"status 102 103", Refusal::NotTwoWords),
            (b"status 102;reboot", Refusal::NotTwoWords),
            (b"status 102; reboot", Refusal::NotTwoWords),
            (b"status $(id)", Refusal::NotTwoWords),
            (b"status `id`", Refusal::NotTwoWords),
            (b"status 102|sh", Refusal::NotTwoWords),
            (b"status 102>x", Refusal::NotTwoWords),
            (b"status 102\n", Refusal::NotTwoWords),
            (b"status\t102", Refusal::NotTwoWords),
            (b"status 102\0", Refusal::NotTwoWords),
            (b"status '102'", Refusal::NotTwoWords),
            (b"status 10\\2", Refusal::NotTwoWords),
            (b"status ../102", Refusal::NotTwoWords),
            ("status 102\u{a0}".as_bytes(), Refusal::NotTwoWords),
            (b"status \xff", Refusal::NotText),
            (b"Status 102", Refusal::UnknownVerb),
            (b"poweroff 102", Refusal::UnknownVerb),
            (b"102 status", Refusal::UnknownVerb),
            (b"status 104", Refusal::VmNotAllowed),
            (b"status -102", Refusal::VmNotAllowed),
            (b"status --skiplock", Refusal::VmNotAllowed),
            (long.as_bytes(), Refusal::TooLong),
            (long_id.as_bytes(), Refusal::VmNotAllowed),
        ];
        for (text, refusal) in bad {
            assert_eq!(Request::of(OsStr::from_bytes(text), &options), Err(refusal), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn verbs_can_be_narrowed() {
        let options = options(&["--verbs", "status,forensics"]);
        assert!(Request::of(OsStr::new("forensics 103"), &options).is_ok());
        assert_eq!(Request::of(OsStr::new("stop 103"), &options), Err(Refusal::VerbNotAllowed(Verb::Stop)));
    }
}
