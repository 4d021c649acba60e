//! Kernels whose traces must differ from those of the kernel without the series,
//! in the operations that `ci/traces.yaml` names, and in no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hmm_protocol::catalogue;
use serde::Deserialize;

use crate::commands::run_kernel_tests::{Permissions, carry_out, prepare};
use crate::context::Session;
use crate::plan::{Switch, Wishes};
use crate::results::{Results, Verdict};
use crate::rundir::{canonical_of, rows_of};
use crate::stop::{NOT_JUDGEABLE, Stop};
use crate::trace::Row;
use crate::trace::diff::diff;

/// The file, in the checkout.
const FILE: &str = "ci/traces.yaml";

/// A kernel, and what must become of its traces.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// The patches, relative to the file.
    pub(super) series: PathBuf,
    /// The tests; all, if none is named.
    #[serde(default)]
    tests: Vec<String>,
    /// The operations whose traces differ, in one of the tests at least.
    #[serde(default)]
    differs: BTreeSet<String>,
    /// The rule that each test must break.
    rule: Option<String>,
    /// The tests crash, and this is what their traces end with.
    crashed: Option<Ends>,
    /// Nothing can be traced, for this reason.
    untraced: Option<String>,
}

/// The pages of the buffer that the last page table walk before a crash was
/// about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ends {
    /// The first page of the buffer that it collected.
    from: u64,
    /// The one behind the last.
    to: u64,
}

/// Reads the cases.
///
/// # Errors
/// When the file is not as it should be.
pub(super) fn cases(checkout: &Path) -> Result<Vec<Case>, Stop> {
    let text = fs::read_to_string(checkout.join(FILE)).context(FILE)?;
    Ok(serde_yaml::from_str(&text).context(FILE)?)
}

impl Case {
    /// What the step is called.
    pub(super) fn name(&self) -> String {
        format!("{FILE}: {}", self.series.file_name().unwrap_or_default().display())
    }

    /// Runs the tests on the kernel and says what is wrong, if anything is.
    /// `clean` is the directory of the run without a series.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(super) async fn run(
        &self,
        session: &Session,
        clean: &Path,
        permissions: Permissions,
        checkout: &Path,
    ) -> Result<Option<String>, Stop> {
        let mut wishes = Wishes {
            series: vec![checkout.join("ci").join(&self.series)],
            tests: self.tests.clone(),
            ..Wishes::default()
        };
        if let Some(why) = &self.untraced {
            let (results, _) = run(session, wishes.clone(), permissions, checkout).await?;
            let told = results.machine.settings.get("trace").is_some_and(|s| s.contains(why));
            if results.exit_code != 0 || !told {
                return Ok(Some(format!("it is not judged without traces, for want of {why}")));
            }
        }
        wishes.trace = Some(Switch::On);
        let (results, dir) = run(session, wishes, permissions, checkout).await?;
        Ok(self.wrong(&results, &dir, clean))
    }

    fn wrong(&self, results: &Results, dir: &Path, clean: &Path) -> Option<String> {
        if let Some(why) = &self.untraced {
            let reason = results.reason.clone().unwrap_or_default();
            let told = reason.contains(why) && reason.contains("--trace on");
            let as_it_should = results.exit_code == NOT_JUDGEABLE && told;
            return (!as_it_should).then(|| format!("--trace on: {} {reason}", results.exit_code));
        }
        let mut differing = BTreeSet::new();
        for test in &results.tests {
            let id = &test.id;
            if let Some(ends) = &self.crashed {
                if test.verdict != Verdict::Crashed {
                    return Some(format!("{id} {}", test.verdict));
                }
                match ends.missing(&dir.join(rows_of(id, 0))) {
                    None => continue,
                    Some(wrong) => return Some(format!("{id}: {wrong}")),
                }
            }
            if !test.trace.complete {
                return Some(format!("{id}: {}", test.reason));
            }
            let broken: BTreeSet<&str> =
                test.trace.violations.iter().map(|v| v.rule.as_str()).collect();
            if broken != self.rule.iter().map(String::as_str).collect() {
                return Some(format!("{id} breaks the rules {broken:?}"));
            }
            // What threads do to each other need not be the same twice.
            if needs_threads(&test.name) {
                continue;
            }
            let read = |dir: &Path| fs::read_to_string(dir.join(canonical_of(id, 0)));
            let (Ok(then), Ok(now)) = (read(clean), read(dir)) else {
                return Some(format!("{id} has no canonical trace"));
            };
            let steps = diff(&then, &now);
            let changed = steps.iter().filter(|step| !step.is_equal());
            let ops = changed.filter_map(|step| step.right.or(step.left)).map(|step| step.op);
            differing.extend(ops.map(str::to_owned));
        }
        (self.crashed.is_none() && differing != self.differs)
            .then(|| format!("the traces differ in {differing:?}, and not in {:?}", self.differs))
    }
}

impl Ends {
    /// What is wrong with the rows of a trace that should end so.
    fn missing(&self, rows: &Path) -> Option<String> {
        /// Where the buffer of a test begins, in pages.
        const BUFFER: u64 = 0x10_0000_0000 >> 12;
        let text = match fs::read_to_string(rows) {
            Ok(text) => text,
            Err(error) => return Some(format!("{}: {error}", rows.display())),
        };
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Row>(line).ok());
        let walked = rows
            .filter(|row| row.probe == crate::trace::Probe::Collect)
            .filter_map(|row| row.addresses())
            .next_back();
        let page = |address: u64| (address >> 12).wrapping_sub(BUFFER);
        match walked {
            Some((start, end)) if (page(start), page(end)) == (self.from, self.to) => None,
            Some((start, end)) => {
                Some(format!("its last walk is of pages {}..{}", page(start), page(end)))
            }
            None => Some("its trace has no walk".to_owned()),
        }
    }
}

/// Whether several threads of a test work at the same time.
fn needs_threads(name: &str) -> bool {
    let of = |test: &&catalogue::TestDef| test.name == name;
    catalogue::TESTS.iter().find(of).is_some_and(|test| test.needs.contains(&catalogue::THREADS))
}

async fn run(
    session: &Session,
    wishes: Wishes,
    permissions: Permissions,
    cwd: &Path,
) -> Result<(Results, PathBuf), Stop> {
    let prepared = prepare(wishes, None, cwd)?;
    let ran = carry_out(session, &prepared, permissions, cwd).await?;
    session.interrupt.check()?;
    Ok(ran)
}
