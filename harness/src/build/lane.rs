//! One source and one build directory at fixed paths, which live on.
//!
//! A lane belongs to a set of requests, a toolchain and a line of kernels:
//! within it a build reuses the objects of the last one. It is keyed by the
//! requests and not by the resolved configuration, since a series that adds a
//! symbol would otherwise start from nothing; kbuild itself knows which object
//! depends on which symbol.
//!
//! Two marks make it safe to be killed at any time. `moving` says that the
//! source directory is between two trees; `making` says since when objects may
//! be half-written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use nix::fcntl::Flock;

use crate::config::Configured;
use crate::context::Context;
use crate::flow::Stage;
use crate::proc::Cmd;
use crate::series::PatchedTree;
use crate::stop::{Fault, Stop};
use crate::store::digest;

/// How long what a killed harness left running may take to end: more than its
/// keeper gives it.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// A lane that this process holds.
#[derive(Debug)]
pub(crate) struct Lane {
    dir: PathBuf,
    /// Kept for what dropping it does.
    _lock: Flock<File>,
}

impl Lane {
    /// Opens the lane for this configuration, and waits if another run has it.
    pub(super) async fn open(ctx: &Context, configured: &Configured) -> Result<Self, Stop> {
        let name = Self::name(configured);
        let what = name.replace("lanes/", "lane ");
        let lock = ctx.store.lock(&what, &ctx.log, &ctx.interrupt).await?;
        let dir = ctx.store.dir(&name)?;
        for part in ["src", "obj"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let lane = Lane { dir, _lock: lock };
        lane.alone(ctx).await?;
        lane.sweep()?;
        ctx.store.touch(&name);
        Ok(lane)
    }

    /// The same, but `None` if no kernel was ever built in it.
    pub(crate) async fn open_built(
        ctx: &Context,
        configured: &Configured,
    ) -> Result<Option<Self>, Stop> {
        let dir = ctx.store.path(&Self::name(configured));
        if !dir.is_dir() {
            return Ok(None);
        }
        let lane = Self::open(ctx, configured).await?;
        Ok(lane.full_build().is_some().then_some(lane))
    }

    /// Its name in the store.
    fn name(configured: &Configured) -> String {
        let (major, minor, _) = configured.source.version;
        let line = format!("{major}.{minor}");
        let parts = [&configured.requests_sha256, &configured.toolchain, &line];
        format!("lanes/{}", &digest(parts.map(|p| p.as_bytes()))[..16])
    }

    /// The source directory.
    pub(crate) fn src(&self) -> PathBuf {
        self.dir.join("src")
    }

    /// The build directory.
    pub(crate) fn obj(&self) -> PathBuf {
        self.dir.join("obj")
    }

    /// Makes the source directory the same as a tree, touching only the files
    /// that differ: what is not touched keeps its time stamp, and make its
    /// objects.
    pub(super) async fn move_to(&self, ctx: &Context, source: &PatchedTree) -> Result<(), Stop> {
        let mark = self.moving();
        let torn = mark.exists();
        fs::write(&mark, &source.tree.0).context("cannot write to the lane")?;
        // Left behind by a git that was killed; nobody else is in the lane.
        remove_if_there(&self.dir.join("index.lock"))?;
        self.git(ctx, source, &["read-tree", "--reset", "-u", &source.tree.0]).await?;
        if torn {
            // Files of a tree that the index never heard of.
            self.git(ctx, source, &["clean", "-ffdxq"]).await?;
        }
        remove_if_there(&mark)?;
        Ok(())
    }

    /// Says that objects may be half-written from now on.
    pub(super) fn begin_making(&self) -> Result<()> {
        fs::write(self.making(), "").context("cannot write to the lane")
    }

    /// Says that make ended in order, and that every object is whole.
    pub(super) fn end_making(&self) -> Result<()> {
        remove_if_there(&self.making())
    }

    /// How many objects a build from nothing has, if that is known.
    pub(super) fn full_build(&self) -> Option<usize> {
        fs::read_to_string(self.dir.join("objects")).ok()?.trim().parse().ok()
    }

    /// Remembers it.
    pub(super) fn set_full_build(&self, objects: usize) -> Result<()> {
        fs::write(self.dir.join("objects"), objects.to_string()).context("cannot write to the lane")
    }

    /// The mark that it is between two trees.
    pub(super) fn moving(&self) -> PathBuf {
        self.dir.join("moving")
    }

    /// Where git keeps what the source directory shows.
    pub(super) fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// The directory of all that is the lane's.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn making(&self) -> PathBuf {
        self.dir.join("making")
    }

    /// If the last make was killed, removes what it wrote: a half-written
    /// object is newer than its source, and make would take it for whole.
    fn sweep(&self) -> Result<()> {
        let Ok(mark) = fs::metadata(self.making()) else { return Ok(()) };
        let since = mark.modified().context("the file system has no time stamps")?;
        remove_newer(&self.obj(), since)
            .with_context(|| format!("cannot clean up {}", self.obj().display()))?;
        self.end_making()
    }

    /// Waits until nothing works in the lane any more. The lock of a harness
    /// that was killed is free at once, but its keeper lets make or git end in
    /// order first.
    async fn alone(&self, ctx: &Context) -> Result<(), Stop> {
        let deadline = Instant::now() + LEFTOVERS;
        while let Some(pid) = working_in(&self.dir) {
            if Instant::now() > deadline {
                return Err(Stop::Machine(
                    Fault::new(format!("process {pid} still works in {}", self.dir.display()))
                        .at(Stage::Build)
                        .hint(format!("end it: kill {pid}")),
                ));
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = ctx.interrupt.wait() => return Err(Stop::Interrupted),
            }
        }
        Ok(())
    }

    async fn git(&self, ctx: &Context, source: &PatchedTree, args: &[&str]) -> Result<(), Stop> {
        self.ask(ctx, source, &self.index(), args).await.map(drop)
    }

    /// Runs git in the source directory with an index, and returns the lines
    /// of its answer. A file that was only put aside for a while counts as
    /// untouched, although the system knows when (ctime).
    pub(super) async fn ask(
        &self,
        ctx: &Context,
        source: &PatchedTree,
        index: &Path,
        args: &[&str],
    ) -> Result<Vec<String>, Stop> {
        let settings = ["-c", "checkout.workers=0", "-c", "core.trustctime=false"];
        let mut command = Cmd::new("git").args(settings).args(args);
        for (name, value) in source.git.variables() {
            command = command.env(name, value);
        }
        let command =
            command.env("GIT_WORK_TREE", self.src()).env("GIT_INDEX_FILE", index).dir(self.src());
        let mut lines = Vec::new();
        let ended = command.run(&ctx.interrupt, |line| lines.push(line.to_owned())).await?;
        if ended.success() {
            return Ok(lines);
        }
        Err(Stop::Machine(
            Fault::new(format!("cannot write tree {} to {}", source.tree, self.src().display()))
                .at(Stage::Build)
                .details(ended.tail.into_iter().rev().take(5).rev())
                .hint("free some space, or point HMM_HARNESS_CACHE at a disk that has it"),
        ))
    }
}

/// A make or git whose working directory is below `dir`, if there is one.
/// What they started ends before they do. A shell that a person has there does
/// no harm.
fn working_in(dir: &Path) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
    pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit())).find(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // Processes of other users do not say where they are, and are not ours.
        matches!(name.trim_end(), "make" | "git")
            && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
    })
}

/// Removes every file below `dir` that was written at `since` or later.
fn remove_newer(dir: &Path, since: SystemTime) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Of the entry itself: a link to a directory is not followed.
        let about = entry.metadata()?;
        if about.is_dir() {
            remove_newer(&entry.path(), since)?;
        } else if about.modified()? >= since {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_killed_make_wrote_goes() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("mm")).expect("writable");
        for name in ["old.o", "mm/old.o"] {
            fs::write(path(name), "").expect("writable");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(path("mark"), "").expect("writable");
        let since = fs::metadata(path("mark")).and_then(|m| m.modified()).expect("just written");
        for name in ["new.o", "mm/new.o"] {
            fs::write(path(name), "").expect("writable");
        }
        remove_newer(dir.path(), since).expect("removable");
        assert!(path("old.o").exists() && path("mm/old.o").exists());
        assert!(!path("new.o").exists() && !path("mm/new.o").exists());
    }
}
