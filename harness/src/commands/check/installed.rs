//! The program as its users have it: installed, in a kernel's tree, under
//! `git bisect run`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::cargo_cmd;
use crate::commands::run_kernel_tests::prepare;
use crate::context::Context;
use crate::plan::Wishes;
use crate::proc::{Cmd, Ended};
use crate::progress::pass_on;
use crate::source;
use crate::stop::Stop;

/// What the step is called.
pub(super) const NAME: &str = "installed, git bisect run over 8 commits";

/// How many commits there are on top of a kernel that is in order.
const COMMITS: usize = 8;

/// Which of them plants a bug.
const PLANTED: usize = 5;

/// The bug, in the checkout, and the test that it makes fail.
const BUG: &str = "ci/series/negative/clear-event.patch";
const TEST: &str = "hmm.migrate_fault.private";

/// What the other commits change.
const CHANGED: &str = "lib/test_hmm.c";

/// Installs the program, has git bisect a tree with it, and says what is wrong with
/// the answer, if anything is.
///
/// # Errors
/// When there is no tree, or the user stops us.
pub(super) async fn run(ctx: &Context, checkout: &Path) -> Result<Option<String>, Stop> {
    let home = tempfile::tempdir().context("make a temporary directory")?;
    let root = home.path().join("root");
    let ended = cargo_cmd(checkout)
        .args(["install", "--quiet", "--debug", "--locked", "--path", "harness"])
        .arg("--root")
        .arg(&root)
        .run(&ctx.interrupt, pass_on)
        .await?;
    if !ended.success() {
        return Ok(Some(ended.tail.join("\n")));
    }
    let tree = Tree { ctx, checkout, dir: home.path().join("linux") };
    let planted = tree.grow().await?;
    tree.git(&["bisect", "start", "HEAD", &format!("HEAD~{COMMITS}")]).await?;
    let program = root.join("bin/hmm-harness");
    let ended = tree
        .cmd()
        .args(["bisect", "run"])
        .arg(program)
        .args(["run-kernel-tests", "--kernel", "git:.", "--test", TEST])
        .env("HMM_HARNESS_CACHE", ctx.store.path(""))
        .env("HMM_HARNESS_RUNS", home.path().join("runs"))
        .run(&ctx.interrupt, |_| ())
        .await?;
    let named = format!("{planted} is the first bad commit");
    let found = ended.success() && ended.tail.contains(&named);
    Ok((!found).then(|| format!("not {named:?}, but:\n{}", ended.tail.join("\n"))))
}

/// A user's tree.
struct Tree<'a> {
    ctx: &'a Context,
    checkout: &'a Path,
    dir: PathBuf,
}

impl Tree<'_> {
    /// Makes the tree and its commits; the name of the one with the bug.
    async fn grow(&self) -> Result<String, Stop> {
        let prepared = prepare(Wishes::default(), None, self.checkout)?;
        let kernel = source::fetch(self.ctx, prepared.source(), false).await?;
        fs::create_dir(&self.dir).context("make a tree")?;
        self.git(&["init", "--quiet"]).await?;
        let alternates = self.dir.join(".git/objects/info/alternates");
        let objects = format!("{}\n", kernel.git.objects().display());
        fs::write(alternates, objects).context("make a tree")?;
        let base = self.git(&["commit-tree", "-m", "a kernel", &kernel.tree.0]).await?;
        self.git(&["reset", "--quiet", "--hard", &base]).await?;
        let changed = self.dir.join(CHANGED);
        let text = fs::read_to_string(&changed).context(CHANGED)?;
        for number in 1..=COMMITS {
            if number == PLANTED {
                let bug = self.checkout.join(BUG);
                self.git(&["apply", &bug.to_string_lossy()]).await?;
            } else {
                fs::write(&changed, format!("{text}/* {number} */\n")).context(CHANGED)?;
            }
            self.git(&["commit", "--quiet", "--all", "--message", &number.to_string()]).await?;
        }
        self.git(&["rev-parse", &format!("HEAD~{}", COMMITS - PLANTED)]).await
    }

    /// Runs git, which must succeed; its last line.
    async fn git(&self, args: &[&str]) -> Result<String, Stop> {
        let Ended { code, tail } = self.cmd().args(args).run(&self.ctx.interrupt, |_| ()).await?;
        let check = || {
            ensure!(code == 0, "git {}: {}", args.join(" "), tail.join("; "));
            Ok(tail.last().cloned().unwrap_or_default())
        };
        Ok(check()?)
    }

    fn cmd(&self) -> Cmd {
        let who = ["-c", "user.name=a user", "-c", "user.email=user@localhost"];
        Cmd::new("git").dir(&self.dir).args(who)
    }
}
