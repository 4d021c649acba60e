//! What a person is told while something is done: on standard error, through the
//! one door that knows what is on the screen.
//!
//! On a terminal that is a live view: what is done now, for how long, and the last
//! lines of the programs that do it (`view`, drawn by `live`). Elsewhere it is
//! one plain line for each thing that happened (`plain`).

mod live;
mod plain;
mod text;
mod view;

#[cfg(test)]
mod story;

use std::io::Write;

use anyhow::Context as _;

use crate::events::{Event, Log, Shown};
use crate::flow::Stage;
use crate::runner::{Harmless, harmless};
pub use live::{Pause, close, pause, start};
use plain::Plain;

/// How much is told of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// What stands in each of its events.
    All,
    /// What cannot wait, for a run that is one of many: how far a build is; on a
    /// terminal, what is done now.
    Little,
}

/// A log that tells so much: in plain lines, and in a live view.
pub fn log(in_lines: Talk, live: Talk) -> Log {
    let mut plain = Plain::default();
    Log::shown_by(move |shown| match (live::on_screen(), shown) {
        (Some(screen), shown) => screen.take(shown, live),
        (None, Shown::Event(event)) => {
            let line = plain.line(event);
            let build = matches!(event, Event::Progress { stage: Stage::Build, .. });
            line.filter(|_| build || in_lines == Talk::All).into_iter().for_each(say);
        }
        // Of what is only shown, nothing is left on a screen either.
        (None, Shown::Line(_) | Shown::Count { .. }) => {}
    })
}

/// Says something on standard error. Nobody listening is no reason to stop.
pub fn say(words: impl std::fmt::Display) {
    match live::on_screen() {
        Some(screen) => screen.say(&words.to_string()),
        None => {
            let _ = writeln!(std::io::stderr(), "{}", harmless(&words.to_string()));
        }
    }
}

/// Says what is begun, one of several things: a live view has it above what is done
/// for it, with its time.
pub fn headline(words: impl std::fmt::Display) {
    match live::on_screen() {
        Some(screen) => screen.begun(&words.to_string(), true),
        None => say(words),
    }
}

/// The same where it is worth no line of its own.
pub fn begun(words: impl std::fmt::Display) {
    if let Some(screen) = live::on_screen() {
        screen.begun(&words.to_string(), false);
    }
}

/// Says how what was begun has ended, where a live view has shown it all the while.
/// In plain lines that follows at the end.
pub fn settled(words: impl std::fmt::Display, good: bool) {
    if let Some(screen) = live::on_screen() {
        screen.settled(&words.to_string(), good);
    }
}

/// Hands on a line of a program whose lines are all that is told of it. A live view
/// shows the last of them.
pub fn pass_on(line: &str) {
    match live::on_screen() {
        Some(screen) => screen.take(Shown::Line(line), Talk::Little),
        None => say(line),
    }
}

/// What is said when standard output takes no more.
pub const UNWRITTEN: &str = "cannot write to standard output";

/// Gives data on standard output. A reader who has read enough is no error.
///
/// # Errors
/// When there is no room for it.
pub fn print(text: &str) -> anyhow::Result<()> {
    let _quiet = pause();
    let mut out = std::io::stdout();
    match out.write_all(harmless(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context(UNWRITTEN)
        }
        _ => Ok(()),
    }
}

/// Lets `give` write data to standard output piece by piece. A reader who has
/// read enough is no error.
///
/// # Errors
/// That of `give`, or when there is no room for what it writes.
pub fn stream(give: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let _quiet = pause();
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let mut lines = Harmless::new(&mut out);
    let given = give(&mut lines).and_then(|()| lines.flush().context(UNWRITTEN));
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    };
    // What is left in the buffer has nobody who would read it.
    let _ = out.into_parts();
    match given {
        Err(error) if error.chain().any(broken) => Ok(()),
        given => given,
    }
}
