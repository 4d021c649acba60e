//! One test process, from its start to its end.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use hmm_protocol::frame::Decoder;
use hmm_protocol::trace::tag;
use hmm_protocol::wire::{ALIVE_EVERY_MS, GuestMessage, HostMessage, Job, Outcome, TestMessage};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use crate::guest::TESTS;
use crate::health::{self, Counters};
use crate::port::Port;
use crate::random;
use crate::trace::Tracer;

/// The descriptor on which a test process speaks.
const CHANNEL: i32 = 3;

/// The descriptor on which a process that is held somewhere is told, for each step,
/// that it may do it.
const MAY: i32 = 4;

/// How long a killed process may take to go. Longer means that it hangs in the
/// kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// How long it may take to see where a process is in the kernel.
const STACK_DEADLINE: Duration = Duration::from_secs(1);

/// How much of what a test wrote to standard error is kept, in bytes.
const STDERR_KEPT: usize = 1024;

/// The names of the tests that the binary knows.
#[expect(clippy::disallowed_methods, reason = "the agent is the door to processes in the guest")]
pub(crate) fn list() -> Result<Vec<String>, (String, String)> {
    let what = || format!("list the tests of {TESTS}");
    let output = Command::new(TESTS)
        .arg("list")
        .env_clear()
        .output()
        .map_err(|e| (what(), e.to_string()))?;
    if !output.status.success() {
        return Err((what(), output.status.to_string()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Runs a test, this start's `number`th, and tells the harness of its start, its
/// steps and its end.
pub(crate) fn run(
    job: &Job,
    number: u32,
    port: &mut Port,
    tracer: Option<&Tracer>,
) -> Result<(), (String, String)> {
    let failed = |why: String| (format!("run {}", job.id), why);
    health::rearm_once();
    random::stir(&format!("{} {}", job.seed, job.id)).map_err(failed)?;
    let before = Counters::now();
    health::mark(&format!("hmm-harness: begin {}\n", job.id)).map_err(failed)?;

    let tracer = tracer.filter(|_| job.trace);
    if let Some(tracer) = tracer {
        tracer.begin(tag(port.nonce()), number);
    }
    let begun = Instant::now();
    let mut process = Process::start(job).map_err(failed)?;
    port.say(GuestMessage::Started { id: job.id.clone(), pid: process.pid.as_raw() });
    let mut steps = 0;
    let outcome = process.watch(begun + Duration::from_millis(job.timeout_ms), |sign| {
        let id = job.id.clone();
        match sign {
            Sign::Step(text) => {
                steps += 1;
                port.say(GuestMessage::Step { id, text });
                if job.hold == Some(steps) {
                    // Nothing else is to be done meanwhile, and nothing else is said.
                    while port.listen() != HostMessage::GoOn {}
                }
            }
            Sign::Alive => port.say(GuestMessage::Alive { id }),
        }
    });
    let duration_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);

    let capture = tracer.map(Tracer::end);
    health::mark(&format!("hmm-harness: end {}\n", job.id)).map_err(failed)?;
    let health = before.until(&Counters::now());
    let id = job.id.clone();
    port.say(GuestMessage::Finished { id, outcome, duration_us, health, capture });
    Ok(())
}

/// What there is to tell of a test while it runs.
enum Sign {
    /// It came to a new step.
    Step(String),
    /// It runs, and is watched.
    Alive,
}

/// A running test process.
struct Process {
    pid: Pid,
    children: SignalFd,
    channel: File,
    channel_open: bool,
    /// Where it is told that it may do a step, if it asks.
    may: Option<File>,
    stderr: File,
    stderr_open: bool,
    decoder: Decoder,
    verdict: Option<Outcome>,
    said: Vec<u8>,
    status: Option<WaitStatus>,
}

impl Process {
    #[expect(
        clippy::disallowed_methods,
        reason = "the agent is the door to processes in the guest"
    )]
    fn start(job: &Job) -> Result<Self, String> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(|e| format!("block SIGCHLD: {e}"))?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|e| format!("signalfd: {e}"))?;
        let (channel, channel_of_child) = pipe_from_child()?;
        let (stderr, stderr_of_child) = pipe_from_child()?;
        let text = serde_json::to_string(job).map_err(|e| format!("the job: {e}"))?;
        let mut mappings = vec![FdMapping { parent_fd: channel_of_child, child_fd: CHANNEL }];
        let mut may = None;
        if job.hold.is_some() {
            let (parent_fd, to_child) =
                pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
            mappings.push(FdMapping { parent_fd, child_fd: MAY });
            may = Some(to_child.into());
        }
        let child = Command::new(TESTS)
            .args(["run", &text])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/tmp")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr_of_child)
            .process_group(0)
            .fd_mappings(mappings)
            .map_err(|e| e.to_string())?
            .spawn()
            .map_err(|e| format!("{TESTS}: {e}"))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit in 32 bits"));
        Ok(Process {
            pid,
            children,
            channel: channel.into(),
            channel_open: true,
            may,
            stderr: stderr.into(),
            stderr_open: true,
            decoder: Decoder::default(),
            verdict: None,
            said: Vec::new(),
            status: None,
        })
    }

    /// Follows it until it is gone or `deadline` has passed and it was killed.
    fn watch(&mut self, deadline: Instant, mut on_sign: impl FnMut(Sign)) -> Outcome {
        self.wait_until(deadline, &mut on_sign, |process| process.status.is_some());
        let in_time = self.status.is_some();
        let stack = if in_time { String::new() } else { kernel_stack(self.pid) };
        // A child that the test left behind must not see the next one, nor may what
        // the kernel does for its end become a part of that one's trace.
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.wait_until(Instant::now() + KILL_DEADLINE, &mut on_sign, Process::is_gone);
        if !self.is_gone() {
            health::show_where_it_hangs();
            return Outcome::TimedOut { killed: false, stack };
        }
        if in_time { self.outcome() } else { Outcome::TimedOut { killed: true, stack } }
    }

    /// Whether it and all its children were reaped.
    fn is_gone(&self) -> bool {
        self.status.is_some() && killpg(self.pid, None) == Err(Errno::ESRCH)
    }

    /// Waits until something is so, passing on what the process says.
    fn wait_until(
        &mut self,
        deadline: Instant,
        on_sign: &mut impl FnMut(Sign),
        is_so: impl Fn(&Process) -> bool,
    ) {
        let every = Duration::from_millis(ALIVE_EVERY_MS);
        let mut next_sign = Instant::now() + every;
        loop {
            self.drain(on_sign);
            self.reap();
            if is_so(self) {
                return self.drain(on_sign);
            }
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return;
            }
            if now >= next_sign {
                on_sign(Sign::Alive);
                next_sign = now + every;
            }
            let left = left.min(next_sign.saturating_duration_since(now));
            let mut waiting = vec![PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
            if self.channel_open {
                waiting.push(PollFd::new(self.channel.as_fd(), PollFlags::POLLIN));
            }
            if self.stderr_open {
                waiting.push(PollFd::new(self.stderr.as_fd(), PollFlags::POLLIN));
            }
            // A millisecond more than what is left, or a rounded-down remainder
            // would spin. An interrupted call is made again.
            let ms = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            let _ = poll(&mut waiting, PollTimeout::from(ms));
        }
    }

    /// Reads what is there on the channel and on standard error.
    fn drain(&mut self, on_sign: &mut impl FnMut(Sign)) {
        let mut chunk = [0u8; 4096];
        while self.channel_open {
            match self.channel.read(&mut chunk) {
                Ok(0) => self.channel_open = false,
                Ok(n) => {
                    self.decoder.push(&chunk[..n]);
                    self.take_messages(on_sign);
                }
                Err(_) => break,
            }
        }
        while self.stderr_open {
            match self.stderr.read(&mut chunk) {
                Ok(0) => self.stderr_open = false,
                Ok(n) => {
                    let room = STDERR_KEPT.saturating_sub(self.said.len());
                    self.said.extend_from_slice(&chunk[..n.min(room)]);
                }
                Err(_) => break,
            }
        }
    }

    fn take_messages(&mut self, on_sign: &mut impl FnMut(Sign)) {
        loop {
            match self.decoder.take() {
                Ok(Some(TestMessage::Step { text })) => {
                    on_sign(Sign::Step(text));
                    if let Some(may) = &mut self.may {
                        // One that is gone has no next step.
                        let _ = may.write_all(&[0]);
                    }
                }
                // The first verdict stands: nothing honest says two.
                Ok(Some(TestMessage::Verdict(verdict))) => {
                    self.verdict.get_or_insert(verdict);
                }
                Ok(None) => return,
                Err(_) => {
                    self.channel_open = false;
                    return;
                }
            }
        }
    }

    /// Collects every process that ended; as PID 1, also those that lost their
    /// parents.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) if status.pid() == Some(self.pid) => self.status = Some(status),
                Ok(_) => {}
            }
        }
    }

    /// What its end and its words come to.
    fn outcome(&mut self) -> Outcome {
        let said = String::from_utf8_lossy(&self.said);
        let said = said.trim();
        let tail = if said.is_empty() { String::new() } else { format!("; it wrote: {said}") };
        match (self.verdict.take(), self.status) {
            (
                Some(verdict @ (Outcome::Passed | Outcome::Failed(_) | Outcome::Skipped { .. })),
                Some(WaitStatus::Exited(_, 0)),
            ) => verdict,
            (_, Some(WaitStatus::Signaled(_, signal, _))) => {
                Outcome::Died { how: format!("killed by {signal}{tail}") }
            }
            (verdict, Some(WaitStatus::Exited(_, code))) => {
                let and = if verdict.is_some() { "after its verdict" } else { "without a verdict" };
                Outcome::Died { how: format!("exited with {code} {and}{tail}") }
            }
            (_, status) => Outcome::Died { how: format!("ended as {status:?}{tail}") },
        }
    }
}

/// Where a process is in the kernel; nothing if it is not, or runs. Whoever asks
/// may have to wait for what the process holds, so somebody else does.
fn kernel_stack(pid: Pid) -> String {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let stack = read("stack");
        let text = if stack.trim().is_empty() { read("wchan") } else { stack };
        // Too late is as good as never.
        let _ = tell.send(text.trim().to_owned());
    });
    let stack = told.recv_timeout(STACK_DEADLINE).unwrap_or_default();
    // `wchan` of a task that is not waiting.
    if stack == "0" { String::new() } else { stack }
}

/// A pipe whose reading end does not block.
fn pipe_from_child() -> Result<(OwnedFd, OwnedFd), String> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| format!("fcntl: {e}"))?;
    Ok((read, write))
}
