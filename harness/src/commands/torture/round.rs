//! What is done in a round: chosen from its seed alone, so that a round can be
//! had again.

use std::time::Duration;

use hmm_protocol::catalogue::{self, LONGEST};
use serde::Serialize;

use crate::image::Rootfs;
use crate::plan::Isolate;

/// The test that the planted bug makes fail, on both kinds of device memory.
pub(super) const CULPRIT: &str = "hmm.migrate_fault";

/// What is done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Injury {
    /// A QEMU is killed.
    KillQemu,
    /// A QEMU stands still and never goes on.
    StopQemu,
    /// PID 1 of the guest exits.
    AgentDies,
    /// The harness is killed.
    KillHarness,
    /// The harness is asked to end.
    TermHarness,
    /// What stands between the harness and a QEMU is killed.
    KillKeeper,
    /// The disk of the run directory is full.
    RunDiskFull,
    /// The disk of the store is full before it has all that a run puts there.
    StoreDiskFull,
}

impl Injury {
    /// All of them, each with its share of the rounds. A QEMU that stands still
    /// costs the longest of deadlines, so there are few of these.
    pub(super) const ALL: [(Injury, u64); 8] = [
        (Injury::KillQemu, 4),
        (Injury::StopQemu, 1),
        (Injury::AgentDies, 3),
        (Injury::KillHarness, 5),
        (Injury::TermHarness, 4),
        (Injury::KillKeeper, 3),
        (Injury::RunDiskFull, 3),
        (Injury::StoreDiskFull, 2),
    ];

    /// Whether it needs a small disk of its own.
    pub(super) fn needs_disk(self) -> bool {
        matches!(self, Injury::RunDiskFull | Injury::StoreDiskFull)
    }

    /// The word for it, as in the report.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Injury::KillQemu => "kill_qemu",
            Injury::StopQemu => "stop_qemu",
            Injury::AgentDies => "agent_dies",
            Injury::KillHarness => "kill_harness",
            Injury::TermHarness => "term_harness",
            Injury::KillKeeper => "kill_keeper",
            Injury::RunDiskFull => "run_disk_full",
            Injury::StoreDiskFull => "store_disk_full",
        }
    }
}

/// What the time depends on that a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Shape {
    /// Whether each test has a VM of its own.
    pub(super) isolated: bool,
    /// Whether every VM boots.
    pub(super) no_snapshot: bool,
}

impl Shape {
    /// All of them.
    pub(super) const ALL: [Shape; 4] = [
        Shape { isolated: false, no_snapshot: false },
        Shape { isolated: false, no_snapshot: true },
        Shape { isolated: true, no_snapshot: false },
        Shape { isolated: true, no_snapshot: true },
    ];
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Run {
    /// Whether the kernel has the planted bug.
    pub(super) planted: bool,
    /// How its VMs start.
    #[serde(flatten)]
    pub(super) shape: Shape,
    /// How many VMs run tests at the same time.
    pub(super) jobs: u32,
    /// The guest's root.
    pub(super) rootfs: Rootfs,
    /// The tests, the culprit among them.
    pub(super) tests: Vec<String>,
}

impl Run {
    /// A run of a kernel without a bug, in the way that most people run it.
    pub(super) fn clean(shape: Shape) -> Self {
        let tests = ["hmm.open_close", CULPRIT, "hmm.migrate", "hmm.anon_read"];
        let tests = tests.map(|name| format!("{name}.private")).to_vec();
        Run { planted: false, shape, jobs: 2, rootfs: Rootfs::Virtme, tests }
    }

    /// Its options, but for paths.
    pub(super) fn words(&self) -> Vec<String> {
        let isolate = if self.shape.isolated { Isolate::Vm } else { Isolate::Process };
        let isolate = match isolate {
            Isolate::Vm => "vm",
            Isolate::Process => "process",
        };
        // A short deadline, since a QEMU that stands still costs all of it.
        let mut words: Vec<String> =
            ["run-kernel-tests", "--timeout", "2s", "--isolate", isolate].map(Into::into).to_vec();
        words.extend(["--rootfs".into(), self.rootfs.as_str().into()]);
        words.extend(["--jobs".into(), self.jobs.to_string()]);
        if self.shape.no_snapshot {
            words.push("--no-snapshot".into());
        }
        words.extend(self.tests.iter().flat_map(|id| ["--test".to_owned(), id.clone()]));
        words
    }
}

/// A round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Round {
    /// What it was chosen from.
    pub(super) seed: u64,
    /// What is done.
    pub(super) injury: Injury,
    /// When, as a part of the time that such a run takes.
    pub(super) moment: f64,
    /// Whether images and saved guests of earlier runs are thrown away before.
    pub(super) cold: bool,
    /// To what it is done.
    pub(super) run: Run,
    /// Chooses among several processes that could be meant.
    pub(super) which: u64,
    /// Whether a disk that was filled soon has room again.
    pub(super) passing: bool,
    /// The size of the disk, where it needs one, in KiB.
    pub(super) disk_kib: u64,
}

impl Round {
    /// The round of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let injury = {
            let all: u64 = Injury::ALL.iter().map(|(_, share)| share).sum();
            let mut left = dice.below(all);
            let found = Injury::ALL.iter().find(|(_, share)| {
                let found = left < *share;
                left = left.saturating_sub(*share);
                found
            });
            found.expect("the number is below the sum of the shares").0
        };
        let moment = dice.part();
        let planted = dice.below(2) == 0;
        let cold = dice.below(4) == 0;
        let isolated = dice.below(3) == 0;
        let no_snapshot = dice.below(4) == 0;
        let jobs = if dice.below(2) == 0 { 1 } else { 2 };
        let rootfs = if dice.below(3) == 0 { Rootfs::Initramfs } else { Rootfs::Virtme };

        let mut others: Vec<String> = catalogue::all()
            .iter()
            .filter(|test| test.name != CULPRIT && !LONGEST.contains(&test.name))
            .map(ToString::to_string)
            .collect();
        let mut tests = Vec::new();
        for _ in 0..2 + dice.below(4) {
            tests.push(others.swap_remove(dice.index(others.len())));
        }
        let device = if dice.below(2) == 0 { "private" } else { "coherent" };
        tests.insert(dice.index(tests.len() + 1), format!("{CULPRIT}.{device}"));

        let which = dice.next();
        // Room for nothing, for an image, for a part of a saved guest or for all.
        let room = if dice.below(3) == 0 { dice.below(8 << 10) } else { dice.below(96 << 10) };
        let shape = Shape { isolated, no_snapshot };
        let mut round = Round {
            seed,
            injury,
            moment,
            cold,
            run: Run { planted, shape, jobs, rootfs, tests },
            which,
            passing: which.is_multiple_of(2),
            disk_kib: 32 << 10,
        };
        if injury == Injury::StoreDiskFull {
            // Its store is new and on that disk.
            (round.cold, round.disk_kib) = (true, room + 4);
            round.run.shape.no_snapshot = false;
        }
        round
    }

    /// When it is to happen in a run that takes `whole`.
    pub(super) fn at(&self, whole: Duration) -> Duration {
        whole.mul_f64(self.moment)
    }
}

/// Numbers that look random and are the same again from the same seed:
/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; that some come up a little more often than others
    /// does not matter here.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("it is below a length")
    }

    /// A number from 0 to 1.
    fn part(&mut self) -> f64 {
        self.below(1 << 20) as f64 / f64::from(1u32 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_seed_gives_the_same_round_again() {
        for seed in [0, 1, 2, u64::MAX] {
            assert_eq!(Round::of(seed), Round::of(seed));
        }
        assert_ne!(Round::of(1), Round { seed: 1, ..Round::of(2) });
    }

    #[test]
    fn every_round_can_be_run_and_has_the_culprit_in_it() {
        let known: Vec<String> = catalogue::all().iter().map(ToString::to_string).collect();
        for round in (0..500).map(Round::of) {
            let mut tests = round.run.tests.clone();
            assert!((3..=6).contains(&tests.len()), "{round:?}");
            assert!(tests.iter().all(|id| known.contains(id)), "{round:?}");
            assert_eq!(tests.iter().filter(|id| id.starts_with(CULPRIT)).count(), 1);
            tests.sort();
            tests.dedup();
            assert_eq!(tests.len(), round.run.tests.len(), "one is there twice: {round:?}");
            assert!((0.0..1.0).contains(&round.moment));
        }
        for shape in Shape::ALL {
            assert!(Run::clean(shape).tests.iter().all(|id| known.contains(id)));
        }
    }

    #[test]
    fn all_injuries_have_their_share() {
        let mut counts: BTreeMap<Injury, u64> = BTreeMap::new();
        for round in (0..5000).map(Round::of) {
            *counts.entry(round.injury).or_default() += 1;
        }
        for (injury, share) in Injury::ALL {
            let expect = share * 200;
            let count = counts[&injury];
            assert!(count.abs_diff(expect) < expect / 3, "{injury:?}: {count} of about {expect}");
        }
    }
}
