//! Kernels that differ by a patch each, judged one after the other.
//!
//! Each is carried out as a run of its own, in a directory of its own, by a plan
//! that can be carried out again alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::run_kernel_tests::{Permissions, carry_out, resolve};
use crate::context::{Context, Session};
use crate::flow::Stage;
use crate::git::{Git, Place};
use crate::plan::Wishes;
use crate::progress::{self, Talk};
use crate::results::Results;
use crate::rundir::canonical_of;
use crate::stop::{AS_EXPECTED, FAULT, Fault, NOT_AS_EXPECTED, Problem, Stop};
use crate::{report, series};

/// How much of a subject is shown on a line.
const SUBJECT: usize = 60;

/// A kernel of several, and the patch that it has more than the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidate {
    /// From 0, the kernel without any of the patches.
    pub(super) number: usize,
    /// The patch's subject; what the base is, for the base.
    pub(super) subject: String,
    /// Its author.
    pub(super) author: Option<String>,
    /// What it is, whatever it is called: the name of the commit, or a digest of the
    /// patch; nothing for a base.
    pub(super) identity: String,
}

impl Candidate {
    /// Its number and its subject, for a line of a terminal.
    pub(super) fn name(&self, of: usize) -> String {
        let width = of.to_string().len();
        let mut subject: String = self.subject.chars().take(SUBJECT).collect();
        if subject.len() < self.subject.len() {
            subject.push_str("...");
        }
        format!("{:>width$}/{of} {subject}", self.number)
    }
}

/// What there is to judge, and how.
pub(super) struct Candidates {
    pub(super) all: Vec<Candidate>,
    how: How,
    wishes: Wishes,
    permissions: Permissions,
    /// Where the runs are.
    dir: PathBuf,
    /// The kernels that were judged, by what is loaded of them.
    known: BTreeMap<String, usize>,
    /// What the patches became, as far as any of them was applied.
    commits: Vec<String>,
    /// The tree that they were applied to, as soon as it is known.
    source_tree: String,
}

/// The name of a kernel's run, among those of the others.
pub(super) fn run_of(number: usize) -> String {
    format!("{number:03}")
}

/// How to come to a candidate.
enum How {
    /// With so many patches of the last series.
    Patches,
    /// By its commit in the repository at a path.
    Commits(PathBuf),
}

/// A kernel that was judged.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) results: Results,
    /// The directory of its run.
    pub(super) dir: PathBuf,
    /// The kernel that it is the same as, if it is another one's.
    pub(super) same_as: Option<usize>,
    /// How long it took.
    pub(super) seconds: f64,
}

impl Judged {
    /// The canonical traces that it has, by the ids of their tests: those of the
    /// first turn.
    pub(super) fn canonical(&self) -> BTreeMap<String, String> {
        let first = |(id, mut turns): (String, Vec<String>)| (id, turns.swap_remove(0));
        self.turns().into_iter().map(first).collect()
    }

    /// The canonical traces of all turns; a test that has none is left out.
    pub(super) fn turns(&self) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::new();
        for test in &self.results.tests {
            let read = |turn| fs::read_to_string(self.dir.join(canonical_of(&test.id, turn))).ok();
            let turns: Vec<String> = (0..test.attempts).map_while(read).collect();
            if !turns.is_empty() {
                all.insert(test.id.clone(), turns);
            }
        }
        all
    }
}

impl Candidates {
    /// The base of a plan, and the patches of its last series.
    ///
    /// # Errors
    /// When there is no series, or it cannot be read.
    pub(super) async fn of(
        ctx: &Context,
        wishes: Wishes,
        permissions: Permissions,
    ) -> Result<Candidates, Stop> {
        let Some(last) = wishes.series.last() else {
            return Err(Stop::usage(
                Problem::new("--series", "there is none of which to judge each patch").hint(
                    "name the patches, the base first and the series in question last; \
                         or, for bisect, the commits of a branch: --kernel git:PATH@GOOD..BAD",
                ),
            ));
        };
        let base = match wishes.series.len() {
            1 => "the kernel without the series".to_owned(),
            _ => "the kernel without the last series".to_owned(),
        };
        let identity = String::new();
        let mut all = vec![Candidate { number: 0, subject: base, author: None, identity }];
        for (n, patch) in series::patches(ctx, last).await?.into_iter().enumerate() {
            let series::Offered { subject, author, identity } = patch;
            all.push(Candidate { number: n + 1, subject, author, identity });
        }
        Ok(Candidates::new(all, How::Patches, wishes, permissions))
    }

    /// The commits of a branch, from the first on.
    ///
    /// # Errors
    /// When there are none.
    pub(super) fn of_branch(
        branch: &Branch,
        wishes: Wishes,
        permissions: Permissions,
    ) -> Result<Candidates, Stop> {
        let mut all = Vec::new();
        for (number, commit) in branch.commits()?.into_iter().enumerate() {
            let Commit { name: identity, subject, author } = commit;
            all.push(Candidate { number, subject, author: Some(author), identity });
        }
        let how = How::Commits(branch.path.clone());
        Ok(Candidates::new(all, how, wishes, permissions))
    }

    fn new(all: Vec<Candidate>, how: How, wishes: Wishes, permissions: Permissions) -> Candidates {
        let (dir, known, commits) = (PathBuf::new(), BTreeMap::new(), Vec::new());
        let source_tree = String::new();
        Candidates { all, how, wishes, permissions, dir, known, commits, source_tree }
    }

    /// Where the runs go: below this directory.
    pub(super) fn place(&mut self, dir: PathBuf) {
        self.dir = dir;
    }

    /// The number of the last one.
    pub(super) fn last(&self) -> usize {
        self.all.len() - 1
    }

    /// The commit that the patch of one of them is, or became by its results.
    pub(super) fn commit(&self, number: usize, results: &Results) -> Option<String> {
        match self.how {
            How::Commits(_) => Some(self.all[number].identity.clone()),
            How::Patches => results.kernel.series.last().map(|patch| patch.commit.clone()),
        }
    }

    fn dir_of(&self, number: usize) -> PathBuf {
        self.dir.join(run_of(number))
    }

    /// What the last run of one of them has left, if that can be read.
    pub(super) fn results(&self, number: usize) -> Option<Results> {
        report::read(&self.dir_of(number)).ok()
    }

    /// What an earlier process has judged, if that can still be read.
    pub(super) fn judged_before(&mut self, number: usize) -> Option<Judged> {
        let results = self.results(number)?;
        self.same_as_before(&results).ok()?;
        let same_as = self.known.get(&results.kernel.loaded_sha256).copied();
        self.learn(number, &results);
        let dir = self.dir_of(same_as.unwrap_or(number));
        Some(Judged { results, dir, same_as, seconds: 0.0 })
    }

    /// From here on a kernel that is the same need not be judged.
    fn learn(&mut self, number: usize, results: &Results) {
        let loaded = &results.kernel.loaded_sha256;
        if !loaded.is_empty() && results.exit_code <= NOT_AS_EXPECTED {
            self.known.entry(loaded.clone()).or_insert(number);
        }
    }

    /// Holds the source, and what the patches became, against what they were before.
    ///
    /// # Errors
    /// When the source or the series has changed meanwhile.
    fn same_as_before(&mut self, results: &Results) -> Result<(), Stop> {
        if matches!(self.how, How::Commits(_)) {
            return Ok(());
        }
        let now: Vec<String> =
            results.kernel.series.iter().map(|patch| patch.commit.clone()).collect();
        let both = now.len().min(self.commits.len());
        let tree = &results.kernel.source_tree;
        if self.source_tree.is_empty() {
            self.source_tree.clone_from(tree);
        }
        let other_source = !tree.is_empty() && *tree != self.source_tree;
        if other_source || now[..both] != self.commits[..both] {
            let what = "the kernel's source or the series has changed meanwhile";
            let hint = "begin again, with a source that stays as it is: git:PATH@COMMIT";
            return Err(Stop::usage(Problem::new("--series", what).hint(hint)));
        }
        if now.len() > both {
            self.commits = now;
        }
        Ok(())
    }

    /// Judges one of them, unless its kernel is that of one that was judged.
    ///
    /// # Errors
    /// When it was interrupted, or its directory cannot be written.
    pub(super) async fn judge(
        &mut self,
        session: &Session,
        number: usize,
        cwd: &Path,
    ) -> Result<Judged, Stop> {
        let start = Instant::now();
        fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        let built = self.carry_out(session, number, Some(Stage::Build), cwd).await?;
        let same_as = self.known.get(&built.kernel.loaded_sha256).copied();
        let results = match same_as {
            _ if built.exit_code != AS_EXPECTED => built,
            Some(other) => self.as_other(number, built, other)?,
            None => self.carry_out(session, number, None, cwd).await?,
        };
        self.learn(number, &results);
        let dir = self.dir_of(same_as.unwrap_or(number));
        Ok(Judged { results, dir, same_as, seconds: start.elapsed().as_secs_f64() })
    }

    /// Judges one of them once more, each test `repeat` times, whatever is known of
    /// it.
    ///
    /// # Errors
    /// When it was interrupted, or its directory cannot be written.
    pub(super) async fn judge_again(
        &mut self,
        session: &Session,
        number: usize,
        repeat: u32,
        cwd: &Path,
    ) -> Result<Judged, Stop> {
        let start = Instant::now();
        let once = self.wishes.repeat.replace(repeat);
        let results = self.carry_out(session, number, None, cwd).await;
        self.wishes.repeat = once;
        let (results, dir) = (results?, self.dir_of(number));
        Ok(Judged { results, dir, same_as: None, seconds: start.elapsed().as_secs_f64() })
    }

    async fn carry_out(
        &mut self,
        session: &Session,
        number: usize,
        until: Option<Stage>,
        cwd: &Path,
    ) -> Result<Results, Stop> {
        let mut wishes = Wishes {
            out: Some(self.dir_of(number)),
            json: None,
            junit: None,
            ktap: None,
            until,
            ..self.wishes.clone()
        };
        if until.is_some() {
            // What is expected, by a plan or a baseline, is expected of the tests.
            (wishes.expect, wishes.baseline, wishes.allow) = (None, None, None);
        }
        match &self.how {
            How::Patches => wishes.first = Some(number),
            How::Commits(path) => {
                let commit = &self.all[number].identity;
                wishes.kernel = Some(format!("git:{}@{commit}", path.display()));
            }
        }
        let prepared = resolve(wishes, Vec::new(), cwd)?;
        let log = progress::log(Talk::Little, Talk::Little);
        let quiet = Session { log, interrupt: session.interrupt.clone() };
        let (results, _) = carry_out(&quiet, &prepared, self.permissions, cwd).await?;
        session.interrupt.check()?;
        // What is the machine's fault, or ours, says nothing of the kernel.
        if results.exit_code == FAULT {
            let what = results.reason.unwrap_or_else(|| "a run has failed".to_owned());
            return Err(Stop::Machine(Fault::new(what)));
        }
        self.same_as_before(&results)?;
        Ok(results)
    }

    /// Takes over the results of a kernel that is the same.
    fn as_other(&self, number: usize, built: Results, other: usize) -> Result<Results, Stop> {
        let dir = self.dir_of(other);
        let judged = report::read(&dir)?;
        let same = format!("the kernel is that of {}, whose run this is", dir.display());
        let reason = judged.reason.map_or(same.clone(), |reason| format!("{reason}; {same}"));
        let results = Results { kernel: built.kernel, reason: Some(reason), ..judged };
        report::write(&results, &self.dir_of(number))?;
        Ok(results)
    }
}

/// The commits of a branch between two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Branch {
    /// A directory in the repository: absolute.
    path: PathBuf,
    good: String,
    bad: String,
}

struct Commit {
    name: String,
    subject: String,
    author: String,
}

impl Branch {
    /// Reads `git:PATH@GOOD..BAD`; `None` if a source is none of these.
    pub(super) fn parse(source: &str, cwd: &Path) -> Option<Branch> {
        let (path, range) = series::divide(source.strip_prefix("git:")?);
        let (good, bad) = range.split_once("..")?;
        let sound = ![path, good, bad].contains(&"");
        let [good, bad] = [good, bad].map(str::to_owned);
        sound.then(|| Branch { path: cwd.join(path), good, bad })
    }

    /// The first of its kernels, as a source.
    pub(super) fn first(&self) -> String {
        format!("git:{}@{}", self.path.display(), self.good)
    }

    /// GOOD, and what was merged or committed on top of it up to BAD.
    fn commits(&self) -> Result<Vec<Commit>, Stop> {
        let problem = |what: String| {
            Stop::usage(Problem::new("--kernel", what).hint("write git:PATH@GOOD..BAD, GOOD first"))
        };
        let shown = self.path.display();
        let Some(place) = Place::find(&self.path)? else {
            return Err(problem(format!("{shown} is not in a git repository")));
        };
        let commit = |rev: &str| {
            let known = place.commit(rev)?;
            known.ok_or_else(|| problem(format!("{shown} has no commit `{rev}`")))
        };
        let (good, bad) = (commit(&self.good)?, commit(&self.bad)?);
        let range = format!("{good}..{bad}");
        let git = Git::theirs(&place);
        let ask = |args: &[&str]| -> Result<String, Stop> {
            let fixed = ["log", "--no-show-signature", "--format=%H%x1f%s%x1f%an <%ae>"];
            Ok(git.ask(&[&fixed, args].concat())?.text())
        };
        let first = ask(&["-1", &good, "--"])?;
        let parents = git.ask(&["rev-list", "--first-parent", "--parents", &range, "--"])?.text();
        let lowest = parents.lines().last().and_then(|line| line.split(' ').nth(1));
        if lowest.is_some_and(|parent| parent != good) {
            let what = format!("{} is no ancestor of {} by first parents", self.good, self.bad);
            let hint = format!("begin where they part: git -C {shown} merge-base GOOD BAD");
            return Err(Stop::usage(Problem::new("--kernel", what).hint(hint)));
        }
        let others = ask(&["--first-parent", "--reverse", &range, "--"])?;
        let read = |line: &str| {
            let mut parts = line.split('\x1f').map(str::to_owned);
            Some(Commit { name: parts.next()?, subject: parts.next()?, author: parts.next()? })
        };
        let commits: Vec<Commit> = first.lines().chain(others.lines()).filter_map(read).collect();
        if commits.len() < 2 {
            return Err(problem(format!("nothing lies between {} and {}", self.good, self.bad)));
        }
        Ok(commits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_told_from_a_commit() {
        let parse = |text: &str| Branch::parse(text, Path::new("/here"));
        let branch = parse("git:../linux@v6.1..topic").expect("a branch");
        assert_eq!(branch.first(), "git:/here/../linux@v6.1");
        assert_eq!(branch.bad, "topic");
        for text in ["git:../linux@v6.1", "git:../linux", "dir:a@b..c", "debian:linux-source-6.12"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
