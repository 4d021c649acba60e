//! `judge`: a saved run, judged again.

use std::io::Write as _;

use anyhow::Context as _;

use crate::cli::JudgeArgs;
use crate::stop::Stop;
use crate::{collect, judge, report, rundir};

/// Runs the command.
///
/// # Errors
/// When there is no such run, or its evidence cannot be read.
pub fn run(args: &JudgeArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let dir = rundir::find(&args.run, &cwd).map_err(Stop::usage)?;
    let results = judge::judge(&collect::evidence(&dir)?);
    let json = args.json.as_ref().map(|path| cwd.join(path));
    report::write(&results, &dir, json.as_deref())?;
    std::io::stdout()
        .write_all(report::summary(&results, &dir).as_bytes())
        .context("standard output")?;
    Ok(results.exit_code)
}
