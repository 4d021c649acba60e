//! What came of a bisect, for a person at a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::state::{End, State};
use crate::bisect::{Answer, Change, Question};
use crate::commands::candidates::{Candidate, Judged};
use crate::commands::show::diff::side_by_side;
use crate::rundir::BISECT_HTML;
use crate::trace::changes;
use crate::words::{clean, seconds};

/// The traces of a test before a patch and with it.
pub(super) struct Traces {
    pub(super) test: String,
    pub(super) before: String,
    pub(super) after: String,
}

/// The traces that show what a patch changes, if there are any.
pub(super) fn traces(state: &State, judged: &BTreeMap<usize, Judged>) -> Option<Traces> {
    let Some(End::Found { change: Change { at, .. }, .. }) = &state.end else { return None };
    let (before, after) = (judged.get(&(at - 1))?.canonical(), judged.get(at)?.canonical());
    let both = |id: &String| {
        let (before, after) = (before.get(id)?.clone(), after.get(id)?.clone());
        Some(Traces { test: id.clone(), before, after })
    };
    let asked: Vec<&String> = match &state.question {
        Question::Verdicts(ids) => {
            let verdict = |number: usize, id: &str| {
                let tests = &judged.get(&number)?.results.tests;
                tests.iter().find(|test| test.id == id).map(|test| test.verdict)
            };
            ids.iter().filter(|id| verdict(at - 1, id) != verdict(*at, id)).collect()
        }
        Question::Trace(id) => vec![id],
        Question::Event { op, .. } => {
            let shows = |id: &&String| {
                let pair = before.get(*id).zip(after.get(*id));
                pair.is_some_and(|(a, b)| changes([(a.as_str(), b.as_str())]).contains_key(op))
            };
            // The shortest says it best.
            before.keys().filter(shows).min_by_key(|id| before[*id].len()).into_iter().collect()
        }
        Question::Crash(_) => Vec::new(),
    };
    asked.into_iter().find_map(both)
}

/// The closing words.
pub(super) fn text(state: &State, traces: Option<&Traces>, dir: &Path) -> String {
    let mut text = format!("{}\n", state.question);
    let last = state.candidates.len() - 1;
    let mut steps: Vec<_> = state.steps.iter().collect();
    steps.sort_by_key(|step| step.number);
    for step in steps {
        let name = state.candidates[step.number].name(last);
        let time = seconds(Duration::from_secs_f64(step.seconds));
        let same = match step.same_as {
            Some(other) => format!(", the same kernel as {other}/{last}"),
            None => String::new(),
        };
        line(&mut text, format_args!("  {name}: {} ({time}{same})", step.answer));
    }
    if let Some(end) = &state.end {
        ending(state, end, &mut text);
    }
    if let Some(Traces { test, before, after }) = traces {
        line(&mut text, format_args!("\n{test}, before it and with it:"));
        text.push_str(&side_by_side(before, after));
    }
    let evidence = dir.display();
    match state.end {
        Some(_) => line(&mut text, format_args!("evidence in {evidence}, as a page {BISECT_HTML}")),
        None => line(
            &mut text,
            format_args!("not at its end: the same command goes on, with --out {evidence}"),
        ),
    }
    text.lines().map(|line| clean(line) + "\n").collect()
}

fn ending(state: &State, end: &End, text: &mut String) {
    let patch = |number: &usize| described(&state.candidates[*number]);
    match end {
        End::Found { change: Change { at, before, after }, commit } => {
            line(text, format_args!("the change is in {}: {before} -> {after}", patch(at)));
            if let Some(commit) = commit {
                line(text, format_args!("  commit {commit}"));
            }
        }
        End::Flaky { number, first, then } => {
            line(text, format_args!("{} says now {first} and now {then}", patch(number)));
        }
        End::Suspects { patches, before, after } => {
            line(text, format_args!("the change, {before} -> {after}, is in one of these:"));
            patches.iter().for_each(|number| line(text, format_args!("  {}", patch(number))));
        }
        End::Alike { answer, changes } => {
            let judged = |number: usize| {
                let step = state.steps.iter().find(|step| step.number == number);
                step.is_some_and(|step| matches!(step.answer, Answer::Is(_)))
            };
            let who = match judged(state.from) && judged(state.to) {
                true => "both ends say the same",
                false => "not both ends can be judged, and the others begin and end with the same",
            };
            line(text, format_args!("{who}: {answer}"));
            for Change { at, before, after } in changes {
                line(text, format_args!("  {}: {before} -> {after}", patch(at)));
            }
        }
        End::Nothing => line(text, format_args!("less than two of these kernels can be judged")),
    }
}

/// A patch with its number and its author.
pub(super) fn described(candidate: &Candidate) -> String {
    let by = candidate.author.as_ref().map_or(String::new(), |author| format!(" by {author}"));
    format!("{} \"{}\"{by}", candidate.number, candidate.subject)
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string");
}
