//! The traces of a run: what came through the trace ports, understood.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hmm_protocol::trace::{Capture, TraceReady, tag};
use hmm_protocol::wire::GuestMessage;

use crate::events::{Event, Record};
use crate::layout::{Known, Layout};
use crate::rundir::{canonical_of, raw_trace_of, rows_of};
use crate::trace::{self, About, Formats, Trace};

/// One turn of a test, as far as its trace is concerned.
struct Turn<'a> {
    vm: u32,
    run: u32,
    id: &'a str,
    turn: u32,
    said: Option<&'a Capture>,
}

/// A start of a VM.
struct Session {
    tag: u64,
    ready: Option<TraceReady>,
    runs: u32,
}

/// Understands every trace of a run, and writes its rows and its canonical form
/// beside it. What cannot be read or written makes a trace incomplete.
pub(super) fn understand(dir: &Path, records: &[Record]) -> BTreeMap<(u32, u32), Trace> {
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
                turns.push(Turn { vm: *vm, run: session.runs, id, turn: *turn, said: None });
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
                    let trace = one(dir, turn, sessions.get(&turn.vm), layout);
                    let trace = trace.unwrap_or_else(|error| Trace {
                        incomplete: Some(error.to_string()),
                        ..Trace::default()
                    });
                    let mut traces = traces.lock().expect("no holder panics");
                    traces.insert((turn.vm, turn.run), trace);
                }
            });
        }
    });
    traces.into_inner().expect("no holder panics")
}

fn one(dir: &Path, turn: &Turn, session: Option<&Session>, layout: &Layout) -> io::Result<Trace> {
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let ready = session.and_then(|session| session.ready.as_ref());
    let (Some(session), Some(ready)) = (session, ready) else {
        return Err(io::Error::other("its guest never said what it can trace"));
    };
    let texts = ready.formats.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let formats = Formats::parse(texts).map_err(io::Error::other)?;
    let about = About { tag: session.tag, run: turn.run, formats: &formats, layout };
    let raw = dir.join(raw_trace_of(turn.vm, turn.run));
    let open = || Ok(BufReader::with_capacity(64 << 10, File::open(&raw)?));
    let create = |path: &PathBuf| {
        let file = File::create(path).map_err(|error| named(path, error))?;
        Ok::<_, io::Error>(BufWriter::with_capacity(64 << 10, file))
    };
    let (rows, canonical) =
        (dir.join(rows_of(turn.id, turn.turn)), dir.join(canonical_of(turn.id, turn.turn)));
    let trace = trace::understand(open, about, turn.said, create(&rows)?, create(&canonical)?);
    let mut trace = trace.map_err(|error| named(&raw, error))?;
    if !trace.info.complete {
        // What is the same each time is not to be had of half a trace.
        fs::remove_file(&canonical).map_err(|error| named(&canonical, error))?;
        trace.info.canonical_sha256 = None;
    }
    Ok(trace)
}
