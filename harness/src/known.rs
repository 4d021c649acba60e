//! Known issues: failures that were understood and are not ours to mend.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::embedded;
use crate::results::{Check, TestResult, Verdict};

/// Where they are written down, in the repository.
const FILE: &str = "ci/known-issues.yaml";

/// One of them. It covers one way in which one test fails; another failure of
/// the same test is news.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownIssue {
    /// Its name, for reports.
    pub id: String,
    /// The id of the test.
    pub test: String,
    /// The kernels that have it.
    pub kernel: KernelRange,
    /// The verdict that it leads to.
    pub verdict: Verdict,
    /// The assertion's message or the crash's title, word for word.
    #[serde(rename = "match")]
    pub matches: String,
    /// Why it happens.
    pub reason: String,
    /// What shows it.
    pub evidence: String,
    /// When to look whether it is still so.
    pub look_again: String,
}

/// A range of kernel versions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelRange {
    /// The first that has it.
    pub from: String,
    /// The first after it that does not: a range without an end would excuse
    /// every kernel to come.
    pub until: String,
}

impl KnownIssue {
    /// Whether it explains all of a result on a kernel of this release.
    pub(crate) fn covers(&self, result: &TestResult, release: &str) -> bool {
        let tested = version(release);
        let said = result.assertion.as_deref();
        let is_assertion = said == Some(self.matches.as_str());
        let only_said = result.kernel_events.is_empty()
            && result.checks.taint != Check::Bad
            && result.checks.trace != Check::Bad;
        // What a crash cuts off is its own doing; what is there breaks no rule.
        let only_complaint = !result.kernel_events.is_empty()
            && result.trace.violations.is_empty()
            && result.kernel_events.iter().all(|event| event.title == self.matches)
            && said.is_none();
        self.test == result.id
            && self.verdict == result.verdict
            && version(&self.kernel.from) <= tested
            && tested < version(&self.kernel.until)
            && ((is_assertion && only_said) || only_complaint)
    }
}

/// The issues that this binary knows.
///
/// # Errors
/// When the file is not well formed.
pub fn known_issues() -> Result<Vec<KnownIssue>> {
    let text = embedded::text(FILE).with_context(|| format!("{FILE} is not in this binary"))?;
    serde_yaml::from_str(text).context(FILE)
}

/// The numbers of a release: `6.12.117-x` is (6, 12, 117).
fn version(release: &str) -> (u32, u32, u32) {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use crate::results::{KernelEvent, Violation};

    #[test]
    fn the_file_is_well_formed() {
        known_issues().expect("ci/known-issues.yaml");
    }

    #[test]
    fn only_the_same_failure_on_the_same_kernels_is_covered() {
        let issue = KnownIssue {
            id: "zero-page".into(),
            test: "hmm.migrate.private".into(),
            kernel: KernelRange { from: "6.1".into(), until: "6.13".into() },
            verdict: Verdict::Failed,
            matches: "the mirror's data".into(),
            reason: "a reason".into(),
            evidence: "a log".into(),
            look_again: "2027-01-01".into(),
        };
        let said = |id: &str, verdict: Verdict, words: &str| TestResult {
            assertion: Some(words.into()),
            ..result(id, verdict)
        };
        let failed = said("hmm.migrate.private", Verdict::Failed, "the mirror's data");
        assert!(issue.covers(&failed, "6.12.117"));
        assert!(!issue.covers(&failed, "6.13.0"), "the range has an end");
        assert!(!issue.covers(&failed, "6.0.9"), "and a beginning");
        let otherwise = said("hmm.migrate.private", Verdict::Failed, "cpages of MIGRATE");
        assert!(!issue.covers(&otherwise, "6.12.117"));
        let crashed = said("hmm.migrate.private", Verdict::Crashed, "the mirror's data");
        assert!(!issue.covers(&crashed, "6.12.117"));
        let mut with_a_report = failed.clone();
        with_a_report.kernel_events.push(KernelEvent {
            id: "kasan".into(),
            class: "sanitizer".into(),
            title: "BUG: KASAN: use-after-free in f".into(),
            line: 1,
            trace: Vec::new(),
        });
        assert!(!issue.covers(&with_a_report, "6.12.117"), "the report is news");
        let mut traced = failed.clone();
        traced.checks.trace = Check::Bad;
        assert!(!issue.covers(&traced, "6.12.117"), "what the trace shows is news");
        let complained = |violations: Vec<Violation>| {
            let mut result = with_a_report.clone();
            result.assertion = None;
            result.trace.violations = violations;
            let matches = result.kernel_events[0].title.clone();
            KnownIssue { matches, ..issue.clone() }.covers(&result, "6.12.117")
        };
        assert!(complained(Vec::new()));
        let broken = Violation { rule: "owner".into(), step: String::new(), text: String::new() };
        assert!(!complained(vec![broken]), "the broken rule is news");
        let other = said("hmm.migrate.coherent", Verdict::Failed, "the mirror's data");
        assert!(!issue.covers(&other, "6.12.117"));
    }
}
