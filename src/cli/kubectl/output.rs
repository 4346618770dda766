//! How objects and tables are printed. Nothing printed here acts on the terminal: what objects say is other people's text.

use super::failure::Failure;
use crate::domain::line;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::io::Write as _;

/// How an object is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// As the API server has it, JSON.
    Json,
    /// The same as YAML.
    Yaml,
    /// Kind and name alone, as `kubectl get -o name`.
    Name,
}

/// Prints to standard output.
///
/// # Errors
/// It cannot be written to; a reader that went away is none.
pub fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("failed to write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// One object, or a list of several, in a form. `references` are their names with kind.
///
/// # Errors
/// It cannot be written as YAML.
pub fn formed(form: Form, objects: Vec<Value>, references: &[String], list: bool) -> Result<String, Failure> {
    let whole = if list { json!({ "apiVersion": "v1", "kind": "List", "items": objects }) } else { objects.into_iter().next().into() };
    let failed = |error: String| Failure::Failed(format!("failed to write the object: {error}"));
    match form {
        Form::Name => Ok(references.iter().flat_map(|reference| [reference.as_str(), "\n"]).collect()),
        Form::Json => serde_json::to_string_pretty(&whole).map(|text| text + "\n").map_err(|error| failed(error.to_string())),
        Form::Yaml => {
            serde_saphyr::to_string(&whole).map(|text| text.trim_end().to_owned() + "\n").map_err(|error| failed(error.to_string()))
        }
    }
}

/// Rows as aligned columns; the last one is not padded.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().enumerate().map(|(column, cell)| format!("{cell:0$}", width(column))).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// A text without characters that act on a terminal: controls, and those that turn the direction of writing.
#[must_use]
pub fn plain(text: &str) -> String {
    line::plain(text, '?')
}

/// A number of seconds for people: `45s`, `24m`, `1h05m`.
#[must_use]
pub fn short(seconds: i64) -> String {
    match seconds {
        ..=0 => "0s".into(),
        1..=119 => format!("{seconds}s"),
        120..=3599 => format!("{}m", seconds / 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A value in single quotes, as a POSIX shell reads it back.
#[must_use]
pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_times_short() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["NAME", "PHASE", "COMMAND"]), row(["build-42", "Open", "ssh x"]), row(["é", "-", ""])]);
        assert_eq!(text, "NAME       PHASE   COMMAND\nbuild-42   Open    ssh x\né          -\n");
        assert_eq!([-5, 45, 120, 1799, 3900].map(short), ["0s", "45s", "2m", "29m", "1h05m"]);
    }

    #[test]
    fn nothing_acts_on_the_terminal_or_the_shell() {
        assert_eq!(plain("a\u{1b}]0;x\u{7}b\u{202e}c\nd"), "a?]0;x?b?c?d");
        assert_eq!(quoted("it's $(x)"), r"'it'\''s $(x)'");
    }

    #[test]
    fn objects_are_printed_in_each_form() {
        let object = json!({ "kind": "DebugSession", "metadata": { "name": "a" } });
        let references = ["debugsession.sandglass.dev/a".to_owned()];
        assert_eq!(formed(Form::Name, vec![object.clone()], &references, false).expect("written"), "debugsession.sandglass.dev/a\n");
        let text = formed(Form::Json, vec![object.clone()], &references, false).expect("written");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), object);
        let text = formed(Form::Yaml, vec![object], &references, true).expect("written");
        let back: Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!((&back["kind"], &back["items"][0]["metadata"]["name"]), (&json!("List"), &json!("a")));
    }
}
