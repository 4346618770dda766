//! Names of labels, annotations, field managers and fixed objects. Labels are an index, never proof of
//! ownership: who owns what is decided by the UID in [`OWNER_UID`].

/// API group of both kinds.
pub const GROUP: &str = "sandglass.dev";

/// Label on everything Sandglass makes: `app.kubernetes.io/managed-by: sandglass`.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGED_BY_VALUE: &str = "sandglass";
/// Label: UID of the custom resource a pod belongs to.
pub const OWNER_UID: &str = "sandglass.dev/owner-uid";
/// Label: kind of the owner, `DebugSession` or `BreakglassVM`.
pub const OWNER_KIND: &str = "sandglass.dev/owner-kind";
/// Label: `Isolated` or `Egress`; the shipped network policies select by it.
pub const NETWORK: &str = "sandglass.dev/network";
/// Annotation: namespace of the owner.
pub const OWNER_NAMESPACE: &str = "sandglass.dev/owner-namespace";
/// Annotation: name of the owner.
pub const OWNER_NAME: &str = "sandglass.dev/owner-name";
/// Annotation: RFC 3339 end of the session; the sweeper deletes by it without looking at the owner.
pub const EXPIRES_AT: &str = "sandglass.dev/expires-at";

/// Annotation: the project a pod counts for, `<namespace>/<project>`; the second part is empty for the namespace's own.
pub const PROJECT: &str = "sandglass.dev/project";

/// Name of a recovery pod's one container.
pub const RECOVERY_CONTAINER: &str = "recovery";
/// Name of the container a user lands in.
pub const SESSION_CONTAINER: &str = "session";
/// Name of the init container that copies the agent, where image volumes are not used.
pub const AGENT_CONTAINER: &str = "install-agent";
/// Name of the init container that copies the tools.
pub const TOOLS_CONTAINER: &str = "copy-tools";

/// Field manager of the controller (objects and status).
pub const CONTROLLER_MANAGER: &str = "sandglass-controller";
/// Field manager of the gateway (the `connections` list in status only).
pub const GATEWAY_MANAGER: &str = "sandglass-gateway";

/// Audience of the projected token with which an agent opens its link.
pub const LINK_AUDIENCE: &str = "sandglass-gateway";
/// `ServiceAccount` of every debug pod. It has no rights at all.
pub const DEBUG_SERVICE_ACCOUNT: &str = "sandglass-debug";

/// Label selector of what belongs to objects of a kind.
#[must_use]
pub fn of_kind(kind: &str) -> String {
    format!("{MANAGED_BY}={MANAGED_BY_VALUE},{OWNER_KIND}={kind}")
}
