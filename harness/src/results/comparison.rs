//! What is worse in a run than in another, or than in a baseline, and what is better.

use serde::{Deserialize, Serialize};

use super::sent::otherwise;

/// How many tests of a change are named before the rest is counted.
const NAMED: usize = 6;

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Comparison {
    /// The name of the form that it has as JSON.
    pub(crate) schema: String,
    /// What was not the same before anything was tested: kernel, configuration,
    /// machine.
    pub given: Vec<Given>,
    /// What is worse in the second.
    pub worse: Vec<Change>,
    /// What would be worse, had the plan not allowed it.
    pub allowed: Vec<Change>,
    /// What the plan allows and nothing shows.
    #[serde(default)]
    pub unseen: Vec<String>,
    /// What is better in the second.
    pub better: Vec<Change>,
    /// What is neither.
    pub other: Vec<Change>,
    /// How many tests both have.
    pub compared: usize,
}

/// Something that was not the same from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Given {
    /// What: `kernel`, `configuration`.
    pub what: String,
    /// In the first.
    pub before: String,
    /// In the second.
    pub after: String,
}

/// Something that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change {
    /// The tests that show it; none for what belongs to no test.
    pub tests: Vec<String>,
    /// What it is about.
    pub about: About,
    /// For a trace: the operation in which the kernel sends something else.
    pub operation: Option<String>,
    /// How it was; of a trace, the events that there are fewer of now.
    pub before: String,
    /// How it is; of a trace, the events that there are more of now.
    pub after: String,
    /// What shows it: the assertion, the kernel's words, the lines of a trace.
    pub evidence: Vec<String>,
}

/// What a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The verdict on a test, or whether there is one.
    Verdict,
    /// Why a test fails.
    Failure,
    /// What the kernel says on its console.
    Console,
    /// Which notifier events the kernel sends.
    Trace,
    /// Whether the trace is known to be whole.
    Capture,
    /// What went wrong outside of all tests.
    Run,
}

impl Change {
    pub(crate) fn of(id: &str, about: About, before: &str, after: &str) -> Change {
        let tests = Some(id).filter(|id| !id.is_empty()).map(str::to_owned).into_iter().collect();
        let (before, after) = (before.to_owned(), after.to_owned());
        Change { tests, about, operation: None, before, after, evidence: Vec::new() }
    }

    pub(crate) fn with(self, evidence: Vec<String>) -> Change {
        Change { evidence, ..self }
    }

    /// The tests that show it, in a few words.
    pub fn shown_by(&self) -> String {
        match self.tests.as_slice() {
            [] => "outside any test".to_owned(),
            tests => {
                let named = tests[..tests.len().min(NAMED)].join(", ");
                let rest = tests.len().saturating_sub(NAMED);
                if rest == 0 { named } else { format!("{named} and {rest} more") }
            }
        }
    }

    /// What it is, without the tests that show it: `to-device: CLEAR -> MIGRATE`.
    pub fn in_a_line(&self) -> String {
        let Change { about, operation, before, after, .. } = self;
        match (about, operation) {
            (About::Trace, Some(operation)) => {
                format!("{operation}: {}", otherwise(before, after))
            }
            (About::Console, _) if after == "in silence" => format!("no more {before}"),
            (About::Console, _) => after.clone(),
            (About::Failure, _) => format!("fails otherwise: {}", otherwise(before, after)),
            (About::Run, _) if after == "nothing" => format!("no more: {before}"),
            (About::Run, _) => after.clone(),
            (About::Capture, _) => format!("its trace is {after}"),
            (About::Trace | About::Verdict, _) => format!("{before} -> {after}"),
        }
    }
}
