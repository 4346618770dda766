//! Which power verb a command asks for. Pure.

use crate::api::breakglass_vm::Verb;

/// First word of a command that is for the hypervisor and not for the machine.
const WORD: &str = "power";

/// What a command asks of the hypervisor; `None`: it is for the machine. `allowed` are the object's verbs.
///
/// # Errors
/// In the inner result: why it is refused, for the user.
#[must_use]
pub fn asked(command: &str, allowed: &[Verb]) -> Option<Result<Verb, String>> {
    let mut words = command.split_ascii_whitespace();
    if words.next() != Some(WORD) {
        return None;
    }
    let list = allowed.iter().map(|verb| verb.word()).collect::<Vec<_>>().join(", ");
    if allowed.is_empty() {
        return Some(Err("there are no power verbs here: the object has no spec.hypervisor".into()));
    }
    let (Some(word), None) = (words.next(), words.next()) else {
        return Some(Err(format!("usage: power VERB, one of {list}")));
    };
    Some(match Verb::of_word(word) {
        Some(verb) if allowed.contains(&verb) => Ok(verb),
        Some(_) => Err(format!("{word} is not in spec.hypervisor.verbs: {list}")),
        None => Err(format!("there is no power verb of that name: it is one of {list}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_begin_with_power_are_for_the_hypervisor() {
        let allowed = [Verb::Status, Verb::Cycle];
        assert_eq!(asked("power cycle", &allowed), Some(Ok(Verb::Cycle)));
        assert_eq!(asked("  power   status ", &allowed), Some(Ok(Verb::Status)));
        for other in ["", "powertop", "uptime; power cycle", "sudo power cycle"] {
            assert_eq!(asked(other, &allowed), None, "{other}");
        }
        for (refused, words) in [
            ("power", "usage"),
            ("power cycle now", "usage"),
            ("power cycle;reboot", "no power verb"),
            ("power Cycle", "no power verb"),
            ("power reset", "spec.hypervisor.verbs"),
        ] {
            assert!(asked(refused, &allowed).is_some_and(|answer| answer.is_err_and(|text| text.contains(words))), "{refused}");
        }
        assert!(asked("power status", &[]).is_some_and(|answer| answer.is_err()));
    }
}
