//! Which tests are meant by names, globs and a kind of device.

use hmm_protocol::{Device, TestId, catalogue};
use regex::Regex;

use crate::stop::Problem;

/// The tests that are left, in the catalogue's order.
pub(super) fn select(
    tests: &[String],
    filter: &[String],
    device: Option<Device>,
    problems: &mut Vec<Problem>,
) -> Vec<TestId> {
    let all = catalogue::all();
    let before = problems.len();
    for test in tests {
        if !all.iter().any(|id| is_named(id, test)) {
            let names: Vec<&str> = catalogue::TESTS.iter().map(|t| t.name).collect();
            problems.push(
                Problem::new("--test", format!("there is no test {test:?}"))
                    .hint(format!("the tests are: {}", names.join(", "))),
            );
        }
    }
    let globs: Vec<&str> =
        filter.iter().flat_map(|f| f.split(',')).map(str::trim).filter(|g| !g.is_empty()).collect();
    if globs.is_empty() && !filter.is_empty() {
        problems.push(Problem::new("--filter", "the filter is empty"));
    }
    let (without, with): (Vec<&str>, Vec<&str>) = globs.iter().partition(|g| g.starts_with('!'));
    // Of several the others would hide it.
    for glob in with.iter().filter(|_| with.len() > 1) {
        if !all.iter().any(|id| matches(id, glob)) {
            problems.push(Problem::new("--filter", format!("{glob:?} matches no test")));
        }
    }

    let chosen: Vec<TestId> = all
        .into_iter()
        .filter(|id| tests.is_empty() || tests.iter().any(|t| is_named(id, t)))
        .filter(|id| device.is_none_or(|kind| id.device == Some(kind)))
        .filter(|id| with.is_empty() || with.iter().any(|glob| matches(id, glob)))
        .filter(|id| !without.iter().any(|glob| matches(id, &glob[1..])))
        .collect();
    if chosen.is_empty() && problems.len() == before {
        let names: Vec<&str> = catalogue::TESTS.iter().map(|t| t.name).collect();
        problems.push(
            Problem::new(
                if filter.is_empty() { "--test" } else { "--filter" },
                format!("no test is left by {}", described(tests, filter, device)),
            )
            .hint(format!("the tests are: {}", names.join(", "))),
        );
    }
    chosen
}

fn described(tests: &[String], filter: &[String], device: Option<Device>) -> String {
    let mut parts = Vec::new();
    if !tests.is_empty() {
        parts.push(format!("--test {}", tests.join(" --test ")));
    }
    if !filter.is_empty() {
        parts.push(format!("--filter {:?}", filter.join(",")));
    }
    if let Some(device) = device {
        parts.push(format!("--device {device}"));
    }
    parts.join(" ")
}

fn is_named(id: &TestId, word: &str) -> bool {
    id.name == word || id.to_string() == word
}

fn matches(id: &TestId, glob: &str) -> bool {
    matches_glob(glob, id.name) || matches_glob(glob, &id.to_string())
}

/// Whether a glob matches the whole of a text: `*` is any run of characters,
/// `?` is any one.
pub fn matches_glob(glob: &str, text: &str) -> bool {
    let pattern: String = glob
        .chars()
        .map(|c| match c {
            '*' => ".*".to_owned(),
            '?' => ".".to_owned(),
            other => regex::escape(&other.to_string()),
        })
        .collect();
    Regex::new(&format!("^{pattern}$")).is_ok_and(|regex| regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(tests: &[&str], filter: &[&str], device: Option<Device>) -> Result<usize, usize> {
        let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let mut problems = Vec::new();
        let chosen = select(&own(tests), &own(filter), device, &mut problems);
        if problems.is_empty() { Ok(chosen.len()) } else { Err(problems.len()) }
    }

    #[test]
    fn names_globs_and_devices_are_all_heeded() {
        assert_eq!(count(&[], &[], None), Ok(60));
        assert_eq!(count(&["hmm.migrate"], &[], None), Ok(2));
        assert_eq!(count(&["hmm.migrate.private"], &[], None), Ok(1));
        assert_eq!(count(&[], &["hmm2.*"], None), Ok(6));
        assert_eq!(count(&[], &["*migrate*,!*.coherent"], None), Ok(7));
        assert_eq!(count(&[], &["*migrate*", "!hmm2.*"], Some(Device::Coherent)), Ok(6));
        assert_eq!(count(&[], &["!hmm2.*"], None), Ok(54));
    }

    #[test]
    fn what_leaves_nothing_is_a_problem() {
        assert_eq!(count(&["hmm.migrat"], &[], None), Err(1));
        assert_eq!(count(&[], &["xyz*"], None), Err(1));
        assert_eq!(count(&[], &["  "], None), Err(1));
        assert_eq!(count(&["hmm.migrate.private"], &[], Some(Device::Coherent)), Err(1));
    }
}
