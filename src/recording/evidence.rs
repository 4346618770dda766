//! Evidence that a hypervisor gave before a power verb: stored beside the recordings, write-once, hashed. The list of it stands in
//! the audit stream, which is chained and signed.

use super::archive::Archive;
use crate::store::StoreError;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use std::sync::Arc;

/// Bytes of one object; a larger item is stored in parts.
const PART: usize = 8 * 1024 * 1024;
/// The most that one run may leave.
const MOST_BYTES: u64 = 32 * 1024 * 1024 * 1024;
/// The same in items.
const MOST_ITEMS: usize = 32;

/// One item, as it is stored.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Its name, a file's.
    pub item: String,
    /// What the hypervisor says of it: `Captured`, `Failed`, `TimedOut`, `Skipped`; or `NotStored`.
    pub outcome: String,
    /// Bytes stored.
    pub bytes: u64,
    /// Objects that hold them: `NAME`, or `NAME.000`, `NAME.001`, …
    pub parts: u32,
    /// SHA-256 of all bytes, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// In words, where there are some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The item that is coming in.
struct Coming {
    item: String,
    digest: ring::digest::Context,
    pending: BytesMut,
    bytes: u64,
    parts: u32,
    failure: Option<String>,
}

/// The evidence of one run.
pub struct Evidence {
    archive: Arc<Archive>,
    folder: String,
    coming: Option<Coming>,
    kept: Vec<Kept>,
    total: u64,
}

impl Archive {
    /// A place for the evidence of a run on `channel` of the connection `id`.
    #[must_use]
    pub fn evidence(self: &Arc<Self>, about: &super::manifest::About, id: &str, channel: u32) -> Evidence {
        let day = (self.now)().format("%Y-%m-%d");
        let folder = self.name(&format!("evidence/{day}/{}/{}/{}/{id}-{channel}", about.namespace, about.name, about.uid));
        Evidence { archive: Arc::clone(self), folder, coming: None, kept: Vec::new(), total: 0 }
    }
}

impl Evidence {
    /// Address of the folder, where there is something in it.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        self.kept.iter().any(|kept| kept.parts > 0).then(|| format!("{}/{}", self.archive.address(), self.folder))
    }

    /// What is kept.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    fn is_kept(&self, item: &str) -> bool {
        self.kept.iter().any(|kept| kept.item == item)
    }

    /// Leaves a mark in the folder: what cannot be kept need not be begun.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn mark(&self, verb: &str) -> Result<(), StoreError> {
        let mark = serde_json::json!({ "verb": verb, "time": (self.archive.now)() });
        self.archive.bucket.create(&format!("{}/begun.json", self.folder), mark.to_string().into(), &[]).await
    }

    /// Takes a piece of an item. Waits for the store once a part is full.
    pub async fn piece(&mut self, item: &str, bytes: &Bytes) {
        if self.coming.as_ref().is_some_and(|coming| coming.item != item) {
            self.end(None, "the next item began before this one was complete").await;
        }
        // What is kept is not kept again under the same name.
        if self.kept.len() >= MOST_ITEMS || self.is_kept(item) {
            return;
        }
        self.total += bytes.len() as u64;
        let too_much = self.total > MOST_BYTES;
        let coming = self.coming.get_or_insert_with(|| Coming {
            item: item.to_owned(),
            digest: ring::digest::Context::new(&ring::digest::SHA256),
            pending: BytesMut::new(),
            bytes: 0,
            parts: 0,
            failure: None,
        });
        if too_much {
            coming.failure.get_or_insert_with(|| "more than the gateway takes".into());
        }
        if coming.failure.is_some() {
            return;
        }
        coming.digest.update(bytes);
        coming.bytes += bytes.len() as u64;
        coming.pending.extend_from_slice(bytes);
        if coming.pending.len() >= PART {
            let name = format!("{}/{}.{:03}", self.folder, coming.item, coming.parts);
            coming.store(&self.archive, &name).await;
        }
    }

    /// An item is complete, or will not come.
    pub async fn item(&mut self, item: &str, outcome: &str, message: Option<&str>) {
        if self.coming.as_ref().is_some_and(|coming| coming.item == item) {
            return self.end(Some(outcome), message.unwrap_or_default()).await;
        }
        if self.kept.len() < MOST_ITEMS && !self.is_kept(item) {
            let (item, outcome, message) = (item.to_owned(), outcome.to_owned(), message.map(str::to_owned));
            self.kept.push(Kept { item, outcome, bytes: 0, parts: 0, sha256: None, message });
        }
    }

    /// Stores what is left of the item that is coming in; `outcome` is what the hypervisor says of it.
    pub async fn end(&mut self, outcome: Option<&str>, message: &str) {
        let Some(mut coming) = self.coming.take() else { return };
        if coming.failure.is_none() && !coming.pending.is_empty() {
            let name = match coming.parts {
                0 => format!("{}/{}", self.folder, coming.item),
                part => format!("{}/{}.{part:03}", self.folder, coming.item),
            };
            coming.store(&self.archive, &name).await;
        }
        let digest = coming.digest.finish();
        let sha256 = crate::recording::format::hex(digest.as_ref());
        let not_stored = coming.failure.is_some();
        let message = coming.failure.or_else(|| (!message.is_empty()).then(|| message.to_owned()));
        self.kept.push(Kept {
            item: coming.item,
            outcome: if not_stored { "NotStored" } else { outcome.unwrap_or("Failed") }.to_owned(),
            bytes: coming.bytes,
            parts: coming.parts,
            sha256: (!not_stored).then_some(sha256),
            message,
        });
    }
}

impl Coming {
    async fn store(&mut self, archive: &Archive, name: &str) {
        let bytes = std::mem::take(&mut self.pending).freeze();
        match archive.bucket.create(name, bytes.clone(), &[]).await {
            Ok(()) => self.parts += 1,
            // An attempt whose answer was lost.
            Err(StoreError::AlreadyThere(_)) if archive.bucket.read(name).await.is_ok_and(|there| there == bytes) => self.parts += 1,
            Err(failure) => self.failure = Some(failure.to_string()),
        }
    }
}
