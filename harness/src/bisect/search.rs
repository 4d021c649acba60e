//! Which kernel to judge next, until a change is found between two neighbours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::question::Answer;

/// A change between a kernel and the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The kernel with the change; what it adds is the patch of this number.
    pub at: usize,
    /// What the kernel before it says.
    pub before: String,
    /// What it says.
    pub after: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Judge this kernel.
    Judge(usize),
    /// Between the ends there is a change, and this is it.
    Found(Change),
    /// It is one of these, of which none can be judged but the last.
    Suspects {
        /// The patches.
        patches: Vec<usize>,
        /// What the kernel before them says.
        before: String,
        /// What the last of them says.
        after: String,
    },
    /// The ends say the same, and these are all changes between them.
    Alike {
        /// What both ends say.
        answer: String,
        /// The changes; what cannot be judged is passed over.
        changes: Vec<Change>,
    },
    /// Less than two kernels can be judged.
    Nothing,
}

/// Kernels are numbered from 0, the base, to `last`.
pub fn next(last: usize, answers: &BTreeMap<usize, Answer>) -> Next {
    let end = |numbers: &mut dyn Iterator<Item = usize>| {
        for number in numbers {
            match answers.get(&number) {
                None => return Err(number),
                Some(Answer::Is(what)) => return Ok(Some((number, what))),
                Some(Answer::Flickers(_) | Answer::Unknown(_)) => {}
            }
        }
        Ok(None)
    };
    let (old, new) = match (end(&mut (0..=last)), end(&mut (0..=last).rev())) {
        (Err(number), _) | (_, Err(number)) => return Next::Judge(number),
        (Ok(Some(old)), Ok(Some(new))) if old.0 < new.0 => (old, new),
        _ => return Next::Nothing,
    };
    if old.1 == new.1 { alike(old, new.0, answers) } else { between(old, new, answers) }
}

/// Halves what lies between two kernels that differ.
fn between<'a>(
    mut old: (usize, &'a String),
    mut new: (usize, &'a String),
    answers: &'a BTreeMap<usize, Answer>,
) -> Next {
    for (number, answer) in answers.range(old.0 + 1..new.0) {
        match answer {
            Answer::Is(what) if what == old.1 => old = (*number, what),
            Answer::Is(what) => {
                new = (*number, what);
                break;
            }
            Answer::Flickers(_) | Answer::Unknown(_) => {}
        }
    }
    let middle = old.0.midpoint(new.0);
    let open = (old.0 + 1..new.0).filter(|number| !answers.contains_key(number));
    if let Some(number) = open.min_by_key(|number| number.abs_diff(middle)) {
        return Next::Judge(number);
    }
    let (before, after) = (old.1.clone(), new.1.clone());
    if old.0 + 1 == new.0 {
        Next::Found(Change { at: new.0, before, after })
    } else {
        Next::Suspects { patches: (old.0 + 1..=new.0).collect(), before, after }
    }
}

/// Looks at every kernel between two that say the same.
fn alike(old: (usize, &String), new: usize, answers: &BTreeMap<usize, Answer>) -> Next {
    let mut changes = Vec::new();
    let mut before = old.1;
    for number in old.0 + 1..=new {
        match answers.get(&number) {
            None => return Next::Judge(number),
            Some(Answer::Is(after)) if after != before => {
                changes.push(Change { at: number, before: before.clone(), after: after.clone() });
                before = after;
            }
            Some(_) => {}
        }
    }
    Next::Alike { answer: old.1.clone(), changes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(what: &str) -> Answer {
        match what {
            "?" => Answer::Unknown("it does not build".into()),
            what => Answer::Is(what.into()),
        }
    }

    /// Judges what is asked for until there is an end of it, and counts.
    fn search(kernels: &[&str]) -> (Next, usize) {
        let mut answers = BTreeMap::new();
        loop {
            match next(kernels.len() - 1, &answers) {
                Next::Judge(number) => {
                    let before = answers.insert(number, answer(kernels[number]));
                    assert_eq!(before, None, "kernel {number} is judged twice");
                }
                end => return (end, answers.len()),
            }
        }
    }

    fn change(at: usize, before: &str, after: &str) -> Change {
        Change { at, before: before.into(), after: after.into() }
    }

    #[test]
    fn a_change_is_found_between_its_neighbours() {
        let found = |at, before, after| Next::Found(change(at, before, after));
        assert_eq!(search(&["a", "b"]), (found(1, "a", "b"), 2));
        assert_eq!(search(&["a", "a", "a", "b", "b", "b", "b", "b"]).0, found(3, "a", "b"));
        let mut many = vec!["a"; 1000];
        many[700..].fill("b");
        let (end, judged) = search(&many);
        assert_eq!(end, found(700, "a", "b"));
        assert!(judged <= 13, "{judged}");
        // In several steps, the first is told.
        assert_eq!(search(&["a", "a", "c", "b"]).0, found(2, "a", "c"));
    }

    #[test]
    fn what_cannot_be_judged_is_skipped() {
        assert_eq!(search(&["a", "?", "a", "b"]).0, Next::Found(change(3, "a", "b")));
        assert_eq!(search(&["?", "a", "b", "?"]).0, Next::Found(change(2, "a", "b")));
        let suspects =
            Next::Suspects { patches: vec![2, 3, 4], before: "a".into(), after: "b".into() };
        assert_eq!(search(&["a", "a", "?", "?", "b", "b"]).0, suspects);
        for kernels in [&["a", "?", "?"][..], &["a"], &["?"]] {
            assert_eq!(search(kernels).0, Next::Nothing);
        }
    }

    #[test]
    fn between_ends_that_are_alike_every_change_is_told() {
        let alike = |changes| Next::Alike { answer: "a".into(), changes };
        assert_eq!(search(&["a", "a", "a"]), (alike(vec![]), 3));
        assert_eq!(
            search(&["a", "b", "?", "b", "a"]).0,
            alike(vec![change(1, "a", "b"), change(4, "b", "a")])
        );
    }

    proptest! {
        #[test]
        fn every_search_ends_at_a_true_change(
            kernels in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "?"]), 1..40),
        ) {
            let (end, judged) = search(&kernels);
            prop_assert!(judged <= kernels.len());
            match end {
                Next::Found(Change { at, before, after }) => {
                    prop_assert_eq!(kernels[at - 1], before.as_str());
                    prop_assert_eq!(kernels[at], after.as_str());
                    prop_assert_ne!(before, after);
                }
                Next::Suspects { patches, before, after } => {
                    let (first, last) = (patches[0], patches[patches.len() - 1]);
                    prop_assert_eq!(kernels[first - 1], before.as_str());
                    prop_assert_eq!(kernels[last], after.as_str());
                    prop_assert!(kernels[first..last].iter().all(|kernel| *kernel == "?"));
                    prop_assert!(first < last);
                }
                Next::Alike { changes, .. } => {
                    let known: Vec<&str> =
                        kernels.iter().copied().filter(|kernel| *kernel != "?").collect();
                    let count = known.windows(2).filter(|pair| pair[0] != pair[1]).count();
                    prop_assert_eq!(changes.len(), count);
                }
                Next::Nothing => {
                    prop_assert!(kernels.iter().filter(|kernel| **kernel != "?").count() < 2);
                }
                Next::Judge(_) => unreachable!("it has ended"),
            }
        }
    }
}
