//! One command for a person or a script: its bytes go through ports of their own,
//! as they are, and what there is to say of them goes through the agent's.
//!
//! No stream holds up another: each has a buffer of its own and waits for nobody
//! but its reader.
#![expect(unsafe_code, reason = "calls waitpid")]

mod flow;
mod start;

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use hmm_protocol::wire::{
    GuestMessage, HostMessage, Output, SHELL_ERRORS_PORT, SHELL_PORT, Shell, ShellEnd,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, pipe2};

use crate::health;
use crate::port::{self, Port};
use flow::Flow;
use start::Started;

/// What the markers in the kernel's log call the command.
const ID: &str = "shell";

/// Runs the command to its end, and says how that was.
pub(crate) fn run(order: &Shell, port: &mut Port) -> Result<(), (String, String)> {
    let failed = |why: String| ("run a command".to_owned(), why);
    let bytes = port::open(SHELL_PORT).map_err(failed)?;
    let errors = port::open(SHELL_ERRORS_PORT).map_err(failed)?;
    start::make_links();
    health::mark(&format!("hmm-harness: begin {ID}\n")).map_err(failed)?;
    let last_word = serve(order, port, &bytes, &errors).map_err(failed)?;
    health::mark(&format!("hmm-harness: end {ID}\n")).map_err(failed)?;
    port.say(last_word);
    // What QEMU has not taken yet would be lost with the last descriptor of its
    // port. The guest ends soon.
    std::mem::forget((bytes, errors));
    Ok(())
}

/// Runs the command with its standard input and output at the other end of `bytes`
/// and its standard error at that of `errors`. Returns the last word about it.
fn serve(
    order: &Shell,
    port: &mut Port,
    bytes: &File,
    errors: &File,
) -> Result<GuestMessage, String> {
    let Started { pid, input, output, errors: written, terminal } = match start::start(order) {
        Ok(started) => started,
        Err(error) => {
            let absent = start::is_absent(order, &error);
            let end = ShellEnd::NotStarted { absent, why: error.to_string() };
            return Ok(GuestMessage::ShellEnded { end, output: 0, errors: 0 });
        }
    };
    let (over, status) = wait_for(pid)?;
    let clone = |port: &File| port.try_clone().map_err(|e| format!("a port: {e}"));
    let mut input = Flow::new(Some(clone(bytes)?), input)?;
    let mut output = Flow::new(Some(output), clone(bytes)?)?;
    let mut errors = Flow::new(written, clone(errors)?)?;
    let mut input_length = None;
    let mut end = None;
    loop {
        // Before any wait: some may have come with the order.
        while let Some(message) = port.heard() {
            match message {
                HostMessage::InputEnds { length } => input_length = Some(length),
                HostMessage::Unread { output: Output::Output } => output.forget(),
                HostMessage::Unread { output: Output::Errors } => errors.forget(),
                HostMessage::Resize(window) => {
                    if let Some(terminal) = &terminal {
                        start::set_size(terminal, window);
                    }
                }
                other => return Err(format!("{other:?} is said in its midst")),
            }
        }
        input.step(false);
        if input_length == Some(input.given()) {
            input.close();
        }
        // What the command itself has written is all there when it has ended; what
        // it has left behind may go on for ever.
        output.step(end.is_some());
        errors.step(end.is_some());
        if output.is_over()
            && errors.is_over()
            && let Some(end) = end.take()
        {
            let (output, errors) = (output.given(), errors.given());
            return Ok(GuestMessage::ShellEnded { end, output, errors });
        }
        let (hears, ends) = {
            let reads = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut waiting = vec![reads(port.as_fd())];
            if end.is_none() {
                waiting.push(reads(over.as_fd()));
            }
            waiting.extend([&input, &output, &errors].into_iter().filter_map(Flow::waits_for));
            let blocked = output.is_blocked() || errors.is_blocked();
            let rest = end.is_some() && !blocked;
            let patience = if rest { PollTimeout::ZERO } else { PollTimeout::NONE };
            // An interrupted wait is a short one.
            let ready = poll(&mut waiting, patience).is_ok();
            let is = |n: usize| ready && waiting[n].any().unwrap_or(false);
            (is(0), end.is_none() && is(1))
        };
        if ends {
            end = Some(how(status.recv().map_err(|e| format!("the command's end: {e}"))?));
        }
        if hears {
            port.hear();
        }
    }
}

/// Waits for a process on the side, and reaps all others, as PID 1 must. Returns
/// what is readable when it has ended, and its status.
fn wait_for(pid: Pid) -> Result<(OwnedFd, Receiver<ExitStatus>), String> {
    let (over, still) = pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
    let (tell, told) = channel();
    thread::spawn(move || {
        loop {
            let mut status = 0;
            // SAFETY: the status is ours to be written to. (nix's own knows no signal
            // above 31, and has reaped the process when it says so.)
            let ended = unsafe { libc::waitpid(-1, &mut status, 0) };
            if ended == pid.as_raw() {
                // Nobody listening means that nobody wants to know.
                let _ = tell.send(ExitStatus::from_raw(status));
                break;
            }
            // An interrupted wait is not the end, nor is that of another one.
            if ended == -1 && Errno::last() != Errno::EINTR {
                break;
            }
        }
        drop(still);
    });
    Ok((over, told))
}

/// The end of a process, for the harness.
fn how(status: ExitStatus) -> ShellEnd {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match status.signal() {
        Some(signal) => ShellEnd::Killed { signal: byte(signal) },
        None => ShellEnd::Exited { code: status.code().map_or(u8::MAX, byte) },
    }
}

#[cfg(test)]
mod tests;
