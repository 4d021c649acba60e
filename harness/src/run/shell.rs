//! A person's command in a guest, and the bytes that go to it and come from it.

use std::io::Write;
use std::path::Path;

use futures_util::future::join;
use hmm_protocol::wire::{GuestMessage, HostMessage, Output, Shell, ShellEnd, Window};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};

use super::Options;
use super::starts::Starts;
use super::turn::{CONSOLE, Deadline, unexpected};
use crate::boot::Recipe;
use crate::console::What;
use crate::context::Context;
use crate::events::VmEnd;
use crate::flow::Stage;
use crate::interrupt::Interrupt;
use crate::stop::{Fault, Stop};
use crate::terminal::Kept;
use crate::vm::{Consoles, Happening, ShellPorts, Vm};

/// What the markers in the kernel's log call a command.
const ID: &str = "shell";

/// How many complaints of the kernel are remembered.
const COMPLAINTS: usize = 8;

/// How much of a command's output is on its way at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// Where output goes. It may make its writer wait.
pub type Sink = Box<dyn Write + Send>;

/// A command, and what it is connected to.
pub struct Order {
    /// The command.
    pub shell: Shell,
    /// Its standard input, which ends when nobody can send any more.
    pub input: mpsc::Receiver<Vec<u8>>,
    /// The sizes of the user's terminal, whenever it has another.
    pub sizes: mpsc::Receiver<Window>,
    /// Where its standard output goes, and all that it writes to a terminal.
    pub output: Sink,
    /// Where its standard error goes.
    pub errors: Sink,
    /// Kept for what dropping it does: the terminal is as it was when the command
    /// has ended.
    pub raw: Option<Kept>,
}

/// What came of a command.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// What the kernel complained about meanwhile: the first complaints.
    pub complaints: Vec<String>,
    /// Why some of its output could not be written, unless that is because nobody
    /// reads it any more.
    pub unwritten: Option<String>,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Itself.
    Command(ShellEnd),
    /// The guest was gone before.
    Guest {
        /// What became of it.
        why: String,
        /// The last lines of its console.
        tail: Vec<String>,
    },
}

/// Brings up a guest and runs the command in it that `begin` gives when the guest
/// is there.
///
/// # Errors
/// [`Stop::Kernel`] when the kernel does not come up, [`Stop::Machine`] when QEMU
/// or the agent fails us, or `begin`; [`Stop::Interrupted`].
pub async fn command(
    ctx: &Context,
    recipe: &Recipe,
    options: &Options,
    dir: &Path,
    begin: impl FnOnce() -> anyhow::Result<Order>,
) -> Result<Ended, Stop> {
    let consoles = Consoles::create(dir)?;
    let starts = Starts::new(ctx, recipe, options, &consoles, &[]);
    let mut vm = starts.ready().await?;
    let order = match begin() {
        Ok(order) => order,
        Err(error) => {
            vm.end(VmEnd::Replaced { reason: "no command was given".into() }).await;
            return Err(error.into());
        }
    };
    let mut heard = Heard::default();
    let served = serve(&mut vm, &ctx.interrupt, order, options, &mut heard).await;
    let tail = vm.console_tail();
    let end = served.as_ref().err().cloned().unwrap_or(VmEnd::Done);
    vm.end(end).await;
    let Heard { complaints, unwritten } = heard;
    let end = match served {
        Ok(end) => End::Command(end),
        Err(VmEnd::Interrupted) => return Err(Stop::Interrupted),
        Err(end @ VmEnd::GuestGone { .. }) => End::Guest { why: end.words(), tail },
        Err(end) => {
            let details = match &end {
                VmEnd::QemuGone { tail, .. } => tail.clone(),
                _ => tail,
            };
            let fault = Fault::new(format!("the command did not end: {}", end.words()));
            return Err(Stop::Machine(fault.at(Stage::Run).details(details)));
        }
    };
    Ok(Ended { end, complaints, unwritten })
}

/// What was noticed while a command ran.
#[derive(Default)]
struct Heard {
    complaints: Vec<String>,
    unwritten: Option<String>,
}

/// Sees the command through to its end, all of its output included.
async fn serve(
    vm: &mut Vm<'_>,
    interrupt: &Interrupt,
    order: Order,
    options: &Options,
    heard: &mut Heard,
) -> Result<ShellEnd, VmEnd> {
    let Order { shell, input, mut sizes, output, errors, raw: _raw } = order;
    let ShellPorts { bytes, errors: error_bytes } =
        vm.take_shell().expect("a machine that was made for a command has its ports");
    vm.tell(&HostMessage::Shell(shell)).await;

    let (say, mut said) = mpsc::channel(4);
    let (output_length, of_output) = watch::channel(None);
    let (errors_length, of_errors) = watch::channel(None);
    let (from, to) = bytes.into_split();
    tokio::spawn(feed(input, to, say.clone()));
    let pours = [
        Pour { output: Output::Output, length: of_output, say: say.clone() },
        Pour { output: Output::Errors, length: of_errors, say },
    ];
    let [to_output, to_errors] = pours;
    let poured = join(
        tokio::spawn(to_output.all(from, output)),
        tokio::spawn(to_errors.all(error_bytes, errors)),
    );
    tokio::pin!(poured);

    let mut end = None;
    let mut marked = false;
    let mut written = false;
    let mut until = far();
    let gone = loop {
        if written
            && marked
            && let Some(end) = end.take()
        {
            return Ok(end);
        }
        tokio::select! {
            happening = vm.next(until) => match happening {
                Happening::Said(GuestMessage::ShellEnded { end: how, output, errors })
                    if end.is_none() =>
                {
                    end = Some(how);
                    output_length.send_replace(Some(output));
                    errors_length.send_replace(Some(errors));
                    until = Deadline::new("console", CONSOLE.mul_f64(options.time_scale)).at;
                }
                Happening::Said(other) => break unexpected(&other),
                Happening::Console(finding) => match finding.what {
                    What::End(id) => marked |= id == ID,
                    What::Complaint { title, .. } => {
                        let known = &mut heard.complaints;
                        if known.len() < COMPLAINTS && !known.contains(&title) {
                            known.push(title);
                        }
                    }
                    What::Begin(_) | What::Report(_) => {}
                },
                Happening::Traced | Happening::Saved(_) | Happening::Stands(_) => {}
                // A console that says nothing any more says nothing of the command.
                Happening::Deadline => (marked, until) = (true, far()),
                Happening::Interrupted => return Err(VmEnd::Interrupted),
                Happening::Gone(end) => break end,
            },
            Some(message) = said.recv() => vm.tell(&message).await,
            Some(window) = sizes.recv() => vm.tell(&HostMessage::Resize(window)).await,
            results = &mut poured, if !written => {
                written = true;
                heard.unwritten = [results.0, results.1].into_iter().find_map(|poured| {
                    poured.unwrap_or_else(|panic| Some(panic.to_string()))
                });
            }
        }
    };
    // What it had written before is on its way still, and may have to wait. That of
    // a guest that lives on may never end.
    let is_gone = matches!(gone, VmEnd::GuestGone { .. } | VmEnd::QemuGone { .. });
    if is_gone && !written {
        tokio::select! {
            _ = &mut poured => {}
            () = interrupt.wait() => return Err(VmEnd::Interrupted),
        }
    }
    Err(gone)
}

/// Sends a command its standard input, and says where that ends.
async fn feed(
    mut input: mpsc::Receiver<Vec<u8>>,
    mut to: OwnedWriteHalf,
    say: mpsc::Sender<HostMessage>,
) {
    let mut length = 0;
    while let Some(bytes) = input.recv().await {
        if to.write_all(&bytes).await.is_err() {
            // The machine is gone, which others tell.
            return;
        }
        length += bytes.len() as u64;
    }
    // Dropping it would tell QEMU that nobody is at the port any more.
    to.forget();
    // Nobody listening means that the command has ended.
    let _ = say.send(HostMessage::InputEnds { length }).await;
}

/// An output of a command on its way.
struct Pour {
    output: Output,
    /// How long it is, as soon as that is known.
    length: watch::Receiver<Option<u64>>,
    say: mpsc::Sender<HostMessage>,
}

impl Pour {
    /// Writes all of it. Returns why that cannot be done, if it is worth telling.
    async fn all(mut self, mut from: impl AsyncRead + Unpin, mut sink: Sink) -> Option<String> {
        let mut came = 0;
        let mut failed = None;
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = *self.length.borrow_and_update();
            let left = length.map_or(u64::MAX, |length| length.saturating_sub(came));
            if left == 0 {
                break;
            }
            let read = tokio::select! {
                read = from.read(&mut chunk) => read,
                Ok(()) = self.length.changed() => continue,
            };
            let Ok(n @ 1..) = read else { break };
            came += n as u64;
            // More than the agent has sent is not of the command.
            let n = n.min(usize::try_from(left).unwrap_or(usize::MAX));
            if failed.is_some() {
                continue;
            }
            let bytes = chunk[..n].to_vec();
            let write = move || {
                let written = sink.write_all(&bytes).and_then(|()| sink.flush());
                (sink, written)
            };
            let (back, written) = spawn_blocking(write).await.expect("writing does not panic");
            sink = back;
            if let Err(error) = written {
                failed = Some(error);
                // Nobody listening means that the command has ended.
                let _ = self.say.send(HostMessage::Unread { output: self.output }).await;
            }
        }
        failed
            .filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe)
            .map(|error| error.to_string())
    }
}

/// Later than anything that is waited for.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(10 * 365 * 24 * 60 * 60)
}
