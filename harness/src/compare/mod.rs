//! Two judgements beside each other, or a baseline and one: what is worse in the
//! second, what is better, and what else is not the same.
//!
//! Nothing here does IO.

mod allowed;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use hmm_protocol::catalogue;

use crate::baseline::Baseline;
use crate::console::without_line;
use crate::results::{
    About, Change, Comparison, Given, KernelEvent, Results, Sent, Standing, TestResult, Verdict,
};
use crate::trace::diff::{Chunk, diff};

pub use allowed::Allowed;
pub use tell::{Format, Words, against_baseline, against_baseline_in_markdown, name, tell};

/// The name of the form that a comparison has as JSON.
const SCHEMA: &str = "hmm-harness/comparison/1";

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
}

impl<'a> Side<'a> {
    /// What a run has shown; with its canonical traces, to show more of them.
    pub fn run(results: &'a Results, canonical: BTreeMap<String, String>) -> Side<'a> {
        let mut standing = Baseline::of(results);
        standing.given = given_of(results);
        Side { standing, results: Some(results), canonical }
    }

    /// What is expected.
    pub fn baseline(baseline: &Baseline) -> Side<'static> {
        Side { standing: baseline.clone(), results: None, canonical: BTreeMap::new() }
    }

    /// What is said of a test that stands so: its reason, and where the kernel
    /// complained.
    fn reason(&self, id: &str, standing: &Standing) -> Vec<String> {
        // Another turn than the one that stands has its own.
        match self.test(id).filter(|_| self.standing.tests.get(id) == Some(standing)) {
            Some(test) => {
                let lines = test.reason.lines().map(str::to_owned);
                lines.chain(test.kernel_events.iter().map(place)).take(REASON).collect()
            }
            None => failure(standing),
        }
    }

    fn test(&self, id: &str) -> Option<&'a TestResult> {
        self.results?.tests.iter().find(|test| test.id == id)
    }

    /// How a test stands, and then those of its turns that do not stand so.
    fn all(&self, id: &str) -> impl Iterator<Item = &Standing> {
        let turns = self.test(id).into_iter().flat_map(|test| &test.other_turns);
        self.standing.tests.get(id).into_iter().chain(turns)
    }

    fn loose_ends(&self) -> &'a [String] {
        self.results.map_or(&[], |results| &results.loose_ends)
    }
}

/// Why a test is not good, as far as a baseline knows.
fn failure(standing: &Standing) -> Vec<String> {
    let said = standing.assertion.iter().chain(&standing.failures);
    said.chain(&standing.complaints).cloned().collect()
}

/// Compares two judgements, or a baseline with one.
pub fn compare(a: &Side<'_>, b: &Side<'_>) -> Comparison {
    let mut found = Found::default();
    let (before, after) = (&a.standing.tests, &b.standing.tests);
    let mut not_asked = Vec::new();
    for (id, then) in before {
        match after.get(id) {
            Some(_) => found.turns(id, (a, then), b),
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
    found.loose_ends(a, b);
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

    /// A test in all of its turns. None may be worse; what else one shows that does
    /// not stand is no news.
    fn turns(&mut self, id: &str, (a, then): (&Side<'_>, &Standing), b: &Side<'_>) {
        let mut all = b.all(id);
        if let Some(now) = all.next() {
            self.test(id, (a, then), (b, now));
        }
        let mut others = Found { worse: std::mem::take(&mut self.worse), ..Found::default() };
        all.for_each(|now| others.test(id, (a, then), (b, now)));
        self.worse = others.worse;
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
                _ if now.verdict == Verdict::Passed => {
                    put(&mut self.better, change.with(a.reason(id, then)));
                }
                (_, true) => put(&mut self.other, change.with(b.reason(id, now))),
                // It was bad and is so in another way: nobody has looked at that yet.
                (_, false) => put(&mut self.worse, change.with(b.reason(id, now))),
            }
        } else if then.why() != now.why() {
            let (was, is) = (then.why(), now.why());
            let only = |of: &BTreeSet<&str>, without: &BTreeSet<&str>| {
                of.difference(without).copied().collect::<Vec<_>>().join(", ")
            };
            let change = Change::of(id, About::Failure, &only(&was, &is), &only(&is, &was));
            match is.is_subset(&was) {
                true => put(&mut self.better, change.with(a.reason(id, then))),
                false => self.sort(now.is_good(), change.with(b.reason(id, now))),
            }
        }
        if then.trace.is_some() && now.trace.is_none() && then.ended_like(now) {
            let why = b.test(id).and_then(|test| test.trace.incomplete.clone());
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
            events
                .filter(|event| without_line(&event.title) == title)
                .map(place)
                .take(REASON)
                .collect()
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

    /// What else went wrong outside of all tests, which a baseline never has.
    fn loose_ends(&mut self, a: &Side<'_>, b: &Side<'_>) {
        let (then, now) = (a.loose_ends(), b.loose_ends());
        for end in now.iter().filter(|end| !then.contains(end)) {
            put(&mut self.worse, Change::of("", About::Run, "nothing", end));
        }
        for end in then.iter().filter(|end| !now.contains(end)) {
            put(&mut self.better, Change::of("", About::Run, end, "nothing"));
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
            // Without its operations nobody knows what is not the same.
            if how.is_empty() || then.operations.is_empty() || now.operations.is_empty() {
                how = vec![(None, "one trace".into(), "another".into())];
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
        let (Some(operation), Some(id)) = (operation, tests.first()) else {
            let known = |side: &Side<'_>| {
                tests.iter().flat_map(|id| side.all(id)).all(|test| !test.operations.is_empty())
            };
            let words = match known(a) && known(b) {
                true => "the steps are not the same, and what is sent in them is",
                false => "what is sent in each operation is not known",
            };
            return vec![words.to_owned()];
        };
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
