//! One turn of a test on a VM, and how long each part of it may take.

use hmm_protocol::TestId;
use hmm_protocol::wire::{GuestMessage, HostMessage, Job, Outcome, Setting};
use tokio::time::{Duration, Instant};

use super::Options;
use crate::boot::Recipe;
use crate::console::{Severity, What};
use crate::events::VmEnd;
use crate::vm::{Happening, Vm};

/// From the start of QEMU to the agent's hello, before scaling.
pub(super) const BOOT: Duration = Duration::from_secs(20);

/// From the start of a QEMU that restores a guest to its hello.
pub(super) const RESTORE: Duration = Duration::from_secs(10);

/// From the order to put the guest in order to the word that it is, and the
/// same for what comes from the host.
pub(super) const PREPARE: Duration = Duration::from_secs(10);

/// From the order to save a guest to its end.
pub(super) const SAVE: Duration = Duration::from_secs(20);

/// From the word that a test finished to the marker that says so on the
/// console.
pub(super) const CONSOLE: Duration = Duration::from_secs(5);

/// How long a test may go on after its kernel broke: what it waits for may be
/// held by what is broken.
const AFTERMATH: Duration = Duration::from_secs(4);

/// How long a kernel that has begun to complain may take to end its report,
/// after the test is over.
const REPORT: Duration = Duration::from_secs(1);

/// From the order to finish to the end of QEMU.
const FINISH: Duration = Duration::from_secs(10);

/// Who may notice that something hangs, in this order (but for a test that may
/// take minutes, since a lockup cannot be told later than after two), so that
/// whoever knows most speaks first: the agent, by the test's own deadline; the kernel, of a
/// task that sleeps and of one that spins; the harness, of a guest that says
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hangs {
    /// How long a test may take.
    test: Duration,
    /// `hung_task_timeout_secs`: the agent has killed the test by then.
    hung_task_s: u64,
    /// `watchdog_thresh`: a lockup is told after twice this time.
    watchdog_s: u64,
    /// How long the agent may say nothing while a test runs.
    silence: Duration,
}

impl Hangs {
    pub(super) fn of(options: &Options) -> Self {
        /// The agent waits this long for a test that it has killed, and a little
        /// more passes until it has said so.
        const KILL: Duration = Duration::from_secs(7);
        /// How often the kernel looks for hung tasks.
        const LOOK: Duration = Duration::from_secs(2);
        /// What /proc/sys/kernel/watchdog_thresh takes at most.
        const WATCHDOG_MAX_S: u64 = 60;
        let seconds = |time: Duration| time.as_millis().div_ceil(1000) as u64;
        // The kernel's clock is not slower where its work is; but whoever is in a
        // hurry is so here too.
        let haste = options.time_scale.min(1.0);
        let test = options.timeout.mul_f64(options.time_scale);
        let hung_task = test + KILL.mul_f64(haste);
        // A lockup is told after twice the threshold, for which it is looked five
        // times in this time.
        let lockup = hung_task + 2 * LOOK.mul_f64(haste);
        let silence = lockup + lockup / 4 + CONSOLE.mul_f64(options.time_scale);
        Hangs {
            test,
            hung_task_s: seconds(hung_task),
            watchdog_s: seconds(lockup).div_ceil(2).min(WATCHDOG_MAX_S),
            silence,
        }
    }

    /// The longest that a turn takes, whatever happens in it.
    pub(super) fn turn(&self) -> Duration {
        self.test + self.silence
    }

    /// How long a test may take.
    pub(super) fn test(&self) -> Duration {
        self.test
    }

    /// What the kernel is told of it.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let setting = |name: &str, value: u64| optional("/proc/sys/kernel", name, value);
        vec![
            setting("hung_task_timeout_secs", self.hung_task_s),
            setting("hung_task_check_interval_secs", 2),
            setting("watchdog_thresh", self.watchdog_s),
        ]
    }
}

/// A setting that not every kernel has.
fn optional(dir: &str, name: &str, value: u64) -> Setting {
    Setting { path: format!("{dir}/{name}"), value: value.to_string(), optional: true }
}

/// What a kernel is told that somebody debugs: time passes for it while it stands
/// still, and nothing of that is a lockup, a stall or a hang. An oops ends it at once,
/// so that it can be looked at where it happened.
pub(super) fn unwatched() -> Vec<Setting> {
    vec![
        optional("/proc/sys/kernel", "hung_task_timeout_secs", 0),
        optional("/proc/sys/kernel", "watchdog", 0),
        optional("/proc/sys/kernel", "panic_on_oops", 1),
        optional("/sys/module/rcupdate/parameters", "rcu_cpu_stall_suppress", 1),
        optional("/sys/module/workqueue/parameters", "watchdog_thresh", 0),
    ]
}

/// How a turn left its VM.
pub(super) enum After {
    /// Fit for the next test. Whether the test itself was content.
    Fit { passed: bool },
    /// Gone, or not fit: why.
    Over {
        end: VmEnd,
        /// Whether anything was seen of the test: its start, or its marker in
        /// the kernel's log.
        begun: bool,
        /// Whether the kernel or the test had said anything against the test.
        told: bool,
    },
}

/// How long a test may take that somebody debugs.
const A_SESSION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What the guest is told about a test.
pub(super) fn job(test: &TestId, recipe: &Recipe, options: &Options) -> Job {
    let timeout = if options.hold.is_some() { A_SESSION } else { Hangs::of(options).test };
    Job {
        id: test.to_string(),
        name: test.name.to_owned(),
        device: test.device,
        seed: options.seed,
        timeout_ms: millis(timeout),
        trace: recipe.prepare.trace.is_some(),
        hold: options.hold,
        abi: recipe.abi.clone(),
    }
}

/// Runs one test to its end, or the VM to its.
pub(super) async fn run_one(vm: &mut Vm<'_>, job: &Job, options: &Options, run: Deadline) -> After {
    let hangs = Hangs::of(options);
    vm.order(job.clone()).await;
    // An agent that lives and does not end the test is as bad as a dead one.
    let test = Deadline::new("test", hangs.turn());
    let mut silence = Deadline::new("silence", hangs.silence);
    let mut console = None;
    let mut report: Option<Deadline> = None;
    let mut aftermath = test;
    let mut complaint = None;
    let mut finished = None;
    let mut started = false;
    let mut begun = false;
    let mut marked = false;
    let mut traced = false;
    let end = loop {
        let next = match (&report, &console) {
            (Some(report), _) => *report,
            (None, Some(console)) => Deadline::first([console, &run]),
            (None, None) => Deadline::first([&test, &aftermath, &silence, &run]),
        };
        match vm.next(next.at).await {
            Happening::Said(message) => {
                silence = Deadline::new("silence", hangs.silence);
                match message {
                    GuestMessage::Finished { id, outcome, health, capture, .. }
                        if id == job.id && started && finished.is_none() =>
                    {
                        match capture {
                            Some(capture) => vm.expect_trace(capture.chunks),
                            None => traced = true,
                        }
                        finished = Some((outcome, health));
                        console =
                            Some(Deadline::new("console", CONSOLE.mul_f64(options.time_scale)));
                    }
                    GuestMessage::Started { id, .. } if id == job.id => {
                        (started, begun) = (true, true);
                    }
                    GuestMessage::Step { id, .. } | GuestMessage::Alive { id } if id == job.id => {}
                    other => break unexpected(&other),
                }
            }
            Happening::Console(finding) => match finding.what {
                What::Begin(id) => begun |= id == job.id,
                What::End(id) => marked |= id == job.id,
                What::Complaint { title, signature } => {
                    if signature.severity == Severity::Fatal && aftermath.at == test.at {
                        let limit = AFTERMATH.mul_f64(options.time_scale);
                        aftermath = Deadline::new("aftermath", limit);
                    }
                    complaint.get_or_insert(title);
                }
                What::Report(_) => {}
            },
            Happening::Traced => traced = true,
            Happening::Saved(_) | Happening::Stands(_) => {}
            Happening::Gone(end) => break end,
            Happening::Interrupted => break VmEnd::Interrupted,
            // What does not arrive in time is missing, and nobody else's fault.
            Happening::Deadline if finished.is_some() && marked && !traced => {
                break VmEnd::Replaced { reason: "a trace did not arrive".into() };
            }
            // Half a report is better than none.
            Happening::Deadline if report.is_some() => {}
            Happening::Deadline => break next.passed(),
        }
        let Some((outcome, health)) = finished.as_ref().filter(|_| marked && traced) else {
            continue;
        };
        if vm.in_report() {
            let until = report.get_or_insert(Deadline::new("report", REPORT));
            if !until.is_over() {
                continue;
            }
        }
        let reason = match (outcome, &complaint) {
            (_, Some(title)) => title.clone(),
            (Outcome::TimedOut { .. }, None) => "a test had to be killed".to_owned(),
            _ if !health.is_unchanged() => {
                "the kernel's taint or its warning counters changed".to_owned()
            }
            (_, None) if job.trace && vm.is_trace_lost() => {
                "what comes through its trace port is no trace".to_owned()
            }
            (outcome, None) => return After::Fit { passed: *outcome == Outcome::Passed },
        };
        break VmEnd::Replaced { reason };
    };
    let failed = finished
        .is_some_and(|(outcome, health)| outcome != Outcome::Passed || !health.is_unchanged());
    After::Over { end, begun, told: complaint.is_some() || failed }
}

/// Asks the agent for its last word and waits for the guest to power off.
pub(super) async fn finish(vm: &mut Vm<'_>, options: &Options) -> VmEnd {
    vm.tell(&HostMessage::Finish).await;
    let deadline = Deadline::new("finish", FINISH.mul_f64(options.time_scale));
    let mut done = false;
    loop {
        match vm.next(deadline.at).await {
            Happening::Said(GuestMessage::Done { .. }) => done = true,
            Happening::Said(other) => return unexpected(&other),
            Happening::Console(_)
            | Happening::Saved(_)
            | Happening::Stands(_)
            | Happening::Traced => {}
            Happening::Gone(VmEnd::GuestGone { how }) if done && how == "guest-shutdown" => {
                return VmEnd::Done;
            }
            Happening::Gone(end) => return end,
            Happening::Interrupted => return VmEnd::Interrupted,
            Happening::Deadline => return deadline.passed(),
        }
    }
}

/// Waits for the agent's next word, whatever the console says meanwhile.
pub(super) async fn answer(vm: &mut Vm<'_>, deadline: &Deadline) -> Result<GuestMessage, VmEnd> {
    loop {
        match vm.next(deadline.at).await {
            Happening::Said(message) => return Ok(message),
            Happening::Console(_)
            | Happening::Saved(_)
            | Happening::Stands(_)
            | Happening::Traced => {}
            Happening::Gone(end) => return Err(end),
            Happening::Interrupted => return Err(VmEnd::Interrupted),
            Happening::Deadline => return Err(deadline.passed()),
        }
    }
}

/// A point in time with the name under which it is reported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    name: &'static str,
    limit: Duration,
    pub(super) at: Instant,
}

impl Deadline {
    pub(super) fn new(name: &'static str, limit: Duration) -> Self {
        Deadline { name, limit, at: Instant::now() + limit }
    }

    /// The one that passes first.
    fn first<const N: usize>(deadlines: [&Deadline; N]) -> Deadline {
        *deadlines.into_iter().min_by_key(|d| d.at).expect("there is one")
    }

    pub(super) fn passed(&self) -> VmEnd {
        VmEnd::Deadline { name: self.name.to_owned(), ms: millis(self.limit) }
    }

    /// Whether there is no time left.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.at
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The agent said what does not belong here.
pub(super) fn unexpected(message: &GuestMessage) -> VmEnd {
    VmEnd::Agent { what: crate::events::describe(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_debugged_kernel_is_a_hang() {
        let settings = unwatched();
        let watched = Hangs::of(&Options::default()).settings();
        for Setting { path, .. } in watched.iter().filter(|s| s.path.ends_with("_timeout_secs")) {
            assert!(settings.iter().any(|s| s.path == *path && s.value == "0"), "{path}");
        }
        assert!(settings.iter().all(|s| s.optional));
    }

    #[test]
    fn whoever_knows_most_of_a_hang_speaks_first() {
        for (seconds, scale) in [(1, 1.0), (2, 3.0), (10, 1.0), (10, 3.0)] {
            let timeout = Duration::from_secs(seconds);
            let hangs = Hangs::of(&Options { timeout, time_scale: scale, ..Options::default() });
            let hung_task = Duration::from_secs(hangs.hung_task_s);
            let lockup = Duration::from_secs(hangs.watchdog_s * 2);
            assert!(hangs.test < hung_task, "{hangs:?}");
            assert!(hung_task < lockup, "{hangs:?}");
            assert!(lockup < hangs.silence, "{hangs:?}");
        }
    }
}
