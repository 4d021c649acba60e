//! A folded sequence as what can be drawn: events over the pages of their buffer,
//! and runs of them.

use serde::Serialize;

use super::words::Teller;
use super::{Fold, Kind, Node, Range, Run, Spread, Way};
use crate::trace::buffers::Buffers;

/// An event, or a run of what repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(in crate::trace) enum Item {
    /// An event.
    One(Event),
    /// What comes several times.
    Many {
        /// How often.
        count: u64,
        /// As it was the first time.
        unit: Vec<Item>,
        /// Where each of the unit was the last time.
        ways: Vec<To>,
    },
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::trace) struct Event {
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<String>,
    what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    about: String,
    #[serde(skip_serializing_if = "Place::is_nowhere")]
    at: Place,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    broken: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inside: Vec<Item>,
    /// How many more there were inside than are told.
    #[serde(skip_serializing_if = "is_zero")]
    more: u64,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    /// Pages of a buffer: its name, the first, the one behind the last.
    Pages(String, i64, i64),
    Everything,
    /// Memory that is no buffer.
    Other,
    #[serde(skip)]
    Nowhere,
}

/// How one of a unit goes on, and where it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::trace) struct To {
    /// `same`, `continues`, `scattered`.
    spread: &'static str,
    #[serde(skip_serializing_if = "Place::is_nowhere")]
    last: Place,
}

impl Place {
    fn is_nowhere(&self) -> bool {
        *self == Place::Nowhere
    }

    fn of(range: Option<Range>, buffers: &Buffers) -> Place {
        let Some(range) = range else { return Place::Nowhere };
        if Buffers::is_everything(range) {
            return Place::Everything;
        }
        match buffers.pages(range) {
            Some((name, first, behind)) => Place::Pages(name.to_owned(), first, behind),
            None => Place::Other,
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Item {
    /// How many events are drawn for it.
    pub(in crate::trace) fn drawn(&self) -> usize {
        match self {
            Item::One(event) => 1 + event.inside.iter().map(Item::drawn).sum::<usize>(),
            Item::Many { unit, .. } => unit.iter().map(Item::drawn).sum(),
        }
    }
}

impl Fold {
    /// Each item that can be drawn with what is told of it, and how many events
    /// found no room.
    pub(in crate::trace) fn drawn(&self, buffers: &Buffers) -> (Vec<(Item, Vec<String>)>, u64) {
        let teller = Teller { buffers };
        let items = self.items.iter();
        let items = items.map(|item| (draw(item, buffers), teller.about(item)));
        (items.collect(), self.more)
    }
}

fn draw(item: &super::Item, buffers: &Buffers) -> Item {
    match item {
        super::Item::One(node) => Item::One(event(node, buffers)),
        super::Item::Run(Run { unit, ways, count }) => Item::Many {
            count: *count,
            unit: unit.iter().map(|item| draw(item, buffers)).collect(),
            ways: ways.iter().map(|way| to(way, buffers)).collect(),
        },
    }
}

fn event(node: &Node, buffers: &Buffers) -> Event {
    Event {
        kind: node.kind,
        lane: node.lane.clone(),
        what: node.what.clone(),
        about: node.about.clone(),
        at: Place::of(node.range, buffers),
        broken: node.broken,
        inside: node.inside.items.iter().map(|item| draw(item, buffers)).collect(),
        more: node.inside.more,
    }
}

fn to(way: &Way, buffers: &Buffers) -> To {
    let spread = match way.spread {
        Spread::Same => "same",
        Spread::Continues => "continues",
        Spread::Scattered => "scattered",
    };
    To { spread, last: Place::of(way.last, buffers) }
}
