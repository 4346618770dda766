//! Recordings read back: found and loaded.

use super::format::{FormatError, Header, Record, Stream, records, unpack, unpacked_size};
use super::manifest::{self, About, Manifest};
use crate::store::{Bucket, StoreError};
use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Objects asked for at once.
const AT_ONCE: usize = 16;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is none of this name.
    #[error("there is no recording {0}; see `sandglass recordings list`")]
    NotFound(String),
    /// A chunk that cannot be read.
    #[error("{object}: {why}")]
    Damaged {
        /// The chunk.
        object: String,
        /// Why.
        #[source]
        why: FormatError,
    },
    /// No name of a recording.
    #[error("{0} is no recording: it has the form DATE/NAMESPACE/NAME/UID/CONNECTION")]
    NoName(String),
}

/// Where a recording is: its folder below the prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name {
    /// Day of the login, UTC.
    pub date: NaiveDate,
    /// Of the session.
    pub namespace: String,
    /// Of the session.
    pub name: String,
    /// Of the session.
    pub uid: String,
    /// The connection.
    pub connection: String,
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}/{}/{}", self.date, self.namespace, self.name, self.uid, self.connection)
    }
}

impl FromStr for Name {
    type Err = ReadError;

    fn from_str(text: &str) -> Result<Self, ReadError> {
        let no_name = || ReadError::NoName(text.to_owned());
        let plain = |part: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            !part.is_empty() && part.len() <= 253 && part.bytes().all(inner) && !part.starts_with('.')
        };
        let parts: Vec<&str> = text.split('/').collect();
        let [date, namespace, name, uid, connection] = parts.as_slice() else { return Err(no_name()) };
        if ![namespace, name, uid, connection].into_iter().all(|part| plain(part)) {
            return Err(no_name());
        }
        let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").map_err(|_| no_name())?;
        let own = |part: &str| part.to_owned();
        Ok(Self { date, namespace: own(namespace), name: own(name), uid: own(uid), connection: own(connection) })
    }
}

/// Which recordings are wanted; what is not set does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of the session.
    pub namespace: Option<String>,
    /// Of the session.
    pub name: Option<String>,
    /// Of the build.
    pub commit: Option<String>,
    /// Of the build.
    pub pull_request: Option<String>,
    /// Who asked for the session.
    pub actor: Option<String>,
    /// Begun at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Begun before this time.
    pub until: Option<DateTime<Utc>>,
}

impl Filter {
    fn takes_date(&self, date: NaiveDate) -> bool {
        self.since.is_none_or(|since| date >= since.date_naive()) && self.until.is_none_or(|until| date <= until.date_naive())
    }

    fn takes(&self, found: &Summary) -> bool {
        let same = |wanted: &Option<String>, value: Option<&String>| wanted.is_none() || wanted.as_ref() == value;
        same(&self.commit, found.about.commit.as_ref())
            && same(&self.pull_request, found.about.pull_request.as_ref())
            && same(&self.actor, Some(&found.about.requester))
            && self.since.is_none_or(|since| found.started_at >= since)
            && self.until.is_none_or(|until| found.started_at < until)
    }
}

/// Whether a recording is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// Closed by the replica that recorded.
    Complete,
    /// Its replica died: closed by another one.
    Incomplete,
    /// No manifest yet.
    Running,
}

impl State {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Incomplete => "Incomplete",
            Self::Running => "Running",
        }
    }
}

/// One line of a list. Not verified: see [`Loaded::verify`].
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Where it is. `name` is the session's, in what follows.
    #[serde(rename = "recording", serialize_with = "as_text")]
    pub name: Name,
    /// What it is about.
    #[serde(flatten)]
    pub about: About,
    /// When the user logged in.
    pub started_at: DateTime<Utc>,
    /// When the connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether it is closed.
    pub state: State,
    /// Why the connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
}

impl Summary {
    /// One line for people.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}/{} by {}", self.about.namespace, self.about.name, self.about.requester)
    }
}

fn as_text<S: serde::Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// All recordings below a prefix.
#[derive(Clone, Debug)]
pub struct Library {
    bucket: Bucket,
    prefix: String,
}

impl Library {
    /// A library; the prefix may be empty.
    #[must_use]
    pub const fn new(bucket: Bucket, prefix: String) -> Self {
        Self { bucket, prefix }
    }

    fn object(&self, rest: &str) -> String {
        match (self.prefix.is_empty(), rest.is_empty()) {
            (true, _) => rest.to_owned(),
            (false, true) => self.prefix.clone(),
            (false, false) => format!("{}/{rest}", self.prefix),
        }
    }

    /// The recordings that a filter takes, newest first.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, ReadError> {
        let names = self.names(filter).await?;
        let read = futures::stream::iter(names).map(|name| self.summary(name)).buffer_unordered(AT_ONCE);
        let mut found: Vec<Summary> =
            read.try_filter_map(async |found| Ok(found.filter(|found| filter.takes(found)))).try_collect().await?;
        found.sort_by(|a, b| (b.started_at, &b.name).cmp(&(a.started_at, &a.name)));
        Ok(found)
    }

    /// By folders, not by objects: a day has hundreds of times more of these.
    async fn names(&self, filter: &Filter) -> Result<Vec<Name>, ReadError> {
        let dates = self.bucket.folders(&self.object("")).await?;
        let is_wanted = |date: &String| NaiveDate::parse_from_str(date, "%Y-%m-%d").is_ok_and(|day| filter.takes_date(day));
        let mut folders: Vec<String> = dates.into_iter().filter(is_wanted).collect();
        for level in [filter.namespace.as_ref(), filter.name.as_ref(), None, None] {
            folders = match level {
                Some(known) => folders.into_iter().map(|folder| format!("{folder}/{known}")).collect(),
                None => self.folders_below(folders).await?,
            };
        }
        Ok(folders.iter().filter_map(|folder| folder.parse().ok()).collect())
    }

    async fn folders_below(&self, folders: Vec<String>) -> Result<Vec<String>, ReadError> {
        let below = async |folder: String| {
            let names = self.bucket.folders(&self.object(&folder)).await?;
            Ok::<_, ReadError>(names.into_iter().map(|name| format!("{folder}/{name}")).collect::<Vec<_>>())
        };
        let found: Vec<Vec<String>> = futures::stream::iter(folders).map(below).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(found.concat())
    }

    /// `None` for a folder in which nothing can be read yet.
    async fn summary(&self, name: Name) -> Result<Option<Summary>, ReadError> {
        match self.bucket.read(&self.object(&format!("{name}/{}", manifest::OBJECT))).await {
            Ok(bytes) => Ok(Manifest::open(&bytes, None).ok().map(|manifest| of_manifest(name, manifest))),
            Err(StoreError::NotThere(_)) => self.running(name).await,
            Err(failure) => Err(failure.into()),
        }
    }

    async fn running(&self, name: Name) -> Result<Option<Summary>, ReadError> {
        let first = match self.bucket.read(&self.object(&format!("{name}/{}", Stream::Audit.object(0)))).await {
            Ok(first) => first,
            Err(StoreError::NotThere(_)) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        };
        let lines = Header::decode(first).and_then(|(_, packed)| unpack(&packed)).unwrap_or_default();
        Ok(of_first_event(name, &lines))
    }

    /// The recording of a connection, by its whole name or by its connection alone.
    ///
    /// # Errors
    /// [`ReadError::NotFound`].
    pub async fn find(&self, text: &str) -> Result<Name, ReadError> {
        if text.contains('/') {
            let folder = text.split_once("://").map_or(text, |(_, rest)| rest);
            let parts: Vec<&str> = folder.trim_matches('/').rsplitn(6, '/').take(5).collect();
            return parts.into_iter().rev().collect::<Vec<_>>().join("/").parse();
        }
        let mut dates = self.bucket.folders(&self.object("")).await?;
        // Newest first: that is what people look for.
        dates.reverse();
        for day in dates.iter().filter_map(|date| NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()) {
            let of_day = Filter {
                since: day.and_hms_opt(0, 0, 0).map(|time| time.and_utc()),
                until: day.and_hms_opt(0, 0, 1).map(|time| time.and_utc()),
                ..Filter::default()
            };
            if let Some(name) = self.names(&of_day).await?.into_iter().find(|name| name.connection == text) {
                return Ok(name);
            }
        }
        Err(ReadError::NotFound(text.to_owned()))
    }

    /// Bytes of all objects of a recording.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn size(&self, name: &Name) -> Result<u64, ReadError> {
        let entries = self.bucket.list(&self.object(&name.to_string())).await?;
        Ok(entries.iter().map(|entry| entry.size).sum())
    }

    /// Everything of a recording.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn load(&self, name: &Name) -> Result<Loaded, ReadError> {
        let folder = self.object(&name.to_string());
        let entries = self.bucket.list(&folder).await?;
        if entries.is_empty() {
            return Err(ReadError::NotFound(name.to_string()));
        }
        let read = async |entry: crate::store::Entry| {
            let bytes = self.bucket.read(&entry.name).await?;
            Ok::<_, ReadError>((entry.name.rsplit('/').next().unwrap_or_default().to_owned(), bytes))
        };
        let objects = futures::stream::iter(entries).map(read).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(Loaded { name: name.clone(), objects })
    }
}

fn of_manifest(name: Name, manifest: Manifest) -> Summary {
    Summary {
        name,
        about: manifest.about,
        started_at: manifest.closing.started_at,
        ended_at: Some(manifest.closing.ended_at),
        state: if manifest.closing.complete { State::Complete } else { State::Incomplete },
        end_reason: Some(manifest.closing.end_reason),
    }
}

fn of_first_event(name: Name, lines: &[u8]) -> Option<Summary> {
    #[derive(serde::Deserialize)]
    struct First {
        time: DateTime<Utc>,
        #[serde(flatten)]
        about: About,
    }
    let first: First = serde_json::from_slice(lines.split(|byte| *byte == b'\n').next()?).ok()?;
    Some(Summary { name, about: first.about, started_at: first.time, ended_at: None, state: State::Running, end_reason: None })
}

/// The objects of one recording, as they are.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where it is.
    pub name: Name,
    /// By their names in the folder.
    pub objects: BTreeMap<String, Bytes>,
}

impl Loaded {
    /// The manifest, unverified.
    #[must_use]
    pub fn manifest(&self) -> Option<Manifest> {
        self.objects.get(manifest::OBJECT).and_then(|bytes| Manifest::open(bytes, None).ok())
    }

    /// The payloads of a stream, one after the other, up to the first chunk that is missing.
    fn payloads(&self, stream: Stream) -> Result<Vec<Bytes>, ReadError> {
        let mut payloads = Vec::new();
        for sequence in 0.. {
            let object = stream.object(sequence);
            let Some(bytes) = self.objects.get(&object) else { break };
            let payload = Header::decode(bytes.clone()).and_then(|(_, packed)| unpack(&packed));
            payloads.push(payload.map_err(|why| ReadError::Damaged { object, why })?);
        }
        Ok(payloads)
    }

    /// Whether the records take at most so many bytes unpacked. Looks at what the frames say of themselves, unpacks nothing twice.
    #[must_use]
    pub fn fits(&self, limit: usize) -> bool {
        let mut left = limit as u64;
        self.objects.iter().filter(|(name, _)| Stream::of_object(name).is_some()).all(|(_, bytes)| {
            let unpacked = Header::decode(bytes.clone()).ok().and_then(|(_, packed)| unpacked_size(&packed, left));
            unpacked.is_some_and(|size| {
                left = left.saturating_sub(size);
                left > 0
            })
        })
    }

    /// The records, in order.
    ///
    /// # Errors
    /// [`ReadError::Damaged`].
    pub fn records(&self) -> Result<Vec<Record>, ReadError> {
        let mut all = Vec::new();
        for (payload, sequence) in self.payloads(Stream::Output)?.into_iter().zip(0..) {
            let damaged = |why| ReadError::Damaged { object: Stream::Output.object(sequence), why };
            all.append(&mut records(payload).map_err(damaged)?);
        }
        Ok(all)
    }

    /// The audit stream: JSON lines.
    ///
    /// # Errors
    /// [`ReadError::Damaged`].
    pub fn audit(&self) -> Result<String, ReadError> {
        Ok(String::from_utf8_lossy(&self.payloads(Stream::Audit)?.concat()).into_owned())
    }

    /// What the recording is about, from its manifest, or from its first event while it runs.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        match self.manifest() {
            Some(manifest) => Some(of_manifest(self.name.clone(), manifest)),
            None => of_first_event(self.name.clone(), self.payloads(Stream::Audit).ok()?.first()?),
        }
    }
}
