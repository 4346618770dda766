//! What goes over one SFTP channel, told as audit events: files with what was read and written, and every other change.
//! A pure observer of the bytes of both directions (draft-ietf-secsh-filexfer-02, version 3, with `OpenSSH`'s extensions: its
//! PROTOCOL file, 4): no IO, and nothing is changed. Neither side is trusted: what is remembered is bounded, and what cannot be
//! followed is said in an event instead of guessed.

use ring::digest::{Context, SHA256};
use serde::Serialize;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// Longest packet; clients and servers in use stop at 256 KiB.
const LONGEST_PACKET: usize = 2 * 1024 * 1024;
/// What is gathered of a packet at most: two of the longest paths fit several times.
const LONGEST_HEAD: usize = 64 * 1024;
/// Longest handle (draft, 6.2).
const LONGEST_HANDLE: usize = 256;
const LONGEST_PATH: usize = 4096;
const MOST_REQUESTS: usize = 1024;
const MOST_HANDLES: usize = 1024;
/// What all files of a channel together hold of data that came before its turn. `OpenSSH` has 64 reads under way and asks for
/// the rest of a short one behind all of them. The agent gets them with 32 KiB each; of a server that announces larger ones, a
/// short read in the middle of a file (there are some in /proc) costs the hash.
const MOST_EARLY: usize = 4 * 1024 * 1024;
/// What a piece of early data costs beside its bytes.
const PIECE: usize = 128;
/// Status of what was under way when the channel could no longer be followed.
const UNREADABLE: &str = "unreadable";
/// Extensions that neither change nor tell more than the attributes of a file.
const QUIET: [&[u8]; 7] = [
    b"fsync@openssh.com",
    b"statvfs@openssh.com",
    b"fstatvfs@openssh.com",
    b"limits@openssh.com",
    b"expand-path@openssh.com",
    b"home-directory",
    b"users-groups-by-id@openssh.com",
];

// Packet types that are looked at in more than one place (draft, 3).
const WRITE: u8 = 6;
const STATUS: u8 = 101;
const DATA: u8 = 103;

/// One event of the audit stream, `sftp` in docs/recording.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SftpEvent {
    /// `file` when a file was closed, `open` when it could not be opened; `list`, `mkdir`, `rmdir`, `remove`, `rename`, `symlink`,
    /// `hardlink`, `readlink`, `setstat`, `copy`; `extended` for an unknown extension. `unreadable` when the channel could not be
    /// followed any further, and then, at its end, `unread` with the bytes that passed since.
    pub operation: &'static str,
    /// As the client sent it, at most 4096 bytes; the name of an unknown extension.
    pub path: String,
    /// The new name, or what a link points to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Bytes to the user, of a file opened for reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_read: Option<u64>,
    /// Bytes from the user that the server did not refuse, of a file opened for writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_written: Option<u64>,
    /// Hexadecimal SHA-256 of what was read; absent unless that was from the start, without gaps, and once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_read: Option<String>,
    /// The same for what was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_written: Option<String>,
    /// `ok`, the name of the server's status code, or why there is none; for `unreadable`, what was wrong.
    pub status: String,
}

impl SftpEvent {
    fn new(operation: &'static str, path: &[u8]) -> Self {
        Self { operation, path: text(path), ..Self::default() }
    }

    fn with_target(self, target: &[u8]) -> Self {
        Self { target: Some(text(target)), ..self }
    }

    fn with_status(self, status: impl Into<String>) -> Self {
        Self { status: status.into(), ..self }
    }
}

/// Why a channel cannot be followed any further.
#[derive(Debug)]
struct Loss(&'static str);

const MALFORMED: Loss = Loss("a packet is malformed");
const WRONG_ANSWER: Loss = Loss("an answer does not fit its request");

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    User,
    Pod,
}

/// Follows one SFTP channel.
#[derive(Default)]
pub struct SftpObserver {
    user: Stream,
    pod: Stream,
    state: State,
    lost: bool,
    /// Bytes from and to the user since the channel could not be followed any further.
    unread: (u64, u64),
}

impl SftpObserver {
    /// An observer of a channel on which nothing was sent yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the user's client, in pieces of any size, before the pod gets them. Gives the events that follow.
    pub fn from_user(&mut self, bytes: &[u8]) -> Vec<SftpEvent> {
        self.watch(Side::User, bytes)
    }

    /// Takes bytes to the user's client, in pieces of any size. Gives the events that follow.
    pub fn to_user(&mut self, bytes: &[u8]) -> Vec<SftpEvent> {
        self.watch(Side::Pod, bytes)
    }

    /// The channel ended: events for what was never answered or closed.
    pub fn end(&mut self) -> Vec<SftpEvent> {
        let mut ended = std::mem::take(self);
        let mut events = ended.state.abandon("not answered", "not closed");
        if ended.lost {
            let unread = SftpEvent::new("unread", b"").with_status(UNREADABLE);
            events.push(SftpEvent { bytes_written: Some(ended.unread.0), bytes_read: Some(ended.unread.1), ..unread });
        }
        events
    }

    fn watch(&mut self, side: Side, mut bytes: &[u8]) -> Vec<SftpEvent> {
        let mut events = Vec::new();
        if !self.lost
            && let Err(Loss(reason)) = self.follow(side, &mut bytes, &mut events)
        {
            events.append(&mut self.state.abandon(UNREADABLE, UNREADABLE));
            events.push(SftpEvent::new(UNREADABLE, b"").with_status(reason));
            *self = Self { lost: true, ..Self::default() };
        }
        if self.lost {
            let unread = if side == Side::User { &mut self.unread.0 } else { &mut self.unread.1 };
            *unread = after(*unread, bytes);
        }
        events
    }

    fn follow(&mut self, side: Side, bytes: &mut &[u8], events: &mut Vec<SftpEvent>) -> Result<(), Loss> {
        let stream = if side == Side::User { &mut self.user } else { &mut self.pod };
        while let Some(piece) = stream.next(bytes)? {
            match (piece, side) {
                (Piece::Head, Side::User) => self.state.request(stream.fields(), stream.left, events)?,
                (Piece::Head, Side::Pod) => self.state.answer(stream.fields(), stream.left, events)?,
                (Piece::Body(data), _) => self.state.payload(side, data),
            }
            if stream.left == 0 {
                self.state.packet_ended(side, events);
            }
        }
        Ok(())
    }
}

/// One direction, cut into packets. Heads are gathered; what is behind them is handed on as it comes.
#[derive(Default)]
struct Stream {
    /// Of the current packet: its length, and what was gathered of it.
    head: Vec<u8>,
    /// Whether the head was handed on.
    seen: bool,
    /// What is still to come behind the head.
    left: usize,
}

enum Piece<'a> {
    Head,
    Body(&'a [u8]),
}

impl Stream {
    /// Takes the next piece off the front of `bytes`; `None` when more are needed.
    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Loss> {
        if self.left > 0 {
            let data = front(bytes, self.left);
            self.left = self.left.saturating_sub(data.len());
            return Ok((!data.is_empty()).then_some(Piece::Body(data)));
        }
        if std::mem::take(&mut self.seen) {
            self.head.clear();
        }
        if !self.gather(bytes, 4 + 1) {
            return Ok(None);
        }
        let mut fields = Fields(&self.head);
        let (length, kind) = (fields.u32()? as usize, fields.u8()?);
        let head = match kind {
            _ if length == 0 => return Err(MALFORMED),
            _ if length > LONGEST_PACKET => return Err(Loss("a packet is longer than any client or server makes it")),
            // Type, id, the handle, offset, and the length of the data; what is gathered too much is handed on from there.
            WRITE => length.min(1 + 4 + 4 + LONGEST_HANDLE + 8 + 4),
            // Type, id, and the length of the data or the code.
            DATA | STATUS => length.min(1 + 4 + 4),
            _ => length.min(LONGEST_HEAD),
        };
        self.seen = self.gather(bytes, 4 + head);
        self.left = if self.seen { length.saturating_sub(head) } else { 0 };
        Ok(self.seen.then_some(Piece::Head))
    }

    fn gather(&mut self, bytes: &mut &[u8], wanted: usize) -> bool {
        self.head.extend_from_slice(front(bytes, wanted.saturating_sub(self.head.len())));
        self.head.len() >= wanted
    }

    fn fields(&self) -> Fields<'_> {
        Fields(self.head.get(4..).unwrap_or_default())
    }
}

/// Takes up to so many bytes off the front.
fn front<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    bytes.split_off(..most.min(bytes.len())).unwrap_or_default()
}

/// A path as text, within bounds.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes.get(..LONGEST_PATH).unwrap_or(bytes)).into_owned();
    text.truncate(text.floor_char_boundary(LONGEST_PATH));
    text
}

/// A packet's fields, one after the other (RFC 4251, 5).
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Loss> {
        let (array, rest) = self.0.split_first_chunk().ok_or(MALFORMED)?;
        self.0 = rest;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, Loss> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Loss> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Loss> {
        self.array().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], Loss> {
        let length = self.u32()? as usize;
        self.0.split_off(..length).ok_or(MALFORMED)
    }
}

/// A request that is not answered yet.
enum Request {
    /// Worth no event.
    Quiet,
    /// Through a handle that was never given: it cannot succeed.
    Impossible,
    /// The event is `open` with the flags for a file, `list` for a folder.
    Open(Box<SftpEvent>, Option<u32>),
    Close(u64),
    Read {
        file: u64,
        offset: u64,
        length: usize,
    },
    Write {
        file: u64,
        length: usize,
    },
    /// Everything else: an event that lacks its status.
    Change(Box<SftpEvent>),
}

impl Request {
    fn change(event: SftpEvent) -> Self {
        Self::Change(Box::new(event))
    }

    /// The event of a request whose answer is not known.
    fn abandon(self, status: &str) -> Option<SftpEvent> {
        match self {
            Self::Open(event, _) | Self::Change(event) => Some(event.with_status(status)),
            _ => None,
        }
    }
}

enum Answer<'a> {
    Status(u32),
    Handle(&'a [u8]),
    Data(usize),
    /// With the first of the names.
    Name(Option<&'a [u8]>),
    Other,
}

impl<'a> Answer<'a> {
    fn read(kind: u8, mut fields: Fields<'a>, left: usize) -> Result<Self, Loss> {
        let answer = match kind {
            STATUS => Self::Status(fields.u32()?),
            102 => Self::Handle(fields.string()?),
            DATA => Self::Data(fields.u32()? as usize),
            104 => Self::Name(if fields.u32()? == 0 { None } else { Some(fields.string()?) }),
            // Attributes, and the answer to an extension.
            105 | 201 => Self::Other,
            _ => return Err(Loss("an answer is of an unknown type")),
        };
        match answer {
            Self::Handle(handle) if handle.len() > LONGEST_HANDLE => Err(MALFORMED),
            Self::Data(length) if length != left => Err(MALFORMED),
            answer => Ok(answer),
        }
    }
}

/// What went through one handle in one direction.
struct Transfer {
    used: bool,
    bytes: u64,
    /// Up to here it was hashed.
    next: u64,
    /// Gone when there can be no hash.
    digest: Option<Context>,
    /// What came before its turn, by offset.
    early: BTreeMap<u64, Vec<u8>>,
}

impl Transfer {
    fn new(used: bool) -> Self {
        Self { used, bytes: 0, next: 0, digest: Some(Context::new(&SHA256)), early: BTreeMap::new() }
    }

    /// Takes data in; `held` is what all transfers have of early data.
    fn take(&mut self, offset: u64, data: &[u8], held: &mut usize) {
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

fn after(offset: u64, data: &[u8]) -> u64 {
    offset.saturating_add(data.len() as u64)
}

fn hexadecimal(digest: Context) -> String {
    digest.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An open file or folder.
struct Opened {
    path: String,
    folder: bool,
    read: Transfer,
    written: Transfer,
    /// Reads, writes and the close that are not answered.
    pending: usize,
    /// The first failure of a read or a write.
    trouble: Option<u32>,
    /// The answer to its close.
    closed: Option<u32>,
}

impl Opened {
    fn event(mut self, status: String, held: &mut usize) -> Option<SftpEvent> {
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

/// What both sides have said so far.
#[derive(Default)]
struct State {
    asked: BTreeMap<u32, Request>,
    /// Handles are the server's to choose, and used again; files here have numbers of their own.
    handles: HashMap<Vec<u8>, u64>,
    opened: BTreeMap<u64, Opened>,
    last: u64,
    /// File and offset of the write, and of the read, whose data is passing.
    writing: Option<(u64, u64)>,
    reading: Option<(u64, u64)>,
    /// What all files hold of early data.
    held: usize,
}

impl State {
    fn request(&mut self, mut fields: Fields<'_>, left: usize, events: &mut Vec<SftpEvent>) -> Result<(), Loss> {
        let kind = fields.u8()?;
        // The version that counts is the one in the server's answer, which has no id.
        if kind == 1 {
            return Ok(());
        }
        let id = fields.u32()?;
        let request = self.read_request(kind, &mut fields, left)?;
        let full = self.asked.len() >= MOST_REQUESTS;
        match self.asked.entry(id) {
            Entry::Vacant(place) if !full => {
                place.insert(request);
                Ok(())
            }
            _ => {
                events.extend(request.abandon(UNREADABLE));
                let repeated = "a request has the number of another that is not answered";
                Err(Loss(if full { "too many requests are not answered" } else { repeated }))
            }
        }
    }

    fn read_request(&mut self, kind: u8, fields: &mut Fields<'_>, left: usize) -> Result<Request, Loss> {
        let change = |operation, path| Ok(Request::change(SftpEvent::new(operation, path)));
        match kind {
            3 => Ok(Request::Open(Box::new(SftpEvent::new("open", fields.string()?)), Some(fields.u32()?))),
            4 => Ok(self.close(fields.string()?)),
            5 => self.read(fields),
            WRITE => self.write(fields, left),
            // By path, by handle: attributes; the entries of a folder; a path without detours.
            7 | 8 | 12 | 16 | 17 => Ok(Request::Quiet),
            9 => change("setstat", fields.string()?),
            10 => Ok(self.path(fields.string()?).map_or(Request::Impossible, |path| by_handle("setstat", path, None))),
            11 => Ok(Request::Open(Box::new(SftpEvent::new("list", fields.string()?)), None)),
            13 => change("remove", fields.string()?),
            14 => change("mkdir", fields.string()?),
            15 => change("rmdir", fields.string()?),
            18 => pair("rename", fields),
            19 => change("readlink", fields.string()?),
            20 => link("symlink", fields),
            200 => self.extended(fields),
            _ => Err(Loss("a request is of an unknown type")),
        }
    }

    fn extended(&self, fields: &mut Fields<'_>) -> Result<Request, Loss> {
        match fields.string()? {
            b"posix-rename@openssh.com" => pair("rename", fields),
            b"hardlink@openssh.com" => link("hardlink", fields),
            b"lsetstat@openssh.com" => Ok(Request::change(SftpEvent::new("setstat", fields.string()?))),
            b"copy-data" => {
                let from = self.path(fields.string()?);
                let (_offset, _length) = (fields.u64()?, fields.u64()?);
                let copied = from.zip(self.path(fields.string()?));
                Ok(copied.map_or(Request::Impossible, |(from, to)| by_handle("copy", from, Some(to))))
            }
            name if QUIET.contains(&name) => Ok(Request::Quiet),
            name => Ok(Request::change(SftpEvent::new("extended", name))),
        }
    }

    fn path(&self, handle: &[u8]) -> Option<&str> {
        self.opened.get(self.handles.get(handle)?).map(|opened| opened.path.as_str())
    }

    /// The file of a handle, with one more request under way.
    fn file(&mut self, handle: &[u8]) -> Option<u64> {
        let number = *self.handles.get(handle)?;
        let opened = self.opened.get_mut(&number).filter(|opened| !opened.folder)?;
        opened.pending += 1;
        Some(number)
    }

    fn close(&mut self, handle: &[u8]) -> Request {
        // Whatever the answer, the handle must not be used any more (draft, 6.3); the server may give it again.
        let Some(number) = self.handles.remove(handle) else { return Request::Quiet };
        if let Some(opened) = self.opened.get_mut(&number) {
            opened.pending += 1;
        }
        Request::Close(number)
    }

    fn read(&mut self, fields: &mut Fields<'_>) -> Result<Request, Loss> {
        let (handle, offset, length) = (fields.string()?, fields.u64()?, fields.u32()? as usize);
        Ok(self.file(handle).map_or(Request::Impossible, |file| Request::Read { file, offset, length }))
    }

    fn write(&mut self, fields: &mut Fields<'_>, left: usize) -> Result<Request, Loss> {
        let (handle, offset, length) = (fields.string()?, fields.u64()?, fields.u32()? as usize);
        if fields.0.len() + left != length {
            return Err(MALFORMED);
        }
        let Some(file) = self.file(handle) else { return Ok(Request::Impossible) };
        self.writing = Some((file, offset));
        self.payload(Side::User, fields.0);
        Ok(Request::Write { file, length })
    }

    /// Data on its way through.
    fn payload(&mut self, side: Side, data: &[u8]) {
        let place = if side == Side::User { &mut self.writing } else { &mut self.reading };
        let Some((file, offset)) = place.as_mut().filter(|_| !data.is_empty()) else { return };
        if let Some(opened) = self.opened.get_mut(file) {
            let transfer = if side == Side::User { &mut opened.written } else { &mut opened.read };
            transfer.take(*offset, data, &mut self.held);
        }
        *offset = after(*offset, data);
    }

    fn packet_ended(&mut self, side: Side, events: &mut Vec<SftpEvent>) {
        match side {
            Side::User => self.writing = None,
            Side::Pod => events.extend(self.reading.take().and_then(|(file, _)| self.settle(file, |_| {}))),
        }
    }

    fn answer(&mut self, mut fields: Fields<'_>, left: usize, events: &mut Vec<SftpEvent>) -> Result<(), Loss> {
        let kind = fields.u8()?;
        if kind == 2 {
            return if fields.u32()? > 3 { Err(Loss("the protocol is not version 3")) } else { Ok(()) };
        }
        let id = fields.u32()?;
        let answer = Answer::read(kind, fields, left)?;
        let request = self.asked.remove(&id).ok_or(Loss("an answer is to no request"))?;
        match (request, answer) {
            (Request::Open(event, flags), Answer::Handle(handle)) => return self.open(*event, flags, handle, events),
            (Request::Open(event, _), Answer::Status(code @ 1..)) | (Request::Change(event), Answer::Status(code)) => {
                events.push(event.with_status(status_name(code)));
            }
            (Request::Read { file, offset, length }, Answer::Data(given)) if given <= length => self.reading = Some((file, offset)),
            (Request::Read { file, .. }, Answer::Status(code @ 1..)) => events.extend(self.settle(file, |opened| {
                // The end of the file is how reading it ends.
                opened.trouble = opened.trouble.or((code != 1).then_some(code));
            })),
            (Request::Write { file, length }, Answer::Status(code)) => events.extend(self.written(file, length, code)),
            (Request::Close(file), Answer::Status(code)) => events.extend(self.settle(file, |opened| opened.closed = Some(code))),
            (Request::Change(event), Answer::Name(Some(target))) if event.operation == "readlink" => {
                events.push(event.with_target(target).with_status(status_name(0)));
            }
            (Request::Change(event), Answer::Name(_) | Answer::Other) if event.operation == "extended" => {
                events.push(event.with_status(status_name(0)));
            }
            (Request::Quiet, Answer::Status(_) | Answer::Name(_) | Answer::Other) | (Request::Impossible, Answer::Status(1..)) => {}
            (request, _) => {
                // Back, so that it is not forgotten.
                self.asked.insert(id, request);
                return Err(WRONG_ANSWER);
            }
        }
        Ok(())
    }

    fn open(&mut self, event: SftpEvent, flags: Option<u32>, handle: &[u8], events: &mut Vec<SftpEvent>) -> Result<(), Loss> {
        let event = event.with_status(status_name(0));
        let full = self.opened.len() >= MOST_HANDLES;
        if full || self.handles.contains_key(handle) {
            events.push(event);
            return Err(Loss(if full { "too many files and folders are open" } else { "a handle was given twice" }));
        }
        let (path, folder, flags) = (event.path.clone(), flags.is_none(), flags.unwrap_or(0));
        events.extend(folder.then_some(event));
        let (read, written) = (Transfer::new(flags & 1 != 0), Transfer::new(flags & 2 != 0));
        self.last = self.last.saturating_add(1);
        self.handles.insert(handle.to_vec(), self.last);
        self.opened.insert(self.last, Opened { path, folder, read, written, pending: 0, trouble: None, closed: None });
        Ok(())
    }

    fn written(&mut self, file: u64, length: usize, code: u32) -> Option<SftpEvent> {
        if let Some(opened) = self.opened.get_mut(&file).filter(|_| code != 0) {
            opened.trouble = opened.trouble.or(Some(code));
            opened.written.bytes = opened.written.bytes.saturating_sub(length as u64);
            opened.written.give_up(&mut self.held);
        }
        self.settle(file, |_| {})
    }

    /// One request to a file was answered. Its event, when that was the last and it is closed: the answer to the close may come
    /// before those to reads.
    fn settle(&mut self, file: u64, change: impl FnOnce(&mut Opened)) -> Option<SftpEvent> {
        let opened = self.opened.get_mut(&file)?;
        change(opened);
        opened.pending = opened.pending.saturating_sub(1);
        let code = opened.trouble.or(opened.closed);
        if opened.pending > 0 || opened.closed.is_none() {
            return None;
        }
        self.opened.remove(&file)?.event(status_name(code.unwrap_or(0)), &mut self.held)
    }

    /// Events for what is under way, with the status of requests and of files.
    fn abandon(&mut self, unanswered: &str, unclosed: &str) -> Vec<SftpEvent> {
        let Self { asked, opened, mut held, .. } = std::mem::take(self);
        let requests = asked.into_values().filter_map(|request| request.abandon(unanswered));
        let files = opened.into_values().filter_map(|opened| opened.event(unclosed.to_owned(), &mut held));
        requests.chain(files).collect()
    }
}

fn by_handle(operation: &'static str, path: &str, target: Option<&str>) -> Request {
    Request::change(SftpEvent { operation, path: path.to_owned(), target: target.map(str::to_owned), ..SftpEvent::default() })
}

fn pair(operation: &'static str, fields: &mut Fields<'_>) -> Result<Request, Loss> {
    let (from, to) = (fields.string()?, fields.string()?);
    Ok(Request::change(SftpEvent::new(operation, from).with_target(to)))
}

/// What exists comes first, then the link: so does `OpenSSH`, and every client follows it, not the draft (PROTOCOL, 4.1).
fn link(operation: &'static str, fields: &mut Fields<'_>) -> Result<Request, Loss> {
    let (existing, link) = (fields.string()?, fields.string()?);
    Ok(Request::change(SftpEvent::new(operation, link).with_target(existing)))
}

/// The name of a status code (draft, 7).
fn status_name(code: u32) -> String {
    let name = match code {
        0 => "ok",
        1 => "end of file",
        2 => "no such file",
        3 => "permission denied",
        4 => "failure",
        5 => "bad message",
        6 => "no connection",
        7 => "connection lost",
        8 => "operation unsupported",
        _ => return format!("status {code}"),
    };
    name.to_owned()
}

#[cfg(test)]
#[path = "sftp_tests.rs"]
mod tests;
