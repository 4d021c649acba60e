//! Reads a run directory back into the evidence that is judged.
//!
//! The judge sees only what this returns, so a run is judged from its
//! directory in the same way when it has just ended and a year later.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::console::{Finding, Scanner};
use crate::events::{Event, Record};
use crate::judge::KnownIssue;
use crate::plan::Plan;

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
    /// Issues that are known.
    pub known_issues: Vec<KnownIssue>,
}

/// Reads `plan.yaml`, `events.jsonl` and `console.log` from `dir`.
///
/// # Errors
/// When one of them is missing or cannot be read.
pub fn evidence(dir: &Path) -> Result<Evidence> {
    let plan_path = dir.join("plan.yaml");
    let text = fs::read_to_string(&plan_path)
        .with_context(|| format!("{} is not a run directory", dir.display()))?;
    let plan = serde_yaml::from_str(&text).with_context(|| plan_path.display().to_string())?;
    let records = records(&dir.join("events.jsonl"))?;
    let starts: Vec<(u32, u64)> = records
        .iter()
        .filter_map(|r| match r.event {
            Event::VmStarted { vm, console_from, .. } => Some((vm, console_from)),
            _ => None,
        })
        .collect();
    let consoles = consoles(&dir.join("console.log"), &starts)?;
    let known_issues = crate::judge::known_issues()?;
    Ok(Evidence { plan, records, consoles, known_issues })
}

fn records(path: &Path) -> Result<Vec<Record>> {
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

/// Scans the log piece by piece, each VM's part on its own: a line that one VM
/// left unfinished is not continued by the next.
fn consoles(path: &Path, starts: &[(u32, u64)]) -> Result<Vec<(u32, Vec<Finding>)>> {
    let mut consoles = Vec::new();
    if starts.is_empty() {
        return Ok(consoles);
    }
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut reader = BufReader::new(file);
    let mut lines_before = 0;
    for (n, (vm, from)) in starts.iter().enumerate() {
        let length = starts.get(n + 1).map_or(u64::MAX, |(_, next)| next - from);
        let mut part = reader.by_ref().take(length);
        let mut scanner = Scanner::default();
        let mut findings = Vec::new();
        let mut newlines = 0;
        let mut chunk = [0u8; 64 * 1024];
        loop {
            let n = part.read(&mut chunk).with_context(|| path.display().to_string())?;
            if n == 0 {
                break;
            }
            newlines += chunk[..n].iter().filter(|b| **b == b'\n').count() as u64;
            findings.extend(scanner.push(&chunk[..n]));
        }
        findings.extend(scanner.finish());
        for finding in &mut findings {
            finding.line += lines_before;
        }
        lines_before += newlines;
        consoles.push((*vm, findings));
    }
    Ok(consoles)
}
