//! A source package of Debian's, downloaded and imported once.
//!
//! Which version stands for a package without one is remembered, and so is the
//! tree that a version became: while both are known, nothing is asked of the
//! network.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::flow::Stage;
use crate::git::{Git, TreeId};
use crate::source::apt::Apt;
use crate::source::{Package, import, mirrors};
use crate::stop::{Problem, Stop};
use crate::store::{Store, digest};

/// Brings the package into the store. Says the tree, the exact package, and
/// whether the store had it already.
pub(super) async fn fetch(
    ctx: &Context,
    package: &Package,
    refresh: bool,
) -> Result<(TreeId, Package, bool), Stop> {
    if !refresh && let Some((tree, exact)) = known(&ctx.store, package)? {
        return Ok((tree, exact, true));
    }
    let dir = ctx.store.dir("debian")?;
    let _lock = ctx.store.lock("debian", &ctx.log, &ctx.interrupt).await?;
    // Another run may have brought it while this one waited.
    if !refresh && let Some((tree, exact)) = known(&ctx.store, package)? {
        return Ok((tree, exact, true));
    }
    sweep(&dir)?;
    let mut apt = Apt::set_up(ctx, &dir.join("apt"))?;
    let exact = resolve(&mut apt, package).await?;
    ctx.store.write(&version_file(package), version(&exact))?;
    if let Some((tree, exact)) = known(&ctx.store, &exact)? {
        return Ok((tree, exact, true));
    }

    let work = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(&dir)
        .context("cannot make a directory for the download")?;
    let deb = apt.download(&exact.name, version(&exact), work.path()).await?;
    let reference = format!("refs/imports/{}", digest([tree_file(&exact).as_bytes()]));
    ctx.log.progress(Stage::Source, format!("importing {exact}"));
    let tree = import::package(ctx, &deb, work.path(), &reference).await?;
    ctx.store.write(&tree_file(&exact), &tree.0)?;
    Ok((tree, exact, false))
}

/// The tree of a package, as far as the store knows it.
fn known(store: &Store, package: &Package) -> Result<Option<(TreeId, Package)>> {
    let version = match &package.version {
        Some(version) => Some(version.clone()),
        None => store.read(&version_file(package))?,
    };
    let exact = Package { version, ..package.clone() };
    if exact.version.is_none() {
        return Ok(None);
    }
    let Some(tree) = store.read(&tree_file(&exact))?.map(TreeId) else { return Ok(None) };
    let whole = !Git::of(store)?.has(&tree, &["Makefile"])?.is_empty();
    Ok(whole.then_some((tree, exact)))
}

/// Finds the version that is meant.
async fn resolve(apt: &mut Apt<'_>, package: &Package) -> Result<Package, Stop> {
    let configured = apt.configured().await?;
    let rounds = match &package.suite {
        Some(suite) => vec![mirrors::suite(&configured, suite)],
        None => vec![configured.clone(), mirrors::beside(&configured)],
    };
    let mut names = Vec::new();
    let mut seen = Vec::new();
    for repositories in rounds.iter().filter(|r| !r.is_empty()) {
        apt.update(repositories).await?;
        seen.extend(repositories.iter().map(|r| r.suite.clone()));
        let (candidate, all) = apt.versions(&package.name).await?;
        let version = match &package.version {
            Some(wanted) => all.into_iter().find(|v| v == wanted),
            None => candidate,
        };
        if version.is_some() {
            return Ok(Package { version, ..package.clone() });
        }
        names.extend(apt.sources().await?);
        if let Some(stop) = apt.incomplete(&package.to_string()) {
            return Err(stop);
        }
    }
    names.sort();
    names.dedup();
    let what = format!("no package {package} in {}", seen.join(", "));
    let problem = Problem::new("--kernel", what);
    Err(Stop::usage(if names.is_empty() {
        problem.hint("name another suite: debian:PKG/SUITE")
    } else {
        problem.hint(format!("there are {}; another suite is debian:PKG/SUITE", names.join(", ")))
    }))
}

/// Removes what a killed run left behind; whoever holds the lock is alone.
fn sweep(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).context("reading the store")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".new-") {
            fs::remove_dir_all(entry.path()).context("cannot remove an unfinished download")?;
        }
    }
    Ok(())
}

fn version(exact: &Package) -> &str {
    exact.version.as_deref().expect("an exact package has a version")
}

/// Where the version is remembered that a package without one stands for.
fn version_file(package: &Package) -> String {
    let suite = package.suite.as_deref().unwrap_or("any");
    format!("debian/versions/{}_{suite}", package.name)
}

/// Where the tree of a version is remembered.
fn tree_file(exact: &Package) -> String {
    format!("debian/trees/{}_{}", exact.name, version(exact))
}
