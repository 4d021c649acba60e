//! What a real kernel wrote, and what must be known to read it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor};
use std::ops::Range;

use hmm_harness::layout::Layout;
use hmm_harness::trace::{About, Formats, Row, Trace, understand};
use hmm_protocol::trace::{Capture, ChunkHeader};
use serde::Deserialize;

use crate::{dir, rows};

/// `captures.json`.
#[derive(Deserialize)]
pub(crate) struct Captures {
    pub(crate) layout: Layout,
    pub(crate) formats: BTreeMap<String, String>,
    captures: BTreeMap<String, OneCapture>,
}

#[derive(Deserialize)]
struct OneCapture {
    tag: u64,
    run: u32,
    capture: Capture,
}

impl Captures {
    pub(crate) fn read() -> Captures {
        serde_json::from_slice(&fs::read(dir().join("captures.json")).unwrap()).unwrap()
    }

    pub(crate) fn formats(&self) -> Formats {
        self.formats_without("")
    }

    /// Those of a kernel that refuses a probe.
    pub(crate) fn formats_without(&self, name: &str) -> Formats {
        let texts = self.formats.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        Formats::parse(texts.filter(|(other, _)| *other != name)).unwrap()
    }
}

/// A capture that something can be done to.
pub(crate) struct Raw {
    pub(crate) known: Captures,
    pub(crate) formats: Formats,
    tag: u64,
    run: u32,
    pub(crate) said: Capture,
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn read(name: &str) -> Raw {
        let mut known = Captures::read();
        let OneCapture { tag, run, capture } = known.captures.remove(name).unwrap();
        let bytes = fs::read(dir().join(format!("{name}.raw"))).unwrap();
        Raw { formats: known.formats(), known, tag, run, said: capture, bytes }
    }

    pub(crate) fn understand_as(&self, bytes: &[u8], said: Option<&Capture>) -> (Trace, Vec<Row>) {
        let Raw { known, formats, tag, run, .. } = self;
        let about = About { tag: *tag, run: *run, formats, layout: &known.layout };
        let mut out = Vec::new();
        let open = || Ok(Cursor::new(bytes));
        let trace = understand(open, about, said, &mut out, io::sink()).unwrap();
        (trace, rows(&String::from_utf8(out).unwrap()))
    }

    /// What there is of it, and how many rows.
    pub(crate) fn count(&self, bytes: &[u8]) -> (Trace, usize) {
        let Raw { known, formats, tag, run, said, .. } = self;
        let about = About { tag: *tag, run: *run, formats, layout: &known.layout };
        let mut out = Vec::new();
        let open = || Ok(Cursor::new(bytes));
        let trace = understand(open, about, Some(said), &mut out, io::sink()).unwrap();
        (trace, out.iter().filter(|byte| **byte == b'\n').count())
    }

    pub(crate) fn understand(&self, bytes: &[u8]) -> (Trace, Vec<Row>) {
        self.understand_as(bytes, Some(&self.said))
    }

    /// Where the chunks are, headers included.
    pub(crate) fn chunks(&self) -> Vec<Range<usize>> {
        let mut chunks = Vec::new();
        let mut at = 0;
        while let Some(header) = ChunkHeader::decode(&self.bytes[at..]) {
            let end = at + ChunkHeader::SIZE + header.length as usize;
            chunks.push(at..end);
            at = end;
        }
        chunks
    }
}
