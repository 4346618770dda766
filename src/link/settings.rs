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
