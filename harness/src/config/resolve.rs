//! Asks the tree's own kconfig.
//!
//! Only the files that kconfig reads are written out, to a directory that
//! goes again; the answer is kept under a key of exactly these files, the
//! requests and the toolchain. A second, smaller entry leads from a tree to
//! that key, so that a known tree is not even listed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use xshell::Shell;

use super::fragment::{Request, Value};
use super::kconfig::{Miss, Resolved, declaration, is_read_by_kconfig, misses};
use super::profile::Profile;
use super::toolchain::toolchain;
use crate::context::Context;
use crate::flow::Stage;
use crate::git::Git;
use crate::proc::Cmd;
use crate::series::PatchedTree;
use crate::stop::{Fault, Stop};
use crate::store::digest;

/// Changes when the way to resolve does, so that old answers are not used.
const FORMAT: &str = "config 2";

/// For every make of a kernel: the words `x86` and `x86_64` give different
/// defaults.
pub(crate) const ARCH: &str = "ARCH=x86_64";

/// A tree and the configuration it is built with.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The tree, with its series in it.
    pub source: PatchedTree,
    /// The resolved `.config`, as kconfig wrote it.
    pub config: String,
    /// SHA-256 of that text, in hex.
    pub config_sha256: String,
    /// Compiler and linker, as [`toolchain`] names them.
    pub toolchain: String,
    /// The name of the profile.
    pub profile: String,
    /// A digest of the profile's requests of this kernel: what stays the same
    /// when a series adds a symbol that nobody asked for.
    pub requests_sha256: String,
    /// Whether the answer was in the store.
    pub reused: bool,
}

/// Resolves a profile for a tree.
///
/// # Errors
/// [`Stop::Kernel`] when a request cannot be met, all of them at once, or
/// kconfig itself fails on this tree; [`Stop::Machine`] when a program is
/// missing or the store cannot be written.
pub async fn resolve(
    ctx: &Context,
    source: PatchedTree,
    profile: &Profile,
) -> Result<Configured, Stop> {
    let toolchain = toolchain(ctx).await?;
    let requests = profile.requests_of(source.version);
    let lines: String = requests.iter().map(|r| r.line() + "\n").collect();
    let requests_sha256 = digest([lines.as_bytes()]);

    let by_tree = [FORMAT, &source.tree.0, &lines, &toolchain];
    let pointer = format!("configs/trees/{}", digest(by_tree.map(str::as_bytes)));
    let known = fs::read_to_string(ctx.store.path(&pointer).join("key"))
        .ok()
        .and_then(|key| fs::read_to_string(ctx.store.path(&entry(&key)).join("config")).ok());
    let (config, reused) = match known {
        Some(config) => (config, true),
        None => {
            let files = files(&source)?;
            let inputs = [FORMAT, &files, &lines, &toolchain];
            let key = digest(inputs.map(str::as_bytes));
            let found = by_files(ctx, &source.git, &files, &requests, &key).await?;
            ctx.store.publish(&pointer, |dir| {
                fs::write(dir.join("key"), &key).context("cannot write to the store")
            })?;
            found
        }
    };
    Ok(Configured {
        source,
        config_sha256: format!("{:x}", Sha256::digest(&config)),
        config,
        toolchain,
        profile: profile.name.clone(),
        requests_sha256,
        reused,
    })
}

fn entry(key: &str) -> String {
    format!("configs/{key}")
}

/// The files of a tree that kconfig reads, as `git ls-tree` lists them.
fn files(source: &PatchedTree) -> Result<String> {
    let shell = Shell::new()?;
    let all = source.git.cmd(&shell, &["ls-tree", "-r", &source.tree.0]).read()?;
    let mut ours = String::new();
    for line in all.lines() {
        if line.split_once('\t').is_some_and(|(_, path)| is_read_by_kconfig(path)) {
            writeln!(ours, "{line}").expect("writing to a string");
        }
    }
    Ok(ours)
}

/// The configuration for these files: from the store, or from kconfig. Says
/// also whether it was in the store.
async fn by_files(
    ctx: &Context,
    git: &Git,
    files: &str,
    requests: &[Request],
    key: &str,
) -> Result<(String, bool), Stop> {
    let known = ctx.store.path(&entry(key)).join("config");
    if let Ok(config) = fs::read_to_string(&known) {
        return Ok((config, true));
    }
    // Held, or another run would take it for one that a dead process has left.
    let work = ctx.store.draft("configs")?;
    let (src, obj) = (work.path().join("src"), work.path().join("obj"));
    fs::create_dir(&src)
        .and_then(|()| fs::create_dir(&obj))
        .context("cannot write to the store")?;
    write_out(git, files, &work.path().join("index"), &src)?;

    make(ctx, &src, &obj, "tinyconfig", None).await?;
    let read = || fs::read_to_string(obj.join(".config")).context("kconfig wrote no .config");
    let all = work.path().join("all.config");
    fs::write(&all, Resolved::parse(&read()?).with(requests))
        .context("cannot write to the store")?;
    make(ctx, &src, &obj, "allnoconfig", Some(&all)).await?;
    let config = read()?;

    let missing = misses(requests, &Resolved::parse(&config));
    if !missing.is_empty() {
        return Err(cannot(&missing, &src, files));
    }
    ctx.store.publish(&entry(key), |dir| {
        fs::write(dir.join("config"), &config).context("cannot write to the store")
    })?;
    Ok((config, false))
}

/// Writes these files of the repository to `src`.
fn write_out(git: &Git, files: &str, index: &Path, src: &Path) -> Result<()> {
    let shell = Shell::new()?;
    git.cmd_with_index(&shell, index, &["update-index", "--index-info"]).stdin(files).run()?;
    git.cmd_with_index(&shell, index, &["checkout-index", "--all", "--force"])
        .env("GIT_WORK_TREE", src)
        .run()
        .context("writing out what kconfig reads")
}

/// Runs one of kconfig's targets.
async fn make(
    ctx: &Context,
    src: &Path,
    obj: &Path,
    target: &str,
    all: Option<&Path>,
) -> Result<(), Stop> {
    let mut command = Cmd::new("make").arg("-C").arg(src).arg(joined("O=", obj));
    if let Some(all) = all {
        command = command.arg(joined("KCONFIG_ALLCONFIG=", all));
    }
    command = command.args([ARCH, target]);
    let mut first = None;
    let ended = command
        .run(&ctx.interrupt, |line| {
            let tells = ["error", "Error", ": syntax", "can't open", "not found", "No space left"];
            if tells.iter().any(|t| line.contains(t)) {
                first.get_or_insert_with(|| line.to_owned());
            }
        })
        .await?;
    if ended.success() {
        return Ok(());
    }
    let prefix = format!("{}/", src.display());
    let tail = ended.tail.iter().rev().take(12).rev().map(|l| l.replace(&prefix, ""));
    let first =
        first.map_or_else(|| format!("make exits with {}", ended.code), |l| l.replace(&prefix, ""));
    let ours = ["No space left", "command not found", ": not found", "Killed"];
    let fault =
        Fault::new(format!("make {target} failed: {first}")).at(Stage::Config).details(tail);
    Err(if ours.iter().any(|o| first.contains(o)) {
        Stop::Machine(fault.hint("hmm-harness doctor"))
    } else {
        Stop::Kernel(fault)
    })
}

/// `name` followed by a path, as one word.
fn joined(name: &str, path: &Path) -> std::ffi::OsString {
    let mut word = std::ffi::OsString::from(name);
    word.push(path);
    word
}

/// Says which requests are not met, and what the tree says about them.
fn cannot(missing: &[Miss], src: &Path, files: &str) -> Stop {
    let kconfigs: Vec<(&str, String)> = files
        .lines()
        .filter_map(|line| line.split_once('\t').map(|(_, path)| path))
        .filter(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with("Kconfig")))
        .filter_map(|path| {
            let bytes = fs::read(src.join(path)).ok()?;
            Some((path, String::from_utf8_lossy(&bytes).into_owned()))
        })
        .collect();
    let mut details = Vec::new();
    for Miss { request, became } in missing {
        let mut declared = false;
        let mut conditions = Vec::new();
        for (path, text) in &kconfigs {
            if let Some(lines) = declaration(&request.symbol, text) {
                declared = true;
                conditions.extend(lines.into_iter().map(|(n, l)| format!("  {path}:{n}: {l}")));
            }
        }
        let became = match became {
            Some(value) => value.to_string(),
            None if declared => Value::No.to_string(),
            None => "absent from this kernel".to_owned(),
        };
        details.push(format!("{}: {} became {became}", request.at, request.line()));
        details.extend(conditions);
    }
    let count = missing.len();
    let what = match missing {
        [one] => format!("{} cannot be had from this kernel", one.request.line()),
        _ => format!("{count} requested options cannot be had from this kernel"),
    };
    Stop::Kernel(
        Fault::new(what)
            .at(Stage::Config)
            .details(details)
            .hint("request what it depends on too, or take it out of the fragment"),
    )
}
