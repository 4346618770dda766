//! Archives for tests: over a folder, over memory that fails on command, and their reading back.

use super::new_key;
use chrono::Utc;
use futures::stream::BoxStream;
use object_store::path::Path as Location;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use russh::keys::PublicKey;
use sandglass::recording::archive::{Archive, PATIENCE, Setup};
use sandglass::recording::cast::{Channel, channels};
use sandglass::recording::format::Kind;
use sandglass::recording::metrics::Metrics;
use sandglass::recording::read::{Filter, Library, Loaded, ReadError, State, Summary};
use sandglass::store::Bucket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An archive, what reads it back, and the key that must have signed.
pub struct Records {
    /// Waits for the store for as long as a busy machine takes.
    pub archive: Arc<Archive>,
    /// The same of another replica, which waits no longer than in earnest: for what must be refused.
    pub strict: Arc<Archive>,
    pub library: Library,
    pub key: PublicKey,
}

impl Records {
    /// Over any bucket.
    pub fn over(bucket: Bucket) -> Self {
        let key = new_key();
        let public = key.public_key().clone();
        let strict = archive(&bucket, "replica-0", key.clone());
        let patient = Archive::new(Setup { patience: Duration::from_secs(30), ..setup(&bucket, "replica-1", key) });
        Self { archive: patient, strict, library: Library::new(bucket, "prefix".into()), key: public }
    }

    /// The one recording there is, once it is closed.
    pub async fn closed(&self) -> Loaded {
        self.all_closed(1).await.pop().expect("one")
    }

    /// All recordings, once there are so many and each is closed.
    pub async fn all_closed(&self, count: usize) -> Vec<Loaded> {
        let began = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            match self.closed_now(count).await {
                Ok(Ok(all)) => return all,
                // A store that was killed may need some seconds until it finds everything again.
                outcome => assert!(began.elapsed() < Duration::from_mins(1), "not closed: {outcome:?}"),
            }
        }
    }

    /// Waits until a recording that goes on holds exactly these bytes of its first channel's output.
    pub async fn holds(&self, output: &[u8]) -> Summary {
        let began = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if let Some(one) = self.library.list(&Filter::default()).await.expect("listed").pop() {
                let loaded = self.library.load(&one.name).await.expect("loaded");
                if channels_of(&loaded).first().is_some_and(|channel| bytes_of(&loaded, channel.channel, Kind::Output) == output) {
                    return one;
                }
            }
            assert!(began.elapsed() < Duration::from_secs(30), "not stored after {:?}", began.elapsed());
        }
    }

    /// All recordings; what was found instead, where they are not so many or not closed.
    async fn closed_now(&self, count: usize) -> Result<Result<Vec<Loaded>, Vec<Summary>>, ReadError> {
        let found = self.library.list(&Filter::default()).await?;
        if found.len() != count || found.iter().any(|one| one.state == State::Running) {
            return Ok(Err(found));
        }
        let load = found.iter().map(|one| self.library.load(&one.name));
        futures::future::try_join_all(load).await.map(Ok)
    }
}

/// An archive of another replica.
pub fn archive(bucket: &Bucket, replica: &str, key: russh::keys::PrivateKey) -> Arc<Archive> {
    Archive::new(setup(bucket, replica, key))
}

fn setup(bucket: &Bucket, replica: &str, key: russh::keys::PrivateKey) -> Setup {
    Setup {
        bucket: bucket.clone(),
        address: "test://bucket".into(),
        prefix: "prefix".into(),
        replica: replica.into(),
        key,
        patience: PATIENCE,
        metrics: Metrics::default(),
        now: Utc::now,
    }
}

/// A recording's channels.
pub fn channels_of(loaded: &Loaded) -> Vec<Channel> {
    channels(&loaded.records().expect("records"))
}

/// The exact bytes that a channel showed on one of its streams.
pub fn bytes_of(loaded: &Loaded, channel: u32, kind: Kind) -> Vec<u8> {
    let records = loaded.records().expect("records");
    records.iter().filter(|one| one.channel == channel && one.kind == kind).flat_map(|one| one.data.to_vec()).collect()
}

/// The audit events of a recording.
pub fn events_of(loaded: &Loaded) -> Vec<serde_json::Value> {
    loaded.audit().expect("events").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A store that is slow, or refuses, or is silent, on command.
#[derive(Debug)]
pub struct Faulty {
    inner: object_store::memory::InMemory,
    /// Milliseconds that each write takes.
    pub delay: AtomicU64,
    /// 0: works. 1: every call fails. 2: no call returns.
    pub fault: AtomicU64,
}

impl Faulty {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { inner: object_store::memory::InMemory::new(), delay: AtomicU64::new(0), fault: AtomicU64::new(0) })
    }

    async fn pass(&self) -> Result<()> {
        match self.fault.load(Ordering::Relaxed) {
            0 => Ok(()),
            1 => Err(object_store::Error::Generic { store: "faulty", source: "out of space".into() }),
            _ => std::future::pending().await,
        }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Location, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        tokio::time::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed))).await;
        self.pass().await?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Location, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Location, options: GetOptions) -> Result<GetResult> {
        self.pass().await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Location>>) -> BoxStream<'static, Result<Location>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Location>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Location>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Location, to: &Location, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A seeded generator (splitmix64): small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
