//! What a run came to: a line for each test, or all about one of them. Results
//! come in and text goes out.

use std::path::PathBuf;
use std::time::Duration;

use crate::results::{Check, Results, TestResult, TraceInfo};
use crate::words::{clean, seconds};

/// A line for each test.
pub(super) fn tests(results: &Results) -> String {
    let width = results.tests.iter().map(|test| test.id.len()).max().unwrap_or(0);
    let line = |test: &TestResult| {
        let verdict = test.verdict.as_str().replace('_', " ");
        let (time, trace) = (time(test), trace(&test.trace));
        clean(&format!("{verdict:<9} {:<width$} {time:>8}  {trace}", test.id)) + "\n"
    };
    results.tests.iter().map(line).collect()
}

/// A test in a few words.
pub(super) fn head(test: &TestResult) -> String {
    let verdict = test.verdict.as_str().replace('_', " ");
    clean(&format!("{}: {verdict} in {}; {}", test.id, time(test), trace(&test.trace)))
}

/// All about a test: `files` is where its evidence lies, and the commands are the
/// one that shows its trace and the one that runs it once more.
pub(super) fn test(test: &TestResult, files: &[PathBuf], [steps, again]: &[String; 2]) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(clean(&words).trim_end());
        text.push('\n');
    };
    let verdict = test.verdict.as_str().replace('_', " ");
    let expected = match (&test.known_issue, test.as_expected) {
        (Some(issue), _) => format!(", a known issue: {issue}"),
        (None, true) => String::new(),
        (None, false) => ", which is not as expected".into(),
    };
    line(format!("{}: {verdict}{expected}", test.id));
    if !test.reason.is_empty() {
        line(format!("  reason   {}", test.reason));
    }
    let checks = &test.checks;
    let checks = [
        ("data", checks.data),
        ("trace", checks.trace),
        ("console", checks.console),
        ("taint", checks.taint),
    ];
    let checks = checks.map(|(name, check)| format!("{name} {}", word(check)));
    line(format!("  checks   {}", checks.join(", ")));
    let alike = if test.flaky { ", not all alike" } else { "" };
    line(format!("  ran      {}, {}{alike}, seed {}", time(test), turns(test), test.seed));
    line(format!("  trace    {}", trace(&test.trace)));
    if let Some(why) = &test.trace.incomplete {
        line(format!("           {why}"));
    }
    if let Some(digest) = &test.trace.canonical_sha256 {
        line(format!("           canonical form {digest}"));
    }
    for violation in &test.trace.violations {
        line(format!("           ! rule {}, step {}:", violation.rule, violation.step));
        line(format!("             {}", violation.text));
    }
    for event in &test.kernel_events {
        line(format!("  kernel   console.log:{}: {}", event.line, event.title));
        for frame in &event.trace {
            line(format!("             {frame}"));
        }
    }
    for (n, file) in files.iter().enumerate() {
        let label = if n == 0 { "files" } else { "" };
        line(format!("  {label:<8} {}", file.display()));
    }
    if test.trace.captured > 0 {
        line(format!("  steps    {steps}"));
    }
    line(format!("  again    {again}"));
    text
}

/// How often a test ran.
pub(super) fn turns(test: &TestResult) -> String {
    let s = if test.attempts == 1 { "" } else { "s" };
    format!("{} turn{s}", test.attempts)
}

/// The id that comes nearest to a word, if any comes near.
pub(super) fn nearest(word: &str, results: &Results) -> Option<String> {
    let common = |id: &str| id.bytes().zip(word.bytes()).take_while(|(a, b)| a == b).count();
    let best = results.tests.iter().rev().max_by_key(|test| common(&test.id))?;
    (common(&best.id) > 0).then(|| best.id.clone())
}

fn time(test: &TestResult) -> String {
    seconds(Duration::from_millis(test.duration_ms))
}

fn word(check: Check) -> &'static str {
    match check {
        Check::Ok => "ok",
        Check::Bad => "BAD",
        Check::None => "not made",
    }
}

fn trace(info: &TraceInfo) -> String {
    let TraceInfo { captured, lost, complete, violations, .. } = info;
    let state = match (captured, lost, complete) {
        (0, 0, false) => return "no trace".into(),
        (n, _, true) => format!("{n} events"),
        (n, 0, false) => format!("{n} events, not complete"),
        (n, lost, false) => format!("{n} events, {lost} lost"),
    };
    match violations.len() {
        0 => state,
        1 => format!("{state}, 1 broken rule"),
        n => format!("{state}, {n} broken rules"),
    }
}
