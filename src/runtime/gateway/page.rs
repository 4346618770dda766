//! What the web page shows, from this replica's directory and from the recording store.

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use russh::keys::PublicKey;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

use crate::api::AnySession;
use crate::gateway::Gateway;
use crate::page::{
    ChannelRow, Filter, RecordingDetail, RecordingKey, RecordingRow, RecordingState, SessionRow, Source, SourceError, Verdict, Verification,
};
use crate::recording::cast::{self, asciicast, channels};
use crate::recording::format::Record;
use crate::recording::read::{self, Library, Loaded, Name, ReadError, State, Summary};

/// Longest wait for the store.
const PATIENCE: Duration = Duration::from_secs(15);
/// Largest recording that is shown, as it is stored and unpacked.
const LARGEST: u64 = 16 * 1024 * 1024;
const LARGEST_UNPACKED: usize = 24 * 1024 * 1024;
/// How far back a list goes where no day is asked for.
const DAYS: i64 = 30;

/// See the module.
pub struct Shown {
    /// The replica.
    pub gateway: Arc<Gateway>,
    /// The recordings, where there are such, and the key that must have signed them.
    pub recordings: Option<(Library, PublicKey)>,
    /// One recording is unpacked at a time.
    pub turn: Mutex<()>,
}

fn unavailable(failure: &ReadError) -> SourceError {
    match failure {
        ReadError::NotFound(_) | ReadError::NoName(_) => SourceError::Missing,
        other => SourceError::Unavailable(other.to_string()),
    }
}

impl Shown {
    fn library(&self) -> Result<&(Library, PublicKey), SourceError> {
        let off = || SourceError::Unavailable("this installation does not record: recording.mode is Off".into());
        self.recordings.as_ref().ok_or_else(off)
    }

    /// A recording and its records. One at a time, and none that is large: the gateway's memory belongs to its users.
    async fn load(&self, key: &RecordingKey) -> Result<(Loaded, Vec<Record>), SourceError> {
        let name: Name = key.to_string().parse().map_err(|failure| unavailable(&failure))?;
        let (library, _) = self.library()?;
        let too_large = || {
            SourceError::Unavailable(format!(
                "this recording is too large for the page: see it by `sandglass recordings replay {}`",
                name.connection
            ))
        };
        let _turn = self.turn.lock().await;
        if within(library.size(&name)).await? > LARGEST {
            return Err(too_large());
        }
        let loaded = within(library.load(&name)).await?;
        let unpack = move || if loaded.fits(LARGEST_UNPACKED) { Some(loaded.records().map(|records| (loaded, records))) } else { None };
        let unpacked = tokio::task::spawn_blocking(unpack).await.map_err(|failure| SourceError::Unavailable(failure.to_string()))?;
        unpacked.ok_or_else(too_large)?.map_err(|failure| unavailable(&failure))
    }
}

async fn within<T>(read: impl Future<Output = Result<T, ReadError>>) -> Result<T, SourceError> {
    let silent = || SourceError::Unavailable("the recording store does not answer: try again in a while".into());
    tokio::time::timeout(PATIENCE, read).await.map_err(|_| silent())?.map_err(|failure| unavailable(&failure))
}

impl Source for Shown {
    fn sessions(&self) -> Vec<SessionRow> {
        self.gateway.directory.all().iter().filter_map(|session| row(session, &self.gateway)).collect()
    }

    async fn recordings(&self, filter: &Filter) -> Result<Vec<RecordingRow>, SourceError> {
        let (library, _) = self.library()?;
        let found = within(library.list(&wanted(filter, (self.gateway.now)()))).await?;
        Ok(found.iter().filter_map(recording).collect())
    }

    async fn recording(&self, key: &RecordingKey) -> Result<RecordingDetail, SourceError> {
        let (loaded, records) = self.load(key).await?;
        let summary = loaded.summary().ok_or(SourceError::Missing)?;
        let channels = channels(&records).into_iter().map(channel).collect();
        Ok(RecordingDetail {
            row: recording(&summary).ok_or(SourceError::Missing)?,
            remote_address: Some(summary.about.remote_address.clone()),
            certificate: summary.about.certificate.clone(),
            end_reason: summary.end_reason.clone(),
            verification: verification(&loaded, summary.state, &self.library()?.1),
            channels,
            audit: loaded.audit().map_err(|failure| unavailable(&failure))?,
        })
    }

    async fn cast(&self, key: &RecordingKey, number: u32) -> Result<Bytes, SourceError> {
        let (loaded, records) = self.load(key).await?;
        let summary = loaded.summary().ok_or(SourceError::Missing)?;
        let channel = channels(&records).into_iter().find(|channel| channel.channel == number).ok_or(SourceError::Missing)?;
        Ok(asciicast(&records, &channel, &summary.title(), summary.started_at).into())
    }

    async fn opened(&self, who: &str, key: &RecordingKey) -> Result<(), SourceError> {
        let Some(archive) = &self.gateway.archive else { return Ok(()) };
        let noted = tokio::time::timeout(PATIENCE, archive.viewed(who, &key.to_string())).await;
        match noted {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(SourceError::Unavailable(failure.to_string())),
            Err(_) => Err(SourceError::Unavailable("the recording store does not answer: try again in a while".into())),
        }
    }
}

fn row(session: &AnySession, gateway: &Gateway) -> Option<SessionRow> {
    let status = session.state().cloned().unwrap_or_default();
    let metadata = session.metadata();
    let namespace = metadata.namespace.clone()?;
    let project = match session {
        AnySession::Debug(session) => session.spec.project.clone().unwrap_or_else(|| namespace.clone()),
        AnySession::Vm(session) => format!("machine {}", session.spec.target.address),
    };
    let time = |time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| DateTime::from_timestamp(time.0.as_second(), 0);
    Some(SessionRow {
        name: metadata.name.clone()?,
        phase: status.phase.map(|phase| format!("{phase:?}")).unwrap_or_default(),
        requester: session.terms().requester.to_owned(),
        project,
        expires_at: crate::domain::access::deadline(session, gateway.configuration.ttl_cap()),
        ended_at: status.ended_at.and_then(time),
        end_reason: status.end_reason,
        command: status.connection.map(|connection| connection.command),
        connections: status.connections.iter().filter(|connection| connection.ended_at.is_none()).count(),
        namespace,
    })
}

/// The library's filter for the page's.
fn wanted(filter: &Filter, now: DateTime<Utc>) -> read::Filter {
    let midnight = |day: NaiveDate| day.and_hms_opt(0, 0, 0).map(|midnight| midnight.and_utc());
    read::Filter {
        namespace: filter.namespace.clone(),
        name: filter.name.clone(),
        commit: filter.commit.clone(),
        pull_request: filter.pull_request.clone(),
        actor: filter.actor.clone(),
        since: filter.day.map_or_else(|| now.checked_sub_signed(TimeDelta::days(DAYS)), midnight),
        until: filter.day.and_then(|day| day.succ_opt()).and_then(midnight),
    }
}

fn recording(summary: &Summary) -> Option<RecordingRow> {
    let name = &summary.name;
    Some(RecordingRow {
        key: RecordingKey::new([&name.date.to_string(), &name.namespace, &name.name, &name.uid, &name.connection])?,
        requester: summary.about.requester.clone(),
        fingerprint: summary.about.fingerprint.clone(),
        started_at: summary.started_at,
        ended_at: summary.ended_at,
        state: match summary.state {
            State::Complete => RecordingState::Complete,
            State::Incomplete => RecordingState::Incomplete,
            State::Running => RecordingState::Running,
        },
        commit: summary.about.commit.clone(),
        pull_request: summary.about.pull_request.clone(),
    })
}

fn channel(channel: cast::Channel) -> ChannelRow {
    ChannelRow { number: channel.channel, kind: channel.opened.kind, command: channel.opened.command, exit: channel.exit, playable: true }
}

fn verification(loaded: &Loaded, state: State, key: &PublicKey) -> Verification {
    if state == State::Running {
        return Verification { verdict: Verdict::NotSealed, text: "not closed yet: there is nothing to verify against".into() };
    }
    let found = loaded.verify(key);
    if found.problems.is_empty() {
        return Verification { verdict: Verdict::Intact, text: format!("{} chunks are as they were written and signed", found.chunks) };
    }
    Verification { verdict: Verdict::Broken, text: found.problems.join("; ") }
}
