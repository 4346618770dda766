//! What all pages have around and in them: head, navigation, times. Pure.

use super::assets;
use super::html::Html;
use chrono::{DateTime, SecondsFormat, Utc};
use std::fmt::Display;

/// Which entry of the navigation a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Sessions.
    Sessions,
    /// Recordings.
    Recordings,
    /// Neither.
    Elsewhere,
}

/// A page around its content.
pub struct Frame<'a> {
    /// Title of the window and heading.
    pub title: &'a str,
    /// Where in the navigation.
    pub place: Place,
    /// The user.
    pub who: &'a str,
    /// Whether it is loaded again every ten seconds where there is no script.
    pub refresh: bool,
    /// Whether it needs the player's files.
    pub player: bool,
}

impl Frame<'_> {
    /// The whole document.
    #[must_use]
    pub fn document(&self, content: &Html) -> String {
        let mut html = Html::default();
        html.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>")
            .text(self.title)
            .raw(" – Sandglass</title>\n");
        html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n");
        html.raw("<link rel=\"icon\" href=\"").text(assets::address("icon.svg")).raw("\">\n");
        if self.player {
            html.raw("<link rel=\"stylesheet\" href=\"").text(assets::address("player.css")).raw("\">\n");
            html.raw("<script src=\"").text(assets::address("player.js")).raw("\" defer></script>\n");
        }
        html.raw("<link rel=\"stylesheet\" href=\"").text(assets::address("page.css")).raw("\">\n");
        html.raw("<script src=\"").text(assets::address("page.js")).raw("\" defer></script>\n");
        if self.refresh {
            html.raw("<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n");
        }
        html.raw("</head>\n<body>\n<a class=\"skip\" href=\"#content\">Skip to the content</a>\n");
        self.header(&mut html);
        html.raw("<main id=\"content\" tabindex=\"-1\">\n<h1>").text(self.title).raw("</h1>\n").html(content);
        html.raw("</main>\n</body>\n</html>\n");
        html.into_string()
    }

    fn header(&self, html: &mut Html) {
        html.raw("<header>\n<nav aria-label=\"Main\">\n<strong>Sandglass</strong>\n<a href=\"/\"");
        self.current(html, Place::Sessions);
        html.raw(">Sessions</a>\n<a href=\"/recordings\"");
        self.current(html, Place::Recordings);
        html.raw(">Recordings</a>\n</nav>\n<p>Signed in as <b>").text(self.who).raw("</b></p>\n</header>\n");
    }

    fn current(&self, html: &mut Html, place: Place) {
        if self.place == place {
            html.raw(" aria-current=\"true\"");
        }
    }
}

/// A moment, to the second.
pub fn time(html: &mut Html, moment: DateTime<Utc>) {
    let exact = moment.to_rfc3339_opts(SecondsFormat::Secs, true);
    html.raw("<time datetime=\"").text(exact).raw("\">").text(moment.format("%Y-%m-%d %H:%M:%S")).raw(" UTC</time>");
}

/// A value, or a dash where there is none.
pub fn optional(html: &mut Html, value: Option<impl Display>) {
    match value {
        Some(value) => html.text(value),
        None => html.raw("–"),
    };
}

/// A duration in words: `2 h 03 min 04 s`, `3 min 04 s`, `4 s`. The script has the same words.
#[must_use]
pub fn words(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest:02} s"),
        _ => format!("{hours} h {minutes:02} min {rest:02} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_words() {
        for (seconds, expected) in
            [(-5, "0 s"), (0, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (725, "12 min 05 s"), (3725, "1 h 02 min 05 s")]
        {
            assert_eq!(words(seconds), expected);
        }
    }

    #[test]
    fn a_title_and_a_user_are_only_text() {
        let frame = Frame { title: "</title><script>", place: Place::Recordings, who: "<b onclick='x'>", refresh: false, player: false };
        let document = frame.document(&Html::default());
        assert!(document.contains("<title>&lt;/title&gt;&lt;script&gt; – Sandglass</title>"), "{document}");
        assert!(document.contains("Signed in as <b>&lt;b onclick=&#39;x&#39;&gt;</b>"), "{document}");
        assert!(document.contains("<a href=\"/recordings\" aria-current=\"true\">"), "{document}");
        assert!(!document.contains("http-equiv"), "{document}");
    }
}
