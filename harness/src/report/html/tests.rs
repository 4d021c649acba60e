//! The page of runs that are all that a run can be, and of guests that say what
//! they like.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::write;
use crate::baseline::Baseline;
use crate::compare::{Side, compare};
use crate::judge::tests::result;
use crate::report::cases::tests::{colourful, run};
use crate::results::{
    AppliedPatch, KernelEvent, NotApplicable, Results, RunOutcome, Verdict, Violation,
};
use crate::rundir::{REPORT, REPORT_DRAFT};

fn page(results: &Results, dir: &Path) -> String {
    let path = write(results, dir).expect("writable");
    assert_eq!(path, dir.join(REPORT));
    assert!(!dir.join(REPORT_DRAFT).exists());
    fs::read_to_string(path).expect("it was written")
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/run")
}

#[test]
fn a_run_without_anything_has_a_page() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (outcome, exit_code) in
        [(RunOutcome::NotJudgeable, 125), (RunOutcome::Fault, 129), (RunOutcome::Interrupted, 130)]
    {
        let reason = Some("the patch does not apply\n  hint: rebase it".to_owned());
        let kernel = Default::default();
        let results = Results { outcome, exit_code, reason, kernel, ..run(Vec::new()) };
        let page = page(&results, dir.path());
        for part in [
            "the patch does not apply\n  hint",
            "There are none in this run",
            "did not come so far",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }
}

#[test]
fn a_page_that_cannot_be_written_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(dir.path().join(REPORT)).expect("writable");
    let error = write(&run(Vec::new()), dir.path()).expect_err("it is a directory");
    assert!(error.to_string().contains(REPORT), "{error}");
    assert!(!dir.path().join(REPORT_DRAFT).exists());
}

#[test]
fn what_is_wrong_comes_first_and_links_to_its_row() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut results = colourful();
    let reason = "since 6.0".to_owned();
    results.not_applicable = vec![NotApplicable { id: "hmm.thp.coherent".into(), reason }];
    let page = page(&results, dir.path());
    let at = |part: &str| page.find(part).unwrap_or_else(|| panic!("{part} in {page}"));
    assert!(at("x.rs:1: 3 # pages\nsecond line") < at("<h2 id=\"h-about\">"));
    assert!(at("<a href=\"#hmm.migrate.private\">") < at("<tbody id=\"hmm.migrate.private\""));
    assert!(at("Complaints of the kernel outside any test") < at("<h2 id=\"h-tests\">"));
    assert!(at("Not applicable to this kernel") < at("hmm.thp.coherent"));
    assert_eq!(page.matches("<tbody id=").count(), results.tests.len());
    assert_eq!(page.matches("class=\"test bad\"").count(), 5);
    assert!(page.contains("known issue why-not"));
}

#[test]
fn nothing_that_a_guest_or_a_patch_says_becomes_part_of_the_page() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let nasty = "</script></pre><img src=x onerror=alert(1)><!-- ]]> \u{202e}\u{1b}[2J\0' \"";
    let endless = format!("{nasty}{}", "y".repeat(1 << 20));
    let mut test = result("hmm.migrate.private", Verdict::Crashed);
    test.reason.clone_from(&endless);
    test.known_issue = Some(nasty.into());
    test.kernel_events = vec![
        KernelEvent {
            id: "warn".into(),
            class: nasty.into(),
            title: endless.clone(),
            line: 2,
            trace: vec![endless.clone(); 100],
        };
        20
    ];
    let step = "1 open".to_owned();
    test.trace.violations =
        vec![Violation { rule: nasty.into(), step, text: endless.clone() }; 200];
    test.trace.captured = 1;
    let mut results = run(vec![test]);
    results.reason = Some(endless.clone());
    results.kernel.release = nasty.into();
    results.kernel.series = vec![AppliedPatch {
        subject: endless.clone(),
        commit: nasty.into(),
        diff_sha256: nasty.into(),
    }];
    results.machine.settings.insert(nasty.into(), endless.clone());
    fs::write(dir.path().join("console.log"), format!("\n{endless}\n{nasty}\n")).expect("writable");
    let trace =
        fs::read_to_string(golden().join("trace/hmm.migrate.private.jsonl")).expect("there");
    let named = serde_json::to_string(&format!("{nasty}\u{2028}")).expect("plain data");
    let trace = trace.replace("\"buffer\":\"buffer\"", &format!("\"buffer\":{named}"));
    fs::create_dir(dir.path().join("trace")).expect("writable");
    fs::write(dir.path().join("trace/hmm.migrate.private.jsonl"), trace).expect("writable");

    let page = page(&results, dir.path());
    assert!(!page.contains("<img") && !page.contains("onerror=alert(1)>"));
    let controls = |c: char| (c.is_control() && c != '\n') || ['\u{202e}', '\u{2028}'].contains(&c);
    assert!(!page.contains(controls));
    // The early one, the trace, and that of the page.
    assert_eq!(page.matches("</script>").count(), 3);
    assert_eq!(page.matches("<!--").count(), 0);
    assert!(page.len() < 400 << 10, "{}", page.len());
}

#[test]
fn a_trace_that_cannot_be_read_is_told_and_costs_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(dir.path().join("trace")).expect("writable");
    fs::write(dir.path().join("trace/hmm.migrate.private.jsonl"), "{\"seq\":").expect("writable");
    let page = page(&run(vec![result("hmm.migrate.private", Verdict::Passed)]), dir.path());
    assert!(page.contains("The trace cannot be shown: "), "{page}");
}

#[test]
fn the_page_of_a_saved_run_has_its_traces() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let results = crate::report::read(&golden()).expect("a run");
    fs::create_dir(dir.path().join("trace")).expect("writable");
    let name = "trace/hmm.migrate.private.jsonl";
    fs::copy(golden().join(name), dir.path().join(name)).expect("there");
    fs::copy(golden().join("events.jsonl"), dir.path().join("events.jsonl")).expect("there");
    let page = page(&results, dir.path());
    for part in
        ["4 x fault, migrate_setup, MIGRATE buffer[0..4) owner dmirror0", "\"lane\":\"dmirror0\""]
    {
        assert!(page.contains(part), "{part} in {page}");
    }
    let program = if std::env::var_os("CARGO").is_some() { "cargo xtask" } else { "hmm-harness" };
    assert!(page.contains(&format!("{program} show {}", dir.path().display())));
}

#[test]
fn what_is_not_as_in_the_baseline_is_told_before_the_tests() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut results = colourful();
    let baseline = Baseline::of(&run(vec![result("hmm.migrate.private", Verdict::Passed)]));
    let found = compare(&Side::baseline(&baseline), &Side::run(&results, BTreeMap::new()));
    results.baseline = Some(found);
    let page = page(&results, dir.path());
    let at = |part: &str| page.find(part).unwrap_or_else(|| panic!("{part} in {page}"));
    assert!(at("Worse than in the baseline") < at("Tests that are not as expected"));
    assert!(at("<b>passed -&gt; failed</b>") < at("<h2 id=\"h-about\">"));
}
