//! A full node: who has to give way.

use crate::harness::{DEBUG, Lab, PROBE_IMAGE, eventually};
use crate::reading::{end_reason, open_message};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::ListParams;
use sandglass::domain::quantity::thousandths;
use serde_json::json;

/// Thousandths of a processor.
fn cpu(quantity: Option<&Quantity>) -> u128 {
    quantity.and_then(thousandths).unwrap_or(0)
}

/// What is not reserved of the one node's processors.
async fn free_cpu(lab: &Lab) -> u128 {
    let nodes = Api::<Node>::all(lab.client.clone()).list(&ListParams::default()).await.expect("nodes").items;
    assert_eq!(nodes.len(), 1, "made for a cluster of one node");
    let allocatable = nodes[0].status.as_ref().and_then(|status| status.allocatable.clone()).expect("allocatable");
    let pods = Api::<Pod>::all(lab.client.clone()).list(&ListParams::default()).await.expect("pods").items;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let live = pods.iter().filter(|pod| !["Succeeded", "Failed"].contains(&phase(pod).as_str()));
    let containers = live.filter_map(|pod| pod.spec.as_ref()).flat_map(|spec| &spec.containers);
    let asked = |container: &k8s_openapi::api::core::v1::Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.clone()).unwrap_or_default();
        cpu(requests.get("cpu"))
    };
    cpu(allocatable.get("cpu")).saturating_sub(containers.map(asked).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_gives_way_to_a_recovery() {
    let lab = Lab::alone("preempted").await;
    // What earlier tests left would make room when it goes.
    let debug: Api<Pod> = lab.api_in(DEBUG);
    eventually("earlier pods to be gone", 60, async || debug.list(&ListParams::default()).await.expect("listed").items.is_empty()).await;
    let session = lab.open("s", json!({})).await;
    // As much as is free, and half of what the session has: there is room for one of them.
    let wanted = free_cpu(&lab).await + 50;
    lab.create::<Pod>(json!({
        "metadata": { "name": "urgent" },
        "spec": {
            "priorityClassName": "sandglass-breakglass",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "main", "image": PROBE_IMAGE, "command": ["sleep", "60"],
                "resources": { "requests": { "cpu": format!("{wanted}m") } } }],
        },
    }))
    .await;
    let ended = lab.until_ended("s", 60).await;
    assert_eq!(end_reason(&ended), "Preempted", "{}", open_message(&ended));
    assert!(open_message(&ended).contains("create a new DebugSession when the cluster has room"), "{}", open_message(&ended));
    lab.until_no_pod(&session, 20).await;
}
