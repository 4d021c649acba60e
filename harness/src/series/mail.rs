//! From mails to patches, by git's own readers of mail.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::flow::Stage;
use crate::git::Git;
use crate::series::read::{self, PatchFile};
use crate::stop::{Fault, Problem, Stop};

/// A patch of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patch {
    /// The name of the file that it comes from.
    pub(super) file: String,
    /// Its subject, without the `[PATCH n/m]` in front.
    pub(super) subject: String,
    /// The rest of what it says.
    pub(super) text: String,
    /// Name and address of its author, if it names one.
    pub(super) author: Option<(String, String)>,
    /// The diff.
    pub(super) diff: Vec<u8>,
}

/// Parts files into patches; what has no diff is left out.
pub(super) async fn part(
    ctx: &Context,
    git: &Git,
    files: &[PatchFile],
) -> Result<Vec<Patch>, Stop> {
    let work = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(ctx.store.dir("series")?)
        .context("cannot write to the store")?;
    let mut patches = Vec::new();
    for file in files {
        ctx.interrupt.check()?;
        if file.is_mail() {
            patches.extend(mails(git, file, work.path())?);
        } else {
            let name = file.name();
            let (subject, text) = (read::subject(&name, &name), String::new());
            let diff = file.diff();
            patches.push(Patch { file: name, subject, text, author: None, diff });
        }
    }
    Ok(patches)
}

/// The patches of a file with mails in it.
fn mails(git: &Git, file: &PatchFile, work: &Path) -> Result<Vec<Patch>, Stop> {
    let cannot = "cannot write to the store";
    let split = tempfile::tempdir_in(work).context(cannot)?;
    let all = split.path().join("all");
    let dir = split.path().join("mails");
    fs::create_dir(&dir).context(cannot)?;
    fs::write(&all, &file.bytes).context(cannot)?;
    let into = format!("-o{}", dir.display());
    let said = git.ask(&["mailsplit", "-b", "-d6", &into, "--", &all.to_string_lossy()])?;
    if !said.success {
        return Err(unreadable(file, &said.complaints));
    }
    let mut names: Vec<_> =
        fs::read_dir(&dir).context(cannot)?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    let mut patches = Vec::new();
    for name in names {
        let mail = fs::read(&name).context(cannot)?;
        if let Some(patch) = mail_patch(git, file, &mail, split.path())? {
            patches.push(patch);
        } else if !read::is_cover(&mail) {
            let problem =
                format!("{} has a mail that says it is a patch and has no diff", file.name());
            return Err(Stop::usage(
                Problem::new("--series", problem).hint("is it cut short? fetch it again"),
            ));
        }
    }
    if patches.is_empty() && !read::is_cover(&file.bytes) {
        let what = format!("{} has no diff in it", file.path.display());
        return Err(Stop::usage(Problem::new("--series", what)));
    }
    Ok(patches)
}

/// The patch in a mail, if there is one.
fn mail_patch(
    git: &Git,
    file: &PatchFile,
    mail: &[u8],
    work: &Path,
) -> Result<Option<Patch>, Stop> {
    let (text, diff) = (work.join("text"), work.join("diff"));
    let shell = xshell::Shell::new().context("no current directory")?;
    let args = ["mailinfo", "-u", &text.to_string_lossy(), &diff.to_string_lossy()];
    let said = crate::git::ask(git.cmd(&shell, &args).stdin(mail))?;
    if !said.success {
        return Err(unreadable(file, &said.complaints));
    }
    let diff = fs::read(&diff).context("reading a patch")?;
    if !read::diff_in(&diff) {
        return Ok(None);
    }
    let header = String::from_utf8_lossy(&said.out).into_owned();
    let field = |key: &str| {
        let value = header.lines().find_map(|line| line.strip_prefix(key))?.strip_prefix(": ")?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let subject = read::subject(&field("Subject").unwrap_or_default(), &file.name());
    let text = fs::read(&text).context("reading a patch")?;
    Ok(Some(Patch {
        file: file.name(),
        subject,
        text: String::from_utf8_lossy(&text).replace('\0', "").trim().to_owned(),
        author: field("Author").and_then(|name| ident(&name, &field("Email")?)),
        diff,
    }))
}

/// A name and an address that git takes; `None` if nothing is left of one.
fn ident(name: &str, email: &str) -> Option<(String, String)> {
    let clean = |text: &str| -> Option<String> {
        let kept = text.chars().filter(|c| !c.is_control() && !"<>".contains(*c));
        let kept = kept.collect::<String>().trim().to_owned();
        // Git takes these off at both ends, and refuses what is then empty.
        kept.chars().any(char::is_alphanumeric).then_some(kept)
    };
    Some((clean(name)?, clean(email)?))
}

fn unreadable(file: &PatchFile, complaints: &[String]) -> Stop {
    let what = format!("{} cannot be read as a mail", file.path.display());
    Stop::Kernel(Fault::new(what).at(Stage::Series).details(complaints.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authors_are_what_git_takes() {
        let check = |name: &str, email: &str, expect: Option<(&str, &str)>| {
            let expect = expect.map(|(n, e)| (n.to_owned(), e.to_owned()));
            assert_eq!(ident(name, email), expect);
        };
        check("A B", "a@b", Some(("A B", "a@b")));
        check("A <B>", "a@b\n", Some(("A B", "a@b")));
        check("..", "a@b", None);
        check("A", "", None);
    }
}
