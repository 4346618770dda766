//! Markup that cannot carry foreign markup: literals go in as they are, everything else is escaped. No IO.

use std::fmt::{Display, Write as _};

/// HTML under construction. What is not a literal of this program's source enters through [`Html::text`] or [`Html::encoded`].
#[derive(Default)]
pub struct Html(String);

impl Html {
    /// Adds markup. A literal: nothing that was read from anywhere can be passed here.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, fit for an element's content and for an attribute in quotes.
    pub fn text(&mut self, value: impl Display) -> &mut Self {
        // Only a `Display` that fails by itself can fail here: what it wrote until then stays, escaped.
        let _ = write!(Escaping(&mut self.0), "{value}");
        self
    }

    /// Adds a value of a query, percent-encoded (RFC 3986: all but the unreserved characters).
    pub fn encoded(&mut self, value: &str) -> &mut Self {
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                let _ = write!(self.0, "%{byte:02X}");
            }
        }
        self
    }

    /// Adds markup made elsewhere.
    pub fn html(&mut self, part: &Self) -> &mut Self {
        self.0.push_str(&part.0);
        self
    }

    /// The finished markup.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

struct Escaping<'a>(&'a mut String);

impl std::fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                unseen if misleads(unseen) => write!(self.0, "\\u{{{:x}}}", u32::from(unseen))?,
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

/// Characters that are not seen, or that change the order in which others are: a name could pose as another one.
fn misleads(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> String {
        let mut html = Html::default();
        html.text(value);
        html.into_string()
    }

    #[test]
    fn hostile_names_are_only_text() {
        assert_eq!(text("<script>alert(1)</script>"), "&lt;script&gt;alert(1)&lt;/script&gt;");
        assert_eq!(text("\" onmouseover=\"x"), "&quot; onmouseover=&quot;x");
        assert_eq!(text("' autofocus onfocus='x"), "&#39; autofocus onfocus=&#39;x");
        assert_eq!(text("&lt;b&gt;"), "&amp;lt;b&amp;gt;", "nothing is escaped already");
        assert_eq!(text("</title><img src=x onerror=x>"), "&lt;/title&gt;&lt;img src=x onerror=x&gt;");
        assert_eq!(text("größe 日本 🙂\n\tx"), "größe 日本 🙂\n\tx");
    }

    #[test]
    fn characters_that_mislead_are_seen() {
        assert_eq!(text("a\u{202e}b\u{0}\u{1b}[31m\u{200b}"), "a\\u{202e}b\\u{0}\\u{1b}[31m\\u{200b}");
        assert_eq!(text("\u{85}\u{7f}\u{feff}\u{2066}"), "\\u{85}\\u{7f}\\u{feff}\\u{2066}");
    }

    #[test]
    fn values_of_queries_stay_values() {
        let mut html = Html::default();
        html.encoded("a b&c=\"d'<>#é/..~_-");
        assert_eq!(html.into_string(), "a%20b%26c%3D%22d%27%3C%3E%23%C3%A9%2F..~_-");
    }

    #[test]
    fn parts_are_put_together() {
        let mut part = Html::default();
        part.raw("<b>").text('<').raw("</b>");
        let mut html = Html::default();
        html.raw("<p>").html(&part).text(7).raw("</p>");
        assert_eq!(html.into_string(), "<p><b>&lt;</b>7</p>");
    }
}
