//! What the live view shows: from what happens to lines of text, for a size of the
//! screen and a time. It touches no terminal and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hmm_protocol::wire::GuestMessage;

use super::plain::Plain;
use super::text::{Line, Style};
use crate::events::{Event, Shown, VmEnd};
use crate::flow::Stage;
use crate::stop::Stop;
use crate::words::seconds;

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
    title: Option<Title>,
    stage: Option<Running>,
    /// The stage's last lines.
    window: VecDeque<Line>,
    /// What the machines do, by their numbers.
    machines: BTreeMap<u32, Doing>,
    /// Counts the tests, and words what is worded as in plain lines.
    plain: Plain,
    not_applicable: usize,
}

/// What was begun, one of several things.
#[derive(Debug)]
struct Title {
    words: String,
    since: Duration,
    /// Whether it stays on the screen above what is said next.
    stays: bool,
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
    pub(super) fn begin(&mut self, at: Duration, words: &str, stays: bool) -> Option<Line> {
        let before = self.leave_title();
        let title = Some(Title { words: words.to_owned(), since: at, stays });
        *self = View { title, ..View::default() };
        before
    }

    /// The title, if from here on it stays where it is.
    pub(super) fn leave_title(&mut self) -> Option<Line> {
        let title = self.title.take_if(|title| title.stays)?;
        Some(Line::whole(Style::Plain, &title.words))
    }

    /// Ends what was begun. Returns what stays of it.
    pub(super) fn settle(&mut self, at: Duration, words: &str, good: bool) -> Line {
        let time = self.title.take().map(|title| seconds(at.saturating_sub(title.since)));
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
            Event::Began { .. }
            | Event::Kernel(_)
            | Event::Machine(_)
            | Event::Layout(_)
            | Event::Symbols { .. } => Vec::new(),
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
                        Line::whole(Style::Plain, &format!("run      {n:>2}/{of} "))
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
        if let Some(Title { words, since, .. }) = &self.title {
            let time = format!("  {}", clock(at, *since));
            lines.push(Line::default().with(Style::Plain, words).with(Style::Dim, &time));
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
mod tests;
