//! `DebugSession`: a fresh, isolated pod of a failed build's image, reached by plain `ssh`, gone at its TTL.
//!
//! The doc comments of the fields are the users' documentation: they become the schema's descriptions.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::session::{Access, Retention, Session, SessionStatus, Terms, immutable};

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
    validation = immutable!("DebugSession", "source"), validation = immutable!("DebugSession", "env"), validation = immutable!("DebugSession", "workingDir"),
    validation = immutable!("DebugSession", "ttl"), validation = immutable!("DebugSession", "notAfter"), validation = immutable!("DebugSession", "project"),
    validation = immutable!("DebugSession", "requester"), validation = immutable!("DebugSession", "reason"), validation = immutable!("DebugSession", "build"),
    validation = immutable!("DebugSession", "access"), validation = immutable!("DebugSession", "network"), validation = immutable!("DebugSession", "isolation"),
    validation = immutable!("DebugSession", "resources"), validation = immutable!("DebugSession", "tools"), validation = immutable!("DebugSession", "retention"),
    validation = immutable!("DebugSession", "deleteAfter"),
    validation = Rule::new("self.end || !oldSelf.end").message("spec.end may only go from false to true: an ended session cannot be opened again"),
    validation = Rule::new("!has(self.deleteAfter) || self.retention == 'Delete'").message("spec.deleteAfter needs spec.retention: Delete"),
)]
pub struct DebugSessionSpec {
    /// What to debug: exactly one of `image`, `pod`, `job`, `taskRun` and `pipelineRun`.
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
#[x_kube(cel, validation = Rule::new("[has(self.image), has(self.pod), has(self.job), has(self.taskRun), has(self.pipelineRun)].filter(given, given).size() == 1")
    .message("spec.source needs exactly one of image, pod, job, taskRun and pipelineRun"))]
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
    /// A failed Tekton `TaskRun` in this object's namespace: image digest, literal environment and working directory of the
    /// step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_run: Option<TaskRunReference>,
    /// A Tekton `PipelineRun` in this object's namespace: its first failed `TaskRun` is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_run: Option<PipelineRunReference>,
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

/// A Tekton `TaskRun` in the namespace of the `DebugSession`.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TaskRunReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which of its failed steps. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub step: Option<String>,
}

/// A Tekton `PipelineRun` in the namespace of the `DebugSession`.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PipelineRunReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
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

/// What is so now. A report: no deadline and no right is enforced from it, but for `pod.uid`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DebugSessionStatus {
    /// What both kinds report.
    #[serde(flatten)]
    pub session: SessionStatus,
    /// The image that really runs, by digest where the node says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Names of the variables that the build had and the shell has not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stripped_env: Vec<String>,
}

impl Session for DebugSession {
    const KIND: &'static str = "DebugSession";

    fn terms(&self) -> Terms<'_> {
        let spec = &self.spec;
        Terms { ttl: &spec.ttl, not_after: spec.not_after.as_ref(), end: spec.end, access: &spec.access, requester: &spec.requester }
    }

    fn state(&self) -> Option<&SessionStatus> {
        self.status.as_ref().map(|status| &status.session)
    }
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
