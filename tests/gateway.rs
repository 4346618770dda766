//! The gateway and the real agent on loopback, seen by the ordinary OpenSSH client: what users do.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use sandglass::gateway::watch::Farewell;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Bench, Options, eventually, finish, succeeded, text};

/// A script's standard output; the test fails with its errors when it failed.
#[tokio::test(flavor = "multi_thread")]
async fn commands_have_output_errors_and_exit_status() {
    let bench = Bench::start(Options::default()).await;
    let output = bench.run(&["echo out; echo err >&2; exit 7"], b"").await;
    assert_eq!((output.status.code(), text(&output.stdout), text(&output.stderr)), (Some(7), "out\n".into(), "err\n".into()));
    assert_eq!(bench.run(&["true"], b"").await.status.code(), Some(0));
    let killed = bench.run(&["kill -TERM $$"], b"").await;
    assert_eq!(killed.status.code(), Some(255), "a signal, as ssh reports it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_sees_the_sessions_environment_and_none_of_the_agents() {
    let bench = Bench::start(Options::default()).await;
    let output = bench.run(&[], b"echo $CI; pwd; env | grep -c SANDGLASS; exit 3\n").await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(3), "true\n/tmp\n0\n".into()));
    let listed = std::fs::read_to_string(bench.path("run/stripped-env")).expect("written");
    assert_eq!(listed, "NPM_TOKEN\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_a_terminal() {
    let bench = Bench::start(Options::default()).await;
    let output = bench.run(&["-tt"], b"tty; stty -a | grep -c isig; exit 4\n").await;
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(4), "{shown}");
    assert!(shown.contains("/dev/pts/"), "{shown}");
    assert!(shown.contains("this session ends at"), "{shown}");
    let raw = bench.run(&["-tt", "cat; echo done"], b"x\x04\x04").await;
    assert!(text(&raw.stdout).contains("done"), "end of file by its character: {}", text(&raw.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_pass_up_down_and_both_ways() {
    let bench = Bench::start(Options::default()).await;
    let output = bench
        .script(
            r#"
            head -c 200M /dev/urandom > $D/data
            want=$(sha256sum < $D/data)
            [ "$(ssh s sha256sum < $D/data)" = "$want" ] || { echo up; exit 1; }
            [ "$(ssh s cat $D/data | sha256sum)" = "$want" ] || { echo down; exit 1; }
            [ "$(ssh s cat < $D/data | sha256sum)" = "$want" ] || { echo cat; exit 1; }
            [ "$(ssh s gzip -1 -c < $D/data | gzip -d | sha256sum)" = "$want" ] || { echo gzip; exit 1; }
            [ "$(ssh s 'head -c 3 > /dev/null; echo gone' < $D/data)" = gone ] || { echo unread; exit 1; }
            "#,
        )
        .await;
    succeeded(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_by_sftp_and_scp() {
    let bench = Bench::start(Options::default()).await;
    let output = bench
        .script(
            r#"
            mkdir $D/there
            head -c 5M /dev/urandom > $D/file; chmod 0640 $D/file
            scp -p $D/file s:$D/there/copy
            cmp $D/file $D/there/copy
            [ "$(stat -c %a $D/there/copy)" = 640 ]
            scp s:$D/there/copy $D/back; cmp $D/file $D/back
            mkdir -p $D/tree/a/b; echo x > $D/tree/a/b/c; ln -s c $D/tree/a/b/link
            scp -r $D/tree s:$D/there/; cmp $D/tree/a/b/c $D/there/tree/a/b/c
            printf 'cd %s/there\nmkdir new\nput %s/file new/f\nrename new/f new/g\nls -l new\nchmod 600 new/g\nsymlink g new/s\nget new/g %s/got\nrm new/g\nrm new/s\nrmdir new\npwd\n' $D $D $D > $D/batch
            sftp -b $D/batch s > $D/listed; grep -q 'g$' $D/listed || { cat $D/listed; exit 1; }
            cmp $D/file $D/got
            ! sftp -b - s <<< 'get /does/not/exist' 2> $D/error
            grep -qi 'not found' $D/error
            "#,
        )
        .await;
    succeeded(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_object_does_not_allow_is_refused() {
    let bench = Bench::start(Options { change: |session| session.spec.access.allow = Some(Vec::new()), ..Options::default() }).await;
    let output = bench
        .script(
            r#"
            no() { if "$@"; then echo "let through: $*"; exit 1; fi; } # `!` would not end the script
            says() { grep -qF "$1" $D/said || { echo "not said: $1"; cat $D/said; exit 1; }; }
            no sftp -b /dev/null s 2> $D/said; says 'sandglass: files are not allowed here: spec.access.allow lacks Sftp'
            no scp s:/etc/hostname $D/copy 2> $D/said; says 'spec.access.allow lacks Sftp'
            no ssh -s s netconf < /dev/null 2> $D/said; says 'there is no such subsystem here, only sftp'
            no ssh -o LogLevel=INFO -W 127.0.0.1:1 s < /dev/null 2> $D/said; says 'spec.access.allow lacks LocalForward'
            no ssh -o ExitOnForwardFailure=yes -R 0:127.0.0.1:1 s true 2> $D/said; says 'remote port forwarding failed'
            eval $(ssh-agent) > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT
            ssh -A -tt s 'echo agent=$SSH_AUTH_SOCK.' < /dev/null > $D/said
            says 'your ssh-agent stays outside: spec.access.allow lacks AgentForward'; says 'agent=.'
            [ "$(ssh -A s 'echo ${SSH_AUTH_SOCK:-none}')" = none ]
            "#,
        )
        .await;
    succeeded(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_ssh_agent_is_reachable_through_a_private_socket() {
    let bench = Bench::start(Options::default()).await;
    let output = bench
        .script(
            r#"
            eval $(ssh-agent) > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT
            ssh-add -q $D/id
            mine=$(ssh-add -L)
            [ "$(ssh -A s ssh-add -L)" = "$mine" ]
            [ "$(ssh -A s 'stat -c %a $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK)' | xargs)" = '600 700' ]
            [ "$(ssh s 'echo ${SSH_AUTH_SOCK:-none}')" = none ]
            "#,
        )
        .await;
    succeeded(&output);
    let folder = bench.path("run");
    eventually("the socket's folder to be gone", move || {
        std::fs::read_dir(&folder).expect("run").all(|entry| !entry.expect("entry").file_name().to_string_lossy().starts_with("ssh-agent-"))
    })
    .await;
}

/// A server that answers with what it gets.
async fn echo_server() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn forwards_carry_bytes_and_a_stalled_one_harms_nobody() {
    let bench = Bench::start(Options::default()).await;
    let (silent, echo) = (support::silent_server().await, echo_server().await);
    let output = bench
        .script(&format!(
            r#"
            head -c 20M /dev/urandom > $D/data
            ssh -M -S $D/master -f -N s
            STALLED=
            trap 'kill $STALLED 2> /dev/null || true; ssh -S $D/master -O exit s 2> /dev/null || true' EXIT
            [ "$(ssh -S $D/master -W {echo} s < $D/data | sha256sum)" = "$(sha256sum < $D/data)" ] || {{ echo forward; exit 1; }}
            ! ssh -o LogLevel=INFO -W 127.0.0.1:1 s < /dev/null 2> $D/refused; grep -q 'failed to connect' $D/refused || {{ cat $D/refused; exit 1; }}
            # 200 MB into a server that never reads, beside ten commands on the same connection.
            (head -c 200M /dev/zero | ssh -S $D/master -W {silent} s > /dev/null 2>&1) & STALLED=$!
            for i in $(seq 10); do timeout 10 ssh -F $D/ssh_config -S $D/master s true || {{ echo stalled $i; exit 1; }}; done
            "#
        ))
        .await;
    succeeded(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_channels_share_a_connection() {
    let bench = Bench::start(Options::default()).await;
    let output = bench
        .script(
            r#"
            ssh -M -S $D/master -f -N s
            trap 'ssh -S $D/master -O exit s 2> /dev/null' EXIT
            for i in $(seq 10); do ssh -S $D/master s "head -c 1000000 /dev/zero | wc -c; exit $i" > $D/out$i & PIDS[$i]=$!; done
            for i in $(seq 10); do code=0; wait ${PIDS[$i]} || code=$?; [ $code = $i ] || { echo code $code of $i; exit 1; }; grep -qx 1000000 $D/out$i; done
            "#,
        )
        .await;
    succeeded(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_channel_dies_with_it() {
    let bench = Bench::start(Options::default()).await;
    let mut command = bench.client("ssh");
    let mut child = command
        .args(["s", "(setsid sleep 1001 <&- >&- 2>&- &); sleep 1002 & echo started; wait"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let running = |what: &str| {
        let pattern = format!("sleep\0{what}\0");
        std::fs::read_dir("/proc")
            .expect("proc")
            .any(|entry| std::fs::read(entry.expect("entry").path().join("cmdline")).is_ok_and(|line| line == pattern.as_bytes()))
    };
    eventually("both to run", || running("1001") && running("1002")).await;
    child.kill().expect("killed");
    child.wait().expect("ended");
    eventually("both to be gone", || !running("1001") && !running("1002")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_signals_arrive() {
    use russh::ChannelMsg;
    let bench = Bench::start(Options::default()).await;
    let session = support::raw_client(&bench).await;
    let mut channel = session.channel_open_session().await.expect("channel");
    channel.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await.expect("pty");
    channel
        .exec(true, "trap 'stty size; exit 9' WINCH; trap 'echo termed; exit 8' TERM; stty size; echo ready; while :; do sleep 0.05; done")
        .await
        .expect("exec");
    let mut shown = String::new();
    let mut status = None;
    let mut resized = false;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => shown += &text(&data),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
        if shown.contains("ready") && !resized {
            resized = true;
            channel.window_change(132, 43, 0, 0).await.expect("resized");
        }
    }
    assert!(shown.contains("24 80") && shown.contains("43 132"), "{shown}");
    assert_eq!(status, Some(9));

    let mut channel = session.channel_open_session().await.expect("channel");
    channel.exec(true, "trap 'echo termed; exit 8' TERM; echo ready; while :; do sleep 0.05; done").await.expect("exec");
    let mut status = None;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } if text(&data).contains("ready") => channel.signal(russh::Sig::TERM).await.expect("signalled"),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
    }
    assert_eq!(status, Some(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_keep_nobody_out() {
    let bench = Bench::start(Options::default()).await;
    let mut held = Vec::new();
    for _ in 0..1000 {
        held.push(tokio::net::TcpStream::connect(bench.address).await.expect("connected"));
    }
    let began = Instant::now();
    let output = bench.run(&["true"], b"").await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn rsync_works_over_it() {
    let bench = Bench::start(Options::default()).await;
    let output = bench
        .script(
            r#"
            command -v rsync > /dev/null || { echo "rsync is not installed"; exit 1; }
            mkdir -p $D/tree; for i in $(seq 50); do head -c 10k /dev/urandom > $D/tree/$i; done
            rsync -a -e "ssh -F $D/ssh_config" $D/tree s:$D/copy/
            diff -r $D/tree $D/copy/tree
            "#,
        )
        .await;
    succeeded(&output);
    let _ = finish;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_a_terminal_reaches_a_slow_reader() {
    let bench = Bench::start(Options::default()).await;
    let mut command = bench.client("ssh");
    let mut child = command.args(["-tt", "s", "seq 200000; echo the-end"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut stdout = child.stdout.take().expect("stdout");
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let mut all = Vec::new();
        let mut chunk = [0; 16 * 1024];
        // Slower than the program by far: it is gone long before its output is read.
        while let Ok(count @ 1..) = stdout.read(&mut chunk) {
            all.extend_from_slice(&chunk[..count]);
            std::thread::sleep(Duration::from_millis(5)); // the reader's speed, not a wait
        }
        all
    });
    let all = text(&read.await.expect("read"));
    assert!(all.contains("199999\r\n200000\r\nthe-end"), "{} bytes, the last: {:?}", all.len(), &all[all.len().saturating_sub(100)..]);
    assert_eq!(child.wait().expect("ended").code(), Some(0));
}

/// What a program wrote is on its way when it ends, and so is input that it never read: the one must not take back the other.
#[tokio::test(flavor = "multi_thread")]
async fn input_that_nobody_reads_costs_no_output() {
    let bench = Bench::start(Options::default()).await;
    // The reader begins late: when the program ends, the last of its output waits at the agent.
    let output = bench.script("set +e; yes | ssh s 'head -c 30000000 /dev/zero; exit 3' | (sleep 2; wc -c); echo ${PIPESTATUS[1]}").await;
    assert_eq!(text(&output.stdout), "30000000\n3\n", "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_read_dies_with_its_channel() {
    let bench = Bench::start(Options::default()).await;
    let output =
        bench.script("head -c 20M /dev/zero > $D/data; timeout 3 ssh -F $D/ssh_config s 'exec sleep 1003' < $D/data || true").await;
    succeeded(&output);
    let running = || {
        std::fs::read_dir("/proc")
            .expect("proc")
            .any(|entry| std::fs::read(entry.expect("entry").path().join("cmdline")).is_ok_and(|line| line == b"sleep\x001003\0"))
    };
    eventually("it to be gone", || !running()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_launcher_is_started_anew() {
    let bench = Bench::start(Options::default()).await;
    let launcher = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", bench.agent_id())).expect("children");
    let launcher = launcher.split_whitespace().next().expect("a launcher").to_owned();
    let killed = std::process::Command::new("kill").args(["-9", &launcher]).status().expect("ran");
    assert!(killed.success());
    eventually("the launcher to be gone", || !std::path::Path::new(&format!("/proc/{launcher}")).exists()).await;
    assert_eq!(bench.run(&["exit 5"], b"").await.status.code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_behind_two_addresses_has_one_steady_link() {
    // As in a cluster: the Service's address first, and from the replica its own.
    let bench = Bench::without_agent(&Options::default()).await;
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    bench.gateway.registry.peers.send_replace(vec![proxy.local_addr().expect("address")]);
    let accepted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counted, link) = (std::sync::Arc::clone(&accepted), bench.link);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = proxy.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(link).await.expect("connected");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let mut bench = bench;
    bench.start_agent(Vec::new());
    eventually("the link by the replica's own address", || accepted.load(std::sync::atomic::Ordering::Relaxed) > 0).await;
    bench.wait_for_link().await;
    // Long enough for many redials, if there were any: they begin after 100 ms.
    let until = Instant::now() + Duration::from_secs(2);
    eventually("two seconds", || Instant::now() >= until).await;
    assert_eq!(accepted.load(std::sync::atomic::Ordering::Relaxed), 1, "links by the replica's own address");
    let log = std::fs::read_to_string(bench.path("agent.log")).expect("log");
    assert!(log.matches("linked").count() <= 3, "{log}");
    let output = bench.run(&["true"], b"").await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_stopped_did_not_succeed() {
    // Of a pod whose containers all exit with 0 the kubelet reports Succeeded, and not that it evicted it.
    let mut bench = Bench::start(Options::default()).await;
    assert_eq!(bench.stop_agent(), Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_reaches_every_terminal_with_its_last_line() {
    // OpenSSH drops what it has not shown yet, and the exit status, when a disconnect message comes along with them: a race,
    // so many logins are cut at once.
    let bench = Bench::start(Options { farewell: Farewell::default(), ..Options::default() }).await;
    let mut logins = Vec::new();
    for number in 0..20 {
        let mut client = bench.client("ssh");
        let output = std::fs::File::create(bench.path(&format!("login{number}"))).expect("created");
        client.args(["-tt", "s", "echo he''re; exec sleep 600"]).stdin(Stdio::piped());
        logins.push(client.stdout(output.try_clone().expect("cloned")).stderr(output).spawn().expect("ssh"));
    }
    let seen = |number: usize| text(&std::fs::read(bench.path(&format!("login{number}"))).expect("read"));
    eventually("all logins", || (0..20).all(|number| seen(number).contains("here"))).await;
    bench.change_session(|session| session.spec.end = true);
    let ended = std::cell::RefCell::new(logins);
    eventually("their ends", || ended.borrow_mut().iter_mut().all(|login| login.try_wait().expect("asked").is_some())).await;
    for (number, login) in ended.borrow_mut().iter_mut().enumerate() {
        let (code, seen) = (login.wait().expect("ended").code(), seen(number));
        assert!(code == Some(124) && seen.contains("sandglass: the session has ended"), "login {number}: {code:?} {seen}");
    }
}
