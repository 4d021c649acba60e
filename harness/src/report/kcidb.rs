//! A judgement as a submission to KCIDB, the database of the kernel's CI systems:
//! a checkout, its build and the tests on it, in version 5.3 of its schema.
//!
//! What is not known is left out, which is what KCIDB takes it for: `tree_name` and
//! URLs are never known here. Paths of the user's machine are kept to themselves.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::cases::complaint;
use crate::flow::Stage;
use crate::results::{AppliedPatch, KernelEvent, Results, RunOutcome, TestResult, Verdict};
use crate::words::{clean, line};

/// The version of the schema, as the package `kcidb-io` publishes it.
const VERSION: (u32, u32) = (5, 3);

/// How many characters an excerpt of a log may have, by the schema.
const EXCERPT: usize = 16_384;

/// How many characters a comment has at most; the schema bounds none.
const COMMENT: usize = 1_000;

/// Where our tests stand in the tree of all tests: they are not the kernel's own
/// selftests, and must not be counted with them.
const ROOT: &str = "hmm_harness";

/// What a submission says beside the judgement.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    /// The name of the CI system that submits.
    pub(super) origin: &'a str,
    /// What tells this run from all others.
    pub(super) run: &'a str,
    /// The compiler, as its own `--version` begins.
    pub(super) compiler: Option<&'a str>,
}

/// Whether it can be the name of a CI system.
pub(crate) fn is_origin(name: &str) -> bool {
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_');
    !name.is_empty() && name.chars().all(allowed)
}

/// The text of the submission.
///
/// # Errors
/// When it cannot be written as JSON.
pub(super) fn text(results: &Results, about: About<'_>) -> Result<String> {
    let (major, minor) = VERSION;
    let submission = json!({
        "version": { "major": major, "minor": minor },
        "checkouts": [checkout(results, about)],
        "builds": build(results, about).into_iter().collect::<Vec<_>>(),
        "tests": tests(results, about),
    });
    let mut text = serde_json::to_string_pretty(&submission)?;
    text.push('\n');
    Ok(text)
}

/// The fields of an object that are known.
struct Object(Map<String, Value>);

impl Object {
    fn new(id: String, origin: &str) -> Self {
        let fields = [("id".to_owned(), id.into()), ("origin".to_owned(), origin.into())];
        Object(fields.into_iter().collect())
    }

    fn with(mut self, name: &str, value: Option<impl Into<Value>>) -> Self {
        self.0.extend(value.map(|value| (name.to_owned(), value.into())));
        self
    }
}

fn checkout(results: &Results, about: About<'_>) -> Value {
    let kernel = &results.kernel;
    let known = |text: &String| Some(clean(text)).filter(|text| !text.is_empty());
    // Others name a place on this machine.
    let package = Some(&kernel.source).filter(|source| source.starts_with("debian:"));
    let comment = package.and_then(known).or_else(|| known(&kernel.release));
    let stopped = stopped_at(results, &[Stage::Source, Stage::Series]);
    let valid = match results.outcome {
        _ if !stopped && !kernel.config_sha256.is_empty() => Some(true),
        RunOutcome::NotJudgeable => Some(!stopped),
        _ => None,
    };
    let series: Vec<Value> = kernel
        .series
        .iter()
        .map(|patch| json!({ "subject": line(&patch.subject), "diff_sha256": patch.diff_sha256 }))
        .collect();
    let misc = json!({
        "source_git_tree": kernel.source_tree,
        "git_tree": kernel.tree,
        "series": series,
    });
    let object = Object::new(id(about, ""), about.origin)
        .with("git_commit_hash", kernel.source_commit.as_deref().filter(|hash| hash.len() == 40))
        .with("patchset_hash", patchset_hash(&kernel.series).filter(|_| valid == Some(true)))
        .with("comment", comment.map(|text| cut(text, COMMENT)))
        .with("start_time", results.timing.began.as_deref())
        .with("valid", valid)
        .with("log_excerpt", excerpt(results).filter(|_| stopped))
        .with("misc", Some(misc));
    Value::Object(object.0)
}

/// A SHA-256 over the SHA-256s of the patches, each with a newline. A patch is the
/// diff as `git apply` took it, whatever mail or commit it came in.
fn patchset_hash(series: &[AppliedPatch]) -> Option<String> {
    if series.is_empty() {
        return Some(String::new());
    }
    let mut hashes = String::new();
    for AppliedPatch { diff_sha256, .. } in series {
        if diff_sha256.is_empty() {
            return None;
        }
        writeln!(hashes, "{diff_sha256}").expect("writing to a string");
    }
    Some(format!("{:x}", Sha256::digest(hashes)))
}

/// The build, if the run came so far.
fn build(results: &Results, about: About<'_>) -> Option<Value> {
    let kernel = &results.kernel;
    let stopped = stopped_at(results, &[Stage::Config, Stage::Build]);
    let status = match results.outcome {
        _ if !kernel.release.is_empty() && !stopped => "PASS",
        RunOutcome::NotJudgeable if stopped => "FAIL",
        // The harness has failed, and the kernel may be what it likes.
        RunOutcome::Fault if stopped => "MISS",
        _ => return None,
    };
    let known = |text: &'_ String| Some(text.clone()).filter(|text| !text.is_empty());
    let ms = results.timing.build_ms;
    let misc = json!({
        "release": kernel.release,
        "config_sha256": kernel.config_sha256,
        "loaded_sha256": kernel.loaded_sha256,
    });
    let object = Object::new(id(about, ""), about.origin)
        .with("checkout_id", Some(id(about, "")))
        .with("architecture", Some("x86_64"))
        .with("compiler", about.compiler.map(line))
        .with("config_name", known(&kernel.profile))
        // What was in the store took no time now, and an unknown one then.
        .with("duration", (ms > 0).then(|| seconds(ms)))
        .with("status", Some(status))
        .with("log_excerpt", excerpt(results).filter(|_| stopped))
        .with("misc", Some(misc));
    Some(Value::Object(object.0))
}

/// The tests on it. What does not apply to the kernel was not run and is none; what
/// the kernel said outside any test, why there is no judgement, and what is not as
/// expected while all of these are good, are tests of their own.
fn tests(results: &Results, about: About<'_>) -> Vec<Value> {
    if results.kernel.release.is_empty() {
        return Vec::new();
    }
    let environment = environment(results);
    let object = |name: &str, status: &str, comment: String, excerpt: String| {
        Object::new(id(about, name), about.origin)
            .with("build_id", Some(id(about, "")))
            .with("path", Some(format!("{ROOT}.{name}")))
            .with("environment", environment.clone())
            .with("status", Some(status))
            .with("comment", Some(cut(line(&comment), COMMENT)).filter(|text| !text.is_empty()))
            .with("log_excerpt", Some(excerpt).filter(|text| !text.is_empty()))
    };
    let mut all: Vec<Value> = Vec::new();
    for test in &results.tests {
        let excerpt = said(&test.reason, &test.kernel_events);
        let object = object(&test.id, status(test), test.reason.clone(), excerpt)
            .with("duration", (test.duration_ms > 0).then(|| seconds(test.duration_ms)))
            .with("misc", Some(misc(test)));
        all.push(Value::Object(object.0));
    }
    if let Some(first) = results.kernel_events.first() {
        let excerpt = said("", &results.kernel_events);
        all.push(Value::Object(object("kernel.console", "FAIL", first.title.clone(), excerpt).0));
    }
    let good = |object: &Value| ["PASS", "SKIP"].iter().any(|status| object["status"] == *status);
    let status = match results.outcome {
        RunOutcome::NotJudgeable => Some("ERROR"),
        RunOutcome::Fault | RunOutcome::Interrupted => Some("MISS"),
        // Such as a guest that reset itself, or what a baseline alone knows.
        RunOutcome::NotAsExpected if !results.loose_ends.is_empty() || all.iter().all(good) => {
            Some("FAIL")
        }
        RunOutcome::AsExpected | RunOutcome::NotAsExpected => None,
    };
    if let Some(status) = status.filter(|_| !stopped_at(results, &[Stage::Build])) {
        let why = results.reason.clone().unwrap_or_default();
        all.push(Value::Object(object("run", status, why, excerpt(results).unwrap_or_default()).0));
    }
    all
}

/// The schema's word for a verdict. FAIL says that the tested code is faulty, ERROR
/// that the test did not complete and nothing is known of that code: a test that died
/// or hung is the kernel's fault where the kernel has complained. MISS is what never
/// started. A failure is one whether it was expected or not.
fn status(test: &TestResult) -> &'static str {
    match test.verdict {
        Verdict::Passed => "PASS",
        Verdict::Failed => "FAIL",
        Verdict::Crashed | Verdict::TimedOut if !test.kernel_events.is_empty() => "FAIL",
        Verdict::Crashed | Verdict::TimedOut => "ERROR",
        Verdict::Skipped => "SKIP",
        Verdict::NotRun => "MISS",
    }
}

/// What the schema has no field for. A known issue is no `issue` of KCIDB: those have
/// versions, and ours have none.
fn misc(test: &TestResult) -> Value {
    let rules = test.trace.violations.iter().map(|broken| Value::from(line(&broken.rule)));
    let rules: Vec<Value> = rules.collect();
    let mut misc = json!({
        "verdict": test.verdict.as_str(),
        "attempts": test.attempts,
        "flaky": test.flaky,
        "broken_rules": rules,
    });
    if let Some(issue) = &test.known_issue {
        misc["known_issue"] = issue.as_str().into();
    }
    if let Some(digest) = &test.trace.canonical_sha256 {
        misc["canonical_trace_sha256"] = digest.as_str().into();
    }
    misc
}

fn environment(results: &Results) -> Option<Value> {
    let machine = &results.machine;
    (!machine.qemu_version.is_empty()).then(|| {
        let comment = format!(
            "QEMU {}, {}, {} processors, {} MiB, root {}",
            machine.qemu_version,
            machine.accelerator,
            machine.cpus,
            machine.memory_mib,
            machine.rootfs
        );
        json!({ "comment": line(&comment), "misc": { "restored": machine.restored } })
    })
}

/// An id: unique among objects of its kind, and the same whenever the run is judged.
fn id(about: About<'_>, of: &str) -> String {
    let dot = if of.is_empty() { "" } else { "." };
    format!("{}:{}{dot}{of}", about.origin, about.run)
}

fn stopped_at(results: &Results, stages: &[Stage]) -> bool {
    let at = results.stopped_at.as_deref();
    stages.iter().any(|stage| at == Some(stage.as_str()))
}

/// Why there is no judgement.
fn excerpt(results: &Results) -> Option<String> {
    results.reason.as_ref().map(|reason| said(reason, &[]))
}

/// A reason and what the kernel said, line by line.
fn said(reason: &str, events: &[KernelEvent]) -> String {
    let lines = reason.lines().map(line).chain(events.iter().flat_map(complaint));
    let mut text = String::new();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
        if text.len() > EXCERPT * 4 {
            break;
        }
    }
    cut(text, EXCERPT)
}

/// No more than so many characters.
fn cut(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use crate::report::cases::tests::{colourful, hostile, run};

    fn submitted(results: &Results) -> Value {
        let about = About { origin: "me_2", run: "f00", compiler: Some("gcc 12\u{1b}") };
        serde_json::from_str(&text(results, about).expect("plain data")).expect("JSON")
    }

    /// The types and bounds that the schema demands of an object's fields.
    fn check(object: &Value) {
        for (name, value) in object.as_object().expect("an object") {
            let right = match name.as_str() {
                "origin" => value == "me_2",
                "id" | "checkout_id" | "build_id" => {
                    value.as_str().is_some_and(|id| id.starts_with("me_2:f00"))
                }
                "path" => value.as_str().is_some_and(|path| {
                    path.split('.').all(|part| {
                        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
                        !part.is_empty() && part.chars().all(allowed)
                    })
                }),
                "log_excerpt" => value.as_str().is_some_and(|text| text.chars().count() <= 16_384),
                "status" => ["FAIL", "ERROR", "MISS", "PASS", "SKIP"].iter().any(|s| value == s),
                "valid" => value.is_boolean(),
                "duration" => value.is_f64(),
                "misc" | "environment" => value.is_object(),
                "patchset_hash" => value.as_str().is_some_and(|h| [0, 64].contains(&h.len())),
                "git_commit_hash" => value.as_str().is_some_and(|hash| hash.len() == 40),
                "comment" | "start_time" | "compiler" | "config_name" | "architecture" => {
                    value.as_str().is_some_and(|text| !text.contains(['\0', '\u{1b}']))
                }
                _ => false,
            };
            assert!(right, "{name}: {value}");
        }
    }

    #[test]
    fn each_verdict_has_the_word_that_the_schema_means() {
        let submission = submitted(&colourful());
        assert_eq!(submission["version"], json!({ "major": 5, "minor": 3 }));
        let all = ["checkouts", "builds", "tests"].map(|kind| submission[kind].as_array());
        all.iter().flatten().copied().flatten().for_each(check);
        let tests = submission["tests"].as_array().expect("a list");
        let words: Vec<_> = tests
            .iter()
            .map(|test| [&test["path"], &test["status"]].map(|v| v.as_str().unwrap_or("?")))
            .collect();
        assert_eq!(
            words,
            [
                ["hmm_harness.hmm.open_close.private", "PASS"],
                ["hmm_harness.hmm.migrate.private", "FAIL"],
                ["hmm_harness.hmm.migrate.coherent", "FAIL"],
                ["hmm_harness.hmm2.snapshot.private", "ERROR"],
                ["hmm_harness.hmm.exclusive.private", "SKIP"],
                ["hmm_harness.hmm.compound.private", "MISS"],
                ["hmm_harness.notifier.mremap.private", "FAIL"],
                ["hmm_harness.kernel.console", "FAIL"],
            ]
        );
        assert_eq!(tests[6]["misc"]["known_issue"], "why-not");
        let mut ids: Vec<_> = tests.iter().map(|test| test["id"].to_string()).collect();
        ids.dedup();
        assert_eq!(ids.len(), tests.len());
    }

    #[test]
    fn a_kernel_that_does_not_patch_or_build_has_no_tests() {
        let unbuilt = |stage: &str, config: &str| {
            let mut results = run(Vec::new());
            (results.outcome, results.exit_code) = (RunOutcome::NotJudgeable, 125);
            results.stopped_at = Some(stage.into());
            results.reason = Some("mm/x.c:1: error: `x`\nline 2".into());
            results.kernel.release = String::new();
            results.kernel.config_sha256 = config.into();
            submitted(&results)
        };
        let submission = unbuilt("build", "c0ffee");
        let build = &submission["builds"][0];
        assert_eq!(
            (&build["status"], &submission["checkouts"][0]["valid"]),
            (&json!("FAIL"), &json!(true))
        );
        assert_eq!(build["log_excerpt"], "mm/x.c:1: error: `x`\nline 2\n");
        assert_eq!(submission["tests"], json!([]));
        let submission = unbuilt("series", "");
        assert_eq!(submission["builds"], json!([]));
        assert_eq!(submission["checkouts"][0]["valid"], false);
        assert_eq!(submission["checkouts"][0].get("patchset_hash"), None);
    }

    #[test]
    fn what_stopped_a_run_is_told_by_whose_fault_it_is() {
        for (outcome, word) in [
            (RunOutcome::NotJudgeable, "ERROR"),
            (RunOutcome::Fault, "MISS"),
            (RunOutcome::Interrupted, "MISS"),
        ] {
            let tests = vec![result("hmm.migrate.private", Verdict::NotRun)];
            let submission = submitted(&Results { outcome, ..run(tests) });
            let told = &submission["tests"];
            assert_eq!((&told[0]["status"], &told[1]["status"]), (&json!("MISS"), &json!(word)));
            assert_eq!(told[1]["path"], "hmm_harness.run");
        }
    }

    #[test]
    fn a_run_that_is_red_has_a_test_that_is_not_good() {
        let tests = vec![result("hmm.migrate.private", Verdict::Passed)];
        let reason = Some("VM 2: guest-reset".to_owned());
        let outcome = RunOutcome::NotAsExpected;
        let submission = submitted(&Results { outcome, reason, ..run(tests.clone()) });
        let told = &submission["tests"];
        assert_eq!((&told[0]["status"], &told[1]["status"]), (&json!("PASS"), &json!("FAIL")));
        assert_eq!(told[1]["comment"], "VM 2: guest-reset");
        assert_eq!(submitted(&run(tests))["tests"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_patchset_is_hashed_as_the_schema_says() {
        assert_eq!(patchset_hash(&[]).as_deref(), Some(""));
        let patch = |hash: &str| AppliedPatch {
            subject: String::new(),
            commit: String::new(),
            diff_sha256: hash.into(),
        };
        assert_eq!(patchset_hash(&[patch("")]), None, "of an earlier version of ours");
        // printf '%s\n' a b | sha256sum
        assert_eq!(
            patchset_hash(&[patch("a"), patch("b")]).as_deref(),
            Some("911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2")
        );
    }

    #[test]
    fn what_the_guest_says_is_a_bounded_text() {
        let submission = submitted(&hostile());
        let tests = submission["tests"].as_array().expect("a list");
        assert_eq!(tests.len(), 17);
        tests.iter().for_each(check);
        assert!(tests.iter().all(|test| test["status"] == "FAIL"));
        assert!(submission.to_string().len() < 1 << 19);
    }

    #[test]
    fn an_origin_is_what_an_id_may_begin_with() {
        assert!(is_origin("hmm_harness") && is_origin("0day"));
        assert!(!is_origin("") && !is_origin("Me") && !is_origin("a:b") && !is_origin("a-b"));
    }
}
