//! Memory for key bytes: whole pages, never swapped, in no core dump, not in forked children, wiped before they are given back.
//!
//! The one place of this room with `unsafe`: the kernel's calls take addresses. It must not know what the bytes are.
#![allow(unsafe_code)]

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use zeroize::Zeroize as _;

/// A buffer of fixed length that is locked in memory. It never moves, so nothing of it is left anywhere else.
pub struct Locked {
    start: NonNull<u8>,
    length: usize,
    mapped: usize,
}

// SAFETY: the mapping belongs to this value alone, and is reached through `&self` and `&mut self` only, as a `Box<[u8]>` is.
unsafe impl Send for Locked {}
// SAFETY: as above; through `&self` it is only read.
unsafe impl Sync for Locked {}

impl Locked {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// When the kernel gives no memory, or will not lock it: then there is no buffer, since an unlocked one is no place for a key.
    pub fn zeroed(length: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let mapped = length.max(1).checked_next_multiple_of(page).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe { mmap_anonymous(std::ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
        let start = NonNull::new(address.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // From here on dropping it unmaps it.
        let buffer = Self { start, length, mapped };
        // SAFETY: exactly the mapping made above; neither call changes its content.
        unsafe {
            mlock(address, mapped)?;
            madvise(address, mapped, Advice::LinuxDontDump)?;
            madvise(address, mapped, Advice::LinuxDontFork)?;
        }
        Ok(buffer)
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    /// As [`Self::zeroed`].
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        let mut buffer = Self::zeroed(bytes.len())?;
        buffer.copy_from_slice(bytes);
        Ok(buffer)
    }
}

impl Deref for Locked {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `length` bytes of the mapping, initialised with zeros by the kernel, borrowed as long as `self` is.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.zeroize();
        // SAFETY: the mapping made in `zeroed`, to which nothing refers any more. It ends its lock too.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

impl std::fmt::Debug for Locked {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("(locked)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the mapping around an address: the flags of `/proc/self/smaps` (proc(5)).
    fn flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-'))
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            }
            if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
                return format!("{flags} ");
            }
        }
        panic!("no mapping");
    }

    #[test]
    fn a_buffer_is_locked_and_neither_dumped_nor_forked() {
        for length in [0, 1, 32, 4096, 4097] {
            let buffer = Locked::zeroed(length).unwrap();
            assert_eq!(buffer.len(), length);
            assert!(buffer.iter().all(|byte| *byte == 0));
            let flags = flags(buffer.start.as_ptr() as usize);
            for flag in [" lo ", " dd ", " dc "] {
                assert!(flags.contains(flag), "{flag} in {flags}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_not_shown() {
        let mut buffer = Locked::copy_of(b"swordfish").unwrap();
        assert_eq!(&*buffer, b"swordfish");
        buffer[0] = b'S';
        assert_eq!(&*buffer, b"Swordfish");
        assert_eq!(format!("{buffer:?}"), "(locked)");
    }

    #[test]
    fn no_memory_no_buffer() {
        assert_eq!(Locked::zeroed(usize::MAX).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
