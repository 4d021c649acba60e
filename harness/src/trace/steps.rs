//! The steps of a trace, each with what the kernel did in it, as it ends.
//!
//! As in the canonical form, what touches no buffer is left out, unless a step
//! has nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use hmm_protocol::trace::{self, CALIBRATIONS};

use super::buffers::Buffers;
use super::fold::Fold;
use super::groups::Groups;
use super::row::{Probe, Row};
use super::tell::Told;
use crate::results::Violation;

/// Rows in, steps out.
pub(super) struct Steps {
    buffers: Buffers,
    groups: Groups,
    step: Option<Step>,
    /// Steps of the calibration that have nothing to say for themselves.
    calibration: Option<Calibration>,
    began: Option<u64>,
    /// What was broken, by the number of the step.
    violations: BTreeMap<u32, Vec<Violation>>,
    told: Told,
}

/// A step that has ended.
pub(super) struct Ended<'a> {
    /// Its number, by which rules name it; of the calibration, that of its first.
    pub(super) number: u32,
    /// Since the first step; a test that exits cannot say when.
    pub(super) ns: Option<u64>,
    /// The operation, and by whom.
    pub(super) text: String,
    /// The operation alone; nothing of what came before the first step, and of the
    /// calibration.
    pub(super) doing: Option<trace::Step>,
    /// The rules that were broken in it.
    pub(super) violations: Vec<Violation>,
    /// What happened.
    pub(super) fold: &'a Fold,
    /// What addresses are called in it.
    pub(super) buffers: &'a Buffers,
}

impl Ended<'_> {
    /// What is told of it below its name.
    pub(super) fn lines(&self) -> Vec<String> {
        let broken = self.violations.iter();
        let broken = broken.map(|Violation { rule, text, .. }| format!("! rule {rule}: {text}"));
        broken.chain(self.fold.lines(self.buffers)).collect()
    }
}

/// Whoever takes steps as they end.
type Take<'a> = dyn FnMut(Ended<'_>) -> io::Result<()> + 'a;

/// Steps of the calibration, as one.
struct Calibration {
    number: u32,
    ns: Option<u64>,
    ops: Vec<String>,
    events: u64,
}

/// The step that goes on.
struct Step {
    number: u32,
    doing: Option<trace::Step>,
    text: String,
    ns: Option<u64>,
    events: u64,
}

impl Steps {
    /// With what is known to be broken.
    pub(super) fn new(violations: &[Violation]) -> Self {
        let mut by_step: BTreeMap<u32, Vec<Violation>> = BTreeMap::new();
        for violation in violations {
            let number = violation.step.split(' ').next().and_then(|word| word.parse().ok());
            by_step.entry(number.unwrap_or(0)).or_default().push(violation.clone());
        }
        let broken = violations.iter().flat_map(|violation| rows_of(&violation.text)).collect();
        Steps {
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
    /// Those of `take`.
    pub(super) fn push(&mut self, row: &Row, take: &mut Take<'_>) -> io::Result<()> {
        if row.probe != Probe::Step {
            self.told.events += 1;
            self.groups.push(row, &self.buffers);
            self.step.iter_mut().for_each(|step| step.events += 1);
            return Ok(());
        }
        self.end_step(take)?;
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
            doing: Some(doing),
            ns: row.t_ns.zip(began).map(|(ns, began)| ns.saturating_sub(began)),
            events: 0,
        });
        Ok(())
    }

    /// The last row was pushed. Returns what came to be told, and the broken rules
    /// that belong to no step.
    ///
    /// # Errors
    /// Those of `take`.
    pub(super) fn finish(mut self, take: &mut Take<'_>) -> io::Result<(Told, Vec<Violation>)> {
        self.end_step(take)?;
        self.end_calibration(take)?;
        Ok((self.told, self.violations.into_values().flatten().collect()))
    }

    fn end_step(&mut self, take: &mut Take<'_>) -> io::Result<()> {
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
                doing: None,
                text: "before the first step".into(),
                ns: None,
                events: 0,
            })
        }) else {
            self.told.left_out += self.groups.other_rows;
            return Ok(());
        };
        let op = step.doing.as_ref().map_or("", |doing| doing.op.as_str());
        if CALIBRATIONS.iter().any(|(known, _)| *known == op) && violations.is_empty() {
            let (number, ns) = (step.number, step.ns);
            let begun = Calibration { number, ns, ops: Vec::new(), events: 0 };
            let calibration = self.calibration.get_or_insert(begun);
            calibration.ops.push(op.to_owned());
            calibration.events += step.events;
            return Ok(());
        }
        self.end_calibration(take)?;
        // The same memory is touched in every test: what is done to it is news
        // where nothing else is done.
        let alone = self.groups.shown.is_empty();
        let fold = if alone { &self.groups.other } else { &self.groups.shown };
        if !alone {
            self.told.left_out += self.groups.other_rows;
        }
        let Step { number, doing, text, ns, .. } = step;
        take(Ended { number, ns, text, doing, violations, fold, buffers: &self.buffers })
    }

    fn end_calibration(&mut self, take: &mut Take<'_>) -> io::Result<()> {
        let Some(Calibration { number, ns, ops, events }) = self.calibration.take() else {
            return Ok(());
        };
        take(Ended {
            number,
            ns,
            text: format!("{} ({events} rows, as they must be)", ops.join(", ")),
            doing: None,
            violations: Vec::new(),
            fold: &Fold::default(),
            buffers: &self.buffers,
        })
    }
}

/// The rows that a violation names: `(row 7)`, `(rows 7, 9)`.
fn rows_of(text: &str) -> BTreeSet<u64> {
    let Some((_, rows)) = text.rsplit_once("(row") else { return BTreeSet::new() };
    rows.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}
