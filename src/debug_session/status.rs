//! The status that follows from an outcome: pure.

use k8s_openapi::api::core::v1::Pod;

use super::build::settings_of;
use crate::api::debug_session::{DebugSession, DebugSessionStatus};
use crate::api::names::SESSION_CONTAINER;
use crate::api::session::SessionStatus;
use crate::domain::images::Reference;
use crate::lifecycle::apply::Outcome;

/// What both kinds report, and what only this one does.
pub(super) fn status(session: &DebugSession, shared: SessionStatus, outcome: Option<&Outcome>) -> DebugSessionStatus {
    let pod = match outcome {
        Some(Outcome::Standing(pod, _) | Outcome::Ending { pod: Some(pod), .. }) => Some(pod.as_ref()),
        _ => None,
    };
    let old = session.status.clone().unwrap_or_default();
    DebugSessionStatus {
        session: shared,
        image: pod.and_then(running_image).or(old.image),
        stripped_env: pod.and_then(settings_of).map_or(old.stripped_env, |agent| agent.stripped_environment),
    }
}

/// By digest where the node says so, else as it was asked for.
fn running_image(pod: &Pod) -> Option<String> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let by_digest = statuses
        .filter(|status| status.name == SESSION_CONTAINER)
        .map(|status| status.image_id.rsplit_once("://").map_or(status.image_id.as_str(), |(_, id)| id))
        .find(|image| Reference::parse(image).is_ok_and(|reference| reference.digest.is_some()));
    let asked = || pod.spec.iter().flat_map(|spec| &spec.containers).find(|container| container.name == SESSION_CONTAINER)?.image.clone();
    by_digest.map(str::to_owned).or_else(asked)
}
