//! The event stream of a run: what happened, in order, as data.
//!
//! Everything that a stage has to tell goes through [`Log::emit`]: it is
//! written to `events.jsonl`, from which the run is judged, and shown to the
//! person at the terminal. Stages print nothing themselves. What the programs say
//! that they run, and how far these are, is only shown: [`Log::line`], [`Log::count`].

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use hmm_protocol::wire::{GuestMessage, Sealed};
use serde::{Deserialize, Serialize};

use crate::flow::Stage;
use crate::frames::Resolved;
use crate::stop::Stop;
use crate::words::line;

/// A line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Milliseconds since the start of the run.
    pub t_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began.
    Began {
        /// When, by the clock of the machine, as RFC 3339 writes it.
        at: String,
    },
    /// A stage began.
    StageStarted {
        /// Which.
        stage: Stage,
    },
    /// A stage ended well.
    StageFinished {
        /// Which.
        stage: Stage,
        /// How long it took, in milliseconds.
        ms: u64,
        /// Whether its result was in the store already.
        reused: bool,
        /// What came out, in a few words.
        text: String,
    },
    /// A sign of life from a long stage.
    Progress {
        /// Which stage.
        stage: Stage,
        /// How far it is.
        text: String,
    },
    /// Something that the reader should know and that is no fault.
    Note {
        /// The sentence.
        text: String,
    },
    /// The kernel under test is known.
    Kernel(crate::results::KernelInfo),
    /// The machine that it will run on is known.
    Machine(crate::results::MachineInfo),
    /// Where the notifier's facts lie in the kernel under test.
    Layout(crate::layout::Known),
    /// The set of tests is known; each of them must get a verdict.
    Planned {
        /// Ids, in the order of the plan.
        tests: Vec<String>,
        /// How often each has its turn.
        repeat: u32,
        /// Ids that do not apply to this kernel, each with the reason.
        not_applicable: Vec<crate::results::NotApplicable>,
    },
    /// A VM was started.
    VmStarted {
        /// Counts the starts of this run, from 0.
        vm: u32,
        /// The nonce that its frames must carry.
        nonce: String,
        /// Whether it started from a saved guest, and did not boot.
        restored: bool,
    },
    /// The agent was told to run a test.
    Ordered {
        /// On which start.
        vm: u32,
        /// The test's id.
        id: String,
        /// Which of its turns it is, counted from 0: a test has several if it is
        /// repeated or tried again.
        turn: u32,
    },
    /// A frame arrived from the agent.
    Frame {
        /// From which start.
        vm: u32,
        /// The frame as received.
        #[serde(flatten)]
        sealed: Sealed,
    },
    /// A VM is gone.
    VmEnded {
        /// Which start.
        vm: u32,
        /// Why.
        end: VmEnd,
        /// Where its part of `console.log` begins, in bytes.
        console_from: u64,
        /// Where it ends.
        console_to: u64,
    },
    /// No more turns are given, though some are due.
    CutShort {
        /// Why.
        reason: String,
    },
    /// The lines that addresses of the kernel's reports stand for.
    Symbols {
        /// Each address with what was found of it.
        resolved: Vec<Resolved>,
    },
    /// The run ends here without a judgement of everything.
    Stopped {
        /// Why.
        stop: Stop,
    },
}

/// Why a VM is gone, as the harness saw it from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum VmEnd {
    /// The agent said its last word and powered off.
    Done,
    /// Its state was saved; the tests run on copies of it.
    Saved,
    /// The harness ended it because the kernel had complained or a test could
    /// not be killed: what comes next deserves a fresh kernel.
    Replaced {
        /// What about it.
        reason: String,
    },
    /// The guest reset or powered itself off without being asked to.
    GuestGone {
        /// What QEMU said: `guest-reset`, `guest-shutdown`, `guest-panic`.
        how: String,
    },
    /// QEMU ended without a word from guest or monitor.
    QemuGone {
        /// Its exit code.
        code: i32,
        /// The last lines it wrote.
        tail: Vec<String>,
    },
    /// A deadline of the harness passed.
    Deadline {
        /// The name of the deadline.
        name: String,
        /// How long it was, in milliseconds.
        ms: u64,
    },
    /// The agent sent what is not a frame of this start, or said that it could
    /// not do its work.
    Agent {
        /// What was wrong.
        what: String,
    },
    /// The user interrupted the run.
    Interrupted,
}

impl VmEnd {
    /// Why a VM is gone, in words.
    pub fn words(&self) -> String {
        match self {
            VmEnd::Done => "it powered off as it was told".into(),
            VmEnd::Saved => "its state was saved".into(),
            VmEnd::Replaced { reason } => line(&format!("a fresh kernel was due: {reason}")),
            VmEnd::GuestGone { how } if how == "guest-reset" => "the guest reset itself".into(),
            VmEnd::GuestGone { how } if how == "guest-shutdown" => {
                "the guest powered itself off".into()
            }
            VmEnd::GuestGone { how } => line(&format!("the guest is gone: {how}")),
            VmEnd::QemuGone { code, .. } => format!("QEMU ended with {code} without a word"),
            VmEnd::Deadline { name, ms } => {
                format!("the {name} deadline of {:.1} s passed", *ms as f64 / 1000.0)
            }
            VmEnd::Agent { what } => line(&format!("the agent failed: {what}")),
            VmEnd::Interrupted => "interrupted".into(),
        }
    }
}

/// Where events go.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Inner>>);

struct Inner {
    start: Instant,
    file: Option<File>,
    /// The first failure to write: reported at the next [`Log::check`], since
    /// a run whose evidence is lost cannot be judged.
    failed: Option<String>,
    show: Show,
}

impl Inner {
    fn lost(&mut self, file: &str, error: &std::io::Error) {
        self.failed.get_or_insert(format!("cannot write {file}: {error}"));
    }
}

/// What a person at the terminal may be shown.
#[derive(Debug, Clone, Copy)]
pub enum Shown<'a> {
    /// What happened; it is written down too.
    Event(&'a Event),
    /// A line of the program that the stage runs: the compiler, apt.
    Line(&'a str),
    /// How far that program is.
    Count {
        /// So many objects are made.
        done: usize,
        /// Of so many, where that is known.
        of: Option<usize>,
    },
}

/// Whoever shows it.
type Show = Box<dyn FnMut(Shown<'_>) + Send>;

impl Log {
    /// A log that only shows events, until [`Log::record_in`] is called.
    pub fn new(mut show: impl FnMut(&Event) + Send + 'static) -> Self {
        Log::shown_by(move |shown| {
            if let Shown::Event(event) = shown {
                show(event);
            }
        })
    }

    /// The same, for whoever shows more than events.
    pub fn shown_by(show: impl FnMut(Shown<'_>) + Send + 'static) -> Self {
        let show = Box::new(show);
        Log(Arc::new(Mutex::new(Inner { start: Instant::now(), file: None, failed: None, show })))
    }

    /// From now on also writes to `events.jsonl` in `dir`; its clock starts
    /// here.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn record_in(&self, dir: &Path) -> Result<()> {
        let path = dir.join("events.jsonl");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut inner = self.inner();
        inner.file = Some(file);
        inner.start = Instant::now();
        inner.failed = None;
        Ok(())
    }

    /// Shows an event and writes it down.
    pub fn emit(&self, event: Event) {
        let mut inner = self.inner();
        (inner.show)(Shown::Event(&event));
        let t_ms = u64::try_from(inner.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Where something is missing nothing follows but why: a stream with a gap
        // must not look like one that came to its end.
        if inner.failed.is_some() && !matches!(event, Event::Stopped { .. }) {
            return;
        }
        let Some(file) = &mut inner.file else { return };
        let written = serde_json::to_vec(&Record { t_ms, event })
            .map_err(std::io::Error::other)
            .and_then(|line| append(file, line));
        if let Err(error) = written {
            inner.lost("events.jsonl", &error);
        }
    }

    /// Takes down that a part of the evidence could not be written: from now on
    /// [`Log::check`] says so.
    pub fn lost(&self, file: &str, error: &std::io::Error) {
        self.inner().lost(file, error);
    }

    /// Shows a line of the program that a stage runs.
    pub fn line(&self, line: &str) {
        (self.inner().show)(Shown::Line(line));
    }

    /// Shows how many objects that program has made, of how many if that is known.
    pub fn count(&self, done: usize, of: Option<usize>) {
        (self.inner().show)(Shown::Count { done, of });
    }

    /// A note, for short.
    pub fn note(&self, text: impl Into<String>) {
        self.emit(Event::Note { text: text.into() });
    }

    /// A sign of life, for short.
    pub fn progress(&self, stage: Stage, text: impl Into<String>) {
        self.emit(Event::Progress { stage, text: text.into() });
    }

    /// Whether everything so far was written down.
    ///
    /// # Errors
    /// [`Stop::Machine`] with the first failure, if there was one.
    pub fn check(&self) -> Result<(), Stop> {
        match &self.inner().failed {
            None => Ok(()),
            Some(why) => Err(Stop::Machine(
                crate::stop::Fault::new(why.clone())
                    .hint("point --out at a disk that has space and that nobody clears"),
            )),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// Adds a line to a file, or nothing: half a line would spoil the next one, for
/// which there may be room again.
fn append(file: &mut File, mut line: Vec<u8>) -> std::io::Result<()> {
    line.push(b'\n');
    let end = file.stream_position()?;
    file.write_all(&line).inspect_err(|_| {
        // What cannot be taken back either is the last line, and known by its
        // missing end.
        let _ = file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end)));
    })
}

/// The text of a message of the agent, for the terminal and for reports.
pub fn describe(message: &GuestMessage) -> String {
    line(&match message {
        GuestMessage::Hello { release, .. } => format!("kernel {release} is up"),
        GuestMessage::Prepared { .. } => "the guest is in order".into(),
        GuestMessage::Attached { devices, .. } => format!("{} devices", devices.len()),
        GuestMessage::Alive { id } => format!("{id} goes on"),
        GuestMessage::Started { id, .. } => format!("{id} started"),
        GuestMessage::Step { id, text } => format!("{id}: {text}"),
        GuestMessage::Finished { id, .. } => format!("{id} finished"),
        GuestMessage::ShellEnded { .. } => "a command ended".into(),
        GuestMessage::Refused { what, why } => format!("the agent could not {what}: {why}"),
        GuestMessage::Done { finished } => format!("done, {finished} tests"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_what_could_not_be_written_comes_nothing_but_why() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = Log::new(|_| {});
        log.record_in(dir.path()).expect("writable");
        log.note("one");
        log.inner().failed = Some("there was no room".into());
        log.note("two");
        log.emit(Event::Stopped { stop: Stop::Interrupted });
        let text = std::fs::read_to_string(dir.path().join("events.jsonl")).expect("written");
        assert!(
            text.contains("one") && !text.contains("two") && text.contains("stopped"),
            "{text}"
        );
        assert!(log.check().is_err());
    }
}
