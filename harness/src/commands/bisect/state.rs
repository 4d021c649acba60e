//! `bisect.json`: what was asked, judged and found. It is what an interrupted
//! bisect goes on from.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::bisect::{Answer, Change, Question};
use crate::commands::candidates::Candidate;
use crate::plan::Plan;
use crate::rundir::BISECT;
use crate::stop::{AS_EXPECTED, NOT_AS_EXPECTED, NOT_JUDGEABLE};

/// The name of the form that this file has.
const SCHEMA: &str = "hmm-harness/bisect/1";

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    schema: String,
    pub(super) question: Question,
    /// By what each kernel is judged.
    plan: Plan,
    /// The kernels, of which those from one to another are looked at.
    pub(super) candidates: Vec<Candidate>,
    pub(super) from: usize,
    pub(super) to: usize,
    /// In the order in which they were judged.
    pub(super) steps: Vec<Step>,
    /// What came of it, when it has come to its end.
    pub(super) end: Option<End>,
}

/// A kernel that was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) number: usize,
    pub(super) answer: Answer,
    /// The kernel that it is the same as, whose run was taken for it.
    pub(super) same_as: Option<usize>,
    /// That of its run.
    pub(super) exit_code: u8,
    /// How long it took, with its build.
    pub(super) seconds: f64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum End {
    /// This patch.
    Found {
        #[serde(flatten)]
        change: Change,
        /// The commit that it became.
        commit: Option<String>,
    },
    /// This kernel says now one thing and now another.
    Flaky { number: usize, first: String, then: String },
    /// One of these patches.
    Suspects { patches: Vec<usize>, before: String, after: String },
    /// Both ends say the same; what lies between need not.
    Alike { answer: String, changes: Vec<Change> },
    /// Less than two kernels can be judged.
    Nothing,
}

impl End {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            End::Found { .. } => AS_EXPECTED,
            End::Flaky { .. } | End::Alike { .. } => NOT_AS_EXPECTED,
            End::Suspects { .. } | End::Nothing => NOT_JUDGEABLE,
        }
    }
}

impl State {
    pub(super) fn new(
        question: Question,
        plan: &Plan,
        candidates: &[Candidate],
        from: usize,
        to: usize,
    ) -> State {
        State {
            schema: SCHEMA.to_owned(),
            question,
            plan: plan.clone(),
            candidates: candidates.to_vec(),
            from,
            to,
            steps: Vec::new(),
            end: None,
        }
    }

    /// That of an earlier bisect; `None` if there is none that can be understood.
    pub(super) fn read(dir: &Path) -> Option<State> {
        let text = fs::read_to_string(dir.join(BISECT)).ok()?;
        serde_json::from_str(&text).ok().filter(|state: &State| state.schema == SCHEMA)
    }

    /// Whether it is about the same as another one.
    pub(super) fn is_of(&self, other: &State) -> bool {
        let fresh = State { steps: Vec::new(), end: None, ..self.clone() };
        fresh == State { steps: Vec::new(), end: None, ..other.clone() }
    }

    /// What the file says.
    pub(super) fn json(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).context(BISECT)?;
        text.push('\n');
        Ok(text)
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(BISECT);
        let draft = dir.join(format!("{BISECT}.new"));
        fs::write(&draft, self.json()?)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// What the kernels say, counted from the first that is looked at.
    pub(super) fn answers(&self) -> BTreeMap<usize, Answer> {
        self.steps.iter().map(|step| (step.number - self.from, step.answer.clone())).collect()
    }

    /// A change with the kernel's own number.
    pub(super) fn absolute(&self, change: Change) -> Change {
        Change { at: self.from + change.at, ..change }
    }

    /// What is to be said if a kernel says something else than it did.
    pub(super) fn confirm(&self, number: usize, again: &Answer) -> Option<End> {
        let first = &self.steps.iter().find(|step| step.number == number)?.answer;
        (first != again).then(|| End::Flaky {
            number,
            first: first.to_string(),
            then: again.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Wishes, resolve};

    fn state(identities: &[&str]) -> State {
        let plan = resolve(Wishes::default(), &["default"]).expect("defaults");
        let candidate = |(number, identity): (usize, &&str)| Candidate {
            number,
            subject: "the same".into(),
            author: None,
            identity: (*identity).to_owned(),
        };
        let all: Vec<Candidate> = identities.iter().enumerate().map(candidate).collect();
        State::new(Question::Crash("x".into()), &plan, &all, 0, all.len() - 1)
    }

    #[test]
    fn a_bisect_goes_on_only_with_the_same_patches() {
        let mut begun = state(&["", "a", "b"]);
        let answer = Answer::Is("it does not".into());
        begun.steps.push(Step { number: 0, answer, same_as: None, exit_code: 0, seconds: 1.5 });
        assert!(begun.is_of(&state(&["", "a", "b"])));
        assert!(!begun.is_of(&state(&["", "a", "c"])), "another patch under the same subject");
        let dir = tempfile::tempdir().expect("a temporary directory");
        begun.write(dir.path()).expect("writable");
        assert_eq!(State::read(dir.path()), Some(begun));
        fs::write(dir.path().join(BISECT), "{").expect("writable");
        assert_eq!(State::read(dir.path()), None);
    }

    #[test]
    fn an_answer_that_does_not_stand_is_flaky() {
        let mut begun = state(&["", "a"]);
        let is = |what: &str| Answer::Is(what.into());
        let step = Step { number: 1, answer: is("b"), same_as: None, exit_code: 0, seconds: 1.0 };
        begun.steps.push(step);
        assert_eq!(begun.confirm(1, &is("b")), None);
        let end = begun.confirm(1, &Answer::Flickers("x".into())).expect("another answer");
        assert_eq!(end.exit_code(), NOT_AS_EXPECTED);
    }
}
