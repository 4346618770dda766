//! Reads a pod's status: from the kubelet's and the scheduler's words to a reason of ours, with the cure in the message. Pure.
//! The texts are those of Kubernetes 1.36 with containerd; what is not recognised is passed on.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod, PodStatus};

use super::context::Settings;
use super::end::Cause;
use super::observe::PodEvent;
use crate::api::conditions::Reason;
use crate::api::names::{AGENT_CONTAINER, TOOLS_CONTAINER};
use crate::kubernetes::time::to_chrono;
use crate::link::settings::AGENT_PATH;

/// How long a pod's status may say nothing before its events are read.
const SILENCE: TimeDelta = TimeDelta::seconds(3);
/// How long a pull that may yet succeed is waited for.
const PULL_PATIENCE: TimeDelta = TimeDelta::seconds(30);

/// How long a container that could not be created for an unknown reason is waited for.
const CREATE_PATIENCE: TimeDelta = TimeDelta::seconds(20);

/// What the words about a pod are about.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The kind that owns it.
    pub kind: &'static str,
    /// The cure where it needs more memory.
    pub memory: &'static str,
    /// The cure where it needs more disk.
    pub storage: &'static str,
    /// Whether its agent comes by an image volume.
    pub by_volume: bool,
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// On its way, or held up.
    Starting(Cause),
    /// The session's container runs.
    Running {
        /// Since when.
        since: DateTime<Utc>,
    },
    /// It runs, and its agent serves.
    Open,
    /// It has ended, or never will run.
    Over(Cause),
}

fn starting(reason: Reason, message: impl Into<String>) -> PodState {
    PodState::Starting(Cause::new(reason, message))
}

fn over(reason: Reason, message: impl Into<String>) -> PodState {
    PodState::Over(Cause::new(reason, message))
}

/// Whether the pod is scheduled, not running, and old enough that its events may know more.
#[must_use]
pub fn is_silent(pod: &Pod, now: DateTime<Utc>) -> bool {
    let status = pod.status.as_ref();
    let pending = status.and_then(|status| status.phase.as_deref()).is_none_or(|phase| phase == "Pending");
    let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    pending && scheduled && age(pod, now) >= SILENCE
}

/// Since the node took the pod, or, before it said so, since the pod was created.
fn age(pod: &Pod, now: DateTime<Utc>) -> TimeDelta {
    let taken = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    taken.or(pod.metadata.creation_timestamp.as_ref()).map_or(TimeDelta::zero(), |since| now - to_chrono(since))
}

/// Reads it.
#[must_use]
pub fn read(pod: &Pod, about: About, events: &[PodEvent], settings: &Settings, now: DateTime<Utc>) -> PodState {
    let Some(status) = &pod.status else { return starting(Reason::Scheduling, "waiting for a node") };
    if let Some(state) = disruption(status, about) {
        return state;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return over(
            Reason::PodGone,
            format!("somebody deletes the session's pod; a session never gets another: create a new {}", about.kind),
        );
    }
    match status.phase.as_deref() {
        Some("Failed" | "Succeeded") => return ended(status, about),
        Some("Running") => {
            if let Some(since) = main_status(status).and_then(running_since) {
                return PodState::Running { since };
            }
        }
        _ => {}
    }
    if let Some(unscheduled) = unscheduled(status) {
        return unscheduled;
    }
    statuses(status)
        .find_map(|container| waiting(container, about, settings, age(pod, now)).or_else(|| init_failed(container, about)))
        .or_else(|| from_events(events, about))
        .unwrap_or_else(|| starting(Reason::Starting, "the pod is being started"))
}

fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

/// The one container beside those that prepare.
fn main_status(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.as_ref()?.first()
}

fn running_since(container: &ContainerStatus) -> Option<DateTime<Utc>> {
    container.state.as_ref()?.running.as_ref()?.started_at.as_ref().map(to_chrono)
}

/// The condition that the control plane sets before it takes a pod away.
fn disruption(status: &PodStatus, about: About) -> Option<PodState> {
    let condition = status.conditions.iter().flatten().find(|one| one.type_ == "DisruptionTarget" && one.status == "True")?;
    let message = condition.message.as_deref().unwrap_or_default();
    Some(match condition.reason.as_deref() {
        Some("PreemptionByScheduler" | "PreemptionByKubeScheduler") => over(
            Reason::Preempted,
            format!("a pod of higher priority took the session's place ({message}): create a new {} when the cluster has room", about.kind),
        ),
        _ => evicted(message, about),
    })
}

fn evicted(message: &str, about: About) -> PodState {
    let cure = if message.contains("ephemeral") || message.contains("EmptyDir") {
        about.storage.to_owned()
    } else {
        format!("create a new {}", about.kind)
    };
    over(Reason::Evicted, format!("the node evicted the session's pod ({message}): {cure}"))
}

fn unscheduled(status: &PodStatus) -> Option<PodState> {
    let condition = status.conditions.iter().flatten().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
    let message = condition.message.as_deref().unwrap_or("no node has room yet");
    Some(starting(Reason::Scheduling, format!("waiting for a node: {message}")))
}

/// A pod in phase Failed or Succeeded.
fn ended(status: &PodStatus, about: About) -> PodState {
    let message = status.message.as_deref().unwrap_or_default();
    match status.reason.as_deref() {
        Some("Evicted" | "NodeShutdown" | "Terminated" | "NodeLost") => return evicted(message, about),
        Some("DeadlineExceeded") => return over(Reason::DeadlineExceeded, "the kubelet ended the pod at its deadline"),
        Some("Preempting") => return over(Reason::Preempted, format!("the node needed the room for a critical pod ({message})")),
        Some(reason) if statuses(status).all(|container| terminated(container).is_none()) => {
            return over(Reason::PodFailed, format!("the node refused the pod: {reason}: {message}"));
        }
        _ => {}
    }
    if let Some(state) = statuses(status).find_map(|container| init_failed(container, about)) {
        return state;
    }
    match main_status(status).and_then(terminated) {
        Some(end) if end.reason.as_deref() == Some("OOMKilled") => out_of_memory(about),
        Some(end) if is_start_error(end) => refused(end.message.as_deref().unwrap_or_default(), about),
        Some(end) => {
            let words = end.message.as_deref().map(str::trim).filter(|words| !words.is_empty());
            over(
                Reason::PodFailed,
                format!("the session's pod ended by itself with exit code {}{}; create a new {}", end.exit_code, suffix(words), about.kind),
            )
        }
        None => {
            over(Reason::PodFailed, format!("the session's pod ended by itself{}", suffix(Some(message).filter(|words| !words.is_empty()))))
        }
    }
}

fn suffix(words: Option<&str>) -> String {
    words.map(|words| format!(": {words}")).unwrap_or_default()
}

fn terminated(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

fn is_start_error(end: &ContainerStateTerminated) -> bool {
    matches!(end.reason.as_deref(), Some("StartError" | "ContainerCannotRun" | "RunContainerError"))
}

fn out_of_memory(about: About) -> PodState {
    over(Reason::OutOfMemory, format!("the session went over its memory limit: {}", about.memory))
}

/// An init container of ours that failed.
fn init_failed(container: &ContainerStatus, about: About) -> Option<PodState> {
    let end =
        terminated(container).filter(|end| end.exit_code != 0 && [AGENT_CONTAINER, TOOLS_CONTAINER].contains(&container.name.as_str()))?;
    if end.reason.as_deref() == Some("OOMKilled") {
        return Some(out_of_memory(about));
    }
    let message = end.message.as_deref().map(str::trim).unwrap_or_default();
    if is_start_error(end) {
        return Some(refused(message, about));
    }
    let what = if container.name == TOOLS_CONTAINER {
        "copying /tools of spec.tools.image failed: does the image have that folder, and does it fit"
    } else {
        "copying the agent failed: check sessions.agentImage of the configuration"
    };
    Some(over(
        Reason::ContainerRefused,
        format!("{what} (exit code {}{})", end.exit_code, suffix(Some(message).filter(|words| !words.is_empty()))),
    ))
}

/// A container that waits: what it waits for.
fn waiting(container: &ContainerStatus, about: About, settings: &Settings, age: TimeDelta) -> Option<PodState> {
    let ContainerStateWaiting { reason, message } = container.state.as_ref()?.waiting.as_ref()?;
    let message = message.as_deref().unwrap_or_default();
    match reason.as_deref()? {
        "InvalidImageName"
        | "ErrImageNeverPull"
        | "ErrImagePull"
        | "ImagePullBackOff"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => Some(pull(container, reason.as_deref()?, message, settings, age)),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "StartError" => {
            Some(match refused(message, about) {
                // Some of these pass by themselves: the node is busy, or a name is still taken.
                PodState::Over(cause) if cause.reason == Reason::ContainerRefused && age < CREATE_PATIENCE => {
                    starting(Reason::Starting, cause.message)
                }
                state => state,
            })
        }
        _ => None,
    }
}

/// A pull that failed: for good, or perhaps not.
fn pull(container: &ContainerStatus, reason: &str, message: &str, settings: &Settings, age: TimeDelta) -> PodState {
    let lower = message.to_lowercase();
    let final_words = [
        "not found",
        "manifest unknown",
        "unauthorized",
        "denied",
        "forbidden",
        "no such host",
        "invalid reference",
        "no basic auth",
        "unsupported",
        "no match for platform",
        "never pull",
        "toomanyrequests",
        "signature",
    ];
    let is_final = matches!(reason, "InvalidImageName" | "ErrImageNeverPull" | "SignatureValidationFailed")
        || final_words.iter().any(|word| lower.contains(word));
    let agent_image = &settings.configuration.sessions.agent_image;
    // An image volume that cannot be pulled is reported as the container's own image: only the name in the message tells.
    let (what, cure) = match container.name.as_str() {
        AGENT_CONTAINER => ("the agent image", "check sessions.agentImage and sessions.imagePullSecrets of the configuration"),
        TOOLS_CONTAINER => ("the tools image", "check spec.tools.image and sessions.imagePullSecrets of the configuration"),
        _ if message.contains(agent_image.as_str()) && container.image != *agent_image => {
            ("the agent image", "check sessions.agentImage and sessions.imagePullSecrets of the configuration")
        }
        _ => ("the session's image", "check that it exists, and sessions.imagePullSecrets of the configuration"),
    };
    if is_final || age >= PULL_PATIENCE {
        over(Reason::ImageRefused, format!("{what} cannot be had: {cure} ({reason}: {message})"))
    } else {
        starting(Reason::Pulling, format!("{what} could not be pulled yet; trying again ({reason}: {message})"))
    }
}

fn user_namespaces_unsupported(message: &str) -> PodState {
    over(
        Reason::UserNamespacesUnsupported,
        format!(
            "this cluster's runtime cannot do user namespaces: set sessions.defaultIsolation, or spec.isolation, to Restricted ({message})"
        ),
    )
}

fn is_about_user_namespaces(message: &str) -> bool {
    let lower = message.to_lowercase();
    ["user namespace", "hostusers", "idmap", "id-mapped", "userns"].iter().any(|word| lower.contains(word))
}

/// The container could not be created or started.
fn refused(message: &str, about: About) -> PodState {
    if is_about_user_namespaces(message) {
        return user_namespaces_unsupported(message);
    }
    let lower = message.to_lowercase();
    let about_volume = lower.contains("failed to mkdir \"\"")
        || lower.contains("image volume")
        || lower.contains("image mount")
        || message.contains(AGENT_PATH);
    if about.by_volume && about_volume {
        return over(
            Reason::ImageVolumeUnsupported,
            format!(
                "this cluster's runtime cannot run the agent from an image volume: set sessions.agent of the configuration to InitContainer ({message})"
            ),
        );
    }
    over(Reason::ContainerRefused, format!("the container could not be started: {message}"))
}

/// What only events say: a sandbox that cannot be made, and that a pull is going on. The latest word counts.
fn from_events(events: &[PodEvent], about: About) -> Option<PodState> {
    let latest = events.iter().rev().find(|event| event.reason != "Scheduled")?;
    let message = latest.message.as_str();
    match latest.reason.as_str() {
        "FailedCreatePodSandBox" if is_about_user_namespaces(message) => Some(user_namespaces_unsupported(message)),
        "FailedCreatePodSandBox" | "FailedMount" => {
            Some(starting(Reason::Starting, format!("the node cannot start the pod yet: {message}")))
        }
        "Failed" if message.contains("CreateContainer") || message.contains("failed to generate spec") => Some(refused(message, about)),
        "Pulling" => Some(starting(Reason::Pulling, format!("the node pulls: {message}"))),
        _ => None,
    }
}
