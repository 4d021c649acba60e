//! One module for each command: it puts the stages together, and says what came
//! out.

pub mod bench;
pub mod callers;
pub mod check;
pub mod doctor;
pub mod judge;
pub mod list;
pub mod run_kernel_tests;
pub mod torture;

use std::path::PathBuf;

use anyhow::Context as _;

use crate::context::Session;
use crate::events::Log;
use crate::interrupt::Interrupt;
use crate::progress::{Progress, say};
use crate::stop::Stop;

/// A session that shows its progress on standard error.
///
/// # Errors
/// When signals cannot be listened for.
pub fn session() -> Result<Session, Stop> {
    let mut progress = Progress::default();
    let log = Log::new(move |event| {
        if let Some(line) = progress.line(event) {
            say(line);
        }
    });
    Ok(Session { log, interrupt: Interrupt::listen()? })
}

/// The caller's directory, to which paths are relative.
///
/// # Errors
/// When it is gone.
pub fn cwd() -> Result<PathBuf, Stop> {
    Ok(std::env::current_dir().context("the current directory")?)
}
