//! A test that is held before one of its steps, for whoever wants to look at it with
//! a debugger.
//!
//! The machine stands still from then on and belongs to the debugger: it goes on and
//! stops as that one says, however long it takes. What is told here is only what
//! happens in it meanwhile.

use std::path::Path;

use hmm_protocol::TestId;
use hmm_protocol::wire::{GuestMessage, HostMessage, Outcome};
use serde_json::json;
use tokio::time::{Duration, Instant};

use super::Options;
use super::starts::Starts;
use super::turn::{Deadline, Hangs, job};
use crate::boot::Recipe;
use crate::console::What;
use crate::context::Context;
use crate::events::{Event, VmEnd};
use crate::flow::Stage;
use crate::stop::{Fault, Stop};
use crate::vm::{Consoles, Happening, Vm};
use crate::words::line;

/// How long nothing may happen to a held machine: as good as for ever.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A machine whose test is held.
pub struct Held<'a> {
    vm: Vm<'a>,
    id: String,
    /// How many steps the test has announced.
    steps: u32,
}

/// Something that happened while a debugger had the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The test came to a step, counted from 1.
    Step(u32, String),
    /// The test is over: how.
    Over(String),
    /// The kernel complained.
    Complaint(String),
    /// The guest is over and stands where it was: why.
    Stands(String),
    /// The machine is gone.
    Gone(VmEnd),
    /// The user wants us to stop.
    Interrupted,
}

/// Brings a machine up, runs the test to the step at which `options` hold it, and has
/// QEMU listen for a debugger at `socket`.
///
/// # Errors
/// [`Stop::Kernel`] when the kernel does not come up or the test does not come to the
/// step, [`Stop::Machine`] when QEMU cannot, [`Stop::Interrupted`].
pub async fn hold<'a>(
    ctx: &'a Context,
    recipe: &'a Recipe,
    test: &'a TestId,
    options: &Options,
    consoles: &'a Consoles,
    socket: &Path,
) -> Result<Held<'a>, Stop> {
    let starts = Starts::new(ctx, recipe, options, consoles, std::slice::from_ref(test));
    let mut vm = starts.ready().await?;
    let job = job(test, recipe, options);
    let id = job.id.clone();
    ctx.log.emit(Event::Ordered { vm: vm.number(), id: id.clone(), turn: 0 });
    vm.order(job).await;
    let mut held = Held { vm, id, steps: 0 };
    let step = options.hold.unwrap_or(1);
    if let Err(end) = held.come_to(step, &Deadline::new("test", Hangs::of(options).turn())).await {
        let why = match &end {
            // How the test has ended, and the machine with it.
            VmEnd::Replaced { reason } => reason.clone(),
            end => end.words(),
        };
        held.end(end.clone()).await;
        if end == VmEnd::Interrupted {
            return Err(Stop::Interrupted);
        }
        if let VmEnd::QemuGone { .. } | VmEnd::Agent { .. } = end {
            let tail = match end {
                VmEnd::QemuGone { tail, .. } => tail,
                _ => Vec::new(),
            };
            let fault = Fault::new(format!("{test} cannot be held: {why}"));
            return Err(Stop::Machine(fault.at(Stage::Run).details(tail)));
        }
        return Err(Stop::Kernel(
            Fault::new(format!("{test} does not come to its step {step} again: {why}"))
                .at(Stage::Run)
                .hint("run-kernel-tests --repeat 20 says how often it does what it did"),
        ));
    }
    if let Err(why) = held.open(socket).await {
        held.end(VmEnd::Replaced { reason: why.clone() }).await;
        ctx.interrupt.check()?;
        return Err(Stop::Machine(
            Fault::new(format!("QEMU cannot let a debugger in: {why}"))
                .at(Stage::Run)
                .hint("QEMU 6.0 or later can"),
        ));
    }
    Ok(held)
}

impl Held<'_> {
    /// Waits until the test has announced the step. It does not do it.
    async fn come_to(&mut self, step: u32, deadline: &Deadline) -> Result<(), VmEnd> {
        while self.steps < step {
            match self.next_until(deadline.at).await {
                Some(Seen::Step(..) | Seen::Complaint(_)) => {}
                Some(Seen::Over(how) | Seen::Stands(how)) => {
                    return Err(VmEnd::Replaced { reason: how });
                }
                Some(Seen::Gone(end)) => return Err(end),
                Some(Seen::Interrupted) => return Err(VmEnd::Interrupted),
                None => return Err(deadline.passed()),
            }
        }
        Ok(())
    }

    /// Stops the machine, lets the test go on when it does, and has QEMU listen.
    async fn open(&mut self, socket: &Path) -> Result<(), String> {
        self.vm.ask("stop", json!({}), None).await?;
        self.vm.stand_when_over().await?;
        self.vm.tell(&HostMessage::GoOn).await;
        // A socket of its own can only be had by way of the monitor for people.
        let listen = format!("gdbserver unix:{},server=on,wait=off", socket.display());
        let said =
            self.vm.ask("human-monitor-command", json!({ "command-line": listen }), None).await?;
        if socket.exists() { Ok(()) } else { Err(said.as_str().unwrap_or("?").trim().to_owned()) }
    }

    /// Waits for the next thing that happens, without a deadline.
    pub async fn next(&mut self) -> Seen {
        loop {
            if let Some(seen) = self.next_until(Instant::now() + A_YEAR).await {
                return seen;
            }
        }
    }

    /// The next thing until `deadline`.
    async fn next_until(&mut self, deadline: Instant) -> Option<Seen> {
        loop {
            return Some(match self.vm.next(deadline).await {
                Happening::Said(GuestMessage::Step { id, text }) if id == self.id => {
                    self.steps += 1;
                    Seen::Step(self.steps, text)
                }
                Happening::Said(GuestMessage::Finished { outcome, .. }) => {
                    Seen::Over(how(&outcome))
                }
                Happening::Said(GuestMessage::Started { .. } | GuestMessage::Alive { .. }) => {
                    continue;
                }
                Happening::Said(other) => {
                    Seen::Gone(VmEnd::Agent { what: crate::events::describe(&other) })
                }
                Happening::Console(finding) => match finding.what {
                    What::Complaint { title, .. } => Seen::Complaint(title),
                    _ => continue,
                },
                Happening::Traced | Happening::Saved(_) => continue,
                Happening::Stands(why) => Seen::Stands(why),
                Happening::Gone(end) => Seen::Gone(end),
                Happening::Interrupted => Seen::Interrupted,
                Happening::Deadline => return None,
            });
        }
    }

    /// Writes what the guest has in its memory to `path`. It must stand still.
    ///
    /// # Errors
    /// When QEMU or the disk does not let it.
    pub async fn dump(&mut self, path: &Path) -> Result<(), String> {
        crate::dump::write(&mut self.vm, path).await
    }

    /// Ends the machine.
    pub async fn end(self, end: VmEnd) {
        self.vm.end(end).await;
    }
}

/// How a test ended, in words.
fn how(outcome: &Outcome) -> String {
    let how = match outcome {
        Outcome::Passed => "the test has passed".into(),
        Outcome::Failed(failure) => format!("the test has failed: {}", failure.message),
        Outcome::Skipped { reason } => format!("the test cannot run here: {reason}"),
        Outcome::Died { how } => format!("the test has died: {how}"),
        Outcome::TimedOut { .. } => "the test took too long".into(),
    };
    line(&how)
}
