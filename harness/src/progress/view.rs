//! What the live view shows: from what happens to lines of text, for a size of the
//! screen and a time. It touches no terminal and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hmm_protocol::wire::GuestMessage;

use super::plain::Plain;
use super::seconds;
use super::text::{Line, Style};
use crate::events::{Event, Shown, VmEnd};
use crate::flow::Stage;
use crate::stop::Stop;

/// How many of a stage's last lines are shown.
const WINDOW: usize = 10;

/// How many machines are shown, each with the test that it runs.
const MACHINES: usize = 8;

/// How large a screen is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// All that the view knows. Its times are since some beginning.
#[derive(Debug, Default)]
pub(super) struct View {
    title: Option<(String, Duration)>,
    stage: Option<Running>,
    /// The stage's last lines.
    window: VecDeque<Line>,
    /// What the machines do, by their numbers.
    machines: BTreeMap<u32, Doing>,
    /// Counts the tests, and words what is worded as in plain lines.
    plain: Plain,
    not_applicable: usize,
}

/// A stage that has begun.
#[derive(Debug)]
struct Running {
    stage: Stage,
    since: Duration,
    /// What it says of itself.
    says: String,
    made: Option<Made>,
}

/// How many objects a build has made.
#[derive(Debug, Clone, Copy)]
struct Made {
    done: usize,
    of: Option<usize>,
    /// When the first of them was.
    since: Duration,
}

/// What a machine does.
#[derive(Debug)]
struct Doing {
    what: String,
    step: String,
    since: Duration,
}

impl View {
    /// Takes note of what happens in a run that is one of many: of it nothing stays
    /// longer than it lasts.
    pub(super) fn take_of_many(&mut self, at: Duration, shown: Shown<'_>) {
        for line in self.take(at, shown) {
            self.push(line);
        }
    }

    /// Takes note of what happened. Returns what stays on the screen for good.
    pub(super) fn take(&mut self, at: Duration, shown: Shown<'_>) -> Vec<Line> {
        match shown {
            Shown::Event(event) => self.event(at, event),
            Shown::Line(line) => {
                self.push(Line::default().with(Style::Dim, "  ").with(Style::Dim, line));
                Vec::new()
            }
            Shown::Count { done, of } => {
                if let Some(running) = &mut self.stage {
                    let since = running.made.map_or(at, |made| made.since);
                    running.made = (done > 0).then_some(Made { done, of, since });
                }
                Vec::new()
            }
        }
    }

    /// Begins one of several things. Returns what stays of the one before it.
    pub(super) fn begin(&mut self, at: Duration, title: &str) -> Option<Line> {
        let before = self.leave_title();
        *self = View { title: Some((title.to_owned(), at)), ..View::default() };
        before
    }

    /// The title, which from here on stays where it is.
    pub(super) fn leave_title(&mut self) -> Option<Line> {
        let (title, _) = self.title.take()?;
        Some(Line::whole(Style::Plain, &title))
    }

    /// Ends what was begun. Returns what stays of it.
    pub(super) fn settle(&mut self, at: Duration, words: &str, good: bool) -> Line {
        let time = self.title.take().map(|(_, since)| seconds(at.saturating_sub(since)));
        *self = View::default();
        let style = if good { Style::Good } else { Style::Bad };
        let time = time.map(|time| format!(" ({time})")).unwrap_or_default();
        Line::whole(style, words).with(Style::Dim, &time)
    }

    /// Ends everything. What was not at its end stays.
    pub(super) fn end(&mut self, at: Duration, well: bool) -> Vec<Line> {
        let mut stays: Vec<Line> = self.leave_title().into_iter().collect();
        if !well {
            stays.extend(self.failed(at));
        }
        *self = View::default();
        stays
    }

    fn event(&mut self, at: Duration, event: &Event) -> Vec<Line> {
        match event {
            Event::StageStarted { stage } => {
                self.clear();
                if *stage == Stage::Run {
                    (self.plain, self.not_applicable) = (Plain::default(), 0);
                }
                let (says, made) = (String::new(), None);
                self.stage = Some(Running { stage: *stage, since: at, says, made });
                Vec::new()
            }
            Event::StageFinished { stage, ms, reused, text } => {
                self.clear();
                vec![self.finished(*stage, Duration::from_millis(*ms), *reused, text)]
            }
            Event::Progress { stage, text } => {
                if let Some(running) = self.stage.as_mut().filter(|r| r.stage == *stage) {
                    running.says.clone_from(text);
                }
                Vec::new()
            }
            Event::Planned { not_applicable, .. } => {
                self.plain.line(event);
                self.not_applicable = not_applicable.len();
                Vec::new()
            }
            Event::VmStarted { vm, restored, .. } => {
                let how = if *restored { "starts" } else { "boots" };
                self.does(*vm, format!("machine {vm} {how}"), at);
                Vec::new()
            }
            Event::Ordered { vm, id, .. } => {
                self.does(*vm, id.clone(), at);
                Vec::new()
            }
            Event::Frame { vm, sealed } => self.frame(*vm, &sealed.message).into_iter().collect(),
            Event::VmEnded { vm, end, .. } if is_usual(end) => {
                self.machines.remove(vm);
                Vec::new()
            }
            Event::VmEnded { vm, .. } => {
                self.machines.remove(vm);
                self.as_plain(event, Style::Bad)
            }
            Event::Stopped { stop: Stop::Interrupted } => self.stopped(at),
            Event::Stopped { .. } => self.failed(at),
            Event::CutShort { .. } => self.as_plain(event, Style::Bad),
            Event::Note { .. } => self.as_plain(event, Style::Plain),
            Event::Kernel(_) | Event::Machine(_) | Event::Layout(_) | Event::Symbols { .. } => {
                Vec::new()
            }
        }
    }

    fn as_plain(&mut self, event: &Event, style: Style) -> Vec<Line> {
        self.plain.line(event).map(|line| Line::whole(style, &line)).into_iter().collect()
    }

    fn frame(&mut self, vm: u32, message: &GuestMessage) -> Option<Line> {
        match message {
            GuestMessage::Hello { release, .. } => {
                let line = Line::default().with(Style::Dim, &format!("  {release} is up"));
                self.push(line);
            }
            GuestMessage::Step { text, .. } => {
                if let Some(doing) = self.machines.get_mut(&vm) {
                    doing.step.clone_from(text);
                }
            }
            GuestMessage::Finished { id, outcome, duration_us, health, .. } => {
                self.machines.remove(&vm);
                let word = self.plain.tests.turn(outcome, health);
                let style = match word {
                    "ok" => Style::Good,
                    "skipped" => Style::Dim,
                    _ => Style::Bad,
                };
                let time = seconds(Duration::from_micros(*duration_us));
                if style == Style::Bad {
                    let (n, of) = (self.plain.tests.finished, self.plain.tests.planned);
                    return Some(
                        Line::default()
                            .with(Style::Plain, &format!("run      {n:>2}/{of} "))
                            .with(style, word)
                            .with(Style::Plain, &format!(" {id}"))
                            .with(Style::Dim, &format!(" ({time})")),
                    );
                }
                self.push(
                    Line::default()
                        .with(style, &format!("  {word:<7} "))
                        .with(Style::Dim, &format!("{id} ({time})")),
                );
            }
            GuestMessage::Refused { .. } => {
                let words = format!("run      {}", crate::events::describe(message));
                return Some(Line::whole(Style::Bad, &words));
            }
            _ => {}
        }
        None
    }

    fn does(&mut self, vm: u32, what: String, since: Duration) {
        self.machines.insert(vm, Doing { what, step: String::new(), since });
    }

    fn push(&mut self, line: Line) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(line);
    }

    fn clear(&mut self) {
        self.stage = None;
        self.window.clear();
        self.machines.clear();
    }

    /// What stays of a stage that ended well.
    fn finished(&self, stage: Stage, took: Duration, reused: bool, text: &str) -> Line {
        let how = if reused { "in the store".to_owned() } else { seconds(took) };
        let line = Line::default()
            .with(Style::Good, &format!("{stage:<8} "))
            .with(Style::Dim, &format!("{how:<12}  "))
            .with(Style::Plain, text);
        match self.plain.tests.failed {
            failed if stage == Stage::Run && failed > 0 => {
                line.with(Style::Bad, &format!(", {failed} failed"))
            }
            _ => line,
        }
    }

    /// What stays of a stage that did not: its last lines too.
    fn failed(&mut self, at: Duration) -> Vec<Line> {
        let head = self.stage.as_ref().map(|running| {
            let time = seconds(at.saturating_sub(running.since));
            Line::default()
                .with(Style::Plain, &format!("{:<8} ", running.stage))
                .with(Style::Bad, "FAILED")
                .with(Style::Dim, &format!(" after {time}"))
        });
        let stays = head.into_iter().chain(self.window.drain(..)).collect();
        self.clear();
        stays
    }

    /// What stays of a stage that the user has stopped.
    fn stopped(&mut self, at: Duration) -> Vec<Line> {
        let head = self.stage.as_ref().map(|running| {
            let time = seconds(at.saturating_sub(running.since));
            Line::default()
                .with(Style::Plain, &format!("{:<8} stopped after {time}", running.stage))
        });
        self.clear();
        head.into_iter().collect()
    }

    /// The lines as they are on a screen at some time. A row of it is left for the
    /// cursor.
    pub(super) fn lines(&self, at: Duration, size: Size) -> Vec<Line> {
        let room = size.rows.saturating_sub(1);
        let mut lines: Vec<Line> = Vec::new();
        if let Some((title, since)) = &self.title {
            let time = format!("  {}", clock(at, *since));
            lines.push(Line::default().with(Style::Plain, title).with(Style::Dim, &time));
        }
        lines.extend(self.stage.as_ref().map(|running| self.head(running, at)));
        let shown = match self.machines.len() {
            all @ ..=MACHINES => all,
            _ => MACHINES - 1,
        };
        for doing in self.machines.values().take(shown) {
            let time = format!("  {}", clock(at, doing.since));
            let mut line = Line::default().with(Style::Plain, &format!("  {}", doing.what));
            line = line.with(Style::Dim, &time);
            if !doing.step.is_empty() {
                line = line.with(Style::Dim, &format!("  {}", doing.step));
            }
            lines.push(line);
        }
        if let Some(more @ 1..) = self.machines.len().checked_sub(shown) {
            lines.push(Line::default().with(Style::Dim, &format!("  and {more} more")));
        }
        lines.truncate(room);
        let older = self.window.len().saturating_sub(room - lines.len());
        lines.extend(self.window.iter().skip(older).cloned());
        // Where the last column is written, terminals differ.
        let width = size.columns.saturating_sub(1);
        lines.into_iter().map(|line| line.cut(width)).collect()
    }

    /// The line of the stage that is under way.
    fn head(&self, running: &Running, at: Duration) -> Line {
        let mut line = Line::default()
            .with(Style::Plain, &format!("{:<8} ", running.stage))
            .with(Style::Dim, &format!("{}  ", clock(at, running.since)));
        let tests = &self.plain.tests;
        if running.stage == Stage::Run && tests.planned > 0 {
            let (done, of) = (tests.finished, tests.planned);
            line = line.with(Style::Plain, &format!("{done}/{of} tests"));
            if tests.failed > 0 {
                line = line.with(Style::Bad, &format!(", {} failed", tests.failed));
            }
            if self.not_applicable > 0 {
                let others = format!(", {} do not apply", self.not_applicable);
                line = line.with(Style::Dim, &others);
            }
            return line;
        }
        match &running.made {
            Some(made) => line.with(Style::Plain, &made.told(at)),
            None => line.with(Style::Plain, &running.says),
        }
    }
}

impl Made {
    /// How many, of how many, and how fast.
    fn told(&self, at: Duration) -> String {
        let of = self.of.map(|of| format!(" of {of}")).unwrap_or_default();
        let seconds = at.saturating_sub(self.since).as_secs_f64();
        // Of the first second nothing can be told.
        let rate = if seconds < 1.0 {
            String::new()
        } else {
            format!(", {:.0}/s", self.done as f64 / seconds)
        };
        format!("{}{of} objects{rate}", self.done)
    }
}

/// Whether a machine that is over need not be spoken of.
fn is_usual(end: &VmEnd) -> bool {
    matches!(end, VmEnd::Done | VmEnd::Saved | VmEnd::Interrupted)
}

/// A time that goes on: in full seconds.
fn clock(at: Duration, since: Duration) -> String {
    let time = at.saturating_sub(since).as_secs();
    if time < 60 { format!("{time} s") } else { seconds(Duration::from_secs(time)) }
}

#[cfg(test)]
mod tests {
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
series   0.1 s         1 patches
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
        for (n, name) in ["mm/hmm.o", "mm/migrate.o", "mm/\u{202e}x\u{1b}[2J.o"].iter().enumerate()
        {
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
        assert_eq!(view.begin(at(0), "each     1/2 mm: a patch"), None);
        for (ms, event) in story::run() {
            view.take_of_many(at(ms), Shown::Event(&event));
        }
        let lines = view.lines(at(66_110), WIDE);
        assert_eq!(lines[0].paint(false), "each     1/2 mm: a patch  1 min 06 s");
        let before = view.begin(at(67_000), "each     2/2 mm: another").expect("it was begun");
        assert_eq!(before.paint(false), "each     1/2 mm: a patch");
        assert_eq!(view.lines(at(67_000), WIDE).len(), 1);
        let settled = view.settle(at(68_500), "check    passed  it", true);
        assert_eq!(settled.paint(false), "check    passed  it (1.5 s)");
        assert_eq!(view.lines(at(68_500), WIDE).len(), 0);
    }
}
