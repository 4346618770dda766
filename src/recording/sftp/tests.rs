//! Whole conversations, as packets of both sides in the order in which the gateway passes them on.

mod random;

use ring::digest::{SHA256, digest};

use super::Side::{Pod, User};
use super::conversation::WRONG_ANSWER;
use super::transfer::MOST_EARLY;
use super::wire::MALFORMED;
use super::{SftpEvent, SftpObserver, Side, UNREADABLE};

/// SHA-256 of nothing, of `abc` and of a million times `a` (FIPS 180-2, appendix B).
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const OF_A_MILLION: &str = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

type Script = Vec<(Side, Vec<u8>)>;

/// A field of a packet.
enum F<'a> {
    N(u32),
    L(u64),
    S(&'a [u8]),
}
use F::{L, N, S};

fn packet(kind: u8, fields: &[F]) -> Vec<u8> {
    let mut body = vec![kind];
    for field in fields {
        match field {
            N(number) => body.extend(number.to_be_bytes()),
            L(number) => body.extend(number.to_be_bytes()),
            S(bytes) => {
                body.extend(u32::try_from(bytes.len()).expect("short").to_be_bytes());
                body.extend_from_slice(bytes);
            }
        }
    }
    let mut packet = u32::try_from(body.len()).expect("short").to_be_bytes().to_vec();
    packet.append(&mut body);
    packet
}

fn ask(kind: u8, fields: &[F]) -> (Side, Vec<u8>) {
    (User, packet(kind, fields))
}

fn status(id: u32, code: u32) -> (Side, Vec<u8>) {
    (Pod, packet(101, &[N(id), N(code), S(b"words"), S(b"en")]))
}

fn handle(id: u32, handle: &[u8]) -> (Side, Vec<u8>) {
    (Pod, packet(102, &[N(id), S(handle)]))
}

fn data(id: u32, bytes: &[u8]) -> (Side, Vec<u8>) {
    (Pod, packet(103, &[N(id), S(bytes)]))
}

/// Opens `path` as handle `name`, with request 1.
fn opened(path: &[u8], flags: u32, name: &[u8]) -> Script {
    vec![ask(3, &[N(1), S(path), N(flags), N(0)]), handle(1, name)]
}

fn read(id: u32, name: &[u8], offset: u64, length: u32) -> (Side, Vec<u8>) {
    ask(5, &[N(id), S(name), L(offset), N(length)])
}

fn write(id: u32, name: &[u8], offset: u64, bytes: &[u8]) -> (Side, Vec<u8>) {
    ask(6, &[N(id), S(name), L(offset), S(bytes)])
}

/// Closes handle `name`, with request 2.
fn closed(name: &[u8]) -> Script {
    vec![ask(4, &[N(2), S(name)]), status(2, 0)]
}

fn feed(observer: &mut SftpObserver, side: Side, bytes: &[u8]) -> Vec<SftpEvent> {
    match side {
        User => observer.from_user(bytes),
        Pod => observer.to_user(bytes),
    }
}

/// Plays a script, each packet in pieces of at most so many bytes, and ends the channel.
fn play(script: &[(Side, Vec<u8>)], most: usize) -> Vec<SftpEvent> {
    let mut observer = SftpObserver::new();
    let mut events = Vec::new();
    for (side, bytes) in script {
        for piece in bytes.chunks(most) {
            events.extend(feed(&mut observer, *side, piece));
        }
    }
    events.extend(observer.end());
    events
}

fn events(script: &[(Side, Vec<u8>)]) -> Vec<SftpEvent> {
    play(script, usize::MAX)
}

fn file(path: &str, status: &str) -> SftpEvent {
    SftpEvent { operation: "file", path: path.into(), status: status.into(), ..SftpEvent::default() }
}

fn event(operation: &'static str, path: &str, status: &str) -> SftpEvent {
    SftpEvent { operation, path: path.into(), status: status.into(), ..SftpEvent::default() }
}

fn lost(script: &[(Side, Vec<u8>)], reason: &str) -> Vec<SftpEvent> {
    let mut events = events(script);
    assert_eq!(events.pop().map(|event| event.operation), Some("unread"), "{reason}");
    assert_eq!(events.pop(), Some(event("unreadable", "", reason)));
    events
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index * 7 % 251).expect("small")).collect()
}

fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn an_upload_has_its_bytes_and_their_hash() {
    let mut script = opened(b"/tmp/million", 0x1a, b"\0\0\0\0");
    for number in 0..10 {
        script.push(write(10 + number, b"\0\0\0\0", u64::from(number) * 100_000, &vec![b'a'; 100_000]));
    }
    script.extend((0..10).map(|number| status(10 + number, 0)));
    script.extend(closed(b"\0\0\0\0"));
    let expected = SftpEvent { bytes_written: Some(1_000_000), sha256_written: Some(OF_A_MILLION.into()), ..file("/tmp/million", "ok") };
    for most in [1, 5, 277, 281, 4096, 32_768, usize::MAX] {
        assert_eq!(play(&script, most), std::slice::from_ref(&expected), "{most}");
    }
}

#[test]
fn an_empty_upload_is_told_too() {
    let mut script = opened(b"empty", 0x1a, b"h");
    script.extend(closed(b"h"));
    assert_eq!(events(&script), [SftpEvent { bytes_written: Some(0), sha256_written: Some(OF_NOTHING.into()), ..file("empty", "ok") }]);
}

#[test]
fn a_download_with_pipelined_reads() {
    let bytes = pattern(200_000);
    let mut script = opened(b"/etc/big", 1, b"7");
    script.extend((0..8).map(|number| read(10 + number, b"7", u64::from(number) * 32_768, 32_768)));
    script.extend(bytes.chunks(32_768).zip(10..).map(|(piece, id)| data(id, piece)));
    // The last was short: its rest is asked for, and is the end like the one beyond it.
    script.extend([status(17, 1), read(18, b"7", 200_000, 29_144), status(18, 1)]);
    script.extend(closed(b"7"));
    let expected = SftpEvent { bytes_read: Some(200_000), sha256_read: Some(hash(&bytes)), ..file("/etc/big", "ok") };
    for most in [13, 9999, usize::MAX] {
        assert_eq!(play(&script, most), std::slice::from_ref(&expected));
    }
}

/// Reads of ten bytes, of which the second gets four; the rest comes behind all others, which may come in any order.
#[test]
fn a_short_read_is_asked_for_again_behind_the_others() {
    let bytes = pattern(50);
    let mut script = opened(b"f", 1, b"h");
    script.extend((0..5).map(|number| read(10 + number, b"h", u64::from(number) * 10, 10)));
    script.extend([data(10, &bytes[..10]), data(11, &bytes[10..14]), read(15, b"h", 14, 6)]);
    script.extend([data(14, &bytes[40..]), data(12, &bytes[20..30]), data(13, &bytes[30..40]), data(15, &bytes[14..20])]);
    script.extend(closed(b"h"));
    let expected = SftpEvent { bytes_read: Some(50), sha256_read: Some(hash(&bytes)), ..file("f", "ok") };
    for most in [1, 3, usize::MAX] {
        assert_eq!(play(&script, most), std::slice::from_ref(&expected));
    }
}

#[test]
fn gaps_overlaps_and_repetition_leave_the_bytes_and_no_hash() {
    for offsets in [&[0, 20][..], &[10], &[0, 0], &[0, 5], &[10, 15, 0], &[10, 10, 0], &[5, 0], &[u64::MAX, u64::MAX]] {
        let mut script = opened(b"f", 3, b"h");
        for (offset, id) in offsets.iter().zip(10..) {
            script.extend([read(id, b"h", *offset, 10), data(id, &[1; 10])]);
            script.extend([write(id, b"h", *offset, &[2; 10]), status(id, 0)]);
        }
        script.extend(closed(b"h"));
        let count = Some(10 * offsets.len() as u64);
        assert_eq!(events(&script), [SftpEvent { bytes_read: count, bytes_written: count, ..file("f", "ok") }], "{offsets:?}");
    }
}

#[test]
fn early_data_is_bounded_over_all_files_and_given_back() {
    let mut observer = SftpObserver::new();
    let piece = vec![1; 1024 * 1024];
    for number in 0_u32..8 {
        let name = number.to_be_bytes();
        observer.from_user(&packet(3, &[N(1), S(b"f"), N(2), N(0)]));
        observer.to_user(&packet(102, &[N(1), S(&name)]));
        observer.from_user(&packet(6, &[N(9), S(&name), L(1), S(&piece)]));
        observer.to_user(&status(9, 0).1);
        assert!(observer.state.held <= MOST_EARLY);
    }
    assert!(observer.state.held > 2 * 1024 * 1024);
    let given_up = observer.state.opened.values().filter(|opened| opened.written.digest.is_none()).count();
    assert_eq!(given_up, 5);
    for number in 0_u32..8 {
        let events = observer.from_user(&packet(4, &[N(2), S(&number.to_be_bytes())]));
        assert_eq!(events, []);
        let events = observer.to_user(&status(2, 0).1);
        assert_eq!(events, [SftpEvent { bytes_written: Some(1024 * 1024), ..file("f", "ok") }]);
    }
    assert_eq!(observer.state.held, 0);
    assert_eq!(observer.end(), []);
}

#[test]
fn refused_writes_do_not_count_and_failures_show() {
    let mut script = opened(b"f", 3, b"h");
    script.extend([write(10, b"h", 0, b"abc"), write(11, b"h", 3, b"defgh"), status(10, 0), status(11, 4)]);
    script.extend([read(12, b"h", 0, 9), status(12, 3)]);
    script.extend(closed(b"h"));
    let nothing_read = SftpEvent { bytes_read: Some(0), sha256_read: Some(OF_NOTHING.into()), ..file("f", "failure") };
    assert_eq!(events(&script), [SftpEvent { bytes_written: Some(3), ..nothing_read }]);
}

#[test]
fn the_answer_to_a_close_may_overtake_others() {
    let mut script = opened(b"f", 1, b"h");
    script.extend([read(10, b"h", 0, 9), ask(4, &[N(2), S(b"h")]), status(2, 0)]);
    // The handle is given again meanwhile.
    script.extend([ask(3, &[N(3), S(b"g"), N(2), N(0)]), handle(3, b"h"), write(4, b"h", 0, b"abc"), data(10, b"abc"), status(4, 0)]);
    script.extend(closed(b"h"));
    let first = SftpEvent { bytes_read: Some(3), sha256_read: Some(OF_ABC.into()), ..file("f", "ok") };
    let second = SftpEvent { bytes_written: Some(3), sha256_written: Some(OF_ABC.into()), ..file("g", "ok") };
    assert_eq!(events(&script), [first, second]);
}

/// Every operation, with the events that it must give.
fn everything() -> (Script, Vec<SftpEvent>) {
    let mut script = vec![(User, packet(1, &[N(3)])), (Pod, packet(2, &[N(3), S(b"limits@openssh.com"), S(b"1")]))];
    let names = packet(104, &[N(50), N(1), S(b"/target"), S(b"l"), N(0)]);
    script.extend([ask(16, &[N(50), S(b".")]), (Pod, names.clone())]);
    script.extend([ask(17, &[N(51), S(b"f")]), (Pod, packet(105, &[N(51), N(0)])), ask(7, &[N(51), S(b"f")]), status(51, 2)]);
    script.extend([ask(200, &[N(52), S(b"limits@openssh.com")]), (Pod, packet(201, &[N(52), L(1), L(2), L(3), L(4)]))]);
    script.extend([ask(3, &[N(1), S(b"/srv/x"), N(1), N(0)]), status(1, 3)]);
    script.extend([ask(11, &[N(1), S(b"/folder")]), handle(1, b"d"), ask(12, &[N(2), S(b"d")]), (Pod, packet(104, &[N(2), N(0)]))]);
    script.extend([ask(12, &[N(3), S(b"d")]), status(3, 1), ask(10, &[N(4), S(b"d"), N(0)]), status(4, 0)]);
    script.extend(closed(b"d"));
    script.extend([ask(11, &[N(1), S(b"/none")]), status(1, 2)]);
    script.extend([ask(13, &[N(1), S(b"gone")]), ask(14, &[N(2), S(b"made"), N(0)]), ask(15, &[N(3), S(b"old")])]);
    script.extend([status(2, 0), status(3, 4), status(1, 0)]);
    script.extend([ask(18, &[N(1), S(b"a"), S(b"b")]), status(1, 0), ask(20, &[N(1), S(b"existing"), S(b"link")]), status(1, 0)]);
    script.extend([ask(200, &[N(1), S(b"posix-rename@openssh.com"), S(b"c"), S(b"d")]), status(1, 8)]);
    script.extend([ask(200, &[N(1), S(b"hardlink@openssh.com"), S(b"existing"), S(b"link")]), status(1, 0)]);
    script.extend([ask(19, &[N(50), S(b"link")]), (Pod, names), ask(19, &[N(1), S(b"no")]), status(1, 2)]);
    script.extend([ask(9, &[N(1), S(b"mode"), N(4), N(0o755)]), status(1, 0)]);
    script.extend([ask(200, &[N(1), S(b"lsetstat@openssh.com"), S(b"mode"), N(0)]), status(1, 99)]);
    script.extend([ask(200, &[N(1), S(b"check-file"), S(b"x")]), (Pod, packet(201, &[N(1), S(b"hash")]))]);
    script.extend(opened(b"from", 1, b"h"));
    script.extend([ask(3, &[N(2), S(b"to"), N(2), N(0)]), handle(2, b"i")]);
    script.extend([ask(200, &[N(3), S(b"copy-data"), S(b"h"), L(0), L(0), S(b"i"), L(0)]), status(3, 0)]);
    script.extend([ask(200, &[N(4), S(b"fsync@openssh.com"), S(b"i")]), status(4, 0), ask(8, &[N(5), S(b"h")]), status(5, 4)]);
    script.extend([ask(10, &[N(6), S(b"i"), N(0)]), status(6, 0), ask(4, &[N(7), S(b"h")]), status(7, 4)]);
    script.extend([write(8, b"i", 0, b"abc"), status(8, 0)]);

    let target = |event: SftpEvent, target: &str| SftpEvent { target: Some(target.into()), ..event };
    let expected = vec![
        event("open", "/srv/x", "permission denied"),
        event("list", "/folder", "ok"),
        event("setstat", "/folder", "ok"),
        event("list", "/none", "no such file"),
        event("mkdir", "made", "ok"),
        event("rmdir", "old", "failure"),
        event("remove", "gone", "ok"),
        target(event("rename", "a", "ok"), "b"),
        target(event("symlink", "link", "ok"), "existing"),
        target(event("rename", "c", "operation unsupported"), "d"),
        target(event("hardlink", "link", "ok"), "existing"),
        target(event("readlink", "link", "ok"), "/target"),
        event("readlink", "no", "no such file"),
        event("setstat", "mode", "ok"),
        event("setstat", "mode", "status 99"),
        event("extended", "check-file", "ok"),
        target(event("copy", "from", "ok"), "to"),
        event("setstat", "to", "ok"),
        SftpEvent { bytes_read: Some(0), sha256_read: Some(OF_NOTHING.into()), ..file("from", "failure") },
        SftpEvent { bytes_written: Some(3), sha256_written: Some(OF_ABC.into()), ..file("to", "not closed") },
    ];
    (script, expected)
}

#[test]
fn every_operation_has_its_event() {
    let (script, expected) = everything();
    assert_eq!(events(&script), expected);
}

#[test]
fn the_same_events_wherever_packets_are_cut() {
    let (script, expected) = everything();
    for most in 1..60 {
        assert_eq!(play(&script, most), expected, "pieces of {most}");
    }
    // Every single place, all else whole.
    for (index, (_, bytes)) in script.iter().enumerate() {
        for place in 1..bytes.len() {
            let mut cut = script.clone();
            let rest = cut[index].1.split_off(place);
            cut.insert(index + 1, (cut[index].0, rest));
            assert_eq!(events(&cut), expected, "packet {index} cut at {place}");
        }
    }
    // And many packets at once: neighbours of the same side joined.
    let joined = script.chunk_by(|(one, _), (other, _)| one == other);
    let joined: Script = joined.map(|run| (run[0].0, run.iter().flat_map(|(_, bytes)| bytes.clone()).collect())).collect();
    assert_eq!(events(&joined), expected);
}

#[test]
fn a_channel_that_ends_early_tells_what_was_under_way() {
    let mut script = opened(b"f", 2, b"h");
    script.extend([write(10, b"h", 0, b"abc"), status(10, 0), ask(13, &[N(11), S(b"gone")])]);
    let mut unfinished = write(12, b"h", 3, b"defghi");
    unfinished.1.truncate(unfinished.1.len() - 2);
    let mut cut = script.clone();
    cut.push(unfinished);
    let removed = event("remove", "gone", "not answered");
    let whole = SftpEvent { bytes_written: Some(3), sha256_written: Some(OF_ABC.into()), ..file("f", "not closed") };
    assert_eq!(events(&script), [removed.clone(), whole]);
    // Long heads are gathered whole: of so short a write nothing was seen.
    assert_eq!(events(&cut)[0], removed);
    let long = write(12, b"h", 3, &[0; 1000]);
    cut.pop();
    cut.push((User, long.1[..900].to_vec()));
    let seen = 900 - (4 + 1 + 4 + 4 + 1 + 8 + 4);
    assert_eq!(events(&cut), [removed, SftpEvent { bytes_written: Some(3 + seen), ..file("f", "not closed") }]);
}

#[test]
fn requests_through_unknown_handles_must_fail() {
    let fails = [read(1, b"x", 0, 9), write(1, b"x", 0, b"abc"), ask(10, &[N(1), S(b"x"), N(0)])];
    for request in fails {
        assert_eq!(events(&[request.clone(), status(1, 4)]), []);
        assert_eq!(lost(&[request, status(1, 0)], WRONG_ANSWER.0), []);
    }
    lost(&[read(1, b"x", 0, 9), data(1, b"abc")], WRONG_ANSWER.0);
    // Closing twice does no harm, and some servers say so.
    assert_eq!(events(&[ask(4, &[N(1), S(b"x")]), status(1, 0)]), []);
    // A folder is no file.
    let script = [ask(11, &[N(1), S(b"d")]), handle(1, b"h"), read(2, b"h", 0, 9), data(2, b"abc")];
    assert_eq!(lost(&script, WRONG_ANSWER.0), [event("list", "d", "ok")]);
}

#[test]
fn answers_that_do_not_fit_are_said_and_nothing_is_forgotten() {
    let unasked = "an answer is to no request";
    lost(&[status(1, 0)], unasked);
    let script = [ask(13, &[N(1), S(b"gone")]), status(2, 0)];
    assert_eq!(lost(&script, unasked), [event("remove", "gone", UNREADABLE)]);
    let script = [ask(13, &[N(1), S(b"gone")]), data(1, b"abc")];
    assert_eq!(lost(&script, WRONG_ANSWER.0), [event("remove", "gone", UNREADABLE)]);
    let script = [ask(3, &[N(1), S(b"f"), N(1), N(0)]), status(1, 0)];
    assert_eq!(lost(&script, WRONG_ANSWER.0), [event("open", "f", UNREADABLE)]);

    let unknown = |script: &Script, reason: &str| {
        assert_eq!(lost(script, reason), [SftpEvent { bytes_read: Some(0), sha256_read: None, ..file("f", UNREADABLE) }]);
    };
    let mut script = opened(b"f", 1, b"h");
    script.extend([read(2, b"h", 0, 2), data(2, b"abc")]);
    unknown(&script, WRONG_ANSWER.0);
}

#[test]
fn what_cannot_be_followed_is_said_once_and_then_only_counted() {
    let long = [0, 0x20, 0, 1, 3];
    for side in [User, Pod] {
        let mut observer = SftpObserver::new();
        let events = feed(&mut observer, side, &[&long[..], b"rest"].concat());
        assert_eq!(events, [event(UNREADABLE, "", "a packet is longer than any client or server makes it")]);
        let (script, _) = everything();
        let mut from_user = u64::from(side == User) * 4;
        let mut to_user = 4 - from_user;
        for (side, bytes) in &script {
            *(if *side == User { &mut from_user } else { &mut to_user }) += bytes.len() as u64;
            assert_eq!(feed(&mut observer, *side, bytes), []);
        }
        let counted = SftpEvent { bytes_read: Some(to_user), bytes_written: Some(from_user), ..event("unread", "", UNREADABLE) };
        assert_eq!(observer.end(), [counted]);
        assert_eq!(observer.end(), []);
    }
    for malformed in [vec![0, 0, 0, 0, 13], vec![0, 0, 0, 1, 13], packet(13, &[N(1), N(7)]), packet(6, &[N(1), S(&[0; 257]), L(0), N(0)])] {
        lost(&[(User, malformed)], MALFORMED.0);
    }
    let mut trailing = packet(6, &[N(1), S(b"x"), L(0), S(b"abc")]);
    trailing[3] += 1;
    trailing.push(0);
    lost(&[(User, trailing)], MALFORMED.0);
    // Data of three bytes in a packet of four, and the other way round.
    for (promised, given) in [(3_u8, &b"abcd"[..]), (4, b"abc")] {
        let mut wrong = data(2, given);
        wrong.1[12] = promised;
        let script = [opened(b"f", 1, b"h"), vec![read(2, b"h", 0, 9), wrong]].concat();
        assert_eq!(lost(&script, MALFORMED.0), [SftpEvent { bytes_read: Some(0), ..file("f", UNREADABLE) }]);
    }
    lost(&[ask(3, &[N(1), S(b"f"), N(1), N(0)]), handle(1, &[0; 257])], MALFORMED.0);
    lost(&[(User, packet(21, &[N(1)]))], "a request is of an unknown type");
    lost(&[(Pod, packet(99, &[N(1)]))], "an answer is of an unknown type");
    lost(&[(User, packet(1, &[N(6)])), (Pod, packet(2, &[N(6)]))], "the protocol is not version 3");
}

#[test]
fn requests_and_handles_are_bounded() {
    let mut script: Script = (0..1025).map(|id| ask(13, &[N(id), S(b"f")])).collect();
    assert_eq!(lost(&script, "too many requests are not answered").len(), 1025, "none is forgotten");
    script.truncate(1024);
    script.extend((0..1024).map(|id| status(id, 0)));
    assert_eq!(events(&script).len(), 1024);
    script.truncate(2);
    script.push(ask(15, &[N(0), S(b"d")]));
    assert_eq!(lost(&script, "a request has the number of another that is not answered").len(), 3);

    let mut script: Script = Vec::new();
    for number in 0..=1024_u32 {
        script.extend([ask(3, &[N(1), S(b"f"), N(1), N(0)]), handle(1, &number.to_be_bytes())]);
    }
    let events = lost(&script, "too many files and folders are open");
    assert_eq!(events.first(), Some(&event("open", "f", "ok")), "the one too many");
    assert_eq!(events.len(), 1025);
    let script = [opened(b"f", 1, b"h"), opened(b"g", 1, b"h")].concat();
    assert_eq!(lost(&script, "a handle was given twice").first(), Some(&event("open", "g", "ok")));
}

#[test]
fn paths_are_cut_and_need_not_be_text() {
    let script = [ask(13, &[N(1), S(b"caf\xe9\n")]), status(1, 0), ask(13, &[N(1), S(&vec![0xff; 60_000])]), status(1, 4)];
    let events = events(&script);
    assert_eq!(events[0].path, "caf\u{fffd}\n");
    assert_eq!(events[1].path, "\u{fffd}".repeat(4096 / 3));
    lost(&[ask(13, &[N(1), S(&vec![b'a'; 70_000])])], MALFORMED.0);
}

#[test]
fn as_json_absent_fields_are_left_out() {
    let event = SftpEvent { bytes_read: Some(3), sha256_read: Some(OF_ABC.into()), ..file("/f", "ok") };
    let json = serde_json::to_string(&event).expect("written");
    assert_eq!(json, format!(r#"{{"operation":"file","path":"/f","bytesRead":3,"sha256Read":"{OF_ABC}","status":"ok"}}"#));
}
