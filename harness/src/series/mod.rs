//! The second stage: patches on top of a source, as commits in the store.
//!
//! They go in by way of an index, never of a work tree. Who commits and when
//! is fixed, so that the same series on the same tree gives the same commits;
//! and it is applied as a whole or not at all.

mod apply;
mod base;
mod hunk;
mod mail;
mod read;
mod thread;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::git::{self, Git, TreeId};
use crate::results::AppliedPatch;
use crate::series::apply::Applied;
use crate::source::{SourceTree, version_of};
use crate::stop::{Problem, Stop};
use crate::store::digest;

/// A tree with a series in it.
#[derive(Debug, Clone)]
pub struct PatchedTree {
    /// The tree after the last patch.
    pub tree: TreeId,
    /// The repository to read it from.
    pub git: Git,
    /// The source that the series stands on.
    pub described: String,
    /// VERSION, PATCHLEVEL and SUBLEVEL of its Makefile.
    pub version: (u32, u32, u32),
    /// The patches, in order.
    pub patches: Vec<AppliedPatch>,
    /// Whether the store had it already.
    pub reused: bool,
}

/// Divides `PATH@A..B`, the range of commits that a `git:` names; the path may be
/// missing.
pub(crate) fn divide(range: &str) -> (&str, &str) {
    read::divide(range)
}

/// What is wrong with the paths of a series. Reads them and nothing else.
pub fn check(series: &[PathBuf]) -> Vec<Problem> {
    read::all(series).err().unwrap_or_default()
}

/// A patch that can be taken or left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Its subject.
    pub subject: String,
    /// Its author, by name and address; nothing for a plain diff.
    pub author: Option<String>,
    /// A digest of all that makes a difference to what comes of it.
    pub identity: String,
}

/// The patches of one series, in order.
///
/// # Errors
/// [`Stop::Usage`] for what [`check`] says.
pub async fn patches(ctx: &Context, series: &Path) -> Result<Vec<Offered>, Stop> {
    let parts = read::all(&[series.to_owned()]).map_err(|problems| Stop::Usage { problems })?;
    let git = Git::of(&ctx.store)?;
    let parted = mail::part(ctx, &git, &parts, None).await?;
    let offered = parted.patches.into_iter().map(|patch| Offered {
        identity: digest([patch.subject.as_bytes(), patch.text.as_bytes(), &patch.diff]),
        subject: patch.subject,
        author: patch.author.map(|(name, address)| format!("{name} <{address}>")),
    });
    Ok(offered.collect())
}

/// Applies several series to a source, of the last one only the `first` patches if
/// that is said.
///
/// # Errors
/// [`Stop::Usage`] for what [`check`] says, [`Stop::Kernel`] when a patch does
/// not apply.
pub async fn apply(
    ctx: &Context,
    source: SourceTree,
    series: &[PathBuf],
    first: Option<usize>,
) -> Result<PatchedTree, Stop> {
    let SourceTree { tree, git, described, version, reused, .. } = source;
    let parts = read::all(series).map_err(|problems| Stop::Usage { problems })?;
    if parts.is_empty() && first.is_none_or(|first| first == 0) {
        return Ok(PatchedTree { tree, git, described, version, patches: Vec::new(), reused });
    }
    let entry = entry(&tree, &parts, first);
    let (made, reused) = match remembered(ctx, &git, &entry)? {
        Some(made) => (made, true),
        None => (make(ctx, &git, &tree, &parts, first, &entry).await?, false),
    };
    for note in &made.notes {
        ctx.log.note(note.clone());
    }
    let version = version_after(&git, &made.tree, version)?;
    Ok(PatchedTree { tree: made.tree, git, described, version, patches: made.patches, reused })
}

/// Applies the parts of a series, and remembers what came of it.
async fn make(
    ctx: &Context,
    git: &Git,
    source: &TreeId,
    parts: &[Vec<read::Part>],
    first: Option<usize>,
    entry: &str,
) -> Result<Remembered<TreeId>, Stop> {
    let mail::Parted { patches, base, mut notes } = mail::part(ctx, git, parts, first).await?;
    let told = told(git, source, &patches, &base)?;
    let Applied { tree, patches, notes: applied } =
        apply::all(ctx, git, source, &patches).await.map_err(|stop| with_details(stop, &told))?;
    notes.extend(told);
    notes.extend(applied);
    let made = Remembered { tree: tree.0.clone(), patches, notes };
    let text = serde_json::to_string(&made).map_err(anyhow::Error::from)?;
    ctx.store.write(entry, &text)?;
    Ok(Remembered { tree, patches: made.patches, notes: made.notes })
}

/// What a person should know of what the series says that it was made for.
fn told(
    git: &Git,
    source: &TreeId,
    patches: &[mail::Patch],
    base: &base::Base,
) -> Result<Vec<String>, Stop> {
    let mut told = Vec::new();
    if let Some(commit) = &base.commit {
        let short = &commit[..12];
        let said = git.ask(&["rev-parse", "--verify", "--quiet", &format!("{commit}^{{tree}}")])?;
        let other = match said.success.then(|| said.text()) {
            Some(tree) if tree == source.0 => None,
            Some(_) => Some("and goes on another tree"),
            None => Some("which is not there to compare"),
        };
        told.extend(other.map(|how| format!("the series was made for commit {short}, {how}")));
    }
    if !base.prerequisites.is_empty() {
        let mut known = Vec::new();
        for patch in patches {
            known.extend(patch_id(git, &patch.diff)?);
        }
        let missing: Vec<&str> = base
            .prerequisites
            .iter()
            .filter(|id| !known.contains(id))
            .map(|id| &id[..12])
            .collect();
        if !missing.is_empty() {
            told.push(format!(
                "the series was made on top of patches that are not given here: {}",
                missing.join(", ")
            ));
        }
    }
    Ok(told)
}

/// The name that `git patch-id --stable` has for a diff.
fn patch_id(git: &Git, diff: &[u8]) -> Result<Option<String>, Stop> {
    let shell = xshell::Shell::new().context("no current directory")?;
    let said = git::ask(git.cmd(&shell, &["patch-id", "--stable"]).stdin(diff))?;
    Ok(said.text().split(' ').next().filter(|id| !id.is_empty()).map(str::to_owned))
}

/// The same stop, with what else there is to know of a patch that does not apply.
fn with_details(stop: Stop, details: &[String]) -> Stop {
    match stop {
        Stop::Kernel(fault) => Stop::Kernel(fault.details(details.iter().cloned())),
        other => other,
    }
}

/// What the store remembers of a series on a tree.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered<T = String> {
    tree: T,
    patches: Vec<AppliedPatch>,
    notes: Vec<String>,
}

/// Changes when the same series is read or applied otherwise.
const FORMAT: &str = "series 3";

/// The name of what the store remembers: of the tree and of all parts.
fn entry(tree: &TreeId, parts: &[Vec<read::Part>], first: Option<usize>) -> String {
    let identity: Vec<Vec<u8>> = parts.iter().flatten().flat_map(read::Part::identity).collect();
    let first = first.map_or("all".into(), |first| first.to_string());
    let fixed = [FORMAT.as_bytes(), tree.0.as_bytes(), first.as_bytes()];
    format!("series/{}.json", digest(fixed.into_iter().chain(identity.iter().map(Vec::as_slice))))
}

fn remembered(ctx: &Context, git: &Git, entry: &str) -> Result<Option<Remembered<TreeId>>, Stop> {
    let Some(text) = ctx.store.read(entry)? else { return Ok(None) };
    // What cannot be understood, or is gone, is made anew.
    let Ok(Remembered::<String> { tree, patches, notes }) = serde_json::from_str(&text) else {
        return Ok(None);
    };
    let tree = TreeId(tree);
    let whole = !git.has(&tree, &["Makefile"])?.is_empty();
    Ok(whole.then_some(Remembered { tree, patches, notes }))
}

/// A patch may change the version.
fn version_after(
    git: &Git,
    tree: &TreeId,
    before: (u32, u32, u32),
) -> Result<(u32, u32, u32), Stop> {
    let makefile = git.file(tree, "Makefile")?;
    Ok(makefile.and_then(|text| version_of(&text)).unwrap_or(before))
}
