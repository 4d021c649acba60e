//! What is wrong with what an injured run said and left: nothing, if it saw
//! through the injury.
//!
//! Pure, like the judge of a run: all that was seen comes in.

use std::collections::BTreeSet;

use super::round::{CULPRIT, Injury, Round};
use super::victim::End;
use crate::events::{Event, Record};
use crate::flow::Stage;
use crate::results::{Results, RunOutcome, Verdict};
use crate::stop;

use hmm_protocol::wire::{GuestMessage, Outcome};

/// What the kernel says of an agent that died.
pub(super) const INIT_DIED: &str = "Attempted to kill init!";

/// What whoever meets a full disk is told by the system.
const DISK_FULL: &str = "No space left on device";

/// The reason of a run whose harness was killed.
const IN_THE_MIDDLE: &str = "the harness ended in the middle of the run";

/// `results.json` as it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Written {
    /// There is none.
    Absent,
    /// It cannot be read.
    Broken(String),
    /// It is whole.
    Whole(Box<Results>),
}

impl Written {
    fn whole(&self) -> Option<&Results> {
        match self {
            Written::Whole(results) => Some(results),
            Written::Absent | Written::Broken(_) => None,
        }
    }
}

/// What the events of a run prove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proof {
    /// Whether the run came to its end.
    pub(super) complete: bool,
    /// The planned tests.
    pub(super) planned: Vec<String>,
    /// The tests of which the agent said that they passed.
    pub(super) passed: BTreeSet<String>,
}

impl Proof {
    /// What can be seen in `records`.
    pub(super) fn of(records: &[Record]) -> Self {
        let mut proof = Proof::default();
        for record in records {
            match &record.event {
                Event::StageFinished { stage: Stage::Run, .. } => proof.complete = true,
                Event::Planned { tests, .. } => proof.planned.clone_from(tests),
                Event::Frame { sealed, .. } => {
                    if let GuestMessage::Finished { id, outcome: Outcome::Passed, .. } =
                        &sealed.message
                    {
                        proof.passed.insert(id.clone());
                    }
                }
                _ => {}
            }
        }
        proof
    }
}

/// What a round left.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// How the harness ended.
    pub(super) end: End,
    /// Whether the injury met a run that had not ended.
    pub(super) hit: bool,
    /// What it wrote of its judgement.
    pub(super) results: Written,
    /// What its directory is judged to be, or why it cannot be judged; `None`
    /// where no run had begun.
    pub(super) again: Option<Result<Results, String>>,
    /// What its events prove.
    pub(super) proof: Proof,
    /// What it said to the person at the terminal.
    pub(super) output: String,
    /// Processes that outlived it.
    pub(super) left: Vec<String>,
    /// What is wrong with its store, and with its directory.
    pub(super) faults: Vec<String>,
}

/// Everything that is wrong.
pub(super) fn violations(round: &Round, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    if !allowed(round, seen).contains(&seen.end) {
        let hit = if seen.hit { "" } else { ", which came too late" };
        wrong.push(format!("{} after {}{hit}", seen.end, round.injury.as_str()));
    }
    if let Written::Broken(why) = &seen.results {
        wrong.push(format!("results.json is half written: {why}"));
    }
    if let Some(results) = seen.results.whole() {
        wrong.extend(false_passes(round, results, &seen.proof, "results.json"));
    }
    if let Some(Ok(results)) = &seen.again {
        wrong.extend(false_passes(round, results, &seen.proof, "judged again"));
    }
    wrong.extend(disagreements(seen));
    wrong.extend(unsaid(round, seen));
    wrong.extend(seen.left.iter().map(|process| format!("outlived the run: {process}")));
    wrong.extend(seen.faults.iter().cloned());
    wrong
}

/// How a run may end to which this was done.
fn allowed(round: &Round, seen: &Seen) -> Vec<End> {
    const SIGKILL: End = End::Signal(nix::libc::SIGKILL);
    const SIGTERM: End = End::Signal(nix::libc::SIGTERM);
    let red = End::Exit(stop::NOT_AS_EXPECTED);
    let normal = if round.run.planted { red } else { End::Exit(stop::AS_EXPECTED) };
    let fault = End::Exit(stop::FAULT);
    if !seen.hit {
        return vec![normal];
    }
    match round.injury {
        // A QEMU that is gone without a word is forgiven once; with its keeper it
        // goes too.
        Injury::KillQemu | Injury::KillKeeper => vec![normal],
        // It costs a test its verdict, or is forgiven where none had begun.
        Injury::StopQemu => vec![normal, red],
        Injury::AgentDies => vec![red],
        Injury::KillHarness => vec![SIGKILL],
        // Who is hit before he listens has nothing to say yet.
        Injury::TermHarness if seen.again.is_none() => vec![End::Exit(stop::INTERRUPTED), SIGTERM],
        Injury::TermHarness => vec![End::Exit(stop::INTERRUPTED), normal],
        Injury::RunDiskFull | Injury::StoreDiskFull => vec![normal, fault],
    }
}

/// What `results` call passed and is not proven to be, whatever they were judged
/// from.
fn false_passes(round: &Round, results: &Results, proof: &Proof, what: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let planted = |id: &str| round.run.planted && id.starts_with(CULPRIT);
    for test in results.tests.iter().filter(|test| test.verdict == Verdict::Passed) {
        if planted(&test.id) {
            wrong.push(format!("false pass: {what}: {} in spite of the planted bug", test.id));
        }
        if !proof.passed.contains(&test.id) {
            wrong.push(format!("false pass: {what}: {} without the agent's word", test.id));
        }
    }
    if results.exit_code == stop::AS_EXPECTED {
        let passed = results.tests.iter().filter(|test| test.verdict == Verdict::Passed).count();
        if round.run.planted {
            wrong.push(format!("false pass: {what}: 0 in spite of the planted bug"));
        }
        if !proof.complete {
            wrong.push(format!("false pass: {what}: 0, and the run did not end"));
        }
        if passed != round.run.tests.len() || proof.planned.len() != round.run.tests.len() {
            let all = round.run.tests.len();
            wrong.push(format!("false pass: {what}: 0, and {passed} of {all} tests passed"));
        }
    }
    wrong
}

/// Where exit code, results and a second judgement do not say the same.
fn disagreements(seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let results = seen.results.whole();
    if let (End::Exit(code), Some(results)) = (seen.end, results)
        && code != results.exit_code
    {
        wrong.push(format!("exit code {code}, and results.json says {}", results.exit_code));
    }
    if let End::Exit(code @ (stop::AS_EXPECTED | stop::NOT_AS_EXPECTED)) = seen.end {
        if results.is_none() {
            wrong.push(format!("exit code {code} without results.json"));
        }
        if !seen.proof.complete {
            wrong.push(format!("exit code {code}, and the run did not end"));
        }
    }
    match (&seen.again, results) {
        (Some(Ok(again)), Some(results)) => {
            if again.exit_code != results.exit_code {
                let (then, now) = (results.exit_code, again.exit_code);
                wrong.push(format!("results.json says {then}, and judged again it is {now}"));
            }
            for (then, now) in results.tests.iter().zip(&again.tests) {
                if (&then.id, then.verdict) != (&now.id, now.verdict) {
                    wrong.push(format!(
                        "{} was {}, and judged again {} is {}",
                        then.id, then.verdict, now.id, now.verdict
                    ));
                }
            }
        }
        (Some(Ok(again)), None) if again.exit_code != stop::FAULT && !seen.proof.complete => {
            let now = again.exit_code;
            wrong.push(format!("judged to be {now}, and the run neither ended nor said so"));
        }
        (Some(Err(why)), Some(_)) => wrong.push(format!("it cannot be judged again: {why}")),
        // Of a run that was cut off before its plan was written there is nothing
        // to be judged, and nothing is called good.
        _ => {}
    }
    wrong
}

/// What an interrupted run must say of itself, and does not.
fn unsaid(round: &Round, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let again = seen.again.as_ref().and_then(|again| again.as_ref().ok());
    match seen.end {
        End::Exit(stop::INTERRUPTED) if seen.again.is_some() => {
            let said = seen.results.whole().map(|results| results.outcome);
            if said != Some(RunOutcome::Interrupted) {
                wrong.push("it was interrupted, and results.json does not say so".into());
            }
        }
        End::Signal(_) if !seen.proof.complete => {
            let says = |again: &Results| {
                let reason = again.reason.as_deref().unwrap_or_default();
                again.exit_code == stop::FAULT && reason.contains(IN_THE_MIDDLE)
            };
            if again.is_some_and(|again| !says(again)) {
                wrong.push(format!("its harness was killed, and nothing says: {IN_THE_MIDDLE}"));
            }
        }
        End::Exit(stop::FAULT) if round.injury.needs_disk() => {
            let reason = seen.results.whole().and_then(|results| results.reason.as_deref());
            if !seen.output.contains(DISK_FULL) && !reason.is_some_and(|r| r.contains(DISK_FULL)) {
                wrong.push("the disk was full, and nothing names it".into());
            }
        }
        _ => {}
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::Evidence;
    use crate::plan::{self, Wishes};
    use crate::stop::{Fault, Stop};
    use hmm_protocol::wire::{Health, Sealed};

    /// A round of this kind, and what a run leaves that went well.
    fn story(injury: Injury, planted: bool) -> (Round, Seen) {
        let mut round = Round::of(1);
        round.injury = injury;
        round.run.planted = planted;
        let mut events = vec![Event::Planned {
            tests: round.run.tests.clone(),
            repeat: 1,
            not_applicable: Vec::new(),
        }];
        events.extend(round.run.tests.iter().map(|id| frame(id, planted)));
        events.push(Event::StageFinished {
            stage: Stage::Run,
            ms: 1,
            reused: false,
            text: String::new(),
        });
        let records: Vec<Record> =
            events.into_iter().map(|event| Record { t_ms: 0, event }).collect();
        let mut results = judged(&round, &[]);
        for test in &mut results.tests {
            let bad = planted && test.id.starts_with(CULPRIT);
            test.verdict = if bad { Verdict::Failed } else { Verdict::Passed };
        }
        let code = u8::from(planted);
        results.exit_code = code;
        results.outcome = if planted { RunOutcome::NotAsExpected } else { RunOutcome::AsExpected };
        let seen = Seen {
            end: End::Exit(code),
            hit: true,
            again: Some(Ok(results.clone())),
            results: Written::Whole(Box::new(results)),
            proof: Proof::of(&records),
            output: String::new(),
            left: Vec::new(),
            faults: Vec::new(),
        };
        (round, seen)
    }

    fn frame(id: &str, planted: bool) -> Event {
        let outcome = match planted && id.starts_with(CULPRIT) {
            true => Outcome::Died { how: "it was planted".into() },
            false => Outcome::Passed,
        };
        let health = Health::default();
        let message = GuestMessage::Finished {
            id: id.to_owned(),
            outcome,
            duration_us: 1,
            health,
            capture: None,
        };
        Event::Frame { vm: 0, sealed: Sealed { nonce: String::new(), seq: 0, message } }
    }

    /// What the judge says of a round's run with these records.
    fn judged(round: &Round, records: &[Record]) -> Results {
        let wishes = Wishes { tests: round.run.tests.clone(), ..Wishes::default() };
        let plan = plan::resolve(wishes, &["default"]).expect("the tests exist");
        let mut all = vec![Record {
            t_ms: 0,
            event: Event::Planned {
                tests: round.run.tests.clone(),
                repeat: 1,
                not_applicable: Vec::new(),
            },
        }];
        all.extend_from_slice(records);
        crate::judge::judge(&Evidence::only(plan, all))
    }

    /// A run that broke off here, as its directory tells it.
    fn broken_off(seen: &mut Seen, round: &Round, stop: Option<Stop>) {
        let records: Vec<Record> = stop
            .into_iter()
            .map(|stop| Record { t_ms: 1, event: Event::Stopped { stop } })
            .collect();
        seen.proof = Proof { complete: false, passed: BTreeSet::new(), ..seen.proof.clone() };
        let results = judged(round, &records);
        seen.results = Written::Whole(Box::new(results.clone()));
        seen.again = Some(Ok(results));
    }

    #[track_caller]
    fn check(round: &Round, seen: &Seen, words: &[&str]) {
        let wrong = violations(round, seen);
        assert_eq!(wrong.len(), words.len(), "{wrong:#?}");
        for (wrong, word) in wrong.iter().zip(words) {
            assert!(wrong.contains(word), "{word:?} in {wrong:?}");
        }
    }

    #[test]
    fn a_run_that_saw_through_it_is_in_order() {
        for (injury, _) in Injury::ALL {
            for planted in [false, true] {
                let (round, mut seen) = story(injury, planted);
                seen.hit = false;
                check(&round, &seen, &[]);
            }
        }
        let (round, seen) = story(Injury::KillQemu, false);
        check(&round, &seen, &[]);
    }

    #[test]
    fn a_planted_bug_must_be_seen() {
        let (mut round, seen) = story(Injury::KillQemu, false);
        round.run.planted = true;
        let zero = "0 in spite of the planted bug";
        let test = "migrate_fault";
        check(&round, &seen, &["exit 0 after kill_qemu", test, zero, test, zero]);
    }

    #[test]
    fn a_pass_wants_the_agents_word_and_the_end_of_the_run() {
        let (round, mut seen) = story(Injury::KillQemu, false);
        let lost = round.run.tests[0].clone();
        seen.proof.passed.remove(&lost);
        check(&round, &seen, &[&lost, &lost]);
        let (round, mut seen) = story(Injury::KillQemu, false);
        seen.proof.complete = false;
        check(&round, &seen, &["the run did not end"; 3]);
    }

    #[test]
    fn a_dead_agent_is_never_green() {
        let (round, seen) = story(Injury::AgentDies, false);
        check(&round, &seen, &["exit 0 after agent_dies"]);
    }

    #[test]
    fn a_killed_run_says_so_when_it_is_judged() {
        let (round, mut seen) = story(Injury::KillHarness, false);
        broken_off(&mut seen, &round, None);
        seen.results = Written::Absent;
        seen.end = End::Signal(9);
        check(&round, &seen, &[]);
        let Some(Ok(again)) = &mut seen.again else { panic!("it was judged") };
        again.exit_code = 1;
        check(&round, &seen, &["neither ended nor said so", IN_THE_MIDDLE]);
        // Killed before it had begun: there is nothing to be judged.
        seen.again = None;
        check(&round, &seen, &[]);
    }

    #[test]
    fn an_interrupted_run_says_so() {
        let (round, mut seen) = story(Injury::TermHarness, true);
        broken_off(&mut seen, &round, Some(Stop::Interrupted));
        seen.end = End::Exit(130);
        check(&round, &seen, &[]);
        seen.results = Written::Absent;
        check(&round, &seen, &["neither ended nor said so", "does not say so"]);
    }

    #[test]
    fn a_full_disk_is_named_and_leaves_no_half_results() {
        let (round, mut seen) = story(Injury::RunDiskFull, false);
        let full = Fault::new(format!("cannot write: {DISK_FULL} (os error 28)"));
        broken_off(&mut seen, &round, Some(Stop::Machine(full)));
        seen.end = End::Exit(129);
        check(&round, &seen, &[]);
        broken_off(&mut seen, &round, Some(Stop::Machine(Fault::new("something"))));
        check(&round, &seen, &["nothing names it"]);
        seen.output = DISK_FULL.to_owned();
        seen.results = Written::Broken("EOF".into());
        check(&round, &seen, &["half written"]);
    }

    #[test]
    fn who_outlives_the_run_and_what_is_broken_is_told() {
        let (round, mut seen) = story(Injury::KillKeeper, true);
        seen.left.push("process 7: qemu-system-x86_64".into());
        seen.faults.push("snapshots/x: no state".into());
        check(&round, &seen, &["outlived the run: process 7", "snapshots/x"]);
        let (round, mut seen) = story(Injury::StopQemu, true);
        seen.end = End::Hung;
        check(&round, &seen, &["hung after stop_qemu"]);
    }

    #[test]
    fn results_and_exit_code_and_a_second_judgement_agree() {
        let (round, mut seen) = story(Injury::TermHarness, false);
        let Some(Ok(again)) = &mut seen.again else { panic!("it was judged") };
        again.tests[0].verdict = Verdict::Crashed;
        again.exit_code = 1;
        check(&round, &seen, &["judged again it is 1", "crashed"]);
        seen.again = Some(Err("half a line".into()));
        check(&round, &seen, &["cannot be judged again: half a line"]);
    }
}
