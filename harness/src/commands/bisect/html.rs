//! `bisect.html`: the same as a page of its own, which needs nothing else.

use super::state::{End, State};
use super::tell::{Traces, described};
use crate::bisect::{Answer, Change};
use crate::html::escape;
use crate::trace::diff::{Chunk, Step, StepDiff, diff};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:76em;\
padding:0 1em;color:#1b1f24;background:#fff}h1{font-size:1.3em}h2{font-size:1.1em;margin-top:2em}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;\
padding:.25em .8em .25em 0;border-bottom:1px solid #d7dce1}th{font-weight:600}\
.found td{background:#fff4cc;font-weight:600}.dim{color:#5b6670}\
.trace td{font:13px/1.4 ui-monospace,monospace;white-space:pre-wrap;border:0;\
padding:0 .8em 0 .3em;width:50%;overflow-wrap:anywhere}\
.trace .step td{padding-top:.5em;font-weight:600}.gone{background:#ffe1de}.new{background:#dcf5dc}\
@media(prefers-color-scheme:dark){body{color:#e4e7ea;background:#15181c}\
td,th{border-color:#333a42}.found td{background:#4a3d10}.gone{background:#55211d}\
.new{background:#1c4423}.dim{color:#9aa5af}}";

/// As many equal lines in a row, and as many lines of a difference, are shown.
const EQUAL: usize = 6;
const LINES: usize = 200;

/// The page.
pub(super) fn page(state: &State, traces: Option<&Traces>) -> String {
    let title = escape(&state.question.to_string());
    let mut body = format!("<h1>{title}</h1>\n");
    if let Some(end) = &state.end {
        body.push_str(&ending(state, end));
    }
    body.push_str("<h2>Kernels</h2>\n<table><tr><th>Patch<th>Subject<th>Says<th>Time</tr>\n");
    let found = match &state.end {
        Some(End::Found { change, .. }) => Some(change.at),
        _ => None,
    };
    for candidate in &state.candidates[state.from..=state.to] {
        let step = state.steps.iter().find(|step| step.number == candidate.number);
        let class = if found == Some(candidate.number) { " class=found" } else { "" };
        let (says, time) = match step {
            None => ("<span class=dim>not judged</span>".to_owned(), String::new()),
            Some(step) => {
                let same = match step.same_as {
                    Some(other) => format!(" <span class=dim>(the same kernel as {other})</span>"),
                    None => String::new(),
                };
                let dim = if matches!(step.answer, Answer::Is(_)) { "" } else { " class=dim" };
                let says = format!("<span{dim}>{}</span>{same}", escape(&step.answer.to_string()));
                (says, format!("{:.1} s", step.seconds))
            }
        };
        let author = candidate.author.as_deref().unwrap_or_default();
        body.push_str(&format!(
            "<tr{class}><td>{}<td>{} <span class=dim>{}</span><td>{says}<td>{time}</tr>\n",
            candidate.number,
            escape(&candidate.subject),
            escape(author),
        ));
    }
    body.push_str("</table>\n");
    if let Some(traces) = traces {
        body.push_str(&side_by_side(traces));
    }
    format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>bisect: {title}</title>\
         <style>{STYLE}</style>\n<body>\n{body}</body></html>\n"
    )
}

fn ending(state: &State, end: &End) -> String {
    let patch = |number: &usize| escape(&described(&state.candidates[*number]));
    let list = |items: Vec<String>| {
        let items: String = items.iter().map(|item| format!("<li>{item}</li>")).collect();
        format!("<ul>{items}</ul>\n")
    };
    let change = |Change { at, before, after }: &Change| {
        format!("{}: {} &rarr; {}", patch(at), escape(before), escape(after))
    };
    match end {
        End::Found { change: found, commit } => {
            let commit = commit.as_deref().map_or(String::new(), |commit| {
                format!("<br><span class=dim>commit {}</span>", escape(commit))
            });
            format!("<p>The change is in {}{commit}</p>\n", change(found))
        }
        End::Flaky { number, first, then } => format!(
            "<p>{} says now {} and now {}.</p>\n",
            patch(number),
            escape(first),
            escape(then)
        ),
        End::Suspects { patches, before, after } => format!(
            "<p>The change, {} &rarr; {}, is in one of these:</p>\n{}",
            escape(before),
            escape(after),
            list(patches.iter().map(patch).collect())
        ),
        End::Alike { answer, changes } => format!(
            "<p>Both ends say the same: {}</p>\n{}",
            escape(answer),
            list(changes.iter().map(change).collect())
        ),
        End::Nothing => "<p>Less than two of these kernels can be judged.</p>\n".to_owned(),
    }
}

/// Two traces, with what is equal folded.
fn side_by_side(Traces { test, before, after }: &Traces) -> String {
    let mut rows = String::new();
    let mut equal = 0;
    for step in diff(before, after) {
        if step.is_equal() {
            equal += 1;
            continue;
        }
        folded(&mut rows, std::mem::take(&mut equal), "equal steps");
        differing(&mut rows, &step);
    }
    folded(&mut rows, equal, "equal steps");
    format!(
        "<h2>{}, before it and with it</h2>\n<table class=trace>\n{rows}</table>\n",
        escape(test)
    )
}

fn folded(rows: &mut String, count: usize, what: &str) {
    if count > 0 {
        rows.push_str(&format!("<tr><td class=dim colspan=2>... {count} {what}</tr>\n"));
    }
}

fn differing(rows: &mut String, step: &StepDiff<'_>) {
    let text = |side: Option<Step>| side.map_or(String::new(), |step| escape(step.text));
    let (left, right) = (text(step.left), text(step.right));
    rows.push_str(&format!("<tr class=step><td>{left}<td>{right}</tr>\n"));
    for chunk in &step.chunks {
        match chunk {
            Chunk::Equal(lines) => {
                for line in lines.iter().take(EQUAL) {
                    let line = escape(line);
                    rows.push_str(&format!("<tr><td>{line}<td>{line}</tr>\n"));
                }
                folded(rows, lines.len().saturating_sub(EQUAL), "equal lines");
            }
            Chunk::Differs { left, right } => {
                let all = left.len().max(right.len());
                for n in 0..all.min(LINES) {
                    let cell = |lines: &[&str], class: &str| match lines.get(n) {
                        Some(line) => format!("<td class={class}>{}", escape(line)),
                        None => "<td>".to_owned(),
                    };
                    let (left, right) = (cell(left, "gone"), cell(right, "new"));
                    rows.push_str(&format!("<tr>{left}{right}</tr>\n"));
                }
                folded(rows, all.saturating_sub(LINES), "lines that differ");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_stand_side_by_side() {
        let traces = Traces {
            test: "a.b".into(),
            before: "open\nto-device\n  CLEAR buffer[0..4)\n".into(),
            after: "open\nto-device\n  MIGRATE buffer[0..4)\n".into(),
        };
        let page = side_by_side(&traces);
        for part in [
            "... 1 equal steps",
            "<tr class=step><td>to-device<td>to-device</tr>",
            "<td class=gone>  CLEAR buffer[0..4)<td class=new>  MIGRATE buffer[0..4)</tr>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }
}
