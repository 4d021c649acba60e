//! `check`: everything that a change to this project must pass.
//!
//! First the sources, then real kernels: the clean one with both root file
//! systems, whose page is opened in a browser, every plan of `ci/plans/negative`, each
//! of which plants one bug and says what the harness must make of it, one of them under
//! `debug`, every bisect of `ci/bisects.yaml`, whose answers are known, one by git with
//! the installed program, that program as the gate of a tree, commands in a guest,
//! programs of others that read the results, and every kernel of `ci/traces.yaml`, which
//! says in what its traces must differ. A harness that has only seen green is untested.

mod bisects;
mod consumers;
mod debug;
mod installed;
mod page;
mod shell;
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
use crate::progress::{self, Talk, begun, headline, pass_on, print, settled};
use crate::rundir;
use crate::stop::{Problem, Stop};
use crate::words::seconds;
use installed::Installed;

/// A step and what came out.
struct Step {
    name: String,
    took: Duration,
    /// Why it did not pass, or nothing.
    wrong: Option<String>,
}

impl Step {
    /// A step that has ended.
    fn ended(name: String, start: Instant, wrong: Option<String>) -> Step {
        let word = if wrong.is_some() { "FAILED" } else { "passed" };
        settled(format_args!("check    {word}  {name}"), wrong.is_none());
        Step { name, took: start.elapsed(), wrong }
    }
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
    // Most kernels are to fail, and what they are to fail with is nobody's news.
    let log = progress::log(Talk::All, Talk::Little);
    let session = &Session { log, interrupt: session.interrupt.clone() };
    let ctx = &session.context()?;
    crate::machine::ready(ctx, args.yes).await?;
    let no_browser = page::lacking(ctx, args.yes).await?;
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
    if clean.as_os_str().is_empty() {
        // What follows is about that run.
        return told(&steps, no_browser);
    }
    if no_browser.is_none() {
        headline(format_args!("check    {}", page::NAME));
        let start = Instant::now();
        let wrong = page::run(ctx, &clean).await?;
        steps.push(Step::ended(page::NAME.to_owned(), start, wrong));
    }
    // What takes more kernels is for the long check.
    let mut all = vec![checkout.join("ci/plans/smoke.yaml")];
    let folders: &[&str] = if args.full {
        all.clear();
        &["ci/plans", "ci/plans/matrix", "ci/plans/negative", "ci/mutants"]
    } else {
        &["ci/plans/negative"]
    };
    for folder in folders {
        all.extend(plans(&checkout.join(folder))?);
    }
    let mut crashed = None;
    for plan in all {
        let name = plan.strip_prefix(&checkout).unwrap_or(&plan).display().to_string();
        let wishes = Wishes::default();
        let ran = kernel(session, &name, wishes, Some(&plan), permissions, &checkout).await?;
        steps.push(ran.0);
        if plan.file_stem().is_some_and(|stem| stem == debug::PLAN) {
            crashed = ran.1;
        }
    }
    for case in bisects::cases(&checkout)? {
        let name = case.name();
        headline(format_args!("check    {name}"));
        let start = Instant::now();
        let wrong = case.run(session, &checkout).await?;
        steps.push(Step::ended(name, start, wrong));
    }
    headline(format_args!("check    {}", installed::BISECT));
    let mut start = Instant::now();
    match Installed::new(ctx, &checkout).await? {
        Err(why) => steps.push(Step::ended(installed::BISECT.to_owned(), start, Some(why))),
        Ok(installed) => {
            let wrong = installed.bisect().await?;
            steps.push(Step::ended(installed::BISECT.to_owned(), start, wrong));
            // What cargo has built may be another program by now than the one that runs.
            let program = installed.program();
            headline(format_args!("check    {}", debug::NAME));
            start = Instant::now();
            let wrong = match crashed {
                Some(dir) => debug::run(ctx, &program, &dir).await?,
                None => Some(format!("there is no run of {}", debug::PLAN)),
            };
            steps.push(Step::ended(debug::NAME.to_owned(), start, wrong));
            headline(format_args!("check    {}", shell::NAME));
            start = Instant::now();
            let wrong = shell::run(ctx, &program, &clean).await?;
            steps.push(Step::ended(shell::NAME.to_owned(), start, wrong));
            headline(format_args!("check    {}", installed::GATE));
            start = Instant::now();
            let wrong = installed.gate().await?;
            steps.push(Step::ended(installed::GATE.to_owned(), start, wrong));
        }
    }
    headline(format_args!("check    {}", consumers::NAME));
    let start = Instant::now();
    let wrong = consumers::run(session, ctx, &clean, permissions, &checkout).await?;
    steps.push(Step::ended(consumers::NAME.to_owned(), start, wrong));
    for case in traces::cases(&checkout)? {
        let name = case.name();
        headline(format_args!("check    {name}"));
        let start = Instant::now();
        let wrong = case.run(session, &clean, permissions, &checkout).await?;
        steps.push(Step::ended(name, start, wrong));
    }

    told(&steps, no_browser)
}

/// The table, and the exit code.
fn told(steps: &[Step], no_browser: Option<String>) -> Result<u8, Stop> {
    let failed = steps.iter().filter(|s| s.wrong.is_some()).count();
    let mut text = String::new();
    for step in steps {
        let word = if step.wrong.is_some() { "FAILED" } else { "passed" };
        text.push_str(&format!("{word}  {} ({})\n", step.name, seconds(step.took)));
        if let Some(wrong) = &step.wrong {
            text.push_str(&format!("        {}\n", wrong.replace('\n', "\n        ")));
        }
    }
    if let Some(why) = no_browser {
        let why = why.replace('\n', "\n        ");
        text.push_str(&format!("NOT TRIED  {}\n        {why}\n", page::NAME));
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
    let name = format!("cargo {}", words.join(" "));
    begun(format_args!("check    {name}"));
    let cmd = cargo_cmd(checkout).args(words);
    let ended = cmd.run(&ctx.interrupt, pass_on).await?;
    let wrong = (!ended.success()).then(|| ended.tail.join("\n"));
    Ok(Step::ended(name, start, wrong))
}

async fn kernel(
    session: &Session,
    name: &str,
    wishes: Wishes,
    plan: Option<&Path>,
    permissions: Permissions,
    cwd: &Path,
) -> Result<(Step, Option<PathBuf>), Stop> {
    headline(format_args!("check    {name}"));
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
    Ok((Step::ended(name.to_owned(), start, wrong), dir))
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
