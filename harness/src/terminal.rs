//! The user's terminal: its size, and the state in which it hands on every key.

use std::io::{IsTerminal as _, stderr, stdin, stdout};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use hmm_protocol::wire::Window;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use terminal_size::{Height, Width};

/// How the terminal was before somebody else got it; nothing while nobody has it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The size that is told of a terminal that does not know its own.
const SIZE: Window = Window { rows: 24, columns: 80 };

/// Whether there is one to type and read at. What else is on standard error
/// matters to a command that was named, whose errors are wanted apart.
pub fn is_there(named: bool) -> bool {
    stdin().is_terminal() && stdout().is_terminal() && (!named || stderr().is_terminal())
}

/// Its size.
pub fn window() -> Window {
    let size = terminal_size::terminal_size_of(stdout());
    size.map_or(SIZE, |(Width(columns), Height(rows))| Window { rows, columns })
}

/// How the terminal is, which it is again when this is dropped.
#[derive(Debug)]
pub struct Kept(());

impl Kept {
    /// Notes it.
    ///
    /// # Errors
    /// When it does not say.
    pub fn begin() -> Result<Kept> {
        let before = tcgetattr(stdin()).context("the terminal")?;
        BEFORE.lock().unwrap_or_else(PoisonError::into_inner).replace(before);
        Ok(Kept(()))
    }

    /// Notes it, and makes the terminal raw: every key is a byte for whoever reads, an interrupt
    /// too.
    ///
    /// # Errors
    /// When it cannot be changed.
    pub fn raw() -> Result<Kept> {
        let kept = Kept::begin()?;
        let what = "the terminal";
        let mut raw = tcgetattr(stdin()).context(what)?;
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).context(what)?;
        Ok(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes it what it was before somebody else got it, if somebody has. One that is
/// gone does not matter any more.
pub fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &before);
    }
}

/// Finds the way out of a terminal whose keys all belong to somebody else: `~.` at
/// the beginning of a line, as ssh(1) has it. `~~` there is one `~`.
#[derive(Debug)]
pub struct WayOut {
    at: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Beginning,
    AfterTilde,
    Within,
}

impl Default for WayOut {
    fn default() -> Self {
        WayOut { at: Place::Beginning }
    }
}

impl WayOut {
    /// Takes what was typed. Returns what of it is for the other side, or nothing
    /// if the user wants out.
    pub fn pass(&mut self, typed: &[u8]) -> Option<Vec<u8>> {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            match (self.at, key) {
                (Place::Beginning, b'~') => {
                    self.at = Place::AfterTilde;
                    continue;
                }
                (Place::AfterTilde, b'.') => return None,
                (Place::AfterTilde, b'~') => {}
                (Place::AfterTilde, _) => passed.push(b'~'),
                _ => {}
            }
            passed.push(key);
            let ends = matches!(key, b'\r' | b'\n');
            self.at = if ends { Place::Beginning } else { Place::Within };
        }
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tilde_and_a_dot_at_the_beginning_of_a_line_lead_out() {
        let check = |typed: &[&str], expected: Option<&str>| {
            let mut way = WayOut::default();
            let passed: Option<Vec<u8>> = typed
                .iter()
                .map(|keys| way.pass(keys.as_bytes()))
                .collect::<Option<Vec<_>>>()
                .map(|parts| parts.concat());
            assert_eq!(passed.as_deref(), expected.map(str::as_bytes), "{typed:?}");
        };
        check(&["~."], None);
        check(&["ls\r", "~", "."], None);
        check(&["cd ~.\r"], Some("cd ~.\r"));
        check(&["~", "~.\r"], Some("~.\r"));
        check(&["~/bin/x\r"], Some("~/bin/x\r"));
        check(&["~\r~."], None);
    }
}
