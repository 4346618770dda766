//! What both sides have said so far: requests that wait for their answers, handles, open files; and which events follow.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::transfer::{Opened, after};
use super::wire::{Answer, Fields, Loss, MALFORMED, WRITE, status_name};
use super::{SftpEvent, Side, UNREADABLE};

pub(super) const MOST_REQUESTS: usize = 1024;
pub(super) const MOST_HANDLES: usize = 1024;
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

pub(super) const WRONG_ANSWER: Loss = Loss("an answer does not fit its request");

/// A request that is not answered yet.
pub(super) enum Request {
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

/// What both sides have said so far.
#[derive(Default)]
pub(super) struct State {
    pub(super) asked: BTreeMap<u32, Request>,
    /// Handles are the server's to choose, and used again; files here have numbers of their own.
    pub(super) handles: HashMap<Vec<u8>, u64>,
    pub(super) opened: BTreeMap<u64, Opened>,
    last: u64,
    /// File and offset of the write, and of the read, whose data is passing.
    writing: Option<(u64, u64)>,
    reading: Option<(u64, u64)>,
    /// What all files hold of early data.
    pub(super) held: usize,
}

impl State {
    /// A request begins, with so many bytes behind its head.
    pub(super) fn request(&mut self, mut fields: Fields<'_>, left: usize, events: &mut Vec<SftpEvent>) -> Result<(), Loss> {
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
    pub(super) fn payload(&mut self, side: Side, data: &[u8]) {
        let place = if side == Side::User { &mut self.writing } else { &mut self.reading };
        let Some((file, offset)) = place.as_mut().filter(|_| !data.is_empty()) else { return };
        if let Some(opened) = self.opened.get_mut(file) {
            let transfer = if side == Side::User { &mut opened.written } else { &mut opened.read };
            transfer.take(*offset, data, &mut self.held);
        }
        *offset = after(*offset, data);
    }

    pub(super) fn packet_ended(&mut self, side: Side, events: &mut Vec<SftpEvent>) {
        match side {
            Side::User => self.writing = None,
            Side::Pod => events.extend(self.reading.take().and_then(|(file, _)| self.settle(file, |_| {}))),
        }
    }

    /// An answer begins, with so many bytes behind its head.
    pub(super) fn answer(&mut self, mut fields: Fields<'_>, left: usize, events: &mut Vec<SftpEvent>) -> Result<(), Loss> {
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
        self.last = self.last.saturating_add(1);
        self.handles.insert(handle.to_vec(), self.last);
        self.opened.insert(self.last, Opened::new(event.path.clone(), flags));
        events.extend(flags.is_none().then_some(event));
        Ok(())
    }

    fn written(&mut self, file: u64, length: usize, code: u32) -> Option<SftpEvent> {
        if let Some(opened) = self.opened.get_mut(&file).filter(|_| code != 0) {
            opened.refused(length, code, &mut self.held);
        }
        self.settle(file, |_| {})
    }

    /// One request to a file was answered. Its event, when that was the last and it is closed: the answer to the close may come
    /// before those to reads.
    fn settle(&mut self, file: u64, change: impl FnOnce(&mut Opened)) -> Option<SftpEvent> {
        let opened = self.opened.get_mut(&file)?;
        change(opened);
        opened.pending = opened.pending.saturating_sub(1);
        let closed = opened.closed.filter(|_| opened.pending == 0)?;
        let code = opened.trouble.unwrap_or(closed);
        self.opened.remove(&file)?.event(status_name(code), &mut self.held)
    }

    /// Events for what is under way, with the status of requests and of files.
    pub(super) fn abandon(&mut self, unanswered: &str, unclosed: &str) -> Vec<SftpEvent> {
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
