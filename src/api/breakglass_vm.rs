//! `BreakglassVM`: an isolated recovery pod with one SSH key from Vault, a recorded shell on a machine, and bounded power verbs
//! on its hypervisor; gone at its TTL.
//!
//! The doc comments of the fields are the users' documentation: they become the schema's descriptions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::session::{Access, Session, SessionStatus, Terms, immutable};

/// Recovery of a machine: a recorded shell on it and bounded power verbs on its hypervisor, by keys that only the recovery pod
/// can fetch and nobody sees; gone at its TTL.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "sandglass.dev",
    version = "v1alpha1",
    kind = "BreakglassVM",
    plural = "breakglassvms",
    namespaced,
    status = "BreakglassVMStatus",
    derive = "PartialEq",
    shortname = "bgvm",
    category = "sandglass",
    cel,
    doc = "Recovery of a machine: see `spec`.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Waiting, Starting, Open, Ended or Failed"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt", description = "When it ends, whatever happens"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target.address", description = "The machine"),
    printcolumn(name = "Power", type_ = "string", json_path = ".status.power.state", description = "What became of spec.power"),
    printcolumn(name = "Requester", type_ = "string", json_path = ".spec.requester"),
    printcolumn(name = "Command", type_ = "string", json_path = ".status.connection.command", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.endReason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name may have at most 63 characters: it becomes part of the ssh user name"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = immutable!("BreakglassVM", "target"), validation = immutable!("BreakglassVM", "hypervisor"),
    validation = immutable!("BreakglassVM", "vault"), validation = immutable!("BreakglassVM", "ttl"),
    validation = immutable!("BreakglassVM", "notAfter"), validation = immutable!("BreakglassVM", "requester"),
    validation = immutable!("BreakglassVM", "reason"), validation = immutable!("BreakglassVM", "access"),
    validation = immutable!("BreakglassVM", "power"), validation = immutable!("BreakglassVM", "placement"),
    validation = Rule::new("self.end || !oldSelf.end").message("spec.end may only go from false to true: an ended session cannot be opened again"),
    validation = Rule::new("has(self.hypervisor) == has(self.vault.hypervisorKey)")
        .message("spec.hypervisor and spec.vault.hypervisorKey go together: give both or neither"),
    validation = Rule::new("!has(self.power) || (has(self.hypervisor) && self.power.verb in self.hypervisor.verbs)")
        .message("spec.power.verb must be one of spec.hypervisor.verbs"),
)]
pub struct BreakglassVMSpec {
    /// The machine.
    pub target: Target,
    /// The hypervisor it runs on, for power verbs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<Hypervisor>,
    /// Where the keys are.
    pub vault: Vault,
    /// How long it lives, counted from the creation of this object: `30m`, `1h`, `1h15m`. From one minute to the cap of the
    /// installation (1h as shipped). It cannot be extended.
    #[serde(default = "default_ttl")]
    #[schemars(length(min = 2, max = 12), regex(pattern = r"^([0-9]{1,3}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')")
        .message("spec.ttl must be between 1m and 24h (the installation may cap it lower)"))]
    pub ttl: String,
    /// Nothing opens after this moment (RFC 3339), whatever re-creates the object: a restored backup, a GitOps tool
    /// after a delete. The earlier of this and `ttl` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// Who asks. Must be the user that creates the object, unless that user may `impersonate-requester`.
    #[schemars(length(min = 1, max = 253))]
    pub requester: String,
    /// Why, for the people who read the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// Who gets in, and what they may do there.
    pub access: Access,
    /// A verb that is run once, as soon as the pod is ready, without anybody logging in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Power>,
    /// Where the pod may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Set to true to end it now. The object stays; this cannot be undone.
    #[serde(default)]
    pub end: bool,
}

fn default_ttl() -> String {
    "30m".into()
}

/// The machine. Its address is an IP literal: no name is looked up on the way.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = Rule::new("self.address.matches('^([0-9]{1,3}([.][0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$')").message("spec.target.address must be an IP address: no name is looked up on the way to a wedged machine"))]
pub struct Target {
    /// IP address.
    #[schemars(length(min = 2, max = 45))]
    pub address: String,
    /// Port of its sshd.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// User to log in as.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9._-]*$"))]
    pub user: String,
    /// Its host keys, in the format of an OpenSSH `.pub` file. Pinned: another key is refused, and none is learned.
    #[schemars(
        length(min = 1, max = 8),
        inner(
            length(min = 1, max = 4096),
            regex(pattern = r"^(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/]+={0,3}( [^\r\n]*)?$")
        )
    )]
    pub host_keys: Vec<String>,
}

const fn default_port() -> i32 {
    22
}

/// The hypervisor, with `sandglass-power` as the forced command of the key (docs/hypervisor.md).
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = Rule::new("self.address.matches('^([0-9]{1,3}([.][0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$')").message("spec.hypervisor.address must be an IP address: no name is looked up on the way to a wedged machine"))]
pub struct Hypervisor {
    /// IP address.
    #[schemars(length(min = 2, max = 45))]
    pub address: String,
    /// Port of its sshd.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// User to log in as.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9._-]*$"))]
    pub user: String,
    /// Its host keys, as the target's.
    #[schemars(
        length(min = 1, max = 8),
        inner(
            length(min = 1, max = 4096),
            regex(pattern = r"^(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/]+={0,3}( [^\r\n]*)?$")
        )
    )]
    pub host_keys: Vec<String>,
    /// What the hypervisor calls the machine: a number, a name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub vm: String,
    /// What may be done to it.
    #[schemars(length(min = 1, max = 6))]
    pub verbs: Vec<Verb>,
}

/// What may be done to a machine from outside.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Whether it runs.
    Status,
    /// Evidence of its state: screen, console, registers; changes nothing.
    Forensics,
    /// As its reset button.
    Reset,
    /// As pulling its plug.
    Stop,
    /// As its power button.
    Start,
    /// Stop, then start.
    Cycle,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 6] = [Self::Status, Self::Forensics, Self::Reset, Self::Stop, Self::Start, Self::Cycle];

    /// The word that users type and hypervisors get.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Forensics => "forensics",
            Self::Reset => "reset",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Cycle => "cycle",
        }
    }

    /// The verb a word stands for.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.word() == word)
    }
}

/// Where the keys are, and as whom the recovery pod asks for them. It logs in by the Kubernetes auth method as the
/// `ServiceAccount` `<namespace of this object>.<role>` of the isolated namespace.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = Rule::new("self.address.matches('^https://([0-9]{1,3}([.][0-9]{1,3}){3}|\\\\x5B[0-9a-fA-F:.]+\\\\x5D)(:[0-9]{1,5})?/?$')")
    .message("spec.vault.address must be https://IP:port: no name is looked up on the way to the key, and nothing is sent in the clear"))]
pub struct Vault {
    /// Address of the server: `https://10.0.20.50:8200`.
    #[schemars(length(min = 9, max = 256))]
    pub address: String,
    /// Certificates that vouch for it, PEM: these alone.
    #[schemars(length(min = 1, max = 65536))]
    pub ca_bundle: String,
    /// Mount of the Kubernetes auth method.
    #[serde(default = "default_auth_mount")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"))]
    pub auth_mount: String,
    /// The role. It may read the keys named here and nothing else: a role that can do more is refused.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub role: String,
    /// Audience of the pod's token, as the role demands it.
    #[serde(default = "default_audience")]
    #[schemars(length(min = 1, max = 253))]
    pub audience: String,
    /// The key for the target.
    pub target_key: KeySource,
    /// The key for the hypervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor_key: Option<KeySource>,
}

fn default_auth_mount() -> String {
    "kubernetes".into()
}

fn default_audience() -> String {
    "vault".into()
}

/// How a key is had: exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = Rule::new("has(self.kv) != has(self.ssh)").message("a key needs exactly one of kv and ssh"))]
pub struct KeySource {
    /// A private key that lies in a KV v2 engine: OpenSSH or PKCS#8 format, without passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<KvKey>,
    /// A key made in the pod, signed by an SSH engine: nothing secret leaves Vault or the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshKey>,
}

/// A field of a KV v2 secret.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KvKey {
    /// Mount of the engine.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"))]
    pub mount: String,
    /// Path below it, without `data/`.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    pub path: String,
    /// Field of the secret.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub field: String,
}

/// A role of an SSH engine.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SshKey {
    /// Mount of the engine.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"))]
    pub mount: String,
    /// Role that signs.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub role: String,
    /// Principal of the certificate. Default: the user to log in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._@-]+$"))]
    pub principal: Option<String>,
}

/// A verb to run once.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Power {
    /// The verb.
    pub verb: Verb,
}

/// Where the pod may run.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels of nodes to keep away from, beside the installation's: what must not be needed to repair itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 317)))]
    pub avoid_node_labels: Vec<String>,
}

/// What is so now. A report: no deadline and no right is enforced from it, but for `pod.uid` and `power`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BreakglassVMStatus {
    /// What both kinds report.
    #[serde(flatten)]
    pub session: SessionStatus,
    /// What became of `spec.power`. Written before the verb starts: a verb that was begun is never begun again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerStatus>,
}

/// What became of `spec.power`.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PowerStatus {
    /// The verb.
    pub verb: Verb,
    /// How far it is.
    pub state: PowerState,
    /// State of the machine before, as the hypervisor said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// State of the machine after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// When it began.
    pub started_at: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Where the evidence is that was kept before anything was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a verb is.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum PowerState {
    /// Begun. It may have taken effect.
    Running,
    /// Done, and the state it wanted was seen.
    Succeeded,
    /// Not begun, or not done to the end: the message says which.
    Failed,
    /// Begun, and nobody knows how it ended. It is not begun again.
    Unknown,
}

impl Session for BreakglassVM {
    const KIND: &'static str = "BreakglassVM";

    fn terms(&self) -> Terms<'_> {
        let spec = &self.spec;
        Terms { ttl: &spec.ttl, not_after: spec.not_after.as_ref(), end: spec.end, access: &spec.access, requester: &spec.requester }
    }

    fn state(&self) -> Option<&SessionStatus> {
        self.status.as_ref().map(|status| &status.session)
    }
}
