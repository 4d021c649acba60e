//! Traces without a kernel: rules and canonical form on rows that are written by
//! hand, the decoder on pages that a real kernel wrote, and both on what nobody
//! should send.
//!
//! `<oddity>.jsonl` are rows, with what is odd about them in the first lines;
//! `breaks-RULE-...` break that rule and no other, `holds-...` break none. What is
//! found in them, and their canonical form, is beside them in `<oddity>.expected`.
//! `<name>.raw` were captured from 6.12.117, with what must be known of them in
//! `captures.json` and their rows in `<name>.rows`. `UPDATE_GOLDEN=1` rewrites what
//! is expected, for a review.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod captures;
mod chance;
mod many;
mod pages;
mod rows;
mod scribe;
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hmm_harness::results::Violation;
use hmm_harness::trace::{Canonical, Row, Rules};

fn dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces"))
}

fn files(extension: &str) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap().path());
    let wanted = entries.filter(|path| path.extension().is_some_and(|e| e == extension));
    let named = wanted.map(|path| (path.file_stem().unwrap().to_string_lossy().into(), path));
    let found: BTreeMap<String, PathBuf> = named.collect();
    assert!(!found.is_empty());
    found
}

/// Compares with what is written down, or writes it down.
fn expect(path: &Path, seen: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, seen).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    for (seen, expected) in seen.lines().zip(expected.lines()) {
        assert_eq!(seen, expected, "{}", path.display());
    }
    assert_eq!(seen, expected, "{}", path.display());
}

fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// The rows of each oddity.
fn oddities() -> BTreeMap<String, Vec<Row>> {
    let of = |path| rows(&fs::read_to_string(path).unwrap());
    files("jsonl").into_iter().map(|(name, path)| (name, of(path))).collect()
}

fn judged(rows: &[Row]) -> Vec<Violation> {
    let mut rules = Rules::default();
    rows.iter().for_each(|row| rules.push(row));
    rules.finish()
}

fn canonical(rows: &[Row]) -> String {
    let mut canonical = Canonical::new(Vec::new());
    rows.iter().for_each(|row| canonical.push(row).unwrap());
    String::from_utf8(canonical.finish().unwrap()).unwrap()
}
