//! Draws the live view on the terminal of standard error.
//!
//! The cursor always waits at the beginning of the row below the view, and nothing
//! of the terminal is changed: whoever ends, kills or stops us leaves a terminal on
//! which the shell's prompt stands below what was drawn last. What others write
//! there, they write through here.

use std::io::{IsTerminal as _, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::signal::unix::{SignalKind, signal};

use super::Talk;
use super::text::Line;
use super::view::{Size, View};
use crate::events::Shown;

/// How much time is between two pictures at least.
const PACE: Duration = Duration::from_millis(100);

/// How long nobody looks whether a clock went on or the window has another size.
const TICK: Duration = Duration::from_millis(250);

/// After so long without a look we may have been stopped, as by Ctrl-Z: then what
/// is on the screen now is somebody else's, and the signal that says so needs a moment.
const STOPPED: Duration = Duration::from_secs(1);

/// The size of a terminal that does not say it.
const SIZE: Size = Size { columns: 80, rows: 24 };

/// The view of this process, once it has one: there is one standard error.
static SCREEN: OnceLock<Screen> = OnceLock::new();

/// Begins the live view if standard error is a terminal of somebody who looks.
pub fn start() {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let able = set("TERM").is_some_and(|term| term != "dumb");
    if SCREEN.get().is_some() || !able || set("CI").is_some() || !std::io::stderr().is_terminal() {
        return;
    }
    // https://no-color.org
    let colour = set("NO_COLOR").is_none();
    let picture = Mutex::new(Picture::new(std::io::stderr(), colour));
    let screen = Screen { picture, changed: Condvar::new(), start: Instant::now() };
    let screen = SCREEN.get_or_init(|| screen);
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Whoever panics may be drawing; then the message stands where it stands.
        let mut held = match screen.picture.try_lock() {
            Ok(picture) => Some(picture),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(picture) = &mut held {
            picture.paused += 1;
            picture.put("", screen.start.elapsed(), size());
            picture.paused -= 1;
        }
        told(info);
    }));
    // Without it, what the shell has written before `fg` may be drawn over.
    if let Ok(mut continued) = signal(SignalKind::from_raw(Signal::SIGCONT as i32)) {
        tokio::spawn(async move {
            while continued.recv().await.is_some() {
                let mut picture = screen.lock();
                picture.drawn.clear();
                screen.has_changed(&mut picture);
            }
        });
    }
    std::thread::spawn(|| screen.draw_on());
}

/// Ends the live view, after which everything is written plainly. What was not at
/// its end stays on the screen, if the command did not end `well`.
pub fn close(well: bool) {
    if let Some(screen) = on_screen() {
        screen.keep(|view, at| view.end(at, well));
        let mut picture = screen.lock();
        picture.closed = true;
        picture.put("", screen.start.elapsed(), size());
    }
}

/// Clears the live view off the screen until what is returned is dropped: for
/// questions, and for what is written to standard output.
pub fn pause() -> Pause {
    let screen = on_screen();
    if let Some(screen) = screen {
        let mut picture = screen.lock();
        picture.paused += 1;
        picture.put("", screen.start.elapsed(), size());
    }
    Pause(screen)
}

/// As long as it lives, the live view is not on the screen.
#[derive(Debug)]
#[must_use]
pub struct Pause(Option<&'static Screen>);

impl Drop for Pause {
    fn drop(&mut self) {
        if let Some(screen) = self.0 {
            let mut picture = screen.lock();
            picture.paused = picture.paused.saturating_sub(1);
            screen.has_changed(&mut picture);
        }
    }
}

/// The live view, if there is one.
pub(super) fn on_screen() -> Option<&'static Screen> {
    SCREEN.get()
}

/// The view and the thread that draws it.
#[derive(Debug)]
pub(super) struct Screen {
    picture: Mutex<Picture<std::io::Stderr>>,
    changed: Condvar,
    start: Instant,
}

impl Screen {
    /// Shows what happened, of a run that tells so much.
    pub(super) fn take(&self, shown: Shown<'_>, talk: Talk) {
        self.keep(|view, at| match talk {
            Talk::All => view.take(at, shown),
            Talk::Little => {
                view.take_of_many(at, shown);
                Vec::new()
            }
        });
    }

    /// Says something above the view.
    pub(super) fn say(&self, words: &str) {
        let mut picture = self.lock();
        let title = picture.view.leave_title();
        let mut above = picture.painted(title.as_slice());
        above.push_str(words);
        above.push('\n');
        picture.put(&above, self.start.elapsed(), size());
        self.has_changed(&mut picture);
    }

    /// Shows that one of several things is begun, and whether that stays.
    pub(super) fn begun(&self, words: &str, stays: bool) {
        self.keep(|view, at| view.begin(at, words, stays).into_iter().collect());
    }

    /// Shows how it ended.
    pub(super) fn settled(&self, words: &str, good: bool) {
        self.keep(|view, at| vec![view.settle(at, words, good)]);
    }

    /// Changes the view; what that returns stays on the screen above it.
    fn keep(&self, change: impl FnOnce(&mut View, Duration) -> Vec<Line>) {
        let mut picture = self.lock();
        let at = self.start.elapsed();
        let stays = change(&mut picture.view, at);
        if !stays.is_empty() {
            let size = size();
            let width = size.map_or(usize::MAX, |size| size.columns.saturating_sub(1));
            let stays: Vec<Line> = stays.into_iter().map(|line| line.staying(width)).collect();
            let above = picture.painted(&stays);
            picture.put(&above, at, size);
        }
        self.has_changed(&mut picture);
    }

    fn has_changed(&self, picture: &mut Picture<std::io::Stderr>) {
        if !std::mem::replace(&mut picture.stale, true) {
            self.changed.notify_one();
        }
    }

    /// Draws whenever something has changed, and when a clock went on.
    fn draw_on(&self) {
        loop {
            let waited = self.changed.wait_timeout_while(self.lock(), TICK, |p| !p.stale);
            let (mut picture, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if picture.closed {
                return;
            }
            picture.look(self.start.elapsed(), size());
            drop(picture);
            std::thread::sleep(PACE);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Picture<std::io::Stderr>> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size of the terminal, unless it is another job's at the moment.
fn size() -> Option<Size> {
    let stderr = std::io::stderr();
    // A terminal that is not ours to control has no jobs either.
    if tcgetpgrp(&stderr).is_ok_and(|foreground| foreground != getpgrp()) {
        return None;
    }
    let size = terminal_size::terminal_size_of(&stderr);
    Some(size.map_or(SIZE, |(terminal_size::Width(columns), terminal_size::Height(rows))| Size {
        columns: columns.into(),
        rows: rows.into(),
    }))
}

/// What was drawn, and what is to be.
#[derive(Debug)]
struct Picture<W> {
    to: W,
    colour: bool,
    view: View,
    /// What is on the screen above the cursor: how wide each of its lines is.
    drawn: Vec<usize>,
    /// The text of it.
    text: String,
    /// How large the screen was then.
    size: Size,
    /// When somebody looked last whether there is anything to draw.
    looked_at: Duration,
    /// Whether that was so long ago that this process may have been stopped.
    doubtful: bool,
    drawn_at: Duration,
    /// Whether the view has changed meanwhile.
    stale: bool,
    /// How many want it off the screen.
    paused: usize,
    closed: bool,
}

impl<W: Write> Picture<W> {
    fn new(to: W, colour: bool) -> Self {
        Picture {
            to,
            colour,
            view: View::default(),
            drawn: Vec::new(),
            text: String::new(),
            size: SIZE,
            looked_at: Duration::ZERO,
            doubtful: false,
            drawn_at: Duration::ZERO,
            stale: false,
            paused: 0,
            closed: false,
        }
    }

    fn painted(&self, lines: &[Line]) -> String {
        lines.iter().map(|line| line.paint(self.colour) + "\n").collect()
    }

    /// Draws the view if it is another than that on the screen.
    fn look(&mut self, at: Duration, size: Option<Size>) {
        let late = at.saturating_sub(self.looked_at) > STOPPED;
        self.looked_at = at;
        self.doubtful = late && !self.doubtful;
        self.stale = self.doubtful;
        if self.doubtful {
            return;
        }
        let Some(size) = size else {
            // Where another job has the terminal, it has the rows above too.
            self.drawn.clear();
            return;
        };
        if self.paused > 0 {
            return;
        }
        let lines = self.view.lines(at, size);
        let same = self.painted(&lines) == self.text && self.drawn.len() == lines.len();
        if !same || size != self.size {
            self.draw("", &lines, at, size);
        }
    }

    /// Writes `above` where the view stands, and the view below it; later, if it was
    /// drawn just now.
    fn put(&mut self, above: &str, at: Duration, size: Option<Size>) {
        if size.is_none() {
            self.drawn.clear();
        }
        let early = at.saturating_sub(self.drawn_at) < PACE;
        let visible = size.filter(|_| self.paused == 0 && !early && !self.closed);
        let lines = visible.map(|size| self.view.lines(at, size)).unwrap_or_default();
        if !(above.is_empty() && lines.is_empty() && self.drawn.is_empty()) {
            self.draw(above, &lines, at, size.unwrap_or(self.size));
        }
    }

    /// Writes all of it at once, over what was drawn before.
    fn draw(&mut self, above: &str, lines: &[Line], at: Duration, size: Size) {
        let text = self.painted(lines);
        // A terminal that has become narrower has folded what was too wide.
        let rows = |width: &usize| width.div_ceil(size.columns).max(1);
        let up: usize = self.drawn.iter().map(rows).sum();
        let mut out = match up.min(size.rows.saturating_sub(1)) {
            0 => String::new(),
            up => format!("\r\x1b[{up}A"),
        };
        if above.is_empty() && !self.drawn.is_empty() {
            // Each line is cleared behind its end: what stays as it is does not flicker.
            out.push_str(&text.replace('\n', "\x1b[K\n"));
            out.push_str("\x1b[J");
        } else {
            out.push_str(if self.drawn.is_empty() { "" } else { "\x1b[J" });
            out.push_str(above);
            out.push_str(&text);
        }
        // Nobody looking is no reason to stop.
        let _ = self.to.write_all(out.as_bytes()).and_then(|()| self.to.flush());
        self.drawn = lines.iter().map(Line::width).collect();
        (self.text, self.size) = (text, size);
        if !lines.is_empty() {
            self.drawn_at = at;
        }
    }
}

#[cfg(test)]
mod tests;
