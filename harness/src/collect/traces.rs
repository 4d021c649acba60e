//! The traces of a run: what came through the trace ports, understood.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hmm_protocol::trace::{Capture, TraceReady, tag};
use hmm_protocol::wire::GuestMessage;

use crate::events::{Event, Record};
use crate::layout::{Known, Layout};
use crate::results::TraceInfo;
use crate::rundir::{canonical_of, raw_trace_of, rows_of};
use crate::trace::{self, About, Formats, Trace};

/// One turn of a test, as far as its trace is concerned.
struct Turn<'a> {
    vm: u32,
    run: u32,
    id: &'a str,
    turn: u32,
    said: Option<&'a Capture>,
    /// Whether it was had once more, after its machine was lost: what the last one
    /// has to say is in the files.
    again: bool,
}

/// A start of a VM.
struct Session {
    tag: u64,
    ready: Option<TraceReady>,
    runs: u32,
}

/// Whether what a trace says in words is written beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    Beside,
    Nothing,
}

/// Understands every trace of a run, and writes its rows and its canonical form.
/// What cannot be read makes a trace incomplete.
pub(super) fn understand(
    dir: &Path,
    records: &[Record],
    writing: Writing,
) -> BTreeMap<(u32, u32), Trace> {
    let mut layout = None;
    let mut sessions: HashMap<u32, Session> = HashMap::new();
    let mut turns: Vec<Turn> = Vec::new();
    for record in records {
        match &record.event {
            Event::Layout(Known::Is(known)) => layout = Some(known),
            Event::VmStarted { vm, nonce, .. } => {
                sessions.insert(*vm, Session { tag: tag(nonce), ready: None, runs: 0 });
            }
            Event::Ordered { vm, id, turn } => {
                let Some(session) = sessions.get_mut(vm) else { continue };
                session.runs += 1;
                for before in turns.iter_mut().filter(|b| b.id == id && b.turn == *turn) {
                    before.again = true;
                }
                let run = session.runs;
                turns.push(Turn { vm: *vm, run, id, turn: *turn, said: None, again: false });
            }
            Event::Frame { vm, sealed } => match &sealed.message {
                GuestMessage::Attached { trace, .. } => {
                    if let Some(session) = sessions.get_mut(vm) {
                        session.ready.clone_from(trace);
                    }
                }
                GuestMessage::Finished { id, capture, .. } => {
                    let last = turns.iter_mut().rev().find(|turn| turn.vm == *vm);
                    if let Some(turn) = last.filter(|turn| turn.id == id) {
                        turn.said = capture.as_ref();
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
    let Some(layout) = layout else { return BTreeMap::new() };
    let traced = |turn: &&Turn| dir.join(raw_trace_of(turn.vm, turn.run)).exists();
    let turns: Vec<&Turn> = turns.iter().filter(traced).collect();

    let traces = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from).min(turns.len());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(turn) = turns.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let trace = one(dir, turn, sessions.get(&turn.vm), layout, writing);
                    let trace = trace.unwrap_or_else(|error| {
                        let incomplete = Some(error.to_string());
                        let info = TraceInfo { incomplete, ..TraceInfo::default() };
                        Trace { info, ..Trace::default() }
                    });
                    let mut traces = traces.lock().expect("no holder panics");
                    traces.insert((turn.vm, turn.run), trace);
                }
            });
        }
    });
    traces.into_inner().expect("no holder panics")
}

fn one(
    dir: &Path,
    turn: &Turn,
    session: Option<&Session>,
    layout: &Layout,
    writing: Writing,
) -> io::Result<Trace> {
    let ready = session.and_then(|session| session.ready.as_ref());
    let (Some(session), Some(ready)) = (session, ready) else {
        return Err(io::Error::other("its guest never said what it can trace"));
    };
    let texts = ready.formats.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let formats = Formats::parse(texts).map_err(io::Error::other)?;
    let about = About { tag: session.tag, run: turn.run, formats: &formats, layout };
    let raw = dir.join(raw_trace_of(turn.vm, turn.run));
    let open = || Ok(BufReader::with_capacity(64 << 10, File::open(&raw)?));
    let words = |path| {
        let written = writing == Writing::Beside && !turn.again;
        if written { Words::new(dir.join(path)) } else { Words::nowhere() }
    };
    let mut rows = words(rows_of(turn.id, turn.turn));
    let mut canonical = words(canonical_of(turn.id, turn.turn));
    let trace = trace::understand(open, about, turn.said, &mut rows, &mut canonical);
    let mut trace = trace
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", raw.display())))?;
    if !trace.info.complete {
        // What is the same each time is not to be had of half a trace.
        canonical.discard();
        trace.info.canonical_sha256 = None;
        trace.info.operations.clear();
    }
    trace.unwritten = rows.failed.or(canonical.failed);
    Ok(trace)
}

/// What is written beside a trace. It says again what the trace says, so that a
/// place where it cannot be written changes no judgement.
struct Words {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    failed: Option<String>,
}

impl Words {
    fn nowhere() -> Self {
        Words { path: PathBuf::new(), file: None, failed: None }
    }

    fn new(path: PathBuf) -> Self {
        let mut words = Words { path, ..Words::nowhere() };
        match File::create(&words.path) {
            Ok(file) => words.file = Some(BufWriter::with_capacity(64 << 10, file)),
            Err(error) => words.fail(&error),
        }
        words
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed = Some(format!("cannot write {}: {error}", self.path.display()));
        self.discard();
    }

    /// Takes it away: what is there would be half of it.
    fn discard(&mut self) {
        if let Some(file) = self.file.take() {
            // What has no room any more need not be written out first.
            drop(file.into_parts());
            // It may be gone, which is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Write for Words {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(Err(error)) = self.file.as_mut().map(|file| file.write_all(bytes)) {
            self.fail(&error);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(Err(error)) = self.file.as_mut().map(Write::flush) {
            self.fail(&error);
        }
        Ok(())
    }
}
