//! What the kernel said: complaints, and the markers that say during which
//! test.
//!
//! [`Scanner`] takes the raw bytes of the serial console in whatever pieces
//! they come and gives [`Finding`]s. The same scanner follows a running VM and
//! reads a saved log, so the two cannot disagree. It does no IO.

mod signatures;

pub use signatures::{Severity, Signature, signatures};

/// The longest line that is looked at, in bytes. A kernel's own lines end at
/// about a thousand (`PRINTKRB_RECORD_MAX`); the rest of a longer one is passed
/// over.
const MAX_LINE: usize = 4096;

/// How many lines a report may have after its first before the next match is a
/// report of its own, where it does not say itself where it ends.
const REPORT_LINES: u64 = 150;

/// How many findings are told of one console. A kernel that has more to say says
/// nothing new, and what it says must fit in memory.
const FINDINGS: usize = 2000;

/// The agent's marker lines begin with this (health.rs of the agent).
const MARKER: &str = "hmm-harness: ";

/// Something that was found on the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The line, counted from 1 from where the scanner began.
    pub line: u64,
    /// What it is.
    pub what: What,
}

/// What a line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The agent marked the beginning of a test, by its id.
    Begin(String),
    /// The agent marked the end of a test.
    End(String),
    /// The kernel complained.
    Complaint {
        /// The signature that matched.
        signature: &'static Signature,
        /// The line without its stamps.
        title: String,
    },
}

/// Reads a console.
#[derive(Debug, Default)]
pub struct Scanner {
    line: u64,
    told: usize,
    pending: Vec<u8>,
    /// Where the report that is being read began, if one is.
    report: Option<Report>,
}

#[derive(Debug)]
struct Report {
    line: u64,
    severity: Severity,
}

impl Scanner {
    /// Takes bytes and returns what the lines in them mean.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut found = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let ends = piece.last() == Some(&b'\n');
            let text = if ends { &piece[..piece.len() - 1] } else { piece };
            let room = MAX_LINE.saturating_sub(self.pending.len());
            self.pending.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                found.extend(self.end_line());
            }
        }
        found
    }

    /// Says that no byte will follow: what is left is a line.
    pub fn finish(&mut self) -> Option<Finding> {
        if self.pending.is_empty() { None } else { self.end_line() }
    }

    fn end_line(&mut self) -> Option<Finding> {
        self.line += 1;
        let bytes = std::mem::take(&mut self.pending);
        let raw = String::from_utf8_lossy(&bytes);
        let text = message_of(&raw);
        let what = self.meaning(text)?;
        self.told += 1;
        (self.told <= FINDINGS).then_some(Finding { line: self.line, what })
    }

    fn meaning(&mut self, text: &str) -> Option<What> {
        if let Some(marker) = text.strip_prefix(MARKER) {
            self.report = None;
            return match marker.split_once(' ') {
                Some(("begin", id)) => Some(What::Begin(id.to_owned())),
                Some(("end", id)) => Some(What::End(id.to_owned())),
                _ => None,
            };
        }
        if text.starts_with("---[ end ") || text.starts_with("------------[ cut here") {
            self.report = None;
            return None;
        }
        let signature = signatures().iter().find(|s| s.pattern.is_match(text))?;
        if signature.severity == Severity::Note {
            return None;
        }
        // An oops says so in several lines, and a panic repeats it: one report
        // is one complaint, unless it becomes worse.
        let line = self.line;
        let known = self
            .report
            .as_ref()
            .is_some_and(|r| line - r.line <= REPORT_LINES && signature.severity <= r.severity);
        if known {
            return None;
        }
        self.report = Some(Report { line, severity: signature.severity });
        Some(What::Complaint {
            signature,
            title: text.chars().filter(|c| !c.is_control()).collect(),
        })
    }
}

/// A line without what printk and the console put before the message: stamps
/// such as `[    1.234567]`, callers such as `[    T1]`, levels such as `<4>`.
/// Two lines that ran into each other are read from the last stamp on.
fn message_of(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    let mut rest = match last_stamp_end(line) {
        Some(end) => &line[end..],
        None => line,
    };
    loop {
        let trimmed = rest.trim_start();
        let shorter = prefix_length(trimmed).map(|n| &trimmed[n..]);
        match shorter {
            Some(shorter) => rest = shorter,
            None => return trimmed,
        }
    }
}

/// Where the last `[seconds.micros]` of a line ends.
fn last_stamp_end(line: &str) -> Option<usize> {
    let mut from = line.len();
    while let Some(open) = line[..from].rfind('[') {
        if let Some(length) = line[open..].find(']') {
            let inside = &line[open + 1..open + length];
            if inside
                .trim_start()
                .split_once('.')
                .is_some_and(|(s, us)| is_number(s) && us.len() == 6 && is_number(us))
            {
                return Some(open + length + 1);
            }
        }
        from = open;
    }
    None
}

/// The length of a caller or level at the start of `text`, if there is one.
fn prefix_length(text: &str) -> Option<usize> {
    if let Some(rest) = text.strip_prefix('<') {
        let end = rest.find('>')?;
        return is_number(&rest[..end]).then_some(end + 2);
    }
    let rest = text.strip_prefix('[')?;
    let end = rest.find(']')?;
    let inside = rest[..end].trim();
    let caller = inside.strip_prefix(['T', 'C'])?;
    is_number(caller).then_some(end + 2)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(text: &str) -> Vec<Finding> {
        let mut scanner = Scanner::default();
        let mut found = scanner.push(text.as_bytes());
        found.extend(scanner.finish());
        found
    }

    fn complaints(text: &str) -> Vec<(u64, &'static str)> {
        scan(text)
            .into_iter()
            .filter_map(|f| match f.what {
                What::Complaint { signature, .. } => Some((f.line, signature.class)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn stamps_callers_and_levels_are_taken_off() {
        let check = |line: &str, expect: &str| assert_eq!(message_of(line), expect);
        check(
            "[    1.234567][    T1] Kernel panic - not syncing: x\r",
            "Kernel panic - not syncing: x",
        );
        check("<4>[   12.000001] WARNING: CPU: 0 PID: 1", "WARNING: CPU: 0 PID: 1");
        check("[    1.000000][    T1] torn [    1.000002][    C0] BUG: x", "BUG: x");
        check("plain [text] stays", "plain [text] stays");
    }

    #[test]
    fn one_report_is_one_complaint() {
        let oops = "\
[    4.5][T9] noise
[    4.500000][   T99] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    4.500001][   T99] #PF: supervisor read access in kernel mode
[    4.500002][   T99] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
[    4.500003][   T99] ---[ end trace 0000000000000000 ]---
";
        assert_eq!(complaints(oops), [(2, "oops")]);
        let twice = format!("{oops}{oops}");
        assert_eq!(complaints(&twice), [(2, "oops"), (7, "oops")]);
    }

    #[test]
    fn a_warning_that_becomes_a_panic_is_two() {
        let text = "WARNING: CPU: 1 PID: 2 at mm/x.c:1 f+0x1/0x2\nKernel panic - not syncing: kernel: panic_on_warn set\n";
        assert_eq!(complaints(text), [(1, "warn"), (2, "panic")]);
    }

    #[test]
    fn each_class_is_recognised() {
        let check = |line: &str, class: &str| {
            assert_eq!(
                complaints(&format!("[    1.000000][   T1] {line}\n")).first().map(|c| c.1),
                Some(class),
                "{line}"
            );
        };
        check("BUG: KASAN: slab-use-after-free in dmirror_do_read+0x1/0x2", "sanitizer");
        check("WARNING: possible circular locking dependency detected", "warn");
        check("INFO: task hmm-tests:77 blocked for more than 20 seconds.", "hang");
        check("watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [hmm-tests:80]", "hang");
        check("Kernel panic - not syncing: Attempted to kill init!", "panic");
        check("BUG: Bad page state in process hmm-tests  pfn:1234", "mm");
        check("kernel BUG at mm/migrate_device.c:42!", "oops");
    }

    #[test]
    fn ordinary_lines_are_no_complaints() {
        for line in [
            "test_hmm: added new 256 MB chunk (total 1 chunks, 256 MB) PFNs [0x7ffff0000 0x800000000)",
            "Spectre V2 : WARNING: Unprivileged eBPF is enabled",
            "x86/fpu: Supporting XSAVE feature 0x001",
            "clocksource: tsc: mask: 0xffffffffffffffff",
            "debug_vm_pgtable: [debug_vm_pgtable]: Validating architecture page table helpers",
        ] {
            assert_eq!(complaints(&format!("{line}\n")), [], "{line}");
        }
    }

    #[test]
    fn markers_are_told() {
        let found = scan(
            "[    1.000000][   T1] hmm-harness: begin hmm.migrate.private\nx\nhmm-harness: end hmm.migrate.private\n",
        );
        assert_eq!(found[0].what, What::Begin("hmm.migrate.private".into()));
        assert_eq!(found[1], Finding { line: 3, what: What::End("hmm.migrate.private".into()) });
    }

    proptest! {
        #[test]
        fn findings_do_not_depend_on_the_pieces(cuts in prop::collection::vec(1usize..40, 1..50)) {
            let text = b"a\nhmm-harness: begin x\n[    1.000000] BUG: KASAN: a\n\xff\xfe\nKernel panic - not syncing: b\nhmm-harness: end x\nlast BUG: no newline".as_slice();
            let mut whole = Scanner::default();
            let mut expect = whole.push(text);
            expect.extend(whole.finish());
            let mut scanner = Scanner::default();
            let mut seen = Vec::new();
            let mut rest = text;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                seen.extend(scanner.push(now));
                rest = later;
            }
            seen.extend(scanner.finish());
            prop_assert_eq!(seen, expect);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut scanner = Scanner::default();
            scanner.push(&bytes);
            scanner.finish();
        }
    }
}
