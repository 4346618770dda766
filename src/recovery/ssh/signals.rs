//! Signals: Linux numbers on the link, names of RFC 4254, 6.10 to the machine.

use crate::link::message::Exit;
use russh::Sig;

/// The name of a signal by its number; `None` where the RFC has none.
#[must_use]
pub(super) fn named(number: u8) -> Option<Sig> {
    Some(match number {
        1 => Sig::HUP,
        2 => Sig::INT,
        3 => Sig::QUIT,
        4 => Sig::ILL,
        6 => Sig::ABRT,
        8 => Sig::FPE,
        9 => Sig::KILL,
        10 => Sig::USR1,
        11 => Sig::SEGV,
        12 => Sig::Custom("USR2".into()),
        13 => Sig::PIPE,
        14 => Sig::ALRM,
        15 => Sig::TERM,
        _ => return None,
    })
}

/// What a machine's `exit-signal` comes to.
#[must_use]
pub(super) fn ended_by(signal: &Sig) -> Exit {
    let number = match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) if name == "USR2" => 12,
        // sshd's own extension for what the RFC does not name: SIG@openssh.com says nothing more.
        Sig::Custom(name) => return Exit::Failed(format!("the program was ended by a signal ({})", printable(name))),
    };
    Exit::Signal(number)
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
    fn names_and_numbers_agree() {
        for number in [1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15] {
            assert_eq!(named(number).map(|signal| ended_by(&signal)), Some(Exit::Signal(number)));
        }
        for number in [0, 5, 7, 19, 64, 255] {
            assert!(named(number).is_none());
        }
        assert!(matches!(ended_by(&Sig::Custom("SIG\u{1b}[2J@openssh.com".into())), Exit::Failed(text) if !text.contains('\u{1b}')));
    }
}
