//! `sandglass install-keys`: makes the installation's host key, link CA and recording key, once, and publishes their public halves,
//! with the gateway's address beside them: who looks up the one needs the other.

use anyhow::Context as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use std::collections::BTreeMap;

use crate::api::names::{MANAGED_BY, MANAGED_BY_VALUE};
use crate::gateway::keys::{HOST_KEY, HOST_KEY_PUBLIC, LINK_CA, LINK_CA_KEY, RECORDING_KEY, RECORDING_KEY_PUBLIC, new_ed25519};
use crate::kubernetes::{call, call_or_absent, connect};
use crate::link::tls;

/// Name of the Secret with the private halves.
pub const SECRET: &str = "sandglass-gateway-keys";
/// Name of the `ConfigMap` with the public halves.
pub const PUBLIC: &str = "sandglass-public";
/// Name and entry of the `ConfigMap` with the configuration, which has the gateway's address.
pub const CONFIGURATION: (&str, &str) = ("sandglass", "sandglass.yaml");
/// Entry with the gateway's host as users see it.
const HOST: &str = "gateway-host";
/// Entry with its port.
const PORT: &str = "gateway-port";

/// Where users find the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Address {
    /// An address that can be written into an ssh configuration; nothing where it cannot.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_".contains(&byte);
        let valid = !host.is_empty() && !host.starts_with('-') && host.bytes().all(fits) && port != 0;
        valid.then(|| Self { host: host.into(), port })
    }

    /// What `install-keys` published.
    #[must_use]
    pub fn published(data: &BTreeMap<String, String>) -> Option<Self> {
        Self::new(data.get(HOST)?.trim(), data.get(PORT)?.trim().parse().ok()?)
    }

    /// What the text of a configuration says.
    #[must_use]
    pub fn configured(text: &str) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Part {
            gateway: crate::domain::configuration::Gateway,
        }
        let part: Part = serde_saphyr::from_str(text).ok()?;
        Self::new(&part.gateway.host, part.gateway.port)
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// New keys were made.
    New,
    /// They were there already.
    Kept,
}

/// Makes what is missing in `namespace`. Keys that are there are never replaced.
///
/// # Errors
/// When the API server refuses, or a Secret that is there is not usable.
pub async fn install_keys(namespace: &str) -> anyhow::Result<Installed> {
    let client = connect().await?;
    let (installed, mut public) = secret(&client, namespace).await?;
    if let Some(Address { host, port }) = address(&client, namespace).await? {
        public.extend([(HOST.to_owned(), format!("{host}\n")), (PORT.to_owned(), format!("{port}\n"))]);
    }
    publish(&client, namespace, public).await?;
    Ok(installed)
}

fn metadata(name: &str) -> ObjectMeta {
    let labels = BTreeMap::from([(MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned())]);
    ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() }
}

/// The gateway's address, of the configuration as it is now. An installation may keep that elsewhere, or out of sight: then users
/// learn the address from their sessions.
async fn address(client: &Client, namespace: &str) -> anyhow::Result<Option<Address>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match call_or_absent("read the configuration", api.get(CONFIGURATION.0)).await {
        Ok(map) => Ok(map.and_then(|map| Address::configured(map.data?.get(CONFIGURATION.1)?))),
        Err(failure) if failure.code() == 403 => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// The public halves, from the Secret that is there or from a new one.
async fn secret(client: &Client, namespace: &str) -> anyhow::Result<(Installed, BTreeMap<String, String>)> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    if let Some(known) = call_or_absent("read the Secret with the keys", api.get(SECRET)).await? {
        return Ok((Installed::Kept, public_halves(&known)?));
    }
    let secret = new_secret()?;
    match call("create the Secret with the keys", api.create(&PostParams::default(), &secret)).await {
        Ok(_) => Ok((Installed::New, public_halves(&secret)?)),
        // Another run was faster: its keys count.
        Err(failure) if failure.code() == 409 => {
            let known = call("read the Secret with the keys", api.get(SECRET)).await?;
            Ok((Installed::Kept, public_halves(&known)?))
        }
        Err(failure) => Err(failure.into()),
    }
}

fn new_secret() -> anyhow::Result<Secret> {
    let host_key = new_ed25519()?;
    let (certificate, key) = tls::new_authority()?;
    let host_key = host_key.to_openssh(LineEnding::LF).context("failed to encode the host key")?;
    let recording_key = new_ed25519()?.to_openssh(LineEnding::LF).context("failed to encode the recording key")?;
    let data = [
        (HOST_KEY, host_key.as_bytes()),
        (RECORDING_KEY, recording_key.as_bytes()),
        (LINK_CA, certificate.as_bytes()),
        (LINK_CA_KEY, key.expose().as_bytes()),
    ];
    let data = data.into_iter().map(|(name, bytes)| (name.to_owned(), ByteString(bytes.to_vec()))).collect();
    Ok(Secret { metadata: metadata(SECRET), data: Some(data), type_: Some("Opaque".into()), ..Secret::default() })
}

fn public_halves(secret: &Secret) -> anyhow::Result<BTreeMap<String, String>> {
    let entry = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name));
        bytes.with_context(|| format!("the Secret {SECRET} lacks {name}: add it, or delete the Secret to have new keys made"))
    };
    entry(LINK_CA_KEY)?;
    let public_half = |name: &str| -> anyhow::Result<String> {
        let key = PrivateKey::from_openssh(&entry(name)?.0)
            .ok()
            .with_context(|| format!("{name} in the Secret {SECRET} is not a private key in OpenSSH format"))?;
        let public = key.public_key().to_openssh().with_context(|| format!("failed to encode the public half of {name}"))?;
        Ok(format!("{public}\n"))
    };
    let certificate = String::from_utf8(entry(LINK_CA)?.0.clone()).with_context(|| format!("{LINK_CA} is not PEM"))?;
    Ok(BTreeMap::from([
        (HOST_KEY_PUBLIC.to_owned(), public_half(HOST_KEY)?),
        (RECORDING_KEY_PUBLIC.to_owned(), public_half(RECORDING_KEY)?),
        (LINK_CA.to_owned(), certificate),
    ]))
}

async fn publish(client: &Client, namespace: &str, data: BTreeMap<String, String>) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let known = call_or_absent("read the ConfigMap with the public keys", api.get(PUBLIC)).await?;
    match known {
        Some(known) if known.data.as_ref() == Some(&data) => {}
        Some(_) => {
            let patch = serde_json::json!({ "data": data });
            let patch = kube::api::Patch::Merge(&patch);
            call("update the ConfigMap with the public keys", api.patch(PUBLIC, &kube::api::PatchParams::default(), &patch)).await?;
        }
        None => {
            let object = ConfigMap { metadata: metadata(PUBLIC), data: Some(data), ..ConfigMap::default() };
            call("create the ConfigMap with the public keys", api.create(&PostParams::default(), &object)).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_configuration_and_back() {
        let configured = |text: &str| Address::configured(text);
        let address = configured("gateway: { host: debug.example.com, port: 22 }\nother: [1]\n").expect("an address");
        let data = BTreeMap::from([(HOST.to_owned(), format!("{}\n", address.host)), (PORT.to_owned(), format!("{}\n", address.port))]);
        assert_eq!(Address::published(&data), Some(address));
        assert_eq!(configured("gateway: { host: '2001:db8::1' }").map(|address| address.port), Some(2222));
        for text in ["gateway: { host: '-oProxyCommand=x' }", "gateway: { host: 'a b' }", "sessions: {}", "[", ""] {
            assert_eq!(configured(text), None, "{text}");
        }
        assert_eq!(Address::published(&BTreeMap::new()), None);
    }

    #[test]
    fn public_halves_hold_nothing_private_and_a_missing_one_is_named() {
        let mut secret = new_secret().expect("made");
        let public = public_halves(&secret).expect("whole");
        for name in [HOST_KEY_PUBLIC, RECORDING_KEY_PUBLIC] {
            assert!(public[name].starts_with("ssh-ed25519 "), "{name}");
        }
        assert_ne!(public[HOST_KEY_PUBLIC], public[RECORDING_KEY_PUBLIC]);
        assert!(public.values().all(|value| !value.contains("PRIVATE")));
        secret.data.as_mut().expect("data").remove(LINK_CA_KEY);
        assert!(public_halves(&secret).expect_err("not whole").to_string().contains(LINK_CA_KEY));
    }
}
