//! Writes what a kernel would write, record by record.

use std::collections::BTreeMap;

use hmm_protocol::trace::{CALIBRATION, CALIBRATIONS, ChunkHeader, Marker, Span, Step};

use crate::captures::Captures;

/// Writes records as the kernel of the captures does.
pub(crate) struct Scribe {
    pub(crate) known: Captures,
    /// The numbers of the kinds of records, and where their fields are.
    kinds: BTreeMap<String, (u16, Fields)>,
}

/// Where each field of a record begins, and how long it is.
type Fields = BTreeMap<String, (usize, usize)>;

impl Scribe {
    pub(crate) fn new() -> Scribe {
        let known = Captures::read();
        let field = |line: &str| {
            let (name, place) = line.trim().strip_prefix("field:")?.split_once(';')?;
            let name = name.split('[').next()?.rsplit(' ').next()?;
            let mut numbers = place.split(';').map(|part| part.split(':').nth(1)?.parse().ok());
            Some((name.to_owned(), (numbers.next()??, numbers.next()??)))
        };
        let kind = |text: &String| {
            let id = text.lines().find_map(|line| line.strip_prefix("ID: ")).unwrap();
            (id.parse().unwrap(), text.lines().filter_map(field).collect())
        };
        let kinds = known.formats.iter().map(|(name, text)| (name.clone(), kind(text))).collect();
        Scribe { known, kinds }
    }

    /// A record of a thread. Fields that are not named are 0.
    pub(crate) fn record(&self, kind: &str, tid: u32, values: &[(&str, u64)]) -> Vec<u8> {
        let (id, fields) = &self.kinds[kind];
        let length = fields.values().map(|(offset, size)| offset + size).max().unwrap();
        let mut record = vec![0; length.next_multiple_of(4)];
        record[..2].copy_from_slice(&id.to_le_bytes());
        for (name, value) in values.iter().copied().chain([("common_pid", u64::from(tid))]) {
            let (offset, size) = fields[name];
            record[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        record
    }

    pub(crate) fn marker(&self, tid: u32, text: &str) -> Vec<u8> {
        let mut record = self.record("print", tid, &[]);
        record.extend(text.as_bytes());
        record.extend(b"\n\0");
        record.resize(record.len().next_multiple_of(4), 0);
        record
    }

    pub(crate) fn step(&self, step: Step) -> Vec<u8> {
        let marker = Marker::Step(step);
        self.marker(1, &serde_json::to_string(&marker).unwrap())
    }

    /// One of `range`, `mm`, `sub`, `seq`, of a page.
    pub(crate) fn event(
        &self,
        kind: &str,
        tid: u32,
        event: &str,
        page: u64,
        more: &[(&str, u64)],
    ) -> Vec<u8> {
        let number = self.known.layout.events[event];
        let values = [("start", page), ("end", page + 0x1000), ("event", number), ("flags", 1)];
        self.record(kind, tid, &[&values, more].concat())
    }

    /// A mirror is opened.
    pub(crate) fn mirror(&self, tid: u32, sub: u64, mm: u64) -> Vec<u8> {
        let (length, device) = (!0xfff, self.known.layout.devices_at);
        let of = [("sub", sub), ("mm", mm), ("length", length), ("device", device)];
        self.record("insert", tid, &of)
    }

    /// What every test begins with: a mirror, and the operations that are known.
    pub(crate) fn beginning(&self) -> Vec<Vec<u8>> {
        let mut records = vec![
            self.marker(1, r#"{"mark":"process","tgid":1,"role":"test"}"#),
            self.mirror(1, 8, 0),
            self.record("insert_return", 1, &[]),
        ];
        for (n, (op, event)) in (0..).zip(CALIBRATIONS) {
            records.push(self.step(Step::new(op)));
            records.extend(self.invalidation(event, CALIBRATION, 3 + 2 * n));
        }
        let pages = Span { buffer: "buffer".into(), first: 0, pages: 512 };
        records.push(self.step(Step::new("map").of(pages).at(BUFFER)));
        records
    }

    pub(crate) fn collect(&self, page: u64) -> Vec<u8> {
        self.record("collect", 1, &[("start", page), ("end", page + 0x1000)])
    }

    pub(crate) fn invalidation(&self, event: &str, page: u64, seq: u64) -> [Vec<u8>; 4] {
        [
            self.event("invalidate_start", 1, event, page, &[]),
            self.event("callback", 1, event, page, &[("sub", 8), ("seq", seq)]),
            self.record("callback_return", 1, &[("ret", 1)]),
            self.event("invalidate_end", 1, event, page, &[]),
        ]
    }
}

/// Where the buffer is.
pub(crate) const BUFFER: u64 = 0x10_0000_0000;

/// A chunk with these records.
pub(crate) fn chunk(seq: u64, cpu: u32, time: u64, records: &[Vec<u8>]) -> Vec<u8> {
    let mut events = Vec::new();
    for record in records {
        // One tick after the one before, and the length in a word of its own.
        events.extend((1u32 << 5).to_le_bytes());
        events.extend(u32::try_from(record.len() + 4).unwrap().to_le_bytes());
        events.extend(record);
    }
    let length = u32::try_from(16 + events.len()).unwrap();
    let header = ChunkHeader { tag: 7, run: 1, cpu, seq, length };
    let page = [time.to_le_bytes(), (events.len() as u64).to_le_bytes()].concat();
    [&header.encode()[..], &page, &events].concat()
}
