//! Two judgements beside each other: what is worse in the second, what is better,
//! and what else is not the same.
//!
//! Nothing here does IO.

mod tell;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::judge::{KernelEvent, Results, TestResult, Verdict};
use crate::trace::changes;

pub use tell::{Format, tell};

/// The name of the form that a comparison has as JSON.
const SCHEMA: &str = "hmm-harness/comparison/1";

/// How much of a failure's reason is told.
const REASON: usize = 6;

/// A judgement and its traces.
#[derive(Debug, Clone)]
pub struct Side<'a> {
    /// What was judged.
    pub results: &'a Results,
    /// The canonical traces that are whole, by the ids of their tests.
    pub canonical: BTreeMap<String, String>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    schema: &'static str,
    /// What was not the same before anything was tested: kernel, configuration,
    /// machine.
    pub given: Vec<Given>,
    /// What is worse in the second.
    pub worse: Vec<Change>,
    /// What is better in the second.
    pub better: Vec<Change>,
    /// What is neither.
    pub other: Vec<Change>,
    /// How many tests both have.
    pub compared: usize,
}

/// Something that was not the same from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Given {
    /// What: `kernel`, `configuration`.
    pub what: &'static str,
    /// In the first.
    pub before: String,
    /// In the second.
    pub after: String,
}

/// Something that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The tests that show it; none for what belongs to no test.
    pub tests: Vec<String>,
    /// What it is about.
    pub about: About,
    /// How it was.
    pub before: String,
    /// How it is.
    pub after: String,
    /// What shows it: the assertion, the kernel's words, the operations.
    pub evidence: Vec<String>,
}

/// What a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The verdict on a test, or whether there is one.
    Verdict,
    /// Why a test fails.
    Failure,
    /// What the kernel says on its console.
    Console,
    /// Which notifier events the kernel sends.
    Trace,
    /// Whether the trace is known to be whole.
    Capture,
}

/// Compares two judgements.
pub fn compare(a: &Side<'_>, b: &Side<'_>) -> Comparison {
    let mut found = Found::default();
    let of = |results: &Results| -> BTreeMap<String, TestResult> {
        results.tests.iter().map(|test| (test.id.clone(), test.clone())).collect()
    };
    let (before, after) = (of(a.results), of(b.results));
    for (id, then) in &before {
        match after.get(id) {
            Some(now) => found.test(then, now),
            None => found.vanished(then, b.results),
        }
    }
    for (id, now) in after.iter().filter(|(id, _)| !before.contains_key(*id)) {
        let there = now.verdict.as_str().to_owned();
        let change = Change::of(id, About::Verdict, "there was none", &there);
        found.sort(now.as_expected, change.with(reason(now)));
    }
    found.complaints(a.results, b.results);
    found.traces(a, b, &before, &after);
    let Found { worse, better, other } = found;
    let compared = before.keys().filter(|id| after.contains_key(*id)).count();
    Comparison {
        schema: SCHEMA,
        given: given(a.results, b.results),
        worse,
        better,
        other,
        compared,
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    worse: Vec<Change>,
    better: Vec<Change>,
    other: Vec<Change>,
}

impl Found {
    /// Something new: worse, unless it was to be expected.
    fn sort(&mut self, expected: bool, change: Change) {
        if expected { self.other.push(change) } else { self.worse.push(change) }
    }

    fn test(&mut self, then: &TestResult, now: &TestResult) {
        let (was, is) = (then.verdict.as_str(), now.verdict.as_str());
        let change = Change::of(&now.id, About::Verdict, was, is);
        match rank(now).cmp(&rank(then)) {
            std::cmp::Ordering::Less => self.better.push(change.with(reason(then))),
            std::cmp::Ordering::Greater => self.worse.push(change.with(reason(now))),
            std::cmp::Ordering::Equal if then.verdict != now.verdict => {
                self.other.push(change.with(reason(now)));
            }
            std::cmp::Ordering::Equal if then.reason != now.reason => {
                let evidence = reason(then).into_iter().chain(reason(now)).collect();
                let change = Change::of(&now.id, About::Failure, "for one reason", "for another");
                self.sort(now.as_expected, change.with(evidence));
            }
            std::cmp::Ordering::Equal => {}
        }
        if then.trace.complete && !now.trace.complete && now.verdict <= Verdict::Failed {
            let why = now.trace.incomplete.clone().unwrap_or_else(|| "nothing was traced".into());
            let change = Change::of(&now.id, About::Capture, "whole", "not whole");
            self.worse.push(change.with(vec![why]));
        }
    }

    fn vanished(&mut self, then: &TestResult, now: &Results) {
        let why = now.not_applicable.iter().find(|test| test.id == then.id);
        let change = Change::of(&then.id, About::Verdict, then.verdict.as_str(), "there is none");
        match why {
            Some(test) => self.other.push(change.with(vec![test.reason.clone()])),
            None => self.worse.push(change),
        }
    }

    /// What the kernel says that it did not say, wherever.
    fn complaints(&mut self, before: &Results, after: &Results) {
        let (then, now) = (titles(before), titles(after));
        let said = |titles: &Titles, title: &String| {
            titles[title].iter().flat_map(|(test, _)| test.clone()).collect::<Vec<String>>()
        };
        for title in now.keys().filter(|title| !then.contains_key(*title)) {
            let mut change = Change::of("", About::Console, "in silence", title);
            change.tests = said(&now, title);
            change.evidence =
                now[title].iter().map(|(_, event)| place(event)).take(REASON).collect();
            self.worse.push(change);
        }
        for title in then.keys().filter(|title| !now.contains_key(*title)) {
            let mut change = Change::of("", About::Console, title, "in silence");
            change.tests = said(&then, title);
            self.better.push(change);
        }
    }

    /// What the kernel sends otherwise, operation by operation, each with the tests
    /// that show it.
    fn traces(
        &mut self,
        a: &Side<'_>,
        b: &Side<'_>,
        before: &BTreeMap<String, TestResult>,
        after: &BTreeMap<String, TestResult>,
    ) {
        let data = |of: &BTreeMap<String, TestResult>, id: &str| of.get(id).map(|t| t.checks.data);
        let mut alike: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (id, then) in &a.canonical {
            // A test whose own assertions came out otherwise went another way.
            let Some(now) = b.canonical.get(id).filter(|_| data(before, id) == data(after, id))
            else {
                continue;
            };
            if then == now {
                continue;
            }
            let mut how: Vec<String> = changes([(then.as_str(), now.as_str())])
                .into_iter()
                .map(|(op, how)| format!("{op}: {how}"))
                .collect();
            if how.is_empty() {
                how.push("other operations".to_owned());
            }
            how.into_iter().for_each(|how| alike.entry(how).or_default().push(id.clone()));
        }
        for (how, tests) in alike {
            let (before, after, evidence) = ("one trace".into(), "another".into(), vec![how]);
            self.worse.push(Change { tests, about: About::Trace, before, after, evidence });
        }
    }
}

impl Change {
    fn of(id: &str, about: About, before: &str, after: &str) -> Change {
        let tests = Some(id).filter(|id| !id.is_empty()).map(str::to_owned).into_iter().collect();
        let (before, after) = (before.to_owned(), after.to_owned());
        Change { tests, about, before, after, evidence: Vec::new() }
    }

    fn with(self, evidence: Vec<String>) -> Change {
        Change { evidence, ..self }
    }
}

/// How bad a verdict is. What was to be expected is not bad.
fn rank(test: &TestResult) -> u8 {
    match test.verdict {
        _ if test.as_expected => 0,
        Verdict::Passed => 1,
        Verdict::Skipped => 2,
        Verdict::Failed => 3,
        Verdict::TimedOut => 4,
        Verdict::Crashed => 5,
        Verdict::NotRun => 6,
    }
}

fn reason(test: &TestResult) -> Vec<String> {
    let lines = test.reason.lines().map(str::to_owned);
    lines.chain(test.kernel_events.iter().map(place)).take(REASON).collect()
}

fn place(event: &KernelEvent) -> String {
    format!("console.log:{}: {}", event.line, event.title)
}

/// The titles of complaints, each with where it was said.
type Titles = BTreeMap<String, Vec<(Option<String>, KernelEvent)>>;

fn titles(results: &Results) -> Titles {
    let of_tests = results.tests.iter().flat_map(|test| {
        test.kernel_events.iter().map(|event| (Some(test.id.clone()), event.clone()))
    });
    let others = results.kernel_events.iter().map(|event| (None, event.clone()));
    let mut titles = Titles::new();
    for (test, event) in of_tests.chain(others) {
        titles.entry(event.title.clone()).or_default().push((test, event));
    }
    titles
}

/// What was not the same from the start.
fn given(a: &Results, b: &Results) -> Vec<Given> {
    let series = |of: &Results| {
        let subjects: Vec<&str> = of.kernel.series.iter().map(|p| p.subject.as_str()).collect();
        subjects.join("; ")
    };
    let short = |text: &str| text.chars().take(12).collect::<String>();
    let mut all = vec![
        ("kernel", a.kernel.release.clone(), b.kernel.release.clone()),
        ("source", a.kernel.source.clone(), b.kernel.source.clone()),
        ("tree", short(&a.kernel.tree), short(&b.kernel.tree)),
        ("series", series(a), series(b)),
        ("configuration", short(&a.kernel.config_sha256), short(&b.kernel.config_sha256)),
        ("profile", a.kernel.profile.clone(), b.kernel.profile.clone()),
        ("accelerator", a.machine.accelerator.clone(), b.machine.accelerator.clone()),
        ("QEMU", a.machine.qemu_version.clone(), b.machine.qemu_version.clone()),
        ("processors", a.machine.cpus.to_string(), b.machine.cpus.to_string()),
        ("memory, MiB", a.machine.memory_mib.to_string(), b.machine.memory_mib.to_string()),
        ("root file system", a.machine.rootfs.clone(), b.machine.rootfs.clone()),
    ];
    let names: BTreeSet<&String> =
        a.machine.settings.keys().chain(b.machine.settings.keys()).collect();
    for name in names {
        let of = |side: &Results| {
            let value = side.machine.settings.get(name).map_or("none", String::as_str);
            format!("{name} {value}")
        };
        all.push(("setting", of(a), of(b)));
    }
    let differ = all.into_iter().filter(|(_, before, after)| before != after);
    differ.map(|(what, before, after)| Given { what, before, after }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use crate::judge::{Check, NotApplicable, RunOutcome};
    use crate::report::tests::run;

    fn passed(id: &str) -> TestResult {
        let mut test = result(id, Verdict::Passed);
        test.as_expected = true;
        test.reason.clear();
        test.trace.complete = true;
        test
    }

    fn failed(id: &str, why: &str) -> TestResult {
        TestResult {
            reason: why.into(),
            verdict: Verdict::Failed,
            as_expected: false,
            ..passed(id)
        }
    }

    fn told(a: &[TestResult], b: &[TestResult]) -> Comparison {
        let (a, b) = (run(a.to_vec()), run(b.to_vec()));
        let side = |results| Side { results, canonical: BTreeMap::new() };
        compare(&side(&a), &side(&b))
    }

    fn short(changes: &[Change]) -> Vec<String> {
        let tell = |change: &Change| {
            format!(
                "{:?} {}: {} -> {}",
                change.about,
                change.tests.join(" "),
                change.before,
                change.after
            )
        };
        changes.iter().map(tell).collect()
    }

    #[test]
    fn the_same_is_neither_worse_nor_better() {
        let tests = [passed("hmm.migrate.private"), failed("hmm.migrate.coherent", "x.rs:1: y")];
        let same = told(&tests, &tests);
        assert_eq!((same.worse, same.better, same.other), (vec![], vec![], vec![]));
        assert_eq!(same.compared, 2);
    }

    #[test]
    fn what_is_worse_is_told_from_what_is_better() {
        let skipped = result("hmm.exclusive.private", Verdict::Skipped);
        let a = [
            passed("hmm.migrate.private"),
            passed("hmm.exclusive.private"),
            passed("hmm.compound.private"),
            failed("hmm.open_close.private", "x.rs:1: y"),
            failed("hmm.file_read.private", "x.rs:1: y"),
        ];
        let b = [
            failed("hmm.migrate.private", "x.rs:9: z"),
            skipped,
            passed("hmm.open_close.private"),
            failed("hmm.file_read.private", "x.rs:2: y"),
        ];
        let found = told(&a, &b);
        assert_eq!(
            short(&found.worse),
            [
                "Verdict hmm.compound.private: passed -> there is none",
                "Verdict hmm.exclusive.private: passed -> skipped",
                "Failure hmm.file_read.private: for one reason -> for another",
                "Verdict hmm.migrate.private: passed -> failed",
            ]
        );
        assert_eq!(short(&found.better), ["Verdict hmm.open_close.private: failed -> passed"]);
        assert_eq!(found.worse[3].evidence, ["x.rs:9: z"]);
    }

    #[test]
    fn a_test_that_does_not_apply_has_not_vanished() {
        let a = run(vec![passed("hmm.migrate.coherent")]);
        let gone = NotApplicable { id: "hmm.migrate.coherent".into(), reason: "since 6.0".into() };
        let b = Results { not_applicable: vec![gone], ..run(Vec::new()) };
        let side = |results| Side { results, canonical: BTreeMap::new() };
        let found = compare(&side(&a), &side(&b));
        assert_eq!((found.worse.len(), found.other.len()), (0, 1));
    }

    #[test]
    fn a_complaint_that_is_new_is_worse_whatever_the_verdicts_say() {
        let event = |title: &str| KernelEvent {
            id: "warn".into(),
            class: "warn".into(),
            title: title.into(),
            line: 3,
            trace: Vec::new(),
        };
        let a = Results { kernel_events: vec![event("WARNING: old")], ..run(Vec::new()) };
        let b = Results { kernel_events: vec![event("WARNING: new")], ..run(Vec::new()) };
        let side = |results| Side { results, canonical: BTreeMap::new() };
        let found = compare(&side(&a), &side(&b));
        assert_eq!(short(&found.worse), ["Console : in silence -> WARNING: new"]);
        assert_eq!(short(&found.better), ["Console : WARNING: old -> in silence"]);
    }

    #[test]
    fn traces_that_differ_alike_are_one_change() {
        let ids =
            ["hmm.migrate.private", "hmm.migrate_multiple.private", "hmm.migrate_fault.private"];
        let tests: Vec<TestResult> = ids.iter().map(|id| passed(id)).collect();
        let mut other = tests.clone();
        other[2].checks.data = Check::Bad;
        let (a, b) = (run(tests), run(other));
        let canonical = |event: &str| -> BTreeMap<String, String> {
            let text = format!("to-device dmirror0 buffer[0..4)\n  {event} buffer[0..4)\n");
            ids.iter().map(|id| ((*id).to_owned(), text.clone())).collect()
        };
        let a = Side { results: &a, canonical: canonical("MIGRATE") };
        let b = Side { results: &b, canonical: canonical("CLEAR") };
        let found = compare(&a, &b);
        assert_eq!(
            short(&found.worse),
            ["Trace hmm.migrate.private hmm.migrate_multiple.private: one trace -> another"]
        );
        assert_eq!(found.worse[0].evidence, ["to-device: MIGRATE -> CLEAR"]);
    }

    #[test]
    fn another_machine_is_named() {
        let a = run(Vec::new());
        let mut b = Results { outcome: RunOutcome::AsExpected, ..a.clone() };
        b.kernel.release = "6.13".into();
        b.machine.settings.insert("thp".into(), "never".into());
        let given = given(&a, &b);
        let told: Vec<_> =
            given.iter().map(|g| (g.what, g.before.as_str(), g.after.as_str())).collect();
        assert_eq!(told, [("kernel", "6.12.1", "6.13"), ("setting", "thp none", "thp never")]);
    }
}
