//! Tests of the view: what happens, and the lines that come of it.

use super::super::story;
use super::*;

const WIDE: Size = Size { columns: 80, rows: 24 };
const NARROW: Size = Size { columns: 30, rows: 10 };

/// A view that has seen events, and all that stays of them.
struct Seen {
    view: View,
    stays: String,
    now: Duration,
}

impl Seen {
    fn of(events: &[(u64, Event)]) -> Seen {
        let (view, stays, now) = (View::default(), String::new(), Duration::ZERO);
        let mut seen = Seen { view, stays, now };
        for (ms, event) in events {
            seen.now = Duration::from_millis(*ms);
            seen.take(Shown::Event(event));
        }
        seen
    }

    fn take(&mut self, shown: Shown<'_>) {
        for line in self.view.take(self.now, shown) {
            self.stays += &(line.paint(false) + "\n");
        }
    }

    fn screen(&self, later_ms: u64, size: Size) -> String {
        let at = self.now + Duration::from_millis(later_ms);
        let lines = self.view.lines(at, size);
        assert!(lines.len() < size.rows, "a row is left for the cursor");
        assert!(lines.iter().all(|line| line.width() < size.columns));
        lines.iter().map(|line| line.paint(false) + "\n").collect()
    }
}

#[test]
fn what_stays_of_a_run() {
    let seen = Seen::of(&story::run());
    assert_eq!(
        seen.stays,
        "\
source   in the store  debian:linux-source-6.12=6.12.117-1
series   0.1 s         1 patch
build    1 min 02 s    vmlinux 6.12.117
boot     0.0 s         QEMU 7.2.22, kvm
note     the saved guest is thrown away
run       2/3 FAILED hmm.migrate.coherent (1.5 s)
run      the VM is over: the guest reset itself
run      4.0 s         3 tests ran, 1 failed
"
    );
    assert_eq!(seen.screen(0, WIDE), "");
}

fn building() -> Seen {
    let mut seen = Seen::of(&[(0, story::begun(Stage::Build))]);
    seen.now = Duration::from_secs(2);
    for (n, name) in ["mm/hmm.o", "mm/migrate.o", "mm/\u{202e}x\u{1b}[2J.o"].iter().enumerate() {
        seen.take(Shown::Line(&format!("  CC      {name}")));
        seen.take(Shown::Count { done: n * 100 + 1, of: Some(1100) });
    }
    seen
}

#[test]
fn a_build_shows_how_far_it_is_and_its_last_lines() {
    assert_eq!(
        building().screen(60_000, WIDE),
        "\
build    1 min 02 s  201 of 1100 objects, 3/s
    CC      mm/hmm.o
    CC      mm/migrate.o
    CC      mm/x[2J.o
"
    );
    assert_eq!(
        building().screen(500, NARROW),
        "\
build    2 s  201 of 1100 obj
    CC      mm/hmm.o
    CC      mm/migrate.o
    CC      mm/x[2J.o
"
    );
}

#[test]
fn the_last_lines_stay_when_a_stage_fails_and_not_when_it_is_stopped() {
    let mut seen = building();
    let fault = crate::stop::Fault::new("mm/hmm.c does not compile");
    seen.take(Shown::Event(&Event::Stopped { stop: Stop::Kernel(fault) }));
    assert_eq!(
        seen.stays,
        "\
build    FAILED after 2.0 s
    CC      mm/hmm.o
    CC      mm/migrate.o
    CC      mm/x[2J.o
"
    );
    assert_eq!(seen.screen(0, WIDE), "");
    let mut seen = building();
    seen.take(Shown::Event(&Event::Stopped { stop: Stop::Interrupted }));
    assert_eq!(seen.stays, "build    stopped after 2.0 s\n");
    let mut seen = building();
    seen.take(Shown::Event(&story::ended(Stage::Build, 62_000, false, "vmlinux 6.12.117")));
    assert_eq!(seen.stays, "build    1 min 02 s    vmlinux 6.12.117\n");
}

fn testing() -> Seen {
    let told =
        |text: &str| story::said(1, GuestMessage::Step { id: "x".into(), text: text.into() });
    let passed = hmm_protocol::wire::Outcome::Passed;
    Seen::of(&[
        (0, story::begun(Stage::Run)),
        (0, story::planned(&["hmm.a.private", "hmm.b.private", "hmm.c.private"])),
        (0, story::started(0, false)),
        (0, story::started(1, true)),
        (100, story::ordered(1, "hmm.a.private")),
        (200, story::finished(1, "hmm.a.private", passed, 100_000)),
        (300, story::ordered(1, "hmm.b.private")),
        (400, story::finished(1, "hmm.b.private", story::failure(), 100_000)),
        (500, story::ordered(1, "hmm.migrate_fault.private")),
        (600, told("to-device\u{1b}]0;x\u{7}")),
    ])
}

#[test]
fn tests_show_which_run_now_and_how_many_have() {
    let seen = testing();
    assert_eq!(seen.stays, "run       2/3 FAILED hmm.b.private (0.1 s)\n");
    assert_eq!(
        seen.screen(3_000, WIDE),
        "\
run      3 s  2/3 tests, 1 failed, 1 do not apply
  machine 0 boots  3 s
  hmm.migrate_fault.private  3 s  to-device]0;x
  ok      hmm.a.private (0.1 s)
"
    );
    assert_eq!(
        seen.screen(3_000, Size { columns: 20, rows: 4 }),
        "\
run      3 s  2/3 t
  machine 0 boots
  hmm.migrate_fault
"
    );
}

#[test]
fn whatever_comes_the_view_stays_small() {
    let mut seen = testing();
    for vm in 0..100 {
        seen.take(Shown::Event(&story::ordered(vm, "hmm.a.private")));
    }
    for _ in 0..1000 {
        seen.take(Shown::Line(&"x".repeat(100_000)));
    }
    let shown = seen.screen(0, WIDE);
    assert!(shown.contains("  and 93 more\n"), "{shown}");
    assert_eq!(shown.lines().count(), 1 + MACHINES + WINDOW);
    assert_eq!(seen.view.window.len(), WINDOW);
    assert_eq!(seen.screen(0, Size { columns: 1, rows: 1 }), "");
}

#[test]
fn one_of_many_runs_leaves_its_title_alone() {
    let mut view = View::default();
    let at = Duration::from_millis;
    assert_eq!(view.begin(at(0), "each     1/2 mm: a patch", true), None);
    for (ms, event) in story::run() {
        view.take_of_many(at(ms), Shown::Event(&event));
    }
    let lines = view.lines(at(66_110), WIDE);
    assert_eq!(lines[0].paint(false), "each     1/2 mm: a patch  1 min 06 s");
    let before = view.begin(at(67_000), "check    cargo fmt", false).expect("it was begun");
    assert_eq!(before.paint(false), "each     1/2 mm: a patch");
    assert_eq!(view.lines(at(67_000), WIDE).len(), 1);
    assert_eq!(view.leave_title(), None);
    let settled = view.settle(at(68_500), "check    passed  it", true);
    assert_eq!(settled.paint(false), "check    passed  it (1.5 s)");
    assert_eq!(view.lines(at(68_500), WIDE).len(), 0);
}
