//! The stored form `sandglass-recording/1` as docs/recording.md describes it: chunks, records, hashes. Pure.

use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::time::Duration;

/// Name and version of the format.
pub const FORMAT: &str = "sandglass-recording/1";
/// `previous` of the first chunk of a stream.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Magic number of the skippable frame with the header (RFC 8878, 3.1.2).
const MAGIC: u32 = 0x184D_2A5B;
/// No header is longer.
const LONGEST_HEADER: usize = 4096;
/// No payload is longer when unpacked: a chunk cannot fill a reader's memory.
pub const LONGEST_PAYLOAD: usize = 128 * 1024 * 1024;
/// Bytes before a record's data.
const RECORD_HEAD: usize = 17;

/// Why bytes are no chunk or no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No readable header.
    #[error("no header")]
    NoHeader,
    /// The payload cannot be unpacked.
    #[error("the payload cannot be unpacked")]
    Payload,
    /// A record that is cut off, or of an unknown kind.
    #[error("a record is damaged")]
    Record,
}

/// The two streams of a recording.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// What was done: JSON lines.
    Audit,
    /// What was shown: records.
    Output,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Audit, Self::Output];

    /// Name of a chunk's object in its folder.
    #[must_use]
    pub fn object(self, sequence: u32) -> String {
        match self {
            Self::Audit => format!("audit-{sequence:08}.jsonl.zst"),
            Self::Output => format!("output-{sequence:08}.zst"),
        }
    }

    /// The chunk that an object's name says it is.
    #[must_use]
    pub fn of_object(name: &str) -> Option<(Self, u32)> {
        let audit = name.strip_prefix("audit-").and_then(|rest| rest.strip_suffix(".jsonl.zst"));
        let output = name.strip_prefix("output-").and_then(|rest| rest.strip_suffix(".zst"));
        let (stream, digits) = audit.map(|digits| (Self::Audit, digits)).or(output.map(|digits| (Self::Output, digits)))?;
        (digits.len() == 8).then(|| digits.parse().ok()).flatten().map(|sequence| (stream, sequence))
    }
}

/// What stands at the head of a chunk.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// The connection.
    pub recording: String,
    /// Which stream.
    pub stream: Stream,
    /// Number in its stream, from 0.
    pub sequence: u32,
    /// SHA-256 of the object before it, in hex; [`GENESIS`] for the first.
    pub previous: String,
    /// The replica that wrote it.
    pub replica: String,
    /// An empty chunk with which another replica closed the stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fence: bool,
}

impl Header {
    /// The bytes at the head of a chunk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let length = u32::try_from(text.len()).unwrap_or_default();
        [&MAGIC.to_le_bytes()[..], &length.to_le_bytes(), &text].concat()
    }

    /// The header of a chunk, and the packed payload behind it.
    ///
    /// # Errors
    /// [`FormatError::NoHeader`].
    pub fn decode(mut chunk: Bytes) -> Result<(Self, Bytes), FormatError> {
        if chunk.len() < 8 || chunk.get_u32_le() != MAGIC {
            return Err(FormatError::NoHeader);
        }
        let length = chunk.get_u32_le() as usize;
        if length > LONGEST_HEADER || length > chunk.len() {
            return Err(FormatError::NoHeader);
        }
        let text = chunk.split_to(length);
        let header: Self = serde_json::from_slice(&text).map_err(|_| FormatError::NoHeader)?;
        if header.format == FORMAT { Ok((header, chunk)) } else { Err(FormatError::NoHeader) }
    }
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Unpacks a chunk's payload.
///
/// # Errors
/// [`FormatError::Payload`]: damaged, or longer than [`LONGEST_PAYLOAD`].
pub fn unpack(packed: &Bytes) -> Result<Bytes, FormatError> {
    let mut payload = Vec::new();
    if !packed.is_empty() {
        let decoder = zstd::stream::Decoder::new(packed.clone().reader()).map_err(|_| FormatError::Payload)?;
        let limit = LONGEST_PAYLOAD as u64 + 1;
        decoder.take(limit).read_to_end(&mut payload).map_err(|_| FormatError::Payload)?;
    }
    if payload.len() > LONGEST_PAYLOAD { Err(FormatError::Payload) } else { Ok(payload.into()) }
}

/// How many bytes a payload has unpacked; `None` for a damaged one, and for more than `limit`. Holds none of them.
#[must_use]
pub fn unpacked_size(packed: &Bytes, limit: u64) -> Option<u64> {
    if packed.is_empty() {
        return Some(0);
    }
    let decoder = zstd::stream::Decoder::new(packed.clone().reader()).ok()?;
    let size = std::io::copy(&mut decoder.take(limit.saturating_add(1)), &mut std::io::sink()).ok()?;
    (size <= limit).then_some(size)
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A channel begins.
    Open = 1,
    /// Bytes on standard output, or on the terminal.
    Output = 2,
    /// Bytes on standard error.
    Error = 3,
    /// The terminal has another size.
    Resize = 4,
    /// Words of ours.
    Marker = 5,
    /// A channel ended.
    Exit = 6,
    /// Typed while the terminal's echo was on.
    Keystrokes = 7,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Output,
            3 => Self::Error,
            4 => Self::Resize,
            5 => Self::Marker,
            6 => Self::Exit,
            7 => Self::Keystrokes,
            _ => return None,
        })
    }
}

/// One record of the output stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Number of the channel.
    pub channel: u32,
    /// Since the recording's start.
    pub at: Duration,
    /// Its data.
    pub data: Bytes,
}

/// Appends the head of a record whose data follows.
pub fn put_head(buffer: &mut Vec<u8>, kind: Kind, channel: u32, at: Duration, length: usize) {
    buffer.push(kind as u8);
    buffer.extend_from_slice(&channel.to_le_bytes());
    buffer.extend_from_slice(&u64::try_from(at.as_micros()).unwrap_or(u64::MAX).to_le_bytes());
    buffer.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// The records of a payload.
///
/// # Errors
/// [`FormatError::Record`].
pub fn records(mut payload: Bytes) -> Result<Vec<Record>, FormatError> {
    let mut all = Vec::new();
    while !payload.is_empty() {
        if payload.len() < RECORD_HEAD {
            return Err(FormatError::Record);
        }
        let kind = Kind::of(payload.get_u8()).ok_or(FormatError::Record)?;
        let channel = payload.get_u32_le();
        let at = Duration::from_micros(payload.get_u64_le());
        let length = payload.get_u32_le() as usize;
        if length > payload.len() {
            return Err(FormatError::Record);
        }
        all.push(Record { kind, channel, at, data: payload.split_to(length) });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            format: FORMAT.into(),
            recording: "c0ffee".into(),
            stream: Stream::Output,
            sequence: 7,
            previous: GENESIS.into(),
            replica: "gateway-1".into(),
            fence: false,
        }
    }

    #[test]
    fn a_chunk_survives_a_round_trip_and_is_an_ordinary_zstandard_file() {
        let mut payload = Vec::new();
        put_head(&mut payload, Kind::Output, 3, Duration::from_micros(42), 4);
        payload.extend_from_slice(&[0xff, 0, b'a', 0xc3]);
        put_head(&mut payload, Kind::Exit, 3, Duration::from_micros(43), 0);
        let packed = zstd::encode_all(payload.as_slice(), 1).expect("packed");
        let chunk = Bytes::from([header().encode(), packed].concat());
        assert_eq!(zstd::decode_all(chunk.as_ref()).expect("unpacked"), payload, "the header is skipped");
        let (read, packed) = Header::decode(chunk).expect("a header");
        assert_eq!(read, header());
        let read = records(unpack(&packed).expect("unpacked")).expect("records");
        let bytes =
            Record { kind: Kind::Output, channel: 3, at: Duration::from_micros(42), data: Bytes::from_static(&[0xff, 0, b'a', 0xc3]) };
        assert_eq!(read, [bytes, Record { kind: Kind::Exit, channel: 3, at: Duration::from_micros(43), data: Bytes::new() }]);
    }

    #[test]
    fn names_are_read_back() {
        for (stream, sequence) in [(Stream::Audit, 0), (Stream::Output, 12_345_678)] {
            assert_eq!(Stream::of_object(&stream.object(sequence)), Some((stream, sequence)));
        }
        for name in ["manifest.json", "output-1.zst", "output-0000000a.zst", "audit-00000001.zst", "output-00000001.jsonl.zst"] {
            assert_eq!(Stream::of_object(name), None, "{name}");
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let whole = Bytes::from([header().encode(), zstd::encode_all(&b"text"[..], 1).expect("packed")].concat());
        for length in 0..whole.len() {
            if let Ok((_, packed)) = Header::decode(whole.slice(..length)) {
                let _ = unpack(&packed);
            }
        }
        let mut other = header();
        other.format = "sandglass-recording/2".into();
        assert_eq!(Header::decode(other.encode().into()), Err(FormatError::NoHeader));
        for bytes in [&[2u8][..], &[9; 17], &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0]] {
            assert_eq!(records(Bytes::copy_from_slice(bytes)), Err(FormatError::Record));
        }
    }
}
