//! `show --callers`: every caller of `migrate_vma_setup()` in the tree of a run,
//! whether it sets the owner, and whether a test executed it.
//!
//! The first two are read from the source, the third comes from the traces: each
//! call is captured with the address to which it returns.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::ask::layout::{self, owner_in_migrate_vma};
use crate::build::Kernel;
use crate::callers::{Caller, Owner, callers, mentions};
use crate::commands::run_kernel_tests::{Prepared, prepare};
use crate::context::{Context, Session};
use crate::frames::Frame;
use crate::git::Git;
use crate::plan::Wishes;
use crate::progress::print;
use crate::results::Results;
use crate::series::PatchedTree;
use crate::stop::{Problem, Stop};
use crate::symbols::{self, Wanted};
use crate::trace::Calls;
use crate::words::clean;
use crate::{build, collect, config, series, source};

/// What is asked about.
const SETUP: &str = "migrate_vma_setup";

/// Shows the callers for the run in `dir`.
///
/// # Errors
/// When the tree of the run, or what it has traced, is not to be had.
pub(super) async fn run(session: &Session, dir: &Path, results: &Results) -> Result<u8, Stop> {
    let cwd = crate::commands::cwd()?;
    let prepared = prepare(Wishes::default(), Some(&dir.join("plan.yaml")), &cwd)?;
    let ctx = &session.context()?;
    let patched = patched(ctx, &prepared).await?;
    if patched.tree.0 != results.kernel.tree {
        let what = "the source of this run has another content now";
        let hint = "run the tests again, and ask about that run";
        return Err(Stop::usage(Problem::new("RUN", what).hint(hint)));
    }
    let found = in_the_source(&patched.git, &patched)?;

    let calls = collect::callers(dir)?;
    let configured = config::resolve(ctx, patched, prepared.profile()).await?;
    // What a build has to say, should there be one, is not the run's.
    let log = tempfile::tempdir().context("make a temporary directory")?;
    let kernel = build::kernel(ctx, configured, log.path()).await?;
    let executed = executed(ctx, &kernel, &calls).await?;
    let state = results.machine.settings.get("trace");
    let traced = state.is_some_and(|state| state.starts_with("on") && !state.contains("setup"));
    print(&text(&found, &executed, traced))?;
    Ok(0)
}

/// The tree that a run was about.
async fn patched(ctx: &Context, prepared: &Prepared) -> Result<PatchedTree, Stop> {
    let tree = source::fetch(ctx, prepared.source(), false).await?;
    series::apply(ctx, tree, prepared.series(), prepared.first()).await
}

/// Every caller that the source has.
fn in_the_source(git: &Git, tree: &PatchedTree) -> Result<Vec<Caller>, Stop> {
    let header = git.file(&tree.tree, layout::MIGRATE)?.unwrap_or_default();
    let owner = owner_in_migrate_vma(&header);
    let owners: Vec<&str> = owner.as_deref().into_iter().collect();
    let said = git.ask(&["grep", "-l", "-z", "-w", SETUP, &tree.tree.0, "--", "*.c", "*.h"])?;
    let names = said.out.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found = Vec::new();
    for name in names {
        // git puts the tree before each name.
        let name = String::from_utf8_lossy(name);
        let Some((_, file)) = name.split_once(':') else { continue };
        let text = git.file(&tree.tree, file)?.context("a file of the tree is gone")?;
        if mentions(&text) {
            found.extend(callers(file, &text, &owners));
        }
    }
    Ok(found)
}

/// A place in the source to which calls lead, and those calls.
struct Executed {
    /// Innermost first: a function that is inlined is in those that follow.
    frames: Vec<Frame>,
    address: String,
    calls: Calls,
}

async fn executed(
    ctx: &Context,
    kernel: &Kernel,
    calls: &BTreeMap<u64, Calls>,
) -> Result<Vec<Executed>, Stop> {
    let mut wanted = Vec::new();
    let mut of = Vec::new();
    for (address, calls) in calls {
        // What lies outside the kernel is a lie of the guest.
        if let Some(printed) = symbols::printed(kernel, *address)? {
            wanted.push(Wanted::after(printed));
            of.push(*calls);
        }
    }
    let resolved = symbols::resolve(ctx, kernel, &wanted).await?;
    let executed = resolved.into_iter().zip(of).map(|(resolved, calls)| Executed {
        frames: resolved.frames,
        address: resolved.address,
        calls,
    });
    Ok(executed.collect())
}

/// A table: where, what of the owner, and what was executed.
fn text(found: &[Caller], executed: &[Executed], traced: bool) -> String {
    let mut text = format!("callers of {SETUP}() in the tree of this run:\n");
    let mut seen = vec![false; executed.len()];
    for caller in found {
        let mut calls = Calls::default();
        for (n, place) in executed.iter().enumerate() {
            let same =
                |frame: &Frame| frame.file == caller.file && frame.function == caller.function;
            if place.frames.first().is_some_and(same) {
                seen[n] = true;
                calls.add(&place.calls);
            }
        }
        let owner = match &caller.owner {
            Owner::Set { expression, line } => format!("owner set to {expression} (line {line})"),
            Owner::Null { line } => format!("OWNER SET TO NULL (line {line})"),
            Owner::NotSet => "OWNER NOT SET".to_owned(),
            Owner::Elsewhere(what) => format!("owner set elsewhere, if it is: {what}"),
        };
        let ran = match (calls.times, calls.unowned) {
            _ if !traced => "not known to be executed, since nothing was traced".to_owned(),
            (0, _) => "not executed".to_owned(),
            (times, 0) => format!("executed {times} times, each time with an owner"),
            (times, unowned) => format!("executed {times} times, {unowned} WITHOUT AN OWNER"),
        };
        let Caller { file, line, function, .. } = caller;
        writeln!(text, "  {file}:{line} {function}()\n      {owner}; {ran}")
            .expect("writing to a string");
    }
    for (place, _) in executed.iter().zip(seen).filter(|(_, seen)| !seen) {
        let at = place.frames.first().map_or(place.address.clone(), |frame| {
            format!("{}:{} {}()", frame.file, frame.line, frame.function)
        });
        let Calls { times, unowned } = place.calls;
        writeln!(
            text,
            "  {at}\n      executed {times} times, {unowned} without an owner; \
             the source was not understood here"
        )
        .expect("writing to a string");
    }
    clean_lines(&text)
}

/// Without what a terminal would obey: names come from a tree that is not ours.
fn clean_lines(text: &str) -> String {
    text.lines().map(|line| clean(line) + "\n").collect()
}
