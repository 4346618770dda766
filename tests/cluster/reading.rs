//! Reading an object of either kind: its status, its conditions, its times.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use sandglass::api::session::{Session, SessionStatus};

/// The time since another.
pub fn since(earlier: &Time, later: DateTime<Utc>) -> TimeDelta {
    later - sandglass::kubernetes::time::to_chrono(earlier)
}

/// Whether somebody was cut when a session ended: not before, and at most five seconds later. The clock of the client is read
/// when it has ended, so the bound below only allows for rounding.
pub fn assert_cut_in_time(late: TimeDelta) {
    assert!((TimeDelta::milliseconds(-50)..=TimeDelta::seconds(5)).contains(&late), "cut {late} after the end");
}

/// The session's status.
pub fn status<S: Session>(session: &S) -> SessionStatus {
    session.state().cloned().unwrap_or_default()
}

/// The session's UID.
pub fn uid<S: Session>(session: &S) -> String {
    session.meta().uid.clone().expect("a UID")
}

/// A condition.
pub fn condition<'a, S: Session>(session: &'a S, kind: &str) -> Option<&'a Condition> {
    session.state()?.conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition is true.
pub fn is_true<S: Session>(session: &S, kind: &str) -> bool {
    condition(session, kind).is_some_and(|condition| condition.status == "True")
}

/// Whether it is open.
pub fn is_open<S: Session>(session: &S) -> bool {
    is_true(session, "Open")
}

/// Whether it is over.
pub fn has_ended<S: Session>(session: &S) -> bool {
    status(session).ended_at.is_some()
}

/// Reason and message of `Open`.
pub fn open_message<S: Session>(session: &S) -> String {
    condition(session, "Open").map(|open| format!("{}: {}", open.reason, open.message)).unwrap_or_default()
}

/// Why it ended.
pub fn end_reason<S: Session>(session: &S) -> String {
    status(session).end_reason.unwrap_or_default()
}
