//! `run-kernel-tests --each`: every patch of a series judged on its own, and what
//! each of them changes.

use std::path::Path;

use anyhow::Context as _;

use super::candidates::{Candidate, Candidates, Judged};
use super::github;
use super::run_kernel_tests::{Permissions, Prepared, resolve, wishes};
use crate::cli::RunArgs;
use crate::collect::Evidence;
use crate::context::Session;
use crate::events::{Event, Record};
use crate::judge::{self, outcome_of};
use crate::progress::{headline, print, say};
use crate::results::{Check, Checks, Results, Summary, TestResult, Verdict};
use crate::stop::{self, Problem, Stop};
use crate::trace::{changes, may_differ};
use crate::words::clean;
use crate::{report, rundir};

/// What several runs come to: the first of these that one of them has. A fault ends
/// it all.
const WORST_FIRST: [u8; 2] = [stop::NOT_JUDGEABLE, stop::NOT_AS_EXPECTED];

/// Runs the command.
///
/// # Errors
/// What is wrong with the request, or with the place of its results; or when it was
/// interrupted.
pub(super) async fn run(
    session: &Session,
    args: &RunArgs,
    permissions: Permissions,
    cwd: &Path,
) -> Result<u8, Stop> {
    let mut problems = Vec::new();
    let wishes = wishes(args.wishes(), args.plan.as_deref(), cwd, &mut problems);
    for (option, asked) in [
        ("--first", wishes.first.is_some()),
        ("--until", wishes.until.is_some()),
        ("--perfetto", wishes.perfetto.is_some()),
        ("--kcidb", wishes.kcidb.is_some()),
    ] {
        if asked {
            problems.push(Problem::new(option, "it does not go with --each"));
        }
    }
    let prepared = resolve(wishes.clone(), problems, cwd)?;
    let ctx = session.context()?;
    let candidates = Candidates::of(&ctx, wishes, permissions).await;
    if let Err(stop @ Stop::Usage { .. }) = candidates {
        return Err(stop);
    }
    let (dir, _held) = rundir::create(prepared.out(), cwd)?;
    session.log.record_in(&dir)?;
    let text = serde_yaml::to_string(prepared.plan()).context("the plan")?;
    std::fs::write(dir.join("plan.yaml"), text).context("cannot write plan.yaml")?;
    let mut candidates = match candidates {
        Ok(candidates) => candidates,
        Err(stop) => {
            write(&prepared, &dir, &unjudged(&prepared, &stop))?;
            return Err(stop);
        }
    };
    let runs = dir.join(rundir::EACH);
    candidates.place(runs.clone());
    let last = candidates.last();
    let mut rows: Vec<Row> = Vec::new();
    let mut before: Option<Judged> = None;
    let mut whole: Option<Results> = None;
    let mut stopped: Option<Stop> = None;
    for number in 0..=last {
        let candidate = candidates.all[number].clone();
        headline(format_args!("each     {}", clean(&candidate.name(last))));
        let judged = match candidates.judge(session, number, cwd).await {
            Ok(judged) => judged,
            Err(stop @ Stop::Usage { .. }) => return Err(stop),
            Err(stop) => {
                // What was judged is kept, and what was not says so.
                whole = whole.or(candidates.results(number));
                stopped = Some(stop);
                break;
            }
        };
        let row = Row::of(&candidate, last, &judged, before.as_ref());
        say(format_args!("each     {}", row.tests));
        rows.push(row);
        whole = Some(judged.results.clone());
        if judged.results.exit_code <= stop::NOT_AS_EXPECTED {
            before = Some(judged);
        }
    }
    let worst = WORST_FIRST.into_iter().find(|code| rows.iter().any(|row| row.code == *code));
    let code = match &stopped {
        Some(stop) => stop.exit_code(),
        None => worst.unwrap_or(stop::AS_EXPECTED),
    };
    // The results of the last that was judged, of the whole series if all were; but
    // for what all of them come to.
    let whole = whole.or_else(|| stopped.as_ref().map(|stop| unjudged(&prepared, stop)));
    if let Some(mut results) = whole {
        let bad: Vec<&str> =
            rows.iter().filter(|row| row.code == code).map(|row| row.patch.as_str()).collect();
        if let Some(stop) = &stopped {
            results.reason = Some(format!("at {} of {last}: {stop}", rows.len()));
        } else if code != stop::AS_EXPECTED {
            results.reason = Some(bad.join("; "));
        }
        (results.exit_code, results.outcome) = (code, outcome_of(code));
        github::tell(&results, &dir);
        if let Err(error) = write(&prepared, &dir, &results) {
            // What stopped us before weighs more.
            return Err(stopped.unwrap_or_else(|| error.into()));
        }
    }
    let text = format!("{}evidence in {}\n", table(&rows), runs.display());
    print(&text.lines().map(|line| clean(line) + "\n").collect::<String>())?;
    stopped.map_or(Ok(code), Err)
}

/// The results of a plan of which nothing was judged.
fn unjudged(prepared: &Prepared, stop: &Stop) -> Results {
    let event = Event::Stopped { stop: stop.clone() };
    let records = vec![Record { t_ms: 0, event }];
    judge::judge(&Evidence::only(prepared.plan().clone(), records))
}

fn write(prepared: &Prepared, dir: &Path, results: &Results) -> anyhow::Result<()> {
    report::write(results, dir)?;
    report::write_copies(results, dir, prepared.copies())
}

/// A line of the table, whose last two cells may have several.
struct Row {
    patch: String,
    code: u8,
    /// Why it cannot be judged, if it cannot.
    reason: Option<String>,
    tests: String,
    verdicts: Vec<String>,
    notifier: Vec<String>,
}

impl Row {
    fn of(candidate: &Candidate, last: usize, judged: &Judged, before: Option<&Judged>) -> Row {
        let results = &judged.results;
        let can_be_judged = results.exit_code <= stop::NOT_AS_EXPECTED;
        let tests = match judged.same_as {
            _ if !can_be_judged => "cannot be judged".to_owned(),
            Some(other) => format!("the same kernel as {other}/{last}"),
            None => counts(&results.summary),
        };
        let worse = results.baseline.as_ref().map_or(0, |found| found.worse.len());
        let tests = match worse {
            0 => tests,
            n => format!("{tests}, {n} worse than the baseline"),
        };
        let (verdicts, notifier) = match before {
            Some(before) if can_be_judged => {
                (verdicts(&before.results, results), notifier(before, judged))
            }
            _ => Default::default(),
        };
        let first = |reason: &String| reason.lines().next().unwrap_or_default().to_owned();
        let reason = results.reason.as_ref().filter(|_| !can_be_judged).map(first);
        let patch = candidate.name(last);
        Row { patch, code: results.exit_code, reason, tests, verdicts, notifier }
    }
}

fn counts(summary: &Summary) -> String {
    let parts = [
        (summary.passed, "passed"),
        (summary.failed, "failed"),
        (summary.crashed, "crashed"),
        (summary.timed_out, "timed out"),
        (summary.skipped, "skipped"),
        (summary.not_run, "not run"),
    ];
    let parts = parts.into_iter().filter(|(n, what)| *n > 0 || *what == "passed");
    parts.map(|(n, what)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
}

/// Which tests have another verdict than before.
fn verdicts(before: &Results, now: &Results) -> Vec<String> {
    let changed = |test: &TestResult| {
        let then = before.tests.iter().find(|other| other.id == test.id)?;
        (then.verdict != test.verdict)
            .then(|| format!("{}: {} -> {}", test.id, said(then), said(test)))
    };
    now.tests.iter().filter_map(changed).collect()
}

/// A verdict, and the rules that it is for where nothing else was wrong.
fn said(test: &TestResult) -> String {
    let mut said = test.verdict.as_str().replace('_', " ");
    let Checks { data, console, taint, .. } = test.checks;
    let else_bad = [data, console, taint].contains(&Check::Bad);
    if !else_bad && !test.trace.violations.is_empty() {
        let mut rules: Vec<&str> =
            test.trace.violations.iter().map(|broken| broken.rule.as_str()).collect();
        rules.sort_unstable();
        rules.dedup();
        said.push_str(&format!(" ({})", rules.join(", ")));
    }
    said
}

/// In which operations other events are sent than before. A test whose own
/// assertions came out otherwise went another way, and says nothing of the kernel's.
fn notifier(before: &Judged, now: &Judged) -> Vec<String> {
    let data = |of: &Judged, id: &str| {
        let ran = of.results.tests.iter().find(|test| test.id == id);
        let ran = ran.filter(|test| !may_differ(&test.name));
        ran.filter(|test| matches!(test.verdict, Verdict::Passed | Verdict::Failed))
            .map(|test| test.checks.data)
    };
    let (then, after) = (before.canonical(), now.canonical());
    let both =
        then.iter().filter(|(id, _)| data(now, id).is_some_and(|d| data(before, id) == Some(d)));
    let pairs = both.filter_map(|(id, then)| Some((then.as_str(), after.get(id)?.as_str())));
    changes(pairs).into_iter().map(|(op, how)| format!("{op}: {how}")).collect()
}

/// Patches down; tests, verdicts and events across.
fn table(rows: &[Row]) -> String {
    let head = ["patch", "tests", "verdicts", "notifier"].map(str::to_owned);
    let mut lines: Vec<[String; 4]> = vec![head];
    for row in rows {
        for n in 0..row.verdicts.len().max(row.notifier.len()).max(1) {
            let first = |text: &str| if n == 0 { text.to_owned() } else { String::new() };
            let cell = |cells: &[String]| cells.get(n).cloned().unwrap_or_default();
            let cells = [cell(&row.verdicts), cell(&row.notifier)];
            let [verdict, event] = cells;
            lines.push([first(&row.patch), first(&row.tests), verdict, event]);
        }
    }
    let width = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    };
    let [a, b, c] = [width(0), width(1), width(2)];
    let line = |[one, two, three, four]: &[String; 4]| {
        let line = format!("{one:<a$}  {two:<b$}  {three:<c$}  {four}");
        format!("{}\n", line.trim_end())
    };
    let mut text: String = lines.iter().map(line).collect();
    // The reason of one is often that of all behind it.
    let reasons: Vec<&str> = rows.iter().filter_map(|row| row.reason.as_deref()).collect();
    for (n, reason) in reasons.iter().enumerate() {
        if !reasons[..n].contains(reason) {
            text.push_str(&format!("cannot be judged: {reason}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_with_several_changes_takes_several_lines() {
        let row = |patch: &str, verdicts: &[&str], notifier: &[&str]| Row {
            patch: patch.into(),
            code: 0,
            reason: None,
            tests: "2 passed".into(),
            verdicts: verdicts.iter().map(|s| s.to_string()).collect(),
            notifier: notifier.iter().map(|s| s.to_string()).collect(),
        };
        let rows = [
            row("0/1 base", &[], &[]),
            row("1/1 one", &["a: failed -> passed"], &["x: + A", "y: - B"]),
        ];
        assert_eq!(
            table(&rows),
            "patch     tests     verdicts             notifier\n\
             0/1 base  2 passed\n\
             1/1 one   2 passed  a: failed -> passed  x: + A\n\
             \x20                                        y: - B\n"
        );
    }
}
