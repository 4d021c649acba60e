//! What a kernel sends in an operation of a trace, in one line, and what another one
//! sends otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is sent in all steps of an operation: `16 MIGRATE, 16 collect; 1c7b03f2`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sent {
    /// How often there is each kind of line.
    pub(crate) events: BTreeMap<String, u64>,
    /// The beginning of the SHA-256 of its part of the canonical form.
    pub(crate) digest: String,
}

impl Sent {
    /// What another kernel sends less of and what more, if it is not the same: CLEAR
    /// and MIGRATE.
    pub fn against(&self, other: &Sent) -> Option<(String, String)> {
        if self == other {
            return None;
        }
        let mut change = Difference::default();
        self.events.iter().for_each(|(event, n)| change.count(event, -signed(*n)));
        other.events.iter().for_each(|(event, n)| change.count(event, signed(*n)));
        Some(change.ends())
    }

    /// What is sent, without the digest.
    pub fn words(&self) -> String {
        let count = |(event, n): (&String, &u64)| format!("{n} {event}");
        self.events.iter().map(count).collect::<Vec<_>>().join(", ")
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.words(), self.digest)
    }
}

impl From<Sent> for String {
    fn from(sent: Sent) -> String {
        sent.to_string()
    }
}

impl FromStr for Sent {
    type Err = String;

    fn from_str(text: &str) -> Result<Sent, String> {
        let wrong = || format!("{text:?} is not of the form \"2 MIGRATE, 1 collect; 1c7b03f2\"");
        let (list, digest) = text.split_once("; ").ok_or_else(wrong)?;
        let event = |item: &str| {
            let (count, event) = item.split_once(' ')?;
            Some((event.to_owned(), count.parse().ok()?))
        };
        let events = list.split(", ").map(event).collect::<Option<_>>().ok_or_else(wrong)?;
        Ok(Sent { events, digest: digest.to_owned() })
    }
}

impl TryFrom<String> for Sent {
    type Error = String;

    fn try_from(text: String) -> Result<Sent, String> {
        text.parse()
    }
}

/// What differs in an operation: how much more often the second kernel sends each
/// event there than the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Difference(BTreeMap<String, i64>);

impl Difference {
    /// Takes in that there is so much more of an event.
    pub(crate) fn count(&mut self, event: &str, by: i64) {
        let more = self.0.entry(event.to_owned()).or_default();
        *more = more.saturating_add(by);
    }

    /// What there is less of, and what more.
    pub(crate) fn ends(&self) -> (String, String) {
        let those = |is: &dyn Fn(i64) -> bool| {
            let names = self.0.iter().filter(|(_, more)| is(**more)).map(|(name, _)| name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        (those(&|more| more < 0), those(&|more| more > 0))
    }

    /// Both, in words.
    pub(crate) fn words(&self) -> String {
        let (gone, new) = self.ends();
        otherwise(&gone, &new)
    }
}

/// What an operation sends less of and what more, in words: `CLEAR -> MIGRATE`.
pub fn otherwise(gone: &str, new: &str) -> String {
    match (gone, new) {
        ("", "") => "the same events, otherwise".to_owned(),
        ("", new) => format!("+ {new}"),
        (gone, "") => format!("- {gone}"),
        (gone, new) => format!("{gone} -> {new}"),
    }
}
