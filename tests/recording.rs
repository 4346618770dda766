//! What users are shown is what is recorded: a gateway on loopback, the real agent, real clients, and a store that works, is slow, fails.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use chrono::TimeDelta;
use futures::StreamExt;
use object_store::local::LocalFileSystem;
use russh::ChannelMsg;
use russh::keys::PublicKey;
use sandglass::recording::format::{Kind, Stream};
use sandglass::recording::read::{Loaded, State};
use sandglass::recording::seal;
use sandglass::store::Bucket;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::archives::{Faulty, Random, Records, archive, bytes_of, channels_of, events_of};
use support::{Bench, Options, eventually, new_key, raw_client, succeeded, text};
use tempfile::TempDir;

fn in_folder() -> (TempDir, Records) {
    let folder = tempfile::tempdir().expect("folder");
    let store = LocalFileSystem::new_with_prefix(folder.path()).expect("store");
    (folder, Records::over(Bucket::new(Arc::new(store), false)))
}

async fn bench(records: &Records) -> Bench {
    Bench::start(Options { archive: Some(Arc::clone(&records.archive)), ..Options::default() }).await
}

/// The second implementation's words about a recording in a folder.
fn verified_by_script(folder: &TempDir, key: &PublicKey, loaded: &Loaded) -> Output {
    let path = folder.path().join("prefix").join(loaded.name.to_string());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify_recording.py");
    let key = key.to_openssh().expect("encoded");
    std::process::Command::new("python3").arg(script).arg(path).arg("--key").arg(key).output().expect("python3")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_recorded_with_its_streams_its_exit_and_its_events() {
    let (folder, records) = in_folder();
    let bench = bench(&records).await;
    let output = bench.run(&["head -c 5 >/dev/null; printf 'out\\377\\n'; printf 'err\\n' >&2; exit 3"], b"typed").await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let loaded = records.closed().await;
    let channels = channels_of(&loaded);
    assert_eq!((channels.len(), channels[0].opened.kind.as_str()), (1, "Command"));
    assert_eq!(channels[0].exit.as_deref(), Some("code 3"));
    let channel = channels[0].channel;
    assert_eq!(bytes_of(&loaded, channel, Kind::Output), output.stdout);
    assert_eq!(bytes_of(&loaded, channel, Kind::Error), output.stderr);
    let verdict = loaded.verify(&records.key);
    assert_eq!((verdict.problems.as_slice(), verdict.complete), (&[][..], true));
    let events = events_of(&loaded);
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["connection", "login", "channel", "exit", "end"]);
    assert_eq!((&events[0]["requester"], &events[0]["namespace"]), (&"octocat".into(), &"ci".into()));
    assert_eq!((&events[3]["code"], &events[3]["bytesFromUser"]), (&3.into(), &5.into()));
    assert_eq!(events[4]["reason"], "the client left");
    let whole = loaded.audit().expect("events") + &text(&bytes_of(&loaded, channel, Kind::Output));
    assert!(!whole.contains("typed"), "keystrokes are not recorded");
    let script = verified_by_script(&folder, &records.key, &loaded);
    assert!(script.status.success() && text(&script.stdout).starts_with("complete"), "{script:?}");
}

/// One random session through a client of the library's own: what came in on each stream, by the order of bytes.
async fn random_session(bench: &Bench, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let client = raw_client(bench).await;
    let mut channel = client.channel_open_session().await.expect("a channel");
    let terminal = random.below(2) == 0;
    if terminal {
        channel.request_pty(false, "xterm", 80, 24, 0, 0, &[]).await.expect("asked");
    }
    // Bytes of every value, in bursts, on both streams.
    let size = 1 + random.below(200_000);
    let seed = random.next() % 1_000_000;
    let command = format!(
        "head -c {size} /dev/urandom; printf '\\303'; sleep 0.0{}; printf '\\251\\377{seed}'; head -c {} /dev/urandom >&2; exit {}",
        random.below(10),
        random.below(5000),
        random.below(256)
    );
    channel.exec(true, command).await.expect("asked");
    let (mut output, mut errors, mut resizes) = (Vec::new(), Vec::new(), random.below(5));
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => output.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, .. } => errors.extend_from_slice(&data),
            _ => {}
        }
        if terminal && resizes > 0 {
            resizes -= 1;
            let _ = channel.window_change(u32::try_from(1 + random.below(300)).expect("small"), 24, 0, 0).await;
        }
    }
    (output, errors)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_receive_is_what_is_recorded_over_200_random_sessions() {
    let seed = std::env::var("SANDGLASS_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_125);
    println!("seed {seed} (SANDGLASS_TEST_SEED)");
    let (_folder, records) = in_folder();
    let bench = bench(&records).await;
    let sessions = futures::stream::iter(0..200).map(|number| random_session_seeded(&bench, seed + number)).buffer_unordered(8);
    let mut received: Vec<(Vec<u8>, Vec<u8>)> = sessions.collect().await;
    let mut recorded: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for loaded in records.all_closed(200).await {
        let verdict = loaded.verify(&records.key);
        assert_eq!((verdict.problems.as_slice(), verdict.complete), (&[][..], true), "{}", loaded.name);
        let channel = channels_of(&loaded)[0].channel;
        recorded.push((bytes_of(&loaded, channel, Kind::Output), bytes_of(&loaded, channel, Kind::Error)));
    }
    received.sort_unstable();
    recorded.sort_unstable();
    assert!(received == recorded, "what some client received is not what was recorded");
}

async fn random_session_seeded(bench: &Bench, seed: u64) -> (Vec<u8>, Vec<u8>) {
    random_session(bench, &mut Random(seed)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn resizes_and_our_own_words_are_recorded() {
    let (_folder, records) = in_folder();
    let bench = bench(&records).await;
    let client = raw_client(&bench).await;
    let mut channel = client.channel_open_session().await.expect("a channel");
    channel.request_pty(false, "xterm", 80, 24, 0, 0, &[]).await.expect("asked");
    channel.exec(true, "read line; stty size").await.expect("asked");
    channel.window_change(101, 33, 0, 0).await.expect("asked");
    channel.data(&b"go\n"[..]).await.expect("typed");
    let mut output = Vec::new();
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::Data { data } = message {
            output.extend_from_slice(&data);
        }
    }
    assert!(text(&output).contains("33 101"), "{}", text(&output));
    drop((channel, client));
    let loaded = records.closed().await;
    let channel = channels_of(&loaded)[0].channel;
    assert_eq!(bytes_of(&loaded, channel, Kind::Output), output);
    assert_eq!(text(&bytes_of(&loaded, channel, Kind::Resize)), r#"{"height":33,"width":101}"#);
    let markers = text(&bytes_of(&loaded, channel, Kind::Marker));
    assert!(markers.starts_with("login") && markers.contains("this session ends at"), "{markers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keystrokes_are_recorded_where_asked_and_never_while_the_echo_is_off() {
    for (keystrokes, recorded) in [("Never", ""), ("Echoed", "seen\n")] {
        let (_folder, records) = in_folder();
        let options = Options { archive: Some(Arc::clone(&records.archive)), keystrokes, ..Options::default() };
        let bench = Bench::start(options).await;
        let client = raw_client(&bench).await;
        let mut channel = client.channel_open_session().await.expect("a channel");
        channel.request_pty(false, "xterm", 80, 24, 0, 0, &[]).await.expect("asked");
        // Not before its own echo was shown does the echo go off: keystrokes during which it changes count as hidden.
        let shown = bench.path("shown");
        let program =
            format!("echo one; read a; until test -e {}; do sleep 0.02; done; stty -echo; echo two; read b; echo three", shown.display());
        channel.exec(true, program).await.expect("asked");
        let mut output = String::new();
        while let Some(message) = channel.wait().await {
            let ChannelMsg::Data { data } = message else { continue };
            let before = output.clone();
            output.push_str(&text(&data));
            let came = |word: &str| output.contains(word) && !before.contains(word);
            if came("one\r\n") {
                channel.data(&b"seen\n"[..]).await.expect("typed");
            }
            if came("seen\r\n") {
                std::fs::write(&shown, "").expect("written");
            }
            if came("two\r\n") {
                channel.data(&b"hidden\n"[..]).await.expect("typed");
            }
        }
        assert!(output.contains("three"), "{output}");
        drop((channel, client));
        let loaded = records.closed().await;
        let channel = channels_of(&loaded)[0].channel;
        assert_eq!(text(&bytes_of(&loaded, channel, Kind::Keystrokes)), recorded, "{keystrokes}");
        assert!(loaded.objects.values().all(|object| !text(object).contains("hidden")));
        let whole = loaded.audit().expect("events") + &text(&bytes_of(&loaded, channel, Kind::Output));
        assert!(!whole.contains("hidden"), "{whole}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_transfer_and_forwards_are_events() {
    let (_folder, records) = in_folder();
    let bench = bench(&records).await;
    std::fs::write(bench.path("file"), "content\n").expect("written");
    let target = bench.path("copy").display().to_string();
    let output = bench.script(&format!("scp -q $D/file s:{target}; scp -q s:{target} $D/back; cmp $D/file $D/back")).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let loaded = records.all_closed(2).await;
    let events: Vec<serde_json::Value> = loaded.iter().rev().flat_map(events_of).collect();
    let files: Vec<&serde_json::Value> = events.iter().filter(|event| event["event"] == "sftp" && event["operation"] == "file").collect();
    let hash = sandglass::recording::format::sha256(b"content\n");
    assert_eq!(files.len(), 2, "{events:?}");
    assert_eq!(
        (&files[0]["path"], &files[0]["bytesWritten"], &files[0]["sha256Written"]),
        (&target.clone().into(), &8.into(), &hash.clone().into())
    );
    assert_eq!((&files[1]["path"], &files[1]["bytesRead"], &files[1]["sha256Read"]), (&target.into(), &8.into(), &hash.into()));
    assert!(loaded.iter().all(|one| channels_of(one).is_empty()), "nothing was shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn forwards_and_uses_of_the_ssh_agent_are_events_with_their_bytes() {
    let (_folder, records) = in_folder();
    let bench = bench(&records).await;
    let script = r#"
        python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True); c = s.accept()[0]; c.sendall(c.recv(9) * 2)' > $D/port &
        until test -s $D/port; do sleep 0.05; done
        test "$(printf 123456789 | ssh -W 127.0.0.1:$(cat $D/port) s)" = 123456789123456789
        eval "$(ssh-agent)" > /dev/null
        trap 'kill $SSH_AGENT_PID' EXIT
        ssh-add -q $D/id
        ssh -A s ssh-add -l | grep -q ED25519
    "#;
    succeeded(&bench.script(script).await);
    let events: Vec<serde_json::Value> = records.all_closed(2).await.iter().flat_map(events_of).collect();
    let of_kind = |kind: &str| events.iter().find(|event| event["event"] == kind).unwrap_or_else(|| panic!("{kind} in {events:?}"));
    let forward = of_kind("forward");
    assert_eq!((&forward["host"], &forward["bytesFromUser"], &forward["bytesToUser"]), (&"127.0.0.1".into(), &9.into(), &18.into()));
    let agent = of_kind("agent");
    assert!(agent["bytesFromUser"].as_u64() > Some(0) && agent["bytesToUser"].as_u64() > Some(0), "{agent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_waits_for_the_pod_is_recorded_like_any_other() {
    let (_folder, records) = in_folder();
    let mut bench = Bench::without_agent(&Options { archive: Some(Arc::clone(&records.archive)), ..Options::default() }).await;
    std::fs::write(bench.path("file"), "content\n").expect("written");
    let target = bench.path("copy").display().to_string();
    let mut command = bench.client("scp");
    let mut child = command
        .args(["-q", &bench.path("file").display().to_string(), &format!("s:{target}")])
        .stderr(Stdio::piped())
        .spawn()
        .expect("scp");
    let channels = bench.gateway.metrics.clone();
    eventually("the transfer to wait", || channels.bytes_out.get() > 0).await;
    bench.start_agent(Vec::new());
    let output = tokio::task::spawn_blocking(move || child.wait().map(|status| (status, child))).await.expect("joined").expect("ended");
    assert!(output.0.success());
    let loaded = records.closed().await;
    let file = events_of(&loaded).into_iter().find(|event| event["event"] == "sftp" && event["operation"] == "file").expect("the file");
    assert_eq!((&file["path"], &file["bytesWritten"]), (&target.into(), &8.into()));
    // The words about the waiting were shown, so they are on record.
    let channel = channels_of(&loaded)[0].channel;
    assert!(text(&bytes_of(&loaded, channel, Kind::Error)).contains("sandglass: waiting"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_recording_whose_marker_stayed_is_left_as_it_is() {
    let (folder, records) = in_folder();
    let bench = bench(&records).await;
    succeeded(&bench.run(&["true"], b"").await);
    let loaded = records.closed().await;
    let marker = folder.path().join("prefix/open/replica-1").join(&loaded.name.connection);
    let about = loaded.manifest().expect("a manifest").about;
    std::fs::create_dir_all(marker.parent().expect("a folder")).expect("made");
    let content = serde_json::json!({ "folder": loaded.name.to_string(), "startedAt": chrono::Utc::now(), "about": about });
    std::fs::write(&marker, content.to_string()).expect("written");
    let bucket = Bucket::new(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).expect("store")), false);
    seal::look(&archive(&bucket, "replica-2", new_key()), TimeDelta::zero() - TimeDelta::seconds(1)).await.expect("looked");
    assert!(!marker.exists(), "the marker is gone");
    let again = records.library.load(&loaded.name).await.expect("loaded");
    assert_eq!(again.objects.len(), loaded.objects.len());
    assert!(again.verify(&records.key).problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_recorded() {
    let (_folder, records) = in_folder();
    let options = Options {
        archive: Some(Arc::clone(&records.archive)),
        change: |session| session.spec.access.allow = Some(Vec::new()),
        ..Options::default()
    };
    let bench = Bench::start(options).await;
    let output = bench
        .script("ssh -R 0:127.0.0.1:9 s true; sftp -q s < /dev/null && exit 1; ssh -W 127.0.0.1:9 s < /dev/null && exit 1; exit 0")
        .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let events: Vec<serde_json::Value> = records.all_closed(3).await.iter().flat_map(events_of).collect();
    let refused: Vec<&str> =
        events.iter().filter(|event| event["event"] == "refused").map(|event| event["request"].as_str().expect("text")).collect();
    assert!(refused.contains(&"subsystem sftp") && refused.contains(&"forward to 127.0.0.1:9"), "{refused:?}");
    assert!(refused.iter().any(|request| request.starts_with("remote forward of")), "{refused:?}");
}

fn faulty() -> (Arc<Faulty>, Records) {
    let store = Faulty::new();
    let records = Records::over(Bucket::new(Arc::clone(&store) as Arc<dyn object_store::ObjectStore>, true));
    (store, records)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_there_is_no_shell_and_that_is_said() {
    for fault in [1, 2] {
        let (store, records) = faulty();
        let bench = Bench::start(Options { archive: Some(Arc::clone(&records.strict)), ..Options::default() }).await;
        store.fault.store(fault, Ordering::Relaxed);
        let began = Instant::now();
        let output = bench.run(&["echo shown"], b"").await;
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(126), ""));
        assert!(text(&output.stderr).contains("without a recording there is no shell"), "{}", text(&output.stderr));
        // What the connection did is stored as soon as that is possible.
        store.fault.store(0, Ordering::Relaxed);
        let loaded = records.closed().await;
        assert!(loaded.verify(&records.key).problems.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_shell_is_cut_when_its_recording_cannot_be_kept() {
    for fault in [1, 2] {
        let (store, records) = faulty();
        let bench = bench(&records).await;
        let mut command = bench.client("ssh");
        command
            .args(["s", "echo first; read line; head -c 100000000 /dev/urandom"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let mut stdin = child.stdin.take().expect("stdin");
        let mut stdout = child.stdout.take().expect("stdout");
        let mut first = [0; 6];
        std::io::Read::read_exact(&mut stdout, &mut first).expect("the first line");
        store.fault.store(fault, Ordering::Relaxed);
        std::io::Write::write_all(&mut stdin, b"go\n").expect("typed");
        let (output, rest) = tokio::task::spawn_blocking(move || {
            let mut rest = Vec::new();
            std::io::Read::read_to_end(&mut stdout, &mut rest).expect("read");
            (child.wait_with_output().expect("ended"), rest)
        })
        .await
        .expect("joined");
        let message = text(&output.stderr);
        assert!(message.contains("what cannot be recorded is not shown"), "{message}");
        assert_eq!(output.status.code(), Some(124), "{message}");
        assert!(rest.len() < 18 * 1024 * 1024, "{} bytes were shown", rest.len());
        // Nothing that was shown is lost: it is stored once the store is back.
        store.fault.store(0, Ordering::Relaxed);
        let loaded = records.closed().await;
        assert!(loaded.verify(&records.key).problems.is_empty());
        let recorded = bytes_of(&loaded, channels_of(&loaded)[0].channel, Kind::Output);
        let shown = [&first[..], &rest].concat();
        assert!(recorded.starts_with(&shown), "{} bytes were shown, {} recorded", shown.len(), recorded.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_slows_down_and_loses_nothing() {
    let (store, records) = faulty();
    let bench = bench(&records).await;
    store.delay.store(200, Ordering::Relaxed);
    let output = bench.run(&["head -c 40000000 /dev/urandom"], b"").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(output.stdout.len(), 40_000_000);
    let loaded = records.closed().await;
    assert!(bytes_of(&loaded, channels_of(&loaded)[0].channel, Kind::Output) == output.stdout);
    assert!(loaded.verify(&records.key).complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_stored_while_the_session_goes_on() {
    let (store, records) = faulty();
    let bench = bench(&records).await;
    let mut child = bench.client("ssh").args(["s", "echo early; exec sleep 60"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut early = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut early).expect("a line");
    assert_eq!(records.holds(&early).await.state, State::Running);
    drop(store);
    child.kill().expect("killed");
    let _ = child.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_whose_replica_died_is_closed_once_by_whoever_looks() {
    let (folder, records) = in_folder();
    let bench = bench(&records).await;
    let mut command = bench.client("ssh");
    command
        .args(["s", "echo before; read line; echo after; exec sleep 60"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let mut before = [0; 7];
    std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut before).expect("a line");
    let stored = || walk(&folder).iter().any(|name| name.ends_with("output-00000001.zst"));
    eventually("the chunk behind the channel's beginning", stored).await;
    // The replica gives no sign of life: others judge by its marker.
    let store = LocalFileSystem::new_with_prefix(folder.path()).expect("store");
    let bucket = Bucket::new(Arc::new(store), false);
    let key = new_key();
    let (second, third) = (archive(&bucket, "replica-2", key.clone()), archive(&bucket, "replica-3", key.clone()));
    seal::look(&second, TimeDelta::seconds(30)).await.expect("looked");
    assert!(!walk(&folder).iter().any(|name| name.ends_with("manifest.json")), "it is not dead yet");
    let dead = TimeDelta::zero() - TimeDelta::seconds(1);
    let (one, other) = tokio::join!(seal::look(&second, dead), seal::look(&third, dead));
    one.expect("looked");
    other.expect("looked");
    let sealed = second.metrics.sealed_incomplete.get() + third.metrics.sealed_incomplete.get();
    assert_eq!(sealed, 1, "closed by exactly one");
    let loaded = records.closed().await;
    let verdict = loaded.verify(key.public_key());
    assert_eq!((verdict.problems.as_slice(), verdict.complete), (&[][..], false));
    assert_eq!(bytes_of(&loaded, channels_of(&loaded)[0].channel, Kind::Output), before);
    let manifest = loaded.manifest().expect("a manifest");
    assert!(Stream::ALL.iter().all(|stream| !manifest.chunks(*stream).is_empty()));
    // The dead one lives after all: it runs into the fence, and its user is cut.
    std::io::Write::write_all(child.stdin.as_mut().expect("stdin"), b"go\n").expect("typed");
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().expect("ended")).await.expect("joined");
    assert_eq!(output.status.code(), Some(124));
    assert!(text(&output.stderr).contains("another gateway took this one for dead"), "{}", text(&output.stderr));
    // What it had not stored goes into a second recording: nothing that was shown is lost.
    let all = records.all_closed(2).await;
    let second = all.iter().find(|one| one.name.connection.ends_with("-2")).expect("a second recording");
    let verdict = second.verify(&records.key);
    assert_eq!((verdict.problems.as_slice(), verdict.complete), (&[][..], true));
    let rest: Vec<u8> =
        second.records().expect("records").iter().filter(|one| one.kind == Kind::Output).flat_map(|one| one.data.to_vec()).collect();
    assert!(rest.starts_with(b"after\n"), "{}", text(&rest));
    assert_eq!(events_of(second)[1]["recording"], loaded.name.connection.as_str());
    let loaded = records.library.load(&loaded.name).await.expect("loaded");
    assert!(loaded.verify(key.public_key()).problems.is_empty());
    let script = verified_by_script(&folder, key.public_key(), &loaded);
    assert!(script.status.success() && text(&script.stdout).starts_with("incomplete"), "{script:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_behind_a_fence_closes_its_second_recording() {
    let (folder, records) = in_folder();
    let bench = bench(&records).await;
    let mut command = bench.client("ssh");
    let mut child = command.args(["s", "echo before; exec sleep 60"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut before = [0; 7];
    std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut before).expect("a line");
    eventually("what was shown", || walk(&folder).iter().any(|name| name.ends_with("output-00000001.zst"))).await;
    let bucket = Bucket::new(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).expect("store")), false);
    seal::look(&archive(&bucket, "replica-2", new_key()), TimeDelta::zero() - TimeDelta::seconds(1)).await.expect("looked");
    // Nothing is written between the fence and the end: the end itself runs into it.
    child.kill().expect("killed");
    let _ = child.wait();
    let all = records.all_closed(2).await;
    let second = all.iter().find(|one| one.name.connection.ends_with("-2")).expect("a second recording");
    assert!(second.verify(&records.key).complete);
    let script = verified_by_script(&folder, &records.key, second);
    assert!(script.status.success() && text(&script.stdout).starts_with("complete"), "{script:?}");
    tokio::time::timeout(Duration::from_secs(10), records.archive.closed()).await.expect("no recording is open");
}

fn walk(folder: &TempDir) -> Vec<String> {
    let listed = std::process::Command::new("find").arg(folder.path()).args(["-type", "f"]).output().expect("find");
    text(&listed.stdout).lines().map(str::to_owned).collect()
}

/// Finds what was done to a recording, and says so: both implementations.
async fn found_out(what: &str, damage: impl Fn(&std::path::Path), complaint: &str) {
    let (folder, records) = in_folder();
    let bench = bench(&records).await;
    // Three chunks: one a second and a half.
    let output = bench.run(&["for n in 1 2 3; do echo $n; sleep 1.8; done"], b"").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let loaded = records.closed().await;
    assert!(loaded.manifest().expect("a manifest").chunks(Stream::Output).len() >= 3);
    damage(&folder.path().join("prefix").join(loaded.name.to_string()));
    let damaged = records.library.load(&loaded.name).await.expect("loaded");
    let verdict = damaged.verify(&records.key);
    assert!(verdict.problems.iter().any(|problem| problem == complaint), "{what}: {:?}", verdict.problems);
    let script = verified_by_script(&folder, &records.key, &loaded);
    assert!(script.status.code() == Some(1) && text(&script.stdout).contains(complaint), "{what}: {script:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_damage_is_found_and_named() {
    let change = |folder: &std::path::Path| {
        let path = folder.join("output-00000001.zst");
        let mut bytes = std::fs::read(&path).expect("read");
        *bytes.last_mut().expect("a byte") ^= 1;
        std::fs::write(path, bytes).expect("written");
    };
    let remove = |folder: &std::path::Path| std::fs::remove_file(folder.join("output-00000001.zst")).expect("removed");
    let swap = |folder: &std::path::Path| {
        let (a, b) = (folder.join("output-00000001.zst"), folder.join("output-00000002.zst"));
        std::fs::rename(&a, folder.join("x")).expect("renamed");
        std::fs::rename(&b, &a).expect("renamed");
        std::fs::rename(folder.join("x"), &b).expect("renamed");
    };
    let add = |folder: &std::path::Path| {
        std::fs::copy(folder.join("output-00000001.zst"), folder.join("output-00000099.zst")).expect("copied");
    };
    tokio::join!(
        found_out("changed", change, "output-00000001.zst: changed"),
        found_out("missing", remove, "output-00000001.zst: missing"),
        found_out("reordered", swap, "output-00000001.zst: out of place"),
        found_out("added", add, "output-00000099.zst: is not in the manifest"),
    );
}
