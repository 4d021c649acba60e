//! Files on this machine as a tree: a git work tree with its uncommitted
//! changes, or a plain directory.
//!
//! The caller's files are read and nothing of theirs is written, no index, no
//! lock, no object. The store has a small repository for each directory: what
//! makes the second time quick is its index, which knows the files' times.

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xshell::Shell;

use crate::context::Context;
use crate::flow::Stage;
use crate::git::{self, Git, Place, Said, TreeId};
use crate::source::import::through;
use crate::source::{MAKE_SPACE, disk_full};
use crate::stop::{Fault, Stop};
use crate::store::digest;

/// So many files with other times mean that the index is stale, not that they
/// were edited: worth remembering what they hold.
const STALE: usize = 100;

/// Files of a kernel's source that its own rules ignore; git has them because
/// they were added by force. Distributions drop the rules that except the
/// first of these, and patches change them.
const RESCUED: &[&str] = &[
    "!.clang-format",
    "!.clippy.toml",
    "!.cocciconfig",
    "!.editorconfig",
    "!.get_maintainer.ignore",
    "!.gitattributes",
    "!.gitignore",
    "!.kunitconfig",
    "!.mailmap",
    "!.rustfmt.toml",
    "!/tools/testing/selftests/arm64/tags",
];

/// The tree of a work tree as it stands: tracked files with their uncommitted
/// changes.
pub(super) async fn tracked(
    ctx: &Context,
    git: &Git,
    place: &Place,
    top: &Path,
) -> Result<TreeId, Stop> {
    let what = format!("copy of {}", name(top));
    let _lock = ctx.store.lock(&what, &ctx.log, &ctx.interrupt).await?;
    let mut view = View::of(ctx, git, top, place.file_mode)?;
    let index = view.index.clone();
    view.index = copy_index(place, &view)?;
    let mut changes = view.changes()?;
    if changes.len() > STALE {
        ctx.log.progress(Stage::Source, format!("looking at {} files", changes.len()));
        // It fails where files did change: that is what is asked next.
        view.long(&["update-index", "-q", "--refresh"]).run(&ctx.interrupt, |_| ()).await?;
        changes = view.changes()?;
    }
    if !changes.is_empty() {
        unfinished_merge(top, &changes)?;
        copy(&view.index, &index).context("copying an index")?;
        view.index = index;
        let names = changes.into_iter().map(|change| change.path).collect();
        view.feed(&["--add", "--remove"], names).await?;
    }
    view.tree()
}

/// The tree of a directory's files, without what its own rules ignore.
pub(super) async fn plain(ctx: &Context, git: &Git, top: &Path) -> Result<TreeId, Stop> {
    let what = format!("copy of {}", name(top));
    let _lock = ctx.store.lock(&what, &ctx.log, &ctx.interrupt).await?;
    let view = View::of(ctx, git, top, true)?;
    let rules = rules(git, top)?;
    let list = |which: &[&str]| -> Result<Vec<Vec<u8>>> {
        let args = [&["ls-files", "-z", "--exclude-per-directory=.gitignore"], which].concat();
        let rules = rules.iter().flat_map(|rule| ["-x", rule]);
        let said = view.ask(&args.into_iter().chain(rules).collect::<Vec<_>>())?;
        Ok(names(&said.out))
    };
    let mut found: Vec<_> = view.changes()?.into_iter().map(|change| change.path).collect();
    found.extend(list(&["--others"])?);
    // A name with a slash at its end is a repository of its own inside.
    found.retain(|path| !path.ends_with(b"/"));
    if found.len() > STALE {
        ctx.log.progress(Stage::Source, format!("reading {} files", found.len()));
    }
    view.feed(&["--add", "--remove"], found).await?;
    view.feed(&["--force-remove"], list(&["--cached", "--ignored"])?).await?;
    view.tree()
}

/// A directory of the caller's as seen through an index of ours.
struct View<'a> {
    ctx: &'a Context,
    git: Git,
    top: PathBuf,
    index: PathBuf,
    file_mode: bool,
}

/// A tracked file that is not what the index says, as far as its times tell.
struct Change {
    path: Vec<u8>,
    unmerged: bool,
}

impl<'a> View<'a> {
    fn of(ctx: &'a Context, git: &Git, top: &Path, file_mode: bool) -> Result<Self> {
        let entry = format!("copies/{}", name(top));
        let dir = ctx.store.path(&entry);
        let git = git.seen_from(&dir)?;
        ctx.store.touch(&entry);
        for lock in ["index.lock", "base.lock"] {
            // Left by a run that was killed; this one has the directory to itself.
            if let Err(error) = fs::remove_file(dir.join(lock))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error).context("cannot remove a lock that was left behind");
            }
        }
        let index = dir.join("index");
        Ok(View { ctx, git, top: top.into(), index, file_mode })
    }

    /// The arguments of a command that works on the directory. Every file goes
    /// straight into one pack rather than into a file of its own.
    fn args<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        let mode = if self.file_mode { "core.fileMode=true" } else { "core.fileMode=false" };
        let fixed = ["-c", mode, "-c", "core.bigFileThreshold=1", "-c", "core.bare=false"];
        fixed.into_iter().chain(args.iter().copied()).collect()
    }

    fn ask(&self, args: &[&str]) -> Result<Said> {
        let shell = Shell::new()?;
        shell.change_dir(&self.top);
        let cmd = self.git.cmd_with_index(&shell, &self.index, &self.args(args));
        let said = git::ask(cmd.env("GIT_WORK_TREE", &self.top))?;
        anyhow::ensure!(
            said.success,
            "git cannot read {}: {}",
            self.top.display(),
            said.complaints.join("; ")
        );
        Ok(said)
    }

    fn long(&self, args: &[&str]) -> crate::proc::Cmd {
        self.git
            .long(&self.args(args))
            .dir(&self.top)
            .env("GIT_WORK_TREE", &self.top)
            .env("GIT_INDEX_FILE", &self.index)
    }

    /// Files whose times, size or mode differ from what the index knows.
    fn changes(&self) -> Result<Vec<Change>> {
        let raw = self.ask(&["diff-files", "-z", "--raw", "--ignore-submodules=all"])?.out;
        let mut words = raw.split(|&b| b == 0);
        let mut found: Vec<Change> = Vec::new();
        while let (Some(head), Some(path)) = (words.next().filter(|w| !w.is_empty()), words.next())
        {
            // An unmerged file comes twice, the second time as modified.
            if found.last().is_none_or(|last| last.path != path) {
                found.push(Change { path: path.to_vec(), unmerged: head.ends_with(b"U") });
            }
        }
        Ok(found)
    }

    /// Gives `git update-index` names of files.
    async fn feed(&self, args: &[&str], names: Vec<Vec<u8>>) -> Result<(), Stop> {
        if names.is_empty() {
            return Ok(());
        }
        let list = (|| -> std::io::Result<File> {
            let mut list = tempfile::tempfile_in(self.git.dir())?;
            for name in names {
                list.write_all(&name)?;
                list.write_all(b"\0")?;
            }
            list.rewind()?;
            Ok(list)
        })()
        .context("cannot write to the store")?;
        let args = [&["update-index", "-z"], args, &["--stdin"]].concat();
        let ended = through(&self.long(&args), "<&3")
            .run_with(vec![list.into()], &self.ctx.interrupt, |_| ())
            .await?;
        if ended.success() {
            return Ok(());
        }
        let what = format!("git cannot read the files in {}", self.top.display());
        let hint =
            if disk_full(&ended.tail) { MAKE_SPACE } else { "can you read all of its files?" };
        let fault = Fault::new(what).at(Stage::Source).details(ended.tail);
        Err(Stop::Machine(fault.hint(hint)))
    }

    /// The index as a tree.
    fn tree(&self) -> Result<TreeId, Stop> {
        Ok(TreeId(self.ask(&["write-tree"])?.text()))
    }
}

/// The name of a directory's entry in the store.
fn name(top: &Path) -> String {
    digest([top.as_os_str().as_bytes()])[..16].to_owned()
}

fn names(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|&b| b == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Our copy of the caller's index: made anew when theirs is another one.
fn copy_index(place: &Place, view: &View<'_>) -> Result<PathBuf> {
    let dir = view.git.dir();
    let (base, stamp) = (dir.join("base"), dir.join("base.stamp"));
    let meta = fs::metadata(&place.index)
        .with_context(|| format!("cannot read {}", place.index.display()))?;
    let now = format!(
        "{} {} {} {} {}",
        place.index.display(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    if base.exists() && fs::read_to_string(&stamp).is_ok_and(|then| then == now) {
        return Ok(base);
    }
    // A split index is two files; the second is looked for in the repository.
    for entry in fs::read_dir(&place.dir)?.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("sharedindex.") {
            copy(&entry.path(), &dir.join(name)).context("copying an index")?;
        }
    }
    copy(&place.index, &base).context("copying an index")?;
    fs::write(stamp, now).context("cannot write to the store")?;
    Ok(base)
}

/// Copies a file with its time: git distrusts entries of an index that are as
/// young as the index itself, and a later time would hide changes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from)?;
    let time = source.metadata()?.modified()?;
    let mut made = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(to.parent().context("a file lies in a directory")?)?;
    std::io::copy(&mut source, made.as_file_mut())?;
    made.as_file().set_modified(time)?;
    made.persist(to)?;
    Ok(())
}

/// A merge may be going on; what was resolved in the file is taken as it
/// stands, but a file with conflict markers is no source.
fn unfinished_merge(top: &Path, changes: &[Change]) -> Result<(), Stop> {
    for change in changes.iter().filter(|change| change.unmerged) {
        let path = top.join(std::ffi::OsStr::from_bytes(&change.path));
        // A file that is gone was resolved by deleting it.
        let Ok(text) = fs::read(&path) else { continue };
        if text.split(|&b| b == b'\n').any(|line| line.starts_with(b"<<<<<<< ")) {
            let what = format!("{} has merge conflicts", path.display());
            let fault = Fault::new(what).at(Stage::Source);
            return Err(Stop::Kernel(fault.hint("resolve them, or name a commit: git:PATH@HEAD")));
        }
    }
    Ok(())
}

/// The rules to read a directory by, in addition to its own.
///
/// A distribution's source ignores everything at the top, since the
/// distribution keeps only its packaging in git. Such a rule is undone for
/// each entry at the top that the other rules there do not ignore.
fn rules(git: &Git, top: &Path) -> Result<Vec<String>> {
    let mut rules: Vec<String> = Vec::new();
    let own = fs::read_to_string(top.join(".gitignore")).unwrap_or_default();
    let (everything, others): (Vec<&str>, Vec<&str>) =
        own.lines().partition(|line| matches!(line.trim(), "/*" | "/**" | "*"));
    if !everything.is_empty() {
        rules.extend(not_ignored(git, top, &others.join("\n"))?);
    }
    rules.extend(RESCUED.iter().map(|&rule| rule.to_owned()));
    Ok(rules)
}

/// Exceptions for the entries of `top` that `rules` do not ignore.
fn not_ignored(git: &Git, top: &Path, rules: &str) -> Result<Vec<String>> {
    let empty = tempfile::tempdir().context("cannot make a directory")?;
    fs::write(empty.path().join(".gitignore"), rules)?;
    let mut entries = Vec::new();
    for entry in fs::read_dir(top)? {
        let entry = entry?;
        // A rule for directories only knows one by the slash.
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        entries.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    let shell = Shell::new()?;
    shell.change_dir(empty.path());
    let args = ["-c", "core.bare=false", "check-ignore", "--no-index", "-z", "--stdin"];
    let ignored =
        git.cmd(&shell, &args).env("GIT_WORK_TREE", empty.path()).stdin(entries.join("\0"));
    let ignored = names(&git::ask(ignored)?.out);
    Ok(entries
        .iter()
        .filter(|entry| !ignored.iter().any(|name| name == entry.as_bytes()))
        .map(|entry| format!("!/{}", literal(entry.trim_end_matches('/'))))
        .collect())
}

/// A name as a pattern that matches only it.
fn literal(name: &str) -> String {
    let special = |c: char| matches!(c, '\\' | '*' | '?' | '[' | ' ');
    name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_a_pattern_for_itself() {
        assert_eq!(literal("mm"), "mm");
        assert_eq!(literal("a b*[c]"), r"a\ b\*\[c]");
    }
}
