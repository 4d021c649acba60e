//! How a test stands: what of its result is the same from run to run.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Sent, Verdict};

/// What stands in the place of a digest where a trace is whole, and need not be the
/// same each time.
pub(crate) const WHOLE: &str = "whole";

/// What is known of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// What is said of it.
    pub verdict: Verdict,
    /// The known issue that covers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_issue: Option<String>,
    /// The assertion that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<String>,
    /// What else is not good about it, but for complaints of the kernel.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub failures: BTreeSet<String>,
    /// The titles of what the kernel complained of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub complaints: BTreeSet<String>,
    /// The SHA-256 of its canonical trace, or [`WHOLE`]; nothing where the trace is
    /// not known to be whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// What the kernel sends in each operation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, String>"))]
    pub operations: BTreeMap<String, Sent>,
}

impl Standing {
    /// Whether it is passed, or not and that is known.
    pub fn is_good(&self) -> bool {
        self.verdict == Verdict::Passed || self.known_issue.is_some()
    }

    /// Why it is not good. What the kernel complained of is compared apart.
    pub fn why(&self) -> BTreeSet<&str> {
        self.assertion.iter().chain(&self.failures).map(String::as_str).collect()
    }

    /// Whether both came to an end of their own, and to the same kind of end.
    pub fn ended_like(&self, other: &Standing) -> bool {
        let ended = |standing: &Standing| match standing.verdict {
            Verdict::Passed | Verdict::Failed => Some(true),
            Verdict::Skipped => Some(false),
            Verdict::Crashed | Verdict::TimedOut | Verdict::NotRun => None,
        };
        ended(self).is_some() && ended(self) == ended(other)
    }

    /// Whether the traces of both can be compared: both are whole, and neither test
    /// went another way.
    pub fn is_comparable(&self, other: &Standing) -> bool {
        let whole =
            |standing: &Standing| standing.trace.as_deref().is_some_and(|trace| trace != WHOLE);
        self.ended_like(other) && whole(self) && whole(other) && self.assertion == other.assertion
    }
}
