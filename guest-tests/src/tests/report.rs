//! How a test process speaks: steps and one verdict, as frames on file
//! descriptor 3, which the agent opened and reads; and, where notifier events
//! are captured, as markers between the events.
//!
//! Everything in this binary reports through here, a panic included. This
//! module knows nothing of devices or buffers.

#![expect(unsafe_code, reason = "takes over a descriptor that the agent handed down, and _exit")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use hmm_protocol::trace::{MARKER, Marker, Step};
use hmm_protocol::{Failure, Outcome, TestMessage, frame};
use nix::libc;
use nix::time::{ClockId, clock_gettime};

/// The descriptor that the agent opens for a test.
const CHANNEL_FD: RawFd = 3;

/// The descriptor on which the agent says, of a test that is held somewhere, that it
/// may do the step it has announced.
const MAY_FD: RawFd = 4;

/// The exit status when something could not be said because nobody listens.
const UNHEARD: i32 = 3;

/// The exit status of a forked child whose failure is in its pipe.
pub(crate) const CHILD_FAILED: i32 = 1;

/// The way to the agent, from [`open_channel`] on.
static CHANNEL: OnceLock<File> = OnceLock::new();

/// Where it is asked whether a step may be done, from [`ask_before_each_step`] on.
static MAY: OnceLock<File> = OnceLock::new();

/// The way into the trace, from [`open_trace`] on.
static TRACE: OnceLock<File> = OnceLock::new();

/// In a forked child, the way to its parent, from [`become_child`] on.
static TO_PARENT: OnceLock<File> = OnceLock::new();

/// Takes descriptor 3 as the way to the agent.
///
/// # Errors
/// When it is not open: the binary was not started by an agent.
pub(crate) fn open_channel() -> nix::Result<()> {
    CHANNEL.set(inherited(CHANNEL_FD)?).expect("main opens the channel once");
    Ok(())
}

/// From here on no step is done before the agent has said that it may be: for a test
/// that is held before one of them. Only the agent counts steps, since a forked child
/// and its parent cannot.
///
/// # Errors
/// When descriptor 4 is not open.
pub(crate) fn ask_before_each_step() -> nix::Result<()> {
    MAY.set(inherited(MAY_FD)?).expect("main asks for it once");
    Ok(())
}

/// Takes over a descriptor that the agent has opened. Called once for each.
fn inherited(fd: RawFd) -> nix::Result<File> {
    // SAFETY: the borrow ends with the next call, which fails with EBADF where
    // the descriptor is not open; nothing is assumed before.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, as was just seen, and nothing else in this process
    // has it: whoever opens a file from here on gets another number.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// From here on every step is a marker in the trace as well.
///
/// # Errors
/// When the trace cannot be written.
pub(crate) fn open_trace() -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(MARKER)?;
    TRACE.set(file).expect("main opens the trace once");
    introduce("test");
    Ok(())
}

/// Says in the trace who this thread is.
pub(crate) fn introduce(role: &str) {
    mark(&Marker::Process { tgid: std::process::id(), role: role.to_owned() });
}

/// Says what the test does next. A forked child may say it too, as long as its
/// parent waits meanwhile: the order of the steps is part of a trace.
pub(crate) fn step(step: Step) {
    send(&TestMessage::Step { text: step.to_string() });
    if let Some(mut may) = MAY.get()
        && may.read_exact(&mut [0]).is_err()
    {
        exit_now(UNHEARD);
    }
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    let t_ns = u64::try_from(now.as_nanos()).ok();
    mark(&Marker::Step(Step { t_ns, ..step }));
}

/// A test will not go on. It takes its buffers and mirrors down on the way out, and
/// what the kernel sends for that is no part of what the test did last, of which
/// the trace is the evidence. Only the trace says so: what failed is that step.
pub(crate) fn give_up() {
    mark(&Marker::Step(Step::new("give-up")));
}

/// Puts a marker into the trace, if there is one.
fn mark(marker: &Marker) {
    let Some(mut trace) = TRACE.get() else { return };
    let text = serde_json::to_string(marker).expect("a marker is plain data");
    // Without its step, an event would count for the one before.
    if let Err(error) = trace.write_all(text.as_bytes()) {
        eprintln!("cannot write {text} into the trace: {error}");
        exit_now(UNHEARD);
    }
}

/// Says how the test ended, and ends the process at once: no destructor runs
/// that could still change something.
pub(crate) fn verdict(outcome: Outcome) -> ! {
    send(&TestMessage::Verdict(outcome));
    // What the kernel sends for a process that ends is no part of what the test
    // did last.
    mark(&Marker::Step(Step::new("exit")));
    std::process::exit(0)
}

/// From here on a panic is a verdict. The guest profile aborts on panic, so
/// without the hook the agent would see no more than SIGABRT.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let failure = of_panic(info);
        if TO_PARENT.get().is_some() {
            child_failed(&failure);
        }
        verdict(Outcome::Failed(failure));
    }));
}

fn of_panic(info: &PanicHookInfo<'_>) -> Failure {
    let payload = info.payload();
    let words = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Failure {
        file: info.location().map_or_else(String::new, |at| at.file().to_owned()),
        line: info.location().map_or(0, |at| at.line()),
        message: format!("the test itself panicked: {words}"),
        seen: None,
        expected: None,
        page: None,
    }
}

/// From here on this process is a forked child: it has no verdict of its own,
/// and its failures go to its parent.
pub(crate) fn become_child(to_parent: OwnedFd) {
    TO_PARENT.set(File::from(to_parent)).expect("a forked child does not fork again");
    introduce("child");
}

/// Ends a forked child whose check did not hold: the failure travels to the
/// parent, whose verdict it becomes.
pub(crate) fn child_failed(failure: &Failure) -> ! {
    let text = serde_json::to_vec(failure).expect("a failure is strings and numbers");
    let mut pipe = TO_PARENT.get().expect("only a forked child comes here");
    if pipe.write_all(&text).is_err() {
        // The parent is gone, so nobody is left to judge by this status.
        exit_now(UNHEARD);
    }
    exit_now(CHILD_FAILED)
}

/// Ends a forked child: no buffers of the parent's are flushed twice, nothing
/// the parent registered is run.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status) }
}

fn send(message: &TestMessage) {
    let bytes = frame::encode(message).expect("a step and a failure fit in a frame");
    let mut channel = CHANNEL.get().expect("main opens the channel before anything else");
    // One write for one frame, so that a child's step cannot come in between.
    if channel.write_all(&bytes).is_err() {
        // The agent is gone: nobody can learn more from this process.
        exit_now(UNHEARD);
    }
}
