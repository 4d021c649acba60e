//! The first stage: from what `--kernel` says to a tree in the store.
//!
//! Whatever the scheme, the outcome is a git tree: the stages after this one
//! cannot tell a package from a work tree. Nothing is ever written where the
//! source comes from.

mod apt;
mod debian;
mod import;
mod mirrors;
mod parse;
mod place;
mod worktree;

use std::os::unix::ffi::OsStrExt as _;

pub use parse::{Package, Source};

use crate::context::Context;
use crate::flow::Stage;
use crate::git::{Git, Place, TreeId};
use crate::source::place::Found;
use crate::stop::{Fault, Problem, Stop};
use crate::store::digest;

/// A kernel's source in the store.
#[derive(Debug, Clone)]
pub struct SourceTree {
    /// The tree.
    pub tree: TreeId,
    /// The repository to read it from. For a git source the caller's objects
    /// stand beside the store's own.
    pub git: Git,
    /// The commit that it is the tree of, in full, if it is one's.
    pub commit: Option<String>,
    /// The source with what was left open filled in: versions, commits.
    pub described: String,
    /// VERSION, PATCHLEVEL and SUBLEVEL of its Makefile.
    pub version: (u32, u32, u32),
    /// Whether the store had it already.
    pub reused: bool,
}

impl Source {
    /// What is wrong with it that the caller can mend by asking for something
    /// else. Reads, writes nothing, and does not touch the network.
    pub fn check(&self) -> Vec<Problem> {
        match place::find(self) {
            Ok(Ok(_)) => Vec::new(),
            Ok(Err(problem)) => vec![problem],
            // That git cannot be run is the machine's fault: fetching says so.
            Err(_) => Vec::new(),
        }
    }
}

/// Brings a source into the store. `refresh` asks again which version a
/// package without one stands for.
///
/// # Errors
/// [`Stop::Usage`] for what [`Source::check`] says, [`Stop::Kernel`] when the
/// tree has no HMM tests, [`Stop::Machine`] when it cannot be had.
pub async fn fetch(ctx: &Context, source: &Source, refresh: bool) -> Result<SourceTree, Stop> {
    let store = Git::of(&ctx.store)?;
    let beside = |place: &Place| store.clone().with_alternate(&place.objects);
    let (tree, git, commit, described, reused) = match place::find(source)?.map_err(Stop::usage)? {
        Found::Package(package) => {
            let (tree, exact, reused) = debian::fetch(ctx, package, refresh).await?;
            (tree, store, None, Source::Debian(exact).to_string(), reused)
        }
        Found::Commit { place, commit } => {
            let git = beside(&place);
            let tree = tree_of(&git, &commit)?;
            let described = format!("{source} ({})", short(&commit));
            (tree, git, Some(commit), described, true)
        }
        Found::WorkTree { place, top } => {
            let git = beside(&place);
            let tree = worktree::tracked(ctx, &git, &place, &top).await?;
            let head = place.commit("HEAD")?;
            let at = head.as_deref().map_or("no commit", short);
            let clean = match &head {
                Some(commit) => tree_of(&git, commit)? == tree,
                None => false,
            };
            let state = if clean { "" } else { " with uncommitted changes" };
            let described = format!("{source} at {at}{state}");
            (tree, git, head.filter(|_| clean), described, clean)
        }
        Found::Dir(top) => {
            let tree = worktree::plain(ctx, &store, &top).await?;
            let last = format!("copies/last/{}", digest([top.as_os_str().as_bytes()]));
            let reused = ctx.store.read(&last)?.as_deref() == Some(tree.0.as_str());
            ctx.store.write(&last, &tree.0)?;
            (tree, store, None, source.to_string(), reused)
        }
    };
    let version = examine(&git, &tree, &described)?;
    Ok(SourceTree { tree, git, commit, described, version, reused })
}

/// The tree of a commit.
fn tree_of(git: &Git, commit: &str) -> Result<TreeId, Stop> {
    let said = git.ask(&["rev-parse", "--verify", &format!("{commit}^{{tree}}")])?;
    if !said.success {
        let what = format!("commit {commit} cannot be read: {}", said.complaints.join("; "));
        return Err(Stop::Machine(Fault::new(what).at(Stage::Source)));
    }
    Ok(TreeId(said.text()))
}

/// A commit's name as people write it.
fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// Whether a program's last words are that the disk is full: apt's, git's and
/// everybody else's.
fn disk_full(lines: &[String]) -> bool {
    let words = ["No space left", "Out of diskspace", "enough free space"];
    lines.iter().any(|line| words.iter().any(|words| line.contains(words)))
}

/// The next step then.
const MAKE_SPACE: &str = "free some space, or point HMM_HARNESS_CACHE at a disk that has it";

/// The file without which there is nothing to run.
const TESTED: &str = "lib/test_hmm.c";

/// The version of a tree that has what is tested.
fn examine(git: &Git, tree: &TreeId, described: &str) -> Result<(u32, u32, u32), Stop> {
    let makefile = git.file(tree, "Makefile")?.unwrap_or_default();
    let Some(version) = version_of(&makefile) else {
        let fault = Fault::new(format!("{described} is no kernel: its Makefile has no VERSION"));
        return Err(Stop::Kernel(fault.at(Stage::Source)));
    };
    if git.has(tree, &[TESTED])?.is_empty() {
        let (major, minor, _) = version;
        let what = format!("{described} ({major}.{minor}) has no {TESTED}");
        let fault = Fault::new(what).at(Stage::Source);
        return Err(Stop::Kernel(fault.hint("the HMM tests came with 5.8: name a later kernel")));
    }
    Ok(version)
}

/// VERSION, PATCHLEVEL and SUBLEVEL of a kernel's Makefile.
pub(crate) fn version_of(makefile: &str) -> Option<(u32, u32, u32)> {
    let number = |name: &str| {
        makefile.lines().take(40).find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().parse().ok())?
        })
    };
    Some((number("VERSION")?, number("PATCHLEVEL")?, number("SUBLEVEL").unwrap_or(0)))
}
