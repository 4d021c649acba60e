//! What GitHub's Actions are told of a run, if it is one of their steps.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::progress::say;
use crate::results::Results;
use crate::{report, runner};

/// The variable that names the file with the step's summary.
const SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// How large that file may be, in bytes, for GitHub to show it.
const LARGEST: u64 = 1 << 20;

/// Writes annotations for the run in `dir`, and appends to the step's summary. The
/// verdict stands, whatever becomes of that.
pub(super) fn tell(results: &Results, dir: &Path) {
    if !runner::listens() {
        return;
    }
    report::annotations(results).iter().for_each(|line| runner::command(line));
    let Some(path) = std::env::var_os(SUMMARY).filter(|path| !path.is_empty()) else { return };
    if let Err(error) = append(Path::new(&path), &report::step_summary(results, dir)) {
        say(format_args!("note     {SUMMARY} ({}): {error}", path.display()));
    }
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    if file.metadata()?.len() + text.len() as u64 > LARGEST {
        return Err(std::io::Error::other("there is no more room for this run"));
    }
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_added_to_what_is_there_as_far_as_there_is_room() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("summary.md");
        std::fs::write(&path, "one\n").expect("writable");
        append(&path, "two\n").expect("there is room");
        assert_eq!(std::fs::read_to_string(&path).expect("written"), "one\ntwo\n");
        std::fs::write(&path, vec![b'x'; LARGEST as usize - 1]).expect("writable");
        assert!(append(&path, "two\n").is_err());
        assert_eq!(path.metadata().expect("there").len(), LARGEST - 1);
    }
}
