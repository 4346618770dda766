//! The keyholder as a recovery pod runs it: the real processes, a stand-in for Vault, a real sshd where there is one, and a search of its
//! memory for what must not be there.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "recovery_keyholder/memory.rs"]
mod memory;
#[path = "recovery_keyholder/secrecy.rs"]
mod secrecy;
#[path = "support/sshd.rs"]
mod sshd;
#[path = "recovery_keyholder/vault.rs"]
mod vault;
#[path = "recovery_keyholder/world.rs"]
mod world;

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::signature::Verifier as _;
use russh::keys::ssh_encoding::{Decode as _, Encode as _};
use russh::keys::ssh_key::Signature;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use sandglass::recovery::keyholder::{Identity, Keyholder, Which};
use std::io::{ErrorKind, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use world::{PROGRAM, Raw, Sshd, World, eventually, kv, lives, ssh};

async fn start(request: &sandglass::recovery::keyholder::KeyRequest) -> Keyholder {
    Keyholder::start_program(Path::new(PROGRAM), request).await.unwrap()
}

/// Signs through the socket and verifies.
async fn assert_signs(socket: &Path, identity: &AgentIdentity, key: &PublicKey, hash: Option<HashAlg>) {
    let mut agent = AgentClient::connect_uds(socket).await.unwrap();
    let given = agent.sign_request(identity, hash, Vec::new()).await.unwrap();
    // The client gives the blob with its length before it.
    let signature = Signature::decode(&mut &given[4..]).unwrap();
    let algorithm = if key.algorithm().is_rsa() { Algorithm::Rsa { hash } } else { key.algorithm() };
    assert_eq!(signature.algorithm(), algorithm);
    key.key_data().verify(b"", &signature).unwrap();
}

fn plain(key: &PublicKey) -> AgentIdentity {
    AgentIdentity::PublicKey { key: key.clone(), comment: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_key_signs_through_the_socket() {
    let world = World::new().await;
    for (name, kind) in [
        ("ed25519", &["-t", "ed25519"][..]),
        ("ecdsa", &["-t", "ecdsa", "-b", "384"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("rsa8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
    ] {
        let (_, public) = world.key(name, kind);
        let keyholder = start(&world.request(kv(name), None)).await;
        keyholder.load().await.unwrap();
        let Identity::Key(key) = keyholder.identity(Which::Target).await.unwrap() else { panic!("a certificate") };
        assert_eq!(key, public, "{name}");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(keyholder.socket()), mode(keyholder.socket().parent().unwrap())), (0o600, 0o700));
        let mut agent = AgentClient::connect_uds(keyholder.socket()).await.unwrap();
        let listed = agent.request_identities().await.unwrap();
        assert!(matches!(listed.as_slice(), [AgentIdentity::PublicKey { key, comment }] if *key == public && comment == "target"));
        let hashes = if key.algorithm().is_rsa() { &[Some(HashAlg::Sha256), Some(HashAlg::Sha512)][..] } else { &[None] };
        for hash in hashes {
            assert_signs(keyholder.socket(), &plain(&public), &public, *hash).await;
        }
        if key.algorithm().is_rsa() {
            assert!(agent.sign_request(&plain(&public), None, b"SHA-1".to_vec()).await.is_err());
        }
        let other = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        assert!(agent.sign_request(&plain(other.public_key()), None, Vec::new()).await.is_err());
        assert_eq!(keyholder.identity(Which::Hypervisor).await.unwrap_err().reason, "KeyholderFailed");
        let socket = keyholder.socket().to_owned();
        keyholder.close().await;
        assert!(!socket.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_key_is_certified_anew_when_its_certificate_ends() {
    let world = World::new().await;
    let (_, hypervisor) = world.key("hypervisor", &["-t", "ed25519"]);
    let keyholder = start(&world.request(ssh("root"), Some(kv("hypervisor")))).await;
    keyholder.load().await.unwrap();
    let certificate = |identity| match identity {
        Identity::Certificate(certificate) => *certificate,
        Identity::Key(_) => panic!("a bare key"),
    };
    let first = certificate(keyholder.identity(Which::Target).await.unwrap());
    assert!(matches!(keyholder.identity(Which::Hypervisor).await.unwrap(), Identity::Key(key) if key == hypervisor));
    assert_eq!(certificate(keyholder.identity(Which::Target).await.unwrap()).serial(), first.serial());
    assert_eq!(world.vault.signed(), 1, "a certificate with life left is kept");
    let logins = world.vault.state.lock().unwrap().calls.iter().filter(|call| call.ends_with("/login")).count();
    assert_eq!(logins, 1, "one login for both");
    let public = PublicKey::from(first.public_key().clone());
    let identity = AgentIdentity::Certificate { certificate: first.clone(), comment: String::new() };
    assert_signs(keyholder.socket(), &identity, &public, None).await;

    // Loaded again with less life than a minute.
    world.vault.state.lock().unwrap().life = 40;
    keyholder.load().await.unwrap();
    let renewed = certificate(keyholder.identity(Which::Target).await.unwrap());
    assert_eq!(world.vault.signed(), 3);
    assert_eq!(renewed.public_key(), first.public_key(), "the key stays");
    assert_signs(keyholder.socket(), &identity, &public, None).await;
    let mut agent = AgentClient::connect_uds(keyholder.socket()).await.unwrap();
    let listed = agent.request_identities().await.unwrap();
    assert!(matches!(&listed[0], AgentIdentity::Certificate { certificate, .. } if *certificate == renewed));
    // Vault away: what is left of the old one is used, as long as a login can still work.
    world.vault.state.lock().unwrap().sealed = true;
    assert_eq!(certificate(keyholder.identity(Which::Target).await.unwrap()), renewed);
    // A certificate that is over before it is there.
    world.vault.state.lock().unwrap().sealed = false;
    world.vault.state.lock().unwrap().life = 0;
    let keyholder = start(&world.request(ssh("root"), None)).await;
    let error = keyholder.load().await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.transient), ("VaultKeyUnusable", false));
    assert!(error.message.contains("ssh/sign/recovery") && error.message.contains("clocks"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_name_the_place_and_may_be_tried_again() {
    let world = World::new().await;
    let (text, _) = world.key("breakglass/devvm", &["-t", "ed25519", "-N", "swordfish"]);
    let keyholder = start(&world.request(kv("breakglass/devvm"), None)).await;
    let error = keyholder.load().await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.transient), ("VaultKeyUnusable", false), "{error}");
    assert!(error.message.contains("vms/breakglass/devvm, field key") && error.message.contains("passphrase"), "{error}");
    assert!(text.lines().all(|line| !error.message.contains(line)));
    assert_eq!(keyholder.identity(Which::Target).await.unwrap_err().message, "the keys are not loaded");

    let (_, public) = world.key("devvm", &["-t", "ed25519"]);
    let keyholder = start(&world.request(kv("devvm"), None)).await;
    world.vault.state.lock().unwrap().sealed = true;
    let error = keyholder.load().await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.transient), ("VaultSealed", true), "{error}");
    world.vault.state.lock().unwrap().sealed = false;
    keyholder.load().await.unwrap();
    assert!(matches!(keyholder.identity(Which::Target).await.unwrap(), Identity::Key(key) if key == public));

    std::fs::remove_file(world.path("token")).unwrap();
    let error = keyholder.load().await.unwrap_err();
    assert!(error.reason == "VaultDenied" && error.message.contains("token"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_at_a_real_sshd_by_key_and_by_certificate() {
    let world = World::new().await;
    let (_, public) = world.key("hypervisor", &["-t", "ed25519"]);
    let authority = world.vault.state.lock().unwrap().authority.clone();
    let Some(sshd) = Sshd::start(world.folder.path(), &public, &authority) else {
        return eprintln!("skipped: there is no sshd here");
    };
    sshd.is_up().await;
    let keyholder = start(&world.request(ssh("root"), Some(kv("hypervisor")))).await;
    keyholder.load().await.unwrap();
    for which in [Which::Target, Which::Hypervisor] {
        let configuration = std::sync::Arc::new(russh::client::Config::default());
        let mut session = russh::client::connect(configuration, ("127.0.0.1", sshd.port), Anyone).await.unwrap();
        let mut agent = AgentClient::connect_uds(keyholder.socket()).await.unwrap();
        let outcome = match keyholder.identity(which).await.unwrap() {
            Identity::Key(key) => session.authenticate_publickey_with("root", key, None, &mut agent).await.unwrap(),
            Identity::Certificate(certificate) => {
                session.authenticate_certificate_with("root", *certificate, None, &mut agent).await.unwrap()
            }
        };
        assert!(outcome.success(), "{which:?}: {outcome:?} {}", std::fs::read_to_string(world.path("sshd.log")).unwrap());
    }
    // OpenSSH's own client, which binds the session first.
    let known = world.path("known");
    let client = Command::new("ssh")
        .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-p", &sshd.port.to_string()])
        .arg(format!("-oUserKnownHostsFile={}", known.display()))
        .arg(format!("-oIdentityAgent={}", keyholder.socket().display()))
        .args(["root@127.0.0.1", "echo", "inside"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&client.stdout), "inside\n", "{}", String::from_utf8_lossy(&client.stderr));
}

/// Trusts any host: the test is about the other direction.
struct Anyone;

impl russh::client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_dies_with_its_parent_and_with_its_input() {
    let world = World::new().await;
    world.key("devvm", &["-t", "ed25519"]);
    let request = world.request(kv("devvm"), None);
    // A shell between: its child keeps the pipe to this test, so only the parent's death can end it.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0; \"$0\" recovery-keyholder <&3 & echo $!; wait", PROGRAM]);
    let mut raw = Raw::start_by(&mut shell, &request);
    let process: u32 = raw.line().parse().unwrap();
    raw.load();
    assert!(lives(process));
    raw.child.kill().unwrap();
    eventually("the keyholder dies with its parent", || !lives(process)).await;

    let mut raw = Raw::start(&request);
    raw.load();
    raw.hang_up();
    assert!(raw.child.wait().unwrap().success());
    assert!(!request.socket.exists());

    let keyholder = start(&request).await;
    keyholder.load().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), keyholder.ended()).await.is_err());
    // Killed, it is noticed. The other end of its socket tells who it is.
    let peer = rustix::net::sockopt::socket_peercred(std::os::unix::net::UnixStream::connect(&request.socket).unwrap()).unwrap();
    rustix::process::kill_process(peer.pid, rustix::process::Signal::KILL).unwrap();
    tokio::time::timeout(Duration::from_secs(20), keyholder.ended()).await.unwrap();
    assert_eq!(keyholder.identity(Which::Target).await.unwrap_err().reason, "KeyholderFailed");
    keyholder.close().await;
    // In the place of the dead one's socket, a new one.
    let keyholder = start(&request).await;
    keyholder.load().await.unwrap();
    world.vault.state.lock().unwrap().silent = true;
    assert!(tokio::time::timeout(Duration::from_millis(500), keyholder.load()).await.is_err());
    // Who asked left before the answer: the next one does not get that answer, and nothing is broken.
    world.vault.state.lock().unwrap().silent = false;
    assert!(matches!(keyholder.identity(Which::Target).await.unwrap(), Identity::Key(_)));
    world.vault.state.lock().unwrap().silent = true;
    let began = std::time::Instant::now();
    let (_, ()) = tokio::join!(tokio::time::timeout(Duration::from_millis(100), keyholder.load()), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        keyholder.close().await;
    });
    assert!(began.elapsed() < Duration::from_secs(10), "closing does not wait for Vault");
    let run = |arguments: &[&str]| Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap().status.code();
    for subcommand in ["recovery-keyholder", "recovery-fetch", "recovery-sign"] {
        assert_eq!(run(&[subcommand]), Some(3), "{subcommand} by hand");
    }
}

/// A signature request of the agent protocol, with its length before it.
fn sign_message(key: &PublicKey, data: &[u8], flags: u32) -> Vec<u8> {
    let mut body = vec![13];
    key.to_bytes().unwrap().as_slice().encode(&mut body).unwrap();
    data.encode(&mut body).unwrap();
    flags.encode(&mut body).unwrap();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

/// Whether the other side has closed. A socket with a time limit gives up when a signal comes, and
/// any child of this test program that ends sends one.
fn ended(stream: &mut impl Read) -> std::io::Result<bool> {
    loop {
        match stream.read(&mut [0; 5]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read.map(|bytes| bytes == 0),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_clients_are_cut_and_stall_nobody() {
    let world = World::new().await;
    let (_, public) = world.key("devvm", &["-t", "ed25519"]);
    let request = world.request(kv("devvm"), None);
    let keyholder = start(&request).await;
    keyholder.load().await.unwrap();
    let connect = || {
        let stream = std::os::unix::net::UnixStream::connect(&request.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    // Half a message each; the last of sixteen places is left.
    let mut slow: Vec<_> = (0..15).map(|_| connect()).collect();
    for stream in &mut slow {
        stream.write_all(&[0, 0, 1]).unwrap();
    }
    let began = Instant::now();
    let mut last = connect();
    let mut byte = [0; 5];
    for message in [&[0, 0, 0, 1, 1][..], &[0, 0, 0, 2, 27, 0], &[0, 0, 0, 1, 13], &[0, 0, 0, 1, 19]] {
        last.write_all(message).unwrap();
        last.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0, 0, 0, 1, 5], "{message:?}");
    }
    last.write_all(&sign_message(&public, b"data", 0)).unwrap();
    last.read_exact(&mut byte).unwrap();
    assert_eq!(byte[4], 14);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(ended(&mut connect()).unwrap(), "the seventeenth is closed");
    // A message that takes too long, and one that is too long.
    assert!(ended(&mut slow[0]).unwrap());
    for length in [0, 256 * 1024 + 1, u32::MAX] {
        let mut stream = connect();
        stream.write_all(&length.to_be_bytes()).unwrap();
        // Closed with bytes unread, a socket may say reset instead of its end.
        assert!(ended(&mut stream).unwrap_or(true), "{length}");
    }
    let largest = vec![7; 200 * 1024];
    let mut stream = connect();
    stream.write_all(&sign_message(&public, &largest, 0)).unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte[4], 14);
}
