//! Reads a run directory back into the evidence that is judged.
//!
//! The judge sees only what this returns, so a run is judged from its
//! directory in the same way when it has just ended and a year later.

mod traces;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

use crate::baseline::Baseline;
use crate::console::{Finding, Report, Scanner, What};
use crate::events::{Event, Record};
use crate::known::KnownIssue;
use crate::plan::Plan;
use crate::rundir::{self, console_of};
use crate::trace::{Calls, Trace};
use traces::Writing;

/// All that is known of a run.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What was to be done.
    pub plan: Plan,
    /// What happened.
    pub records: Vec<Record>,
    /// What each VM's console said, by the VM's number; lines count from the
    /// start of `console.log`.
    pub consoles: Vec<(u32, Vec<Finding>)>,
    /// The traces, by VM and by which of its tests it was, counted from 1.
    pub traces: BTreeMap<(u32, u32), Trace>,
    /// Issues that are known.
    pub known_issues: Vec<KnownIssue>,
    /// What the run is held against.
    pub baseline: Option<Baseline>,
}

impl Evidence {
    /// Of a plan of which only this is known to have happened.
    pub fn only(plan: Plan, records: Vec<Record>) -> Evidence {
        Evidence {
            plan,
            records,
            consoles: Vec::new(),
            traces: BTreeMap::new(),
            known_issues: Vec::new(),
            baseline: None,
        }
    }

    /// What of the traces could not be written down in words, if anything.
    pub fn unwritten(&self) -> Option<String> {
        self.traces.values().find_map(|trace| trace.unwritten.clone())
    }
}

/// Reads `plan.yaml`, `events.jsonl`, `console.log`, `baseline.yaml` if the plan has
/// one, and what came of traces from `dir`, and writes there what traces are in words.
///
/// # Errors
/// When one of them is missing or cannot be read.
pub fn evidence(dir: &Path) -> Result<Evidence> {
    let plan_path = dir.join("plan.yaml");
    let text = fs::read_to_string(&plan_path)
        .with_context(|| format!("cannot read {}", plan_path.display()))?;
    let plan: Plan =
        serde_yaml::from_str(&text).with_context(|| plan_path.display().to_string())?;
    let records = records(&dir.join("events.jsonl"))?;
    let consoles = consoles(dir, &records)?;
    let traces = traces::understand(dir, &records, Writing::Beside);
    let known_issues = crate::known::known_issues()?;
    let baseline = plan.baseline.as_ref().map(|_| baseline(dir)).transpose()?;
    Ok(Evidence { plan, records, consoles, traces, known_issues, baseline })
}

/// The baseline as it was when the run began.
fn baseline(dir: &Path) -> Result<Baseline> {
    let path = dir.join(rundir::BASELINE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Baseline::read(&path, &text).map_err(|problem| {
        let hint = problem.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        anyhow!("{}{hint}", problem.what)
    })
}

/// What is written in an `events.jsonl`.
///
/// # Errors
/// When it cannot be read, or holds what this program does not write.
pub fn records(path: &Path) -> Result<Vec<Record>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut records = Vec::new();
    for (n, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| path.display().to_string())?;
        match serde_json::from_str(&line) {
            Ok(record) => records.push(record),
            // A harness that was killed leaves half a line, and then no other.
            Err(error) if error.is_eof() => break,
            Err(error) => {
                return Err(error).with_context(|| format!("{}:{}", path.display(), n + 1));
            }
        }
    }
    Ok(records)
}

/// The calls of `migrate_vma_setup()` that the traces of a run have, by where they
/// returned to.
///
/// # Errors
/// When the evidence cannot be read.
pub fn callers(dir: &Path) -> Result<BTreeMap<u64, Calls>> {
    let records = records(&dir.join("events.jsonl"))?;
    let mut calls: BTreeMap<u64, Calls> = BTreeMap::new();
    for trace in traces::understand(dir, &records, Writing::Nothing).values() {
        for (address, more) in &trace.callers {
            calls.entry(*address).or_default().add(more);
        }
    }
    Ok(calls)
}

/// When each turn of each test was ordered, in milliseconds since the start of
/// the run.
///
/// # Errors
/// When the events cannot be read.
pub fn turns(dir: &Path) -> Result<BTreeMap<(String, u32), u64>> {
    let records = records(&dir.join("events.jsonl"))?;
    let ordered = records.into_iter().filter_map(|record| match record.event {
        Event::Ordered { id, turn, .. } => Some(((id, turn), record.t_ms)),
        _ => None,
    });
    Ok(ordered.collect())
}

/// What the kernels of a run have complained of so far, in the order of the
/// console.
///
/// # Errors
/// When the evidence cannot be read.
pub fn reports(dir: &Path) -> Result<Vec<Report>> {
    let records = records(&dir.join("events.jsonl"))?;
    let findings = consoles(dir, &records)?.into_iter().flat_map(|(_, findings)| findings);
    Ok(findings
        .filter_map(|finding| match finding.what {
            What::Report(report) => Some(report),
            _ => None,
        })
        .collect())
}

/// Scans the consoles of all VMs, each on its own: a line that one of them left
/// unfinished is not continued by another. A VM whose end nobody saw has left
/// its part in a file of its own; its lines are counted as if it came last.
fn consoles(dir: &Path, records: &[Record]) -> Result<Vec<(u32, Vec<Finding>)>> {
    let mut started = Vec::new();
    let mut parts = BTreeMap::new();
    for record in records {
        match record.event {
            Event::VmStarted { vm, .. } => started.push(vm),
            Event::VmEnded { vm, console_from, console_to, .. } => {
                parts.insert(console_from, (vm, console_to));
            }
            _ => {}
        }
    }
    let mut consoles = Vec::new();
    if started.is_empty() {
        return Ok(consoles);
    }
    let path = dir.join(rundir::CONSOLE);
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let mut reader = BufReader::new(file);
    let mut at = 0;
    let mut lines = 0;
    for (from, (vm, to)) in parts {
        // What lies between the parts is of an earlier run: a saved guest's boot.
        lines += scan(reader.by_ref().take(from.saturating_sub(at)), 0)?.1;
        let (findings, more) = scan(reader.by_ref().take(to.saturating_sub(from)), lines)?;
        consoles.push((vm, findings));
        lines += more;
        at = to;
    }
    for vm in started {
        let path = dir.join(console_of(vm));
        if consoles.iter().any(|(ended, _)| *ended == vm) || !path.exists() {
            continue;
        }
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        let (findings, more) = scan(BufReader::new(file), lines)?;
        consoles.push((vm, findings));
        lines += more;
    }
    Ok(consoles)
}

/// What a console says, its lines counted on from `lines`; and how many it has.
fn scan(mut console: impl Read, lines: u64) -> Result<(Vec<Finding>, u64)> {
    let mut scanner = Scanner::default();
    let mut findings = Vec::new();
    let mut newlines = 0;
    let mut chunk = [0u8; 64 * 1024];
    loop {
        let n = console.read(&mut chunk).context("reading a console")?;
        if n == 0 {
            break;
        }
        newlines += chunk[..n].iter().filter(|b| **b == b'\n').count() as u64;
        findings.extend(scanner.push(&chunk[..n]));
    }
    findings.extend(scanner.finish());
    for finding in &mut findings {
        finding.line += lines;
    }
    Ok((findings, newlines))
}
