//! Watches a connection after its login for as long as it lives, and cuts it when its right ends.

use super::connection::Connection;
use super::report::{Event, Report};
use super::socket;
use crate::domain::access::{Authorized, Denied};
use chrono::{DateTime, TimeDelta, Utc};
use russh::Disconnect;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(1);
/// When a client without a channel is told to leave: what its last one showed may still be on the way.
const LEAVE_SILENT: Duration = Duration::from_millis(700);

/// What a connection that is cut is given, each from the cut on.
#[derive(Clone, Copy, Debug)]
pub struct Farewell {
    /// How long channels have to say their last line.
    pub words: Duration,
    /// When a client that did not leave by itself after them is told to.
    pub leave: Duration,
    /// When the socket is closed.
    pub close: Duration,
}

/// Whatever the client does, it is cut within five seconds of the end of its right.
impl Default for Farewell {
    fn default() -> Self {
        Self { words: Duration::from_millis(1500), leave: Duration::from_secs(3), close: Duration::from_millis(3700) }
    }
}

/// When users are told that the end is near.
const WARNINGS: [i64; 2] = [300, 60];

/// What to do with a connection now. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Warn(String),
    Cut(String),
}

/// What the watch remembers of one connection.
#[derive(Debug, Default)]
struct Told {
    end: Option<i64>,
    idle: bool,
}

fn step(decision: &Result<Authorized, Denied>, last_byte: i64, now: DateTime<Utc>, told: &mut Told) -> Step {
    let authorized = match decision {
        Ok(authorized) => authorized,
        Err(denied) => return Step::Cut(format!("{denied} ({})", denied.reason())),
    };
    if let Some(limit) = authorized.idle_timeout() {
        let limit = TimeDelta::from_std(limit).unwrap_or(TimeDelta::MAX).num_seconds();
        let idle = now.timestamp() - last_byte;
        if idle >= limit {
            return Step::Cut(format!("no byte either way for {}: closed. The session goes on; log in again to get back", in_words(limit)));
        }
        if idle < limit - 60 {
            told.idle = false;
        } else if !told.idle {
            told.idle = true;
            return Step::Warn("nothing typed for a while: this connection is closed in a minute. The session itself goes on".into());
        }
    }
    let left = (authorized.expires_at() - now).num_seconds();
    let due = WARNINGS.iter().rev().find(|warning| left <= **warning);
    match due {
        Some(due) if told.end.is_none_or(|told| told > *due) => {
            told.end = Some(*due);
            Step::Warn(format!("this session ends in {}. It cannot be extended: save what you need", in_words(left.max(1))))
        }
        _ => Step::Nothing,
    }
}

/// A number of seconds as people say it.
#[must_use]
pub fn in_words(seconds: i64) -> String {
    match seconds {
        120.. => format!("{} minutes", (seconds + 30) / 60),
        90.. => "2 minutes".into(),
        60.. => "1 minute".into(),
        1 => "1 second".into(),
        _ => format!("{seconds} seconds"),
    }
}

/// Watches a logged-in connection until `closed`, and cuts it when its right ends.
pub async fn watch_over(connection: Arc<Connection>, handle: russh::server::Handle, cut: socket::Cut, closed: impl Future<Output = ()>) {
    let gateway = Arc::clone(&connection.gateway);
    let Some(login) = connection.login() else { return };
    gateway.metrics.connections.inc();
    let mut sessions = gateway.directory.subscribe();
    let mut tick = tokio::time::interval(TICK);
    let mut told = Told::default();
    let unrecorded = unrecorded(&connection);
    tokio::pin!(closed, unrecorded);
    let reason = loop {
        let cause: Option<Arc<str>> = tokio::select! {
            () = &mut closed => break "the client left".into(),
            () = gateway.drain.cancelled() => Some("this gateway restarts. The session goes on: log in again to get back".into()),
            reason = &mut unrecorded => Some(reason),
            _ = sessions.changed() => None,
            _ = tick.tick() => None,
        };
        if let Some(reason) = cause {
            end(&connection, &handle, &cut, &reason, closed).await;
            break reason;
        }
        let now = (gateway.now)();
        match step(&connection.decide_again(), connection.last_byte.load(Ordering::Relaxed), now, &mut told) {
            Step::Nothing => {}
            Step::Warn(text) => drop(connection.notice.send_replace(Some(text.into()))),
            Step::Cut(reason) => {
                info!(connection = connection.id, session = %login.session, reason, "connection cut");
                gateway.metrics.cuts.inc();
                end(&connection, &handle, &cut, &reason, closed).await;
                break reason.into();
            }
        }
    };
    if let Some(recorder) = connection.recorder() {
        recorder.set_end_reason(&reason);
    }
    // The report first: a replica that drains goes by the gauge.
    gateway.reports.send(Report {
        kind: login.authorized.object_kind(),
        session: login.session,
        event: Event::Disconnected { id: connection.id.clone(), at: (gateway.now)() },
    });
    gateway.metrics.connections.dec();
}

/// Returns when nothing can be recorded any more, with the reason.
async fn unrecorded(connection: &Connection) -> Arc<str> {
    let Some(recorder) = connection.recorder() else { return std::future::pending().await };
    let mut stopped = recorder.stopped();
    let reason = stopped.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    reason.unwrap_or_else(|| "the recording ended".into())
}

/// Last words on every channel; then the client may leave by itself, which ordinary ones do, and so keep their exit status; then a
/// disconnect message, and last the socket itself.
async fn end(connection: &Connection, handle: &russh::server::Handle, cut: &socket::Cut, reason: &str, closed: impl Future<Output = ()>) {
    let (limits, began, silent) = (connection.gateway.farewell, Instant::now(), connection.channels().is_empty());
    connection.cut.send_replace(Some(reason.into()));
    tokio::pin!(closed);
    let words = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while !connection.channels().is_empty() {
            tick.tick().await;
        }
    };
    let farewell = async {
        let _ = tokio::time::timeout(limits.words, words).await;
        // Told to leave, OpenSSH drops what it has not shown yet.
        let leave = if silent { LEAVE_SILENT.min(limits.leave) } else { limits.leave };
        if tokio::time::timeout_at(began + leave, &mut closed).await.is_err() {
            let _ = handle.disconnect(Disconnect::ByApplication, format!("sandglass: {reason}"), String::new()).await;
            closed.await;
        }
    };
    let _ = tokio::time::timeout(limits.close, farewell).await;
    cut.now();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::AnySession;
    use crate::domain::access::{Credential, authorize};
    use crate::domain::configuration::Configuration;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ test";

    fn decision(now: DateTime<Utc>, left: i64, idle: Option<&str>) -> Result<Authorized, Denied> {
        let mut object: crate::api::DebugSession = serde_json::from_value(serde_json::json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession",
            "metadata": { "name": "x", "namespace": "ci", "uid": "u", "creationTimestamp": (now + TimeDelta::seconds(left) - TimeDelta::minutes(30)).to_rfc3339() },
            "spec": { "source": { "image": "i" }, "requester": "r", "access": { "authorizedKeys": [KEY] } }
        }))
        .expect("an object");
        object.spec.access.idle_timeout = idle.map(Into::into);
        let configuration =
            Configuration::parse("gateway: { host: h }\nsessions: { agentImage: i }\nrecording: { mode: Off }\n").expect("valid");
        let key = russh::keys::PublicKey::from_openssh(KEY).expect("key");
        authorize(&Credential::Key(key), &AnySession::Debug(Box::new(object)), &configuration, "192.0.2.1".parse().expect("address"), now)
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
    }

    #[test]
    fn nobody_stays_five_seconds_longer() {
        let Farewell { words, leave, close } = Farewell::default();
        assert!(words < leave && leave < close && TICK + close < Duration::from_secs(5));
    }

    #[test]
    fn users_are_warned_twice_and_then_cut() {
        let mut told = Told::default();
        let mut at = |left| step(&decision(now(), left, None), now().timestamp(), now(), &mut told);
        assert_eq!(at(301), Step::Nothing);
        assert!(matches!(at(300), Step::Warn(text) if text.contains("5 minutes")));
        assert_eq!(at(299), Step::Nothing);
        assert!(matches!(at(60), Step::Warn(text) if text.contains("1 minute")));
        assert_eq!(at(1), Step::Nothing);
        assert!(matches!(at(0), Step::Cut(text) if text.contains("Expired")));
    }

    #[test]
    fn whoever_comes_late_is_warned_once() {
        let mut told = Told::default();
        assert!(
            matches!(step(&decision(now(), 30, None), now().timestamp(), now(), &mut told), Step::Warn(text) if text.contains("30 seconds"))
        );
        assert_eq!(step(&decision(now(), 29, None), now().timestamp(), now(), &mut told), Step::Nothing);
    }

    #[test]
    fn idle_connections_are_warned_a_minute_before_and_closed() {
        let mut told = Told::default();
        let mut idle = |seconds| step(&decision(now(), 1500, Some("2m")), now().timestamp() - seconds, now(), &mut told);
        assert_eq!(idle(59), Step::Nothing);
        assert!(matches!(idle(60), Step::Warn(_)));
        assert_eq!(idle(61), Step::Nothing);
        assert_eq!(idle(0), Step::Nothing, "a byte resets it");
        assert!(matches!(idle(60), Step::Warn(_)));
        assert!(matches!(idle(120), Step::Cut(text) if text.contains("goes on")));
    }
}
