//! The canonical form of a trace: what is the same each time that the same test
//! runs on the same kernel, as text.
//!
//! A line for each step, and below it what the kernel did meanwhile, indented by
//! the invalidations that the thread was in; what other threads do meanwhile stands
//! before or behind. Addresses are pages of buffers; what touches no buffer is left
//! out; callbacks of one invalidation, whose order is that of a tree by address, are
//! sorted; and so is what a device gives back page by page, in the order of its free
//! list.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use super::buffers::Buffers;
use super::row::{Probe, Row};

/// Steps in which pages come home in the order of page frame numbers
/// (`dmirror_device_evict_chunk()` in lib/test_hmm.c), which depends on what ran
/// before.
const UNORDERED: [&str; 4] = ["release", "close", "give-up", "exit"];

/// How many pieces can be put in order, and how many bytes can be held back: more
/// than a device has pages.
const MOST_PIECES: usize = 1 << 17;
const MOST_BYTES: usize = 32 << 20;

/// How many threads there can be, how many invalidations and callbacks of a thread
/// at a time, and how many callbacks of an invalidation. An honest test has some
/// dozens.
const MOST_THREADS: usize = 1 << 8;
const DEEPEST: usize = 16;
const MOST_CALLBACKS: usize = 1 << 9;

/// Writes the canonical form of rows, one after the other.
pub struct Canonical<W> {
    out: Out<W>,
    buffers: Buffers,
    threads: BTreeMap<u32, Thread>,
    full: bool,
}

/// What a thread is in.
#[derive(Default)]
struct Thread {
    /// Invalidations that have begun, innermost last.
    open: Vec<Open>,
    /// Callbacks that have begun, innermost last.
    called: Vec<Called>,
    /// Those that have ended and wait for the others of their invalidation.
    callbacks: Vec<Line>,
    /// The lines of the outermost invalidation that it is in.
    piece: String,
    full: bool,
}

/// An invalidation that has begun.
struct Open {
    range: Option<String>,
    event: Option<String>,
    addresses: Option<(u64, u64)>,
    blockable: bool,
    /// Whether there is a line for it.
    shown: bool,
}

/// A callback that has begun.
struct Called {
    /// How many invalidations its thread is in.
    inside: usize,
    /// Nothing, if there is no line for it.
    text: Option<String>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    text: String,
    depth: usize,
}

impl Thread {
    fn depth(&self) -> usize {
        1 + self.open.iter().filter(|open| open.shown).count()
    }

    /// An invalidation ends, and so have its callbacks.
    fn end_callbacks_of(&mut self, row: &Row) {
        let Some(at) = self.open.iter().rposition(|open| open.range == row.range) else { return };
        while self.called.last().is_some_and(|called| called.inside > at) {
            self.end_callback(None);
        }
    }

    /// The innermost callback has ended, or it is known that nobody saw how it did.
    fn end_callback(&mut self, ret: Option<i64>) {
        let depth = self.depth();
        let Some(Called { text: Some(mut text), .. }) = self.called.pop() else { return };
        match ret {
            Some(1) => {}
            Some(ret) => text.push_str(&format!(" -> {ret}")),
            None => text.push_str(" -> ?"),
        }
        push(&mut self.callbacks, Line { text, depth }, MOST_CALLBACKS, &mut self.full);
    }
}

/// Adds to what must not grow without end.
fn push<T>(to: &mut Vec<T>, what: T, most: usize, full: &mut bool) {
    *full |= to.len() >= most;
    if to.len() < most {
        to.push(what);
    }
}

impl<W: Write> Canonical<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Canonical {
            out: Out { out, pieces: None, bytes: 0, full: false },
            buffers: Buffers::default(),
            threads: BTreeMap::new(),
            full: false,
        }
    }

    /// What there was too much of to be the same each time, if anything.
    pub(super) fn overflow(&self) -> Option<String> {
        let what = if self.full {
            "threads"
        } else if self.buffers.full() {
            "buffers"
        } else if self.out.full {
            "lines of a step"
        } else if self.threads.values().any(|thread| thread.full) {
            "events at a time"
        } else {
            return None;
        };
        Some(format!("more {what} than can be put in order"))
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, row: &Row) -> io::Result<()> {
        if row.probe == Probe::Step {
            return self.step(row);
        }
        if self.threads.len() >= MOST_THREADS && !self.threads.contains_key(&row.tid) {
            self.full = true;
            return Ok(());
        }
        self.event(row)
    }

    fn step(&mut self, row: &Row) -> io::Result<()> {
        for thread in self.threads.values_mut() {
            self.out.callbacks(thread)?;
            self.out.piece(thread)?;
        }
        self.buffers.learn(row);
        self.out.end_step()?;
        let step = row.doing.clone().unwrap_or_default();
        writeln!(self.out.out, "{step}{}", by(row))?;
        self.out.pieces = UNORDERED.contains(&step.op.as_str()).then(Vec::new);
        Ok(())
    }

    fn event(&mut self, row: &Row) -> io::Result<()> {
        let Canonical { out, buffers, threads, .. } = self;
        let thread = threads.entry(row.tid).or_default();
        // Whatever else a thread goes on to, the callbacks that it has made are all
        // that belong together.
        if !matches!(row.probe, Probe::Callback | Probe::CallbackReturn) {
            if row.probe == Probe::InvalidateEnd {
                thread.end_callbacks_of(row);
            }
            out.callbacks(thread)?;
        }
        let depth = thread.depth();
        let by = by(row);
        let sub = row.sub.as_deref().unwrap_or("unknown");
        let place = || row.addresses().map(|range| buffers.place(range)).unwrap_or_default();
        let touches = row.addresses().is_some_and(|range| buffers.touch(range));
        match row.probe {
            Probe::InvalidateStart => {
                if touches {
                    let line = format_args!("{} {}{}{by}", name(row), place(), about(row));
                    out.line(thread, depth, line)?;
                }
                let open = Open {
                    range: row.range.clone(),
                    event: row.event.clone(),
                    addresses: row.addresses(),
                    blockable: row.blockable != Some(false),
                    shown: touches,
                };
                push(&mut thread.open, open, DEEPEST, &mut thread.full);
            }
            Probe::InvalidateEnd => {
                if let Some(at) = thread.open.iter().rposition(|open| open.range == row.range) {
                    thread.open.truncate(at);
                }
            }
            Probe::Callback => {
                let inside = thread.open.last();
                let same = inside.is_some_and(|open| {
                    open.event == row.event && open.addresses == row.addresses()
                });
                let text = touches.then(|| {
                    let of =
                        if same { String::new() } else { format!(" of {} {}", name(row), place()) };
                    format!("callback {sub}{of}{by}")
                });
                let called = Called { inside: thread.open.len(), text };
                push(&mut thread.called, called, DEEPEST, &mut thread.full);
            }
            Probe::CallbackReturn => {
                thread.end_callback(Some(row.ret.unwrap_or_default()));
                // An invalidation that may not block, and would have to, has no end.
                if row.ret == Some(0) && thread.open.pop_if(|open| !open.blockable).is_some() {
                    out.callbacks(thread)?;
                }
            }
            Probe::Collect if touches => {
                out.line(thread, depth, format_args!("collect {}{by}", place()))?;
            }
            Probe::MigrateSetup if touches => {
                let line = format_args!("migrate_setup {}{}{by}", place(), about(row));
                out.line(thread, depth, line)?;
            }
            Probe::MigrateFault if touches => {
                out.line(thread, depth, format_args!("fault {}{by}", place()))?;
            }
            Probe::Insert => match row.ret {
                None => out.line(thread, depth, format_args!("insert {sub} {}{by}", place()))?,
                Some(0) => {}
                Some(ret) => out.line(thread, depth, format_args!("insert {sub} -> {ret}{by}"))?,
            },
            Probe::Remove if row.ret.is_none() => {
                out.line(thread, depth, format_args!("remove {sub}{by}"))?;
            }
            Probe::Release => {
                let mm = row.mm.as_deref().unwrap_or("mm?");
                out.line(thread, depth, format_args!("release {mm}{by}"))?;
            }
            _ => {}
        }
        match thread.open.iter().any(|open| open.shown) {
            true => Ok(()),
            false => out.piece(thread),
        }
    }

    /// The last row was pushed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        for thread in self.threads.values_mut() {
            while !thread.called.is_empty() {
                thread.end_callback(None);
            }
            self.out.callbacks(thread)?;
            self.out.piece(thread)?;
        }
        self.out.end_step()?;
        self.out.out.flush()?;
        Ok(self.out.out)
    }
}

/// Where the lines go.
struct Out<W> {
    out: W,
    /// The pieces of a step where their order means nothing.
    pieces: Option<Vec<String>>,
    /// How much is held back.
    bytes: usize,
    full: bool,
}

impl<W: Write> Out<W> {
    fn line(
        &mut self,
        thread: &mut Thread,
        depth: usize,
        text: fmt::Arguments<'_>,
    ) -> io::Result<()> {
        if depth == 1 {
            self.piece(thread)?;
        }
        let before = thread.piece.len();
        let width = depth * 2;
        // A string takes everything.
        fmt::Write::write_fmt(&mut thread.piece, format_args!("{:width$}{text}\n", ""))
            .expect("there is room in a string");
        self.bytes += thread.piece.len() - before;
        if self.bytes > MOST_BYTES {
            self.full = true;
            self.bytes -= thread.piece.len() - before;
            thread.piece.truncate(before);
        }
        Ok(())
    }

    /// The callbacks that a thread has made are all that belong together.
    fn callbacks(&mut self, thread: &mut Thread) -> io::Result<()> {
        let mut callbacks = std::mem::take(&mut thread.callbacks);
        callbacks.sort_unstable();
        for Line { depth, text } in callbacks.drain(..) {
            self.line(thread, depth, format_args!("{text}"))?;
        }
        thread.callbacks = callbacks;
        Ok(())
    }

    /// A thread is in no invalidation any more.
    fn piece(&mut self, thread: &mut Thread) -> io::Result<()> {
        match &mut self.pieces {
            _ if thread.piece.is_empty() => {}
            Some(pieces) => push(pieces, thread.piece.clone(), MOST_PIECES, &mut self.full),
            None => {
                self.out.write_all(thread.piece.as_bytes())?;
                self.bytes -= thread.piece.len();
            }
        }
        thread.piece.clear();
        Ok(())
    }

    fn end_step(&mut self) -> io::Result<()> {
        self.bytes = 0;
        let Some(mut pieces) = self.pieces.take() else { return Ok(()) };
        // What is not about pages, such as the end of an address space, keeps its
        // place among them.
        for pages in pieces.chunk_by_mut(|a, b| a.contains('[') && b.contains('[')) {
            pages.sort_by_cached_key(|piece| order(piece));
        }
        pieces.iter().try_for_each(|piece| self.out.write_all(piece.as_bytes()))
    }
}

/// By name and then by page, as a person would.
fn order(piece: &str) -> (String, i64, String) {
    let (before, rest) = piece.split_once('[').unwrap_or((piece, ""));
    let page = rest.split("..").next().and_then(|page| page.parse().ok()).unwrap_or(0);
    (before.to_owned(), page, piece.to_owned())
}

/// Who did it, where that is not the test itself.
fn by(row: &Row) -> String {
    if row.role == "test" { String::new() } else { format!(" by {}", row.role) }
}

pub(super) fn name(row: &Row) -> &str {
    row.event.as_deref().unwrap_or("event?")
}

/// What else there is to say of a range: its owner, whose memory it is, and
/// whether callbacks may block.
pub(super) fn about(row: &Row) -> String {
    let mut text = String::new();
    let can_have_one = row.probe == Probe::MigrateSetup
        || matches!(row.event.as_deref(), Some("MIGRATE" | "EXCLUSIVE"));
    match row.owner.as_deref() {
        Some("unset") => {}
        Some(owner) => text.push_str(&format!(" owner {owner}")),
        None if can_have_one => text.push_str(" owner NULL"),
        None => {}
    }
    if let Some(mm) = row.mm.as_deref().filter(|mm| *mm != "mm0") {
        text.push_str(&format!(" in {mm}"));
    }
    if row.blockable == Some(false) {
        text.push_str(" non-blockable");
    }
    text
}
