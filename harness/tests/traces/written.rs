//! The decoder and the rules on what a kernel could write and the captured one did
//! not.

use std::io::{self, Cursor};

use hmm_harness::results::Violation;
use hmm_harness::trace::{About, Row, understand};

use crate::captures::Captures;
use crate::rows;
use crate::scribe::{BUFFER, Scribe, chunk};

/// The rows of records behind the usual beginning, and the rules that they break in
/// a guest whose kernel refuses a probe.
fn understood(
    refused: &str,
    records: impl FnOnce(&Scribe) -> Vec<Vec<u8>>,
) -> (Vec<Row>, Vec<Violation>) {
    understood_as(|known| drop(known.formats.remove(refused)), records)
}

/// The same, in a guest whose kernel describes its records otherwise.
fn understood_as(
    change: impl FnOnce(&mut Captures),
    records: impl FnOnce(&Scribe) -> Vec<Vec<u8>>,
) -> (Vec<Row>, Vec<Violation>) {
    let mut scribe = Scribe::new();
    let records = [scribe.beginning(), records(&scribe)].concat();
    change(&mut scribe.known);
    let formats = scribe.known.formats();
    let bytes = chunk(0, 0, 0, &records);
    let about = About { tag: 7, run: 1, formats: &formats, layout: &scribe.known.layout };
    let mut out = Vec::new();
    let open = || Ok(Cursor::new(&bytes));
    let trace = understand(open, about, None, &mut out, io::sink()).unwrap();
    (rows(&String::from_utf8(out).unwrap()), trace.info.violations)
}

fn rules_of(violations: &[Violation]) -> Vec<&str> {
    violations.iter().map(|violation| violation.rule.as_str()).collect()
}

#[test]
fn an_address_space_that_is_torn_down_gives_its_address_to_another() {
    let (rows, violations) = understood("", |scribe| {
        let life = |sub: u64, seq: u64| {
            let of = [("mm", 5), ("sub", sub), ("seq", seq)];
            let mm = &of[..1];
            vec![
                scribe.mirror(2, sub, 5),
                scribe.record("insert_return", 2, &[]),
                scribe.event("invalidate_start", 2, "CLEAR", BUFFER, mm),
                scribe.event("callback", 2, "CLEAR", BUFFER, &of),
                scribe.record("callback_return", 2, &[("ret", 1)]),
                scribe.event("invalidate_end", 2, "CLEAR", BUFFER, mm),
                scribe.record("release", 2, mm),
                scribe.event("invalidate_start", 2, "UNMAP", BUFFER, mm),
                scribe.event(
                    "callback",
                    2,
                    "UNMAP",
                    BUFFER,
                    &[mm, &[("sub", sub), ("seq", seq + 2)]].concat(),
                ),
                scribe.record("callback_return", 2, &[("ret", 1)]),
                scribe.event("invalidate_end", 2, "UNMAP", BUFFER, mm),
                scribe.record("remove", 2, &[("sub", sub)]),
                scribe.record("remove_return", 2, &[]),
            ]
        };
        [life(9, 41), life(10, 3)].concat()
    });
    assert_eq!(violations, []);
    let mms: Vec<&str> = rows.iter().filter_map(|row| row.mm.as_deref()).collect();
    let (first, second) = mms.split_at(mms.iter().position(|mm| *mm == "mm2").unwrap());
    assert!(first.ends_with(&["mm1"; 8]) && second == ["mm2"; 8], "{mms:?}");
}

#[test]
fn nobody_must_be_seen_called_whose_probe_is_refused() {
    let quiet = |scribe: &Scribe| {
        vec![
            scribe.event("invalidate_start", 1, "CLEAR", BUFFER, &[]),
            scribe.event("invalidate_end", 1, "CLEAR", BUFFER, &[]),
        ]
    };
    let (_, violations) = understood("", quiet);
    assert_eq!(rules_of(&violations), ["callbacks"]);
    // It may have been closed.
    let (_, violations) = understood("remove", quiet);
    assert_eq!(violations, []);

    let snapshot = |scribe: &Scribe| {
        // From the mirror of the beginning to the whole that it is a part of.
        let layout = &scribe.known.layout;
        let mirror =
            8u64.wrapping_add_signed(layout.device_of_mirror - layout.device_of_snapshot.1);
        let of = [("sub", 9), ("start", BUFFER), ("length", 0x1000), ("mirror", mirror)];
        let begun =
            [scribe.record("insert", 1, &of), scribe.record("insert_return", 1, &[])].to_vec();
        [begun, scribe.invalidation("CLEAR", BUFFER, 9).to_vec()].concat()
    };
    let (rows, violations) = understood("", snapshot);
    assert!(rows.iter().any(|row| row.sub.as_deref() == Some("dmirror0.snapshot")));
    assert_eq!(rules_of(&violations), ["callbacks"]);
    let (_, violations) = understood("snapshot_callback", snapshot);
    assert_eq!(violations, []);
}

#[test]
fn a_subscription_to_the_end_of_all_addresses_has_an_end() {
    let (rows, _) = understood("", |scribe| {
        let last = u64::MAX - 0xfff;
        vec![scribe.record("insert", 1, &[("sub", 9), ("start", last), ("length", 0x1000)])]
    });
    assert_eq!(rows.last().unwrap().addresses(), Some((u64::MAX - 0xfff, u64::MAX)));
}

#[test]
fn an_owner_is_asked_for_where_there_can_be_one() {
    let migrate = |scribe: &Scribe, owner: u64| {
        let device = scribe.known.layout.devices_at;
        let args = [("start", BUFFER), ("end", BUFFER + 0x1000), ("owner", device)];
        let [mut start, call, back, mut end] = scribe.invalidation("MIGRATE", BUFFER, 9);
        for (record, kind) in [(&mut start, "invalidate_start"), (&mut end, "invalidate_end")] {
            *record = scribe.event(kind, 1, "MIGRATE", BUFFER, &[("owner", owner)]);
        }
        vec![scribe.record("migrate_setup", 1, &args), start, call, back, end]
    };
    let nameless = |known: &mut Captures, kinds: &[&str]| {
        for kind in kinds {
            let text = known.formats[*kind].replace("u64 owner;", "u64 other;");
            known.formats.insert((*kind).to_owned(), text);
        }
    };
    let (_, violations) = understood("", |scribe| migrate(scribe, 0));
    assert_eq!(rules_of(&violations), ["owner"]);
    let without = ["invalidate_start", "callback", "invalidate_end"];
    let (_, violations) =
        understood_as(|known| nameless(known, &without), |scribe| migrate(scribe, 0));
    assert_eq!(violations, []);
    let own = |scribe: &Scribe| migrate(scribe, scribe.known.layout.devices_at);
    let (_, violations) = understood_as(|known| nameless(known, &["migrate_setup"]), own);
    assert_eq!(violations, [], "nobody knows what it was given");
}
