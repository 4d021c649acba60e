//! `report.html`: the judgement as a page that needs nothing else.
//!
//! What is said of a test is what [`Results`] say. What they do not hold, when
//! things happened, what the console said around a complaint, and what the traces
//! show, is read from the run directory: as far as that goes, for a page is wanted
//! of every run, also of one that is not whole.

mod console;
mod detail;
mod page;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod traces;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::program;
use crate::collect;
use crate::events::Record;
use crate::results::Results;
use crate::rundir::{REPORT, REPORT_DRAFT};
use console::Consoles;
use traces::Traced;

/// How long a line of anybody else may be, in bytes, and how long a text of
/// several.
const LINE: usize = 500;
const TEXT: usize = 8 << 10;

/// All that the page is made of.
struct Report<'a> {
    results: &'a Results,
    dir: &'a Path,
    /// How this program is called.
    program: &'a str,
    /// What happened, as far as it is known.
    records: Vec<Record>,
    /// What there is of the traces, test by test.
    traces: Vec<Traced>,
    consoles: Consoles,
}

/// Writes the page of a run into its directory, whole or not at all, and says
/// where it is.
///
/// # Errors
/// When it cannot be written.
pub fn write(results: &Results, dir: &Path) -> Result<PathBuf> {
    let records = collect::records(&dir.join("events.jsonl")).unwrap_or_default();
    let report = Report {
        results,
        dir,
        program: program(),
        records,
        traces: traces::read(results, dir),
        consoles: Consoles::read(results, dir),
    };
    let (path, draft) = (dir.join(REPORT), dir.join(REPORT_DRAFT));
    fs::write(&draft, page::page(&report)?)
        .and_then(|()| fs::rename(&draft, &path))
        // What was written of it is of use to nobody.
        .inspect_err(|_| drop(fs::remove_file(&draft)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
