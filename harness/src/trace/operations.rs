//! What a kernel sends in each operation of a trace, in one line: small enough for a
//! file that people review, and enough to say which operation is not what it was.

use std::collections::BTreeMap;
use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use super::changes::what;
use crate::results::Sent;

/// How many operations a trace can have, and how many kinds of lines an operation:
/// an honest test has some dozens.
const MOST: usize = 1 << 8;

/// As many hexadecimal digits of a digest are kept: it tells apart what stands side
/// by side, and proves nothing.
const DIGITS: usize = 8;

/// Takes a canonical form in, and passes it on.
pub(super) struct Operations<W> {
    out: W,
    line: Vec<u8>,
    now: String,
    found: BTreeMap<String, (BTreeMap<String, u64>, Sha256)>,
    full: bool,
}

impl<W: Write> Operations<W> {
    pub(super) fn new(out: W) -> Self {
        let (line, now) = (Vec::new(), String::new());
        Operations { out, line, now, found: BTreeMap::new(), full: false }
    }

    /// What it was passed on to, and what each operation in which anything is sent
    /// comes to; nothing if there are more than anybody would read.
    pub(super) fn finish(self) -> (W, Option<BTreeMap<String, Sent>>) {
        let sent = |(op, (events, hash)): (String, (BTreeMap<String, u64>, Sha256))| {
            let digest = format!("{:x}", hash.finalize())[..DIGITS].to_owned();
            (!events.is_empty()).then_some((op, Sent { events, digest }))
        };
        let found = (!self.full).then(|| self.found.into_iter().filter_map(sent).collect());
        (self.out, found)
    }

    /// A whole line, with its end.
    fn line(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        if !text.starts_with(' ') {
            text.split_whitespace().next().unwrap_or_default().clone_into(&mut self.now);
        }
        let room = self.found.len() < MOST || self.found.contains_key(&self.now);
        if room {
            let (events, hash) = self.found.entry(self.now.clone()).or_default();
            hash.update(&self.line);
            let event = what(&text);
            if text.starts_with(' ') && (events.len() < MOST || events.contains_key(&event)) {
                *events.entry(event).or_default() += 1;
            } else if text.starts_with(' ') {
                self.full = true;
            }
        }
        self.full |= !room;
        self.line.clear();
    }
}

impl<W: Write> Write for Operations<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        for part in bytes[..written].split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.line();
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::otherwise;

    const TRACE: &str = "open dmirror0\n  insert dmirror0 everything\nbegin\nto-device \
                         buffer[0..2)\n  MIGRATE buffer[0..1) owner dmirror0\n    callback \
                         dmirror0\n  MIGRATE buffer[1..2) owner NULL\nto-device buffer[2..3)\n  \
                         MIGRATE buffer[2..3) owner dmirror0\n";

    fn sent(text: &str) -> BTreeMap<String, Sent> {
        let mut operations = Operations::new(Vec::new());
        // However it comes.
        text.as_bytes().chunks(7).for_each(|part| operations.write_all(part).expect("memory"));
        let (out, sent) = operations.finish();
        assert_eq!(out, text.as_bytes());
        sent.expect("not many")
    }

    #[test]
    fn each_operation_is_a_line() {
        let told: Vec<String> =
            sent(TRACE).iter().map(|(op, sent)| format!("{op}: {}", sent.words())).collect();
        assert_eq!(
            told,
            ["open: 1 insert", "to-device: 2 MIGRATE, 1 MIGRATE owner NULL, 1 callback dmirror0"]
        );
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        for sent in sent(TRACE).values() {
            assert_eq!(sent.to_string().parse().as_ref(), Ok(sent));
        }
        for wrong in ["", "1 MIGRATE", "MIGRATE; 12345678", "x MIGRATE; 1"] {
            assert!(wrong.parse::<Sent>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_sent_otherwise_is_told() {
        let before = &sent(TRACE)["to-device"];
        let other = |from: &str, to: &str| {
            let change = before.against(&sent(&TRACE.replace(from, to))["to-device"]);
            change.map_or("the same".to_owned(), |(gone, new)| otherwise(&gone, &new))
        };
        assert_eq!(other("MIGRATE", "MIGRATE"), "the same");
        assert_eq!(other("owner NULL", "owner dmirror0"), "MIGRATE owner NULL -> MIGRATE");
        assert_eq!(other("MIGRATE buffer[2..3) owner dmirror0", "CLEAR x"), "MIGRATE -> CLEAR");
        assert_eq!(other("[1..2)", "[0..2)"), "the same events, otherwise");
    }

    #[test]
    fn a_guest_cannot_make_it_grow() {
        let mut operations = Operations::new(io::sink());
        (0..2 * MOST).for_each(|n| writeln!(operations, "op{n}\n  x").expect("nowhere"));
        assert_eq!(operations.finish().1, None);
        let mut operations = Operations::new(io::sink());
        (0..2 * MOST).for_each(|n| writeln!(operations, "  x{n}").expect("nowhere"));
        assert_eq!(operations.finish().1, None);
    }
}
