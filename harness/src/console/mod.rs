//! What the kernel said: complaints, and the markers that say during which
//! test.
//!
//! [`Scanner`] takes the raw bytes of the serial console in whatever pieces
//! they come and gives [`Finding`]s. The same scanner follows a running VM and
//! reads a saved log, so the two cannot disagree. It does no IO.
//!
//! What a complaint looks like, how bad it is, where its report ends and what
//! its title is are data: `signatures.tsv`.

mod scanner;
mod report;
mod title;
mod line;
mod signatures;

use std::ops::RangeInclusive;

pub use scanner::Scanner;
pub use signatures::{Severity, Signature, signatures};
pub use title::without_line;

/// Something that was found on the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The line, counted from 1 from where the scanner began. A report has the
    /// line of its complaint.
    pub line: u64,
    /// What it is.
    pub what: What,
}

impl Finding {
    /// The lines that belong to it.
    pub fn lines(&self) -> RangeInclusive<u64> {
        match &self.what {
            What::Report(report) => self.line - report.before..=self.line + report.after,
            _ => self.line..=self.line,
        }
    }
}

/// What a line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The agent marked the beginning of a test, by its id.
    Begin(String),
    /// The agent marked the end of a test.
    End(String),
    /// The kernel began to complain. This is told at once, for whoever follows a
    /// running VM; exactly one [`What::Report`] with the same line follows when
    /// all of it is there, at the latest with [`Scanner::finish`].
    Complaint {
        /// The signature that matched.
        signature: &'static Signature,
        /// What can be said of it so far.
        title: String,
    },
    /// The kernel has complained, and this is all of it.
    Report(Report),
}

/// A complaint of the kernel, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The worst signature that matched in it.
    pub signature: &'static Signature,
    /// What happened and in which function, without anything that changes from
    /// run to run: the same crash has the same title.
    pub title: String,
    /// How many lines before the one that matched belong to it.
    pub before: u64,
    /// How many lines after it.
    pub after: u64,
    /// The task that it is about: by the report itself, else by printk's caller.
    pub pid: Option<u32>,
    /// The name of that task, where the report has it.
    pub comm: Option<String>,
    /// The code of its call trace, innermost first, as `symbol+0xoff/0xsize`.
    pub frames: Vec<String>,
    /// Whether the first of them is the instruction that was executed, and not
    /// the one that a call returns to.
    pub exact: bool,
}
