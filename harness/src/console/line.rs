//! A line of the console, taken apart: what printk put before the message, and
//! the message.

/// Who a line comes from: the context that called printk (CONFIG_PRINTK_CALLER,
/// `print_caller()` in kernel/printk/printk.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A task, by its pid.
    Task(u32),
    /// An interrupt, on this CPU.
    Cpu(u32),
}

/// A line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The kernel's clock, in microseconds, where the line is stamped.
    pub(super) stamp: Option<u64>,
    /// Who printed it, where the kernel says so.
    pub(super) caller: Option<Caller>,
    /// The message. Its indentation is left: it tells a frame of a stack.
    pub(super) text: &'a str,
}

impl<'a> Line<'a> {
    /// Takes off stamps such as `[    1.234567]`, callers such as `[    T1]` and
    /// levels such as `<4>`. Two lines that ran into each other are read from
    /// the last stamp on.
    pub(super) fn parse(line: &'a str) -> Self {
        let line = line.trim_end_matches('\r');
        let (stamp, mut rest) = match last_stamp(line) {
            Some((end, stamp)) => (Some(stamp), &line[end..]),
            None => (None, line),
        };
        let mut caller = None;
        loop {
            let text = rest.strip_prefix(' ').unwrap_or(rest);
            let Some((length, said)) = prefix(text) else { return Line { stamp, caller, text } };
            caller = said.or(caller);
            rest = &text[length..];
        }
    }
}

/// Where the last `[seconds.micros]` of a line ends, and what it says.
fn last_stamp(line: &str) -> Option<(usize, u64)> {
    let mut from = line.len();
    while let Some(open) = line[..from].rfind('[') {
        if let Some(length) = line[open..].find(']')
            && let Some((seconds, micros)) = line[open + 1..open + length].split_once('.')
            && micros.len() == 6
            && let (Some(seconds), Some(micros)) = (number(seconds.trim_start()), number(micros))
        {
            return Some((
                open + length + 1,
                seconds.saturating_mul(1_000_000).saturating_add(micros),
            ));
        }
        from = open;
    }
    None
}

/// The length of a caller or level at the start of `text`, and the caller.
fn prefix(text: &str) -> Option<(usize, Option<Caller>)> {
    if let Some(rest) = text.strip_prefix('<') {
        let end = rest.find('>')?;
        number(&rest[..end])?;
        return Some((end + 2, None));
    }
    let rest = text.strip_prefix('[')?;
    let end = rest.find(']')?;
    let inside = rest[..end].trim_start();
    let id = u32::try_from(number(inside.get(1..)?)?).ok()?;
    match inside.as_bytes()[0] {
        b'T' => Some((end + 2, Some(Caller::Task(id)))),
        b'C' => Some((end + 2, Some(Caller::Cpu(id)))),
        _ => None,
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_callers_and_levels_are_taken_off() {
        let check = |line: &str, stamp: Option<u64>, caller: Option<Caller>, text: &str| {
            assert_eq!(Line::parse(line), Line { stamp, caller, text }, "{line}");
        };
        check(
            "[    1.234567][    T1] Kernel panic - not syncing: x\r",
            Some(1_234_567),
            Some(Caller::Task(1)),
            "Kernel panic - not syncing: x",
        );
        check("<4>[   12.000001] WARNING: x", Some(12_000_001), None, "WARNING: x");
        check(
            "[    1.000000][    T1] torn [    1.000002][    C0] BUG: x",
            Some(1_000_002),
            Some(Caller::Cpu(0)),
            "BUG: x",
        );
        check(
            "[    1.000000][   T59]  f+0x1/0x2",
            Some(1_000_000),
            Some(Caller::Task(59)),
            " f+0x1/0x2",
        );
        check("plain [text] stays [1.5]", None, None, "plain [text] stays [1.5]");
        check("[99999999999999999999.000000] x", None, None, "[99999999999999999999.000000] x");
        check("[\u{e9}1] x", None, None, "[\u{e9}1] x");
    }
}
