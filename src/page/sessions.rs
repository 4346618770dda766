//! The list of sessions, live ones first, with the time that is left. Pure.

use super::html::Html;
use super::layout::{time, words};
use super::source::SessionRow;
use chrono::{DateTime, SecondsFormat, Utc};
use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Ended sessions that are listed; the recordings have the others.
const ENDED: usize = 100;

/// The list. The script puts a new one in the place of the old one when its `data-version` differs.
#[must_use]
pub fn list(mut rows: Vec<SessionRow>, now: DateTime<Utc>) -> Html {
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut hasher = DefaultHasher::new();
    rows.hash(&mut hasher);
    let (mut live, mut ended): (Vec<_>, Vec<_>) = rows.into_iter().partition(SessionRow::is_live);
    live.sort_by_key(|row| (row.expires_at.is_none(), row.expires_at));
    ended.sort_by_key(|row| Reverse(row.ended_at));

    let mut html = Html::default();
    html.raw("<div id=\"sessions\" data-version=\"").text(format_args!("{:016x}", hasher.finish())).raw("\">\n");
    html.raw("<h2>Live <span class=\"count\">").text(live.len()).raw("</span></h2>\n");
    if live.is_empty() {
        html.raw("<p>No session is live.</p>\n");
    } else {
        live_table(&mut html, &live, now);
    }
    html.raw("<h2>Ended <span class=\"count\">").text(ended.len()).raw("</span></h2>\n");
    if ended.is_empty() {
        html.raw("<p>No session has ended.</p>\n");
    } else {
        ended_table(&mut html, &ended);
    }
    html.raw("</div>\n");
    html
}

fn live_table(html: &mut Html, rows: &[SessionRow], now: DateTime<Utc>) {
    html.raw(
        "<table class=\"list\">\n<thead><tr><th scope=\"col\">Session</th><th scope=\"col\">Phase</th><th scope=\"col\">Time left</th>",
    );
    html.raw("<th scope=\"col\">Requester</th><th scope=\"col\">Project</th><th scope=\"col\">Connections</th><th scope=\"col\">Command</th></tr></thead>\n<tbody>\n");
    for row in rows {
        html.raw("<tr>");
        name(html, row);
        phase(html, row);
        html.raw("<td data-label=\"Time left\">");
        remaining(html, row.expires_at, now);
        people(html, row);
        html.raw("</td><td data-label=\"Connections\">").text(row.connections).raw("</td><td data-label=\"Command\">");
        match &row.command {
            Some(command) => html.raw("<code class=\"command\">").text(command).raw("</code>"),
            None => html.raw("–"),
        };
        html.raw("</td></tr>\n");
    }
    html.raw("</tbody>\n</table>\n");
}

fn ended_table(html: &mut Html, rows: &[SessionRow]) {
    html.raw("<table class=\"list\">\n<thead><tr><th scope=\"col\">Session</th><th scope=\"col\">Phase</th><th scope=\"col\">Ended</th>");
    html.raw("<th scope=\"col\">Requester</th><th scope=\"col\">Project</th><th scope=\"col\">Reason</th></tr></thead>\n<tbody>\n");
    for row in rows.iter().take(ENDED) {
        html.raw("<tr>");
        name(html, row);
        phase(html, row);
        html.raw("<td data-label=\"Ended\">");
        match row.ended_at {
            Some(ended) => time(html, ended),
            None => _ = html.raw("–"),
        }
        people(html, row);
        html.raw("</td><td data-label=\"Reason\">").text(row.end_reason.as_deref().unwrap_or("–")).raw("</td></tr>\n");
    }
    html.raw("</tbody>\n</table>\n");
    if rows.len() > ENDED {
        html.raw("<p>Only the last ").text(ENDED).raw(" are listed.</p>\n");
    }
}

fn name(html: &mut Html, row: &SessionRow) {
    html.raw("<th scope=\"row\"><a href=\"/recordings?namespace=").encoded(&row.namespace).raw("&amp;name=").encoded(&row.name);
    html.raw("\" title=\"Its recordings\">").text(&row.namespace).raw("/").text(&row.name).raw("</a></th>");
}

fn phase(html: &mut Html, row: &SessionRow) {
    html.raw("<td data-label=\"Phase\"><span class=\"state ").raw(match row.phase.as_str() {
        "Open" => "good",
        "Failed" => "bad",
        _ => "plain",
    });
    html.raw("\">").text(&row.phase).raw("</span></td>");
}

fn people(html: &mut Html, row: &SessionRow) {
    html.raw("</td><td data-label=\"Requester\">").text(&row.requester).raw("</td><td data-label=\"Project\">").text(&row.project);
}

/// The time left as of `now`; the script counts on from there, with no clock but its own steps.
fn remaining(html: &mut Html, expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) {
    let Some(expires_at) = expires_at else {
        html.raw("–");
        return;
    };
    let seconds = (expires_at - now).num_seconds().max(0);
    let exact = expires_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    html.raw("<time role=\"timer\" datetime=\"").text(&exact).raw("\" title=\"Ends at ").text(&exact);
    html.raw("\" data-remaining=\"").text(seconds).raw("\">").text(words(seconds)).raw("</time>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_764_032_400 + second, 0).expect("a moment")
    }

    fn row(name: &str, phase: &str, expires: Option<i64>, ended: Option<i64>) -> SessionRow {
        SessionRow {
            namespace: "ci".into(),
            name: name.into(),
            phase: phase.into(),
            expires_at: expires.map(at),
            ended_at: ended.map(at),
            ..SessionRow::default()
        }
    }

    fn rendered(rows: Vec<SessionRow>, now: i64) -> String {
        list(rows, at(now)).into_string()
    }

    #[test]
    fn live_sessions_come_first_the_next_to_end_on_top() {
        let rows = vec![
            row("ended-1", "Ended", Some(10), Some(10)),
            row("waiting", "Waiting", None, None),
            row("late", "Open", Some(900), None),
            row("ended-2", "Ended", Some(20), Some(20)),
            row("soon", "Open", Some(300), None),
        ];
        let shown = rendered(rows, 100);
        let places: Vec<_> = ["ci/soon", "ci/late", "ci/waiting", "ci/ended-2", "ci/ended-1"].iter().map(|name| shown.find(name)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {shown}");
    }

    #[test]
    fn the_time_left_is_that_of_the_given_moment() {
        let shown = rendered(vec![row("a", "Open", Some(725), None)], 0);
        assert!(shown.contains("<time role=\"timer\" datetime=\"2025-11-25T01:12:05Z\" title=\"Ends at 2025-11-25T01:12:05Z\" data-remaining=\"725\">12 min 05 s</time>"), "{shown}");
        assert!(rendered(vec![row("a", "Open", Some(725), None)], 9000).contains("data-remaining=\"0\">0 s<"));
    }

    #[test]
    fn the_version_changes_with_the_sessions_and_not_with_time() {
        let version = |rows, now| rendered(rows, now).split('"').nth(3).map(str::to_owned);
        let (a, b) = (row("a", "Open", Some(725), None), row("b", "Open", Some(725), None));
        assert_eq!(version(vec![a.clone(), b.clone()], 0), version(vec![b, a.clone()], 50));
        assert_ne!(version(vec![a.clone()], 0), version(vec![SessionRow { connections: 1, ..a }], 0));
    }

    #[test]
    fn hostile_names_are_text_and_values_of_queries() {
        let hostile = "<script>\"'&x=1</script>";
        let row = SessionRow {
            namespace: hostile.into(),
            name: hostile.into(),
            phase: hostile.into(),
            requester: hostile.into(),
            project: hostile.into(),
            command: Some(hostile.into()),
            end_reason: Some(hostile.into()),
            ..SessionRow::default()
        };
        let ended = SessionRow { ended_at: Some(at(0)), ..row.clone() };
        let shown = rendered(vec![row, ended], 0);
        assert!(!shown.contains("<script") && !shown.contains("x=1</"), "{shown}");
        assert_eq!(shown.matches("?namespace=%3Cscript%3E%22%27%26x%3D1%3C%2Fscript%3E&amp;name=%3Cscript%3E").count(), 2, "{shown}");
        assert_eq!(shown.matches("&lt;script&gt;&quot;&#39;&amp;x=1&lt;/script&gt;").count(), 12, "{shown}");
    }

    #[test]
    fn a_long_past_is_cut_and_says_so() {
        let shown = rendered((0..101).map(|n| row(&format!("s{n}"), "Ended", None, Some(n))).collect(), 0);
        assert!(shown.contains("Only the last 100 are listed") && shown.contains("ci/s100<") && !shown.contains("ci/s0<"), "{shown}");
        assert!(rendered(vec![], 0).contains("No session is live"));
    }
}
