//! The life of one VM, seen from outside.
//!
//! A VM is started, things happen to it one at a time ([`Vm::next`]), and it is
//! ended. Whoever holds it decides what that means; this module only makes sure
//! that the console is kept, within a bound, that a frame that is not of this
//! start is told, and that nothing is left when the VM is gone.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{IoSlice, Read as _, Seek as _, Write as _};
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use hmm_protocol::frame::{self, Decoder};
use hmm_protocol::trace::tag;
use hmm_protocol::wire::{GuestMessage, HostMessage, Job, Sealed};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::process::{Child, ChildStderr, ChildStdin};
use tokio::time::{Duration, Instant};

use crate::boot::Recipe;
use crate::chunks::Chunks;
use crate::console::{Finding, Scanner, What};
use crate::context::Context;
use crate::events::{Event, VmEnd};
use crate::proc::{Lines, gone};
use crate::rundir::{self, console_of};

/// How much of a console is written down for one VM, in bytes. A guest that
/// prints more is not believed to say anything new.
const CONSOLE_LIMIT: u64 = 64 << 20;

/// How many bytes of frames are taken between two orders to a VM: many times
/// what an honest test sends.
const FRAMES_LIMIT: u64 = 1 << 20;

/// How many more are taken for each second since the order: a test that takes
/// its time is told to be alive all the while.
const FRAMES_PER_SECOND: u64 = 1 << 10;

/// How many of the last lines of the console are at hand for a message.
const CONSOLE_TAIL: usize = 30;

/// How long an agent may take to make room for what it is told.
const LISTENS: Duration = Duration::from_secs(5);

/// How long it is looked, when a deadline has passed, for what was said before
/// it: in one turn the runtime may tell of the time and not yet of the streams.
const LOOK: Duration = Duration::from_millis(10);

/// How long what was said before a deadline may take to be read after it.
const BELATED: Duration = Duration::from_millis(500);

/// How long QEMU may take to answer its monitor: to write down a guest's memory
/// takes seconds.
const ANSWERS: Duration = Duration::from_secs(120);

/// How long a VM that was told to end may take before it is killed by its
/// keeper.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The consoles of a run: a file for each VM while it runs, which goes to the
/// end of `console.log` when it is gone.
#[derive(Debug)]
pub struct Consoles {
    dir: PathBuf,
    whole: RefCell<File>,
}

impl Consoles {
    /// An empty `console.log` in `dir`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join(rundir::CONSOLE);
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Consoles { dir: dir.to_owned(), whole: RefCell::new(file) })
    }

    /// Adds what a guest had printed that is not of this run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&self, bytes: &[u8]) -> Result<()> {
        self.whole.borrow_mut().write_all(bytes).context("cannot write console.log")
    }

    /// A part of `console.log`, by its bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, part: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(part.end - part.start)?];
        let file = File::open(self.dir.join(rundir::CONSOLE)).context("console.log")?;
        file.read_exact_at(&mut bytes, part.start).context("console.log")?;
        Ok(bytes)
    }

    /// Begins the file of a VM.
    fn open(&self, vm: u32) -> Result<File> {
        let path = self.dir.join(console_of(vm));
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Moves the file of a VM, `length` bytes, to the end of `console.log`.
    /// Returns where it begins and ends there.
    fn close(&self, vm: u32, mut file: File, length: u64) -> std::io::Result<Range<u64>> {
        let mut whole = self.whole.borrow_mut();
        file.rewind()?;
        let from = whole.stream_position()?;
        let length = std::io::copy(&mut file.take(length), &mut *whole)?;
        fs::remove_file(self.dir.join(console_of(vm)))?;
        Ok(from..from + length)
    }
}

/// Something that happened to a VM.
#[derive(Debug)]
pub enum Happening {
    /// The agent said something.
    Said(GuestMessage),
    /// The console said something worth knowing.
    Console(Finding),
    /// All of a trace that was [expected](Vm::expect_trace) has arrived, or
    /// nothing more of it will.
    Traced,
    /// Its state was saved, or why not.
    Saved(Result<(), String>),
    /// Its guest has panicked, or reset or powered itself off, and it
    /// [stands](Vm::stand_when_over) for whoever wants to look at it: why.
    Stands(String),
    /// It is gone.
    Gone(VmEnd),
    /// The deadline passed.
    Deadline,
    /// The user wants us to stop.
    Interrupted,
}

/// What is left of a VM that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// Its part of `console.log`, in bytes.
    pub console: Range<u64>,
    /// Whether its kernel complained at any time.
    pub complained: bool,
}

/// The harness's ends of the ports of a person's command.
#[derive(Debug)]
pub struct ShellPorts {
    /// That of standard input and output.
    pub bytes: UnixStream,
    /// That of standard error.
    pub errors: UnixStream,
}

/// A running VM.
pub struct Vm<'a> {
    ctx: &'a Context,
    consoles: &'a Consoles,
    number: u32,
    nonce: String,
    child: Child,
    keeper_end: Option<ChildStdin>,
    errors: Lines<ChildStderr>,
    errors_open: bool,
    error_tail: Vec<String>,
    agent: UnixStream,
    agent_open: bool,
    decoder: Decoder,
    next_seq: u64,
    frame_bytes: u64,
    told: Instant,
    trace: UnixStream,
    trace_open: bool,
    chunks: Chunks,
    chunks_expected: Option<u64>,
    can_trace: bool,
    shell: Option<ShellPorts>,
    console: pipe::Receiver,
    console_open: bool,
    console_log: File,
    console_length: u64,
    scanner: Scanner,
    complained: bool,
    findings: std::collections::VecDeque<Finding>,
    tail: std::collections::VecDeque<String>,
    monitor: Lines<OwnedReadHalf>,
    to_monitor: OwnedWriteHalf,
    monitor_open: bool,
    /// How many of its answers were waited for.
    asked: u64,
    shutdown: Option<String>,
    /// Whether a guest that is over is kept.
    kept: bool,
    stands: Option<String>,
    saved: Option<Result<(), String>>,
    /// A deadline that has passed, and when that was seen.
    late: Option<(Instant, Instant)>,
}

impl<'a> Vm<'a> {
    /// Starts a VM: from the state that `restored` holds, or from nothing.
    ///
    /// # Errors
    /// When QEMU cannot be started at all.
    pub async fn start(
        ctx: &'a Context,
        consoles: &'a Consoles,
        recipe: &Recipe,
        number: u32,
        restored: Option<File>,
    ) -> Result<Self> {
        let nonce = nonce()?;
        let console_log = consoles.open(number)?;
        let (console_of_qemu, console) = pipe::pipe().context("cannot make a pipe")?;
        let console_of_qemu = console_of_qemu.into_blocking_fd().context("cannot make a pipe")?;
        let (agent, agent_of_qemu) = socket_pair()?;
        let (monitor, monitor_of_qemu) = socket_pair()?;
        let (trace, trace_of_qemu) = socket_pair()?;
        let shell =
            if recipe.is_for_shell() { Some([socket_pair()?, socket_pair()?]) } else { None };
        ctx.log.emit(Event::VmStarted {
            vm: number,
            nonce: nonce.clone(),
            restored: restored.is_some(),
        });
        let command = recipe.command(restored.is_some());
        let mut fds = vec![console_of_qemu, agent_of_qemu, monitor_of_qemu, trace_of_qemu];
        let shell = shell.map(|[(bytes, bytes_of_qemu), (errors, errors_of_qemu)]| {
            fds.extend([bytes_of_qemu, errors_of_qemu]);
            ShellPorts { bytes, errors }
        });
        fds.extend(restored.map(OwnedFd::from));
        let (monitor, mut to_monitor) = monitor.into_split();
        let mut child = command.spawn(fds)?;
        let keeper_end = child.stdin.take();
        // QEMU has nothing to say there: its console is a pipe of its own.
        drop(child.stdout.take());
        let errors = Lines::new(child.stderr.take().expect("piped by spawn"));
        // The monitor tells its events only to who introduced himself. One that
        // is closed already belongs to a QEMU whose end will be told.
        let _ = to_monitor.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").await;
        let mut vm = Vm {
            ctx,
            consoles,
            number,
            nonce: nonce.clone(),
            child,
            keeper_end,
            errors,
            errors_open: true,
            error_tail: Vec::new(),
            agent,
            agent_open: true,
            decoder: Decoder::default(),
            next_seq: 0,
            frame_bytes: 0,
            told: Instant::now(),
            trace,
            trace_open: true,
            chunks: Chunks::new(&consoles.dir, number, tag(&nonce)),
            chunks_expected: None,
            can_trace: false,
            shell,
            console,
            console_open: true,
            console_log,
            console_length: 0,
            scanner: Scanner::default(),
            complained: false,
            findings: std::collections::VecDeque::new(),
            tail: std::collections::VecDeque::new(),
            monitor: Lines::new(monitor),
            to_monitor,
            monitor_open: true,
            asked: 0,
            shutdown: None,
            kept: false,
            stands: None,
            saved: None,
            late: None,
        };
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        vm.tell(&HostMessage::Start { nonce, unix_ms }).await;
        Ok(vm)
    }

    /// Which start of the run it is, counted from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The last lines of its console, without control characters.
    pub fn console_tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// Whether its kernel is in the middle of a report.
    pub fn in_report(&self) -> bool {
        self.scanner.in_report()
    }

    /// Says something to the agent. If nobody hears it, the deadline for the
    /// answer will tell.
    pub async fn tell(&mut self, message: &HostMessage) {
        self.frame_bytes = 0;
        self.told = Instant::now();
        let bytes = frame::encode(message).expect("what the harness says is short");
        // An agent that does not read does not keep us from our deadlines.
        let said = tokio::time::timeout(LISTENS, self.agent.write_all(&bytes)).await;
        if !matches!(said, Ok(Ok(()))) {
            self.agent_open = false;
        }
    }

    /// Its guest can trace: what comes through its trace port is kept from now on.
    pub fn can_trace(&mut self) {
        self.can_trace = true;
    }

    /// Whether nothing that comes through its trace port is believed any more.
    pub fn is_trace_lost(&self) -> bool {
        self.can_trace && (self.chunks.is_broken() || !self.trace_open)
    }

    /// Orders a test. A trace that has no place is [lost](crate::events::Log::lost).
    pub async fn order(&mut self, mut job: Job) {
        job.trace &= self.can_trace;
        if let Err(error) = self.chunks.begin(job.trace) {
            self.ctx.log.lost("the trace", &error);
        }
        self.chunks_expected = None;
        self.tell(&HostMessage::Run(job)).await;
    }

    /// So many chunks of the test's trace were sent: that they have arrived is
    /// something that [happens](Happening::Traced).
    pub fn expect_trace(&mut self, chunks: u64) {
        self.chunks_expected = Some(chunks);
    }

    /// The ports of a person's command, for whoever runs one; once, and only where
    /// the recipe has them.
    pub fn take_shell(&mut self) -> Option<ShellPorts> {
        self.shell.take()
    }

    /// Begins to save its state into `file`; how that ended is something that
    /// [happens](Happening::Saved). It stands still afterwards.
    pub async fn save(&mut self, file: &File) {
        // The descriptor belongs to the command that it comes with: QEMU's
        // `getfd` (qapi/misc.json). Without the limit of bandwidth that is meant
        // for networks the state is written at once.
        let commands = [
            r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"events","state":true}]}}"#,
            r#"{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":17179869184}}"#,
            r#"{"execute":"getfd","arguments":{"fdname":"state"}}"#,
            "",
        ]
        .join("\n");
        let migrate = b"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:state\"}}\n";
        let sent = send_descriptor(self.to_monitor.as_ref(), commands.as_bytes(), file.as_fd());
        let sent = match sent {
            Ok(()) => self.to_monitor.write_all(migrate).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            self.saved = Some(Err(format!("QEMU's monitor: {error}")));
        }
    }

    /// Orders something of QEMU's monitor, with `descriptor` if it is one that takes
    /// it, and waits until it is done. Returns the answer.
    ///
    /// # Errors
    /// What QEMU has against it, or that it does not answer.
    pub async fn ask(
        &mut self,
        execute: &str,
        arguments: serde_json::Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<serde_json::Value, String> {
        self.asked += 1;
        let id = self.asked;
        let command =
            serde_json::json!({ "execute": execute, "arguments": arguments, "id": id }).to_string();
        let command = command + "\n";
        let sent = match descriptor {
            None => self.to_monitor.write_all(command.as_bytes()).await,
            Some(fd) => send_descriptor(self.to_monitor.as_ref(), command.as_bytes(), fd),
        };
        sent.map_err(|error| format!("QEMU's monitor: {error}"))?;
        let deadline = Instant::now() + ANSWERS;
        let mut bytes = [0u8; 8192];
        while self.monitor_open {
            tokio::select! {
                line = self.monitor.next() => match line {
                    Ok(Some(line)) => match answer(&line, id) {
                        Some(answer) => return answer,
                        None => self.heed(&line),
                    },
                    Ok(None) | Err(_) => self.monitor_open = false,
                },
                // A console that nobody empties would keep it from answering.
                read = self.console.read(&mut bytes), if self.console_open => match read {
                    Ok(n @ 1..) => self.hear(&bytes[..n]),
                    Ok(0) | Err(_) => self.console_open = false,
                },
                () = self.ctx.interrupt.wait() => return Err("interrupted".into()),
                () = tokio::time::sleep_until(deadline) => {
                    return Err(format!("QEMU does not answer to {execute}"));
                }
            }
        }
        Err("QEMU is gone".into())
    }

    /// From now on a guest that panics, or resets or powers itself off, stands still
    /// where it is instead of ending the VM, and that [happens](Happening::Stands).
    ///
    /// # Errors
    /// When QEMU cannot do that (before 6.0).
    pub async fn stand_when_over(&mut self) -> Result<(), String> {
        let actions =
            serde_json::json!({ "panic": "pause", "reboot": "shutdown", "shutdown": "pause" });
        self.ask("set-action", actions, None).await?;
        self.kept = true;
        Ok(())
    }

    /// Waits for the next thing that happens, until `deadline`. A console that
    /// cannot be written down is [lost](crate::events::Log::lost).
    pub async fn next(&mut self, deadline: Instant) -> Happening {
        let mut agent_bytes = [0u8; 8192];
        let mut console_bytes = [0u8; 8192];
        let mut trace_bytes = [0u8; 32 * 1024];
        loop {
            let patience = match self.late_since(deadline) {
                // One that never stops talking does not put it off.
                Some(since) if since.elapsed() >= BELATED => return Happening::Deadline,
                Some(since) => since + LOOK,
                None => deadline,
            };
            match self.decoder.take::<Sealed>() {
                Ok(Some(sealed)) => return self.accept(sealed),
                Ok(None) => {}
                Err(error) => {
                    return Happening::Gone(VmEnd::Agent { what: error.to_string() });
                }
            }
            if let Some(finding) = self.findings.pop_front() {
                return Happening::Console(finding);
            }
            if let Some(expected) = self.chunks_expected
                && (self.is_trace_lost() || self.chunks.arrived() >= expected)
            {
                self.chunks_expected = None;
                return Happening::Traced;
            }
            if let Some(saved) = self.saved.take() {
                return Happening::Saved(saved);
            }
            if let Some(why) = self.stands.take() {
                return Happening::Stands(why);
            }
            // What has happened comes before what should have happened by now.
            tokio::select! {
                biased;
                () = self.ctx.interrupt.wait() => return Happening::Interrupted,
                read = self.agent.read(&mut agent_bytes), if self.agent_open => match read {
                    Ok(n @ 1..) => {
                        self.frame_bytes += n as u64;
                        if self.frame_bytes > frames_limit(self.told.elapsed()) {
                            let bytes = self.frame_bytes;
                            let what = format!("too many frames, {bytes} bytes since its order");
                            return Happening::Gone(VmEnd::Agent { what });
                        }
                        self.decoder.push(&agent_bytes[..n]);
                    }
                    Ok(0) | Err(_) => self.agent_open = false,
                },
                read = self.console.read(&mut console_bytes), if self.console_open => match read {
                    Ok(n @ 1..) => self.hear(&console_bytes[..n]),
                    Ok(0) | Err(_) => self.console_open = false,
                },
                read = self.trace.read(&mut trace_bytes), if self.trace_open => match read {
                    Ok(n @ 1..) => self.trace_came(&trace_bytes[..n]),
                    Ok(0) | Err(_) => self.trace_open = false,
                },
                line = self.monitor.next(), if self.monitor_open => match line {
                    Ok(Some(line)) => self.heed(&line),
                    Ok(None) | Err(_) => self.monitor_open = false,
                },
                line = self.errors.next(), if self.errors_open => match line {
                    Ok(Some(line)) => {
                        if self.error_tail.len() == 20 {
                            self.error_tail.remove(0);
                        }
                        self.error_tail.push(line);
                    }
                    Ok(None) | Err(_) => self.errors_open = false,
                },
                // Only when every stream has ended is nothing of its last
                // words lost.
                status = self.child.wait(), if !(self.agent_open || self.console_open || self.trace_open || self.monitor_open || self.errors_open) => {
                    let code = status.ok().and_then(|status| status.code()).unwrap_or(-1);
                    return Happening::Gone(self.end_by_itself(code));
                }
                () = tokio::time::sleep_until(patience) => {
                    if patience > deadline {
                        return Happening::Deadline;
                    }
                }
            }
        }
    }

    /// Since when it is known that a deadline has passed, if it has. That is not
    /// its end: while the harness itself was stopped the guest went on, and what it
    /// said meanwhile is there to be read.
    fn late_since(&mut self, deadline: Instant) -> Option<Instant> {
        let now = Instant::now();
        if now < deadline {
            return None;
        }
        match self.late {
            Some((of, since)) if of == deadline => Some(since),
            _ => {
                self.late = Some((deadline, now));
                Some(now)
            }
        }
    }

    /// Ends it, if it is not gone yet, and writes down why.
    pub async fn end(mut self, end: VmEnd) -> Remains {
        drop(self.keeper_end.take());
        let deadline = Instant::now() + LAST_WORDS;
        // What still comes is written down; what it means does not matter now.
        while self.agent_open || self.console_open || self.trace_open {
            let mut bytes = [0u8; 8192];
            let mut trace_bytes = [0u8; 8192];
            let mut unheard = [0u8; 8192];
            tokio::select! {
                read = self.console.read(&mut bytes), if self.console_open => match read {
                    Ok(n @ 1..) => self.hear(&bytes[..n]),
                    Ok(0) | Err(_) => self.console_open = false,
                },
                read = self.trace.read(&mut trace_bytes), if self.trace_open => match read {
                    Ok(n @ 1..) => self.trace_came(&trace_bytes[..n]),
                    Ok(0) | Err(_) => self.trace_open = false,
                },
                read = self.agent.read(&mut unheard), if self.agent_open && !self.console_open => {
                    self.agent_open = matches!(read, Ok(1..));
                }
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        // It is gone when this returns. A child that cannot be waited for is not
        // there either.
        let _ = gone(&mut self.child).await;
        let console = self.consoles.close(self.number, self.console_log, self.console_length);
        let console = console.unwrap_or_else(|error| {
            self.ctx.log.lost("console.log", &error);
            0..0
        });
        let (console_from, console_to) = (console.start, console.end);
        self.ctx.log.emit(Event::VmEnded { vm: self.number, end, console_from, console_to });
        Remains { console, complained: self.complained }
    }

    /// Checks that a frame is the next one of this start, and writes it down.
    fn accept(&mut self, sealed: Sealed) -> Happening {
        let wrong = if sealed.nonce != self.nonce {
            Some("a frame that carries another start's nonce".to_owned())
        } else if sealed.seq != self.next_seq {
            Some(format!("frame {} where {} was next", sealed.seq, self.next_seq))
        } else {
            None
        };
        self.next_seq += 1;
        let message = sealed.message.clone();
        self.ctx.log.emit(Event::Frame { vm: self.number, sealed });
        match wrong {
            None => Happening::Said(message),
            Some(what) => Happening::Gone(VmEnd::Agent { what }),
        }
    }

    /// Takes bytes of the trace.
    fn trace_came(&mut self, bytes: &[u8]) {
        if let Err(error) = self.chunks.push(bytes) {
            self.ctx.log.lost("the trace", &error);
        }
    }

    /// Takes bytes of the console.
    fn hear(&mut self, bytes: &[u8]) {
        let room = CONSOLE_LIMIT.saturating_sub(self.console_length);
        let kept = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        match self.console_log.write_all(&bytes[..kept]) {
            Ok(()) => self.console_length += kept as u64,
            Err(error) => self.ctx.log.lost(&console_of(self.number), &error),
        }
        let found = self.scanner.push(&bytes[..kept]);
        self.complained |= found.iter().any(|f| matches!(f.what, What::Complaint { .. }));
        self.findings.extend(found);
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split('\n');
        if let Some(first) = lines.next() {
            let clean = first.chars().filter(|c| !c.is_control());
            match self.tail.back_mut() {
                Some(last) if last.len() < 1024 => last.extend(clean),
                Some(_) => {}
                None => self.tail.push_back(clean.collect()),
            }
        }
        for line in lines {
            if self.tail.len() == CONSOLE_TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line.chars().filter(|c| !c.is_control()).take(1024).collect());
        }
    }

    /// Takes a line of the monitor. What is wanted of it is why the guest shut
    /// down (`SHUTDOWN` in QEMU's qapi/run-state.json) or stands (`GUEST_PANICKED`
    /// there), and what became of the order to save it (`MIGRATION` in
    /// qapi/migration.json).
    fn heed(&mut self, line: &str) {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { return };
        let of = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        match (value["event"].as_str(), value["data"]["status"].as_str()) {
            (Some("GUEST_PANICKED"), _) if self.kept => {
                self.stands = Some("the guest has panicked".into());
            }
            (Some("SHUTDOWN"), _) if self.kept && value["data"]["guest"] == true => {
                let how = of(&value["data"]["reason"]).unwrap_or_default();
                self.stands = Some(VmEnd::GuestGone { how }.words());
            }
            (Some("SHUTDOWN"), _) => self.shutdown = of(&value["data"]["reason"]),
            (Some("MIGRATION"), Some("completed")) => self.saved = Some(Ok(())),
            (Some("MIGRATION"), Some("failed")) => {
                self.saved = Some(Err("QEMU could not write it".into()));
            }
            _ => {}
        }
        // Nothing but what belongs to saving can be refused.
        if let Some(why) = of(&value["error"]["desc"]) {
            self.saved = Some(Err(format!("QEMU: {why}")));
        }
    }

    fn end_by_itself(&mut self, code: i32) -> VmEnd {
        match self.shutdown.take() {
            Some(how) if how.starts_with("guest-") => VmEnd::GuestGone { how },
            _ => VmEnd::QemuGone { code, tail: std::mem::take(&mut self.error_tail) },
        }
    }
}

/// What a line of the monitor answers to the command with this number, if it does.
fn answer(line: &str, id: u64) -> Option<Result<serde_json::Value, String>> {
    let mut value = serde_json::from_str::<serde_json::Value>(line).ok()?;
    if value["id"] != id {
        return None;
    }
    Some(match value["error"]["desc"].as_str() {
        Some(why) => Err(why.to_owned()),
        None => Ok(value["return"].take()),
    })
}

/// A connected pair: ours for tokio, and one to be inherited.
fn socket_pair() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair().context("cannot make a socket pair")?;
    ours.set_nonblocking(true).context("cannot make a socket pair")?;
    Ok((UnixStream::from_std(ours).context("cannot make a socket pair")?, theirs.into()))
}

/// Writes to a socket, with a descriptor. What is written is short and the
/// socket idle, so it fits at once.
fn send_descriptor(
    socket: &UnixStream,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> std::io::Result<()> {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let words = [IoSlice::new(bytes)];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &words, &rights, MsgFlags::empty(), None)?;
    if sent == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

/// How many bytes of frames are taken, so long after the last order.
fn frames_limit(since: Duration) -> u64 {
    FRAMES_LIMIT + since.as_secs() * FRAMES_PER_SECOND
}

/// 128 random bits, as hex.
fn nonce() -> Result<String> {
    let mut bytes = [0u8; 16];
    std::io::Read::read_exact(&mut File::open("/dev/urandom").context("/dev/urandom")?, &mut bytes)
        .context("/dev/urandom")?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use hmm_protocol::wire::ALIVE_EVERY_MS;

    use super::*;

    #[test]
    fn an_answer_of_the_monitor_is_known_by_its_number() {
        assert_eq!(answer(r#"{"event": "STOP", "data": {}}"#, 1), None);
        assert_eq!(answer(r#"{"return": {}, "id": 2}"#, 1), None);
        assert_eq!(answer(r#"{"return": "yes", "id": 1}"#, 1), Some(Ok("yes".into())));
        let refused = r#"{"id": 1, "error": {"class": "GenericError", "desc": "no"}}"#;
        assert_eq!(answer(refused, 1), Some(Err("no".into())));
    }

    #[test]
    fn a_test_may_be_alive_for_a_day() {
        let id = "hmm.a_test_with_a_name_that_is_longer_than_any.coherent".to_owned();
        let message = GuestMessage::Alive { id };
        let sealed = Sealed { nonce: "0".repeat(32), seq: u64::MAX, message };
        let one = frame::encode(&sealed).expect("it is short").len() as u64;
        let day = Duration::from_secs(24 * 60 * 60);
        let signs = u64::try_from(day.as_millis()).expect("it fits") / ALIVE_EVERY_MS;
        assert!(signs * one < frames_limit(day), "{signs} signs of {one} bytes");
    }
}
