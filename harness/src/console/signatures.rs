//! The table of what a complaint looks like, read from `signatures.tsv`.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

/// How bad a complaint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing to complain about by itself.
    Note,
    /// A bug was found; the kernel goes on.
    Bug,
    /// Something hangs.
    Hang,
    /// The kernel is dead or not to be trusted any more.
    Fatal,
}

/// What ends a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// It is one line.
    Line,
    /// `---[ end trace`, or the end of a panic.
    Trace,
    /// A line of `=`, or `---[ end trace`.
    Rule,
    /// The end of its call trace.
    Stack,
    /// The next thing that whoever prints it says.
    Block,
}

/// A row of the table.
#[derive(Debug)]
pub struct Signature {
    /// Its name.
    pub id: &'static str,
    /// The class it belongs to.
    pub class: &'static str,
    /// How bad it is.
    pub severity: Severity,
    pub(super) ends: Ends,
    /// What the message must match; its groups are the title.
    pub pattern: Regex,
}

impl Signature {
    /// The rows whose lines may stand in one report.
    pub(super) fn family(&self) -> &str {
        self.id.split('_').next().unwrap_or(self.id)
    }
}

impl PartialEq for Signature {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Signature {}

/// The rows, in order: the first that matches counts.
pub fn signatures() -> &'static [Signature] {
    static TABLE: LazyLock<Vec<Signature>> = LazyLock::new(|| {
        include_str!("signatures.tsv")
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(row)
            .collect()
    });
    &TABLE
}

/// The first row that matches a message.
pub(super) fn matching(message: &str) -> Option<&'static Signature> {
    // All patterns in one pass: nearly every line matches none of them.
    static ALL: LazyLock<RegexSet> = LazyLock::new(|| {
        RegexSet::new(signatures().iter().map(|s| s.pattern.as_str()))
            .expect("each pattern compiles by itself")
    });
    if !ALL.is_match(message) {
        return None;
    }
    ALL.matches(message).iter().next().map(|n| &signatures()[n])
}

fn row(line: &'static str) -> Signature {
    let mut cells = line.splitn(5, '\t');
    let mut cell = || cells.next().expect("signatures.tsv: five columns, checked by a test");
    let (id, class, severity, ends, pattern) = (cell(), cell(), cell(), cell(), cell());
    let severity = match severity {
        "note" => Severity::Note,
        "bug" => Severity::Bug,
        "hang" => Severity::Hang,
        "fatal" => Severity::Fatal,
        other => unreachable!("signatures.tsv: {id}: severity {other:?}, checked by a test"),
    };
    let ends = match ends {
        "line" => Ends::Line,
        "trace" => Ends::Trace,
        "rule" => Ends::Rule,
        "stack" => Ends::Stack,
        "block" => Ends::Block,
        other => unreachable!("signatures.tsv: {id}: ends {other:?}, checked by a test"),
    };
    let pattern = Regex::new(pattern).expect("signatures.tsv: patterns compile, checked by a test");
    Signature { id, class, severity, ends, pattern }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::title::title;

    #[test]
    fn the_table_is_well_formed_and_its_ids_are_unique() {
        let mut ids: Vec<&str> = signatures().iter().map(|s| s.id).collect();
        let rows = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows);
        assert!(rows > 50);
    }

    #[test]
    fn each_row_is_for_something_and_ordinary_messages_are_for_none() {
        let mut unused: Vec<&str> =
            signatures().iter().filter(|s| s.severity > Severity::Note).map(|s| s.id).collect();
        let samples = include_str!("samples.tsv").lines().filter(|line| !line.starts_with('#'));
        for sample in samples {
            let cells: Vec<&str> = sample.splitn(3, '\t').collect();
            let found = matching(cells[1]).filter(|s| s.severity > Severity::Note);
            assert_eq!(found.map_or("-", |s| s.id), cells[0], "{sample}");
            if let Some(found) = found {
                assert_eq!(title(found, cells[1], None, &[]), cells[2]);
                unused.retain(|id| *id != cells[0]);
            }
        }
        assert_eq!(unused, Vec::<&str>::new(), "rows without a sample");
    }
}
