//! The scanner on consoles that real kernels wrote: `tests/consoles` has a raw
//! log for each way in which one was made to complain, and logs of kernels that
//! have nothing to complain about. What must be found in them, and nothing else,
//! is in `expected.tsv`; `UPDATE_GOLDEN=1` rewrites it, for a review.
//!
//! They were recorded from 6.12.117 under QEMU, with lockdep, KASAN, KFENCE,
//! kmemleak and the other debugging options on, by `lkdtm` and by a small module
//! that makes each mistake. Some are cut short; the directories of the sources
//! are called `/build`, and nothing else was touched.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use hmm_harness::console::{Finding, Scanner, What};

const HEAD: &str = "\
# log	lines	id	class	pid	comm	frames	title
#
# Each report in the logs of this directory, in the order of its end. `frames`
# counts the frames of its call trace.
";

fn dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/consoles"))
}

/// The logs, by name.
fn logs() -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap().path());
    let logs = entries.filter(|path| path.extension().is_some_and(|e| e == "log"));
    logs.map(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, fs::read(path).unwrap())
    })
    .collect()
}

fn scan(log: &[u8], piece: usize) -> Vec<Finding> {
    let mut scanner = Scanner::default();
    let mut found: Vec<Finding> = log.chunks(piece).flat_map(|piece| scanner.push(piece)).collect();
    found.extend(scanner.finish());
    found
}

#[test]
fn each_recorded_report_is_found_and_nothing_else() {
    let mut seen = HEAD.to_owned();
    for (name, log) in logs() {
        for finding in scan(&log, 8192) {
            let What::Report(report) = &finding.what else { continue };
            let (id, class) = (report.signature.id, report.signature.class);
            let (lines, title) = (finding.lines(), &report.title);
            let (first, last) = (lines.start(), lines.end());
            let pid = report.pid.map_or("-".into(), |pid| pid.to_string());
            let comm = report.comm.as_deref().unwrap_or("-");
            let frames = report.frames.len();
            writeln!(
                seen,
                "{name}\t{first}-{last}\t{id}\t{class}\t{pid}\t{comm}\t{frames}\t{title}"
            )
            .unwrap();
        }
    }
    let path = dir().join("expected.tsv");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, seen).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap();
    for (seen, expected) in seen.lines().zip(expected.lines()) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen, expected);
}

#[test]
fn each_complaint_has_one_report_and_it_comes_later() {
    for (name, log) in logs() {
        let mut open = Vec::new();
        for finding in scan(&log, 8192) {
            match finding.what {
                What::Complaint { .. } => open.push(finding.line),
                What::Report(_) => {
                    let at = open.iter().position(|line| *line == finding.line);
                    open.remove(at.unwrap_or_else(|| panic!("{name}: a report of nothing")));
                }
                What::Begin(_) | What::End(_) => {}
            }
        }
        assert!(open.is_empty(), "{name}: {open:?}");
    }
}

#[test]
fn how_the_bytes_come_makes_no_difference() {
    for (name, log) in logs() {
        let whole = scan(&log, log.len());
        for piece in [1, 7, 100, 1021] {
            assert_eq!(scan(&log, piece), whole, "{name} in pieces of {piece}");
        }
    }
}

/// What a title must not have: it changes from run to run.
#[test]
fn titles_are_the_same_in_another_run() {
    for (name, log) in logs() {
        let text = String::from_utf8_lossy(&log);
        // Another run: other processes, CPUs, addresses and times.
        let other = text
            .replace("PID: 45", "PID: 1234")
            .replace("hmm-tests:45", "hmm-tests:1234")
            .replace("hmm-tests/45", "hmm-tests/1234")
            .replace("T45]", "T1234]")
            .replace("CPU: 0", "CPU: 3")
            .replace("CPU#0", "CPU#3")
            .replace("ffff888", "ffff999");
        let titles = |log: &str| -> Vec<String> {
            let found = scan(log.as_bytes(), 8192).into_iter();
            found
                .filter_map(|f| match f.what {
                    What::Report(report) => Some(report.title),
                    _ => None,
                })
                .collect()
        };
        assert_eq!(titles(&other), titles(&text), "{name}");
    }
}
