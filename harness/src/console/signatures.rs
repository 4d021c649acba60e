//! The table of what a complaint looks like, read from `signatures.tsv`.

use std::sync::LazyLock;

use regex::Regex;

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

/// A row of the table.
#[derive(Debug)]
pub struct Signature {
    /// Its name.
    pub id: &'static str,
    /// The class it belongs to.
    pub class: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What the message must match, from its first character on.
    pub pattern: Regex,
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

fn row(line: &'static str) -> Signature {
    let mut cells = line.split('\t');
    let mut cell = || cells.next().expect("signatures.tsv: four columns, checked by a test");
    let (id, class, severity, pattern) = (cell(), cell(), cell(), cell());
    let severity = match severity {
        "note" => Severity::Note,
        "bug" => Severity::Bug,
        "hang" => Severity::Hang,
        "fatal" => Severity::Fatal,
        other => unreachable!("signatures.tsv: {id}: severity {other:?}, checked by a test"),
    };
    let pattern = Regex::new(pattern).expect("signatures.tsv: patterns compile, checked by a test");
    Signature { id, class, severity, pattern }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed_and_its_ids_are_unique() {
        let mut ids: Vec<&str> = signatures().iter().map(|s| s.id).collect();
        let rows = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows);
        assert!(rows > 50);
    }
}
