//! Signs of life, and the closing of recordings whose replica died: any replica does it, and only one can. Liveness is judged by the
//! store's own clock, so that replicas' clocks need not agree.

use super::archive::{Archive, Marker};
use super::format::{FORMAT, GENESIS, Header, Stream, sha256};
use super::manifest::{self, Chunk, Closing, Manifest};
use crate::store::{Entry, StoreError};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{info, warn};

/// Between two signs of life, and two looks at the others'.
const BEAT: Duration = Duration::from_secs(10);
/// A replica whose last sign is this much older than ours is dead.
pub const DEAD: TimeDelta = TimeDelta::seconds(30);
/// Between two looks at the lag.
const TICK: Duration = Duration::from_secs(1);
/// Chunks read at once.
const AT_ONCE: usize = 8;
/// How often a fence is tried against a replica that writes all the same.
const ATTEMPTS: u32 = 3;

/// Keeps the signs going for ever. Beside each other: closing many recordings takes longer than a sign may be late.
pub async fn keep(archive: &Archive) {
    let watch = async {
        let mut tick = ticks(TICK);
        loop {
            tick.tick().await;
            archive.metrics.lag.set(archive.lag().as_secs_f64());
        }
    };
    let beat = async {
        let mut tick = ticks(BEAT);
        loop {
            tick.tick().await;
            if let Err(failure) = give_sign(archive).await {
                warn!(%failure, "the recording store does not take this replica's sign of life");
            }
        }
    };
    let looks = async {
        let mut tick = ticks(BEAT);
        loop {
            tick.tick().await;
            if let Err(failure) = look(archive, DEAD).await {
                warn!(%failure, "the recording store cannot be looked at");
            }
        }
    };
    tokio::join!(watch, beat, looks);
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick
}

fn sign_of(archive: &Archive, replica: &str) -> String {
    archive.name(&format!("replicas/{replica}"))
}

async fn give_sign(archive: &Archive) -> Result<(), StoreError> {
    archive.bucket.replace(&sign_of(archive, &archive.replica), Bytes::from_static(b"alive\n")).await
}

/// One sign of life, and one look for recordings that nobody writes any more: replicas without a sign for longer than `dead`.
///
/// # Errors
/// The store cannot be reached: the next look will do.
pub async fn look(archive: &Archive, dead: TimeDelta) -> Result<(), StoreError> {
    give_sign(archive).await?;
    let markers = archive.bucket.list(&archive.name("open")).await?;
    let signs = archive.bucket.list(&archive.name("replicas")).await?;
    let Some(now) = modified(&signs, &archive.replica) else { return Ok(()) };
    for marker in &markers {
        let Some(replica) = replica_of(&marker.name).filter(|replica| *replica != archive.replica) else { continue };
        if now - modified(&signs, replica).unwrap_or(marker.modified) <= dead {
            continue;
        }
        // One that cannot be closed must not keep the others open.
        if let Err(failure) = close(archive, marker, dead).await {
            warn!(marker = marker.name, %failure, "the recording of a dead replica cannot be closed yet");
        }
    }
    for sign in &signs {
        let replica = last_part(&sign.name);
        let has_open = markers.iter().any(|marker| replica_of(&marker.name) == Some(replica));
        if !has_open && now - sign.modified > dead {
            archive.bucket.delete(&sign.name).await?;
        }
    }
    Ok(())
}

/// When a replica gave its last sign. One without any is judged by its marker.
fn modified(signs: &[Entry], replica: &str) -> Option<DateTime<Utc>> {
    signs.iter().find(|sign| last_part(&sign.name) == replica).map(|sign| sign.modified)
}

/// Whether a replica is still silent, right now.
async fn is_silent(archive: &Archive, marker: &Entry, dead: TimeDelta) -> Result<bool, StoreError> {
    give_sign(archive).await?;
    let signs = archive.bucket.list(&archive.name("replicas")).await?;
    let sign = replica_of(&marker.name).and_then(|replica| modified(&signs, replica));
    let now = modified(&signs, &archive.replica);
    Ok(now.is_some_and(|now| now - sign.unwrap_or(marker.modified) > dead))
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

fn replica_of(marker: &str) -> Option<&str> {
    marker.rsplit('/').nth(1)
}

async fn close(archive: &Archive, entry: &Entry, dead: TimeDelta) -> Result<(), StoreError> {
    let id = last_part(&entry.name);
    let marker = match archive.bucket.read(&entry.name).await {
        Ok(bytes) => serde_json::from_slice::<Marker>(&bytes).ok(),
        // Another replica was faster.
        Err(StoreError::NotThere(_)) => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let Some(marker) = marker else {
        warn!(marker = entry.name, "the marker of a recording cannot be read: it is left alone");
        return Ok(());
    };
    let manifest = archive.name(&format!("{}/{}", marker.folder, manifest::OBJECT));
    match archive.bucket.read(&manifest).await {
        // It was closed as it should be, only its marker stayed.
        Ok(_) => return archive.bucket.delete(&entry.name).await,
        Err(StoreError::NotThere(_)) => {}
        Err(failure) => return Err(failure),
    }
    if !is_silent(archive, entry, dead).await? {
        return Ok(());
    }
    let mut streams = BTreeMap::new();
    let mut last = marker.started_at;
    for stream in Stream::ALL {
        let Some((chunks, newest)) = fence(archive, id, &marker, stream).await? else { return Ok(()) };
        last = last.max(newest);
        streams.insert(stream, chunks);
    }
    let closing = Closing {
        started_at: marker.started_at,
        ended_at: last,
        complete: false,
        end_reason: "the gateway's replica died, or lost the store: what it had not stored is not here".into(),
        sealed_by: archive.replica.clone(),
    };
    let Ok(sealed) = Manifest::new(id, marker.about.clone(), closing, streams).seal(&archive.key) else { return Ok(()) };
    match archive.bucket.create(&manifest, sealed.into(), &super::archive::labels(&marker.about)).await {
        Ok(()) => {
            archive.metrics.sealed_incomplete.inc();
            info!(recording = id, folder = marker.folder, "closed the recording of a dead replica as incomplete");
        }
        Err(StoreError::AlreadyThere(_)) => {}
        Err(failure) => return Err(failure),
    }
    archive.bucket.delete(&entry.name).await
}

/// Closes one stream with an empty chunk, which its writer, should it live, will run into. Gives all chunks, and when the last was
/// written; `None` where the stream has no end that holds still.
async fn fence(archive: &Archive, id: &str, marker: &Marker, stream: Stream) -> Result<Option<(Vec<Chunk>, DateTime<Utc>)>, StoreError> {
    let mut newest = marker.started_at;
    for _ in 0..ATTEMPTS {
        let mut chunks = Vec::new();
        let mut previous = GENESIS.to_owned();
        let mut is_fenced = false;
        let entries = futures::stream::iter(stored(archive, marker, stream).await?);
        let mut read = entries.map(|entry| chunk(archive, entry)).buffered(AT_ONCE);
        while let Some(next) = read.next().await {
            let (bytes, entry) = next?;
            is_fenced = Header::decode(bytes.clone()).is_ok_and(|(header, _)| header.fence);
            if !is_fenced {
                newest = newest.max(entry.modified);
            }
            previous = sha256(&bytes);
            chunks.push(Chunk { sequence: number(&chunks), size: bytes.len() as u64, sha256: previous.clone() });
        }
        if is_fenced {
            return Ok(Some((chunks, newest)));
        }
        let header = Header {
            format: FORMAT.into(),
            recording: id.into(),
            stream,
            sequence: number(&chunks),
            previous,
            replica: archive.replica.clone(),
            fence: true,
        };
        let bytes = Bytes::from(header.encode());
        let name = archive.name(&format!("{}/{}", marker.folder, stream.object(header.sequence)));
        match archive.bucket.create(&name, bytes.clone(), &[]).await {
            Ok(()) => {
                chunks.push(Chunk { sequence: header.sequence, size: bytes.len() as u64, sha256: sha256(&bytes) });
                return Ok(Some((chunks, newest)));
            }
            // Its writer lives after all, or another replica fences too: look again.
            Err(StoreError::AlreadyThere(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

async fn chunk(archive: &Archive, entry: Entry) -> Result<(Bytes, Entry), StoreError> {
    Ok((archive.bucket.read(&entry.name).await?, entry))
}

fn number(chunks: &[Chunk]) -> u32 {
    u32::try_from(chunks.len()).unwrap_or(u32::MAX)
}

/// The chunks of a stream up to the first one that is missing.
async fn stored(archive: &Archive, marker: &Marker, stream: Stream) -> Result<Vec<Entry>, StoreError> {
    let entries = archive.bucket.list(&archive.name(&marker.folder)).await?;
    let mut chunks: Vec<(u32, Entry)> = Vec::new();
    for entry in entries {
        if let Some((of, sequence)) = Stream::of_object(last_part(&entry.name))
            && of == stream
        {
            chunks.push((sequence, entry));
        }
    }
    chunks.sort_unstable_by_key(|(sequence, _)| *sequence);
    let contiguous = chunks.into_iter().enumerate().take_while(|(index, (sequence, _))| u32::try_from(*index) == Ok(*sequence));
    Ok(contiguous.map(|(_, (_, entry))| entry).collect())
}
