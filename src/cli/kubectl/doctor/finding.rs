//! What a check found: one line, and where something is wrong the cure as the next. Text of objects and servers is made harmless here.

use crate::domain::line;
use serde::Serialize;

/// How serious it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it must be.
    Ok,
    /// Works, and should not stay so.
    Warn,
    /// Broken, or not what Sandglass promises.
    Fail,
    /// Not looked at: a right is missing, or it was not asked for.
    Skip,
}

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check, one of those of `docs/doctor.md`.
    pub check: &'static str,
    /// How serious it is.
    pub level: Level,
    /// What was found, one line.
    pub message: String,
    /// What to do about it, one line; none where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    fn new(check: &'static str, level: Level, message: &str, cure: Option<&str>) -> Self {
        Self { check, level, message: one_line(message), cure: cure.map(one_line) }
    }

    /// All is well.
    pub(super) fn ok(check: &'static str, message: impl AsRef<str>) -> Self {
        Self::new(check, Level::Ok, message.as_ref(), None)
    }

    /// Works, and should not stay so.
    pub(super) fn warn(check: &'static str, message: impl AsRef<str>, cure: impl AsRef<str>) -> Self {
        Self::new(check, Level::Warn, message.as_ref(), Some(cure.as_ref()))
    }

    /// Broken.
    pub(super) fn fail(check: &'static str, message: impl AsRef<str>, cure: impl AsRef<str>) -> Self {
        Self::new(check, Level::Fail, message.as_ref(), Some(cure.as_ref()))
    }

    /// Not looked at.
    pub(super) fn skip(check: &'static str, message: impl AsRef<str>, cure: impl AsRef<str>) -> Self {
        Self::new(check, Level::Skip, message.as_ref(), Some(cure.as_ref()))
    }
}

/// Text in one line, without characters that act on a terminal: controls, and those that turn the direction of writing.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    line::plain(&words.join(" "), '?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal_and_every_trouble_has_its_cure() {
        let finding = Finding::fail("rights", "a\u{1b}[31m\n b\u{202e}c", "do\tthis");
        assert_eq!((finding.message.as_str(), finding.cure.as_deref()), ("a?[31m b?c", Some("do this")));
        assert_eq!(
            serde_json::to_string(&Finding::ok("rights", "well")).expect("JSON"),
            r#"{"check":"rights","level":"ok","message":"well"}"#
        );
    }
}
