//! Text of other people in one line: what may stand in a log, an object or an answer.

/// A JSON Schema pattern for what [`is_line`] accepts.
pub const LINE: &str = r"^[^\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]*$";

/// What breaks a line, or turns the direction of what follows (Unicode's Bidi controls).
fn is_breaking(character: char) -> bool {
    character.is_control() || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with `instead` for each character that breaks a line or turns what follows: fit for a terminal.
#[must_use]
pub fn plain(text: &str, instead: char) -> String {
    text.chars().map(|character| if is_breaking(character) { instead } else { character }).collect()
}

/// Whether a text is one line that shows as what it is.
#[must_use]
pub fn is_line(text: &str) -> bool {
    !text.chars().any(is_breaking)
}

/// The text as one line of at most `most` characters.
#[must_use]
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = plain(&text.chars().take(most).collect::<String>(), ' ');
    if text.chars().nth(most).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        assert!(is_line("my-org/x é") && is_line(""));
        for text in ["a\nb", "a\r", "\u{1b}[2J", "\0", "\u{85}", "\u{2028}", "\u{202e}"] {
            assert!(!is_line(text), "{text:?}");
            assert!(is_line(&one_line(text, 10)));
        }
        assert_eq!(one_line("abcdef", 3), "abc…");
        assert_eq!(one_line("abc", 3), "abc");
    }
}
