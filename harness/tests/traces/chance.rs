//! What nobody should send: bytes and rows of which nothing can be relied on.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hmm_harness::trace::{Address, Probe, Row};
use hmm_protocol::trace::{CALIBRATION, Span, Step};
use proptest::prelude::*;

use crate::captures::Raw;
use crate::{canonical, files, judged, oddities};

/// Something done to bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Again(prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (at(), 1usize..64).prop_map(|(at, n)| Change::Cut(at, n)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(at, b)| Change::Insert(at, b)),
        1 => (at(), 1usize..200).prop_map(|(at, n)| Change::Again(at, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match change {
        Change::Set(at, byte) => bytes[at.index(len)] = *byte,
        Change::Cut(at, n) => {
            let at = at.index(len);
            bytes.drain(at..len.min(at + n));
        }
        Change::Insert(at, more) => {
            let at = at.index(len);
            bytes.splice(at..at, more.iter().copied());
        }
        Change::Again(at, n) => {
            let at = at.index(len);
            let more = bytes[at..len.min(at + n)].to_vec();
            bytes.splice(at..at, more);
        }
    }
}

/// Rows of which nothing can be relied on.
fn any_row() -> impl Strategy<Value = Row> {
    let address = || {
        prop_oneof![
            3 => (0u64..24).prop_map(|page| 0x10_0000_0000 + page * 0x1000),
            1 => Just(0),
            1 => Just(CALIBRATION),
            1 => Just(u64::MAX),
            1 => any::<u64>(),
        ]
    };
    let of = |names: &'static [&'static str]| {
        prop::option::weighted(0.8, prop::sample::select(names).prop_map(str::to_owned))
    };
    let step = (
        prop::sample::select(
            &["map", "close", "exit", "release", "give-up", "calibrate-unmap", "fork"][..],
        ),
        prop::option::of(address()),
        prop::option::of(prop_oneof![0u64..32, Just(u64::MAX)]),
    )
        .prop_map(|(op, address, pages)| {
            let span = |pages| Span { buffer: "buffer".into(), first: 0, pages };
            Step { address, pages: pages.map(span), ..Step::new(op) }
        });
    const PROBES: [Probe; 11] = [
        Probe::InvalidateStart,
        Probe::InvalidateEnd,
        Probe::Callback,
        Probe::CallbackReturn,
        Probe::Collect,
        Probe::MigrateSetup,
        Probe::MigrateFault,
        Probe::Insert,
        Probe::Remove,
        Probe::Release,
        Probe::Step,
    ];
    let facts = (
        of(&["CLEAR", "MIGRATE", "UNMAP", "RELEASE", "SOFT_DIRTY", "event 77"]),
        prop::option::weighted(0.8, (address(), address())),
        prop::option::of(any::<bool>()),
        of(&["dmirror0", "dmirror1", "other", "unset"]),
        of(&["mm0", "mm1"]),
        of(&["r0", "r1", "r2"]),
        of(&["dmirror0", "dmirror1", "dmirror0.snapshot", "other", "unknown"]),
        prop::option::of(prop_oneof![0u64..9, Just(u64::MAX)]),
        prop::option::of(prop_oneof![0i64..2, Just(i64::MIN)]),
        prop::option::of(step),
    );
    (prop::sample::select(&PROBES[..]), 70u32..74, 0u32..3, any::<bool>(), facts).prop_map(
        |(probe, tid, tgid, test, facts)| {
            let (event, range, blockable, owner, mm, range_object, sub, cur_seq, ret, doing) =
                facts;
            Row {
                seq: 0,
                cpu: 0,
                tid,
                tgid,
                role: if test { "test" } else { "child" }.into(),
                probe,
                event,
                start: range.map(|(start, _)| Address(start)),
                end: range.map(|(_, end)| Address(end)),
                blockable,
                owner,
                mm,
                range: range_object,
                sub,
                cur_seq,
                ret,
                step: 0,
                doing,
                t_ns: None,
            }
        },
    )
}

/// The captures, read once.
static RAWS: LazyLock<BTreeMap<String, Raw>> = LazyLock::new(|| {
    let names = files("raw").into_keys();
    names.map(|name| (name.clone(), Raw::read(&name))).collect()
});

/// Rows that have callbacks.
static CALLED: LazyLock<Vec<Row>> =
    LazyLock::new(|| oddities().remove("holds-pages-come-home").unwrap());

proptest! {
    #[test]
    fn bytes_are_never_a_trace_by_chance(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (trace, rows) = RAWS["open-close"].count(&bytes);
        prop_assert!(!trace.info.complete);
        prop_assert_eq!(rows, 0);
    }

    #[test]
    fn what_is_called_whole_has_every_row(
        name in prop::sample::select(&["open-close", "file-write", "child-shared"][..]),
        changes in prop::collection::vec(change(), 1..5),
    ) {
        let raw = &RAWS[name];
        let (_, rows) = raw.count(&raw.bytes);
        let mut bytes = raw.bytes.clone();
        changes.iter().for_each(|change| apply(&mut bytes, change));
        let (trace, seen) = raw.count(&bytes);
        prop_assert!(!trace.info.complete || seen == rows, "{seen} of {rows}: {changes:?}");
    }

    #[test]
    fn no_rows_are_too_much(rows in prop::collection::vec(any_row(), 0..300)) {
        let violations = judged(&rows);
        prop_assert!(violations.len() <= 21);
        canonical(&rows);
    }

    #[test]
    fn callbacks_in_any_order_are_the_same(
        (subs, shuffled) in (1usize..8).prop_flat_map(|n| {
            let subs: Vec<usize> = (0..n).collect();
            (Just(subs.clone()), Just(subs).prop_shuffle())
        }),
        unordered: bool,
    ) {
        let first = CALLED.iter().position(|row| row.probe == Probe::Callback).unwrap();
        let (mut before, pattern) = (CALLED[..first].to_vec(), &CALLED[first..first + 2]);
        for step in before.iter_mut().filter_map(|row| row.doing.as_mut()) {
            if step.op == "release" && !unordered {
                step.op = "discard".into();
            }
        }
        let text = |subs: &[usize]| {
            let mut rows = before.clone();
            for sub in subs {
                let its = |row: &Row| Row { sub: Some(format!("dmirror{sub}")), ..row.clone() };
                rows.extend(pattern.iter().map(its));
            }
            canonical(&rows)
        };
        prop_assert_eq!(text(&subs), text(&shuffled));
    }
}
