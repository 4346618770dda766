//! Recordings in a real S3 server: conditional writes, labels, rotated and wrong keys, a server that stops and comes back.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use chrono::TimeDelta;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{Attribute, ObjectStoreExt, RetryConfig};
use russh::keys::PublicKey;
use sandglass::domain::recording::{S3, Store};
use sandglass::gateway::EXIT_CUT;
use sandglass::recording::format::Kind;
use sandglass::recording::read::{Filter, State};
use sandglass::recording::seal;
use sandglass::store::{Bucket, open};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::archives::{Records, archive, bytes_of, channels_of};
use support::{Bench, Options, new_key, text};
use tempfile::TempDir;

/// A server of its own for each test, so that each may stop it.
struct Server {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl Server {
    fn start(port: u16) -> Self {
        Self::start_as(port, Self::run)
    }

    fn start_as(port: u16, run: impl FnOnce(&TempDir, u16) -> Child) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let script = script();
        let installed = Command::new(&script).arg("install").output().expect("bash");
        assert!(installed.status.success(), "{}", text(&installed.stderr));
        let folder = tempfile::tempdir().expect("folder");
        let process = run(&folder, port);
        let server = Self { process, folder, port };
        server.write_keys();
        server
    }

    fn run(folder: &TempDir, port: u16) -> Child {
        Self::ready(Command::new(script()), folder, port)
    }

    /// On a disk of 64 MiB, which only the server and [`Server::grow_disk`] see. Who is not root needs user namespaces for it.
    fn run_on_small_disk(folder: &TempDir, port: u16) -> Child {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "bash", "-ec"]);
        command.arg(r#"mkdir -p "$3/data"; mount -t tmpfs -o size=64m none "$3/data"; exec "$1" "${@:2}""#).arg("bash").arg(script());
        Self::ready(command, folder, port)
    }

    fn grow_disk(&self) {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "--user", "--mount", "--target", &self.process.id().to_string()]);
        command.args(["mount", "-o", "remount,size=400m"]).arg(self.folder.path().join("s3/data"));
        assert!(command.status().expect("nsenter").success());
    }

    fn ready(mut command: Command, folder: &TempDir, port: u16) -> Child {
        command.arg("run").arg(folder.path().join("s3")).arg("127.0.0.1").arg(port.to_string());
        let child = command.process_group(0).stdout(Stdio::null()).spawn().expect("started");
        let ready = folder.path().join("s3/ready");
        let began = Instant::now();
        while !ready.exists() {
            assert!(began.elapsed() < Duration::from_mins(1), "the server is not ready after a minute");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    fn signal(&self, signal: &str) {
        Command::new("kill").args([signal, &self.process.id().to_string()]).status().expect("kill");
    }

    /// Ends the server at once, data stay.
    fn kill(&mut self) {
        self.signal("-KILL");
        let _ = self.process.wait();
        let ready = self.folder.path().join("s3/ready");
        let began = Instant::now();
        while ready.exists() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn restart(&mut self) {
        self.process = Self::run(&self.folder, self.port);
    }

    /// The files that a mounted Secret would be.
    fn write_keys(&self) {
        let keys = self.folder.path().join("keys");
        std::fs::create_dir_all(&keys).expect("folder");
        for (from, to) in [("s3/access-key", "access-key-id"), ("s3/secret-key", "secret-access-key")] {
            std::fs::copy(self.folder.path().join(from), keys.join(to)).expect("copied");
        }
    }

    fn bucket(&self, bucket: &str) -> Bucket {
        let s3 = S3 {
            bucket: bucket.into(),
            region: "us-east-1".into(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            allow_http: true,
            credentials: Some(self.folder.path().join("keys")),
            certificate_authorities: None,
        };
        open(&Store { s3: Some(s3), ..Store::default() }).expect("opened")
    }
}

impl Server {
    /// The server past our own code. A refusal stays one.
    fn client(&self, bucket: &str) -> AmazonS3 {
        let key = |name: &str| std::fs::read_to_string(self.folder.path().join("keys").join(name)).expect("a key");
        AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region("us-east-1")
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_allow_http(true)
            .with_access_key_id(key("access-key-id"))
            .with_secret_access_key(key("secret-access-key"))
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build()
            .expect("built")
    }

    /// A label of an object, as the server has it.
    async fn label(&self, bucket: &str, object: &str, label: &str) -> Option<String> {
        let found = self.client(bucket).get(&object.into()).await.expect("there");
        found.attributes.get(&Attribute::Metadata(label.to_owned().into())).map(|value| value.to_string())
    }

    /// Writes until the disk takes no more, not even a little.
    async fn fill_disk(&self) {
        let store = self.client("recordings");
        for size in [4 << 20, 256 << 10, 4 << 10] {
            let mut number = 0;
            while store.put(&format!("filler/{size}-{number}").into(), vec![0; size].into()).await.is_ok() {
                number += 1;
                assert!(number < 100, "the disk is not full after {number} times {size} bytes");
            }
        }
    }
}

impl Drop for Server {
    /// Not asked to end: with a client still connected it may never do so.
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("s3/log/weed.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|line| line.starts_with(['W', 'E', 'F'])).collect();
            eprintln!("What the store on port {} complained of:\n{}", self.port, lines.join("\n"));
        }
    }
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("e2e/store/s3")
}

async fn bench(records: &Records) -> Bench {
    Bench::start(Options { archive: Some(Arc::clone(&records.archive)), ..Options::default() }).await
}

/// The store does not work: no shell, soon and with a word.
async fn refused(records: &Records) {
    let bench = Bench::start(Options { archive: Some(Arc::clone(&records.strict)), ..Options::default() }).await;
    let began = Instant::now();
    let output = bench.run(&["echo shown"], b"").await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(126), ""), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("without a recording there is no shell"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_recorded_in_a_plain_and_in_a_locked_bucket() {
    let server = Server::start(18400);
    for bucket in ["recordings", "locked"] {
        let records = Records::over(server.bucket(bucket));
        let bench = bench(&records).await;
        let output = bench.run(&["head -c 3000000 /dev/urandom; echo end >&2"], b"").await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        let loaded = records.closed().await;
        let channel = channels_of(&loaded)[0].channel;
        assert!(bytes_of(&loaded, channel, Kind::Output) == output.stdout, "{bucket}");
        assert_eq!(bytes_of(&loaded, channel, Kind::Error), output.stderr);
        let verdict = loaded.verify(&records.key);
        assert_eq!((verdict.problems.as_slice(), verdict.complete), (&[][..], true));
        for (label, value) in [("namespace", "ci"), ("name", "build-42"), ("uid", "uid-of-build-42"), ("actor", "octocat")] {
            assert_eq!(
                server.label(bucket, &format!("prefix/{}/manifest.json", loaded.name), label).await.as_deref(),
                Some(value),
                "{label}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_mean_no_shell_and_rotated_ones_are_used_at_once() {
    let server = Server::start(18410);
    let keys = server.folder.path().join("keys/secret-access-key");
    std::fs::write(&keys, "0123456789012345678901234567890123456789").expect("written");
    let records = Records::over(server.bucket("recordings"));
    refused(&records).await;
    server.write_keys();
    let bench = bench(&records).await;
    let output = bench.run(&["echo shown"], b"").await;
    assert_eq!(text(&output.stdout), "shown\n", "{}", text(&output.stderr));
    // The refused connection is on record too.
    assert_eq!(records.all_closed(2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stops_costs_shells_and_no_recording() {
    let mut server = Server::start(18420);
    let records = Records::over(server.bucket("recordings"));
    let bench = bench(&records).await;
    let mut child =
        bench.client("ssh").args(["s", "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 1; done"]).stdout(Stdio::piped()).spawn().expect("ssh");
    let mut first = [0; 2];
    std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut first).expect("a line");
    // Silent, then gone: new shells are refused, the open one goes on for as long as it can be kept in memory.
    for silent in [true, false] {
        if silent {
            server.signal("-STOP");
        } else {
            server.kill();
        }
        refused(&records).await;
        if silent {
            server.signal("-CONT");
        }
    }
    server.restart();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().expect("ended")).await.expect("joined");
    assert!(output.status.success());
    let whole = [&first[..], &output.stdout].concat();
    assert_eq!(text(&whole), "1\n2\n3\n4\n5\n6\n7\n8\n");
    let all = records.all_closed(3).await;
    assert!(all.iter().all(|one| one.verify(&records.key).problems.is_empty()));
    let shown = all.iter().flat_map(|one| channels_of(one).into_iter().map(move |channel| bytes_of(one, channel.channel, Kind::Output)));
    assert!(shown.into_iter().any(|bytes| bytes == whole), "the open session is recorded from its first to its last byte");
}

/// A disk that is really full: new shells are refused, one that shows much is cut, one that shows little goes on, and when
/// there is room again everything that was shown is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_shells_and_no_recording() {
    let server = Server::start_as(18440, Server::run_on_small_disk);
    let records = Records::over(server.bucket("recordings"));
    let bench = bench(&records).await;
    let open = |command: &str| {
        let mut client = bench.client("ssh");
        let mut child =
            client.args(["s", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ssh");
        let mut first = [0; 7];
        std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut first).expect("a line");
        assert_eq!(&first, b"before\n");
        child
    };
    let mut quiet = open("echo before; read go; echo while full; read go; echo after");
    let loud = open("echo before; read go; head -c 40000000 /dev/urandom");
    server.fill_disk().await;
    let go_on = |child: &Child| std::io::Write::write_all(&mut child.stdin.as_ref().expect("stdin"), b"go\n").expect("typed");

    refused(&records).await;
    go_on(&quiet);
    let mut line = [0; 11];
    std::io::Read::read_exact(quiet.stdout.as_mut().expect("stdout"), &mut line).expect("a line");
    assert_eq!(&line, b"while full\n");
    go_on(&loud);
    let loud = tokio::task::spawn_blocking(move || loud.wait_with_output().expect("ended")).await.expect("joined");
    assert_eq!(loud.status.code(), i32::try_from(EXIT_CUT).ok(), "{}", text(&loud.stderr));
    assert!(text(&loud.stderr).contains("the buffer is full"), "{}", text(&loud.stderr));

    server.grow_disk();
    go_on(&quiet);
    let quiet = tokio::task::spawn_blocking(move || quiet.wait_with_output().expect("ended")).await.expect("joined");
    assert_eq!((quiet.status.code(), text(&quiet.stdout).as_str()), (Some(0), "after\n"), "{}", text(&quiet.stderr));
    let all = records.all_closed(3).await;
    assert!(all.iter().all(|one| one.verify(&records.key).problems.is_empty()));
    let shown: Vec<_> =
        all.iter().flat_map(|one| channels_of(one).into_iter().map(move |channel| bytes_of(one, channel.channel, Kind::Output))).collect();
    for what in [b"before\nwhile full\nafter\n".to_vec(), [b"before\n", loud.stdout.as_slice()].concat()] {
        assert!(shown.contains(&what), "{} bytes were shown and are not stored", what.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_replicas_that_close_a_recording_one_does() {
    let server = Server::start(18430);
    let bucket = server.bucket("recordings");
    let records = Records::over(bucket.clone());
    let bench = bench(&records).await;
    let mut child = bench.client("ssh").args(["s", "echo seen; exec sleep 60"]).stdout(Stdio::piped()).spawn().expect("ssh");
    let mut seen = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut seen).expect("a line");
    records.holds(&seen).await;
    let key = new_key();
    let public: PublicKey = key.public_key().clone();
    let replicas: Vec<_> = (2..6).map(|number| archive(&bucket, &format!("replica-{number}"), key.clone())).collect();
    // As if a long time had passed.
    let dead = TimeDelta::zero() - TimeDelta::seconds(5);
    let looks = replicas.iter().map(|replica| async { seal::look(replica, dead).await });
    futures::future::join_all(looks).await.into_iter().for_each(|looked| looked.expect("looked"));
    let sealed: u64 = replicas.iter().map(|replica| replica.metrics.sealed_incomplete.get()).sum();
    assert_eq!(sealed, 1);
    let found = records.library.list(&Filter::default()).await.expect("listed");
    assert_eq!(found[0].state, State::Incomplete);
    let loaded = records.library.load(&found[0].name).await.expect("loaded");
    let verdict = loaded.verify(&public);
    assert_eq!((verdict.problems.as_slice(), verdict.complete), (&[][..], false));
    assert_eq!(bytes_of(&loaded, channels_of(&loaded)[0].channel, Kind::Output), seen);
    child.kill().expect("killed");
    let _ = child.wait();
}
