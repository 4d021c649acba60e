//! The process between the harness and each of its children.
//!
//! It starts the child in a process group of its own and ends all of it when
//! the harness is gone, however it went: the keeper's standard input is a pipe
//! whose other end only the harness holds, so a SIGKILL of the harness closes
//! it as surely as an orderly exit does. As a subreaper it also finds
//! grandchildren that left the group.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::progress::say;

/// The word that turns this program into a keeper; never typed by a person.
pub const WORD: &str = "__keep";

/// The word that turns it into what the keeper starts: see [`become_child`].
pub const CHILD_WORD: &str = "__kept";

/// How long a group has between the request to end and the end.
pub const GRACE: Duration = Duration::from_secs(3);

/// The exit code that says that the program could not be started at all.
pub const CANNOT_START: u8 = 127;

/// Runs `program` with `args` until it ends or standard input closes.
///
/// Returns the child's exit code, 128 plus the signal that ended it, or
/// [`CANNOT_START`].
#[expect(clippy::disallowed_methods, reason = "the keeper is what the door leads to")]
pub fn keep(program: &OsStr, args: &[OsString]) -> ExitCode {
    // Without it only the group is found, which is all that most children need.
    let subreaper = nix::sys::prctl::set_child_subreaper(true).is_ok();
    let mut command = Command::new("/proc/self/exe");
    command.arg(CHILD_WORD).arg(std::process::id().to_string()).arg(program).args(args);
    command.stdin(Stdio::null()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            say(format_args!("{}: {error}", program.display()));
            return ExitCode::from(CANNOT_START);
        }
    };
    let group = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit in 32 bits"));

    static ENDED: AtomicBool = AtomicBool::new(false);
    thread::spawn(move || {
        let mut byte = [0u8; 1];
        // Nothing is ever written to this pipe: a read ends when it is closed.
        while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
        // A group that is gone already is what was wanted.
        let _ = killpg(group, Signal::SIGTERM);
        let step = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        while waited < GRACE && !ENDED.load(Ordering::Acquire) {
            thread::sleep(step);
            waited += step;
        }
        let _ = killpg(group, Signal::SIGKILL);
    });

    let status = child.wait();
    ENDED.store(true, Ordering::Release);
    let _ = killpg(group, Signal::SIGKILL);
    if subreaper {
        end_descendants();
    }
    match status {
        Ok(status) => {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }
        Err(error) => {
            say(format_args!("{}: {error}", program.display()));
            ExitCode::from(CANNOT_START)
        }
    }
}

/// Becomes `program` with `args`, in a process that the kernel kills when its
/// keeper, the process `keeper`, is killed itself. That wish outlives the exec
/// (prctl(2), `PR_SET_PDEATHSIG`).
///
/// Returns [`CANNOT_START`] if it cannot.
#[expect(clippy::disallowed_methods, reason = "the keeper is what the door leads to")]
pub fn become_child(keeper: &OsStr, program: &OsStr, args: &[OsString]) -> ExitCode {
    let wished = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    // A keeper that was killed before the wish was made leaves us to another.
    let orphaned = keeper.to_str() != Some(&nix::unistd::getppid().to_string());
    if wished.is_ok() && !orphaned {
        let error = Command::new(program).args(args).exec();
        say(format_args!("{}: {error}", program.display()));
    }
    ExitCode::from(CANNOT_START)
}

/// Kills what was reparented to this process, until nothing is left.
fn end_descendants() {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    // Each round can uncover the next generation; a fork bomb is not ours.
    for _ in 0..64 {
        let Ok(children) = std::fs::read_to_string(&path) else { return };
        let pids: Vec<i32> = children.split_whitespace().filter_map(|p| p.parse().ok()).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            // A child that ended in between is what was wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
        }
    }
}
