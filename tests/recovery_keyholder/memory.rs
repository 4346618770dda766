//! Looks for bytes in another process's memory, as root may. It must not write there.

use std::io::{Read as _, Seek as _, SeekFrom};

/// A readable mapping with its content.
pub struct Mapping {
    /// Its line of `/proc/PID/smaps`.
    pub line: String,
    /// It is locked, not dumped and not inherited: a buffer for keys.
    pub is_locked_buffer: bool,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Every mapping of a process that can be read.
pub fn mappings(process: u32) -> Vec<Mapping> {
    let described = std::fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let mut memory = std::fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut found: Vec<Mapping> = Vec::new();
    for line in described.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(last) = found.last_mut() {
                let flags: Vec<&str> = flags.split_whitespace().collect();
                last.is_locked_buffer = ["lo", "dd", "dc"].iter().all(|flag| flags.contains(flag));
            }
            continue;
        }
        let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) else { continue };
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) else { continue };
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // What cannot be read, such as [vvar], holds nothing of the process's.
        if memory.seek(SeekFrom::Start(from)).is_err() || memory.read_exact(&mut bytes).is_err() {
            bytes.clear();
        }
        found.push(Mapping { line: line.to_owned(), is_locked_buffer: false, bytes });
    }
    assert!(found.iter().map(|mapping| mapping.bytes.len()).sum::<usize>() > 1 << 20, "the memory was read");
    found
}

/// Which patterns occur outside of locked buffers, and how many are in one.
pub fn search(mappings: &[Mapping], patterns: &[(String, Vec<u8>)]) -> (Vec<String>, usize) {
    let (mut outside, mut inside) = (Vec::new(), 0);
    for (name, pattern) in patterns {
        for mapping in mappings.iter().filter(|mapping| contains(&mapping.bytes, pattern)) {
            if mapping.is_locked_buffer {
                inside += 1;
            } else {
                outside.push(format!("{name} in {}", mapping.line));
            }
        }
    }
    (outside, inside)
}

/// Jumps from one first byte to the next: the windows of a slice are too slow for a whole process.
fn contains(bytes: &[u8], pattern: &[u8]) -> bool {
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == pattern[0]) {
        at += next;
        if bytes[at..].starts_with(pattern) {
            return true;
        }
        at += 1;
    }
    false
}
