//! Brings VMs to the point where tests can run: by a boot, or from a guest that
//! was saved there.

use std::cell::{Cell, RefCell};

use hmm_protocol::TestId;
use hmm_protocol::wire::{Attach, GuestMessage, HostMessage, VERSION};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::Options;
use super::turn::{BOOT, Deadline, Hangs, PREPARE, RESTORE, SAVE, answer, unexpected, unwatched};
use crate::boot::{Recipe, cannot_trace};
use crate::console::{Scanner, What};
use crate::context::Context;
use crate::events::VmEnd;
use crate::flow::Stage;
use crate::plan::Switch;
use crate::snapshot::{self, CONSOLE, Facts, STATE, Snapshot};
use crate::stop::{Fault, Stop};
use crate::trace;
use crate::vm::{Consoles, Happening, Vm};

/// How often a saved guest may disappoint before the run boots each VM.
const DOUBTS: u32 = 2;

/// Why a kernel's guests are not saved.
const COMPLAINS: &str = "the kernel complains while it boots, so each VM boots";

/// By how much a restored guest's clock may be ahead of what it should be.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// Starts the VMs of a run.
pub(super) struct Starts<'a> {
    ctx: &'a Context,
    consoles: &'a Consoles,
    recipe: &'a Recipe,
    options: Options,
    attach: Attach,
    tests: &'a [TestId],
    made: Cell<u32>,
    /// What was already forgiven: once in a run, or it would be hidden.
    forgiven: RefCell<Option<String>>,
    /// How many VMs had been started when one that came up too late was forgiven:
    /// once in a run, too. What made it late may have made those late as well that
    /// were starting beside it.
    late: Cell<Option<u32>>,
    /// One worker looks for the saved guest, or makes it; the others wait.
    saved: Mutex<Saved>,
    doubts: Cell<u32>,
    /// Why the guest cannot trace, where that is demanded.
    untraceable: RefCell<Option<String>>,
}

/// The guest from which VMs start.
enum Saved {
    /// Nobody has looked.
    Unknown,
    /// This one.
    Is(Snapshot),
    /// There is none: each VM boots.
    None,
    /// The kernel did not come up, and need not be tried by each worker.
    Failed(Stop),
}

/// A guest that is in order, but for what comes from the host.
struct Prepared<'a> {
    vm: Vm<'a>,
    release: String,
    boot_id: String,
    uptime_us: u64,
    taint: u64,
    untraceable: Option<String>,
}

impl<'a> Starts<'a> {
    pub(super) fn new(
        ctx: &'a Context,
        recipe: &'a Recipe,
        options: &Options,
        consoles: &'a Consoles,
        tests: &'a [TestId],
    ) -> Self {
        let mut attach = recipe.attach.clone();
        attach.settings.extend(match options.hold {
            None => Hangs::of(options).settings(),
            Some(_) => unwatched(),
        });
        Starts {
            ctx,
            consoles,
            recipe,
            options: *options,
            attach,
            tests,
            made: Cell::new(0),
            forgiven: RefCell::new(None),
            late: Cell::new(None),
            saved: Mutex::new(if options.snapshot { Saved::Unknown } else { Saved::None }),
            doubts: Cell::new(0),
            untraceable: RefCell::new(None),
        }
    }

    /// Whether any VM was started.
    pub(super) fn any(&self) -> bool {
        self.made.get() > 0
    }

    /// A VM in which tests can run.
    pub(super) async fn ready(&self) -> Result<Vm<'a>, Stop> {
        loop {
            if let Some(snapshot) = self.snapshot().await? {
                match self.restored(&snapshot).await? {
                    Some(vm) => return self.traceable(vm).await,
                    None => continue,
                }
            }
            let mut vm = self.prepared().await?.vm;
            match self.attach(&mut vm).await {
                None => return self.traceable(vm).await,
                Some(end) => self.failed(vm, end).await?,
            }
        }
    }

    /// A VM that is ready, unless traces are demanded and it has none.
    async fn traceable(&self, vm: Vm<'a>) -> Result<Vm<'a>, Stop> {
        let Some(why) = self.untraceable.take() else { return Ok(vm) };
        vm.end(VmEnd::Replaced { reason: format!("nothing can be traced: {why}") }).await;
        Err(cannot_trace(&why))
    }

    /// The guest to start from, made if it has to be.
    async fn snapshot(&self) -> Result<Option<Snapshot>, Stop> {
        let mut saved = self.saved.lock().await;
        if let Saved::Unknown = *saved {
            let key = self.recipe.snapshot_key();
            *saved = match Snapshot::find(&self.ctx.store, &key) {
                Some(snapshot) => self.found(snapshot)?,
                None => self.make_snapshot(&key).await.unwrap_or_else(Saved::Failed),
            };
        }
        match &*saved {
            Saved::Is(snapshot) => Ok(Some(snapshot.clone())),
            Saved::Unknown | Saved::None => Ok(None),
            Saved::Failed(stop) => Err(stop.clone()),
        }
    }

    /// A guest that another run has saved. Its boot is a part of what happened
    /// here, and judged by what is known of complaints now.
    fn found(&self, snapshot: Snapshot) -> Result<Saved, Stop> {
        let console = match snapshot.console() {
            Ok(console) => console,
            Err(error) => {
                snapshot.discard();
                self.ctx.log.note(format!("the saved guest is thrown away: {error:#}"));
                return Ok(Saved::None);
            }
        };
        let complains = Scanner::default()
            .push(&console)
            .iter()
            .any(|f| matches!(f.what, What::Complaint { .. }));
        if complains {
            snapshot.discard();
            self.ctx.log.note(COMPLAINS);
            return Ok(Saved::None);
        }
        self.consoles.append(&console)?;
        Ok(Saved::Is(snapshot))
    }

    /// Boots a guest and saves it. That it cannot be saved is told and costs
    /// time; that the kernel does not come up is the end.
    async fn make_snapshot(&self, key: &str) -> Result<Saved, Stop> {
        let Prepared { mut vm, release, boot_id, uptime_us, taint, untraceable } =
            self.prepared().await?;
        if let Some(why) = untraceable {
            // Every later run would be without traces, whatever the reason was.
            let end = VmEnd::Replaced { reason: "nothing can be traced in it".into() };
            return Ok(self.not_saved(vm, end, format!("nothing can be traced: {why}")).await);
        }
        let draft = snapshot::draft(&self.ctx.store).and_then(|draft| {
            let state = std::fs::File::create_new(draft.path().join(STATE))?;
            Ok((draft, state))
        });
        let (draft, state) = match draft {
            Ok(made) => made,
            Err(error) => {
                let end = VmEnd::Replaced { reason: "it could not be saved".into() };
                return Ok(self.not_saved(vm, end, format!("{error:#}")).await);
            }
        };
        vm.save(&state).await;
        let deadline = Deadline::new("save", SAVE.mul_f64(self.options.time_scale));
        loop {
            let end = match vm.next(deadline.at).await {
                Happening::Saved(Ok(())) => break,
                Happening::Saved(Err(why)) => VmEnd::Replaced { reason: why },
                Happening::Console(_) | Happening::Stands(_) | Happening::Traced => continue,
                Happening::Said(other) => unexpected(&other),
                Happening::Gone(end) => end,
                Happening::Deadline => deadline.passed(),
                Happening::Interrupted => {
                    vm.end(VmEnd::Interrupted).await;
                    return Err(Stop::Interrupted);
                }
            };
            // What was written of it may be all that the disk had room for.
            let _ = state.set_len(0);
            drop(draft);
            let why = match &end {
                VmEnd::Replaced { reason } => reason.clone(),
                end => end.words(),
            };
            return Ok(self.not_saved(vm, end, why).await);
        }
        let remains = vm.end(VmEnd::Saved).await;
        self.ctx.log.check()?;
        if remains.complained || taint != 0 {
            // Each VM of such a kernel shall say it again.
            self.ctx.log.note(COMPLAINS);
            return Ok(Saved::None);
        }
        let publish = || -> anyhow::Result<Snapshot> {
            state.sync_data()?;
            let facts = Facts { release, boot_id, uptime_us };
            std::fs::write(draft.path().join(CONSOLE), self.consoles.read(remains.console)?)?;
            Snapshot::publish(&self.ctx.store, key, draft, facts)
        };
        Ok(match publish() {
            Ok(snapshot) => Saved::Is(snapshot),
            Err(error) => {
                self.ctx.log.note(format!("no guest is saved, so each VM boots: {error:#}"));
                Saved::None
            }
        })
    }

    async fn not_saved(&self, vm: Vm<'a>, end: VmEnd, why: String) -> Saved {
        vm.end(end).await;
        self.ctx.log.note(format!("no guest is saved, so each VM boots: {why}"));
        Saved::None
    }

    /// A copy of a saved guest, verified; `None` if it is not to be trusted.
    async fn restored(&self, snapshot: &Snapshot) -> Result<Option<Vm<'a>>, Stop> {
        let state = match snapshot.open() {
            Ok(state) => state,
            Err(error) => {
                self.doubt(snapshot, &format!("{error:#}")).await;
                return Ok(None);
            }
        };
        let began = Instant::now();
        let mut vm = self.start(Some(state)).await?;
        let deadline = Deadline::new("restore", RESTORE.mul_f64(self.options.time_scale));
        let wrong = match answer(&mut vm, &deadline).await {
            Ok(GuestMessage::Hello { protocol: VERSION, release, boot_id, uptime_us }) => {
                let seen = Facts { release, boot_id, uptime_us };
                let save = SAVE.mul_f64(self.options.time_scale);
                difference(&snapshot.facts, &seen, began.elapsed() + save)
                    .map(|what| VmEnd::Replaced { reason: what })
            }
            Ok(other) => Some(unexpected(&other)),
            Err(end) => Some(end),
        };
        let end = match wrong {
            None => self.attach(&mut vm).await,
            wrong => wrong,
        };
        let Some(end) = end else { return Ok(Some(vm)) };
        vm.end(end.clone()).await;
        if end == VmEnd::Interrupted {
            return Err(Stop::Interrupted);
        }
        self.ctx.log.check()?;
        self.doubt(snapshot, &end.words()).await;
        Ok(None)
    }

    /// Throws a saved guest away. Another worker may have done so already.
    async fn doubt(&self, snapshot: &Snapshot, why: &str) {
        let mut saved = self.saved.lock().await;
        if !matches!(&*saved, Saved::Is(now) if now.facts.boot_id == snapshot.facts.boot_id) {
            return;
        }
        snapshot.discard();
        self.doubts.set(self.doubts.get() + 1);
        self.ctx.log.note(format!("the saved guest is thrown away: {why}"));
        *saved = if self.doubts.get() < DOUBTS { Saved::Unknown } else { Saved::None };
    }

    /// A VM that has booted and is in order, but for what comes from the host.
    async fn prepared(&self) -> Result<Prepared<'a>, Stop> {
        loop {
            let mut vm = self.start(None).await?;
            let scale = self.options.time_scale;
            let boot = Deadline::new("boot", BOOT.mul_f64(scale));
            let hello = answer(&mut vm, &boot).await;
            let end = match hello {
                Ok(GuestMessage::Hello { protocol: VERSION, release, boot_id, .. }) => {
                    vm.tell(&HostMessage::Prepare(self.recipe.prepare.clone())).await;
                    let prepare = Deadline::new("prepare", PREPARE.mul_f64(scale));
                    match answer(&mut vm, &prepare).await {
                        Ok(GuestMessage::Prepared { taint, uptime_us, untraceable }) => {
                            return Ok(Prepared {
                                vm,
                                release,
                                boot_id,
                                uptime_us,
                                taint,
                                untraceable,
                            });
                        }
                        Ok(other) => refused_or_unexpected(&other),
                        Err(end) => end,
                    }
                }
                Ok(GuestMessage::Hello { protocol, .. }) => {
                    let what =
                        format!("it speaks protocol {protocol} where {VERSION} is spoken here");
                    VmEnd::Agent { what }
                }
                Ok(other) => unexpected(&other),
                Err(end) => end,
            };
            self.failed(vm, end).await?;
        }
    }

    /// Gives a guest in order what comes from the host. Returns why it could
    /// not.
    async fn attach(&self, vm: &mut Vm<'a>) -> Option<VmEnd> {
        vm.tell(&HostMessage::Attach(self.attach.clone())).await;
        let attach = Deadline::new("attach", PREPARE.mul_f64(self.options.time_scale));
        match answer(vm, &attach).await {
            Ok(GuestMessage::Attached { tests: known, trace, .. }) => {
                let unavailable = trace.as_ref().map_or_else(
                    || Some("the guest says nothing of it".to_owned()),
                    trace::unavailable,
                );
                match unavailable {
                    None => vm.can_trace(),
                    Some(why) if self.options.trace == Some(Switch::On) => {
                        self.untraceable.replace(Some(why));
                    }
                    Some(_) => {}
                }
                let missing = self.tests.iter().find(|t| !known.iter().any(|k| k == t.name));
                missing.map(|test| VmEnd::Agent { what: format!("it has no test {test}") })
            }
            Ok(other) => Some(refused_or_unexpected(&other)),
            Err(end) => Some(end),
        }
    }

    async fn start(&self, state: Option<std::fs::File>) -> Result<Vm<'a>, Stop> {
        let number = self.made.get();
        self.made.set(number + 1);
        Ok(Vm::start(self.ctx, self.consoles, self.recipe, number, state).await?)
    }

    /// Ends a VM that did not come up after a boot.
    ///
    /// # Errors
    /// Unless it may be tried once more.
    async fn failed(&self, vm: Vm<'a>, end: VmEnd) -> Result<(), Stop> {
        let (tail, number) = (vm.console_tail(), vm.number());
        vm.end(end.clone()).await;
        self.ctx.log.check()?;
        match end {
            VmEnd::Interrupted => Err(Stop::Interrupted),
            VmEnd::QemuGone { .. } => self.forgive(&end),
            VmEnd::Deadline { .. } if self.late.get().is_none_or(|made| number < made) => {
                self.late.set(Some(self.late.get().unwrap_or(self.made.get())));
                self.ctx.log.note(format!("{}, which is forgiven once", end.words()));
                Ok(())
            }
            VmEnd::Agent { .. } => {
                let fault = Fault::new(format!("the guest is not ours: {}", end.words()));
                Err(Stop::Machine(fault.at(Stage::Boot).details(tail)))
            }
            end => {
                let why = match end {
                    // What the agent could not do, in its own words.
                    VmEnd::Replaced { reason } => reason,
                    end => end.words(),
                };
                let fault = Fault::new(format!("the kernel does not boot: {why}"))
                    .at(Stage::Boot)
                    .details(tail)
                    .hint("qemu.cmd in the run directory boots the same kernel by hand");
                Err(Stop::Kernel(fault))
            }
        }
    }

    /// Forgives a failure of QEMU, and says so.
    ///
    /// # Errors
    /// The second time.
    pub(super) fn forgive(&self, end: &VmEnd) -> Result<(), Stop> {
        let what = end.words();
        if let Some(before) = self.forgiven.replace(Some(what.clone())) {
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
        self.ctx.log.note(format!("{what}, which is forgiven once"));
        Ok(())
    }
}

/// What the agent said instead of the answer. If it refused, it is this kernel
/// that cannot do what every guest needs.
fn refused_or_unexpected(message: &GuestMessage) -> VmEnd {
    match message {
        GuestMessage::Refused { .. } => {
            VmEnd::Replaced { reason: crate::events::describe(message) }
        }
        other => unexpected(other),
    }
}

/// In what a guest differs from the one that was saved, if it does. It may be
/// older by `most`, and [a little](CLOCK_SLACK) more.
fn difference(saved: &Facts, seen: &Facts, most: Duration) -> Option<String> {
    if seen.release != saved.release {
        return Some(format!("it runs {} and not {}", seen.release, saved.release));
    }
    if seen.boot_id != saved.boot_id {
        return Some("it is of another boot".into());
    }
    let then = Duration::from_micros(saved.uptime_us);
    let now = Duration::from_micros(seen.uptime_us);
    if now < then {
        return Some(format!("its clock went back from {then:.1?} to {now:.1?}"));
    }
    let most = most + CLOCK_SLACK;
    (now > then + most).then(|| {
        format!("its clock went from {then:.1?} to {now:.1?}, where {most:.1?} were the most")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_must_be_the_guest_that_was_saved() {
        let saved = Facts { release: "6.12.1".into(), boot_id: "b".into(), uptime_us: 1_000_000 };
        let second = Duration::from_secs(1);
        let with = |uptime_us: u64| Facts { uptime_us, ..saved.clone() };
        assert_eq!(difference(&saved, &with(1_200_000), second), None);
        assert!(difference(&saved, &with(900_000), second).is_some(), "back in time");
        assert!(difference(&saved, &with(90_000_000), second).is_some(), "far ahead");
        let other = Facts { release: "6.12.2".into(), ..saved.clone() };
        assert!(difference(&saved, &other, second).is_some());
        let other = Facts { boot_id: "c".into(), ..saved.clone() };
        assert!(difference(&saved, &other, second).is_some());
    }
}
