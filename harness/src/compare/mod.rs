//! Two judgements beside each other, or a baseline and one: what is worse in the
//! second, what is better, and what else is not the same.
//!
//! Nothing here does IO.

mod tell;

use std::collections::{BTreeMap, BTreeSet};

use hmm_protocol::catalogue;
use serde::{Deserialize, Serialize};

use crate::baseline::{Baseline, Standing};
use crate::judge::{KernelEvent, Results, Verdict};
use crate::trace::diff::{Chunk, diff};
use crate::trace::{Sent, otherwise};

pub use tell::{Format, Words, against_baseline, against_baseline_in_markdown, name, tell};

/// The name of the form that a comparison has as JSON.
const SCHEMA: &str = "hmm-harness/comparison/1";

/// How many tests of a change are named before the rest is counted.
const NAMED: usize = 6;

/// How much of a failure's reason is told, and of what differs in a trace.
const REASON: usize = 6;
const LINES: usize = 12;

/// A judgement, or a baseline, and its traces.
#[derive(Debug, Clone)]
pub struct Side<'a> {
    standing: Baseline,
    /// The judgement; nothing for a baseline.
    results: Option<&'a Results>,
    /// The canonical traces that are at hand, by the ids of their tests.
    canonical: BTreeMap<String, String>,
    /// What the turns of each test have shown, if all of them are known.
    turns: BTreeMap<String, Vec<Standing>>,
}

impl<'a> Side<'a> {
    /// What a run has shown; with its canonical traces, to show more of them.
    pub fn run(results: &'a Results, canonical: BTreeMap<String, String>) -> Side<'a> {
        let mut standing = Baseline::of(results);
        standing.given = given_of(results);
        Side { standing, results: Some(results), canonical, turns: BTreeMap::new() }
    }

    /// The same with every turn of each test, none of which may be worse.
    #[must_use]
    pub fn with_turns(self, turns: BTreeMap<String, Vec<Standing>>) -> Side<'a> {
        Side { turns, ..self }
    }

    /// What is expected.
    pub fn baseline(baseline: &Baseline) -> Side<'static> {
        let (canonical, turns) = (BTreeMap::new(), BTreeMap::new());
        Side { standing: baseline.clone(), results: None, canonical, turns }
    }

    /// What is said of a test that stands so: its reason, and where the kernel
    /// complained.
    fn reason(&self, id: &str, standing: &Standing) -> Vec<String> {
        let test = self.results.and_then(|results| results.tests.iter().find(|t| t.id == id));
        // Another turn than the one that stands has its own.
        match test.filter(|_| self.standing.tests.get(id) == Some(standing)) {
            Some(test) => {
                let lines = test.reason.lines().map(str::to_owned);
                lines.chain(test.kernel_events.iter().map(place)).take(REASON).collect()
            }
            None => failure(standing),
        }
    }

    /// What is known of a test: how it stands, and every turn.
    fn all(&self, id: &str) -> impl Iterator<Item = &Standing> {
        self.standing.tests.get(id).into_iter().chain(self.turns.get(id).into_iter().flatten())
    }
}

/// Why a test is not good, as far as a baseline knows.
fn failure(standing: &Standing) -> Vec<String> {
    let said = standing.assertion.iter().chain(&standing.failures);
    said.chain(&standing.complaints).cloned().collect()
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Comparison {
    schema: String,
    /// What was not the same before anything was tested: kernel, configuration,
    /// machine.
    pub given: Vec<Given>,
    /// What is worse in the second.
    pub worse: Vec<Change>,
    /// What would be worse, had the plan not allowed it.
    pub allowed: Vec<Change>,
    /// What the plan allows and nothing shows.
    #[serde(default)]
    pub unseen: Vec<String>,
    /// What is better in the second.
    pub better: Vec<Change>,
    /// What is neither.
    pub other: Vec<Change>,
    /// How many tests both have.
    pub compared: usize,
}

/// Something that was not the same from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Given {
    /// What: `kernel`, `configuration`.
    pub what: String,
    /// In the first.
    pub before: String,
    /// In the second.
    pub after: String,
}

/// Something that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change {
    /// The tests that show it; none for what belongs to no test.
    pub tests: Vec<String>,
    /// What it is about.
    pub about: About,
    /// For a trace: the operation in which the kernel sends something else.
    pub operation: Option<String>,
    /// How it was; of a trace, the events that there are fewer of now.
    pub before: String,
    /// How it is; of a trace, the events that there are more of now.
    pub after: String,
    /// What shows it: the assertion, the kernel's words, the lines of a trace.
    pub evidence: Vec<String>,
}

/// What a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// A change of the trace that is meant to be: an operation, `to-device`, or one
/// change of it, `to-device: CLEAR -> MIGRATE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Allowed(String);

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> String {
        allowed.0
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Allowed, String> {
        let operation = text.split_once(": ").map_or(text.as_str(), |(operation, _)| operation);
        if operation.is_empty() || operation.contains(char::is_whitespace) {
            return Err(format!(
                "{text:?} is neither an operation, as to-device, nor a change of one, as \
                 'to-device: CLEAR -> MIGRATE'"
            ));
        }
        Ok(Allowed(text))
    }
}

impl Allowed {
    fn covers(&self, change: &Change) -> bool {
        let operation = change.operation.as_deref();
        change.about == About::Trace && (operation == Some(&self.0) || change.in_a_line() == self.0)
    }
}

/// Compares two judgements, or a baseline with one.
pub fn compare(a: &Side<'_>, b: &Side<'_>) -> Comparison {
    let mut found = Found::default();
    let (before, after) = (&a.standing.tests, &b.standing.tests);
    let mut not_asked = Vec::new();
    for (id, then) in before {
        match after.get(id) {
            Some(_) => b.all(id).for_each(|now| found.test(id, (a, then), (b, now))),
            None if is_not_asked_for(id, a, b) => not_asked.push(id.clone()),
            None => found.vanished(id, then, b),
        }
    }
    if !not_asked.is_empty() {
        let (before, after) = ("in the baseline".to_owned(), "not asked for".to_owned());
        found.other.push(Change {
            tests: not_asked,
            about: About::Verdict,
            operation: None,
            before,
            after,
            evidence: Vec::new(),
        });
    }
    for (id, now) in after.iter().filter(|(id, _)| !before.contains_key(*id)) {
        let there = now.verdict.as_str();
        let change = Change::of(id, About::Verdict, "there was none", there);
        found.sort(now.is_good(), change.with(b.reason(id, now)));
    }
    found.complaints(a, b);
    found.traces(a, b);
    let Found { worse, better, other } = found;
    Comparison {
        schema: SCHEMA.to_owned(),
        given: given(a, b),
        worse,
        allowed: Vec::new(),
        unseen: Vec::new(),
        better,
        other,
        compared: before.keys().filter(|id| after.contains_key(*id)).count(),
    }
}

/// Whether a test of a baseline was not to run: a run may be of some tests only. One
/// that nobody knows any more is gone.
fn is_not_asked_for(id: &str, a: &Side<'_>, b: &Side<'_>) -> bool {
    let planned =
        b.results.is_none_or(|results| results.not_applicable.iter().any(|test| test.id == id));
    let known = catalogue::all().iter().any(|test| test.to_string() == id);
    a.results.is_none() && known && !planned
}

impl Comparison {
    /// Sets apart what the plan allows.
    pub fn allow(&mut self, allow: &[Allowed]) {
        let worse = std::mem::take(&mut self.worse);
        let allowed = |change: &Change| allow.iter().any(|allowed| allowed.covers(change));
        let (allowed, worse) = worse.into_iter().partition(allowed);
        (self.allowed, self.worse) = (allowed, worse);
        let unseen = |allow: &&Allowed| !self.allowed.iter().any(|change| allow.covers(change));
        self.unseen = allow.iter().filter(unseen).map(|allow| allow.0.clone()).collect();
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
    /// Something new: worse, unless it is good.
    fn sort(&mut self, good: bool, change: Change) {
        put(if good { &mut self.other } else { &mut self.worse }, change);
    }

    fn test(
        &mut self,
        id: &str,
        (a, then): (&Side<'_>, &Standing),
        (b, now): (&Side<'_>, &Standing),
    ) {
        let change = Change::of(id, About::Verdict, then.verdict.as_str(), now.verdict.as_str());
        if then.verdict != now.verdict {
            match (then.is_good(), now.is_good()) {
                (false, true) => put(&mut self.better, change.with(a.reason(id, then))),
                (true, true) => put(&mut self.other, change.with(b.reason(id, now))),
                // It was bad and is so in another way: nobody has looked at that yet.
                (_, false) => put(&mut self.worse, change.with(b.reason(id, now))),
            }
        } else if !then.fails_like(now) {
            let (was, is) = (a.reason(id, then), b.reason(id, now));
            let first = |words: &[String]| words.first().cloned().unwrap_or_default();
            let change = Change::of(id, About::Failure, &first(&was), &first(&is));
            self.sort(now.is_good(), change.with(is));
        }
        if then.trace.is_some() && now.trace.is_none() && now.verdict <= Verdict::Failed {
            let test = b.results.and_then(|run| run.tests.iter().find(|test| test.id == id));
            let why = test.and_then(|test| test.trace.incomplete.clone());
            let why = why.unwrap_or_else(|| "nothing was traced".to_owned());
            let change = Change::of(id, About::Capture, "whole", "not whole").with(vec![why]);
            // Where a kernel cannot be traced, no test is.
            let alike = |other: &&mut Change| {
                other.about == About::Capture && other.evidence == change.evidence
            };
            match self.worse.iter_mut().find(alike) {
                Some(other) if other.tests.contains(&change.tests[0]) => {}
                Some(other) => other.tests.extend(change.tests),
                None => self.worse.push(change),
            }
        }
    }

    fn vanished(&mut self, id: &str, then: &Standing, b: &Side<'_>) {
        let others = b.results.map(|results| results.not_applicable.as_slice());
        let why = others.unwrap_or_default().iter().find(|test| test.id == id);
        let change = Change::of(id, About::Verdict, then.verdict.as_str(), "there is none");
        match why {
            Some(test) => self.other.push(change.with(vec![test.reason.clone()])),
            None => self.worse.push(change),
        }
    }

    /// What the kernel says that it did not say there: in a test, or outside of all.
    fn complaints(&mut self, a: &Side<'_>, b: &Side<'_>) {
        let places = |title: &str| -> Vec<String> {
            let results = b.results.into_iter();
            let events = results.flat_map(|run| {
                run.tests.iter().flat_map(|test| &test.kernel_events).chain(&run.kernel_events)
            });
            events.filter(|event| event.title == title).map(place).take(REASON).collect()
        };
        for (title, tests) in unheard(&b.standing, &a.standing, &|_| true) {
            let change = Change::of("", About::Console, "in silence", &title);
            put(&mut self.worse, Change { tests, evidence: places(&title), ..change });
        }
        // Of a test that has not run nothing is known.
        let ran = |id: &str| b.standing.tests.contains_key(id);
        for (title, tests) in unheard(&a.standing, &b.standing, &ran) {
            let change = Change::of("", About::Console, &title, "in silence");
            put(&mut self.better, Change { tests, ..change });
        }
    }

    /// What the kernel sends otherwise, operation by operation, each with the tests
    /// that show it.
    fn traces(&mut self, a: &Side<'_>, b: &Side<'_>) {
        type Otherwise = (Option<String>, String, String);
        let mut alike: BTreeMap<Otherwise, Vec<String>> = BTreeMap::new();
        let both =
            a.standing.tests.iter().flat_map(|(id, then)| {
                b.all(id).map(move |now| (id, then, now)).collect::<Vec<_>>()
            });
        for (id, then, now) in both {
            if !then.is_comparable(now) || then.trace == now.trace {
                continue;
            }
            let nothing = Sent::default();
            let of =
                |side: &Standing, op: &String| side.operations.get(op).unwrap_or(&nothing).clone();
            let operations: BTreeSet<&String> =
                then.operations.keys().chain(now.operations.keys()).collect();
            let mut how: Vec<Otherwise> = Vec::new();
            for operation in operations {
                if let Some((gone, new)) = of(then, operation).against(&of(now, operation)) {
                    how.push((Some(operation.clone()), gone, new));
                }
            }
            if how.is_empty() {
                how.push((None, "one order of operations".into(), "another".into()));
            }
            for how in how {
                let tests = alike.entry(how).or_default();
                if tests.last() != Some(id) {
                    tests.push(id.clone());
                }
            }
        }
        for ((operation, before, after), tests) in alike {
            let evidence = lines(a, b, &tests, operation.as_deref());
            let about = About::Trace;
            self.worse.push(Change { tests, about, operation, before, after, evidence });
        }
    }
}

/// What differs in an operation of the first of these tests whose traces are at hand,
/// line by line; what was expected and what was seen, if none is.
fn lines(a: &Side<'_>, b: &Side<'_>, tests: &[String], operation: Option<&str>) -> Vec<String> {
    let both = tests.iter().find_map(|id| Some((id, a.canonical.get(id)?, b.canonical.get(id)?)));
    let Some((id, before, after)) = both else {
        let (Some(operation), Some(id)) = (operation, tests.first()) else { return Vec::new() };
        let sent = |test: &Standing| test.operations.get(operation).cloned();
        let words = |sent: Option<Sent>| sent.map_or("nothing".to_owned(), |sent| sent.words());
        let expected = a.standing.tests.get(id).and_then(sent);
        // Of several turns it may be another than the one that stands.
        let otherwise = b.all(id).map(sent).find(|sent| *sent != expected);
        return vec![
            format!("{id} expected: {}", words(expected)),
            format!("{id} seen: {}", words(otherwise.flatten())),
        ];
    };
    let mut lines = Vec::new();
    let mut more = 0;
    for step in diff(before, after).iter().filter(|step| !step.is_equal()) {
        let Some(text) = step.left.or(step.right) else { continue };
        if operation.is_some_and(|operation| operation != text.op) {
            continue;
        }
        for chunk in &step.chunks {
            let Chunk::Differs { left, right } = chunk else { continue };
            if lines.len() >= LINES {
                more += 1;
                continue;
            }
            if lines.is_empty() {
                lines.push(format!("{id}, {}:", text.text));
            }
            let few = |lines: &[&'_ str], mark: char| -> Vec<String> {
                let some =
                    lines.iter().take(LINES / 2).map(|line| format!("{mark} {}", line.trim()));
                let rest = lines.len().saturating_sub(LINES / 2);
                let rest = (rest > 0).then(|| format!("{mark} ... {rest} lines more"));
                some.chain(rest).collect()
            };
            lines.extend(few(left, '-').into_iter().chain(few(right, '+')));
        }
    }
    if more > 0 {
        lines.push(format!("... and in {more} more places"));
    }
    lines
}

impl Change {
    fn of(id: &str, about: About, before: &str, after: &str) -> Change {
        let tests = Some(id).filter(|id| !id.is_empty()).map(str::to_owned).into_iter().collect();
        let (before, after) = (before.to_owned(), after.to_owned());
        Change { tests, about, operation: None, before, after, evidence: Vec::new() }
    }

    fn with(self, evidence: Vec<String>) -> Change {
        Change { evidence, ..self }
    }

    /// The tests that show it, in a few words.
    pub fn shown_by(&self) -> String {
        match self.tests.as_slice() {
            [] => "outside any test".to_owned(),
            tests => {
                let named = tests[..tests.len().min(NAMED)].join(", ");
                let rest = tests.len().saturating_sub(NAMED);
                if rest == 0 { named } else { format!("{named} and {rest} more") }
            }
        }
    }

    /// What it is, without the tests that show it: `to-device: CLEAR -> MIGRATE`.
    pub fn in_a_line(&self) -> String {
        let Change { about, operation, before, after, .. } = self;
        match (about, operation) {
            (About::Trace, Some(operation)) => {
                format!("{operation}: {}", otherwise(before, after))
            }
            (About::Console, _) if after == "in silence" => format!("no more {before}"),
            (About::Console, _) => after.clone(),
            (About::Failure, _) => format!("fails otherwise: {before} -> {after}"),
            (About::Capture, _) => format!("its trace is {after}"),
            (About::Trace | About::Verdict, _) => format!("{before} -> {after}"),
        }
    }
}

/// Adds a change, once.
fn put(to: &mut Vec<Change>, change: Change) {
    if !to.contains(&change) {
        to.push(change);
    }
}

fn place(event: &KernelEvent) -> String {
    format!("console.log:{}: {}", event.line, event.title)
}

/// The titles of what the kernel complained of on one side and not in the same place on
/// the other, each with the tests that are about it: none for outside of all tests.
fn unheard(
    of: &Baseline,
    on: &Baseline,
    about: &dyn Fn(&str) -> bool,
) -> BTreeMap<String, Vec<String>> {
    let mut titles: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for title in of.complaints.difference(&on.complaints) {
        titles.entry(title.clone()).or_default();
    }
    for (id, test) in of.tests.iter().filter(|(id, _)| about(id)) {
        let there = on.tests.get(id);
        for title in &test.complaints {
            if there.is_none_or(|test| !test.complaints.contains(title)) {
                titles.entry(title.clone()).or_default().push(id.clone());
            }
        }
    }
    titles
}

/// What was not the same from the start, as far as both say it.
fn given(a: &Side<'_>, b: &Side<'_>) -> Vec<Given> {
    let (then, now) = (&a.standing.given, &b.standing.given);
    let whats: BTreeSet<&String> = if a.results.is_some() && b.results.is_some() {
        then.keys().chain(now.keys()).collect()
    } else {
        then.keys().filter(|what| now.contains_key(*what)).collect()
    };
    let of = |side: &BTreeMap<String, String>, what| side.get(what).cloned().unwrap_or_default();
    let all = whats.into_iter().map(|what| (what.clone(), of(then, what), of(now, what)));
    let differ = all.filter(|(_, before, after)| before != after);
    differ.map(|(what, before, after)| Given { what, before, after }).collect()
}

/// All that is given in a run.
fn given_of(results: &Results) -> BTreeMap<String, String> {
    let (kernel, machine) = (&results.kernel, &results.machine);
    let subjects: Vec<&str> = kernel.series.iter().map(|p| p.subject.as_str()).collect();
    let short = |text: &str| text.chars().take(12).collect::<String>();
    let mut given = Baseline::of(results).given;
    let more = [
        ("tree", short(&kernel.tree)),
        ("series", subjects.join("; ")),
        ("QEMU", machine.qemu_version.clone()),
        ("processors", machine.cpus.to_string()),
        ("memory, MiB", machine.memory_mib.to_string()),
    ];
    given.extend(more.map(|(what, value)| (what.to_owned(), value)));
    let settings = machine.settings.iter();
    given.extend(settings.map(|(name, value)| (format!("setting {name}"), value.clone())));
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use crate::judge::{NotApplicable, RunOutcome, TestResult};
    use crate::report::tests::run;

    fn passed(id: &str) -> TestResult {
        let mut test = result(id, Verdict::Passed);
        test.as_expected = true;
        test.reason.clear();
        test.trace.complete = true;
        test.trace.canonical_sha256 = Some("digest".into());
        test
    }

    fn failed(id: &str, why: &str) -> TestResult {
        let (_, assertion) = why.split_once(": ").expect("a place and an assertion");
        TestResult {
            reason: why.into(),
            assertion: Some(assertion.into()),
            verdict: Verdict::Failed,
            as_expected: false,
            ..passed(id)
        }
    }

    fn told(a: &[TestResult], b: &[TestResult]) -> Comparison {
        let (a, b) = (run(a.to_vec()), run(b.to_vec()));
        compare(&side(&a), &side(&b))
    }

    fn side(results: &Results) -> Side<'_> {
        Side::run(results, BTreeMap::new())
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
            failed("hmm.file_read.private", "x.rs:1: other"),
        ];
        let found = told(&a, &b);
        assert_eq!(
            short(&found.worse),
            [
                "Verdict hmm.compound.private: passed -> there is none",
                "Verdict hmm.exclusive.private: passed -> skipped",
                "Failure hmm.file_read.private: x.rs:1: y -> x.rs:1: other",
                "Verdict hmm.migrate.private: passed -> failed",
            ]
        );
        assert_eq!(short(&found.better), ["Verdict hmm.open_close.private: failed -> passed"]);
        assert_eq!(found.worse[3].evidence, ["x.rs:9: z"]);
        let skipped = [result("hmm.migrate.private", Verdict::Skipped)];
        let found = told(&[failed("hmm.migrate.private", "x.rs:1: y")], &skipped);
        assert_eq!(short(&found.worse), ["Verdict hmm.migrate.private: failed -> skipped"]);
    }

    #[test]
    fn a_test_that_does_not_apply_has_not_vanished() {
        let a = run(vec![passed("hmm.migrate.coherent")]);
        let gone = NotApplicable { id: "hmm.migrate.coherent".into(), reason: "since 6.0".into() };
        let b = Results { not_applicable: vec![gone], ..run(Vec::new()) };
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
        let found = compare(&side(&a), &side(&b));
        assert_eq!(short(&found.worse), ["Console : in silence -> WARNING: new"]);
        assert_eq!(short(&found.better), ["Console : WARNING: old -> in silence"]);
    }

    #[test]
    fn a_complaint_is_known_only_where_it_was() {
        let crashed = |id: &str, title: &str| {
            let mut test = result(id, Verdict::Crashed);
            let (id, class) = ("oops".to_owned(), "oops".to_owned());
            let title = title.to_owned();
            test.kernel_events = vec![KernelEvent { id, class, title, line: 3, trace: vec![] }];
            test
        };
        let ids = ["hmm.compound.private", "hmm.migrate.private"];
        let a = run(vec![crashed(ids[0], "BUG: one"), crashed(ids[1], "BUG: two")]);
        let b = run(vec![crashed(ids[0], "BUG: one"), crashed(ids[1], "BUG: one")]);
        let found = compare(&side(&a), &side(&b));
        assert_eq!(short(&found.worse), ["Console hmm.migrate.private: in silence -> BUG: one"]);
        let mut outside = a.clone();
        outside.kernel_events = outside.tests[0].kernel_events.clone();
        let found = compare(&side(&a), &side(&outside));
        assert_eq!(short(&found.worse), ["Console : in silence -> BUG: one"]);
    }

    #[test]
    fn no_turn_of_a_test_may_be_worse() {
        let id = "hmm.migrate.private";
        let a = Baseline::of(&run(vec![failed(id, "x.rs:1: y")]));
        let b = run(vec![failed(id, "x.rs:1: y")]);
        let turn = |test: TestResult| Standing::of(&test);
        let held = |turns: Vec<Standing>| {
            let turns = BTreeMap::from([(id.to_owned(), turns)]);
            compare(&Side::baseline(&a), &side(&b).with_turns(turns)).worse
        };
        assert_eq!(held(vec![turn(failed(id, "x.rs:1: y")), turn(passed(id))]), []);
        let other = held(vec![turn(failed(id, "x.rs:1: y")), turn(failed(id, "x.rs:1: z"))]);
        assert_eq!(short(&other), ["Failure hmm.migrate.private: y -> z"]);
        let mut traced = a.clone();
        traced.tests.insert(id.to_owned(), turn(sends(id, "MIGRATE")));
        let b = run(vec![sends(id, "MIGRATE")]);
        let turns = BTreeMap::from([(id.to_owned(), vec![turn(sends(id, "CLEAR"))])]);
        let found = compare(&Side::baseline(&traced), &side(&b).with_turns(turns));
        assert_eq!(found.worse[0].in_a_line(), "to-device: MIGRATE -> CLEAR");
        assert!(found.worse[0].evidence[1].ends_with("seen: 4 CLEAR, 4 collect"), "{found:?}");
    }

    #[test]
    fn a_failure_that_is_no_known_issue_any_more_is_the_same_failure() {
        let id = "hmm.migrate.private";
        let mut known = failed(id, "x.rs:1: y");
        known.known_issue = Some("an-issue".into());
        let found = told(&[known], &[failed(id, "x.rs:1: y")]);
        assert_eq!((found.worse, found.better), (vec![], vec![]));
    }

    /// A test whose kernel sends an event in to-device.
    fn sends(id: &str, event: &str) -> TestResult {
        let mut test = passed(id);
        test.trace.canonical_sha256 = Some(event.into());
        let sent = format!("4 {event}, 4 collect; {event}").parse().expect("its form");
        test.trace.operations.insert("to-device".into(), sent);
        test
    }

    #[test]
    fn traces_that_differ_alike_are_one_change() {
        let ids =
            ["hmm.migrate.private", "hmm.migrate_multiple.private", "hmm.migrate_fault.private"];
        let of = |event: &str| ids.iter().map(|id| sends(id, event)).collect::<Vec<TestResult>>();
        let (a, mut b) = (run(of("MIGRATE")), run(of("CLEAR")));
        b.tests[2].assertion = Some("it went another way".into());
        let canonical = |event: &str| -> BTreeMap<String, String> {
            let text = format!("to-device dmirror0 buffer[0..4)\n  {event} buffer[0..4)\n");
            ids.iter().map(|id| ((*id).to_owned(), text.clone())).collect()
        };
        let found =
            compare(&Side::run(&a, canonical("MIGRATE")), &Side::run(&b, canonical("CLEAR")));
        let [change] = found.worse.as_slice() else { panic!("{:?}", found.worse) };
        assert_eq!(change.tests, ids[..2]);
        assert_eq!(change.in_a_line(), "to-device: MIGRATE -> CLEAR");
        assert_eq!(
            change.evidence,
            [
                "hmm.migrate.private, to-device dmirror0 buffer[0..4):",
                "- MIGRATE buffer[0..4)",
                "+ CLEAR buffer[0..4)"
            ]
        );
    }

    #[test]
    fn a_baseline_says_what_was_expected() {
        let a = Baseline::of(&run(vec![sends("hmm.migrate.private", "MIGRATE")]));
        let b = run(vec![sends("hmm.migrate.private", "CLEAR")]);
        let mut found = compare(&Side::baseline(&a), &side(&b));
        assert_eq!(
            found.worse[0].evidence,
            [
                "hmm.migrate.private expected: 4 MIGRATE, 4 collect",
                "hmm.migrate.private seen: 4 CLEAR, 4 collect"
            ]
        );
        for (allow, left) in
            [("to-host", 1), ("to-device: CLEAR -> MIGRATE", 1), ("to-device: MIGRATE -> CLEAR", 0)]
        {
            let allow = Allowed::try_from(allow.to_owned()).expect("its form");
            found.allow(&[allow]);
            assert_eq!((found.worse.len(), found.allowed.len()), (left, 1 - left));
            assert_eq!(found.unseen.len(), left, "a word that is mistyped is told");
        }
        assert!(Allowed::try_from("CLEAR -> MIGRATE".to_owned()).is_err());
    }

    #[test]
    fn of_a_baseline_some_tests_can_be_asked_for_but_none_may_be_gone() {
        let ids = ["hmm.migrate.private", "hmm.exclusive.private", "hmm.unheard_of.private"];
        let a = Baseline::of(&run(ids.iter().map(|id| passed(id)).collect()));
        let found = compare(&Side::baseline(&a), &side(&run(vec![passed(ids[0])])));
        assert_eq!(
            short(&found.worse),
            ["Verdict hmm.unheard_of.private: passed -> there is none"]
        );
        assert_eq!(
            short(&found.other),
            ["Verdict hmm.exclusive.private: in the baseline -> not asked for"]
        );
        assert_eq!(found.compared, 1);
    }

    #[test]
    fn a_trace_that_is_not_whole_any_more_is_worse() {
        let ids = ["hmm.migrate.private", "hmm.compound.private"];
        let a = run(ids.iter().map(|id| sends(id, "MIGRATE")).collect());
        let mut b = a.clone();
        b.tests[1].trace.complete = false;
        assert_eq!(
            short(&compare(&side(&a), &side(&b)).worse),
            ["Capture hmm.compound.private: whole -> not whole"]
        );
        b.tests[0].trace.complete = false;
        assert_eq!(
            short(&compare(&side(&a), &side(&b)).worse),
            ["Capture hmm.compound.private hmm.migrate.private: whole -> not whole"]
        );
    }

    #[test]
    fn another_machine_is_named() {
        let a = run(Vec::new());
        let mut b = Results { outcome: RunOutcome::AsExpected, ..a.clone() };
        b.kernel.release = "6.13".into();
        b.machine.settings.insert("thp".into(), "never".into());
        let given = given(&side(&a), &side(&b));
        let told: Vec<_> =
            given.iter().map(|g| (g.what.as_str(), g.before.as_str(), g.after.as_str())).collect();
        assert_eq!(told, [("kernel", "6.12.1", "6.13"), ("setting thp", "", "never")]);
        let given = super::given(&Side::baseline(&Baseline::of(&a)), &side(&b));
        assert_eq!(given.len(), 1, "what a baseline does not say is no difference");
    }
}
