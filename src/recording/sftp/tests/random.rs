//! Random conversations: garbage, nearly right ones and honest ones.

use super::*;
use crate::recording::sftp::conversation::{MOST_HANDLES, MOST_REQUESTS, Request, State};
use crate::recording::sftp::transfer::PIECE;
use crate::recording::sftp::wire::LONGEST_HEAD;

/// Numbers that look random and are the same each time (xorshift64*, Vigna 2014).
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("small") % below
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.next(256)).expect("a byte")).collect()
    }

    /// A request, of few ids, handles and offsets, so that they meet.
    fn request(&mut self) -> (Side, Vec<u8>) {
        const KINDS: [u8; 20] = [3, 3, 3, 4, 5, 5, 5, 6, 6, 6, 9, 10, 11, 12, 13, 18, 19, 20, 17, 200];
        let id = u32::try_from(self.next(1 << 20)).expect("small");
        let name = [u8::try_from(self.next(4)).expect("small")];
        let (offset, length) = (self.next(5) as u64 * 100, self.next(3) * 100);
        match KINDS[self.next(KINDS.len())] {
            5 => read(id, &name, offset, 200),
            6 => write(id, &name, offset, &self.bytes(length)),
            3 => ask(3, &[N(id), S(b"path"), N(3), N(0)]),
            200 => ask(200, &[N(id), S(b"copy-data"), S(&name), L(0), L(0), S(&name), L(0)]),
            kind => ask(kind, &[N(id), S(&name), S(b"x")]),
        }
    }

    /// An answer to one of the requests, mostly one that fits.
    fn answer(&mut self, state: &State) -> Option<(Side, Vec<u8>)> {
        let (id, request) = state.asked.iter().nth(self.next(state.asked.len().max(1)))?;
        let free: Vec<u8> = (0..4).filter(|name| !state.handles.contains_key(&[*name][..])).collect();
        let code = u32::try_from(self.next(3)).expect("small");
        let length = self.next(3) * 100;
        Some(match (self.next(500), request) {
            (0, _) => handle(*id, b"h"),
            (1, _) => data(*id, &self.bytes(300)),
            (2, _) => status(self.next(9).try_into().expect("small"), code),
            (_, Request::Open(..)) if !free.is_empty() => handle(*id, &free[..1]),
            (3..400, Request::Read { .. }) => data(*id, &self.bytes(length)),
            (_, Request::Read { .. } | Request::Impossible | Request::Open(..)) => status(*id, 1 + code),
            _ => status(*id, code),
        })
    }
}

fn assert_bounded(observer: &SftpObserver) {
    let State { asked, handles, opened, held, .. } = &observer.state;
    assert!(asked.len() <= MOST_REQUESTS && opened.len() <= MOST_HANDLES && handles.len() <= opened.len());
    let early: usize = opened
        .values()
        .flat_map(|opened| [&opened.read, &opened.written])
        .flat_map(|one| one.early.values())
        .map(|data| data.len() + PIECE)
        .sum();
    assert_eq!(early, *held);
    assert!(early <= MOST_EARLY);
    assert!(observer.user.head.capacity() <= 2 * LONGEST_HEAD && observer.pod.head.capacity() <= 2 * LONGEST_HEAD);
}

#[test]
fn garbage_does_no_harm() {
    for seed in 1..=300 {
        let mut random = Random(seed);
        let mut observer = SftpObserver::new();
        for _ in 0..50 {
            let length = random.next(200);
            let mut bytes = random.bytes(length);
            // Mostly lengths that are believed.
            if random.next(4) > 0 {
                bytes.splice(..bytes.len().min(3), [0, 0, 0]);
            }
            let side = if random.next(2) == 0 { User } else { Pod };
            feed(&mut observer, side, &bytes);
            assert_bounded(&observer);
        }
        observer.end();
    }
}

#[test]
fn nearly_right_conversations_stay_bounded_and_give_the_same_in_any_pieces() {
    let (mut files, mut hashes, mut losses) = (0, 0, 0);
    for seed in 1..=500 {
        let mut random = Random(seed);
        let mut observer = SftpObserver::new();
        let mut whole = Vec::new();
        let mut script = Script::new();
        for _ in 0..150 {
            let answer = if random.next(2) == 0 { random.answer(&observer.state) } else { None };
            let (side, mut bytes) = answer.unwrap_or_else(|| random.request());
            // Now and then with a byte changed.
            if random.next(600) == 0 {
                let place = random.next(bytes.len());
                bytes[place] = bytes[place].wrapping_add(1);
            }
            whole.extend(feed(&mut observer, side, &bytes));
            assert_bounded(&observer);
            script.push((side, bytes));
        }
        whole.extend(observer.end());
        files += whole.iter().filter(|event| event.operation == "file" && event.status == "ok").count();
        hashes += whole.iter().filter(|event| event.sha256_read.as_ref().is_some_and(|hash| hash != OF_NOTHING)).count();
        losses += usize::from(whole.iter().any(|event| event.operation == UNREADABLE));
        for most in [1, 7, 100] {
            assert_eq!(play(&script, most), whole, "seed {seed}, pieces of {most}");
        }
    }
    assert!(files > 100 && hashes > 50 && losses > 100 && losses < 400, "worth it? {files} {hashes} {losses}");
}

/// Honest conversations with random sizes, short answers and order: always a hash, always the right one.
#[test]
fn whatever_the_order_of_answers_the_hash_is_that_of_the_file() {
    for seed in 1..=200 {
        let mut random = Random(seed);
        let length = 1 + random.next(5000);
        let content = random.bytes(length);
        let mut script = opened(b"f", 1, b"h");
        let mut waiting: Vec<(u32, usize, usize)> = Vec::new();
        let mut id = 10;
        let mut asked = 0;
        while asked < length || !waiting.is_empty() {
            if asked < length && (waiting.is_empty() || random.next(3) > 0) {
                let size = 1 + random.next(200);
                script.push(read(id, b"h", asked as u64, u32::try_from(size).expect("small")));
                waiting.push((id, asked, size));
                asked += size;
                id += 1;
                continue;
            }
            let (answered, offset, size) = waiting.swap_remove(random.next(waiting.len()));
            if offset >= length {
                script.push(status(answered, 1));
                continue;
            }
            let given = (1 + random.next(size)).min(length - offset);
            script.push(data(answered, &content[offset..offset + given]));
            if given < size {
                script.push(read(id, b"h", (offset + given) as u64, u32::try_from(size - given).expect("small")));
                waiting.push((id, offset + given, size - given));
                id += 1;
            }
        }
        script.extend(closed(b"h"));
        let expected = SftpEvent { bytes_read: Some(length as u64), sha256_read: Some(hash(&content)), ..file("f", "ok") };
        assert_eq!(play(&script, 1 + random.next(300)), [expected], "seed {seed}");
    }
}
