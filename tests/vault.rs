//! The Vault room against a real `OpenBao`.

// A test that cannot go on fails where it stands, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "vault/support.rs"]
mod support;

use sandglass::vault::{Given, Vault, VaultError, Want, fetch};
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Bao, KEY, NARROW, Reply, handler, jwt, serve, serve_as};
use zeroize::Zeroizing;

fn kv(path: &str, field: &str) -> Want {
    Want::Kv { mount: "vms".to_owned(), path: path.to_owned(), field: field.to_owned() }
}

fn devvm() -> Want {
    kv("breakglass/devvm", "key")
}

const PUBLIC: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDVuHPVqH4ZUkYUKUhRVcSYLvY5fkIVvvYNuyqRiBGNq test";

fn sign(principal: &str) -> Want {
    Want::Sign { mount: "ssh".to_owned(), role: "recovery".to_owned(), public_key: PUBLIC.to_owned(), principal: principal.to_owned() }
}

fn ours() -> Zeroizing<String> {
    jwt("sandglass-vm", "infra.devvm", "vault")
}

/// The reason of a failure; its texts hold no secret.
async fn fails(vault: &Vault, token: &Zeroizing<String>, wants: &[Want]) -> (&'static str, VaultError) {
    let error = fetch(vault, token, wants).await.unwrap_err();
    let shown = format!("{error} | {error:?}");
    println!("{}: {error}", error.reason());
    assert_harmless(&shown);
    assert!(!shown.contains(token.trim()));
    (error.reason(), error)
}

fn assert_harmless(shown: &str) {
    for secret in ["b3BlbnNzaC1rZXkt", "PRIVATE KEY", "OTHER-SECRET", "hvs.", "c2lnbmF0dXJl"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_a_certificate_and_the_token_is_gone() {
    let bao = Bao::start().await;
    for (name, policy, more) in [
        ("narrow", NARROW.to_owned(), json!({})),
        ("uses", NARROW.to_owned(), json!({"token_num_uses": 4})),
        ("tight", NARROW.to_owned(), json!({"token_num_uses": 3})),
        ("both", NARROW.replace("[\"update\"] }\npath \"sys", "[\"create\", \"update\"] }\npath \"sys"), json!({})),
        (
            "plain",
            r#"path "vms/data/breakglass/devvm" { capabilities = ["read"] } path "ssh/sign/recovery" { capabilities = ["update"] }"#
                .to_owned(),
            json!({"token_no_default_policy": false}),
        ),
    ] {
        bao.role(name, &policy, more).await;
        let (vault, seen) = bao.proxy(name, |_, _| None).await;
        let projected = ours();
        let fetched = fetch(&vault, &projected, &[devvm(), sign("debug")]).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fetched.not_revoked, None);
        assert_harmless(&format!("{fetched:?}"));
        let [Given::Key(key), Given::Certificate(certificate)] = fetched.given.as_slice() else { panic!("{fetched:?}") };
        assert_eq!(**key, KEY, "CRLF gone, last line end there");
        assert_certificate(certificate);
        let seen = seen.lock().unwrap().clone();
        let calls: Vec<String> = seen.iter().map(|request| format!("{} {}", request.method, request.path)).collect();
        assert_eq!(
            calls,
            [
                "POST /v1/auth/kubernetes/login",
                "POST /v1/sys/capabilities-self",
                "GET /v1/vms/data/breakglass/devvm?",
                "POST /v1/ssh/sign/recovery",
                "POST /v1/auth/token/revoke-self"
            ]
        );
        assert_eq!(seen[0].header("x-vault-token"), None);
        let login: serde_json::Value = serde_json::from_str(&seen[0].body).unwrap();
        assert_eq!(login, json!({"role": name, "jwt": projected.trim()}));
        let token = seen[2].header("x-vault-token").unwrap();
        assert_eq!(bao.call("GET", "vms/data/breakglass/devvm", &token, None).await.0, 403, "the token works no more");
        assert_eq!(bao.tokens().await, 1, "only root is left");
    }
}

fn assert_certificate(certificate: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key-cert.pub");
    std::fs::write(&file, certificate).unwrap();
    let shown = Command::new("ssh-keygen").arg("-L").arg("-f").arg(&file).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for wanted in ["user certificate", "debug", "permit-pty"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_that_can_do_more_is_refused_before_a_secret_is_read() {
    let bao = Bao::start().await;
    for (at, more) in [
        r#"path "vms/data/breakglass/*" { capabilities = ["read"] }"#,
        r#"path "vms/*" { capabilities = ["read", "list"] }"#,
        r#"path "vms/data/breakglass/dev*" { capabilities = ["read"] }"#,
        r#"path "vms/data/+/devvm" { capabilities = ["read"] }"#,
        r#"path "+/data/breakglass/devvm" { capabilities = ["read"] }"#,
        r#"path "*" { capabilities = ["read"] }"#,
        r#"path "vms/metadata/breakglass/" { capabilities = ["list"] }"#,
        r#"path "vms/metadata/breakglass" { capabilities = ["list"] }"#,
        r#"path "vms/metadata/*" { capabilities = ["list"] }"#,
        r#"path "vms/metadata/breakglass/devvm" { capabilities = ["read"] }"#,
        r#"path "vms/destroy/breakglass/devvm" { capabilities = ["update"] }"#,
        r#"path "vms/data/breakglass/devvm" { capabilities = ["read", "sudo"] }"#,
        r#"path "vms/data/breakglass/devvm" { capabilities = ["read", "update"] }"#,
        r#"path "ssh/sign/*" { capabilities = ["update"] }"#,
        r#"path "ssh/issue/recovery" { capabilities = ["update"] }"#,
        r#"path "ssh/roles/recovery" { capabilities = ["update"] }"#,
        r#"path "auth/kubernetes/role/+" { capabilities = ["update"] }"#,
        r#"path "auth/token/create" { capabilities = ["update"] }"#,
        r#"path "sys/policies/acl/*" { capabilities = ["update"] }"#,
        r#"path "sys/*" { capabilities = ["sudo", "read"] }"#,
        r#"path "identity/*" { capabilities = ["update"] }"#,
    ]
    .iter()
    .enumerate()
    {
        let name = format!("broad{at}");
        bao.role(&name, &format!("{NARROW}\n{more}"), json!({})).await;
        let (vault, seen) = bao.proxy(&name, |_, _| None).await;
        let (reason, error) = fails(&vault, &ours(), &[devvm(), sign("debug")]).await;
        assert_eq!(reason, "VaultRoleTooBroad", "{more}: {error}");
        assert!(matches!(error, VaultError::TooBroad { .. }));
        let paths: Vec<String> = seen.lock().unwrap().iter().map(|request| request.path.clone()).collect();
        assert_eq!(paths, ["/v1/auth/kubernetes/login", "/v1/sys/capabilities-self", "/v1/auth/token/revoke-self"]);
        assert_eq!(bao.tokens().await, 1);
    }
    bao.role("batch", NARROW, json!({"token_type": "batch"})).await;
    assert!(matches!(fails(&bao.vault("batch"), &ours(), &[devvm()]).await, ("VaultRoleTooBroad", VaultError::Irrevocable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_policies_and_keys_that_fail() {
    let bao = Bao::start().await;
    bao.role("narrow", &NARROW.replace("devvm\"", "devvm\" { capabilities = [\"read\"] }\npath \"vms/data/gone/devvm\""), json!({})).await;
    let narrow = bao.vault("narrow");
    for (account, audience, reason) in
        [("infra.devvm", "other", "VaultAudienceWrong"), ("infra.else", "vault", "VaultDenied"), ("deleted", "vault", "VaultDenied")]
    {
        assert_eq!(fails(&narrow, &jwt("sandglass-vm", account, audience), &[devvm()]).await.0, reason, "{account} {audience}");
    }
    assert_eq!(fails(&narrow, &jwt("elsewhere", "infra.devvm", "vault"), &[devvm()]).await.0, "VaultDenied");
    assert_eq!(fails(&narrow, &Zeroizing::new("no\ntoken".to_owned()), &[devvm()]).await.0, "VaultDenied");
    assert!(!fails(&narrow, &Zeroizing::new("aa.bb.cc".to_owned()), &[devvm()]).await.1.is_transient());
    assert_eq!(fails(&bao.vault("nobody"), &ours(), &[devvm()]).await.0, "VaultRoleUnknown");
    assert_eq!(fails(&Vault { auth_mount: "nowhere".to_owned(), ..narrow.clone() }, &ours(), &[devvm()]).await.0, "VaultDenied");

    // The policy.
    assert_eq!(fails(&narrow, &ours(), &[kv("breakglass/second", "key")]).await.0, "VaultPolicyTooNarrow");
    let for_long = json!({"token_ttl": "1h", "token_max_ttl": "1h"});
    bao.role("nocaps", r#"path "vms/data/breakglass/devvm" { capabilities = ["read"] }"#, for_long.clone()).await;
    assert_eq!(fails(&bao.vault("nocaps"), &ours(), &[devvm()]).await.1, VaultError::NoSelfService);
    bao.role("norevoke", &NARROW.replace("auth/token/revoke-self", "auth/token/renew-self"), for_long).await;
    let (_, error) = fails(&bao.vault("norevoke"), &ours(), &[devvm()]).await;
    assert_eq!(error, VaultError::TooNarrow { path: "auth/token/revoke-self".to_owned(), needs: "update" });
    assert_eq!(bao.tokens().await, 3, "what the two roles above left lives until its ttl ends");
    bao.role("few", NARROW, json!({"token_num_uses": 1})).await;
    let (reason, error) = fails(&bao.vault("few"), &ours(), &[devvm()]).await;
    assert_eq!((reason, matches!(error, VaultError::TokenEnded { least: 3, .. })), ("VaultPolicyTooNarrow", true));
    assert_eq!(bao.tokens().await, 3);

    bao.role("few2", NARROW, json!({"token_num_uses": 2})).await;
    let (reason, error) = fails(&bao.vault("few2"), &ours(), &[devvm(), sign("debug")]).await;
    assert_eq!((reason, matches!(error, VaultError::TokenEnded { least: 4, .. })), ("VaultPolicyTooNarrow", true));
    assert_eq!(bao.tokens().await, 3);

    // The key.
    for (path, field, reason) in [
        ("breakglass/none", "key", "VaultKeyMissing"),
        ("breakglass/devvm", "none", "VaultKeyMissing"),
        ("breakglass/devvm", "number", "VaultKeyUnusable"),
        ("breakglass/deleted", "key", "VaultKeyMissing"),
        ("breakglass/destroyed", "key", "VaultKeyMissing"),
    ] {
        let role = path.replace('/', "-");
        bao.role(&role, &NARROW.replace("breakglass/devvm", path), json!({})).await;
        if path.contains("de") && path != "breakglass/devvm" {
            bao.write(&format!("vms/data/{path}"), json!({"data": {"key": "x"}})).await;
            bao.write(&format!("vms/{}/{path}", if path.contains("deleted") { "delete" } else { "destroy" }), json!({"versions": [1]}))
                .await;
        }
        assert_eq!(fails(&bao.vault(&role), &ours(), &[kv(path, field)]).await.0, reason, "{path} {field}");
        assert_eq!(bao.tokens().await, 3);
    }
    bao.role("nomount", &NARROW.replace("vms/data", "nomount/data"), json!({})).await;
    let want = Want::Kv { mount: "nomount".to_owned(), path: "breakglass/devvm".to_owned(), field: "key".to_owned() };
    assert_eq!(fails(&bao.vault("nomount"), &ours(), &[want]).await.0, "VaultKeyMissing");

    // The certificate.
    bao.role("sign", NARROW, json!({})).await;
    assert_eq!(fails(&bao.vault("sign"), &ours(), &[sign("root")]).await.0, "VaultPolicyTooNarrow");
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQC7 x";
    let want = |role: &str, public_key: &str| Want::Sign {
        mount: "ssh".to_owned(),
        role: role.to_owned(),
        public_key: public_key.to_owned(),
        principal: "debug".to_owned(),
    };
    assert_eq!(fails(&bao.vault("sign"), &ours(), &[want("recovery", rsa)]).await.0, "VaultKeyUnusable");
    bao.role("nosign", &NARROW.replace("ssh/sign/recovery", "ssh/sign/none"), json!({})).await;
    assert_eq!(fails(&bao.vault("nosign"), &ours(), &[want("none", PUBLIC)]).await.0, "VaultKeyMissing");
    assert_eq!(bao.tokens().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_answer() {
    let bao = Bao::start().await;
    bao.role("narrow", NARROW, json!({})).await;
    let vault = bao.vault("narrow");

    // Another authority, no authority, another name, no TLS at all.
    let other = serve(handler(|_| async { Reply::Cut })).await;
    for pem in [other.1.as_str(), "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "nonsense"] {
        assert_eq!(
            fails(&Vault { certificate_authority: pem.to_owned(), ..vault.clone() }, &ours(), &[devvm()]).await.0,
            "VaultTlsFailed",
            "{pem}"
        );
    }
    let (port, ca) = serve_as(handler(|_| async { Reply::Cut }), "vault.example").await;
    let misnamed = Vault { address: format!("https://127.0.0.1:{port}"), certificate_authority: ca, ..vault.clone() };
    assert_eq!(fails(&misnamed, &ours(), &[devvm()]).await.0, "VaultTlsFailed");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = Vault { address: format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port()), ..vault.clone() };
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    assert_eq!(fails(&plain, &ours(), &[devvm()]).await.0, "VaultTlsFailed");
    let both = Vault { certificate_authority: format!("{}\n{}", other.1, bao.ca), ..vault.clone() };
    fetch(&both, &ours(), &[devvm()]).await.unwrap();

    // Nobody there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (reason, error) = fails(&Vault { address: format!("https://127.0.0.1:{port}"), ..vault.clone() }, &ours(), &[devvm()]).await;
    assert_eq!((reason, error.is_transient()), ("VaultUnreachable", true));

    // Cut off, redirected, ill.
    for (reply, reason, transient) in
        [("cut", "VaultUnreachable", true), ("redirect", "VaultFailed", false), ("ill", "VaultFailed", true), ("odd", "VaultFailed", false)]
    {
        let address = bao.address.clone();
        let (port, ca) = serve(handler(move |_| {
            let to = format!("{address}/v1/auth/kubernetes/login");
            async move {
                match reply {
                    "cut" => Reply::Cut,
                    "redirect" => Reply::Redirect(to),
                    "ill" => Reply::Answer(500, "{\"errors\":[\"internal error hvs.CAESIJ1abcdefghijklmnop\"]}".to_owned()),
                    _ => Reply::Answer(200, format!("{KEY}hvs.CAESIJ1abcdefghijklmnop")),
                }
            }
        }))
        .await;
        let vault = Vault { address: format!("https://127.0.0.1:{port}"), certificate_authority: ca + &bao.ca, ..vault.clone() };
        let (have, error) = fails(&vault, &ours(), &[devvm()]).await;
        assert_eq!((have, error.is_transient()), (reason, transient), "{reply}");
    }

    // Stopped before the login, then in the middle.
    bao.signal("STOP");
    let begun = Instant::now();
    assert_eq!(fails(&vault, &ours(), &[devvm()]).await.0, "VaultUnreachable");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    bao.signal("CONT");
    let (slow, _) = bao.proxy("narrow", |request, _| request.path.contains("/data/").then_some(Reply::Hang)).await;
    let begun = Instant::now();
    assert_eq!(fails(&slow, &ours(), &[devvm()]).await.0, "VaultUnreachable");
    assert!((9..30).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(bao.tokens().await, 1, "revoked all the same");

    // Sealed, and unsealed.
    assert_eq!(bao.call("PUT", "sys/seal", "root", None).await.0, 204);
    let (reason, error) = fails(&vault, &ours(), &[devvm()]).await;
    assert_eq!((reason, error.is_transient()), ("VaultSealed", true));
    bao.write("sys/unseal", json!({"key": bao.unseal})).await;
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = fetch(&vault, &ours(), &[devvm()]).await {
        assert!(error.is_transient() && Instant::now() < until, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_is_tried_three_times_and_said_when_it_fails() {
    let bao = Bao::start().await;
    bao.role("narrow", NARROW, json!({})).await;
    let ill = || Some(Reply::Answer(500, "{\"errors\":[\"ill\"]}".to_owned()));
    let (vault, seen) =
        bao.proxy("narrow", move |request, count| if request.path.contains("revoke") && count < 3 { ill() } else { None }).await;
    assert_eq!(fetch(&vault, &ours(), &[devvm()]).await.unwrap().not_revoked, None);
    assert_eq!((bao.tokens().await, seen.lock().unwrap().len()), (1, 6));

    // The answer is lost: the second try finds the token gone.
    // Here it is revoked behind the proxy's back.
    let bao = Arc::new(bao);
    let behind = bao.clone();
    let (lossy, seen) = bao
        .proxy("narrow", move |request, count| {
            if !request.path.contains("revoke") || count > 1 {
                return None;
            }
            let (behind, token) = (behind.clone(), request.header("x-vault-token").unwrap());
            let revoke = async move { behind.call("POST", "auth/token/revoke-self", &token, None).await.0 };
            assert_eq!(tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(revoke)), 204);
            Some(Reply::Cut)
        })
        .await;
    assert_eq!(fetch(&lossy, &ours(), &[devvm()]).await.unwrap().not_revoked, None);
    assert_eq!((bao.tokens().await, seen.lock().unwrap().len()), (1, 5));

    let (vault, seen) = bao.proxy("narrow", move |request, _| if request.path.contains("revoke") { ill() } else { None }).await;
    let fetched = fetch(&vault, &ours(), &[devvm()]).await.unwrap();
    assert_eq!(fetched.given.len(), 1, "the key is given all the same");
    assert!(fetched.not_revoked.unwrap().is_transient());
    assert_eq!((bao.tokens().await, seen.lock().unwrap().len()), (2, 6));
}

/// Everything any library logs, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const CHILD: &str = "VAULT_SCRATCH_CHILD";

/// Run by the test below in a process of its own, with an environment that lies about everything.
#[tokio::test]
async fn child() {
    let Ok(settings) = std::env::var(CHILD) else { return };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    let text = |name: &str| settings[name].as_str().unwrap().to_owned();
    let vault = Vault {
        address: text("address"),
        certificate_authority: text("ca"),
        auth_mount: "kubernetes".to_owned(),
        role: "narrow".to_owned(),
    };
    let token = ours();
    let fetched = fetch(&vault, &token, &[devvm(), sign("debug")]).await.unwrap();
    assert_eq!((fetched.given.len(), fetched.not_revoked), (2, None));
    let wrong = Vault { certificate_authority: text("wrong"), ..vault.clone() };
    assert_eq!(fails(&wrong, &token, &[devvm()]).await.0, "VaultTlsFailed");
    let _ = fails(&vault, &token, &[kv("breakglass/second", "key")]).await;
    let _ = fails(&vault, &token, &[sign("root")]).await;
    let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    std::fs::write(text("log"), &said).unwrap();
    assert!(said.len() > 5000, "the log works: {}", said.len());
    assert_harmless(&said);
    assert!(!said.contains(token.trim()) && !said.contains("hunter2"));
    let mut levels = String::new();
    for level in ["ERROR", "WARN", "INFO"] {
        for line in said.lines().filter(|line| line.contains(&format!(" {level} "))) {
            writeln!(levels, "{line}").unwrap();
        }
    }
    println!("{levels}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_environment_changes_nothing_and_nothing_secret_is_logged() {
    let bao = Bao::start().await;
    bao.role("narrow", NARROW, json!({})).await;
    let trap = Arc::new(Mutex::new(Vec::new()));
    let caught = trap.clone();
    let (port, trap_ca) = serve(handler(move |request| {
        caught.lock().unwrap().push(request);
        async { Reply::Answer(200, "{}".to_owned()) }
    }))
    .await;
    let (vault, seen) = bao.proxy("narrow", |_, _| None).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let (trap_file, keylog, bao_file) = (folder.path().join("trap.pem"), folder.path().join("keys"), folder.path().join("bao.pem"));
    std::fs::write(&trap_file, &trap_ca).unwrap();
    // The authority that `wrong` lacks is offered by every variable there is: it must not be believed.
    std::fs::write(&bao_file, &vault.certificate_authority).unwrap();
    let settings = json!({"address": vault.address, "ca": vault.certificate_authority, "wrong": trap_ca, "log": log}).to_string();
    let evil = format!("https://127.0.0.1:{port}");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture"]).env(CHILD, settings);
    for name in [
        "VAULT_ADDR",
        "BAO_ADDR",
        "VAULT_AGENT_ADDR",
        "VAULT_PROXY_ADDR",
        "VAULT_HTTP_PROXY",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ] {
        child.env(name, &evil);
    }
    for name in ["VAULT_CACERT", "SSL_CERT_FILE", "BAO_CACERT"] {
        child.env(name, &bao_file);
    }
    for name in ["VAULT_CAPATH", "SSL_CERT_DIR"] {
        child.env(name, folder.path());
    }
    child.env("VAULT_CLIENT_CERT", &trap_file).env("VAULT_CLIENT_KEY", "/dev/null").env("SSLKEYLOGFILE", &keylog);
    child
        .env("VAULT_TOKEN", "hunter2\n")
        .env("VAULT_SKIP_VERIFY", "true")
        .env("VAULT_NAMESPACE", "hunter2\n")
        .env("VAULT_WRAP_TTL", "5m")
        .env("NO_PROXY", "");
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert!(trap.lock().unwrap().is_empty(), "nothing went elsewhere");
    assert!(!keylog.exists());
    let log = std::fs::read_to_string(&log).unwrap();
    let seen = seen.lock().unwrap();
    let tokens: std::collections::BTreeSet<String> = seen.iter().filter_map(|request| request.header("x-vault-token")).collect();
    assert!(tokens.len() == 3 && tokens.iter().all(|token| token.len() > 20 && !log.contains(token.as_str())));
    assert!(
        seen.len() >= 12
            && seen.iter().all(|request| request.header("x-vault-namespace").is_none() && request.header("x-vault-wrap-ttl").is_none())
    );
    assert!(seen.iter().all(|request| request.header("x-vault-token").is_none_or(|token| token != "hunter2")));
}

#[test]
fn without_a_provider_it_says_so() {
    // The test binary installs one as soon as any other test starts, so this asks a process of its own.
    if std::env::var("VAULT_SCRATCH_BARE").is_ok() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let vault = Vault {
            address: "https://127.0.0.1:1".to_owned(),
            certificate_authority: String::new(),
            auth_mount: "a".to_owned(),
            role: "b".to_owned(),
        };
        let error = runtime.block_on(fetch(&vault, &ours(), &[devvm()])).unwrap_err();
        assert!(matches!(error, VaultError::Setting { what: "program", .. }), "{error}");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_a_provider_it_says_so"])
        .env("VAULT_SCRATCH_BARE", "1")
        .output()
        .unwrap();
    assert!(output.status.success());
}
