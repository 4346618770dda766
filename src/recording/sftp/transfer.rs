//! One open file: the bytes that go through its handle in each direction, and their hash, in whatever order they come.

use ring::digest::{Context, SHA256};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;

use super::SftpEvent;

/// What all files of a channel together hold of data that came before its turn. `OpenSSH` has 64 reads under way and asks for
/// the rest of a short one behind all of them. The agent gets them with 32 KiB each; of a server that announces larger ones, a
/// short read in the middle of a file (there are some in /proc) costs the hash.
pub(super) const MOST_EARLY: usize = 4 * 1024 * 1024;
/// What a piece of early data costs beside its bytes.
pub(super) const PIECE: usize = 128;

/// What went through one handle in one direction.
pub(super) struct Transfer {
    used: bool,
    bytes: u64,
    /// Up to here it was hashed.
    next: u64,
    /// Gone when there can be no hash.
    pub(super) digest: Option<Context>,
    /// What came before its turn, by offset.
    pub(super) early: BTreeMap<u64, Vec<u8>>,
}

impl Transfer {
    fn new(used: bool) -> Self {
        Self { used, bytes: 0, next: 0, digest: Some(Context::new(&SHA256)), early: BTreeMap::new() }
    }

    /// Takes data in; `held` is what all transfers have of early data.
    pub(super) fn take(&mut self, offset: u64, data: &[u8], held: &mut usize) {
        self.used = true;
        self.bytes = after(self.bytes, data);
        let Some(digest) = &mut self.digest else { return };
        if offset == self.next {
            digest.update(data);
            self.next = after(offset, data);
            self.catch_up(held);
        } else if offset < self.next || !self.keep(offset, data, held) {
            self.give_up(held);
        }
    }

    /// Keeps early data, where there is room and nothing at its place. Behind other such data it is joined to that, so that the
    /// room does not depend on the pieces in which it comes.
    fn keep(&mut self, offset: u64, data: &[u8], held: &mut usize) -> bool {
        let before = self.early.range_mut(..offset).next_back().filter(|(start, early)| after(**start, early) == offset);
        let cost = data.len() + if before.is_some() { 0 } else { PIECE };
        if *held + cost > MOST_EARLY {
            return false;
        }
        if let Some((_, early)) = before {
            early.extend_from_slice(data);
        } else if let Entry::Vacant(place) = self.early.entry(offset) {
            place.insert(data.to_vec());
        } else {
            return false;
        }
        *held += cost;
        true
    }

    /// Hashes the early data whose turn has come.
    fn catch_up(&mut self, held: &mut usize) {
        while let (Some(first), Some(digest)) = (self.early.first_entry(), &mut self.digest) {
            if *first.key() > self.next {
                return;
            }
            let (offset, data) = first.remove_entry();
            *held = held.saturating_sub(data.len() + PIECE);
            if offset < self.next {
                return self.give_up(held);
            }
            digest.update(&data);
            self.next = after(offset, &data);
        }
    }

    fn give_up(&mut self, held: &mut usize) {
        self.digest = None;
        let early = std::mem::take(&mut self.early);
        *held = early.values().fold(*held, |held, data| held.saturating_sub(data.len() + PIECE));
    }

    /// Bytes and hash.
    fn result(mut self, held: &mut usize) -> (Option<u64>, Option<String>) {
        if !self.early.is_empty() {
            self.give_up(held);
        }
        if self.used { (Some(self.bytes), self.digest.map(hexadecimal)) } else { (None, None) }
    }
}

/// The offset behind data, or a count with it.
pub(super) fn after(offset: u64, data: &[u8]) -> u64 {
    offset.saturating_add(data.len() as u64)
}

fn hexadecimal(digest: Context) -> String {
    digest.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An open file or folder.
pub(super) struct Opened {
    pub(super) path: String,
    pub(super) folder: bool,
    pub(super) read: Transfer,
    pub(super) written: Transfer,
    /// Reads, writes and the close that are not answered.
    pub(super) pending: usize,
    /// The first failure of a read or a write.
    pub(super) trouble: Option<u32>,
    /// The answer to its close.
    pub(super) closed: Option<u32>,
}

impl Opened {
    /// A file with the flags it was opened with, or a folder, which has none.
    pub(super) fn new(path: String, flags: Option<u32>) -> Self {
        let opened_for = |flag| Transfer::new(flags.unwrap_or(0) & flag != 0);
        let (folder, read, written) = (flags.is_none(), opened_for(1), opened_for(2));
        Self { path, folder, read, written, pending: 0, trouble: None, closed: None }
    }

    /// The server did not take a write of so many bytes.
    pub(super) fn refused(&mut self, length: usize, code: u32, held: &mut usize) {
        self.trouble = self.trouble.or(Some(code));
        self.written.bytes = self.written.bytes.saturating_sub(length as u64);
        self.written.give_up(held);
    }

    /// What is told of it at its end.
    pub(super) fn event(mut self, status: String, held: &mut usize) -> Option<SftpEvent> {
        // Whether what is under way was read or written, nobody knows.
        if self.pending > 0 {
            self.read.give_up(held);
            self.written.give_up(held);
        }
        let (bytes_read, sha256_read) = self.read.result(held);
        let (bytes_written, sha256_written) = self.written.result(held);
        let (operation, path, target) = ("file", self.path, None);
        (!self.folder).then_some(SftpEvent { operation, path, target, bytes_read, bytes_written, sha256_read, sha256_written, status })
    }
}
