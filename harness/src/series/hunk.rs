//! What git says when a patch does not apply, as the file and the hunk. Pure.

use std::fmt;

/// The place at which a patch does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The file, as far as git names one.
    pub(super) file: Option<String>,
    /// What is wrong with it.
    pub(super) why: String,
    /// The hunk, if it is one.
    pub(super) hunk: Option<Hunk>,
}

/// A hunk of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hunk {
    /// Counted from 1 within its file.
    pub(super) number: usize,
    /// Its first line: `@@ -1,2 +1,3 @@ int main`.
    pub(super) head: String,
    /// The line in the file before, counted from 1.
    pub(super) line: usize,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, &self.hunk) {
            (Some(file), Some(hunk)) => {
                write!(f, "{file}, hunk {} ({}): {}", hunk.number, hunk.head, self.why)
            }
            (Some(file), None) => write!(f, "{file}: {}", self.why),
            (None, _) => f.write_str(&self.why),
        }
    }
}

/// Reads what `git apply` wrote about `diff`.
pub(super) fn failure(complaints: &[String], diff: &[u8]) -> Failure {
    let errors = || complaints.iter().filter_map(|line| line.strip_prefix("error: "));
    for error in errors() {
        // A name may have a colon in it; what follows the last one is git's.
        if let Some((file, line)) =
            error.strip_prefix("patch failed: ").and_then(|rest| rest.rsplit_once(':'))
        {
            let hunk = line.parse().ok().and_then(|line| hunk(diff, file, line));
            let why = "the lines it changes are not there".to_owned();
            return Failure { file: Some(file.into()), why, hunk };
        }
        for (words, why) in [
            (": does not exist in index", "the tree has no such file"),
            (": No such file or directory", "the tree has no such file"),
            (": already exists in index", "the file is there already"),
            (": does not match index", "the file is another one"),
            (": patch does not apply", "it does not apply"),
        ] {
            if let Some(file) = error.strip_suffix(words) {
                return Failure { file: Some(file.into()), why: why.into(), hunk: None };
            }
        }
    }
    let why = errors().next().map_or("git refuses it".to_owned(), printable);
    Failure { file: None, why, hunk: None }
}

/// How far from their places the hunks of a patch were found, by what `git apply
/// --verbose` wrote; `None` if each was where it should be.
pub(super) fn offset(said: &[String]) -> Option<String> {
    let mut most = 0_i64;
    for line in said {
        let Some((_, rest)) = line.split_once("(offset ") else { continue };
        let lines = rest.split(' ').next().and_then(|n| n.parse::<i64>().ok()).unwrap_or_default();
        if line.starts_with("Hunk #") && lines.abs() > most.abs() {
            most = lines;
        }
    }
    let s = if most.abs() == 1 { "" } else { "s" };
    (most != 0).then(|| format!("applies with an offset of {most} line{s}"))
}

/// Finds the hunk of `file` that begins at `line`.
fn hunk(diff: &[u8], file: &str, line: usize) -> Option<Hunk> {
    let (mut inside, mut number) = (false, 0);
    let text = String::from_utf8_lossy(diff);
    // Lines of a hunk that look like the head of a file are counted away.
    let (mut old, mut new) = (0usize, 0usize);
    for row in text.lines() {
        if old > 0 || new > 0 {
            match row.as_bytes().first() {
                Some(b'-') => old = old.saturating_sub(1),
                Some(b'+') => new = new.saturating_sub(1),
                Some(b'\\') => {}
                _ => (old, new) = (old.saturating_sub(1), new.saturating_sub(1)),
            }
        } else if let Some(name) = row.strip_prefix("--- ").or_else(|| row.strip_prefix("+++ ")) {
            let name = name.split('\t').next().unwrap_or_default().trim_end();
            let named = name.split_once('/').is_some_and(|(_, rest)| rest == file) || name == file;
            if row.starts_with("--- ") {
                (inside, number) = (named, 0);
            } else {
                inside |= named;
            }
        } else if let Some((from, old_count, new_count)) = counts(row) {
            (old, new, number) = (old_count, new_count, number + 1);
            if inside && from == line {
                return Some(Hunk { number, head: printable(row), line });
            }
        }
    }
    None
}

/// The numbers of `@@ -from,old +to,new @@`; a missing count is 1.
fn counts(row: &str) -> Option<(usize, usize, usize)> {
    let mut words = row.strip_prefix("@@ -")?.split(' ');
    let pair = |word: &str| -> Option<(usize, usize)> {
        match word.split_once(',') {
            Some((from, count)) => Some((from.parse().ok()?, count.parse().ok()?)),
            None => Some((word.parse().ok()?, 1)),
        }
    };
    let (from, old) = pair(words.next()?)?;
    let (_, new) = pair(words.next()?.strip_prefix('+')?)?;
    Some((from, old, new))
}

/// Some lines of a file around one, each with its number.
pub(super) fn around(text: &str, line: usize) -> Vec<String> {
    let first = line.saturating_sub(1);
    let rows = text.lines().enumerate().skip(first).take(8);
    rows.map(|(n, row)| format!("{:>6} {}", n + 1, printable(row))).collect()
}

/// A line without what moves a cursor, and not endless.
pub(super) fn printable(line: &str) -> String {
    let plain = line.replace('\t', "    ");
    plain.chars().filter(|c| !c.is_control()).take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "\
diff --git a/mm/a.c b/mm/a.c
--- a/mm/a.c
+++ b/mm/a.c
@@ -1,2 +1,2 @@ int one
-- x
+++ y
 z
@@ -40 +40 @@ int two
-a
+b
--- a/b:c.c\t2020-01-01
+++ b/b:c.c\t2020-01-01
@@ -7,0 +8 @@
+b
";

    #[test]
    fn a_failed_hunk_is_named() {
        let check = |complaint: &str, expect: &str| {
            let found = failure(&["warning: x".into(), complaint.into()], DIFF.as_bytes());
            assert_eq!(found.to_string(), expect);
        };
        let gone = "the lines it changes are not there";
        check(
            "error: patch failed: mm/a.c:1",
            &format!("mm/a.c, hunk 1 (@@ -1,2 +1,2 @@ int one): {gone}"),
        );
        check(
            "error: patch failed: mm/a.c:40",
            &format!("mm/a.c, hunk 2 (@@ -40 +40 @@ int two): {gone}"),
        );
        check("error: patch failed: b:c.c:7", &format!("b:c.c, hunk 1 (@@ -7,0 +8 @@): {gone}"));
        check("error: patch failed: mm/a.c:99", &format!("mm/a.c: {gone}"));
        check("error: mm/n.c: does not exist in index", "mm/n.c: the tree has no such file");
        check("error: mm/n.c: already exists in index", "mm/n.c: the file is there already");
        check("error: corrupt patch at line 3", "corrupt patch at line 3");
        check("fatal: odd", "git refuses it");
    }

    #[test]
    fn an_offset_is_told() {
        let said =
            |lines: &[&str]| offset(&lines.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        assert_eq!(said(&["Checking patch mm/a.c...", "Applied patch mm/a.c cleanly."]), None);
        let hunks = [
            "Hunk #1 succeeded at 9 (offset -1 lines).",
            "Hunk #2 succeeded at 90 (offset 12 lines).",
        ];
        assert_eq!(said(&hunks[..1]).as_deref(), Some("applies with an offset of -1 line"));
        assert_eq!(said(&hunks).as_deref(), Some("applies with an offset of 12 lines"));
    }

    #[test]
    fn nonsense_is_survived() {
        for text in [
            "@@ -1",
            "@@ -99999999999999999999 +1 @@",
            "@@ -1,2 +1,9 @@\n",
            "--- \n+++ \n@@ -1 +1 @@",
        ] {
            assert_eq!(hunk(text.as_bytes(), "a", 2), None);
        }
        assert_eq!(around("", 5), Vec::<String>::new());
        assert_eq!(around("a\n\x1b[1mb\tc", 2), ["     2 [1mb    c"]);
    }
}
