//! `compare`: two runs beside each other, or a baseline and a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::baseline::Baseline;
use crate::cli::CompareArgs;
use crate::compare::{Side, Words, compare, name, tell};
use crate::proc::quote;
use crate::progress::print;
use crate::results::Results;
use crate::stop::{AS_EXPECTED, NOT_AS_EXPECTED, Problem, Stop};
use crate::{report, rundir};

/// Runs the command: 1 if the second run is worse.
///
/// # Errors
/// When there are no such runs.
pub fn run(args: &CompareArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let b = Run::open("B", &args.b, &cwd)?;
    let path = cwd.join(&args.a);
    let mut again = vec![b.command()];
    let after = name(&b.results);
    let (found, of) = if path.is_file() {
        let baseline = super::read_baseline("A", &path)?;
        let of = format!("on {after}, held against {}", called(&path, &baseline));
        (compare(&Side::baseline(&baseline), &b.side()), of)
    } else {
        let a = Run::open("A", &args.a, &cwd)?;
        again.insert(0, a.command());
        let of = format!("on {}, and on {after}", name(&a.results));
        (compare(&a.side(), &b.side()), of)
    };
    let words = Words { of, tested: tested(&b.results), again };
    print(&tell(&found, &words, args.format).context("the comparison")?)?;
    Ok(if found.worse.is_empty() { AS_EXPECTED } else { NOT_AS_EXPECTED })
}

/// What a baseline is called.
fn called(path: &Path, baseline: &Baseline) -> String {
    let kernel = baseline.given.get("kernel").map_or("no kernel", String::as_str);
    format!("{} of {kernel}", path.file_name().unwrap_or_default().display())
}

/// What was tested, and where.
fn tested(results: &Results) -> Vec<String> {
    let (kernel, machine) = (&results.kernel, &results.machine);
    let short = |text: &str| text.chars().take(12).collect::<String>();
    let head =
        format!("{}, source {}, tree {}", kernel.release, kernel.source, short(&kernel.tree));
    let patches = kernel.series.iter().map(|patch| format!("patch: {}", patch.subject));
    let config =
        format!("profile {}, configuration {}", kernel.profile, short(&kernel.config_sha256));
    let on = format!(
        "{}, QEMU {}, {} processors, {} MiB, root file system {}",
        machine.accelerator, machine.qemu_version, machine.cpus, machine.memory_mib, machine.rootfs
    );
    std::iter::once(head).chain(patches).chain([config, on]).collect()
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
        if results.exit_code > NOT_AS_EXPECTED || results.tests.is_empty() {
            let what = format!("{} has no verdicts that could be compared", dir.display());
            let hint = format!("{} show {} says why", report::program(), dir.display());
            return Err(Stop::usage(Problem::new(at, what).hint(hint)));
        }
        Ok(Run { dir, results })
    }

    /// With its traces, as far as they are whole.
    fn side(&self) -> Side<'_> {
        let canonical: BTreeMap<String, String> = self
            .results
            .tests
            .iter()
            .filter_map(|test| {
                let text = fs::read_to_string(self.dir.join(rundir::canonical_of(&test.id, 0)));
                // Without it less is shown, and nothing overlooked.
                Some((test.id.clone(), text.ok()?))
            })
            .collect();
        Side::run(&self.results, canonical)
    }

    /// The command that carries it out again.
    fn command(&self) -> String {
        let plan = quote(&self.dir.join("plan.yaml").to_string_lossy());
        format!("{} run-kernel-tests --plan {plan}", report::program())
    }
}
