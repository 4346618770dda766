//! When and why an object ends: pure, from the object alone. Once ended, always ended.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;

use super::identity::Identity;
use crate::api::conditions::{OPEN, READY, Reason, STALLED};
use crate::api::names::OWNER_UID;
use crate::api::session::Session;
use crate::kubernetes::time::to_chrono;

/// How long after its time a pod waits for its terminal condition to be written, before it is deleted without.
const ANNOUNCE_PATIENCE: TimeDelta = TimeDelta::seconds(15);

/// A reason and the words that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The reason.
    pub reason: Reason,
    /// The words.
    pub message: String,
}

impl Cause {
    /// Puts them together.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub cause: Cause,
    /// When.
    pub at: DateTime<Utc>,
    /// The terminal condition stands in the status already, or can no longer be waited for.
    pub announced: bool,
}

/// Whether, and why, the session is over for reasons that need no look at the cluster.
#[must_use]
pub fn ending<S: Session>(session: &S, identity: &Identity, now: DateTime<Utc>) -> Option<Ending> {
    let state = session.state();
    if let Some(ended_at) = state.and_then(|state| state.ended_at.as_ref()) {
        let word = state.and_then(|state| state.end_reason.as_deref()).unwrap_or_default();
        let open = state.iter().flat_map(|state| &state.conditions).find(|condition| condition.type_ == OPEN);
        let message = open.map(|open| open.message.clone()).unwrap_or_default();
        let cause = Cause::new(Reason::parse(word).unwrap_or(Reason::PodFailed), message);
        return Some(Ending { cause, at: to_chrono(ended_at), announced: true });
    }
    let announced = now > identity.expires_at + ANNOUNCE_PATIENCE;
    let end = |reason, message: &str, at| Some(Ending { cause: Cause::new(reason, message), at, announced });
    if now >= identity.expires_at {
        return end(Reason::Expired, "the session's time is over", identity.expires_at);
    }
    if session.meta().deletion_timestamp.is_some() {
        return end(Reason::Deleted, "the object is being deleted", now);
    }
    if session.terms().end {
        return end(Reason::EndRequested, "spec.end was set", now);
    }
    None
}

/// Whether the object never had a pod, as far as its status says.
#[must_use]
pub fn has_no_pod_yet<S: Session>(session: &S) -> bool {
    session.state().is_none_or(|state| state.pod.is_none())
}

/// Whether its end stands in the status.
#[must_use]
pub fn has_ended<S: Session>(session: &S) -> bool {
    session.state().is_some_and(|state| state.ended_at.is_some())
}

/// Whether a condition is true.
#[must_use]
pub fn holds_condition<S: Session>(session: &S, kind: &str) -> bool {
    session.state().iter().flat_map(|state| &state.conditions).any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether it ended and everything of it is gone.
#[must_use]
pub fn is_over<S: Session>(session: &S) -> bool {
    let ready = session.state().iter().flat_map(|state| &state.conditions).find(|condition| condition.type_ == READY);
    has_ended(session) && ready.is_some_and(|ready| ready.reason != Reason::Terminating.as_str())
}

/// Whether there is nothing left to do about an object. One that stalled is looked at once more when its time is over: nobody
/// need do anything about it then. So is one that was changed after its end: GitOps tools wait until the change is observed.
#[must_use]
pub fn is_tombstone<S: Session>(session: &S, identity: &Identity, now: DateTime<Utc>) -> bool {
    let observed = session.state().and_then(|state| state.observed_generation) == session.meta().generation;
    is_over(session) && observed && !(holds_condition(session, STALLED) && now >= identity.expires_at)
}

/// Whether a pod is this object's: the label says so, and the name, under which it was read, is made of the same UID.
#[must_use]
pub fn is_own(pod: &Pod, uid: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(OWNER_UID)).is_some_and(|owner| owner == uid)
}

/// The end of a session whose pod, named in its status, is not there any more.
#[must_use]
pub fn lost<S: Session>(session: &S, pod: Option<&Pod>) -> Option<Cause> {
    let recorded = session.state().and_then(|state| state.pod.as_ref())?;
    let there = pod.and_then(|pod| pod.metadata.uid.as_ref()) == Some(&recorded.uid);
    let message = || format!("somebody deleted the session's pod; a session never gets another: create a new {}", S::KIND);
    (!there).then(|| Cause::new(Reason::PodGone, message()))
}
