//! What a recovery pod does on a machine, against a real sshd and a real ssh-agent; the gateway's end is played by the test. Needs root and
//! Debian's openssh-server.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "recovery_ssh/bench.rs"]
mod bench;
#[path = "recovery_ssh/login.rs"]
mod login;
#[path = "recovery_ssh/slow.rs"]
mod slow;
#[path = "support/sshd.rs"]
mod sshd;
#[path = "recovery_ssh/trouble.rs"]
mod trouble;
#[path = "recovery_ssh/user.rs"]
mod user;

use bench::{Machine, closed_port, command, eventually, is_running, program, text, written};
use russh::keys::HashAlg;
use sandglass::link::frame;
use sandglass::link::message::{Exit, Program, Size, Terminal};
use sandglass::recovery::ssh::{ConnectError, Piece};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use user::Gateway;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_its_two_outputs_and_its_status() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    let mut user = machine.run(&gateway, command("echo out; echo err >&2; exit 7")).await;
    user.rest().await;
    assert_eq!((text(&user.stdout), text(&user.stderr)), ("out\n".into(), "err\n".into()));
    assert_eq!(user.exit, Some(Exit::Code(7)));
    assert!(user.output_ended);
    let mut user = machine.run(&gateway, command("kill -SEGV $$")).await;
    user.rest().await;
    assert_eq!(user.exit, Some(Exit::Signal(11)));
    assert_eq!(text(&user.stdout), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_its_size_modes_and_name() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    let mut process = command("stty size; stty -a | grep -o -- '-echo '; echo $TERM; read x; stty size");
    process.keystrokes = true;
    process.terminal = Some(Terminal { name: "xterm-odd".into(), size: Size { width: 91, height: 17 }, modes: vec![(53, 0)] });
    let mut user = machine.run(&gateway, process).await;
    user.until(|user| text(&user.stdout).contains("xterm-odd")).await;
    assert_eq!(text(&user.stdout), "17 91\r\n-echo \r\nxterm-odd\r\n");
    user.send(frame::RESIZE, br#"{"Width":132,"Height":50}"#).await;
    user.send(frame::STDIN, b"\n").await;
    user.rest().await;
    assert!(text(&user.stdout).ends_with("50 132\r\n"), "{}", text(&user.stdout));
    assert_eq!(user.exit, Some(Exit::Code(0)));
    // Input's end is a terminal's own character.
    let mut process = command("cat");
    process.terminal = Some(Terminal { name: "dumb".into(), size: Size { width: 80, height: 24 }, modes: vec![] });
    let mut user = machine.run(&gateway, process).await;
    user.send(frame::STDIN, b"hello\n").await;
    user.send(frame::CLOSE, &[frame::STDIN]).await;
    user.rest().await;
    assert_eq!(user.exit, Some(Exit::Code(0)));
    assert_eq!(text(&user.stdout), "hello\r\nhello\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_is_refused_is_said() {
    let (machine, gateway) = (Machine::start("PermitTTY no").await, Gateway::start().await);
    let mark = machine.path("mark");
    let mut process = command(&format!("touch {}", mark.display()));
    process.terminal = Some(Terminal { name: "dumb".into(), size: Size { width: 80, height: 24 }, modes: vec![] });
    let mut user = machine.run(&gateway, process).await;
    user.rest().await;
    assert!(
        matches!(&user.exit, Some(Exit::Failed(text)) if text.contains("gives no terminal") && text.contains("ssh -T")),
        "{:?}",
        user.exit
    );
    assert!(!mark.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_are_delivered() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    for (number, name) in [(10, "USR1"), (12, "USR2"), (2, "INT")] {
        let mut user = machine
            .run_as_user(&gateway, command(&format!("trap 'echo got; exit 3' {name}; echo ready; while :; do sleep 0.05; done")))
            .await;
        user.until(|user| text(&user.stdout).contains("ready")).await;
        user.send(frame::SIGNAL, &[number]).await;
        user.rest().await;
        assert_eq!(user.exit, Some(Exit::Code(3)), "{name}");
        assert_eq!(text(&user.stdout), "ready\ngot\n");
    }
    let mut user = machine.run_as_user(&gateway, command("echo ready; exec sleep 1000")).await;
    user.until(|user| !user.stdout.is_empty()).await;
    user.send(frame::SIGNAL, &[15]).await;
    user.rest().await;
    assert_eq!(user.exit, Some(Exit::Signal(15)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sftp_answers_and_its_absence_is_said() {
    let (machine, gateway) = (Machine::start("Subsystem sftp internal-sftp").await, Gateway::start().await);
    let mut user = machine.run(&gateway, program(Program::Sftp)).await;
    user.send(frame::STDIN, &[0, 0, 0, 5, 1, 0, 0, 0, 3]).await;
    user.until(|user| user.stdout.len() > 9).await;
    assert_eq!(user.stdout[4..9], [2, 0, 0, 0, 3]);
    user.send(frame::CLOSE, &[frame::STDIN]).await;
    user.rest().await;
    assert_eq!(user.exit, Some(Exit::Code(0)));
    let machine = Machine::start("").await;
    let mut user = machine.run(&gateway, program(Program::Sftp)).await;
    user.rest().await;
    assert_eq!(user.exit, Some(Exit::Failed("the machine has no SFTP server (`Subsystem sftp` in its sshd_config)".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_has_the_environment_that_the_machine_accepts() {
    let (machine, gateway) = (Machine::start("AcceptEnv LANG").await, Gateway::start().await);
    let mut process = program(Program::Shell);
    process.environment = vec![("LANG".into(), "de_DE.UTF-8".into()), ("OTHER".into(), "x".into())];
    let mut user = machine.run(&gateway, process).await;
    user.send(frame::STDIN, b"echo \"$LANG,$OTHER,$SSH_AUTH_SOCK\"; exit 5\n").await;
    user.rest().await;
    assert!(text(&user.stdout).ends_with("de_DE.UTF-8,,\n"), "{}", text(&user.stdout));
    assert_eq!(user.exit, Some(Exit::Code(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_made_from_the_machine() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    let server = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = server.local_addr().expect("address").port();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.expect("accepted");
        let mut all = Vec::new();
        // Its half-close must come through, and the answer afterwards.
        stream.read_to_end(&mut all).await.expect("read");
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).await.expect("written");
    });
    let tunnel = machine.connect().await.expect("connected").connect_to("127.0.0.1", port).await.expect("a tunnel");
    let (socket, mut user) = gateway.pair().await;
    let bridge = tokio::spawn(tunnel.bridge(socket));
    for _ in 0..100 {
        user.send(frame::STDIN, &[7; 10_000]).await;
    }
    user.send(frame::CLOSE, &[frame::STDIN]).await;
    user.rest().await;
    assert_eq!(text(&user.stdout), "1000000 bytes");
    assert!(user.output_ended);
    drop(user);
    tokio::time::timeout(Duration::from_secs(10), bridge).await.expect("it ends").expect("joined");

    let closed = closed_port().await;
    let failure = machine.connect().await.expect("connected").connect_to("127.0.0.1", closed.port()).await.err().expect("refused");
    assert!(failure.starts_with(&format!("failed to connect to 127.0.0.1:{} from the machine: ", closed.port())), "{failure}");
    assert!(failure.contains("Connection refused"), "{failure}");
    let machine = Machine::start("AllowTcpForwarding no").await;
    let failure = machine.connect().await.expect("connected").connect_to("127.0.0.1", port).await.err().expect("prohibited");
    assert!(failure.contains("AllowTcpForwarding"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_own_agent_is_reached_only_where_asked() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    let users = bench::Agent::start(machine.folder.path(), "user");
    let key = bench::new_key(machine.folder.path(), "user-key", "ed25519");
    users.add(&machine.path("user-key"));
    let mut process = command("ssh-add -l && ssh-add -l");
    process.agent_forward = true;
    let mut user = machine.run(&gateway, process).await;
    let mut served = 0;
    while user.next().await {
        for number in std::mem::take(&mut user.agent_connections) {
            let channel = user.forwards.take(number).expect("it waits");
            assert!(user.forwards.take(number).is_none());
            let (socket, far) = gateway.pair().await;
            tokio::spawn(channel.bridge(socket));
            tokio::spawn(far.join(UnixStream::connect(&users.socket).await.expect("connected")));
            served += 1;
        }
    }
    assert_eq!(user.exit, Some(Exit::Code(0)), "{}", text(&user.stderr));
    assert_eq!(served, 2);
    assert_eq!(text(&user.stdout).matches(&key.fingerprint(HashAlg::Sha256).to_string()).count(), 2);

    // Its channel goes: so does the connection on the machine.
    let mut process = command("ssh-add -l");
    process.agent_forward = true;
    let mut user = machine.run(&gateway, process).await;
    user.until(|user| !user.agent_connections.is_empty()).await;
    let channel = user.forwards.take(user.agent_connections[0]).expect("it waits");
    let (socket, mut far) = gateway.pair().await;
    let bridge = tokio::spawn(channel.bridge(socket));
    far.until(|far| !far.stdout.is_empty()).await;
    bridge.abort();
    user.rest().await;
    assert!(matches!(user.exit, Some(Exit::Code(1..) | Exit::Signal(13))), "{:?}", user.exit);

    // Nobody takes it: the program hears of it.
    let mut process = command("time -p ssh-add -l");
    process.agent_forward = true;
    let began = Instant::now();
    let mut user = machine.run(&gateway, process).await;
    user.rest().await;
    assert_eq!(user.agent_connections.len(), 1);
    assert!(matches!(user.exit, Some(Exit::Code(1..))), "{:?}", user.exit);
    assert!((9..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(user.forwards.take(user.agent_connections[0]).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_direction_may_end_first() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    let mut user = machine.run(&gateway, command("cat; echo more")).await;
    user.send(frame::STDIN, b"abc\n").await;
    user.send(frame::CLOSE, &[frame::STDIN]).await;
    user.rest().await;
    assert_eq!((text(&user.stdout), user.exit), ("abc\nmore\n".into(), Some(Exit::Code(0))));

    let file = machine.path("taken");
    let mut user = machine.run(&gateway, command(&format!("echo first; exec 1>&- 2>&-; cat > {}; exit 4", file.display()))).await;
    user.until(|user| user.output_ended).await;
    assert!(user.exit.is_none());
    user.send(frame::STDIN, b"still taken").await;
    user.send(frame::CLOSE, &[frame::STDIN]).await;
    user.rest().await;
    assert_eq!((text(&user.stdout), user.exit), ("first\n".into(), Some(Exit::Code(4))));
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "still taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_passes_both_ways_at_once() {
    pass_much(64 << 20, &["cat", "gzip -1 -c | gzip -dc"]).await;
}

/// As PID 1 of a recovery pod has it.
#[tokio::test]
async fn much_passes_both_ways_at_once_on_one_thread() {
    pass_much(32 << 20, &["cat"]).await;
}

async fn pass_much(size: usize, lines: &[&str]) {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    for command_line in lines.iter().copied() {
        let mut user = machine.run(&gateway, command(command_line)).await;
        let mut sender = user.take_sender();
        let writer = tokio::spawn(async move {
            for chunk in 0..size / (128 * 1024) {
                sender.send(frame::STDIN, &pattern(chunk)).await;
            }
            sender.send(frame::CLOSE, &[frame::STDIN]).await;
            sender
        });
        user.limit = Duration::from_secs(90);
        user.rest().await;
        drop(writer.await.expect("written"));
        assert_eq!(user.exit, Some(Exit::Code(0)), "{command_line}");
        assert_eq!(user.stdout.len(), size, "{command_line}");
        for (chunk, data) in user.stdout.chunks(128 * 1024).enumerate() {
            assert!(data == pattern(chunk), "{command_line}: chunk {chunk}");
        }
    }
}

fn pattern(chunk: usize) -> Vec<u8> {
    let mut state = u32::try_from(chunk).expect("small") | 1;
    let mut data = Vec::with_capacity(128 * 1024);
    for index in 0..32 * 1024 {
        if index % 7 == 0 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        }
        data.extend_from_slice(&state.to_le_bytes());
    }
    data
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_does_not_read_stops_the_machine_and_is_still_heard() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    let file = machine.path("taken");
    let line = format!("echo $$; exec 3<&0; cat <&3 > {} & exec cat /dev/zero", file.display());
    let mut user = machine.run_as_user(&gateway, command(&line)).await;
    user.until(|user| user.stdout.contains(&b'\n')).await;
    let end = user.stdout.iter().position(|byte| *byte == b'\n').expect("a line");
    let process: u32 = text(&user.stdout[..end]).parse().expect("a process");
    eventually("its output stops", {
        let mut last = (0, 0);
        move || {
            let now = written(process);
            last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
            last.1 > 50
        }
    })
    .await;
    // Windows, kernel buffers, the queue: what is under way, and no more.
    assert!(written(process) < 24 << 20, "{} bytes", written(process));
    // Meanwhile input passes, a window of it, and so do signals.
    user.send(frame::STDIN, &vec![1; 1 << 19]).await;
    user.send(frame::STDIN, &vec![1; 1 << 19]).await;
    eventually("input passes", || std::fs::metadata(&file).is_ok_and(|found| found.len() == 1 << 20)).await;
    user.send(frame::SIGNAL, &[15]).await;
    eventually("the signal passes", || !is_running(process)).await;
    user.rest().await;
    assert_eq!(user.exit, Some(Exit::Signal(15)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_ends_with_its_channel() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    for terminal in [true, false] {
        // With a terminal the machine hangs up; without one it closes the pipes.
        let mut process = command(if terminal { "echo $$; exec sleep 1000" } else { "echo $$; exec cat" });
        process.terminal = terminal.then(|| Terminal { name: "dumb".into(), size: Size { width: 80, height: 24 }, modes: vec![] });
        for abort in [true, false] {
            let mut user = machine.run(&gateway, process.clone()).await;
            user.until(|user| user.stdout.contains(&b'\n')).await;
            let process: u32 = text(&user.stdout).trim().parse().expect("a process");
            assert!(is_running(process));
            if abort {
                user.task.abort();
            } else {
                // The gateway's end goes.
                drop(user);
            }
            eventually("the process is gone", || !is_running(process)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_told() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    let mut user = machine.run(&gateway, command("echo $PPID; exec sleep 1000")).await;
    user.until(|user| user.stdout.contains(&b'\n')).await;
    let server = text(&user.stdout).trim().to_owned();
    bench::finish("kill", &["-KILL", &server]);
    user.rest().await;
    assert!(matches!(&user.exit, Some(Exit::Failed(text)) if text.starts_with("the connection to the machine broke: ")), "{:?}", user.exit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_comes_in_pieces() {
    let machine = Machine::start("").await;
    let mut stream = machine
        .connect()
        .await
        .expect("connected")
        .command("echo said; echo wrong >&2; head -c 3000000 /dev/zero; exit 300")
        .await
        .expect("started");
    let (mut out, mut error, mut end) = (Vec::new(), Vec::new(), None);
    while let Some(piece) = stream.next().await {
        assert!(end.is_none());
        match piece {
            Piece::Stdout(data) => out.extend_from_slice(&data),
            Piece::Stderr(data) => error.extend_from_slice(&data),
            Piece::Ended(exit) => end = Some(exit),
        }
    }
    assert_eq!((out.len(), text(&out[..5]), text(&error)), (3_000_005, "said\n".into(), "wrong\n".into()));
    // 300 & 0xff, as the machine's shell has it.
    assert_eq!(end, Some(Exit::Code(44)));
    let forced = Machine::start("MaxSessions 0").await;
    let failure = forced.connect().await.expect("connected").command("true").await.err().expect("refused");
    assert!(matches!(&failure, ConnectError::NotStarted { request, .. } if request.starts_with("a session")), "{failure}");
}
