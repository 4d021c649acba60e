//! A judgement as other programs know one: cases, each of which is good, bad, or
//! excused.

use std::time::Duration;

use crate::results::{About, Change, KernelEvent, Results, RunOutcome, TestResult, Verdict};
use crate::words::line;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    /// The test's id; for what belongs to no test, `kernel.console` or `run`.
    pub(super) id: String,
    /// The first word of the id, and the kind of device: `hmm.private`.
    pub(super) class: String,
    /// The rest of the name.
    pub(super) name: String,
    pub(super) state: State,
    /// What there is to read about it, line by line.
    pub(super) details: Vec<String>,
    pub(super) took: Duration,
}

/// What is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Passed,
    /// Not passed, and that was to be expected: why.
    Excused(String),
    /// It ran to its end, and is not as expected.
    Failed {
        verdict: &'static str,
        why: String,
    },
    /// It did not run to its end.
    Broken {
        verdict: &'static str,
        why: String,
    },
}

/// What a judgement amounts to. It has a case that is not good whenever its exit code
/// is not 0, whatever its tests say.
pub(super) fn cases(results: &Results) -> Vec<Case> {
    let mut cases: Vec<Case> = results.tests.iter().map(|test| of_test(test, results)).collect();
    if !results.kernel_events.is_empty() {
        let expected = match &results.baseline {
            Some(found) => {
                !found.worse.iter().any(|c| c.about == About::Console && c.tests.is_empty())
            }
            None => results.outcome == RunOutcome::AsExpected,
        };
        let why = results.kernel_events[0].title.clone();
        cases.push(Case {
            id: "kernel.console".into(),
            class: "kernel".into(),
            name: "console".into(),
            state: if expected {
                State::Excused(format!("{}: {}", expected_by(results), line(&why)))
            } else {
                State::Failed { verdict: "failed", why: line(&why) }
            },
            details: results.kernel_events.iter().flat_map(complaint).collect(),
            took: Duration::ZERO,
        });
    }
    // What is worse and no test of this run shows, such as a test that is gone.
    let shown = |change: &&Change| {
        !change.tests.is_empty()
            && !change.tests.iter().any(|id| results.tests.iter().any(|test| test.id == *id))
    };
    let gone: Vec<&Change> =
        results.baseline.iter().flat_map(|found| found.worse.iter().filter(shown)).collect();
    if let Some(first) = gone.first() {
        let why = format!("{}: {}", first.shown_by(), first.in_a_line());
        cases.push(Case {
            id: "baseline".into(),
            class: "baseline".into(),
            name: "baseline".into(),
            state: State::Failed { verdict: "failed", why: line(&why) },
            details: gone.iter().copied().flat_map(not_as_in_the_baseline).collect(),
            took: Duration::ZERO,
        });
    }
    let judged = matches!(results.outcome, RunOutcome::AsExpected | RunOutcome::NotAsExpected);
    let red = results.exit_code != 0;
    if !judged || red && (!results.loose_ends.is_empty() || cases.iter().all(Case::is_good)) {
        let why = results.reason.clone().unwrap_or_else(|| "not as the plan expects".into());
        let mut lines = why.lines().map(line);
        cases.push(Case {
            id: "run".into(),
            class: "run".into(),
            name: "run".into(),
            state: State::Broken {
                verdict: super::word(results.outcome),
                why: lines.next().unwrap_or_default(),
            },
            details: lines.collect(),
            took: Duration::ZERO,
        });
    }
    cases
}

impl Case {
    fn is_good(&self) -> bool {
        matches!(self.state, State::Passed | State::Excused(_))
    }
}

fn of_test(test: &TestResult, results: &Results) -> Case {
    let (first, rest) = test.name.split_once('.').unwrap_or(("", &test.name));
    let device = test.device.map(|device| device.as_str());
    let words = [Some(first).filter(|word| !word.is_empty()), device];
    let verdict = test.verdict.as_str();
    let mut lines = test.reason.lines().map(line);
    let why = lines.next().unwrap_or_default();
    let state = match (test.as_expected, test.verdict) {
        (true, Verdict::Passed) => State::Passed,
        (true, _) => State::Excused(match &test.known_issue {
            Some(issue) => format!("known issue {issue}: {why}"),
            None => format!("{verdict}, {}: {why}", expected_by(results)),
        }),
        (false, Verdict::Passed) if why.is_empty() => {
            State::Failed { verdict, why: "passed, and the plan expects something else".into() }
        }
        (false, Verdict::Passed) => State::Failed { verdict: "not as in the baseline", why },
        (false, Verdict::Failed | Verdict::Skipped) => State::Failed { verdict, why },
        (false, Verdict::Crashed | Verdict::TimedOut | Verdict::NotRun) => {
            State::Broken { verdict, why }
        }
    };
    let broken = test.trace.violations.iter();
    let broken = broken.map(|rule| format!("rule {}, {}: {}", rule.rule, rule.step, rule.text));
    let about = |change: &&Change| change.tests.contains(&test.id);
    let held = results.baseline.iter().flat_map(|found| found.worse.iter().filter(about));
    let held = held.flat_map(not_as_in_the_baseline);
    let details = lines.chain(broken.map(|text| line(&text))).chain(held);
    Case {
        id: test.id.clone(),
        class: words.into_iter().flatten().collect::<Vec<_>>().join("."),
        name: rest.to_owned(),
        state,
        details: details.chain(test.kernel_events.iter().flat_map(complaint)).collect(),
        took: Duration::from_millis(test.duration_ms),
    }
}

/// By what a test that is not passed is as expected, if no known issue covers it.
pub(super) fn expected_by(results: &Results) -> &'static str {
    if results.baseline.is_some() { "as in the baseline" } else { "as the plan expects" }
}

fn not_as_in_the_baseline(change: &Change) -> Vec<String> {
    let head = format!("not as in the baseline: {}: {}", change.shown_by(), change.in_a_line());
    let evidence = change.evidence.iter().map(|text| format!("    {text}"));
    std::iter::once(head).chain(evidence).map(|text| line(&text)).collect()
}

pub(super) fn complaint(event: &KernelEvent) -> Vec<String> {
    let head = format!("console.log:{}: {}", event.line, event.title);
    let frames = event.trace.iter().map(|frame| format!("    {frame}"));
    std::iter::once(head).chain(frames).map(|text| line(&text)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::baseline::Baseline;
    use crate::compare::{Side, compare};
    use crate::judge::tests::result;
    use crate::results::{KernelInfo, MachineInfo, SCHEMA, Summary, Timing, Violation};

    /// A run with these tests, that is as expected.
    pub(crate) fn run(tests: Vec<TestResult>) -> Results {
        Results {
            schema: SCHEMA.into(),
            outcome: RunOutcome::AsExpected,
            exit_code: 0,
            reason: None,
            stopped_at: None,
            kernel: KernelInfo { release: "6.12.1".into(), ..KernelInfo::default() },
            machine: MachineInfo::default(),
            timing: Timing::default(),
            summary: Summary::default(),
            tests,
            not_applicable: Vec::new(),
            kernel_events: Vec::new(),
            loose_ends: Vec::new(),
            harness: "0.0.1".into(),
            baseline: None,
        }
    }

    /// Everything that a test can be, and a kernel that says what it likes.
    pub(crate) fn colourful() -> Results {
        let complaint = KernelEvent {
            id: "warn".into(),
            class: "warn".into(),
            title: "WARNING: ]]> </testcase> \u{1b}[31m & \"\u{0}".into(),
            line: 7,
            trace: vec!["f+0x1/0x2 <x>".into()],
        };
        let mut tests = vec![
            result("hmm.open_close.private", Verdict::Passed),
            result("hmm.migrate.private", Verdict::Failed),
            result("hmm.migrate.coherent", Verdict::Crashed),
            result("hmm2.snapshot.private", Verdict::TimedOut),
            result("hmm.exclusive.private", Verdict::Skipped),
            result("hmm.compound.private", Verdict::NotRun),
            result("notifier.mremap.private", Verdict::Failed),
        ];
        tests[0].as_expected = true;
        tests[1].reason = "x.rs:1: 3 # pages\nsecond line".into();
        tests[1].trace.violations =
            vec![Violation { rule: "owner".into(), step: "to-device".into(), text: "NULL".into() }];
        tests[2].kernel_events = vec![complaint.clone()];
        tests[6].as_expected = true;
        tests[6].known_issue = Some("why-not".into());
        tests[6].reason = "because".into();
        let (outcome, exit_code) = (RunOutcome::NotAsExpected, 1);
        Results { outcome, exit_code, kernel_events: vec![complaint], ..run(tests) }
    }

    /// What a guest may say to be taken for something else.
    pub(crate) fn hostile_texts() -> Vec<String> {
        serde_json::from_str(include_str!("../../../ci/consumers/hostile.json")).expect("a list")
    }

    /// A red run whose every text is the guest's.
    pub(crate) fn hostile() -> Results {
        let mut texts = hostile_texts();
        texts.push("`|x".repeat(400_000));
        let texts = texts.iter().map(String::as_str);
        let event = |text: &str| KernelEvent {
            id: "warn".into(),
            class: "warn".into(),
            title: text.into(),
            line: 1,
            trace: vec![text.into()],
        };
        let test = |text: &str| {
            let mut test = result("hmm.migrate.private", Verdict::Crashed);
            test.reason = text.into();
            test.kernel_events = vec![event(text)];
            let violation = Violation { rule: text.into(), step: text.into(), text: text.into() };
            test.trace.violations = vec![violation];
            test
        };
        let tests: Vec<TestResult> = texts.clone().map(test).collect();
        let mut known = tests[2].clone();
        known.as_expected = true;
        known.known_issue = Some("one".into());
        let mut results = run(tests);
        results.tests.push(known);
        results.kernel_events = texts.map(event).collect();
        results.kernel.release = hostile_texts()[3].clone();
        (results.outcome, results.exit_code) = (RunOutcome::NotAsExpected, 1);
        results
    }

    #[test]
    fn what_is_not_zero_has_a_case_that_is_not_good() {
        let good = run(Vec::new());
        assert_eq!(cases(&good), []);
        for (outcome, exit_code) in [
            (RunOutcome::NotAsExpected, 1),
            (RunOutcome::NotJudgeable, 125),
            (RunOutcome::Fault, 129),
            (RunOutcome::Interrupted, 130),
        ] {
            let reason = Some("it does not build\nline 2".into());
            let [case] = &cases(&Results { outcome, exit_code, reason, ..good.clone() })[..] else {
                panic!("{outcome:?}");
            };
            let State::Broken { why, .. } = &case.state else { panic!("{case:?}") };
            assert_eq!(
                (why.as_str(), &case.details[..]),
                ("it does not build", &["line 2".into()][..])
            );
        }
    }

    #[test]
    fn what_a_baseline_says_is_told_in_the_cases_that_it_is_about() {
        let traced = |event: &str| {
            let mut test = result("hmm.migrate.private", Verdict::Passed);
            test.trace.complete = true;
            test.trace.canonical_sha256 = Some(event.into());
            let sent = format!("1 {event}; {event}").parse().expect("its form");
            test.trace.operations.insert("to-device".into(), sent);
            test
        };
        let gone = result("hmm.unheard_of.private", Verdict::Passed);
        let baseline = Baseline::of(&run(vec![traced("MIGRATE"), gone]));
        let mut results = run(vec![traced("CLEAR")]);
        (results.outcome, results.exit_code) = (RunOutcome::NotAsExpected, 1);
        results.tests[0].reason = "not as in the baseline: to-device: MIGRATE -> CLEAR".into();
        let found = compare(&Side::baseline(&baseline), &Side::run(&results, BTreeMap::new()));
        results.baseline = Some(found);
        let [test, gone] = &cases(&results)[..] else { panic!("two cases") };
        let State::Failed { why, .. } = &test.state else { panic!("{test:?}") };
        assert_eq!(why, "not as in the baseline: to-device: MIGRATE -> CLEAR");
        assert!(test.details[1].ends_with("expected: 1 MIGRATE"), "{:?}", test.details);
        let State::Failed { why, .. } = &gone.state else { panic!("{gone:?}") };
        assert_eq!((gone.id.as_str(), why.contains("hmm.unheard_of")), ("baseline", true));
    }

    #[test]
    fn a_complaint_that_is_expected_is_no_failure() {
        let mut results = colourful();
        (results.outcome, results.exit_code) = (RunOutcome::AsExpected, 0);
        let cases = cases(&results);
        let console = cases.iter().find(|case| case.id == "kernel.console").expect("it is told");
        assert!(matches!(console.state, State::Excused(_)), "{console:?}");
    }

    #[test]
    fn what_is_as_in_the_baseline_does_not_hide_what_is_not() {
        let mut results = colourful();
        results.tests.truncate(1);
        let baseline = Baseline::of(&results);
        results.loose_ends = vec!["VM 2: guest-reset".into()];
        results.reason = Some("VM 2: guest-reset".into());
        let held = |results: &Results| {
            compare(&Side::baseline(&baseline), &Side::run(results, BTreeMap::new()))
        };
        results.baseline = Some(held(&results));
        let all = cases(&results);
        let states: Vec<(&str, bool)> = all.iter().map(|c| (c.id.as_str(), c.is_good())).collect();
        let expected = [("hmm.open_close.private", true), ("kernel.console", true), ("run", false)];
        assert_eq!(states, expected);
        results.kernel_events[0].title = "WARNING at mm/x.c:3 in g".into();
        results.baseline = Some(held(&results));
        let all = cases(&results);
        let bad: Vec<&str> = all.iter().filter(|c| !c.is_good()).map(|c| c.id.as_str()).collect();
        assert_eq!(bad, ["kernel.console", "run"]);
    }

    #[test]
    fn an_id_is_split_as_other_programs_group_tests() {
        let [case] = &cases(&run(vec![result("hmm.migrate_fault.private", Verdict::Failed)]))[..]
        else {
            panic!("one test, one case");
        };
        assert_eq!((case.class.as_str(), case.name.as_str()), ("hmm.private", "migrate_fault"));
    }
}
