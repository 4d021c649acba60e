//! What holds in every trace, whatever the test and the kernel: rules that a row
//! can break.
//!
//! They are read from mm/mmu_notifier.c and mm/migrate_device.c, and worded so
//! that threads that race with each other cannot break them by racing: what is
//! certain is told apart from what may have happened before or after.

use std::collections::{BTreeMap, BTreeSet};

use hmm_protocol::trace::{CALIBRATION, CALIBRATIONS};

use super::buffers::Buffers;
use super::format::Formats;
use super::row::{Probe, Row};
use crate::results::Violation;

/// How many broken rules are told one by one.
const TOLD: usize = 20;

/// How many threads, address spaces, subscriptions and open invalidations of a
/// thread are kept in mind. An honest test has some dozens.
const MOST_THREADS: usize = 1 << 8;
const MOST_MMS: usize = 1 << 13;
const MOST_SUBSCRIPTIONS: usize = 1 << 8;
const DEEPEST: usize = 16;

/// What the calibrating operations are about.
const PAGE: (u64, u64) = (CALIBRATION, CALIBRATION + 0x1000);

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
/// MIGRATE is about nothing that the thread's `migrate_vma_setup()` was not given.
pub(super) const BOUNDS: &str = "bounds";
/// Pages are collected for a migration only within an invalidation that covers
/// them (`migrate_vma_collect()`), in a process that subscribes to its address
/// space: no other is told.
pub(super) const WALK: &str = "walk";
/// The operations whose events are known send just these.
pub(super) const CALIBRATED: &str = "calibration";

/// All rules.
pub const RULES: [&str; 8] =
    [PAIRING, CALLBACKS, RANGES, SEQUENCE, OWNER, BOUNDS, WALK, CALIBRATED];

/// Judges rows, one after the other.
#[derive(Default)]
pub struct Rules {
    buffers: Buffers,
    blind: Blind,
    step: String,
    threads: BTreeMap<u32, Thread>,
    subscriptions: BTreeMap<String, Subscription>,
    /// How many subscriptions there were.
    inserted: u64,
    mms: BTreeMap<String, Mm>,
    /// The processes that subscribe to their own address spaces.
    subscribers: BTreeSet<u32>,
    calibration: Option<Calibration>,
    calibrated: usize,
    violations: Vec<Violation>,
    more: u64,
    /// What there was too much of.
    full: Option<&'static str>,
}

/// What cannot be seen, because the kernel has refused its probe or has no such
/// thing.
#[derive(Default)]
struct Blind {
    removals: bool,
    snapshots: bool,
    answers: bool,
    owners: bool,
    givers: bool,
}

#[derive(Default)]
struct Thread {
    /// Invalidations that have begun and not ended, innermost last.
    open: Vec<Open>,
    /// The address space of the one that the thread has ended with its last row:
    /// the kernel may not have come that far.
    ending: Option<String>,
    /// The address space that it is tearing down.
    releasing: Option<String>,
    /// What its last `migrate_vma_setup()` was given.
    setup: Option<Setup>,
}

/// What `migrate_vma_setup()` was given.
#[derive(Clone)]
struct Setup {
    owner: Option<String>,
    addresses: Option<(u64, u64)>,
}

/// An invalidation.
struct Open {
    seq: u64,
    mm: Option<String>,
    range: Option<String>,
    event: Option<String>,
    addresses: Option<(u64, u64)>,
    blockable: bool,
    /// Who must be called and was not yet, by name and number.
    due: Vec<(String, u64)>,
    called: Vec<String>,
}

struct Subscription {
    /// Two of one name are not the same.
    number: u64,
    mm: Option<String>,
    /// The first address, and the one behind the last.
    addresses: (u64, u64),
    certain: Certainty,
}

/// Whether the kernel calls a subscription, where that is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certainty {
    /// It may: its insertion is under way.
    Coming,
    /// It may: it was put off while something was invalidated, and does once
    /// nothing is.
    PutOff,
    /// It does.
    Does,
    /// It may: its removal is under way.
    Leaving,
}

/// An address space.
#[derive(Default)]
struct Mm {
    last_seq: Option<u64>,
    /// How many invalidations there may be.
    busy: u32,
    /// Whether there was a moment without one since the last callback.
    rose: bool,
    /// Whether somebody has subscribed to it.
    subscribed: bool,
}

/// A step whose event is known.
struct Calibration {
    tid: u32,
    event: &'static str,
    seen: u32,
    wrong: bool,
}

impl Rules {
    /// For a guest with these probes.
    pub(super) fn of(formats: &Formats) -> Self {
        let blind = Blind {
            removals: !formats.has("remove"),
            snapshots: !formats.has("snapshot_callback"),
            answers: !formats.has("callback_return"),
            owners: !formats.can_say("invalidate_start", "owner"),
            givers: !formats.can_say("migrate_setup", "owner"),
        };
        Rules { blind, ..Rules::default() }
    }

    /// How many calibrating operations there were, whatever the kernel sent for them.
    pub fn calibrated(&self) -> usize {
        self.calibrated
    }

    /// What there was too much of to be judged, if anything.
    pub(super) fn overflow(&self) -> Option<String> {
        let full = self.full.or(self.buffers.full().then_some("buffers"));
        full.map(|what| format!("more {what} than a test can have"))
    }

    /// Takes the next row.
    pub fn push(&mut self, row: &Row) {
        self.buffers.learn(row);
        self.goes_on(row);
        match row.probe {
            Probe::Step => self.next_step(row),
            Probe::InvalidateStart => self.started(row),
            Probe::InvalidateEnd => self.ended(row),
            Probe::Callback => self.called(row),
            Probe::CallbackReturn => self.answered(row),
            Probe::Insert => self.inserted(row),
            Probe::Remove => self.removed(row),
            Probe::Collect => self.collected(row),
            Probe::MigrateSetup => {
                if let Some(thread) = self.thread(row.tid) {
                    let (owner, addresses) = (row.owner.clone(), row.addresses());
                    thread.setup = Some(Setup { owner, addresses });
                }
            }
            Probe::MigrateFault => {}
            Probe::Release => self.released(row),
        }
    }

    /// The last row was pushed: what is still open never ended.
    pub fn finish(mut self) -> Vec<Violation> {
        self.end_calibration();
        let threads = std::mem::take(&mut self.threads);
        let mut open: Vec<Open> = threads.into_values().flat_map(|thread| thread.open).collect();
        open.sort_by_key(|open| open.seq);
        // One that may not block has no end where it would have to.
        open.retain(|open| open.blockable || !self.blind.answers);
        for open in open {
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

    fn words_of(&self, row: &Row) -> String {
        self.words(row.event.as_deref(), row.addresses())
    }

    fn thread(&mut self, tid: u32) -> Option<&mut Thread> {
        if self.threads.len() >= MOST_THREADS && !self.threads.contains_key(&tid) {
            self.full.get_or_insert("threads");
            return None;
        }
        Some(self.threads.entry(tid).or_default())
    }

    fn mm(&mut self, name: &str) -> Option<&mut Mm> {
        if !self.mms.contains_key(name) {
            if self.mms.len() >= MOST_MMS {
                self.full.get_or_insert("address spaces");
                return None;
            }
            self.mms.insert(name.to_owned(), Mm::default());
        }
        self.mms.get_mut(name)
    }

    /// A thread that shows itself again is past what its last row began.
    fn goes_on(&mut self, row: &Row) {
        let Some(thread) = self.threads.get_mut(&row.tid) else { return };
        let ended = thread.ending.take();
        // The callbacks of `mn_itree_release()` come without a pair.
        let releases = row.probe == Probe::CallbackReturn
            || (row.probe == Probe::Callback && row.event.as_deref() == Some("RELEASE"));
        let released = if releases { None } else { thread.releasing.take() };
        for mm in ended.into_iter().chain(released) {
            self.calms(&mm);
        }
    }

    /// There may be an invalidation more than before.
    fn stirs(&mut self, mm: Option<&str>) {
        if let Some(mm) = mm.and_then(|mm| self.mm(mm)) {
            mm.busy = mm.busy.saturating_add(1);
        }
    }

    /// One is over. Where it was the last, the sequence has risen, and what was put
    /// off is done (`mn_itree_inv_end()`).
    fn calms(&mut self, name: &str) {
        let Some(mm) = self.mms.get_mut(name) else { return };
        mm.busy = mm.busy.saturating_sub(1);
        if mm.busy > 0 {
            return;
        }
        mm.rose = true;
        let its = self.subscriptions.values_mut().filter(|s| s.mm.as_deref() == Some(name));
        for subscription in its.filter(|s| s.certain == Certainty::PutOff) {
            subscription.certain = Certainty::Does;
        }
    }

    fn next_step(&mut self, row: &Row) {
        self.end_calibration();
        let Some(step) = &row.doing else { return };
        self.step = format!("{} {step}", row.step);
        let known = CALIBRATIONS.iter().find(|(op, _)| *op == step.op);
        self.calibration =
            known.map(|(_, event)| Calibration { tid: row.tid, event, seen: 0, wrong: false });
    }

    fn end_calibration(&mut self) {
        let Some(Calibration { event, seen, wrong, .. }) = self.calibration.take() else { return };
        self.calibrated += 1;
        if seen != 1 || wrong {
            let saw = if seen == 0 { "none" } else { "others" };
            let text = format!("one {event} of the page was due, and there were {saw}");
            self.broken(CALIBRATED, text);
        }
    }

    fn started(&mut self, row: &Row) {
        let event = row.event.as_deref().unwrap_or_default();
        let range = row.addresses().unwrap_or_default();
        // The test's thread may send others meanwhile: it frees memory.
        if let Some(calibration) = &mut self.calibration
            && calibration.tid == row.tid
            && overlap(range, PAGE)
        {
            calibration.seen += 1;
            calibration.wrong |= event != calibration.event || range != PAGE;
        }
        let aligned =
            range.0.is_multiple_of(4096) && (range.1.is_multiple_of(4096) || range.1 == u64::MAX);
        let everything = range.0 == 0 && range.1 == u64::MAX;
        let may_be_all = matches!(event, "SOFT_DIRTY" | "RELEASE" | "UNMAP");
        if !aligned || range.0 >= range.1 || (everything && !may_be_all) {
            let what = self.words_of(row);
            self.broken(RANGES, format!("{what} is no run of pages (row {})", row.seq));
        }
        if event == "MIGRATE" {
            if !self.blind.owners {
                self.check_owner(row);
            }
            self.check_bounds(row);
        }
        let due = self
            .subscriptions
            .iter()
            .filter(|(_, s)| s.certain == Certainty::Does)
            .filter(|(_, s)| s.mm == row.mm && overlap(s.addresses, range))
            .map(|(name, s)| (name.clone(), s.number))
            .collect();
        let open = Open {
            seq: row.seq,
            mm: row.mm.clone(),
            range: row.range.clone(),
            event: row.event.clone(),
            addresses: row.addresses(),
            blockable: row.blockable != Some(false),
            due,
            called: Vec::new(),
        };
        let Some(thread) = self.thread(row.tid) else { return };
        if thread.open.len() >= DEEPEST {
            self.full.get_or_insert("nested invalidations");
            return;
        }
        thread.open.push(open);
        self.stirs(row.mm.as_deref());
    }

    fn check_owner(&mut self, row: &Row) {
        let given = self.threads.get(&row.tid).and_then(|thread| thread.setup.clone());
        let given = given.filter(|_| !self.blind.givers);
        let seq = row.seq;
        let wrong = match (&row.owner, given) {
            (None, _) => format!("has no owner (row {seq})"),
            (Some(owner), Some(given)) if given.owner.as_ref() != Some(owner) => {
                let given = given.owner.as_deref().unwrap_or("NULL");
                format!(
                    "has the owner {owner}, and migrate_vma_setup() was given {given} (row {seq})"
                )
            }
            _ => return,
        };
        let what = self.words_of(row);
        self.broken(OWNER, format!("{what} {wrong}"));
    }

    fn check_bounds(&mut self, row: &Row) {
        let given = self.threads.get(&row.tid).and_then(|thread| thread.setup.as_ref());
        let given = given.and_then(|given| given.addresses);
        let (Some((start, end)), Some(given)) = (row.addresses(), given) else { return };
        if start < given.0 || end > given.1 {
            let (what, given) = (self.words_of(row), self.buffers.place(given));
            let text =
                format!("{what} is beyond {given}, for which it was set up (row {})", row.seq);
            self.broken(BOUNDS, text);
        }
    }

    fn ended(&mut self, row: &Row) {
        let open = self.threads.get(&row.tid).map_or(&[][..], |thread| &thread.open);
        let Some(at) = open.iter().rposition(|open| open.range == row.range) else {
            let what = self.words_of(row);
            self.broken(PAIRING, format!("{what} ends and never began (row {})", row.seq));
            return;
        };
        let early = at + 1 < open.len();
        let Some(thread) = self.threads.get_mut(&row.tid) else { return };
        let open = thread.open.remove(at);
        thread.ending.clone_from(&open.mm);
        if early {
            let what = self.words(open.event.as_deref(), open.addresses);
            let text = format!("{what} ends before one that began later (row {})", row.seq);
            self.broken(PAIRING, text);
        }
        if open.event != row.event || open.addresses != row.addresses() || open.mm != row.mm {
            let what = self.words(open.event.as_deref(), open.addresses);
            let now = self.words_of(row);
            self.broken(PAIRING, format!("{what} ends as {now} (rows {}, {})", open.seq, row.seq));
        }
        self.check_due(&open);
    }

    fn check_due(&mut self, open: &Open) {
        for (sub, number) in &open.due {
            // What was removed meanwhile may have been too early or too late.
            let is_there = self
                .subscriptions
                .get(sub)
                .is_some_and(|s| s.number == *number && s.certain == Certainty::Does);
            if is_there {
                let what = self.words(open.event.as_deref(), open.addresses);
                let text = format!("{what} was not told to {sub} (row {})", open.seq);
                self.broken(CALLBACKS, text);
            }
        }
    }

    fn called(&mut self, row: &Row) {
        let sub = row.sub.as_deref().unwrap_or_default();
        let (seq, range) = (row.seq, row.addresses().unwrap_or_default());
        self.check_sequence(row);
        let wrong = match self.subscriptions.get(sub) {
            None => Some("which does not subscribe"),
            Some(s) if !overlap(s.addresses, range) || s.mm != row.mm => {
                Some("which is not about it")
            }
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            let what = self.words_of(row);
            self.broken(CALLBACKS, format!("{what} is told to {sub}, {wrong} (row {seq})"));
        }
        // `mn_itree_release()` calls without a pair.
        if row.event.as_deref() == Some("RELEASE") {
            return;
        }
        let innermost = self.threads.get_mut(&row.tid).and_then(|thread| thread.open.last_mut());
        let Some(open) = innermost.filter(|open| open.range == row.range) else {
            let what = self.words_of(row);
            let text = format!("{what} is told to {sub} outside any invalidation (row {seq})");
            self.broken(PAIRING, text);
            return;
        };
        open.due.retain(|(due, _)| due != sub);
        let twice = open.called.iter().any(|called| called == sub);
        let other = open.event != row.event || open.addresses != row.addresses();
        let began = (open.event.clone(), open.addresses);
        if !twice && open.called.len() < MOST_SUBSCRIPTIONS {
            open.called.push(sub.to_owned());
        }
        if twice {
            let what = self.words_of(row);
            self.broken(CALLBACKS, format!("{what} is told to {sub} twice (row {seq})"));
        }
        if other {
            let what = self.words(began.0.as_deref(), began.1);
            let now = self.words_of(row);
            self.broken(CALLBACKS, format!("{what} is told to {sub} as {now} (row {seq})"));
        }
    }

    fn check_sequence(&mut self, row: &Row) {
        let (Some(now), Some(name)) = (row.cur_seq, &row.mm) else { return };
        let Some(mm) = self.mm(name) else { return };
        let before = mm.last_seq.replace(now);
        let rose = std::mem::take(&mut mm.rose);
        let wrong = match before {
            _ if now % 2 == 0 => "is even".to_owned(),
            Some(before) if now < before => format!("was {before} before"),
            Some(before) if now == before && rose => {
                "is that of invalidations that have all ended".to_owned()
            }
            _ => return,
        };
        let what = self.words_of(row);
        let text = format!("{what} has the sequence {now}, which {wrong} (row {})", row.seq);
        self.broken(SEQUENCE, text);
    }

    /// An invalidation that may not block, and would have to, is over: there is no
    /// end, and nobody else is called (`mn_itree_invalidate()`).
    fn answered(&mut self, row: &Row) {
        if row.ret == Some(0)
            && let Some(thread) = self.threads.get_mut(&row.tid)
            && let Some(open) = thread.open.pop_if(|open| !open.blockable)
        {
            thread.ending = open.mm;
        }
    }

    fn released(&mut self, row: &Row) {
        let Some(thread) = self.thread(row.tid) else { return };
        thread.releasing.clone_from(&row.mm);
        self.stirs(row.mm.as_deref());
    }

    fn inserted(&mut self, row: &Row) {
        let Some(sub) = &row.sub else { return };
        match row.ret {
            None => self.insertion(row, sub),
            Some(0) => {
                // Nobody sees the calls of a subscription that is not the driver's.
                let unseen = sub.starts_with("other")
                    || self.blind.removals
                    || (self.blind.snapshots && sub.contains(".snapshot"));
                let Some(subscription) = self.subscriptions.get_mut(sub) else { return };
                let mm = subscription.mm.as_ref().and_then(|mm| self.mms.get(mm));
                if subscription.certain == Certainty::Coming && !unseen {
                    // While something is invalidated it is put off to the end of that.
                    let busy = mm.is_some_and(|mm| mm.busy > 0);
                    subscription.certain = if busy { Certainty::PutOff } else { Certainty::Does };
                }
            }
            Some(_) => drop(self.subscriptions.remove(sub)),
        }
    }

    fn insertion(&mut self, row: &Row, sub: &str) {
        if self.subscriptions.len() >= MOST_SUBSCRIPTIONS && !self.subscriptions.contains_key(sub) {
            self.full.get_or_insert("subscriptions");
            return;
        }
        self.inserted += 1;
        let subscription = Subscription {
            number: self.inserted,
            mm: row.mm.clone(),
            addresses: row.addresses().unwrap_or_default(),
            certain: Certainty::Coming,
        };
        self.subscriptions.insert(sub.to_owned(), subscription);
        // The first to subscribe to an address space is its own process
        // (`dmirror_fops_open()`).
        if let Some(mm) = row.mm.as_deref().and_then(|mm| self.mm(mm))
            && !std::mem::replace(&mut mm.subscribed, true)
            && row.tgid != 0
        {
            self.subscribers.insert(row.tgid);
        }
    }

    fn removed(&mut self, row: &Row) {
        let Some(sub) = &row.sub else { return };
        if row.ret.is_some() {
            self.subscriptions.remove(sub);
        } else if let Some(subscription) = self.subscriptions.get_mut(sub) {
            subscription.certain = Certainty::Leaving;
        }
    }

    fn collected(&mut self, row: &Row) {
        let Some((start, end)) = row.addresses() else { return };
        if !self.subscribers.contains(&row.tgid) {
            return;
        }
        let covers = |open: &Open| open.addresses.is_some_and(|(s, e)| s <= start && end <= e);
        let open = self.threads.get(&row.tid).map_or(&[][..], |thread| &thread.open);
        if !open.iter().any(covers) {
            let place = self.buffers.place((start, end));
            let text =
                format!("{place} is collected and no invalidation covers it (row {})", row.seq);
            self.broken(WALK, text);
        }
    }
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.1 && b.0 < a.1
}
