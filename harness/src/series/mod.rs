//! The second stage: patches on top of a source, as commits in the store.
//!
//! They go in by way of an index, never of a work tree. Who commits and when
//! is fixed, so that the same series on the same tree gives the same commits;
//! and it is applied as a whole or not at all.

mod apply;
mod hunk;
mod mail;
mod read;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::git::{Git, TreeId};
use crate::judge::AppliedPatch;
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

/// What is wrong with the paths of a series. Reads them and nothing else.
pub fn check(series: &[PathBuf]) -> Vec<Problem> {
    read::all(series).err().unwrap_or_default()
}

/// Applies a series to a source.
///
/// # Errors
/// [`Stop::Usage`] for what [`check`] says, [`Stop::Kernel`] when a patch does
/// not apply.
pub async fn apply(
    ctx: &Context,
    source: SourceTree,
    series: &[PathBuf],
) -> Result<PatchedTree, Stop> {
    let SourceTree { tree, git, described, version, reused } = source;
    let files = read::all(series).map_err(|problems| Stop::Usage { problems })?;
    if files.is_empty() {
        return Ok(PatchedTree { tree, git, described, version, patches: Vec::new(), reused });
    }
    let entry = entry(&tree, &files);
    if let Some(Remembered { tree, patches }) = remembered(ctx, &git, &entry)? {
        let version = version_after(&git, &tree, version)?;
        return Ok(PatchedTree { tree, git, described, version, patches, reused });
    }
    let patches = mail::part(ctx, &git, &files).await?;
    let (tree, patches) = apply::all(ctx, &git, &tree, &patches).await?;
    let made = Remembered { tree: tree.0.clone(), patches };
    let text = serde_json::to_string(&made).map_err(anyhow::Error::from)?;
    ctx.store.write(&entry, &text)?;
    let version = version_after(&git, &tree, version)?;
    Ok(PatchedTree { tree, git, described, version, patches: made.patches, reused: false })
}

/// What the store remembers of a series on a tree.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered<T = String> {
    tree: T,
    patches: Vec<AppliedPatch>,
}

/// The name of what the store remembers: of the tree, and of the name and the
/// bytes of each file, since the name can be a subject.
fn entry(tree: &TreeId, files: &[read::PatchFile]) -> String {
    let names: Vec<String> = files.iter().map(read::PatchFile::name).collect();
    let files = files.iter().zip(&names).flat_map(|(file, name)| [name.as_bytes(), &file.bytes]);
    format!("series/{}.json", digest(std::iter::once(tree.0.as_bytes()).chain(files)))
}

fn remembered(ctx: &Context, git: &Git, entry: &str) -> Result<Option<Remembered<TreeId>>, Stop> {
    let Some(text) = ctx.store.read(entry)? else { return Ok(None) };
    // What cannot be understood, or is gone, is made anew.
    let Ok(Remembered::<String> { tree, patches }) = serde_json::from_str(&text) else {
        return Ok(None);
    };
    let tree = TreeId(tree);
    let whole = !git.has(&tree, &["Makefile"])?.is_empty();
    Ok(whole.then_some(Remembered { tree, patches }))
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
