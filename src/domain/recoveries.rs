//! The part of the configuration that is about recovery pods: its shape, its defaults, and what is refused.

use crate::api::debug_session::LimitName;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::configuration::{ConfigurationError, limits, refuse};
use super::quantity::thousandths;

/// What recovery pods look like. Their image is `sessions.agentImage`; they tolerate every taint.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Recoveries {
    /// Priority class of the pods.
    pub priority_class: String,
    /// Labels of nodes to keep away from, beside `spec.placement`.
    pub avoid_node_labels: Vec<String>,
    /// Names of image pull Secrets that lie in the namespace of the recovery pods.
    pub image_pull_secrets: Vec<String>,
    /// User and group of the pods.
    pub user: i64,
    /// Limits of the pods.
    pub limits: BTreeMap<LimitName, Quantity>,
    /// Networks in which machines and hypervisors may lie: an object that names another address is refused. Empty: none may.
    pub allowed_networks: Vec<IpNet>,
    /// The Vault servers. A pod shows its token to whom the object names, and the token opens Vault: so the installation says who
    /// may be named. Empty: nobody.
    pub vault_servers: Vec<VaultServer>,
}

/// A Vault server that objects may name.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultServer {
    /// Its address as objects have it: `https://IP:port`.
    pub address: String,
    /// Certificates that vouch for it, PEM: in place of the object's.
    #[serde(default)]
    pub ca_bundle: Option<String>,
}

impl VaultServer {
    /// Where it is; `None` for an address that is not `https://IP:port`.
    #[must_use]
    pub fn socket(address: &str) -> Option<SocketAddr> {
        let host = address.trim_end_matches('/').strip_prefix("https://")?;
        let without_port = || host.trim_matches(['[', ']']).parse().map(|ip: IpAddr| SocketAddr::new(ip, 443));
        host.parse().or_else(|_| without_port()).ok()
    }
}

impl Default for Recoveries {
    fn default() -> Self {
        Self {
            priority_class: "sandglass-breakglass".into(),
            avoid_node_labels: Vec::new(),
            image_pull_secrets: Vec::new(),
            user: 10002,
            limits: limits("1", "256Mi", "64Mi"),
            allowed_networks: Vec::new(),
            vault_servers: Vec::new(),
        }
    }
}

impl Recoveries {
    pub(super) fn check(&self) -> Result<(), ConfigurationError> {
        if !(1..=i64::from(i32::MAX)).contains(&self.user) {
            return Err(refuse("recoveries.user", "must be a user number above zero"));
        }
        for (index, server) in self.vault_servers.iter().enumerate() {
            if VaultServer::socket(&server.address).is_none() {
                return Err(refuse(format!("recoveries.vaultServers[{index}].address"), "must be https://IP:port, as objects have it"));
            }
        }
        for name in [LimitName::Cpu, LimitName::Memory, LimitName::EphemeralStorage] {
            if self.limits.get(&name).and_then(thousandths).is_none_or(|value| value == 0) {
                return Err(refuse(format!("recoveries.limits.{}", name.as_str()), "must be a quantity above zero, e.g. 256Mi"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_server_is_an_address_and_a_port() {
        let socket = |address: &str| VaultServer::socket(address).map(|socket| socket.to_string());
        assert_eq!(socket("https://10.0.20.50:8200/"), Some("10.0.20.50:8200".into()));
        assert_eq!(socket("https://10.0.20.50"), Some("10.0.20.50:443".into()));
        assert_eq!(socket("https://[2001:db8::1]:8200"), Some("[2001:db8::1]:8200".into()));
        assert_eq!(socket("https://[2001:db8::1]"), Some("[2001:db8::1]:443".into()));
        for other in
            ["http://10.0.20.50:8200", "https://vault.example.com", "https://10.0.20.500", "https://10.0.20.50:99999", "10.0.20.50:8200"]
        {
            assert_eq!(socket(other), None, "{other}");
        }
    }
}
