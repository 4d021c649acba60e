//! One module for each command: it puts the stages together, and says what came
//! out.

pub mod baseline;
pub mod bench;
pub mod bisect;
pub mod cache;
mod candidates;
pub mod check;
pub mod compare;
pub mod completions;
pub mod debug;
pub mod doctor;
mod each;
mod github;
pub mod judge;
pub mod list;
pub mod report;
pub mod run_kernel_tests;
pub mod shell;
pub mod show;
pub mod torture;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::baseline::Baseline;
use crate::context::Session;
use crate::interrupt::Interrupt;
use crate::progress::{self, Talk, say};
use crate::report::{Copies, Kcidb};
use crate::rundir;
use crate::rundir::{JUNIT, KTAP, RESULTS};
use crate::stop::{Problem, Stop};

/// A session that shows its progress on standard error.
///
/// # Errors
/// When the environment asks for nonsense, or signals cannot be listened for.
pub fn session() -> Result<Session, Stop> {
    session_that_tells(Talk::All)
}

/// The same for a command that tells so much of what it does.
fn session_that_tells(talk: Talk) -> Result<Session, Stop> {
    crate::cache::bound()?;
    let interrupt = Interrupt::listen()?;
    progress::start();
    Ok(Session { log: progress::log(talk, talk), interrupt })
}

/// Keeps the store within its bound, after a command, until it is done or the user
/// wants no more of it. What it removes, and why it cannot, is said: the command has
/// ended as it did.
pub async fn tidy() {
    let tidying = tokio::task::spawn_blocking(|| match crate::cache::tidy() {
        Ok(told) => told.into_iter().for_each(say),
        Err(stop) => say(stop),
    });
    let Ok(interrupt) = Interrupt::listen() else { return };
    tokio::select! {
        // It says itself what went wrong.
        _ = tidying => {}
        // What is half removed, the next one removes.
        () = interrupt.wait() => {}
    }
}

/// The caller's directory, to which paths are relative.
///
/// # Errors
/// When it is gone.
pub fn cwd() -> Result<PathBuf, Stop> {
    Ok(std::env::current_dir().context("the current directory")?)
}

/// A submission to KCIDB, if one is wanted: its path and whose it is belong together.
fn kcidb(
    path: Option<PathBuf>,
    origin: Option<&str>,
    problems: &mut Vec<Problem>,
) -> Option<Kcidb> {
    let (at, what) = match (&path, origin) {
        (None, None) => return None,
        (Some(_), Some(origin)) if crate::report::is_origin(origin) => {
            return path.map(|path| Kcidb { path, origin: origin.to_owned() });
        }
        (Some(_), Some(origin)) => {
            let what = format!("{origin:?} is no origin: only a-z, 0-9 and _ may be in it");
            ("--kcidb-origin", what)
        }
        (Some(_), None) => ("--kcidb", "it needs --kcidb-origin".to_owned()),
        (None, Some(_)) => ("--kcidb-origin", "it needs --kcidb".to_owned()),
    };
    let hint = "--kcidb PATH --kcidb-origin NAME, the name of the CI system that submits";
    problems.push(Problem::new(at, what).hint(hint));
    None
}

/// What speaks against copies of a judgement, as far as it shows before there is one:
/// with each other, and with the run directory if it is known.
fn check_copies(copies: &Copies, dir: Option<&Path>) -> Vec<Problem> {
    let all = [
        ("--json", Some(RESULTS), &copies.json),
        ("--junit", Some(JUNIT), &copies.junit),
        ("--ktap", Some(KTAP), &copies.ktap),
        ("--kcidb", None, &copies.kcidb.as_ref().map(|kcidb| kcidb.path.clone())),
    ];
    let mut problems = Vec::new();
    for (n, (at, own, path)) in all.iter().enumerate() {
        let Some(path) = path else { continue };
        problems.extend(check_writable(at, path));
        problems.extend(dir.and_then(|dir| match own {
            Some(own) => rundir::check_copy(at, own, path, dir),
            None => rundir::check_beside(at, path, dir),
        }));
        if let Some((other, ..)) = all[..n].iter().find(|(.., other)| other.as_ref() == Some(path))
        {
            problems.push(Problem::new(*at, format!("it is the same file as that of {other}")));
        }
    }
    problems
}

/// Reads the baseline at a path that was given as `at`.
///
/// # Errors
/// When it is not there, or is none.
fn read_baseline(at: &str, path: &Path) -> Result<Baseline, Stop> {
    let hint = format!("{} baseline update FILE writes one from a run", crate::report::program());
    let text = read_small(path).map_err(|error| {
        Stop::usage(Problem::new(at, format!("{}: {error}", path.display())).hint(hint))
    })?;
    Baseline::read(path, &text)
        .map_err(|problem| Stop::usage(Problem { at: at.to_owned(), ..problem }))
}

/// The text of a plan or a baseline. Anything but a file of reasonable size could keep
/// us reading for ever.
fn read_small(path: &Path) -> std::io::Result<String> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() || about.len() > 1 << 20 {
        return Err(std::io::Error::other("it is no file of a person"));
    }
    std::fs::read_to_string(path)
}

/// What speaks against writing the file that the option `at` names, as far as it
/// shows before there is anything to write.
fn check_writable(at: &str, path: &Path) -> Option<Problem> {
    if path.is_dir() {
        return Some(Problem::new(at, format!("{} is a directory", path.display())));
    }
    let parent = path.parent()?;
    (!parent.is_dir()).then(|| {
        Problem::new(at, format!("{} is not a directory", parent.display())).hint("make it first")
    })
}
