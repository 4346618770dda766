//! Step three, pure: from the decision to the object to write. The pod is made from an allow-list of fields: what is not
//! named here is not in it. (Promises: architecture, section 3.)

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, ImageVolumeSource, LocalObjectReference, Pod, PodDNSConfig, PodSecurityContext, PodSpec, ResourceRequirements,
    SeccompProfile, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::observe::Observed;
use super::turn;
use super::validate::{Decision, Plan};
use crate::api::DebugSession;
use crate::api::debug_session::{Isolation, LimitName, Network};
use crate::api::names;
use crate::api::session::Session as _;
use crate::domain::configuration::AgentDelivery;
use crate::domain::quantity::smaller;
use crate::lifecycle::pod::{self, container_security, empty, mount, non_empty};
use crate::lifecycle::{Cause, Ending, Identity, PodState, Settings};
use crate::link::settings::{AGENT_PATH, AgentSettings, IMAGE_FOLDER, RUN_FOLDER, TOKEN_FOLDER, TOKEN_PATH, TOOLS_FOLDER, VARIABLE};

const AGENT_VOLUME: &str = "agent";
const RUN_VOLUME: &str = "run";
const TOKEN_VOLUME: &str = "link-token";
const TOOLS_VOLUME: &str = "tools";

/// What one pass wants, on its way through the steps: [`Prepared`], then [`super::apply::Applied`]. Only the latter is reported.
pub(super) struct Desired<State> {
    pub session: Arc<DebugSession>,
    pub identity: Identity,
    pub state: State,
}

/// Made, not yet written.
pub(super) struct Prepared(pub Step);

/// What to write.
pub(super) enum Step {
    /// Delete the object: its time as a tombstone is over.
    Remove,
    /// End: delete this pod, if one is left and the end has been announced.
    End(Ending, Option<Box<Pod>>),
    /// Nothing.
    Hold(Cause),
    /// Create this pod, which counts for this project.
    Create { pod: Box<Pod>, project: String },
    /// Nothing: the pod is there.
    Keep(Box<Pod>, PodState),
}

/// Builds.
pub(super) fn build(observed: &Observed, decision: Decision, settings: &Settings, now: DateTime<Utc>) -> Desired<Prepared> {
    let session = &observed.session;
    let identity = &observed.identity;
    let step = match decision {
        Decision::Remove => Step::Remove,
        Decision::End(ending, pod) => Step::End(ending, pod),
        Decision::Hold(cause) => Step::Hold(cause),
        Decision::Keep(pod, state) => Step::Keep(pod, state),
        Decision::Create(plan) => Step::Create {
            pod: Box::new(session_pod(session, identity, &plan, settings, now)),
            project: turn::project(&identity.name.namespace, session),
        },
    };
    Desired { session: Arc::clone(session), identity: identity.clone(), state: Prepared(step) }
}

/// The pod of a session.
pub(super) fn session_pod(session: &DebugSession, identity: &Identity, plan: &Plan, settings: &Settings, now: DateTime<Utc>) -> Pod {
    let configuration = &settings.configuration;
    let sessions = &configuration.sessions;
    let remaining = pod::remaining(identity, now);
    Pod {
        metadata: metadata(session, identity, settings),
        spec: Some(PodSpec {
            active_deadline_seconds: Some(pod::active_deadline(remaining, configuration.ttl_cap())),
            affinity: pod::affinity(&sessions.avoid_node_labels),
            automount_service_account_token: Some(false),
            containers: vec![session_container(session, identity, plan, settings, remaining)],
            dns_policy: Some("None".into()),
            dns_config: Some(names_of(session.spec.network, settings)),
            enable_service_links: Some(false),
            host_users: (plan.isolation == Isolation::UserNamespace).then_some(false),
            hostname: Some(pod::hostname(&identity.name.name)),
            image_pull_secrets: non_empty(
                sessions.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect(),
            ),
            init_containers: non_empty(init_containers(plan, settings)),
            priority_class_name: Some(sessions.priority_class.clone()),
            restart_policy: Some("Never".into()),
            runtime_class_name: sessions.runtime_class.clone(),
            security_context: Some(pod_security(plan.isolation, settings)),
            service_account_name: Some(names::DEBUG_SERVICE_ACCOUNT.into()),
            termination_grace_period_seconds: Some(pod::TERMINATION_GRACE),
            tolerations: (!sessions.tolerations.is_empty()).then(|| sessions.tolerations.clone()),
            volumes: Some(volumes(plan, settings)),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn metadata(session: &DebugSession, identity: &Identity, settings: &Settings) -> ObjectMeta {
    let network = match session.spec.network {
        Network::Isolated => "Isolated",
        Network::Egress => "Egress",
    };
    let mut metadata = pod::metadata(identity, DebugSession::KIND, &settings.configuration.debug_namespace);
    pod::set(&mut metadata.labels, names::NETWORK, network);
    pod::set(&mut metadata.annotations, names::PROJECT, &turn::project(&identity.name.namespace, session));
    metadata
}

/// Who resolves names. Where nobody may be asked, the pod asks itself, so that a look-up fails at once instead of after half a minute.
fn names_of(network: Network, settings: &Settings) -> PodDNSConfig {
    let public = &settings.configuration.sessions.egress_nameservers;
    let servers = match network {
        Network::Egress if !public.is_empty() => public.iter().map(ToString::to_string).collect(),
        Network::Egress | Network::Isolated => vec!["127.0.0.1".into()],
    };
    PodDNSConfig { nameservers: Some(servers), ..PodDNSConfig::default() }
}

fn pod_security(isolation: Isolation, settings: &Settings) -> PodSecurityContext {
    let (user, non_root) = match isolation {
        // Root inside; outside, the user namespace makes it nobody.
        Isolation::UserNamespace => (0, None),
        Isolation::Restricted => (settings.configuration.sessions.restricted_user, Some(true)),
    };
    PodSecurityContext {
        run_as_user: Some(user),
        // An image whose USER is root would otherwise keep group 0.
        run_as_group: Some(user),
        run_as_non_root: non_root,
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn resources(plan: &Plan) -> ResourceRequirements {
    let map = |amount: &dyn Fn(LimitName, &Quantity) -> Quantity| -> BTreeMap<String, Quantity> {
        plan.limits.iter().map(|(name, limit)| (name.as_str().to_owned(), amount(*name, limit))).collect()
    };
    // Little is reserved: a shell is idle most of the time, and a full cluster must not keep people out.
    let reserved = |name, limit: &Quantity| {
        let little = match name {
            LimitName::Cpu => "100m",
            LimitName::Memory => "128Mi",
            LimitName::EphemeralStorage => "256Mi",
        };
        smaller(limit, &Quantity(little.into()))
    };
    ResourceRequirements { claims: None, limits: Some(map(&|_, limit| limit.clone())), requests: Some(map(&reserved)) }
}

fn session_container(session: &DebugSession, identity: &Identity, plan: &Plan, settings: &Settings, remaining: i64) -> Container {
    let sessions = &settings.configuration.sessions;
    let in_user_namespace = plan.isolation == Isolation::UserNamespace;
    let capabilities = (in_user_namespace && !sessions.extra_capabilities.is_empty()).then(|| sessions.extra_capabilities.clone());
    let mut mounts =
        vec![mount(AGENT_VOLUME, IMAGE_FOLDER, true), mount(RUN_VOLUME, RUN_FOLDER, false), mount(TOKEN_VOLUME, TOKEN_FOLDER, true)];
    if plan.tools.is_some() {
        mounts.push(mount(TOOLS_VOLUME, TOOLS_FOLDER, true));
    }
    Container {
        name: names::SESSION_CONTAINER.into(),
        image: Some(plan.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        // The agent's last words become the message of the condition.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        command: Some(vec![AGENT_PATH.into(), "serve".into()]),
        env: Some(vec![EnvVar {
            name: VARIABLE.into(),
            value: Some(agent_settings(session, identity, plan, settings, remaining)),
            value_from: None,
        }]),
        resources: Some(resources(plan)),
        security_context: Some(container_security(capabilities, None)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// The agent's settings.
fn agent_settings(session: &DebugSession, identity: &Identity, plan: &Plan, settings: &Settings, remaining: i64) -> String {
    let agent = AgentSettings {
        links: settings.links.clone(),
        certificate_authority: settings.link_certificate_authority.clone(),
        must_be_closed: settings.must_be_closed.clone(),
        expires_at: identity.expires_at,
        remaining_seconds: u32::try_from(remaining).unwrap_or(u32::MAX),
        environment: plan.environment.kept.clone(),
        working_directory: plan.working_directory.clone(),
        stripped_environment: plan.environment.stripped.clone(),
        known_hosts: settings.configuration.known_hosts.clone(),
        tools: session.spec.tools.is_some(),
        token_path: TOKEN_PATH.into(),
        run_folder: RUN_FOLDER.into(),
    };
    pod::json_without_dollars(&agent)
}

/// What the pod's agent was told; the names of dropped variables are read back from here.
pub(super) fn settings_of(pod: &Pod) -> Option<AgentSettings> {
    let container = pod.spec.as_ref()?.containers.iter().find(|container| container.name == names::SESSION_CONTAINER)?;
    let variable = container.env.iter().flatten().find(|variable| variable.name == VARIABLE)?;
    serde_json::from_str(variable.value.as_ref()?).ok()
}

fn init_containers(plan: &Plan, settings: &Settings) -> Vec<Container> {
    let sessions = &settings.configuration.sessions;
    let container = |name: &str, image: &str, command: &[&str], mounts| Container {
        name: name.into(),
        image: Some(image.into()),
        image_pull_policy: Some("IfNotPresent".into()),
        // The agent's last words become the message of the condition.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        command: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        resources: Some(resources(plan)),
        security_context: Some(container_security(None, Some(true))),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    let mut containers = Vec::new();
    if sessions.agent == AgentDelivery::InitContainer {
        let command = ["/bin/sandglass-agent", "install", "/.sandglass/bin"];
        containers.push(container(names::AGENT_CONTAINER, &sessions.agent_image, &command, vec![mount(AGENT_VOLUME, IMAGE_FOLDER, false)]));
    }
    if let Some(tools) = &plan.tools {
        let mounts = vec![mount(AGENT_VOLUME, IMAGE_FOLDER, true), mount(TOOLS_VOLUME, TOOLS_FOLDER, false)];
        containers.push(container(names::TOOLS_CONTAINER, tools, &[AGENT_PATH, "copy", "/tools", TOOLS_FOLDER], mounts));
    }
    containers
}

fn volumes(plan: &Plan, settings: &Settings) -> Vec<Volume> {
    let sessions = &settings.configuration.sessions;
    let agent = match sessions.agent {
        AgentDelivery::ImageVolume => Volume {
            name: AGENT_VOLUME.into(),
            image: Some(ImageVolumeSource { reference: Some(sessions.agent_image.clone()), pull_policy: Some("IfNotPresent".into()) }),
            ..Volume::default()
        },
        AgentDelivery::InitContainer => empty(AGENT_VOLUME, "32Mi"),
    };
    let token = pod::token(TOKEN_VOLUME, names::LINK_AUDIENCE);
    let mut volumes = vec![agent, empty(RUN_VOLUME, "256Mi"), token];
    if plan.tools.is_some() {
        volumes.push(empty(TOOLS_VOLUME, "1Gi"));
    }
    volumes
}
