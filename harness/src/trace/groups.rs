//! The rows of a step as events that lie in each other: what a thread does
//! between the start and the end of an invalidation happened inside it.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::buffers::Buffers;
use super::canonical::{about, name};
use super::fold::{Fold, Kind, Node};
use super::row::{Probe, Row};

/// How many events may wait for an earlier one to end, to be told after it.
const MOST_WAITING: usize = 1 << 10;

/// How many threads are told of, and how deep they are in invalidations and
/// callbacks. An honest test has some dozens.
const MOST_THREADS: usize = 1 << 8;
const DEEPEST: usize = 16;

/// What happened in a step, as far as it goes.
#[derive(Default)]
pub(super) struct Groups {
    /// What touches a buffer.
    pub(super) shown: Fold,
    /// What does not, one by one.
    pub(super) other: Fold,
    /// How many rows that are.
    pub(super) other_rows: u64,
    /// Events in the order in which they began; those without one go on.
    waiting: VecDeque<(u64, Option<Node>)>,
    threads: HashMap<u32, Vec<Open>>,
    calls: HashMap<u32, Vec<Option<Node>>>,
    /// Rows by which rules were broken.
    broken: BTreeSet<u64>,
    /// By whom the step is done; what others do is said to be by them.
    doer: Option<u32>,
    /// The address space of each process, as its last invalidation said.
    spaces: HashMap<u32, String>,
}

/// An invalidation that goes on.
struct Open {
    range: Option<String>,
    event: Option<String>,
    addresses: Option<(u64, u64)>,
    blockable: bool,
    /// Where it is among what waits: the row with which it began.
    seq: Option<u64>,
    /// Nothing if it touches no buffer.
    node: Option<Node>,
}

impl Groups {
    /// Events of the rows `broken` are marked.
    pub(super) fn new(broken: BTreeSet<u64>) -> Self {
        Groups { broken, ..Groups::default() }
    }

    /// The next step begins. What goes on is told as far as it came, and from
    /// here on as another event.
    pub(super) fn next_step(&mut self, row: &Row) {
        self.doer = Some(row.tid);
        (self.shown, self.other, self.other_rows) = Default::default();
    }

    /// Takes a row that is no step.
    pub(super) fn push(&mut self, row: &Row, buffers: &Buffers) {
        let touches = row.addresses().is_some_and(|range| buffers.touch(range));
        if self.is_too_much(row) {
            self.leave_out(None);
            return;
        }
        self.learn_space(row);
        match row.probe {
            Probe::Step => {}
            Probe::InvalidateStart => {
                let about = self.about(row, true);
                let node = Node { about, ..self.node(row, name(row), buffers) };
                let outermost = !self.threads.get(&row.tid).is_some_and(|open| shown(open));
                if touches && outermost {
                    self.wait(row.seq, None);
                }
                let node = if touches { Some(node) } else { self.leave_out(Some(node)) };
                self.threads.entry(row.tid).or_default().push(Open {
                    range: row.range.clone(),
                    event: row.event.clone(),
                    addresses: row.addresses(),
                    blockable: row.blockable != Some(false),
                    seq: (touches && outermost).then_some(row.seq),
                    node,
                });
            }
            Probe::InvalidateEnd => {
                if !touches {
                    self.leave_out(None);
                }
                let own = |open: &Open| open.range == row.range;
                let open = self.threads.entry(row.tid).or_default();
                let marked = self.broken.contains(&row.seq);
                if let Some(at) = open.iter().rposition(own) {
                    if let Some(node) = open[at].node.as_mut().filter(|_| marked) {
                        node.broken = true;
                    }
                    let depth = open.len() - at;
                    (0..depth).for_each(|_| self.close(row.tid, row.seq));
                } else if touches {
                    let what = format!("{} ends and never began", name(row));
                    let node = self.node(row, &what, buffers);
                    self.add(row, node);
                }
            }
            Probe::Callback => {
                let inside = self.threads.get(&row.tid).and_then(|open| open.last());
                let same = inside.is_some_and(|open| {
                    open.event == row.event && open.addresses == row.addresses()
                });
                let of = if same { String::new() } else { format!(" of {}", name(row)) };
                let sub = row.sub.as_deref().unwrap_or("unknown");
                let node = self.node(row, &format!("callback {sub}{of}"), buffers);
                let node = if touches { Some(node) } else { self.leave_out(None) };
                self.calls.entry(row.tid).or_default().push(node);
            }
            Probe::CallbackReturn => {
                match self.calls.get_mut(&row.tid).and_then(Vec::pop) {
                    Some(Some(mut node)) => {
                        let ret = row.ret.unwrap_or_default();
                        if ret != 1 {
                            node.what.push_str(&format!(" -> {ret}"));
                        }
                        self.add(row, node);
                    }
                    _ => drop(self.leave_out(None)),
                }
                // An invalidation that may not block, and would have to, has no end.
                let open = self.threads.get(&row.tid).and_then(|open| open.last());
                if row.ret == Some(0) && open.is_some_and(|open| !open.blockable) {
                    self.close(row.tid, row.seq);
                }
            }
            Probe::Collect | Probe::MigrateSetup | Probe::MigrateFault => {
                let what = match row.probe {
                    Probe::Collect => "collect",
                    Probe::MigrateSetup => "migrate_setup",
                    _ => "fault",
                };
                let about = self.about(row, row.probe == Probe::MigrateSetup);
                let node = Node { about, ..self.node(row, what, buffers) };
                if touches {
                    self.add(row, node);
                } else {
                    self.leave_out(Some(node));
                }
            }
            Probe::Insert | Probe::Remove => {
                let word = if row.probe == Probe::Insert { "insert" } else { "remove" };
                let sub = row.sub.as_deref().unwrap_or("unknown");
                let what = match row.ret {
                    None => format!("{word} {sub}"),
                    Some(0) => return,
                    Some(ret) => format!("{word} {sub} -> {ret}"),
                };
                let node = self.node(row, &what, buffers);
                self.add(row, node);
            }
            Probe::Release => {
                let mm = row.mm.as_deref().unwrap_or("mm?");
                let node = self.node(row, &format!("release {mm}"), buffers);
                self.add(row, node);
            }
        }
    }

    /// Remembers the address space of a process that says who it is.
    fn learn_space(&mut self, row: &Row) {
        let Some(mm) = &row.mm else { return };
        let known = self.spaces.get(&row.tgid);
        let room = known.is_some() || self.spaces.len() < MOST_THREADS;
        if row.tgid != 0 && room && known != Some(mm) {
            self.spaces.insert(row.tgid, mm.clone());
        }
    }

    /// Whether there is no room for what the row begins.
    fn is_too_much(&self, row: &Row) -> bool {
        let full = |threads: usize, inside: Option<usize>| match inside {
            Some(depth) => depth >= DEEPEST,
            None => threads >= MOST_THREADS,
        };
        match row.probe {
            Probe::InvalidateStart => {
                full(self.threads.len(), self.threads.get(&row.tid).map(Vec::len))
            }
            Probe::Callback => full(self.calls.len(), self.calls.get(&row.tid).map(Vec::len)),
            _ => false,
        }
    }

    /// The step is over.
    pub(super) fn end_step(&mut self) {
        let tids: Vec<u32> = self.threads.keys().copied().collect();
        for tid in tids {
            self.interrupt(tid);
        }
        for (_, node) in std::mem::take(&mut self.waiting) {
            node.into_iter().for_each(|node| self.shown.push(node));
        }
    }

    /// Tells what a thread is in as far as it came.
    fn interrupt(&mut self, tid: u32) {
        let open = self.threads.remove(&tid).unwrap_or_default();
        let mut rest = Vec::new();
        let mut inner: Option<Node> = None;
        for mut open in open.into_iter().rev() {
            if let Some(mut node) = open.node.take() {
                let again = Node {
                    kind: node.kind,
                    lane: node.lane.clone(),
                    what: node.what.clone(),
                    about: node.about.clone(),
                    range: node.range,
                    buffer: node.buffer.clone(),
                    broken: false,
                    inside: Fold::default(),
                };
                inner.take().into_iter().for_each(|inner| node.inside.push(inner));
                let news = open.seq.is_some() || !node.inside.is_empty();
                node.about.push_str(", goes on");
                match open.seq.take() {
                    Some(seq) => self.fill(seq, node),
                    None => inner = news.then_some(node),
                }
                open.node = Some(again);
            }
            rest.push(open);
        }
        inner.into_iter().for_each(|node| self.shown.push(node));
        rest.reverse();
        self.threads.insert(tid, rest);
    }

    /// The innermost invalidation of a thread has ended.
    fn close(&mut self, tid: u32, seq: u64) {
        let Some(open) = self.threads.get_mut(&tid).and_then(Vec::pop) else { return };
        let Some(node) = open.node else { return };
        let outer = self.threads.get_mut(&tid).and_then(|open| innermost(open));
        match (open.seq, outer) {
            (Some(seq), _) => self.fill(seq, node),
            (None, Some(outer)) => outer.inside.push(node),
            // It began in an earlier step, and there it was told.
            (None, None) if node.inside.is_empty() => {}
            (None, None) => self.wait(seq, Some(node)),
        }
    }

    /// An event that has nothing inside.
    fn add(&mut self, row: &Row, node: Node) {
        match self.threads.get_mut(&row.tid).and_then(|open| innermost(open)) {
            Some(outer) => outer.inside.push(node),
            None => self.wait(row.seq, Some(node)),
        }
    }

    fn wait(&mut self, seq: u64, node: Option<Node>) {
        self.waiting.push_back((seq, node));
        self.settle();
    }

    fn fill(&mut self, seq: u64, node: Node) {
        match self.waiting.iter_mut().find(|(of, node)| *of == seq && node.is_none()) {
            Some((_, place)) => *place = Some(node),
            None => self.waiting.push_back((seq, Some(node))),
        }
        self.settle();
    }

    fn settle(&mut self) {
        while self.waiting.front().is_some_and(|(_, node)| node.is_some())
            || self.waiting.len() > MOST_WAITING
        {
            let node = self.waiting.pop_front().and_then(|(_, node)| node);
            node.into_iter().for_each(|node| self.shown.push(node));
        }
    }

    /// Nothing of it is told where anything else can be.
    fn leave_out(&mut self, node: Option<Node>) -> Option<Node> {
        self.other_rows += 1;
        node.into_iter().for_each(|node| self.other.push(node));
        None
    }

    fn node(&self, row: &Row, what: &str, buffers: &Buffers) -> Node {
        let kind = match row.probe {
            Probe::InvalidateStart | Probe::InvalidateEnd | Probe::Step => Kind::Invalidation,
            Probe::Callback | Probe::CallbackReturn => Kind::Callback,
            Probe::Collect => Kind::Collect,
            Probe::MigrateSetup => Kind::Setup,
            Probe::MigrateFault => Kind::Fault,
            Probe::Insert => Kind::Insert,
            Probe::Remove => Kind::Remove,
            Probe::Release => Kind::Release,
        };
        let lane = match kind {
            Kind::Callback | Kind::Insert | Kind::Remove => row.sub.as_ref(),
            _ => row.mm.as_ref().or_else(|| self.spaces.get(&row.tgid)),
        };
        Node {
            kind,
            lane: lane.cloned(),
            what: what.to_owned(),
            about: self.about(row, false),
            range: row.addresses(),
            buffer: row.addresses().and_then(|range| buffers.name(range)).map(str::to_owned),
            broken: self.broken.contains(&row.seq),
            inside: Fold::default(),
        }
    }

    /// What the row says beside its range, and who did it if that is not who does
    /// the step.
    fn about(&self, row: &Row, with_owner: bool) -> String {
        let mut text = if with_owner { about(row) } else { String::new() };
        if self.doer != Some(row.tid) {
            text.push_str(&format!(" by {}", row.role));
        }
        text
    }
}

fn shown(open: &[Open]) -> bool {
    open.iter().any(|open| open.node.is_some())
}

fn innermost(open: &mut [Open]) -> Option<&mut Node> {
    open.iter_mut().rev().find_map(|open| open.node.as_mut())
}
