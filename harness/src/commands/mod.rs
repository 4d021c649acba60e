//! One module for each command: it puts the stages together, and says what came
//! out.

pub mod bench;
pub mod bisect;
pub mod cache;
mod candidates;
pub mod check;
pub mod compare;
pub mod debug;
pub mod doctor;
mod each;
pub mod judge;
pub mod list;
pub mod run_kernel_tests;
pub mod show;
pub mod torture;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::context::Session;
use crate::events::Log;
use crate::interrupt::Interrupt;
use crate::progress::{Progress, say};
use crate::report::{self, Copies};
use crate::rundir;
use crate::stop::{Problem, Stop};

/// A session that shows its progress on standard error.
///
/// # Errors
/// When the environment asks for nonsense, or signals cannot be listened for.
pub fn session() -> Result<Session, Stop> {
    crate::cache::bound()?;
    let mut progress = Progress::default();
    let log = Log::new(move |event| {
        if let Some(line) = progress.line(event) {
            say(line);
        }
    });
    Ok(Session { log, interrupt: Interrupt::listen()? })
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

/// What speaks against copies of a judgement, as far as it shows before there is one:
/// with each other, and with the run directory if it is known.
fn check_copies(copies: &Copies, dir: Option<&Path>) -> Vec<Problem> {
    let all = [
        ("--json", report::RESULTS, &copies.json),
        ("--junit", report::JUNIT, &copies.junit),
        ("--ktap", report::KTAP, &copies.ktap),
    ];
    let mut problems = Vec::new();
    for (n, (at, own, path)) in all.iter().enumerate() {
        let Some(path) = path else { continue };
        problems.extend(check_writable(at, path));
        problems.extend(dir.and_then(|dir| rundir::check_copy(at, own, path, dir)));
        if let Some((other, ..)) = all[..n].iter().find(|(.., other)| other.as_ref() == Some(path))
        {
            problems.push(Problem::new(*at, format!("it is the same file as that of {other}")));
        }
    }
    problems
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
