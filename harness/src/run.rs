//! Runs the planned tests on as many VMs as it takes.
//!
//! A test that takes its VM with it, or after which the kernel is not to be
//! trusted, costs a new VM and nothing else: the next test starts in a kernel
//! that has just booted. What happened is written to the event stream; what it
//! means is the judge's business.

use std::path::Path;

use hmm_protocol::TestId;
use hmm_protocol::wire::{GuestMessage, HostMessage, Job, Outcome, VERSION};
use tokio::time::{Duration, Instant};

use crate::boot::Recipe;
use crate::console::What;
use crate::context::Context;
use crate::events::{Event, VmEnd};
use crate::flow::Stage;
use crate::stop::{Fault, Stop};
use crate::vm::{ConsoleLog, Happening, Vm};

/// From the start of QEMU to the agent's hello, before scaling.
const BOOT_DEADLINE: Duration = Duration::from_secs(20);

/// From the order to put the guest in order to the word that it is.
const PREPARE_DEADLINE: Duration = Duration::from_secs(10);

/// How much longer than the guest's own deadline for a test the harness waits:
/// the agent kills the test and waits for its end in between.
const TEST_GRACE: Duration = Duration::from_secs(10);

/// From the word that a test finished to the marker that says so on the
/// console.
const CONSOLE_DEADLINE: Duration = Duration::from_secs(5);

/// From the order to finish to the end of QEMU.
const FINISH_DEADLINE: Duration = Duration::from_secs(10);

/// What the run may decide for itself.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a test may take, before scaling.
    pub timeout: Duration,
    /// By how much all deadlines are longer, for accelerator and profile.
    pub time_scale: f64,
    /// Feeds what tests leave to chance.
    pub seed: u64,
}

/// How a test left its VM.
enum After {
    /// Fit for the next test.
    Fit,
    /// Gone, or not fit: why.
    Over {
        end: VmEnd,
        /// Whether anything was seen of the test: its start, or its marker in
        /// the kernel's log.
        begun: bool,
        /// Whether the kernel or the test had said anything that counts.
        told: bool,
    },
}

/// Runs `tests` in their order, on a kernel that is booted even if there are
/// none, and writes what happens to the event stream and
/// to `console.log` in `dir`.
///
/// # Errors
/// [`Stop::Kernel`] when the kernel does not come up, [`Stop::Machine`] when
/// QEMU fails us twice, [`Stop::Interrupted`].
pub async fn tests(
    ctx: &Context,
    recipe: &Recipe,
    tests: &[TestId],
    options: Options,
    dir: &Path,
) -> Result<(), Stop> {
    let mut starts = Starts { ctx, recipe, options, made: 0, forgiven: None };
    let mut console = ConsoleLog::create(dir)?;
    let mut waiting = tests;
    // The test that lost its turn to a machine that was gone before it began.
    let mut passed_over = None;
    let mut closed = false;
    while !closed {
        let mut vm = starts.ready(console, tests).await?;
        let mut nobodys_fault = false;
        let end = loop {
            let Some((test, rest)) = waiting.split_first() else {
                break finish(&mut vm, options).await?;
            };
            let job = job(test, recipe, options);
            ctx.log.emit(Event::Ordered { vm: vm.number(), id: job.id.clone() });
            match run_one(&mut vm, &job, options).await? {
                After::Fit => waiting = rest,
                After::Over { end: end @ VmEnd::Interrupted, .. } => break end,
                // Nobody in the guest is to blame: the test gets its turn
                // again.
                After::Over { end: end @ VmEnd::QemuGone { .. }, told: false, .. } => {
                    nobodys_fault = true;
                    break end;
                }
                // What the test before it left behind has ended the machine.
                After::Over { end, begun: false, .. } if passed_over != Some(test) => {
                    passed_over = Some(test);
                    break end;
                }
                After::Over { end, .. } => {
                    waiting = rest;
                    break end;
                }
            }
        };
        // A session that QEMU left without its last word is closed by another.
        closed = waiting.is_empty();
        if closed && matches!(end, VmEnd::QemuGone { .. }) {
            nobodys_fault = true;
            closed = false;
        }
        console = vm.end(end.clone()).await?;
        if nobodys_fault {
            starts.forgive(&end)?;
        }
        ctx.log.check()?;
        ctx.interrupt.check()?;
    }
    Ok(())
}

/// Starts VMs and brings them to the point where tests can run.
struct Starts<'a> {
    ctx: &'a Context,
    recipe: &'a Recipe,
    options: Options,
    made: u32,
    /// What was already forgiven: once in a run, or it would be hidden.
    forgiven: Option<String>,
}

impl<'a> Starts<'a> {
    /// A VM whose guest is in order.
    async fn ready(&mut self, mut console: ConsoleLog, tests: &[TestId]) -> Result<Vm<'a>, Stop> {
        loop {
            let number = self.made;
            self.made += 1;
            let mut vm = Vm::start(self.ctx, console, self.recipe, number).await?;
            let end = match self.bring_up(&mut vm, tests).await? {
                None => return Ok(vm),
                Some(end) => end,
            };
            let tail = vm.console_tail();
            console = vm.end(end.clone()).await?;
            self.ctx.log.check()?;
            match end {
                VmEnd::Interrupted => return Err(Stop::Interrupted),
                VmEnd::QemuGone { .. } => self.forgive(&end)?,
                VmEnd::Deadline { .. } if self.forgiven.is_none() => self.forgive(&end)?,
                VmEnd::Agent { .. } => {
                    let fault = Fault::new(format!("the guest is not ours: {}", describe(&end)));
                    return Err(Stop::Machine(fault.at(Stage::Boot).details(tail)));
                }
                end => {
                    let why = match end {
                        // What the agent could not do, in its own words.
                        VmEnd::Replaced { reason } => reason,
                        end => describe(&end),
                    };
                    let fault = Fault::new(format!("the kernel does not boot: {why}"))
                        .at(Stage::Boot)
                        .details(tail)
                        .hint("qemu.cmd in the run directory boots the same kernel by hand");
                    return Err(Stop::Kernel(fault));
                }
            }
        }
    }

    /// From the start to a guest in order. Returns why it did not come so far.
    async fn bring_up(&self, vm: &mut Vm<'_>, tests: &[TestId]) -> Result<Option<VmEnd>, Stop> {
        let boot = BOOT_DEADLINE.mul_f64(self.options.time_scale);
        match answer(vm, "boot", boot).await? {
            Ok(GuestMessage::Hello { protocol: VERSION, .. }) => {}
            Ok(GuestMessage::Hello { protocol, .. }) => {
                let what = format!("it speaks protocol {protocol} where {VERSION} is spoken here");
                return Ok(Some(VmEnd::Agent { what }));
            }
            Ok(other) => return Ok(Some(unexpected(&other))),
            Err(end) => return Ok(Some(end)),
        }
        vm.tell(&HostMessage::Prepare(self.recipe.prepare.clone())).await;
        let prepare = PREPARE_DEADLINE.mul_f64(self.options.time_scale);
        match answer(vm, "prepare", prepare).await? {
            Ok(GuestMessage::Prepared { tests: known, .. }) => {
                match tests.iter().find(|t| !known.iter().any(|k| k == t.name)) {
                    None => Ok(None),
                    Some(test) => Ok(Some(VmEnd::Agent { what: format!("it has no test {test}") })),
                }
            }
            // It is this kernel that cannot do what every guest needs.
            Ok(refused @ GuestMessage::Refused { .. }) => {
                let what = crate::events::describe(&refused);
                Ok(Some(VmEnd::Replaced { reason: what }))
            }
            Ok(other) => Ok(Some(unexpected(&other))),
            Err(end) => Ok(Some(end)),
        }
    }

    /// Forgives a failure of QEMU, and says so.
    ///
    /// # Errors
    /// The second time.
    fn forgive(&mut self, end: &VmEnd) -> Result<(), Stop> {
        let what = describe(end);
        if let Some(before) = self.forgiven.replace(what.clone()) {
            let details = match end {
                VmEnd::QemuGone { tail, .. } => tail.clone(),
                _ => Vec::new(),
            };
            return Err(Stop::Machine(
                Fault::new(format!("{what}; and before that: {before}"))
                    .at(Stage::Run)
                    .details(details)
                    .hint("qemu.cmd in the run directory starts the same machine by hand"),
            ));
        }
        self.ctx.log.note(format!("{what}; starting once more"));
        Ok(())
    }
}

/// What the guest is told about a test.
fn job(test: &TestId, recipe: &Recipe, options: Options) -> Job {
    let timeout = options.timeout.mul_f64(options.time_scale);
    Job {
        id: test.to_string(),
        name: test.name.to_owned(),
        device: test.device,
        seed: options.seed,
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        abi: recipe.abi.clone(),
    }
}

/// Runs one test to its end, or the VM to its.
async fn run_one(vm: &mut Vm<'_>, job: &Job, options: Options) -> Result<After, Stop> {
    vm.tell(&HostMessage::Run(job.clone())).await;
    let limit = Duration::from_millis(job.timeout_ms) + TEST_GRACE.mul_f64(options.time_scale);
    let mut deadline = Deadline::new("test", limit);
    let mut complaint = None;
    let mut finished = None;
    let mut started = false;
    let mut begun = false;
    let mut marked = false;
    let end = loop {
        match vm.next(deadline.at).await? {
            Happening::Said(GuestMessage::Finished { id, outcome, health, .. })
                if id == job.id && started && finished.is_none() =>
            {
                finished = Some((outcome, health));
                deadline = Deadline::new("console", CONSOLE_DEADLINE.mul_f64(options.time_scale));
            }
            Happening::Said(GuestMessage::Started { id, .. }) if id == job.id => {
                (started, begun) = (true, true);
            }
            Happening::Said(GuestMessage::Step { id, .. }) if id == job.id => {}
            Happening::Said(other) => break unexpected(&other),
            Happening::Console(finding) => match finding.what {
                What::Begin(id) => begun |= id == job.id,
                What::End(id) => marked |= id == job.id,
                What::Complaint { title, .. } => {
                    complaint.get_or_insert(title);
                }
            },
            Happening::Gone(end) => break end,
            Happening::Interrupted => break VmEnd::Interrupted,
            Happening::Deadline => break deadline.passed(),
        }
        let Some((outcome, health)) = finished.as_ref().filter(|_| marked) else { continue };
        let counters_rose = health.warnings + health.oopses > 0;
        let reason = match (outcome, &complaint) {
            (_, Some(title)) => title.clone(),
            (Outcome::TimedOut { .. }, None) => "a test had to be killed".to_owned(),
            _ if counters_rose || health.taint_before != health.taint_after => {
                "the kernel's taint or its warning counters changed".to_owned()
            }
            _ => return Ok(After::Fit),
        };
        break VmEnd::Replaced { reason };
    };
    Ok(After::Over { end, begun, told: complaint.is_some() || finished.is_some() })
}

/// Asks the agent for its last word and waits for the guest to power off.
async fn finish(vm: &mut Vm<'_>, options: Options) -> Result<VmEnd, Stop> {
    vm.tell(&HostMessage::Finish).await;
    let deadline = Deadline::new("finish", FINISH_DEADLINE.mul_f64(options.time_scale));
    let mut done = false;
    loop {
        match vm.next(deadline.at).await? {
            Happening::Said(GuestMessage::Done { .. }) => done = true,
            Happening::Said(other) => return Ok(unexpected(&other)),
            Happening::Console(_) => {}
            Happening::Gone(VmEnd::GuestGone { how }) if done && how == "guest-shutdown" => {
                return Ok(VmEnd::Done);
            }
            Happening::Gone(end) => return Ok(end),
            Happening::Interrupted => return Ok(VmEnd::Interrupted),
            Happening::Deadline => return Ok(deadline.passed()),
        }
    }
}

/// Waits for the agent's next word, whatever the console says meanwhile.
async fn answer(
    vm: &mut Vm<'_>,
    name: &'static str,
    limit: Duration,
) -> Result<Result<GuestMessage, VmEnd>, Stop> {
    let deadline = Deadline::new(name, limit);
    loop {
        match vm.next(deadline.at).await? {
            Happening::Said(message) => return Ok(Ok(message)),
            Happening::Console(_) => {}
            Happening::Gone(end) => return Ok(Err(end)),
            Happening::Interrupted => return Ok(Err(VmEnd::Interrupted)),
            Happening::Deadline => return Ok(Err(deadline.passed())),
        }
    }
}

/// A point in time with the name under which it is reported.
struct Deadline {
    name: &'static str,
    limit: Duration,
    at: Instant,
}

impl Deadline {
    fn new(name: &'static str, limit: Duration) -> Self {
        Deadline { name, limit, at: Instant::now() + limit }
    }

    fn passed(&self) -> VmEnd {
        let ms = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
        VmEnd::Deadline { name: self.name.to_owned(), ms }
    }
}

/// The agent said what does not belong here.
fn unexpected(message: &GuestMessage) -> VmEnd {
    VmEnd::Agent { what: crate::events::describe(message) }
}

/// Why a VM is gone, in words.
pub fn describe(end: &VmEnd) -> String {
    match end {
        VmEnd::Done => "it powered off as it was told".into(),
        VmEnd::Replaced { reason } => format!("a fresh kernel was due: {reason}"),
        VmEnd::GuestGone { how } if how == "guest-reset" => "the guest reset itself".into(),
        VmEnd::GuestGone { how } if how == "guest-shutdown" => {
            "the guest powered itself off".into()
        }
        VmEnd::GuestGone { how } => format!("the guest is gone: {how}"),
        VmEnd::QemuGone { code, .. } => format!("QEMU ended with {code} without a word"),
        VmEnd::Deadline { name, ms } => {
            format!("the {name} deadline of {:.1} s passed", *ms as f64 / 1000.0)
        }
        VmEnd::Agent { what } => format!("the agent failed: {what}"),
        VmEnd::Interrupted => "interrupted".into(),
    }
}
