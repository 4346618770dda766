//! Where a session's pod is: its own state, and on top of it what the gateways say of its agent. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Pod;

use super::context::Settings;
use super::end::Cause;
use super::observe::PodEvent;
use super::pod_state::{self, About, PodState};
use crate::api::conditions::Reason;
use crate::api::session::{LinkReport, LinkState, Session};

/// How long a running agent may take to find a gateway before that is called a fault.
const LINK_PATIENCE: TimeDelta = TimeDelta::seconds(60);

/// Looks.
#[must_use]
pub fn look<S: Session>(session: &S, about: About, pod: &Pod, events: &[PodEvent], settings: &Settings, now: DateTime<Utc>) -> PodState {
    let state = pod_state::read(pod, about, events, settings, now);
    let link = session.state().and_then(|state| state.link.as_ref());
    let link = link.filter(|link| Some(&link.pod_uid) == pod.metadata.uid.as_ref());
    // A pod that refused ends by itself: why it did is what it said before.
    if let (PodState::Over(_), Some(link)) = (&state, link)
        && matches!(link.state, LinkState::Refused | LinkState::NotIsolated)
    {
        return linked(link);
    }
    let PodState::Running { since } = state else { return state };
    let Some(link) = link else {
        return if now - since >= LINK_PATIENCE {
            PodState::Starting(Cause::new(
                Reason::LinkFailed,
                "the pod runs, but its agent has not reached a gateway: check that the gateways run and that the network policy opens their link port",
            ))
        } else {
            PodState::Starting(Cause::new(Reason::Starting, "the pod runs; waiting for its agent"))
        };
    };
    linked(link)
}

/// What the pod's agent said last.
fn linked(link: &LinkReport) -> PodState {
    let message = link.message.as_deref().unwrap_or_default();
    let reason = link.reason.as_deref().and_then(Reason::parse);
    match link.state {
        LinkState::Ready => PodState::Open,
        LinkState::NotIsolated => PodState::Over(Cause::new(
            Reason::NetworkNotIsolated,
            format!("the pod could reach what must be closed ({message}): check that the network plugin enforces NetworkPolicy"),
        )),
        LinkState::Waiting => PodState::Starting(Cause::new(reason.unwrap_or(Reason::Starting), message)),
        LinkState::Refused => PodState::Over(Cause::new(reason.unwrap_or(Reason::PodFailed), message)),
    }
}
