//! Reads a console, line by line.

use super::line::{Caller, Line};
use super::report::{Open, Place, is_above};
use super::signatures::{Severity, Signature, matching};
use super::{Finding, What};

/// The longest line that is looked at, in bytes. A kernel's own lines end at
/// about a thousand (`PRINTKRB_RECORD_MAX`); the rest of a longer one is passed
/// over.
const MAX_LINE: usize = 4096;

/// How many complaints are told of one console. A kernel that has more to say
/// says nothing new, and what it says must fit in memory.
const COMPLAINTS: usize = 1000;

/// How many markers are told, and how long the id in one may be.
const MARKERS: (usize, usize) = (50_000, 256);

/// How many reports can be read at a time: a CPU has one in its task and one in
/// an interrupt, and eight CPUs are many.
const AT_A_TIME: usize = 16;

/// How far above a complaint its report may begin.
const ABOVE: u64 = 12;

/// The agent's marker lines begin with this (health.rs of the agent).
const MARKER: &str = "hmm-harness: ";

/// Reads a console.
#[derive(Debug, Default)]
pub struct Scanner {
    line: u64,
    complaints: usize,
    markers: usize,
    /// The beginning of a line whose end has not come.
    pending: Vec<u8>,
    /// The reports that are being read, one for each printer.
    open: Vec<Open>,
    /// Where a report may have begun, and by whom.
    above: Option<(u64, Option<Caller>)>,
    /// Whether a kernel that is dead has said so.
    dead: bool,
}

impl Scanner {
    /// Takes bytes and returns what the lines in them mean.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut found = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if ends && self.pending.is_empty() {
                self.read(&text[..text.len().min(MAX_LINE)], &mut found);
                continue;
            }
            let room = MAX_LINE.saturating_sub(self.pending.len());
            self.pending.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                let mut line = std::mem::take(&mut self.pending);
                self.read(&line, &mut found);
                line.clear();
                self.pending = line;
            }
        }
        found
    }

    /// Says that no byte will follow: what is left is a line, and what was begun
    /// is whole.
    pub fn finish(&mut self) -> Vec<Finding> {
        let mut found = Vec::new();
        if !self.pending.is_empty() {
            let line = std::mem::take(&mut self.pending);
            self.read(&line, &mut found);
        }
        found.extend(self.open.drain(..).filter_map(Open::end));
        found
    }

    /// Whether the kernel is in the middle of a report, as far as can be said:
    /// some have no last line, and are over when nothing follows.
    pub fn in_report(&self) -> bool {
        !self.open.is_empty()
    }

    fn read(&mut self, bytes: &[u8], found: &mut Vec<Finding>) {
        self.line += 1;
        let raw = String::from_utf8_lossy(bytes);
        let line = Line::parse(&raw);
        self.close(found, |open, n| open.is_stale(n, line.stamp));
        let message = line.text.trim_start();
        if let Some(marker) = message.strip_prefix(MARKER) {
            self.close(found, |open, _| open.caller == line.caller);
            self.mark(marker, found);
            return;
        }
        let complaint = if message.starts_with("---[ end ") { None } else { matching(message) };
        let complaint = complaint.filter(|c| c.severity > Severity::Note);
        if !self.belongs(line, complaint, found) {
            match complaint {
                Some(complaint) => self.begin(line, complaint, found),
                None if is_above(line.text) => {
                    let already = self.above.is_some_and(|above| self.reaches(above, line.caller));
                    if !already {
                        self.above = Some((self.line, line.caller));
                    }
                }
                None => {}
            }
        }
    }

    fn mark(&mut self, marker: &str, found: &mut Vec<Finding>) {
        let (most, longest) = MARKERS;
        let what = match marker.split_once(' ') {
            Some(("begin", id)) if id.len() <= longest => What::Begin(id.to_owned()),
            Some(("end", id)) if id.len() <= longest => What::End(id.to_owned()),
            _ => return,
        };
        self.markers += 1;
        if self.markers <= most {
            found.push(Finding { line: self.line, what });
        }
    }

    /// Gives the line to the report that it belongs to, if there is one.
    fn belongs(
        &mut self,
        line: Line<'_>,
        complaint: Option<&'static Signature>,
        found: &mut Vec<Finding>,
    ) -> bool {
        let own = self.open.iter().position(|open| open.caller == line.caller);
        let (at, place) = match own {
            Some(at) => (at, self.open[at].take(self.line, line, complaint)),
            None if complaint.is_none() && matches!(line.caller, Some(Caller::Cpu(_))) => {
                let n = self.line;
                let mut open = self.open.iter_mut().enumerate();
                let taken = open.find_map(|(at, o)| Some((at, o.take_from_elsewhere(n, line)?)));
                let Some(taken) = taken else { return false };
                taken
            }
            None => return false,
        };
        if place != Place::Inside {
            found.extend(self.open.remove(at).end());
        }
        place != Place::After
    }

    fn begin(&mut self, line: Line<'_>, complaint: &'static Signature, found: &mut Vec<Finding>) {
        // A kernel that fell over may panic about it, which is the same fall.
        if self.dead && is_consequence(line.text) {
            return;
        }
        self.complaints += 1;
        let told = self.complaints <= COMPLAINTS;
        let above = self.above.take().filter(|above| self.reaches(*above, line.caller));
        let first = above.map_or(self.line, |(first, _)| first);
        let open = Open::begin(self.line, first, line, complaint, told);
        self.dead |= open.severity() == Severity::Fatal;
        if told {
            let what = What::Complaint { signature: complaint, title: open.title() };
            found.push(Finding { line: self.line, what });
        }
        if open.is_line() {
            found.extend(open.end());
            return;
        }
        if self.open.len() == AT_A_TIME {
            found.extend(self.open.remove(0).end());
        }
        self.open.push(open);
    }

    /// Whether a report that begins here may have begun there.
    fn reaches(&self, (first, by): (u64, Option<Caller>), caller: Option<Caller>) -> bool {
        by == caller && self.line - first <= ABOVE
    }

    /// Ends the reports of which `over` says so.
    fn close(&mut self, found: &mut Vec<Finding>, over: impl Fn(&Open, u64) -> bool) {
        if self.open.is_empty() {
            return;
        }
        let n = self.line;
        found.extend(self.open.extract_if(.., |open| over(open, n)).filter_map(Open::end));
    }
}

/// Whether a panic is only what came of an oops (`oops_end()` and `do_exit()`).
fn is_consequence(text: &str) -> bool {
    const WORDS: [&str; 4] = [
        "Fatal exception",
        "Aiee, killing interrupt handler",
        "Attempted to kill init",
        "Attempted to kill the idle task",
    ];
    let why = text.split_once("Kernel panic - not syncing: ");
    why.is_some_and(|(_, why)| WORDS.iter().any(|words| why.starts_with(words)))
}

#[cfg(test)]
mod tests;
