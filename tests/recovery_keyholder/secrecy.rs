//! What of a key can be found where it must not be: in the process's memory, in what it shows of itself, by others.

use super::memory::{mappings, search};
use super::world::{NOBODY, Raw, TOKEN, World, is_root, kv, ssh};
use super::{assert_signs, plain, sign_message};
use russh::keys::ssh_encoding::Decode as _;
use russh::keys::{HashAlg, PrivateKey, PublicKey};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// What tells of a key: its text, and what of its numbers a library could have left behind.
fn patterns(text: &str) -> Vec<(String, Vec<u8>)> {
    let lines: Vec<&str> = text.lines().collect();
    let key = PrivateKey::from_openssh(text).unwrap();
    // An RSA key's file repeats the modulus, and that the keyholder may show.
    let public = key.public_key().to_openssh().unwrap();
    let long = lines[1..lines.len() - 1].iter().enumerate().filter(|(_, line)| line.len() >= 40 && !public.contains(&line[..40]));
    let mut patterns: Vec<_> = long.map(|(at, line)| (format!("line {at}"), line.as_bytes()[..40].to_vec())).collect();
    patterns.push(("PEM".to_owned(), text.as_bytes().to_vec()));
    patterns.extend(numbers(&key));
    patterns
}

fn numbers(key: &PrivateKey) -> Vec<(String, Vec<u8>)> {
    let mut numbers = Vec::new();
    if let Some(pair) = key.key_data().ed25519() {
        let seed = pair.private.to_bytes();
        // What signing works with (RFC 8032 section 5.1.5): the scalar, pruned or not, and the prefix.
        let expanded = ring::digest::digest(&ring::digest::SHA512, &seed);
        let (scalar, prefix) = expanded.as_ref().split_at(32);
        let mut pruned = scalar.to_vec();
        pruned[0] &= 0xf8;
        pruned[31] = pruned[31] & 0x7f | 0x40;
        for (name, bytes) in [("seed", &seed[..]), ("scalar", scalar), ("pruned scalar", &pruned), ("prefix", prefix)] {
            numbers.push((name.to_owned(), bytes.to_vec()));
        }
    }
    if let Some(pair) = key.key_data().rsa() {
        let private = pair.private();
        for (name, number) in [("d", private.d()), ("p", private.p()), ("q", private.q()), ("iqmp", private.iqmp())] {
            let bytes = number.as_positive_bytes().unwrap();
            // As it is written, and as limbs of a little-endian machine.
            numbers.push((name.to_owned(), bytes[bytes.len() - 32..].to_vec()));
            numbers.push((format!("{name} in limbs"), bytes[bytes.len() - 32..].iter().rev().copied().collect()));
        }
    }
    numbers
}

async fn sign_often(socket: &Path, key: &PublicKey) {
    let hash = key.algorithm().is_rsa().then_some(HashAlg::Sha512);
    for _ in 0..10 {
        assert_signs(socket, &plain(key), key, hash).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_key_is_in_locked_memory_and_after_closing_nowhere() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    for (name, kind) in [("ed25519", &["-t", "ed25519"][..]), ("rsa", &["-t", "rsa", "-b", "2048"])] {
        let (text, public) = world.key(name, kind);
        let patterns = patterns(&text);
        let request = world.request(kv(name), None);
        let mut raw = Raw::start(&request);
        raw.load();
        raw.ask(r#"{"identity":"target"}"#);
        sign_often(&request.socket, &public).await;
        let (outside, inside) = search(&mappings(raw.child.id()), &patterns);
        assert_eq!(outside, Vec::<String>::new(), "{name} loaded");
        assert!(inside > 0, "{name} is in the locked buffer, so the search finds it");
        // Loaded again: the first buffer is gone.
        raw.load();
        sign_often(&request.socket, &public).await;
        let held = mappings(raw.child.id());
        assert_eq!(held.iter().filter(|mapping| mapping.is_locked_buffer).count(), 1, "{name}");
        assert_eq!(raw.ask(r#""close""#), r#""closed""#);
        let after = mappings(raw.child.id());
        assert_eq!(after.iter().filter(|mapping| mapping.is_locked_buffer).count(), 0, "{name}");
        assert_eq!(search(&after, &patterns), (Vec::new(), 0), "{name} closed");
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{}/{file}", raw.child.id())).unwrap();
            assert!(!String::from_utf8_lossy(&text).contains("PRIVATE") && !String::from_utf8_lossy(&text).contains(TOKEN));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_key_is_in_locked_memory_and_after_closing_nowhere() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let request = world.request(ssh("root"), None);
    let mut raw = Raw::start(&request);
    raw.load();
    let loaded = mappings(raw.child.id());
    let buffer = loaded.iter().find(|mapping| mapping.is_locked_buffer).expect("a locked buffer");
    let key = PrivateKey::decode(&mut buffer.bytes.as_slice()).unwrap();
    sign_often(&request.socket, key.public_key()).await;
    let patterns = numbers(&key);
    let (outside, inside) = search(&mappings(raw.child.id()), &patterns);
    assert_eq!((outside, inside), (Vec::new(), 1));
    assert_eq!(raw.ask(r#""close""#), r#""closed""#);
    assert_eq!(search(&mappings(raw.child.id()), &patterns), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_gives_up_what_is_under_way() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let (text, public) = world.key("rsa", &["-t", "rsa", "-b", "4096"]);
    let request = world.request(kv("rsa"), None);
    let mut raw = Raw::start(&request);
    raw.load();
    for _ in 0..8 {
        let mut stream = std::os::unix::net::UnixStream::connect(&request.socket).unwrap();
        stream.write_all(&sign_message(&public, b"data", 4)).unwrap();
        std::mem::forget(stream);
    }
    assert_eq!(raw.ask(r#""close""#), r#""closed""#);
    let (outside, inside) = search(&mappings(raw.child.id()), &patterns(&text));
    assert_eq!((outside, inside), (Vec::new(), 0));
    raw.hang_up();
    assert!(raw.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_reads_it_and_it_leaves_no_core() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let (_, public) = world.key("devvm", &["-t", "ed25519"]);
    let request = world.request(kv("devvm"), None);
    let mut raw = Raw::start_as(&world, NOBODY, None, &request);
    raw.load();
    let process = raw.child.id();
    for file in ["mem", "environ", "maps"] {
        let read = Command::new("head").args(["-c", "1", &format!("/proc/{process}/{file}")]).uid(NOBODY).gid(NOBODY).output().unwrap();
        assert!(String::from_utf8_lossy(&read.stderr).contains("Permission denied"), "{file}: {read:?}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
    // Root is another user too: the socket's mode does not stop it, the check of the peer does.
    let mut stream = std::os::unix::net::UnixStream::connect(&request.socket).unwrap();
    let _ = stream.write_all(&sign_message(&public, b"data", 0));
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);

    let mut raw = Raw::start_as(&world, NOBODY, Some("0"), &request);
    let answer = raw.ask(r#""load""#);
    assert!(answer.contains("KeyholderFailed") && answer.contains("RLIMIT_MEMLOCK"), "{answer}");
}
