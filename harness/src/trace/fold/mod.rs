//! What repeats, told once: events of a trace become a sequence in which runs of
//! the same shape are one item.
//!
//! It folds while it grows, so a million events take no more room than what is
//! told of them. A run is of one event, or of several that come in turns: each
//! fault of a migration to memory is followed by its `migrate_setup` and its
//! MIGRATE.

mod drawn;
mod words;

use serde::Serialize;

pub(super) use drawn::Item as Drawing;

/// How many items of a sequence are told.
const MOST_ITEMS: usize = 512;

/// How many different events can take turns in a run.
const LONGEST_UNIT: usize = 8;

/// How many alike make a run whose ranges lie anywhere.
const SCATTERED: usize = 8;

/// A range of addresses: the first, and the one behind the last.
pub(super) type Range = (u64, u64);

/// What an event is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::trace) enum Kind {
    /// An invalidation.
    #[default]
    Invalidation,
    /// A callback of a subscription.
    Callback,
    /// A walk of the page table for a migration.
    Collect,
    /// A migration is set up.
    Setup,
    /// The CPU touched a page of the device.
    Fault,
    /// A subscription comes.
    Insert,
    /// A subscription goes.
    Remove,
    /// An address space goes.
    Release,
}

/// An event, with what happened inside it.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// The address space, or the subscription, that it happened to.
    pub(super) lane: Option<String>,
    /// `MIGRATE`, `callback dmirror0`.
    pub(super) what: String,
    /// ` owner dmirror0`, ` by child`.
    pub(super) about: String,
    /// What it is about.
    pub(super) range: Option<Range>,
    /// The buffer that this is in.
    pub(super) buffer: Option<String>,
    /// Whether a rule was broken by it.
    pub(super) broken: bool,
    /// What happened inside it.
    pub(super) inside: Fold,
}

/// A sequence of events, folded.
#[derive(Debug, Default)]
pub(super) struct Fold {
    items: Vec<Item>,
    /// How many events found no room.
    more: u64,
}

#[derive(Debug)]
enum Item {
    One(Box<Node>),
    Run(Run),
}

/// What comes several times.
#[derive(Debug)]
struct Run {
    /// As it was the first time.
    unit: Vec<Item>,
    /// Where each of the unit was the last time, and how it came there.
    ways: Vec<Way>,
    count: u64,
}

/// How the ranges of a run follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    last: Option<Range>,
    spread: Spread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spread {
    /// It is the same, or there is none.
    Same,
    /// Each begins where the one before ends.
    Continues,
    /// Anywhere.
    Scattered,
}

impl Fold {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn push(&mut self, node: Node) {
        if self.more > 0 {
            self.more += 1;
            return;
        }
        self.items.push(Item::One(Box::new(node)));
        while self.fold_tail() {}
        if self.items.len() > MOST_ITEMS {
            self.items.pop();
            self.more = 1;
        }
    }

    /// Folds what the last item has completed, if it has.
    fn fold_tail(&mut self) -> bool {
        (1..=LONGEST_UNIT).any(|length| self.extend(length) || self.begin(length)) || self.scatter()
    }

    /// The last items are the unit of the run before them once more.
    fn extend(&mut self, length: usize) -> bool {
        let Some(at) = self.items.len().checked_sub(length + 1) else { return false };
        let (before, tail) = self.items.split_at_mut(at + 1);
        let Item::Run(run) = &mut before[at] else { return false };
        if !alike(&run.unit, tail) {
            return false;
        }
        let ways: Vec<Way> = run.ways.iter().zip(&*tail).map(|(way, next)| way.on(next)).collect();
        // What has a place in a row is not made to have none by another row.
        let torn = |(old, new): (&Way, &Way)| {
            new.spread == Spread::Scattered && old.spread != Spread::Scattered
        };
        if run.ways.iter().zip(&ways).any(torn) {
            return false;
        }
        run.ways = ways;
        run.count += 1;
        self.items.truncate(at + 1);
        true
    }

    /// The last items are those before them once more.
    fn begin(&mut self, length: usize) -> bool {
        let Some(at) = self.items.len().checked_sub(2 * length) else { return false };
        let (first, second) = self.items[at..].split_at(length);
        if !alike(first, second) {
            return false;
        }
        let ways: Vec<Way> = first.iter().zip(second).map(|(a, b)| Way::between(a, b)).collect();
        let scattered = ways.iter().any(|way| way.spread == Spread::Scattered);
        // Of one kind they are no turns, and whether they lie anywhere shows later.
        if scattered && first.iter().all(|item| item.is_like(&first[0], None)) {
            return false;
        }
        let mut unit = self.items.split_off(at);
        unit.truncate(length);
        self.items.push(Item::Run(Run { unit, ways, count: 2 }));
        true
    }

    /// The last items are alike and lie anywhere.
    fn scatter(&mut self) -> bool {
        let Some(Item::One(last)) = self.items.last() else { return false };
        let Some(at) = self.items.len().checked_sub(SCATTERED) else { return false };
        let alike = self.items[at..].iter().all(|item| {
            item.count() < SCATTERED as u64
                && item.node().is_some_and(|node| node.is_like(last, None))
        });
        if !alike {
            return false;
        }
        let tail = self.items.split_off(at);
        let count = tail.iter().map(Item::count).sum();
        let last = tail.last().and_then(Item::range);
        let ways = vec![Way { last, spread: Spread::Scattered }];
        let unit = tail.into_iter().next().map(Item::into_unit).unwrap_or_default();
        self.items.push(Item::Run(Run { unit, ways, count }));
        true
    }
}

impl Item {
    /// The event that it is, or is a run of.
    fn node(&self) -> Option<&Node> {
        match self {
            Item::One(node) => Some(node),
            Item::Run(run) => match run.unit.as_slice() {
                [one] => one.node(),
                _ => None,
            },
        }
    }

    fn count(&self) -> u64 {
        match self {
            Item::One(_) => 1,
            Item::Run(run) => run.count,
        }
    }

    fn into_unit(self) -> Vec<Item> {
        match self {
            Item::One(_) => vec![self],
            Item::Run(run) => run.unit,
        }
    }

    /// What it is about as a whole.
    fn range(&self) -> Option<Range> {
        match self {
            Item::One(node) => node.range,
            Item::Run(run) => {
                let mut ranges = run.unit.iter().zip(&run.ways).filter_map(|(item, way)| {
                    let (first, last) = (item.range()?, way.last?);
                    Some((way.spread != Spread::Scattered).then_some((first.0, last.1)))
                });
                let first = ranges.next()??;
                ranges.all(|range| range == Some(first)).then_some(first)
            }
        }
    }

    fn is_like(&self, other: &Item, bases: Option<(u64, u64)>) -> bool {
        match (self, other) {
            (Item::One(a), Item::One(b)) => a.is_like(b, bases),
            (Item::Run(a), Item::Run(b)) => {
                let spreads = |run: &Run| run.ways.iter().map(|w| w.spread).collect::<Vec<_>>();
                a.count == b.count
                    && a.unit.len() == b.unit.len()
                    && spreads(a) == spreads(b)
                    && a.unit.iter().zip(&b.unit).all(|(a, b)| a.is_like(b, bases))
            }
            _ => false,
        }
    }
}

fn alike(a: &[Item], b: &[Item]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_like(b, None))
}

impl Node {
    /// Whether it has the same shape: all but where it lies. What is inside it
    /// must lie where it does in the other, counted from `bases`.
    fn is_like(&self, other: &Node, bases: Option<(u64, u64)>) -> bool {
        let pages = |range: Option<Range>| range.map(|(start, end)| end.wrapping_sub(start));
        let inside = self.range.zip(other.range).map(|(a, b)| (a.0, b.0));
        let moved = |(a, b): (u64, u64)| match (self.range, other.range) {
            (Some(own), Some(others)) => own.0.wrapping_sub(a) == others.0.wrapping_sub(b),
            _ => true,
        };
        self.what == other.what
            && self.lane == other.lane
            && self.about == other.about
            && self.buffer == other.buffer
            && self.broken == other.broken
            && pages(self.range) == pages(other.range)
            && bases.is_none_or(moved)
            && self.inside.more == other.inside.more
            && self.inside.items.len() == other.inside.items.len()
            && self.inside.items.iter().zip(&other.inside.items).all(|(a, b)| a.is_like(b, inside))
    }
}

impl Way {
    /// From the first time to the second.
    fn between(first: &Item, second: &Item) -> Way {
        let (from, to) = (first.range(), second.range());
        let spread = if from == to {
            Spread::Same
        } else if continues(from, to) {
            Spread::Continues
        } else {
            Spread::Scattered
        };
        Way { last: to, spread }
    }

    /// On to the next time.
    fn on(self, next: &Item) -> Way {
        let to = next.range();
        let spread = match self.spread {
            Spread::Same if self.last == to => Spread::Same,
            Spread::Continues if continues(self.last, to) => Spread::Continues,
            _ => Spread::Scattered,
        };
        Way { last: to, spread }
    }
}

fn continues(from: Option<Range>, to: Option<Range>) -> bool {
    from.zip(to).is_some_and(|(from, to)| from.1 == to.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::buffers::Buffers;

    const BASE: u64 = 0x10000;

    fn event(what: &str, pages: std::ops::Range<u64>) -> Node {
        let range = Some((BASE + pages.start * 4096, BASE + pages.end * 4096));
        Node { what: what.into(), range, buffer: Some("buffer".into()), ..Node::default() }
    }

    fn with(mut node: Node, inside: impl IntoIterator<Item = Node>) -> Node {
        inside.into_iter().for_each(|inner| node.inside.push(inner));
        node
    }

    #[track_caller]
    fn check(nodes: impl IntoIterator<Item = Node>, lines: &[&str]) {
        let mut fold = Fold::default();
        nodes.into_iter().for_each(|node| fold.push(node));
        assert_eq!(fold.lines(&Buffers::one("buffer", BASE, 1 << 20)), lines);
    }

    #[test]
    fn what_goes_on_where_it_ended_is_one_line() {
        let migrate = |n: u64| {
            let at = n * 64..n * 64 + 64;
            let node = Node { about: " owner dmirror0".into(), ..event("MIGRATE", at.clone()) };
            with(node, [event("callback dmirror0", at.clone()), event("collect", at)])
        };
        check(
            (0..16).map(migrate),
            &[
                "16 x MIGRATE buffer[0..1024) owner dmirror0, 64 pages each",
                "  each: callback dmirror0, collect",
            ],
        );
        check(
            (0..1).map(migrate),
            &["MIGRATE buffer[0..64) owner dmirror0", "  callback dmirror0, collect"],
        );
    }

    #[test]
    fn what_takes_turns_is_one_line_too() {
        let owned = |node: Node| Node { about: " owner dmirror0".into(), ..node };
        let turn = |n: u64| {
            let at = n..n + 1;
            [
                event("fault", at.clone()),
                owned(event("migrate_setup", at.clone())),
                owned(with(event("MIGRATE", at.clone()), [event("collect", at.clone())])),
                event("CLEAR", at.clone()),
                event("CLEAR", at),
            ]
        };
        check(
            (0..512).flat_map(turn),
            &[
                "512 x fault, migrate_setup, MIGRATE buffer[0..512) owner dmirror0, \
                 2 x CLEAR buffer[0..512), 1 page each",
                "  each MIGRATE: collect",
            ],
        );
    }

    #[test]
    fn a_row_that_breaks_off_begins_another() {
        check(
            (0..4).chain(9..12).map(|n| event("CLEAR", n..n + 1)),
            &["4 x CLEAR buffer[0..4), 1 page each", "3 x CLEAR buffer[9..12), 1 page each"],
        );
        check((0..3).map(|_| event("CLEAR", 2..3)), &["3 x CLEAR buffer[2..3)"]);
        check(
            [event("CLEAR", 2..3), event("CLEAR", 0..2)],
            &["CLEAR buffer[2..3)", "CLEAR buffer[0..2)"],
        );
    }

    #[test]
    fn what_lies_anywhere_is_told_by_its_first_and_last() {
        let jump = |n: u64| n * 7 % 512;
        check(
            (0..512).map(|n| event("collect", jump(n)..jump(n) + 1)),
            &["512 x collect, 1 page each, first buffer[0..1), last buffer[505..506)"],
        );
    }

    #[test]
    fn one_that_is_not_like_the_others_stands_out() {
        let clear = |n: u64| {
            let inside = (n != 3).then(|| event("callback dmirror0", n..n + 1));
            with(event("CLEAR", n..n + 1), inside)
        };
        check(
            (0..8).map(clear),
            &[
                "3 x CLEAR buffer[0..3), 1 page each",
                "  each: callback dmirror0",
                "CLEAR buffer[3..4)",
                "4 x CLEAR buffer[4..8), 1 page each",
                "  each: callback dmirror0",
            ],
        );
        let broken = |n: u64| Node { broken: n == 1, ..event("CLEAR", n..n + 1) };
        check(
            (0..3).map(broken),
            &["CLEAR buffer[0..1)", "! CLEAR buffer[1..2)", "CLEAR buffer[2..3)"],
        );
    }

    #[test]
    fn a_million_events_without_any_order_take_little_room() {
        let mut fold = Fold::default();
        for n in 0..1_000_000_u64 {
            fold.push(event("CLEAR", n..n + 1 + n * n % 13));
        }
        assert!(fold.items.len() <= MOST_ITEMS);
        let lines = fold.lines(&Buffers::one("buffer", BASE, 1 << 20));
        assert!(lines.last().is_some_and(|line| line.starts_with("... and ")));
    }
}
