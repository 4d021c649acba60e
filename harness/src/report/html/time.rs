//! Where the time went: the stages one below the other, and the turns of the tests
//! on the machines that they ran on.

use std::collections::BTreeMap;
use std::time::Duration;

use hmm_protocol::wire::GuestMessage;

use super::Report;
use super::summary::{class, line};
use crate::events::{Event, Record};
use crate::flow::Stage;
use crate::results::TestResult;
use crate::words::seconds;

/// How many turns are drawn, and how many machines beside each other.
const TURNS: usize = 2000;
const ROWS: usize = 16;

/// A stretch of time, in milliseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: u64,
    to: u64,
}

/// A stage.
#[derive(Debug, PartialEq, Eq)]
struct Staged {
    stage: Stage,
    span: Span,
    /// What came out, and whether it was in the store; nothing if it did not end.
    done: Option<(String, bool)>,
}

/// A turn of a test.
#[derive(Debug, PartialEq, Eq)]
struct Turn<'a> {
    id: &'a str,
    turn: u32,
    span: Span,
}

/// A start of a VM.
#[derive(Debug, PartialEq, Eq)]
struct Machine<'a> {
    vm: u32,
    restored: bool,
    span: Span,
    turns: Vec<Turn<'a>>,
}

/// The section.
pub(super) fn section(report: &Report<'_>) -> String {
    let records = &report.records;
    let (stages, machines) = (stages(records), machines(records));
    let total =
        records.last().map_or(0, |last| last.t_ms).max(report.results.timing.total_ms).max(1);
    let head = "<section id=\"time\" aria-labelledby=\"h-time\">\n<h2 id=\"h-time\">Time</h2>\n";
    if stages.is_empty() {
        return format!(
            "{head}<p class=\"dim\">No stage is known to have begun.</p>\n</section>\n"
        );
    }
    let mut rows = String::new();
    for staged in &stages {
        let time = seconds(Duration::from_millis(staged.span.to - staged.span.from));
        let (class, what) = match &staged.done {
            Some((text, true)) => {
                ("reused", format!("{} <span class=\"tag\">in the store</span>", line(text)))
            }
            Some((text, false)) => ("stage", line(text)),
            None => ("unended", "<span class=\"bad\">did not come to its end</span>".to_owned()),
        };
        rows.push_str(&format!(
            "<tr><th scope=\"row\">{}</th><td class=\"bars\">{}</td><td class=\"num\">{time}</td><td>{what}</td></tr>\n",
            staged.stage,
            bars(&bar(staged.span, total, class))
        ));
    }
    let beside = beside(&machines);
    let mut drawn = 0;
    for (n, row) in beside.iter().enumerate().take(ROWS) {
        let mut shapes = String::new();
        let (mut turns, mut starts) = (0, 0);
        for machine in row.iter().filter_map(|at| machines.get(*at)) {
            starts += 1;
            let how = if machine.restored { "from a saved guest" } else { "booted" };
            let name = format!("<title>VM {}, {how}</title>", machine.vm);
            shapes.push_str(&titled(machine.span, total, "vm", &name));
            for turn in &machine.turns {
                turns += 1;
                drawn += 1;
                if drawn <= TURNS {
                    shapes.push_str(&link(turn, total, &report.results.tests));
                }
            }
        }
        let s = |n: usize| if n == 1 { "" } else { "s" };
        rows.push_str(&format!(
            "<tr class=\"vms\"><th scope=\"row\">VMs {}</th><td class=\"bars\">{}</td><td></td>\
             <td>{starts} start{}, {turns} turn{}</td></tr>\n",
            n + 1,
            bars(&shapes),
            s(starts),
            s(turns)
        ));
    }
    let more = match (beside.len().saturating_sub(ROWS), drawn.saturating_sub(TURNS)) {
        (0, 0) => String::new(),
        (rows, turns) => {
            format!("<p>{turns} more turns, and {rows} more rows of machines, are not drawn.</p>\n")
        }
    };
    format!(
        "{head}<div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"Stages and machines\"><table class=\"waterfall\">\n\
         <thead><tr><th scope=\"col\">Stage</th><th scope=\"col\" class=\"axis\"><span>0 s</span><span>{}</span></th>\
         <th scope=\"col\" class=\"num\">Took</th><th scope=\"col\">Came to</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n{more}</section>\n",
        seconds(Duration::from_millis(total))
    )
}

/// The stages, in the order in which they began.
fn stages(records: &[Record]) -> Vec<Staged> {
    let end = records.last().map_or(0, |last| last.t_ms);
    let mut stages: Vec<Staged> = Vec::new();
    for record in records {
        match &record.event {
            Event::StageStarted { stage } => {
                let span = Span { from: record.t_ms, to: end.max(record.t_ms) };
                stages.push(Staged { stage: *stage, span, done: None });
            }
            Event::StageFinished { stage, reused, text, .. } => {
                let open = stages.iter_mut().rev().find(|s| s.stage == *stage && s.done.is_none());
                if let Some(open) = open {
                    open.span.to = record.t_ms.max(open.span.from);
                    open.done = Some((text.clone(), *reused));
                }
            }
            _ => {}
        }
    }
    stages
}

fn machines(records: &[Record]) -> Vec<Machine<'_>> {
    let end = records.last().map_or(0, |last| last.t_ms);
    let mut machines: Vec<Machine> = Vec::new();
    let mut at: BTreeMap<u32, usize> = BTreeMap::new();
    for record in records {
        let now = record.t_ms;
        match &record.event {
            Event::VmStarted { vm, restored, .. } => {
                at.insert(*vm, machines.len());
                let span = Span { from: now, to: end.max(now) };
                machines.push(Machine { vm: *vm, restored: *restored, span, turns: Vec::new() });
            }
            Event::VmEnded { vm, .. } => {
                let Some(machine) = at.get(vm).and_then(|at| machines.get_mut(*at)) else {
                    continue;
                };
                machine.span.to = now.max(machine.span.from);
                // A turn that did not finish ended with its machine.
                for turn in machine.turns.iter_mut().filter(|turn| turn.span.to > now) {
                    turn.span.to = now.max(turn.span.from);
                }
            }
            Event::Ordered { vm, id, turn } => {
                let Some(machine) = at.get(vm).and_then(|at| machines.get_mut(*at)) else {
                    continue;
                };
                let span = Span { from: now, to: end.max(now) };
                machine.turns.push(Turn { id, turn: *turn, span });
            }
            Event::Frame { vm, sealed } => {
                let GuestMessage::Finished { id, .. } = &sealed.message else { continue };
                let Some(machine) = at.get(vm).and_then(|at| machines.get_mut(*at)) else {
                    continue;
                };
                if let Some(turn) = machine.turns.last_mut().filter(|turn| turn.id == id) {
                    turn.span.to = now.max(turn.span.from);
                }
            }
            _ => {}
        }
    }
    machines
}

/// Which machines can be drawn in one row: they did not run at the same time.
fn beside(machines: &[Machine<'_>]) -> Vec<Vec<usize>> {
    let mut rows: Vec<(u64, Vec<usize>)> = Vec::new();
    for (n, machine) in machines.iter().enumerate() {
        match rows.iter_mut().find(|(until, _)| *until <= machine.span.from) {
            Some((until, row)) => {
                *until = machine.span.to;
                row.push(n);
            }
            None => rows.push((machine.span.to, vec![n])),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

fn bars(shapes: &str) -> String {
    format!("<svg width=\"100%\" height=\"16\" aria-hidden=\"true\">{shapes}</svg>")
}

fn bar(span: Span, total: u64, class: &str) -> String {
    titled(span, total, class, "")
}

/// What is short is seen all the same.
fn titled(Span { from, to }: Span, total: u64, class: &str, title: &str) -> String {
    let part = |ms: u64| {
        let part = u128::from(ms) * 100_000 / u128::from(total);
        u32::try_from(part).map_or(100.0, |part| f64::from(part) / 1000.0)
    };
    let (x, width) = (part(from.min(total)), part(to.min(total).saturating_sub(from)).max(0.2));
    format!(
        "<rect class=\"{class}\" x=\"{x}%\" y=\"2\" width=\"{width}%\" height=\"12\">{title}</rect>"
    )
}

fn link(turn: &Turn<'_>, total: u64, tests: &[TestResult]) -> String {
    let class = tests.iter().find(|test| test.id == turn.id).map_or("odd", class);
    let id = line(turn.id);
    let again = if turn.turn == 0 { String::new() } else { format!(", turn {}", turn.turn + 1) };
    let time = seconds(Duration::from_millis(turn.span.to - turn.span.from));
    let shape = titled(
        turn.span,
        total,
        &format!("turn {class}"),
        &format!("<title>{id}{again}: {time}</title>"),
    );
    // They are drawn for the eye; the table has them for the keyboard.
    format!("<a href=\"#{id}\" tabindex=\"-1\">{shape}</a>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::VmEnd;

    fn records(events: Vec<(u64, Event)>) -> Vec<Record> {
        events.into_iter().map(|(t_ms, event)| Record { t_ms, event }).collect()
    }

    fn started(vm: u32) -> Event {
        Event::VmStarted { vm, nonce: "n".into(), restored: vm > 0 }
    }

    fn ended(vm: u32) -> Event {
        Event::VmEnded { vm, end: VmEnd::Done, console_from: 0, console_to: 0 }
    }

    #[test]
    fn a_stage_that_did_not_end_lasts_until_the_end() {
        let stage = Stage::Source;
        let records = records(vec![
            (1, Event::StageStarted { stage }),
            (5, Event::StageFinished { stage, ms: 4, reused: true, text: "x".into() }),
            (5, Event::StageStarted { stage: Stage::Build }),
            (90, Event::Note { text: "the end".into() }),
        ]);
        assert_eq!(
            stages(&records),
            [
                Staged { stage, span: Span { from: 1, to: 5 }, done: Some(("x".into(), true)) },
                Staged { stage: Stage::Build, span: Span { from: 5, to: 90 }, done: None },
            ]
        );
    }

    #[test]
    fn machines_that_did_not_run_at_the_same_time_share_a_row() {
        let ordered = |vm| Event::Ordered { vm, id: "a.b".into(), turn: 0 };
        let records = records(vec![
            (0, started(0)),
            (10, ended(0)),
            (10, started(1)),
            (11, started(2)),
            (20, ordered(1)),
            (30, ended(1)),
            (40, ordered(2)),
        ]);
        let machines = machines(&records);
        assert_eq!(beside(&machines), [vec![0, 1], vec![2]]);
        assert_eq!(machines[1].turns[0].span, Span { from: 20, to: 30 });
        assert_eq!(machines[2].span.to, 40);
    }
}
