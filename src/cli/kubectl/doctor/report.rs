//! How findings are printed, and what is shown while the checks run.

use super::finding::{Finding, Level};
use super::{DoctorError, Form};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Widest name of a check: the columns begin after it.
const WIDTH: usize = 13;

/// Writes all findings in a form. `colours`: for a terminal.
pub(super) fn write(out: &mut dyn Write, findings: &[Finding], form: Form, colours: bool) -> Result<(), DoctorError> {
    match form {
        Form::Json => {
            let text = serde_json::to_string_pretty(findings).map_err(DoctorError::Json)?;
            writeln!(out, "{text}")
        }
        Form::Text => out.write_all(text(findings, colours).as_bytes()),
    }
    .map_err(DoctorError::Write)
}

/// Whether standard output is a terminal that may have colours (no-color.org).
pub(super) fn may_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn text(findings: &[Finding], colours: bool) -> String {
    let mut text = String::new();
    for Finding { check, level, message, cure } in findings {
        let (word, colour) = match level {
            Level::Ok => ("ok", "32"),
            Level::Warn => ("warn", "33"),
            Level::Fail => ("fail", "31"),
            Level::Skip => ("skip", "2"),
        };
        let word = format!("{word:<4}");
        let word = if colours { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word };
        let _ = writeln!(text, "{word}  {check:<WIDTH$}  {message}");
        if let Some(cure) = cure {
            let _ = writeln!(text, "      {:<WIDTH$}  -> {cure}", "");
        }
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (well, warned, failed, skipped) = (count(Level::Ok), count(Level::Warn), count(Level::Fail), count(Level::Skip));
    let _ = writeln!(text, "\n{well} ok, {warned} to look at, {failed} failed, {skipped} not checked");
    text
}

/// What is going on, on standard error where that is a terminal.
pub(super) struct Progress {
    shown: bool,
    done: AtomicUsize,
    all: usize,
}

impl Progress {
    /// For so many steps.
    pub(super) fn new(all: usize) -> Self {
        Self { shown: std::io::stderr().is_terminal(), done: AtomicUsize::new(0), all }
    }

    /// A step was done; the next is this.
    pub(super) fn step(&self, next: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.shown {
            eprint!("\r\u{1b}[K[{done}/{}] {next}", self.all);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r\u{1b}[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![Finding::ok("rights", "well"), Finding::fail("gateway", "away", "go there")]
    }

    #[test]
    fn a_line_each_and_the_cure_below() {
        let plain = "ok    rights         well\nfail  gateway        away\n                     -> go there\n\n1 ok, 0 to look at, 1 failed, 0 not checked\n";
        assert_eq!(text(&findings(), false), plain);
        let coloured = text(&findings(), true);
        assert!(coloured.contains("\u{1b}[31mfail\u{1b}[0m  gateway"), "{coloured}");
    }

    #[test]
    fn json_is_the_list_of_findings() {
        let mut out = Vec::new();
        write(&mut out, &findings(), Form::Json, true).expect("written");
        let list: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(list[1], serde_json::json!({ "check": "gateway", "level": "fail", "message": "away", "cure": "go there" }));
    }
}
