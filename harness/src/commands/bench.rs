//! `bench`: where the time goes, with the budgets beside it.
//!
//! Each row is measured on the product as a user starts it, by starting this
//! program again; what is compared with something else is run in pairs, one
//! after the other, since a busy machine slows both. A budget that is not met
//! is shown and fails nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::BenchArgs;
use crate::context::{Context, Session};
use crate::git::{Git, TreeId};
use crate::machine;
use crate::proc::Cmd;
use crate::progress::{headline, print};
use crate::results::Results;
use crate::rundir;
use crate::stop::{Fault, Stop};

/// The test that stands for one test.
const ONE: &str = "hmm.migrate.private";

/// The file that is changed to see what a change costs.
const CHANGED: &str = "mm/migrate_device.c";

/// Where the kernel's own tests of HMM are, with what they include.
const UPSTREAM: [&str; 4] = [
    "tools/testing/selftests/mm/hmm-tests.c",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "lib/test_hmm_uapi.h",
];

/// The schema's name, the first field of what `--json` writes.
const SCHEMA: &str = "hmm-harness/bench/1";

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    cpu: String,
    processors: usize,
    qemu_version: String,
    rows: Vec<Row>,
}

/// One figure.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    what: &'static str,
    /// `s`, `MiB`, or `ratio`.
    unit: &'static str,
    /// Each measurement, in its order.
    values: Vec<f64>,
    /// The one in the middle; nothing where nothing could be measured.
    median: Option<f64>,
    /// What it should not exceed, where that is laid down.
    budget: Option<f64>,
    /// Why there is no figure, or how it is to be read.
    note: String,
}

impl Row {
    fn new(name: &'static str, what: &'static str, unit: &'static str, values: Vec<f64>) -> Self {
        let median = median(&values);
        Row { name, what, unit, values, median, budget: None, note: String::new() }
    }

    fn within(mut self, budget: f64) -> Self {
        self.budget = Some(budget);
        self
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn line(&self) -> String {
        let number = |n: f64| {
            if self.unit == "ratio" { format!("{n:.2}") } else { format!("{n:.2} {}", self.unit) }
        };
        let range = match (
            self.values.iter().copied().reduce(f64::min),
            self.values.iter().copied().reduce(f64::max),
        ) {
            (Some(least), Some(most)) if self.values.len() > 1 => {
                format!("{least:.2} to {most:.2}")
            }
            _ => String::new(),
        };
        let median = self.median.map_or("-".into(), number);
        let (budget, met) = match (self.budget, self.median) {
            (Some(budget), Some(median)) => {
                (number(budget), if median <= budget { "met" } else { "NOT MET" })
            }
            (Some(budget), None) => (number(budget), "-"),
            (None, _) => ("-".into(), ""),
        };
        format!("{:<58} {median:>10} {range:>16} {budget:>10} {met:<8} {}\n", self.what, self.note)
    }
}

/// Runs the command.
///
/// # Errors
/// When a run that should be good is not, or the user stops us.
pub async fn run(session: &Session, args: &BenchArgs) -> Result<u8, Stop> {
    let ctx = &session.context()?;
    machine::ready(ctx, args.yes).await?;
    let scratch = tempfile::tempdir().context("a directory for the runs")?;
    let bench = Bench { ctx, dir: scratch.path(), runs: args.runs };
    // All that is remembered between runs is there from now on.
    let first = bench.harness("the first run", &[]).await?;
    bench.harness("the first run without traces", &["--trace", "off"]).await?;

    let mut rows = Vec::new();
    rows.extend(bench.one_test().await?);
    rows.extend(bench.all_tests(&first).await?);
    rows.push(bench.tracing().await?);
    rows.push(bench.isolated(&first).await?);
    rows.push(bench.one_line(&first).await?);
    rows.push(bench.flood().await?);
    if args.cold {
        rows.push(bench.cold().await?);
    }

    let qemu = machine::qemu(ctx).await?;
    let report = Report {
        schema: SCHEMA,
        cpu: qemu.host.lines().next().unwrap_or_default().to_owned(),
        processors: std::thread::available_parallelism().map_or(1, |n| n.get()),
        qemu_version: qemu.version,
        rows,
    };
    let head = format!("{:<58} {:>10} {:>16} {:>10}\n", "WHAT", "MEDIAN", "RANGE", "BUDGET");
    print(&report.rows.iter().fold(head, |text, row| text + &row.line()))?;
    if let Some(path) = &args.json {
        let path = super::cwd()?.join(path);
        let text = serde_json::to_string_pretty(&report).context("the figures")?;
        fs::write(&path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(0)
}

/// What measurements share.
struct Bench<'a> {
    ctx: &'a Context,
    dir: &'a Path,
    /// How often each thing is measured.
    runs: u32,
}

/// A run of this program.
struct Ran {
    wall: Duration,
    results: Results,
    /// The most memory that it held itself, in MiB.
    peak_mib: f64,
}

impl Bench<'_> {
    /// Starts this program as a user would, and waits for its verdict.
    async fn harness(&self, what: &str, options: &[&str]) -> Result<Ran, Stop> {
        self.harness_with(what, options, &[], &[0]).await
    }

    async fn harness_with(
        &self,
        what: &str,
        options: &[&str],
        env: &[(&str, &Path)],
        codes: &[i32],
    ) -> Result<Ran, Stop> {
        headline(format_args!("bench    {what}"));
        let out = self.dir.join("run");
        let mut command = Cmd::new(std::env::current_exe().context("the path of this program")?);
        for name in ["HMM_HARNESS_CACHE", "XDG_CACHE_HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command = command.env(name, value);
            }
        }
        for (name, value) in env {
            command = command.env(name, value);
        }
        let command = command.args(["run-kernel-tests", "--out"]).arg(&out).args(options);
        let peak = Peak::of(&out);
        let start = Instant::now();
        let ended = command.run(&self.ctx.interrupt, |line| self.ctx.log.line(line)).await?;
        let wall = start.elapsed();
        let peak_mib = peak.mib();
        let path = out.join("results.json");
        let results: Option<Results> =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match results {
            Some(results) if codes.contains(&ended.code) => Ok(Ran { wall, results, peak_mib }),
            _ => Err(Stop::Machine(
                Fault::new(format!("{what} ended with {}", ended.code)).details(ended.tail),
            )),
        }
    }

    /// One test with nothing to build, and what the saved guest saves.
    async fn one_test(&self) -> Result<Vec<Row>, Stop> {
        let (mut restored, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let with = self.harness("one test", &["--test", ONE]).await?;
            let without =
                self.harness("one test, booted", &["--test", ONE, "--no-snapshot"]).await?;
            restored.push(with.wall.as_secs_f64());
            ratios.push(with.wall.as_secs_f64() / without.wall.as_secs_f64());
        }
        Ok(vec![
            Row::new("one-test", "nothing changed, one test: start to verdict", "s", restored)
                .within(1.0),
            Row::new("one-test-restored", "the same over a run that boots", "ratio", ratios),
        ])
    }

    /// All tests, and beside them the kernel's own under virtme-ng.
    async fn all_tests(&self, first: &Ran) -> Result<Vec<Row>, Stop> {
        let mut rival = Rival::find(self, first).await?;
        let (mut ours, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let wall = self.harness("all tests", &[]).await?.wall.as_secs_f64();
            ours.push(wall);
            if let Ok(other) = &rival {
                match other.run(self).await {
                    Ok(theirs) => ratios.push(wall / theirs.as_secs_f64()),
                    Err(Stop::Machine(fault)) => rival = Err(fault.what),
                    Err(stop) => return Err(stop),
                }
            }
        }
        let tests =
            Row::new("all-tests", "nothing changed, all tests: start to verdict", "s", ours);
        let ratio = Row::new(
            "over-virtme-ng",
            "the same over virtme-ng and the kernel's hmm-tests",
            "ratio",
            ratios,
        )
        .within(0.5)
        .note(rival.err().unwrap_or_default());
        Ok(vec![tests, ratio])
    }

    /// What it costs to capture notifier events, and to understand them.
    async fn tracing(&self) -> Result<Row, Stop> {
        let mut ratios = Vec::new();
        for n in 0..self.runs {
            // Whoever comes second finds a warmer machine.
            let order = if n % 2 == 0 { ["on", "off"] } else { ["off", "on"] };
            let mut walls = Vec::new();
            for trace in order {
                let what = format!("all tests, tracing {trace}");
                walls.push(self.harness(&what, &["--trace", trace]).await?.wall.as_secs_f64());
            }
            let ratio = walls[0] / walls[1];
            ratios.push(if n % 2 == 0 { ratio } else { 1.0 / ratio });
        }
        let what = "all tests with tracing over all tests without";
        Ok(Row::new("tracing", what, "ratio", ratios).within(1.25))
    }

    /// Each test in a VM of its own: the wall time for each, and beside it what
    /// the tests take by themselves.
    async fn isolated(&self, first: &Ran) -> Result<Row, Stop> {
        let tests = &first.results.tests;
        let count = tests.len() as f64;
        let own = tests.iter().map(|t| t.duration_ms as f64 / 1000.0).sum::<f64>() / count;
        let mut values = Vec::new();
        for _ in 0..self.runs.div_ceil(2) {
            let ran = self.harness("each test in a VM of its own", &["--isolate", "vm"]).await?;
            values.push(ran.wall.as_secs_f64() / count);
        }
        let row =
            Row::new("isolated", "each test in a VM of its own: wall time per test", "s", values);
        Ok(row.within(0.4 + own).note(format!("0.4 s and the test itself, which takes {own:.2} s")))
    }

    /// A change of one line: what the run takes beyond the build.
    async fn one_line(&self, first: &Ran) -> Result<Row, Stop> {
        let git = Git::of(&self.ctx.store)?;
        let tree = TreeId(first.results.kernel.tree.clone());
        let source =
            git.file(&tree, CHANGED)?.with_context(|| format!("the tree has no {CHANGED}"))?;
        let mut values = Vec::new();
        for n in 0..self.runs.div_ceil(2) {
            // The store knows every change that it has seen.
            let mark = format!("{}-{n}", std::process::id());
            let patch = self.dir.join("one-line.patch");
            fs::write(&patch, appended(CHANGED, &source, &format!("/* {mark} */")))
                .context("cannot write the patch")?;
            let patch = patch.to_string_lossy().into_owned();
            let ran = self.harness("a change of one line", &["--series", &patch]).await?;
            let build = Duration::from_millis(ran.results.timing.build_ms);
            values.push(ran.wall.saturating_sub(build).as_secs_f64());
        }
        let row = Row::new(
            "one-line",
            "a change of one line to all verdicts, without its build",
            "s",
            values,
        );
        Ok(row.within(8.0))
    }

    /// The memory of the harness when the guest never stops printing.
    async fn flood(&self) -> Result<Row, Stop> {
        let row = |values| {
            Row::new(
                "memory",
                "memory of the harness while a guest floods the console",
                "MiB",
                values,
            )
            .within(64.0)
        };
        let checkout = rundir::checkout(&super::cwd()?);
        let plan = checkout.map(|dir| dir.join("ci/plans/negative/console-flood.yaml"));
        let Some(plan) = plan.filter(|plan| plan.is_file()) else {
            return Ok(row(Vec::new()).note("the flooding kernel is a patch of the checkout"));
        };
        let plan = plan.to_string_lossy().into_owned();
        let options = ["--plan", plan.as_str()];
        let ran = self.harness_with("a flood on the console", &options, &[], &[0, 1]).await?;
        Ok(row(vec![ran.peak_mib]))
    }

    /// A build from nothing, of a source that is there.
    async fn cold(&self) -> Result<Row, Stop> {
        let cold = self.dir.join("cold");
        fs::create_dir(&cold).context("a store for the cold build")?;
        for part in ["trees.git", "debian", "series", "copies"] {
            let there = self.ctx.store.path(part);
            if there.exists() {
                std::os::unix::fs::symlink(there, cold.join(part)).context("the cold store")?;
            }
        }
        let options = ["--until", "build"];
        let env = [("HMM_HARNESS_CACHE", cold.as_path())];
        let ran = self.harness_with("a cold build", &options, &env, &[0]).await?;
        let build = Duration::from_millis(ran.results.timing.build_ms).as_secs_f64();
        Ok(Row::new("cold-build", "cold build of the default profile", "s", vec![build])
            .within(300.0))
    }
}

/// The kernel's own hmm-tests under virtme-ng.
struct Rival {
    vng: PathBuf,
    kernel: PathBuf,
    /// Parameters that the kernel needs: for its root, and for the driver.
    parameters: Vec<String>,
    tests: PathBuf,
    /// Whether our runs have KVM, and so may theirs.
    kvm: bool,
}

impl Rival {
    /// Compiles the tests of the tree, or says why there is nothing to compare
    /// with.
    async fn find(bench: &Bench<'_>, first: &Ran) -> Result<Result<Self, String>, Stop> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let vng = std::env::split_paths(&path).map(|dir| dir.join("vng")).find(|p| p.is_file());
        let Some(vng) = vng else { return Ok(Err("virtme-ng is not installed".into())) };
        let command = fs::read_to_string(bench.dir.join("run/qemu.cmd")).context("qemu.cmd")?;
        let mut words = command.split(|c: char| c.is_whitespace() || c == '\'');
        let of_driver = |word: &&str| word.starts_with("memmap=") || word.starts_with("test_hmm.");
        // A kernel without block devices must be told where its root is.
        let parameters = ["root=/dev/root"].into_iter().chain(words.clone().filter(of_driver));
        let parameters = parameters.map(str::to_owned).collect();
        let kernel = words.find(|word| *word == "-kernel").and_then(|_| words.next());
        let kernel = kernel.context("qemu.cmd names no kernel")?;
        let git = Git::of(&bench.ctx.store)?;
        let tree = TreeId(first.results.kernel.tree.clone());
        for path in UPSTREAM.iter().chain(&["mm/gup_test.h"]) {
            let Some(text) = git.file(&tree, path)? else {
                return Ok(Err(format!("the tree has no {path}")));
            };
            let place = bench.dir.join("upstream").join(path);
            fs::create_dir_all(place.parent().expect("it lies below"))
                .context("upstream's tests")?;
            fs::write(&place, text).context("upstream's tests")?;
        }
        let tests = bench.dir.join("upstream/hmm-tests");
        let compiled = Cmd::new("gcc")
            .dir(bench.dir.join("upstream"))
            .args(["-O2", "-w", "-D_GNU_SOURCE=", "-I.", "-Itools/testing/selftests"])
            .args([UPSTREAM[0], "-o", "hmm-tests", "-lpthread"])
            .run(&bench.ctx.interrupt, |_| {})
            .await?;
        if !compiled.success() {
            return Ok(Err("the kernel's hmm-tests do not compile".into()));
        }
        let kvm = first.results.machine.accelerator == "kvm";
        Ok(Ok(Rival { vng, kernel: kernel.into(), parameters, tests, kvm }))
    }

    async fn run(&self, bench: &Bench<'_>) -> Result<Duration, Stop> {
        headline("bench    virtme-ng and the kernel's hmm-tests");
        // They want huge pages, and a place for files that can be mapped: without
        // overlayfs virtme-ng leaves the host's /tmp there, read-only.
        let words = format!(
            "echo 8 > /proc/sys/vm/nr_hugepages; cp {} /run/; mount -t tmpfs tmp /tmp; /run/hmm-tests",
            crate::proc::quote(&self.tests.to_string_lossy())
        );
        let start = Instant::now();
        let ended = Cmd::new(&self.vng)
            .args(if self.kvm { &[][..] } else { &["--disable-kvm"] })
            // Without udev it finds no port for the script's output, and shows what
            // the console says only if it is asked to.
            .args(["--verbose", "--cpus", "2", "--memory", "2G", "--user", "root"])
            .args(self.parameters.iter().flat_map(|word| ["--append", word]))
            .arg("--run")
            .arg(&self.kernel)
            .args(["--", &format!("sh -c {}", crate::proc::quote(&words))])
            .run(&bench.ctx.interrupt, |_| {})
            .await?;
        let ran = ended.tail.iter().any(|line| line.contains("# PASSED: "));
        if ran {
            return Ok(start.elapsed());
        }
        Err(Stop::Machine(Fault::new("virtme-ng did not run the tests").details(ended.tail)))
    }
}

/// Follows the memory of a run, which is known by its run directory.
struct Peak {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<f64>,
}

impl Peak {
    fn of(out: &Path) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let out = out.to_string_lossy().into_owned();
        let thread = std::thread::spawn(move || {
            let mut peak = 0.0f64;
            let mut process = None;
            loop {
                if process.is_none() {
                    process = find(&out);
                }
                if let Some(mib) = process.as_deref().and_then(peak_of) {
                    peak = peak.max(mib);
                }
                match stopped.recv_timeout(Duration::from_millis(50)) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return peak,
                }
            }
        });
        Peak { stop, thread }
    }

    fn mib(self) -> f64 {
        // A thread that is gone has nothing to be told.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

/// The process that runs tests into this directory.
fn find(out: &str) -> Option<PathBuf> {
    fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path()).find(|process| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|b| *b == 0).collect();
        words.get(1) == Some(&b"run-kernel-tests".as_slice()) && words.contains(&out.as_bytes())
    })
}

/// The most memory that a process has held, in MiB (`VmHWM`, proc(5)).
fn peak_of(process: &Path) -> Option<f64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// A patch that adds a line at the end of a file.
fn appended(path: &str, text: &str, line: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let context = &lines[lines.len().saturating_sub(3)..];
    let first = lines.len() - context.len() + 1;
    let (old, new) = (context.len(), context.len() + 1);
    let context: String = context.iter().map(|line| format!(" {line}\n")).collect();
    format!("--- a/{path}\n+++ b/{path}\n@@ -{first},{old} +{first},{new} @@\n{context}+{line}\n")
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (upper + sorted[sorted.len() / 2 - 1]) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_line_is_added_at_the_end() {
        let patch = appended("a.c", "1\n2\n3\n4\n", "/* x */");
        assert_eq!(patch, "--- a/a.c\n+++ b/a.c\n@@ -2,3 +2,4 @@\n 2\n 3\n 4\n+/* x */\n");
    }

    #[test]
    fn a_row_tells_whether_its_budget_is_met() {
        let row = Row::new("x", "something", "s", vec![1.0, 3.0, 2.0]);
        assert!(row.line().contains("2.00 s"));
        assert!(Row::new("x", "y", "s", vec![2.0]).within(1.0).line().contains("NOT MET"));
        assert!(!Row::new("x", "y", "s", vec![0.5]).within(1.0).line().contains("NOT"));
    }
}
