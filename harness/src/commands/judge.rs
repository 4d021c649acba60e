//! `judge`: a saved run, judged again.

use crate::cli::JudgeArgs;
use crate::progress::{print, say};
use crate::stop::{Problem, Stop};
use crate::{collect, judge, report, rundir};

/// Runs the command.
///
/// # Errors
/// When there is no such run, or its evidence cannot be read.
pub fn run(args: &JudgeArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let dir = rundir::find(&args.run, &cwd).map_err(Stop::usage)?;
    if rundir::is_live(&dir) {
        let what = format!("{} is still going", dir.display());
        return Err(Stop::usage(Problem::new("RUN", what).hint("wait for its end")));
    }
    let results = judge::judge(&collect::evidence(&dir)?);
    let json = args.json.as_ref().map(|path| cwd.join(path));
    // Evidence may be kept where nothing can be written any more.
    if let Err(error) = report::write(&results, &dir, json.as_deref()) {
        say(format_args!("note     {error:#}"));
    }
    print(&report::summary(&results, &dir))?;
    Ok(results.exit_code)
}
