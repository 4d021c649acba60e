//! The tests: a row for each, with all about it below.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::summary::{class, line, verdict};
use super::{Report, detail};
use crate::report::cases::expected_by;
use crate::results::{Check, Results, TestResult};
use crate::words::seconds;

/// How large the table may become before no more traces are drawn, in bytes. That of
/// 60 tests takes a sixth of it.
const ROOM: usize = 4 << 20;

/// The columns: what each is called and what it is sorted by, whether it holds
/// numbers, and what its name is short for.
const COLUMNS: [(&str, &str, &str, &str); 10] = [
    ("Test", "id", "", ""),
    ("Device", "device", "", ""),
    ("Verdict", "verdict", "", ""),
    ("Data", "data", "check", "the test's own assertions"),
    ("Trace", "trace", "check", "the rules of notifier events"),
    ("Console", "console", "check", "what the kernel said"),
    ("Taint", "taint", "check", "the kernel's taint and warning counters"),
    ("Time", "ms", "num", ""),
    ("Events", "events", "num", "notifier events that were captured"),
    ("Notes", "note", "", ""),
];

/// The section with the table and what filters it.
///
/// # Errors
/// When what a row holds cannot be written.
pub(super) fn section(report: &Report<'_>) -> Result<String> {
    let tests = &report.results.tests;
    let head =
        "<section id=\"tests\" aria-labelledby=\"h-tests\">\n<h2 id=\"h-tests\">Tests</h2>\n";
    if tests.is_empty() {
        return Ok(format!("{head}<p class=\"dim\">There are none in this run.</p>\n</section>\n"));
    }
    let columns: String = COLUMNS
        .iter()
        .map(|(name, key, class, why)| {
            let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
            let why = if why.is_empty() { String::new() } else { format!(" title=\"{why}\"") };
            format!("<th scope=\"col\"{class}><button type=\"button\" data-sort=\"{key}\"{why}>{name}</button></th>")
        })
        .collect();
    let mut rows = String::new();
    for (n, test) in tests.iter().enumerate() {
        rows.push_str(&row(report, n, test, rows.len() < ROOM)?);
    }
    Ok(format!(
        "{head}{}<div class=\"wide tests\"><table>\n<thead><tr>{columns}</tr></thead>\n{rows}</table></div>\n\
         <p class=\"none\" hidden>No test is like that.</p>\n</section>\n",
        filters(report.results)
    ))
}

fn filters(results: &Results) -> String {
    let count = |word: &dyn Fn(&TestResult) -> Option<String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for word in results.tests.iter().filter_map(word) {
            *counts.entry(word).or_default() += 1;
        }
        counts
            .iter()
            .map(|(word, n)| {
                format!("<option value=\"{word}\">{} ({n})</option>", word.replace('_', " "))
            })
            .collect::<String>()
    };
    let verdicts = count(&|test| Some(test.verdict.as_str().to_owned()));
    let devices = count(&|test| test.device.map(|device| device.as_str().to_owned()));
    let red = results.tests.iter().filter(|test| !test.as_expected).count();
    format!(
        "<form class=\"filters\" role=\"search\" aria-label=\"Tests\">\n\
         <label>Filter <input type=\"search\" name=\"filter\" autocomplete=\"off\" spellcheck=\"false\" placeholder=\"words of id or reason\"> <kbd aria-hidden=\"true\">/</kbd></label>\n\
         <label>Verdict <select name=\"verdict\"><option value=\"\">any</option>{verdicts}</select></label>\n\
         <label>Device <select name=\"device\"><option value=\"\">any</option>{devices}</select></label>\n\
         <label><input type=\"checkbox\" name=\"red\"> not as expected ({red})</label>\n\
         <button type=\"reset\">Clear</button>\n\
         <output class=\"count\" aria-live=\"polite\"></output>\n</form>\n"
    )
}

fn row(report: &Report<'_>, n: usize, test: &TestResult, room: bool) -> Result<String> {
    let id = line(&test.id);
    let device = test.device.map_or("", |device| device.as_str());
    let checks = &test.checks;
    let checks: String = [checks.data, checks.trace, checks.console, checks.taint]
        .iter()
        .map(|check| format!("<td class=\"check\">{}</td>", sign(*check)))
        .collect();
    Ok(format!(
        "<tbody id=\"{id}\" class=\"test {}\" data-verdict=\"{}\" data-device=\"{device}\" data-ms=\"{}\" data-events=\"{}\">\
         <tr class=\"row\"><th scope=\"row\"><button type=\"button\" class=\"open\" aria-expanded=\"false\" aria-controls=\"more-{n}\">{id}</button></th>\
         <td>{device}</td><td>{}</td>{checks}<td class=\"num\">{}</td><td class=\"num\">{}</td><td>{}</td></tr>\n\
         <tr class=\"more\" id=\"more-{n}\"><td colspan=\"{}\">{}</td></tr></tbody>\n",
        class(test),
        test.verdict.as_str(),
        test.duration_ms,
        test.trace.captured,
        verdict(test),
        seconds(Duration::from_millis(test.duration_ms)),
        test.trace.captured,
        notes(test, report.results),
        COLUMNS.len(),
        detail::text(report, n, test, room)?
    ))
}

/// A check as a sign, and as a word for those who do not see it.
fn sign(check: Check) -> String {
    let (class, sign, word) = match check {
        Check::Ok => ("ok", "\u{2713}", "ok"),
        Check::Bad => ("bad", "\u{2717}", "bad"),
        Check::None => ("none", "\u{b7}", "none"),
    };
    format!(
        "<span class=\"{class}\" aria-hidden=\"true\">{sign}</span><span class=\"vh\">{word}</span>"
    )
}

fn notes(test: &TestResult, results: &Results) -> String {
    let expected = test.as_expected && test.verdict != crate::results::Verdict::Passed;
    let notes = [
        test.known_issue.as_ref().map(|issue| format!("known issue {}", line(issue))),
        (expected && test.known_issue.is_none()).then(|| expected_by(results).to_owned()),
        (!test.as_expected && test.verdict == crate::results::Verdict::Passed)
            .then(|| "not as expected".to_owned()),
        test.flaky.then(|| "flaky".to_owned()),
        (test.attempts > 1).then(|| format!("{} turns", test.attempts)),
        (test.trace.captured > 0 && !test.trace.complete).then(|| "trace not whole".to_owned()),
    ];
    notes.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The tests that do not apply, apart.
pub(super) fn others(results: &Results) -> String {
    let others = &results.not_applicable;
    if others.is_empty() {
        return "</main>\n".to_owned();
    }
    let rows: String = others
        .iter()
        .map(|other| {
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n",
                line(&other.id),
                line(&other.reason)
            )
        })
        .collect();
    format!(
        "<section id=\"others\" aria-labelledby=\"h-others\">\n<h2 id=\"h-others\">Not applicable to this kernel</h2>\n\
         <details><summary>{} tests, which count nowhere</summary>\n<table class=\"settings\">{rows}</table></details>\n</section>\n</main>\n",
        others.len()
    )
}
