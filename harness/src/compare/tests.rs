//! Tests of the comparison.

use std::slice::from_ref;

use super::*;
use crate::judge::tests::result;
use crate::report::tests::run;
use crate::results::{NotApplicable, RunOutcome, Violation};

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
            "Failure hmm.file_read.private: y -> other",
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
    let turn = |test: TestResult| Standing::of(&test);
    let with = |test: TestResult, other: TestResult| {
        run(vec![TestResult { other_turns: vec![turn(other)], ..test }])
    };
    let held = |other| compare(&Side::baseline(&a), &side(&with(failed(id, "x.rs:1: y"), other)));
    let flaky = held(passed(id));
    assert_eq!((flaky.worse, flaky.better), (vec![], vec![]), "it does not stand");
    let other = held(failed(id, "x.rs:1: z")).worse;
    assert_eq!(short(&other), ["Failure hmm.migrate.private: y -> z"]);
    let mut traced = a.clone();
    traced.tests.insert(id.to_owned(), turn(sends(id, "MIGRATE")));
    let b = with(sends(id, "MIGRATE"), sends(id, "CLEAR"));
    let found = compare(&Side::baseline(&traced), &side(&b));
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
    let ids = ["hmm.migrate.private", "hmm.migrate_multiple.private", "hmm.migrate_fault.private"];
    let of = |event: &str| ids.iter().map(|id| sends(id, event)).collect::<Vec<TestResult>>();
    let (a, mut b) = (run(of("MIGRATE")), run(of("CLEAR")));
    b.tests[2].assertion = Some("it went another way".into());
    let canonical = |event: &str| -> BTreeMap<String, String> {
        let text = format!("to-device dmirror0 buffer[0..4)\n  {event} buffer[0..4)\n");
        ids.iter().map(|id| ((*id).to_owned(), text.clone())).collect()
    };
    let found = compare(&Side::run(&a, canonical("MIGRATE")), &Side::run(&b, canonical("CLEAR")));
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
    assert_eq!(short(&found.worse), ["Verdict hmm.unheard_of.private: passed -> there is none"]);
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

#[test]
fn what_is_new_of_a_failure_is_told() {
    let id = "hmm.migrate.private";
    let with = |rules: &[&str]| {
        let mut test = failed(id, "x.rs:1: y");
        let broken = |rule: &&str| Violation {
            rule: (*rule).into(),
            step: "9 to-device".into(),
            text: "page 1".into(),
        };
        test.trace.violations = rules.iter().map(broken).collect();
        test
    };
    let lines = |changes: &[Change]| changes.iter().map(Change::in_a_line).collect::<Vec<_>>();
    let found = told(&[with(&[])], &[with(&["owner"])]);
    assert_eq!(lines(&found.worse), ["fails otherwise: + rule owner"]);
    let found = told(&[with(&["owner"])], &[with(&["walk"])]);
    assert_eq!(lines(&found.worse), ["fails otherwise: rule owner -> rule walk"]);
    let found = told(&[with(&["owner", "walk"])], &[with(&["owner"])]);
    assert_eq!(lines(&found.better), ["fails otherwise: - rule walk"]);
    assert_eq!(found.worse, []);
}

#[test]
fn a_test_that_loses_the_guest_is_worse_than_one_that_is_killed() {
    let id = "hmm.migrate.private";
    let killed = result(id, Verdict::TimedOut);
    let lost = TestResult { guest_lost: true, ..killed.clone() };
    let found = told(from_ref(&killed), from_ref(&lost));
    assert_eq!(
        short(&found.worse),
        ["Failure hmm.migrate.private:  -> the guest was lost with it"]
    );
    let found = told(&[lost], &[killed]);
    assert_eq!((found.worse.len(), found.better.len()), (0, 1));
}

#[test]
fn a_known_issue_that_is_mended_is_better() {
    let id = "hmm.migrate.private";
    let known = TestResult { known_issue: Some("one".into()), ..failed(id, "x.rs:1: y") };
    let found = told(from_ref(&known), &[passed(id)]);
    assert_eq!(short(&found.better), ["Verdict hmm.migrate.private: failed -> passed"]);
    let found = told(&[passed(id)], &[known]);
    assert_eq!(short(&found.other), ["Verdict hmm.migrate.private: passed -> failed"]);
}

#[test]
fn what_goes_wrong_outside_of_all_tests_is_worse_than_any_baseline() {
    let good = run(vec![passed("hmm.migrate.private")]);
    let gone = Results { loose_ends: vec!["VM 2: guest-reset".into()], ..good.clone() };
    let baseline = Side::baseline(&Baseline::of(&gone));
    assert_eq!(
        short(&compare(&baseline, &side(&gone)).worse),
        ["Run : nothing -> VM 2: guest-reset"]
    );
    assert_eq!(compare(&side(&gone), &side(&gone)).worse, []);
    assert_eq!(compare(&side(&gone), &side(&good)).better.len(), 1);
}

#[test]
fn an_edit_above_a_warning_is_no_news() {
    let with = |title: &str| {
        let mut test = result("hmm.migrate.private", Verdict::Failed);
        let (id, class, title) = ("warn".to_owned(), "warn".to_owned(), title.to_owned());
        test.kernel_events = vec![KernelEvent { id, class, title, line: 3, trace: vec![] }];
        test
    };
    let found = told(&[with("WARNING at mm/x.c:1 in f")], &[with("WARNING at mm/x.c:3 in f")]);
    assert_eq!((found.worse, found.better, found.other), (vec![], vec![], vec![]));
    let found = told(&[with("WARNING at mm/x.c:1 in f")], &[with("WARNING at mm/x.c:3 in g")]);
    assert_eq!(
        short(&found.worse),
        ["Console hmm.migrate.private: in silence -> WARNING at mm/x.c in g"]
    );
    assert_eq!(found.worse[0].evidence, ["console.log:3: WARNING at mm/x.c:3 in g"]);
}

#[test]
fn what_a_skipped_test_has_sent_is_compared_too() {
    let id = "hmm.migrate.private";
    let skipped = |event: &str| TestResult { verdict: Verdict::Skipped, ..sends(id, event) };
    let found = told(&[skipped("MIGRATE")], &[skipped("CLEAR")]);
    assert_eq!(found.worse[0].in_a_line(), "to-device: MIGRATE -> CLEAR");
    let mut partly = skipped("MIGRATE");
    partly.trace.complete = false;
    assert_eq!(
        short(&told(&[skipped("MIGRATE")], &[partly]).worse),
        ["Capture hmm.migrate.private: whole -> not whole"]
    );
}

#[test]
fn a_trace_of_which_too_little_is_known_is_not_said_to_send_more() {
    let id = "hmm.migrate.private";
    let mut unknown = sends(id, "CLEAR");
    unknown.trace.operations.clear();
    let found = told(&[unknown], &[sends(id, "MIGRATE")]);
    assert_eq!(short(&found.worse), ["Trace hmm.migrate.private: one trace -> another"]);
    assert!(found.worse[0].evidence[0].ends_with("is not known"), "{found:?}");
    let mut steps = sends(id, "MIGRATE");
    steps.trace.canonical_sha256 = Some("another".into());
    let found = told(&[steps], &[sends(id, "MIGRATE")]);
    assert!(found.worse[0].evidence[0].starts_with("the steps"), "{found:?}");
}
