//! The lines of the console around the kernel's complaints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::results::{KernelEvent, Results};
use crate::rundir::{self, console_of};

/// How many lines before a complaint are shown, and how many from it on.
const BEFORE: u64 = 4;
const AFTER: u64 = 60;

/// Of how many complaints of one test.
pub(super) const COMPLAINTS: usize = 4;

/// Of how many complaints of a run, the lines of a VM that was lost included.
const ALL: usize = 80;

/// How long a line is, in bytes, and where it ends if it does not.
const LINE: usize = 240;
const ENDLESS: u64 = 1 << 20;

/// The last line of a report (`print_oops_end_marker()` of kernel/panic.c), and what
/// the agent writes between two tests.
const ENDS: [&str; 2] = ["---[ end ", "hmm-harness: end "];

/// The lines that are shown, by number.
#[derive(Debug, Default)]
pub(super) struct Consoles(BTreeMap<u64, String>);

impl Consoles {
    /// Reads what the results speak of.
    pub(super) fn read(results: &Results, dir: &Path) -> Consoles {
        let of_tests = results.tests.iter().map(|test| &test.kernel_events);
        let complaints = of_tests.chain([&results.kernel_events]);
        let wanted: Vec<u64> = complaints
            .flat_map(|events| events.iter().take(COMPLAINTS).map(|event| event.line))
            .take(ALL)
            .collect();
        let mut lines = Consoles::default();
        if wanted.is_empty() {
            return lines;
        }
        // Lines count on from one console to the next; what a VM left whose end
        // nobody saw comes last.
        let mut number = 0;
        for path in files(dir) {
            let Ok(file) = File::open(&path) else { continue };
            lines.collect(BufReader::new(file), &mut number, &wanted);
        }
        lines
    }

    fn collect(&mut self, mut from: impl BufRead, number: &mut u64, wanted: &[u64]) {
        let last = wanted.iter().max().map_or(0, |line| line.saturating_add(AFTER));
        let shown: BTreeSet<u64> = wanted
            .iter()
            .flat_map(|line| line.saturating_sub(BEFORE)..line.saturating_add(AFTER))
            .collect();
        let mut line = Vec::new();
        while *number < last {
            line.clear();
            match from.by_ref().take(ENDLESS).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if shown.contains(&(*number + 1)) {
                let text = String::from_utf8_lossy(&line[..line.len().min(LINE)]);
                let more = if line.len() > LINE { " ..." } else { "" };
                let text = format!("{}{more}", text.trim_end());
                self.0.entry(*number + 1).or_insert(text);
            }
            *number += u64::from(line.ends_with(b"\n"));
        }
    }

    /// The lines around a complaint, each with its number: up to the end of its
    /// report, as far as that is known.
    pub(super) fn around(&self, event: &KernelEvent) -> Vec<(u64, &str)> {
        let from = event.line.saturating_sub(BEFORE);
        let mut lines = Vec::new();
        for (number, text) in self.0.range(from..event.line.saturating_add(AFTER)) {
            lines.push((*number, text.as_str()));
            if *number >= event.line && ENDS.iter().any(|end| text.contains(end)) {
                break;
            }
        }
        lines
    }
}

/// `console.log`, and those of VMs whose end nobody saw.
fn files(dir: &Path) -> Vec<PathBuf> {
    let left = (0..).map(|vm| dir.join(console_of(vm)));
    let most = 10_000;
    let left = left.take(most).filter(|path| path.is_file());
    std::iter::once(dir.join(rundir::CONSOLE)).chain(left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(line: u64) -> KernelEvent {
        let (id, class, title) = ("oops".into(), "oops".into(), "BUG".into());
        KernelEvent { id, class, title, line, trace: Vec::new() }
    }

    #[test]
    fn a_report_is_shown_from_a_little_before_it_to_its_end() {
        let mut text: String = (1..=10).map(|n| format!("[ {n} ] line\n")).collect();
        text.push_str("---[ end trace 0 ]---\nbehind it\n");
        let (mut consoles, mut number) = (Consoles::default(), 0);
        consoles.collect(text.as_bytes(), &mut number, &[7]);
        let lines = consoles.around(&complaint(7));
        assert_eq!(lines.first(), Some(&(3, "[ 3 ] line")));
        assert_eq!(lines.last(), Some(&(11, "---[ end trace 0 ]---")));
    }

    #[test]
    fn a_line_without_end_is_cut_and_counts_once() {
        let text = format!("{}\nBUG\n", "x".repeat(3 << 20));
        let (mut consoles, mut number) = (Consoles::default(), 0);
        consoles.collect(text.as_bytes(), &mut number, &[2]);
        let lines = consoles.around(&complaint(2));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].1.len() < 300);
        assert_eq!(lines[1], (2, "BUG"));
    }
}
