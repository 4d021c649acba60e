//! Runs make in a lane: its variables, its progress, its log.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::debugger;
use super::diagnose::{Whose, diagnose};
use super::lane::Lane;
use crate::config::{ARCH, Configured};
use crate::context::Context;
use crate::flow::Stage;
use crate::proc::Cmd;
use crate::rundir;
use crate::stop::{Fault, Stop};

/// What makes the same tree the same image, wherever and whenever it is built
/// (Documentation/kbuild/reproducible-builds.rst). Part of every kernel's key.
pub(super) const VARIABLES: &[(&str, &str)] = &[
    ("KBUILD_BUILD_USER", "hmm-harness"),
    ("KBUILD_BUILD_HOST", "localhost"),
    ("KBUILD_BUILD_TIMESTAMP", "Mon Jul  6 00:00:00 UTC 2020"),
    ("KBUILD_BUILD_VERSION", "1"),
    // Set and empty: scripts/setlocalversion then adds nothing of its own.
    ("LOCALVERSION", ""),
];

/// How long nothing is said at most.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How long make has, after it was asked to end, to remove what it had begun;
/// the keeper kills it later than that.
const ORDERLY: Duration = Duration::from_millis(2500);

/// Builds `vmlinux` and returns how many objects were compiled or assembled.
pub(super) async fn make(
    ctx: &Context,
    lane: &Lane,
    configured: &Configured,
    log_dir: &Path,
) -> Result<usize, Stop> {
    let (src, obj) = (lane.src(), lane.obj());
    write_if_different(&obj.join(".config"), &configured.config)?;
    let from_nothing = !obj.join("vmlinux.o").exists();
    let log_path = log_dir.join(rundir::BUILD);
    let mut log = BufWriter::new(
        File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?,
    );

    lane.begin_making()?;
    let mut progress = Progress::new(from_nothing.then(|| lane.full_build()).flatten());
    let place = format!("{}/", src.display());
    let mut written = Ok(());
    let asked = tokio::spawn({
        let interrupt = ctx.interrupt.clone();
        async move {
            interrupt.wait().await;
            Instant::now()
        }
    });
    let ended = command(&src, &obj, targets(&configured.config))
        .run(&ctx.interrupt, |line| {
            if let (Ok(()), Err(error)) = (&written, writeln!(log, "{line}")) {
                written = Err(error);
            }
            // Where the lane is, is no news, and the window is narrow.
            ctx.log.line(&line.replace(&place, ""));
            if let Some(text) = progress.line(line) {
                ctx.log.progress(Stage::Build, text);
            }
            ctx.log.count(progress.objects, progress.of);
        })
        .await;
    if let Err(Stop::Interrupted) = ended {
        // make removes the targets it was at when it is asked to end. If it
        // had the time for it, nothing is half-written and all of it counts.
        if asked.is_finished() && asked.await.is_ok_and(|at| at.elapsed() < ORDERLY) {
            lane.end_making()?;
        }
        return Err(Stop::Interrupted);
    }
    asked.abort();
    let ended = ended?;
    written
        .and_then(|()| log.flush())
        .with_context(|| format!("cannot write {}", log_path.display()))?;
    if ended.code >= 128 {
        // Killed: the mark stays, and the next build cleans up.
        return Err(Stop::Machine(
            Fault::new(format!("make was killed by signal {}", ended.code - 128))
                .at(Stage::Build)
                .hint("is there enough memory? 3 GiB are"),
        ));
    }
    lane.end_making()?;
    if !ended.success() {
        return Err(failure(&log_path, &src));
    }
    if from_nothing {
        lane.set_full_build(progress.objects)?;
    }
    Ok(progress.objects)
}

/// What is made: the image, and with `GDB_SCRIPTS` what the kernel's commands for
/// gdb need to know of it.
fn targets(config: &str) -> &'static [&'static str] {
    if debugger::has_scripts(config) { &["vmlinux", "scripts_gdb"] } else { &["vmlinux"] }
}

/// The command. Output is grouped by target, so that the lines of an error
/// stay together, and both streams go to one pipe, so that they stay in order.
fn command(src: &Path, obj: &Path, targets: &[&str]) -> Cmd {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut out = std::ffi::OsString::from("O=");
    out.push(obj);
    Cmd::new("sh")
        .args(["-c", r#"exec "$@" 2>&1"#, "sh", "make", "-C"])
        .arg(src)
        .arg(out)
        .args([ARCH, &format!("-j{jobs}"), "--output-sync=target"])
        .args(VARIABLES.iter().map(|(name, value)| format!("{name}={value}")))
        .args(targets)
}

/// Writes a file unless it has this text already: its time stamp decides
/// whether kbuild looks at it.
fn write_if_different(path: &Path, text: &str) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What went wrong, from the log.
fn failure(log_path: &Path, src: &Path) -> Stop {
    let text = match fs::read(log_path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("cannot read it again: {error}"),
    };
    let text = text.replace(&format!("{}/", src.display()), "");
    let found = diagnose(&text);
    let fault = Fault::new(found.what).at(Stage::Build).details(found.details);
    let log = format!("the whole log: {}", log_path.display());
    match found.whose {
        Whose::Kernel => Stop::Kernel(fault.hint(log)),
        Whose::Machine { hint } => Stop::Machine(fault.hint(hint)),
    }
}

/// Counts objects, and says so from time to time.
struct Progress {
    objects: usize,
    of: Option<usize>,
    started: Instant,
    said_at: Instant,
    said: usize,
}

impl Progress {
    fn new(of: Option<usize>) -> Self {
        let now = Instant::now();
        Progress { objects: 0, of, started: now, said_at: now, said: 0 }
    }

    /// Takes a line of make's output; a text to show, if it is time for one.
    fn line(&mut self, line: &str) -> Option<String> {
        if !is_object(line) {
            return None;
        }
        self.objects += 1;
        if self.objects < self.said + 100 && self.said_at.elapsed() < SAY_EVERY {
            return None;
        }
        (self.said, self.said_at) = (self.objects, Instant::now());
        let of = self.of.map(|of| format!(" of {of}")).unwrap_or_default();
        Some(format!("{}{of} objects, {} s", self.objects, self.started.elapsed().as_secs()))
    }
}

/// Whether a line of make's output announces an object of the kernel:
/// `  CC      mm/hmm.o`, `  AS      arch/x86/entry/entry_64.o`.
fn is_object(line: &str) -> bool {
    let mut words = line.split_whitespace();
    line.starts_with("  ")
        && matches!(words.next(), Some("CC" | "AS"))
        && words.next_back().is_some_and(|object| object.ends_with(".o"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_counted_and_nothing_else() {
        let check = |line: &str, expect: bool| assert_eq!(is_object(line), expect, "{line}");
        check("  CC      mm/hmm.o", true);
        check("  AS      arch/x86/entry/entry_64.o", true);
        check("  CC      kernel/bounds.s", false);
        check("  AR      mm/built-in.a", false);
        check("  HOSTCC  scripts/basic/fixdep", false);
        check("CC mm/hmm.o", false);
        check("  CC", false);
    }

    #[test]
    fn progress_is_said_every_hundred_objects() {
        let mut progress = Progress::new(Some(1100));
        let said: Vec<String> =
            (0..250).filter_map(|_| progress.line("  CC      mm/hmm.o")).collect();
        assert_eq!(said, ["100 of 1100 objects, 0 s", "200 of 1100 objects, 0 s"]);
    }
}
