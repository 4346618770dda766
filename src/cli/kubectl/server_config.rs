//! `kubectl sandglass server-config`: where the gateway is and which host keys it has, for programs that are set up before there is
//! a session: an ssh configuration, an IDE, a firewall.
//!
//! It is in the `ConfigMap` sandglass-public, which everybody who can log in to the cluster may read. Of an installation whose
//! `install-keys` did not publish the address, administrators read it from the configuration, and users from a session of theirs.

use super::cluster::{Cluster, ClusterOptions};
use super::failure::Failure;
use super::keys::fingerprint;
use super::output::{plain, print, quoted};
use super::sessions;
use crate::cli::install_keys::{Address, CONFIGURATION, PUBLIC};
use crate::gateway::keys::HOST_KEY_PUBLIC;
use crate::kubernetes::{CallError, call_or_absent};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::json;
use std::collections::BTreeMap;

/// How to print it.
#[derive(Args, Debug)]
pub struct ServerConfig {
    /// Namespace of the installation.
    #[arg(long, value_name = "NAME", default_value = "sandglass-system")]
    installation: String,
    /// For people, for programs, or for a shell.
    #[arg(long, short, value_enum, value_name = "FORM", default_value_t = Form::Text)]
    output: Form,
}

/// How the server's data are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people, with the lines for `known_hosts` and `ssh_config`.
    Text,
    /// One JSON object.
    Json,
    /// Variables, as a POSIX shell reads them.
    Env,
}

/// The gateway as ssh must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    address: Address,
    /// Kind and key, of each host key.
    keys: Vec<String>,
}

/// Prints it.
///
/// # Errors
/// It is nowhere where the user may look.
pub async fn run(options: &ClusterOptions, arguments: &ServerConfig) -> Result<u8, Failure> {
    let cluster = options.connect().await?;
    let server = find(&cluster, &arguments.installation).await?;
    print(&match arguments.output {
        Form::Text => server.text(),
        Form::Json => server.json()?,
        Form::Env => server.environment(),
    })?;
    Ok(0)
}

async fn find(cluster: &Cluster, installation: &str) -> Result<Server, Failure> {
    let public = readable(cluster, installation, PUBLIC).await?.unwrap_or_default();
    let mut address = Address::published(&public);
    if address.is_none() {
        let configuration = readable(cluster, installation, CONFIGURATION.0).await?.unwrap_or_default();
        address = configuration.get(CONFIGURATION.1).and_then(|text| Address::configured(text));
    }
    let keys: Vec<String> = public.get(HOST_KEY_PUBLIC).into_iter().flat_map(|text| text.lines()).filter_map(key).collect();
    match address {
        Some(address) if !keys.is_empty() => Ok(Server { address, keys }),
        _ => of_session(cluster).await.ok_or_else(|| {
            Failure::Failed(format!(
                "the gateway's address and host key are not readable in namespace {installation}: run `sandglass install-keys` there, \
                 bind the Role sandglass-public, or say where it is by --installation"
            ))
        }),
    }
}

/// A `ConfigMap`'s data; nothing where it may not be read.
async fn readable(cluster: &Cluster, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    match call_or_absent("read the gateway's address", api.get(name)).await {
        Ok(map) => Ok(map.and_then(|map| map.data)),
        Err(CallError::Refused { ref source, .. }) if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 403) => Ok(None),
        Err(error) => Err(Failure::of_call(&error)),
    }
}

/// What a session that the user can see says of the gateway.
async fn of_session(cluster: &Cluster) -> Option<Server> {
    let (entries, _) = sessions::list(cluster, false).await.ok()?;
    let connection = entries.iter().find_map(|entry| entry.status().connection)?;
    let keys: Vec<String> =
        connection.known_hosts.iter().filter_map(|line| line.split_once(' ')).filter_map(|(_, line)| key(line)).collect();
    let address = Address::new(&connection.host, u16::try_from(connection.port).ok()?)?;
    (!keys.is_empty()).then_some(Server { address, keys })
}

/// Kind and key of a line, without the comment; nothing where it is no key.
fn key(line: &str) -> Option<String> {
    fingerprint(line)?;
    Some(plain(&line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")))
}

impl Server {
    fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().filter_map(|key| fingerprint(key)).collect()
    }

    fn known_hosts(&self) -> Vec<String> {
        let Address { host, port } = &self.address;
        let name = if *port == 22 { host.clone() } else { format!("[{host}]:{port}") };
        self.keys.iter().map(|key| format!("{name} {key}")).collect()
    }

    /// A block for `~/.ssh/config`; then `ssh NAMESPACE.NAME@sandglass` gets in. AES comes first: what ssh asks for first by itself
    /// is slower where processors have instructions for AES (docs/benchmarks.md).
    fn ssh_config(&self) -> String {
        let Address { host, port } = &self.address;
        format!(
            "Host sandglass\n  HostName {host}\n  Port {port}\n  UserKnownHostsFile ~/.ssh/known_hosts_sandglass\n  StrictHostKeyChecking yes\n  \
             Ciphers aes256-gcm@openssh.com,aes128-gcm@openssh.com,chacha20-poly1305@openssh.com\n"
        )
    }

    fn text(&self) -> String {
        let Address { host, port } = &self.address;
        let prints: String =
            self.fingerprints().into_iter().flat_map(|print| ["fingerprint  ".to_owned(), print, "\n".to_owned()]).collect();
        let (known_hosts, ssh_config) = (self.known_hosts().join("\n"), self.ssh_config());
        format!(
            "host         {host}\nport         {port}\n{prints}\n# ~/.ssh/known_hosts_sandglass\n{known_hosts}\n\n\
             # ~/.ssh/config; then: ssh NAMESPACE.NAME@sandglass\n{ssh_config}"
        )
    }

    fn json(&self) -> Result<String, Failure> {
        let keys: Vec<_> = self.keys.iter().map(|key| json!({ "key": key, "fingerprint": fingerprint(key) })).collect();
        let whole = json!({
            "host": self.address.host,
            "port": self.address.port,
            "hostKeys": keys,
            "knownHosts": self.known_hosts(),
            "sshConfig": self.ssh_config(),
        });
        serde_json::to_string_pretty(&whole)
            .map(|text| text + "\n")
            .map_err(|error| Failure::Failed(format!("failed to write JSON: {error}")))
    }

    fn environment(&self) -> String {
        let values = [
            ("SANDGLASS_HOST", self.address.host.clone()),
            ("SANDGLASS_PORT", self.address.port.to_string()),
            ("SANDGLASS_HOST_KEY_FINGERPRINTS", self.fingerprints().join("\n")),
            ("SANDGLASS_KNOWN_HOSTS", self.known_hosts().join("\n")),
            ("SANDGLASS_SSH_CONFIG", self.ssh_config()),
        ];
        values.map(|(name, value)| format!("{name}={}\n", quoted(&value))).concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJMHtBt9l97wMQtHFB8P4P1g8/Xmgt6rMhGvbRJhjxZF";

    fn server(port: u16) -> Server {
        Server { address: Address::new("debug.example.com", port).expect("an address"), keys: vec![KEY.into()] }
    }

    #[test]
    fn each_form_says_the_same() {
        let server = server(2222);
        let line = format!("[debug.example.com]:2222 {KEY}");
        let whole: Value = serde_json::from_str(&server.json().expect("written")).expect("JSON");
        assert_eq!((&whole["host"], &whole["port"], &whole["knownHosts"][0]), (&json!("debug.example.com"), &json!(2222), &json!(line)));
        let print = whole["hostKeys"][0]["fingerprint"].as_str().expect("a fingerprint");
        assert!(print.starts_with("SHA256:"));
        let text = server.text();
        assert!(text.contains(print) && text.contains(&line) && text.contains("  HostName debug.example.com\n  Port 2222\n"), "{text}");
        let lines = server.environment();
        assert!(lines.contains("SANDGLASS_PORT='2222'\n") && lines.contains(&format!("SANDGLASS_KNOWN_HOSTS='{line}'\n")), "{lines}");
    }

    #[test]
    fn the_usual_port_is_not_written_into_known_hosts() {
        assert_eq!(server(22).known_hosts(), [format!("debug.example.com {KEY}")]);
        assert_eq!(key(&format!("{KEY} gateway")), Some(KEY.to_owned()));
        assert_eq!(key("ssh-ed25519 nonsense"), None);
    }
}
