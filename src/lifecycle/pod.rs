//! Parts of a pod that are the same for both kinds. Pods are made from an allow-list of fields: what is not named is not in
//! them. (Promises: architecture, section 3.)

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, EmptyDirVolumeSource, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    ProjectedVolumeSource, SecurityContext, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::time::Duration;

use super::identity::Identity;
use crate::api::names;
use crate::kubernetes::time::from_chrono;

/// Seconds between the session's end and the kubelet's own deadline.
const KUBELET_GRACE: i64 = 60;
/// Seconds that a projected token is valid: the least that Kubernetes gives.
const TOKEN_SECONDS: i64 = 600;
/// Seconds between SIGTERM and SIGKILL.
pub const TERMINATION_GRACE: i64 = 2;

/// Seconds until the session ends, at least one.
#[must_use]
pub fn remaining(identity: &Identity, now: DateTime<Utc>) -> i64 {
    (identity.expires_at - now).num_seconds().max(1)
}

/// `activeDeadlineSeconds`.
#[must_use]
pub fn active_deadline(remaining: i64, cap: Duration) -> i64 {
    let cap = i64::try_from(cap.as_secs()).unwrap_or(i64::MAX - KUBELET_GRACE);
    remaining.min(cap) + KUBELET_GRACE
}

/// Labels and annotations by which everything of a session is found again.
#[must_use]
pub fn metadata(identity: &Identity, kind: &str, namespace: &str) -> ObjectMeta {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ObjectMeta {
        name: Some(identity.pod_name()),
        namespace: Some(namespace.to_owned()),
        labels: Some(map(&[(names::MANAGED_BY, names::MANAGED_BY_VALUE), (names::OWNER_KIND, kind), (names::OWNER_UID, &identity.uid)])),
        annotations: Some(map(&[
            (names::OWNER_NAMESPACE, &identity.name.namespace),
            (names::OWNER_NAME, &identity.name.name),
            (names::EXPIRES_AT, &from_chrono(identity.expires_at).0.to_string()),
        ])),
        ..ObjectMeta::default()
    }
}

/// Sets one more label or annotation.
pub fn set(map: &mut Option<BTreeMap<String, String>>, key: &str, value: &str) {
    map.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

/// A list, or nothing.
#[must_use]
pub fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A name that is a valid host name.
#[must_use]
pub fn hostname(name: &str) -> String {
    let label: String = name.chars().map(|character| if character == '.' { '-' } else { character }).take(63).collect();
    label.trim_matches('-').to_owned()
}

/// Keeps away from nodes that carry one of these labels.
#[must_use]
pub fn affinity(avoid: &[String]) -> Option<Affinity> {
    let absent = |key: &String| NodeSelectorRequirement { key: key.clone(), operator: "DoesNotExist".into(), values: None };
    let term = NodeSelectorTerm { match_expressions: Some(avoid.iter().map(absent).collect()), match_fields: None };
    (!avoid.is_empty()).then(|| Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    })
}

/// No privilege, and only these capabilities.
#[must_use]
pub fn container_security(add: Option<Vec<String>>, read_only_root: Option<bool>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".into()]) }),
        privileged: Some(false),
        read_only_root_filesystem: read_only_root,
        ..SecurityContext::default()
    }
}

/// A mount.
#[must_use]
pub fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount { name: volume.into(), mount_path: path.into(), read_only: read_only.then_some(true), ..VolumeMount::default() }
}

/// An empty folder of at most this size.
#[must_use]
pub fn empty(name: &str, size: &str) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource { medium: None, size_limit: Some(Quantity(size.into())) }),
        ..Volume::default()
    }
}

/// A projected token, in the file `token`. The kubelet gives it to the pod's user; with an fsGroup it would be readable by a
/// group too.
#[must_use]
pub fn token(name: &str, audience: &str) -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(audience.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".into(),
    };
    Volume {
        name: name.into(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o400),
            sources: Some(vec![VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() }]),
        }),
        ..Volume::default()
    }
}

/// Settings as JSON for an environment variable. The kubelet would expand `$(NAME)` in a value, so every dollar sign is written as
/// its JSON escape.
#[must_use]
pub fn json_without_dollars(settings: &impl serde::Serialize) -> String {
    serde_json::to_string(settings).unwrap_or_default().replace('$', "\\u0024")
}
