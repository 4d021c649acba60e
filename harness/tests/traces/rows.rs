//! Rules and canonical form on rows that are written by hand.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use hmm_harness::results::Violation;
use hmm_harness::trace::{Probe, RULES, Row, in_a_line};

use crate::{canonical, dir, expect, judged, oddities};

#[test]
fn each_oddity_is_told_as_it_was() {
    for (name, rows) in oddities() {
        let mut seen = "# rule\tstep\ttext\n".to_owned();
        for Violation { rule, step, text } in judged(&rows) {
            writeln!(seen, "{rule}\t{step}\t{text}").unwrap();
        }
        write!(seen, "# canonical form\n{}", canonical(&rows)).unwrap();
        expect(&dir().join(format!("{name}.expected")), &seen);
    }
}

#[test]
fn every_rule_is_broken_by_what_breaks_no_other() {
    let mut broken = BTreeSet::new();
    for (name, rows) in oddities() {
        let violations = judged(&rows);
        let told = in_a_line(&violations);
        if name.starts_with("holds-") {
            assert_eq!(told, None, "{name}");
            continue;
        }
        let rest = name.strip_prefix("breaks-").unwrap_or_else(|| panic!("what is {name}?"));
        let rule = rest.split('-').next().unwrap();
        assert!(!violations.is_empty(), "{name} breaks nothing");
        for violation in &violations {
            assert_eq!(violation.rule, rule, "{name}: {}", violation.text);
        }
        assert!(told.unwrap().starts_with(&format!("rule {rule}, step ")), "{name}");
        broken.insert(rule.to_owned());
    }
    assert_eq!(broken, RULES.map(str::to_owned).into());
}

#[test]
fn numbers_of_rows_are_in_order() {
    for (name, rows) in oddities() {
        for (n, row) in rows.iter().enumerate() {
            assert_eq!(row.seq, n as u64, "{name}");
        }
    }
}

/// Where callbacks of one thread follow each other, and end: as the kernel's tree
/// has them, by address.
fn runs_of_callbacks(rows: &[Row]) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < rows.len() {
        let pairs = rows[at..].chunks_exact(2).take_while(|pair| {
            pair[0].probe == Probe::Callback
                && pair[1].probe == Probe::CallbackReturn
                && pair.iter().all(|row| row.tid == rows[at].tid)
                // Nobody is called after the one that could not.
                && pair[1].ret == Some(1)
        });
        let pairs = pairs.count();
        if pairs > 1 {
            runs.push((at, pairs));
        }
        at += (2 * pairs).max(1);
    }
    runs
}

#[test]
fn the_order_of_callbacks_changes_nothing() {
    let mut turned = 0;
    for (name, rows) in oddities() {
        let mut other = rows.clone();
        for (at, pairs) in runs_of_callbacks(&rows) {
            for pair in 0..pairs {
                let from = at + 2 * (pairs - 1 - pair);
                other[at + 2 * pair..][..2].clone_from_slice(&rows[from..][..2]);
            }
            turned += 1;
        }
        assert_eq!(canonical(&other), canonical(&rows), "{name}");
        assert_eq!(judged(&other).is_empty(), judged(&rows).is_empty(), "{name}");
    }
    assert!(turned > 10);
}

#[test]
fn pages_come_home_in_any_order() {
    let rows = &oddities()["holds-pages-come-home"];
    let text = canonical(rows);
    // Every invalidation is one piece.
    let mut pieces: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        match pieces.last_mut() {
            Some(piece)
                if piece[0].probe == Probe::InvalidateStart
                    && piece.last().unwrap().probe != Probe::InvalidateEnd =>
            {
                piece.push(row.clone());
            }
            _ => pieces.push(vec![row.clone()]),
        }
    }
    let home = |piece: &Vec<Row>| piece.len() > 1;
    let first = pieces.iter().position(home).unwrap();
    let of_one_step = pieces[first..].iter().take_while(|piece| home(piece)).count();
    assert!(of_one_step > 3);
    for turn in 1..of_one_step {
        let mut other = pieces.clone();
        other[first..first + of_one_step].rotate_left(turn);
        other[first + 1..first + of_one_step].reverse();
        assert_eq!(canonical(&other.concat()), text);
    }
}
