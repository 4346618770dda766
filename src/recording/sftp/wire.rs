//! The bytes of SFTP: each direction cut into packets, a packet into its fields, an answer into what it says. Knows nothing of
//! what was said before.

/// Longest packet; clients and servers in use stop at 256 KiB.
const LONGEST_PACKET: usize = 2 * 1024 * 1024;
/// What is gathered of a packet at most: two of the longest paths fit several times.
pub(super) const LONGEST_HEAD: usize = 64 * 1024;
/// Longest handle (draft, 6.2).
const LONGEST_HANDLE: usize = 256;

// Packet types that are looked at in more than one place (draft, 3).
pub(super) const WRITE: u8 = 6;
const STATUS: u8 = 101;
const DATA: u8 = 103;

/// Why a channel cannot be followed any further.
#[derive(Debug)]
pub(super) struct Loss(pub(super) &'static str);

pub(super) const MALFORMED: Loss = Loss("a packet is malformed");

/// One direction, cut into packets. Heads are gathered; what is behind them is handed on as it comes.
#[derive(Default)]
pub(super) struct Stream {
    /// Of the current packet: its length, and what was gathered of it.
    pub(super) head: Vec<u8>,
    /// Whether the head was handed on.
    seen: bool,
    /// What is still to come behind the head.
    pub(super) left: usize,
}

pub(super) enum Piece<'a> {
    Head,
    Body(&'a [u8]),
}

impl Stream {
    /// Takes the next piece off the front of `bytes`; `None` when more are needed.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Loss> {
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

    pub(super) fn fields(&self) -> Fields<'_> {
        Fields(self.head.get(4..).unwrap_or_default())
    }
}

/// Takes up to so many bytes off the front.
fn front<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    bytes.split_off(..most.min(bytes.len())).unwrap_or_default()
}

/// A packet's fields, one after the other (RFC 4251, 5).
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Loss> {
        let (array, rest) = self.0.split_first_chunk().ok_or(MALFORMED)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Loss> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Loss> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Loss> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Loss> {
        let length = self.u32()? as usize;
        self.0.split_off(..length).ok_or(MALFORMED)
    }
}

/// What an answer says.
pub(super) enum Answer<'a> {
    Status(u32),
    Handle(&'a [u8]),
    Data(usize),
    /// With the first of the names.
    Name(Option<&'a [u8]>),
    Other,
}

impl<'a> Answer<'a> {
    pub(super) fn read(kind: u8, mut fields: Fields<'a>, left: usize) -> Result<Self, Loss> {
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

/// The name of a status code (draft, 7).
pub(super) fn status_name(code: u32) -> String {
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
