//! One recording: facts, verification, player, channels, audit stream. Pure.

use super::html::Html;
use super::layout::{optional, time, words};
use super::recordings::{address, state};
use super::source::{ChannelRow, RecordingDetail, RecordingKey, SourceError, Verdict, Verification};
use serde_json::{Map, Value};

/// Events of the audit stream that are listed.
const MOST: usize = 2000;

/// The channel to play: the one asked for, or the first that can be played, if there is one.
///
/// # Errors
/// The one asked for does not exist or cannot be played.
pub fn chosen(detail: &RecordingDetail, asked: Option<u32>) -> Result<Option<u32>, SourceError> {
    let mut playable = detail.channels.iter().filter(|channel| channel.playable).map(|channel| channel.number);
    match asked {
        None => Ok(playable.next()),
        Some(asked) => playable.find(|number| *number == asked).map(Some).ok_or(SourceError::Missing),
    }
}

/// The content of the page. `player`: whether this build has one.
#[must_use]
pub fn content(detail: &RecordingDetail, channel: Option<u32>, player: bool) -> Html {
    let mut html = Html::default();
    verification(&mut html, &detail.verification);
    facts(&mut html, detail);
    if let Some(channel) = channel {
        html.raw("<h2 id=\"play\">Channel ").text(channel).raw("</h2>\n");
        play(&mut html, &detail.row.key, channel, player);
    }
    channels(&mut html, detail, channel);
    audit(&mut html, &detail.audit);
    html
}

fn verification(html: &mut Html, verification: &Verification) {
    html.raw(match verification.verdict {
        Verdict::Intact => "<p class=\"verdict good\"><b>Verified.</b> ",
        Verdict::Broken => "<p class=\"verdict bad\"><b>Not as it was written.</b> ",
        Verdict::NotSealed => "<p class=\"verdict plain\"><b>Not sealed yet.</b> ",
    });
    html.text(&verification.text).raw("</p>\n");
}

fn facts(html: &mut Html, detail: &RecordingDetail) {
    let row = &detail.row;
    html.raw("<dl>\n<dt>Session</dt><dd><a href=\"/recordings?namespace=")
        .encoded(row.key.namespace())
        .raw("&amp;name=")
        .encoded(row.key.name());
    html.raw("\">").text(row.key.namespace()).raw("/").text(row.key.name()).raw("</a> <small>").text(row.key.uid()).raw("</small></dd>\n");
    html.raw("<dt>Connection</dt><dd>").text(row.key.connection()).raw(" ");
    state(html, row.state);
    html.raw("</dd>\n<dt>Begun</dt><dd>");
    time(html, row.started_at);
    html.raw("</dd>\n");
    if let Some(ended) = row.ended_at {
        html.raw("<dt>Ended</dt><dd>");
        time(html, ended);
        html.raw(" after ").text(words((ended - row.started_at).num_seconds())).raw("</dd>\n");
    }
    for (label, value) in [
        ("Reason", detail.end_reason.as_ref()),
        ("Requester", Some(&row.requester)),
        ("Key", Some(&row.fingerprint)),
        ("Certificate", detail.certificate.as_ref()),
        ("From", detail.remote_address.as_ref()),
        ("Commit", row.commit.as_ref()),
        ("Pull request", row.pull_request.as_ref()),
    ] {
        if let Some(value) = value {
            html.raw("<dt>").raw(label).raw("</dt><dd>").text(value).raw("</dd>\n");
        }
    }
    html.raw("</dl>\n");
}

fn play(html: &mut Html, key: &RecordingKey, channel: u32, player: bool) {
    if player {
        html.raw("<div id=\"player\" data-cast=\"");
        cast(html, key, channel);
        html.raw("\"></div>\n<noscript><p>The player needs JavaScript.</p></noscript>\n<p>");
    } else {
        html.raw("<p>This build has no player. ");
    }
    html.raw("<a href=\"");
    cast(html, key, channel);
    html.raw("\" download>Download the recording</a> and play it in a terminal: <code>asciinema play</code>.");
    if player {
        html.raw(" The player on this page is asciinema-player, under the <a href=\"/assets/player-license.txt\">Apache License 2.0</a>.");
    }
    html.raw("</p>\n");
}

fn cast(html: &mut Html, key: &RecordingKey, channel: u32) {
    address(html, key);
    html.raw("/channel-").text(channel).raw(".cast");
}

fn channels(html: &mut Html, detail: &RecordingDetail, current: Option<u32>) {
    html.raw("<h2>Channels</h2>\n");
    if detail.channels.is_empty() {
        html.raw("<p>No channel was opened.</p>\n");
        return;
    }
    html.raw("<table class=\"list\">\n<thead><tr><th scope=\"col\">Channel</th><th scope=\"col\">Kind</th><th scope=\"col\">Command</th>");
    html.raw("<th scope=\"col\">Exit</th><th scope=\"col\">Output</th></tr></thead>\n<tbody>\n");
    for channel in &detail.channels {
        html.raw("<tr><th scope=\"row\">").text(channel.number).raw("</th><td data-label=\"Kind\">").text(&channel.kind);
        html.raw("</td><td data-label=\"Command\"><code>");
        optional(html, channel.command.as_ref());
        html.raw("</code></td><td data-label=\"Exit\">");
        optional(html, channel.exit.as_ref());
        html.raw("</td><td data-label=\"Output\">");
        output(html, &detail.row.key, channel, current);
        html.raw("</td></tr>\n");
    }
    html.raw("</tbody>\n</table>\n");
}

fn output(html: &mut Html, key: &RecordingKey, channel: &ChannelRow, current: Option<u32>) {
    if !channel.playable {
        html.raw("–");
        return;
    }
    html.raw("<a href=\"");
    address(html, key);
    html.raw("?channel=").text(channel.number).raw("#play\"").raw(if current == Some(channel.number) {
        " aria-current=\"true\""
    } else {
        ""
    });
    html.raw(">Show</a> <a href=\"");
    cast(html, key, channel.number);
    html.raw("\" download aria-label=\"Download channel ").text(channel.number).raw("\">Download</a>");
}

fn audit(html: &mut Html, lines: &str) {
    let lines: Vec<_> = lines.lines().filter(|line| !line.trim().is_empty()).collect();
    html.raw("<h2>Audit <span class=\"count\">").text(lines.len()).raw("</span></h2>\n");
    if lines.is_empty() {
        html.raw("<p>Nothing is written yet.</p>\n");
        return;
    }
    html.raw("<table class=\"list\">\n<thead><tr><th scope=\"col\">Time</th><th scope=\"col\">Event</th><th scope=\"col\">Channel</th><th scope=\"col\">What</th></tr></thead>\n<tbody>\n");
    for line in lines.iter().take(MOST) {
        match serde_json::from_str(line) {
            Ok(Value::Object(event)) => audit_event(html, event),
            _ => _ = html.raw("<tr><th scope=\"row\">–</th><td data-label=\"Event\">–</td><td data-label=\"Channel\">–</td><td data-label=\"What\"><code>").text(line).raw("</code></td></tr>\n"),
        }
    }
    html.raw("</tbody>\n</table>\n");
    if lines.len() > MOST {
        html.raw("<p>Only the first ").text(MOST).raw(" are listed; <code>kubectl sandglass replay</code> has all of them.</p>\n");
    }
}

fn audit_event(html: &mut Html, mut event: Map<String, Value>) {
    let mut take = |name| event.remove(name).map(plain);
    let (time, kind, channel) = (take("time"), take("event"), take("channel"));
    html.raw("<tr><th scope=\"row\">");
    optional(html, time);
    html.raw("</th><td data-label=\"Event\">");
    optional(html, kind);
    html.raw("</td><td data-label=\"Channel\">");
    optional(html, channel);
    html.raw("</td><td data-label=\"What\">");
    for (name, value) in event {
        html.raw("<span class=\"pair\"><i>").text(name).raw("</i> <code>").text(plain(value)).raw("</code></span> ");
    }
    html.raw("</td></tr>\n");
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::{RecordingRow, RecordingState};
    use super::*;
    use chrono::{DateTime, TimeDelta};

    fn channel(number: u32, playable: bool) -> ChannelRow {
        ChannelRow { number, kind: "<k>".into(), command: Some("echo '<x>'".into()), exit: Some("<e>".into()), playable }
    }

    fn detail(channels: Vec<ChannelRow>, audit: &str) -> RecordingDetail {
        RecordingDetail {
            row: RecordingRow {
                key: RecordingKey::new(["2026-11-25", "ci", "build-42", "u-1", "c-1"]).expect("plain"),
                requester: "<r>".into(),
                fingerprint: "SHA256:x".into(),
                started_at: DateTime::UNIX_EPOCH,
                ended_at: Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(65)),
                state: RecordingState::Complete,
                commit: Some("<c>".into()),
                pull_request: None,
            },
            remote_address: Some("<a>".into()),
            certificate: None,
            end_reason: Some("<end>".into()),
            verification: Verification { verdict: Verdict::Intact, text: "<v>".into() },
            channels,
            audit: audit.into(),
        }
    }

    #[test]
    fn the_channel_is_the_one_asked_for_or_the_first_with_output() {
        let some = detail(vec![channel(0, false), channel(2, true), channel(3, true)], "");
        assert_eq!(chosen(&some, None), Ok(Some(2)));
        assert_eq!(chosen(&some, Some(3)), Ok(Some(3)));
        assert_eq!(chosen(&some, Some(0)), Err(SourceError::Missing));
        assert_eq!(chosen(&some, Some(9)), Err(SourceError::Missing));
        assert_eq!(chosen(&detail(vec![channel(0, false)], ""), None), Ok(None));
    }

    #[test]
    fn a_recording_shows_all_of_it_as_text() {
        let shown = content(&detail(vec![channel(0, true), channel(1, false)], ""), Some(0), true).into_string();
        for text in [
            "&lt;r&gt;",
            "&lt;c&gt;",
            "&lt;a&gt;",
            "&lt;end&gt;",
            "&lt;v&gt;",
            "&lt;k&gt;",
            "&#39;&lt;x&gt;",
            "&lt;e&gt;",
            "after 1 min 05 s",
            "Verified.",
        ] {
            assert!(shown.contains(text), "{text} {shown}");
        }
        assert!(shown.contains("<div id=\"player\" data-cast=\"/recordings/2026-11-25/ci/build-42/u-1/c-1/channel-0.cast\">"), "{shown}");
        assert!(shown.contains("?channel=0#play\" aria-current=\"true\"") && !shown.contains("channel=1"), "{shown}");
    }

    #[test]
    fn a_build_without_a_player_offers_the_file() {
        let shown = content(&detail(vec![channel(0, true)], ""), Some(0), false).into_string();
        assert!(shown.contains("This build has no player.") && !shown.contains("id=\"player\""), "{shown}");
        assert!(shown.contains("c-1/channel-0.cast\" download>"), "{shown}");
    }

    #[test]
    fn audit_events_are_a_table_and_other_lines_are_not_lost() {
        let lines = concat!(
            "{\"time\":\"2026-11-25T01:02:03Z\",\"event\":\"sftp\",\"channel\":4,\"path\":\"/tmp/<x>\",\"bytesRead\":7}\n",
            "\n",
            "not <json>\n",
        );
        let shown = content(&detail(vec![], lines), None, true).into_string();
        assert!(
            shown
                .contains("<th scope=\"row\">2026-11-25T01:02:03Z</th><td data-label=\"Event\">sftp</td><td data-label=\"Channel\">4</td>"),
            "{shown}"
        );
        assert!(shown.contains("<i>bytesRead</i> <code>7</code>") && shown.contains("<i>path</i> <code>/tmp/&lt;x&gt;</code>"), "{shown}");
        assert!(shown.contains("<code>not &lt;json&gt;</code>") && shown.contains("Audit <span class=\"count\">2<"), "{shown}");
        assert!(shown.contains("No channel was opened"), "{shown}");
    }

    #[test]
    fn a_long_audit_stream_is_cut_and_says_so() {
        let shown = content(&detail(vec![], &"{}\n".repeat(2001)), None, true).into_string();
        assert!(shown.contains("Only the first 2000") && shown.contains("count\">2001<"));
        assert_eq!(shown.matches("data-label=\"Event\"").count(), 2000);
    }
}
