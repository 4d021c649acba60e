//! Patches into an index, one after the other, each a commit.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use xshell::Shell;

use crate::context::Context;
use crate::flow::Stage;
use crate::git::{self, Git, Said, TreeId};
use crate::results::AppliedPatch;
use crate::series::hunk;
use crate::series::mail::Patch;
use crate::stop::{Fault, Stop};

/// What became of patches on a tree.
#[derive(Debug)]
pub(super) struct Applied {
    /// The tree after the last of them.
    pub(super) tree: TreeId,
    /// Each as a commit.
    pub(super) patches: Vec<AppliedPatch>,
    /// Which of them did not fit as they are, and went in all the same.
    pub(super) notes: Vec<String>,
}

/// Applies all patches to a tree.
pub(super) async fn all(
    ctx: &Context,
    git: &Git,
    tree: &TreeId,
    patches: &[Patch],
) -> Result<Applied, Stop> {
    let work = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(ctx.store.dir("series")?)
        .context("cannot write to the store")?;
    let index = Index {
        git,
        file: work.path().join("index"),
        shell: Shell::new().context("no current directory")?,
    };
    index.must(&["read-tree", &tree.0])?;
    let mut tree = tree.clone();
    let mut parent = index.must(&["commit-tree", &tree.0, "-m", "source"])?;
    let mut applied = Vec::new();
    let mut notes = Vec::new();
    for (n, patch) in patches.iter().enumerate() {
        // Signals are told by another task, which must get its turn.
        tokio::task::yield_now().await;
        ctx.interrupt.check()?;
        ctx.log.progress(Stage::Series, format!("{}/{} {}", n + 1, patches.len(), patch.subject));
        if let Some(how) = index.apply(patch, &tree, work.path())? {
            notes.push(format!("\"{}\" {how}", patch.subject));
        }
        tree = TreeId(index.must(&["write-tree"])?);
        parent = index.commit(patch, &tree, &parent)?;
        applied.push(AppliedPatch {
            subject: patch.subject.clone(),
            commit: parent.clone(),
            diff_sha256: format!("{:x}", Sha256::digest(&patch.diff)),
        });
    }
    Ok(Applied { tree, patches: applied, notes })
}

/// A private index.
struct Index<'a> {
    git: &'a Git,
    file: PathBuf,
    shell: Shell,
}

impl Index<'_> {
    fn ask(&self, args: &[&str]) -> Result<Said> {
        git::ask(self.git.cmd_with_index(&self.shell, &self.file, args))
    }

    /// What a command says that fails only if something is wrong with us.
    fn must(&self, args: &[&str]) -> Result<String> {
        git::run(self.git.cmd_with_index(&self.shell, &self.file, args))
    }

    /// Applies a patch: as it is, or else by merging. `tree` is what stands in the
    /// index. Returns what had to be done for it, if it did not fit as it is.
    fn apply(&self, patch: &Patch, tree: &TreeId, work: &Path) -> Result<Option<String>, Stop> {
        let file = work.join("diff");
        std::fs::write(&file, &patch.diff).context("cannot write to the store")?;
        let file = file.to_string_lossy();
        let try_it = |how: &[&str]| {
            let fixed = ["apply", "--cached", "--whitespace=nowarn", "--verbose"];
            self.ask(&[&fixed, how, &["--", &file]].concat())
        };
        let first = try_it(&[])?;
        if first.success {
            return Ok(hunk::offset(&first.complaints));
        }
        let name = format!("\"{}\" ({})", patch.subject, patch.file);
        let already = || {
            let what = format!("patch {name} is already applied to this tree");
            let fault = Fault::new(what).at(Stage::Series).hint("leave it out of the series");
            Err(Stop::Kernel(fault))
        };
        // Merging would take it for done without a word.
        if try_it(&["--check", "--reverse"])?.success {
            return already();
        }
        if try_it(&["--3way"])?.success {
            let changed = self.must(&["write-tree"])? != tree.0;
            let merged = "was merged, for it was made for another version of its files";
            return if changed { Ok(Some(merged.into())) } else { already() };
        }
        let failure = hunk::failure(&first.complaints, &patch.diff);
        let mut fault = Fault::new(format!("patch {name} does not apply: {failure}"))
            .at(Stage::Series)
            .details(first.complaints.iter().take(20).map(|line| hunk::printable(line)));
        if let (Some(file), Some(hunk)) = (&failure.file, &failure.hunk)
            && let Some(text) = self.git.file(tree, file)?
        {
            fault = fault
                .details([format!("{file} from line {} on:", hunk.line)])
                .details(hunk::around(&text, hunk.line));
        }
        Err(Stop::Kernel(
            fault.hint("rebase the series onto this kernel, or name the kernel it was made for"),
        ))
    }

    fn commit(&self, patch: &Patch, tree: &TreeId, parent: &str) -> Result<String> {
        let message = format!("{}\n\n{}", patch.subject, patch.text);
        let message = format!("{}\n", message.trim_end());
        let args = ["commit-tree", &tree.0, "-p", parent, "-F", "-"];
        let mut cmd = self.git.cmd(&self.shell, &args).stdin(message);
        if let Some((name, email)) = &patch.author {
            cmd = cmd.env("GIT_AUTHOR_NAME", name).env("GIT_AUTHOR_EMAIL", email);
        }
        git::run(cmd)
    }
}
