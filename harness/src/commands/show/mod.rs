//! `show`: a saved run for a person. Nothing is judged again: what is said of a
//! test is what `results.json` says.

mod callers;
pub(super) mod diff;
mod overview;
pub mod perfetto;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::{bisect, check_writable};
use crate::cli::ShowArgs;
use crate::context::Session;
use crate::progress::{UNWRITTEN, print, say, stream};
use crate::results::{Results, TestResult, Verdict};
use crate::stop::{AS_EXPECTED, NOT_AS_EXPECTED, Problem, Stop};
use crate::trace::{Tell, rows};
use crate::words::clean;
use crate::{report, rundir};

/// Runs the command.
///
/// # Errors
/// When there is no such run or test, or it lacks what is to be shown.
pub async fn run(session: &Session, args: &ShowArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    if let [left, right] = args.diff.as_slice() {
        let (left, right) = (Run::open("RUN1", left, &cwd)?, Run::open("RUN2", right, &cwd)?);
        return differences(&left, &right, args.test.as_deref().unwrap_or_default());
    }
    let nothing_of_it = args.test.is_none() && args.perfetto.is_none() && !args.callers;
    if nothing_of_it
        && let Ok(dir) = rundir::find(&args.run, &cwd)
        && let Some(text) = bisect::told(&dir)
    {
        print(&text)?;
        return Ok(AS_EXPECTED);
    }
    let run = Run::open("RUN", &args.run, &cwd)?;
    if args.callers {
        return callers::run(session, &run.dir, &run.results).await;
    }
    let wanted = args.test.as_deref().map(|test| run.pick(test)).transpose()?;
    if let Some(path) = &args.perfetto {
        let path = cwd.join(path);
        let problem = check_writable("--perfetto", &path);
        let problem = problem.or_else(|| rundir::check_beside("--perfetto", &path, &run.dir));
        problem.map_or(Ok(()), |problem| Err(Stop::usage(problem)))?;
        return run.perfetto(wanted.as_deref(), &path);
    }
    match wanted {
        None => {
            let closing = report::summary(&run.results, &run.dir);
            print(&format!("{}\n{closing}", overview::tests(&run.results)))?;
        }
        Some(tests) if args.trace => {
            let files = tests
                .iter()
                .map(|chosen| Ok((chosen.test, run.rows(chosen)?)))
                .collect::<Result<Vec<_>, Stop>>()?;
            stream(|out| {
                for (n, (test, path)) in files.iter().enumerate() {
                    let space = if n == 0 { "" } else { "\n" };
                    writeln!(out, "{space}{}", overview::head(test))?;
                    tell(test, path, &mut *out)?;
                }
                Ok(())
            })?;
        }
        Some(tests) => {
            let texts = tests.iter().map(|chosen| {
                let files = run.files(&chosen.test.id);
                overview::test(chosen.test, &files, &run.commands(&chosen.test.id))
            });
            print(&texts.collect::<Vec<_>>().join("\n"))?;
        }
    }
    Ok(AS_EXPECTED)
}

/// A saved run.
struct Run {
    dir: PathBuf,
    results: Results,
}

/// A test of a run, and which of its turns.
struct Chosen<'a> {
    test: &'a TestResult,
    turn: u32,
}

impl Run {
    fn open(at: &str, name: &str, cwd: &Path) -> Result<Run, Stop> {
        let named = |problem: Problem| Stop::usage(Problem { at: at.to_owned(), ..problem });
        let dir = rundir::find(name, cwd).map_err(named)?;
        if rundir::is_live(&dir) {
            let what = format!("{} is still going", dir.display());
            return Err(Stop::usage(Problem::new(at, what).hint("wait for its end")));
        }
        let judge = format!("{} judge {}", report::program(), dir.display());
        let results = report::read(&dir)
            .map_err(|error| Stop::usage(Problem::new(at, format!("{error:#}")).hint(judge)))?;
        Ok(Run { dir, results })
    }

    /// The tests that a word means: an id, or a name for every device, perhaps
    /// with the number of a turn.
    fn pick(&self, word: &str) -> Result<Vec<Chosen<'_>>, Stop> {
        let (name, turn) = match word.rsplit_once('@') {
            Some((name, turn)) => (name, turn.parse().ok()),
            None => (word, Some(0)),
        };
        let named = |test: &&TestResult| test.id == name || test.name == name;
        let chosen = |test| Chosen { test, turn: turn.unwrap_or_default() };
        let tests: Vec<Chosen> = self.results.tests.iter().filter(named).map(chosen).collect();
        if !tests.is_empty() && turn.is_some() {
            return Ok(tests);
        }
        let other = self.results.not_applicable.iter().find(|other| other.id == name);
        let problem = match other {
            Some(other) => Problem::new(
                "--test",
                format!("{name} does not apply to this kernel: {}", other.reason),
            ),
            None => {
                let problem =
                    Problem::new("--test", format!("{} has no test {word:?}", self.dir.display()));
                match overview::nearest(name, &self.results) {
                    Some(near) => problem.hint(format!("there is {near}")),
                    None => problem,
                }
            }
        };
        Err(Stop::usage(problem))
    }

    /// The rows of a test's trace.
    fn rows(&self, chosen: &Chosen) -> Result<PathBuf, Stop> {
        let path = self.dir.join(rundir::rows_of(&chosen.test.id, chosen.turn));
        if path.is_file() { Ok(path) } else { Err(self.lacks(chosen, "--trace", &path)) }
    }

    /// The canonical form of a test's trace.
    fn canonical(&self, chosen: &Chosen) -> Result<String, Stop> {
        let path = self.dir.join(rundir::canonical_of(&chosen.test.id, chosen.turn));
        if !path.is_file() {
            return Err(self.lacks(chosen, "--diff", &path));
        }
        Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?)
    }

    /// Why a test has not the trace that is to be shown.
    fn lacks(&self, Chosen { test, turn }: &Chosen, at: &str, path: &Path) -> Stop {
        let (program, dir) = (report::program(), self.dir.display());
        let state = self.results.machine.settings.get("trace").map(String::as_str);
        let rows = self.dir.join(rundir::rows_of(&test.id, *turn));
        let hint = match state {
            _ if rows.is_file() => format!(
                "its trace is not whole, so it cannot be compared; what there is shows {}",
                self.commands(&test.id)[0]
            ),
            _ if test.verdict == Verdict::NotRun => "the test never ran".to_owned(),
            _ if *turn > 0 => format!("the test had {}", overview::turns(test)),
            Some(state) if !state.starts_with("on") => format!("tracing is {state}"),
            Some(_) => format!("{program} judge {dir} writes the traces that came, once more"),
            None => format!("run it again: {}", self.again(&test.id)),
        };
        let what = format!("{} has no trace in this run: no {}", test.id, path.display());
        Stop::usage(Problem::new(at, what).hint(hint))
    }

    /// What to type to see a test's trace, and to run it once more.
    fn commands(&self, id: &str) -> [String; 2] {
        let steps = report::show_trace(report::program(), &self.dir, id);
        [steps, self.again(id)]
    }

    /// The command that runs a test once more.
    fn again(&self, id: &str) -> String {
        report::again(report::program(), &self.dir, id)
    }

    /// Where the evidence of a test lies.
    fn files(&self, id: &str) -> Vec<PathBuf> {
        let traces = (0..).map(|turn| [rundir::rows_of(id, turn), rundir::canonical_of(id, turn)]);
        let traces = traces.map(|pair| pair.map(|path| self.dir.join(path)));
        let traces = traces.take_while(|[rows, _]| rows.is_file()).flatten();
        let logs = ["console.log", "events.jsonl"].map(|name| self.dir.join(name));
        traces.chain(logs).filter(|path| path.is_file()).collect()
    }

    fn perfetto(&self, chosen: Option<&[Chosen]>, path: &Path) -> Result<u8, Stop> {
        let ids: Vec<&str> = match chosen {
            Some(chosen) => chosen.iter().map(|chosen| chosen.test.id.as_str()).collect(),
            None => self.results.tests.iter().map(|test| test.id.as_str()).collect(),
        };
        let has = |id: &&str| self.dir.join(rundir::rows_of(id, 0)).is_file();
        if !ids.iter().any(has) {
            let first = self.results.tests.iter().find(|test| ids.contains(&test.id.as_str()));
            let Some(test) = first else {
                let what = format!("{} has no tests", self.dir.display());
                return Err(Stop::usage(Problem::new("--perfetto", what)));
            };
            let rows = self.dir.join(rundir::rows_of(&test.id, 0));
            return Err(self.lacks(&Chosen { test, turn: 0 }, "--perfetto", &rows));
        }
        let traces = perfetto::write(&self.dir, &ids, path)?;
        let (path, s) = (path.display(), if traces == 1 { "" } else { "s" });
        say(format_args!("{traces} trace{s} in {path}; https://ui.perfetto.dev opens it"));
        Ok(AS_EXPECTED)
    }
}

/// Tells a test's trace as it is read.
fn tell(test: &TestResult, path: &Path, out: &mut dyn std::io::Write) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut tell = Tell::new(&mut *out, &test.trace.violations);
    for row in rows(BufReader::with_capacity(64 << 10, file)) {
        tell.push(&row.with_context(|| path.display().to_string())?).context(UNWRITTEN)?;
    }
    let told = tell.finish().context(UNWRITTEN)?;
    let left_out = match told.left_out {
        0 => String::new(),
        n => format!(", of which {n} about other memory are left out"),
    };
    writeln!(
        out,
        "\n{} steps, {} rows{left_out}; all of them in {}",
        told.steps,
        told.events,
        path.display()
    )?;
    Ok(())
}

/// Shows what differs between the traces of a test in two runs.
fn differences(left: &Run, right: &Run, word: &str) -> Result<u8, Stop> {
    let tests = left.pick(word)?;
    let mut pairs = Vec::new();
    for chosen in tests {
        let others = right.pick(word)?;
        let other = others.into_iter().find(|other| other.test.id == chosen.test.id);
        let other = other.ok_or_else(|| anyhow!("{word:?} means other tests in the second run"))?;
        pairs.push((chosen.test, left.canonical(&chosen)?, right.canonical(&other)?));
    }
    let mut differ = false;
    let mut text = String::new();
    for (side, run) in [("<", left), (">", right)] {
        text.push_str(&format!("{side} {} {}\n", run.dir.display(), run.results.kernel.release));
    }
    for (test, a, b) in &pairs {
        differ |= a != b;
        text.push_str(&format!("\n{}\n{}", test.id, diff::side_by_side(a, b)));
    }
    print(&clean(&text))?;
    Ok(if differ { NOT_AS_EXPECTED } else { AS_EXPECTED })
}
