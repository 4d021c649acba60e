//! Two canonical traces side by side, as text: what is the same is folded.

use crate::trace::diff::{Chunk, StepDiff, diff};

/// As many equal lines are shown before and behind what differs.
const BEFORE: usize = 2;
const BEHIND: usize = 1;

/// How many places of a step, and lines of a place, are shown.
const PLACES: usize = 8;
const LINES: usize = 24;

/// As many places in a row that differ alike are shown.
const ALIKE: usize = 2;

/// The widest that the left column gets before lines stick out of it.
const WIDEST: usize = 60;

/// A line of both sides.
enum Line {
    /// Left, mark, right.
    Both(String, char, String),
    /// Across both.
    Across(String),
}

/// The steps of two traces with what differs in them.
pub(in crate::commands) fn side_by_side(a: &str, b: &str) -> String {
    let steps = diff(a, b);
    let mut lines = Vec::new();
    for group in steps.chunk_by(|one, next| one.is_equal() && next.is_equal()) {
        match group {
            [step] if !step.is_equal() => differing(step, &mut lines),
            equal => {
                let name = |step: &StepDiff| step.left.map_or("", |step| step.text).to_owned();
                let text = match equal {
                    [] => continue,
                    [one] => format!("= {}", name(one)),
                    [first, .., last] => {
                        format!("= {} equal steps: {} to {}", equal.len(), name(first), name(last))
                    }
                };
                lines.push(Line::Across(text));
            }
        }
    }
    let width = |line: &Line| match line {
        Line::Both(left, _, _) => left.chars().count(),
        Line::Across(_) => 0,
    };
    let width = lines.iter().map(width).max().unwrap_or(0).min(WIDEST);
    let mut text = String::new();
    for line in lines {
        let line = match line {
            Line::Both(left, mark, right) => format!("  {left:<width$} {mark} {right}"),
            Line::Across(words) => words,
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&closing(&steps));
    text
}

fn closing(steps: &[StepDiff]) -> String {
    let differ: Vec<&StepDiff> = steps.iter().filter(|step| !step.is_equal()).collect();
    if differ.is_empty() {
        return format!("equal: all {} steps\n", steps.len());
    }
    let mut ops: Vec<&str> = Vec::new();
    for step in differ.iter().filter_map(|step| step.left.or(step.right)) {
        if !ops.contains(&step.op) {
            ops.push(step.op);
        }
    }
    format!("{} of {} steps differ: {}\n", differ.len(), steps.len(), ops.join(", "))
}

fn differing(step: &StepDiff, lines: &mut Vec<Line>) {
    let text = |side: Option<crate::trace::diff::Step>| side.map_or("", |s| s.text).to_owned();
    let mark = match (step.left, step.right) {
        (Some(left), Some(right)) if left == right => ' ',
        (Some(_), Some(_)) => '|',
        (Some(_), None) => '<',
        (None, _) => '>',
    };
    lines.push(Line::Both(text(step.left), mark, text(step.right)));
    let (mut places, mut alike) = (0, 0);
    let mut chunks = step.chunks.as_slice();
    let mut before = None;
    let mut first = true;
    while let Some((chunk, rest)) = chunks.split_first() {
        match chunk {
            Chunk::Equal(equal) => {
                let head = if first { 0 } else { BEHIND };
                context(equal, head, if rest.is_empty() { 0 } else { BEFORE }, lines);
            }
            Chunk::Differs { .. } if places == PLACES => {
                lines.push(Line::Across(more(chunks, "places differ")));
                return;
            }
            Chunk::Differs { left, right } => {
                places += 1;
                alike = if before == Some(shape(chunk)) { alike + 1 } else { 1 };
                before = Some(shape(chunk));
                rows(left, right, lines);
                let like = rest.iter().take_while(|next| {
                    matches!(next, Chunk::Equal(_)) || before == Some(shape(next))
                });
                let like = like.count();
                let differ = |chunk: &&Chunk| matches!(chunk, Chunk::Differs { .. });
                if alike == ALIKE && rest[..like].iter().filter(differ).count() > 1 {
                    lines.push(Line::Across(more(&rest[..like], "places differ likewise")));
                    chunks = &rest[like..];
                    // The equal lines before the next place belong to it.
                    if let ([Chunk::Equal(equal)], [_, ..]) = (&rest[like - 1..like], chunks) {
                        context(equal, 0, BEFORE, lines);
                    }
                    continue;
                }
            }
        }
        (first, chunks) = (false, rest);
    }
}

/// What a difference is, wherever it lies.
fn shape(chunk: &Chunk) -> Option<String> {
    let Chunk::Differs { left, right } = chunk else { return None };
    let mut shape = String::new();
    for (mark, lines) in [('<', left), ('>', right)] {
        for line in lines {
            let (before, rest) = line.split_once('[').unwrap_or((line, ""));
            let behind = rest.split_once(')').map_or(rest, |(_, behind)| behind);
            shape.push_str(&format!("{mark}{before}[){behind}\n"));
        }
    }
    Some(shape)
}

/// Equal lines: a few at the ends, and how many there are between.
fn context(equal: &[&str], head: usize, tail: usize, lines: &mut Vec<Line>) {
    let both = |line: &&str| Line::Both((*line).to_owned(), ' ', (*line).to_owned());
    if equal.len() <= head + tail + 1 {
        lines.extend(equal.iter().map(both));
        return;
    }
    lines.extend(equal[..head].iter().map(both));
    lines.push(Line::Across(format!("  ... {} equal lines", equal.len() - head - tail)));
    lines.extend(equal[equal.len() - tail..].iter().map(both));
}

fn rows(left: &[&str], right: &[&str], lines: &mut Vec<Line>) {
    let all = left.len().max(right.len());
    for n in 0..all.min(LINES) {
        let (l, r) = (left.get(n).copied(), right.get(n).copied());
        let mark = match (l, r) {
            (Some(_), Some(_)) => '|',
            (Some(_), None) => '<',
            (None, _) => '>',
        };
        lines.push(Line::Both(l.unwrap_or("").to_owned(), mark, r.unwrap_or("").to_owned()));
    }
    if all > LINES {
        let (l, r) = (left.len().saturating_sub(LINES), right.len().saturating_sub(LINES));
        lines.push(Line::Across(format!("  ... {l} lines more on the left, {r} on the right")));
    }
}

/// What is not shown of a step.
fn more(chunks: &[Chunk], what: &str) -> String {
    let (mut places, mut only_left, mut only_right) = (0, 0, 0);
    for chunk in chunks {
        if let Chunk::Differs { left, right } = chunk {
            places += 1;
            only_left += left.len();
            only_right += right.len();
        }
    }
    format!("  ... {places} more {what}: {only_left} lines < and {only_right} lines >")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(callback: bool, owner: &str) -> String {
        let mut text =
            "open dmirror0\n  insert dmirror0 everything\nmap buffer[0..64) private\n".to_owned();
        text.push_str("to-device dmirror0 buffer[0..64)\n");
        for n in 0..20 {
            text.push_str(&format!("  MIGRATE buffer[{n}..{}) owner dmirror0\n", n + 1));
            if callback || n != 9 {
                text.push_str("    callback dmirror0\n");
            }
        }
        text.push_str(&format!("discard buffer[0..1)\n  CLEAR buffer[0..1) owner {owner}\nexit\n"));
        text
    }

    #[test]
    fn what_is_equal_is_a_line() {
        let one = trace(true, "x");
        assert_eq!(
            side_by_side(&one, &one),
            "= 5 equal steps: open dmirror0 to exit\nequal: all 5 steps\n"
        );
    }

    #[test]
    fn what_differs_again_and_again_is_shown_twice() {
        let one = trace(true, "x");
        let shown = side_by_side(&one, &one.replace("owner dmirror0", "owner NULL"));
        assert_eq!(shown.matches("owner NULL").count(), 2, "{shown}");
        assert!(
            shown.contains("\n  ... 18 more places differ likewise: 18 lines < and 18 lines >\n")
        );
    }

    #[test]
    fn what_differs_is_shown_with_what_is_around_it() {
        let shown = side_by_side(&trace(true, "x"), &trace(false, "y"));
        let expected = "\
= 2 equal steps: open dmirror0 to map buffer[0..64) private
  to-device dmirror0 buffer[0..64)          to-device dmirror0 buffer[0..64)
  ... 17 equal lines
      callback dmirror0                         callback dmirror0
    MIGRATE buffer[9..10) owner dmirror0      MIGRATE buffer[9..10) owner dmirror0
      callback dmirror0                    <
    MIGRATE buffer[10..11) owner dmirror0     MIGRATE buffer[10..11) owner dmirror0
  ... 19 equal lines
  discard buffer[0..1)                      discard buffer[0..1)
    CLEAR buffer[0..1) owner x             |   CLEAR buffer[0..1) owner y
= exit
2 of 5 steps differ: to-device, discard
";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&shown), squeeze(expected), "\n{shown}");
        assert!(shown.lines().all(|line| line == line.trim_end()));
    }
}
