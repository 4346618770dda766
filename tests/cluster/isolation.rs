//! The network of a session: closed from the first instruction that a user can run, and proven so.

use super::harness::{DEBUG, Lab, PROBE_IMAGE, SYSTEM, finish, kubectl, text};
use super::reading::{condition, end_reason, has_ended, is_open, is_true, open_message, status, uid};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

fn address_of(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("an address")
}

/// The addresses of the API server and of the node, as the cluster gives them.
async fn api_servers(lab: &Lab) -> Vec<(String, u16)> {
    let service: Service = lab.api_in("default").get("kubernetes").await.expect("the API server's Service");
    let mut found = vec![(service.spec.and_then(|spec| spec.cluster_ip).expect("an address"), 443)];
    let slices = lab.api_in::<k8s_openapi::api::discovery::v1::EndpointSlice>("default");
    let slices = slices.list(&ListParams::default().labels("kubernetes.io/service-name=kubernetes")).await.expect("listed");
    for slice in slices {
        let port = slice.ports.iter().flatten().find_map(|port| u16::try_from(port.port?).ok()).expect("a port");
        found.extend(slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).map(|address| (address.clone(), port)));
    }
    assert!(found.len() >= 2, "{found:?}");
    found
}

async fn service_address(lab: &Lab, name: &str) -> String {
    lab.api_in::<Service>(SYSTEM).get(name).await.expect("a Service").spec.and_then(|spec| spec.cluster_ip).expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_from_the_first_instruction() {
    let lab = Lab::shared("network").await;
    // Something that answers, to tell a closed way from a dead end.
    let listener = lab.plain_pod("listener", PROBE_IMAGE, &["/netprobe", "listen", "7000"]).await;
    let witness = lab.plain_pod("witness", PROBE_IMAGE, &["/netprobe", "wait"]).await;
    let mut closed = api_servers(&lab).await;
    let node = closed.last().expect("the node").0.clone();
    let gateways =
        lab.api_in::<Pod>(SYSTEM).list(&ListParams::default().labels("app.kubernetes.io/component=gateway")).await.expect("listed");
    closed.push((node.clone(), 10250));
    closed.push((node, 32222));
    closed.push((address_of(&listener), 7000));
    for gateway in &gateways {
        closed.push((address_of(gateway), 2222));
        closed.push((address_of(gateway), 8080));
    }
    let mut open: Vec<(String, u16)> = gateways.iter().map(|gateway| (address_of(gateway), 8443)).collect();
    open.push((service_address(&lab, "sandglass-gateway-link").await, 8443));
    // Where nothing is closed, nearly all of them answer: the list means something.
    let from_witness = closed.iter().filter(|(host, port)| {
        let word = kubectl(&["exec", "-n", &lab.namespace, "witness", "--", "/netprobe", "tcp", host, &port.to_string()]);
        word.trim() == "open"
    });
    assert!(from_witness.count() >= 4, "the addresses do not answer anybody");

    let script: Vec<String> =
        closed.iter().chain(&open).map(|(host, port)| format!("echo {host}:{port} $(netprobe tcp {host} {port} 500)")).collect();
    // The login waits for the pod: its command is the first thing that runs.
    let session = lab.session("s", json!({ "source": { "image": PROBE_IMAGE } })).await;
    let session = lab.until(&session.name_any(), 20, "there to be connected to", |session| status(session).connection.is_some()).await;
    let mut first = lab.client_of("ssh", &session);
    first.arg("s").arg(script.join("; "));
    let first = finish(first, 60).await;
    assert!(first.status.success(), "{first:?}");
    let seen = text(&first.stdout);
    let word = |host: &str, port: u16| {
        let mark = format!("{host}:{port} ");
        seen.lines().find_map(|line| line.strip_prefix(&mark)).unwrap_or_else(|| panic!("{mark} in {seen}")).to_owned()
    };
    for (host, port) in &closed {
        assert_ne!(word(host, *port), "open", "{host}:{port}\n{seen}");
    }
    for (host, port) in &open {
        assert_eq!(word(host, *port), "open", "{host}:{port}\n{seen}");
    }
    // And nobody reaches the session.
    let session = lab.until_open("s").await;
    let _server = lab.stay(&session, "exec netprobe listen 7000").await;
    let address = address_of(&lab.pod(&session).await.expect("a pod"));
    assert_eq!(lab.run(&session, "netprobe tcp 127.0.0.1 7000").await, "open");
    let inward = kubectl(&["exec", "-n", &lab.namespace, &witness.name_any(), "--", "/netprobe", "tcp", &address, "7000"]);
    assert_ne!(inward.trim().lines().next(), Some("open"), "another pod reached into the session");
    // Names are not resolved, neither the cluster's nor others.
    assert_eq!(
        lab.run(&session, "cat /etc/resolv.conf | grep -c ^nameserver; grep nameserver /etc/resolv.conf").await,
        "1\nnameserver 127.0.0.1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_way_ends_the_session_before_it_begins() {
    let lab = Lab::shared("hole").await;
    // The one waits for the other, so that the hole in the policy is there before its pod.
    lab.open("first", json!({})).await;
    let session = lab.session("s", json!({})).await;
    lab.until_reason("s", "ProjectBusy").await;
    let servers = api_servers(&lab).await;
    let peers: Vec<_> = servers.iter().map(|(host, _)| json!({ "ipBlock": { "cidr": format!("{host}/32") } })).collect();
    let name = format!("hole-{}", lab.namespace);
    let hole: NetworkPolicy = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "podSelector": { "matchLabels": { "sandglass.dev/owner-uid": uid(&session) } },
            "policyTypes": ["Egress"],
            "egress": [{ "to": peers, "ports": [{ "protocol": "TCP", "port": 443 }, { "protocol": "TCP", "port": servers[1].1 }] }],
        },
    }))
    .expect("a policy");
    let policies = lab.api_in::<NetworkPolicy>(DEBUG);
    policies.create(&PostParams::default(), &hole).await.expect("created");
    lab.change("first", json!({ "end": true })).await.expect("ended");
    let waiting = lab.until("s", 30, "there to be connected to", |session| status(session).connection.is_some()).await;
    let mut early = lab.client_of("ssh", &waiting);
    early.arg("s").arg("echo ran");
    let (early, ended) =
        tokio::join!(finish(early, 60), lab.until("s", 50, "over or open", |session| has_ended(session) || is_open(session)));
    policies.delete(&name, &DeleteParams::default()).await.expect("deleted");
    assert_eq!(text(&early.stdout), "", "a command ran in a session that was not isolated");
    assert_eq!(end_reason(&ended), "NetworkNotIsolated", "{}", open_message(&ended));
    let message = open_message(&ended);
    assert!(message.contains("must be closed") && message.contains("check that the network plugin enforces NetworkPolicy"), "{message}");
    assert!(servers.iter().any(|(host, port)| message.contains(&format!("{host}:{port}"))), "{message}");
    assert!(is_true(&ended, "Stalled"), "{:?}", condition(&ended, "Stalled"));
    lab.until_no_pod(&ended, 15).await;
}

/// An address of the documentation's range (RFC 5737), which counts as the internet: the node has it for as long as this lives, and answers.
struct Outside(tokio::task::JoinHandle<()>);

impl Outside {
    const ADDRESS: &'static str = "198.51.100.7";

    async fn new() -> Self {
        change_address("replace");
        let listener = tokio::net::TcpListener::bind((Self::ADDRESS, 7100)).await.expect("bound");
        Self(tokio::spawn(async move { while listener.accept().await.is_ok() {} }))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.0.abort();
        change_address("del");
    }
}

fn change_address(verb: &str) {
    let address = format!("{}/32", Outside::ADDRESS);
    let status = std::process::Command::new("ip").args(["addr", verb, &address, "dev", "lo"]).status().expect("ip");
    assert!(status.success(), "ip addr {verb} {address}");
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_is_the_internet_and_nothing_of_the_cluster() {
    if !super::node::on_the_node() {
        return;
    }
    let lab = Lab::shared("egress").await;
    let _outside = Outside::new().await;
    let listener = lab.plain_pod("listener", PROBE_IMAGE, &["/netprobe", "listen", "7000"]).await;
    let mut closed = api_servers(&lab).await;
    closed.push((address_of(&listener), 7000));
    closed.push(("169.254.169.254".into(), 80));
    let probe = |host: &str, port: u16| format!("netprobe tcp {host} {port} 500 || true");
    for (network, outside) in [("Egress", true), ("Isolated", false)] {
        let name = network.to_lowercase();
        let session = lab.open(&name, json!({ "source": { "image": PROBE_IMAGE }, "network": network, "project": name })).await;
        assert_eq!(lab.run(&session, &probe(Outside::ADDRESS, 7100)).await == "open", outside, "{network}");
        for (host, port) in &closed {
            assert_ne!(lab.run(&session, &probe(host, *port)).await, "open", "{network}: {host}:{port}");
        }
    }
}
