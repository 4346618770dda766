//! A command line that cannot be understood, in one line.

use clap::error::{ContextKind, ErrorKind};
use std::error::Error as _;

/// Whether it is help or the version that was asked for, which are printed as they are.
#[must_use]
pub fn is_help(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
}

/// What is wrong with which argument. A value that its own check refused is not repeated: it may be a secret in the wrong place.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::ValueValidation {
        let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
        let why = error.source().map(ToString::to_string).unwrap_or_default();
        return format!("the value of {argument} does not fit: {why}");
    }
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")).map(str::trim);
    let what = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    what.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn refused(words: &[&str]) -> clap::Error {
        let never = |_: &str| Err::<String, _>("write NAME=VALUE".to_owned());
        let command = Command::new("x").arg(Arg::new("env").long("env").value_name("NAME=VALUE").value_parser(never));
        command.try_get_matches_from(words).expect_err("refused")
    }

    #[test]
    fn a_value_that_does_not_fit_is_not_repeated() {
        assert_eq!(one_line(&refused(&["x", "--env", "npm_abc"])), "the value of --env <NAME=VALUE> does not fit: write NAME=VALUE");
    }

    #[test]
    fn other_mistakes_name_the_argument_on_one_line() {
        let said = one_line(&refused(&["x", "--evn", "a"]));
        assert!(said.contains("--evn") && !said.contains('\n') && !said.starts_with("error"), "{said}");
        assert!(is_help(&refused(&["x", "--help"])) && !is_help(&refused(&["x", "--evn"])));
    }
}
