//! A judgement as GitHub's Actions show one: annotations, which are commands to the
//! runner among what a step writes, and a summary of the step in Markdown.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::cases::expected_by;
use super::{next_command, word};
use crate::compare::against_baseline_in_markdown;
use crate::markdown::{code, cut, fenced};
use crate::results::{KernelEvent, Results, RunOutcome, TestResult, Verdict};
use crate::words::{line, seconds};

/// How many annotations of one kind the runner takes from a step.
const ANNOTATIONS: usize = 10;

/// How long an annotation may be, in bytes, as it is written.
const ANNOTATION: usize = 4_096;

/// How many tests the summary has in its table. With the next two it stays far below
/// the 1 MiB that a step has.
const ROWS: usize = 100;

/// How many lines of the reason why there is no judgement are shown.
const LINES: usize = 40;

/// The annotations, a line each: an error for what is not as expected, a warning for
/// a flaky test, a notice for a known issue and for a change that the plan allows. Of
/// more than fit the last one says how many there are.
pub(crate) fn annotations(results: &Results) -> Vec<String> {
    let mut errors: Vec<(String, String)> = Vec::new();
    if let Some(found) = &results.baseline {
        // One thing may be seen by many tests.
        errors.extend(found.worse.iter().map(|change| {
            let words = std::iter::once(change.shown_by()).chain(change.evidence.iter().cloned());
            let what = format!("not as in the baseline: {}", change.in_a_line());
            (what, words.collect::<Vec<_>>().join("\n"))
        }));
    } else {
        for test in results.tests.iter().filter(|test| !test.as_expected) {
            errors.push((title(test), with_events(&test.reason, &test.kernel_events)));
        }
        if !results.kernel_events.is_empty() {
            let events = with_events("", &results.kernel_events);
            errors.push(("complaint of the kernel outside any test".into(), events));
        }
    }
    if let Some(reason) = results.reason.as_ref().filter(|_| results.exit_code != 0) {
        errors.insert(0, (word(results.outcome).into(), reason.clone()));
    }
    let flaky = results.tests.iter().filter(|test| test.flaky);
    let flaky = flaky.map(|test| {
        let words = format!("{} turns, not all alike: {}", test.attempts, test.reason);
        (format!("{} is flaky", test.id), words)
    });
    let known = results.tests.iter().filter_map(|test| {
        let issue = test.known_issue.as_ref()?;
        Some((title(test), format!("known issue {issue}: {}", test.reason)))
    });
    let allowed = results
        .baseline
        .iter()
        .flat_map(|found| &found.allowed)
        .map(|change| (format!("allowed: {}", change.in_a_line()), change.shown_by()));
    let notices = known.chain(allowed).collect();
    [("error", errors), ("warning", flaky.collect()), ("notice", notices)]
        .into_iter()
        .flat_map(|(kind, all)| commands(kind, all))
        .collect()
}

fn title(test: &TestResult) -> String {
    format!("{} {}", test.id, test.verdict.as_str().replace('_', " "))
}

fn with_events(reason: &str, events: &[KernelEvent]) -> String {
    let events = events.iter().map(|event| format!("console.log:{}: {}", event.line, event.title));
    let reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
    reason.into_iter().chain(events).collect::<Vec<_>>().join("\n")
}

/// The commands of one kind.
fn commands(kind: &str, mut all: Vec<(String, String)>) -> Vec<String> {
    if all.len() > ANNOTATIONS {
        let rest = all.len() - (ANNOTATIONS - 1);
        all.truncate(ANNOTATIONS - 1);
        all.push((format!("{rest} more"), "results.json has them all".into()));
    }
    let command = |(title, message): (String, String)| {
        let title = escaped(&line(&title), true, ANNOTATION / 4);
        let lines: Vec<String> = message.lines().map(line).collect();
        let room = ANNOTATION - title.len() - "::warning title=::".len();
        format!("::{kind} title={title}::{}", escaped(&lines.join("\n"), false, room))
    };
    all.into_iter().map(command).collect()
}

/// Text as a command takes it, in so many bytes at most; a property of one ends at a
/// comma or a colon.
fn escaped(text: &str, property: bool, most: usize) -> String {
    let mut written = String::new();
    for c in text.chars() {
        let before = written.len();
        match c {
            '%' => written.push_str("%25"),
            '\r' => written.push_str("%0D"),
            '\n' => written.push_str("%0A"),
            ':' if property => written.push_str("%3A"),
            ',' if property => written.push_str("%2C"),
            c => written.push(c),
        }
        if written.len() > most {
            written.truncate(before);
            break;
        }
    }
    written
}

/// The summary of the step. `dir` is where the evidence lies.
pub(crate) fn step_summary(results: &Results, dir: &Path) -> String {
    let kernel = &results.kernel;
    let release = if kernel.release.is_empty() { "no kernel" } else { &kernel.release };
    let mut text = format!("## {}: {}\n\n", word(results.outcome), code(release));
    let s = &results.summary;
    let counts = [
        (s.passed, "passed"),
        (s.failed, "failed"),
        (s.skipped, "skipped"),
        (s.crashed, "crashed"),
        (s.timed_out, "timed out"),
        (s.not_run, "not run"),
        (s.known, "known"),
        (s.flaky, "flaky"),
    ];
    let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
    let counts: Vec<String> = counts.collect();
    if !counts.is_empty() {
        let time = seconds(Duration::from_millis(results.timing.total_ms));
        put(&mut text, format_args!("{} in {time}\n", counts.join(", ")));
    }
    if let Some(reason) = results.reason.as_ref().filter(|_| results.exit_code != 0) {
        let lines: Vec<String> = reason.lines().take(LINES).map(|text| cut(line(text))).collect();
        put(&mut text, format_args!("{}\n", fenced(&lines)));
    }
    table(&mut text, results);
    if let Some(found) = &results.baseline {
        put(&mut text, format_args!("{}", against_baseline_in_markdown(found)));
    }
    for (what, value) in [
        ("source", &kernel.source),
        ("configuration", &kernel.profile),
        ("its SHA-256", &kernel.config_sha256),
        ("accelerator", &results.machine.accelerator),
    ] {
        if !value.is_empty() {
            put(&mut text, format_args!("- {what} {}", code(value)));
        }
    }
    for patch in kernel.series.iter().take(ROWS) {
        put(&mut text, format_args!("- patch {}", code(&patch.subject)));
    }
    put(&mut text, format_args!("- evidence {}", code(&dir.to_string_lossy())));
    if let Some(next) = next_command(results, dir) {
        put(&mut text, format_args!("\nto see it again:\n\n{}", fenced(&[line(&next)])));
    }
    text.push('\n');
    text
}

/// What is not as expected, and what a known issue covers.
fn table(text: &mut String, results: &Results) {
    // What is only not as in the baseline is told beside that.
    let held = results.baseline.is_some();
    let noteworthy = |test: &&TestResult| {
        (!test.as_expected && !held) || test.flaky || test.verdict != Verdict::Passed
    };
    let mut rows: Vec<[String; 3]> = Vec::new();
    for test in results.tests.iter().filter(noteworthy) {
        let mut verdict = test.verdict.as_str().replace('_', " ");
        if test.flaky {
            verdict.push_str(", flaky");
        }
        if let Some(issue) = &test.known_issue {
            write!(verdict, ", known issue {}", cell(issue)).expect("writing to a string");
        } else if test.as_expected && test.verdict != Verdict::Passed {
            write!(verdict, ", {}", expected_by(results)).expect("writing to a string");
        }
        let titles = test.kernel_events.iter().map(|event| &event.title);
        let mut said: Vec<String> = std::iter::once(&test.reason)
            .chain(titles)
            .filter(|t| !t.is_empty())
            .map(|t| cell(t))
            .collect();
        said.dedup();
        rows.push([cell(&test.id), verdict, said.join(" ")]);
    }
    for event in &results.kernel_events {
        rows.push(["outside any test".into(), "complaint".into(), cell(&event.title)]);
    }
    if rows.is_empty()
        || !matches!(results.outcome, RunOutcome::AsExpected | RunOutcome::NotAsExpected)
    {
        return;
    }
    put(text, format_args!("| test | verdict | what was said |\n|---|---|---|"));
    for [test, verdict, said] in rows.iter().take(ROWS) {
        put(text, format_args!("| {test} | {verdict} | {said} |"));
    }
    text.push('\n');
    if rows.len() > ROWS {
        put(text, format_args!("and {} more\n", rows.len() - ROWS));
    }
}

/// Text of the guest in a cell of a table, which a bar would end even in a code span.
fn cell(text: &str) -> String {
    code(text).replace('|', "\u{a6}")
}

fn put(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::baseline::Baseline;
    use crate::compare::{Side, compare};
    use crate::judge::tests::result;
    use crate::report::cases::tests::{hostile, run};

    #[test]
    fn what_the_guest_says_stays_within_its_command() {
        let lines = annotations(&hostile());
        assert!(!lines.is_empty());
        for line in &lines {
            assert!(!line.contains(['\n', '\r', '\u{1b}', '\u{202e}']), "{line}");
            assert!(line.len() <= ANNOTATION, "{}", line.len());
            let (kind, rest) = line.split_once(" title=").expect("a title");
            assert!(["::error", "::notice"].contains(&kind), "{kind}");
            let (title, _) = rest.split_once("::").expect("a message");
            assert!(!title.contains([':', ',']), "{title}");
        }
    }

    #[test]
    fn of_more_than_the_runner_takes_the_rest_is_counted() {
        let mut tests = vec![result("hmm.migrate.private", Verdict::Failed); 25];
        tests[0].flaky = true;
        tests[1].as_expected = true;
        tests[1].known_issue = Some("one".into());
        let lines = annotations(&run(tests));
        let of = |kind: &str| lines.iter().filter(|line| line.starts_with(kind)).count();
        assert_eq!((of("::error"), of("::warning"), of("::notice")), (10, 1, 1));
        assert!(lines[9].starts_with("::error title=15 more::"), "{}", lines[9]);
        assert_eq!(escaped("a,b:c%\r\n", true, 99), "a%2Cb%3Ac%25%0D%0A");
        assert_eq!(escaped("50%", false, 4), "50", "an escape is whole or not there");
    }

    #[test]
    fn what_many_tests_see_is_one_thing_that_is_not_as_in_the_baseline() {
        let ids = ["hmm.migrate.private", "hmm.compound.private", "hmm.exclusive.private"];
        let tests = |verdict| ids.iter().map(|id| result(id, verdict)).collect::<Vec<_>>();
        let traced = |event: &str| {
            let mut results = run(tests(Verdict::Passed));
            for test in &mut results.tests {
                test.trace.complete = true;
                test.trace.canonical_sha256 = Some(event.into());
                let sent = format!("1 {event}; {event}").parse().expect("its form");
                test.trace.operations.insert("to-device".into(), sent);
            }
            results
        };
        let baseline = Baseline::of(&traced("MIGRATE"));
        let mut results = traced("CLEAR");
        let found = compare(&Side::baseline(&baseline), &Side::run(&results, BTreeMap::new()));
        results.baseline = Some(found);
        let lines = annotations(&results);
        assert_eq!(lines.len(), 1);
        let start = "::error title=not as in the baseline%3A to-device%3A MIGRATE -> CLEAR::hmm.";
        assert!(lines[0].starts_with(start), "{}", lines[0]);
        let summary = step_summary(&results, Path::new("/runs/x"));
        assert!(summary.contains("- `trace: to-device: MIGRATE -> CLEAR`\n"), "{summary}");
        assert!(!summary.contains("| test |"), "{summary}");
    }

    /// What stands outside of code spans and blocks.
    fn outside(markdown: &str) -> String {
        let mut rest = markdown;
        let mut outside = String::new();
        while let Some(start) = rest.find('`') {
            outside.push_str(&rest[..start]);
            let run = rest[start..].chars().take_while(|c| *c == '`').count();
            let mut at = start + run;
            loop {
                let next = at + rest[at..].find('`').expect("every span has an end");
                let length = rest[next..].chars().take_while(|c| *c == '`').count();
                at = next + length;
                if length == run {
                    break;
                }
            }
            rest = &rest[at..];
        }
        outside + rest
    }

    #[test]
    fn the_summary_holds_guest_text_in_code() {
        let text = step_summary(&hostile(), Path::new("/runs/a"));
        let outside = outside(&text);
        for word in ["@", "<", "error::", "#1", "fake", "mention"] {
            assert!(!outside.contains(word), "{word} in {outside}");
        }
        assert!(text.contains("@mention"), "{text}");
        for row in text.lines().filter(|line| line.starts_with('|')) {
            assert_eq!(row.matches('|').count(), 4, "{row}");
        }
        assert!(text.len() < 1 << 18);
        assert_eq!(code("a``b`"), "``` a``b` ```");
        assert_eq!(code(" "), "");
    }
}
