//! `torture`: runs that are injured at random moments, and what they make of it.
//!
//! Each round starts this program as a child, with a run directory and a store
//! of its own, does something to it that nobody plans for, and looks at what is
//! left: no verdict may be better than what happened, no process may stay, and
//! nothing half-written may be found in the store. The kernels are those of the
//! user's own store. Everything about a round follows from its seed but the time
//! that things take.

mod disk;
mod inspect;
mod report;
mod round;
mod verdict;
mod victim;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tokio::time::{Duration, Instant};

use super::check_writable;
use super::run_kernel_tests::{Permissions, carry_out, prepare};
use crate::cli::TortureArgs;
use crate::context::{Context, Session};
use crate::embedded;
use crate::flow::Stage;
use crate::plan::Wishes;
use crate::progress::{begun, print, say};
use crate::results::Verdict;
use crate::rundir;
use crate::stop::{AS_EXPECTED, Fault, NOT_AS_EXPECTED, Stop};
use crate::words::seconds;
use disk::Disk;
use inspect::Reference;
use report::{Outcome, Report, Violation};
use round::{CULPRIT, Injury, Round, Run, Shape};
use verdict::{INIT_DIED, Seen, Written};
use victim::{End, Place, Process, Victim, hit, left_over, text_of};

/// The bug that is planted in half of the rounds: both of the culprit's tests
/// fail, and nothing else is seen of it.
const BUG: &str = "ci/series/negative/clear-event.patch";

/// After how many rounds a run without an injury must be good.
const CLEAN_EVERY: u64 = 25;

/// How long a round may take: longer than the harness gives any QEMU that stands
/// still, and all else that a run does. A run that goes on then hangs.
const ROUND: Duration = Duration::from_secs(240);

/// How long a disk is full that soon has room again.
const FULL: Duration = Duration::from_millis(400);

/// How long processes of a run may outlive it: longer than a keeper waits before
/// it kills.
const LINGER: Duration = Duration::from_secs(10);

/// How long a run may take to end that we ask to.
const ASKED: Duration = Duration::from_secs(20);

/// What of the user's store is used as it is; the locks too, or two runs could
/// build in one lane.
const SHARED: [&str; 8] =
    ["trees.git", "lanes", "kernels", "configs", "debian", "series", "copies", "locks"];

/// Runs the command.
///
/// # Errors
/// When there is no machine to do it on, the runs are not good before they are
/// injured, or the user stops us.
pub async fn run(session: &Session, args: &TortureArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let json = args.json.as_ref().map(|path| cwd.join(path));
    if let Some(problem) = json.as_deref().and_then(|path| check_writable("--json", path)) {
        return Err(Stop::usage(problem));
    }
    let ctx = session.context()?;
    // There is one place for it in a store.
    let _held = ctx.store.lock("torture", &ctx.log, &ctx.interrupt).await?;
    let bench = Bench::set_up(session, ctx, args.yes, &cwd).await?;

    let mut report = Report::new(args.seed, args.count);
    let ended = bench.rounds(args, &mut report).await;
    let mut text = serde_json::to_string_pretty(&report).context("the report")?;
    text.push('\n');
    if let Some(path) = json {
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&text)?;
    // What was wrong is kept elsewhere.
    if let Err(error) = fs::remove_dir_all(&bench.root) {
        say(format_args!("torture  {} stays: {error}", bench.root.display()));
    }
    ended?;
    Ok(if report.violations.is_empty() { AS_EXPECTED } else { NOT_AS_EXPECTED })
}

/// All that rounds have in common.
struct Bench {
    ctx: Context,
    /// Everything of the torture lies below; nothing else does.
    root: PathBuf,
    /// This program, as it is now.
    program: PathBuf,
    /// The store that is injured.
    store: PathBuf,
    /// The planted bug, as a series.
    bug: PathBuf,
    reference: Option<Reference>,
    /// How long runs take.
    paces: BTreeMap<Shape, Pace>,
    /// By how much a run takes longer that finds nothing in the store.
    cold: Duration,
    /// Where what was wrong is kept.
    kept: PathBuf,
}

/// How long a run takes.
#[derive(Debug, Clone, Copy)]
struct Pace {
    whole: Duration,
    /// From the first test on.
    tests: Duration,
}

/// What was seen of a run that nobody injured.
struct Calm {
    took: Duration,
    ready: Duration,
    end: End,
    wrong: Vec<String>,
    home: PathBuf,
}

impl Bench {
    /// Builds what is needed and measures how long runs take.
    async fn set_up(session: &Session, ctx: Context, yes: bool, cwd: &Path) -> Result<Self, Stop> {
        crate::machine::ready(&ctx, yes).await?;
        let root = ctx.store.path("torture");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
        }
        let store = root.join("store");
        fs::create_dir_all(&store).with_context(|| store.display().to_string())?;
        let bug = root.join("bug.patch");
        let text = embedded::text(BUG).with_context(|| format!("{BUG} is not in this binary"))?;
        fs::write(&bug, text).with_context(|| bug.display().to_string())?;
        // A copy: the program may be built anew while we use it.
        let program = root.join("hmm-harness");
        let ours = std::env::current_exe().context("this program")?;
        fs::copy(&ours, &program).with_context(|| ours.display().to_string())?;

        for series in [Vec::new(), vec![bug.clone()]] {
            let out = Some(root.join("build"));
            let wishes = Wishes { series, until: Some(Stage::Build), out, ..Wishes::default() };
            let prepared = prepare(wishes, None, cwd)?;
            let permissions = Permissions { yes, ..Permissions::default() };
            let (results, _) = carry_out(session, &prepared, permissions, cwd).await?;
            session.interrupt.check()?;
            if results.exit_code != AS_EXPECTED {
                let why = results.reason.unwrap_or_default();
                return Err(Stop::Machine(Fault::new(format!("no kernel to torture: {why}"))));
            }
        }
        link_shared(&ctx, &store)?;
        let kept = rundir::base(cwd)?;
        let mut bench = Bench {
            ctx,
            root,
            program,
            store,
            bug,
            reference: None,
            paces: BTreeMap::new(),
            cold: Duration::ZERO,
            kept,
        };
        bench.measure().await?;
        Ok(bench)
    }

    /// Runs of every shape, which must be good; and one with the planted bug,
    /// which must not.
    async fn measure(&mut self) -> Result<(), Stop> {
        let first = self.calm(&Run::clean(Shape::ALL[0])).await?;
        first.must_be_good()?;
        for shape in Shape::ALL {
            let calm = self.calm(&Run::clean(shape)).await?;
            calm.must_be_good()?;
            let pace = Pace { whole: calm.took, tests: calm.took.saturating_sub(calm.ready) };
            self.paces.insert(shape, pace);
        }
        let warm = self.paces[&Shape::ALL[0]].whole;
        self.cold = first.took.saturating_sub(warm);
        let planted = self.calm(&Run { planted: true, ..Run::clean(Shape::ALL[0]) }).await?;
        planted.must_be_good()?;
        let root = self.root.join("reference");
        self.reference = Some(Reference::make(&self.ctx, &root, &self.store)?);
        Ok(())
    }

    async fn rounds(&self, args: &TortureArgs, report: &mut Report) -> Result<(), Stop> {
        report.no_disk = self.lacks_disk().await?;
        for n in 0..args.count {
            let round = Round::of(args.seed.wrapping_add(n));
            if report.no_disk.is_some() && round.injury.needs_disk() {
                report.unavailable(round.injury);
                continue;
            }
            begun(format_args!("torture  round {} of {}", n + 1, args.count));
            self.round(&round, report).await?;
            if (n + 1) % CLEAN_EVERY == 0 && n + 1 < args.count {
                self.prove_store(report).await?;
            }
        }
        self.prove_store(report).await
    }

    /// Why this machine does not let us have a disk of our own, if it does not.
    async fn lacks_disk(&self) -> Result<Option<String>, Stop> {
        let at = self.root.join("disk");
        fs::create_dir_all(&at).with_context(|| at.display().to_string())?;
        match Disk::mount(&at, 4, &self.ctx.interrupt).await {
            Ok(disk) => {
                disk.unmount().await?;
                Ok(None)
            }
            Err(Stop::Machine(fault)) => {
                say(format_args!("torture  no round with a full disk: {}", fault.what));
                Ok(Some(fault.what))
            }
            Err(stop) => Err(stop),
        }
    }

    /// A run without an injury on the store that has seen them: what it finds
    /// there must be good.
    async fn prove_store(&self, report: &mut Report) -> Result<(), Stop> {
        let calm = self.calm(&Run::clean(Shape::ALL[0])).await?;
        let Calm { end, wrong, home, .. } = calm;
        if wrong.is_empty() {
            report.clean_runs += 1;
            return Ok(());
        }
        let kept = self.keep(&home, &home.join("run"), &format!("clean-{}", report.rounds))?;
        say(format_args!("torture  a run without an injury is not good: {}", wrong.join("; ")));
        report.violations.push(Violation {
            what: wrong,
            round: None,
            at: None,
            end,
            again: None,
            kept,
        });
        // Each later one would say the same.
        inspect::forget(&self.store)?;
        Ok(())
    }

    /// A run that nobody injures.
    async fn calm(&self, run: &Run) -> Result<Calm, Stop> {
        begun("torture  a run without an injury");
        let home = self.home("calm")?;
        let out = home.join("run");
        let place = Place { program: &self.program, home: &home, store: &self.store, disk: None };
        let mut victim = Victim::start(&place, &self.words(run, &out, None))?;
        let end = self.see_off(&mut victim).await?;
        let took = victim.began().elapsed();
        let left = inspect::run_directory(&out);
        let normal = if run.planted { NOT_AS_EXPECTED } else { AS_EXPECTED };
        let mut wrong = left.faults;
        let mut ready = Duration::ZERO;
        match left.results {
            Written::Whole(results) => {
                ready = Duration::from_millis(results.timing.ready_ms);
                for test in results.tests {
                    let expect = match run.planted && test.id.starts_with(CULPRIT) {
                        true => Verdict::Failed,
                        false => Verdict::Passed,
                    };
                    if test.verdict != expect {
                        wrong.push(format!("{} {}: {}", test.id, test.verdict, test.reason));
                    }
                }
                wrong.extend(results.reason.filter(|_| end != End::Exit(normal)));
            }
            Written::Broken(why) => wrong.push(format!("results.json: {why}")),
            Written::Absent => wrong.push("there is no results.json".into()),
        }
        if end != End::Exit(normal) {
            wrong.push(format!("it ended with {end}"));
        }
        wrong.extend(left_over(&home, None, LINGER).await);
        say(format_args!("torture  no injury: {end} in {}", seconds(took)));
        Ok(Calm { took, ready, end, wrong, home })
    }

    /// A round, counted.
    async fn round(&self, round: &Round, report: &mut Report) -> Result<(), Stop> {
        let began = Instant::now();
        let home = self.home(&round.seed.to_string())?;
        if round.cold {
            inspect::forget(&self.store)?;
        }
        let disk = match round.injury.needs_disk() {
            false => None,
            true => {
                let at = home.join("disk");
                fs::create_dir(&at).with_context(|| at.display().to_string())?;
                Some(Disk::mount(&at, round.disk_kib, &self.ctx.interrupt).await?)
            }
        };
        let scene = Scene { round, home: &home, disk: disk.as_ref(), began };
        let concluded = match self.injured(&scene).await {
            Ok(done) => {
                let seen = self.look(&scene, &done).await;
                self.conclude(&scene, &done, &seen, report)
            }
            Err(stop) => Err(stop),
        };
        if let Some(disk) = disk {
            disk.unmount().await?;
        }
        concluded?;
        fs::remove_dir_all(&home).with_context(|| home.display().to_string())?;
        Ok(())
    }

    /// Starts a round's run, injures it, and sees it off.
    async fn injured(&self, scene: &Scene<'_>) -> Result<Done, Stop> {
        let Scene { round, home, disk, .. } = *scene;
        let on_disk = home.join("disk");
        let (store, out) = match round.injury {
            Injury::RunDiskFull => (self.store.clone(), on_disk.join("run")),
            Injury::StoreDiskFull => {
                let seen = scene.store(self);
                fs::create_dir(&seen).with_context(|| seen.display().to_string())?;
                link_shared(&self.ctx, &seen)?;
                (on_disk.join("store"), home.join("run"))
            }
            _ => (self.store.clone(), home.join("run")),
        };
        let pace = self.paces[&round.run.shape];
        let cold = if round.cold { self.cold } else { Duration::ZERO };
        let at = match round.injury {
            Injury::AgentDies => round.at(pace.tests),
            // From the beginning on there is less room than is wanted.
            Injury::StoreDiskFull => Duration::ZERO,
            _ => round.at(pace.whole + cold),
        };
        let agent = (round.injury == Injury::AgentDies).then_some(at);
        let words = self.words(&round.run, &out, agent);
        let place = Place { program: &self.program, home, store: &store, disk };
        let mut victim = Victim::start(&place, &words)?;

        let moment = victim.began() + at;
        let over = tokio::select! {
            over = victim.wait_until(moment) => over?.is_some(),
            () = self.ctx.interrupt.wait() => return Err(self.give_up(&mut victim).await),
        };
        let hit = !over && injure(scene, &mut victim).await?;
        let end = self.see_off(&mut victim).await?;
        Ok(Done { end, hit, at })
    }

    /// Waits for the end of a run, and ends it if that does not come.
    async fn see_off(&self, victim: &mut Victim) -> Result<End, Stop> {
        let deadline = victim.began() + ROUND;
        let end = tokio::select! {
            end = victim.wait_until(deadline) => end?,
            () = self.ctx.interrupt.wait() => return Err(self.give_up(victim).await),
        };
        if end.is_none() {
            victim.signal(Signal::SIGKILL);
            victim.wait_until(Instant::now() + ASKED).await?;
        }
        Ok(end.unwrap_or(End::Hung))
    }

    /// Ends a run because the user wants us to end.
    async fn give_up(&self, victim: &mut Victim) -> Stop {
        victim.signal(Signal::SIGTERM);
        if !matches!(victim.wait_until(Instant::now() + ASKED).await, Ok(Some(_))) {
            victim.signal(Signal::SIGKILL);
        }
        Stop::Interrupted
    }

    /// Looks at what a run left.
    async fn look(&self, scene: &Scene<'_>, done: &Done) -> Seen {
        let run = scene.run();
        // Whoever is about to go may hold the run directory until then.
        let still = left_over(scene.home, scene.disk.and_then(Disk::keeper), LINGER).await;
        let left = inspect::run_directory(&run);
        let mut faults = left.faults;
        let store = scene.store(self);
        faults.extend(self.reference.iter().flat_map(|reference| reference.faults(&store)));
        let hit = match scene.round.injury {
            Injury::AgentDies => consoles(&run).contains(INIT_DIED),
            _ => done.hit,
        };
        Seen {
            end: done.end,
            hit,
            results: left.results,
            again: left.again,
            proof: left.proof,
            output: text_of(scene.home.join("output.txt")),
            left: still,
            faults,
        }
    }

    /// Says what is wrong with what was seen, and counts the round.
    fn conclude(
        &self,
        scene: &Scene<'_>,
        done: &Done,
        seen: &Seen,
        report: &mut Report,
    ) -> Result<(), Stop> {
        let Scene { round, home, began, .. } = *scene;
        let wrong = verdict::violations(round, seen);
        let outcome = Outcome {
            hit: seen.hit,
            end: seen.end,
            wrong: !wrong.is_empty(),
            seconds: began.elapsed().as_secs_f64(),
        };
        report.count(round.injury, &outcome);
        say(line(round, &outcome, done.at, &wrong));
        if wrong.is_empty() {
            return Ok(());
        }
        let kept = self.keep(home, &scene.run(), &round.seed.to_string())?;
        let program = crate::report::program();
        report.violations.push(Violation {
            what: wrong,
            round: Some(round.clone()),
            at: Some(done.at.as_secs_f64()),
            end: seen.end,
            again: Some(format!("{program} torture --seed {} --count 1", round.seed)),
            kept,
        });
        Ok(())
    }

    /// The words of a run's command.
    fn words(&self, run: &Run, out: &Path, agent_dies: Option<Duration>) -> Vec<String> {
        let mut words = run.words();
        words.extend(["--out".into(), out.display().to_string()]);
        if run.planted {
            words.extend(["--series".into(), self.bug.display().to_string()]);
        }
        if let Some(after) = agent_dies {
            words.extend(["--torture-agent-after".into(), after.as_millis().to_string()]);
        }
        words
    }

    /// An empty directory for a run and all its processes.
    fn home(&self, name: &str) -> anyhow::Result<PathBuf> {
        let home = self.root.join("rounds").join(name);
        if home.exists() {
            fs::remove_dir_all(&home).with_context(|| home.display().to_string())?;
        }
        fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
        Ok(home)
    }

    /// Copies what a run left and said to where runs are kept, and returns the
    /// place. What was kept before of the same run stays, as far as it is not
    /// there now.
    fn keep(&self, home: &Path, run: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let kept = self.kept.join(format!("torture-{name}"));
        fs::create_dir_all(&kept).with_context(|| kept.display().to_string())?;
        let files = fs::read_dir(run).into_iter().flatten().flatten().map(|entry| entry.path());
        for file in files.chain([home.join("output.txt")]) {
            let Some(name) = file.file_name() else { continue };
            if let Err(error) = fs::copy(&file, kept.join(name)) {
                say(format_args!("torture  {} is not kept: {error}", file.display()));
            }
        }
        Ok(kept)
    }
}

/// Where a round takes place.
#[derive(Clone, Copy)]
struct Scene<'a> {
    round: &'a Round,
    home: &'a Path,
    disk: Option<&'a Disk>,
    began: Instant,
}

impl Scene<'_> {
    /// The run directory, wherever it lies, as it is seen from here.
    fn run(&self) -> PathBuf {
        match self.disk {
            Some(disk) if self.round.injury == Injury::RunDiskFull => disk.seen("run"),
            _ => self.home.join("run"),
        }
    }

    /// The store, likewise.
    fn store(&self, bench: &Bench) -> PathBuf {
        match self.disk {
            Some(disk) if self.round.injury == Injury::StoreDiskFull => disk.seen("store"),
            _ => bench.store.clone(),
        }
    }
}

/// What was done in a round.
struct Done {
    end: End,
    /// Whether the injury met the run.
    hit: bool,
    /// When it was due, from the start of the run.
    at: Duration,
}

/// Does it. Returns whether there was something to be injured.
async fn injure(scene: &Scene<'_>, victim: &mut Victim) -> Result<bool, Stop> {
    let one_of = async |victim: &mut Victim, wanted, signal| {
        let until = victim.began() + ROUND;
        hit(victim, scene.home, wanted, scene.round.which, signal, until).await
    };
    Ok(match scene.round.injury {
        Injury::KillQemu => one_of(victim, Process::is_qemu, Signal::SIGKILL).await,
        Injury::StopQemu => one_of(victim, Process::is_qemu, Signal::SIGSTOP).await,
        Injury::KillKeeper => one_of(victim, Process::is_keeper, Signal::SIGKILL).await,
        Injury::KillHarness => victim.signal(Signal::SIGKILL),
        Injury::TermHarness => victim.signal(Signal::SIGTERM),
        Injury::RunDiskFull => {
            let disk = scene.disk.context("the round has a disk")?;
            disk.fill()?;
            let met = !victim.is_over();
            if scene.round.passing {
                victim.wait_until(Instant::now() + FULL).await?;
                disk.free()?;
            }
            met
        }
        // These were done by how the run was started.
        Injury::AgentDies | Injury::StoreDiskFull => true,
    })
}

impl Calm {
    /// What was not injured must be good, or there is nothing to be learned.
    fn must_be_good(&self) -> Result<(), Stop> {
        if self.wrong.is_empty() {
            return Ok(());
        }
        let what = "a run is not good before anything was done to it";
        Err(Stop::Machine(
            Fault::new(what)
                .details(self.wrong.clone())
                .hint(format!("what it said is in {}", self.home.join("output.txt").display())),
        ))
    }
}

/// Puts links to what is used as it is into a new store.
fn link_shared(ctx: &Context, store: &Path) -> anyhow::Result<()> {
    for name in SHARED {
        let path = ctx.store.path(name);
        if path.exists() {
            std::os::unix::fs::symlink(&path, store.join(name))
                .with_context(|| format!("cannot link {}", path.display()))?;
        }
    }
    Ok(())
}

/// What the consoles of a run say.
fn consoles(run: &Path) -> String {
    let files = fs::read_dir(run).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_console = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("console"))
    };
    files.filter(is_console).map(text_of).collect::<Vec<_>>().join("\n")
}

/// A round, as a person reads it.
fn line(round: &Round, outcome: &Outcome, at: Duration, wrong: &[String]) -> String {
    let run = &round.run;
    let late = if outcome.hit { "" } else { ", too late" };
    let mut words = vec![format!(
        "torture  {}: {} at {:.2} s{late}: {} in {:.1} s",
        round.seed,
        round.injury.as_str(),
        at.as_secs_f64(),
        outcome.end,
        outcome.seconds
    )];
    let traits = [
        (run.planted, "planted bug"),
        (round.cold, "empty store"),
        (run.shape.isolated, "isolated"),
        (run.shape.no_snapshot, "no snapshot"),
        (run.jobs > 1, "2 jobs"),
        (round.injury == Injury::RunDiskFull && round.passing, "not for long"),
    ];
    let traits: Vec<&str> = traits.iter().filter(|(has, _)| *has).map(|(_, word)| *word).collect();
    words.push(format!(" ({}, {})", run.rootfs.as_str(), traits.join(", ")).replace(", )", ")"));
    words.extend(wrong.iter().map(|wrong| format!("\n         VIOLATION: {wrong}")));
    words.concat()
}
