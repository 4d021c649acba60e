//! Runs the planned tests on as many VMs as it takes.
//!
//! A test that takes its VM with it, or after which the kernel is not to be
//! trusted, costs a new VM and nothing else: the next test starts in a guest
//! that has just come into order. What happened is written to the event stream;
//! what it means is the judge's business.

mod held;
pub mod shell;
mod starts;
mod turn;

pub use held::{Held, Seen, hold};

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use futures_util::future::join_all;
use hmm_protocol::TestId;
use hmm_protocol::catalogue::LONGEST;
use hmm_protocol::wire::HostMessage;
use tokio::time::Duration;

use crate::boot::Recipe;
use crate::context::Context;
use crate::events::{Event, VmEnd};
use crate::plan::{Isolate, Switch};
use crate::stop::Stop;
use crate::vm::{Consoles, Vm};
use starts::Starts;
use turn::{After, Deadline, Hangs, finish, job, run_one};

/// How many tests a VM sees before another takes its place: what is remembered
/// of one VM has bounds.
const TURNS_OF_A_VM: u32 = 200;

/// What the run may take beyond the time that its tests may.
const RUN: Duration = Duration::from_secs(120);

/// What the run may decide for itself.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a test may take, before scaling.
    pub timeout: Duration,
    /// By how much all deadlines are longer, for accelerator and profile.
    pub time_scale: f64,
    /// Feeds what tests leave to chance.
    pub seed: u64,
    /// What tests share.
    pub isolate: Isolate,
    /// How many VMs may run tests at the same time.
    pub jobs: u32,
    /// How often each test has its turn.
    pub repeat: u32,
    /// How often a test that did not pass has another.
    pub retry: u32,
    /// Whether guests may be saved and restored.
    pub snapshot: bool,
    /// Whether traces are demanded.
    pub trace: Option<Switch>,
    /// How long after the run's first order its agent dies, for whoever tests
    /// the harness.
    pub agent_dies: Option<Duration>,
    /// Before which of its steps, counted from 1, a test is held for a debugger.
    /// Then nothing that hangs is noticed.
    pub hold: Option<u32>,
}

#[cfg(test)]
impl Default for Options {
    fn default() -> Self {
        Options {
            timeout: Duration::from_secs(10),
            time_scale: 1.0,
            seed: 1,
            isolate: Isolate::Process,
            jobs: 1,
            repeat: 1,
            retry: 0,
            snapshot: true,
            trace: None,
            agent_dies: None,
            hold: None,
        }
    }
}

/// Runs `tests`, on a kernel that is brought up even if there are none, and
/// writes what happens to the event stream and to `console.log` in `dir`.
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
    let consoles = Consoles::create(dir)?;
    let queue = Queue::of(tests, &options);
    let starts = Starts::new(ctx, recipe, &options, &consoles, tests);
    let starts = &starts;
    let turns = queue.inner.borrow().waiting.len();
    let hangs = Hangs::of(&options);
    let most = (turns as u64).saturating_mul(1 + u64::from(options.retry));
    let tests_may_take = hangs.test() * u32::try_from(most).unwrap_or(u32::MAX);
    let run = Deadline::new("run", tests_may_take + hangs.turn() + RUN.mul_f64(options.time_scale));
    let jobs = (options.jobs as usize).clamp(1, turns.max(1));
    let agent_dies = Cell::new(options.agent_dies);
    let worker = Worker {
        ctx,
        recipe,
        options: &options,
        queue: &queue,
        starts,
        agent_dies: &agent_dies,
        run,
    };
    let ended = join_all((0..jobs).map(|_| worker.work())).await;
    // The user's wish comes before what went wrong meanwhile, and what is wrong
    // with the machine before what is wrong with the kernel.
    ctx.interrupt.check()?;
    ended.into_iter().filter_map(Result::err).max_by_key(Stop::exit_code).map_or(Ok(()), Err)
}

/// One of the turns that are due.
#[derive(Debug, Clone, Copy)]
struct Turn<'a> {
    test: &'a TestId,
    /// Which of the test's turns it is.
    number: u32,
    /// Whether it was lost once to a machine that was gone before it began.
    passed_over: bool,
    /// Whether it wants a VM in which nothing has run.
    fresh: bool,
}

/// The turns that nobody has taken yet.
struct Queue<'a> {
    inner: RefCell<Waiting<'a>>,
}

struct Waiting<'a> {
    waiting: VecDeque<Turn<'a>>,
    /// How many more turns than planned each test has had.
    retried: BTreeMap<&'a TestId, u32>,
    /// Somebody found a reason to stop.
    closed: bool,
}

impl<'a> Queue<'a> {
    fn of(tests: &'a [TestId], options: &Options) -> Self {
        let mut order: Vec<&TestId> = tests.iter().collect();
        if options.jobs > 1 {
            // What takes longest begins first, or its worker is the last.
            let rank = |test: &&TestId| {
                LONGEST.iter().position(|name| *name == test.name).unwrap_or(LONGEST.len())
            };
            order.sort_by_key(rank);
        }
        let fresh = options.isolate == Isolate::Vm;
        let turns = (0..options.repeat).flat_map(|number| {
            order.iter().map(move |test| Turn { test, number, passed_over: false, fresh })
        });
        let waiting = turns.collect();
        let inner = Waiting { waiting, retried: BTreeMap::new(), closed: false };
        Queue { inner: RefCell::new(inner) }
    }

    fn take(&self) -> Option<Turn<'a>> {
        let mut inner = self.inner.borrow_mut();
        if inner.closed { None } else { inner.waiting.pop_front() }
    }

    fn put_back(&self, turn: Turn<'a>) {
        self.inner.borrow_mut().waiting.push_front(turn);
    }

    /// A test that did not pass has another turn, in a fresh VM, as often as
    /// that is allowed.
    fn retry(&self, turn: Turn<'a>, options: &Options) {
        let mut inner = self.inner.borrow_mut();
        let retried = inner.retried.entry(turn.test).or_default();
        if *retried < options.retry {
            let number = options.repeat + *retried;
            *retried += 1;
            inner.waiting.push_front(Turn { number, passed_over: false, fresh: true, ..turn });
        }
    }

    /// Gives no more turns. Returns how many were due, the first time that there
    /// were any.
    fn close(&self) -> Option<usize> {
        let mut inner = self.inner.borrow_mut();
        inner.closed = true;
        let left = std::mem::take(&mut inner.waiting).len();
        (left > 0).then_some(left)
    }
}

/// Whoever takes turns and sees them through, one VM after the other.
struct Worker<'a, 't> {
    ctx: &'a Context,
    recipe: &'a Recipe,
    options: &'a Options,
    queue: &'a Queue<'t>,
    starts: &'a Starts<'a>,
    /// Taken by whoever gives the first order.
    agent_dies: &'a Cell<Option<Duration>>,
    run: Deadline,
}

impl<'a, 't> Worker<'a, 't> {
    async fn work(&self) -> Result<(), Stop> {
        let worked = self.work_on().await;
        if worked.is_err() {
            self.queue.close();
        }
        worked
    }

    async fn work_on(&self) -> Result<(), Stop> {
        let mut idle: Option<Vm<'a>> = None;
        let mut used = 0;
        let mut turn = self.queue.take();
        // Without a test the kernel comes up all the same.
        if turn.is_none() && !self.starts.any() {
            idle = Some(self.starts.ready().await?);
        }
        while let Some(next) = turn {
            if next.fresh || used >= TURNS_OF_A_VM {
                self.close(idle.take()).await?;
            }
            let mut vm = match idle.take() {
                Some(vm) => vm,
                None => {
                    used = 0;
                    self.starts.ready().await?
                }
            };
            used += 1;
            match self.see_through(&mut vm, next).await {
                None => idle = Some(vm),
                Some(Over { end, nobodys_fault }) => {
                    vm.end(end.clone()).await;
                    if nobodys_fault {
                        self.starts.forgive(&end)?;
                    }
                }
            }
            let fit = self.ctx.log.check().and_then(|()| self.ctx.interrupt.check());
            if let Err(stop) = fit {
                if let Some(vm) = idle {
                    let end = match &stop {
                        Stop::Interrupted => VmEnd::Interrupted,
                        other => VmEnd::Replaced { reason: other.to_string() },
                    };
                    vm.end(end).await;
                }
                return Err(stop);
            }
            if self.run.is_over()
                && let Some(left) = self.queue.close()
            {
                let reason = format!("{}; {left} turns were not had", self.run.passed().words());
                self.ctx.log.emit(Event::CutShort { reason });
            }
            turn = self.queue.take();
        }
        self.close(idle).await
    }

    /// Gives a test its turn, and decides what follows from its end. Returns why
    /// the VM is over, if it is.
    async fn see_through(&self, vm: &mut Vm<'a>, turn: Turn<'t>) -> Option<Over> {
        if let Some(after) = self.agent_dies.take() {
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            vm.tell(&HostMessage::Die { after_ms }).await;
        }
        let job = job(turn.test, self.recipe, self.options);
        let id = job.id.clone();
        self.ctx.log.emit(Event::Ordered { vm: vm.number(), id, turn: turn.number });
        let mut nobodys_fault = false;
        let end = match run_one(vm, &job, self.options, self.run).await {
            After::Fit { passed } => {
                if !passed {
                    self.queue.retry(turn, self.options);
                }
                return None;
            }
            After::Over { end: end @ VmEnd::Interrupted, .. } => end,
            // Nobody in the guest is to blame: the test gets its turn again.
            After::Over { end: end @ VmEnd::QemuGone { .. }, told: false, .. } => {
                nobodys_fault = true;
                self.queue.put_back(turn);
                end
            }
            // What the test before it left behind has ended the machine.
            After::Over { end, begun: false, .. } if !turn.passed_over => {
                self.queue.put_back(Turn { passed_over: true, ..turn });
                end
            }
            After::Over { end, .. } => {
                self.queue.retry(turn, self.options);
                end
            }
        };
        Some(Over { end, nobodys_fault })
    }

    /// Closes the session of a VM that nobody needs any more.
    async fn close(&self, vm: Option<Vm<'a>>) -> Result<(), Stop> {
        let Some(mut vm) = vm else { return Ok(()) };
        let end = finish(&mut vm, self.options).await;
        vm.end(end.clone()).await;
        // All that its tests had to say was said before.
        if let VmEnd::QemuGone { .. } = end {
            self.starts.forgive(&end)?;
        }
        self.ctx.log.check()?;
        self.ctx.interrupt.check()
    }
}

/// Why a VM is over, and whether QEMU alone is to blame.
struct Over {
    end: VmEnd,
    nobodys_fault: bool,
}
