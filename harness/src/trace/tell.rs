//! A trace for a person: step by step, with its time since the first one, and
//! below it what the kernel did meanwhile, folded where it repeats.
//!
//! Rows come in and lines go out; what is kept is what is told of a single step.
//! As in the canonical form, what touches no buffer is left out, unless a step
//! has nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

use hmm_protocol::trace::CALIBRATIONS;

use super::buffers::Buffers;
use super::groups::Groups;
use super::row::{Probe, Row};
use crate::judge::Violation;
use crate::progress::clean;

/// How wide the column of times is.
const TIMES: usize = 13;

/// Tells a trace, row by row.
pub struct Tell<W> {
    out: W,
    buffers: Buffers,
    groups: Groups,
    step: Option<Step>,
    /// Steps of the calibration that have nothing to say for themselves.
    calibration: Option<(Option<u64>, Vec<String>, u64)>,
    began: Option<u64>,
    /// What was broken, by the number of the step.
    violations: BTreeMap<u32, Vec<Violation>>,
    told: Told,
}

/// What came to be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Steps.
    pub steps: u64,
    /// Rows that are no steps.
    pub events: u64,
    /// Of these, rows about memory that is no buffer, which were left out.
    pub left_out: u64,
}

/// The step that goes on.
struct Step {
    number: u32,
    op: String,
    text: String,
    /// Since the first step; a test that exits cannot say when.
    ns: Option<u64>,
    events: u64,
}

impl<W: Write> Tell<W> {
    /// Tells to `out`, with what is known to be broken where it was.
    pub fn new(out: W, violations: &[Violation]) -> Self {
        let mut by_step: BTreeMap<u32, Vec<Violation>> = BTreeMap::new();
        for violation in violations {
            let number = violation.step.split(' ').next().and_then(|word| word.parse().ok());
            by_step.entry(number.unwrap_or(0)).or_default().push(violation.clone());
        }
        let broken = violations.iter().flat_map(|violation| rows_of(&violation.text)).collect();
        Tell {
            out,
            buffers: Buffers::default(),
            groups: Groups::new(broken),
            step: None,
            calibration: None,
            began: None,
            violations: by_step,
            told: Told::default(),
        }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, row: &Row) -> io::Result<()> {
        if row.probe != Probe::Step {
            self.told.events += 1;
            self.groups.push(row, &self.buffers);
            self.step.iter_mut().for_each(|step| step.events += 1);
            return Ok(());
        }
        self.end_step()?;
        self.buffers.learn(row);
        self.groups.next_step(row);
        self.told.steps += 1;
        let began = self.began.or(row.t_ns);
        self.began = began;
        let doing = row.doing.clone().unwrap_or_default();
        let by = if row.role == "test" { String::new() } else { format!(" by {}", row.role) };
        self.step = Some(Step {
            number: row.step,
            text: format!("{doing}{by}"),
            op: doing.op,
            ns: row.t_ns.zip(began).map(|(ns, began)| ns.saturating_sub(began)),
            events: 0,
        });
        Ok(())
    }

    /// The last row was pushed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<Told> {
        self.end_step()?;
        self.tell_calibration()?;
        // What belongs to no step that there is must not go unsaid.
        for violation in std::mem::take(&mut self.violations).into_values().flatten() {
            let Violation { rule, step, text } = violation;
            self.line("", &format!("! rule {rule}, step {step}: {text}"))?;
        }
        self.out.flush()?;
        Ok(self.told)
    }

    fn end_step(&mut self) -> io::Result<()> {
        self.groups.end_step();
        let violations = match &self.step {
            Some(step) => self.violations.remove(&step.number).unwrap_or_default(),
            None => self.violations.remove(&0).unwrap_or_default(),
        };
        let step = self.step.take();
        let Some(step) = step.or_else(|| {
            let early = !self.groups.shown.is_empty() || !violations.is_empty();
            early.then(|| Step {
                number: 0,
                op: String::new(),
                text: "before the first step".into(),
                ns: None,
                events: 0,
            })
        }) else {
            self.told.left_out += self.groups.other_rows;
            return Ok(());
        };
        let calibrates = CALIBRATIONS.iter().any(|(op, _)| *op == step.op);
        if calibrates && violations.is_empty() {
            let (_, ops, events) = self.calibration.get_or_insert((step.ns, Vec::new(), 0));
            ops.push(step.op);
            *events += step.events;
            return Ok(());
        }
        self.tell_calibration()?;
        self.line(&since(step.ns), &step.text)?;
        for Violation { rule, text, .. } in violations {
            self.line("", &format!("  ! rule {rule}: {text}"))?;
        }
        // The same memory is touched in every test: what is done to it is news
        // where nothing else is done.
        let alone = self.groups.shown.is_empty();
        let fold = if alone { &self.groups.other } else { &self.groups.shown };
        if !alone {
            self.told.left_out += self.groups.other_rows;
        }
        for line in fold.lines(&self.buffers) {
            self.line("", &format!("  {line}"))?;
        }
        Ok(())
    }

    fn tell_calibration(&mut self) -> io::Result<()> {
        let Some((ns, ops, events)) = self.calibration.take() else { return Ok(()) };
        let text = format!("{} ({events} rows, as they must be)", ops.join(", "));
        self.line(&since(ns), &text)
    }

    /// Names come from the guest: a line of it stays a line, and drives nothing.
    fn line(&mut self, time: &str, text: &str) -> io::Result<()> {
        let text = clean(text).replace('\n', " ");
        writeln!(self.out, "{}", format!("{time:<TIMES$}{text}").trim_end())
    }
}

fn since(ns: Option<u64>) -> String {
    let seconds = |ns| format!("{:>9.3} s", Duration::from_nanos(ns).as_secs_f64());
    ns.map(seconds).unwrap_or_default()
}

/// The rows that a violation names: `(row 7)`, `(rows 7, 9)`.
fn rows_of(text: &str) -> BTreeSet<u64> {
    let Some((_, rows)) = text.rsplit_once("(row") else { return BTreeSet::new() };
    rows.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::row::rows;

    const TRACE: &str = include_str!("../../tests/golden/run/trace/hmm.migrate.private.jsonl");

    fn told(trace: &str, violations: &[Violation]) -> (String, Told) {
        let mut out = Vec::new();
        let mut tell = Tell::new(&mut out, violations);
        for row in rows(trace.as_bytes()) {
            tell.push(&row.expect("a row")).expect("memory");
        }
        let told = tell.finish().expect("memory");
        (String::from_utf8(out).expect("text"), told)
    }

    fn violation(rule: &str, step: &str, text: &str) -> Violation {
        Violation { rule: rule.into(), step: step.into(), text: text.into() }
    }

    #[test]
    fn a_trace_is_told_step_by_step() {
        let (text, told) = told(TRACE, &[]);
        assert_eq!(
            text,
            "    0.000 s  open dmirror0
               insert dmirror0 everything
    0.001 s  calibrate-protect (4 rows, as they must be)
    0.002 s  map buffer[0..4) private
    0.003 s  to-device dmirror0 buffer[0..4)
               migrate_setup buffer[0..4) owner dmirror0
               MIGRATE buffer[0..4) owner dmirror0
                 callback dmirror0, collect
    0.005 s  cpu-read buffer[0..4)
               4 x fault, migrate_setup, MIGRATE buffer[0..4) owner dmirror0, 1 page each
                 each MIGRATE: callback dmirror0, collect
    0.007 s  cpu-write mirror[0..1)
               CLEAR [0x7fff00000000..0x7fff00001000)
             exit
               release mm0
"
        );
        assert_eq!(told, Told { steps: 7, events: 47, left_out: 4 });
    }

    #[test]
    fn what_is_broken_stands_where_it_was() {
        let (text, _) = told(
            TRACE,
            &[
                violation("calibration", "2 calibrate-protect", "none was seen"),
                violation("owner", "5 cpu-read buffer[0..4)", "MIGRATE has no owner (row 26)"),
                violation("walk", "99 close", "and nobody knows where"),
            ],
        );
        for part in [
            "calibrate-protect\n               ! rule calibration: none was seen\n               PROTECTION_VMA",
            "cpu-read buffer[0..4)\n               ! rule owner: MIGRATE has no owner (row 26)\n",
            "\n               ! MIGRATE buffer[1..2) owner dmirror0\n",
            "! rule walk, step 99 close: and nobody knows where\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn what_goes_on_is_told_in_both_steps() {
        let start = r#"{"seq":1,"cpu":0,"tid":2,"tgid":1,"role":"thread","probe":"invalidate_start","event":"UNMAP","start":"0x10000","end":"0x14000","mm":"mm0","range":"r1","step":1}"#;
        let step = |n: u32| {
            format!(
                r#"{{"seq":{n},"cpu":0,"tid":1,"tgid":1,"role":"test","probe":"step","step":{n},"doing":{{"op":"map","pages":{{"buffer":"b\u001b[2J","first":0,"pages":4}},"address":65536}},"t_ns":{n}}}"#
            )
        };
        let collect = start.replace("invalidate_start", "collect");
        let end = start.replace("invalidate_start", "invalidate_end");
        let trace =
            [&step(1), start, &collect, &step(2), &collect, &end].map(|line| format!("{line}\n"));
        assert_eq!(
            told(&trace.concat(), &[]).0,
            "    0.000 s  map b[2J[0..4)
               UNMAP b[2J[0..4) by thread, goes on
                 collect by thread
    0.000 s  map b[2J[0..4)
               UNMAP b[2J[0..4) by thread
                 collect by thread
"
        );
    }
}
