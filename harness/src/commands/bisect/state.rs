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
    /// Those of which several turns have said the same again.
    #[serde(default)]
    confirmed: Vec<usize>,
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
            End::Flaky { .. } | End::Alike { .. } | End::Nothing => NOT_AS_EXPECTED,
            End::Suspects { .. } => NOT_JUDGEABLE,
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
            confirmed: Vec::new(),
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
        let begun = |state: &State| State {
            steps: Vec::new(),
            confirmed: Vec::new(),
            end: None,
            ..state.clone()
        };
        begun(self) == begun(other)
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

    /// The kernels on whose answers an end rests, and of which it is not known yet
    /// that they say the same in several turns.
    pub(super) fn to_confirm(&self, end: &End) -> Vec<usize> {
        let known = |before: usize| {
            let steps = self.steps.iter().filter(|step| matches!(step.answer, Answer::Is(_)));
            steps.map(|step| step.number).filter(|number| *number < before).max()
        };
        let around = |at: usize| [known(at), Some(at)].into_iter().flatten();
        let mut numbers: Vec<usize> = match end {
            End::Found { change, .. } => around(change.at).collect(),
            End::Suspects { patches, .. } => {
                let bounds = patches.first().zip(patches.last());
                bounds.into_iter().flat_map(|(first, last)| [first - 1, *last]).collect()
            }
            End::Alike { changes, .. } => {
                changes.iter().flat_map(|change| around(change.at)).collect()
            }
            End::Flaky { .. } | End::Nothing => Vec::new(),
        };
        numbers.dedup();
        numbers.retain(|number| !self.confirmed.contains(number));
        numbers
    }

    /// Takes what several turns have said; what there is to say if that is something
    /// else than before.
    pub(super) fn confirm(&mut self, number: usize, again: &Answer) -> Option<End> {
        let first = &self.steps.iter().find(|step| step.number == number)?.answer;
        if first == again {
            self.confirmed.push(number);
            return None;
        }
        let (first, then) = (first.to_string(), again.to_string());
        Some(End::Flaky { number, first, then })
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
    fn every_end_rests_on_what_is_on_both_sides() {
        let mut begun = state(&["", "a", "b", "c"]);
        let unknown = || Answer::Unknown("x".into());
        let is = |what: &str| Answer::Is(what.into());
        for (number, answer) in [is("a"), unknown(), is("b"), is("a")].into_iter().enumerate() {
            begun.steps.push(Step { number, answer, same_as: None, exit_code: 0, seconds: 1.0 });
        }
        let (before, after) = ("a".to_owned(), "b".to_owned());
        let patches = vec![1, 2];
        let suspects = End::Suspects { patches, before: before.clone(), after: after.clone() };
        assert_eq!(begun.to_confirm(&suspects), [0, 2]);
        let there = Change { at: 2, before: before.clone(), after: after.clone() };
        let back = Change { at: 3, before: after, after: before };
        let alike = End::Alike { answer: "a".into(), changes: vec![there, back] };
        assert_eq!(begun.to_confirm(&alike), [0, 2, 3]);
    }

    #[test]
    fn an_answer_that_does_not_stand_is_flaky() {
        let mut begun = state(&["", "a"]);
        let is = |what: &str| Answer::Is(what.into());
        let step = Step { number: 1, answer: is("b"), same_as: None, exit_code: 0, seconds: 1.0 };
        begun.steps.push(step);
        let change = Change { at: 1, before: "a".into(), after: "b".into() };
        let found = End::Found { change, commit: None };
        let first = Step { number: 0, answer: is("a"), ..begun.steps[0].clone() };
        begun.steps.push(first);
        assert_eq!(begun.to_confirm(&found), [0, 1]);
        assert_eq!(begun.confirm(0, &is("a")), None);
        assert_eq!(begun.to_confirm(&found), [1], "it goes on after what was confirmed");
        let end = begun.confirm(1, &Answer::Flickers("x".into())).expect("another answer");
        assert_eq!(end.exit_code(), NOT_AS_EXPECTED);
    }
}
