//! Step three, pure: from the decision to the objects to write: the pod, the identity it shows to Vault, and the holes in its
//! network policy. The pod is made from an allow-list of fields. (Promises: architecture, section 3.)

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, LocalObjectReference, Pod, PodDNSConfig, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile,
    ServiceAccount, Toleration,
};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::observe::Observed;
use super::validate::{Decision, Plan};
use crate::api::session::Session as _;
use crate::api::{BreakglassVM, names};
use crate::domain::configuration::Configuration;
use crate::domain::quantity::smaller;
use crate::lifecycle::pod::{self, container_security, empty, mount, non_empty};
use crate::lifecycle::{Cause, Ending, Identity, PodState, Settings};
use crate::link::settings::{
    RECOVERY_VARIABLE, RUN_FOLDER, RecoverySettings, TOKEN_FOLDER, TOKEN_PATH, VAULT_TOKEN_FOLDER, VAULT_TOKEN_PATH,
};

const RUN_VOLUME: &str = "run";
const TOKEN_VOLUME: &str = "link-token";
const VAULT_TOKEN_VOLUME: &str = "vault-token";

/// What one pass wants, on its way through the steps: [`Prepared`], then [`super::apply::Applied`]. Only the latter is reported.
pub(super) struct Desired<State> {
    pub session: Arc<BreakglassVM>,
    pub identity: Identity,
    pub state: State,
}

/// Made, not yet written.
pub(super) struct Prepared(pub Step);

/// What to write.
pub(super) enum Step {
    /// End: delete this pod, if one is left and the end has been announced, and then what guarded it.
    End(Ending, Option<Box<Pod>>),
    /// Nothing.
    Hold(Cause),
    /// Create these.
    Create(Box<Recovery>),
    /// Nothing: the pod is there.
    Keep(Box<Pod>, PodState),
}

/// Everything of a recovery.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recovery {
    pub account: ServiceAccount,
    pub policy: NetworkPolicy,
    pub pod: Pod,
}

/// Builds.
pub(super) fn build(observed: &Observed, decision: Decision, settings: &Settings, now: DateTime<Utc>) -> Desired<Prepared> {
    let session = &observed.session;
    let identity = &observed.identity;
    let step = match decision {
        Decision::End(ending, pod) => Step::End(ending, pod),
        Decision::Hold(cause) => Step::Hold(cause),
        Decision::Keep(pod, state) => Step::Keep(pod, state),
        Decision::Create(plan) => Step::Create(Box::new(recovery(session, identity, &plan, settings, now))),
    };
    Desired { session: Arc::clone(session), identity: identity.clone(), state: Prepared(step) }
}

/// Name of the `ServiceAccount` that Vault binds: `<namespace of the object>.<role>`. A namespace has no dot in its name, so
/// nobody in another namespace can come by the same.
pub(super) fn account_name(namespace: &str, role: &str) -> String {
    format!("{namespace}.{role}")
}

/// Everything of a recovery.
pub(super) fn recovery(session: &BreakglassVM, identity: &Identity, plan: &Plan, settings: &Settings, now: DateTime<Utc>) -> Recovery {
    Recovery {
        account: account(session, identity, &settings.configuration),
        policy: policy(identity, plan, &settings.configuration),
        pod: recovery_pod(session, identity, plan, settings, now),
    }
}

fn account(session: &BreakglassVM, identity: &Identity, configuration: &Configuration) -> ServiceAccount {
    let metadata = pod::metadata(identity, BreakglassVM::KIND, &configuration.vm_namespace);
    // Objects of one namespace and role share it, so it names no owner.
    let keep = |map: Option<BTreeMap<String, String>>, keys: &[&str]| {
        map.map(|map| map.into_iter().filter(|(key, _)| keys.contains(&key.as_str())).collect::<BTreeMap<_, _>>())
    };
    ServiceAccount {
        automount_service_account_token: Some(false),
        metadata: ObjectMeta {
            name: Some(account_name(&identity.name.namespace, &session.spec.vault.role)),
            namespace: metadata.namespace,
            labels: keep(metadata.labels, &[names::MANAGED_BY, names::OWNER_KIND]),
            annotations: keep(metadata.annotations, &[names::OWNER_NAMESPACE]),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    }
}

fn policy(identity: &Identity, plan: &Plan, configuration: &Configuration) -> NetworkPolicy {
    let selected = BTreeMap::from([(names::OWNER_UID.to_owned(), identity.uid.clone())]);
    let hypervisor = plan.hypervisor.as_ref().map(|hypervisor| hypervisor.endpoint.address);
    let addresses = [Some(plan.vault_address), Some(plan.target.address), hypervisor];
    NetworkPolicy {
        metadata: pod::metadata(identity, BreakglassVM::KIND, &configuration.vm_namespace),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(selected), match_expressions: None }),
            policy_types: Some(vec!["Egress".into()]),
            egress: Some(addresses.into_iter().flatten().map(hole).collect()),
            ingress: None,
        }),
    }
}

/// One address, one port.
fn hole(address: SocketAddr) -> NetworkPolicyEgressRule {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let block = IPBlock { cidr: format!("{}/{bits}", address.ip()), except: None };
    let port = NetworkPolicyPort { protocol: Some("TCP".into()), port: Some(IntOrString::Int(address.port().into())), end_port: None };
    NetworkPolicyEgressRule {
        to: Some(vec![NetworkPolicyPeer { ip_block: Some(block), ..NetworkPolicyPeer::default() }]),
        ports: Some(vec![port]),
    }
}

fn recovery_pod(session: &BreakglassVM, identity: &Identity, plan: &Plan, settings: &Settings, now: DateTime<Utc>) -> Pod {
    let configuration = &settings.configuration;
    let recoveries = &configuration.recoveries;
    let remaining = pod::remaining(identity, now);
    let own = session.spec.placement.iter().flat_map(|placement| &placement.avoid_node_labels);
    let avoid: Vec<String> = recoveries.avoid_node_labels.iter().chain(own).cloned().collect();
    let pull_secrets = recoveries.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
    Pod {
        metadata: pod::metadata(identity, BreakglassVM::KIND, &configuration.vm_namespace),
        spec: Some(PodSpec {
            active_deadline_seconds: Some(pod::active_deadline(remaining, configuration.ttl_cap())),
            affinity: pod::affinity(&avoid),
            automount_service_account_token: Some(false),
            containers: vec![container(identity, plan, settings, remaining)],
            // No name is looked up: the pod asks itself, and gets no answer at once.
            dns_policy: Some("None".into()),
            dns_config: Some(PodDNSConfig { nameservers: Some(vec!["127.0.0.1".into()]), ..PodDNSConfig::default() }),
            enable_service_links: Some(false),
            hostname: Some(pod::hostname(&identity.name.name)),
            image_pull_secrets: non_empty(pull_secrets),
            priority_class_name: Some(recoveries.priority_class.clone()),
            restart_policy: Some("Never".into()),
            security_context: Some(PodSecurityContext {
                run_as_user: Some(recoveries.user),
                run_as_group: Some(recoveries.user),
                run_as_non_root: Some(true),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            service_account_name: Some(account_name(&identity.name.namespace, &session.spec.vault.role)),
            termination_grace_period_seconds: Some(pod::TERMINATION_GRACE),
            // Whatever is wrong with the nodes, this is for repairing it.
            tolerations: Some(vec![Toleration { operator: Some("Exists".into()), ..Toleration::default() }]),
            volumes: Some(vec![
                empty(RUN_VOLUME, "16Mi"),
                pod::token(TOKEN_VOLUME, names::LINK_AUDIENCE),
                pod::token(VAULT_TOKEN_VOLUME, &session.spec.vault.audience),
            ]),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn container(identity: &Identity, plan: &Plan, settings: &Settings, remaining: i64) -> Container {
    let limits = &settings.configuration.recoveries.limits;
    let map = |amount: &dyn Fn(&Quantity) -> Quantity| -> BTreeMap<String, Quantity> {
        limits.iter().map(|(name, limit)| (name.as_str().to_owned(), amount(limit))).collect()
    };
    // Little is reserved: a full node must not keep a recovery out.
    let little = |limit: &Quantity| smaller(limit, &Quantity("50m".into()));
    let requests = limits.iter().map(|(name, limit)| {
        let reserved = match name {
            crate::api::debug_session::LimitName::Cpu => little(limit),
            _ => smaller(limit, &Quantity("64Mi".into())),
        };
        (name.as_str().to_owned(), reserved)
    });
    Container {
        name: names::RECOVERY_CONTAINER.into(),
        image: Some(settings.configuration.sessions.agent_image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        // Its last words become the message of the condition.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        command: Some(vec!["/bin/sandglass".into(), "recovery".into()]),
        env: Some(vec![EnvVar {
            name: RECOVERY_VARIABLE.into(),
            value: Some(pod::json_without_dollars(&recovery_settings(identity, plan, settings, remaining))),
            value_from: None,
        }]),
        resources: Some(ResourceRequirements { claims: None, limits: Some(map(&Quantity::clone)), requests: Some(requests.collect()) }),
        security_context: Some(container_security(None, Some(true))),
        volume_mounts: Some(vec![
            mount(RUN_VOLUME, RUN_FOLDER, false),
            mount(TOKEN_VOLUME, TOKEN_FOLDER, true),
            mount(VAULT_TOKEN_VOLUME, VAULT_TOKEN_FOLDER, true),
        ]),
        ..Container::default()
    }
}

fn recovery_settings(identity: &Identity, plan: &Plan, settings: &Settings, remaining: i64) -> RecoverySettings {
    RecoverySettings {
        links: settings.links.clone(),
        certificate_authority: settings.link_certificate_authority.clone(),
        must_be_closed: settings.must_be_closed.clone(),
        expires_at: identity.expires_at,
        remaining_seconds: u32::try_from(remaining).unwrap_or(u32::MAX),
        target: plan.target.clone(),
        hypervisor: plan.hypervisor.clone(),
        vault: plan.vault.clone(),
        token_path: TOKEN_PATH.into(),
        vault_token_path: VAULT_TOKEN_PATH.into(),
        run_folder: RUN_FOLDER.into(),
    }
}
