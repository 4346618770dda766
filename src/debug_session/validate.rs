//! Step two, pure: from what was observed to a decision. Nearly every rule of a session's life is here.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::time::Duration;

use super::observe::Observed;
use super::source::{self, SourceProblem, SourceRead, Taken};
use super::turn::Turn;
use crate::api::DebugSession;
use crate::api::conditions::Reason;
use crate::api::debug_session::{Isolation, LimitName};
use crate::api::session::{Retention, Session as _};
use crate::domain::configuration::AgentDelivery;
use crate::domain::environment::{self, Filtered, Variable};
use crate::domain::images::Reference;
use crate::domain::{lifetime, quantity};
use crate::kubernetes::time::to_chrono;
use crate::lifecycle::end::{self, ending, is_own, lost};
use crate::lifecycle::look::look;
use crate::lifecycle::pod_state::About;
use crate::lifecycle::{Cause, Ending, Identity, PodState, Settings};

/// The kernel takes at most 128 KiB per variable, and the environment shares one with the agent's other settings.
const MOST_ENVIRONMENT: usize = 80 * 1024;
const DEFAULT_DELETE_AFTER: Duration = Duration::from_hours(24);

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
    end::is_tombstone(session, identity, now) && !is_due_for_removal(session, now)
}

fn is_due_for_removal(session: &DebugSession, now: DateTime<Utc>) -> bool {
    let ended_at = session.state().and_then(|state| state.ended_at.as_ref());
    let after = session.spec.delete_after.as_deref().and_then(lifetime::parse_duration).unwrap_or(DEFAULT_DELETE_AFTER);
    let after = TimeDelta::from_std(after).unwrap_or(TimeDelta::days(1));
    session.spec.retention == Retention::Delete && ended_at.is_some_and(|ended| to_chrono(ended) + after <= now)
}

/// What the words about a session's pod are about.
fn about(settings: &Settings) -> About {
    About {
        kind: DebugSession::KIND,
        memory: "raise spec.resources.limits.memory in a new DebugSession",
        storage: "raise spec.resources.limits.ephemeral-storage",
        by_volume: settings.configuration.sessions.agent == AgentDelivery::ImageVolume,
    }
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
    if let Some(cause) = lost(session, pod) {
        return end(cause);
    }
    if let Err(problem) = &observed.isolation {
        let cause = Cause::new(Reason::NamespaceNotIsolated, problem);
        return if pod.is_some() { end(cause) } else { Decision::Hold(cause) };
    }
    if let Some(pod) = pod {
        return match look(session, about(settings), pod, &observed.events, settings, now) {
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
