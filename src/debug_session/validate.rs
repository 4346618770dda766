//! Step two, pure: from what was observed to a decision. Nearly every rule of a session's life is here.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::time::Duration;

use super::context::Settings;
use super::observe::{Identity, Observed};
use super::pod_state::{self, PodState};
use super::source::{self, SourceProblem, SourceRead, Taken};
use super::turn::{self, Turn};
use crate::api::DebugSession;
use crate::api::conditions::{OPEN, Reason};
use crate::api::debug_session::{Isolation, LimitName, LinkState, Retention};
use crate::api::names::OWNER_UID;
use crate::domain::environment::{self, Filtered, Variable};
use crate::domain::images::Reference;
use crate::domain::{lifetime, quantity};
use crate::kubernetes::time::to_chrono;

/// How long a running agent may take to find a gateway before that is called a fault.
const LINK_PATIENCE: TimeDelta = TimeDelta::seconds(60);
/// How long after its time a pod waits for its terminal condition to be written, before it is deleted without.
const ANNOUNCE_PATIENCE: TimeDelta = TimeDelta::seconds(15);
/// The kernel takes at most 128 KiB per variable, and the environment shares one with the agent's other settings.
const MOST_ENVIRONMENT: usize = 80 * 1024;
const DEFAULT_DELETE_AFTER: Duration = Duration::from_hours(24);

/// A reason and the words that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub reason: Reason,
    pub message: String,
}

impl Cause {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub cause: Cause,
    pub at: DateTime<Utc>,
    /// The terminal condition stands in the status already, or can no longer be waited for.
    pub announced: bool,
}

/// What a new pod is made of, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub image: String,
    pub tools: Option<String>,
    pub isolation: Isolation,
    pub limits: BTreeMap<LimitName, Quantity>,
    pub environment: Filtered,
    pub working_directory: Option<String>,
}

/// What to do.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    /// Its time as a tombstone is over (`retention: Delete`).
    Remove,
    /// It ends, or has ended; with the pod that is left.
    End(Ending, Option<Box<Pod>>),
    /// No pod, for this reason.
    Hold(Cause),
    /// Create the pod.
    Create(Box<Plan>),
    /// The pod is there, in this state.
    Keep(Box<Pod>, PodState),
}

/// Whether there is nothing left to do about an object, ever (`retention: Retain`) or yet.
pub(super) fn is_tombstone(session: &DebugSession, identity: &Identity, now: DateTime<Utc>) -> bool {
    let stalled = turn::holds_condition(session, crate::api::conditions::STALLED);
    turn::is_over(session) && !(stalled && now >= identity.expires_at) && !is_due_for_removal(session, now)
}

fn is_due_for_removal(session: &DebugSession, now: DateTime<Utc>) -> bool {
    let ended_at = session.status.as_ref().and_then(|status| status.ended_at.as_ref());
    let after = session.spec.delete_after.as_deref().and_then(lifetime::parse_duration).unwrap_or(DEFAULT_DELETE_AFTER);
    let after = TimeDelta::from_std(after).unwrap_or(TimeDelta::days(1));
    session.spec.retention == Retention::Delete && ended_at.is_some_and(|ended| to_chrono(ended) + after <= now)
}

/// Whether the object never had a pod, as far as its status says.
pub(super) fn has_no_pod_yet(session: &DebugSession) -> bool {
    session.status.as_ref().is_none_or(|status| status.pod.is_none())
}

/// Whether, and why, the session is over for reasons that need no look at the cluster. Once ended, always ended.
pub(super) fn ending(session: &DebugSession, identity: &Identity, now: DateTime<Utc>) -> Option<Ending> {
    let status = session.status.as_ref();
    if let Some(ended_at) = status.and_then(|status| status.ended_at.as_ref()) {
        let word = status.and_then(|status| status.end_reason.as_deref()).unwrap_or_default();
        let open = status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == OPEN);
        let message = open.map(|open| open.message.clone()).unwrap_or_default();
        let cause = Cause::new(Reason::parse(word).unwrap_or(Reason::PodFailed), message);
        return Some(Ending { cause, at: to_chrono(ended_at), announced: true });
    }
    let announced = now > identity.expires_at + ANNOUNCE_PATIENCE;
    let end = |reason, message: &str, at| Some(Ending { cause: Cause::new(reason, message), at, announced });
    if now >= identity.expires_at {
        return end(Reason::Expired, "the session's time is over", identity.expires_at);
    }
    if session.metadata.deletion_timestamp.is_some() {
        return end(Reason::Deleted, "the object is being deleted", now);
    }
    if session.spec.end {
        return end(Reason::EndRequested, "spec.end was set", now);
    }
    None
}

/// Decides.
pub(super) fn decide(observed: &Observed, settings: &Settings, now: DateTime<Utc>) -> Decision {
    let session = observed.session.as_ref();
    let pod = observed.pod.as_ref().filter(|pod| is_own(pod, &observed.identity.uid));
    let end = |cause| {
        let announced = false;
        Decision::End(Ending { cause, at: now, announced }, pod.cloned().map(Box::new))
    };
    if let Some(ending) = ending(session, &observed.identity, now) {
        if pod.is_none() && is_due_for_removal(session, now) {
            return Decision::Remove;
        }
        return Decision::End(ending, pod.cloned().map(Box::new));
    }
    let recorded = session.status.as_ref().and_then(|status| status.pod.as_ref());
    let lost = recorded.is_some_and(|recorded| pod.and_then(|pod| pod.metadata.uid.as_ref()) != Some(&recorded.uid));
    if lost {
        return end(Cause::new(
            Reason::PodGone,
            "somebody deleted the session's pod; a session never gets another: create a new DebugSession",
        ));
    }
    if let Err(problem) = &observed.isolation {
        let cause = Cause::new(Reason::NamespaceNotIsolated, problem);
        return if pod.is_some() { end(cause) } else { Decision::Hold(cause) };
    }
    if let Some(pod) = pod {
        return match look(session, pod, observed, settings, now) {
            PodState::Over(cause) => end(cause),
            state => Decision::Keep(Box::new(pod.clone()), state),
        };
    }
    if observed.pod.is_some() {
        let message = format!("a pod {} that is not Sandglass's stands in the way: delete it", observed.identity.pod_name());
        return Decision::Hold(Cause::new(Reason::PodRefused, message));
    }
    if let Turn::Behind(other) = &observed.turn {
        return Decision::Hold(Cause::new(Reason::ProjectBusy, format!("waiting for {other}: sessions of one project take turns")));
    }
    let read = observed.source.as_ref().unwrap_or(&SourceRead::Absent);
    match plan(session, &observed.identity, read, settings) {
        Ok(plan) => Decision::Create(Box::new(plan)),
        Err(cause) => Decision::Hold(cause),
    }
}

/// Whether a pod is this object's: the label says so, and the name, under which it was read, is made of the same UID.
pub(super) fn is_own(pod: &Pod, uid: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(OWNER_UID)).is_some_and(|owner| owner == uid)
}

/// The pod's own state, and on top of it what the gateways say of its agent.
fn look(session: &DebugSession, pod: &Pod, observed: &Observed, settings: &Settings, now: DateTime<Utc>) -> PodState {
    let state = pod_state::read(pod, &observed.events, settings, now);
    let PodState::Running { since } = state else { return state };
    let link = session.status.as_ref().and_then(|status| status.link.as_ref());
    let link = link.filter(|link| Some(&link.pod_uid) == pod.metadata.uid.as_ref());
    match link.map(|link| (link.state, link.message.as_deref().unwrap_or_default())) {
        Some((LinkState::Ready, _)) => PodState::Open,
        Some((LinkState::NotIsolated, message)) => PodState::Over(Cause::new(
            Reason::NetworkNotIsolated,
            format!("the pod could reach what must be closed ({message}): check that the network plugin enforces NetworkPolicy"),
        )),
        None if now - since >= LINK_PATIENCE => PodState::Starting(Cause::new(
            Reason::LinkFailed,
            "the pod runs, but its agent has not reached a gateway: check that the gateways run and that the network policy opens their link port",
        )),
        None => PodState::Starting(Cause::new(Reason::Starting, "the pod runs; waiting for its agent")),
    }
}

pub(super) fn plan(session: &DebugSession, identity: &Identity, read: &SourceRead, settings: &Settings) -> Result<Plan, Cause> {
    let sessions = &settings.configuration.sessions;
    let taken = source::take(session, read).map_err(|problem| match problem {
        SourceProblem::Missing(message) => Cause::new(Reason::SourceNotFound, message),
        SourceProblem::Forbidden(message) => Cause::new(Reason::SourceForbidden, message),
    })?;
    let Taken { image, environment: taken_environment, working_directory } = taken;
    let image = allowed_image("spec.source", &image, identity, settings)?;
    let tools = session.spec.tools.as_ref().map(|tools| allowed_image("spec.tools.image", &tools.image, identity, settings)).transpose()?;
    let own = session.spec.env.iter().map(|variable| Variable::Literal(variable.name.clone(), variable.value.clone()));
    let environment = environment::filter(taken_environment.into_iter().chain(own), &settings.configuration.secret_patterns);
    let size: usize = environment.kept.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    if size > MOST_ENVIRONMENT {
        let message = format!("spec.env and the source's environment have {size} bytes together; at most {MOST_ENVIRONMENT} are possible");
        return Err(Cause::new(Reason::InvalidSpec, message));
    }
    Ok(Plan {
        image,
        tools,
        isolation: session.spec.isolation.unwrap_or(sessions.default_isolation),
        limits: limits(session, settings)?,
        environment,
        working_directory: session.spec.working_dir.clone().or(working_directory),
    })
}

fn allowed_image(field: &str, image: &str, identity: &Identity, settings: &Settings) -> Result<String, Cause> {
    let reference = Reference::parse(image).map_err(|error| Cause::new(Reason::InvalidSpec, format!("{field}: {error}")))?;
    let namespace = &identity.name.namespace;
    if !reference.is_allowed(namespace, &settings.configuration.allowed_images) {
        return Err(Cause::new(
            Reason::ImageNotAllowed,
            format!(
                "{field}: {reference} is outside allowedImages of the configuration for the namespace {namespace}: ask the operator to allow it"
            ),
        ));
    }
    Ok(image.to_owned())
}

fn limits(session: &DebugSession, settings: &Settings) -> Result<BTreeMap<LimitName, Quantity>, Cause> {
    let sessions = &settings.configuration.sessions;
    let mut limits = sessions.limits.clone();
    for (name, asked) in session.spec.resources.iter().flat_map(|resources| resources.limits.given()) {
        let refuse = |problem: String| Cause::new(Reason::InvalidSpec, format!("spec.resources.limits.{}: {problem}", name.as_str()));
        let value = quantity::thousandths(asked).filter(|value| *value > 0);
        let value = value.ok_or_else(|| refuse(format!("{} is not a quantity above zero", asked.0)))?;
        if let Some(most) = sessions.maximum_limits.get(&name)
            && quantity::thousandths(most).is_some_and(|most| value > most)
        {
            return Err(refuse(format!("{} is above the installation's maximum, {}", asked.0, most.0)));
        }
        limits.insert(name, asked.clone());
    }
    Ok(limits)
}
