//! `report`: the page of a saved run, written again.

use crate::cli::ReportArgs;
use crate::progress::print;
use crate::stop::{AS_EXPECTED, Problem, Stop};
use crate::{report, rundir};

/// Runs the command.
///
/// # Errors
/// When there is no such run, it has no results, or its directory takes no page.
pub fn run(args: &ReportArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let dir = rundir::find(&args.run, &cwd).map_err(Stop::usage)?;
    let problem = |what: String, hint: String| Stop::usage(Problem::new("RUN", what).hint(hint));
    if rundir::is_live(&dir) {
        return Err(problem(
            format!("{} is still going", dir.display()),
            "wait for its end".into(),
        ));
    }
    let bisect = dir.join(rundir::BISECT_HTML);
    if bisect.is_file() {
        let what = format!("{} is a bisect", dir.display());
        return Err(problem(what, format!("its page is {}", bisect.display())));
    }
    let judge = format!("{} judge {}", report::program(), dir.display());
    let results = report::read(&dir).map_err(|error| problem(format!("{error:#}"), judge))?;
    let path = report::html::write(&results, &dir)?;
    print(&format!("{}\n", path.display()))?;
    Ok(AS_EXPECTED)
}
