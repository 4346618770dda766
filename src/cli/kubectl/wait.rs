//! Waits for a session by watch, and shows on a terminal what it waits for.

use super::cluster::Cluster;
use super::failure::{Failure, one_line};
use super::output::short;
use super::sessions::{Entry, Kind, condition_line};
use crate::api::conditions::{OPEN, STALLED};
use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object};
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;
use tokio::time::Instant;

/// How far a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// `ssh` lands in a shell.
    Open,
    /// Not yet; what it waits for.
    Pending(String),
    /// It never will without a human, or it is over; why, and what helps.
    Hopeless(String),
}

/// How far a session is.
#[must_use]
pub fn judge(entry: &Entry) -> Sight {
    let (name, status) = (entry.object.name_any(), entry.status());
    let status = &status;
    let is_true = |kind: &str| status.conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True");
    let line = condition_line(status, OPEN);
    if status.ended_at.is_some() {
        let why = line.or_else(|| status.end_reason.clone()).unwrap_or_else(|| "no reason is known".into());
        return Sight::Hopeless(format!("{name} is over ({why}): open another one by `kubectl sandglass open`"));
    }
    if entry.is_ending() {
        return Sight::Hopeless(format!("{name} is being ended: open another one by `kubectl sandglass open`"));
    }
    if is_true(STALLED) {
        let why = condition_line(status, STALLED).unwrap_or_default();
        return Sight::Hopeless(format!("{name} will not open: {why}"));
    }
    if is_true(OPEN) {
        return Sight::Open;
    }
    Sight::Pending(line.unwrap_or_else(|| "waits for Sandglass' controller".into()))
}

/// Waits until `done` says what became of the session; at most `limit`.
///
/// # Errors
/// What `done` says; the time is over; the object is gone; the user pressed Ctrl-C.
pub async fn until(
    cluster: &Cluster,
    kind: Kind,
    name: &str,
    limit: Duration,
    done: impl Fn(&Entry) -> Result<bool, Failure>,
) -> Result<Entry, Failure> {
    let mut watch = std::pin::pin!(watch_object(kind.api(cluster), name).default_backoff());
    let mut line = Line::new();
    let (began, mut seen) = (Instant::now(), false);
    let mut waits_for = "waits for Sandglass' controller".to_owned();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let plugin = |command: &str| format!("`kubectl sandglass {command} {name} -n {}`", cluster.namespace);
    loop {
        tokio::select! {
            change = watch.next() => match change {
                Some(Ok(Some(object))) => {
                    seen = true;
                    let entry = Entry { kind, object };
                    if done(&entry)? {
                        return Ok(entry);
                    }
                    if let Sight::Pending(what) = judge(&entry) {
                        waits_for = what;
                    }
                }
                Some(Ok(None)) if seen => return Err(Failure::NotOpen(format!("{name} was deleted by somebody meanwhile: open another one"))),
                Some(Err(error)) => refused(&error)?,
                Some(Ok(None)) | None => {}
            },
            _ = tick.tick() => {}
            _ = &mut stop => {
                return Err(Failure::Interrupted(format!(
                    "{name} goes on without you: {} to get in, {} to end it",
                    plugin("ssh"),
                    plugin("end")
                )));
            }
            () = tokio::time::sleep_until(began + limit) => {
                return Err(Failure::TimedOut(format!(
                    "{name} is not open after {} ({waits_for}): it goes on by itself; {} once it is open, {} to end it",
                    short(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)),
                    plugin("ssh"),
                    plugin("end")
                )));
            }
        }
        line.show(name, &waits_for, began.elapsed());
    }
}

/// A watch that is refused will be refused again; anything else may pass.
fn refused(error: &watcher::Error) -> Result<(), Failure> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return Ok(());
    };
    match status.code {
        401 | 403 => Err(Failure::Refused(format!("failed to watch the session: {}", one_line(&status.message)))),
        _ => Ok(()),
    }
}

/// One line of progress on standard error, written over and over; only on a terminal.
struct Line {
    width: Option<usize>,
    colour: bool,
    shown: bool,
}

impl Line {
    fn new() -> Self {
        let capable = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let terminal = capable && std::io::stderr().is_terminal();
        // A terminal that does not know its size says zero.
        let columns = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
        let columns = if columns == 0 { 80 } else { columns };
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { width: terminal.then_some(columns), colour, shown: false }
    }

    fn show(&mut self, name: &str, waits_for: &str, elapsed: Duration) {
        let Some(width) = self.width else { return };
        let text = progress(name, waits_for, elapsed, width);
        let (dim, reset) = if self.colour { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
        let _ = write!(std::io::stderr(), "\r{dim}{text}{reset}\u{1b}[K");
        self.shown = true;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}

/// The line, one column narrower than the terminal, so that it never wraps.
fn progress(name: &str, waits_for: &str, elapsed: Duration, width: usize) -> String {
    let time = short(i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX));
    let text = format!("{name}: {time}: {}", one_line(waits_for));
    if text.chars().count() < width { text } else { text.chars().take(width.saturating_sub(2)).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::sessions::tests::entry;
    use super::*;
    use serde_json::json;

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> serde_json::Value {
        json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-26T10:00:00Z" })
    }

    #[test]
    fn a_status_is_judged() {
        let sight = |status| judge(&entry(&status));
        assert_eq!(sight(json!(null)), Sight::Pending("waits for Sandglass' controller".into()));
        let busy = condition("Open", "False", "ProjectBusy", "build-41 is live");
        assert_eq!(sight(json!({ "conditions": [busy] })), Sight::Pending("ProjectBusy: build-41 is live".into()));
        assert_eq!(sight(json!({ "conditions": [condition("Open", "True", "SessionOpen", "")] })), Sight::Open);
        let refused =
            [condition("Open", "False", "ImageRefused", "no"), condition("Stalled", "True", "ImageRefused", "name one\nthat exists")];
        let Sight::Hopeless(words) = sight(json!({ "conditions": refused })) else { panic!("it is stalled") };
        assert_eq!(words, "build-42 will not open: ImageRefused: name one that exists");
        let over = json!({ "endedAt": "2026-11-26T10:00:00Z", "endReason": "Expired", "conditions": [condition("Open", "False", "Expired", "the ttl is over")] });
        assert!(matches!(sight(over), Sight::Hopeless(words) if words.contains("is over (Expired: the ttl is over)")));
        let mut ending = entry(&json!({ "conditions": [condition("Open", "True", "SessionOpen", "")] }));
        ending.object.data["spec"]["end"] = json!(true);
        assert!(matches!(judge(&ending), Sight::Hopeless(words) if words.contains("is being ended")));
    }

    #[test]
    fn the_line_never_wraps() {
        let text = progress("build-42", &"é".repeat(200), Duration::from_secs(130), 40);
        assert!(text.chars().count() < 40 && text.starts_with("build-42: 2m: é") && text.ends_with('…'), "{text}");
        assert_eq!(progress("a", "b\u{1b}[2J", Duration::ZERO, 40), "a: 0s: b?[2J");
    }
}
