//! The judge on evidence of our own making.

use super::*;
use crate::console::Scanner;
use crate::events::{Event, Record};
use crate::plan::{Plan, Wishes, resolve};
use hmm_protocol::wire::{GuestMessage, Health, Sealed};

/// A result of which only id and verdict matter.
pub(crate) fn result(id: &str, verdict: Verdict) -> TestResult {
    let (name, device) = split_id(id);
    TestResult {
        id: id.into(),
        name,
        device,
        verdict,
        as_expected: false,
        known_issue: None,
        flaky: false,
        other_turns: Vec::new(),
        guest_lost: false,
        reason: String::new(),
        assertion: None,
        duration_ms: 0,
        attempts: 1,
        seed: 1,
        checks: Checks::default(),
        kernel_events: Vec::new(),
        trace: TraceInfo::default(),
    }
}

const A: &str = "hmm.migrate.private";
const B: &str = "hmm.migrate.coherent";

/// A story, told event by event.
struct Story {
    plan: Plan,
    events: Vec<Event>,
    console: String,
    baseline: Option<Baseline>,
}

impl Story {
    fn new() -> Self {
        let wishes = Wishes { tests: vec!["hmm.migrate".into()], ..Wishes::default() };
        let plan = resolve(wishes, &["default"]).expect("known tests");
        let events = vec![
            Event::Planned {
                tests: vec![A.into(), B.into()],
                repeat: 1,
                not_applicable: Vec::new(),
            },
            Event::VmStarted { vm: 0, nonce: "n".into(), restored: false },
        ];
        Story { plan, events, console: String::new(), baseline: None }
    }

    fn say(mut self, message: GuestMessage) -> Self {
        let frames = self.events.iter().filter(|e| matches!(e, Event::Frame { .. }));
        let sealed = Sealed { nonce: "n".into(), seq: frames.count() as u64, message };
        self.events.push(Event::Frame { vm: 0, sealed });
        self
    }

    fn ordered(mut self, id: &str) -> Self {
        self.events.push(Event::Ordered { vm: 0, id: id.into(), turn: 0 });
        self
    }

    fn started(self, id: &str) -> Self {
        self.started_as(id, 9)
    }

    fn started_as(mut self, id: &str, pid: i32) -> Self {
        self = self.ordered(id);
        self.console.push_str(&format!("hmm-harness: begin {id}\n"));
        self.say(GuestMessage::Started { id: id.into(), pid })
    }

    fn console(mut self, text: &str) -> Self {
        self.console.push_str(text);
        self
    }

    fn finished(mut self, id: &str, outcome: Outcome, health: Health) -> Self {
        self.console.push_str(&format!("hmm-harness: end {id}\n"));
        self.say(GuestMessage::Finished {
            id: id.into(),
            outcome,
            duration_us: 1500,
            health,
            capture: None,
        })
    }

    fn passed(self, id: &str) -> Self {
        self.started(id).finished(id, Outcome::Passed, Health::default())
    }

    fn ended(mut self, end: VmEnd) -> Self {
        self.events.push(Event::VmEnded { vm: 0, end, console_from: 0, console_to: 0 });
        self.events.push(Event::StageFinished {
            stage: Stage::Run,
            ms: 1,
            reused: false,
            text: String::new(),
        });
        self
    }

    fn expecting(mut self, exit_code: u8, verdicts: &[(&str, Verdict)], says: &[&str]) -> Self {
        self.plan.expect = Some(Expect {
            exit_code,
            verdicts: verdicts.iter().map(|(id, v)| ((*id).to_owned(), *v)).collect(),
            says: says.iter().map(|s| (*s).to_owned()).collect(),
        });
        self
    }

    fn judged(self) -> Results {
        let mut scanner = Scanner::default();
        let mut findings = scanner.push(self.console.as_bytes());
        findings.extend(scanner.finish());
        let records = self.events.into_iter().map(|event| Record { t_ms: 0, event }).collect();
        judge(&Evidence {
            consoles: vec![(0, findings)],
            baseline: self.baseline,
            ..Evidence::only(self.plan, records)
        })
    }
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    results.tests.iter().map(|t| t.verdict).collect()
}

fn failure() -> Outcome {
    Outcome::Failed(Failure {
        file: "migrate.rs".into(),
        line: 7,
        message: "the mirror's data".into(),
        seen: Some("3".into()),
        expected: Some("4".into()),
        page: Some(12),
    })
}

#[test]
fn all_passed_is_as_expected() {
    let results = Story::new().passed(A).passed(B).ended(VmEnd::Done).judged();
    assert_eq!(results.exit_code, 0);
    assert_eq!(results.outcome, RunOutcome::AsExpected);
    assert_eq!(results.summary.passed, 2);
    assert_eq!(results.tests[0].duration_ms, 1);
}

#[test]
fn a_failure_names_place_values_and_page() {
    let story = Story::new().started(A).finished(A, failure(), Health::default()).passed(B);
    let results = story.ended(VmEnd::Done).judged();
    assert_eq!(results.exit_code, 1);
    assert_eq!(
        results.tests[0].reason,
        "migrate.rs:7: the mirror's data: saw 3, expected 4 (page 12)"
    );
    assert_eq!(results.tests[0].checks.data, Check::Bad);
}

#[test]
fn a_test_that_takes_the_kernel_with_it_crashed_and_the_other_did_not_run() {
    let results = Story::new()
        .started(A)
        .console("Kernel panic - not syncing: oh\n")
        .ended(VmEnd::GuestGone { how: "guest-reset".into() })
        .judged();
    assert_eq!(verdicts(&results), [Verdict::Crashed, Verdict::NotRun]);
    assert_eq!(results.tests[0].reason, "Kernel panic - not syncing: oh");
    assert_eq!(results.exit_code, 1);
}

#[test]
fn a_complaint_spoils_a_test_that_says_it_passed() {
    let results = Story::new()
        .started(A)
        .console("WARNING: CPU: 0 PID: 9 at mm/x.c:1 f+0x0/0x1\n")
        .finished(A, Outcome::Passed, Health::default())
        .passed(B)
        .ended(VmEnd::Replaced { reason: "x".into() })
        .judged();
    assert_eq!(verdicts(&results), [Verdict::Failed, Verdict::Passed]);
    assert_eq!(results.tests[0].checks.data, Check::Ok);
    assert_eq!(results.tests[0].checks.console, Check::Bad);
    assert_eq!(results.tests[0].kernel_events[0].line, 2);
}

#[test]
fn an_oops_under_a_test_that_says_it_passed_is_a_crash() {
    let results = Story::new()
        .started(A)
        .console("BUG: kernel NULL pointer dereference, address: 0\n")
        .finished(A, Outcome::Passed, Health::default())
        .passed(B)
        .ended(VmEnd::Done)
        .judged();
    assert_eq!(verdicts(&results), [Verdict::Crashed, Verdict::Passed]);
}

#[test]
fn counters_that_rise_in_silence_spoil_it_too() {
    let health = Health { warnings: 1, ..Health::default() };
    let results = Story::new()
        .started(A)
        .finished(A, Outcome::Passed, health)
        .passed(B)
        .ended(VmEnd::Done)
        .judged();
    assert_eq!(results.tests[0].verdict, Verdict::Failed);
    assert_eq!(results.tests[0].checks.taint, Check::Bad);
    assert_eq!(results.tests[0].reason, "the kernel counted one warning");
}

#[test]
fn a_console_that_fell_silent_is_not_a_clean_one() {
    let message = GuestMessage::Finished {
        id: A.into(),
        outcome: Outcome::Passed,
        duration_us: 1,
        health: Health::default(),
        capture: None,
    };
    let results = Story::new()
        .started(A)
        .say(message)
        .ended(VmEnd::Deadline { name: "console".into(), ms: 5 })
        .judged();
    assert_eq!(verdicts(&results), [Verdict::Failed, Verdict::NotRun]);
    assert_eq!(results.tests[0].checks.console, Check::Bad);
}

#[test]
fn complaints_between_tests_are_red_and_belong_to_none() {
    let results = Story::new()
        .passed(A)
        .console("BUG: Bad page state in process x  pfn:1\n")
        .passed(B)
        .ended(VmEnd::Done)
        .judged();
    assert_eq!(verdicts(&results), [Verdict::Passed, Verdict::Passed]);
    assert_eq!(results.kernel_events.len(), 1);
    assert_eq!(results.exit_code, 1);
}

#[test]
fn a_report_belongs_to_the_test_whose_process_it_names() {
    let passes = |story: Story, id: &str| story.finished(id, Outcome::Passed, Health::default());
    let report = |pid: u32, comm: &str| {
        format!(
            "WARNING: CPU: 0 PID: {pid} at mm/x.c:1 f+0x0/0x1\nCPU: 0 UID: 0 PID: {pid} Comm: {comm} Not tainted 6.12 #1\n---[ end trace 0000000000000000 ]---\n"
        )
    };
    // In the other test's time, by the process of the first.
    let story = passes(Story::new().started_as(A, 70), A).started_as(B, 71);
    let story = passes(story.console(&report(70, "hmm-tests")), B);
    let results = story.ended(VmEnd::Done).judged();
    assert_eq!(verdicts(&results), [Verdict::Failed, Verdict::Passed]);
    assert_eq!(results.tests[0].kernel_events[0].title, "WARNING at mm/x.c:1 in f");
    // After the end of its own.
    let story = passes(Story::new().started_as(A, 70), A).console(&report(70, "hmm-tests"));
    let results = passes(story.started_as(B, 71), B).ended(VmEnd::Done).judged();
    assert_eq!(verdicts(&results), [Verdict::Failed, Verdict::Passed]);
    assert_eq!(results.kernel_events, []);
    // A child of a test and a thread of the kernel work for the test that runs.
    for (pid, comm) in [(99, "hmm-tests"), (12, "kworker/0:1"), (0, "swapper/0")] {
        let story = passes(Story::new().started_as(A, 70), A).started_as(B, 71);
        let results = passes(story.console(&report(pid, comm)), B).ended(VmEnd::Done).judged();
        assert_eq!(verdicts(&results), [Verdict::Passed, Verdict::Failed], "{comm}");
    }
    // And if none runs, for none.
    let story = passes(Story::new().started_as(A, 70), A).console(&report(12, "kworker/0:1"));
    let results = passes(story.started_as(B, 71), B).ended(VmEnd::Done).judged();
    assert_eq!(verdicts(&results), [Verdict::Passed, Verdict::Passed]);
    assert_eq!((results.kernel_events.len(), results.exit_code), (1, 1));
}

#[test]
fn a_report_that_breaks_off_is_not_lost() {
    let mut scanner = Scanner::default();
    let console =
        "hmm-harness: begin hmm.migrate.private\nBUG: KASAN: use-after-free in f+0x0/0x1\n";
    let findings = scanner.push(console.as_bytes());
    let story = Story::new().started(A).ended(VmEnd::Done);
    let records = story.events.into_iter().map(|event| Record { t_ms: 0, event }).collect();
    let consoles = vec![(0, findings)];
    let results = judge(&Evidence { consoles, ..Evidence::only(story.plan, records) });
    assert_eq!(results.tests[0].kernel_events[0].title, "BUG: KASAN: use-after-free in f");
}

#[test]
fn a_machine_that_dies_after_the_last_test_is_red() {
    let results = Story::new()
        .passed(A)
        .passed(B)
        .ended(VmEnd::GuestGone { how: "guest-reset".into() })
        .judged();
    assert_eq!(results.exit_code, 1);
    assert!(results.reason.expect("a reason").contains("the guest reset itself"));
}

#[test]
fn deadlines_and_signals_are_told_apart() {
    let hang =
        Story::new().started(A).ended(VmEnd::Deadline { name: "test".into(), ms: 40_000 }).judged();
    assert_eq!(hang.tests[0].verdict, Verdict::TimedOut);
    assert!(
        hang.tests[0].reason.contains("the test deadline of 40.0 s passed"),
        "{}",
        hang.tests[0].reason
    );
    let stuck =
        Outcome::TimedOut { killed: false, stack: "[<0>] migrate_vma_setup+0x1/0x2".into() };
    let results = Story::new()
        .started(A)
        .finished(A, stuck, Health::default())
        .passed(B)
        .ended(VmEnd::Done)
        .judged();
    assert_eq!(results.tests[0].verdict, Verdict::TimedOut);
    assert!(results.tests[0].reason.contains("cannot be killed"));
    let died = Outcome::Died { how: "killed by SIGBUS".into() };
    let results = Story::new()
        .started(A)
        .finished(A, died, Health::default())
        .passed(B)
        .ended(VmEnd::Done)
        .judged();
    assert_eq!(results.tests[0].verdict, Verdict::Crashed);
}

#[test]
fn a_stream_that_breaks_off_is_our_fault() {
    let results = Story::new().passed(A).judged();
    assert_eq!(results.exit_code, 129);
    assert_eq!(results.tests[1].verdict, Verdict::NotRun);
}

#[test]
fn a_skip_is_not_as_expected() {
    let skip = Outcome::Skipped { reason: "no hugetlb page".into() };
    let results = Story::new()
        .started(A)
        .finished(A, skip, Health::default())
        .passed(B)
        .ended(VmEnd::Done)
        .judged();
    assert_eq!(results.exit_code, 1);
    assert_eq!(results.tests[0].verdict, Verdict::Skipped);
}

#[test]
fn a_test_that_takes_the_guest_with_it_is_told_from_one_that_is_killed() {
    let lost = |outcome| {
        let story = Story::new().started(A).finished(A, outcome, Health::default());
        let results = story.passed(B).ended(VmEnd::Done).judged();
        assert_eq!(results.tests[0].verdict, Verdict::TimedOut);
        results.tests[0].guest_lost
    };
    assert!(!lost(Outcome::TimedOut { killed: true, stack: String::new() }));
    assert!(lost(Outcome::TimedOut { killed: false, stack: String::new() }));
    let silent = VmEnd::Deadline { name: "silence".into(), ms: 1 };
    let results = Story::new().started(A).ended(silent).judged();
    assert!(results.tests[0].guest_lost && !results.tests[1].guest_lost);
}

#[test]
fn a_turn_that_fails_otherwise_is_kept() {
    let mut story = Story::new();
    story.plan.repeat = 2;
    story.plan.tests.retain(|test| *test == A);
    story.events[0] =
        Event::Planned { tests: vec![A.into()], repeat: 2, not_applicable: Vec::new() };
    let fails = |message: &str| match failure() {
        Outcome::Failed(failure) => Outcome::Failed(Failure { message: message.into(), ..failure }),
        other => other,
    };
    let mut story = story.started(A).finished(A, fails("one"), Health::default()).ordered(A);
    if let Some(Event::Ordered { turn, .. }) = story.events.last_mut() {
        *turn = 1;
    }
    story.console.push_str(&format!("hmm-harness: begin {A}\n"));
    let story = story.say(GuestMessage::Started { id: A.into(), pid: 10 }).finished(
        A,
        fails("another"),
        Health::default(),
    );
    let results = story.ended(VmEnd::Done).judged();
    let [test] = results.tests.as_slice() else { panic!("one test") };
    assert_eq!((test.assertion.as_deref(), test.flaky), (Some("one"), false));
    let [turn] = test.other_turns.as_slice() else { panic!("{:?}", test.other_turns) };
    assert_eq!(turn.assertion.as_deref(), Some("another"));
}

#[test]
fn what_a_plan_expects_turns_red_into_green_and_back() {
    let story = || {
        Story::new()
            .started(A)
            .finished(A, failure(), Health::default())
            .passed(B)
            .ended(VmEnd::Done)
    };
    let met = story().expecting(1, &[(A, Verdict::Failed)], &["the mirror's data"]).judged();
    assert_eq!(met.exit_code, 0, "{:?}", met.reason);
    for unmet in [
        story().expecting(0, &[(A, Verdict::Failed)], &[]),
        story().expecting(1, &[], &[]),
        story().expecting(1, &[(A, Verdict::Failed), ("hmm.x", Verdict::Failed)], &[]),
        story().expecting(1, &[(A, Verdict::Failed)], &["other words"]),
    ] {
        assert_eq!(unmet.judged().exit_code, 1);
    }
}

#[test]
fn a_frame_of_another_start_is_not_listened_to_nor_what_follows() {
    let mut story = Story::new().started(A);
    let forged = Sealed {
        nonce: "old".into(),
        seq: 1,
        message: GuestMessage::Finished {
            id: A.into(),
            outcome: Outcome::Passed,
            duration_us: 1,
            health: Health::default(),
            capture: None,
        },
    };
    story.events.push(Event::Frame { vm: 0, sealed: forged });
    let end = VmEnd::Agent { what: "a frame that carries another start's nonce".into() };
    let results = story.ended(end).judged();
    assert_eq!(results.tests[0].verdict, Verdict::Crashed);
}

#[test]
fn a_turn_that_never_began_is_no_crash_of_the_test_that_ran_later() {
    let mut story = Story::new().passed(A).ordered(B);
    story.events.push(Event::VmEnded {
        vm: 0,
        end: VmEnd::GuestGone { how: "guest-reset".into() },
        console_from: 0,
        console_to: 0,
    });
    story.events.push(Event::VmStarted { vm: 1, nonce: "m".into(), restored: false });
    story.events.push(Event::Ordered { vm: 1, id: B.into(), turn: 0 });
    let pass = [
        GuestMessage::Started { id: B.into(), pid: 1 },
        GuestMessage::Finished {
            id: B.into(),
            outcome: Outcome::Passed,
            duration_us: 1,
            health: Health::default(),
            capture: None,
        },
    ];
    for (seq, message) in (0..).zip(pass) {
        let sealed = Sealed { nonce: "m".into(), seq, message };
        story.events.push(Event::Frame { vm: 1, sealed });
    }
    let results = story.ended(VmEnd::Done).judged();
    assert_eq!(results.tests[0].verdict, Verdict::Passed);
    // This story has no console of the second machine, so it cannot be clean.
    assert_eq!(results.tests[1].verdict, Verdict::Failed);
    assert_eq!(results.tests[1].attempts, 2);
}

#[test]
fn a_complaint_is_not_forgotten_with_the_machine_that_made_it() {
    let mut story = Story::new().started(A).console("BUG: KASAN: use-after-free in f+0x0/0x1\n");
    story.events.push(Event::VmEnded {
        vm: 0,
        end: VmEnd::QemuGone { code: 1, tail: Vec::new() },
        console_from: 0,
        console_to: 0,
    });
    let results = story.judged();
    assert_eq!(results.tests[0].verdict, Verdict::Crashed);
    assert!(results.tests[0].reason.contains("KASAN"));
}

#[test]
fn an_expectation_does_not_excuse_what_it_does_not_speak_of() {
    let results = Story::new()
        .started(A)
        .finished(A, failure(), Health::default())
        .passed(B)
        .console("BUG: Bad page state in process x  pfn:1\n")
        .expecting(1, &[(A, Verdict::Failed)], &[])
        .ended(VmEnd::Done)
        .judged();
    assert_eq!(results.exit_code, 1);
}

/// A run of both tests in which the second fails by this assertion.
fn half_failed(assertion: &str) -> Story {
    let failure = Failure {
        file: "x.rs".into(),
        line: 3,
        message: assertion.into(),
        seen: None,
        expected: None,
        page: None,
    };
    let story = Story::new().passed(A).started(B);
    story.finished(B, Outcome::Failed(failure), Health::default()).ended(VmEnd::Done)
}

fn held_against(story: Story, before: Story) -> Results {
    let baseline = Some(Baseline::of(&before.judged()));
    Story { baseline, ..story }.judged()
}

#[test]
fn with_a_baseline_the_same_failure_is_expected_and_another_is_not() {
    let same = held_against(half_failed("the data"), half_failed("the data"));
    assert_eq!((same.exit_code, verdicts(&same)), (0, vec![Verdict::Passed, Verdict::Failed]));
    assert!(same.tests[1].as_expected);
    let other = held_against(half_failed("the owner"), half_failed("the data"));
    assert_eq!((other.exit_code, other.tests[1].as_expected), (1, false));
    let reason = other.reason.expect("it is red");
    assert_eq!(reason, "1 thing is worse than in the baseline");
    let good = || Story::new().passed(A).passed(B).ended(VmEnd::Done);
    let better = held_against(good(), half_failed("the data"));
    assert_eq!((better.exit_code, better.baseline.map(|found| found.better.len())), (0, Some(1)));
    assert_eq!(held_against(half_failed("the data"), good()).exit_code, 1);
}

#[test]
fn with_a_baseline_a_complaint_is_red_where_it_is_new() {
    let warns = |function: &str| {
        let said = format!("WARNING: CPU: 0 PID: 1 at mm/x.c:1 {function}+0x1/0x2\n");
        Story::new().console(&said).passed(A).passed(B).ended(VmEnd::Done)
    };
    assert_eq!(warns("f").judged().exit_code, 1);
    assert_eq!(held_against(warns("f"), warns("f")).exit_code, 0);
    assert_eq!(held_against(warns("g"), warns("f")).exit_code, 1);
}

#[test]
fn a_passed_test_whose_kernel_sends_something_else_is_not_as_in_the_baseline() {
    let traced = |event: &str| {
        let story = Story::new().passed(A).passed(B).ended(VmEnd::Done);
        let records = story.events.iter().cloned();
        let records = records.map(|event| Record { t_ms: 0, event }).collect();
        let mut scanner = Scanner::default();
        let mut findings = scanner.push(story.console.as_bytes());
        findings.extend(scanner.finish());
        let sent = format!("2 {event}; {event}").parse().expect("its form");
        let info = TraceInfo {
            complete: true,
            canonical_sha256: Some(event.into()),
            operations: BTreeMap::from([("to-device".to_owned(), sent)]),
            ..TraceInfo::default()
        };
        Evidence {
            consoles: vec![(0, findings)],
            traces: BTreeMap::from([((0, 1), Trace { info, ..Trace::default() })]),
            ..Evidence::only(story.plan, records)
        }
    };
    let baseline = Baseline::of(&judge(&traced("MIGRATE")));
    let held = |event: &str, allow: &[&str]| {
        let mut evidence = traced(event);
        evidence.baseline = Some(baseline.clone());
        let allowed = |text: &&str| Allowed::try_from((*text).to_owned()).expect("its form");
        evidence.plan.allow = allow.iter().map(allowed).collect();
        judge(&evidence)
    };
    assert_eq!(held("MIGRATE", &[]).exit_code, 0);
    let red = held("CLEAR", &[]);
    assert_eq!((red.exit_code, verdicts(&red)), (1, vec![Verdict::Passed, Verdict::Passed]));
    let expected: Vec<bool> = red.tests.iter().map(|test| test.as_expected).collect();
    assert_eq!(expected, [false, true]);
    assert_eq!(red.tests[0].reason, "not as in the baseline: to-device: MIGRATE -> CLEAR");
    let allowed = held("CLEAR", &["to-device"]);
    assert_eq!(
        (allowed.exit_code, allowed.baseline.map(|found| found.allowed.len())),
        (0, Some(1))
    );
    assert_eq!(held("CLEAR", &["cpu-read"]).exit_code, 1);
}

#[test]
fn a_run_that_was_stopped_is_held_against_nothing() {
    let story = Story::new().passed(A);
    let stop = Event::Stopped { stop: Stop::Interrupted };
    let mut events = story.events.clone();
    events.push(stop);
    let good = Story::new().passed(A).passed(B).ended(VmEnd::Done);
    let results = held_against(Story { events, ..story }, good);
    assert_eq!((results.exit_code, results.baseline), (130, None));
}
