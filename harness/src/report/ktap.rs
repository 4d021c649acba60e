//! A judgement in the kernel's own format for one
//! (Documentation/dev-tools/ktap.rst).

use std::fmt::Write as _;

use super::cases::{Case, State, cases};
use crate::results::Results;

/// The text of `results.ktap`. What there is to say of a test stands before its
/// result.
pub(super) fn text(results: &Results) -> String {
    let cases = cases(results);
    let mut text = format!("KTAP version 1\n1..{}\n", cases.len());
    for (n, case) in cases.iter().enumerate() {
        for line in &case.details {
            writeln!(text, "{}", diagnostic(line)).expect("writing to a string");
        }
        writeln!(text, "{}", result(n + 1, case)).expect("writing to a string");
    }
    text
}

/// The result line. Excused is `ok` with XFAIL, as the kernel's own selftests write
/// it (tools/testing/selftests/kselftest.h); a skip that nobody expects is not ok.
fn result(number: usize, case: &Case) -> String {
    let Case { id, state, .. } = case;
    match state {
        State::Passed => format!("ok {number} {id}"),
        State::Excused(why) => format!("ok {number} {id} # XFAIL {}", plain(why)),
        State::Failed { why, .. } => format!("{}\nnot ok {number} {id}", diagnostic(why)),
        State::Broken { verdict: "timed_out", why } => {
            format!("{}\nnot ok {number} {id} # TIMEOUT", diagnostic(why))
        }
        State::Broken { verdict, why } => {
            format!("{}\nnot ok {number} {id} # ERROR {verdict}", diagnostic(why))
        }
    }
}

/// What kunit.py takes for the head of a test, and for the end of all output wherever
/// it stands (tools/testing/kunit/kunit_parser.py).
const TAKEN: [&str; 4] = [
    "Subtest: ",
    "List of all partitions:",
    "Kernel panic - not syncing: VFS:",
    "reboot: System halted",
];

/// A line that is no result and nothing else. What would be taken for more has its
/// blanks doubled.
fn diagnostic(line: &str) -> String {
    let blanks = |text: String, taken: &&str| text.replace(*taken, &taken.replace(' ', "  "));
    let head = if line.starts_with(TAKEN[0]) { "#  " } else { "# " };
    format!("{head}{}", TAKEN[1..].iter().fold(line.to_owned(), blanks))
}

/// What stands behind a directive: a second one in it would be read as well.
fn plain(why: &str) -> String {
    diagnostic(why).replace('#', "").trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::cases::tests::{colourful, hostile};

    #[test]
    fn what_the_guest_says_is_no_line_and_no_directive() {
        let text = text(&hostile());
        let mut lines = text.lines();
        assert_eq!((lines.next(), lines.next()), (Some("KTAP version 1"), Some("1..17")));
        for line in lines {
            let is_result = line.starts_with("ok ") || line.starts_with("not ok ");
            assert!(is_result || line.starts_with("# "), "{line}");
            assert!(!is_result || line.matches('#').count() <= 1, "{line}");
            assert!(!is_result || !line.contains("# SKIP"), "{line}");
            assert!(!line.starts_with("# Subtest"), "{line}");
            assert!(!TAKEN[1..].iter().any(|taken| line.contains(taken)), "{line}");
        }
        assert!(!text.contains(['\u{1b}', '\r', '\u{85}', '\u{2028}', '\u{202e}']));
        assert!(text.len() < 1 << 18, "{}", text.len());
    }

    #[test]
    fn every_case_has_one_line_and_what_is_said_of_it_is_no_result() {
        let text = text(&colourful());
        let results: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("ok ") || line.starts_with("not "))
            .collect();
        assert_eq!(
            results,
            [
                "ok 1 hmm.open_close.private",
                "not ok 2 hmm.migrate.private",
                "not ok 3 hmm.migrate.coherent # ERROR crashed",
                "not ok 4 hmm2.snapshot.private # TIMEOUT",
                "not ok 5 hmm.exclusive.private",
                "not ok 6 hmm.compound.private # ERROR not_run",
                "ok 7 notifier.mremap.private # XFAIL known issue why-not: because",
                "not ok 8 kernel.console",
            ]
        );
        assert!(text.starts_with("KTAP version 1\n1..8\n"));
        assert!(text.contains("# rule owner, to-device: NULL\n# x.rs:1: 3 # pages\n"), "{text}");
    }
}
