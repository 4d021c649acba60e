//! What is too much: many events, and guests that would have the harness grow.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use hmm_harness::trace::{About, understand};
use hmm_protocol::trace::{Capture, Span, Step};

use crate::scribe::{BUFFER, Scribe, chunk};

/// A trace that is made while it is read: as many invalidations as one likes, on
/// two processors.
struct Endless<'a> {
    scribe: &'a Scribe,
    chunks: u64,
    beginning: Vec<u8>,
    /// How long each chunk is but the first.
    length: u64,
    at: u64,
    /// The chunk that is being read.
    current: (u64, Vec<u8>),
}

const EACH: u64 = 10;

impl<'a> Endless<'a> {
    fn new(scribe: &'a Scribe, chunks: u64) -> Self {
        let beginning = chunk(0, 0, 0, &scribe.beginning());
        let length = Endless::chunk(scribe, 1).len() as u64;
        Endless { scribe, chunks, beginning, length, at: 0, current: (0, Vec::new()) }
    }

    fn chunk(scribe: &Scribe, n: u64) -> Vec<u8> {
        let invalidations = (n * EACH..(n + 1) * EACH)
            .flat_map(|i| scribe.invalidation("CLEAR", BUFFER + i % 512 * 0x1000, 9 + 2 * i));
        chunk(n, u32::try_from(n % 2).unwrap(), n * 1000, &invalidations.collect::<Vec<_>>())
    }

    fn said(&self) -> Capture {
        let events = (self.chunks - 1) * EACH * 4;
        let (hits, kept) = (14 + events, self.scribe.beginning().len() as u64 + events);
        Capture { chunks: self.chunks, hits, kept, ..Capture::default() }
    }

    fn whole(&self) -> u64 {
        self.beginning.len() as u64 + (self.chunks - 1) * self.length
    }
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.whole() {
            return Ok(0);
        }
        let rest = match self.at.checked_sub(self.beginning.len() as u64) {
            None => &self.beginning[usize::try_from(self.at).unwrap()..],
            Some(behind) => {
                let n = 1 + behind / self.length;
                if self.current.0 != n {
                    self.current = (n, Endless::chunk(self.scribe, n));
                }
                &self.current.1[usize::try_from(behind % self.length).unwrap()..]
            }
        };
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Endless<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.at.saturating_add_signed(by),
            SeekFrom::End(by) => self.whole().saturating_add_signed(by),
        };
        Ok(self.at)
    }
}

/// Understands as many events.
fn understand_many(events: u64) {
    let scribe = Scribe::new();
    let formats = scribe.known.formats();
    let chunks = 1 + events.div_ceil(4 * EACH);
    let about = About { tag: 7, run: 1, formats: &formats, layout: &scribe.known.layout };
    let said = Endless::new(&scribe, chunks).said();
    let open = || Ok(io::BufReader::with_capacity(64 << 10, Endless::new(&scribe, chunks)));
    let trace = understand(open, about, Some(&said), io::sink(), io::sink()).unwrap();
    assert_eq!(trace.info.incomplete, None);
    assert_eq!(trace.info.violations, []);
    assert_eq!(trace.info.captured, said.hits);
}

#[test]
fn many_events_are_understood() {
    understand_many(100_000);
}

/// What is understood of a hostile guest's records.
fn hostile(records: impl FnOnce(&Scribe) -> Vec<Vec<u8>>) -> String {
    let scribe = Scribe::new();
    let formats = scribe.known.formats();
    let records = [scribe.beginning(), records(&scribe)].concat();
    let mut bytes = Vec::new();
    for (n, records) in records.chunks(30).enumerate() {
        bytes.extend(chunk(n as u64, 0, 1000 * n as u64, records));
    }
    let hits = records.iter().filter(|record| record[..2] != [5, 0]).count() as u64;
    let (chunks, kept) = (records.len().div_ceil(30) as u64, records.len() as u64);
    let said = Capture { chunks, hits, kept, ..Capture::default() };
    let about = About { tag: 7, run: 1, formats: &formats, layout: &scribe.known.layout };
    let open = || Ok(Cursor::new(&bytes));
    let trace = understand(open, about, Some(&said), io::sink(), io::sink()).unwrap();
    trace.info.incomplete.unwrap_or_default()
}

#[test]
fn a_guest_can_not_grow_without_end() {
    const MANY: u64 = 20_000;
    let many = |record: &dyn Fn(u64) -> Vec<u8>| (0..MANY).map(record).collect::<Vec<_>>();
    let start = |scribe: &Scribe, tid, more: &[(&str, u64)]| {
        scribe.event("invalidate_start", tid, "CLEAR", BUFFER, more)
    };
    let told = hostile(|scribe| many(&|_| start(scribe, 1, &[])));
    assert_eq!(told, "more nested invalidations than a test can have");
    let told = hostile(|scribe| many(&|n| start(scribe, 100 + n as u32, &[])));
    assert_eq!(told, "more threads than a test can have");
    let told = hostile(|scribe| many(&|n| start(scribe, 1, &[("mm", n)])));
    assert_eq!(told, "more address spaces than a test can have");
    let told = hostile(|scribe| many(&|n| start(scribe, 1, &[("range", n)])));
    assert_eq!(told, "more range objects than a test can have");
    let told =
        hostile(|scribe| many(&|n| scribe.record("insert", 1, &[("sub", n), ("length", 1)])));
    assert_eq!(told, "more subscriptions than a test can have");
    let told = hostile(|scribe| many(&|n| scribe.record("remove", 100 + n as u32, &[("sub", 8)])));
    assert_eq!(told, "more threads than a test can have");
    let told = hostile(|scribe| {
        many(&|n| {
            let pages = Span { buffer: "page".into(), first: 0, pages: 1 };
            scribe.step(Step::new("map").of(pages).at(n << 16))
        })
    });
    assert_eq!(told, "more buffers than a test can have");
    let told = hostile(|scribe| {
        let role = "x".repeat(100);
        many(&|_| scribe.marker(1, &format!(r#"{{"mark":"process","tgid":1,"role":"{role}"}}"#)))
    });
    assert_eq!(told, "a marker that is none");
    let told = hostile(|scribe| {
        let text = r#"{"mark":"process","tgid":1,"role":"x"}"#;
        many(&|n| scribe.marker(100 + n as u32, text))
    });
    assert_eq!(told, "more threads than a test can have");
    let told = hostile(|scribe| {
        let of = Span { buffer: "buffer".into(), first: u64::MAX, pages: 1 };
        vec![scribe.step(Step::new("cpu-read").of(of))]
    });
    assert_eq!(told, "a marker that is none");
    // Mirrors that nobody closes, in one address space after the other.
    let told = hostile(|scribe| {
        let one = |n| {
            let mm = ("mm", n);
            let insert = scribe.record("insert", 1, &[("sub", 9), ("length", 1), mm]);
            [insert, scribe.record("release", 1, &[mm])]
        };
        (0..MANY / 2).flat_map(one).collect()
    });
    assert_eq!(told, "more address spaces than a test can have");
    // Callbacks that never return, and many that do.
    let callback =
        |scribe: &Scribe| scribe.event("callback", 1, "RELEASE", BUFFER, &[("sub", 8), ("seq", 9)]);
    let told = hostile(|scribe| many(&|_| callback(scribe)));
    assert_eq!(told, "more events at a time than can be put in order");
    let told = hostile(|scribe| {
        let returned = scribe.record("callback_return", 1, &[("ret", 1)]);
        (0..MANY).flat_map(|_| [callback(scribe), returned.clone()]).collect()
    });
    assert_eq!(told, "more events at a time than can be put in order");
    let told = hostile(|scribe| {
        let collect = scribe.collect(BUFFER);
        let step = scribe.step(Step::new("close"));
        [vec![step], (0..140_000).map(|_| collect.clone()).collect()].concat()
    });
    assert_eq!(told, "more lines of a step than can be put in order");
}
