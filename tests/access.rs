//! Who gets in, who is kept out, and when those inside are cut: the gateway and the real agent on loopback.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use chrono::{TimeDelta, Utc};
use futures_util::{SinkExt, StreamExt};
use prometheus_client::registry::Registry;
use sandglass::api::session::LinkState;
use sandglass::api::{AnySession, BreakglassVM, DebugSession};
use sandglass::gateway::EXIT_CUT;
use sandglass::gateway::report::Event;
use sandglass::gateway::watch::Farewell;
use sandglass::link::CONTROL_PATH;
use sandglass::link::client::Dialer;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{Bench, Options, eventually, succeeded, text};

/// A shell that stays until it is cut, and its output's file.
fn stay(bench: &Bench, name: &str) -> Child {
    let output = std::fs::File::create(bench.path(name)).expect("file");
    let mut command = bench.client("ssh");
    command.args(["-tt", "s", "echo inside; sleep 1000"]).stdin(Stdio::piped()).stderr(output.try_clone().expect("file")).stdout(output);
    command.spawn().expect("started")
}

fn shown(bench: &Bench, name: &str) -> String {
    std::fs::read_to_string(bench.path(name)).expect("output")
}

/// Waits until a login that stays is cut; gives its last output.
async fn cut_within(bench: &Bench, mut child: Child, name: &str, limit: Duration) -> String {
    let began = Instant::now();
    eventually("the cut", || child.try_wait().expect("waited").is_some()).await;
    assert!(began.elapsed() < limit, "cut after {:?}", began.elapsed());
    let status = child.wait().expect("ended");
    let shown = shown(bench, name);
    assert_eq!(status.code(), i32::try_from(EXIT_CUT).ok(), "{shown}");
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_cuts_those_inside_with_a_last_line() {
    let bench = Bench::start(Options::default()).await;
    let child = stay(&bench, "shell");
    eventually("the shell", || shown(&bench, "shell").contains("inside")).await;
    bench.change_session(|session| {
        let past = (Utc::now() - TimeDelta::minutes(30) + TimeDelta::seconds(8)).to_rfc3339();
        session.metadata.creation_timestamp = serde_json::from_value(past.into()).expect("time");
    });
    let shown = cut_within(&bench, child, "shell", Duration::from_secs(25)).await;
    assert!(shown.contains("this session ends in "), "{shown}");
    assert!(shown.contains("the session has expired"), "{shown}");
    let refused = bench.run(&["true"], b"").await;
    assert_eq!(refused.status.code(), Some(255));
}

/// How many logins ended so, as the metric says.
fn logins(bench: &Bench, outcome: &str) -> u64 {
    let (mut registry, mut metrics) = (Registry::default(), String::new());
    bench.gateway.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut metrics, &registry).expect("encoded");
    let series = format!("sandglass_gateway_logins_total{{outcome=\"{outcome}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).expect("the metric").parse().expect("a number")
}

/// A recovery with the name of the bench's session, for another key.
fn somebody_elses_recovery() -> BreakglassVM {
    let key = support::new_key().public_key().to_openssh().expect("encoded");
    serde_json::from_value(serde_json::json!({
        "apiVersion": "sandglass.dev/v1alpha1", "kind": "BreakglassVM",
        "metadata": { "name": "build-42", "namespace": "ci", "uid": "another", "creationTimestamp": Utc::now().to_rfc3339() },
        "spec": {
            "target": { "address": "192.0.2.1", "user": "root", "hostKeys": [key] },
            "vault": { "address": "https://192.0.2.2:8200", "caBundle": "pem", "role": "r",
                "targetKey": { "kv": { "mount": "secret", "path": "p", "field": "f" } } },
            "requester": "somebody", "access": { "authorizedKeys": [key] }
        }
    }))
    .expect("an object")
}

/// Over, ended by hand, never opened: whoever proves a key of the session is told; a stranger is not.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_too_late_is_told_why() {
    type Change = fn(&mut DebugSession);
    let changes: [(&str, Change); 3] = [
        ("the session has expired", |session| {
            let past = (Utc::now() - TimeDelta::minutes(31)).to_rfc3339();
            session.metadata.creation_timestamp = serde_json::from_value(past.into()).expect("time");
        }),
        ("the session has ended: EndRequested", |session| session.spec.end = true),
        ("the session has ended: ImageRefused: no such image", |session| {
            let open = serde_json::json!({ "type": "Open", "status": "False", "reason": "ImageRefused",
                "message": "no such\nimage", "lastTransitionTime": "2026-01-01T00:00:00Z" });
            let status = serde_json::json!({ "phase": "Failed", "conditions": [open] });
            session.status = Some(serde_json::from_value(status).expect("status"));
        }),
    ];
    for (reason, change) in changes {
        let bench = Bench::start(Options::default()).await;
        bench.change_session(change);
        let refused = bench.run(&["echo inside"], b"").await;
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(255), String::new()));
        let told = text(&refused.stderr);
        assert!(told.contains(&format!("sandglass: {reason}. It does not open again")), "{told}");
        // As often as they like: who proves a key is not shut out for a while.
        for _ in 0..4 {
            assert!(text(&bench.run(&["true"], b"").await.stderr).contains(reason));
        }
        // A recovery of the same name, which lists another key, is looked at first and hides nothing.
        bench.gateway.directory.put(AnySession::Vm(Box::new(somebody_elses_recovery())));
        assert!(text(&bench.run(&["true"], b"").await.stderr).contains(reason));
        eventually("six refusals to be counted", || logins(&bench, "Denied") == 6).await;
        assert_eq!(logins(&bench, "Accepted"), 0);
        let stranger = bench
            .script(r#"ssh-keygen -q -t ed25519 -N '' -f $D/other; sed "s|IdentityFile .*|IdentityFile $D/other|" $D/ssh_config > $D/c; command ssh -F $D/c s true"#)
            .await;
        assert!(text(&stranger.stderr).contains("Permission denied (publickey)"), "{}", text(&stranger.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn end_delete_and_lost_access_cut_within_seconds() {
    type Change = fn(&Bench);
    let changes: [(&str, Change); 3] = [
        ("EndRequested", |bench| bench.change_session(|session| session.spec.end = true)),
        ("deleted", |bench| {
            let name = sandglass::domain::names::ObjectName { namespace: "ci".into(), name: "build-42".into() };
            let session = bench.gateway.directory.named(&name).pop().expect("stored");
            bench.gateway.directory.remove(session.kind(), session.metadata());
        }),
        ("no access", |bench| bench.change_session(|session| session.spec.access.authorized_keys = vec![])),
    ];
    for (reason, change) in changes {
        let bench = Bench::start(Options::default()).await;
        let child = stay(&bench, "shell");
        eventually("the shell", || shown(&bench, "shell").contains("inside")).await;
        change(&bench);
        let shown = cut_within(&bench, child, "shell", Duration::from_secs(20)).await;
        assert!(shown.contains(reason), "{reason}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_the_same_name_is_another_session() {
    let bench = Bench::start(Options::default()).await;
    let child = stay(&bench, "shell");
    eventually("the shell", || shown(&bench, "shell").contains("inside")).await;
    bench.change_session(|session| session.metadata.uid = Some("another".into()));
    assert!(cut_within(&bench, child, "shell", Duration::from_secs(20)).await.contains("deleted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_does_not_read_is_cut_all_the_same() {
    let bench = Bench::start(Options { farewell: Farewell::default(), ..Options::default() }).await;
    let mut command = bench.client("ssh");
    let mut child = command.args(["s", "cat /dev/zero"]).stdout(Stdio::piped()).spawn().expect("started");
    eventually("output", || bench.gateway.metrics.bytes_out.get() > 1 << 20).await;
    assert_eq!(bench.gateway.metrics.connections.get(), 1);
    bench.change_session(|session| session.spec.end = true);
    let began = Instant::now();
    eventually("the connection to be gone", || bench.gateway.metrics.connections.get() == 0).await;
    assert!(began.elapsed() < Duration::from_secs(20));
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_key_gets_in() {
    let bench = Bench::start(Options { configuration: "login: { trustedSources: [ 127.0.0.0/8 ] }", ..Options::default() }).await;
    let output = bench
        .script(
            r#"
            refused() { local code=0; "$@" < /dev/null > $D/out 2>&1 || code=$?; [ $code = 255 ] && grep -q 'Permission denied (publickey)' $D/out || { cat $D/out; echo "not refused: $*"; exit 1; }; }
            ssh-keygen -q -t ed25519 -N '' -f $D/other
            sed "s|IdentityFile .*|IdentityFile $D/other|" $D/ssh_config > $D/other_config; refused command ssh -F $D/other_config s true
            refused ssh -l ci.other s true
            refused ssh -l root s true
            refused ssh -l ci s true
            refused ssh -o PubkeyAuthentication=no s true
            # The right key last of several still gets in.
            for i in 1 2 3; do ssh-keygen -q -t ed25519 -N '' -f $D/wrong$i; done
            sed "s|IdentityFile .*|IdentityFile $D/wrong1\n IdentityFile $D/wrong2\n IdentityFile $D/wrong3\n IdentityFile $D/id|" $D/ssh_config > $D/many
            command ssh -F $D/many s true
            "#,
        )
        .await;
    succeeded(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_gets_in() {
    let bench = Bench::start(Options::default()).await;
    for arguments in ["-t ecdsa -b 256", "-t ecdsa -b 384", "-t ecdsa -b 521", "-t rsa -b 3072"] {
        let output = bench.script(&format!("rm -f $D/k $D/k.pub; ssh-keygen -q {arguments} -N '' -f $D/k")).await;
        succeeded(&output);
        let key = std::fs::read_to_string(bench.path("k.pub")).expect("key").trim().to_owned();
        bench.change_session(|session| session.spec.access.authorized_keys = vec![key]);
        let output = bench.script(r#"sed "s|IdentityFile .*|IdentityFile $D/k|" $D/ssh_config > $D/c; command ssh -F $D/c s true"#).await;
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
    }
    let output = bench.script(r"! command ssh -F $D/c -o PubkeyAcceptedAlgorithms=ssh-rsa s true").await;
    succeeded(&output);
}

/// Certificates of a CA that the configuration names, and of one that it does not.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_get_in_by_their_principals_and_within_their_limits() {
    let authority = support::new_key();
    let line = format!(
        "login: {{ trustedSources: [ 127.0.0.0/8 ] }}\nuserCertificateAuthorities: [ \"{}\" ]\n",
        authority.public_key().to_openssh().expect("encoded")
    );
    let options = Options {
        configuration: Box::leak(line.into_boxed_str()),
        change: |session| {
            session.spec.access.authorized_keys.clear();
            session.spec.access.principals = vec!["octocat".into()];
        },
        ..Options::default()
    };
    let bench = Bench::start(options).await;
    support::write_key(&bench.path("ca"), &authority);
    let output = bench
        .script(
            r#"
            ssh-keygen -q -t ed25519 -N '' -f $D/other-ca
            N=0
            # as CA-OPTIONS... -- : the configuration of a client with such a certificate
            certify() { local ca=$1; shift; N=$((N+1)); cp $D/id $D/id$N; ssh-keygen -y -f $D/id$N > $D/id$N.pub; ssh-keygen -q -s $D/$ca -I test "$@" $D/id$N.pub 2> $D/signed || { cat $D/signed; exit 1; }; sed "s|IdentityFile .*|IdentityFile $D/id$N|" $D/ssh_config > $D/c$N; }
            enter() { command ssh -F $D/c$N "$@" < /dev/null; }
            refused() { local code=0; command ssh -F $D/c$N s true < /dev/null > $D/out 2>&1 || code=$?; [ $code = 255 ] || { echo "$1: got in"; exit 1; }; }
            certify ca -n octocat -V -1m:+5m; enter s true
            certify ca -n somebody,octocat -V -1m:+5m; enter s true
            certify ca -n somebody -V -1m:+5m; refused 'another principal'
            certify ca -V -1m:+5m; refused 'no principal'
            certify other-ca -n octocat -V -1m:+5m; refused 'another CA'
            certify ca -n octocat -V -10m:-5m; refused 'expired'
            certify ca -n octocat -V +5m:+10m; refused 'not valid yet'
            certify ca -h -n octocat -V -1m:+5m; refused 'a host certificate'
            certify ca -n octocat -V -1m:+5m -O critical:surprise@example.com=x; refused 'an unknown critical option'
            certify ca -n octocat -V -1m:+5m -O source-address=192.0.2.0/24; refused 'another source'
            certify ca -n octocat -V -1m:+5m -O source-address=192.0.2.0/24,127.0.0.0/8; enter s true
            certify ca -n octocat -V -1m:+5m -O force-command='echo forced'; [ "$(enter s echo mine)" = forced ]; [ "$(enter s)" = forced ]
            echo 'ls' | command sftp -F $D/c$N -b - s > $D/sftp 2>&1 && { echo 'sftp beside a forced command'; exit 1; } || true
            certify ca -n octocat -V -1m:+5m -O clear; [ "$(enter s echo plain)" = plain ]; ! enter -o LogLevel=INFO -W 127.0.0.1:1 s 2> $D/forward; grep -q LocalForward $D/forward
            enter -tt s tty > $D/tty 2>&1 || true; ! grep -q /dev/pts $D/tty
            "#,
        )
        .await;
    succeeded(&output);
    // When the session is over, a certificate that would have counted is told so, and no other one.
    bench.change_session(|session| session.spec.end = true);
    let output = bench
        .script(
            r"
            said() { command ssh -F $D/c$1 s true < /dev/null 2>&1 || true; }
            said 1 | grep 'the session has ended: EndRequested'
            said 3 | grep 'Permission denied (publickey)'
            ",
        )
        .await;
    succeeded(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_the_pod_sees_why_and_then_gets_in() {
    let mut bench = Bench::without_agent(&Options {
        change: |session| {
            let condition = serde_json::json!({
                "type": "Open", "status": "False", "reason": "Pulling", "message": "pulling registry.example.com/go:1",
                "lastTransitionTime": "2026-01-01T00:00:00Z"
            });
            session.status.as_mut().expect("status").session.conditions = vec![serde_json::from_value(condition).expect("condition")];
        },
        ..Options::default()
    })
    .await;
    let mut child = stay(&bench, "shell");
    eventually("the reason", || shown(&bench, "shell").contains("waiting: Pulling: pulling registry.example.com/go:1")).await;
    bench.start_agent(vec![]);
    eventually("the shell", || shown(&bench, "shell").contains("inside")).await;
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_isolated_serves_nobody() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let open = listener.local_addr().expect("address");
    let mut bench = Bench::without_agent(&Options::default()).await;
    bench.start_agent(vec![open]);
    let report = tokio::time::timeout(Duration::from_secs(20), bench.reports.recv()).await.expect("reported").expect("reported");
    match report.event {
        Event::Link { state: LinkState::NotIsolated, message: Some(message), .. } => {
            assert!(message.contains(&open.to_string()), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!bench.gateway.registry.is_ready(support::POD_UID));
    eventually("the agent to refuse", || !std::path::Path::new(&format!("/proc/{}/fd/0", bench.agent_id())).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_name_the_key_and_both_ends_of_a_connection() {
    let mut bench = Bench::start(Options::default()).await;
    assert!(bench.run(&["true"], b"").await.status.success());
    let mut connected = None;
    loop {
        let report = tokio::time::timeout(Duration::from_secs(10), bench.reports.recv()).await.expect("reported").expect("reported");
        match report.event {
            Event::Connected(record) => {
                assert!(record.key_fingerprint.starts_with("SHA256:"));
                connected = Some(record.id);
            }
            Event::Disconnected { id, .. } => {
                assert_eq!(Some(id), connected);
                break;
            }
            Event::Link { state, .. } => assert_eq!(state, LinkState::Ready),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_takes_only_the_sessions_own_pod() {
    let bench = Bench::start(Options::default()).await;
    for bearer in ["", "another token", "token-of-the-pod-with-more"] {
        let refused = support::dial_link(&bench, CONTROL_PATH, bearer).await.expect_err("refused");
        assert!(refused.contains("403") || refused.contains("401"), "{refused}");
        assert!(bearer.is_empty() || !refused.contains(bearer), "the token is not repeated: {refused}");
    }
    let dialer = Dialer::new(&bench.certificate_authority).expect("a dialer");
    let refused = dialer.channel(bench.link, "guessed-ticket").await.expect_err("refused").to_string();
    assert!(refused.contains("403"), "{refused}");
    // The right token, but the session does not name the pod any more.
    bench.change_session(|session| session.status.as_mut().expect("status").session.pod = None);
    let refused = support::dial_link(&bench, CONTROL_PATH, support::TOKEN).await.expect_err("refused");
    assert!(refused.contains("no session has this pod"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_faster_than_the_news_of_its_pod_is_let_in_at_once() {
    let bench = Bench::without_agent(&Options { change: |session| session.status = None, ..Options::default() }).await;
    let dialled = support::dial_link(&bench, CONTROL_PATH, support::TOKEN);
    let news = async {
        // The link is being reviewed by now; then the controller's status comes.
        tokio::task::yield_now().await;
        bench.change_session(|session| {
            let status = serde_json::json!({ "pod": { "namespace": "d", "name": "p", "uid": support::POD_UID } });
            session.status = Some(serde_json::from_value(status).expect("status"));
        });
    };
    let (socket, ()) = tokio::join!(dialled, news);
    assert!(socket.is_ok(), "{:?}", socket.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_agent_is_disconnected_and_harms_nobody() {
    let bench = Bench::start(Options::default()).await;
    let mut socket = support::dial_link(&bench, CONTROL_PATH, support::TOKEN).await.expect("linked");
    let _ = socket.send(tokio_tungstenite::tungstenite::Message::text("{ nonsense")).await;
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("disconnected");
    bench.wait_for_link().await;
    assert!(bench.run(&["true"], b"").await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_everything_gets_only_its_share() {
    let bench = Bench::start(Options::default()).await;
    let session = support::raw_client(&bench).await;
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..80 {
        match session.channel_open_session().await {
            Ok(channel) => held.push(channel),
            Err(_) => refused += 1,
        }
    }
    assert_eq!((held.len(), refused), (64, 16));
    drop(held);
    // Requests for channels that never were, have no effect.
    assert!(bench.run(&["true"], b"").await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_small_when_idle() {
    let bench = Bench::start(Options::default()).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.agent_id())).expect("status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    let kilobytes: u64 = line.split_whitespace().nth(1).expect("number").parse().expect("number");
    // The test's build is larger than what ships; what it allocates is the same.
    assert!(kilobytes < 4096, "{line}");
}

/// A clock that runs twenty times as fast: a minute passes in three seconds.
fn fast_clock() -> chrono::DateTime<Utc> {
    static START: std::sync::OnceLock<(chrono::DateTime<Utc>, Instant)> = std::sync::OnceLock::new();
    let (wall, began) = START.get_or_init(|| (Utc::now(), Instant::now()));
    *wall + TimeDelta::milliseconds(i64::try_from(began.elapsed().as_millis()).expect("short") * 20)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_terminal_is_warned_and_closed_and_the_session_goes_on() {
    let change = |session: &mut sandglass::api::DebugSession| {
        session.spec.access.idle_timeout = Some("2m".into());
        session.spec.ttl = "1h".into();
    };
    let bench = Bench::start(Options { change, now: fast_clock, ..Options::default() }).await;
    let child = stay(&bench, "shell");
    eventually("the shell", || shown(&bench, "shell").contains("inside")).await;
    let shown = cut_within(&bench, child, "shell", Duration::from_secs(25)).await;
    assert!(shown.contains("closed in a minute") && shown.contains("log in again"), "{shown}");
    assert!(bench.run(&["true"], b"").await.status.success());
}

/// A pod's agent of the test's own making: it asks for the user's ssh-agent without any right.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_cannot_reach_a_users_ssh_agent_unasked() {
    use sandglass::link::frame;
    use sandglass::link::message::{ToAgent, ToGateway};
    use tokio_tungstenite::tungstenite::Message;
    let bench = Bench::without_agent(&Options::default()).await;
    let mut control = support::dial_link(&bench, CONTROL_PATH, support::TOKEN).await.expect("linked");
    control.send(Message::text(serde_json::to_string(&ToGateway::Ready).expect("encoded"))).await.expect("sent");
    bench.wait_for_link().await;
    let client = tokio::spawn({
        let mut command = bench.client("bash");
        command = {
            let mut shell = std::process::Command::new("bash");
            let script = "eval $(ssh-agent) > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT; ssh-add -q $D/id; timeout 60 ssh -F $D/ssh_config -o ForwardAgent=no s true; echo left";
            shell.args(["-c", script]).env("D", bench.folder.path());
            drop(command);
            shell
        };
        support::finish(command, Vec::new())
    });
    let opened = async {
        loop {
            if let Message::Text(text) = control.next().await.expect("open").expect("message")
                && let Ok(ToAgent::Open { ticket, .. }) = serde_json::from_str(&text)
            {
                break ticket;
            }
        }
    };
    let ticket = tokio::time::timeout(Duration::from_mins(1), opened).await.expect("the user's login");
    let dialer = Dialer::new(&bench.certificate_authority).expect("a dialer");
    let (mut channel, _receiver) = dialer.channel(bench.link, &ticket).await.expect("channel").split();
    for number in 0..100_u64 {
        channel.send(frame::encode(frame::AGENT_CONNECTION, &number.to_be_bytes())).await.expect("sent");
    }
    // Nothing is opened for it: the next message about a channel would be an Open.
    let asked = async {
        loop {
            match control.next().await {
                Some(Ok(Message::Text(text))) if text.contains("agentConnection") => break true,
                Some(Ok(_)) => {}
                _ => break false,
            }
        }
    };
    assert!(!tokio::time::timeout(Duration::from_secs(2), asked).await.unwrap_or(false), "the user's ssh-agent was opened");
    drop(channel);
    client.await.expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_reports_without_end_is_disconnected() {
    use tokio_tungstenite::tungstenite::Message;
    let bench = Bench::without_agent(&Options::default()).await;
    let mut socket = support::dial_link(&bench, CONTROL_PATH, support::TOKEN).await.expect("linked");
    for _ in 0..100 {
        if socket.send(Message::text(r#"{"type":"ready"}"#)).await.is_err() {
            break;
        }
    }
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("disconnected");
}
