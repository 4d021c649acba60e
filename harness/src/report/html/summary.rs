//! The answer, what is wrong, and what was under test: before all else.

use std::time::Duration;

use super::{LINE, Report, TEXT};
use crate::html::{clip, escape, escape_lines};
use crate::report::word;
use crate::results::{
    Change, Comparison, KernelEvent, Results, RunOutcome, Summary, TestResult, Verdict,
};
use crate::rundir::FILES;
use crate::words::seconds;

/// How many tests are listed before the table.
const LISTED: usize = 100;

/// The sign of an outcome, and the class of its colour.
fn sign(outcome: RunOutcome) -> (&'static str, &'static str) {
    match outcome {
        RunOutcome::AsExpected => ("\u{2713}", "good"),
        RunOutcome::NotAsExpected => ("\u{2717}", "bad"),
        RunOutcome::NotJudgeable => ("?", "odd"),
        RunOutcome::Fault => ("!", "bad"),
        RunOutcome::Interrupted => ("\u{2016}", "odd"),
    }
}

/// The page's title.
pub(super) fn title(results: &Results) -> String {
    let (sign, _) = sign(results.outcome);
    let release = &results.kernel.release;
    let space = if release.is_empty() { "" } else { " " };
    format!("{sign} {release}{space}{} - hmm-harness", word(results.outcome))
}

/// The outcome in a word, and the counts.
pub(super) fn head(report: &Report<'_>) -> String {
    let results = report.results;
    let (sign, class) = sign(results.outcome);
    let release = line(&results.kernel.release);
    let kernel = if release.is_empty() {
        "no kernel came up".to_owned()
    } else {
        format!("Linux {release}")
    };
    let time = seconds(Duration::from_millis(results.timing.total_ms));
    format!(
        "<header class=\"{class}\">\n<p class=\"brand\">hmm-harness</p>\n\
         <h1><span class=\"sign\" aria-hidden=\"true\">{sign}</span> {}</h1>\n\
         <p class=\"lede\">{kernel} <span class=\"dim\">in {time}, exit code {}</span></p>\n\
         {}</header>\n<main>\n",
        capital(word(results.outcome)),
        results.exit_code,
        counts(&results.summary),
    )
}

fn counts(summary: &Summary) -> String {
    if summary.total == 0 {
        return "<p class=\"counts\">No test was planned, or the run did not come so far.</p>\n"
            .to_owned();
    }
    let all = [
        (summary.passed, "passed", "good"),
        (summary.failed, "failed", "bad"),
        (summary.crashed, "crashed", "bad"),
        (summary.timed_out, "timed out", "bad"),
        (summary.skipped, "skipped", "odd"),
        (summary.not_run, "not run", "odd"),
        (summary.known, "known", "odd"),
        (summary.flaky, "flaky", "odd"),
    ];
    let counts = all.iter().filter(|(n, word, _)| *n > 0 || *word == "passed");
    let counts: String = counts
        .map(|(n, word, class)| format!("<li class=\"{class}\"><b>{n}</b> {word}</li>"))
        .collect();
    format!("<ul class=\"counts\"><li><b>{}</b> tests</li>{counts}</ul>\n", summary.total)
}

/// All that is not as it should be, before all else; and what is, though it does
/// not look so.
pub(super) fn wrong(report: &Report<'_>) -> String {
    let results = report.results;
    let mut text = String::new();
    if let Some(reason) = &results.reason {
        text.push_str(&format!(
            "<pre class=\"reason\" tabindex=\"0\">{}</pre>\n",
            escape_lines(&clip(reason, TEXT))
        ));
    }
    if let Some(found) = &results.baseline {
        text.push_str(&held(found));
    }
    // Those that had no turn have nothing to tell, and what is only not as in the
    // baseline is told already.
    let told = |test: &&TestResult| {
        let only_held = test.verdict == Verdict::Passed && results.baseline.is_some();
        !test.as_expected && test.verdict != Verdict::NotRun && !only_held
    };
    let red: Vec<&TestResult> = results.tests.iter().filter(told).collect();
    text.push_str(&listed("Tests that are not as expected", &red));
    if !results.kernel_events.is_empty() {
        let complaints: String = results
            .kernel_events
            .iter()
            .take(LISTED)
            .map(|event| complaint(report, event))
            .collect();
        text.push_str(&format!("<h3>Complaints of the kernel outside any test</h3>\n{complaints}"));
    }
    if results.summary.not_run > 0 {
        text.push_str(&format!("<p>Not run: {} of the tests.</p>\n", results.summary.not_run));
    }
    let odd: Vec<&TestResult> = results
        .tests
        .iter()
        .filter(|test| test.as_expected && test.verdict != Verdict::Passed)
        .collect();
    text.push_str(&listed("Not passed, as was to be expected", &odd));
    if let Some(state) = results.machine.settings.get("trace").filter(|state| *state != "on") {
        let what = if state.starts_with("on") {
            "Not all that is judged of notifier events was seen"
        } else {
            "No notifier event was seen"
        };
        text.push_str(&format!("<p>{what}: tracing is {}.</p>\n", line(state)));
    }
    if let Some(next) = crate::report::next_command(results, report.dir) {
        text.push_str(&format!(
            "<p>Next:</p>\n<pre class=\"cmd\" tabindex=\"0\">{}</pre>\n",
            line(&next)
        ));
    }
    if text.is_empty() {
        return String::new();
    }
    let head = match results.outcome {
        RunOutcome::AsExpected => "Worth knowing",
        RunOutcome::NotAsExpected => "What is wrong",
        RunOutcome::NotJudgeable => "Why it cannot be judged",
        RunOutcome::Fault => "What went wrong",
        RunOutcome::Interrupted => "How far it came",
    };
    format!(
        "<section id=\"wrong\" aria-labelledby=\"h-wrong\">\n<h2 id=\"h-wrong\">{head}</h2>\n{text}</section>\n"
    )
}

/// What is not as in the baseline.
fn held(found: &Comparison) -> String {
    let given: Vec<String> = found
        .given
        .iter()
        .map(|given| {
            let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { line(text) };
            let (before, after) = (or_none(&given.before), or_none(&given.after));
            format!("<li>{}: {before} \u{2192} {after}</li>\n", line(&given.what))
        })
        .collect();
    let sections = [
        ("Worse than in the baseline", &found.worse),
        ("Changed as the plan allows", &found.allowed),
        ("Better than in the baseline", &found.better),
        ("Neither better nor worse than in the baseline", &found.other),
    ];
    let mut text: String = sections.map(|(head, changes)| changed(head, changes)).concat();
    if !found.unseen.is_empty() {
        let unseen: String =
            found.unseen.iter().map(|words| format!("<li>{}</li>\n", line(words))).collect();
        text.push_str(&format!(
            "<h3>Allowed by the plan, and not seen</h3>\n<ul>\n{unseen}</ul>\n"
        ));
    }
    if !given.is_empty() {
        let given = given.concat();
        text.push_str(&format!(
            "<h3>Not the same as for the baseline from the start</h3>\n<ul>\n{given}</ul>\n"
        ));
    }
    let n = found.compared;
    if text.is_empty() { format!("<p>As in the baseline: {n} tests.</p>\n") } else { text }
}

fn changed(head: &str, changes: &[Change]) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let item = |change: &Change| {
        let tests: Vec<String> = change
            .tests
            .iter()
            .take(LISTED)
            .map(|id| format!("<a href=\"#{0}\">{0}</a>", line(id)))
            .collect();
        let more = match change.tests.len().saturating_sub(LISTED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let tests = match tests.as_slice() {
            [] => "outside any test".to_owned(),
            tests => tests.join(", ") + &more,
        };
        let evidence: String =
            change.evidence.iter().map(|text| format!("{}\n", line(text))).collect();
        let evidence = match evidence.as_str() {
            "" => String::new(),
            text => format!("<pre tabindex=\"0\">{text}</pre>"),
        };
        format!("<li><b>{}</b><br>{tests}{evidence}</li>\n", line(&change.in_a_line()))
    };
    let items: String = changes.iter().take(LISTED).map(item).collect();
    let more = match changes.len().saturating_sub(LISTED) {
        0 => String::new(),
        n => format!("<p>and {n} more, in results.json</p>\n"),
    };
    format!("<h3>{head}</h3>\n<ul class=\"listed\">\n{items}</ul>\n{more}")
}

fn listed(head: &str, tests: &[&TestResult]) -> String {
    if tests.is_empty() {
        return String::new();
    }
    let items: String = tests.iter().take(LISTED).map(|test| item(test)).collect();
    let more = match tests.len().saturating_sub(LISTED) {
        0 => String::new(),
        n => format!("<p>and {n} more, in the table below</p>\n"),
    };
    format!("<h3>{head}</h3>\n<ul class=\"listed\">\n{items}</ul>\n{more}")
}

fn item(test: &TestResult) -> String {
    let id = line(&test.id);
    let issue = test.known_issue.as_ref();
    let issue = issue.map_or(String::new(), |issue| {
        format!(" <span class=\"dim\">known issue {}</span>", line(issue))
    });
    let first = test.kernel_events.first().filter(|event| !test.reason.contains(&event.title));
    let first = first.map_or(String::new(), |event| {
        format!("<br><span class=\"dim\">console.log:{}:</span> {}", event.line, line(&event.title))
    });
    format!(
        "<li>{} <a href=\"#{id}\">{id}</a>{issue}<br>{}{first}</li>\n",
        verdict(test),
        escape_lines(&clip(&test.reason, LINE * 2)),
    )
}

/// A verdict as a word with a sign; the class says whether it was to be expected.
pub(super) fn verdict(test: &TestResult) -> String {
    let sign = match test.verdict {
        Verdict::Passed => "\u{2713}",
        Verdict::Failed => "\u{2717}",
        Verdict::Crashed => "\u{2717}\u{2717}",
        Verdict::TimedOut => "\u{29d6}",
        Verdict::Skipped | Verdict::NotRun => "\u{2013}",
    };
    let word = test.verdict.as_str().replace('_', " ");
    let class = class(test);
    format!(
        "<span class=\"verdict {class}\"><span aria-hidden=\"true\">{sign}</span> {word}</span>"
    )
}

/// How a test is coloured.
pub(super) fn class(test: &TestResult) -> &'static str {
    match (test.as_expected, test.verdict) {
        (true, Verdict::Passed) => "good",
        (true, _) => "odd",
        (false, _) => "bad",
    }
}

/// A complaint with its call trace, and the console around it.
pub(super) fn complaint(report: &Report<'_>, event: &KernelEvent) -> String {
    const FRAMES: usize = 40;
    let frames = event.trace.iter().take(FRAMES);
    let frames: String = frames.map(|frame| format!("{}\n", line(frame))).collect();
    let frames = match frames.as_str() {
        "" => String::new(),
        text => format!("<pre class=\"frames\" tabindex=\"0\">{text}</pre>\n"),
    };
    let lines: String = report
        .consoles
        .around(event)
        .iter()
        .map(|(number, text)| {
            let text = line(text);
            let here = if *number == event.line { " class=\"here\"" } else { "" };
            format!("<span{here}>{number:>6}  {text}</span>\n")
        })
        .collect();
    let console = match lines.as_str() {
        "" => String::new(),
        text => format!(
            "<details class=\"around\"><summary>console.log around line {}</summary>\
             <pre tabindex=\"0\">{text}</pre></details>\n",
            event.line
        ),
    };
    format!(
        "<div class=\"complaint\"><p><b>{}</b> <span class=\"dim\">{}, console.log:{}</span></p>\n{frames}{console}</div>\n",
        line(&event.title),
        line(&event.class),
        event.line
    )
}

/// The kernel and the machine.
pub(super) fn about(report: &Report<'_>) -> String {
    let (kernel, machine) = (&report.results.kernel, &report.results.machine);
    let mut of_kernel = Facts::default();
    of_kernel.add("release", &kernel.release);
    of_kernel.add("source", &kernel.source);
    of_kernel.code("tree", &kernel.tree);
    of_kernel.code("config", &kernel.config_sha256);
    of_kernel.add("profile", &kernel.profile);
    let series = match kernel.series.len() {
        0 => "<p class=\"dim\">Without a series.</p>\n".to_owned(),
        _ => {
            let patches: String = kernel
                .series
                .iter()
                .map(|patch| {
                    let commit = patch.commit.get(..12).unwrap_or(&patch.commit);
                    format!(
                        "<li>{} <code title=\"{}\">{}</code></li>\n",
                        line(&patch.subject),
                        line(&patch.commit),
                        line(commit)
                    )
                })
                .collect();
            format!("<h4>Series</h4>\n<ol class=\"series\">\n{patches}</ol>\n")
        }
    };
    let mut of_machine = Facts::default();
    of_machine.add("accelerator", &machine.accelerator);
    of_machine.add("QEMU", &machine.qemu_version);
    if machine.cpus > 0 {
        of_machine.add("processors", &machine.cpus.to_string());
        of_machine.add("memory", &format!("{} MiB", machine.memory_mib));
    }
    of_machine.add("root", &machine.rootfs);
    if !machine.accelerator.is_empty() {
        let how = if machine.restored { "from a saved guest" } else { "booted" };
        of_machine.add("started", how);
    }
    let settings: String = machine
        .settings
        .iter()
        .map(|(name, value)| {
            format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", line(name), line(value))
        })
        .collect();
    let settings = match settings.as_str() {
        "" => String::new(),
        rows => format!(
            "<details><summary>{} settings of the guest</summary>\n<div class=\"wide\" tabindex=\"0\"><table class=\"settings\">{rows}</table></div></details>\n",
            machine.settings.len()
        ),
    };
    format!(
        "<section id=\"about\" aria-labelledby=\"h-about\">\n<h2 id=\"h-about\">What ran</h2>\n<div class=\"cols\">\n\
         <div><h3>Kernel</h3>\n{}{series}</div>\n<div><h3>Machine</h3>\n{}{settings}</div>\n</div>\n{}</section>\n",
        of_kernel.text(),
        of_machine.text(),
        files(report)
    )
}

fn files(report: &Report<'_>) -> String {
    let there = FILES
        .iter()
        .filter(|name| **name != crate::rundir::REPORT && report.dir.join(name).is_file());
    let links: Vec<String> = there.map(|name| format!("<a href=\"{name}\">{name}</a>")).collect();
    format!(
        "<p class=\"files\"><span class=\"dim\">Evidence in</span> <code>{}</code>: {}</p>\n",
        line(&report.dir.display().to_string()),
        links.join(", ")
    )
}

/// What there is to say of something, one thing after the other.
#[derive(Default)]
struct Facts(String);

impl Facts {
    fn add(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.0.push_str(&format!("<div><dt>{name}</dt><dd>{}</dd></div>\n", line(value)));
        }
    }

    fn code(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.0.push_str(&format!(
                "<div><dt>{name}</dt><dd><code>{}</code></dd></div>\n",
                line(value)
            ));
        }
    }

    fn text(self) -> String {
        match self.0.as_str() {
            "" => "<p class=\"dim\">The run did not come so far.</p>\n".to_owned(),
            facts => format!("<dl>\n{facts}</dl>\n"),
        }
    }
}

/// A line of anybody.
pub(super) fn line(text: &str) -> String {
    escape(&clip(text, LINE))
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map_or(String::new(), |first| format!("{}{}", first.to_uppercase(), chars.as_str()))
}
