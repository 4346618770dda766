//! The part of the status that both kinds have, as it follows from an outcome: pure. What gateways write is not in it.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::apply::Outcome;
use super::context::Settings;
use super::end::Cause;
use super::identity::Identity;
use super::pod_state::PodState;
use crate::api::conditions::{OPEN, READY, Reason, STALLED};
use crate::api::session::{Connection, Phase, PodReference, Session, SessionStatus};
use crate::kubernetes::time::from_chrono;

/// What the conditions say.
struct View {
    phase: Phase,
    open: bool,
    /// `None`: nobody knows yet.
    ready: Option<bool>,
    /// Reason and message of `Open`.
    cause: Cause,
    /// Reason of `Ready` where it differs from `Open`'s.
    ready_cause: Option<Cause>,
    stalled: bool,
}

/// The status of an object that was just seen.
#[must_use]
pub fn unknown<S: Session>(session: &S, identity: &Identity, settings: &Settings, now: DateTime<Utc>) -> SessionStatus {
    let cause = Cause::new(Reason::Starting, "first sight of the object");
    let view = View { phase: Phase::Waiting, open: false, ready: None, cause, ready_cause: None, stalled: false };
    write(session, identity, settings, &view, None, now)
}

/// The status after a pass; `None` where there is no object left to write it on.
#[must_use]
pub fn status<S: Session>(
    session: &S,
    identity: &Identity,
    outcome: &Outcome,
    settings: &Settings,
    now: DateTime<Utc>,
) -> Option<SessionStatus> {
    let (view, pod) = match outcome {
        Outcome::Removed => return None,
        Outcome::Held(cause) => {
            let stalled = cause.reason.stalls();
            let phase = if stalled { Phase::Failed } else { Phase::Waiting };
            (View { phase, open: false, ready: Some(false), cause: cause.clone(), ready_cause: None, stalled }, None)
        }
        Outcome::Standing(pod, state) => (standing(state, identity), Some(pod.as_ref())),
        Outcome::Ending { ending, pod, gone } => {
            let failed = ending.cause.reason.stalls();
            // Once its time is over nobody need do anything about a failed session any more.
            let stalled = failed && now < identity.expires_at;
            let leaving = (!gone).then(|| Cause::new(Reason::Terminating, format!("{}; the pod is being deleted", ending.cause.message)));
            let view = View {
                phase: if failed { Phase::Failed } else { Phase::Ended },
                open: false,
                ready: Some(*gone && !stalled),
                cause: ending.cause.clone(),
                ready_cause: leaving,
                stalled,
            };
            (view, pod.as_deref())
        }
    };
    let mut status = write(session, identity, settings, &view, pod, now);
    if let Outcome::Ending { ending, .. } = outcome {
        status.ended_at = Some(from_chrono(ending.at));
        status.end_reason = Some(ending.cause.reason.as_str().to_owned());
        status.connection = None;
    }
    Some(status)
}

fn standing(state: &PodState, identity: &Identity) -> View {
    let (open, cause) = match state {
        PodState::Open => (true, Cause::new(Reason::SessionOpen, format!("ssh to {} lands in a shell", identity.name.ssh_user()))),
        PodState::Starting(cause) | PodState::Over(cause) => (false, cause.clone()),
        PodState::Running { .. } => (false, Cause::new(Reason::Starting, "the pod runs; waiting for its agent")),
    };
    let phase = if open { Phase::Open } else { Phase::Starting };
    let stalled = cause.reason.stalls();
    View { phase, open, ready: Some(open), cause, ready_cause: None, stalled }
}

fn write<S: Session>(
    session: &S,
    identity: &Identity,
    settings: &Settings,
    view: &View,
    pod: Option<&Pod>,
    now: DateTime<Utc>,
) -> SessionStatus {
    let old = session.state().cloned().unwrap_or_default();
    let generation = session.meta().generation;
    let condition = |kind: &str, value: Option<bool>, cause: &Cause| {
        let value = value.map_or("Unknown", |value| if value { "True" } else { "False" });
        let before = old.conditions.iter().find(|before| before.type_ == kind && before.status == value);
        Condition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: cause.reason.as_str().to_owned(),
            // The schema takes 32768 bytes.
            message: cause.message.chars().take(4096).collect(),
            last_transition_time: before.map_or_else(|| from_chrono(now), |before| before.last_transition_time.clone()),
            observed_generation: generation,
        }
    };
    let mut conditions =
        vec![condition(READY, view.ready, view.ready_cause.as_ref().unwrap_or(&view.cause)), condition(OPEN, Some(view.open), &view.cause)];
    if view.stalled {
        conditions.push(condition(STALLED, Some(true), &view.cause));
    }
    let created = pod.and_then(|pod| pod.metadata.creation_timestamp.clone());
    SessionStatus {
        observed_generation: generation,
        phase: Some(view.phase),
        conditions,
        started_at: created.or(old.started_at),
        expires_at: Some(from_chrono(identity.expires_at)),
        ended_at: None,
        end_reason: None,
        pod: old.pod.or_else(|| pod.and_then(reference)),
        connection: Some(connection(identity, settings)),
        link: None,
        connections: Vec::new(),
    }
}

fn reference(pod: &Pod) -> Option<PodReference> {
    let metadata = &pod.metadata;
    Some(PodReference { namespace: metadata.namespace.clone()?, name: metadata.name.clone()?, uid: metadata.uid.clone()? })
}

fn connection(identity: &Identity, settings: &Settings) -> Connection {
    let gateway = &settings.configuration.gateway;
    let user = identity.name.ssh_user();
    let known_name = if gateway.port == 22 { gateway.host.clone() } else { format!("[{}]:{}", gateway.host, gateway.port) };
    let command = if gateway.port == 22 {
        format!("ssh {user}@{}", gateway.host)
    } else {
        format!("ssh -p {} {user}@{}", gateway.port, gateway.host)
    };
    // A key's comment means nothing in a known_hosts file.
    let key = |line: &String| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    Connection {
        host: gateway.host.clone(),
        port: i32::from(gateway.port),
        command,
        user,
        known_hosts: settings.host_keys.iter().map(|line| format!("{known_name} {}", key(line))).collect(),
    }
}
