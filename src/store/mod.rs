//! The adapter to object stores: few operations, each with a deadline of ours, errors as one line. Nothing here knows what is stored.

mod open;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Attribute, Attributes, Error, ObjectStoreExt as _, PutMode, PutOptions};
use std::sync::Arc;
use std::time::Duration;

pub use open::{OpenError, open};

/// Longest single call. Callers that need to know earlier bring their own deadline.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something of this name is there already.
    #[error("{0} is there already")]
    AlreadyThere(String),
    /// Nothing of this name is there.
    #[error("{0} is not there")]
    NotThere(String),
    /// The store refused, or cannot be reached.
    #[error("failed to {doing} {name}: {why}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// On what.
        name: String,
        /// In one line.
        why: String,
    },
}

/// An object, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its whole name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// One bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    inner: Arc<dyn object_store::ObjectStore>,
    /// The same store by a client that tries a failed read again.
    patient: Arc<dyn object_store::ObjectStore>,
    /// Whether objects may carry metadata: folders cannot.
    labels: bool,
}

impl Bucket {
    /// A bucket over any store of the library; `labels` says whether its objects carry metadata.
    #[must_use]
    pub fn new(inner: Arc<dyn object_store::ObjectStore>, labels: bool) -> Self {
        Self { patient: Arc::clone(&inner), inner, labels }
    }

    /// Reads go through this client of the same store.
    fn reading_with(self, patient: Arc<dyn object_store::ObjectStore>) -> Self {
        Self { patient, ..self }
    }

    /// Writes an object that must not be there yet.
    ///
    /// # Errors
    /// [`StoreError::AlreadyThere`], also after an attempt whose answer was lost: compare.
    pub async fn create(&self, name: &str, bytes: Bytes, labels: &[(&'static str, String)]) -> Result<(), StoreError> {
        let attributes = if self.labels { attributes(labels) } else { Attributes::new() };
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        within("write", name, async { self.inner.put_opts(&Path::from(name), bytes.into(), options).await.map(drop) }).await
    }

    /// Writes an object, over another one if need be.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn replace(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        within("write", name, async { self.inner.put(&Path::from(name), bytes.into()).await.map(drop) }).await
    }

    /// Reads an object.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn read(&self, name: &str) -> Result<Bytes, StoreError> {
        within("read", name, async { self.patient.get(&Path::from(name)).await?.bytes().await }).await
    }

    /// Deletes an object; one that is gone is no error.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match within("delete", name, async { self.inner.delete(&Path::from(name)).await }).await {
            Err(StoreError::NotThere(_)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Everything below a folder, in the order of names.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError> {
        let listed = within("list", folder, async { self.patient.list(Some(&Path::from(folder))).try_collect::<Vec<_>>().await }).await?;
        let entry =
            |meta: object_store::ObjectMeta| Entry { name: meta.location.to_string(), size: meta.size, modified: meta.last_modified };
        let mut entries: Vec<Entry> = listed.into_iter().map(entry).collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Names of the folders directly in a folder, in their order; an empty name is the root.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let prefix = (!folder.is_empty()).then(|| Path::from(folder));
        let listed = within("list", folder, async { self.patient.list_with_delimiter(prefix.as_ref()).await }).await?;
        let last = |path: Path| path.parts().next_back().map(|part| part.as_ref().to_owned());
        let mut names: Vec<String> = listed.common_prefixes.into_iter().filter_map(last).collect();
        names.sort_unstable();
        Ok(names)
    }
}

fn attributes(labels: &[(&'static str, String)]) -> Attributes {
    labels.iter().map(|(name, value)| (Attribute::Metadata((*name).into()), in_ascii(value))).collect()
}

/// Longest value of a label: S3 takes two kilobytes for all of an object's.
const LONGEST_LABEL: usize = 200;

/// A value for a header: printable ASCII, the rest percent-encoded (RFC 3986, 2.1). What is too long is cut: the manifest has it whole.
fn in_ascii(value: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = value.bytes().fold(String::new(), |mut text, byte| {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    });
    encoded.truncate(LONGEST_LABEL);
    encoded
}

async fn within<T>(doing: &'static str, name: &str, call: impl Future<Output = object_store::Result<T>>) -> Result<T, StoreError> {
    let failed = |why: String| StoreError::Failed { doing, name: name.to_owned(), why };
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Error::AlreadyExists { .. } | Error::Precondition { .. })) => Err(StoreError::AlreadyThere(name.to_owned())),
        Ok(Err(Error::NotFound { .. })) => Err(StoreError::NotThere(name.to_owned())),
        Ok(Err(failure)) => Err(failed(one_line(&failure))),
        Err(_) => Err(failed(format!("no answer for {} s", PATIENCE.as_secs()))),
    }
}

/// The failure and what caused it; addresses stay, bodies of answers are cut.
fn one_line(failure: &dyn std::error::Error) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn an_object_is_written_once() {
        let bucket = Bucket::new(Arc::new(InMemory::new()), true);
        bucket.create("a/b/c", Bytes::from_static(b"1"), &[("actor", "Zoë".into())]).await.expect("written");
        let again = bucket.create("a/b/c", Bytes::from_static(b"2"), &[]).await;
        assert!(matches!(again, Err(StoreError::AlreadyThere(_))), "{again:?}");
        assert_eq!(bucket.read("a/b/c").await.expect("read"), "1");
        bucket.replace("a/d", Bytes::from_static(b"3")).await.expect("written");
        let names: Vec<String> = bucket.list("a").await.expect("listed").into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a/b/c", "a/d"]);
        assert_eq!(bucket.folders("a").await.expect("listed"), ["b"]);
        assert_eq!(bucket.folders("").await.expect("listed"), ["a"]);
        bucket.delete("a/d").await.expect("deleted");
        bucket.delete("a/d").await.expect("deleted already");
        assert!(matches!(bucket.read("a/d").await, Err(StoreError::NotThere(_))));
    }

    #[test]
    fn labels_fit_into_headers() {
        assert_eq!(in_ascii("Zoë 100%\r\nX: y"), "Zo%C3%AB 100%25%0D%0AX: y");
        assert_eq!(in_ascii(&"ü".repeat(256)).len(), LONGEST_LABEL);
    }
}
