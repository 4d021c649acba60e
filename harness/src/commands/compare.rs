//! `compare`: two runs beside each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::CompareArgs;
use crate::compare::{Side, compare, tell};
use crate::judge::Results;
use crate::proc::quote;
use crate::progress::print;
use crate::stop::{AS_EXPECTED, NOT_AS_EXPECTED, Problem, Stop};
use crate::trace::may_differ;
use crate::{report, rundir};

/// Runs the command: 1 if the second run is worse.
///
/// # Errors
/// When there are no such runs.
pub fn run(args: &CompareArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let (a, b) = (Run::open("A", &args.a, &cwd)?, Run::open("B", &args.b, &cwd)?);
    let found = compare(&a.side(), &b.side());
    let again = [a.command(), b.command()];
    let text = tell(&found, (&a.results, &b.results), &again, args.format);
    print(&text.context("the comparison")?)?;
    Ok(if found.worse.is_empty() { AS_EXPECTED } else { NOT_AS_EXPECTED })
}

/// A saved run.
struct Run {
    dir: PathBuf,
    results: Results,
}

impl Run {
    fn open(at: &str, name: &str, cwd: &Path) -> Result<Run, Stop> {
        let named = |problem: Problem| Stop::usage(Problem { at: at.to_owned(), ..problem });
        let dir = rundir::find(name, cwd).map_err(named)?;
        let results = report::read(&dir).map_err(|error| {
            let hint = format!("{} judge {}", report::program(), dir.display());
            Stop::usage(Problem::new(at, format!("{error:#}")).hint(hint))
        })?;
        Ok(Run { dir, results })
    }

    /// With the traces that are whole, and the same each time.
    fn side(&self) -> Side<'_> {
        let whole = self.results.tests.iter();
        let whole = whole.filter(|test| test.trace.complete && !may_differ(&test.name));
        let canonical: BTreeMap<String, String> = whole
            .filter_map(|test| {
                let text = fs::read_to_string(self.dir.join(rundir::canonical_of(&test.id, 0)));
                Some((test.id.clone(), text.ok()?))
            })
            .collect();
        Side { results: &self.results, canonical }
    }

    /// The command that carries it out again.
    fn command(&self) -> String {
        let plan = quote(&self.dir.join("plan.yaml").to_string_lossy());
        format!("{} run-kernel-tests --plan {plan}", report::program())
    }
}
