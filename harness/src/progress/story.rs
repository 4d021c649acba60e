//! What happens in a run, for the tests of what is told of it.

use hmm_protocol::wire::{Failure, GuestMessage, Health, Outcome, Sealed};

use crate::events::{Event, VmEnd};
use crate::flow::Stage;
use crate::results::NotApplicable;

/// A frame of a machine.
pub(super) fn said(vm: u32, message: GuestMessage) -> Event {
    Event::Frame { vm, sealed: Sealed { nonce: "0".repeat(32), seq: 0, message } }
}

/// A test that has ended.
pub(super) fn finished(vm: u32, id: &str, outcome: Outcome, duration_us: u64) -> Event {
    let (id, health, capture) = (id.to_owned(), Health::default(), None);
    said(vm, GuestMessage::Finished { id, outcome, duration_us, health, capture })
}

/// An assertion that did not hold.
pub(super) fn failure() -> Outcome {
    Outcome::Failed(Failure {
        file: "migrate.rs".into(),
        line: 1,
        message: "the page is in the device".into(),
        seen: None,
        expected: None,
        page: None,
    })
}

pub(super) fn begun(stage: Stage) -> Event {
    Event::StageStarted { stage }
}

pub(super) fn ended(stage: Stage, ms: u64, reused: bool, text: &str) -> Event {
    Event::StageFinished { stage, ms, reused, text: text.into() }
}

pub(super) fn planned(tests: &[&str]) -> Event {
    let other = NotApplicable { id: "hmm.exclusive.private".into(), reason: "since 5.14".into() };
    let tests = tests.iter().map(|test| (*test).to_owned()).collect();
    Event::Planned { tests, repeat: 1, not_applicable: vec![other] }
}

pub(super) fn ordered(vm: u32, id: &str) -> Event {
    Event::Ordered { vm, id: id.into(), turn: 0 }
}

pub(super) fn started(vm: u32, restored: bool) -> Event {
    Event::VmStarted { vm, nonce: "0".repeat(32), restored }
}

pub(super) fn over(vm: u32, end: VmEnd) -> Event {
    Event::VmEnded { vm, end, console_from: 0, console_to: 0 }
}

/// A whole run: each event with the time at which it comes, in milliseconds.
pub(super) fn run() -> Vec<(u64, Event)> {
    let progress = |stage, text: &str| Event::Progress { stage, text: text.into() };
    let hello = GuestMessage::Hello {
        protocol: 1,
        release: "6.12.117".into(),
        boot_id: String::new(),
        uptime_us: 0,
    };
    let skipped = || Outcome::Skipped { reason: "no device".into() };
    vec![
        (0, begun(Stage::Source)),
        (0, ended(Stage::Source, 0, true, "debian:linux-source-6.12=6.12.117-1")),
        (10, begun(Stage::Series)),
        (20, progress(Stage::Series, "1/1 mm: a patch")),
        (100, ended(Stage::Series, 90, false, "1 patch")),
        (100, begun(Stage::Build)),
        (61_100, progress(Stage::Build, "400 of 1100 objects, 61 s")),
        (62_100, ended(Stage::Build, 62_000, false, "vmlinux 6.12.117")),
        (62_100, begun(Stage::Boot)),
        (62_110, ended(Stage::Boot, 10, false, "QEMU 7.2.22, kvm")),
        (62_110, begun(Stage::Run)),
        (62_110, planned(&["hmm.migrate.private", "hmm.migrate.coherent", "hmm2.map.private"])),
        (62_200, started(0, true)),
        (62_400, said(0, hello)),
        (62_500, ordered(0, "hmm.migrate.private")),
        (62_540, finished(0, "hmm.migrate.private", Outcome::Passed, 40_000)),
        (62_540, Event::Note { text: "the saved guest is thrown away".into() }),
        (62_550, ordered(0, "hmm.migrate.coherent")),
        (64_050, finished(0, "hmm.migrate.coherent", failure(), 1_500_000)),
        // A guest may say anything.
        (64_060, finished(0, "hmm2.map\u{1b}[2J\u{202e}\n.private", skipped(), 10)),
        (64_070, over(0, VmEnd::GuestGone { how: "guest-reset".into() })),
        (66_110, ended(Stage::Run, 4_000, false, "3 tests ran")),
    ]
}
