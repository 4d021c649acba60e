//! The runner of GitHub's Actions reads what a step writes, on both streams, and
//! takes some lines for commands. Nothing that a guest says may be one.
//!
//! Such lines are changed. To have the runner stop listening
//! (`::stop-commands::TOKEN`) would keep them whole, but it would not listen to what
//! comes behind us either if we are killed.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::OnceLock;

/// Whether the runner reads what we write.
pub fn listens() -> bool {
    static LISTENS: OnceLock<bool> = OnceLock::new();
    *LISTENS.get_or_init(|| std::env::var_os("GITHUB_ACTIONS").is_some_and(|word| word == "true"))
}

/// Gives the runner a command. Nobody listening is no reason to stop.
pub(crate) fn command(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Text whose lines are no commands, if the runner reads it.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if listens() { defused(text) } else { text.into() }
}

/// Text of whose lines none begins with `::`, blanks and what is not seen aside, and
/// none has `##[` in it: the runner's two ways to write a command (actions/runner,
/// src/Runner.Common/ActionCommand.cs).
fn defused(text: &str) -> Cow<'_, str> {
    if !text.contains("::") && !text.contains("##[") {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for line in text.split_inclusive(['\n', '\r']) {
        // Its comparison may pass over characters that have no weight in sorting.
        let start = line.find(|c: char| c.is_ascii_graphic()).unwrap_or(line.len());
        let (blank, rest) = line.split_at(start);
        safe.push_str(blank);
        match rest.strip_prefix("::") {
            Some(rest) => {
                safe.push_str(": :");
                safe.push_str(&rest.replace("##[", "## ["));
            }
            None => safe.push_str(&rest.replace("##[", "## [")),
        }
    }
    safe.into()
}

/// A writer whose lines are no commands. It keeps a line until its end is there.
pub(crate) struct Harmless<W: Write> {
    to: W,
    line: Vec<u8>,
}

impl<W: Write> Harmless<W> {
    /// One that writes to `to`.
    pub(crate) fn new(to: W) -> Self {
        Harmless { to, line: Vec::new() }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        self.to.write_all(harmless(&String::from_utf8_lossy(&line)).as_bytes())
    }
}

impl<W: Write> Write for Harmless<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !listens() {
            return self.to.write(bytes);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.pass_on()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_a_command() {
        let check = |text: &str, expect: &str| assert_eq!(defused(text), expect);
        check("::error::x", ": :error::x");
        check("a\n \u{a0}\t::set-output name=a::b\n", "a\n \u{a0}\t: :set-output name=a::b\n");
        check("a\r::add-mask::b", "a\r: :add-mask::b");
        check("\u{200b}::error::x", "\u{200b}: :error::x");
        check("x ##[error]y", "x ## [error]y");
        check("hmm::open f::g\n", "hmm::open f::g\n");
        check("::##[group]", ": :## [group]");
    }
}
