//! Whether a recording is as it was written and signed. Pure; `tests/verify_recording.py` says the same a second time.

use super::format::{GENESIS, Header, Stream, sha256};
use super::manifest::{self, Manifest};
use super::read::Loaded;
use bytes::Bytes;
use russh::keys::PublicKey;

/// What verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is wrong: one line each, naming the object. Empty: nothing.
    pub problems: Vec<String>,
    /// Whether the replica that recorded closed it.
    pub complete: bool,
    /// Chunks that are as they were written.
    pub chunks: usize,
}

impl Loaded {
    /// Checks the signature, every chunk against the manifest, and the chain.
    #[must_use]
    pub fn verify(&self, key: &PublicKey) -> Verdict {
        let mut verdict = Verdict { problems: Vec::new(), complete: false, chunks: 0 };
        let Some(bytes) = self.objects.get(manifest::OBJECT) else {
            verdict.problems.push(format!("{}: missing: the recording is not closed, nothing can be verified yet", manifest::OBJECT));
            return verdict;
        };
        let manifest = match Manifest::open(bytes, Some(key)) {
            Ok(manifest) => manifest,
            Err(failure) => {
                verdict.problems.push(failure.to_string());
                return verdict;
            }
        };
        verdict.complete = manifest.closing.complete;
        let about = &manifest.about;
        let here = (&self.name.namespace, &self.name.name, &self.name.uid, &self.name.connection);
        if here != (&about.namespace, &about.name, &about.uid, &manifest.recording) {
            verdict.problems.push(format!("{}: is of another recording", manifest::OBJECT));
        }
        for stream in Stream::ALL {
            self.verify_stream(&manifest, stream, &mut verdict);
        }
        for name in self.objects.keys() {
            let listed = Stream::of_object(name).is_some_and(|(stream, sequence)| (sequence as usize) < manifest.chunks(stream).len());
            if !listed && name != manifest::OBJECT {
                verdict.problems.push(format!("{name}: is not in the manifest"));
            }
        }
        verdict
    }

    fn verify_stream(&self, manifest: &Manifest, stream: Stream, verdict: &mut Verdict) {
        let mut previous = GENESIS.to_owned();
        let chunks = manifest.chunks(stream);
        for (index, chunk) in chunks.iter().enumerate() {
            let object = stream.object(u32::try_from(index).unwrap_or(u32::MAX));
            let last = index + 1 == chunks.len();
            match self.objects.get(&object) {
                None => verdict.problems.push(format!("{object}: missing")),
                Some(bytes) if sha256(bytes) == chunk.sha256 => match fault(bytes, manifest, stream, index, &previous, last) {
                    Some(fault) => verdict.problems.push(format!("{object}: {fault}")),
                    None => verdict.chunks += 1,
                },
                // The chunk of another place is told from one that was changed.
                Some(bytes) => {
                    let hash = sha256(bytes);
                    let other = chunks.iter().any(|other| other.sha256 == hash);
                    verdict.problems.push(format!("{object}: {}", if other { "out of place" } else { "changed" }));
                }
            }
            previous.clone_from(&chunk.sha256);
        }
    }
}

/// What is wrong with a chunk whose bytes are those that the manifest lists.
fn fault(bytes: &Bytes, manifest: &Manifest, stream: Stream, index: usize, previous: &str, last: bool) -> Option<&'static str> {
    let Ok((header, _)) = Header::decode(bytes.clone()) else { return Some("has no header") };
    if header.recording != manifest.recording || header.stream != stream || header.sequence as usize != index {
        return Some("is of another place");
    }
    if header.previous != previous {
        return Some("does not follow the chunk before it");
    }
    if header.fence && (manifest.closing.complete || !last) {
        return Some("is a fence where none may be");
    }
    None
}
