//! The life of one VM, seen from outside.
//!
//! A VM is started, things happen to it one at a time ([`Vm::next`]), and it is
//! ended. Whoever holds it decides what that means; this module only makes sure
//! that the console is kept, within a bound, that a frame that is not of this
//! start is told, and that nothing is left when the VM is gone.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use anyhow::{Context as _, Result};
use hmm_protocol::frame::{self, Decoder};
use hmm_protocol::wire::{GuestMessage, HostMessage, Sealed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdin};
use tokio::time::{Duration, Instant};

use crate::boot::Recipe;
use crate::console::{Finding, Scanner};
use crate::context::Context;
use crate::events::{Event, VmEnd};
use crate::proc::Lines;

/// How much of a console is written down for one VM, in bytes. A guest that
/// prints more is not believed to say anything new.
const CONSOLE_LIMIT: u64 = 64 << 20;

/// How many bytes of frames are taken from one VM: many times what an honest
/// run sends.
const FRAMES_LIMIT: u64 = 8 << 20;

/// How many of the last lines of the console are at hand for a message.
const CONSOLE_TAIL: usize = 30;

/// How long a VM that was told to end may take before it is killed by its
/// keeper.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The console's log of a run: one file for all its VMs.
#[derive(Debug)]
pub struct ConsoleLog {
    file: File,
    length: u64,
}

impl ConsoleLog {
    /// An empty `console.log` in `dir`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join("console.log");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(ConsoleLog { file, length: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context("cannot write console.log")?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// Something that happened to a VM.
#[derive(Debug)]
pub enum Happening {
    /// The agent said something.
    Said(GuestMessage),
    /// The console said something worth knowing.
    Console(Finding),
    /// It is gone.
    Gone(VmEnd),
    /// The deadline passed.
    Deadline,
    /// The user wants us to stop.
    Interrupted,
}

/// A running VM.
pub struct Vm<'a> {
    ctx: &'a Context,
    console_log: ConsoleLog,
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
    console: UnixStream,
    console_open: bool,
    console_from: u64,
    scanner: Scanner,
    findings: std::collections::VecDeque<Finding>,
    tail: std::collections::VecDeque<String>,
    monitor: Lines<UnixStream>,
    monitor_open: bool,
    shutdown: Option<String>,
}

impl<'a> Vm<'a> {
    /// Starts a VM.
    ///
    /// # Errors
    /// When QEMU cannot be started at all.
    pub async fn start(
        ctx: &'a Context,
        console_log: ConsoleLog,
        recipe: &Recipe,
        number: u32,
    ) -> Result<Self> {
        let nonce = nonce()?;
        let (console, console_of_qemu) = socket_pair()?;
        let (agent, agent_of_qemu) = socket_pair()?;
        let (mut monitor, monitor_of_qemu) = socket_pair()?;
        ctx.log.emit(Event::VmStarted {
            vm: number,
            nonce: nonce.clone(),
            console_from: console_log.length,
        });
        let mut child =
            recipe.command().spawn(vec![console_of_qemu, agent_of_qemu, monitor_of_qemu])?;
        let keeper_end = child.stdin.take();
        // QEMU has nothing to say there: its console is a socket.
        drop(child.stdout.take());
        let errors = Lines::new(child.stderr.take().expect("piped by spawn"));
        // The monitor tells its events only to who introduced himself. One that
        // is closed already belongs to a QEMU whose end will be told.
        let _ = monitor.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").await;
        let mut vm = Vm {
            ctx,
            console_from: console_log.length,
            console_log,
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
            console,
            console_open: true,
            scanner: Scanner::default(),
            findings: std::collections::VecDeque::new(),
            tail: std::collections::VecDeque::new(),
            monitor: Lines::new(monitor),
            monitor_open: true,
            shutdown: None,
        };
        vm.tell(&HostMessage::Start { nonce }).await;
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

    /// Says something to the agent. If nobody hears it, the deadline for the
    /// answer will tell.
    pub async fn tell(&mut self, message: &HostMessage) {
        let bytes = frame::encode(message).expect("what the harness says is short");
        if self.agent.write_all(&bytes).await.is_err() {
            self.agent_open = false;
        }
    }

    /// Waits for the next thing that happens, until `deadline`.
    ///
    /// # Errors
    /// When the console cannot be written down.
    pub async fn next(&mut self, deadline: Instant) -> Result<Happening> {
        let mut agent_bytes = [0u8; 8192];
        let mut console_bytes = [0u8; 8192];
        loop {
            match self.decoder.take::<Sealed>() {
                Ok(Some(sealed)) => return Ok(self.accept(sealed)),
                Ok(None) => {}
                Err(error) => {
                    return Ok(Happening::Gone(VmEnd::Agent { what: error.to_string() }));
                }
            }
            if let Some(finding) = self.findings.pop_front() {
                return Ok(Happening::Console(finding));
            }
            tokio::select! {
                read = self.agent.read(&mut agent_bytes), if self.agent_open => match read {
                    Ok(n @ 1..) => {
                        self.frame_bytes += n as u64;
                        if self.frame_bytes > FRAMES_LIMIT {
                            let what = format!("more than {FRAMES_LIMIT} bytes of frames");
                            return Ok(Happening::Gone(VmEnd::Agent { what }));
                        }
                        self.decoder.push(&agent_bytes[..n]);
                    }
                    Ok(0) | Err(_) => self.agent_open = false,
                },
                read = self.console.read(&mut console_bytes), if self.console_open => match read {
                    Ok(n @ 1..) => self.hear(&console_bytes[..n])?,
                    Ok(0) | Err(_) => self.console_open = false,
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
                status = self.child.wait(), if !(self.agent_open || self.console_open || self.monitor_open || self.errors_open) => {
                    let code = status.context("waiting for QEMU")?.code().unwrap_or(-1);
                    return Ok(Happening::Gone(self.end_by_itself(code)));
                }
                () = tokio::time::sleep_until(deadline) => return Ok(Happening::Deadline),
                () = self.ctx.interrupt.wait() => return Ok(Happening::Interrupted),
            }
        }
    }

    /// Ends it, if it is not gone yet, and writes down why. Returns the log for
    /// the next one.
    ///
    /// # Errors
    /// When the console cannot be written down.
    pub async fn end(mut self, end: VmEnd) -> Result<ConsoleLog> {
        drop(self.keeper_end.take());
        let deadline = Instant::now() + LAST_WORDS;
        // What still comes is written down; what it means does not matter now.
        while self.agent_open || self.console_open {
            let mut bytes = [0u8; 8192];
            let mut unheard = [0u8; 8192];
            tokio::select! {
                read = self.console.read(&mut bytes), if self.console_open => match read {
                    Ok(n @ 1..) => self.hear(&bytes[..n])?,
                    Ok(0) | Err(_) => self.console_open = false,
                },
                read = self.agent.read(&mut unheard), if self.agent_open && !self.console_open => {
                    self.agent_open = matches!(read, Ok(1..));
                }
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.child.wait().await.context("waiting for QEMU")?;
        self.ctx.log.emit(Event::VmEnded {
            vm: self.number,
            end,
            console_to: self.console_log.length,
        });
        Ok(self.console_log)
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

    /// Takes bytes of the console.
    fn hear(&mut self, bytes: &[u8]) -> Result<()> {
        let room = CONSOLE_LIMIT.saturating_sub(self.console_log.length - self.console_from);
        let kept = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        self.console_log.append(&bytes[..kept])?;
        self.findings.extend(self.scanner.push(&bytes[..kept]));
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
        Ok(())
    }

    /// Takes a line of the monitor: all that is wanted of it is why the guest
    /// shut down (`SHUTDOWN` in QEMU's qapi/run-state.json).
    fn heed(&mut self, line: &str) {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { return };
        if value["event"] == "SHUTDOWN" {
            self.shutdown = value["data"]["reason"].as_str().map(str::to_owned);
        }
    }

    fn end_by_itself(&mut self, code: i32) -> VmEnd {
        match self.shutdown.take() {
            Some(how) if how.starts_with("guest-") => VmEnd::GuestGone { how },
            _ => VmEnd::QemuGone { code, tail: std::mem::take(&mut self.error_tail) },
        }
    }
}

/// A connected pair: ours for tokio, and one to be inherited.
fn socket_pair() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair().context("cannot make a socket pair")?;
    ours.set_nonblocking(true).context("cannot make a socket pair")?;
    Ok((UnixStream::from_std(ours).context("cannot make a socket pair")?, theirs.into()))
}

/// 128 random bits, as hex.
fn nonce() -> Result<String> {
    let mut bytes = [0u8; 16];
    std::io::Read::read_exact(&mut File::open("/dev/urandom").context("/dev/urandom")?, &mut bytes)
        .context("/dev/urandom")?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
