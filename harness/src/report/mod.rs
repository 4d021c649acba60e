//! What is shown of a judgement: `results.json`, the same for programs that know
//! other formats, and a closing summary for the person at the terminal.

mod cases;
pub mod html;
#[cfg(test)]
pub(crate) use cases::tests;
mod github;
mod junit;
mod kcidb;
mod ktap;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::compare;
use crate::proc::quote;
use crate::results::{Results, RunOutcome, TestResult, Verdict};
use crate::rundir::{self, DRAFT, JUNIT, KTAP, RESULTS};
use crate::store::digest_of;
use crate::words::{clean, line, seconds};

pub(crate) use github::{annotations, step_summary};
pub(crate) use kcidb::is_origin;

/// How much of a call trace the summary shows.
const FRAMES: usize = 4;

/// Reads the `results.json` of a run.
///
/// # Errors
/// When it cannot be read, or is not what this program writes.
pub fn read(dir: &Path) -> Result<Results> {
    let path = dir.join(RESULTS);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // The error quotes the file, whose words may be a guest's.
    serde_json::from_str(&text)
        .map_err(|error| anyhow!(line(&error.to_string())))
        .with_context(|| format!("{} is not what this program writes", path.display()))
}

/// Where a judgement is written beside the run directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copies {
    /// As `results.json` says it.
    pub json: Option<PathBuf>,
    /// As JUnit XML.
    pub junit: Option<PathBuf>,
    /// As KTAP.
    pub ktap: Option<PathBuf>,
    /// As a submission to KCIDB.
    pub kcidb: Option<Kcidb>,
}

/// A submission to KCIDB, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kcidb {
    /// The file.
    pub path: PathBuf,
    /// The name of the CI system that submits it, as [`is_origin`] allows it.
    pub origin: String,
}

/// Writes `results.json` into `dir`, whole or not at all, and the same in other
/// formats.
///
/// # Errors
/// When something of it cannot be written.
pub fn write(results: &Results, dir: &Path) -> Result<()> {
    let path = dir.join(RESULTS);
    let draft = dir.join(DRAFT);
    fs::write(&draft, json(results)?)
        .and_then(|()| fs::rename(&draft, &path))
        // What was written of it is of use to nobody.
        .inspect_err(|_| drop(fs::remove_file(&draft)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let (junit, ktap) = (Some(dir.join(JUNIT)), Some(dir.join(KTAP)));
    write_copies(results, dir, &Copies { junit, ktap, ..Copies::default() })
}

/// Writes the judgement of the run in `dir` where else it is wanted.
///
/// # Errors
/// When it cannot be written.
pub fn write_copies(results: &Results, dir: &Path, to: &Copies) -> Result<()> {
    let write = |path: &Option<PathBuf>, text: &dyn Fn() -> Result<String>| {
        let Some(path) = path else { return Ok(()) };
        fs::write(path, text()?).with_context(|| format!("cannot write {}", path.display()))
    };
    write(&to.json, &|| json(results))?;
    write(&to.junit, &|| junit::text(results))?;
    write(&to.ktap, &|| Ok(ktap::text(results)))?;
    let Some(Kcidb { path, origin }) = &to.kcidb else { return Ok(()) };
    write(&Some(path.clone()), &|| {
        // The nonces of its machines make each run's events its own.
        let events = dir.join(rundir::EVENTS);
        let run = digest_of(&events).with_context(|| events.display().to_string())?;
        let config = fs::read_to_string(dir.join("kernel.config")).unwrap_or_default();
        let compiler = compiler(&config);
        kcidb::text(results, kcidb::About { origin, run: &run[..RUN], compiler })
    })
}

/// How much of a digest names a run, in characters.
const RUN: usize = 20;

/// The compiler that kconfig has found.
fn compiler(config: &str) -> Option<&str> {
    let value = config.lines().find_map(|line| line.strip_prefix("CONFIG_CC_VERSION_TEXT="))?;
    value.strip_prefix('"')?.strip_suffix('"')
}

fn json(results: &Results) -> Result<String> {
    let mut text = serde_json::to_string_pretty(results).context(RESULTS)?;
    text.push('\n');
    Ok(text)
}

/// How to call this program again: through cargo if it was called so.
pub fn program() -> &'static str {
    if std::env::var_os("CARGO").is_some() { "cargo xtask" } else { "hmm-harness" }
}

/// The closing summary: what is not as expected, the counts, where the evidence
/// lies, and the command to run next.
pub fn summary(results: &Results, dir: &Path) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&clean(&words));
        text.push('\n');
    };
    // What is only not as in the baseline is told beside that.
    let held = results.baseline.is_some();
    let noteworthy = |t: &&TestResult| (!t.as_expected && !held) || t.verdict != Verdict::Passed;
    for test in results.tests.iter().filter(noteworthy).filter(|t| t.verdict != Verdict::NotRun) {
        let mut head = format!("{:<9} {}", test.verdict.as_str().replace('_', " "), test.id);
        if test.flaky {
            write!(head, " (flaky: {} turns, not all alike)", test.attempts)
                .expect("writing to a string");
        }
        if let Some(issue) = &test.known_issue {
            write!(head, " (known issue {issue})").expect("writing to a string");
        } else if test.as_expected {
            write!(head, " ({})", cases::expected_by(results)).expect("writing to a string");
        }
        line(head);
        // What a guest says must not stand where we speak.
        line(format!("          {}", test.reason.replace('\n', "\n          ")));
        for event in &test.kernel_events {
            line(format!("          console.log:{}: {}", event.line, event.title));
            for frame in event.trace.iter().take(FRAMES) {
                line(format!("              {frame}"));
            }
        }
    }
    for event in &results.kernel_events {
        line(format!(
            "complaint outside any test\n          console.log:{}: {}",
            event.line, event.title
        ));
        for frame in event.trace.iter().take(FRAMES) {
            line(format!("              {frame}"));
        }
    }
    if let Some(found) = &results.baseline {
        compare::against_baseline(found).lines().for_each(|words| line(words.to_owned()));
    }
    if let Some(reason) = &results.reason {
        line(format!("{}: {reason}", word(results.outcome)));
    }
    let s = &results.summary;
    if s.total > 0 {
        let extra: Vec<String> = [
            (s.crashed, "crashed"),
            (s.timed_out, "timed out"),
            (s.not_run, "not run"),
            (s.known, "known"),
            (s.flaky, "flaky"),
        ]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
        if !extra.is_empty() {
            line(extra.join(", "));
        }
        line(format!("{} passed, {} failed, {} skipped", s.passed, s.failed, s.skipped));
    }
    match results.machine.settings.get("trace").map(String::as_str) {
        None | Some("on") => {}
        Some(state) if is_on(state) => {
            line(format!("not all that is judged of notifier events was seen: tracing is {state}"));
        }
        Some(state) => line(format!("no notifier event was seen: tracing is {state}")),
    }
    let release = &results.kernel.release;
    let space = if release.is_empty() { "" } else { " " };
    line(format!(
        "{release}{space}{} in {}; evidence in {}",
        word(results.outcome),
        seconds(Duration::from_millis(results.timing.total_ms)),
        dir.display(),
    ));
    if let Some(next) = next_command(results, dir) {
        line(format!("next: {next}"));
    }
    text
}

/// Whether the state of tracing, as a setting of the machine, is that there is
/// some.
fn is_on(state: &str) -> bool {
    state.starts_with("on")
}

/// The command that runs a test once more; `program` is how ours is called.
pub fn again(program: &str, dir: &Path, id: &str) -> String {
    let plan = quote(&dir.join("plan.yaml").to_string_lossy());
    format!("{program} run-kernel-tests --plan {plan} --test {id}")
}

/// The command that tells a test's trace.
pub fn show_trace(program: &str, dir: &Path, id: &str) -> String {
    format!("{program} show {} --test {id} --trace", quote(&dir.to_string_lossy()))
}

/// What a person would do next about the first thing that is wrong.
fn next_command(results: &Results, dir: &Path) -> Option<String> {
    let plan = quote(&dir.join("plan.yaml").to_string_lossy());
    let program = program();
    let whole = format!("{program} run-kernel-tests --plan {plan}");
    match results.outcome {
        RunOutcome::AsExpected => None,
        RunOutcome::NotAsExpected => match results.tests.iter().find(|t| !t.as_expected) {
            Some(red) => Some(again(program, dir, &red.id)),
            None => Some(whole),
        },
        RunOutcome::Fault => Some(format!("{program} doctor")),
        RunOutcome::NotJudgeable | RunOutcome::Interrupted => Some(whole),
    }
}

fn word(outcome: RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::AsExpected => "as expected",
        RunOutcome::NotAsExpected => "not as expected",
        RunOutcome::NotJudgeable => "cannot be judged",
        RunOutcome::Fault => "fault",
        RunOutcome::Interrupted => "interrupted",
    }
}
