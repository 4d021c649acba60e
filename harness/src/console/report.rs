//! A report that is being read: which lines belong to it, and what they say.

use std::sync::LazyLock;

use regex::Regex;

use super::line::{Caller, Line};
use super::signatures::{Ends, Severity, Signature};
use super::title::title;
use super::{Finding, Report, What};

/// How many lines a report may have after its first, where it does not say
/// itself where it ends. The longest, lockdep's chains and the dumps of all
/// memory, have some 300.
const LONGEST: u64 = 500;

/// After how much time of the kernel's clock a report is over, in microseconds:
/// it is printed without a pause.
const PAUSE: u64 = 5_000_000;

/// How many frames of a call trace are kept.
const FRAMES: usize = 32;

/// The longest name that is kept, of a function or a task.
const NAME: usize = 128;

/// A report that is being read.
#[derive(Debug)]
pub(super) struct Open {
    /// The row that its first line matched, which makes the title.
    headed: &'static Signature,
    /// The worst row that a line of it matched.
    signature: &'static Signature,
    pub(super) caller: Option<Caller>,
    /// Whether its complaint was told, so that its report must be.
    told: bool,
    header: String,
    line: u64,
    first: u64,
    last: u64,
    stamp: Option<u64>,
    pid: Option<u32>,
    comm: Option<String>,
    hint: Option<String>,
    trace: Trace,
    frames: Vec<String>,
    exact: bool,
}

/// How far its call trace is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trace {
    NotYet,
    Reading,
    Read,
}

/// What a line is to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It belongs to it, and more may come.
    Inside,
    /// It is its last line.
    Last,
    /// The report was over before it.
    After,
}

impl Open {
    /// A report that begins with line number `n`, or with the earlier `first`.
    pub(super) fn begin(
        n: u64,
        first: u64,
        line: Line<'_>,
        signature: &'static Signature,
        told: bool,
    ) -> Self {
        let mut open = Open {
            headed: signature,
            signature,
            caller: line.caller,
            told,
            header: line.text.trim_start().to_owned(),
            line: n,
            first,
            last: n,
            stamp: line.stamp,
            pid: None,
            comm: None,
            hint: None,
            trace: Trace::NotYet,
            frames: Vec::new(),
            exact: false,
        };
        open.learn(line.text);
        open
    }

    /// What can be said of it so far.
    pub(super) fn title(&self) -> String {
        title(self.headed, &self.header, self.hint.as_deref(), &self.frames)
    }

    pub(super) fn severity(&self) -> Severity {
        self.signature.severity
    }

    /// Whether its first line is all of it.
    pub(super) fn is_line(&self) -> bool {
        self.signature.ends == Ends::Line
    }

    /// Whether it was over before something was said at `stamp`.
    pub(super) fn is_stale(&self, n: u64, stamp: Option<u64>) -> bool {
        let paused =
            self.stamp.zip(stamp).is_some_and(|(last, now)| now > last.saturating_add(PAUSE));
        paused || n - self.line > LONGEST
    }

    /// Takes the next line of the same printer. `complaint` is the row that the
    /// line matches, if it is not a note.
    pub(super) fn take(
        &mut self,
        n: u64,
        line: Line<'_>,
        complaint: Option<&'static Signature>,
    ) -> Place {
        if complaint.is_some_and(|c| !self.goes_on_with(c)) {
            return Place::After;
        }
        let text = without_prefix(line.text);
        if text.starts_with(CUT_HERE) {
            // The message of some reports comes before the warning or the bug
            // that is made of them.
            if self.trace != Trace::NotYet || self.signature.ends == Ends::Block {
                return Place::After;
            }
        } else if self.signature.ends == Ends::Stack
            && self.trace == Trace::Read
            && !is_of_a_stack(text)
        {
            return Place::After;
        }
        if let Some(worse) = complaint.filter(|c| c.severity > self.signature.severity) {
            self.signature = worse;
        }
        self.read_trace(text);
        self.learn(text);
        self.last = n;
        self.stamp = line.stamp.or(self.stamp);
        let ended = match self.signature.ends {
            _ if text.starts_with("---[ end ") => true,
            Ends::Rule => is_rule(text),
            Ends::Stack => self.trace == Trace::Read,
            Ends::Line | Ends::Trace | Ends::Block => false,
        };
        if ended { Place::Last } else { Place::Inside }
    }

    /// Takes a line of another CPU that was asked for its call trace, as in
    /// lockups and stalls. Says whether it is one.
    pub(super) fn take_from_elsewhere(&mut self, n: u64, line: Line<'_>) -> Option<Place> {
        let asked = matches!(self.signature.ends, Ends::Stack | Ends::Block)
            && self.signature.severity == Severity::Hang;
        let place = (asked && is_of_a_stack(line.text)).then(|| self.take(n, line, None));
        place.filter(|place| *place != Place::After)
    }

    /// Whether a line that complains by itself is part of this report: an oops
    /// says so in several lines, and some messages come with a warning.
    fn goes_on_with(&self, other: &Signature) -> bool {
        if other.id == self.signature.id {
            return false;
        }
        if other.family() == self.signature.family() {
            return other.severity <= self.signature.severity;
        }
        let says_its_end = matches!(self.signature.ends, Ends::Trace | Ends::Rule);
        let not_worse = says_its_end && other.severity <= self.signature.severity;
        let awaited = self.trace == Trace::NotYet && self.signature.ends != Ends::Block;
        matches!(other.class, "warn" | "oops" | "panic") && (awaited || not_worse)
    }

    fn read_trace(&mut self, text: &str) {
        let frame = FRAME.captures(text);
        match self.trace {
            Trace::NotYet => {
                let begins = text.trim_start();
                let begins = begins.starts_with("Call Trace:")
                    || begins.starts_with("RIP: 0010:")
                    || begins.starts_with("backtrace");
                // Some sanitizers print the stack of the access as it is.
                if begins || (self.signature.ends == Ends::Rule && frame.is_some()) {
                    self.trace = Trace::Reading;
                }
            }
            Trace::Reading if text.trim() == "</TASK>" || !is_of_a_stack(text) => {
                self.trace = Trace::Read;
            }
            Trace::Reading | Trace::Read => {}
        }
        if self.trace == Trace::Reading
            && let Some(frame) = frame
            && frame.name("unsure").is_none()
            && self.frames.len() < FRAMES
            && frame["code"].len() <= NAME
        {
            self.exact |= self.frames.is_empty() && text.trim_start().starts_with("RIP: ");
            self.frames.push(frame["code"].to_owned());
        }
    }

    /// Takes from a line whom and what the report is about.
    fn learn(&mut self, text: &str) {
        if self.comm.is_none() {
            for pattern in TASKS.iter() {
                let Some(found) = pattern.captures(text) else { continue };
                let pid = found.name("pid").and_then(|pid| pid.as_str().parse().ok());
                self.pid = self.pid.or(pid);
                let comm = found.name("comm").filter(|comm| comm.as_str().len() <= NAME);
                self.comm = comm.map(|comm| comm.as_str().to_owned());
                break;
            }
        }
        if self.hint.is_none()
            && let Some(found) = HINT.captures(text)
        {
            self.hint = Some(found["f"].chars().take(NAME).collect());
        }
    }

    /// What came of it, if its complaint was told.
    pub(super) fn end(self) -> Option<Finding> {
        let title = self.title();
        let by_caller = match self.caller {
            Some(Caller::Task(pid)) => Some(pid),
            Some(Caller::Cpu(_)) | None => None,
        };
        let report = Report {
            signature: self.signature,
            title,
            before: self.line - self.first,
            after: self.last - self.line,
            pid: self.pid.or(by_caller),
            comm: self.comm.map(|comm| comm.chars().filter(|c| !c.is_control()).collect()),
            frames: self.frames,
            exact: self.exact,
        };
        self.told.then_some(Finding { line: self.line, what: What::Report(report) })
    }
}

/// A line of a leak without the word that each of them begins with.
fn without_prefix(text: &str) -> &str {
    text.strip_prefix("kmemleak: ").unwrap_or(text)
}

/// What stands above a warning or a bug.
const CUT_HERE: &str = "------------[ cut here";

/// Whether the line stands above a report, as one of its lines.
pub(super) fn is_above(text: &str) -> bool {
    text.starts_with(CUT_HERE)
        || text.starts_with("page: ")
        || text.starts_with("page:")
        || is_rule(text)
}

/// `=====`, at least as long as lockdep's shortest.
fn is_rule(text: &str) -> bool {
    text.len() >= 20 && text.bytes().all(|b| b == b'=')
}

/// Whether the line can stand in a call trace, registers included.
fn is_of_a_stack(text: &str) -> bool {
    const WORDS: [&str; 26] = [
        "<",
        "CPU: ",
        "Call Trace:",
        "Code: ",
        "CR2: ",
        "CS: ",
        "DR0: ",
        "DR3: ",
        "FS: ",
        "GS: ",
        "Hardware name: ",
        "KASAN: ",
        "Modules linked in:",
        "NMI backtrace",
        "PKRU: ",
        "R10: ",
        "R13: ",
        "RAX: ",
        "RBP: ",
        "RDX: ",
        "RIP: ",
        "RSP: ",
        "Tainted: ",
        "Workqueue: ",
        "backtrace",
        "task:",
    ];
    let words = text.trim_start();
    WORDS.iter().any(|word| words.starts_with(word)) || FRAME.is_match(text)
}

/// A frame of a call trace, or the instruction pointer of the kernel.
static FRAME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^ *(?:RIP: 0010:|\[<[0-9a-f]+>\] )?(?<unsure>\? )?(?<code>[A-Za-z_][\w.]*\+0x[0-9a-f]+/0x[0-9a-f]+)(?: \[\w+\])?$",
    )
});

/// Where a report says which task it is about, the surest first.
static TASKS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"PID: (?<pid>\d+) Comm: (?<comm>.+?)(?: Not tainted| Tainted| Kdump|$)",
        r"^INFO: task (?<comm>.+):(?<pid>\d+) (?:blocked|can't die)",
        r"lockup - .*\[(?<comm>[^\]]+):(?<pid>\d+)\]",
        r" by task (?<comm>.+)/(?<pid>\d+)$",
        r" by task (?<pid>\d+) on cpu ",
        r"^task:(?<comm>.+?) +state:.* pid:(?<pid>\d+)",
        r"while atomic: (?<comm>.+)/(?<pid>\d+)/0x",
        r" code: (?<comm>.+)/(?<pid>\d+)",
        r"CPU#\d+[,:] (?<comm>.+)/(?<pid>\d+)$",
        r"pid: (?<pid>\d+), name: (?<comm>.+)",
        r#"comm "(?<comm>[^"]*)", pid (?<pid>\d+)"#,
        r"Killed process (?<pid>\d+) \((?<comm>.+?)\)",
        r"^(?<comm>.+)/(?<pid>\d+) (?:is (?:trying|leaving|freeing|exiting)|just changed)",
        r"^WARNING: (?<comm>.+)/(?<pid>\d+) still has locks held",
        r"Comm:(?<comm>.+) Pid:(?<pid>\d+)",
        r"^WARNING: CPU: ?\d+ PID: (?<pid>\d+)",
        r"leaked .*: (?<comm>.+)\[(?<pid>\d+)\]$",
    ]
    .into_iter()
    .map(pattern)
    .collect()
});

/// Where a report names the function that it is about, which is not in its call
/// trace or hard to find there.
static HINT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?:workfn=|last function: |in-flight: \d+(?:\([A-Z]+\))?:)(?<f>[A-Za-z_][\w.]*)")
});

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of this file")
}
