//! `check`: everything that a change to this project must pass.
//!
//! First the sources, then real kernels: the clean one with both root file
//! systems, every plan of `ci/plans/negative`, each of which plants one bug and
//! says what the harness must make of it, one of them under `debug`, every bisect of `ci/bisects.yaml`, whose
//! answers are known, one by git with the installed program, and every kernel of `ci/traces.yaml`, which says in what its
//! traces must differ. A harness that has only seen green is untested.

mod bisects;
mod debug;
mod installed;
mod traces;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::run_kernel_tests::{Permissions, carry_out, prepare};
use crate::cli::CheckArgs;
use crate::context::{Context, Session};
use crate::image::Rootfs;
use crate::plan::{Switch, Wishes};
use crate::proc::Cmd;
use crate::progress::{print, say, seconds};
use crate::rundir;
use crate::stop::{Problem, Stop};

/// A step and what came out.
struct Step {
    name: String,
    took: Duration,
    /// Why it did not pass, or nothing.
    wrong: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When it is not run in a checkout, or is interrupted.
pub async fn run(session: &Session, args: &CheckArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let checkout = rundir::checkout(&cwd).ok_or_else(|| {
        Stop::usage(Problem::new("check", "this is not a checkout of hmm-harness").hint(
            "check is for changes to hmm-harness itself; a kernel is tested by run-kernel-tests",
        ))
    })?;
    let permissions = Permissions { yes: args.yes, ..Permissions::default() };
    let ctx = &session.context()?;
    crate::machine::ready(ctx, args.yes).await?;
    crate::machine::debugger(ctx, args.yes).await?;

    let mut steps = Vec::new();
    for words in SOURCES {
        steps.push(cargo(ctx, &checkout, words).await?);
    }
    let mut clean = PathBuf::new();
    for rootfs in [Rootfs::Initramfs, Rootfs::Virtme] {
        let (rootfs, trace) = (Some(rootfs), Some(Switch::On));
        let wishes = Wishes { rootfs, trace, ..Wishes::default() };
        let name = format!("6.12, every test, {}", rootfs.unwrap_or_default().as_str());
        let (step, dir) = kernel(session, &name, wishes, None, permissions, &checkout).await?;
        steps.push(step);
        clean = dir.unwrap_or_default();
    }
    let mut folders = vec!["ci/plans/negative"];
    if args.full {
        folders.push("ci/mutants");
    }
    let mut crashed = None;
    for folder in folders {
        for plan in plans(&checkout.join(folder))? {
            let name = plan.strip_prefix(&checkout).unwrap_or(&plan).display().to_string();
            let wishes = Wishes::default();
            let ran = kernel(session, &name, wishes, Some(&plan), permissions, &checkout).await?;
            steps.push(ran.0);
            if plan.file_stem().is_some_and(|stem| stem == debug::PLAN) {
                crashed = ran.1;
            }
        }
    }
    if let Some(dir) = crashed {
        say(format_args!("check    {}", debug::NAME));
        let start = Instant::now();
        let wrong = debug::run(ctx, &dir).await?;
        steps.push(Step { name: debug::NAME.to_owned(), took: start.elapsed(), wrong });
    }
    for case in bisects::cases(&checkout)? {
        let name = case.name();
        say(format_args!("check    {name}"));
        let start = Instant::now();
        let wrong = case.run(session, &checkout).await?;
        steps.push(Step { name, took: start.elapsed(), wrong });
    }
    say(format_args!("check    {}", installed::NAME));
    let start = Instant::now();
    let wrong = installed::run(ctx, &checkout).await?;
    steps.push(Step { name: installed::NAME.to_owned(), took: start.elapsed(), wrong });
    for case in traces::cases(&checkout)? {
        let name = case.name();
        say(format_args!("check    {name}"));
        let start = Instant::now();
        let wrong = case.run(session, &clean, permissions, &checkout).await?;
        steps.push(Step { name, took: start.elapsed(), wrong });
    }

    let failed = steps.iter().filter(|s| s.wrong.is_some()).count();
    let mut text = String::new();
    for step in &steps {
        let word = if step.wrong.is_some() { "FAILED" } else { "passed" };
        text.push_str(&format!("{word}  {} ({})\n", step.name, seconds(step.took)));
        if let Some(wrong) = &step.wrong {
            text.push_str(&format!("        {}\n", wrong.replace('\n', "\n        ")));
        }
    }
    text.push_str(&format!("{} passed, {failed} failed\n", steps.len() - failed));
    print(&text)?;
    Ok(u8::from(failed > 0))
}

/// What cargo is asked about the sources.
const SOURCES: [&[&str]; 3] = [
    &["fmt", "--all", "--check"],
    &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"],
    &["test", "--quiet", "--workspace"],
];

/// The cargo by which we were built, in the checkout.
fn cargo_cmd(checkout: &Path) -> Cmd {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cmd = Cmd::new(program).dir(checkout);
    // Where the toolchain and its registry are, if not in their usual places.
    for name in ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        if let Some(value) = std::env::var_os(name) {
            cmd = cmd.env(name, value);
        }
    }
    cmd
}

async fn cargo(ctx: &Context, checkout: &Path, words: &[&str]) -> Result<Step, Stop> {
    let start = Instant::now();
    let cmd = cargo_cmd(checkout).args(words);
    let ended = cmd.run(&ctx.interrupt, |line| say(line)).await?;
    let wrong = (!ended.success()).then(|| ended.tail.join("\n"));
    Ok(Step { name: format!("cargo {}", words.join(" ")), took: start.elapsed(), wrong })
}

async fn kernel(
    session: &Session,
    name: &str,
    wishes: Wishes,
    plan: Option<&Path>,
    permissions: Permissions,
    cwd: &Path,
) -> Result<(Step, Option<PathBuf>), Stop> {
    say(format_args!("check    {name}"));
    let start = Instant::now();
    let (wrong, dir) = match prepare(wishes, plan, cwd) {
        Err(stop) => (Some(stop.to_string()), None),
        Ok(prepared) => {
            let (results, dir) = carry_out(session, &prepared, permissions, cwd).await?;
            session.interrupt.check()?;
            let wrong = (results.exit_code != 0).then(|| crate::report::summary(&results, &dir));
            (wrong, Some(dir))
        }
    };
    Ok((Step { name: name.to_owned(), took: start.elapsed(), wrong }, dir))
}

/// The plans in a folder, by name.
fn plans(folder: &Path) -> Result<Vec<PathBuf>, Stop> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut plans: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    plans.sort();
    Ok(plans)
}
