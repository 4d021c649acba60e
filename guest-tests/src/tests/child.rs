//! Forked children: their steps of the way, their failures, and how they end.
//!
//! A check that does not hold in a child ends the child, and becomes the
//! failure of its parent with the child's own file, line and values. A child
//! that ends in any other way than it should is a failure, too.

#![expect(unsafe_code, reason = "forks")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;

use hmm_protocol::{Failure, Step};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};

use crate::check::{OrFail, Result, Stop, check_eq, failed};
use crate::report::{self, step};

/// What a child says when it has come where its parent waits for it. Whatever
/// else it says is a [`Failure`].
const REACHED: &str = "null\n";

/// A child, as its parent has it. If it is dropped, it is killed and reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    said: BufReader<File>,
    tell: Option<File>,
    running: bool,
}

/// The parent, as the child has it.
#[derive(Debug)]
pub(crate) struct Parent {
    said: File,
    tell: File,
}

impl Child {
    /// Forks; the child does `body`, and ends.
    #[track_caller]
    pub(crate) fn fork(body: impl FnOnce(&mut Parent) -> Result) -> Result<Child> {
        let (from_child, to_parent) = pipe().or_fail("make a pipe")?;
        let (from_parent, to_child) = pipe().or_fail("make a pipe")?;
        step(Step::new("fork"));
        // SAFETY: this process has one thread whenever a test forks, so the
        // child finds no lock that another thread held.
        match unsafe { fork() }.or_fail("fork")? {
            ForkResult::Child => {
                drop((from_child, to_child));
                run_child(to_parent, from_parent, body)
            }
            ForkResult::Parent { child } => Ok(Child {
                pid: child,
                said: BufReader::new(File::from(from_child)),
                tell: Some(File::from(to_child)),
                running: true,
            }),
        }
    }

    /// Waits until the child has reached the place where it says so.
    #[track_caller]
    pub(crate) fn wait_until_reached(&mut self) -> Result {
        let mut line = String::new();
        self.said.read_line(&mut line).or_fail("hear from the child")?;
        if line == REACHED {
            return Ok(());
        }
        Err(self.failure_of(&line))
    }

    /// Lets the child go on from [`Parent::wait`].
    #[track_caller]
    pub(crate) fn go_on(&mut self) -> Result {
        let tell = self.tell.as_mut().expect("the pipe is closed only by the child's end");
        tell.write_all(b"\n").or_fail("let the child go on")
    }

    /// Waits for the child's end, which must be that of a child whose checks
    /// all held.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Result {
        let rest = self.rest()?;
        if !rest.is_empty() {
            return Err(self.failure_of(&rest));
        }
        let status = self.reap()?;
        check_eq(status, WaitStatus::Exited(self.pid, 0), "how the child ended")
    }

    /// Kills the child, which must die of just that.
    #[track_caller]
    pub(crate) fn kill(mut self) -> Result {
        step(Step::new("kill-child"));
        kill(self.pid, Signal::SIGKILL).or_fail("kill the child")?;
        let rest = self.rest()?;
        if !rest.is_empty() {
            return Err(self.failure_of(&rest));
        }
        let status = self.reap()?;
        let killed = WaitStatus::Signaled(self.pid, Signal::SIGKILL, false);
        check_eq(status, killed, "how the child ended")
    }

    /// What the child still had to say, up to its end.
    #[track_caller]
    fn rest(&mut self) -> Result<String> {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).or_fail("hear from the child")?;
        Ok(rest)
    }

    /// The failure that the child reported, or how it ended without one.
    #[track_caller]
    fn failure_of(&mut self, said: &str) -> Stop {
        if let Ok(failure) = serde_json::from_str::<Failure>(said) {
            return Stop::Failed(Box::new(failure));
        }
        match self.reap() {
            Ok(status) => failed(format_args!("the child ended too early: {status:?}")),
            Err(stop) => stop,
        }
    }

    #[track_caller]
    fn reap(&mut self) -> Result<WaitStatus> {
        // Its end: a child that waits for a word gets none any more.
        self.tell = None;
        let status = waitpid(self.pid, None).or_fail("wait for the child")?;
        self.running = false;
        Ok(status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.running {
            return;
        }
        // The test has failed already and its reason counts. Both calls fail
        // only for a child that is gone, which is what they are for.
        let _gone = kill(self.pid, Signal::SIGKILL);
        let _reaped = waitpid(self.pid, None);
    }
}

impl Parent {
    /// Tells the parent that this place is reached.
    #[track_caller]
    pub(crate) fn reached(&mut self) -> Result {
        self.tell.write_all(REACHED.as_bytes()).or_fail("tell the parent")
    }

    /// Waits, without using the CPU, until the parent lets the child go on.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Result {
        let mut word = [0];
        self.said.read_exact(&mut word).or_fail("hear from the parent")
    }
}

fn run_child(
    to_parent: OwnedFd,
    from_parent: OwnedFd,
    body: impl FnOnce(&mut Parent) -> Result,
) -> ! {
    // Should the parent die, nobody would end a child that waits for it.
    if prctl::set_pdeathsig(Signal::SIGKILL).is_err() {
        report::exit_now(report::CHILD_FAILED);
    }
    let tell = to_parent.try_clone().expect("a child has descriptors to spare");
    report::become_child(to_parent);
    let mut parent = Parent { said: File::from(from_parent), tell: File::from(tell) };
    match body(&mut parent) {
        Ok(()) => report::exit_now(0),
        Err(Stop::Failed(failure)) => report::child_failed(&failure),
        Err(Stop::Skipped(reason)) => {
            let Stop::Failed(failure) = failed(format_args!("the child cannot go on: {reason}"))
            else {
                unreachable!("failed() makes failures");
            };
            report::child_failed(&failure)
        }
    }
}
