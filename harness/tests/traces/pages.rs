//! The decoder on pages that a real kernel wrote, and on the same damaged.

use std::ops::Range;

use hmm_protocol::trace::{Capture, ChunkHeader};

use crate::captures::Raw;
use crate::{dir, expect, files};

#[test]
fn what_a_kernel_wrote_is_read_as_it_was() {
    for (name, _) in files("raw") {
        let raw = Raw::read(&name);
        let (trace, rows) = raw.understand(&raw.bytes);
        assert_eq!(trace.info.incomplete, None, "{name}");
        assert_eq!(trace.info.violations, [], "{name}");
        let lines = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n");
        expect(&dir().join(format!("{name}.rows")), &lines.collect::<String>());
    }
}

/// Damages the capture of a test on one processor, and says why it is not whole.
/// What came before the damage must still be there.
fn damaged(damage: impl FnOnce(&mut Raw)) -> String {
    let mut raw = Raw::read("double-map");
    let (_, whole) = raw.understand(&raw.bytes);
    damage(&mut raw);
    let (trace, rows) = raw.understand(&raw.bytes);
    let same = rows.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    // The first chunk is never touched.
    assert!(same > 10, "{same} rows");
    assert!(!trace.info.complete);
    trace.info.incomplete.unwrap()
}

/// Where the page of a chunk says how long its events are.
fn commit(raw: &Raw, chunk: usize) -> Range<usize> {
    let at = raw.chunks()[chunk].start + ChunkHeader::SIZE + 8;
    at..at + 8
}

/// Changes the header of a chunk.
fn header(raw: &mut Raw, chunk: usize, change: impl FnOnce(&mut ChunkHeader)) {
    let at = raw.chunks()[chunk].start;
    let mut header = ChunkHeader::decode(&raw.bytes[at..]).unwrap();
    change(&mut header);
    raw.bytes[at..at + ChunkHeader::SIZE].copy_from_slice(&header.encode());
}

#[test]
fn damage_is_told_as_what_it_is() {
    let torn = damaged(|raw| {
        let last = raw.chunks().pop().unwrap();
        raw.bytes.truncate(last.end - 100);
    });
    assert_eq!(torn, "the last chunk is torn");
    let torn = damaged(|raw| {
        let last = raw.chunks().pop().unwrap();
        raw.bytes.truncate(last.start + 9);
    });
    assert_eq!(torn, "half a chunk at the end");
    let missing = damaged(|raw| drop(raw.bytes.drain(raw.chunks()[2].clone())));
    assert_eq!(missing, "chunk 3 came where chunk 2 was due");
    let missing = damaged(|raw| {
        let last = raw.chunks().pop().unwrap();
        raw.bytes.truncate(last.start);
    });
    assert_eq!(missing, "5 of 6 chunks arrived");
    let swapped = damaged(|raw| {
        let (a, b) = (raw.chunks()[1].clone(), raw.chunks()[2].clone());
        raw.bytes[a.start..b.end].rotate_left(a.len());
    });
    assert_eq!(swapped, "chunk 2 came where chunk 1 was due");
    let twice = damaged(|raw| {
        let again = raw.bytes[raw.chunks()[1].clone()].to_vec();
        raw.bytes.splice(raw.chunks()[2].start..raw.chunks()[2].start, again);
    });
    assert_eq!(twice, "chunk 1 came where chunk 2 was due");
    let other = damaged(|raw| header(raw, 1, |header| header.tag ^= 1));
    assert_eq!(other, "chunk 1 is of another start of the VM");
    let other = damaged(|raw| header(raw, 1, |header| header.run += 1));
    assert_eq!(other, "chunk 1 is of another test");
    let long = damaged(|raw| header(raw, 1, |header| header.length = 1 << 20));
    assert_eq!(long, "chunk 1 is of 1048576 bytes");
    let shifted = damaged(|raw| header(raw, 1, |header| header.length -= 4));
    assert_eq!(shifted, "chunk 2 is of another start of the VM");
    let longer = damaged(|raw| {
        let last = raw.chunks().len() - 1;
        header(raw, last, |header| header.length += 4);
    });
    assert_eq!(longer, "the last chunk is torn");
}

#[test]
fn pages_that_lie_are_told() {
    let missed = damaged(|raw| {
        let at = commit(raw, 1);
        raw.bytes[at.start + 3] |= 0x80;
    });
    assert_eq!(missed, "the kernel says that events are missing");
    for (change, told) in [
        (-12, "a page of 1548 bytes that says it has 1512"),
        (-4, "a page of 1548 bytes that says it has 1520"),
        (4, "an event that is longer than its page"),
        (8, "an event of 0 bytes"),
        (400, "a page of 1548 bytes that says it has 1924"),
        (1 << 40, "a page of 1548 bytes that says it has 1099511629300"),
    ] {
        let lies = damaged(|raw| {
            let at = commit(raw, 1);
            let said = i64::from_le_bytes(raw.bytes[at.clone()].try_into().unwrap());
            raw.bytes[at].copy_from_slice(&(said + change).to_le_bytes());
        });
        assert_eq!(lies, told, "by {change}");
    }
}

/// The page of a chunk.
fn page(raw: &Raw, chunk: usize) -> Range<usize> {
    let chunk = raw.chunks()[chunk].clone();
    chunk.start + ChunkHeader::SIZE..chunk.end
}

#[test]
fn records_that_are_none_are_told() {
    const EVENTS: usize = 16;
    let change = |chunk: usize, at: usize, byte: u8| {
        damaged(|raw| {
            let page = page(raw, chunk);
            raw.bytes[page.start + EVENTS + at] = byte;
        })
    };
    // The first record of the one is an end: a header, and what it is.
    let told = "a record of a kind that the kernel did not describe";
    assert_eq!(change(4, 4, 0xee), told);
    assert_eq!(change(4, 4, 0xcd), "a record of callback_return of 64 bytes");
    assert_eq!(change(4, 4, 0xcc), "a record of callback of 64 bytes");
    // That of the other is a marker: a header, its length, what it is, its text.
    assert_eq!(change(2, 8, 0xee), told);
    assert_eq!(change(2, 24, b'!'), "a marker that is none");
    assert_eq!(change(2, 4, 0), "an event of 0 bytes");
    assert_eq!(change(2, 5, 0xff), "an event that is longer than its page");
}

#[test]
fn padding_hides_no_marker() {
    // A marker of more than 112 bytes has its length where that of padding is.
    let hide = |chunk: usize| {
        let mut raw = Raw::read("file-write");
        let at = page(&raw, chunk).start + 16;
        assert_eq!(raw.bytes[at], 0x20, "a header of a long record, a tick after another");
        raw.bytes[at] = 0x3d;
        raw.understand(&raw.bytes).0.info.incomplete.unwrap()
    };
    assert_eq!(hide(3), "an event was given up");
}

#[test]
fn what_the_kernel_counted_is_held_against_what_came() {
    let raw = Raw::read("double-map");
    let why = |change: &dyn Fn(&mut Capture)| {
        let mut said = raw.said.clone();
        change(&mut said);
        let (trace, rows) = raw.understand_as(&raw.bytes, Some(&said));
        assert_eq!(rows.len(), raw.understand(&raw.bytes).1.len());
        (trace.info.incomplete.unwrap(), trace.info.lost)
    };
    assert_eq!(why(&|said| said.lost = 3), ("3 events found no room".into(), 3));
    assert_eq!(why(&|said| said.missed = 2), ("probes could not run 2 times".into(), 2));
    let both = why(&|said| (said.lost, said.missed) = (u64::MAX, u64::MAX));
    assert_eq!(both.1, u64::MAX);
    let hits = raw.said.hits;
    let saw = format!("{hits} events of {} that the probes saw", hits + 1);
    assert_eq!(why(&|said| said.hits += 1).0, saw);
    let saw = format!("{hits} events of {} that the probes saw", hits - 1);
    assert_eq!(why(&|said| said.hits -= 1).0, saw);
    let kept = raw.said.kept;
    let captured = format!("{kept} events of {} that were captured", kept + 1);
    assert_eq!(why(&|said| said.kept += 1).0, captured);
    assert_eq!(why(&|said| said.chunks += 1).0, "6 of 7 chunks arrived");
    let trouble = why(&|said| said.trouble = Some("the trace port: broken pipe".into()));
    assert_eq!(trouble.0, "the trace port: broken pipe");
    let (trace, _) = raw.understand_as(&raw.bytes, None);
    assert_eq!(trace.info.incomplete.unwrap(), "it ends where the guest's last word did");
}

#[test]
fn what_another_kernel_would_write_is_told() {
    let mut raw = Raw::read("double-map");
    raw.formats = raw.known.formats_without("callback_return");
    let (trace, _) = raw.understand(&raw.bytes);
    let told = "a record of a kind that the kernel did not describe";
    assert_eq!(trace.info.incomplete.as_deref(), Some(told));

    let longer = raw.known.formats["invalidate_end"].replace(
        "\tfield:u64 owner;\toffset:",
        "\tfield:u64 more;\toffset:128;\tsize:8;\tsigned:0;\n\tfield:u64 owner;\toffset:",
    );
    raw.known.formats.insert("invalidate_end".into(), longer);
    raw.formats = raw.known.formats();
    let (trace, _) = raw.understand(&raw.bytes);
    assert_eq!(trace.info.incomplete.as_deref(), Some("a record of invalidate_end of 64 bytes"));

    let without = raw.known.formats["invalidate_start"].replace("field:u64 mm;", "field:u64 of;");
    raw.known.formats.insert("invalidate_start".into(), without);
    raw.formats = raw.known.formats();
    let (trace, _) = raw.understand(&raw.bytes);
    let told = "a record of invalidate_start that lacks a field";
    assert_eq!(trace.info.incomplete.as_deref(), Some(told));
}

/// A header that is destroyed so that there is another number of records must not
/// go unseen: every byte of every header, and every value of it.
#[test]
fn no_header_is_destroyed_unseen() {
    let raw = Raw::read("open-close");
    let (whole, rows) = raw.understand(&raw.bytes);
    assert!(whole.info.complete);
    let mut bytes = raw.bytes.clone();
    let mut tried = 0;
    for chunk in raw.chunks() {
        let page = chunk.start + ChunkHeader::SIZE..chunk.end;
        for at in
            (chunk.start..page.start + 16).chain(headers(&raw.bytes[page.clone()], page.start))
        {
            for bit in 0..8 {
                bytes[at] = raw.bytes[at] ^ 1 << bit;
                let (trace, seen) = raw.count(&bytes);
                assert!(seen == rows.len() || !trace.info.complete, "bit {bit} of byte {at}");
                tried += 1;
            }
            bytes[at] = raw.bytes[at];
        }
    }
    assert!(tried > 3000);
}

/// Where the headers of a page's records are.
fn headers(page: &[u8], base: usize) -> Vec<usize> {
    let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
    let end = 16 + (word(8) & 0x3fff_ffff) as usize;
    let mut found = Vec::new();
    let mut at = 16;
    while at < end {
        let long = word(at) & 0x1f;
        let (header, data) = match long {
            0 => (8, (word(at + 4) as usize - 4).next_multiple_of(4)),
            30 => (8, 0),
            words => (4, words as usize * 4),
        };
        found.extend((at..at + header).map(|at| base + at));
        at += header + data;
    }
    found
}
