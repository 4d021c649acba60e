//! What another kernel sends in the same operations, in a few words.

use std::collections::BTreeMap;

use super::diff::{Chunk, StepDiff, diff};
use crate::results::Difference;

/// In which operations the canonical traces of tests differ, and how, by the
/// operation. Steps that only one of them has are passed over: a test that fails
/// does less.
pub fn changes<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, String> {
    let mut changes: BTreeMap<String, Difference> = BTreeMap::new();
    for (left, right) in pairs {
        for step in diff(left, right) {
            let (Some(_), Some(of)) = (step.left, step.right) else { continue };
            if step.chunks.iter().any(|chunk| matches!(chunk, Chunk::Differs { .. })) {
                add(changes.entry(of.op.to_owned()).or_default(), &step);
            }
        }
    }
    changes.into_iter().map(|(op, change)| (op, change.words())).collect()
}

/// Counts what differs in a step.
fn add(to: &mut Difference, step: &StepDiff<'_>) {
    for chunk in &step.chunks {
        let Chunk::Differs { left, right } = chunk else { continue };
        for (lines, by) in [(left, -1), (right, 1)] {
            lines.iter().for_each(|line| to.count(&what(line), by));
        }
    }
}

/// What a line of a canonical trace is, without what it is about: `MIGRATE`,
/// `callback dmirror0`. That an event lacks its owner is a difference of its own.
pub(super) fn what(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["callback", device, ..] => format!("callback {device}"),
        [event, .., "owner", "NULL"] => format!("{event} owner NULL"),
        [event, ..] => (*event).to_owned(),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAR: &str = "to-device dmirror0 buffer[0..4)\n  CLEAR buffer[0..4)\n    \
                         callback dmirror0\ncpu-read buffer[0..4)\n  CLEAR buffer[0..1)\n";

    fn changed(right: &str) -> Vec<(String, String)> {
        changes([(CLEAR, right)]).into_iter().collect()
    }

    #[test]
    fn what_changed_is_told_by_operation() {
        assert_eq!(changed(CLEAR), []);
        let one = |words: &str| [("to-device".to_owned(), words.to_owned())];
        let first = |to: &str| CLEAR.replacen("CLEAR buffer[0..4)", to, 1);
        assert_eq!(changed(&first("MIGRATE buffer[0..4) owner dmirror0")), one("CLEAR -> MIGRATE"));
        let nobodys = first("MIGRATE buffer[0..4) owner NULL");
        assert_eq!(changed(&nobodys), one("CLEAR -> MIGRATE owner NULL"));
        assert_eq!(changed(&first("CLEAR buffer[0..5)")), one("the same events, otherwise"));
        let quiet = CLEAR.replace("    callback dmirror0\n", "");
        assert_eq!(changed(&quiet), one("- callback dmirror0"));
        let more = CLEAR.replace("cpu-read", "  UNMAP buffer[0..4)\ncpu-read");
        assert_eq!(changed(&more), one("+ UNMAP"));
    }

    #[test]
    fn a_test_that_goes_further_changes_nothing() {
        assert_eq!(changed(&format!("{CLEAR}exit\n  UNMAP buffer[0..4)\n")), []);
        let (short, _) = CLEAR.split_once("cpu-read").expect("there is such a step");
        assert_eq!(changed(short), []);
    }
}
