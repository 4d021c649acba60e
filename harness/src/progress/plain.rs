//! Events as plain lines, for whoever reads standard error without a terminal:
//! scripts, logs, a person later.

use std::time::Duration;

use hmm_protocol::wire::{GuestMessage, Health, Outcome};

use crate::events::{Event, VmEnd, describe};
use crate::words::{line, seconds};

/// Turns events into lines.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// How many tests had their turn.
    pub(super) tests: Tests,
}

/// How far the tests are.
#[derive(Debug, Default)]
pub(super) struct Tests {
    pub(super) planned: usize,
    pub(super) finished: usize,
    pub(super) failed: usize,
}

impl Tests {
    /// Counts a turn that has ended, and says in a word how.
    pub(super) fn turn(&mut self, outcome: &Outcome, health: &Health) -> &'static str {
        self.finished += 1;
        // A test may have another turn than those that were planned.
        self.planned = self.planned.max(self.finished);
        let (word, failed) = match outcome {
            Outcome::Passed if health.is_unchanged() => ("ok", false),
            Outcome::Passed | Outcome::Failed(_) => ("FAILED", true),
            Outcome::Skipped { .. } => ("skipped", false),
            Outcome::Died { .. } => ("DIED", true),
            Outcome::TimedOut { .. } => ("TIMED OUT", true),
        };
        self.failed += usize::from(failed);
        word
    }
}

impl Plain {
    /// The line for an event, if it deserves one.
    pub(super) fn line(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::StageFinished { stage, ms, reused, text } => {
                let time = seconds(Duration::from_millis(*ms));
                let how = if *reused { "in the store" } else { &time };
                Some(format!("{stage:<8} {text} ({how})"))
            }
            Event::Progress { stage, text } => Some(format!("{stage:<8} {text}")),
            Event::CutShort { reason } => Some(format!("run      {reason}")),
            Event::Note { text } => Some(format!("note     {text}")),
            Event::Planned { tests, repeat, not_applicable } => {
                self.tests = Tests { planned: tests.len() * *repeat as usize, ..Tests::default() };
                let rest = match not_applicable.len() {
                    0 => String::new(),
                    n => format!(", {n} do not apply to this kernel"),
                };
                let times = if *repeat > 1 { format!(", {repeat} times") } else { String::new() };
                Some(format!("run      {} tests{times}{rest}", tests.len()))
            }
            Event::Frame { sealed, .. } => self.frame(&sealed.message),
            Event::VmEnded { end: VmEnd::Done | VmEnd::Saved | VmEnd::Interrupted, .. } => None,
            Event::VmEnded { end, .. } => Some(format!("run      the VM is over: {}", end.words())),
            Event::Began { .. }
            | Event::StageStarted { .. }
            | Event::Kernel(_)
            | Event::Machine(_)
            | Event::Layout(_)
            | Event::VmStarted { .. }
            | Event::Ordered { .. }
            | Event::Symbols { .. }
            | Event::Stopped { .. } => None,
        }
    }

    fn frame(&mut self, message: &GuestMessage) -> Option<String> {
        match message {
            GuestMessage::Hello { release, .. } => {
                Some(format!("boot     {} is up", line(release)))
            }
            GuestMessage::Finished { id, outcome, duration_us, health, .. } => {
                let word = self.tests.turn(outcome, health);
                let Tests { planned, finished, .. } = self.tests;
                let (id, time) = (line(id), seconds(Duration::from_micros(*duration_us)));
                Some(format!("run      {finished:>2}/{planned} {word:<7} {id} ({time})"))
            }
            GuestMessage::Refused { .. } => Some(format!("run      {}", line(&describe(message)))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story;
    use super::*;

    #[test]
    fn a_test_that_spoiled_the_kernel_is_not_called_ok() {
        let finished = |warnings| GuestMessage::Finished {
            id: "hmm.migrate.private".into(),
            outcome: Outcome::Passed,
            duration_us: 1,
            health: Health { warnings, ..Health::default() },
            capture: None,
        };
        let mut plain = Plain { tests: Tests { planned: 1, ..Tests::default() } };
        let mut turn = |warnings| plain.frame(&finished(warnings)).expect("a line");
        assert!(turn(0).contains("1/1 ok"));
        assert!(turn(1).contains("2/2 FAILED"));
    }

    #[test]
    fn plain_lines_stay_as_scripts_know_them() {
        let mut plain = Plain::default();
        let lines: Vec<String> =
            story::run().iter().filter_map(|(_, event)| plain.line(event)).collect();
        let expected = "\
source   debian:linux-source-6.12=6.12.117-1 (in the store)
series   1/1 mm: a patch
series   1 patch (0.1 s)
build    400 of 1100 objects, 61 s
build    vmlinux 6.12.117 (1 min 02 s)
boot     QEMU 7.2.22, kvm (0.0 s)
run      3 tests, 1 do not apply to this kernel
boot     6.12.117 is up
run       1/3 ok      hmm.migrate.private (0.0 s)
note     the saved guest is thrown away
run       2/3 FAILED  hmm.migrate.coherent (1.5 s)
run       3/3 skipped hmm2.map[2J .private (0.0 s)
run      the VM is over: the guest reset itself
run      3 tests ran (4.0 s)";
        assert_eq!(lines.join("\n"), expected);
    }
}
