//! Progress for a person: one plain line for each thing that happened.

use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use hmm_protocol::wire::{GuestMessage, Outcome};

use crate::events::{Event, VmEnd};
use crate::run::describe;
use crate::runner::{Harmless, harmless};

/// Turns events into lines.
#[derive(Debug, Default)]
pub struct Progress {
    planned: usize,
    finished: usize,
}

impl Progress {
    /// The line for an event, if it deserves one.
    pub fn line(&mut self, event: &Event) -> Option<String> {
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
                *self = Progress { planned: tests.len() * *repeat as usize, ..Progress::default() };
                let rest = match not_applicable.len() {
                    0 => String::new(),
                    n => format!(", {n} do not apply to this kernel"),
                };
                let times = if *repeat > 1 { format!(", {repeat} times") } else { String::new() };
                Some(format!("run      {} tests{times}{rest}", tests.len()))
            }
            Event::Frame { sealed, .. } => self.frame(&sealed.message),
            Event::VmEnded { end: VmEnd::Done | VmEnd::Saved | VmEnd::Interrupted, .. } => None,
            Event::VmEnded { end, .. } => {
                Some(format!("run      the VM is over: {}", describe(end)))
            }
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
            GuestMessage::Hello { release, .. } => Some(format!("boot     {release} is up")),
            GuestMessage::Finished { id, outcome, duration_us, health, .. } => {
                self.finished += 1;
                // A test may have another turn than those that were planned.
                self.planned = self.planned.max(self.finished);
                let time = seconds(Duration::from_micros(*duration_us));
                let word = match outcome {
                    Outcome::Passed if health.is_unchanged() => "ok",
                    Outcome::Passed | Outcome::Failed(_) => "FAILED",
                    Outcome::Skipped { .. } => "skipped",
                    Outcome::Died { .. } => "DIED",
                    Outcome::TimedOut { .. } => "TIMED OUT",
                };
                Some(format!(
                    "run      {:>2}/{} {word:<7} {id} ({time})",
                    self.finished, self.planned
                ))
            }
            GuestMessage::Refused { .. } => {
                Some(format!("run      {}", clean(&crate::events::describe(message))))
            }
            _ => None,
        }
    }
}

/// Says something on standard error. Nobody listening is no reason to stop.
pub fn say(words: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{}", harmless(&words.to_string()));
}

/// What is said when standard output takes no more.
pub const UNWRITTEN: &str = "cannot write to standard output";

/// Gives data on standard output. A reader who has read enough is no error.
///
/// # Errors
/// When there is no room for it.
pub fn print(text: &str) -> anyhow::Result<()> {
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
    use hmm_protocol::wire::Health;

    use super::*;

    #[test]
    fn durations_read_well() {
        let check = |ms: u64, text: &str| assert_eq!(seconds(Duration::from_millis(ms)), text);
        check(40, "0.0 s");
        check(1_250, "1.2 s");
        check(245_000, "4 min 05 s");
    }

    #[test]
    fn a_test_that_spoiled_the_kernel_is_not_called_ok() {
        let finished = |warnings| GuestMessage::Finished {
            id: "hmm.migrate.private".into(),
            outcome: Outcome::Passed,
            duration_us: 1,
            health: Health { warnings, ..Health::default() },
            capture: None,
        };
        let mut progress = Progress { planned: 1, ..Progress::default() };
        let mut turn = |warnings| progress.frame(&finished(warnings)).expect("a line");
        assert!(turn(0).contains("1/1 ok"));
        assert!(turn(1).contains("2/2 FAILED"));
    }

    #[test]
    fn what_the_guest_says_cannot_drive_a_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\rc\nd\u{9b}31m"), "a[2Jbc\nd31m");
        assert_eq!(clean("a\u{202e}b\u{2066}c\u{200b}d\u{2028}e\u{ffff}f\u{fffe}"), "abcdef");
        assert_eq!(clean("größe 本 \u{fffd}"), "größe 本 \u{fffd}");
    }
}
