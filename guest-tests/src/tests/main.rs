//! The HMM tests, one process for each.
//!
//! `hmm-tests list` prints the names of the tests, `hmm-tests run JOB` runs
//! the one that the JSON of a [`Job`] names, and reports on descriptor 3 in
//! frames of [`hmm_protocol::TestMessage`]. The exit status is 0 once a
//! verdict was said, whatever it was.
//!
//! The tests are those of the kernel's own tools/testing/selftests/mm/
//! hmm-tests.c, under their names there, and some of our own, each on
//! device-private and on device-coherent memory. How they are prepared, watched and judged is
//! nobody's business here: see the agent and the harness.

mod access;
mod buffer;
mod calibrate;
mod check;
mod child;
mod dmirror;
mod exclusive;
mod files;
mod gup;
mod huge;
mod migrate;
mod mirror;
mod moved;
mod pages;
mod pattern;
mod pins;
mod reply;
mod report;
mod rig;
mod snapshot;
mod teardown;
mod two;

use std::process::ExitCode;

use hmm_protocol::{Job, Outcome, catalogue};
use nix::unistd::{SysconfVar, sysconf};

use crate::check::{OrFail, Result, check_eq, failed};
use crate::rig::Rig;

/// The exit status of a process that was not started as it should be.
const USAGE: u8 = 2;

/// A test: its name in the catalogue, and what it does.
type Test = (&'static str, fn(&Rig) -> Result);

/// Every test of the catalogue, in its order.
const TESTS: &[Test] = &[
    ("hmm.open_close", access::open_close),
    ("hmm.anon_read", access::anon_read),
    ("hmm.anon_read_prot", access::anon_read_prot),
    ("hmm.anon_write", access::anon_write),
    ("hmm.anon_write_prot", access::anon_write_prot),
    ("hmm.anon_write_child", access::anon_write_child),
    ("hmm.anon_write_child_shared", access::anon_write_child_shared),
    ("hmm.anon_write_huge", huge::anon_write_huge),
    ("hmm.anon_write_hugetlbfs", huge::anon_write_hugetlbfs),
    ("hmm.file_read", files::file_read),
    ("hmm.file_write", files::file_write),
    ("hmm.migrate", migrate::migrate),
    ("hmm.migrate_file_private", files::migrate_file_private),
    ("hmm.migrate_fault", migrate::migrate_fault),
    ("hmm.migrate_release", migrate::migrate_release),
    ("hmm.migrate_shared", migrate::migrate_shared),
    ("hmm.migrate_multiple", migrate::migrate_multiple),
    ("hmm.anon_read_multiple", access::anon_read_multiple),
    ("hmm.anon_teardown", teardown::anon_teardown),
    ("hmm.mixedmap", snapshot::mixedmap),
    ("hmm.compound", huge::compound),
    ("hmm.exclusive", exclusive::exclusive),
    ("hmm.exclusive_mprotect", exclusive::exclusive_mprotect),
    ("hmm.exclusive_cow", exclusive::exclusive_cow),
    ("hmm.hmm_gup_test", pins::hmm_gup_test),
    ("hmm.hmm_cow_in_device", pins::hmm_cow_in_device),
    ("hmm2.migrate_mixed", two::migrate_mixed),
    ("hmm2.snapshot", snapshot::snapshot),
    ("hmm2.double_map", two::double_map),
    ("notifier.mremap", moved::mremap),
];

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "list"] => {
            for (name, _) in TESTS {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        [_, "run", job] => {
            if let Err(error) = report::open_channel() {
                eprintln!("hmm-tests: no agent listens on descriptor 3: {error}");
                return ExitCode::from(USAGE);
            }
            report::install_panic_hook();
            report::verdict(outcome(job))
        }
        _ => {
            eprintln!("usage: hmm-tests list | hmm-tests run JOB");
            ExitCode::from(USAGE)
        }
    }
}

fn outcome(job: &str) -> Outcome {
    match run(job) {
        Ok(()) => Outcome::Passed,
        Err(stop) => stop.into_outcome(),
    }
}

fn run(job: &str) -> Result {
    let job: Job = serde_json::from_str(job).or_fail("understand the job")?;
    let definition = catalogue::TESTS.iter().find(|definition| definition.name == job.name);
    let test = TESTS.iter().find(|(name, _)| *name == job.name);
    let (Some(definition), Some((_, test))) = (definition, test) else {
        return Err(failed(format_args!("there is no test named {}", job.name)));
    };
    let page_size = sysconf(SysconfVar::PAGE_SIZE).or_fail("ask for the page size")?;
    check_eq(page_size, Some(4096), "the page size, for which the tests are written")?;
    if job.hold.is_some() {
        report::ask_before_each_step().or_fail("ask before each step")?;
    }
    if job.trace {
        report::open_trace().or_fail("write into the trace")?;
        if !definition.needs.contains(&catalogue::THREADS) {
            calibrate::stay_on_one_processor()?;
        }
    }
    let rig = Rig::open(definition, &job)?;
    if job.trace {
        calibrate::calibrate()?;
    }
    test(&rig)?;
    rig.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_catalogue() {
        let table: Vec<&str> = TESTS.iter().map(|(name, _)| *name).collect();
        let catalogue: Vec<&str> =
            catalogue::TESTS.iter().map(|definition| definition.name).collect();
        assert_eq!(table, catalogue);
    }
}
