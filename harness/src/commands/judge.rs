//! `judge`: a saved run, judged again.

use std::path::PathBuf;

use super::{check_copies, kcidb};
use crate::cli::JudgeArgs;
use crate::progress::{print, say};
use crate::report::Copies;
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
    let each = dir.join(rundir::EACH);
    if each.is_dir() {
        let what = format!("{} is several runs", dir.display());
        let hint = format!("judge one of those in {}", each.display());
        return Err(Stop::usage(Problem::new("RUN", what).hint(hint)));
    }
    let to = |path: &Option<PathBuf>| path.as_ref().map(|path| cwd.join(path));
    let mut problems = Vec::new();
    let copies = Copies {
        json: to(&args.json),
        junit: to(&args.junit),
        ktap: to(&args.ktap),
        kcidb: kcidb(to(&args.kcidb), args.kcidb_origin.as_deref(), &mut problems),
    };
    problems.extend(check_copies(&copies, Some(&dir)));
    if !problems.is_empty() {
        return Err(Stop::Usage { problems });
    }
    let evidence = collect::evidence(&dir)?;
    let results = judge::judge(&evidence);
    // Evidence may be kept where nothing can be written any more.
    if let Some(why) = evidence.unwritten() {
        say(format_args!("note     {why}"));
    }
    let written = report::write(&results, &dir).and_then(|()| report::html::write(&results, &dir));
    if let Err(error) = written {
        say(format_args!("note     {error:#}"));
    }
    let copied = report::write_copies(&results, &dir, &copies);
    print(&report::summary(&results, &dir)).and(copied)?;
    Ok(results.exit_code)
}
