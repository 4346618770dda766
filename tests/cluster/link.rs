//! Who may open the link of a session's pod: the token of that very pod, while its session lives, and nothing else.

use super::harness::{DEBUG, Lab, PROBE_IMAGE, SYSTEM, kubectl, random};
use super::reading::{status, uid};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use sandglass::link::{CONTROL_PATH, SERVER_NAME};
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const NOT_VALID: &str = "403 the token is not one of a session's pod, or no longer valid";

/// A token for a `ServiceAccount`, bound to a pod, as the kubelet gets them.
async fn token(lab: &Lab, namespace: &str, account: &str, audience: &str, pod: &Pod) -> String {
    let request: TokenRequest = serde_json::from_value(json!({
        "spec": {
            "audiences": [audience],
            "expirationSeconds": 600,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid() },
        },
    }))
    .expect("a request");
    let accounts = lab.api_in::<ServiceAccount>(namespace);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.expect("a token");
    answer.status.expect("a token").token
}

/// Asks each gateway for a link with a token: status line and first words of the answers.
async fn dial(lab: &Lab, token: &str) -> Vec<String> {
    let public: ConfigMap = lab.api_in(SYSTEM).get("sandglass-public").await.expect("the installation's public keys");
    let authority = public.data.expect("data")["link-ca.crt"].clone();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM")).expect("a certificate");
    let configuration = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(configuration));
    let gateways =
        lab.api_in::<Pod>(SYSTEM).list(&ListParams::default().labels("app.kubernetes.io/component=gateway")).await.expect("listed");
    let mut answers = Vec::new();
    for gateway in gateways {
        let address = gateway.status.and_then(|status| status.pod_ip).expect("an address");
        let stream = TcpStream::connect((address.as_str(), 8443)).await.expect("connected");
        let mut stream = connector.connect(ServerName::try_from(SERVER_NAME).expect("a name"), stream).await.expect("TLS");
        let request = format!(
            "GET {CONTROL_PATH} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = vec![0; 4096];
        let count = stream.read(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        let status = answer.lines().next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned()).unwrap_or_default();
        answers.push(if status == "101" { status } else { format!("{status} {body}") });
    }
    assert!(!answers.is_empty());
    answers
}

fn assert_all(answers: &[String], expected: &str, what: &str) {
    assert!(answers.iter().all(|answer| answer == expected), "{what}: {answers:?}, not {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_sessions_own_pod_gets_a_link() {
    let lab = Lab::shared("link").await;
    let session = lab.open("s", json!({})).await;
    let pod = lab.pod(&session).await.expect("a pod");
    let audience = "sandglass-gateway";

    for (what, nonsense) in [("garbage", "garbage".to_owned()), ("a made-up token", format!("eyJhbGciOiJSUzI1NiJ9.{}.x", random(40)))] {
        assert_all(&dial(&lab, &nonsense).await, NOT_VALID, what);
    }
    let wrong = token(&lab, DEBUG, "sandglass-debug", "vault", &pod).await;
    assert_all(&dial(&lab, &wrong).await, NOT_VALID, "another audience");

    // Any pod of the cluster may ask for a token of that audience: no session names it.
    let stranger = lab.plain_pod("stranger", PROBE_IMAGE, &["/netprobe", "wait"]).await;
    let strange = token(&lab, &lab.namespace, "default", audience, &stranger).await;
    assert_all(&dial(&lab, &strange).await, "403 no session has this pod", "a pod of another namespace");

    // A pod in the right namespace, of the right shape and account, that no session names.
    let orphan = orphan(&lab, &uid(&session)).await;
    let lost = token(&lab, DEBUG, "sandglass-debug", audience, &orphan).await;
    let answers = dial(&lab, &lost).await;
    kubectl(&["delete", "pod", &orphan.name_any(), "-n", DEBUG, "--grace-period=0", "--force", "--wait=false"]);
    assert_all(&answers, "403 no session has this pod", "a pod that claims the session by its label");

    // Another session's pod is linked as that one's, whatever it wants: this one's users stay here.
    let other = lab.open("other", json!({ "project": "other" })).await;
    let other_pod = lab.pod(&other).await.expect("a pod");
    lab.run(&session, "echo mine > /tmp/whose").await;
    let others = token(&lab, DEBUG, "sandglass-debug", audience, &other_pod).await;
    assert_all(&dial(&lab, &others).await, "101", "the other session's own pod");
    assert_eq!(lab.run(&session, "cat /tmp/whose").await, "mine");

    // A token is good while the session lives; when it ended, at once not any more, although the API server's cache still
    // vouches for it.
    let own = token(&lab, DEBUG, "sandglass-debug", audience, &pod).await;
    assert_all(&dial(&lab, &own).await, "101", "the session's own pod");
    lab.change("s", json!({ "end": true })).await.expect("ended");
    lab.until_no_pod(&session, 15).await;
    let answers = dial(&lab, &own).await;
    assert!(answers.iter().all(|answer| answer.starts_with("403 ")), "the token of a deleted pod: {answers:?}");
    assert!(lab.pod(&other).await.is_some() && status(&lab.get("other").await).ended_at.is_none());
}

/// A pod that looks like the session's; never scheduled.
async fn orphan(lab: &Lab, owner: &str) -> Pod {
    let expires_at = (chrono::Utc::now() + chrono::TimeDelta::minutes(30)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": format!("orphan-{}", random(6)),
            "labels": {
                "app.kubernetes.io/managed-by": "sandglass", "sandglass.dev/owner-uid": owner,
                "sandglass.dev/owner-kind": "DebugSession", "sandglass.dev/network": "Isolated",
            },
            "annotations": {
                "sandglass.dev/owner-namespace": lab.namespace, "sandglass.dev/owner-name": "s",
                "sandglass.dev/project": format!("{}/orphan", lab.namespace), "sandglass.dev/expires-at": expires_at,
            },
        },
        "spec": {
            "schedulerName": "none", "activeDeadlineSeconds": 600, "restartPolicy": "Never", "serviceAccountName": "sandglass-debug",
            "automountServiceAccountToken": false, "enableServiceLinks": false, "priorityClassName": "sandglass-debug", "hostUsers": false,
            "securityContext": { "runAsUser": 0, "runAsGroup": 0, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "session", "image": "local.test/ci-build:1", "command": ["/.sandglass/bin/sandglass-agent", "serve"],
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                "resources": { "limits": { "cpu": "100m", "memory": "64Mi", "ephemeral-storage": "64Mi" } },
                "volumeMounts": [{ "name": "agent", "mountPath": "/.sandglass", "readOnly": true }],
            }],
            "volumes": [{ "name": "agent", "image": { "reference": "local.test/sandglass:e2e", "pullPolicy": "IfNotPresent" } }],
        },
    }))
    .expect("a pod");
    lab.api_in::<Pod>(DEBUG).create(&PostParams::default(), &pod).await.expect("admitted")
}
