//! What `--series` names, read: files, directories, maildirs, and commits of a
//! repository. Knows nothing of the tree that it goes on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::git::{Git, Place};
use crate::series::thread::Tag;
use crate::stop::Problem;

/// The option that names a series, for messages.
const AT: &str = "--series";

/// What a file of a directory ends with, to be taken as part of a series.
const ENDINGS: [&str; 6] = ["patch", "diff", "mbox", "mbx", "mail", "eml"];

/// The directories by which a maildir is known.
const MAILDIR: [&str; 2] = ["cur", "new"];

/// A part of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it is, or which commits it is.
    pub(super) path: PathBuf,
    /// What it holds.
    pub(super) content: Content,
}

/// What a part of a series holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A diff without a mail around it.
    Diff(Vec<u8>),
    /// Mails, one behind the other in a file.
    Mbox(Vec<u8>),
    /// Mails, each in a file of its own.
    Mails(Vec<Vec<u8>>),
    /// Commits, as `git format-patch` writes them with their subjects as they are.
    Commits(Vec<u8>),
}

impl Part {
    fn file(path: PathBuf, bytes: Vec<u8>) -> Part {
        let content = if is_mail(&bytes) { Content::Mbox(bytes) } else { Content::Diff(bytes) };
        Part { path, content }
    }

    /// Its name, which is the subject of a patch that has none.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// All that can make a difference to what comes of it.
    pub(super) fn identity(&self) -> Vec<Vec<u8>> {
        let name = self.name().into_bytes();
        match &self.content {
            Content::Diff(bytes) => vec![b"diff".to_vec(), name, bytes.clone()],
            Content::Mbox(bytes) => vec![b"mbox".to_vec(), name, bytes.clone()],
            Content::Commits(bytes) => vec![b"commits".to_vec(), bytes.clone()],
            Content::Mails(mails) => [vec![b"mails".to_vec(), name], mails.clone()].concat(),
        }
    }
}

/// Whether a file is one mail or several, rather than a diff.
fn is_mail(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"From ") {
        return true;
    }
    let mut named = false;
    for line in lines(bytes).take_while(|line| !line.is_empty()) {
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

/// A plain diff with its line ends as git wants them: a file that was saved with
/// others has them in the diff's own lines too.
pub(super) fn plain_diff(bytes: &[u8]) -> Vec<u8> {
    let heads = |line: &&[u8]| line.starts_with(b"--- ") || line.starts_with(b"+++ ");
    let raw = || bytes.split(|&b| b == b'\n');
    let mut headed = raw().filter(heads).peekable();
    if headed.peek().is_none() || !headed.all(|line| line.ends_with(b"\r")) {
        return bytes.to_vec();
    }
    let plain = raw().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    plain.collect::<Vec<_>>().join(&b'\n')
}

/// Reads several series: the parts of each, in their order.
pub(super) fn all(series: &[PathBuf]) -> Result<Vec<Vec<Part>>, Vec<Problem>> {
    let (mut read, mut problems) = (Vec::new(), Vec::new());
    for path in series {
        match one(path) {
            Ok(parts) => read.push(parts),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(read) } else { Err(problems) }
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
fn one(path: &Path) -> Result<Vec<Part>, Problem> {
    let shown = path.display();
    if let Some(range) = path.to_str().and_then(|text| text.strip_prefix("git:")) {
        return commits(range).map(|part| vec![part]);
    }
    let cannot = |error| {
        Problem::new(AT, format!("cannot read {shown}: {error}"))
            .hint("name a .patch or .diff file, an mbox, a maildir, or a directory of patches")
    };
    if !fs::metadata(path).map_err(cannot)?.is_dir() {
        let part = Part::file(path.into(), bytes_of(path).map_err(cannot)?);
        return has_diff(&part, false).map(|()| vec![part]);
    }
    if MAILDIR.iter().all(|dir| path.join(dir).is_dir()) {
        let mut mails = Vec::new();
        for file in MAILDIR.iter().map(|dir| files_of(&path.join(dir))) {
            for file in file.map_err(cannot)? {
                mails.push(bytes_of(&file).map_err(cannot)?);
            }
        }
        if mails.is_empty() {
            return Err(Problem::new(AT, format!("the maildir {shown} holds no mail")));
        }
        return Ok(vec![Part { path: path.into(), content: Content::Mails(mails) }]);
    }
    let mut parts = Vec::new();
    for path in files_of(path).map_err(cannot)? {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ENDINGS.contains(&ending) {
            let bytes = bytes_of(&path).map_err(cannot)?;
            let part = Part::file(path, bytes);
            has_diff(&part, true)?;
            parts.push(part);
        }
    }
    if parts.iter().any(|part| has_diff(part, false).is_ok()) {
        Ok(parts)
    } else {
        Err(Problem::new(AT, format!("the directory {shown} holds no patch"))
            .hint(format!("a patch's name ends in one of .{}", ENDINGS.join(", ."))))
    }
}

/// What a directory holds that is no directory, by name.
fn files_of(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = entries.collect::<std::io::Result<_>>()?;
    paths.retain(|path| !path.is_dir());
    paths.sort();
    Ok(paths)
}

/// Divides `PATH@A..B`; the path may be missing. An `@` in front of a brace belongs
/// to a revision, as in `HEAD@{1}`.
pub(super) fn divide(text: &str) -> (&str, &str) {
    let at = text.char_indices().rev().find(|&(i, c)| {
        c == '@' && !text[i + 1..].starts_with('{') && text[i + 1..].contains("..")
    });
    at.map_or(("", text), |(i, _)| (&text[..i], &text[i + 1..]))
}

/// The range `PATH@A..B`, with a path that is absolute.
fn commits(text: &str) -> Result<Part, Problem> {
    let form = "write git:A..B, or git:PATH@A..B for those of another repository";
    let wrong = |what: String| Problem::new(AT, what).hint(form);
    let (path, range) = divide(text);
    let ends = range.split_once("..").filter(|(from, to)| {
        let sound = |rev: &str| !rev.is_empty() && !rev.starts_with(['-', '.']);
        sound(from) && sound(to) && !to.contains("..")
    });
    let Some((from, to)) = ends else {
        return Err(wrong(format!("`{range}` is no range of commits")));
    };
    let machine = |error: anyhow::Error| Problem::new(AT, format!("{error:#}"));
    let Some(place) = Place::find(Path::new(path)).map_err(machine)? else {
        return Err(wrong(format!("{path} is not in a git repository")));
    };
    let commit = |rev: &str| match place.commit(rev).map_err(machine)? {
        Some(commit) => Ok(commit),
        None => Err(wrong(format!("{path} has no commit `{rev}`"))),
    };
    let range = format!("{}..{}", commit(from)?, commit(to)?);
    let git = Git::theirs(&place);
    let ask = |args: &[&str]| git.ask(args).map_err(machine);
    let counted = |more: &[&str]| -> Result<String, Problem> {
        Ok(ask(&[&["rev-list", "--count"], more, &[&range, "--"]].concat())?.text())
    };
    if counted(&[])? == "0" {
        return Err(wrong(format!("git:{text} has no commits")));
    }
    if counted(&["--min-parents=2"])? != "0" {
        return Err(Problem::new(
            AT,
            format!("git:{text} has merges, and a series is a line of patches"),
        )
        .hint(format!("test its end as it is: --kernel git:{path}@{to}")));
    }
    let said = ask(&[FORMAT_PATCH, &[&range, "--"]].concat())?;
    if !said.success {
        return Err(wrong(format!("git:{text} cannot be read: {}", said.complaints.join("; "))));
    }
    Ok(Part { path: format!("git:{text}").into(), content: Content::Commits(said.out) })
}

/// Commits as mails, whatever the repository's own settings say.
const FORMAT_PATCH: &[&str] = &[
    "format-patch",
    "--stdout",
    "--keep-subject",
    "--no-numbered",
    "--no-cover-letter",
    "--no-signature",
    "--no-attach",
    "--no-thread",
    "--no-to",
    "--no-cc",
    "--no-base",
    "--no-notes",
    "--zero-commit",
    "--full-index",
    "--binary",
    "--no-renames",
    "--no-ext-diff",
    "--no-textconv",
];

/// Whether there is a diff in a file. A cover letter among others needs none.
fn has_diff(part: &Part, among_others: bool) -> Result<(), Problem> {
    let (bytes, mail) = match &part.content {
        Content::Diff(bytes) => (bytes, false),
        Content::Mbox(bytes) => (bytes, true),
        // These are looked into when they are taken apart.
        Content::Mails(_) | Content::Commits(_) => return Ok(()),
    };
    if diff_in(bytes) || (among_others && mail && is_cover(bytes)) {
        return Ok(());
    }
    // A diff that is encoded for the mail can only be seen by decoding it.
    let encoded = |line: &[u8]| {
        let line = line.to_ascii_lowercase();
        line.starts_with(b"content-transfer-encoding:")
            && (line.ends_with(b"base64") || line.ends_with(b"quoted-printable"))
    };
    if mail && lines(bytes).any(encoded) {
        return Ok(());
    }
    let what = if bytes.is_empty() { "is empty" } else { "has no diff in it" };
    Err(Problem::new(AT, format!("{} {what}", part.path.display()))
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
fn is_cover(mail: &[u8]) -> bool {
    let mut subject = Vec::new();
    let mut inside = false;
    for line in lines(mail).take_while(|line| !line.is_empty()) {
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
        inside = if folded { inside } else { line.to_ascii_lowercase().starts_with(b"subject:") };
        if inside {
            subject.extend_from_slice(line.strip_prefix(b"Subject:").unwrap_or(line));
        }
    }
    let subject = String::from_utf8_lossy(&subject);
    !subject.trim().is_empty() && Tag::read(&subject).0.is_talk()
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

    #[test]
    fn mails_are_told_from_diffs() {
        let check = |text: &str, mail: bool| assert_eq!(is_mail(text.as_bytes()), mail, "{text:?}");
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
        let check = |text: &[u8], expect: &[u8]| assert_eq!(plain_diff(text), expect);
        check(b"--- a/x\r\n+++ b/x\r\n-a\r\n", b"--- a/x\n+++ b/x\n-a\n");
        check(b"--- a/x\n+++ b/x\n-a\r\n", b"--- a/x\n+++ b/x\n-a\r\n");
        check(b"", b"");
    }

    #[test]
    fn a_range_has_a_repository_or_not() {
        for (text, divided) in [
            ("/linux@v6.1..topic", ("/linux", "v6.1..topic")),
            ("../me@home@HEAD@{1}..HEAD", ("../me@home", "HEAD@{1}..HEAD")),
            ("HEAD@{1}..HEAD", ("", "HEAD@{1}..HEAD")),
            ("v6.1..me@home", ("", "v6.1..me@home")),
        ] {
            assert_eq!(divide(text), divided);
        }
    }

    #[test]
    fn subjects_are_fit_to_be_shown() {
        let check = |text: &str, expect: &str| assert_eq!(subject(text, "a.patch"), expect);
        check("mm: fix\n it", "mm: fix it");
        check("mm: \x1b[31mred", "mm: [31mred");
        check(" \n", "a.patch");
    }
}
