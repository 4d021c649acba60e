//! A baseline: what a run has shown, in a file that people review and runs are held
//! against.
//!
//! It says of each test its verdict, why it is not good, and what the kernel sends in
//! each operation; nothing that is not the same from run to run. `compare` says what is
//! worse than it. Nothing here does IO.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::console::without_line;
use crate::results::{Check, Checks, KernelEvent, Results, Standing, TestResult, Verdict, WHOLE};
use crate::stop::Problem;
use crate::trace::may_differ;
use crate::words::line;

/// The name of the form, the first field of every baseline.
pub const SCHEMA: &str = "hmm-harness/baseline/1";

/// The first lines of the file.
const HEAD: &str = "\
# What a run is held against by `--baseline`. `hmm-harness baseline update` writes it
# from a run; review what it changes.
";

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// [`SCHEMA`].
    schema: String,
    /// What was tested and where, as far as it does not change with each run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given: BTreeMap<String, String>,
    /// The titles of the kernel's complaints that belong to no test.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub complaints: BTreeSet<String>,
    /// The tests, by their ids.
    pub tests: BTreeMap<String, Standing>,
}

impl Baseline {
    /// What a run has shown.
    pub fn of(results: &Results) -> Baseline {
        let short = |text: &str| text.chars().take(12).collect::<String>();
        let (kernel, machine) = (&results.kernel, &results.machine);
        // Of a user's tree it would be a path, and a commit that is another each time.
        let package = Some(&kernel.source).filter(|source| source.starts_with("debian:"));
        let given = [
            ("harness", results.harness.clone()),
            ("kernel", kernel.release.clone()),
            ("source", package.cloned().unwrap_or_default()),
            ("configuration", short(&kernel.config_sha256)),
            ("profile", kernel.profile.clone()),
            ("accelerator", machine.accelerator.clone()),
            ("root file system", machine.rootfs.clone()),
        ];
        let given = given.into_iter().filter(|(_, value)| !value.is_empty());
        Baseline {
            schema: SCHEMA.to_owned(),
            given: given.map(|(what, value)| (what.to_owned(), value)).collect(),
            complaints: complaints(&results.kernel_events),
            tests: results.tests.iter().map(|t| (t.id.clone(), Standing::of(t))).collect(),
        }
    }

    /// Reads the text of the file at `path`.
    ///
    /// # Errors
    /// A problem that names the place in it.
    pub fn read(path: &Path, text: &str) -> Result<Baseline, Problem> {
        let hint = "`baseline update` writes such a file from a run";
        let read: Result<Baseline, _> = serde_yaml::from_str(text);
        match read {
            Ok(baseline) if baseline.schema == SCHEMA => Ok(baseline),
            Ok(baseline) => {
                let what = format!("{}: its schema is {:?}", path.display(), baseline.schema);
                Err(Problem::new("--baseline", what).hint(format!("this program reads {SCHEMA}")))
            }
            Err(error) => {
                // The error quotes the file, which a patch can bring.
                let what = line(&format!("{}: {error}", path.display()));
                Err(Problem::new("--baseline", what).hint(hint))
            }
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// When it cannot be written as YAML.
    pub fn text(&self) -> Result<String> {
        Ok(HEAD.to_owned() + &serde_yaml::to_string(self).context("a baseline")?)
    }

    /// This baseline, with what a later run has shown. What the run was not asked for
    /// stays; `gone` says of a test whether it is no more.
    #[must_use]
    pub fn updated(mut self, mut run: Baseline, gone: impl Fn(&str) -> bool) -> Baseline {
        self.tests.retain(|id, _| !gone(id));
        if self.tests.keys().any(|id| !run.tests.contains_key(id)) {
            // What the kernel says while other tests run, it has had no chance to say.
            run.complaints.extend(self.complaints);
        }
        self.tests.extend(run.tests);
        Baseline { tests: self.tests, ..run }
    }
}

impl Standing {
    /// What a run has shown of a test.
    pub fn of(test: &TestResult) -> Standing {
        let traced = test.trace.complete.then(|| test.trace.canonical_sha256.clone()).flatten();
        let differs = may_differ(&test.name);
        Standing {
            verdict: test.verdict,
            known_issue: test.known_issue.clone(),
            assertion: test.assertion.clone(),
            failures: failures(test),
            complaints: complaints(&test.kernel_events),
            operations: match traced {
                Some(_) if !differs => test.trace.operations.clone(),
                _ => BTreeMap::new(),
            },
            trace: traced.map(|digest| if differs { WHOLE.to_owned() } else { digest }),
        }
    }
}

/// What the kernel complained of, by titles that an edit above the place does not
/// change.
fn complaints(events: &[KernelEvent]) -> BTreeSet<String> {
    events.iter().map(|event| without_line(&event.title)).collect()
}

/// What is not good about a test beside its assertion and the kernel's complaints, in
/// words that are the same wherever it fails alike.
fn failures(test: &TestResult) -> BTreeSet<String> {
    let Checks { trace, console, taint, .. } = test.checks;
    let said = test.assertion.is_some() || !test.kernel_events.is_empty();
    let rules = test.trace.violations.iter().map(|broken| format!("rule {}", broken.rule));
    let mut failures: BTreeSet<String> = rules.collect();
    if trace == Check::Bad && test.trace.incomplete.is_some() {
        failures.insert("its trace is incomplete".to_owned());
    }
    if console == Check::Bad && test.kernel_events.is_empty() {
        failures.insert("the console fell silent".to_owned());
    }
    if taint == Check::Bad && test.kernel_events.is_empty() {
        failures.insert("the kernel's counters moved".to_owned());
    }
    if test.guest_lost {
        failures.insert("the guest was lost with it".to_owned());
    }
    match test.verdict {
        // The verdict says it, and how long it took is another each time.
        Verdict::Passed | Verdict::TimedOut | Verdict::NotRun => {}
        _ if said || !failures.is_empty() => {}
        _ => failures.extend(test.reason.lines().next().map(str::to_owned)),
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use crate::report::tests::{colourful, run};
    use crate::results::Violation;

    fn traced(id: &str) -> TestResult {
        let mut test = result(id, Verdict::Passed);
        test.trace.complete = true;
        test.trace.canonical_sha256 = Some("a1".repeat(32));
        let sent = "16 MIGRATE, 16 collect; 1c7b03f2".parse().expect("its form");
        test.trace.operations.insert("to-device".into(), sent);
        test
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut results = colourful();
        results.tests.push(traced("hmm.migrate_fault.private"));
        let baseline = Baseline::of(&results);
        let text = baseline.text().expect("plain data");
        assert_eq!(Baseline::read(Path::new("b.yaml"), &text).expect("ours"), baseline);
        assert!(text.contains("      to-device: 16 MIGRATE, 16 collect; 1c7b03f2\n"), "{text}");
        assert!(!text.contains("duration"), "{text}");
    }

    #[test]
    fn what_is_wrong_in_it_is_named() {
        let read = |text: &str| Baseline::read(Path::new("b.yaml"), text).expect_err("wrong").what;
        assert!(read("schema: hmm-harness/baseline/9\ntests: {}\n").contains("baseline/9"));
        let text = format!("schema: {SCHEMA}\ntests:\n  a.b: {{verdict: splendid}}\n");
        assert!(read(&text).contains("line 3"), "{}", read(&text));
    }

    #[test]
    fn why_a_test_fails_is_told_without_what_changes_each_time() {
        let with = |change: &dyn Fn(&mut TestResult)| {
            let mut test = result("hmm.migrate.private", Verdict::Failed);
            test.reason = "step 9: page 3".into();
            change(&mut test);
            Standing::of(&test)
        };
        let rule = |rule: &str, text: &str| Violation {
            rule: rule.into(),
            step: "9 to-device".into(),
            text: text.into(),
        };
        let one = with(&|test| test.trace.violations = vec![rule("owner", "page 1")]);
        let other = with(&|test| test.trace.violations = vec![rule("owner", "page 2")]);
        assert!(one.why() == other.why());
        let walk = with(&|test| test.trace.violations = vec![rule("walk", "page 1")]);
        assert!(one.why() != walk.why());
        let said = with(&|test| test.assertion = Some("the mirror's data".into()));
        assert!(said.failures.is_empty() && said.why() != one.why());
        let also = with(&|test| {
            test.assertion = Some("the mirror's data".into());
            test.checks.taint = Check::Bad;
        });
        assert!(also.why() != said.why(), "a failure does not hide another");
    }

    #[test]
    fn what_a_run_was_not_asked_for_stays() {
        let ids = ["hmm.migrate.private", "hmm.exclusive.private", "hmm.old.private"];
        let old = Baseline::of(&run(ids.iter().map(|id| traced(id)).collect()));
        let now = run(vec![result("hmm.migrate.private", Verdict::Failed)]);
        let new = old.updated(Baseline::of(&now), |id| id == "hmm.old.private");
        let verdicts: Vec<_> = new.tests.iter().map(|(id, s)| (id.as_str(), s.verdict)).collect();
        assert_eq!(
            verdicts,
            [("hmm.exclusive.private", Verdict::Passed), ("hmm.migrate.private", Verdict::Failed)]
        );
    }

    #[test]
    fn a_trace_that_may_differ_is_only_known_to_be_whole() {
        let standing = Standing::of(&traced("hmm.anon_teardown.private"));
        assert_eq!((standing.trace.as_deref(), standing.operations.len()), (Some(WHOLE), 0));
        assert!(!standing.is_comparable(&standing));
    }
}
