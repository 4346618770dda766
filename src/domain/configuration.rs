//! The one configuration file, `sandglass.yaml`: its shape, its defaults, and what is refused.
//! Reading it from disk is `main`'s business; everything here is pure.

use crate::api::debug_session::{Isolation, LimitName};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::lifetime::parse_duration;
use super::provisioning::Provisioning;
use super::quantity::thousandths;
use super::recording::Recording;
use super::recoveries::Recoveries;

/// The whole file. Unknown fields are refused; everything has a default but `gateway.host` and `sessions.agentImage`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    /// Namespace of the session pods; nothing else may live there.
    #[serde(default = "default_debug_namespace")]
    pub debug_namespace: String,
    /// Namespace of the recovery pods; nothing else may live there.
    #[serde(default = "default_vm_namespace")]
    pub vm_namespace: String,
    /// Where users and agents find the gateway.
    pub gateway: Gateway,
    /// What sessions look like.
    pub sessions: Sessions,
    /// What recovery pods look like.
    #[serde(default)]
    pub recoveries: Recoveries,
    /// Which images may run, by prefix. Empty: none may, and every session is refused with `ImageNotAllowed`.
    #[serde(default)]
    pub allowed_images: Vec<AllowedImage>,
    /// Words that make a variable's name a secret, beside the built-in ones. Compared without regard to case.
    #[serde(default)]
    pub secret_patterns: Vec<String>,
    /// Lines for the `known_hosts` file in the pod: the Git servers that people reach with a forwarded ssh-agent.
    #[serde(default)]
    pub known_hosts: Vec<String>,
    /// Public keys of the CAs whose user certificates are accepted.
    #[serde(default)]
    pub user_certificate_authorities: Vec<String>,
    /// Limits before login.
    #[serde(default)]
    pub login: LoginLimits,
    /// Whether users are recorded, and where to.
    #[serde(default)]
    pub recording: Recording,
    /// The web page, where there is one.
    #[serde(default)]
    pub page: Option<Page>,
    /// The door for CI outside the cluster, where there is one.
    #[serde(default)]
    pub provisioning: Option<Provisioning>,
}

/// The web page on the gateway's HTTP port, behind an ingress that knows who asks.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Page {
    /// Header in which the ingress says who asks; it must remove what clients send under this name.
    pub identity_header: String,
    /// Addresses of the ingress: requests from elsewhere are refused.
    pub proxies: Vec<IpNet>,
}

impl Page {
    fn check(&self) -> Result<(), ConfigurationError> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if self.identity_header.is_empty() || !self.identity_header.bytes().all(token) {
            return Err(refuse("page.identityHeader", "must be the name of a header, e.g. X-Forwarded-User"));
        }
        if self.proxies.is_empty() {
            return Err(refuse("page.proxies", "must name the ingress's addresses, e.g. [10.0.5.0/24]"));
        }
        Ok(())
    }
}

/// Where users and agents find the gateway.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// Host name or address as users see it.
    pub host: String,
    /// Port as users see it.
    #[serde(default = "default_ssh_port")]
    pub port: u16,
    /// Address of the link port as agents see it, `IP:port`. Default: the cluster address of the Service
    /// `sandglass-gateway-link`, which the kubelet puts into the controller's environment.
    #[serde(default)]
    pub link: Option<SocketAddr>,
}

/// What sessions look like.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sessions {
    /// Longest `spec.ttl`: a duration such as `1h`.
    #[serde(default = "default_ttl_cap")]
    pub ttl_cap: String,
    /// Live sessions of one project at a time.
    #[serde(default = "default_per_project")]
    pub per_project: u32,
    /// Where `spec.isolation` says nothing.
    #[serde(default = "default_isolation")]
    pub default_isolation: Isolation,
    /// How the agent gets into the pod.
    #[serde(default)]
    pub agent: AgentDelivery,
    /// The image that holds `/bin/sandglass-agent`: Sandglass' own.
    pub agent_image: String,
    /// Capabilities added inside a user namespace, e.g. `[CHOWN, SETUID, SETGID]`. The debug namespace must then be labelled `baseline`.
    #[serde(default)]
    pub extra_capabilities: Vec<String>,
    /// User and group of `isolation: Restricted`.
    #[serde(default = "default_user")]
    pub restricted_user: i64,
    /// Limits where `spec.resources` says nothing.
    #[serde(default = "default_limits")]
    pub limits: BTreeMap<LimitName, Quantity>,
    /// The most that `spec.resources` may ask for.
    #[serde(default = "default_maximum_limits")]
    pub maximum_limits: BTreeMap<LimitName, Quantity>,
    /// Priority class of the pods.
    #[serde(default = "default_priority_class")]
    pub priority_class: String,
    /// Runtime class of the pods, where a sandboxed runtime is installed.
    #[serde(default)]
    pub runtime_class: Option<String>,
    /// Tolerations of the pods.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// Labels of nodes to keep away from.
    #[serde(default)]
    pub avoid_node_labels: Vec<String>,
    /// Names of image pull Secrets that lie in the debug namespace.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
    /// Public name servers of pods with `network: Egress`, at most three; the cluster's own is closed to them. Empty: no names.
    #[serde(default)]
    pub egress_nameservers: Vec<IpAddr>,
    /// Addresses, `IP:port`, that a pod must not reach, beside the API server's.
    #[serde(default)]
    pub must_be_closed: Vec<SocketAddr>,
}

/// How the agent gets into the pod.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum AgentDelivery {
    /// As a read-only image volume: Kubernetes 1.35 and containerd 2.2 or later.
    #[default]
    ImageVolume,
    /// Copied by an init container.
    InitContainer,
}

/// One rule of `allowedImages`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedImage {
    /// Prefix of the reference. Ends where a component ends: `registry.example.com/team` does not allow `registry.example.com/team2/x`.
    pub prefix: String,
    /// Namespaces of the custom resources it is for. Empty: all.
    #[serde(default)]
    pub namespaces: Vec<String>,
}

/// Limits before login.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoginLimits {
    /// Connections that have not logged in, at once.
    pub at_once: u32,
    /// The same, from one source (an IPv4 address or an IPv6 /64).
    pub at_once_per_source: u32,
    /// Time from the first byte to a login.
    pub seconds: u32,
    /// Sources that are never penalised: load balancers that hide their clients' addresses.
    pub trusted_sources: Vec<IpNet>,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self { at_once: 256, at_once_per_source: 32, seconds: 60, trusted_sources: Vec::new() }
    }
}

fn default_debug_namespace() -> String {
    "sandglass-debug".into()
}
fn default_vm_namespace() -> String {
    "sandglass-vm".into()
}
const fn default_ssh_port() -> u16 {
    2222
}
fn default_ttl_cap() -> String {
    "1h".into()
}
const fn default_per_project() -> u32 {
    1
}
const fn default_isolation() -> Isolation {
    Isolation::UserNamespace
}
const fn default_user() -> i64 {
    10001
}
fn default_priority_class() -> String {
    "sandglass-debug".into()
}
pub(super) fn limits(cpu: &str, memory: &str, storage: &str) -> BTreeMap<LimitName, Quantity> {
    [(LimitName::Cpu, cpu), (LimitName::Memory, memory), (LimitName::EphemeralStorage, storage)]
        .into_iter()
        .map(|(name, value)| (name, Quantity(value.into())))
        .collect()
}
fn default_limits() -> BTreeMap<LimitName, Quantity> {
    limits("1", "2Gi", "4Gi")
}
fn default_maximum_limits() -> BTreeMap<LimitName, Quantity> {
    limits("4", "16Gi", "32Gi")
}

/// Why a configuration file is refused. One line that names the field.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// Not YAML of this shape.
    #[error("failed to read the configuration: {0}")]
    Shape(String),
    /// A value out of its range.
    #[error("{field}: {problem}")]
    Value {
        /// Path of the field.
        field: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

pub(super) fn refuse(field: impl Into<String>, problem: impl Into<String>) -> ConfigurationError {
    ConfigurationError::Value { field: field.into(), problem: problem.into() }
}

impl Configuration {
    /// Parses and validates the text of the file.
    ///
    /// # Errors
    /// The first thing that is wrong, with the field's path.
    pub fn parse(text: &str) -> Result<Self, ConfigurationError> {
        let configuration: Self = serde_saphyr::from_str(text)
            .map_err(|error| ConfigurationError::Shape(error.to_string().lines().next().unwrap_or_default().to_owned()))?;
        configuration.check()?;
        Ok(configuration)
    }

    /// Longest `spec.ttl`.
    #[must_use]
    pub fn ttl_cap(&self) -> Duration {
        parse_duration(&self.sessions.ttl_cap).unwrap_or(Duration::from_hours(1))
    }

    fn check(&self) -> Result<(), ConfigurationError> {
        check_label("debugNamespace", &self.debug_namespace)?;
        check_label("vmNamespace", &self.vm_namespace)?;
        if self.vm_namespace == self.debug_namespace {
            return Err(refuse("vmNamespace", "must differ from debugNamespace: their pods have different rights"));
        }
        if self.gateway.host.is_empty() || self.gateway.host.contains(char::is_whitespace) {
            return Err(refuse("gateway.host", "must be a host name or an address"));
        }
        if self.gateway.port == 0 {
            return Err(refuse("gateway.port", "must be between 1 and 65535"));
        }
        self.sessions.check()?;
        self.recoveries.check()?;
        self.recording.check()?;
        self.page.as_ref().map_or(Ok(()), Page::check)?;
        self.provisioning.as_ref().map_or(Ok(()), |provisioning| provisioning.check(self.ttl_cap()))?;
        for (index, allowed) in self.allowed_images.iter().enumerate() {
            if allowed.prefix.is_empty() {
                return Err(refuse(
                    format!("allowedImages[{index}].prefix"),
                    "must not be empty: name a registry, e.g. registry.example.com/",
                ));
            }
        }
        for (index, pattern) in self.secret_patterns.iter().enumerate() {
            if pattern.len() < 2 {
                return Err(refuse(format!("secretPatterns[{index}]"), "needs at least two characters"));
            }
        }
        for (index, key) in self.user_certificate_authorities.iter().enumerate() {
            russh::keys::PublicKey::from_openssh(key).map_err(|error| {
                refuse(format!("userCertificateAuthorities[{index}]"), format!("not a public key in OpenSSH format ({error})"))
            })?;
        }
        if self.login.at_once == 0 || self.login.at_once_per_source == 0 || self.login.seconds == 0 {
            return Err(refuse("login", "atOnce, atOncePerSource and seconds must be at least 1"));
        }
        Ok(())
    }
}

/// What may be added inside a user namespace.
const CAPABILITIES: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "NET_BIND_SERVICE"];

impl Sessions {
    fn check(&self) -> Result<(), ConfigurationError> {
        match parse_duration(&self.ttl_cap) {
            Some(cap) if cap >= Duration::from_mins(1) && cap <= Duration::from_hours(24) => {}
            _ => return Err(refuse("sessions.ttlCap", "must be a duration between 1m and 24h, e.g. 1h")),
        }
        if self.per_project == 0 {
            return Err(refuse("sessions.perProject", "must be at least 1"));
        }
        if self.agent_image.is_empty() {
            return Err(refuse("sessions.agentImage", "must name the sandglass image"));
        }
        if !(1..=65535).contains(&self.restricted_user) {
            return Err(refuse(
                "sessions.restrictedUser",
                "must be between 1 and 65535: higher numbers do not exist inside a user namespace",
            ));
        }
        for (field, limits) in [("limits", &self.limits), ("maximumLimits", &self.maximum_limits)] {
            for (name, limit) in limits {
                if thousandths(limit).is_none_or(|value| value == 0) {
                    return Err(refuse(format!("sessions.{field}.{}", name.as_str()), "must be a quantity above zero, e.g. 2Gi"));
                }
            }
            if limits.len() < 3 && field == "limits" {
                return Err(refuse("sessions.limits", "must have all of cpu, memory and ephemeral-storage"));
            }
        }
        if self.egress_nameservers.len() > 3 {
            return Err(refuse("sessions.egressNameservers", "may have at most three addresses: a resolver asks no more"));
        }
        for (index, capability) in self.extra_capabilities.iter().enumerate() {
            if !CAPABILITIES.contains(&capability.as_str()) {
                return Err(refuse(format!("sessions.extraCapabilities[{index}]"), format!("must be one of {}", CAPABILITIES.join(", "))));
            }
        }
        Ok(())
    }
}

pub(super) fn check_label(field: &str, value: &str) -> Result<(), ConfigurationError> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if value.is_empty() || value.len() > 63 || !value.bytes().all(inner) || value.starts_with('-') || value.ends_with('-') {
        return Err(refuse(field, "must be the name of a namespace"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str =
        "gateway: { host: debug.example.com }\nsessions: { agentImage: 'registry.example.com/sandglass:1' }\nrecording: { mode: Off }\n";

    fn refusal(text: &str) -> String {
        Configuration::parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_smallest_file_has_safe_defaults() {
        let configuration = Configuration::parse(SMALLEST).expect("valid");
        assert_eq!(configuration.ttl_cap(), Duration::from_hours(1));
        assert!(configuration.allowed_images.is_empty());
        assert_eq!(configuration.sessions.default_isolation, Isolation::UserNamespace);
        assert_eq!(configuration.sessions.agent, AgentDelivery::ImageVolume);
    }

    #[test]
    fn each_bad_value_is_one_line_that_names_its_field() {
        for (change, field) in [
            ("debugNamespace: Bad_Name", "debugNamespace"),
            ("allowedImages: [ { prefix: '' } ]", "allowedImages[0].prefix"),
            ("secretPatterns: [ x ]", "secretPatterns[0]"),
            ("userCertificateAuthorities: [ nonsense ]", "userCertificateAuthorities[0]"),
            ("login: { atOnce: 0 }", "login"),
            ("surprise: 1", "surprise"),
            ("page: { identityHeader: 'X User', proxies: [ 10.0.0.0/8 ] }", "page.identityHeader"),
            ("page: { identityHeader: X-User, proxies: [] }", "page.proxies"),
        ] {
            let message = refusal(&format!("{SMALLEST}{change}\n"));
            assert!(message.contains(field), "{change}: {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        for (change, field) in [
            ("ttlCap: 25h", "sessions.ttlCap"),
            ("ttlCap: soon", "sessions.ttlCap"),
            ("perProject: 0", "sessions.perProject"),
            ("restrictedUser: 100000", "sessions.restrictedUser"),
            ("egressNameservers: [ 9.9.9.9, 1.1.1.1, 8.8.8.8, 8.8.4.4 ]", "sessions.egressNameservers"),
            ("limits: { cpu: much, memory: 1Gi, ephemeral-storage: 1Gi }", "sessions.limits.cpu"),
            ("limits: { cpu: '1' }", "sessions.limits"),
            ("maximumLimits: { memory: 0 }", "sessions.maximumLimits.memory"),
            ("egressNameservers: [ resolver ]", "IP"),
            ("extraCapabilities: [ SYS_ADMIN ]", "sessions.extraCapabilities[0]"),
        ] {
            let message =
                refusal(&format!("gateway: {{ host: h }}\nsessions: {{ agentImage: i, {change} }}\nrecording: {{ mode: Off }}\n"));
            assert!(message.contains(field), "{change}: {message}");
        }
        assert!(refusal("gateway: {}\nsessions: { agentImage: i }\n").contains("host"));
    }
}
