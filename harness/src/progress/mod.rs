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
use std::time::Duration;

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

/// A duration as this program writes it.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// Text from the guest, fit for a terminal and for every format: without control
/// characters but newlines, without what makes text look like other text, and
/// without what XML cannot hold.
pub fn clean(text: &str) -> String {
    text.chars().filter(|c| !(c.is_control() || is_unseen(*c)) || *c == '\n').collect()
}

/// How many characters of a line are told.
const LINE: usize = 2_000;

/// Text of which some may be the guest's, as one line of a bounded length without
/// control characters.
pub fn line(text: &str) -> String {
    let mut line = clean(text).replace('\n', " ");
    if let Some((end, _)) = line.char_indices().nth(LINE) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

/// Whether a character is not seen itself, but turns the direction of others, hides
/// between them or breaks their line; or is none at all, as U+FFFE and U+FFFF.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let check = |ms: u64, text: &str| assert_eq!(seconds(Duration::from_millis(ms)), text);
        check(40, "0.0 s");
        check(1_250, "1.2 s");
        check(245_000, "4 min 05 s");
    }

    #[test]
    fn what_the_guest_says_cannot_drive_a_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\rc\nd"), "a[2Jbc\nd");
        assert_eq!(clean("a\u{200b}b\u{2028}c\u{ffff}d\u{fffe}"), "abcd");
        // C1 controls, which some terminals take for an escape and a letter.
        let c1: String = ('\u{80}'..='\u{9f}').collect();
        assert_eq!(clean(&format!("a{c1}\u{7f}b")), "ab");
        let bidi: String = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').collect();
        assert_eq!(clean(&format!("ok {bidi}\u{200f}\u{61c}DELIAF")), "ok DELIAF");
        assert_eq!(clean("m\u{fc}nchen \u{4e2d} e\u{301}"), "m\u{fc}nchen \u{4e2d} e\u{301}");
    }
}
