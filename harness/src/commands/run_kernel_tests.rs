//! `run-kernel-tests`: the main job, all stages in their order.

use std::collections::BTreeSet;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use hmm_protocol::TestId;

use super::{check_copies, check_writable, each, github, kcidb, read_baseline, read_small, show};
use crate::baseline::Baseline;
use crate::build::Kernel;
use crate::cli::RunArgs;
use crate::collect::Evidence;
use crate::config::{Fragments, Profile};
use crate::context::{Context, Session};
use crate::events::{Event, Record};
use crate::flow::Stage;
use crate::image::Image;
use crate::machine::{Accelerator, Qemu};
use crate::plan::{Plan, Wishes};
use crate::progress::{print, say};
use crate::report::Copies;
use crate::results::{KernelInfo, NotApplicable, Results, RunOutcome};
use crate::run::Options;
use crate::source::Source;
use crate::stop::{self, Problem, Stop};
use crate::symbols::{self, Wanted};
use crate::{boot, build, collect, config, embedded, image, judge, machine, plan, report};
use crate::{run, rundir, series, source};

/// How many different reports of a run have file and line looked up: the objects
/// that they name are compiled once more.
const SYMBOLISED: usize = 4;

/// What the command does beside the plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Permissions {
    /// Whether packages may be installed without asking.
    pub yes: bool,
    /// Whether what was remembered of the archive is asked again.
    pub refresh: bool,
    /// How long after the first order the guest's agent is to die.
    pub agent_dies: Option<Duration>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the request; everything later is in the results.
pub async fn run(session: &Session, args: &RunArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let prepared = prepare(args.wishes(), args.plan.as_deref(), &cwd)?;
    if args.dry_run {
        let text = serde_yaml::to_string(&prepared.plan).context("the plan")?;
        print(&text)?;
        return Ok(0);
    }
    let permissions = Permissions {
        yes: args.yes,
        refresh: args.refresh,
        agent_dies: args.torture_agent_after.map(Duration::from_millis),
    };
    if args.each {
        return each::run(session, args, permissions, &cwd).await;
    }
    let (results, dir) = carry_out(session, &prepared, permissions, &cwd).await?;
    // The verdict stands, and results.json has it.
    if let Err(error) = print(&report::summary(&results, &dir)) {
        say(format_args!("{error:#}"));
    }
    github::tell(&results, &dir);
    Ok(results.exit_code)
}

/// A plan that was found to make sense.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    source: Source,
    profile: Profile,
    out: Option<PathBuf>,
    copies: Copies,
    perfetto: Option<PathBuf>,
    baseline: Option<Baseline>,
}

impl Prepared {
    /// The plan.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where its run directory is to be, if that is said.
    pub(super) fn out(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// Where else its results are to be.
    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// How one machine runs tests for it, each once.
    pub(super) fn options(&self, accelerator: Accelerator) -> Options {
        Options {
            timeout: self.plan.timeout,
            time_scale: accelerator.time_scale() * self.profile.timeout_scale,
            seed: self.plan.seed,
            isolate: self.plan.isolate,
            jobs: 1,
            repeat: 1,
            retry: 0,
            snapshot: !self.plan.no_snapshot,
            trace: self.plan.trace,
            agent_dies: None,
            hold: None,
        }
    }

    /// Where the kernel's source is.
    pub(in crate::commands) fn source(&self) -> &Source {
        &self.source
    }

    /// The series on top of it.
    pub(in crate::commands) fn series(&self) -> &[PathBuf] {
        &self.plan.series
    }

    /// How many patches of the last of them are taken.
    pub(in crate::commands) fn first(&self) -> Option<usize> {
        self.plan.first
    }

    /// The profile of its configuration.
    pub(in crate::commands) fn profile(&self) -> &Profile {
        &self.profile
    }
}

/// Resolves a request and finds everything that is wrong with it at once.
///
/// # Errors
/// [`Stop::Usage`].
pub fn prepare(options: Wishes, plan_file: Option<&Path>, cwd: &Path) -> Result<Prepared, Stop> {
    let mut problems = Vec::new();
    let wishes = wishes(options, plan_file, cwd, &mut problems);
    resolve(wishes, problems, cwd)
}

/// What is wished for on the command line and in a plan, with absolute paths.
pub(super) fn wishes(
    options: Wishes,
    plan_file: Option<&Path>,
    cwd: &Path,
    problems: &mut Vec<Problem>,
) -> Wishes {
    let from_file = match plan_file.map(|path| (path, read_small(&cwd.join(path)))) {
        None => Wishes::default(),
        Some((path, Ok(text))) => plan::read(path, &text, cwd, problems),
        Some((path, Err(error))) => {
            problems.push(
                Problem::new("--plan", format!("{}: {error}", path.display()))
                    .hint("name a plan file, such as those in ci/plans"),
            );
            Wishes::default()
        }
    };
    options.over(from_file, cwd)
}

/// Makes a plan of wishes, unless there are problems.
///
/// # Errors
/// [`Stop::Usage`] with all of them.
pub(super) fn resolve(
    wishes: Wishes,
    mut problems: Vec<Problem>,
    cwd: &Path,
) -> Result<Prepared, Stop> {
    let (out, perfetto) = (wishes.out.clone(), wishes.perfetto.clone());
    let copies = Copies {
        json: wishes.json.clone(),
        junit: wishes.junit.clone(),
        ktap: wishes.ktap.clone(),
        kcidb: kcidb(wishes.kcidb.clone(), wishes.kcidb_origin.as_deref(), &mut problems),
    };
    problems.extend(out.as_deref().and_then(rundir::check_out));
    problems.extend(check_copies(&copies, out.as_deref()));
    problems.extend(perfetto.as_deref().and_then(|path| check_writable("--perfetto", path)));
    if let (Some(perfetto), Some(out)) = (&perfetto, &out) {
        problems.extend(rundir::check_beside("--perfetto", perfetto, out));
    }
    let others = [
        ("--json", &copies.json),
        ("--junit", &copies.junit),
        ("--ktap", &copies.ktap),
        ("--kcidb", &wishes.kcidb),
    ];
    for (other, _) in others.iter().filter(|(_, path)| perfetto.is_some() && **path == perfetto) {
        let what = format!("it is the same file as that of {other}");
        problems.push(Problem::new("--perfetto", what));
    }
    problems.extend(series::check(&wishes.series));
    let baseline = match wishes.baseline.as_deref().map(|path| read_baseline("--baseline", path)) {
        None => None,
        Some(Ok(baseline)) => Some(baseline),
        Some(Err(Stop::Usage { problems: more })) => {
            problems.extend(more);
            None
        }
        Some(Err(stop)) => return Err(stop),
    };

    let kernel = wishes.kernel.clone().unwrap_or_else(|| plan::DEFAULT_KERNEL.into());
    let source = match Source::parse(&kernel, cwd) {
        Ok(source) => {
            problems.extend(source.check());
            Some(source)
        }
        Err(problem) => {
            problems.push(problem);
            None
        }
    };

    let fragments = Fragments::of(embedded::files());
    let plan = match plan::resolve(wishes, &fragments.profiles()) {
        Ok(plan) => Some(plan),
        Err(more) => {
            problems.extend(more);
            None
        }
    };
    let profile = match &plan {
        Some(plan) => match Profile::load(&fragments, &plan.profile) {
            Ok(profile) => Some(profile),
            Err(Stop::Usage { problems: more }) => {
                problems.extend(more);
                None
            }
            Err(stop) => return Err(stop),
        },
        None => None,
    };
    match (plan, source, profile) {
        (Some(mut plan), Some(source), Some(profile)) if problems.is_empty() => {
            plan.kernel = source.to_string();
            Ok(Prepared { plan, source, profile, out, copies, perfetto, baseline })
        }
        _ => Err(Stop::Usage { problems }),
    }
}

/// Carries out a plan and judges it. Returns the results and the run directory.
///
/// # Errors
/// When the run directory cannot be made or read; all other errors are results.
pub async fn carry_out(
    session: &Session,
    prepared: &Prepared,
    permissions: Permissions,
    cwd: &Path,
) -> Result<(Results, PathBuf), Stop> {
    let Session { log, interrupt } = session;
    let (dir, _held) = rundir::create(prepared.out.as_deref(), cwd)?;
    log.record_in(&dir)?;
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    log.emit(Event::Began { at: now.to_string() });
    // A bug of ours must not leave a run without results.
    let ended = AssertUnwindSafe(stages(session, prepared, permissions, &dir))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("a bug of ours: the panic is told above").into()))
        .and_then(|()| log.check());
    let mut stopped = None;
    if let Err(stop) = ended {
        // What a child that the signal has hit too says of its end is no news.
        let stop = interrupt.check().err().unwrap_or(stop);
        if let Stop::Usage { .. } = stop {
            return Err(stop);
        }
        stopped = Some(Event::Stopped { stop: stop.clone() });
        log.emit(Event::Stopped { stop });
    }
    let mut evidence = collect::evidence(&dir).unwrap_or_else(|error| {
        // Without evidence there is a reason, and nothing else.
        let unread = Stop::from(error.context("the evidence of this run cannot be read"));
        let event = stopped.clone().unwrap_or(Event::Stopped { stop: unread });
        Evidence::only(prepared.plan.clone(), vec![Record { t_ms: 0, event }])
    });
    // A full disk may not have taken even that, and we know better.
    let said = evidence.records.iter().any(|r| matches!(r.event, Event::Stopped { .. }));
    if let Some(event) = stopped.filter(|_| !said) {
        let t_ms = evidence.records.last().map_or(0, |last| last.t_ms);
        evidence.records.push(Record { t_ms, event });
    }
    let mut results = judge::judge(&evidence);
    let own = report::write(&results, &dir);
    // They may lie on different disks, of which one is full.
    let copy = report::write_copies(&results, &dir, &prepared.copies);
    let page = report::html::write(&results, &dir).map(drop);
    let words = evidence.unwritten().map_or(Ok(()), |why| Err(anyhow::anyhow!(why)));
    let traces = prepared.perfetto.as_ref().map_or(Ok(()), |path| {
        let tests: Vec<&str> = results.tests.iter().map(|test| test.id.as_str()).collect();
        show::perfetto::write(&dir, &tests, path).map(drop)
    });
    if let Err(error) = own.and(copy).and(page).and(words).and(traces) {
        // What was judged is shown all the same.
        results.outcome = RunOutcome::Fault;
        results.exit_code = stop::FAULT;
        results.reason = Some(format!("{error:#}"));
        // What can be written says so too.
        let _ = report::write(&results, &dir).and_then(|()| report::html::write(&results, &dir));
    }
    Ok((results, dir))
}

/// A kernel that was built, and what it needs to boot.
pub(super) struct Bootable {
    pub(super) kernel: Kernel,
    pub(super) image: Image,
    pub(super) qemu: Qemu,
    pub(super) accelerator: Accelerator,
}

/// The stages from the machine's fitness to the image. Returns nothing if the plan
/// ends before. `look` is shown what is known of the kernel whenever it is more, and may
/// stop here.
pub(super) async fn bootable(
    ctx: &Context,
    prepared: &Prepared,
    permissions: Permissions,
    dir: &Path,
    look: impl Fn(&KernelInfo) -> Result<(), Stop>,
) -> Result<Option<Bootable>, Stop> {
    let known = |info: &KernelInfo| {
        ctx.log.emit(Event::Kernel(info.clone()));
        look(info)
    };
    let plan = &prepared.plan;
    machine::ready(ctx, permissions.yes).await?;
    let qemu = machine::qemu(ctx).await?;
    let accelerator = machine::accelerator(ctx, &qemu, plan.accel).await?;

    let mut info = KernelInfo { profile: plan.profile.clone(), ..KernelInfo::default() };
    let stage = Timed::start(ctx, Stage::Source);
    let tree = source::fetch(ctx, &prepared.source, permissions.refresh).await?;
    info.source.clone_from(&tree.described);
    info.source_commit.clone_from(&tree.commit);
    info.source_tree = tree.tree.to_string();
    info.tree = tree.tree.to_string();
    known(&info)?;
    stage.finish(tree.reused, tree.described.clone());
    if plan.until <= Stage::Source {
        return Ok(None);
    }

    let stage = Timed::start(ctx, Stage::Series);
    let tree = series::apply(ctx, tree, &plan.series, plan.first).await?;
    info.tree = tree.tree.to_string();
    info.series.clone_from(&tree.patches);
    known(&info)?;
    let patches = match tree.patches.len() {
        1 => "1 patch".to_owned(),
        n => format!("{n} patches"),
    };
    stage.finish(tree.reused, patches);
    if plan.until <= Stage::Series {
        return Ok(None);
    }

    let stage = Timed::start(ctx, Stage::Config);
    let configured = config::resolve(ctx, tree, &prepared.profile).await?;
    info.config_sha256.clone_from(&configured.config_sha256);
    known(&info)?;
    fs::write(dir.join("kernel.config"), &configured.config)
        .context("cannot write kernel.config")?;
    stage.finish(configured.reused, format!("profile {}", plan.profile));
    if plan.until <= Stage::Config {
        return Ok(None);
    }

    let stage = Timed::start(ctx, Stage::Build);
    let kernel = build::kernel(ctx, configured, dir).await?;
    info.release.clone_from(&kernel.release);
    info.loaded_sha256 = kernel.loaded_sha256(ctx)?;
    known(&info)?;
    stage.finish(kernel.reused, format!("vmlinux {}", kernel.release));
    if plan.until <= Stage::Build {
        return Ok(None);
    }

    let stage = Timed::start(ctx, Stage::Image);
    let image = image::assemble(ctx, plan.rootfs)?;
    stage.finish(false, format!("rootfs {}", plan.rootfs.as_str()));
    if plan.until <= Stage::Image {
        return Ok(None);
    }
    Ok(Some(Bootable { kernel, image, qemu, accelerator }))
}

/// The stages from the machine's fitness to the last test.
async fn stages(
    session: &Session,
    prepared: &Prepared,
    permissions: Permissions,
    dir: &Path,
) -> Result<(), Stop> {
    let plan = &prepared.plan;
    // What the run is held against goes with it, wherever it is taken.
    let baseline = prepared.baseline.as_ref().map(|_| rundir::BASELINE.into());
    let text = serde_yaml::to_string(&Plan { baseline, ..plan.clone() }).context("the plan")?;
    fs::write(dir.join("plan.yaml"), text).context("cannot write plan.yaml")?;
    if let Some(baseline) = &prepared.baseline {
        fs::write(dir.join(rundir::BASELINE), baseline.text()?)
            .context("cannot write the baseline")?;
    }
    let ctx = &session.context()?;
    let bootable = bootable(ctx, prepared, permissions, dir, |_| Ok(())).await?;
    let Some(Bootable { kernel, image, qemu, accelerator }) = bootable else { return Ok(()) };

    let stage = Timed::start(ctx, Stage::Boot);
    let recipe = boot::recipe(&kernel, image, qemu, accelerator, plan.trace)?;
    ctx.log.emit(Event::Layout(kernel.layout.clone()));
    ctx.log.emit(Event::Machine(recipe.info.clone()));
    fs::write(dir.join("qemu.cmd"), recipe.pasteable()).context("cannot write qemu.cmd")?;
    let options = Options {
        jobs: plan.jobs.unwrap_or_else(|| machine::jobs(recipe.info.memory_mib)),
        repeat: plan.repeat,
        retry: plan.retry,
        agent_dies: permissions.agent_dies,
        ..prepared.options(accelerator)
    };
    if plan.until <= Stage::Boot {
        let booted = run::tests(ctx, &recipe, &[], options, dir).await;
        let symbolised = symbolise(ctx, &kernel, dir).await;
        booted.and(symbolised)?;
    }
    stage.finish(false, format!("QEMU {}, {}", recipe.info.qemu_version, accelerator.as_str()));
    if plan.until <= Stage::Boot {
        return Ok(());
    }

    let stage = Timed::start(ctx, Stage::Run);
    let (tests, not_applicable) = applicable(plan.test_ids(), kernel.configured.source.version);
    ctx.log.emit(Event::Planned {
        tests: tests.iter().map(TestId::to_string).collect(),
        repeat: plan.repeat,
        not_applicable,
    });
    let ran = run::tests(ctx, &recipe, &tests, options, dir).await;
    let symbolised = symbolise(ctx, &kernel, dir).await;
    ran.and(symbolised)?;
    stage.finish(false, format!("{} tests ran", tests.len()));
    Ok(())
}

/// Finds file and line of what the kernel has complained about.
async fn symbolise(ctx: &Context, kernel: &Kernel, dir: &Path) -> Result<(), Stop> {
    let mut titles = BTreeSet::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    for report in collect::reports(dir)? {
        if titles.len() == SYMBOLISED || !titles.insert(report.title) {
            continue;
        }
        for (n, address) in report.frames.into_iter().enumerate() {
            let place = if n == 0 && report.exact { Wanted::at } else { Wanted::after };
            let address = place(address);
            if !wanted.contains(&address) {
                wanted.push(address);
            }
        }
    }
    if !wanted.is_empty() {
        let resolved = symbols::resolve(ctx, kernel, &wanted).await?;
        ctx.log.emit(Event::Symbols { resolved });
    }
    Ok(())
}

/// Sorts out the tests that a kernel of this version cannot have. Only the
/// version is asked: what a series takes away from the driver must fail.
fn applicable(
    mut tests: Vec<TestId>,
    (major, minor, _): (u32, u32, u32),
) -> (Vec<TestId>, Vec<NotApplicable>) {
    let mut not_applicable = Vec::new();
    tests.retain(|test| {
        let since = test.since();
        let applies = (major, minor) >= since;
        if !applies {
            let reason = format!("since {}.{}", since.0, since.1);
            not_applicable.push(NotApplicable { id: test.to_string(), reason });
        }
        applies
    });
    (tests, not_applicable)
}

/// A stage between its start and its end.
struct Timed<'a> {
    ctx: &'a Context,
    stage: Stage,
    start: Instant,
}

impl<'a> Timed<'a> {
    fn start(ctx: &'a Context, stage: Stage) -> Self {
        ctx.log.emit(Event::StageStarted { stage });
        Timed { ctx, stage, start: Instant::now() }
    }

    fn finish(self, reused: bool, text: String) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ctx.log.emit(Event::StageFinished { stage: self.stage, ms, reused, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmm_protocol::{Device, catalogue};

    #[test]
    fn each_kernel_gets_the_tests_that_apply_to_it() {
        let (tests, others) = applicable(catalogue::all(), (5, 8, 0));
        assert_eq!(tests.len() + others.len(), 60);
        assert!(tests.iter().all(|t| t.device == Some(Device::Private)));
        assert!(!tests.iter().any(|t| t.name.contains("exclusive")));
        let (tests, others) = applicable(catalogue::all(), (6, 12, 117));
        assert_eq!((tests.len(), others.len()), (60, 0));
    }
}
