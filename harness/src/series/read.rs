//! The files of a series, read and parted into what is a mail and what is a
//! plain diff. Knows nothing of trees.

use std::fs;
use std::path::{Path, PathBuf};

use crate::stop::Problem;

/// The option that names a series, for messages.
const AT: &str = "--series";

/// What a file of a directory ends with, to be taken as part of a series.
const ENDINGS: [&str; 6] = ["patch", "diff", "mbox", "mbx", "mail", "eml"];

/// A file of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PatchFile {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What it holds.
    pub(super) bytes: Vec<u8>,
}

impl PatchFile {
    /// Its name, which is the subject of a patch that has none.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether it is one mail or several, rather than a diff.
    pub(super) fn is_mail(&self) -> bool {
        if self.bytes.starts_with(b"From ") {
            return true;
        }
        let mut named = false;
        for line in lines(&self.bytes).take_while(|line| !line.is_empty()) {
            let folded = line.starts_with(b" ") || line.starts_with(b"\t");
            let Some(colon) = line.iter().position(|&b| b == b':') else {
                if folded {
                    continue;
                }
                return false;
            };
            let key = &line[..colon];
            if !folded && !key.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
                return false;
            }
            named |= key.eq_ignore_ascii_case(b"subject") || key.eq_ignore_ascii_case(b"from");
        }
        named
    }

    /// A plain diff with its line ends as git wants them: a file that was
    /// saved with others has them in the diff's own lines too.
    pub(super) fn diff(&self) -> Vec<u8> {
        let heads = |line: &&[u8]| line.starts_with(b"--- ") || line.starts_with(b"+++ ");
        let raw = || self.bytes.split(|&b| b == b'\n');
        let mut headed = raw().filter(heads).peekable();
        if headed.peek().is_none() || !headed.all(|line| line.ends_with(b"\r")) {
            return self.bytes.clone();
        }
        let plain = raw().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        plain.collect::<Vec<_>>().join(&b'\n')
    }
}

/// Reads all files of a series, in their order.
pub(super) fn all(series: &[PathBuf]) -> Result<Vec<PatchFile>, Vec<Problem>> {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for path in series {
        match one(path) {
            Ok(found) => files.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

/// Reads a file. What comes out of a pipe or a device can be read only once, or
/// for ever.
fn bytes_of(path: &Path) -> std::io::Result<Vec<u8>> {
    if fs::metadata(path)?.is_file() {
        fs::read(path)
    } else {
        Err(std::io::Error::other("it is neither a file nor a directory"))
    }
}

/// Reads what one path names.
fn one(path: &Path) -> Result<Vec<PatchFile>, Problem> {
    let shown = path.display();
    if let Some(range) = path.to_str().and_then(|text| text.strip_prefix("git:")) {
        return Err(Problem::new(AT, format!("the range git:{range} is not supported yet"))
            .hint(format!("write it out first: git format-patch -o DIR {range}")));
    }
    let cannot = |error| {
        Problem::new(AT, format!("cannot read {shown}: {error}"))
            .hint("name a .patch or .diff file, an mbox, or a directory of them")
    };
    if !fs::metadata(path).map_err(cannot)?.is_dir() {
        let file = PatchFile { path: path.into(), bytes: bytes_of(path).map_err(cannot)? };
        return has_diff(&file, false).map(|()| vec![file]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ENDINGS.contains(&ending) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let bytes = bytes_of(&path).map_err(cannot)?;
        let file = PatchFile { path, bytes };
        has_diff(&file, true)?;
        files.push(file);
    }
    if files.iter().any(|file| has_diff(file, false).is_ok()) {
        Ok(files)
    } else {
        Err(Problem::new(AT, format!("the directory {shown} holds no patch"))
            .hint(format!("a patch's name ends in one of .{}", ENDINGS.join(", ."))))
    }
}

/// Whether there is a diff in a file. A cover letter among others needs none.
fn has_diff(file: &PatchFile, among_others: bool) -> Result<(), Problem> {
    if diff_in(&file.bytes) || (among_others && file.is_mail() && is_cover(&file.bytes)) {
        return Ok(());
    }
    // A diff that is encoded for the mail can only be seen by decoding it.
    let encoded = |line: &[u8]| {
        let line = line.to_ascii_lowercase();
        line.starts_with(b"content-transfer-encoding:")
            && (line.ends_with(b"base64") || line.ends_with(b"quoted-printable"))
    };
    if file.is_mail() && lines(&file.bytes).any(encoded) {
        return Ok(());
    }
    let what = if file.bytes.is_empty() { "is empty" } else { "has no diff in it" };
    Err(Problem::new(AT, format!("{} {what}", file.path.display()))
        .hint("a patch is made by git format-patch, git diff or diff -u"))
}

/// Whether there is a diff in a text.
pub(super) fn diff_in(text: &[u8]) -> bool {
    let mut before: &[u8] = b"";
    for line in lines(text) {
        if line.starts_with(b"diff --git ")
            || (before.starts_with(b"--- ") && line.starts_with(b"+++ "))
        {
            return true;
        }
        before = line;
    }
    false
}

/// Whether a mail says of itself that it carries no patch: `[PATCH 0/3]`, an
/// answer, or no word of a patch. One that was cut short is none of these.
pub(super) fn is_cover(mail: &[u8]) -> bool {
    let mut subject = Vec::new();
    let mut inside = false;
    for line in lines(mail).take_while(|line| !line.is_empty()) {
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
        inside = if folded { inside } else { line.to_ascii_lowercase().starts_with(b"subject:") };
        if inside {
            subject.extend_from_slice(line.strip_prefix(b"Subject:").unwrap_or(line));
        }
    }
    let subject = String::from_utf8_lossy(&subject).to_lowercase();
    let subject = subject.trim();
    if subject.starts_with("re:") {
        return true;
    }
    let Some(tag) = subject.strip_prefix('[').and_then(|rest| rest.split(']').next()) else {
        return !subject.is_empty();
    };
    let number =
        tag.split_whitespace().find_map(|word| word.split_once('/')?.0.parse::<u32>().ok());
    number.map_or(!tag.contains("patch"), |n| n == 0)
}

/// The lines of a text without their ends, whichever those are.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// A subject that is fit to be shown: one line, nothing that moves a cursor.
pub(super) fn subject(text: &str, file: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| word.chars().filter(|c| !c.is_control()).collect())
        .collect();
    let line = words.join(" ");
    if line.is_empty() { file.to_owned() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> PatchFile {
        PatchFile { path: "a.patch".into(), bytes: text.into() }
    }

    #[test]
    fn mails_are_told_from_diffs() {
        let check =
            |text: &str, mail: bool| assert_eq!(file(text.as_bytes()).is_mail(), mail, "{text:?}");
        check("From 0123 Mon Sep 17 00:00:00 2001\nFrom: a\n", true);
        check("From: A <a@b>\nSubject: x\n\nbody", true);
        check("Received: by x\n\tfolded line\nSubject: x\n\n", true);
        check("From: A <a@b>\r\nSubject: x\r\n\r\n", true);
        check("diff --git a/x b/x\n", false);
        check("--- a/x\n+++ b/x\n@@ -1 +1 @@\n", false);
        check("commit 0123\nAuthor: A <a@b>\n\n    text\n", false);
        check("Description: x\nAuthor: y\n\n--- a/x\n", false);
        check("Index: x\n=====\n--- x\n", false);
        check("", false);
        check("\0\0\0", false);
    }

    #[test]
    fn covers_are_told_from_patches_cut_short() {
        let check = |subject: &str, cover: bool| {
            let mail = format!("From: a\nSubject: {subject}\n\nbody");
            assert_eq!(is_cover(mail.as_bytes()), cover, "{subject}");
        };
        check("[PATCH 0/3] mm: all", true);
        check("[PATCH v2 00/12] mm: all", true);
        check("[PATCH 1/3] mm: one", false);
        check("[PATCH v2\n 03/12] mm: three", false);
        check("Re: [PATCH 1/3] mm: one", true);
        check("[PATCH] mm: one", false);
        check("mm: what about this", true);
        check("[RFC] mm: what about this", true);
        check("", false);
    }

    #[test]
    fn line_ends_of_a_saved_diff_are_undone() {
        let check = |text: &[u8], expect: &[u8]| assert_eq!(file(text).diff(), expect);
        check(b"--- a/x\r\n+++ b/x\r\n-a\r\n", b"--- a/x\n+++ b/x\n-a\n");
        check(b"--- a/x\n+++ b/x\n-a\r\n", b"--- a/x\n+++ b/x\n-a\r\n");
        check(b"", b"");
    }

    #[test]
    fn subjects_are_fit_to_be_shown() {
        let check = |text: &str, expect: &str| assert_eq!(subject(text, "a.patch"), expect);
        check("mm: fix\n it", "mm: fix it");
        check("mm: \x1b[31mred", "mm: [31mred");
        check(" \n", "a.patch");
    }
}
