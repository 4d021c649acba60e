//! From mails to patches, by git's own readers of mail.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::flow::Stage;
use crate::git::{self, Git};
use crate::series::base::Base;
use crate::series::read::{self, Content, Part};
use crate::series::thread::{self, Picked, Tag};
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

/// A series, taken apart.
#[derive(Debug, Default)]
pub(super) struct Parted {
    /// Its patches, in order.
    pub(super) patches: Vec<Patch>,
    /// What it says that it was made for.
    pub(super) base: Base,
    /// What a person should know of it.
    pub(super) notes: Vec<String>,
}

/// Takes several series apart into patches; what has no diff is left out. Of the
/// last one only the `first` are taken, if that is said.
///
/// # Errors
/// [`Stop::Usage`] for what is no series, or has not so many patches.
pub(super) async fn part(
    ctx: &Context,
    git: &Git,
    series: &[Vec<Part>],
    first: Option<usize>,
) -> Result<Parted, Stop> {
    let mut all = Parted::default();
    for (n, parts) in series.iter().enumerate() {
        let mut parted = one(ctx, git, parts).await?;
        if let Some(first) = first.filter(|_| n + 1 == series.len()) {
            let there = parted.patches.len();
            if first > there {
                let what = format!("the last series has {there} patches, and not {first}");
                return Err(Stop::usage(Problem::new("--first", what)));
            }
            parted.patches.truncate(first);
        }
        all.patches.extend(parted.patches);
        all.base.add(parted.base);
        all.notes.extend(parted.notes);
    }
    Ok(all)
}

/// Takes one series apart.
pub(super) async fn one(ctx: &Context, git: &Git, parts: &[Part]) -> Result<Parted, Stop> {
    let work = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(ctx.store.dir("series")?)
        .context("cannot write to the store")?;
    let reader = Reader { git, work: work.path() };
    let mut parted = Parted::default();
    for part in parts {
        ctx.interrupt.check()?;
        match &part.content {
            Content::Diff(bytes) => {
                let (name, text) = (part.name(), String::new());
                let (subject, diff) = (read::subject(&name, &name), read::plain_diff(bytes));
                let patch = Patch { file: name, subject, text, author: None, diff };
                parted.patches.push(patch);
            }
            Content::Mbox(bytes) => reader.thread(part, reader.split(part, bytes)?, &mut parted)?,
            Content::Mails(mails) => reader.thread(part, mails.clone(), &mut parted)?,
            Content::Commits(bytes) => {
                for mail in reader.split(part, bytes)? {
                    let letter = reader.letter(part, &mail)?;
                    let subject = letter.subject.clone();
                    parted.patches.push(letter.patch(&subject));
                }
            }
        }
    }
    Ok(parted)
}

/// Reads mails by way of files in a directory of its own.
struct Reader<'a> {
    git: &'a Git,
    work: &'a Path,
}

impl Reader<'_> {
    /// The mails of an mbox.
    fn split(&self, part: &Part, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Stop> {
        let cannot = "cannot write to the store";
        let split = tempfile::tempdir_in(self.work).context(cannot)?;
        let all = split.path().join("all");
        let dir = split.path().join("mails");
        fs::create_dir(&dir).context(cannot)?;
        fs::write(&all, bytes).context(cannot)?;
        let into = format!("-o{}", dir.display());
        let said =
            self.git.ask(&["mailsplit", "-b", "-d6", &into, "--", &all.to_string_lossy()])?;
        if !said.success {
            return Err(unreadable(part, &said.complaints));
        }
        let mut names: Vec<_> =
            fs::read_dir(&dir).context(cannot)?.flatten().map(|entry| entry.path()).collect();
        names.sort();
        let read = names.iter().map(fs::read).collect::<std::io::Result<_>>();
        Ok(read.context("reading a mail")?)
    }

    /// The series of a thread.
    fn thread(&self, part: &Part, mails: Vec<Vec<u8>>, parted: &mut Parted) -> Result<(), Stop> {
        let letters: Vec<Letter> =
            mails.iter().map(|mail| self.letter(part, mail)).collect::<Result<_, Stop>>()?;
        let talk: Vec<(u32, Base)> = letters
            .iter()
            .filter(|letter| letter.tag.number.is_some_and(|(n, _)| n == 0) && !letter.tag.reply)
            .map(|letter| (letter.tag.version, letter.base.clone()))
            .collect();
        let shown = part.path.display();
        let Picked { series, left_out } = thread::pick(letters).map_err(|why| {
            Stop::usage(
                Problem::new("--series", format!("{shown}: {why}"))
                    .hint("get the whole thread, or name the patches one by one"),
            )
        })?;
        if series.is_empty() && talk.is_empty() {
            let what = format!("{shown} has no patch in it");
            return Err(Stop::usage(Problem::new("--series", what)));
        }
        let version = series.iter().map(|letter| letter.tag.version).max();
        if !left_out.is_empty() {
            let (n, s) = (series.len(), if series.len() == 1 { "" } else { "es" });
            let version = version.map_or(String::new(), |version| format!(" of v{version}"));
            parted.notes.push(format!(
                "{}: {n} patch{s}{version} taken, left out: {}",
                part.name(),
                left_out.join(", ")
            ));
        }
        for (of, base) in talk {
            if Some(of) == version {
                parted.base.add(base);
            }
        }
        for letter in series {
            parted.base.add(letter.base.clone());
            let title = letter.title.clone();
            parted.patches.push(letter.patch(&title));
        }
        Ok(())
    }

    /// What a mail says.
    fn letter(&self, part: &Part, mail: &[u8]) -> Result<Letter, Stop> {
        let (text, diff) = (self.work.join("text"), self.work.join("diff"));
        let shell = xshell::Shell::new().context("no current directory")?;
        let (text_name, diff_name) = (text.to_string_lossy(), diff.to_string_lossy());
        let args = ["mailinfo", "-k", "-u", "--quoted-cr=strip", &text_name, &diff_name];
        let said = git::ask(self.git.cmd(&shell, &args).stdin(mail))?;
        if !said.success {
            return Err(unreadable(part, &said.complaints));
        }
        let diff = fs::read(&diff).context("reading a patch")?;
        let text = fs::read(&text).context("reading a patch")?;
        let header = String::from_utf8_lossy(&said.out).into_owned();
        let field = |key: &str| {
            let value =
                header.lines().find_map(|line| line.strip_prefix(key))?.strip_prefix(": ")?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let subject = field("Subject").unwrap_or_default();
        let (mut tag, title) = Tag::read(&subject);
        if tag.is_talk() && read::diff_in(&diff) {
            // A subject in the body takes the place of the mail's own, and its tag.
            let outer = ["mailinfo", "-k", "-u", "--no-inbody-headers", "/dev/null", "/dev/null"];
            let said = git::ask(self.git.cmd(&shell, &outer).stdin(mail))?.text();
            let own = said.lines().find_map(|line| line.strip_prefix("Subject: "));
            tag = own.map_or(tag, |own| Tag::read(own).0);
        }
        let base = Base::read([&text, &diff]);
        Ok(Letter {
            file: part.name(),
            title: read::subject(title, &part.name()),
            tag,
            base,
            text: String::from_utf8_lossy(&text).replace('\0', "").trim().to_owned(),
            author: field("Author").and_then(|name| ident(&name, &field("Email")?)),
            diff: if read::diff_in(&diff) { diff } else { Vec::new() },
            subject,
        })
    }
}

/// A mail that was read.
#[derive(Debug)]
struct Letter {
    file: String,
    /// As it stands there.
    subject: String,
    tag: Tag,
    /// Its own words.
    title: String,
    base: Base,
    text: String,
    author: Option<(String, String)>,
    diff: Vec<u8>,
}

impl Letter {
    fn patch(self, subject: &str) -> Patch {
        let Letter { file, text, author, diff, .. } = self;
        Patch { subject: read::subject(subject, &file), file, text, author, diff }
    }
}

impl thread::Mail for Letter {
    fn tag(&self) -> &Tag {
        &self.tag
    }

    fn title(&self) -> &str {
        &self.title
    }

    fn diff(&self) -> &[u8] {
        &self.diff
    }
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

fn unreadable(part: &Part, complaints: &[String]) -> Stop {
    let what = format!("{} cannot be read as a mail", part.path.display());
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
