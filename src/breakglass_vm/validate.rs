//! Step two, pure: from what was observed to a decision.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use russh::keys::PublicKey;
use std::net::{IpAddr, SocketAddr};

use super::observe::Observed;
use crate::api::BreakglassVM;
use crate::api::breakglass_vm::{KeySource, Vault};
use crate::api::conditions::Reason;
use crate::api::names::LINK_AUDIENCE;
use crate::api::session::Session as _;
use crate::domain::recoveries::VaultServer;
use crate::lifecycle::end::{ending, is_own, lost};
use crate::lifecycle::look::look;
use crate::lifecycle::pod_state::About;
use crate::lifecycle::{Cause, Ending, PodState, Settings};
use crate::link::settings::{Endpoint, HypervisorEndpoint, KeyPlace, VaultEndpoint};

/// Where a recovery goes, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub target: Endpoint,
    pub hypervisor: Option<HypervisorEndpoint>,
    pub vault: VaultEndpoint,
    pub vault_address: SocketAddr,
}

/// What to do.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    /// It ends, or has ended; with the pod that is left.
    End(Ending, Option<Box<Pod>>),
    /// No pod, for this reason.
    Hold(Cause),
    /// Create the pod.
    Create(Box<Plan>),
    /// The pod is there, in this state.
    Keep(Box<Pod>, PodState),
}

/// What the words about a recovery pod are about.
const ABOUT: About = About {
    kind: BreakglassVM::KIND,
    memory: "raise recoveries.limits.memory of the configuration",
    storage: "raise recoveries.limits.ephemeral-storage of the configuration",
    by_volume: false,
};

/// Decides.
pub(super) fn decide(observed: &Observed, settings: &Settings, now: DateTime<Utc>) -> Decision {
    let session = observed.session.as_ref();
    let pod = observed.pod.as_ref().filter(|pod| is_own(pod, &observed.identity.uid));
    let end = |cause| Decision::End(Ending { cause, at: now, announced: false }, pod.cloned().map(Box::new));
    if let Some(ending) = ending(session, &observed.identity, now) {
        return Decision::End(ending, pod.cloned().map(Box::new));
    }
    if let Some(cause) = lost(session, pod) {
        return end(cause);
    }
    if let Err(problem) = &observed.isolation {
        let cause = Cause::new(Reason::NamespaceNotIsolated, problem);
        return if pod.is_some() { end(cause) } else { Decision::Hold(cause) };
    }
    if let Some(pod) = pod {
        return match look(session, ABOUT, pod, &observed.events, settings, now) {
            PodState::Over(cause) => end(cause),
            state => Decision::Keep(Box::new(pod.clone()), state),
        };
    }
    if observed.pod.is_some() {
        let message = format!("a pod {} that is not Sandglass's stands in the way: delete it", observed.identity.pod_name());
        return Decision::Hold(Cause::new(Reason::PodRefused, message));
    }
    match plan(session, settings) {
        Ok(plan) => Decision::Create(Box::new(plan)),
        Err(cause) => Decision::Hold(cause),
    }
}

/// Checks what the schema cannot see.
pub(super) fn plan(session: &BreakglassVM, settings: &Settings) -> Result<Plan, Cause> {
    let spec = &session.spec;
    let target = &spec.target;
    let (address, key) = (socket("spec.target.address", &target.address, target.port, settings)?, &spec.vault.target_key);
    let target = endpoint("spec.target", address, &target.user, &target.host_keys, key)?;
    let hypervisor = spec.hypervisor.as_ref().zip(spec.vault.hypervisor_key.as_ref());
    let hypervisor = hypervisor.map(|(hypervisor, key)| {
        let address = socket("spec.hypervisor.address", &hypervisor.address, hypervisor.port, settings)?;
        Ok(HypervisorEndpoint {
            endpoint: endpoint("spec.hypervisor", address, &hypervisor.user, &hypervisor.host_keys, key)?,
            vm: hypervisor.vm.clone(),
            verbs: hypervisor.verbs.iter().map(|verb| verb.word().to_owned()).collect(),
        })
    });
    let (vault, vault_address) = vault(&spec.vault, settings)?;
    Ok(Plan { target, hypervisor: hypervisor.transpose()?, vault, vault_address })
}

fn invalid(message: String) -> Cause {
    Cause::new(Reason::InvalidSpec, message)
}

fn socket(field: &str, address: &str, port: i32, settings: &Settings) -> Result<SocketAddr, Cause> {
    let address: IpAddr = address.parse().map_err(|_| invalid(format!("{field}: {address} is not an IP address")))?;
    let port = u16::try_from(port).map_err(|_| invalid(format!("{field}: {port} is not a port")))?;
    allowed(field, SocketAddr::new(address, port), settings)
}

/// The pod gets a hole in its network policy for this address: the installation says which may be.
fn allowed(field: &str, address: SocketAddr, settings: &Settings) -> Result<SocketAddr, Cause> {
    let networks = &settings.configuration.recoveries.allowed_networks;
    let forbidden = settings.must_be_closed.contains(&address) || settings.links.contains(&address);
    if forbidden || !networks.iter().any(|network| network.contains(&address.ip())) {
        return Err(Cause::new(
            Reason::AddressNotAllowed,
            format!("{field}: {address} is outside recoveries.allowedNetworks of the configuration: ask the operator to allow it"),
        ));
    }
    Ok(address)
}

/// The pod shows its token to this server, and whoever has the token can log in to Vault with it: only a server that the
/// installation knows may see it.
fn vault(vault: &Vault, settings: &Settings) -> Result<(VaultEndpoint, SocketAddr), Cause> {
    let socket = VaultServer::socket(&vault.address);
    let socket = socket.ok_or_else(|| invalid(format!("spec.vault.address: {} is not https://IP:port", vault.address)))?;
    if vault.audience == LINK_AUDIENCE {
        return Err(invalid(format!("spec.vault.audience: {LINK_AUDIENCE} is the audience of the pod's link: Vault needs one of its own")));
    }
    let servers = &settings.configuration.recoveries.vault_servers;
    let Some(server) = servers.iter().find(|server| VaultServer::socket(&server.address) == Some(socket)) else {
        return Err(Cause::new(
            Reason::AddressNotAllowed,
            format!(
                "spec.vault.address: {} is not one of recoveries.vaultServers of the configuration: ask the operator to allow it",
                vault.address
            ),
        ));
    };
    let endpoint = VaultEndpoint {
        address: vault.address.trim_end_matches('/').to_owned(),
        certificate_authority: server.ca_bundle.as_ref().unwrap_or(&vault.ca_bundle).clone(),
        auth_mount: vault.auth_mount.clone(),
        role: vault.role.clone(),
    };
    Ok((endpoint, socket))
}

fn endpoint(field: &str, address: SocketAddr, user: &str, host_keys: &[String], key: &KeySource) -> Result<Endpoint, Cause> {
    for line in host_keys {
        PublicKey::from_openssh(line)
            .map_err(|error| invalid(format!("{field}.hostKeys: not a public key in OpenSSH format ({error})")))?;
    }
    Ok(Endpoint { address, user: user.to_owned(), host_keys: host_keys.to_vec(), key: key_place(user, key)? })
}

fn key_place(user: &str, source: &KeySource) -> Result<KeyPlace, Cause> {
    match (&source.kv, &source.ssh) {
        (Some(kv), None) => {
            let dots = |part: &str| part == "." || part == "..";
            if kv.path.split('/').any(dots) {
                return Err(invalid("spec.vault: a path may not have . and .. in it".into()));
            }
            Ok(KeyPlace::Kv { mount: kv.mount.clone(), path: kv.path.clone(), field: kv.field.clone() })
        }
        (None, Some(ssh)) => Ok(KeyPlace::Ssh {
            mount: ssh.mount.clone(),
            role: ssh.role.clone(),
            principal: ssh.principal.clone().unwrap_or_else(|| user.to_owned()),
        }),
        _ => Err(invalid("spec.vault: a key needs exactly one of kv and ssh".into())),
    }
}
