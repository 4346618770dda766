//! The gateway's replicas, from the `EndpointSlices` of the link Service: what agents are told to dial.

use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tracing::warn;

use super::watched;
use crate::link::registry::Registry;

/// Name of the link Service.
const SERVICE: &str = "sandglass-gateway-link";
/// Its name stands in this label of its slices.
const LABEL: &str = "kubernetes.io/service-name";

/// Follows the replicas for ever.
pub async fn watch(client: Client, namespace: String, registry: Arc<Registry>) {
    let api: Api<EndpointSlice> = Api::namespaced(client, &namespace);
    let configuration = watcher::Config::default().labels(&format!("{LABEL}={SERVICE}"));
    let mut stream = std::pin::pin!(watched(api, configuration));
    let mut slices: BTreeMap<String, Vec<SocketAddr>> = BTreeMap::new();
    let mut list = BTreeMap::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => {}
            Ok(watcher::Event::InitApply(slice)) => drop(list.insert(name(&slice), addresses(&slice))),
            Ok(watcher::Event::InitDone) => slices = std::mem::take(&mut list),
            Ok(watcher::Event::Apply(slice)) => drop(slices.insert(name(&slice), addresses(&slice))),
            Ok(watcher::Event::Delete(slice)) => drop(slices.remove(&name(&slice))),
            Err(failure) => {
                list.clear();
                warn!(%failure, "the watch of the gateway's replicas broke; begun anew");
                continue;
            }
        }
        let mut all: Vec<SocketAddr> = slices.values().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        if !all.is_empty() {
            registry.peers.send_if_modified(|known| {
                *known != all && {
                    known.clone_from(&all);
                    true
                }
            });
        }
    }
}

fn name(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

/// The ready addresses of a slice.
fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let port = slice.ports.iter().flatten().find_map(|port| u16::try_from(port.port?).ok());
    let Some(port) = port else { return Vec::new() };
    slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)))
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, port)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_endpoints_count() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "s" }, "addressType": "IPv4", "ports": [ { "port": 8443 } ],
            "endpoints": [
                { "addresses": ["192.0.2.1"], "conditions": { "ready": true } },
                { "addresses": ["192.0.2.2"], "conditions": { "ready": false } },
                { "addresses": ["192.0.2.3"] }
            ]
        }))
        .expect("a slice");
        assert_eq!(addresses(&slice), ["192.0.2.1:8443", "192.0.2.3:8443"].map(|address| address.parse().expect("address")));
    }
}
