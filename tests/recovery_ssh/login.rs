//! Logins: who is met, who is let in, what is said when it does not work, and what the machine may not do.

use super::bench::{self, Machine, closed_port, eventually, program};
use super::trouble;
use super::user::Gateway;
use russh::keys::{Certificate, HashAlg};
use sandglass::link::message::Program;
use sandglass::recovery::ssh::{ConnectError, Forwards, Identity, MACHINE, Place, connect};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_host_key_is_refused_before_anything_is_said() {
    let machine = Machine::start("LogLevel DEBUG3").await;
    let other = bench::new_key(machine.folder.path(), "other", "ed25519");
    let place = Place { host_keys: vec![other.clone()], ..machine.place() };
    let failure = connect(&place, &machine.identity(), &machine.agent.socket).await.err().expect("refused");
    let ConnectError::HostKey { expected, got, .. } = &failure else { panic!("{failure}") };
    assert_eq!(expected, &[other.fingerprint(HashAlg::Sha256).to_string()]);
    assert_eq!(got, &machine.host_keys[0].fingerprint(HashAlg::Sha256).to_string());
    assert!(failure.to_string().contains(got.as_str()) && failure.to_string().contains(expected[0].as_str()), "{failure}");
    eventually("the machine saw the end", || machine.log().contains("Connection closed by")).await;
    assert!(machine.log().contains("SSH2_MSG_NEWKEYS sent"), "{}", machine.log());
    assert!(!machine.log().contains("userauth-request") && !machine.log().contains("for user root"), "{}", machine.log());
    let nobody = Place { host_keys: vec![], ..machine.place() };
    let failure = connect(&nobody, &machine.identity(), &machine.agent.socket).await.err().expect("refused");
    assert!(matches!(failure, ConnectError::HostKey { .. }), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pinned_kind_of_host_key_is_asked_for() {
    let machine = Machine::start("").await;
    assert_eq!(machine.host_keys.len(), 3);
    for key in &machine.host_keys {
        let place = Place { host_keys: vec![key.clone()], ..machine.place() };
        let outcome = connect(&place, &machine.identity(), &machine.agent.socket).await;
        assert!(outcome.is_ok(), "{}: {}", key.algorithm(), outcome.err().map(|failure| failure.to_string()).unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_says_what_to_look_at() {
    let machine = Machine::start("").await;
    let other = bench::new_key(machine.folder.path(), "other", "ed25519");
    machine.agent.add(&machine.path("other"));
    let failure = connect(&machine.place(), &Identity::Key(other), &machine.agent.socket).await.err().expect("refused");
    assert_eq!(failure, ConnectError::Denied { what: MACHINE, user: "root".into(), more: false });
    assert!(failure.to_string().starts_with("the machine does not take the key for user root: is its public half in authorized_keys"));
    let empty = bench::Agent::start(machine.folder.path(), "empty");
    let failure = connect(&machine.place(), &machine.identity(), &empty.socket).await.err().expect("not signed");
    assert!(matches!(failure, ConnectError::NotSigned { .. }), "{failure}");
    let failure = connect(&machine.place(), &machine.identity(), &machine.path("nowhere")).await.err().expect("no holder");
    assert!(matches!(failure, ConnectError::NotSigned { .. }), "{failure}");
    let two = Machine::start("AuthenticationMethods publickey,password").await;
    let failure = connect(&two.place(), &two.identity(), &two.agent.socket).await.err().expect("more wanted");
    assert_eq!(failure, ConnectError::Denied { what: MACHINE, user: "root".into(), more: true });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_kind_and_certificates_log_in() {
    let machine = Machine::start("").await;
    for kind in ["rsa", "ecdsa"] {
        let key = bench::new_key(machine.folder.path(), kind, kind);
        machine.agent.add(&machine.path(kind));
        machine.authorize(&key);
        let outcome = connect(&machine.place(), &Identity::Key(key), &machine.agent.socket).await;
        assert!(outcome.is_ok(), "{kind}: {}", outcome.err().map(|failure| failure.to_string()).unwrap_or_default());
    }
    bench::new_key(machine.folder.path(), "ca", "ed25519");
    let trusting = Machine::start(&format!("TrustedUserCAKeys {}", machine.path("ca.pub").display())).await;
    for kind in ["ed25519", "rsa"] {
        let name = format!("certified-{kind}");
        bench::new_key(trusting.folder.path(), &name, kind);
        let (ca, public) = (machine.path("ca"), trusting.path(&format!("{name}.pub")));
        // A holder with the bare key only, then one that has the certificate too.
        let bare = bench::Agent::start(trusting.folder.path(), &format!("bare-{kind}"));
        bare.add(&trusting.path(&name));
        bench::finish(
            "ssh-keygen",
            &["-q", "-s", &ca.display().to_string(), "-I", "x", "-n", "root", "-V", "-1m:+5m", &public.display().to_string()],
        );
        trusting.agent.add(&trusting.path(&name));
        let certificate = std::fs::read_to_string(trusting.path(&format!("{name}-cert.pub"))).expect("a certificate");
        let identity = Identity::Certificate(Box::new(Certificate::from_openssh(&certificate).expect("a certificate")));
        for holder in [&bare, &trusting.agent] {
            let outcome = connect(&trusting.place(), &identity, &holder.socket).await;
            assert!(outcome.is_ok(), "{kind}: {}", outcome.err().map(|failure| failure.to_string()).unwrap_or_default());
        }
        let failure = connect(&machine.place(), &identity, &trusting.agent.socket).await.err().expect("not trusted there");
        assert!(matches!(failure, ConnectError::Denied { .. }), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_does_not_answer_is_given_up() {
    let machine = Machine::start("").await;
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let half = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (mute_address, half_address) = (mute.local_addr().expect("address"), half.local_addr().expect("address"));
    tokio::spawn(async move {
        let (mut stream, _) = half.accept().await.expect("accepted");
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.expect("written");
        std::future::pending::<()>().await;
    });
    let (full_address, _full) = trouble::full_backlog();
    let attempt = async |address: SocketAddr| {
        let began = Instant::now();
        let place = Place { address, ..machine.place() };
        let failure = connect(&place, &machine.identity(), &machine.agent.socket).await.err().expect("a failure");
        (failure, began.elapsed().as_secs())
    };
    let (refused, mute_end, half_end, full_end) =
        tokio::join!(attempt(closed_port().await), attempt(mute_address), attempt(half_address), attempt(full_address));
    assert!(matches!(refused, (ConnectError::Refused { .. }, 0..=8)), "{refused:?}");
    assert!(matches!(mute_end, (ConnectError::NoBanner { .. }, 9..=25)), "{mute_end:?}");
    assert!(matches!(half_end, (ConnectError::Slow { .. }, 29..=60)), "{half_end:?}");
    assert!(matches!(full_end, (ConnectError::Silent { .. }, 9..=25)), "{full_end:?}");
    drop(mute);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_opens_nothing_that_was_not_asked_for() {
    let gateway = Gateway::start().await;
    let machine = Machine::start("").await;
    for agent_forward in [false, true] {
        let (rogue, outcome) = trouble::rogue(machine.host_private_key()).await;
        let place = Place { address: rogue, ..machine.place() };
        let connection = connect(&place, &machine.identity(), &machine.agent.socket).await.expect("connected");
        let (socket, mut user) = gateway.pair().await;
        let mut process = program(Program::Shell);
        process.agent_forward = agent_forward;
        let forwards = Forwards::default();
        let task = tokio::spawn(async move { connection.process(&process, socket, &forwards).await });
        assert_eq!(
            outcome.await.expect("tried"),
            ["forwarded-tcpip", "forwarded-streamlocal", "x11", "session", "direct-tcpip"].map(|name| (name, false))
        );
        // Of fifty connections, as many as may wait; and no more come after them.
        let waiting = if agent_forward { 16 } else { 0 };
        let mut asked = 0;
        let mut wait = async |limit: Duration, enough: usize| {
            let arrivals = async {
                while asked < enough {
                    user.next().await;
                    asked += std::mem::take(&mut user.agent_connections).len();
                }
            };
            let _ = tokio::time::timeout(limit, arrivals).await;
            asked
        };
        assert_eq!(wait(Duration::from_secs(30), waiting).await, waiting);
        assert_eq!(wait(Duration::from_secs(1), usize::MAX).await, waiting);
        task.abort();
    }
}
