//! `DebugSession`: a fresh, isolated pod of a failed build's image, reached by plain `ssh`, gone at its TTL.
//!
//! The doc comments of the fields are the users' documentation: they become the schema's descriptions.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A CEL transition rule: this field of the spec never changes, not even from unset to set.
macro_rules! immutable {
    ($field:literal) => {
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
        .message(concat!("spec.", $field, " is immutable: create another DebugSession instead"))
    };
}

/// A debugging session on a fresh pod of the failed build's own image: isolated, its secrets stripped, recorded,
/// reached with plain `ssh`, and gone at its TTL.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "sandglass.dev",
    version = "v1alpha1",
    kind = "DebugSession",
    namespaced,
    status = "DebugSessionStatus",
    derive = "PartialEq",
    shortname = "dbg",
    category = "sandglass",
    cel,
    doc = "A debugging session on a failed build: see `spec`.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Waiting, Starting, Open, Ended or Failed"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt", description = "When the session ends, whatever happens"),
    printcolumn(name = "Command", type_ = "string", json_path = ".status.connection.command", description = "What to type to get in"),
    printcolumn(name = "Requester", type_ = "string", json_path = ".spec.requester"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.endReason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name may have at most 63 characters: it becomes part of the ssh user name"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = immutable!("source"), validation = immutable!("env"), validation = immutable!("workingDir"),
    validation = immutable!("ttl"), validation = immutable!("notAfter"), validation = immutable!("project"),
    validation = immutable!("requester"), validation = immutable!("reason"), validation = immutable!("build"),
    validation = immutable!("access"), validation = immutable!("network"), validation = immutable!("isolation"),
    validation = immutable!("resources"), validation = immutable!("tools"), validation = immutable!("retention"),
    validation = immutable!("deleteAfter"),
    validation = Rule::new("self.end || !oldSelf.end").message("spec.end may only go from false to true: an ended session cannot be opened again"),
    validation = Rule::new("!has(self.deleteAfter) || self.retention == 'Delete'").message("spec.deleteAfter needs spec.retention: Delete"),
)]
pub struct DebugSessionSpec {
    /// What to debug: exactly one of `image`, `pod` and `job`.
    pub source: Source,
    /// Environment of the shell, on top of what `source` gives. Names that look like secrets, and values that look
    /// like credentials, are dropped; their names are then in `status.strippedEnv`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvironmentVariable>,
    /// Where the shell starts. Default: the failed container's, then the image's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^/"))]
    pub working_dir: Option<String>,
    /// How long the session lives, counted from the creation of this object: `30m`, `1h`, `1h15m`. From one minute to
    /// the cap of the installation (1h as shipped). It cannot be extended.
    #[serde(default = "default_ttl")]
    #[schemars(length(min = 2, max = 12), regex(pattern = r"^([0-9]{1,3}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')")
        .message("spec.ttl must be between 1m and 24h (the installation may cap it lower)"))]
    pub ttl: String,
    /// Nothing opens after this moment (RFC 3339), whatever re-creates the object: a restored backup, a GitOps tool
    /// after a delete. The earlier of this and `ttl` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// Sessions of one project wait for each other: one is live at a time (configurable). Default: the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub project: Option<String>,
    /// Who asks. Must be the user that creates the object, unless that user may `impersonate-requester`.
    #[schemars(length(min = 1, max = 253))]
    pub requester: String,
    /// Why, for the people who read the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// Which build failed. Only recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// Who gets in, and what they may do there.
    pub access: Access,
    /// `Isolated`: the pod reaches the gateway and nothing else. `Egress`: also the internet, never private, link-local
    /// or cluster addresses.
    #[serde(default)]
    pub network: Network,
    /// `UserNamespace`: root inside, nobody outside. `Restricted`: a numeric user. Default: the installation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Limits of the pod. Default and cap: the installation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// An image whose `/tools` folder is put on PATH, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    /// What becomes of this object after the session ended. `Retain` keeps it as a tombstone, so that a GitOps tool does
    /// not create it again. `Delete` removes it after `deleteAfter`: for objects that nobody re-applies (CI).
    #[serde(default)]
    pub retention: Retention,
    /// With `retention: Delete`: how long after its end the object is deleted. Default `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 12), regex(pattern = r"^([0-9]{1,3}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('720h')")
        .message("spec.deleteAfter must be between 1m and 720h"))]
    pub delete_after: Option<String>,
    /// Set to true to end the session now. The object stays; this cannot be undone.
    #[serde(default)]
    pub end: bool,
}

fn default_ttl() -> String {
    "30m".into()
}

/// What to debug: exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = Rule::new("[has(self.image), has(self.pod), has(self.job)].filter(given, given).size() == 1")
    .message("spec.source needs exactly one of image, pod and job"))]
pub struct Source {
    /// The build's image, best by digest: `registry.example.com/go-builder@sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$"))]
    pub image: Option<String>,
    /// A failed pod in this object's namespace: image digest, literal environment and working directory of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<WorkloadReference>,
    /// A failed Job in this object's namespace: its last failed pod is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<WorkloadReference>,
}

/// A pod or a Job in the namespace of the `DebugSession`.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which container. Default: the one that failed, else the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
}

/// One environment variable, literal.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentVariable {
    /// Name.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"))]
    pub name: String,
    /// Value, taken as it is: `$(NAME)` is not expanded.
    #[serde(default)]
    #[schemars(length(max = 32768))]
    pub value: String,
}

/// Which build failed.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// Commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub commit: Option<String>,
    /// Pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub pull_request: Option<String>,
    /// Run of the CI system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub run: Option<String>,
    /// Address of the build's page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub url: Option<String>,
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
    /// What is allowed beyond shell and commands. Default for a `DebugSession`: `[Sftp]`.
    #[serde(default = "default_allow")]
    #[schemars(length(max = 8))]
    pub allow: Vec<Capability>,
    /// A connection with no byte either way for this long is warned a minute before and then closed; the pod stays, and
    /// logging in again finds it. At least `2m`. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 12), regex(pattern = r"^([0-9]{1,3}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('2m') && duration(self) <= duration('24h')")
        .message("spec.access.idleTimeout must be between 2m and 24h"))]
    pub idle_timeout: Option<String>,
}

fn default_allow() -> Vec<Capability> {
    vec![Capability::Sftp]
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

/// What the pod can reach.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Network {
    /// The gateway only.
    #[default]
    Isolated,
    /// The internet too, never private, link-local or cluster addresses.
    Egress,
}

/// As whom the shell runs. `UserNamespace`: root inside, nobody outside. `Restricted`: a numeric user without any capability.
/// Default: the installation's.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Root inside a user namespace, nobody outside.
    UserNamespace,
    /// A numeric user without any capability.
    Restricted,
}

/// Limits of the pod.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// The most the pod may use; each at most the installation's maximum.
    #[serde(default)]
    pub limits: Limits,
}

/// The most the pod may use.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// CPU, a quantity in quotes: `"1"`, `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantity")]
    pub cpu: Option<Quantity>,
    /// Memory, a quantity: `2Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantity")]
    pub memory: Option<Quantity>,
    /// Disk, a quantity: `4Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantity")]
    pub ephemeral_storage: Option<Quantity>,
}

/// A quantity, without the two pages that Kubernetes' own schema says about it.
fn quantity(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "maxLength": 32, "pattern": r"^[0-9.]+([numkMGTP]|[KMGTP]i|[eE][0-9]+)?$" })
}

impl Limits {
    /// Those that are given.
    pub fn given(&self) -> impl Iterator<Item = (LimitName, &Quantity)> {
        [(LimitName::Cpu, &self.cpu), (LimitName::Memory, &self.memory), (LimitName::EphemeralStorage, &self.ephemeral_storage)]
            .into_iter()
            .filter_map(|(name, quantity)| quantity.as_ref().map(|quantity| (name, quantity)))
    }
}

/// Which limit.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum LimitName {
    /// CPU.
    Cpu,
    /// Memory.
    Memory,
    /// Disk.
    EphemeralStorage,
}

/// An image with more tools.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tools {
    /// The image; its `/tools` folder is copied. It needs no shell.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$"))]
    pub image: String,
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

/// What is so now. A report: no deadline and no right is enforced from it, but for `pod.uid`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DebugSessionStatus {
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
    /// The image that really runs, by digest where the node says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The pod. An object that once had one never gets another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodReference>,
    /// How to get in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// Names of the variables that the build had and the shell has not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stripped_env: Vec<String>,
    /// What the gateways report: the link, and the last ten connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkReport>,
    /// The last ten connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub connections: Vec<ConnectionRecord>,
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
    /// In words, where something is wrong.
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

impl LimitName {
    /// The word in `limits`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
        }
    }
}
