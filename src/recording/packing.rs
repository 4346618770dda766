//! Zstandard frames out of pieces. A packer's tables take a megabyte: few are shared by all recordings, none is kept by one.

use bytes::Bytes;
use std::sync::{Mutex, PoisonError};
use zstd::stream::raw::{Encoder, InBuffer, Operation, OutBuffer};

/// The fastest level that is still worth it.
const LEVEL: i32 = 1;
/// Packers kept for the next use.
const KEPT: usize = 4;
/// Output grows by this much at a time.
const STEP: usize = 64 * 1024;

/// Packers that are not in use.
#[derive(Default)]
pub struct Packers(Mutex<Vec<Encoder<'static>>>);

impl Packers {
    /// Appends one whole frame with all pieces to `packed`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn pack(&self, pieces: &[Bytes], packed: &mut Vec<u8>) -> std::io::Result<()> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut encoder = match idle {
            Some(encoder) => encoder,
            None => Encoder::new(LEVEL)?,
        };
        for piece in pieces {
            let mut input = InBuffer::around(piece);
            while input.pos() < piece.len() {
                step(packed, |output| encoder.run(&mut input, output))?;
            }
        }
        while step(packed, |output| encoder.finish(output, true))? > 0 {}
        encoder.reinit()?;
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(encoder);
        }
        Ok(())
    }
}

/// One call of the encoder, with room behind what is there.
fn step(packed: &mut Vec<u8>, call: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<usize>) -> std::io::Result<usize> {
    let length = packed.len();
    if packed.capacity() == length {
        packed.reserve(STEP);
    }
    let mut output = OutBuffer::around_pos(packed, length);
    call(&mut output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_one_frame_and_packers_are_used_again() {
        let packers = Packers::default();
        for round in 0..3u8 {
            let pieces: Vec<Bytes> = (0..200u8).map(|number| Bytes::from(vec![number ^ round; 1 + 37 * usize::from(number)])).collect();
            let mut packed = b"head".to_vec();
            packers.pack(&pieces, &mut packed).expect("packed");
            assert_eq!(&packed[..4], b"head");
            assert_eq!(zstd::decode_all(&packed[4..]).expect("unpacked"), pieces.concat());
        }
        assert_eq!(packers.0.lock().expect("locked").len(), 1);
    }

    #[test]
    fn zeros_take_next_to_nothing() {
        let mut packed = Vec::new();
        Packers::default().pack(&vec![Bytes::from(vec![0; 240 * 1024]); 40], &mut packed).expect("packed");
        assert!(packed.len() < 2048, "{}", packed.len());
    }
}
