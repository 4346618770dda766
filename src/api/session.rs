//! What both kinds have in common: who gets in, for how long, and what is told of it. The doc comments of the fields are the
//! users' documentation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::breakglass_vm::Verb;

/// A CEL transition rule: this field of the spec never changes, not even from unset to set.
macro_rules! immutable {
    ($kind:literal, $field:literal) => {
        kube::core::Rule::new(concat!(
            "has(self.",
            $field,
            ") == has(oldSelf.",
            $field,
            ") && (!has(self.",
            $field,
            ") || self.",
            $field,
            " == oldSelf.",
            $field,
            ")"
        ))
        .message(concat!("spec.", $field, " is immutable: create another ", $kind, " instead"))
    };
}
pub(super) use immutable;

/// What an object asks for, of that which both kinds have.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// `spec.ttl`.
    pub ttl: &'a str,
    /// `spec.notAfter`.
    pub not_after: Option<&'a Time>,
    /// `spec.end`.
    pub end: bool,
    /// `spec.access`.
    pub access: &'a Access,
    /// `spec.requester`.
    pub requester: &'a str,
}

/// Either kind, as controllers and gateways read it.
pub trait Session:
    kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + serde::de::DeserializeOwned
    + Serialize
    + Clone
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// The kind, as `kind:` has it.
    const KIND: &'static str;

    /// What it asks for.
    fn terms(&self) -> Terms<'_>;

    /// What is so.
    fn state(&self) -> Option<&SessionStatus>;
}

/// An object of either kind.
#[derive(Clone, Debug)]
pub enum AnySession {
    /// A session on a failed build.
    Debug(Box<super::DebugSession>),
    /// A recovery of a machine.
    Vm(Box<super::BreakglassVM>),
}

impl From<super::DebugSession> for AnySession {
    fn from(session: super::DebugSession) -> Self {
        Self::Debug(Box::new(session))
    }
}

impl From<super::BreakglassVM> for AnySession {
    fn from(session: super::BreakglassVM) -> Self {
        Self::Vm(Box::new(session))
    }
}

impl AnySession {
    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Debug(session) => &session.metadata,
            Self::Vm(session) => &session.metadata,
        }
    }

    /// What it asks for.
    #[must_use]
    pub fn terms(&self) -> Terms<'_> {
        match self {
            Self::Debug(session) => session.terms(),
            Self::Vm(session) => session.terms(),
        }
    }

    /// What is so.
    #[must_use]
    pub fn state(&self) -> Option<&SessionStatus> {
        match self {
            Self::Debug(session) => session.state(),
            Self::Vm(session) => session.state(),
        }
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Debug(_) => super::DebugSession::KIND,
            Self::Vm(_) => super::BreakglassVM::KIND,
        }
    }

    /// The power verbs that may be run.
    #[must_use]
    pub fn verbs(&self) -> Vec<Verb> {
        match self {
            Self::Debug(_) => Vec::new(),
            Self::Vm(session) => session.spec.hypervisor.as_ref().map(|hypervisor| hypervisor.verbs.clone()).unwrap_or_default(),
        }
    }

    /// What is allowed beyond shell and commands.
    #[must_use]
    pub fn allowed(&self) -> Vec<Capability> {
        let default = match self {
            Self::Debug(_) => vec![Capability::Sftp],
            Self::Vm(_) => Vec::new(),
        };
        self.terms().access.allow.clone().unwrap_or(default)
    }
}

/// Who gets in, and what they may do.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = Rule::new("(has(self.authorizedKeys) && size(self.authorizedKeys) > 0) || (has(self.principals) && size(self.principals) > 0)")
    .message("spec.access needs at least one of authorizedKeys and principals: otherwise nobody could get in"))]
pub struct Access {
    /// Public keys in the format of an OpenSSH `.pub` file, without options: `ssh-ed25519 AAAA… octocat`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(
            length(min = 1, max = 4096),
            regex(
                pattern = r"^(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com|ssh-rsa) [A-Za-z0-9+/]+={0,3}( [^\r\n]*)?$"
            )
        )
    )]
    pub authorized_keys: Vec<String>,
    /// Principals that a user certificate of a configured CA must carry, at least one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub principals: Vec<String>,
    /// What is allowed beyond shell and commands. Default: `[Sftp]` for a `DebugSession`, nothing for a `BreakglassVM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub allow: Option<Vec<Capability>>,
    /// A connection with no byte either way for this long is warned a minute before and then closed; the pod stays, and
    /// logging in again finds it. At least `2m`. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 12), regex(pattern = r"^([0-9]{1,3}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('2m') && duration(self) <= duration('24h')")
        .message("spec.access.idleTimeout must be between 2m and 24h"))]
    pub idle_timeout: Option<String>,
}

/// Channel types beyond shell and exec.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Capability {
    /// File transfer: `sftp`, `scp`.
    Sftp,
    /// `ssh -L`: connections from the pod's point of view.
    LocalForward,
    /// `ssh -A`: the user's own ssh-agent, reachable from inside.
    AgentForward,
}

/// What becomes of the object after the end.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Retention {
    /// The object stays.
    #[default]
    Retain,
    /// The object is deleted after `deleteAfter`.
    Delete,
}

/// Where the object is in its life.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No pod yet.
    Waiting,
    /// The pod is being brought up.
    Starting,
    /// `ssh` lands in a shell.
    Open,
    /// Over.
    Ended,
    /// Over, or never begun, because something is wrong.
    Failed,
}

/// The pod of an object.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PodReference {
    /// Namespace: one of the isolated ones.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// How to get in.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The gateway's address as users see it.
    pub host: String,
    /// Its port.
    pub port: i32,
    /// The ssh user name: `<namespace>.<name>`.
    pub user: String,
    /// The whole command.
    pub command: String,
    /// Lines for a `known_hosts` file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_hosts: Vec<String>,
}

/// What a gateway learned from the pod's agent.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LinkReport {
    /// UID of the pod whose agent reported.
    pub pod_uid: String,
    /// What it reported.
    pub state: LinkState,
    /// What is wrong, or what it waits for: a reason of the `Open` condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// State of the pod's agent.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Serving.
    Ready,
    /// An address that must be closed was open: refuses to serve.
    NotIsolated,
    /// Cannot serve yet, and tries on.
    Waiting,
    /// Will never serve.
    Refused,
}

/// One connection of a user.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRecord {
    /// Identifier, also in logs.
    pub id: String,
    /// SHA-256 fingerprint of the key, or of the certificate's key.
    pub key_fingerprint: String,
    /// Where the user came from.
    pub remote_address: String,
    /// When it began.
    pub started_at: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// Where its recording is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<String>,
}

/// What both kinds report. No deadline and no right is enforced from it, but for `pod.uid`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For people; derived from the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// `Ready`, `Open` and, where a human is needed, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// When the pod was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ends: creation plus `ttl`, or `notAfter` where that is earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// Why it ended: a reason of the `Open` condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// The pod. An object that once had one never gets another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodReference>,
    /// How to get in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// What the gateways report of the pod's agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkReport>,
    /// The last ten connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub connections: Vec<ConnectionRecord>,
}
