//! `run-kernel-tests`: the main job, all stages in their order.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use hmm_protocol::wire::Abi;
use hmm_protocol::{Device, TestId};

use crate::cli::RunArgs;
use crate::config::{Fragments, Profile};
use crate::context::Context;
use crate::events::Event;
use crate::flow::Stage;
use crate::judge::{KernelInfo, NotApplicable, Results};
use crate::plan::{Plan, Wishes};
use crate::run::Options;
use crate::source::Source;
use crate::stop::{Problem, Stop};
use crate::{boot, build, collect, config, embedded, image, judge, machine, plan, report};
use crate::{run, rundir, series, source};

/// What the command does beside the plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Permissions {
    /// Whether packages may be installed without asking.
    pub yes: bool,
    /// Whether what was remembered of the archive is asked again.
    pub refresh: bool,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the request; everything later is in the results.
pub async fn run(ctx: &Context, args: &RunArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let prepared = prepare(args.wishes(), args.plan.as_deref(), &cwd)?;
    if args.dry_run {
        let text = serde_yaml::to_string(&prepared.plan).context("the plan")?;
        std::io::stdout().write_all(text.as_bytes()).context("standard output")?;
        return Ok(0);
    }
    let permissions = Permissions { yes: args.yes, refresh: args.refresh };
    let (results, dir) = carry_out(ctx, &prepared, permissions, &cwd).await?;
    let mut out = std::io::stdout();
    out.write_all(report::summary(&results, &dir).as_bytes()).context("standard output")?;
    Ok(results.exit_code)
}

/// A plan that was found to make sense.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    source: Source,
    profile: Profile,
    out: Option<PathBuf>,
    json: Option<PathBuf>,
}

/// Resolves a request and finds everything that is wrong with it at once.
///
/// # Errors
/// [`Stop::Usage`].
pub fn prepare(options: Wishes, plan_file: Option<&Path>, cwd: &Path) -> Result<Prepared, Stop> {
    let mut problems = Vec::new();
    let read = plan_file.map(|path| (path, fs::read_to_string(cwd.join(path))));
    let file = match read {
        None => None,
        Some((path, Ok(text))) => Some((path, text)),
        Some((path, Err(error))) => {
            problems.push(
                Problem::new("--plan", format!("{}: {error}", path.display()))
                    .hint("name a plan file, such as those in ci/plans"),
            );
            None
        }
    };
    let file = file.as_ref().map(|(path, text)| (*path, text.as_str()));

    // What goes past the plan, and is checked beside it.
    let mut ignored = Vec::new();
    let from_file = file
        .map(|(path, text)| plan::parse_file(path, text, cwd, &mut ignored))
        .unwrap_or_default();
    let wishes = options.clone().over(from_file, cwd);
    let (out, json) = (wishes.out.clone(), wishes.json.clone());
    problems.extend(out.as_deref().and_then(rundir::check_out));
    problems.extend(json.as_deref().and_then(check_json));
    problems.extend(series::check(&wishes.series));
    let kernel = wishes.kernel.unwrap_or_else(|| plan::DEFAULT_KERNEL.into());
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
    let plan = match plan::resolve(options, file, cwd, &fragments.profiles()) {
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
            Ok(Prepared { plan, source, profile, out, json })
        }
        _ => Err(Stop::Usage { problems }),
    }
}

fn check_json(path: &Path) -> Option<Problem> {
    let parent = path.parent()?;
    (!parent.is_dir()).then(|| {
        Problem::new("--json", format!("{} is not a directory", parent.display()))
            .hint("make it first")
    })
}

/// Carries out a plan and judges it. Returns the results and the run directory.
///
/// # Errors
/// When the run directory cannot be made or read; all other errors are results.
pub async fn carry_out(
    ctx: &Context,
    prepared: &Prepared,
    permissions: Permissions,
    cwd: &Path,
) -> Result<(Results, PathBuf), Stop> {
    let dir = rundir::create(prepared.out.as_deref(), cwd)?;
    ctx.log.record_in(&dir)?;
    let text = serde_yaml::to_string(&prepared.plan).context("the plan")?;
    fs::write(dir.join("plan.yaml"), text).context("cannot write plan.yaml")?;

    let ended = stages(ctx, prepared, permissions, &dir).await.and_then(|()| ctx.log.check());
    if let Err(stop) = ended {
        if let Stop::Usage { .. } = stop {
            return Err(stop);
        }
        ctx.log.emit(Event::Stopped { stop });
    }
    let evidence = collect::evidence(&dir)?;
    let results = judge::judge(&evidence);
    report::write(&results, &dir, prepared.json.as_deref())?;
    Ok((results, dir))
}

/// The stages from the machine's fitness to the last test.
async fn stages(
    ctx: &Context,
    prepared: &Prepared,
    permissions: Permissions,
    dir: &Path,
) -> Result<(), Stop> {
    let plan = &prepared.plan;
    machine::ready(ctx, permissions.yes).await?;
    let qemu = machine::qemu(ctx).await?;
    let accelerator = machine::accelerator(ctx, &qemu, plan.accel).await?;

    let mut info = KernelInfo { profile: plan.profile.clone(), ..KernelInfo::default() };
    let stage = Timed::start(ctx, Stage::Source);
    let tree = source::fetch(ctx, &prepared.source, permissions.refresh).await?;
    info.source.clone_from(&tree.described);
    info.tree = tree.tree.to_string();
    ctx.log.emit(Event::Kernel(info.clone()));
    stage.finish(tree.reused, tree.described.clone());
    if plan.until <= Stage::Source {
        return Ok(());
    }

    let stage = Timed::start(ctx, Stage::Series);
    let tree = series::apply(ctx, tree, &plan.series).await?;
    info.tree = tree.tree.to_string();
    info.series.clone_from(&tree.patches);
    ctx.log.emit(Event::Kernel(info.clone()));
    stage.finish(tree.reused, format!("{} patches", tree.patches.len()));
    if plan.until <= Stage::Series {
        return Ok(());
    }

    let stage = Timed::start(ctx, Stage::Config);
    let configured = config::resolve(ctx, tree, &prepared.profile).await?;
    info.config_sha256.clone_from(&configured.config_sha256);
    ctx.log.emit(Event::Kernel(info.clone()));
    fs::write(dir.join("kernel.config"), &configured.config)
        .context("cannot write kernel.config")?;
    stage.finish(configured.reused, format!("profile {}", plan.profile));
    if plan.until <= Stage::Config {
        return Ok(());
    }

    let stage = Timed::start(ctx, Stage::Build);
    let kernel = build::kernel(ctx, configured, dir).await?;
    info.release.clone_from(&kernel.release);
    ctx.log.emit(Event::Kernel(info));
    stage.finish(kernel.reused, format!("vmlinux {}", kernel.release));
    if plan.until <= Stage::Build {
        return Ok(());
    }

    let stage = Timed::start(ctx, Stage::Image);
    let image = image::assemble(ctx, plan.rootfs)?;
    stage.finish(false, format!("rootfs {}", plan.rootfs.as_str()));
    if plan.until <= Stage::Image {
        return Ok(());
    }

    let stage = Timed::start(ctx, Stage::Boot);
    let recipe = boot::recipe(&kernel, image, qemu, accelerator)?;
    ctx.log.emit(Event::Machine(recipe.info.clone()));
    fs::write(dir.join("qemu.cmd"), recipe.pasteable()).context("cannot write qemu.cmd")?;
    stage.finish(false, format!("QEMU {}, {}", recipe.info.qemu_version, accelerator.as_str()));
    if plan.until <= Stage::Boot {
        return Ok(());
    }

    let stage = Timed::start(ctx, Stage::Run);
    let (tests, not_applicable) =
        applicable(plan.test_ids(), kernel.configured.source.version, &kernel.abi);
    ctx.log.emit(Event::Planned {
        tests: tests.iter().map(TestId::to_string).collect(),
        not_applicable,
    });
    let options = Options {
        timeout: plan.timeout,
        time_scale: accelerator.time_scale() * prepared.profile.timeout_scale,
        seed: plan.seed,
    };
    run::tests(ctx, &recipe, &tests, options, dir).await?;
    stage.finish(false, format!("{} tests ran", tests.len()));
    Ok(())
}

/// Sorts out the tests that a kernel cannot have.
fn applicable(
    tests: Vec<TestId>,
    version: (u32, u32, u32),
    abi: &Abi,
) -> (Vec<TestId>, Vec<NotApplicable>) {
    let mut not_applicable = Vec::new();
    let mut keep = tests;
    keep.retain(|test| match lacks(test, version, abi) {
        None => true,
        Some(reason) => {
            not_applicable.push(NotApplicable { id: test.to_string(), reason });
            false
        }
    });
    (keep, not_applicable)
}

/// What a kernel lacks for a test.
fn lacks(test: &TestId, (major, minor, _): (u32, u32, u32), abi: &Abi) -> Option<String> {
    let def = test.def();
    if (major, minor) < def.since {
        let (major, minor) = def.since;
        return Some(format!("since {major}.{minor}"));
    }
    if test.device == Some(Device::Coherent) && !abi.prots.contains_key("DEV_COHERENT_LOCAL") {
        return Some("the driver has no device-coherent memory (since 6.0)".into());
    }
    // Before 6.0 the only direction was to the device, and CPU faults brought
    // pages back.
    let has = |name: &str| {
        abi.ioctls.contains_key(name)
            || (name == "MIGRATE_TO_DEV" && abi.ioctls.contains_key("MIGRATE"))
            || (name == "MIGRATE_TO_SYS" && abi.ioctls.contains_key("MIGRATE"))
    };
    let missing = def.ioctls.iter().find(|name| !has(name))?;
    Some(format!("the driver has no HMM_DMIRROR_{missing}"))
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
    use hmm_protocol::catalogue;

    fn abi(ioctls: &[&str], coherent: bool) -> Abi {
        let ioctls = ioctls.iter().map(|n| ((*n).to_owned(), 0)).collect();
        let mut abi = Abi { ioctls, ..Abi::default() };
        if coherent {
            abi.prots.insert("DEV_COHERENT_LOCAL".into(), 0x40);
        }
        abi
    }

    #[test]
    fn each_kernel_gets_the_tests_that_apply_to_it() {
        let of_5_8 = abi(&["READ", "WRITE", "MIGRATE", "SNAPSHOT"], false);
        let (tests, others) = applicable(catalogue::all(), (5, 8, 0), &of_5_8);
        assert_eq!(tests.len() + others.len(), 58);
        assert!(tests.iter().all(|t| t.device == Some(Device::Private)));
        assert!(!tests.iter().any(|t| t.name.contains("exclusive")));

        let of_6_12 = abi(
            &[
                "READ",
                "WRITE",
                "MIGRATE_TO_DEV",
                "MIGRATE_TO_SYS",
                "SNAPSHOT",
                "EXCLUSIVE",
                "CHECK_EXCLUSIVE",
                "RELEASE",
            ],
            true,
        );
        let (tests, others) = applicable(catalogue::all(), (6, 12, 117), &of_6_12);
        assert_eq!((tests.len(), others.len()), (58, 0));
    }
}
