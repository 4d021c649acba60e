//! What holds in every trace, whatever the test and the kernel: rules that a row
//! can break.
//!
//! They are read from mm/mmu_notifier.c and mm/migrate_device.c, and worded so
//! that threads that race with each other cannot break them by racing: what is
//! certain is told apart from what may have happened before or after.

use std::collections::{BTreeMap, BTreeSet};

use hmm_protocol::trace::{CALIBRATION, CALIBRATIONS};

use super::buffers::Buffers;
use super::row::{Probe, Row};
use crate::judge::Violation;

/// How many broken rules are told one by one.
const TOLD: usize = 20;

/// Each start of an invalidation has one end, by the same thread, last in first
/// out (`mmu_notifier_invalidate_range_start()` and `_end()`), unless it may not
/// block and was told to try again; and the end is about the same range.
pub(super) const PAIRING: &str = "pairing";
/// One callback for each subscription that overlaps the range, and no other
/// (`mn_itree_invalidate()`).
pub(super) const CALLBACKS: &str = "callbacks";
/// A range has pages, from its first to its last (`struct mmu_notifier_range`),
/// but for those that stand for everything.
pub(super) const RANGES: &str = "ranges";
/// The sequence that callbacks are told is odd, never falls, and is another one
/// once all invalidations have ended (`mn_itree_inv_end()`).
pub(super) const SEQUENCE: &str = "sequence";
/// MIGRATE has an owner: the one that the thread's `migrate_vma_setup()` was
/// given.
pub(super) const OWNER: &str = "owner";
/// Pages are collected for a migration only within an invalidation that covers
/// them (`migrate_vma_collect()`).
pub(super) const WALK: &str = "walk";
/// The operations whose events are known send just these.
pub(super) const CALIBRATED: &str = "calibration";

/// All rules.
pub const RULES: [&str; 7] = [PAIRING, CALLBACKS, RANGES, SEQUENCE, OWNER, WALK, CALIBRATED];

/// Judges rows, one after the other.
#[derive(Default)]
pub struct Rules {
    buffers: Buffers,
    step: String,
    /// Invalidations that have begun and not ended.
    open: Vec<Open>,
    subscriptions: BTreeMap<String, Subscription>,
    mms: BTreeMap<String, Mm>,
    /// What each thread's last `migrate_vma_setup()` was given as owner.
    setups: BTreeMap<u32, Option<String>>,
    /// The calibration that the step is, and how often its event was seen.
    calibration: Option<(&'static str, u32, bool)>,
    calibrated: u32,
    violations: Vec<Violation>,
    more: u64,
}

/// An invalidation.
struct Open {
    seq: u64,
    tid: u32,
    mm: Option<String>,
    range: Option<String>,
    event: Option<String>,
    addresses: Option<(u64, u64)>,
    blockable: bool,
    /// Who must be called and was not yet.
    due: BTreeSet<String>,
    called: BTreeSet<String>,
}

struct Subscription {
    mm: Option<String>,
    /// The first address, and the one behind the last.
    addresses: (u64, u64),
    certain: Certainty,
}

/// Whether the kernel calls a subscription.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certainty {
    /// It may: its insertion is under way.
    Coming,
    /// It does when all invalidations have ended that there are.
    PutOff,
    /// It may until this thread has come out of the end of an invalidation.
    Soon(u32),
    /// It does.
    Does,
    /// It may: its removal is under way.
    Leaving,
}

/// An address space.
#[derive(Default)]
struct Mm {
    last_seq: Option<u64>,
    /// The thread that ended the last of all invalidations since.
    ended_by: Option<u32>,
}

impl Rules {
    /// How many calibrating operations were seen to the end.
    pub fn calibrated(&self) -> u32 {
        self.calibrated
    }

    /// Takes the next row.
    pub fn push(&mut self, row: &Row) {
        self.buffers.learn(row);
        for subscription in self.subscriptions.values_mut() {
            if subscription.certain == Certainty::Soon(row.tid) {
                subscription.certain = Certainty::Does;
            }
        }
        match row.probe {
            Probe::Step => self.next_step(row),
            Probe::InvalidateStart => self.started(row),
            Probe::InvalidateEnd => self.ended(row),
            Probe::Callback => self.called(row),
            Probe::CallbackReturn => self.answered(row),
            Probe::Insert => self.inserted(row),
            Probe::Remove => self.removed(row),
            Probe::Collect => self.collected(row),
            Probe::MigrateSetup => drop(self.setups.insert(row.tid, row.owner.clone())),
            Probe::MigrateFault | Probe::Release => {}
        }
    }

    /// The last row was pushed: what is still open never ended.
    pub fn finish(mut self) -> Vec<Violation> {
        self.end_calibration();
        for open in std::mem::take(&mut self.open) {
            let what = self.words(open.event.as_deref(), open.addresses);
            self.broken(PAIRING, format!("{what} never ended (row {})", open.seq));
        }
        if self.more > 0 {
            let text = format!("and {} more broken rules", self.more);
            let last = self.violations.last().map_or(PAIRING.into(), |v| v.rule.clone());
            self.violations.push(Violation { rule: last, step: self.step.clone(), text });
        }
        self.violations
    }

    fn broken(&mut self, rule: &str, text: String) {
        if self.violations.len() < TOLD {
            let step = self.step.clone();
            self.violations.push(Violation { rule: rule.to_owned(), step, text });
        } else {
            self.more += 1;
        }
    }

    fn words(&self, event: Option<&str>, addresses: Option<(u64, u64)>) -> String {
        let place = addresses.map(|range| self.buffers.place(range)).unwrap_or_default();
        format!("{} {place}", event.unwrap_or("an event"))
    }

    fn next_step(&mut self, row: &Row) {
        self.end_calibration();
        let Some(step) = &row.doing else { return };
        self.step = format!("{} {step}", row.step);
        let known = CALIBRATIONS.iter().find(|(op, _)| *op == step.op);
        self.calibration = known.map(|(_, event)| (*event, 0, false));
    }

    fn end_calibration(&mut self) {
        let Some((event, seen, wrong)) = self.calibration.take() else { return };
        if seen == 1 && !wrong {
            self.calibrated += 1;
        } else {
            let saw = if seen == 0 { "none" } else { "others" };
            let text = format!("one {event} of the page was due, and there were {saw}");
            self.broken(CALIBRATED, text);
        }
    }

    fn started(&mut self, row: &Row) {
        let what = self.words(row.event.as_deref(), row.addresses());
        let event = row.event.as_deref().unwrap_or_default();
        let range = row.addresses().unwrap_or_default();
        if let Some((expected, seen, wrong)) = &mut self.calibration {
            *seen += 1;
            *wrong |= event != *expected || range != (CALIBRATION, CALIBRATION + 0x1000);
        }
        let aligned =
            range.0.is_multiple_of(4096) && (range.1.is_multiple_of(4096) || range.1 == u64::MAX);
        let everything = range.0 == 0 && range.1 == u64::MAX;
        let may_be_all = matches!(event, "SOFT_DIRTY" | "RELEASE" | "UNMAP");
        if !aligned || range.0 >= range.1 || (everything && !may_be_all) {
            self.broken(RANGES, format!("{what} is no run of pages (row {})", row.seq));
        }
        if event == "MIGRATE" {
            self.check_owner(row, &what);
        }
        let overlapping = |s: &&Subscription| {
            s.mm == row.mm && s.addresses.0 < range.1 && range.0 < s.addresses.1
        };
        let due = self
            .subscriptions
            .iter()
            .filter(|(_, s)| s.certain == Certainty::Does && overlapping(s))
            .map(|(name, _)| name.clone())
            .collect();
        self.open.push(Open {
            seq: row.seq,
            tid: row.tid,
            mm: row.mm.clone(),
            range: row.range.clone(),
            event: row.event.clone(),
            addresses: row.addresses(),
            blockable: row.blockable != Some(false),
            due,
            called: BTreeSet::new(),
        });
    }

    fn check_owner(&mut self, row: &Row, what: &str) {
        let given = self.setups.get(&row.tid).cloned();
        match (&row.owner, given) {
            (None, _) => {
                self.broken(OWNER, format!("{what} has no owner (row {})", row.seq));
            }
            (Some(owner), Some(given)) if given.as_ref() != Some(owner) => {
                let given = given.as_deref().unwrap_or("NULL");
                let text = format!(
                    "{what} has the owner {owner}, and migrate_vma_setup() was given {given} (row {})",
                    row.seq
                );
                self.broken(OWNER, text);
            }
            _ => {}
        }
    }

    fn ended(&mut self, row: &Row) {
        let last = self.open.iter().rposition(|open| open.tid == row.tid);
        let own = self.open.iter().rposition(|open| open.tid == row.tid && open.range == row.range);
        let Some(at) = own else {
            let what = self.words(row.event.as_deref(), row.addresses());
            self.broken(PAIRING, format!("{what} ends and never began (row {})", row.seq));
            return;
        };
        let open = self.open.remove(at);
        let what = self.words(open.event.as_deref(), open.addresses);
        if own != last {
            let text = format!("{what} ends before one that began later (row {})", row.seq);
            self.broken(PAIRING, text);
        }
        if open.event != row.event || open.addresses != row.addresses() {
            let now = self.words(row.event.as_deref(), row.addresses());
            self.broken(PAIRING, format!("{what} ends as {now} (rows {}, {})", open.seq, row.seq));
        }
        self.check_due(&open);
        self.over(&open, row.tid);
    }

    fn check_due(&mut self, open: &Open) {
        let what = self.words(open.event.as_deref(), open.addresses);
        for sub in &open.due {
            let text = format!("{what} was not told to {sub} (row {})", open.seq);
            self.broken(CALLBACKS, text);
        }
    }

    /// An invalidation is over, and was the last one of its address space, if no
    /// other is open.
    fn over(&mut self, open: &Open, tid: u32) {
        if self.open.iter().any(|other| other.mm == open.mm) {
            return;
        }
        for subscription in self.subscriptions.values_mut().filter(|s| s.mm == open.mm) {
            if subscription.certain == Certainty::PutOff {
                subscription.certain = Certainty::Soon(tid);
            }
        }
        if let Some(mm) = &open.mm {
            self.mms.entry(mm.clone()).or_default().ended_by = Some(tid);
        }
    }

    fn called(&mut self, row: &Row) {
        let what = self.words(row.event.as_deref(), row.addresses());
        let sub = row.sub.clone().unwrap_or_default();
        let (seq, range) = (row.seq, row.addresses().unwrap_or_default());
        self.check_sequence(row, &what);
        match self.subscriptions.get(&sub) {
            None => {
                let text = format!("{what} is told to {sub}, which does not subscribe (row {seq})");
                self.broken(CALLBACKS, text);
            }
            Some(s) if s.addresses.0 >= range.1 || range.0 >= s.addresses.1 || s.mm != row.mm => {
                let text = format!("{what} is told to {sub}, which is not about it (row {seq})");
                self.broken(CALLBACKS, text);
            }
            Some(_) => {}
        }
        // `mn_itree_release()` calls without a pair.
        if row.event.as_deref() == Some("RELEASE") {
            return;
        }
        let open = self.open.iter_mut().rev().find(|open| open.tid == row.tid);
        match open.filter(|open| open.range == row.range) {
            None => {
                let text = format!("{what} is told to {sub} outside any invalidation (row {seq})");
                self.broken(PAIRING, text);
            }
            Some(open) => {
                open.due.remove(&sub);
                if !open.called.insert(sub.clone()) {
                    self.broken(CALLBACKS, format!("{what} is told to {sub} twice (row {seq})"));
                }
            }
        }
    }

    fn check_sequence(&mut self, row: &Row, what: &str) {
        let (Some(now), Some(name)) = (row.cur_seq, &row.mm) else { return };
        let mm = self.mms.entry(name.clone()).or_default();
        let before = mm.last_seq.replace(now);
        // Only the thread that ended them all is known to be past the moment at
        // which the sequence rose.
        let rose = mm.ended_by.take() == Some(row.tid);
        let wrong = match before {
            _ if now % 2 == 0 => Some("is even".to_owned()),
            Some(before) if now < before => Some(format!("was {before} before")),
            Some(before) if now == before && rose => {
                Some("is that of invalidations that have all ended".to_owned())
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            let text = format!("{what} has the sequence {now}, which {wrong} (row {})", row.seq);
            self.broken(SEQUENCE, text);
        }
    }

    fn answered(&mut self, row: &Row) {
        if row.ret != Some(0) {
            return;
        }
        let at = self.open.iter().rposition(|open| open.tid == row.tid && !open.blockable);
        if let Some(at) = at {
            let open = self.open.remove(at);
            self.over(&open, row.tid);
        }
    }

    fn inserted(&mut self, row: &Row) {
        let Some(sub) = row.sub.clone() else { return };
        match row.ret {
            None => {
                let addresses = row.addresses().unwrap_or_default();
                let (mm, certain) = (row.mm.clone(), Certainty::Coming);
                self.subscriptions.insert(sub, Subscription { mm, addresses, certain });
            }
            Some(0) => {
                let Some(subscription) = self.subscriptions.get_mut(&sub) else { return };
                // While something is invalidated it is put off to the end of that.
                let put_off = self.open.iter().any(|open| open.mm == subscription.mm);
                subscription.certain = if put_off { Certainty::PutOff } else { Certainty::Does };
            }
            Some(_) => drop(self.subscriptions.remove(&sub)),
        }
    }

    fn removed(&mut self, row: &Row) {
        let Some(sub) = &row.sub else { return };
        if row.ret.is_some() {
            self.subscriptions.remove(sub);
            return;
        }
        if let Some(subscription) = self.subscriptions.get_mut(sub) {
            subscription.certain = Certainty::Leaving;
        }
        for open in &mut self.open {
            open.due.remove(sub);
        }
    }

    fn collected(&mut self, row: &Row) {
        let Some((start, end)) = row.addresses() else { return };
        let covers = |open: &&Open| {
            open.tid == row.tid && open.addresses.is_some_and(|(s, e)| s <= start && end <= e)
        };
        if !self.open.iter().any(|open| covers(&open)) {
            let place = self.buffers.place((start, end));
            let text =
                format!("{place} is collected and no invalidation covers it (row {})", row.seq);
            self.broken(WALK, text);
        }
    }
}
