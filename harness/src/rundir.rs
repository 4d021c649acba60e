//! Run directories: where they lie, how one is made, how one is found again.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::events::Record;
use crate::stop::Problem;
use crate::store::xdg;

/// The name of the link to the newest run.
const LATEST: &str = "latest";

/// What happened in a run.
pub const EVENTS: &str = "events.jsonl";
/// What its machines said on their serial consoles.
pub const CONSOLE: &str = "console.log";
/// What the compiler said.
pub const BUILD: &str = "build.log";

/// What makes a directory a run of ours.
const MARK: &str = EVENTS;

/// The directory under which runs are kept: `HMM_HARNESS_RUNS`, else
/// `target/hmm/runs` in our own checkout, else the XDG state directory.
///
/// # Errors
/// When no home is known.
pub fn base(cwd: &Path) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("HMM_HARNESS_RUNS") {
        return Ok(cwd.join(dir));
    }
    match checkout(cwd) {
        Some(checkout) => Ok(checkout.join("target/hmm/runs")),
        None => Ok(xdg("XDG_STATE_HOME", ".local/state")?.join("hmm-harness/runs")),
    }
}

/// Our own checkout, if `cwd` lies in it.
pub fn checkout(cwd: &Path) -> Option<PathBuf> {
    let ours = |dir: &&Path| dir.join("harness/src/rundir.rs").exists();
    cwd.ancestors().find(ours).map(Path::to_owned)
}

/// What a run leaves in its directory.
pub const FILES: [&str; 18] = [
    BISECT,
    "bisect.json.new",
    BISECT_HTML,
    "plan.yaml",
    BASELINE,
    RESULTS,
    DRAFT,
    JUNIT,
    KTAP,
    REPORT,
    REPORT_DRAFT,
    MARK,
    CONSOLE,
    "kernel.config",
    BUILD,
    "qemu.cmd",
    VMCORE,
    UNWINDER,
];

/// The judgement.
pub const RESULTS: &str = "results.json";
/// What `results.json` is called while it is written.
pub const DRAFT: &str = "results.json.new";
/// The same as JUnit XML.
pub const JUNIT: &str = "junit.xml";
/// The same as KTAP.
pub const KTAP: &str = "results.ktap";
/// The same as a page.
pub const REPORT: &str = "report.html";
/// What `report.html` is called while it is written.
pub const REPORT_DRAFT: &str = "report.html.new";
/// The baseline that a run is held against, as it was when the run began.
pub const BASELINE: &str = "baseline.yaml";

/// What a bisect has found, and goes on from.
pub const BISECT: &str = "bisect.json";
/// The same as a page.
pub const BISECT_HTML: &str = "bisect.html";

/// The console of a VM while it runs; `console.log` takes it over when the VM is
/// gone.
pub fn console_of(vm: u32) -> String {
    format!("console-{vm}.log")
}

/// Where traces are kept, in a run directory.
pub const TRACES: &str = "trace";

/// Where the last session with a debugger left what it has.
pub const DEBUG: &str = "debug";

/// There: what a guest that crashed had in its memory.
pub const VMCORE: &str = "vmcore";

/// There: what teaches gdb to unwind the kernel's stacks.
pub const UNWINDER: &str = "orc.py";

/// Where the runs of single kernels are, each under a number of three digits.
pub const EACH: &str = "each";

/// What came through the trace port of a VM for the test that was its `run`th,
/// counted from 1.
pub fn raw_trace_of(vm: u32, run: u32) -> PathBuf {
    Path::new(TRACES).join(format!("{vm}.{run}.raw"))
}

/// The rows of a test's trace, as lines of JSON. A test that has several turns
/// has several traces, of which the first has no number.
pub fn rows_of(id: &str, turn: u32) -> PathBuf {
    trace_of(id, turn, "jsonl")
}

/// Its canonical form.
pub fn canonical_of(id: &str, turn: u32) -> PathBuf {
    trace_of(id, turn, "canonical")
}

fn trace_of(id: &str, turn: u32, kind: &str) -> PathBuf {
    let turn = if turn == 0 { String::new() } else { format!("@{turn}") };
    Path::new(TRACES).join(format!("{id}{turn}.{kind}"))
}

/// Whether a file among the traces is one that a run has left there.
fn is_trace(name: &std::ffi::OsStr) -> bool {
    let kind = Path::new(name).extension().and_then(|kind| kind.to_str());
    matches!(kind, Some("raw" | "jsonl" | "canonical"))
}

/// Whether a directory among the runs of single kernels is one of them.
fn is_number(name: &std::ffi::OsStr) -> bool {
    name.len() >= 3 && name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

/// What speaks against the option `at` for a copy of `own`, a file of the run
/// directory `out`.
pub fn check_copy(at: &str, own: &str, path: &Path, out: &Path) -> Option<Problem> {
    if path.file_name().is_some_and(|name| name == own) {
        return None;
    }
    let hint = format!("{own} is in the run directory anyway");
    check_beside(at, path, out).map(|problem| problem.hint(hint))
}

/// What speaks against a path of the option `at` beside the run directory `out`.
pub fn check_beside(at: &str, path: &Path, out: &Path) -> Option<Problem> {
    let name = path.file_name()?;
    // Either may be named through a link, such as `latest`.
    let real = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let beside = path.parent().is_some_and(|parent| real(parent) == real(out));
    let traces = path.parent().is_some_and(|parent| real(parent) == real(&out.join(TRACES)));
    ((beside && is_ours(name)) || traces)
        .then(|| Problem::new(at, format!("{} is where the run keeps its own", path.display())))
}

/// Whether a file of a run directory is one that a run has left there.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let number = name.strip_prefix("console-").and_then(|rest| rest.strip_suffix(".log"));
    FILES.contains(&name)
        || [TRACES, EACH, DEBUG].contains(&name)
        || number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// What speaks against `--out DIR`, if anything does.
pub fn check_out(dir: &Path) -> Option<Problem> {
    let problem = |what: &str| {
        Some(
            Problem::new("--out", format!("{} {what}", dir.display()))
                .hint("name a directory that is absent, empty, or an earlier run"),
        )
    };
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            return problem("is not a directory");
        }
        Err(e) => return problem(&format!("cannot be read: {e}")),
        Ok(entries) => entries,
    };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let traces = fs::read_dir(dir.join(TRACES)).into_iter().flatten().flatten();
    let traces: Vec<_> = traces.map(|entry| entry.file_name()).collect();
    let each = fs::read_dir(dir.join(EACH)).into_iter().flatten().flatten();
    for entry in each {
        if !is_number(&entry.file_name()) || !entry.path().is_dir() {
            return problem(&format!("holds what is not ours: {}", entry.path().display()));
        }
        if let Some(inside) = check_out(&entry.path()) {
            return Some(inside);
        }
    }
    if let Some(inside) = check_out(&dir.join(DEBUG)) {
        return Some(inside);
    }
    let foreign =
        names.iter().find(|name| !is_ours(name)).or(traces.iter().find(|name| !is_trace(name)));
    if let Some(foreign) = foreign {
        return problem(&format!("holds what is not ours: {}", foreign.display()));
    }
    if !names.is_empty() && !is_run(dir) {
        return problem("is no earlier run");
    }
    if is_live(dir) { problem("belongs to a run that is still going") } else { None }
}

/// More than the first event of a run takes, in bytes.
const FIRST_LINE: u64 = 64 << 10;

/// Whether a run has begun here: its events are, as far as it came to write any.
fn is_run(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(MARK)) else { return false };
    let mut first = String::new();
    let read = BufReader::new(file.take(FIRST_LINE)).read_line(&mut first);
    let begun = serde_json::from_str::<Record>(&first).is_ok();
    read.is_ok() && (first.is_empty() || begun)
}

/// Takes a run directory for this process, until the lock is dropped.
///
/// # Errors
/// When another run has it.
pub fn hold(dir: &Path) -> Result<Flock<File>> {
    let file = File::open(dir).with_context(|| dir.display().to_string())?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => anyhow!("{} belongs to a run that is still going", dir.display()),
        error => anyhow!("cannot lock {}: {error}", dir.display()),
    })
}

/// Whether a run is still writing to its directory.
pub fn is_live(dir: &Path) -> bool {
    dir.is_dir() && hold(dir).is_err()
}

/// Makes the directory of a new run, which it then [holds](hold), and points `latest` at it unless the
/// caller has named the place himself.
///
/// # Errors
/// When it cannot be made.
pub fn create(out: Option<&Path>, cwd: &Path) -> Result<(PathBuf, Flock<File>)> {
    if let Some(dir) = out {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let held = hold(dir)?;
        let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
        for entry in entries.flatten().filter(|entry| is_ours(&entry.file_name())) {
            let path = entry.path();
            // In them is only what a run leaves, or it were not ours.
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        return Ok((dir.to_owned(), held));
    }
    let base = base(cwd)?;
    fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
    let stamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let stamp: String = stamp.chars().filter(char::is_ascii_alphanumeric).collect();
    let made = tempfile::Builder::new()
        .prefix(&format!("{stamp}-"))
        .rand_bytes(6)
        .tempdir_in(&base)
        .with_context(|| format!("cannot make a run directory in {}", base.display()))?
        .keep();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&made, mode).with_context(|| made.display().to_string())?;
    let held = hold(&made)?;
    point_latest_at(&base, &made)?;
    Ok((made, held))
}

fn point_latest_at(base: &Path, dir: &Path) -> Result<()> {
    let name = dir.file_name().expect("it was made with a name");
    let fresh = base.join(format!(".{LATEST}-{}", std::process::id()));
    // A left-over of a process with the same number is in the way.
    let _ = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(name, &fresh)
        .and_then(|()| fs::rename(&fresh, base.join(LATEST)))
        .with_context(|| format!("cannot point {LATEST} at {}", dir.display()))
}

/// The directory of a saved run: a path, the name of a run, or `latest`.
///
/// # Errors
/// A problem that names what was looked for.
pub fn find(run: &str, cwd: &Path) -> Result<PathBuf, Problem> {
    let bases = base(cwd).ok();
    let candidates = [bases.map(|b| b.join(run)), Some(cwd.join(run))];
    let mut candidates = candidates.into_iter().flatten();
    if let Some(dir) = candidates.clone().find(|dir| dir.join(MARK).exists()) {
        return Ok(dir.canonicalize().unwrap_or(dir));
    }
    let what = match candidates.find(|dir| dir.exists()) {
        Some(dir) => format!("{} is no run directory: it holds no {MARK}", dir.display()),
        None => format!("there is no run {run:?}"),
    };
    Err(Problem::new("RUN", what).hint("name a run directory, its name, or `latest`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_take_the_place_of_what_the_run_keeps() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let (dir, link) = (base.path().join("run"), base.path().join("latest"));
        fs::create_dir(&dir).expect("writable");
        std::os::unix::fs::symlink("run", &link).expect("writable");
        for path in [dir.join("events.jsonl"), link.join("events.jsonl")] {
            assert!(
                check_copy("--json", "results.json", &path, &dir).is_some(),
                "{}",
                path.display()
            );
        }
        for path in [link.join("results.json"), dir.join("mine"), base.path().join("plan.yaml")] {
            assert_eq!(
                check_copy("--json", "results.json", &path, &dir),
                None,
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn out_must_be_empty_or_ours() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(check_out(dir.path()), None);
        assert_eq!(check_out(&dir.path().join("absent")), None);
        fs::write(dir.path().join("events.jsonl"), "{\"click\": 1}\n").expect("writable");
        assert!(check_out(dir.path()).is_some(), "a file of that name is no proof");
        let note = "{\"t_ms\":0,\"event\":\"note\",\"text\":\"\"}\n";
        fs::write(dir.path().join("events.jsonl"), note).expect("writable");
        assert_eq!(check_out(dir.path()), None);
        fs::write(dir.path().join("events.jsonl"), "").expect("writable");
        assert_eq!(check_out(dir.path()), None, "a run that was killed at once");
        fs::write(dir.path().join("plan.yaml"), "").expect("writable");
        let held = create(Some(dir.path()), dir.path()).expect("writable");
        assert!(check_out(dir.path()).is_some(), "it belongs to a run");
        drop(held);
        assert!(!dir.path().join("plan.yaml").exists());
        fs::write(dir.path().join("thesis.txt"), "years of work").expect("writable");
        assert!(check_out(dir.path()).is_some());
        assert!(check_out(&dir.path().join("thesis.txt")).is_some());
    }

    #[test]
    fn what_lies_in_the_run_of_a_single_kernel_must_be_its_own_too() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = |name: &str| dir.path().join(name);
        let one = path("each/003");
        fs::create_dir_all(&one).expect("writable");
        for dir in [dir.path(), one.as_path()] {
            fs::write(dir.join(MARK), "").expect("writable");
        }
        assert_eq!(check_out(dir.path()), None);
        fs::write(one.join("notes.txt"), "mine").expect("writable");
        assert!(check_out(dir.path()).is_some_and(|problem| problem.what.contains("notes.txt")));
        fs::remove_file(one.join("notes.txt")).expect("removable");
        fs::write(path("each/004"), "no directory").expect("writable");
        assert!(check_out(dir.path()).is_some());
    }
}
