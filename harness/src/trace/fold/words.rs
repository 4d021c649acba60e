//! A folded sequence in words.

use super::{Fold, Item, Node, Range, Run, Spread, Way};
use crate::trace::buffers::{Buffers, PAGE};

/// The longest line on which what happened inside an event is told in a row.
const LINE: usize = 96;

/// The event that something happened in.
#[derive(Clone, Copy)]
struct Around {
    range: Option<Range>,
    /// Whether it stands for several, which lie elsewhere.
    many: bool,
}

/// What is said of an item, in parts that may be the same for its neighbours.
#[derive(Default)]
struct Phrase {
    name: String,
    place: String,
    about: String,
    each: String,
}

impl Fold {
    /// All of it, a line for each item and those below it for what is inside.
    pub(in crate::trace) fn lines(&self, buffers: &Buffers) -> Vec<String> {
        let mut lines = Vec::new();
        Teller { buffers }.lines(self, None, 0, &mut lines);
        lines
    }
}

pub(super) struct Teller<'a> {
    pub(super) buffers: &'a Buffers,
}

impl Teller<'_> {
    /// A single item, with what is inside.
    pub(super) fn about(&self, item: &Item) -> Vec<String> {
        let mut lines = vec![self.phrase(item, None).text()];
        self.inside(item, 2, &mut lines);
        lines
    }

    fn lines(&self, fold: &Fold, around: Option<Around>, depth: usize, lines: &mut Vec<String>) {
        let indent = " ".repeat(depth);
        for item in &fold.items {
            lines.push(format!("{indent}{}", self.phrase(item, around).text()));
            self.inside(item, depth + 2, lines);
        }
        if fold.more > 0 {
            lines.push(format!("{indent}... and {} more events", fold.more));
        }
    }

    fn inside(&self, item: &Item, depth: usize, lines: &mut Vec<String>) {
        let many = matches!(item, Item::Run(_));
        let nodes = nodes(item);
        for node in nodes.iter().filter(|node| !node.inside.is_empty()) {
            let around = Some(Around { range: node.range, many });
            let label = match (many, nodes.len()) {
                (false, _) => String::new(),
                (true, 1) => "each:".to_owned(),
                (true, _) => format!("each {}:", node.what),
            };
            let indent = " ".repeat(depth);
            let space = if many { " " } else { "" };
            let row = self.row(&node.inside, around);
            match row.filter(|row| indent.len() + label.len() + row.len() < LINE) {
                Some(row) => lines.push(format!("{indent}{label}{space}{row}")),
                None if many => {
                    lines.push(format!("{indent}{label}"));
                    self.lines(&node.inside, around, depth + 2, lines);
                }
                None => self.lines(&node.inside, around, depth, lines),
            }
        }
    }

    /// All on one line, if nothing has anything inside.
    fn row(&self, fold: &Fold, around: Option<Around>) -> Option<String> {
        let flat = |item: &Item| nodes(item).iter().all(|node| node.inside.is_empty());
        let items = &fold.items;
        let row = || items.iter().map(|item| self.phrase(item, around).text()).collect::<Vec<_>>();
        (fold.more == 0 && items.iter().all(flat)).then(|| row().join(", "))
    }

    fn place(&self, range: Option<Range>, around: Option<Around>) -> String {
        let Some(range) = range else { return String::new() };
        match around {
            Some(Around { range: Some(outer), .. }) if outer == range => String::new(),
            Some(Around { range: Some(outer), many: true })
                if outer.0 <= range.0
                    && range.1 <= outer.1
                    && outer.1.saturating_sub(outer.0) < 1 << 46 =>
            {
                let page = |address: u64| address.saturating_sub(outer.0) / PAGE;
                format!(" [{}..{}) of it", page(range.0), page(range.1))
            }
            _ => format!(" {}", self.buffers.place(range)),
        }
    }

    fn phrase(&self, item: &Item, around: Option<Around>) -> Phrase {
        match item {
            Item::One(node) => Phrase {
                name: if node.broken { format!("! {}", node.what) } else { node.what.clone() },
                place: self.place(node.range, around),
                about: node.about.clone(),
                each: String::new(),
            },
            Item::Run(Run { unit, ways, count }) => match (unit.as_slice(), ways.as_slice()) {
                ([one], [way]) => {
                    let phrase = self.on_its_way(one, *way, around);
                    Phrase { name: format!("{count} x {}", phrase.name), ..phrase }
                }
                _ => self.in_turns(unit, ways, *count, around),
            },
        }
    }

    /// An item that comes again and again.
    fn on_its_way(&self, item: &Item, way: Way, around: Option<Around>) -> Phrase {
        let phrase = self.phrase(item, around);
        let (first, last) = (item.range(), way.last);
        let each = pages(first).map(|pages| format!("{pages} each")).unwrap_or_default();
        match way.spread {
            Spread::Same => phrase,
            Spread::Continues => {
                let whole = first.zip(last).map(|(first, last)| (first.0, last.1));
                Phrase { place: self.place(whole, around), each, ..phrase }
            }
            Spread::Scattered => {
                let (first, last) = (self.place(first, around), self.place(last, around));
                let each = format!("{each}, first{first}, last{last}");
                Phrase { place: String::new(), each, ..phrase }
            }
        }
    }

    /// Several that take turns. What is the same for neighbours is said once.
    fn in_turns(&self, unit: &[Item], ways: &[Way], count: u64, around: Option<Around>) -> Phrase {
        let each_way = unit.iter().zip(ways);
        let mut phrases: Vec<Phrase> =
            each_way.map(|(item, way)| self.on_its_way(item, *way, around)).collect();
        for n in 1..phrases.len() {
            let (before, [next, ..]) = phrases.split_at_mut(n) else { continue };
            let Some(one) = before.last_mut() else { continue };
            // An owner is that of those before it, never of those behind.
            let about = one.about.is_empty() || one.about == next.about;
            if one.place == next.place && one.each == next.each && about && !one.place.is_empty() {
                *one = Phrase { name: std::mem::take(&mut one.name), ..Phrase::default() };
            }
        }
        let mut eaches = phrases.iter().map(|p| &p.each).filter(|each| !each.is_empty());
        let common = eaches.next().cloned().unwrap_or_default();
        let common = if eaches.all(|each| *each == common) { common } else { String::new() };
        let texts: Vec<String> = phrases
            .into_iter()
            .map(|phrase| match phrase.each == common {
                true => Phrase { each: String::new(), ..phrase }.text(),
                false => phrase.text(),
            })
            .collect();
        let name = format!("{count} x {}", texts.join(", "));
        Phrase { name, each: common, ..Phrase::default() }
    }
}

impl Phrase {
    fn text(self) -> String {
        let Phrase { name, place, about, each } = self;
        let comma = if each.is_empty() { "" } else { ", " };
        format!("{name}{place}{about}{comma}{each}")
    }
}

/// The events that an item is made of.
fn nodes(item: &Item) -> Vec<&Node> {
    match item {
        Item::One(node) => vec![node],
        Item::Run(run) => run.unit.iter().flat_map(nodes).collect(),
    }
}

fn pages(range: Option<Range>) -> Option<String> {
    let (start, end) = range?;
    let pages = end.checked_sub(start)? / PAGE;
    Some(format!("{pages} page{}", if pages == 1 { "" } else { "s" }))
}
