//! The program as its users have it: installed, in a kernel's tree of their own; under
//! `git bisect run`, and as the gate of `ci/recipes`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use super::cargo_cmd;
use crate::commands::run_kernel_tests::prepare;
use crate::context::Context;
use crate::plan::Wishes;
use crate::proc::{Cmd, Ended};
use crate::progress::pass_on;
use crate::source;
use crate::stop::Stop;

/// What the steps are called.
pub(super) const BISECT: &str = "installed, git bisect run over 8 commits";
pub(super) const GATE: &str = "installed, ci/recipes hold a tree against its baseline";

/// How many commits there are on top of a kernel that is in order.
const COMMITS: usize = 8;

/// Which of them plants a bug.
const PLANTED: usize = 5;

/// The bug, in the checkout, and the test that it makes fail.
const BUG: &str = "ci/series/negative/clear-event.patch";
const TEST: &str = "hmm.migrate_fault.private";

/// What the other commits change.
const CHANGED: &str = "lib/test_hmm.c";

/// A change of one notifier event that no assertion of a test and no rule notices,
/// and how it is told.
const SILENT: &str = "ci/series/trace/fork-sends-clear.patch";
const TOLD: &str = "fork: PROTECTION_PAGE -> CLEAR";

/// The recipes, all of which have the same command to run.
const RECIPES: [&str; 3] =
    ["ci/recipes/gate.sh", "ci/recipes/github-actions.yml", "ci/recipes/gitlab-ci.yml"];

/// The installed program, and a tree to use it in.
pub(super) struct Installed<'a> {
    tree: Tree<'a>,
    bin: PathBuf,
    planted: String,
    /// Holds both until they are no longer used.
    _home: TempDir,
}

impl<'a> Installed<'a> {
    /// Installs the program and makes a tree, or says why it cannot be installed.
    ///
    /// # Errors
    /// When there is no tree, or the user stops us.
    pub(super) async fn new(
        ctx: &'a Context,
        checkout: &'a Path,
    ) -> Result<Result<Installed<'a>, String>, Stop> {
        let home = tempfile::tempdir().context("make a temporary directory")?;
        let root = home.path().join("root");
        let ended = cargo_cmd(checkout)
            .args(["install", "--quiet", "--debug", "--locked", "--path", "harness"])
            .arg("--root")
            .arg(&root)
            .run(&ctx.interrupt, pass_on)
            .await?;
        if !ended.success() {
            return Ok(Err(ended.tail.join("\n")));
        }
        let tree = Tree { ctx, checkout, dir: home.path().join("linux") };
        let planted = tree.grow().await?;
        Ok(Ok(Installed { tree, bin: root.join("bin"), planted, _home: home }))
    }

    /// Where the program is.
    pub(super) fn program(&self) -> PathBuf {
        self.bin.join("hmm-harness")
    }

    /// Has git bisect the tree, and says what is wrong with the answer, if anything is.
    ///
    /// # Errors
    /// When git cannot do it, or the user stops us.
    pub(super) async fn bisect(&self) -> Result<Option<String>, Stop> {
        let Installed { tree, planted, .. } = self;
        tree.git(&["bisect", "start", "HEAD", &format!("HEAD~{COMMITS}")]).await?;
        let run = self.with_store(tree.cmd().args(["bisect", "run"]).arg(self.program()));
        let run = run.args(["run-kernel-tests", "--kernel", "git:.", "--test", TEST]);
        let ended = run.run(&tree.ctx.interrupt, |_| ()).await?;
        tree.git(&["bisect", "reset"]).await?;
        let named = format!("{planted} is the first bad commit");
        let found = ended.success() && ended.tail.contains(&named);
        Ok((!found).then(|| format!("not {named:?}, but:\n{}", ended.tail.join("\n"))))
    }

    /// Makes a baseline of the tree in order, holds others against it, and says what
    /// is wrong with the answers, if anything is.
    ///
    /// # Errors
    /// When the tree cannot be prepared, or the user stops us.
    pub(super) async fn gate(&self) -> Result<Option<String>, Stop> {
        let tree = &self.tree;
        let read = |recipe: &str| fs::read_to_string(tree.checkout.join(recipe)).context("read");
        let shell = commands(&read(RECIPES[0])?);
        for recipe in &RECIPES[1..] {
            let other = commands(&read(recipe)?);
            if shell.is_empty() || shell != other {
                return Ok(Some(format!("{recipe} runs {other:?}, and {} {shell:?}", RECIPES[0])));
            }
        }
        let gate = tree.checkout.join(RECIPES[0]);
        let gate = gate.to_string_lossy();
        let update = ["hmm-harness", "baseline", "update", "hmm/baseline.yaml"];
        let mail = ["hmm-harness", "compare", "hmm/baseline.yaml", "latest", "--format", "mail"];

        tree.git(&["checkout", "--quiet", &format!("HEAD~{COMMITS}")]).await?;
        fs::create_dir(tree.dir.join("hmm")).context("make a directory")?;
        fs::write(tree.dir.join("hmm/gate.yaml"), "kernel: git:..\nbaseline: baseline.yaml\n")
            .context("write a plan")?;
        let run = ["hmm-harness", "run-kernel-tests", "--kernel", "git:."];
        let mut wrong = self.expect(&run, 0, "as expected").await?;
        wrong = wrong.or(self.expect(&update, 0, "+  notifier.mremap.private:").await?);
        let other = fs::read_to_string(tree.dir.join(CHANGED)).context(CHANGED)? + "/* more */\n";
        fs::write(tree.dir.join(CHANGED), other).context(CHANGED)?;
        wrong = wrong.or(self.expect(&[&gate], 0, "0 worse").await?);
        tree.git(&["apply", &tree.checkout.join(SILENT).to_string_lossy()]).await?;
        wrong = wrong.or(self.expect(&[&gate], 1, TOLD).await?);
        if !tree.dir.join("junit.xml").is_file() {
            wrong = wrong.or(Some("the gate has left no junit.xml".to_owned()));
        }
        Ok(wrong.or(self.expect(&mail, 1, TOLD).await?))
    }

    /// Runs a command in the tree, the installed program in its path; what is wrong if
    /// it does not end like this, or says nothing of these words.
    async fn expect(&self, cmd: &[&str], code: i32, words: &str) -> Result<Option<String>, Stop> {
        let env = format!("PATH={}:/usr/bin:/bin", self.bin.display());
        let run = self.with_store(Cmd::new("env").dir(&self.tree.dir)).arg(env).args(cmd);
        let ended = run.run(&self.tree.ctx.interrupt, |_| ()).await?;
        let said = ended.tail.join("\n");
        let good = ended.code == code && said.contains(words);
        Ok((!good).then(|| {
            let cmd = cmd.join(" ");
            format!("{cmd}: {} and not {code}, or not {words:?}:\n{said}", ended.code)
        }))
    }

    fn with_store(&self, cmd: Cmd) -> Cmd {
        cmd.env("HMM_HARNESS_CACHE", self.tree.ctx.store.path(""))
            .env("HMM_HARNESS_RUNS", self.tree.dir.join(".hmm-runs"))
    }
}

/// What a recipe has this program do.
fn commands(recipe: &str) -> Vec<String> {
    let command = |line: &str| line.find("hmm-harness run-").map(|at| line[at..].to_owned());
    recipe.lines().filter_map(command).collect()
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
