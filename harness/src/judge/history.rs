//! The event stream, folded into what happened to each test.

use std::collections::BTreeMap;

use hmm_protocol::wire::{GuestMessage, Health, Outcome, Sealed};

use crate::collect::Evidence;
use crate::console::{Finding, Report, Severity, Signature, What};
use crate::events::{Event, VmEnd};
use crate::flow::Stage;
use crate::frames::{self, Resolved};
use crate::layout::Known;
use crate::plan::Switch;
use crate::results::{KernelEvent, KernelInfo, MachineInfo, NotApplicable, Timing};
use crate::stop::Stop;
use crate::trace;

/// What happened in a run.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) kernel: KernelInfo,
    pub(super) machine: MachineInfo,
    pub(super) timing: Timing,
    pub(super) planned: Vec<String>,
    pub(super) not_applicable: Vec<NotApplicable>,
    /// What happened to each test, each time it had its turn.
    pub(super) attempts: BTreeMap<String, Vec<Attempt>>,
    /// Complaints outside any test.
    pub(super) kernel_events: Vec<KernelEvent>,
    /// Sessions that did not end as they should, with no test to blame.
    pub(super) loose_ends: Vec<String>,
    pub(super) stop: Option<Stop>,
    /// Why nothing was traced, though nobody has said that it should not be.
    pub(super) untraced: Option<String>,
    /// What addresses of the kernel stand for.
    symbols: BTreeMap<String, Resolved>,
    /// When the first test started.
    first_start: Option<u64>,
    /// The stream breaks off: nobody said how the run ended.
    pub(super) ended_in_the_middle: bool,
}

/// One turn of a test, from the order to run it.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) vm: u32,
    /// Which of its VM's tests it was, counted from 1.
    pub(super) run: u32,
    /// Whether its notifier events were to be captured.
    pub(super) traced: bool,
    /// Which of the test's turns it is; a turn that a machine lost is had again.
    pub(super) turn: u32,
    /// Whether its process was seen.
    pub(super) begun: bool,
    /// The process id that the agent gave for it.
    pid: Option<u32>,
    /// The agent's last word on it.
    pub(super) said: Option<Said>,
    /// Why its VM is gone.
    pub(super) end: Option<VmEnd>,
    /// What the kernel said meanwhile.
    pub(super) complaints: Vec<Complaint>,
    /// Whether the console showed the marker of its end.
    pub(super) console_closed: bool,
}

/// The agent's word that a test finished.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) outcome: Outcome,
    pub(super) duration_us: u64,
    pub(super) health: Health,
}

/// What is known of a complaint when the console is read to its end.
struct Heard<'a> {
    signature: &'static Signature,
    title: &'a str,
    pid: Option<u32>,
    /// The test that was running when it began.
    during: Option<(&'a str, usize)>,
    /// Its call trace, as the kernel printed it.
    frames: &'a [String],
}

/// A complaint with its weight.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) event: KernelEvent,
    pub(super) severity: Severity,
}

impl History {
    pub(super) fn of(evidence: &Evidence) -> Self {
        let mut history = History { ended_in_the_middle: true, ..History::default() };
        let mut sessions: BTreeMap<u32, Session> = BTreeMap::new();
        for record in &evidence.records {
            history.timing.total_ms = record.t_ms;
            match &record.event {
                Event::Began { at } => history.timing.began = Some(at.clone()),
                Event::StageFinished { stage, ms, reused, .. } => {
                    let spent = if *reused { 0 } else { *ms };
                    match stage {
                        Stage::Source => history.timing.source_ms = spent,
                        Stage::Build => history.timing.build_ms = spent,
                        _ => {}
                    }
                    // The last stage that is written down before it is judged.
                    history.ended_in_the_middle &= *stage != evidence.plan.until;
                }
                Event::Kernel(info) => history.kernel = info.clone(),
                Event::Machine(info) => history.machine = info.clone(),
                Event::Planned { tests, not_applicable, .. } => {
                    history.planned.clone_from(tests);
                    history.not_applicable.clone_from(not_applicable);
                }
                Event::VmStarted { vm, nonce, restored } => {
                    let session = Session {
                        nonce: nonce.clone(),
                        restored: *restored,
                        began_ms: record.t_ms,
                        ..Session::default()
                    };
                    sessions.insert(*vm, session);
                }
                Event::Ordered { vm, id, turn } => {
                    let (run, traced) = sessions.get_mut(vm).map_or((0, false), |session| {
                        history.machine.restored |= session.restored;
                        session.runs += 1;
                        (session.runs, session.traced)
                    });
                    history.attempts.entry(id.clone()).or_default().push(Attempt {
                        vm: *vm,
                        run,
                        traced,
                        turn: *turn,
                        begun: false,
                        pid: None,
                        said: None,
                        end: None,
                        complaints: Vec::new(),
                        console_closed: false,
                    });
                }
                Event::Frame { vm, sealed } => {
                    if let Some(session) = sessions.get_mut(vm)
                        && session.accepts(sealed)
                    {
                        history.heard(*vm, session, &sealed.message, record.t_ms);
                    }
                }
                Event::VmEnded { vm, end, .. } => history.vm_ended(*vm, end),
                Event::CutShort { reason } => history.loose_ends.push(reason.clone()),
                Event::Symbols { resolved } => {
                    let by_address = resolved.iter().map(|r| (r.address.clone(), r.clone()));
                    history.symbols.extend(by_address);
                }
                Event::Stopped { stop } => {
                    history.stop = Some(stop.clone());
                    history.ended_in_the_middle = false;
                }
                Event::Layout(Known::Not(why)) if evidence.plan.trace != Some(Switch::Off) => {
                    history.untraced = Some(why.clone());
                }
                Event::Layout(_)
                | Event::StageStarted { .. }
                | Event::Progress { .. }
                | Event::Note { .. } => {}
            }
        }
        if let Some(why) = &history.untraced {
            history.machine.settings.insert("trace".into(), format!("unavailable: {why}"));
        }
        history.timing.ready_ms = history.first_start.unwrap_or(0);
        for (vm, findings) in &evidence.consoles {
            history.console(*vm, findings);
        }
        history.blameless_ends();
        history.second_turns();
        history
    }

    fn heard(&mut self, vm: u32, session: &mut Session, message: &GuestMessage, t_ms: u64) {
        match message {
            GuestMessage::Hello { .. } if !session.restored && self.timing.boot_ms == 0 => {
                self.timing.boot_ms = t_ms.saturating_sub(session.began_ms);
            }
            GuestMessage::Prepared { taint, .. } if *taint != 0 => {
                let names = super::health::taints(*taint).join(", ");
                self.loose_ends.push(format!("the kernel was tainted before any test: {names}"));
            }
            GuestMessage::Attached { settings, trace, .. } => {
                self.machine.settings.clone_from(settings);
                if let Some(ready) = trace {
                    let unavailable = trace::unavailable(ready);
                    session.traced = unavailable.is_none();
                    // One guest that cannot is told, whatever another can.
                    if let Some(why) = unavailable {
                        self.untraced.get_or_insert(why);
                    }
                    let refused = ready.refused.keys().cloned().collect::<Vec<_>>().join(", ");
                    let without = match refused.as_str() {
                        "" => String::new(),
                        probes => format!(", without {probes}"),
                    };
                    self.machine.settings.insert("trace".into(), format!("on{without}"));
                }
            }
            GuestMessage::Started { id, pid } => {
                self.first_start.get_or_insert(t_ms);
                if let Some(attempt) = self.attempt(vm, id) {
                    attempt.begun = true;
                    attempt.pid = u32::try_from(*pid).ok();
                }
            }
            GuestMessage::Finished { id, outcome, duration_us, health, .. } => {
                self.finished(vm, id, outcome, *duration_us, health);
                let begun = self.first_start.unwrap_or(t_ms);
                self.timing.tests_ms = t_ms.saturating_sub(begun);
            }
            _ => {}
        }
    }

    fn finished(
        &mut self,
        vm: u32,
        id: &str,
        outcome: &Outcome,
        duration_us: u64,
        health: &Health,
    ) {
        if health.taint_before != 0 {
            let names = super::health::taints(health.taint_before).join(", ");
            self.loose_ends.push(format!("the kernel was tainted before {id} began: {names}"));
        }
        // The first word stands, and one about a test that never started is
        // none.
        if let Some(attempt) = self.attempt(vm, id).filter(|attempt| attempt.begun) {
            attempt.said.get_or_insert(Said {
                outcome: outcome.clone(),
                duration_us,
                health: health.clone(),
            });
        }
    }

    fn vm_ended(&mut self, vm: u32, end: &VmEnd) {
        for attempt in self.attempts.values_mut().flatten().filter(|a| a.vm == vm) {
            attempt.end = Some(end.clone());
        }
    }

    /// Finds the ends of machines that were not in order and that no test
    /// answers for: one that had not finished, or whose end the console did not
    /// show.
    fn blameless_ends(&mut self) {
        let mut ends: BTreeMap<u32, (&VmEnd, bool)> = BTreeMap::new();
        for attempt in self.attempts.values().flatten() {
            let Some(end) = attempt.end.as_ref().filter(|end| !in_order(end)) else { continue };
            let (_, blamed) = ends.entry(attempt.vm).or_insert((end, false));
            *blamed |=
                attempt.said.is_none() || !attempt.console_closed || !attempt.complaints.is_empty();
        }
        let blameless = ends.into_values().filter(|(_, blamed)| !blamed);
        let told = blameless.map(|(end, _)| format!("outside any test: {}", end.words()));
        self.loose_ends.extend(told.collect::<Vec<_>>());
    }

    /// A test has another turn when its machine was gone before it began. That is
    /// no failure of this test, and no good end of the machine.
    fn second_turns(&mut self) {
        for (id, attempts) in &self.attempts {
            let lost = turns(attempts).into_values().flat_map(|turn| {
                let before = turn.len() - 1;
                turn.into_iter().take(before)
            });
            let ends = lost.filter_map(|a| a.end.as_ref()).filter(|end| !in_order(end));
            let told = ends.map(|end| format!("before {id} began: {}", end.words()));
            self.loose_ends.extend(told);
        }
    }

    /// Gives each complaint of a VM's console to a test: to the one whose process
    /// it is about, also when it comes late; else to the one that was running.
    fn console(&mut self, vm: u32, findings: &[Finding]) {
        // The test that runs, with which of its turns on this VM that is.
        let mut running: Option<(&str, usize)> = None;
        let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
        let mut heard: BTreeMap<u64, Heard> = BTreeMap::new();
        for finding in findings {
            let line = finding.line;
            match &finding.what {
                What::Begin(id) => {
                    let count = begun.entry(id).or_default();
                    running = Some((id, *count));
                    *count += 1;
                }
                What::End(id) => {
                    let nth = begun.get(id.as_str()).map_or(0, |count| count - 1);
                    if let Some(attempt) = self.nth_attempt(vm, id, nth) {
                        attempt.console_closed = true;
                    }
                    // A kernel that has begun to complain goes on about the same.
                    let complains = heard.values().any(|heard| heard.during == running);
                    if !complains {
                        running = None;
                    }
                }
                // What was begun counts even if its end never came.
                What::Complaint { signature, title } => {
                    heard.insert(
                        line,
                        Heard { signature, title, pid: None, during: running, frames: &[] },
                    );
                }
                What::Report(Report { signature, title, pid, frames, .. }) => {
                    let during = heard.get(&line).map_or(running, |heard| heard.during);
                    heard.insert(line, Heard { signature, title, pid: *pid, during, frames });
                }
            }
        }
        for (line, Heard { signature, title, pid, during, frames }) in heard {
            let event = KernelEvent {
                id: signature.id.to_owned(),
                class: signature.class.to_owned(),
                title: title.to_owned(),
                line,
                trace: frames.iter().flat_map(|frame| self.lines_of(frame)).collect(),
            };
            match self.culprit(vm, pid, during) {
                Some(attempt) => {
                    attempt.complaints.push(Complaint { event, severity: signature.severity });
                }
                None => self.kernel_events.push(event),
            }
        }
    }

    /// An address of a call trace with its lines in the source, if they are known.
    fn lines_of(&self, frame: &str) -> Vec<String> {
        match self.symbols.get(frame) {
            Some(resolved) => frames::trace(std::slice::from_ref(resolved)),
            None => vec![frame.to_owned()],
        }
    }

    /// The turn that a complaint is about. A process that is no test's own, such
    /// as a child of one or a thread of the kernel, works for the test that is
    /// `running`.
    fn culprit(
        &mut self,
        vm: u32,
        pid: Option<u32>,
        running: Option<(&str, usize)>,
    ) -> Option<&mut Attempt> {
        let its_own = |a: &Attempt| a.vm == vm && a.pid.is_some() && a.pid == pid;
        let of_running = running
            .and_then(|(id, nth)| self.nth_attempt(vm, id, nth))
            .is_some_and(|attempt| its_own(attempt));
        if of_running || !self.attempts.values().flatten().any(its_own) {
            let (id, nth) = running?;
            return self.nth_attempt(vm, id, nth);
        }
        self.attempts.values_mut().flatten().find(|attempt| its_own(attempt))
    }

    /// One of the turns that a test had on a VM, counted from 0.
    fn nth_attempt(&mut self, vm: u32, id: &str, nth: usize) -> Option<&mut Attempt> {
        self.attempts.get_mut(id)?.iter_mut().filter(|a| a.vm == vm).nth(nth)
    }

    /// The turn of a test that a VM had last.
    fn attempt(&mut self, vm: u32, id: &str) -> Option<&mut Attempt> {
        self.attempts.get_mut(id)?.iter_mut().rev().find(|a| a.vm == vm)
    }
}

/// The attempts of a test by the turn that they belong to. Those of two turns
/// that are had side by side come in any order.
pub(super) fn turns(attempts: &[Attempt]) -> BTreeMap<u32, Vec<&Attempt>> {
    let mut turns: BTreeMap<u32, Vec<&Attempt>> = BTreeMap::new();
    for attempt in attempts {
        turns.entry(attempt.turn).or_default().push(attempt);
    }
    turns
}

/// Whether a VM ended as it should. What QEMU does by itself is forgiven once,
/// and stops the run the second time: no kernel is to blame.
fn in_order(end: &VmEnd) -> bool {
    matches!(
        end,
        VmEnd::Done
            | VmEnd::Saved
            | VmEnd::Replaced { .. }
            | VmEnd::Interrupted
            | VmEnd::QemuGone { .. }
    )
}

/// Which frames of a start count: those with its nonce, without a gap. What
/// comes after the first that is neither is not listened to.
#[derive(Debug, Default)]
struct Session {
    nonce: String,
    restored: bool,
    began_ms: u64,
    next: u64,
    broken: bool,
    /// Whether its guest can trace.
    traced: bool,
    /// How many tests it was told to run.
    runs: u32,
}

impl Session {
    fn accepts(&mut self, sealed: &Sealed) -> bool {
        self.broken |= sealed.nonce != self.nonce || sealed.seq != self.next;
        self.next += 1;
        !self.broken
    }
}
