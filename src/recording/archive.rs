//! What all recordings of one replica share: the store, the names, the signing key, the bounds.

use super::audit::AuditEvent;
use super::manifest::About;
use super::metrics::Metrics;
use super::packing::Packers;
use super::read::Library;
use super::recorder::{Recorder, Shared};
use super::writer;
use crate::store::{Bucket, StoreError};
use chrono::{DateTime, Utc};
use russh::keys::{PrivateKey, PublicKey};
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What all recordings of a replica may hold in memory.
pub(super) const HELD_BY_ALL: u64 = 256 * 1024 * 1024;

/// How long a channel waits until the store has the event of its beginning; then there is no shell.
pub const PATIENCE: Duration = Duration::from_millis(1800);
const _: () = assert!(PATIENCE.as_millis() < 2000, "users are promised an answer within two seconds");

/// See the module.
pub struct Archive {
    pub(super) bucket: Bucket,
    pub(super) replica: String,
    pub(super) key: PrivateKey,
    pub(super) packers: Packers,
    pub(super) held: AtomicU64,
    pub(super) room: Notify,
    pub(super) now: fn() -> DateTime<Utc>,
    /// How long a channel waits until it is recorded.
    pub patience: Duration,
    /// Counters.
    pub metrics: Metrics,
    prefix: String,
    address: String,
    open: watch::Sender<usize>,
    recorders: Mutex<Vec<Weak<Shared>>>,
}

/// How an archive is set up.
pub struct Setup {
    /// The store.
    pub bucket: Bucket,
    /// The store's address, e.g. `s3://recordings`.
    pub address: String,
    /// First part of every object's name; may be empty.
    pub prefix: String,
    /// Name of this process: never used again by another.
    pub replica: String,
    /// Signs the manifests.
    pub key: PrivateKey,
    /// How long a channel waits until it is recorded: [`PATIENCE`].
    pub patience: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// The clock.
    pub now: fn() -> DateTime<Utc>,
}

/// What a marker of an open recording says: enough to close it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Marker {
    /// The recording's folder, without the prefix.
    pub folder: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// What it is about.
    pub about: About,
}

impl Archive {
    /// An archive. Nothing is asked of the store yet.
    #[must_use]
    pub fn new(setup: Setup) -> Arc<Self> {
        Arc::new(Self {
            bucket: setup.bucket,
            replica: setup.replica,
            key: setup.key,
            packers: Packers::default(),
            held: AtomicU64::new(0),
            room: Notify::new(),
            now: setup.now,
            patience: setup.patience,
            metrics: setup.metrics,
            prefix: setup.prefix,
            address: setup.address,
            open: watch::Sender::new(0),
            recorders: Mutex::default(),
        })
    }

    /// An object's whole name.
    pub(super) fn name(&self, rest: &str) -> String {
        if self.prefix.is_empty() { rest.to_owned() } else { format!("{}/{rest}", self.prefix) }
    }

    /// Begins a recording: `id` is the connection's, `earlier` what happened on it before the login. The address is where it will be.
    #[must_use]
    pub fn begin(self: &Arc<Self>, id: &str, about: About, earlier: &[(DateTime<Utc>, AuditEvent)]) -> (Recorder, String) {
        let started_at = (self.now)();
        let folder = format!("{}/{}/{}/{}/{id}", started_at.format("%Y-%m-%d"), about.namespace, about.name, about.uid);
        let address = format!("{}/{}", self.address, self.name(&folder));
        let recorder = Recorder::new(Arc::clone(self));
        recorder.audit(&AuditEvent::Connection(Box::new(about.clone())));
        for (when, event) in earlier {
            recorder.audit_at(*when, event);
        }
        let mut recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        recorders.retain(|known| known.strong_count() > 0);
        recorders.push(Arc::downgrade(&recorder.0));
        drop(recorders);
        self.open.send_modify(|open| *open += 1);
        let (shared, archive, id) = (Arc::clone(&recorder.0), Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            let _open = Open(archive);
            writer::write(shared, id, Marker { folder, started_at, about }).await;
        });
        (recorder, address)
    }

    /// The store's address.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What is stored, for reading.
    #[must_use]
    pub fn library(&self) -> Library {
        Library::new(self.bucket.clone(), self.prefix.clone())
    }

    /// The key that signs.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// Notes that somebody is about to see a recording.
    ///
    /// # Errors
    /// It cannot be noted: then it must not be seen.
    pub async fn viewed(&self, who: &str, recording: &str) -> Result<(), StoreError> {
        let now = (self.now)();
        let mut random = [0; 4];
        let _ = rustls::crypto::ring::default_provider().secure_random.fill(&mut random);
        let number = u32::from_be_bytes(random);
        let name = self.name(&format!("views/{}/{}-{number:08x}.json", now.format("%Y-%m-%d"), now.format("%H%M%S%6f")));
        let event = serde_json::json!({ "time": now, "who": who, "recording": recording });
        self.bucket.create(&name, event.to_string().into(), &[]).await
    }

    /// Returns when no recording is open any more.
    pub async fn closed(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Age of the oldest byte that is not stored.
    pub(super) fn lag(&self) -> Duration {
        let recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        recorders.iter().filter_map(Weak::upgrade).map(|shared| shared.lag()).max().unwrap_or_default()
    }
}

/// A recording that is not stored yet; also if its writer panics.
struct Open(Arc<Archive>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// Labels that a recording's objects carry, where the store has such.
pub(super) fn labels(about: &About) -> Vec<(&'static str, String)> {
    let known = [
        ("namespace", Some(&about.namespace)),
        ("name", Some(&about.name)),
        ("uid", Some(&about.uid)),
        ("actor", Some(&about.requester)),
        ("commit", about.commit.as_ref()),
        ("pullrequest", about.pull_request.as_ref()),
        ("run", about.run.as_ref()),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?.clone()))).collect()
}
