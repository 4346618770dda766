//! What a machine says of signals, in the link's terms.

use crate::link::message::Exit;
use crate::link::signals::number;
use russh::Sig;

/// What a machine's `exit-signal` comes to.
#[must_use]
pub(super) fn ended_by(signal: &Sig) -> Exit {
    match (number(signal), signal) {
        (Some(number), _) => Exit::Signal(number),
        // sshd's own extension for what the RFC does not name: SIG@openssh.com says nothing more.
        (None, Sig::Custom(name)) => Exit::Failed(format!("the program was ended by a signal ({})", printable(name))),
        (None, _) => Exit::Failed("the program was ended by a signal".into()),
    }
}

/// A machine's words, fit for a line of ours.
#[must_use]
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_a_program_is_a_number_where_it_has_a_name() {
        assert_eq!(ended_by(&Sig::TERM), Exit::Signal(15));
        assert_eq!(ended_by(&Sig::Custom("USR2".into())), Exit::Signal(12));
        assert!(matches!(ended_by(&Sig::Custom("SIG\u{1b}[2J@openssh.com".into())), Exit::Failed(text) if !text.contains('\u{1b}')));
    }
}
