//! What is dropped, what passes, and that no stream of bytes gets anything else out.

use super::*;

fn neutral(bytes: &[u8]) -> Vec<u8> {
    let mut neutraliser = Neutraliser::default();
    let mut out = neutraliser.pass(bytes);
    out.extend(neutraliser.end());
    out
}

/// Whole, cut at each place, and byte by byte: it must not matter.
fn check(input: &[u8], expected: &[u8]) {
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
    assert_eq!(shown(&neutral(input)), shown(expected), "of {}", shown(input));
    for cut in 0..=input.len() {
        let mut neutraliser = Neutraliser::default();
        let mut out = neutraliser.pass(&input[..cut]);
        out.extend(neutraliser.pass(&input[cut..]));
        out.extend(neutraliser.end());
        assert_eq!(shown(&out), shown(expected), "of {} cut at {cut}", shown(input));
    }
    let mut neutraliser = Neutraliser::default();
    let mut out: Vec<u8> = input.chunks(1).flat_map(|byte| neutraliser.pass(byte)).collect();
    out.extend(neutraliser.end());
    assert_eq!(shown(&out), shown(expected), "of {} byte by byte", shown(input));
    assert_eq!(shown(&neutral(&out)), shown(&out), "twice: {}", shown(input));
}

const DROPPED: &[&[u8]] = &[
    // OSC: titles, clipboard, links, colours, folder, notifications, marks, pictures.
    b"\x1b]0;title\x07",
    b"\x1b]2;title\x1b\\",
    b"\x1b]52;c;aGVsbG8=\x07",
    b"\x1b]52;c;?\x1b\\",
    b"\x1b]8;;http://example.org\x1b\\",
    b"\x1b]4;1;?\x07",
    b"\x1b]10;?\x07",
    b"\x1b]11;?\x1b\\",
    b"\x1b]7;file://host/\x07",
    b"\x1b]9;ping\x07",
    b"\x1b]133;A\x07",
    b"\x1b]777;notify;a;b\x07",
    b"\x1b]1337;File=:AAAA\x07",
    b"\x1b]0;gr\xc3\xbc\xc3\x9c\xe2\x9c\x9bn\x07",
    b"\x1b]\x07",
    // Other strings.
    b"\x1bP$qm\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1bPq#0;2;0;0;0\x1b\\",
    b"\x1b_Gf=24;AAAA\x1b\\",
    b"\x1b^pm\x1b\\",
    b"\x1bXsos\x07sos\x1b\\",
    b"\x1bktitle\x1b\\",
    b"\x1bPtmux;\x1b\x1b]52;c;aGVsbG8=\x07\x1b\\",
    // Questions.
    b"\x05",
    b"\x1bZ",
    b"\x1b[c",
    b"\x1b[0c",
    b"\x1b[>c",
    b"\x1b[>0c",
    b"\x1b[=c",
    b"\x1b[5n",
    b"\x1b[6n",
    b"\x1b[?6n",
    b"\x1b[?15n",
    b"\x1b[?25$p",
    b"\x1b[4$p",
    b"\x1b[>q",
    b"\x1b[>0q",
    b"\x1b[x",
    b"\x1b[1x",
    b"\x1b[?u",
    b"\x1b[18t",
    b"\x1b[21t",
    b"\x1b[8;1;1t",
    b"\x1b[1;1;1;1;1;1*y",
    b"\x1b[?4m",
    b"\x1b[?1;1;0S",
    b"\x1b[1;2;3;4;5T",
    b"\x1b[1$w",
    b"\x1b[&u",
    b"\x1b[1+p",
    // The keyboard, the mouse, the printer, lamps, the window, the encoding, scrollback.
    b"\x1b[>1u",
    b"\x1b[<u",
    b"\x1b[=1u",
    b"\x1b[1u",
    b"\x1b[>4;2m",
    b"\x1b[>4n",
    b"\x1b[2h",
    b"\x1b[12l",
    b"\x1b=",
    b"\x1b>",
    b"\x1b[?9h",
    b"\x1b[?1000h",
    b"\x1b[?1002;1006h",
    b"\x1b[?1003l",
    b"\x1b[?1004h",
    b"\x1b[?1005h",
    b"\x1b[?1015h",
    b"\x1b[?1016h",
    b"\x1b[?2004h",
    b"\x1b[?3h",
    b"\x1b[?69h",
    b"\x1b[1;2s",
    b"\x1b[?1s",
    b"\x1b[?1r",
    b"\x1b[i",
    b"\x1b[5i",
    b"\x1b[?4i",
    b"\x1b[1q",
    b"\x1b[3J",
    b"\x1b%@",
    b"\x1b%G",
    b"\x1b F",
    b"\x1b G",
    b"\x1b[62;1\"p",
    b"\x1b\\",
    b"\x1bl",
    b"\x1b$B",
    b"\x1b$(B",
    b"\x1b#9",
    // C1 as bytes and as characters.
    b"\x9b6n",
    b"\x9bc",
    b"\x9d0;title\x07",
    b"\x9d0;title\x9c",
    b"\x90$qm\x9c",
    b"\x98x\x9c",
    b"\x9ex\x9c",
    b"\x9fx\x1b\\",
    b"\x9a",
    b"\x85",
    b"\xc2\x9b6n",
    b"\xc2\x9d52;c;?\xc2\x9c",
    b"\xc2\x90$qm\xc2\x9c",
    b"\xc2\x9fx\xc2\x9c",
    b"\xc2\x9a",
    b"\xc2\x84",
    b"\x80\x81\x9c",
    // Noise, and what never ends.
    b"\x00\x07\x11\x13\x7f",
    b"\x1b",
    b"\x1b[",
    b"\x1b[31",
    b"\x1b]0;no end",
    b"\x1bP no end",
    b"\x1b(",
    b"\x9d",
    b"\x1bk",
    // Malformed: parameters after intermediates, prefixes in the middle, numbers out of all proportion.
    b"\x1b[ 1q",
    b"\x1b[1?h",
    b"\x1b[1>c",
    b"\x1b[??25h",
    b"\x1b[999999C",
    b"\x1b[10000b",
    b"\x1b[1:2H",
    b"\x1b[!!p",
];

#[test]
fn what_acts_on_the_terminal_is_dropped() {
    for input in DROPPED {
        check(input, b"");
        // The same between text, where it does have an end.
        if input.ends_with(b"\x07") || input.ends_with(b"\\") || input.ends_with(b"\x9c") {
            check(&[b"a", *input, b"b"].concat(), b"ab");
        }
    }
}

#[test]
fn what_draws_passes_unchanged() {
    let passed: &[&[u8]] = &[
        b"plain text\r\n\tand\x08\x0b\x0c\x0e\x0f",
        "gr\u{fc}n \u{dc} \u{271b} \u{2500}\u{251b} \u{1f600} \u{a0}".as_bytes(),
        b"\x1b[m\x1b[0m\x1b[1;31m\x1b[38;5;196m\x1b[48;2;1;2;3m\x1b[4:3;58:2::255:128:0m",
        b"\x1b[;;m",
        b"\x1b[H\x1b[12;40H\x1b[f\x1b[2A\x1b[B\x1b[3C\x1b[4D\x1b[E\x1b[F\x1b[7G\x1b[2d\x1b[2e\x1b[2a\x1b[2`\x1b[I\x1b[Z",
        b"\x1b[J\x1b[0J\x1b[1J\x1b[2J\x1b[K\x1b[1K\x1b[2K\x1b[?J\x1b[?2K\x1b[5X",
        b"\x1b[2@\x1b[2P\x1b[2L\x1b[2M\x1b[3b\x1b[2S\x1b[2T",
        b"\x1b[r\x1b[2;20r\x1b7\x1b8\x1b[s\x1b[u\x1bD\x1bE\x1bM\x1bH\x1b[g\x1b[3g\x1b6\x1b9",
        b"\x1b[4h\x1b[4l\x1b[20h\x1b[4;20l",
        b"\x1b[?1h\x1b[?5h\x1b[?6h\x1b[?7l\x1b[?12h\x1b[?25l\x1b[?47h\x1b[?1047h\x1b[?1048h\x1b[?1049h\x1b[?1049;25l",
        b"\x1b(B\x1b(0lqk\x1b)0\x1b*B\x1b+A\x1bnx\x1bNx\x1bOx\x1b|\x1b}\x1b~",
        b"\x1b#8\x1b#3\x1b#6\x1b[!p\x1b[2 q\x1b[ q\x1b[1 @\x1b[1 A\x1b['}\x1b[2'~\x1b[1\"q",
        // No UTF-8, and no controls either.
        b"\xff\xfe\xa0\xc0\xc1\xf5",
        b"caf\xe9 ",
        b"\xe2\xe2\xe2\x9c\x9b",
        RESET,
    ];
    for input in passed {
        check(input, input);
    }
}

#[test]
fn what_is_mixed_is_taken_apart() {
    let mixed: &[(&[u8], &[u8])] = &[
        (b"\x1b[?1049;1006;25h", b"\x1b[?1049;25h"),
        (b"\x1b[?0025h", b"\x1b[?25h"),
        (b"\x1bc", RESET),
        // The 8-bit form of what is allowed comes out in 7 bits.
        (b"\x9b1m", b"\x1b[1m"),
        (b"\xc2\x9b1m", b"\x1b[1m"),
        // Controls within a sequence act before it.
        (b"\x1b[3\r1\nm", b"\r\n\x1b[31m"),
        (b"\x1b\r[1m", b"\r\x1b[1m"),
        // Aborted and begun anew.
        (b"\x1b[31\x18m\x1b[31\x1am", b"mm"),
        (b"\x1b[31\x1b[1m", b"\x1b[1m"),
        (b"\x1b]0;title\x18text", b"text"),
        (b"\x1b]0;title\x1b[1mtext", b"\x1b[1mtext"),
        (b"\x1b]0;\x1b]52;c;x\x07text", b"text"),
        (b"\x1b\x18]52;c;x\x07", b"]52;c;x"),
        (b"\x1b[1\xc3\xa9m", b"\xc3\xa9m"),
        (b"\x1b\xc3]x\x07", b"\xc3]x"),
        // A title of screen's has one line.
        (b"\x1bktitle\r\ntext", b"\r\ntext"),
        (b"\x1bkt\xc3\xbctle\xc2\x9ctext", b"text"),
        // Characters that break off lose what would be a control alone, and none comes to be by leaving something out.
        (b"\xe2\x9b", b"\xe2"),
        (b"\xe2\x9b6n", b"\xe26n"),
        (b"\xc2\x1b]0;x\x07\x9b6n", b"\xc2"),
        (b"\xc2\x1b[6n\x9d0;x\x07", b"\xc2"),
        (b"\xe2\x1b[c\x9c\x9b6n", b"\xe2"),
        (b"\xc2\x05\x9b1m", b"\xc2\x1b[1m"),
        // Overlong forms of ESC and of U+009B.
        (b"\xc0\x9b6n", b"\xc0"),
        (b"\xe0\x80\x9b6n", b"\xe0"),
        (b"\xe0\x82\x9b6n", b"\xe0"),
        (b"\xf0\x80\x80\x9b6n", b"\xf0"),
        (b"\xed\xa0\x80", b"\xed\xa0"),
    ];
    for (input, expected) in mixed {
        check(input, expected);
    }
}

#[test]
fn a_lead_byte_alone_passes_at_the_end() {
    check(b"\xc2", b"\xc2");
    check(b"\xf0\xa0", b"\xf0\xa0");
}

#[test]
fn sequences_have_a_limit_and_strings_need_no_memory() {
    let fits = [b"\x1b[".as_slice(), &b"1;".repeat(LONGEST / 2), b"m"].concat();
    check(&fits, &fits);
    check(&[b"\x1b[".as_slice(), &b"1;".repeat(LONGEST / 2), b"1mx"].concat(), b"x");
    let mut neutraliser = Neutraliser::default();
    for (begin, more) in [("\x1b[", " ;1"), ("\x1b]", " text"), ("\x1bP", " text"), ("\x1bk", " text"), ("\x1b(", "((")] {
        assert_eq!(neutraliser.pass(begin.as_bytes()), b"");
        for _ in 0..1000 {
            assert_eq!(neutraliser.pass(&more.repeat(1000).into_bytes()), b"", "after {begin:?}");
            assert!(neutraliser.held.capacity() < 256 && neutraliser.character.bytes.capacity() < 64);
        }
        neutraliser.end();
    }
}

#[test]
fn the_screen_in_use_is_known() {
    let mut neutraliser = Neutraliser::default();
    for (input, alternate) in [
        ("\x1b[?25;1049h", true),
        ("\x1b[?1048l", true),
        ("\x1b[?1049l", false),
        ("\x1b[?47h", true),
        ("\x1bc", false),
        ("\x1b[?1047h", true),
    ] {
        neutraliser.pass(input.as_bytes());
        assert_eq!(neutraliser.is_alternate(), alternate, "after {input:?}");
    }
    neutraliser.end();
    assert!(!neutraliser.is_alternate());
}

/// Xorshift, 64 bits.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("small")
    }

    fn stream(&mut self) -> Vec<u8> {
        const PIECES: &[&[u8]] = &[
            b"\x1b",
            b"\x1b[",
            b"\x1b]",
            b"\x1bP",
            b"\x1b_",
            b"\x1b^",
            b"\x1bX",
            b"\x1bk",
            b"\x1b\\",
            b"\x07",
            b"\x18",
            b"\x05",
            b"\x9b",
            b"\x9d",
            b"\x9c",
            b"\x90",
            b"\xc2",
            b"\xe2",
            b"\xe0",
            b"\xed",
            b"\xf0",
            b"\xf4",
            b"\x80",
            b"\xa0",
            b"\xbf",
            b"\xc2\x9b",
            b"\xc2\x9c",
            b"\xc3\xbc",
            b"\xe2\x9c\x9b",
            b"?",
            b">",
            b"=",
            b";",
            b"1",
            b"25",
            b"1049",
            b"1006",
            b"$",
            b" ",
            b"!",
            b"(",
            b"#",
            b"h",
            b"l",
            b"m",
            b"n",
            b"c",
            b"p",
            b"q",
            b"t",
            b"u",
            b"x",
            b"H",
            b"J",
            b"i",
            b"\r",
            b"\n",
            b"52;c;?",
            b"text",
        ];
        let mut stream = Vec::new();
        for _ in 0..self.below(40) {
            match self.below(8) {
                0 => stream.push(u8::try_from(self.below(256)).expect("a byte")),
                _ => stream.extend_from_slice(PIECES[self.below(PIECES.len())]),
            }
        }
        stream
    }
}

/// Reads the output with eyes of its own: no introducer of a string, no question, no C1.
fn assert_harmless(out: &[u8], seed: u64) {
    let shown = out.escape_ascii();
    for (at, byte) in out.iter().enumerate() {
        assert!(!matches!(byte, 0x00..=0x07 | 0x10..=0x1a | 0x1c..=0x1f | 0x7f), "a control in {shown}, seed {seed}");
        if *byte != 0x1b {
            continue;
        }
        let next = *out.get(at + 1).expect("something after ESC");
        assert!(!b"]P_^XkZc\\%=> \x1b".contains(&next), "ESC {next:#x} in {shown}, seed {seed}");
        if next == b'[' {
            let rest = &out[at + 2..];
            let end = rest.iter().position(|byte| (0x40..0x7f).contains(byte)).expect("a last byte");
            let (held, last) = (&rest[..end], rest[end]);
            assert!(held.iter().all(|byte| (0x20..0x40).contains(byte)), "a broken sequence in {shown}, seed {seed}");
            assert!(!held.iter().any(|byte| b"<=>$*&+".contains(byte)), "a query in {shown}, seed {seed}");
            assert!(!b"cnxtivwy".contains(&last), "a last byte in {shown}, seed {seed}");
            assert!(last != b'u' || held.is_empty(), "u with parameters in {shown}, seed {seed}");
            assert!(!b"pq".contains(&last) || held.iter().any(|byte| b"! \"".contains(byte)), "p or q in {shown}, seed {seed}");
        }
    }
    for chunk in out.utf8_chunks() {
        assert!(!chunk.valid().contains(|character| ('\u{80}'..='\u{9f}').contains(&character)), "C1 in {shown}, seed {seed}");
        assert!(!chunk.invalid().iter().any(|byte| matches!(byte, 0x80..=0x9f)), "a C1 byte in {shown}, seed {seed}");
    }
}

#[test]
fn nothing_harmful_ever_comes_out() {
    for seed in 1..=60_000_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input = random.stream();
        let out = neutral(&input);
        assert_harmless(&out, seed);
        assert_eq!(neutral(&out).escape_ascii().to_string(), out.escape_ascii().to_string(), "twice, seed {seed}");
        let cut = random.below(input.len() + 1);
        let mut neutraliser = Neutraliser::default();
        let mut pieces = neutraliser.pass(&input[..cut]);
        pieces.extend(neutraliser.pass(&input[cut..]));
        pieces.extend(neutraliser.end());
        assert_eq!(pieces, out, "cut at {cut}, seed {seed}");
    }
}
