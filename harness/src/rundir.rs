//! Run directories: where they lie, how one is made, how one is found again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};

use crate::stop::Problem;
use crate::store::xdg;

/// The name of the link to the newest run.
const LATEST: &str = "latest";

/// What makes a directory a run of ours.
const MARK: &str = "events.jsonl";

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
const FILES: [&str; 11] = [
    "plan.yaml",
    "results.json",
    "junit.xml",
    "results.ktap",
    "events.jsonl",
    "trace",
    "console.log",
    "kernel.config",
    "build.log",
    "qemu.cmd",
    "report.html",
];

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
    let foreign = entries.flatten().find(|entry| !FILES.iter().any(|f| entry.file_name() == *f))?;
    problem(&format!("holds what is not ours: {}", foreign.file_name().display()))
}

/// Makes the directory of a new run, and points `latest` at it unless the
/// caller has named the place himself.
///
/// # Errors
/// When it cannot be made.
pub fn create(out: Option<&Path>, cwd: &Path) -> Result<PathBuf> {
    if let Some(dir) = out {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for file in FILES {
            let path = dir.join(file);
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        return Ok(dir.to_owned());
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
    point_latest_at(&base, &made)?;
    Ok(made)
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
    candidates
        .into_iter()
        .flatten()
        .find(|dir| dir.join(MARK).exists())
        .map(|dir| dir.canonicalize().unwrap_or(dir))
        .ok_or_else(|| {
            Problem::new("RUN", format!("there is no run {run:?}"))
                .hint("name a run directory, its name, or `latest`")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_must_be_empty_or_ours() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(check_out(dir.path()), None);
        assert_eq!(check_out(&dir.path().join("absent")), None);
        fs::write(dir.path().join("events.jsonl"), "").expect("writable");
        fs::write(dir.path().join("plan.yaml"), "").expect("writable");
        assert_eq!(check_out(dir.path()), None);
        create(Some(dir.path()), dir.path()).expect("writable");
        assert!(!dir.path().join("plan.yaml").exists());
        fs::write(dir.path().join("thesis.txt"), "years of work").expect("writable");
        assert!(check_out(dir.path()).is_some());
        assert!(check_out(&dir.path().join("thesis.txt")).is_some());
    }
}
