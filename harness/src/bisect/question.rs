//! What is asked of each kernel, and what its run says to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::results::{Results, Verdict};
use crate::stop::NOT_AS_EXPECTED;

/// What is asked of each kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The verdicts of tests, by their ids.
    Verdicts(Vec<String>),
    /// Which of two events an operation sends.
    Event {
        /// The operation: `to-device`.
        op: String,
        /// The event that it sends where it does not send the other.
        from: String,
        /// The other.
        to: String,
    },
    /// The canonical trace of a test, by its id.
    Trace(String),
    /// Whether the kernel complains with a title that has these words in it.
    Crash(String),
}

/// What a run has shown.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// Its results.
    pub results: &'a Results,
    /// The canonical traces that it has, by the ids of their tests: of each turn.
    pub canonical: BTreeMap<String, Vec<String>>,
}

/// What a kernel says to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// This.
    Is(String),
    /// Now this and now that.
    Flickers(String),
    /// Nothing, for this reason.
    Unknown(String),
}

impl Question {
    /// Reads `OP: A -> B`.
    ///
    /// # Errors
    /// What is wrong with it, as a phrase.
    pub fn event(text: &str) -> Result<Question, String> {
        let parts = text.split_once(':').and_then(|(op, rest)| {
            let (from, to) = rest.split_once("->")?;
            Some([op.trim(), from.trim(), to.trim()])
        });
        let Some([op, from, to]) = parts.filter(|parts| !parts.contains(&"")) else {
            return Err(format!("{text:?} is not of the form 'OP: A -> B'"));
        };
        let name = |event: &str| event.strip_prefix("MMU_NOTIFY_").unwrap_or(event).to_owned();
        if name(from) == name(to) {
            return Err(format!("{from} is no other event than {to}"));
        }
        Ok(Question::Event { op: op.to_owned(), from: name(from), to: name(to) })
    }

    /// What a run says to it.
    pub fn ask(&self, seen: &Seen<'_>) -> Answer {
        let results = seen.results;
        if let Question::Crash(words) = self
            && complains(results, words)
        {
            // Also where it cannot be judged: it may die of that while it boots.
            return Answer::Is("it complains".to_owned());
        }
        if results.exit_code > NOT_AS_EXPECTED {
            let reason = results.reason.clone().unwrap_or_default();
            let first = reason.lines().next().unwrap_or("it cannot be judged");
            return Answer::Unknown(first.to_owned());
        }
        match self {
            Question::Verdicts(ids) => verdicts(results, ids),
            Question::Event { op, from, to } => event(seen, op, from, to),
            Question::Trace(id) => trace(seen, id),
            Question::Crash(_) => Answer::Is("it does not".to_owned()),
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Verdicts(ids) => write!(f, "the verdict on {}", ids.join(", ")),
            Question::Event { op, from, to } => write!(f, "{op}: {from} -> {to}"),
            Question::Trace(id) => write!(f, "the canonical trace of {id}"),
            Question::Crash(words) => write!(f, "a complaint with {words:?} in it"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Is(what) => f.write_str(what),
            Answer::Flickers(what) => write!(f, "flickers: {what}"),
            Answer::Unknown(why) => write!(f, "cannot be judged: {why}"),
        }
    }
}

/// Whether a complaint of the kernel has these words in its title.
fn complains(results: &Results, words: &str) -> bool {
    let of_tests = results.tests.iter().flat_map(|test| &test.kernel_events);
    of_tests.chain(&results.kernel_events).any(|event| event.title.contains(words))
}

fn verdicts(results: &Results, ids: &[String]) -> Answer {
    let mut words = Vec::new();
    for id in ids {
        let Some(test) = results.tests.iter().find(|test| test.id == *id) else {
            let why = results.not_applicable.iter().find(|test| test.id == *id);
            let why = why.map_or("it did not run", |test| &test.reason);
            return Answer::Unknown(format!("{id}: {why}"));
        };
        if test.flaky {
            return Answer::Flickers(format!("{id}: {}", test.reason));
        }
        if test.verdict == Verdict::NotRun {
            return Answer::Unknown(format!("{id}: {}", test.reason));
        }
        words.push(match ids.len() {
            1 => test.verdict.to_string(),
            _ => format!("{id} {}", test.verdict),
        });
    }
    Answer::Is(words.join(", "))
}

fn event(seen: &Seen<'_>, op: &str, from: &str, to: &str) -> Answer {
    let turns = seen.canonical.values().map(Vec::len).max().unwrap_or_default();
    // What is sent in one turn is sent in each.
    let of = |turn: usize| -> BTreeSet<&str> {
        let traces = seen.canonical.values().filter_map(|traces| traces.get(turn));
        traces.flat_map(|canonical| events_of(canonical, op)).collect()
    };
    let events = of(0);
    if (1..turns).any(|turn| of(turn).contains(to) != events.contains(to)) {
        return Answer::Flickers(format!("{op} sends {to} now and then"));
    }
    if events.contains(to) {
        Answer::Is(to.to_owned())
    } else if events.contains(from) {
        Answer::Is(from.to_owned())
    } else if events.is_empty() {
        Answer::Unknown(format!("no whole trace has an event in {op}"))
    } else {
        let events: Vec<&str> = events.into_iter().collect();
        Answer::Unknown(format!("{op} sends {} only", events.join(", ")))
    }
}

/// The events that an operation sends about the buffers of a canonical trace.
fn events_of<'a>(canonical: &'a str, op: &str) -> Vec<&'a str> {
    let mut inside = false;
    let mut events = Vec::new();
    for line in canonical.lines() {
        let word = line.trim_start().split(' ').next().unwrap_or_default();
        if !line.starts_with(' ') {
            inside = word == op;
        } else if inside && word.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            events.push(word);
        }
    }
    events
}

fn trace(seen: &Seen<'_>, id: &str) -> Answer {
    let Some(test) = seen.results.tests.iter().find(|test| test.id == *id) else {
        return Answer::Unknown(format!("{id} did not run"));
    };
    let turns = seen.canonical.get(id).map_or(&[][..], Vec::as_slice);
    if turns.windows(2).any(|pair| pair[0] != pair[1]) {
        return Answer::Flickers(format!("{id}: its trace is not the same each time"));
    }
    match &test.trace.canonical_sha256 {
        Some(digest) => Answer::Is(digest.get(..12).unwrap_or(digest).to_owned()),
        None => {
            let why = test.trace.incomplete.as_deref().unwrap_or("nothing was traced");
            Answer::Unknown(format!("{id}: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_asked_for_as_people_write_it() {
        let question =
            Question::Event { op: "to-device".into(), from: "CLEAR".into(), to: "MIGRATE".into() };
        for text in
            ["to-device: CLEAR -> MIGRATE", "to-device:MMU_NOTIFY_CLEAR->MMU_NOTIFY_MIGRATE"]
        {
            assert_eq!(Question::event(text).as_ref(), Ok(&question));
        }
        assert_eq!(question.to_string(), "to-device: CLEAR -> MIGRATE");
        for text in ["CLEAR -> MIGRATE", "x: CLEAR", "x: -> CLEAR", ": A -> B", "x: A -> A"] {
            assert!(Question::event(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_operations_own_events_count() {
        let canonical = "to-device dmirror0 buffer[0..4)\n  migrate_setup buffer[0..4)\n  \
                         MIGRATE buffer[0..4)\n    callback dmirror0\n    CLEAR buffer[0..1)\n\
                         to-device-again\n  UNMAP buffer[0..1)\n";
        assert_eq!(events_of(canonical, "to-device"), ["MIGRATE", "CLEAR"]);
        assert_eq!(events_of(canonical, "cpu-read"), [""; 0]);
    }
}
