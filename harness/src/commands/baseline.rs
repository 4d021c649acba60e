//! `baseline`: what runs are held against.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use hmm_protocol::catalogue;
use similar::TextDiff;

use super::{check_writable, read_baseline};
use crate::baseline::Baseline;
use crate::cli::{BaselineArgs, BaselineCommand, BaselineUpdateArgs};
use crate::progress::{print, say};
use crate::results::{TestResult, Verdict};
use crate::stop::{AS_EXPECTED, NOT_AS_EXPECTED, Problem, Stop};
use crate::words::clean;
use crate::{report, rundir};

/// Runs the command.
///
/// # Errors
/// When there is no such run, or nothing of it can be expected of another.
pub fn run(args: &BaselineArgs) -> Result<u8, Stop> {
    let BaselineCommand::Update(args) = &args.command;
    update(args)
}

/// Takes what a run has shown into a baseline, and shows what changes in it.
fn update(args: &BaselineUpdateArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let path = cwd.join(&args.file);
    if let Some(problem) = check_writable("FILE", &path) {
        return Err(Stop::usage(problem));
    }
    let dir = rundir::find(&args.run, &cwd).map_err(Stop::usage)?;
    let refuse = |what: String, hint: &str| {
        Err(Stop::usage(Problem::new("RUN", format!("{}: {what}", dir.display())).hint(hint)))
    };
    if rundir::is_live(&dir) {
        return refuse("it is still going".into(), "wait for its end");
    }
    let results = match report::read(&dir) {
        Ok(results) => results,
        Err(error) => {
            let hint = format!("{} judge {}", report::program(), dir.display());
            return refuse(format!("{error:#}"), &hint);
        }
    };
    if results.exit_code > NOT_AS_EXPECTED || results.tests.is_empty() {
        return refuse("it has no verdicts".into(), "name a run that was judged");
    }
    let differ = |test: &&TestResult| test.flaky || !test.other_turns.is_empty();
    let flaky: Vec<&str> =
        results.tests.iter().filter(differ).map(|test| test.id.as_str()).collect();
    if !flaky.is_empty() {
        let what = format!("not all turns of {} were alike", flaky.join(", "));
        return refuse(what, "what changes from run to run can be held against nothing");
    }

    let no_turn = results.tests.iter().find(|test| test.verdict == Verdict::NotRun);
    if let Some(test) = no_turn {
        return refuse(format!("{} had no turn", test.id), "name a run that came to its end");
    }

    let run = Baseline::of(&results);
    let ran = run.tests.len();
    let (before, baseline) = if path.exists() {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let inapplicable = |id: &str| results.not_applicable.iter().any(|test| test.id == id);
        let known = |id: &str| catalogue::all().iter().any(|test| test.to_string() == id);
        let gone = |id: &str| inapplicable(id) || !known(id);
        (text, read_baseline("FILE", &path)?.updated(run, gone))
    } else {
        (String::new(), run)
    };
    let after = baseline.text()?;
    if before == after {
        say(format_args!("{} is as the run is", args.file.display()));
        return Ok(AS_EXPECTED);
    }
    write(&path, &after)?;
    let name = args.file.display().to_string();
    let old = if before.is_empty() { "/dev/null" } else { &name };
    let diff = TextDiff::from_lines(&before, &after).unified_diff().header(old, &name).to_string();
    // An assertion is the guest's words.
    print(&clean(&diff))?;
    let kept = match baseline.tests.len() - ran {
        0 => String::new(),
        n => format!(", and {n} that were not run and stand as they stood"),
    };
    say(format_args!("{name}: {ran} tests of this run{kept}; review what has changed"));
    Ok(AS_EXPECTED)
}

/// Writes the file whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), Stop> {
    let parent = path.parent().expect("it was joined to a directory");
    let draft = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent)
        .with_context(|| format!("cannot write in {}", parent.display()))?;
    fs::write(draft.path(), text)
        .and_then(|()| draft.persist(path).map(drop).map_err(|error| error.error))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
