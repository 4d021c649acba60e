//! `list`: the tests.

use hmm_protocol::TestId;

use crate::cli::ListArgs;
use crate::config::Fragments;
use crate::embedded;
use crate::plan::{Wishes, resolve};
use crate::progress::print;
use crate::stop::Stop;

/// Runs the command.
///
/// # Errors
/// When the filter leaves nothing.
pub fn run(args: &ListArgs) -> Result<u8, Stop> {
    let wishes = Wishes { filter: args.filter.clone(), ..Wishes::default() };
    let fragments = Fragments::of(embedded::files());
    let plan =
        resolve(wishes, &fragments.profiles()).map_err(|problems| Stop::Usage { problems })?;
    print(&table(&plan.test_ids()))?;
    Ok(0)
}

fn table(tests: &[TestId]) -> String {
    let mut text = format!("{:<40} {:<6} {:<32} {}\n", "TEST", "SINCE", "NEEDS", "WHAT IT SHOWS");
    for test in tests {
        let def = test.def();
        let since = test.since();
        let mut needs: Vec<&str> = def.ioctls.to_vec();
        needs.extend(def.needs);
        text.push_str(&format!(
            "{:<40} {:<6} {:<32} {}\n",
            test.to_string(),
            format!("{}.{}", since.0, since.1),
            if needs.is_empty() { "-".to_owned() } else { needs.join(", ") },
            def.about,
        ));
    }
    text
}
