//! The gateway's end of one recording: takes bytes before they are shown, and events when they happen. Bytes wait in memory, within
//! bounds, until the [`super::writer`] has stored them.

use super::archive::Archive;
use super::audit::{AuditEvent, put_line};
use super::format::{Kind, put_head};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// What one recording may hold in memory.
const HELD: u64 = 16 * 1024 * 1024;
/// More for what is not shown: notes and events never wait, and bulk output must not stop them.
const HEADROOM: u64 = 1024 * 1024;
const HEADROOM_OF_ALL: u64 = 32 * 1024 * 1024;
/// Counted for each record beside its data: its head, and what it takes in memory.
const HEAD: usize = 32;
/// Longest that anything may wait to be stored.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// From here on the writer is woken before its time.
pub(super) const FULL: usize = 256 * 1024;
/// Data from this size on is kept as it came, smaller is copied together.
const WHOLE: usize = 4096;
/// Waiting for room looks again this often, beside being woken.
const TICK: Duration = Duration::from_millis(100);

/// Nothing more can be recorded, so nothing more may be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stopped(pub Arc<str>);

/// Which of the two streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Standard output, or the terminal.
    Output,
    /// Standard error.
    Error,
}

/// What waits for the writer.
#[derive(Default)]
pub(super) struct Pending {
    /// Whole records, in pieces.
    pub pieces: Vec<Bytes>,
    /// The end of them, still growing.
    tail: Vec<u8>,
    /// JSON lines.
    pub audit: Vec<u8>,
    /// Bytes of all of it.
    pub size: usize,
    /// When the oldest of it came.
    pub since: Option<Instant>,
    /// Number of bytes ever taken in: what [`Recorder::flush`] waits for.
    pub total: u64,
    /// Somebody waits for it to be stored.
    pub urgent: bool,
    /// When the connection ended, and for what reason.
    pub ended: Option<(DateTime<Utc>, String)>,
    /// Why it will have ended.
    end_reason: Option<String>,
}

impl Pending {
    fn record(&mut self, kind: Kind, channel: u32, at: Duration, data: &Bytes) {
        put_head(&mut self.tail, kind, channel, at, data.len());
        if data.len() < WHOLE {
            self.tail.extend_from_slice(data);
        } else {
            self.close_tail();
            self.pieces.push(data.clone());
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(std::mem::take(&mut self.tail).into());
        }
    }

    /// Everything, as the writer takes it.
    pub fn take(&mut self) -> Self {
        self.close_tail();
        let (total, end_reason) = (self.total, self.end_reason.take());
        let taken = std::mem::take(self);
        (self.total, self.end_reason) = (total, end_reason);
        taken
    }
}

/// What the recorder and its writer share.
pub(super) struct Shared {
    pub archive: Arc<Archive>,
    began: Instant,
    pending: Mutex<Pending>,
    /// Bytes in memory: waiting, or packed and not stored.
    pub held: AtomicU64,
    /// Since when the oldest byte that is not stored waits, in milliseconds from `began`; `u64::MAX` for nothing.
    oldest: AtomicU64,
    /// The store does not take what it is given.
    pub failing: AtomicBool,
    /// Something to do for the writer.
    pub wake: Notify,
    /// Up to which [`Pending::total`] everything is stored.
    pub stored: watch::Sender<u64>,
    pub stopped: watch::Sender<Option<Arc<str>>>,
}

impl Shared {
    pub fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is taken, for this reason. The first one stays.
    pub fn stop(&self, reason: &str) {
        self.stopped.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason.into());
            }
            first
        });
    }

    fn check(&self) -> Result<(), Stopped> {
        self.stopped.borrow().clone().map_or(Ok(()), |reason| Err(Stopped(reason)))
    }

    /// Gives memory back.
    pub fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.archive.held.fetch_sub(bytes, Ordering::Relaxed);
        self.archive.room.notify_waiters();
    }

    /// Takes memory.
    pub fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.archive.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Remembers since when the oldest byte waits.
    pub fn set_oldest(&self, since: Option<Instant>) {
        let milliseconds =
            since.map_or(u64::MAX, |since| u64::try_from(since.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX));
        self.oldest.store(milliseconds, Ordering::Relaxed);
    }

    /// How long the oldest byte has been waiting.
    pub fn lag(&self) -> Duration {
        let pending = self.pending().since.map(|since| since.elapsed()).unwrap_or_default();
        match self.oldest.load(Ordering::Relaxed) {
            u64::MAX => pending,
            since => self.began.elapsed().saturating_sub(Duration::from_millis(since)).max(pending),
        }
    }

    fn has_room(&self, more: u64, headroom: u64, headroom_of_all: u64) -> bool {
        let fits = |held: &AtomicU64, limit: u64| {
            let held = held.load(Ordering::Relaxed);
            held == 0 || held + more <= limit
        };
        fits(&self.held, HELD + headroom) && fits(&self.archive.held, super::archive::HELD_BY_ALL + headroom_of_all)
    }

    /// Takes something in, and wakes the writer where it is time.
    fn put(&self, size: usize, put: impl FnOnce(&mut Pending, Duration)) {
        self.hold(size as u64);
        let mut pending = self.pending();
        put(&mut pending, self.began.elapsed());
        let first = pending.since.is_none();
        pending.since.get_or_insert_with(Instant::now);
        let was_full = pending.size >= FULL;
        pending.size += size;
        pending.total += size as u64;
        let wake = first || (!was_full && pending.size >= FULL);
        drop(pending);
        if wake {
            self.wake.notify_one();
        }
    }
}

/// One recording. Ends when dropped; what was taken is still stored.
pub struct Recorder(pub(super) Arc<Shared>);

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut pending = self.0.pending();
        let reason = pending.end_reason.take().unwrap_or_else(|| "the connection is gone".into());
        pending.ended = Some(((self.0.archive.now)(), reason));
        drop(pending);
        self.0.wake.notify_one();
    }
}

impl Recorder {
    pub(super) fn new(archive: Arc<Archive>) -> Self {
        Self(Arc::new(Shared {
            archive,
            began: Instant::now(),
            pending: Mutex::default(),
            held: AtomicU64::new(0),
            oldest: AtomicU64::new(u64::MAX),
            failing: AtomicBool::new(false),
            wake: Notify::new(),
            stored: watch::Sender::new(0),
            stopped: watch::Sender::new(None),
        }))
    }

    /// Takes bytes that are about to be shown. Waits while memory is full and the store takes what it is given.
    ///
    /// # Errors
    /// [`Stopped`]: do not show them.
    pub async fn shown(&self, channel: u32, stream: Shown, bytes: &Bytes) -> Result<(), Stopped> {
        let shared = &self.0;
        shared.check()?;
        let size = bytes.len() + HEAD;
        while !shared.has_room(size as u64, 0, 0) {
            if shared.failing.load(Ordering::Relaxed) {
                shared.stop("the recording store does not take this session's recording, and the buffer is full: what cannot be recorded is not shown");
            }
            let _ = tokio::time::timeout(TICK, shared.archive.room.notified()).await;
            shared.check()?;
        }
        let kind = match stream {
            Shown::Output => Kind::Output,
            Shown::Error => Kind::Error,
        };
        shared.put(size, |pending, at| pending.record(kind, channel, at, bytes));
        Ok(())
    }

    /// Takes a record that is not the program's: never waits.
    pub fn note(&self, kind: Kind, channel: u32, data: impl Into<Bytes>) {
        let data = data.into();
        self.take_small(data.len(), |pending, at| pending.record(kind, channel, at, &data));
    }

    /// Takes an event: never waits.
    pub fn audit(&self, event: &AuditEvent) {
        self.audit_at((self.0.archive.now)(), event);
    }

    /// Takes an event that happened at another time: never waits.
    pub fn audit_at(&self, when: DateTime<Utc>, event: &AuditEvent) {
        let mut line = Vec::new();
        put_line(&mut line, when, event);
        self.take_small(line.len(), |pending, _| pending.audit.extend_from_slice(&line));
    }

    /// A client that makes events faster than the store takes them is stopped, not waited for.
    fn take_small(&self, size: usize, put: impl FnOnce(&mut Pending, Duration)) {
        if self.0.stopped.borrow().is_some() {
            return;
        }
        let size = size + HEAD;
        if !self.0.has_room(size as u64, HEADROOM, HEADROOM_OF_ALL) {
            self.0.stop("more happens on this connection than can be recorded: it is closed");
            return;
        }
        self.0.put(size, put);
    }

    /// Waits until everything so far is stored.
    ///
    /// # Errors
    /// [`Stopped`], or when it takes longer than `patience`.
    pub async fn flush(&self, patience: Duration) -> Result<(), Stopped> {
        let target = {
            let mut pending = self.0.pending();
            pending.urgent = true;
            pending.total
        };
        self.0.wake.notify_one();
        let mut stored = self.0.stored.subscribe();
        let mut stopped = self.0.stopped.subscribe();
        let waiting = async {
            tokio::select! {
                _ = stored.wait_for(|stored| *stored >= target) => Ok(()),
                reason = stopped.wait_for(Option::is_some) => {
                    let reason = reason.ok().and_then(|reason| reason.clone());
                    Err(Stopped(reason.unwrap_or_else(|| "the recording ended".into())))
                }
            }
        };
        let unreachable =
            || Stopped("the recording store does not answer: without a recording there is no shell. Try again in a while".into());
        tokio::time::timeout(patience, waiting).await.unwrap_or_else(|_| Err(unreachable()))
    }

    /// Becomes something once: why nothing can be recorded any more.
    #[must_use]
    pub fn stopped(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.stopped.subscribe()
    }

    /// Why the connection is about to end.
    pub fn set_end_reason(&self, reason: &str) {
        self.0.pending().end_reason = Some(reason.to_owned());
    }
}
