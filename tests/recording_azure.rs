//! Recordings in a real Azure Blob Storage server: conditional writes, labels, wrong and rotated keys.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use bytes::Bytes;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::{Attribute, ObjectStoreExt};
use sandglass::domain::recording::{Azure, Store};
use sandglass::recording::format::Kind;
use sandglass::store::{Bucket, StoreError, open};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::archives::{Records, bytes_of, channels_of};
use support::{Bench, Options, text};
use tempfile::TempDir;

/// A server of its own for each test.
struct Server {
    process: Child,
    folder: TempDir,
    endpoint: String,
}

impl Server {
    fn start(port: u16) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("e2e/store/azure");
        let installed = Command::new(&script).arg("install").output().expect("bash");
        assert!(installed.status.success(), "{}", text(&installed.stderr));
        let folder = tempfile::tempdir().expect("folder");
        let mut command = Command::new(script);
        command.arg("run").arg(folder.path()).args(["127.0.0.1", &port.to_string()]);
        let process = command.stdout(Stdio::null()).spawn().expect("started");
        let mut server = Self { process, folder, endpoint: String::new() };
        server.endpoint = server.ready();
        server
    }

    /// Its address, once it answers.
    fn ready(&mut self) -> String {
        let ready = self.folder.path().join("ready");
        let began = Instant::now();
        while !ready.exists() {
            let log = std::fs::read_to_string(self.folder.path().join("azurite.log")).unwrap_or_default();
            assert!(self.process.try_wait().expect("waited").is_none(), "the server ended: {log}");
            assert!(began.elapsed() < Duration::from_mins(1), "the server is not ready after a minute: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::read_to_string(ready).expect("read").trim().to_owned()
    }

    fn key_file(&self) -> PathBuf {
        self.folder.path().join("access-key")
    }

    fn bucket(&self) -> Bucket {
        let azure = Azure {
            account: "sandglass".into(),
            container: "recordings".into(),
            access_key: Some(self.key_file()),
            endpoint: Some(self.endpoint.clone()),
            allow_http: true,
            certificate_authorities: None,
        };
        open(&Store { azure: Some(azure), ..Store::default() }).expect("opened")
    }

    /// A label of an object, as the server has it.
    async fn label(&self, object: &str, label: &str) -> Option<String> {
        let client = MicrosoftAzureBuilder::new()
            .with_account("sandglass")
            .with_container_name("recordings")
            .with_endpoint(self.endpoint.clone())
            .with_allow_http(true)
            .with_access_key(std::fs::read_to_string(self.key_file()).expect("read"))
            .build()
            .expect("built");
        let found = client.get(&object.into()).await.expect("there");
        found.attributes.get(&Attribute::Metadata(label.to_owned().into())).map(|value| value.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn bench(records: &Records) -> Bench {
    Bench::start(Options { archive: Some(Arc::clone(&records.archive)), ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_recorded_with_its_labels() {
    let server = Server::start(18500);
    let records = Records::over(server.bucket());
    let bench = bench(&records).await;
    let output = bench.run(&["head -c 3000000 /dev/urandom; echo end >&2"], b"").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let loaded = records.closed().await;
    let channel = channels_of(&loaded)[0].channel;
    assert!(bytes_of(&loaded, channel, Kind::Output) == output.stdout);
    assert_eq!(bytes_of(&loaded, channel, Kind::Error), output.stderr);
    let verdict = loaded.verify(&records.key);
    assert_eq!((verdict.problems.as_slice(), verdict.complete), (&[][..], true));
    let manifest = format!("prefix/{}/manifest.json", loaded.name);
    for (label, value) in [("namespace", "ci"), ("name", "build-42"), ("uid", "uid-of-build-42"), ("actor", "octocat")] {
        assert_eq!(server.label(&manifest, label).await.as_deref(), Some(value), "{label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_written_once_and_found() {
    let server = Server::start(18501);
    let bucket = server.bucket();
    let label = [("actor", "Zoë\r\n".to_owned())];
    bucket.create("a/b/1", Bytes::from_static(b"one"), &label).await.expect("written");
    let again = bucket.create("a/b/1", Bytes::from_static(b"other"), &label).await;
    assert!(matches!(again, Err(StoreError::AlreadyThere(_))), "{again:?}");
    assert_eq!(bucket.read("a/b/1").await.expect("read"), "one");
    assert_eq!(server.label("a/b/1", "actor").await.as_deref(), Some("Zo%C3%AB%0D%0A"));
    bucket.replace("a/2", Bytes::from_static(b"two")).await.expect("written");
    bucket.replace("a/2", Bytes::from_static(b"two again")).await.expect("replaced");
    let names: Vec<String> = bucket.list("a").await.expect("listed").into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["a/2", "a/b/1"]);
    assert_eq!(bucket.folders("a").await.expect("listed"), ["b"]);
    bucket.delete("a/2").await.expect("deleted");
    bucket.delete("a/2").await.expect("gone already");
    assert!(matches!(bucket.read("a/2").await, Err(StoreError::NotThere(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_means_no_shell_and_a_rotated_one_is_used_at_once() {
    let server = Server::start(18502);
    let right = std::fs::read(server.key_file()).expect("read");
    std::fs::write(server.key_file(), "d3Jvbmc=").expect("written");
    let records = Records::over(server.bucket());
    let strict = Bench::start(Options { archive: Some(Arc::clone(&records.strict)), ..Options::default() }).await;
    let output = strict.run(&["echo shown"], b"").await;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(126), ""));
    assert!(text(&output.stderr).contains("without a recording there is no shell"), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("d3Jvbmc"), "{}", text(&output.stderr));
    std::fs::write(server.key_file(), right).expect("written");
    let bench = bench(&records).await;
    let output = bench.run(&["echo shown"], b"").await;
    assert_eq!(text(&output.stdout), "shown\n", "{}", text(&output.stderr));
    assert_eq!(records.all_closed(2).await.len(), 2, "the refused connection is on record too");
}
