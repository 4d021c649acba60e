//! Two canonical traces side by side: which operations differ, and in which
//! lines.
//!
//! Steps are aligned by their text, and where that differs by their operation;
//! lines only within steps that belong together. So a step in which everything
//! is new does not tear apart those around it.

/// The most pairs of lines that are compared to find the best alignment of what
/// differs. Beyond that what is in between counts as different as a whole.
const MOST_PAIRS: usize = 400_000_000;

/// A step of a canonical trace: the line that begins at column 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// Its operation: `to-device`.
    pub op: &'a str,
    /// The whole line: `to-device dmirror0 buffer[0..4)`.
    pub text: &'a str,
}

/// A step of one trace and what belongs to it in the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepDiff<'a> {
    /// The step in the first trace, unless only the second has it.
    pub left: Option<Step<'a>>,
    /// The step in the second trace, unless only the first has it.
    pub right: Option<Step<'a>>,
    /// What the kernel did in it, without the step's own line.
    pub chunks: Vec<Chunk<'a>>,
}

/// Lines in a row that are all the same in both traces, or all different. A
/// different chunk stands between equal ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Both have these.
    Equal(Vec<&'a str>),
    /// Where one has these, the other has those; one of them may be empty.
    Differs {
        /// Of the first trace.
        left: Vec<&'a str>,
        /// Of the second.
        right: Vec<&'a str>,
    },
}

impl StepDiff<'_> {
    /// Whether both traces have the step, and the same lines in it.
    pub fn is_equal(&self) -> bool {
        self.left == self.right && self.chunks.iter().all(|chunk| matches!(chunk, Chunk::Equal(_)))
    }
}

/// Compares two canonical traces: all their steps, in order, equal or not.
pub fn diff<'a>(a: &'a str, b: &'a str) -> Vec<StepDiff<'a>> {
    let (a, b) = (steps(a), steps(b));
    let mut out = Vec::new();
    let same_text = |left: &Block, right: &Block| left.step.text == right.step.text;
    for part in align(&a, &b, same_text) {
        match part {
            Part::Same(left, right) => {
                out.extend(left.iter().zip(right).map(|(l, r)| between(Some(l), Some(r))));
            }
            // Not the same words; perhaps the same operation on other pages.
            Part::Other(left, right) => {
                for part in align(left, right, |l, r| l.step.op == r.step.op) {
                    match part {
                        Part::Same(left, right) => out
                            .extend(left.iter().zip(right).map(|(l, r)| between(Some(l), Some(r)))),
                        Part::Other(left, right) => {
                            out.extend(left.iter().map(|l| between(Some(l), None)));
                            out.extend(right.iter().map(|r| between(None, Some(r))));
                        }
                    }
                }
            }
        }
    }
    out
}

/// A step with its lines.
struct Block<'a> {
    step: Step<'a>,
    lines: Vec<&'a str>,
}

fn steps(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block> = Vec::new();
    for line in text.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with(' ') => block.lines.push(line),
            // What comes before the first step belongs to none.
            _ if line.starts_with(' ') => {
                blocks.push(Block { step: Step { op: "", text: "" }, lines: vec![line] });
            }
            _ => {
                let op = line.split(' ').next().unwrap_or(line);
                blocks.push(Block { step: Step { op, text: line }, lines: Vec::new() });
            }
        }
    }
    blocks
}

fn between<'a>(left: Option<&Block<'a>>, right: Option<&Block<'a>>) -> StepDiff<'a> {
    let lines = |block: Option<&Block<'a>>| block.map(|b| b.lines.clone()).unwrap_or_default();
    let (left_lines, right_lines) = (lines(left), lines(right));
    let chunks = align(&left_lines, &right_lines, |l, r| l == r)
        .into_iter()
        .map(|part| match part {
            Part::Same(lines, _) => Chunk::Equal(lines.to_vec()),
            Part::Other(l, r) => Chunk::Differs { left: l.to_vec(), right: r.to_vec() },
        })
        .collect();
    StepDiff { left: left.map(|b| b.step), right: right.map(|b| b.step), chunks }
}

/// A part of two sequences.
enum Part<'s, T> {
    /// As many of each, and they are the same one by one.
    Same(&'s [T], &'s [T]),
    Other(&'s [T], &'s [T]),
}

/// Cuts two sequences into what they have in common, as much as possible, and
/// what they have not, in turns.
fn align<'s, T>(a: &'s [T], b: &'s [T], same: impl Fn(&T, &T) -> bool) -> Vec<Part<'s, T>> {
    let before = a.iter().zip(b).take_while(|(l, r)| same(l, r)).count();
    let (rest_a, rest_b) = (&a[before..], &b[before..]);
    let behind = rest_a.iter().rev().zip(rest_b.iter().rev()).take_while(|(l, r)| same(l, r));
    let behind = behind.count();
    let middle = (&rest_a[..rest_a.len() - behind], &rest_b[..rest_b.len() - behind]);
    let mut pairs: Vec<(usize, usize)> = (0..before).map(|n| (n, n)).collect();
    if middle.0.len().saturating_mul(middle.1.len()) <= MOST_PAIRS {
        common(middle.0, middle.1, &same, (before, before), &mut pairs);
    }
    pairs.extend((0..behind).map(|n| (a.len() - behind + n, b.len() - behind + n)));

    let mut parts = Vec::new();
    let (mut at_a, mut at_b) = (0, 0);
    let mut rest = pairs.as_slice();
    loop {
        let (to_a, to_b) = rest.first().copied().unwrap_or((a.len(), b.len()));
        if at_a < to_a || at_b < to_b {
            parts.push(Part::Other(&a[at_a..to_a], &b[at_b..to_b]));
        }
        let run = (0..).zip(rest).take_while(|(n, pair)| **pair == (to_a + n, to_b + n)).count();
        if run == 0 {
            return parts;
        }
        (at_a, at_b) = (to_a + run, to_b + run);
        parts.push(Part::Same(&a[to_a..at_a], &b[to_b..at_b]));
        rest = &rest[run..];
    }
}

/// The pairs of a longest common subsequence, in order. Hirschberg's way: twice
/// the time of the plain one, and memory for a line of it only.
fn common<T>(
    a: &[T],
    b: &[T],
    same: &impl Fn(&T, &T) -> bool,
    (from_a, from_b): (usize, usize),
    pairs: &mut Vec<(usize, usize)>,
) {
    match a {
        [] => {}
        [one] => {
            let found = b.iter().position(|other| same(one, other));
            pairs.extend(found.map(|at| (from_a, from_b + at)));
        }
        _ => {
            let half = a.len() / 2;
            let before = lengths(a[..half].iter(), b.iter(), same);
            let behind = lengths(a[half..].iter().rev(), b.iter().rev(), same);
            let both = |at: &usize| before[*at] + behind[b.len() - at];
            let cut = (0..=b.len()).max_by_key(both).unwrap_or(0);
            common(&a[..half], &b[..cut], same, (from_a, from_b), pairs);
            common(&a[half..], &b[cut..], same, (from_a + half, from_b + cut), pairs);
        }
    }
}

/// How long the longest common subsequence of `a` and the first n of `b` is, for
/// each n.
fn lengths<'s, T: 's>(
    a: impl Iterator<Item = &'s T>,
    b: impl Iterator<Item = &'s T> + Clone,
    same: &impl Fn(&T, &T) -> bool,
) -> Vec<u32> {
    let mut row = vec![0; b.clone().count() + 1];
    for one in a {
        let mut diagonal = 0;
        for (n, other) in b.clone().enumerate() {
            let above = row[n + 1];
            row[n + 1] = if same(one, other) { diagonal + 1 } else { above.max(row[n]) };
            diagonal = above;
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLEAN: &str = "\
open dmirror0
  insert dmirror0 everything
to-device dmirror0 buffer[0..4)
  MIGRATE buffer[0..4) owner dmirror0
    callback dmirror0
    collect buffer[0..4)
exit
  release mm0
";

    #[test]
    fn a_trace_is_like_itself() {
        let steps = diff(CLEAN, CLEAN);
        assert_eq!(steps.len(), 3);
        assert!(steps.iter().all(StepDiff::is_equal));
        assert!(diff("", "").is_empty());
    }

    #[test]
    fn a_step_that_differs_says_in_which_lines() {
        let buggy = CLEAN.replace("    callback dmirror0\n", "");
        let steps = diff(CLEAN, &buggy);
        let differ: Vec<_> = steps.iter().filter(|step| !step.is_equal()).collect();
        assert_eq!(differ.len(), 1);
        assert_eq!(differ[0].left.map(|step| step.op), Some("to-device"));
        assert_eq!(
            differ[0].chunks,
            [
                Chunk::Equal(vec!["  MIGRATE buffer[0..4) owner dmirror0"]),
                Chunk::Differs { left: vec!["    callback dmirror0"], right: vec![] },
                Chunk::Equal(vec!["    collect buffer[0..4)"]),
            ]
        );
    }

    #[test]
    fn steps_are_told_apart_by_their_words_and_paired_by_their_operation() {
        let other = CLEAN.replace("[0..4)", "[0..2)").replace("exit", "close dmirror0\nexit");
        let steps = diff(CLEAN, &other);
        let pairs: Vec<_> = steps
            .iter()
            .map(|step| (step.left.map(|s| s.text), step.right.map(|s| s.text), step.is_equal()))
            .collect();
        let (before, after) =
            ("to-device dmirror0 buffer[0..4)", "to-device dmirror0 buffer[0..2)");
        assert_eq!(
            pairs,
            [
                (Some("open dmirror0"), Some("open dmirror0"), true),
                (Some(before), Some(after), false),
                (None, Some("close dmirror0"), false),
                (Some("exit"), Some("exit"), true),
            ]
        );
    }

    #[test]
    fn two_long_traces_that_have_nothing_in_common_are_told_in_time() {
        let long = |word: &str| {
            let lines: String = (0..30_000).map(|n| format!("  {word} {n}\n")).collect();
            format!("cpu-read\n{lines}")
        };
        let (a, b) = (long("CLEAR"), long("UNMAP"));
        assert!(matches!(diff(&a, &b)[0].chunks.as_slice(), [Chunk::Differs { left, right }]
            if left.len() == 30_000 && right.len() == 30_000));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_made_up(
            a in prop::collection::vec(prop::sample::select(vec!["x", "  1", "  2", "y z"]), 0..40),
            b in prop::collection::vec(prop::sample::select(vec!["x", "  1", "  2", "y w"]), 0..40),
        ) {
            let (a, b) = (a.join("\n"), b.join("\n"));
            let steps = diff(&a, &b);
            let side = |right: bool| -> Vec<&str> {
                steps.iter().flat_map(|step| {
                    let head = if right { step.right } else { step.left };
                    let lines = step.chunks.iter().flat_map(move |chunk| match chunk {
                        Chunk::Equal(lines) => lines,
                        Chunk::Differs { left, .. } if !right => left,
                        Chunk::Differs { right, .. } => right,
                    });
                    head.map(|step| step.text).into_iter().filter(|t| !t.is_empty()).chain(lines.copied())
                }).collect()
            };
            prop_assert_eq!(side(false), a.lines().collect::<Vec<_>>());
            prop_assert_eq!(side(true), b.lines().collect::<Vec<_>>());
            prop_assert_eq!(steps.iter().all(StepDiff::is_equal), a == b);
        }
    }
}
