//! The list of recordings with its filter. Pure.

use super::html::Html;
use super::layout::{optional, time};
use super::source::{Filter, RecordingKey, RecordingRow, RecordingState};

/// Recordings that are listed.
const MOST: usize = 500;

/// The form and what it found.
#[must_use]
pub fn list(filter: &Filter, rows: &[RecordingRow]) -> Html {
    let mut html = form(filter);
    if rows.is_empty() {
        html.raw(if *filter == Filter::default() { "<p>There is no recording yet.</p>\n" } else { "<p>No recording matches.</p>\n" });
        return html;
    }
    html.raw("<table class=\"list\">\n<thead><tr><th scope=\"col\">Begun</th><th scope=\"col\">Session</th><th scope=\"col\">State</th><th scope=\"col\">Requester</th>");
    html.raw("<th scope=\"col\">Key</th><th scope=\"col\">Ended</th><th scope=\"col\">Commit</th><th scope=\"col\">Pull request</th></tr></thead>\n<tbody>\n");
    for row in rows.iter().take(MOST) {
        line(&mut html, row);
    }
    html.raw("</tbody>\n</table>\n");
    if rows.len() > MOST {
        html.raw("<p>Only the newest ").text(MOST).raw(" are listed: narrow the filter to see others.</p>\n");
    }
    html
}

fn line(html: &mut Html, row: &RecordingRow) {
    html.raw("<tr><th scope=\"row\"><a href=\"");
    address(html, &row.key);
    html.raw("\">");
    time(html, row.started_at);
    html.raw("</a></th><td data-label=\"Session\">").text(row.key.namespace()).raw("/").text(row.key.name());
    html.raw("</td><td data-label=\"State\">");
    state(html, row.state);
    html.raw("</td><td data-label=\"Requester\">").text(&row.requester);
    html.raw("</td><td data-label=\"Key\"><code>").text(&row.fingerprint).raw("</code></td><td data-label=\"Ended\">");
    match row.ended_at {
        Some(ended) => time(html, ended),
        None => _ = html.raw("–"),
    }
    html.raw("</td><td data-label=\"Commit\"><code>");
    optional(html, row.commit.as_ref());
    html.raw("</code></td><td data-label=\"Pull request\">");
    optional(html, row.pull_request.as_ref());
    html.raw("</td></tr>\n");
}

/// The address of a recording's page.
pub fn address(html: &mut Html, key: &RecordingKey) {
    html.raw("/recordings/").text(key);
}

/// How far a recording got.
pub fn state(html: &mut Html, state: RecordingState) {
    html.raw(match state {
        RecordingState::Complete => "<span class=\"state good\">Complete</span>",
        RecordingState::Incomplete => "<span class=\"state bad\">Incomplete</span>",
        RecordingState::Running => "<span class=\"state plain\">Running</span>",
    });
}

fn form(filter: &Filter) -> Html {
    let mut html = Html::default();
    html.raw("<form action=\"/recordings\" method=\"get\" role=\"search\" aria-label=\"Filter\">\n");
    let day = filter.day.map(|day| day.to_string());
    for (name, label, value) in [
        ("namespace", "Namespace", &filter.namespace),
        ("name", "Session", &filter.name),
        ("actor", "Requester", &filter.actor),
        ("commit", "Commit", &filter.commit),
        ("pullRequest", "Pull request", &filter.pull_request),
        ("day", "Day (UTC)", &day),
    ] {
        html.raw("<label>")
            .raw(label)
            .raw(" <input name=\"")
            .raw(name)
            .raw("\" maxlength=\"256\" autocomplete=\"off\" spellcheck=\"false\" type=\"");
        html.raw(if name == "day" { "date" } else { "text" })
            .raw("\" value=\"")
            .text(value.as_deref().unwrap_or_default())
            .raw("\"></label>\n");
    }
    html.raw("<button type=\"submit\">Filter</button>\n");
    if *filter != Filter::default() {
        html.raw("<a href=\"/recordings\">All recordings</a>\n");
    }
    html.raw("</form>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, NaiveDate};

    fn row(connection: &str) -> RecordingRow {
        RecordingRow {
            key: RecordingKey::new(["2026-11-25", "ci", "build-42", "u-1", connection]).expect("plain"),
            requester: "<i>octocat</i>".into(),
            fingerprint: "SHA256:\"'".into(),
            started_at: DateTime::UNIX_EPOCH,
            ended_at: None,
            state: RecordingState::Incomplete,
            commit: Some("<c>".into()),
            pull_request: Some("<p>".into()),
        }
    }

    #[test]
    fn a_recording_is_linked_and_its_words_are_text() {
        let shown = list(&Filter::default(), &[row("c-1")]).into_string();
        assert!(
            shown.contains("<a href=\"/recordings/2026-11-25/ci/build-42/u-1/c-1\"><time datetime=\"1970-01-01T00:00:00Z\">"),
            "{shown}"
        );
        for text in [
            "&lt;i&gt;octocat",
            "SHA256:&quot;&#39;",
            "<code>&lt;c&gt;</code>",
            ">&lt;p&gt;<",
            "<span class=\"state bad\">Incomplete</span>",
        ] {
            assert!(shown.contains(text), "{text} {shown}");
        }
    }

    #[test]
    fn the_form_keeps_what_was_asked() {
        let filter = Filter { name: Some("\"><script>".into()), day: NaiveDate::from_ymd_opt(2026, 11, 25), ..Filter::default() };
        let shown = list(&filter, &[]).into_string();
        assert!(shown.contains("value=\"&quot;&gt;&lt;script&gt;\""), "{shown}");
        assert!(shown.contains("type=\"date\" value=\"2026-11-25\""), "{shown}");
        assert!(shown.contains("No recording matches") && shown.contains("All recordings"), "{shown}");
        let nothing = list(&Filter::default(), &[]).into_string();
        assert!(nothing.contains("There is no recording yet") && !nothing.contains("All recordings"), "{nothing}");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let rows: Vec<_> = (0..501).map(|n| row(&format!("c-{n}"))).collect();
        let shown = list(&Filter::default(), &rows).into_string();
        assert!(shown.contains("/c-499\"") && !shown.contains("/c-500\"") && shown.contains("Only the newest 500"));
    }
}
