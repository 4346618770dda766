//! Stores one recording, chunk by chunk, until it ended. Tries again for as long as the process lives: what a user has seen is not given up.

use super::archive::{Marker, labels};
use super::audit::{AuditEvent, put_line};
use super::format::{FORMAT, GENESIS, Header, Stream, sha256};
use super::manifest::{self, Chunk, Closing, Manifest};
use super::recorder::{FULL, LONGEST_WAIT, Pending, Shared};
use crate::store::StoreError;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracing::{error, warn};

/// A chunk is closed when its oldest byte is this old: with a second for the write itself, two are lost to a kill.
const OLDEST: Duration = Duration::from_secs(1);
/// From this size on a chunk is closed, packed.
const CHUNK: usize = FULL;
/// From this size on it is closed, unpacked: a reader has to hold it.
const CHUNK_UNPACKED: usize = 64 * 1024 * 1024;
/// Packing this much is worth a thread of its own.
const WORK: usize = 128 * 1024;
/// A write that takes longer counts as failing.
const SLOW: Duration = Duration::from_secs(5);
/// Between attempts, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Another replica took this one for dead and closed the recording. With what was to be written.
struct Fenced(Option<(Stream, Vec<u8>)>);

/// One stream's end.
struct Tip {
    sequence: u32,
    previous: String,
    chunks: Vec<Chunk>,
}

/// A chunk that is not closed yet.
#[derive(Default)]
struct Building {
    packed: Vec<u8>,
    unpacked: usize,
    since: Option<Instant>,
}

struct Writer {
    shared: Arc<Shared>,
    id: String,
    marker: Marker,
    labels: Vec<(&'static str, String)>,
    tips: BTreeMap<Stream, Tip>,
    building: Building,
    /// When and why the connection ended. Kept here: a second recording has to end too.
    ended: Option<(DateTime<Utc>, String)>,
}

/// Runs until everything is stored.
pub(super) async fn write(shared: Arc<Shared>, id: String, marker: Marker) {
    // A writer that ends without having said so, by a panic, must not leave users in front of a recorder that takes no more.
    let shared = Ending(shared);
    let tips = Stream::ALL.into_iter().map(|stream| (stream, Tip::default())).collect();
    let labels = labels(&marker.about);
    let mut writer = Writer { shared: Arc::clone(&shared.0), id, marker, labels, tips, building: Building::default(), ended: None };
    // On the heap: it is long, and there is one per connection.
    if let Err(fenced) = Box::pin(writer.run()).await {
        error!(
            recording = writer.id,
            "another replica closed this recording: the connection is cut, and what is left goes into a second one"
        );
        writer.shared.stop("another gateway took this one for dead and closed the recording");
        if Box::pin(writer.go_on(fenced)).await.is_err() {
            error!(recording = writer.id, "the second recording was closed too: what is left is lost");
        }
    }
}

/// Gives back what is still held, however the recording ended.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.stop("the recording is closed");
        drop(self.0.pending().take());
        self.0.set_oldest(None);
        self.0.release(self.0.held.load(Ordering::Relaxed));
    }
}

impl Default for Tip {
    fn default() -> Self {
        Self { sequence: 0, previous: GENESIS.into(), chunks: Vec::new() }
    }
}

impl Building {
    fn is_due(&self) -> bool {
        self.packed.len() >= CHUNK || self.unpacked >= CHUNK_UNPACKED || self.since.is_some_and(|since| since.elapsed() >= OLDEST)
    }
}

impl Writer {
    async fn run(&mut self) -> Result<(), Fenced> {
        self.mark().await?;
        self.store().await
    }

    /// What another replica closed is not taken up again: a second recording has the rest.
    async fn go_on(&mut self, fenced: Fenced) -> Result<(), Fenced> {
        let first = std::mem::take(&mut self.id);
        self.id = format!("{first}-2");
        self.marker.folder.push_str("-2");
        self.tips = Stream::ALL.into_iter().map(|stream| (stream, Tip::default())).collect();
        self.mark().await?;
        let mut lines = Vec::new();
        let now = (self.shared.archive.now)();
        put_line(&mut lines, now, &AuditEvent::Connection(Box::new(self.marker.about.clone())));
        put_line(&mut lines, now, &AuditEvent::Continues { recording: first });
        let holds_the_end = matches!(fenced.0, Some((Stream::Audit, _)));
        if let Some((at, reason)) = self.ended.clone().filter(|_| !holds_the_end) {
            put_line(&mut lines, at, &AuditEvent::End { reason });
        }
        self.put_audit(lines).await?;
        if let Some((stream, packed)) = fenced.0 {
            self.put(stream, packed).await?;
        }
        self.store().await
    }

    /// Stores what comes, until the connection ended and all of it is stored.
    async fn store(&mut self) -> Result<(), Fenced> {
        loop {
            self.due().await;
            let (mut taken, total) = {
                let mut pending = self.shared.pending();
                (pending.take(), pending.total)
            };
            if let Some((at, reason)) = taken.ended.take() {
                self.ended = Some((at, reason.clone()));
                put_line(&mut taken.audit, at, &AuditEvent::End { reason });
            }
            self.shared.set_oldest(self.building.since.or(taken.since));
            let (size, urgent, audit) = (taken.size as u64, taken.urgent, std::mem::take(&mut taken.audit));
            self.pack(taken).await;
            self.put_audit(audit).await?;
            self.shared.release(size);
            if urgent || self.ended.is_some() || self.building.is_due() {
                self.put_output().await?;
            }
            self.shared.set_oldest(self.building.since);
            if self.building.packed.is_empty() {
                self.shared.stored.send_replace(total);
            }
            if let Some((at, reason)) = self.ended.clone() {
                return self.close(at, reason).await;
            }
        }
    }

    /// Returns when there is something to do.
    async fn due(&self) {
        loop {
            let deadline = {
                let pending = self.shared.pending();
                if pending.urgent || pending.ended.is_some() || self.ended.is_some() || pending.size >= FULL {
                    return;
                }
                self.building.since.or(pending.since).map(|since| since + OLDEST)
            };
            let woken = self.shared.wake.notified();
            match deadline {
                Some(deadline) if deadline <= Instant::now() => return,
                Some(deadline) => drop(tokio::time::timeout_at(deadline.into(), woken).await),
                None => woken.await,
            }
        }
    }

    /// Adds records to the chunk that is being built.
    async fn pack(&mut self, taken: Pending) {
        if taken.pieces.is_empty() {
            return;
        }
        self.building.since = self.building.since.or(taken.since);
        self.building.unpacked += taken.size;
        let much = taken.size >= WORK;
        let before = self.building.packed.len();
        let mut packed = std::mem::take(&mut self.building.packed);
        let archive = Arc::clone(&self.shared.archive);
        let pack = move || archive.packers.pack(&taken.pieces, &mut packed).map(|()| packed);
        let packed =
            if much { tokio::task::spawn_blocking(pack).await.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())) } else { pack() };
        let Ok(packed) = packed else { return self.shared.stop("this session's recording cannot be packed") };
        self.building.packed = packed;
        self.shared.hold(self.building.packed.len().saturating_sub(before) as u64);
    }

    async fn put_audit(&mut self, lines: Vec<u8>) -> Result<(), Fenced> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut packed = Vec::new();
        if self.shared.archive.packers.pack(&[lines.into()], &mut packed).is_err() {
            self.shared.stop("this session's recording cannot be packed");
        }
        self.put(Stream::Audit, packed).await
    }

    async fn put_output(&mut self) -> Result<(), Fenced> {
        let building = std::mem::take(&mut self.building);
        if building.packed.is_empty() {
            return Ok(());
        }
        let size = building.packed.len() as u64;
        self.put(Stream::Output, building.packed).await?;
        self.shared.release(size);
        Ok(())
    }

    /// Stores the next chunk of a stream.
    async fn put(&mut self, stream: Stream, packed: Vec<u8>) -> Result<(), Fenced> {
        let Some(tip) = self.tips.get(&stream) else { return Ok(()) };
        let header = Header {
            format: FORMAT.into(),
            recording: self.id.clone(),
            stream,
            sequence: tip.sequence,
            previous: tip.previous.clone(),
            replica: self.shared.archive.replica.clone(),
            fence: false,
        };
        let bytes = Bytes::from([&header.encode()[..], &packed].concat());
        let name = self.shared.archive.name(&format!("{}/{}", self.marker.folder, stream.object(header.sequence)));
        self.create(&name, &bytes).await.map_err(|_| Fenced(Some((stream, packed))))?;
        let metrics = &self.shared.archive.metrics;
        metrics.chunks.inc();
        metrics.bytes.inc_by(bytes.len() as u64);
        if let Some(tip) = self.tips.get_mut(&stream) {
            tip.previous = sha256(&bytes);
            tip.chunks.push(Chunk { sequence: tip.sequence, size: bytes.len() as u64, sha256: tip.previous.clone() });
            tip.sequence += 1;
        }
        Ok(())
    }

    fn marker_name(&self) -> String {
        let archive = &self.shared.archive;
        archive.name(&format!("open/{}/{}", archive.replica, self.id))
    }

    /// Tells all replicas that this recording is open.
    async fn mark(&self) -> Result<(), Fenced> {
        let text = serde_json::to_vec(&self.marker).unwrap_or_default();
        self.create(&self.marker_name(), &text.into()).await
    }

    async fn close(&mut self, ended_at: DateTime<Utc>, end_reason: String) -> Result<(), Fenced> {
        let archive = Arc::clone(&self.shared.archive);
        let closing =
            Closing { started_at: self.marker.started_at, ended_at, complete: true, end_reason, sealed_by: archive.replica.clone() };
        let streams = std::mem::take(&mut self.tips).into_iter().map(|(stream, tip)| (stream, tip.chunks)).collect();
        let sealed = Manifest::new(&self.id, self.marker.about.clone(), closing, streams).seal(&archive.key);
        let Ok(sealed) = sealed else {
            // The key was read and checked at the start.
            error!(recording = self.id, "the manifest cannot be signed: the recording stays open and is closed as incomplete later");
            return Ok(());
        };
        self.create(&archive.name(&format!("{}/{}", self.marker.folder, manifest::OBJECT)), &sealed.into()).await?;
        if let Err(failure) = archive.bucket.delete(&self.marker_name()).await {
            // Whoever looks for cut-off recordings finds the manifest, and deletes the marker.
            warn!(recording = self.id, %failure, "the marker of a closed recording stays for now");
        }
        Ok(())
    }

    /// Writes an object that must be new, as often as it takes. On the heap for as long as it takes: a writer that waits keeps no room for it.
    async fn create(&self, name: &str, bytes: &Bytes) -> Result<(), Fenced> {
        Box::pin(self.create_at_last(name, bytes)).await
    }

    async fn create_at_last(&self, name: &str, bytes: &Bytes) -> Result<(), Fenced> {
        let archive = &self.shared.archive;
        let mut pause = PAUSE;
        loop {
            let failure = match self.watched(archive.bucket.create(name, bytes.clone(), &self.labels)).await {
                Ok(()) => break,
                // Ours all the same, if only the answer of an earlier attempt was lost.
                Err(StoreError::AlreadyThere(_)) => match self.watched(archive.bucket.read(name)).await {
                    Ok(there) if there == *bytes => break,
                    Ok(_) => return Err(Fenced(None)),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            archive.metrics.failures.inc();
            if !self.shared.failing.swap(true, Ordering::Relaxed) {
                warn!(recording = self.id, %failure, "the recording store does not take a recording");
            }
            self.stop_if_late();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.shared.failing.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Awaits one attempt, and meanwhile says when it takes too long.
    async fn watched<T>(&self, attempt: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                outcome = &mut attempt => return outcome,
                _ = tick.tick() => {}
            }
            if began.elapsed() >= SLOW {
                self.shared.failing.store(true, Ordering::Relaxed);
            }
            self.stop_if_late();
        }
    }

    fn stop_if_late(&self) {
        if self.shared.lag() > LONGEST_WAIT {
            self.shared.stop("the recording store has not answered for a minute: what cannot be recorded is not shown");
        }
    }
}
