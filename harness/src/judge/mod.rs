//! Verdicts from evidence.
//!
//! A pure function: [`judge`] takes what a run left behind and returns what is
//! to be said of it. A test's verdict is the conjunction of its checks, a run's
//! the conjunction of its tests, and what is missing is never good.

mod history;
mod health;

use std::collections::BTreeMap;
use std::time::Duration;

use hmm_protocol::wire::{Failure, Outcome};

use crate::baseline::Baseline;
use crate::collect::Evidence;
use crate::compare::{Allowed, Side, compare};
use crate::console::Severity;
use crate::events::VmEnd;
use crate::flow::Stage;
use crate::known::KnownIssue;
use crate::plan::Expect;
use crate::results::{
    Check, Checks, Results, RunOutcome, SCHEMA, Standing, Summary, TestResult, TraceInfo, Verdict,
};
use crate::stop::{self, Stop};
use crate::trace::{self, Trace};
use crate::words::seconds;
use history::{Attempt, Complaint, History, Said, turns};

/// Judges a run.
pub fn judge(evidence: &Evidence) -> Results {
    let history = History::of(evidence);
    let tests: Vec<TestResult> =
        history.planned.iter().map(|id| judge_test(id, &history, evidence)).collect();
    let until = evidence.plan.until;
    let mut results = Results {
        schema: SCHEMA.to_owned(),
        outcome: RunOutcome::AsExpected,
        exit_code: stop::AS_EXPECTED,
        reason: None,
        harness: env!("CARGO_PKG_VERSION").to_owned(),
        stopped_at: history.stop.as_ref().and_then(Stop::stage).map(|stage| stage.to_string()),
        summary: summary(&tests),
        kernel: history.kernel.clone(),
        machine: history.machine.clone(),
        timing: history.timing.clone(),
        tests,
        not_applicable: history.not_applicable.clone(),
        kernel_events: history.kernel_events.clone(),
        loose_ends: history.loose_ends.clone(),
        baseline: None,
    };

    let mut reasons = history.loose_ends.clone();
    let ended = history.stop.is_none() && !history.ended_in_the_middle;
    let planned_nothing = results.tests.is_empty() && until >= Stage::Run;
    if planned_nothing && ended {
        reasons.push("no test applies to this kernel".into());
    }
    let news = match evidence.baseline.as_ref().filter(|_| ended && until >= Stage::Run) {
        Some(baseline) => {
            let worse = gate(&mut results, baseline, &evidence.plan.allow);
            reasons.extend(worse.clone());
            worse.is_some()
        }
        None => !results.kernel_events.is_empty(),
    };
    let red = news
        || planned_nothing
        || results.tests.iter().any(|test| !test.as_expected)
        || !history.loose_ends.is_empty();
    let mut exit_code = match &history.stop {
        Some(stop) => {
            reasons.insert(0, reason_of(stop));
            stop.exit_code()
        }
        None if history.ended_in_the_middle => {
            reasons.insert(0, "the harness ended in the middle of the run".into());
            stop::FAULT
        }
        None if red => stop::NOT_AS_EXPECTED,
        None => stop::AS_EXPECTED,
    };
    if let Some(expect) = &evidence.plan.expect {
        let differences = against(expect, until, exit_code, &reasons, &mut results.tests, &history);
        if differences.is_empty() {
            exit_code = stop::AS_EXPECTED;
        } else if exit_code <= stop::NOT_AS_EXPECTED {
            exit_code = stop::NOT_AS_EXPECTED;
        }
        reasons.extend(differences);
    }
    results.outcome = outcome_of(exit_code);
    results.exit_code = exit_code;
    results.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    results
}

/// Holds what was judged against a baseline, which is then what is to be expected.
/// Returns what is worse, in a line.
fn gate(results: &mut Results, baseline: &Baseline, allow: &[Allowed]) -> Option<String> {
    let now = Side::run(results, BTreeMap::new());
    let mut found = compare(&Side::baseline(baseline), &now);
    found.allow(allow);
    for test in &mut results.tests {
        let change = found.worse.iter().find(|change| change.tests.contains(&test.id));
        test.as_expected =
            change.is_none() && (test.as_expected || baseline.tests.contains_key(&test.id));
        if let Some(change) = change.filter(|_| test.reason.is_empty()) {
            test.reason = format!("not as in the baseline: {}", change.in_a_line());
        }
    }
    let worse = match found.worse.len() {
        0 => None,
        1 => Some("1 thing is worse than in the baseline".to_owned()),
        n => Some(format!("{n} things are worse than in the baseline")),
    };
    results.baseline = Some(found);
    worse
}

/// The verdict on one test.
fn judge_test(id: &str, history: &History, evidence: &Evidence) -> TestResult {
    let Evidence { plan, traces, known_issues, .. } = evidence;
    let repeat = plan.repeat;
    let (name, device) = split_id(id);
    let mut result = TestResult {
        id: id.to_owned(),
        name,
        device,
        verdict: Verdict::NotRun,
        as_expected: false,
        known_issue: None,
        flaky: false,
        other_turns: Vec::new(),
        reason: "the run ended before its turn".into(),
        assertion: None,
        guest_lost: false,
        duration_ms: 0,
        attempts: 0,
        seed: plan.seed,
        checks: Checks::default(),
        kernel_events: Vec::new(),
        trace: TraceInfo::default(),
    };
    let attempts = history.attempts.get(id).map(Vec::as_slice).unwrap_or_default();
    let turns = turns(attempts);
    let judged: Vec<TestResult> =
        turns.values().map(|turn| judge_turn(result.clone(), turn, traces)).collect();
    let bad: Vec<&TestResult> =
        judged.iter().filter(|turn| turn.verdict != Verdict::Passed).collect();
    // The first that is not good stands, whatever another one says.
    let stands = bad.first().copied().or(judged.first());
    if let Some(first) = stands {
        result = first.clone();
    }
    let had = turns.keys().filter(|number| **number < repeat).count();
    let complete = had == repeat as usize;
    if result.verdict == Verdict::Passed && !complete {
        result.verdict = Verdict::NotRun;
        result.reason = format!("the run ended after {had} of its {repeat} turns");
    }
    result.flaky = judged.windows(2).any(|pair| pair[0].verdict != pair[1].verdict);
    result.kernel_events = judged.iter().flat_map(|turn| turn.kernel_events.clone()).collect();
    result.attempts = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
    // Every failure must be known, and no turn be missing, or there is news.
    let known = |turn: &TestResult| {
        known_issues.iter().find(|issue| issue.covers(turn, &history.kernel.release))
    };
    let covering: Option<Vec<&KnownIssue>> = bad.iter().copied().map(known).collect();
    let known = covering.filter(|_| complete).and_then(|issues| issues.first().copied());
    result.as_expected = result.verdict == Verdict::Passed || known.is_some();
    result.known_issue = known.map(|issue| issue.id.clone());
    let standing = |turn: &TestResult| Standing {
        known_issue: result.known_issue.clone(),
        ..Standing::of(turn)
    };
    let stands = stands.map(standing);
    let mut other_turns: Vec<Standing> = Vec::new();
    for turn in judged.iter().map(standing) {
        if stands.as_ref() != Some(&turn) && !other_turns.contains(&turn) {
            other_turns.push(turn);
        }
    }
    result.other_turns = other_turns;
    result
}

/// The verdict on one turn, which may have taken several attempts.
fn judge_turn(
    mut result: TestResult,
    attempts: &[&Attempt],
    traces: &BTreeMap<(u32, u32), Trace>,
) -> TestResult {
    let Some(attempt) = attempts.last() else { return result };

    // A test that had another attempt does not lose what was said in the first.
    let complaints: Vec<&Complaint> = attempts.iter().flat_map(|a| &a.complaints).collect();
    result.kernel_events = complaints.iter().map(|c| c.event.clone()).collect();
    let worst = complaints.iter().max_by_key(|c| c.severity).copied();
    let (verdict, reason, assertion) = from_the_test(attempt, worst);
    result.assertion = assertion;

    result.checks.data = match (&attempt.said, verdict) {
        (_, Verdict::NotRun | Verdict::Skipped) => Check::None,
        (Some(Said { outcome: Outcome::Passed, .. }), _) => Check::Ok,
        _ => Check::Bad,
    };
    result.checks.console = match &attempt.said {
        _ if !complaints.is_empty() => Check::Bad,
        Some(_) if attempt.console_closed => Check::Ok,
        Some(_) => Check::Bad,
        None => Check::None,
    };
    result.checks.taint = match &attempt.said {
        None => Check::None,
        Some(said) if said.health.is_unchanged() => Check::Ok,
        Some(_) => Check::Bad,
    };
    let trace = traces.get(&(attempt.vm, attempt.run));
    result.trace = trace.map(|trace| trace.info.clone()).unwrap_or_default();
    let wrong_trace = match trace {
        _ if !attempt.traced => None,
        None => Some("nothing of its trace is there".to_owned()),
        Some(Trace { info: TraceInfo { incomplete: Some(why), .. }, .. }) => {
            Some(format!("its trace is incomplete: {why}"))
        }
        Some(Trace { info, .. }) => trace::in_a_line(&info.violations),
    };
    result.checks.trace = match &wrong_trace {
        _ if !attempt.traced || verdict == Verdict::NotRun => Check::None,
        None => Check::Ok,
        Some(_) => Check::Bad,
    };
    (result.verdict, result.reason) = match (verdict, worst) {
        (Verdict::Passed, Some(complaint)) if complaint.severity == Severity::Fatal => {
            (Verdict::Crashed, complaint.event.title.clone())
        }
        (Verdict::Passed, Some(complaint)) => (Verdict::Failed, complaint.event.title.clone()),
        (Verdict::Passed, None) if result.checks.console == Check::Bad => {
            (Verdict::Failed, "the console fell silent before the test's end".into())
        }
        (Verdict::Passed, None) if result.checks.taint == Check::Bad => {
            let health = attempt.said.as_ref().map(|said| &said.health);
            (Verdict::Failed, health.map(health::describe).unwrap_or_default())
        }
        (Verdict::Passed, None) if wrong_trace.is_some() => {
            (Verdict::Failed, wrong_trace.unwrap_or_default())
        }
        (other, _) => (other, reason),
    };
    result.guest_lost = result.verdict == Verdict::TimedOut
        && !matches!(
            &attempt.said,
            Some(Said { outcome: Outcome::TimedOut { killed: true, .. }, .. })
        );
    result.duration_ms = attempt.said.as_ref().map_or(0, |s| s.duration_us / 1000);
    result
}

/// What the test's own end says. Also the exact words of a failed assertion.
fn from_the_test(
    attempt: &Attempt,
    worst: Option<&Complaint>,
) -> (Verdict, String, Option<String>) {
    let fatal = worst.filter(|c| c.severity == Severity::Fatal);
    let title = |complaint: &Complaint| complaint.event.title.clone();
    let Some(said) = &attempt.said else {
        let so_far = if attempt.begun { "started and did not finish" } else { "did not start" };
        let end = attempt.end.as_ref().map_or_else(
            || "the harness ended in the middle of it".to_owned(),
            |end| format!("it {so_far}: {}", end.words()),
        );
        return match (&attempt.end, worst) {
            (Some(VmEnd::Interrupted) | None, _) | (Some(VmEnd::QemuGone { .. }), None) => {
                (Verdict::NotRun, end, None)
            }
            // A dead kernel is a crash, whatever deadline found it.
            (Some(VmEnd::Deadline { .. }), _) if fatal.is_none() => {
                (Verdict::TimedOut, worst.map_or(end, title), None)
            }
            (Some(_), _) => (Verdict::Crashed, worst.map_or(end, title), None),
        };
    };
    match &said.outcome {
        Outcome::Passed => (Verdict::Passed, String::new(), None),
        Outcome::Skipped { reason } => (Verdict::Skipped, reason.clone(), None),
        _ if fatal.is_some() => (Verdict::Crashed, fatal.map(title).unwrap_or_default(), None),
        Outcome::Failed(failure) => {
            (Verdict::Failed, words_of(failure), Some(failure.message.clone()))
        }
        Outcome::Died { how } => {
            (Verdict::Crashed, with_cause(format!("the test process was {how}"), worst), None)
        }
        Outcome::TimedOut { killed, stack } => {
            let time = seconds(Duration::from_micros(said.duration_us));
            let mut reason = format!("it did not end in time and was given up after {time}");
            if !killed {
                reason.push_str(", for it cannot be killed");
            }
            if let Some(top) = stack.lines().next() {
                reason.push_str(&format!("; in the kernel it was at {top}"));
            }
            (Verdict::TimedOut, with_cause(reason, worst), None)
        }
    }
}

/// What became of a test, after what the kernel said of it.
fn with_cause(reason: String, worst: Option<&Complaint>) -> String {
    match worst {
        Some(complaint) => format!("{}; {reason}", complaint.event.title),
        None => reason,
    }
}

/// A failed assertion as one line.
fn words_of(failure: &Failure) -> String {
    let mut text = format!("{}:{}: {}", failure.file, failure.line, failure.message);
    if let (Some(seen), Some(expected)) = (&failure.seen, &failure.expected) {
        text.push_str(&format!(": saw {seen}, expected {expected}"));
    }
    if let Some(page) = failure.page {
        text.push_str(&format!(" (page {page})"));
    }
    text
}

/// What differs from what the plan expects. What it does not speak of must be
/// good.
fn against(
    expect: &Expect,
    until: Stage,
    exit_code: u8,
    reasons: &[String],
    tests: &mut [TestResult],
    history: &History,
) -> Vec<String> {
    let mut differences = Vec::new();
    if exit_code != expect.exit_code {
        let wanted = expect.exit_code;
        differences.push(format!("exit code {exit_code} where the plan expects {wanted}"));
    }
    // A kernel that cannot be judged owes no verdicts.
    let judged = expect.exit_code <= stop::NOT_AS_EXPECTED;
    for test in tests.iter_mut().filter(|test| judged || test.verdict != Verdict::NotRun) {
        let wanted = expect.verdicts.get(&test.id).copied().unwrap_or(Verdict::Passed);
        test.as_expected = test.verdict == wanted;
        if !test.as_expected {
            let TestResult { id, verdict, .. } = test;
            differences.push(format!("{id} {verdict} where the plan expects {wanted}"));
        }
    }
    for (id, wanted) in expect.verdicts.iter().filter(|_| until >= Stage::Run) {
        if !tests.iter().any(|t| t.id == *id) {
            differences.push(format!("{id} has no verdict where the plan expects {wanted}"));
        }
    }
    let foreseen = |text: &str| expect.says.iter().any(|words| text.contains(words));
    let outside = history.kernel_events.iter().map(|event| &event.title);
    for text in outside.chain(&history.loose_ends).filter(|text| !foreseen(text)) {
        differences.push(format!("the plan does not expect: {text}"));
    }
    let mut all = reasons.to_vec();
    all.extend(tests.iter().map(|t| t.reason.clone()));
    let events = tests.iter().flat_map(|t| &t.kernel_events).chain(&history.kernel_events);
    all.extend(events.map(|event| event.title.clone()));
    let all = all.join("\n");
    for words in expect.says.iter().filter(|words| !all.contains(*words)) {
        differences.push(format!("nothing says {words:?}, as the plan expects"));
    }
    differences
}

fn reason_of(stop: &Stop) -> String {
    match stop {
        Stop::Kernel(fault) | Stop::Machine(fault) => {
            let mut text = fault.what.clone();
            for line in &fault.details {
                text.push('\n');
                text.push_str(line);
            }
            if let Some(hint) = &fault.hint {
                text.push_str("\n  hint: ");
                text.push_str(hint);
            }
            text
        }
        other => other.to_string(),
    }
}

/// What an exit code is called in the results.
pub fn outcome_of(exit_code: u8) -> RunOutcome {
    match exit_code {
        stop::AS_EXPECTED => RunOutcome::AsExpected,
        stop::NOT_AS_EXPECTED => RunOutcome::NotAsExpected,
        stop::NOT_JUDGEABLE => RunOutcome::NotJudgeable,
        stop::INTERRUPTED => RunOutcome::Interrupted,
        _ => RunOutcome::Fault,
    }
}

fn summary(tests: &[TestResult]) -> Summary {
    let count = |keep: &dyn Fn(&TestResult) -> bool| {
        u32::try_from(tests.iter().filter(|t| keep(t)).count()).unwrap_or(u32::MAX)
    };
    let of = |verdict: Verdict| count(&|t| t.verdict == verdict);
    Summary {
        total: count(&|_| true),
        passed: of(Verdict::Passed),
        failed: of(Verdict::Failed),
        skipped: of(Verdict::Skipped),
        crashed: of(Verdict::Crashed),
        timed_out: of(Verdict::TimedOut),
        not_run: of(Verdict::NotRun),
        known: count(&|t| t.known_issue.is_some()),
        flaky: count(&|t| t.flaky),
    }
}

/// A test's name and device from its id.
fn split_id(id: &str) -> (String, Option<hmm_protocol::Device>) {
    use hmm_protocol::Device;
    for device in [Device::Private, Device::Coherent] {
        if let Some(name) = id.strip_suffix(&format!(".{device}")) {
            return (name.to_owned(), Some(device));
        }
    }
    (id.to_owned(), None)
}

#[cfg(test)]
pub(crate) mod tests;
