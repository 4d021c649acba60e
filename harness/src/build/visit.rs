//! A lane that shows another tree for a while, without a build.
//!
//! The files that differ are swapped and swapped back: the lane's own are put
//! aside and keep their time stamps, so that what was built from them stays as
//! good as it was. If we are killed in between, the lane's mark says that it is
//! between two trees, and the next move writes those files anew.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};

use super::lane::{Lane, remove_if_there};
use crate::context::Context;
use crate::series::PatchedTree;
use crate::stop::Stop;

/// How many names a command line takes.
const NAMES: usize = 1000;

/// A lane that shows another tree, until this is dropped.
#[derive(Debug)]
pub(crate) struct Visit<'l> {
    lane: &'l Lane,
    /// What is to be undone; nothing if the lane is at the tree anyway.
    swap: Option<Swap>,
}

impl Lane {
    /// Makes the source directory the same as a tree for a while.
    pub(crate) async fn visit(
        &self,
        ctx: &Context,
        source: &PatchedTree,
    ) -> Result<Visit<'_>, Stop> {
        let mut visit = Visit { lane: self, swap: None };
        let changes = match self.changes(ctx, source).await {
            Ok(changes) => changes,
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
            // It is between two trees, or at one that this repository cannot
            // read: there is no way back, and the next build has more to do.
            Err(_) => {
                self.move_to(ctx, source).await?;
                return Ok(visit);
            }
        };
        if changes.is_empty() {
            return Ok(visit);
        }
        let aside = self.aside();
        // What a killed visit has left: the next move has made it worthless.
        if aside.exists() {
            fs::remove_dir_all(&aside).context("cannot write to the lane")?;
        }
        fs::create_dir(&aside).context("cannot write to the lane")?;
        let (index, new) = (aside.join("index"), aside.join("new"));
        self.ask(ctx, source, &index, &["read-tree", &source.tree.0]).await?;
        let prefix = format!("--prefix={}/", new.display());
        let wanted: Vec<&str> = changes.iter().filter(|c| c.new).map(|c| c.name.as_str()).collect();
        for names in wanted.chunks(NAMES) {
            let args = [&["checkout-index", &prefix, "--"], names].concat();
            self.ask(ctx, source, &index, &args).await?;
        }
        fs::write(self.moving(), &source.tree.0).context("cannot write to the lane")?;
        let swap = visit.swap.insert(Swap { src: self.src(), aside, done: Vec::new() });
        swap.forth(&changes).context("cannot write to the lane")?;
        Ok(visit)
    }

    /// The files of the source directory that are others in a tree.
    async fn changes(&self, ctx: &Context, source: &PatchedTree) -> Result<Vec<Change>, Stop> {
        if self.moving().exists() {
            return Err(anyhow!("the lane is between two trees").into());
        }
        let index = self.index();
        let tree = self.ask(ctx, source, &index, &["write-tree"]).await?;
        let tree = tree.first().context("git named no tree")?;
        let args = ["diff-tree", "-r", "--no-renames", "--name-status", tree, &source.tree.0];
        let lines = self.ask(ctx, source, &index, &args).await?;
        let changes: Option<Vec<Change>> = lines.iter().map(|line| change(line)).collect();
        changes.ok_or_else(|| anyhow!("a file's name is not plain").into())
    }

    fn aside(&self) -> PathBuf {
        self.dir().join("aside")
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let Some(swap) = self.swap.take() else { return };
        // If anything fails the mark stays, and the next move sees to it.
        if swap.back().is_ok() && remove_if_there(&self.lane.moving()).is_ok() {
            // An empty shell, which the next visit removes as well.
            let _ = fs::remove_dir_all(self.lane.aside());
        }
    }
}

/// A file that two trees have otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    name: String,
    /// Whether the first tree has it.
    old: bool,
    /// Whether the second one has it.
    new: bool,
}

/// Reads a line of `git diff-tree --name-status`: `M`, a tab, and the name, in
/// quotes if it is not plain.
fn change(line: &str) -> Option<Change> {
    let (status, name) = line.split_once('\t')?;
    let plain = !name.starts_with('"');
    plain.then(|| Change { name: name.to_owned(), old: status != "A", new: status != "D" })
}

/// Files of a source directory that are swapped for others.
#[derive(Debug)]
struct Swap {
    src: PathBuf,
    /// Has the other files in `new`, and takes those of the source directory
    /// in `old`.
    aside: PathBuf,
    /// The renames that were done.
    done: Vec<(PathBuf, PathBuf)>,
}

impl Swap {
    /// Puts the other files into the source directory.
    fn forth(&mut self, changes: &[Change]) -> std::io::Result<()> {
        for Change { name, .. } in changes.iter().filter(|c| c.old) {
            self.rename(self.src.join(name), self.aside.join("old").join(name))?;
        }
        for Change { name, .. } in changes.iter().filter(|c| c.new) {
            self.rename(self.aside.join("new").join(name), self.src.join(name))?;
        }
        Ok(())
    }

    fn rename(&mut self, from: PathBuf, to: PathBuf) -> std::io::Result<()> {
        fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
        fs::rename(&from, &to)?;
        self.done.push((from, to));
        Ok(())
    }

    /// Undoes what was done.
    fn back(self) -> std::io::Result<()> {
        self.done.iter().rev().try_for_each(|(from, to)| fs::rename(to, from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_which_tree_has_a_file() {
        let check = |line: &str, name: &str, old, new| {
            assert_eq!(change(line), Some(Change { name: name.to_owned(), old, new }));
        };
        check("M\tmm/hmm.c", "mm/hmm.c", true, true);
        check("A\tmm/new.c", "mm/new.c", false, true);
        check("D\tmm/old.c", "mm/old.c", true, false);
        check("T\tlink", "link", true, true);
        assert_eq!(change("M\t\"mm/h\\\"mm.c\""), None);
        assert_eq!(change("warning: other"), None);
    }

    #[test]
    fn files_come_back_with_their_time_stamps() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = |name: &str| dir.path().join(name);
        for (name, text) in [
            ("src/mm/both.c", "old"),
            ("src/mm/gone.c", "old"),
            ("aside/new/mm/both.c", "new"),
            ("aside/new/fs/added.c", "new"),
        ] {
            fs::create_dir_all(path(name).parent().expect("in the directory")).expect("writable");
            fs::write(path(name), text).expect("writable");
        }
        let stamp =
            || fs::metadata(path("src/mm/both.c")).and_then(|m| m.modified()).expect("there");
        let before = stamp();
        let text = |name: &str| fs::read_to_string(path(name)).ok();
        let changes: Vec<_> = ["M\tmm/both.c", "D\tmm/gone.c", "A\tfs/added.c"]
            .iter()
            .map(|line| change(line).expect("plain"))
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(20));

        let mut swap = Swap { src: path("src"), aside: path("aside"), done: Vec::new() };
        swap.forth(&changes).expect("writable");
        assert_eq!(text("src/mm/both.c").as_deref(), Some("new"));
        assert_eq!(text("src/mm/gone.c"), None);
        assert_eq!(text("src/fs/added.c").as_deref(), Some("new"));
        swap.back().expect("writable");
        assert_eq!(text("src/mm/both.c").as_deref(), Some("old"));
        assert_eq!(text("src/mm/gone.c").as_deref(), Some("old"));
        assert_eq!(text("src/fs/added.c"), None);
        assert_eq!(stamp(), before);

        // What a file is missing for stops it half-way, and is undone too.
        let mut swap = Swap { src: path("src"), aside: path("aside"), done: Vec::new() };
        fs::remove_file(path("aside/new/fs/added.c")).expect("put back");
        swap.forth(&changes).expect_err("a file is missing");
        swap.back().expect("writable");
        assert_eq!(text("src/mm/both.c").as_deref(), Some("old"));
        assert_eq!(stamp(), before);
    }
}
