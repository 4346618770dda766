//! What a user's client sent to one channel and its process has not taken yet.
//!
//! The SSH library hands out data from inside its connection loop and returns window credit on receipt, so this queue never
//! makes the loop wait: the first megabytes stay in memory, then an unlinked file takes over. [`Inbox::is_long`] is the
//! brake: while it says so the client gets no more credit worth the name, so that the file is rarely touched.

use crate::link::frame;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Above this much the client's window is left to run dry.
const LONG: usize = 1024 * 1024;
/// Above this much further data goes to a file.
const IN_MEMORY: usize = 4 * 1024 * 1024;
/// Above this much the channel is closed: no well-behaved client gets here.
const HARD_CAP: u64 = 256 * 1024 * 1024;
/// The same for all channels of a replica together: it has so much memory, and so much room for files.
const ALL_IN_MEMORY: u64 = 256 * 1024 * 1024;
const ALL_SPILLED: u64 = 2 * 1024 * 1024 * 1024;
/// What was read of a file is given back to the disk in pieces of this size.
const PUNCH: u64 = 16 * 1024 * 1024;

/// What all queues of a replica hold together.
#[derive(Debug, Default)]
pub struct Budget {
    in_memory: AtomicU64,
    spilled: AtomicU64,
}

impl Budget {
    fn take(counter: &AtomicU64, amount: u64, limit: u64) -> bool {
        if counter.fetch_add(amount, Ordering::Relaxed) + amount > limit {
            counter.fetch_sub(amount, Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// Why data was not taken: the channel must be closed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {
    /// Too much data that nobody reads.
    #[error("the program in the session does not read its input, and too much of it is waiting: this channel is closed")]
    Full,
    /// The spill file cannot be written.
    #[error("the gateway has no room for input that the program does not read: this channel is closed")]
    NoRoom,
}

/// What [`Inbox::next`] gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A whole frame of [`frame::STDIN`], ready to send.
    Frame(Bytes),
    /// The user's side ended its input.
    End,
}

#[derive(Default)]
struct State {
    /// Whole frames, each beginning with its stream byte.
    segments: VecDeque<BytesMut>,
    in_memory: usize,
    spill: Option<Spill>,
    ended: bool,
}

/// The part of the queue behind what is in memory.
struct Spill {
    file: File,
    read: u64,
    written: u64,
    /// Up to here the file's blocks were given back.
    punched: u64,
}

/// One channel's queue. One side pushes from the connection loop, the other takes from the channel's task.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    filled: Notify,
    budget: Arc<Budget>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let state = self.lock();
        self.budget.in_memory.fetch_sub(state.in_memory as u64, Ordering::Relaxed);
        self.budget.spilled.fetch_sub(state.spill.as_ref().map_or(0, Spill::len), Ordering::Relaxed);
    }
}

impl Inbox {
    /// A queue within the budget of its replica.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), budget }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes data in, without ever waiting.
    ///
    /// # Errors
    /// See [`InboxError`].
    pub fn push(&self, data: &[u8]) -> Result<(), InboxError> {
        let mut state = self.lock();
        let amount = data.len() as u64;
        let fits = state.spill.is_none() && state.in_memory + data.len() <= IN_MEMORY;
        if fits && Budget::take(&self.budget.in_memory, amount, ALL_IN_MEMORY) {
            state.keep(data);
        } else {
            if !Budget::take(&self.budget.spilled, amount, ALL_SPILLED) {
                return Err(InboxError::NoRoom);
            }
            if let Err(failure) = state.spill(data) {
                self.budget.spilled.fetch_sub(amount, Ordering::Relaxed);
                return Err(failure);
            }
        }
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// The user's side will send no more.
    pub fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_one();
    }

    /// Whether so much is waiting that the client should stop for now.
    #[must_use]
    pub fn is_long(&self) -> bool {
        let state = self.lock();
        state.in_memory > LONG || state.spill.is_some()
    }

    /// The next frame, or the end, when there is one.
    ///
    /// # Errors
    /// [`InboxError::NoRoom`] when the spill file cannot be read.
    pub async fn next(&self) -> Result<Input, InboxError> {
        loop {
            let filled = self.filled.notified();
            if let Some(input) = self.lock().take(&self.budget)? {
                return Ok(input);
            }
            filled.await;
        }
    }
}

impl State {
    fn keep(&mut self, data: &[u8]) {
        self.in_memory += data.len();
        if let Some(last) = self.segments.back_mut()
            && last.len() + data.len() <= frame::FULL
        {
            last.extend_from_slice(data);
            return;
        }
        let mut segment = BytesMut::with_capacity(data.len() + 1);
        segment.put_u8(frame::STDIN);
        segment.extend_from_slice(data);
        self.segments.push_back(segment);
    }

    fn spill(&mut self, data: &[u8]) -> Result<(), InboxError> {
        if self.spill.is_none() {
            let file = tempfile::tempfile().map_err(|_| InboxError::NoRoom)?;
            self.spill = Some(Spill { file, read: 0, written: 0, punched: 0 });
        }
        let Some(spill) = &mut self.spill else { return Err(InboxError::NoRoom) };
        if spill.len() + data.len() as u64 > HARD_CAP {
            return Err(InboxError::Full);
        }
        spill.file.write_all_at(data, spill.written).map_err(|_| InboxError::NoRoom)?;
        spill.written += data.len() as u64;
        Ok(())
    }

    fn take(&mut self, budget: &Budget) -> Result<Option<Input>, InboxError> {
        if let Some(segment) = self.segments.pop_front() {
            self.in_memory -= segment.len() - 1;
            budget.in_memory.fetch_sub(segment.len() as u64 - 1, Ordering::Relaxed);
            return Ok(Some(Input::Frame(segment.freeze())));
        }
        if let Some(spill) = &mut self.spill {
            let frame = spill.next().map_err(|_| InboxError::NoRoom)?;
            budget.spilled.fetch_sub(frame.len() as u64 - 1, Ordering::Relaxed);
            if spill.read == spill.written {
                self.spill = None;
            }
            return Ok(Some(Input::Frame(frame)));
        }
        Ok(self.ended.then_some(Input::End))
    }
}

impl Spill {
    const fn len(&self) -> u64 {
        self.written - self.read
    }

    /// Gives blocks that were read back to the disk: a reader that stays just behind would otherwise fill it.
    fn punch(&mut self) {
        use rustix::fs::{FallocateFlags, fallocate};
        if self.read - self.punched >= PUNCH {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if fallocate(&self.file, flags, self.punched, self.read - self.punched).is_ok() {
                self.punched = self.read;
            }
        }
    }

    fn next(&mut self) -> std::io::Result<Bytes> {
        let length = usize::try_from(self.written - self.read).unwrap_or(usize::MAX).min(frame::FULL);
        let mut segment = BytesMut::zeroed(length + 1);
        if let Some((stream, payload)) = segment.split_first_mut() {
            *stream = frame::STDIN;
            self.file.read_exact_at(payload, self.read)?;
        }
        self.read += length as u64;
        self.punch();
        Ok(segment.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drain(inbox: &Inbox) -> Vec<u8> {
        let mut all = Vec::new();
        while let Input::Frame(frame) = inbox.next().await.expect("readable") {
            assert_eq!(frame[0], frame::STDIN);
            assert!(frame.len() <= frame::FULL + 1);
            all.extend_from_slice(&frame[1..]);
        }
        all
    }

    #[tokio::test]
    async fn bytes_keep_their_order_through_memory_and_file() {
        let inbox = Inbox::default();
        let data: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 251) as u8).collect();
        for chunk in data.chunks(31_999) {
            inbox.push(chunk).expect("taken");
        }
        assert!(inbox.is_long());
        inbox.end();
        assert!(drain(&inbox).await == data, "equal");
        assert!(!inbox.is_long());
    }

    #[tokio::test]
    async fn small_pieces_are_gathered_and_the_end_comes_last() {
        let inbox = Inbox::default();
        for byte in b"hello" {
            inbox.push(&[*byte]).expect("taken");
        }
        inbox.end();
        assert_eq!(inbox.next().await, Ok(Input::Frame(Bytes::from_static(b"\0hello"))));
        assert_eq!(inbox.next().await, Ok(Input::End));
    }

    #[tokio::test]
    async fn what_all_queues_hold_is_bounded_and_given_back() {
        let budget = Arc::new(Budget::default());
        budget.spilled.store(ALL_SPILLED - 10, Ordering::Relaxed);
        budget.in_memory.store(ALL_IN_MEMORY, Ordering::Relaxed);
        let inbox = Inbox::new(Arc::clone(&budget));
        assert_eq!(inbox.push(&[1; 10]), Ok(()), "to the file");
        assert_eq!(inbox.push(&[1; 1]), Err(InboxError::NoRoom));
        inbox.end();
        assert_eq!(drain(&inbox).await.len(), 10);
        assert_eq!(budget.spilled.load(Ordering::Relaxed), ALL_SPILLED - 10);
        budget.in_memory.store(0, Ordering::Relaxed);
        inbox.push(&[1; 7]).expect("taken");
        assert_eq!(budget.in_memory.load(Ordering::Relaxed), 7);
        drop(inbox);
        assert_eq!(budget.in_memory.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_client_that_ignores_its_window_is_refused() {
        let mut state = State {
            spill: Some(Spill { file: tempfile::tempfile().expect("file"), read: 0, written: HARD_CAP, punched: 0 }),
            ..State::default()
        };
        assert_eq!(state.spill(&[0]), Err(InboxError::Full));
    }
}
