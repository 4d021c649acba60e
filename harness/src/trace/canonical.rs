//! The canonical form of a trace: what is the same each time that the same test
//! runs on the same kernel, as text.
//!
//! A line for each step, and below it what the kernel did meanwhile, indented by
//! the invalidations that the thread was in. Addresses are pages of buffers; what
//! touches no buffer is left out; callbacks of one invalidation, whose order is
//! that of a tree by address, are sorted; and so is what a device gives back page
//! by page, in the order of its free list.

use std::collections::HashMap;
use std::io::{self, Write};

use super::buffers::Buffers;
use super::row::{Probe, Row};

/// Steps in which pages come home in the order of page frame numbers
/// (`dmirror_device_evict_chunk()` in lib/test_hmm.c), which depends on what ran
/// before.
const UNORDERED: [&str; 3] = ["release", "close", "exit"];

/// How many groups of lines can be put in order.
const MOST_GROUPS: usize = 1 << 16;

/// Writes the canonical form of rows, one after the other.
pub struct Canonical<W> {
    out: W,
    buffers: Buffers,
    /// The invalidations that each thread is in: the range object, and whether
    /// its lines are shown.
    open: HashMap<u32, Vec<Open>>,
    /// Callbacks that have begun, by thread.
    called: HashMap<u32, Vec<String>>,
    /// Callbacks that have ended and wait for the others of their invalidation.
    callbacks: Vec<Line>,
    /// What was done in this step, where its order means nothing.
    groups: Option<Vec<String>>,
    unordered_overflow: bool,
}

/// An invalidation that has begun.
struct Open {
    range: Option<String>,
    event: Option<String>,
    addresses: Option<(u64, u64)>,
    blockable: bool,
    shown: bool,
}

struct Line {
    depth: usize,
    text: String,
}

impl<W: Write> Canonical<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Canonical {
            out,
            buffers: Buffers::default(),
            open: HashMap::new(),
            called: HashMap::new(),
            callbacks: Vec::new(),
            groups: None,
            unordered_overflow: false,
        }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, row: &Row) -> io::Result<()> {
        if !matches!(row.probe, Probe::Callback | Probe::CallbackReturn) {
            self.settle_callbacks()?;
        }
        self.buffers.learn(row);
        let by = if row.role == "test" { String::new() } else { format!(" by {}", row.role) };
        let depth = 1 + self.open.get(&row.tid).map_or(0, |open| shown(open));
        let place = row.addresses().map(|range| self.buffers.place(range)).unwrap_or_default();
        let touches = row.addresses().is_some_and(|range| self.buffers.touch(range));
        match row.probe {
            Probe::Step => {
                self.end_step()?;
                let step = row.doing.clone().unwrap_or_default();
                writeln!(self.out, "{step}{by}")?;
                self.groups = UNORDERED.contains(&step.op.as_str()).then(Vec::new);
            }
            Probe::InvalidateStart => {
                if touches {
                    let text = format!("{} {place}{}{by}", name(row), about(row));
                    self.line(depth, &text)?;
                }
                self.open.entry(row.tid).or_default().push(Open {
                    range: row.range.clone(),
                    event: row.event.clone(),
                    addresses: row.addresses(),
                    blockable: row.blockable != Some(false),
                    shown: touches,
                });
            }
            Probe::InvalidateEnd => {
                let open = self.open.entry(row.tid).or_default();
                if let Some(at) = open.iter().rposition(|open| open.range == row.range) {
                    open.truncate(at);
                }
            }
            Probe::Callback => {
                let inside = self.open.get(&row.tid).and_then(|open| open.last());
                let same = inside.is_some_and(|open| {
                    open.event == row.event && open.addresses == row.addresses()
                });
                let of = if same { String::new() } else { format!(" of {} {place}", name(row)) };
                let sub = row.sub.as_deref().unwrap_or("unknown");
                let text = if touches { format!("callback {sub}{of}{by}") } else { String::new() };
                self.called.entry(row.tid).or_default().push(text);
            }
            Probe::CallbackReturn => {
                let text = self.called.entry(row.tid).or_default().pop().unwrap_or_default();
                if !text.is_empty() {
                    let ret = row.ret.unwrap_or_default();
                    let said = if ret == 1 { String::new() } else { format!(" -> {ret}") };
                    self.callbacks.push(Line { depth, text: format!("{text}{said}") });
                }
                // An invalidation that may not block, and would have to, has no end.
                let open = self.open.entry(row.tid).or_default();
                if row.ret == Some(0) {
                    open.pop_if(|open| !open.blockable);
                }
            }
            Probe::Collect if touches => self.line(depth, &format!("collect {place}{by}"))?,
            Probe::MigrateSetup if touches => {
                self.line(depth, &format!("migrate_setup {place}{}{by}", about(row)))?;
            }
            Probe::MigrateFault if touches => self.line(depth, &format!("fault {place}{by}"))?,
            Probe::Insert => {
                let sub = row.sub.as_deref().unwrap_or("unknown");
                match row.ret {
                    None => self.line(depth, &format!("insert {sub} {place}{by}"))?,
                    Some(0) => {}
                    Some(ret) => self.line(depth, &format!("insert {sub} -> {ret}{by}"))?,
                }
            }
            Probe::Remove if row.ret.is_none() => {
                let sub = row.sub.as_deref().unwrap_or("unknown");
                self.line(depth, &format!("remove {sub}{by}"))?;
            }
            Probe::Release => {
                let mm = row.mm.as_deref().unwrap_or("mm?");
                self.line(depth, &format!("release {mm}{by}"))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The last row was pushed.
    ///
    /// # Errors
    /// When it cannot be written, or there was too much to be put in order.
    pub fn finish(mut self) -> io::Result<W> {
        self.settle_callbacks()?;
        self.end_step()?;
        self.out.flush()?;
        if self.unordered_overflow {
            return Err(io::Error::other("more than can be put in order"));
        }
        Ok(self.out)
    }

    fn line(&mut self, depth: usize, text: &str) -> io::Result<()> {
        let line = format!("{:width$}{text}\n", "", width = depth * 2);
        let Some(groups) = &mut self.groups else { return self.out.write_all(line.as_bytes()) };
        let full = groups.len() >= MOST_GROUPS;
        match groups.last_mut() {
            Some(group) if depth > 1 => group.push_str(&line),
            _ if full => self.unordered_overflow = true,
            _ => groups.push(line),
        }
        Ok(())
    }

    fn settle_callbacks(&mut self) -> io::Result<()> {
        let mut callbacks = std::mem::take(&mut self.callbacks);
        callbacks.sort_by(|a, b| a.text.cmp(&b.text));
        callbacks.iter().try_for_each(|Line { depth, text }| self.line(*depth, text))
    }

    fn end_step(&mut self) -> io::Result<()> {
        let Some(mut groups) = self.groups.take() else { return Ok(()) };
        groups.sort_by_cached_key(|group| order(group));
        groups.iter().try_for_each(|group| self.out.write_all(group.as_bytes()))
    }
}

/// By name and then by page, as a person would.
fn order(group: &str) -> (String, i64, String) {
    let (before, rest) = group.split_once('[').unwrap_or((group, ""));
    let page = rest.split("..").next().and_then(|page| page.parse().ok()).unwrap_or(0);
    (before.to_owned(), page, group.to_owned())
}

fn shown(open: &[Open]) -> usize {
    open.iter().filter(|open| open.shown).count()
}

fn name(row: &Row) -> &str {
    row.event.as_deref().unwrap_or("event?")
}

/// What else there is to say of a range: its owner, whose memory it is, and
/// whether callbacks may block.
fn about(row: &Row) -> String {
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
