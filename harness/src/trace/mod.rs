//! Notifier traces: which probes, how their records become rows, what is the
//! same each time, and which rules hold.
//!
//! Nothing here opens a file or reads a clock: the guest's chunks, the layout of
//! its kernel and the formats of its records come in as values, and rows, text
//! and broken rules come out.

mod buffers;
mod canonical;
mod changes;
mod decode;
pub mod diff;
mod fold;
mod format;
mod groups;
mod names;
mod operations;
mod perfetto;
mod probes;
mod ring;
mod row;
mod rules;
mod steps;
mod tell;
mod timeline;

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};

use hmm_protocol::catalogue;
use hmm_protocol::trace::{CALIBRATIONS, Capture, TraceReady};
use sha2::{Digest as _, Sha256};

pub use canonical::Canonical;
pub use changes::changes;
pub use decode::{About, Calls, Decoded, decode};
pub use format::Formats;
pub use perfetto::{Perfetto, Times};
pub use probes::{ESSENTIAL, setup};
pub use row::{Address, Probe, Row, rows};
pub use rules::{RULES, Rules};
pub use tell::{Tell, Told};
pub use timeline::{Draw, Timeline};

use crate::results::{TraceInfo, Violation};
use crate::words::line;
use operations::Operations;

/// Why a guest cannot trace, if it cannot: it says so, or its kernel has refused
/// what no trace can do without.
pub fn unavailable(ready: &TraceReady) -> Option<String> {
    let why = ready.unavailable.clone().or_else(|| {
        let refused = |name: &str| ready.refused.get(name).map(|why| (name.to_owned(), why));
        let (name, why) = ESSENTIAL.into_iter().find_map(refused)?;
        Some(format!("the kernel refuses the probe {name}: {why}"))
    });
    why.map(|why| line(&why))
}

/// Whether the canonical trace of a test need not be the same each time: its threads
/// race on several processors.
pub fn may_differ(test: &str) -> bool {
    let definition = catalogue::TESTS.iter().find(|definition| definition.name == test);
    definition.is_some_and(|definition| definition.needs.contains(&catalogue::THREADS))
}

/// What is known of the trace of one turn of a test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// For the results.
    pub info: TraceInfo,
    /// What could not be written of it beside it.
    pub unwritten: Option<String>,
    /// The calls of `migrate_vma_setup()`, by where they returned to.
    pub callers: BTreeMap<u64, Calls>,
}

/// Understands a test's chunks: writes its rows and its canonical form, and
/// judges both. `said` is what the guest's kernel counted, if the test came to
/// its end.
///
/// # Errors
/// When something cannot be read or written.
pub fn understand<R: Read + Seek>(
    open: impl Fn() -> io::Result<R>,
    about: About<'_>,
    said: Option<&Capture>,
    mut rows_out: impl Write,
    canonical_out: impl Write,
) -> io::Result<Trace> {
    let mut rules = Rules::of(about.formats);
    let hashing = Hashing { out: canonical_out, hash: Sha256::new() };
    let mut canonical = Canonical::new(Operations::new(hashing));
    let mut captured = 0;
    let mut mirrored = false;
    let mut failed = Ok(());
    let decoded = decode(open, about, |row| {
        captured += u64::from(row.probe != Probe::Step);
        mirrored |= row.probe == Probe::Insert && row.ret.is_none();
        rules.push(&row);
        if failed.is_ok() {
            failed = serde_json::to_writer(&mut rows_out, &row)
                .map_err(io::Error::from)
                .and_then(|()| rows_out.write_all(b"\n"))
                .and_then(|()| canonical.push(&row));
        }
    })?;
    failed.and_then(|()| rows_out.flush())?;
    let calibrated = rules.calibrated();
    let overflow = rules.overflow().or_else(|| canonical.overflow());
    let violations = rules.finish();
    let (hashing, operations) = canonical.finish()?.finish();
    let overflow = overflow.or_else(|| operations.is_none().then(|| "too many operations".into()));
    let incomplete = incomplete(said, &decoded, mirrored.then_some(calibrated)).or(overflow);
    Ok(Trace {
        info: TraceInfo {
            captured,
            lost: said.map_or(0, |said| said.lost.saturating_add(said.missed)),
            complete: incomplete.is_none(),
            incomplete,
            canonical_sha256: Some(format!("{:x}", hashing.hash.finalize())),
            operations: operations.unwrap_or_default(),
            violations,
        },
        unwritten: None,
        callers: decoded.callers,
    })
}

/// Why a trace is not known to be whole, if it is not.
fn incomplete(
    said: Option<&Capture>,
    decoded: &Decoded,
    calibrated: Option<usize>,
) -> Option<String> {
    let Some(said) = said else { return Some("it ends where the guest's last word did".into()) };
    let reasons = [
        said.trouble.clone(),
        (said.lost > 0).then(|| format!("{} events found no room", said.lost)),
        (said.missed > 0).then(|| format!("probes could not run {} times", said.missed)),
        decoded.trouble.clone(),
        decoded.missed.then(|| "the kernel says that events are missing".to_owned()),
        (said.chunks != decoded.chunks)
            .then(|| format!("{} of {} chunks arrived", decoded.chunks, said.chunks)),
        (said.kept != decoded.records)
            .then(|| format!("{} events of {} that were captured", decoded.records, said.kept)),
        (said.hits != decoded.hits)
            .then(|| format!("{} events of {} that the probes saw", decoded.hits, said.hits)),
        calibrated.filter(|seen| *seen < CALIBRATIONS.len()).map(|seen| {
            let known = CALIBRATIONS.map(|(op, _)| op).join(", ");
            format!("{seen} of the known operations ({known}) are in it")
        }),
    ];
    reasons.into_iter().flatten().next()
}

/// Passes on what is written, and its digest.
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What the violations of a trace come to in a line.
pub fn in_a_line(violations: &[Violation]) -> Option<String> {
    let first = violations.first()?;
    let more = match violations.len() - 1 {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    Some(format!("rule {}, step {}: {}{more}", first.rule, first.step, first.text))
}
