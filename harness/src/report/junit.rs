//! A judgement as the JUnit XML that GitLab, Jenkins and GitHub's reporters read.

use std::time::Duration;

use anyhow::{Context as _, Result};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use super::cases::{Case, State, cases};
use crate::results::Results;

/// The text of `junit.xml`: one suite, whose name is the kernel's release.
///
/// # Errors
/// When it cannot be written as XML.
pub(super) fn text(results: &Results) -> Result<String> {
    let kernel = &results.kernel;
    let release = if kernel.release.is_empty() { "kernel" } else { &kernel.release };
    let mut suite = TestSuite::new(release);
    suite.set_time(Duration::from_millis(results.timing.total_ms));
    for (name, value) in [
        ("source", &kernel.source),
        ("tree", &kernel.tree),
        ("config_sha256", &kernel.config_sha256),
        ("profile", &kernel.profile),
        ("accelerator", &results.machine.accelerator),
        ("qemu_version", &results.machine.qemu_version),
        ("rootfs", &results.machine.rootfs),
    ] {
        suite.add_property(Property::new(name, value.as_str()));
    }
    suite.add_test_cases(cases(results).iter().map(case));
    let mut report = Report::new("hmm-harness");
    report.set_time(Duration::from_millis(results.timing.total_ms)).add_test_suite(suite);
    report.to_string().context("junit.xml")
}

fn case(case: &Case) -> TestCase {
    let bad = |kind: NonSuccessKind, verdict: &str, why: &str| {
        let mut status = TestCaseStatus::non_success(kind);
        let text: Vec<&str> =
            std::iter::once(why).chain(case.details.iter().map(String::as_str)).collect();
        status.set_type(verdict).set_message(why).set_description(text.join("\n"));
        status
    };
    let status = match &case.state {
        State::Passed => TestCaseStatus::success(),
        State::Excused(why) => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(why.as_str());
            status
        }
        State::Failed { verdict, why } => bad(NonSuccessKind::Failure, verdict, why),
        State::Broken { verdict, why } => bad(NonSuccessKind::Error, verdict, why),
    };
    let mut written = TestCase::new(case.name.as_str(), status);
    written.set_classname(case.class.as_str()).set_time(case.took);
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::cases::tests::{colourful, hostile};

    #[test]
    fn what_the_guest_says_is_text_that_xml_can_hold() {
        let xml = text(&hostile()).expect("XML");
        let report = Report::deserialize_from_str(&xml).expect("it is what was written");
        assert_eq!(report.test_suites[0].tests, 17);
        let allowed =
            |c: char| c == '\n' || !(c.is_control() || "\u{fffe}\u{ffff}\u{202e}".contains(c));
        assert!(xml.chars().all(allowed));
        assert!(xml.contains("]]&gt;") && !xml.contains("<script>"), "{xml}");
        assert!(xml.len() < 1 << 18, "{}", xml.len());
    }

    #[test]
    fn whatever_the_kernel_says_it_is_xml_and_says_the_same() {
        let xml = text(&colourful()).expect("XML");
        let report = Report::deserialize_from_str(&xml).expect("it is what was written");
        let [suite] = &report.test_suites[..] else { panic!("one suite") };
        assert_eq!((suite.tests, suite.failures, suite.errors, suite.skipped), (8, 3, 3, 1));
        assert!(!xml.contains('\u{1b}') && !xml.contains('\0'));
        let names: Vec<_> = suite.test_cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(&names[..2], ["open_close", "migrate"]);
    }
}
