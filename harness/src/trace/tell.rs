//! A trace for a person: step by step, with its time since the first one, and
//! below it what the kernel did meanwhile, folded where it repeats.
//!
//! Rows come in and lines go out; what is kept is what is told of a single step.

use std::io::{self, Write};
use std::time::Duration;

use super::row::Row;
use super::steps::{Ended, Steps};
use crate::results::Violation;
use crate::words::clean;

/// How wide the column of times is.
const TIMES: usize = 13;

/// Tells a trace, row by row.
pub struct Tell<W> {
    out: W,
    steps: Steps,
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

impl<W: Write> Tell<W> {
    /// Tells to `out`, with what is known to be broken where it was.
    pub fn new(out: W, violations: &[Violation]) -> Self {
        Tell { out, steps: Steps::new(violations) }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, row: &Row) -> io::Result<()> {
        let out = &mut self.out;
        self.steps.push(row, &mut |step| tell(out, &step))
    }

    /// The last row was pushed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<Told> {
        let out = &mut self.out;
        let (told, rest) = self.steps.finish(&mut |step| tell(out, &step))?;
        // What belongs to no step that there is must not go unsaid.
        for Violation { rule, step, text } in rest {
            line(&mut self.out, "", &format!("! rule {rule}, step {step}: {text}"))?;
        }
        self.out.flush()?;
        Ok(told)
    }
}

/// Tells a step.
pub(super) fn tell(out: &mut impl Write, step: &Ended<'_>) -> io::Result<()> {
    line(out, &since(step.ns), &step.text)?;
    for text in step.lines() {
        line(out, "", &format!("  {text}"))?;
    }
    Ok(())
}

/// Names come from the guest: a line of it stays a line, and drives nothing.
fn line(out: &mut impl Write, time: &str, text: &str) -> io::Result<()> {
    let text = clean(text).replace('\n', " ");
    writeln!(out, "{}", format!("{time:<TIMES$}{text}").trim_end())
}

fn since(ns: Option<u64>) -> String {
    let seconds = |ns| format!("{:>9.3} s", Duration::from_nanos(ns).as_secs_f64());
    ns.map(seconds).unwrap_or_default()
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
