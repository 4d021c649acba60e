//! One module for each command: it puts the stages together, and says what came
//! out.

pub mod check;
pub mod doctor;
pub mod judge;
pub mod list;
pub mod run_kernel_tests;

use std::path::PathBuf;

use anyhow::Context as _;

use crate::context::Context;
use crate::events::Log;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::stop::Stop;
use crate::store::Store;

/// The context of a command that shows its progress on standard error.
///
/// # Errors
/// When the store cannot be made, or signals not listened for.
pub fn context() -> Result<Context, Stop> {
    let mut progress = Progress::default();
    let log = Log::new(move |event| {
        if let Some(line) = progress.line(event) {
            eprintln!("{line}");
        }
    });
    Ok(Context { store: Store::of_user()?, log, interrupt: Interrupt::listen()? })
}

/// The caller's directory, to which paths are relative.
///
/// # Errors
/// When it is gone.
pub fn cwd() -> Result<PathBuf, Stop> {
    Ok(std::env::current_dir().context("the current directory")?)
}
