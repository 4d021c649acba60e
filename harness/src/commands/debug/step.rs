//! Before which step a test is held: found in the events of its run.

use std::collections::BTreeMap;

use hmm_protocol::wire::{GuestMessage, Outcome};

use crate::events::{Event, Record};
use crate::results::{Comparison, TestResult};

/// What a traced test announces when its calibration is over.
const BEGIN: &str = "begin";

/// The step before which a test is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Before {
    /// Counted from 1, as the agent hears them and a trace counts them.
    pub(super) step: u32,
    /// What the test announced; nothing if it came to no step.
    pub(super) text: Option<String>,
    /// Why this one.
    pub(super) why: &'static str,
}

/// A turn of the test.
#[derive(Default)]
struct Turn<'a> {
    vm: u32,
    steps: Vec<&'a str>,
    outcome: Option<&'a Outcome>,
}

/// The step in which the test failed, in the first turn in which it did; or in which
/// the kernel sent other events than `found` says were expected; the first step where
/// there is none of either. `None` if it had no turn.
pub(super) fn before(
    records: &[Record],
    result: &TestResult,
    found: Option<&Comparison>,
) -> Option<Before> {
    let turns = turns(records, &result.id);
    let failed = turns.iter().find(|turn| turn.outcome != Some(&Outcome::Passed));
    let (turn, step, why) = match failed {
        Some(turn) if turn.steps.is_empty() => (turn, 1, "the test came to no step"),
        Some(turn) => (turn, turn.steps.len(), why(turn.outcome)),
        None => {
            let turn = turns.first()?;
            let broken = result.trace.violations.first().and_then(|v| number(&v.step));
            match broken.filter(|step| (1..=turn.steps.len()).contains(step)) {
                Some(step) => (turn, step, "in which its trace breaks a rule"),
                None => match otherwise(turn, result, found) {
                    Some(step) => (turn, step, "whose events are not those of the baseline"),
                    None => (turn, own(turn), "its first, for no step of it failed"),
                },
            }
        }
    };
    let text = turn.steps.get(step - 1).map(|text| (*text).to_owned());
    Some(Before { step: u32::try_from(step).unwrap_or(u32::MAX), text, why })
}

/// The turns, of each the last attempt: one before that was lost with its machine, and
/// says nothing of the test.
fn turns<'a>(records: &'a [Record], wanted: &str) -> Vec<Turn<'a>> {
    let mut turns: BTreeMap<u32, Turn<'a>> = BTreeMap::new();
    for record in records {
        match &record.event {
            Event::Ordered { vm, id, turn } if id == wanted => {
                turns.insert(*turn, Turn { vm: *vm, ..Turn::default() });
            }
            Event::Frame { vm, sealed } => {
                let of_it = |turn: &&mut Turn| turn.vm == *vm && turn.outcome.is_none();
                let Some(turn) = turns.values_mut().rev().find(of_it) else { continue };
                match &sealed.message {
                    GuestMessage::Step { id, text } if id == wanted => turn.steps.push(text),
                    GuestMessage::Finished { id, outcome, .. } if id == wanted => {
                        turn.outcome = Some(outcome);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    turns.into_values().collect()
}

fn why(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::TimedOut { .. }) => "the last that began before its time was over",
        Some(Outcome::Skipped { .. }) => "after which it was skipped",
        Some(Outcome::Died { .. }) => "in which its process died",
        Some(Outcome::Failed(_) | Outcome::Passed) => "which failed",
        None => "the last that began before the kernel was gone",
    }
}

/// The first step of an operation in which the kernel sends something else than in the
/// baseline.
fn otherwise(turn: &Turn, result: &TestResult, found: Option<&Comparison>) -> Option<usize> {
    let worse = found.into_iter().flat_map(|found| &found.worse);
    let worse = worse.filter(|change| change.tests.contains(&result.id));
    let operations: Vec<&str> = worse.filter_map(|change| change.operation.as_deref()).collect();
    let is_one = |text: &&str| operations.contains(&text.split(' ').next().unwrap_or_default());
    turn.steps.iter().position(is_one).map(|at| at + 1)
}

/// The number with which a trace names a step.
fn number(step: &str) -> Option<usize> {
    step.split(' ').next()?.parse().ok()
}

/// The first step that is the test's own, behind the calibration.
fn own(turn: &Turn) -> usize {
    let begin = turn.steps.iter().position(|text| *text == BEGIN).map_or(0, |at| at + 1);
    (begin + 1).min(turn.steps.len()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Baseline;
    use crate::compare::{Side, compare};
    use crate::report::tests::run;
    use crate::results::{Verdict, Violation};
    use hmm_protocol::wire::{Failure, Health, Sealed};

    const ID: &str = "hmm.migrate.private";

    fn frame(message: GuestMessage) -> Event {
        Event::Frame { vm: 0, sealed: Sealed { nonce: String::new(), seq: 0, message } }
    }

    fn ordered() -> Event {
        turn(0)
    }

    fn turn(turn: u32) -> Event {
        Event::Ordered { vm: 0, id: ID.into(), turn }
    }

    fn step(text: &str) -> Event {
        frame(GuestMessage::Step { id: ID.into(), text: text.into() })
    }

    fn finished(outcome: Outcome) -> Event {
        let (id, health) = (ID.to_owned(), Health::default());
        frame(GuestMessage::Finished { id, outcome, duration_us: 1, health, capture: None })
    }

    fn failure() -> Outcome {
        Outcome::Failed(Failure {
            file: "a.rs".into(),
            line: 1,
            message: "a page".into(),
            seen: None,
            expected: None,
            page: None,
        })
    }

    fn check(events: Vec<Event>, violation: Option<&str>, expect: Option<(u32, &str)>) {
        let records: Vec<Record> =
            events.into_iter().map(|event| Record { t_ms: 0, event }).collect();
        let mut result = crate::judge::tests::result(ID, Verdict::Failed);
        result.trace.violations.extend(violation.map(|step| Violation {
            rule: "owner".into(),
            step: step.into(),
            text: String::new(),
        }));
        let found = before(&records, &result, None);
        let seen = found.as_ref().map(|b| (b.step, b.text.as_deref().unwrap_or_default()));
        assert_eq!(seen, expect);
    }

    #[test]
    fn it_is_the_last_that_began_where_the_test_failed_or_the_kernel_was_gone() {
        let all = [ordered(), step("map"), step("to-device"), step("cpu-read")];
        let failed = [&all[..], &[finished(failure())]].concat();
        check(failed, None, Some((3, "cpu-read")));
        check(all.to_vec(), None, Some((3, "cpu-read")));
        check(vec![ordered()], None, Some((1, "")));
        check(vec![], None, None);
    }

    #[test]
    fn the_first_turn_that_failed_counts() {
        let events = vec![
            ordered(),
            step("map"),
            finished(Outcome::Passed),
            turn(1),
            step("map"),
            step("fork"),
            finished(failure()),
            turn(2),
            step("map"),
            finished(failure()),
        ];
        check(events, None, Some((2, "fork")));
    }

    #[test]
    fn an_attempt_that_was_lost_with_its_machine_does_not() {
        let mut events = vec![ordered(), step("map"), ordered(), step("map"), step("fork")];
        events.push(finished(failure()));
        check(events, None, Some((2, "fork")));
    }

    #[test]
    fn what_passed_is_held_before_its_own_first_step_or_where_its_trace_is_wrong() {
        let traced = vec![
            ordered(),
            step("calibrate-protect"),
            step("begin"),
            step("map"),
            step("to-device"),
            finished(Outcome::Passed),
        ];
        check(traced.clone(), None, Some((3, "map")));
        check(traced.clone(), Some("4 to-device a"), Some((4, "to-device")));
        check(traced, Some("9 exit"), Some((3, "map")));
        check(vec![ordered(), step("map"), finished(Outcome::Passed)], None, Some((1, "map")));
    }

    #[test]
    fn what_is_not_as_in_the_baseline_is_held_before_its_operation() {
        let sends = |event: &str| {
            let mut result = crate::judge::tests::result(ID, Verdict::Passed);
            result.trace.complete = true;
            result.trace.canonical_sha256 = Some(event.into());
            let sent = format!("1 {event}; {event}").parse().expect("its form");
            result.trace.operations.insert("to-device".into(), sent);
            result
        };
        let events = [ordered(), step("begin"), step("map"), step("to-device dmirror0 buffer")];
        let events = events.into_iter().chain([finished(Outcome::Passed)]);
        let records: Vec<Record> = events.map(|event| Record { t_ms: 0, event }).collect();
        let baseline = Baseline::of(&run(vec![sends("MIGRATE")]));
        let results = run(vec![sends("CLEAR")]);
        let found = compare(&Side::baseline(&baseline), &Side::run(&results, BTreeMap::new()));
        let held = before(&records, &results.tests[0], Some(&found)).expect("it had a turn");
        assert_eq!(held.step, 3);
    }
}
