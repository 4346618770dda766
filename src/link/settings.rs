//! What the controller tells an agent, in one environment variable of the pod. Nothing here is a secret.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Name of the environment variable; the agent never passes it on.
pub const VARIABLE: &str = "SANDGLASS_AGENT";
/// Folder of the image volume (or of the init container's copy): `bin/sandglass-agent` is below it.
pub const IMAGE_FOLDER: &str = "/.sandglass";
/// Path of the agent in the pod.
pub const AGENT_PATH: &str = "/.sandglass/bin/sandglass-agent";
/// Writable folder of the agent: an emptyDir. Holds sockets, `known_hosts`, `stripped-env`, and a home where the image has none.
pub const RUN_FOLDER: &str = "/run/sandglass";
/// Where the tools image's `/tools` is mounted, read-only.
pub const TOOLS_FOLDER: &str = "/run/sandglass-tools";
/// Folder of the projected token and nothing else.
pub const TOKEN_FOLDER: &str = "/run/sandglass-token";
/// Path of the projected token, readable by the agent.
pub const TOKEN_PATH: &str = "/run/sandglass-token/token";

/// Everything an agent needs to know. JSON in [`VARIABLE`].
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentSettings {
    /// Addresses of gateways to dial first; more come with the hello message.
    pub links: Vec<SocketAddr>,
    /// The link CA's certificate, PEM.
    pub certificate_authority: String,
    /// Addresses that must be closed before the first channel is served.
    pub must_be_closed: Vec<SocketAddr>,
    /// End of the session; the agent adds its grace of 15 s.
    pub expires_at: DateTime<Utc>,
    /// The same as seconds from the pod's creation: whichever comes first counts, so that a wrong clock cannot lengthen it.
    pub remaining_seconds: u32,
    /// Environment of shells and commands, on top of the image's.
    pub environment: Vec<(String, String)>,
    /// Where shells start. Default: the container's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Names of dropped variables, for the file `stripped-env`.
    pub stripped_environment: Vec<String>,
    /// Lines of the pod's `known_hosts`.
    pub known_hosts: Vec<String>,
    /// Whether [`TOOLS_FOLDER`] is put on PATH.
    pub tools: bool,
    /// Path of the token. Default: [`TOKEN_PATH`].
    #[serde(default = "default_token_path")]
    pub token_path: String,
    /// Writable folder of the agent. Default: [`RUN_FOLDER`].
    #[serde(default = "default_run_folder")]
    pub run_folder: String,
}

fn default_token_path() -> String {
    TOKEN_PATH.into()
}

fn default_run_folder() -> String {
    RUN_FOLDER.into()
}

/// Name of the environment variable of a recovery pod.
pub const RECOVERY_VARIABLE: &str = "SANDGLASS_RECOVERY";
/// Folder of the projected token for Vault and nothing else.
pub const VAULT_TOKEN_FOLDER: &str = "/run/sandglass-vault";
/// Path of the projected token for Vault.
pub const VAULT_TOKEN_PATH: &str = "/run/sandglass-vault/token";

/// Everything a recovery pod needs to know. JSON in [`RECOVERY_VARIABLE`].
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoverySettings {
    /// As [`AgentSettings::links`].
    pub links: Vec<SocketAddr>,
    /// The link CA's certificate, PEM.
    pub certificate_authority: String,
    /// Addresses that must be closed before the first channel is served.
    pub must_be_closed: Vec<SocketAddr>,
    /// End of the session.
    pub expires_at: DateTime<Utc>,
    /// The same as seconds from the pod's creation.
    pub remaining_seconds: u32,
    /// The machine.
    pub target: Endpoint,
    /// Its hypervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorEndpoint>,
    /// Where the keys are.
    pub vault: VaultEndpoint,
    /// Path of the token for the link.
    pub token_path: String,
    /// Path of the token for Vault.
    pub vault_token_path: String,
    /// Writable folder.
    pub run_folder: String,
}

/// An sshd, and what proves it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddr,
    /// User to log in as.
    pub user: String,
    /// Its host keys, OpenSSH public key format.
    pub host_keys: Vec<String>,
    /// Where the key for it is.
    pub key: KeyPlace,
}

/// A hypervisor.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HypervisorEndpoint {
    /// Its sshd.
    pub endpoint: Endpoint,
    /// What it calls the machine.
    pub vm: String,
    /// Words of the verbs that may be run.
    pub verbs: Vec<String>,
}

/// Where a key is had.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum KeyPlace {
    /// A field of a KV v2 secret.
    Kv {
        /// Mount of the engine.
        mount: String,
        /// Path below it.
        path: String,
        /// Field.
        field: String,
    },
    /// A key made in the pod and signed by an SSH engine.
    Ssh {
        /// Mount of the engine.
        mount: String,
        /// Role that signs.
        role: String,
        /// Principal of the certificate.
        principal: String,
    },
}

/// A Vault server, and as what to log in.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultEndpoint {
    /// `https://IP:port`.
    pub address: String,
    /// Certificates that vouch for it, PEM.
    pub certificate_authority: String,
    /// Mount of the Kubernetes auth method.
    pub auth_mount: String,
    /// Role.
    pub role: String,
}
