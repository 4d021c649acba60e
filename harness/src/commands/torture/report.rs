//! What the torture says: JSON on standard output.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::round::{Injury, Round};
use super::victim::End;

/// The report's schema.
const SCHEMA: &str = "hmm-harness/torture/1";

/// The report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    /// The seed of the first round.
    seed: u64,
    /// How many rounds were asked for.
    count: u64,
    /// How many there were, those that could not be had not counted.
    pub(super) rounds: u64,
    /// How many runs without an injury proved the store, all of them good.
    pub(super) clean_runs: u64,
    /// What the rounds took together, in seconds.
    #[serde(serialize_with = "short")]
    seconds: f64,
    /// And one of them, on average.
    #[serde(serialize_with = "short")]
    seconds_per_round: f64,
    /// What was done, and what was seen.
    injuries: BTreeMap<Injury, Tally>,
    /// Why some injuries could not be done on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) no_disk: Option<String>,
    /// Everything that was wrong.
    pub(super) violations: Vec<Violation>,
}

/// What came of one kind of injury.
#[derive(Debug, Default, Serialize)]
struct Tally {
    rounds: u64,
    /// How often it met a run that had not ended.
    hit: u64,
    /// How many rounds this machine could not have.
    unavailable: u64,
    /// How the runs ended that it met.
    ends: BTreeMap<String, u64>,
    violations: u64,
    #[serde(serialize_with = "short")]
    seconds: f64,
}

/// A round in which something was wrong.
#[derive(Debug, Serialize)]
pub(super) struct Violation {
    /// What.
    pub(super) what: Vec<String>,
    /// In which round, or after which.
    pub(super) round: Option<Round>,
    /// When the injury was due, in seconds from the start of the run; of an agent
    /// that dies, from its first order.
    #[serde(serialize_with = "short_if_any")]
    pub(super) at: Option<f64>,
    /// How the run ended.
    pub(super) end: End,
    /// The command that has the same round again.
    pub(super) again: Option<String>,
    /// Where what the run left was kept.
    pub(super) kept: PathBuf,
}

/// A round that is over.
pub(super) struct Outcome {
    /// Whether the injury met a run that had not ended.
    pub(super) hit: bool,
    /// How that ended.
    pub(super) end: End,
    /// Whether something was wrong.
    pub(super) wrong: bool,
    /// What the round took, in seconds.
    pub(super) seconds: f64,
}

impl Report {
    /// An empty one.
    pub(super) fn new(seed: u64, count: u64) -> Self {
        Report {
            schema: SCHEMA,
            seed,
            count,
            rounds: 0,
            clean_runs: 0,
            seconds: 0.0,
            seconds_per_round: 0.0,
            injuries: BTreeMap::new(),
            no_disk: None,
            violations: Vec::new(),
        }
    }

    /// Counts a round.
    pub(super) fn count(&mut self, injury: Injury, outcome: &Outcome) {
        self.rounds += 1;
        self.seconds += outcome.seconds;
        self.seconds_per_round = self.seconds / self.rounds as f64;
        let tally = self.injuries.entry(injury).or_default();
        tally.rounds += 1;
        tally.seconds += outcome.seconds;
        tally.hit += u64::from(outcome.hit);
        tally.violations += u64::from(outcome.wrong);
        if outcome.hit {
            *tally.ends.entry(outcome.end.to_string()).or_default() += 1;
        }
    }

    /// Counts a round that this machine cannot have.
    pub(super) fn unavailable(&mut self, injury: Injury) {
        self.injuries.entry(injury).or_default().unavailable += 1;
    }
}

/// Seconds without the digits that nobody measured.
fn short<S: serde::Serializer>(seconds: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((seconds * 100.0).round() / 100.0)
}

fn short_if_any<S: serde::Serializer>(seconds: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match seconds {
        Some(seconds) => short(seconds, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted_by_what_was_done() {
        let mut report = Report::new(1, 3);
        let outcome = Outcome { hit: true, end: End::Exit(0), wrong: false, seconds: 2.0 };
        report.count(Injury::KillQemu, &outcome);
        report.count(Injury::KillQemu, &Outcome { hit: false, seconds: 4.0, ..outcome });
        report.unavailable(Injury::RunDiskFull);
        let json = serde_json::to_value(&report).expect("it is data");
        assert_eq!(json["rounds"], 2);
        assert_eq!(json["seconds_per_round"], 3.0);
        assert_eq!(json["injuries"]["kill_qemu"]["hit"], 1);
        assert_eq!(json["injuries"]["kill_qemu"]["ends"]["exit 0"], 1);
        assert_eq!(json["injuries"]["run_disk_full"]["unavailable"], 1);
        assert_eq!(json["violations"].as_array().map(Vec::len), Some(0));
    }
}
