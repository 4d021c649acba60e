//! `shell`: a command, or a shell, in the booted kernel, on the host's files.
//!
//! The bytes of the command pass through as they are. Standard output is the
//! command's alone; standard error too, as soon as the guest runs, but for what has
//! to be said at the end.

use std::fs::File;
use std::io::{ErrorKind, Read as _, stderr, stdin, stdout};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};
use hmm_protocol::frame;
use hmm_protocol::wire::{HostMessage, Shell, ShellEnd, Window};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::run_kernel_tests::{Bootable, Permissions, Prepared, bootable, prepare};
use crate::boot::{self, SHELL_HOME};
use crate::cli::ShellArgs;
use crate::context::{Context, Session};
use crate::plan::Switch;
use crate::progress::{self, Talk, say};
use crate::run::Options;
use crate::run::shell::{self, End, Ended, Order, Sink};
use crate::rundir;
use crate::stop::{Fault, INTERRUPTED, NOT_AS_EXPECTED, Problem, Stop};
use crate::terminal::{self, Kept, WayOut};
use crate::words::line;

/// What shells use for a command that is there and cannot be started, and for one
/// that is not (POSIX, 2.8.2).
const CANNOT_START: u8 = 126;
const NOT_FOUND: u8 = 127;

/// What is added to the number of a signal.
const SIGNALLED: u8 = 128;

/// Where programs are, in the guest.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of standard input is read at once, in bytes.
const CHUNK: usize = 32 * 1024;

/// How many pieces of what is typed wait for the guest.
const KEYS: usize = 256;

/// Runs the command. Returns the exit code of what ran in the guest.
///
/// # Errors
/// What is wrong with the request, the kernel, or the machine.
pub async fn run(args: &ShellArgs) -> Result<u8, Stop> {
    let session = super::session_that_tells(Talk::Little)?;
    match ask(&session, args).await {
        // Who has interrupted it knows.
        Err(Stop::Interrupted) => Ok(INTERRUPTED),
        ended => ended,
    }
}

async fn ask(session: &Session, args: &ShellArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let on_terminal = terminal::is_there(!args.command.is_empty());
    let shell = order(args, &cwd, on_terminal)?;
    let prepared = prepare(args.wishes(), args.plan.as_deref(), &cwd)?;
    let dir = tempfile::Builder::new()
        .prefix("hmm-harness-shell-")
        .tempdir()
        .context("make a temporary directory")?;
    let permissions =
        Permissions { yes: args.yes, refresh: args.refresh, ..Permissions::default() };
    let ctx = &session.context()?;
    let ran = in_guest(ctx, &prepared, permissions, dir.path(), shell).await;
    let to_be_seen = match &ran {
        Ok(ended) => !(matches!(ended.end, End::Command(_)) && ended.complaints.is_empty()),
        Err(stop) => matches!(stop, Stop::Kernel(_) | Stop::Machine(_)),
    };
    let is_there = |name: &str| dir.path().join(name).exists();
    if to_be_seen && [rundir::CONSOLE, rundir::BUILD].into_iter().any(is_there) {
        let kept = dir.keep();
        say(format_args!("note     its console and its build are in {}", kept.display()));
    }
    tell(ran?, args)
}

/// What is to be run, but for what the terminal will be when it is.
fn order(args: &ShellArgs, cwd: &Path, on_terminal: bool) -> Result<Shell, Stop> {
    let variable = |name: &str, default: &str| {
        let value = std::env::var(name).unwrap_or_else(|_| default.to_owned());
        (name.to_owned(), value)
    };
    let fixed = [("PATH", PATH), ("HOME", SHELL_HOME), ("USER", "root"), ("LOGNAME", "root")];
    let mut env: Vec<(String, String)> =
        fixed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    env.push(variable("LANG", "C.UTF-8"));
    if on_terminal {
        env.push(variable("TERM", "dumb"));
    }
    let shell = Shell {
        argv: args.command.clone(),
        env,
        cwd: cwd.to_string_lossy().into_owned(),
        terminal: on_terminal.then(terminal::window),
    };
    if let Err(error) = frame::encode(&HostMessage::Shell(shell.clone())) {
        let hint = "hand what is long over on standard input";
        return Err(Stop::usage(Problem::new("CMD", error.to_string()).hint(hint)));
    }
    Ok(shell)
}

/// Brings up the guest, from whatever is in the store, and runs the command.
async fn in_guest(
    ctx: &Context,
    prepared: &Prepared,
    permissions: Permissions,
    dir: &Path,
    shell: Shell,
) -> Result<Ended, Stop> {
    let Bootable { kernel, image, qemu, accelerator } =
        bootable(ctx, prepared, permissions, dir, |_| Ok(()))
            .await?
            .expect("nothing ends it before");
    // What the user traces is the user's business.
    let trace = Some(Switch::Off);
    let recipe = boot::recipe(&kernel, image, qemu, accelerator, trace)?.for_shell();
    std::fs::write(dir.join("qemu.cmd"), recipe.pasteable()).context("cannot write qemu.cmd")?;
    let options = Options { trace, ..prepared.options(accelerator) };
    shell::command(ctx, &recipe, &options, dir, || connect(shell)).await
}

/// Connects a command to our own standard streams.
fn connect(mut shell: Shell) -> Result<Order> {
    // From here on the screen is the guest's.
    progress::close(true);
    let what = "the standard streams";
    let output = File::from(stdout().as_fd().try_clone_to_owned().context(what)?);
    let errors = File::from(stderr().as_fd().try_clone_to_owned().context(what)?);
    let input = File::from(stdin().as_fd().try_clone_to_owned().context(what)?);
    let (to, sizes) = mpsc::channel(1);
    let mut raw = None;
    if shell.terminal.is_some() {
        raw = Some(Kept::raw()?);
        tell_sizes(to)?;
        // It may have been changed while the guest was on its way.
        shell.terminal = Some(terminal::window());
    }
    let input = read(input, raw.is_some().then(WayOut::default));
    let (output, errors): (Sink, Sink) = (Box::new(output), Box::new(errors));
    Ok(Order { shell, input, sizes, output, errors, raw })
}

/// Reads standard input on the side: whoever reads a terminal or a pipe cannot be
/// told to stop.
fn read(mut from: File, mut way_out: Option<WayOut>) -> mpsc::Receiver<Vec<u8>> {
    let (to, input) = mpsc::channel(if way_out.is_some() { KEYS } else { 1 });
    thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let bytes = match from.read(&mut chunk) {
                Ok(n @ 1..) => &chunk[..n],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => break,
            };
            let bytes = match &mut way_out {
                None => bytes.to_vec(),
                Some(way_out) => match way_out.pass(bytes) {
                    Some(bytes) => bytes,
                    None => {
                        // As if there were no terminal to take the key for itself.
                        let _ = kill(Pid::this(), Signal::SIGINT);
                        break;
                    }
                },
            };
            let sent = match way_out {
                // A guest that hangs takes nothing, and its user must get out all the
                // same: what is typed then is lost.
                Some(_) => !matches!(to.try_send(bytes), Err(TrySendError::Closed(_))),
                None => to.blocking_send(bytes).is_ok(),
            };
            if !sent {
                break;
            }
        }
    });
    input
}

/// Tells the size of the terminal whenever it has another.
fn tell_sizes(to: mpsc::Sender<Window>) -> Result<()> {
    let mut changes = signal(SignalKind::window_change()).context("listen for a signal")?;
    tokio::spawn(async move {
        while changes.recv().await.is_some() && to.send(terminal::window()).await.is_ok() {}
    });
    Ok(())
}

/// Says what there is to say, and returns the exit code.
fn tell(ended: Ended, args: &ShellArgs) -> Result<u8, Stop> {
    for title in &ended.complaints {
        say(format_args!("note     the kernel complained: {}", line(title)));
    }
    let code = match ended.end {
        End::Guest { why, tail } => {
            let fault = Fault::new(format!("the command did not end: {why}")).details(tail);
            say(Stop::Kernel(fault));
            return Ok(NOT_AS_EXPECTED);
        }
        End::Command(end) => {
            if let ShellEnd::NotStarted { why, .. } = &end {
                let command = args.command.first().map_or("the shell", String::as_str);
                say(format_args!("error: {command}: {}", line(why)));
            }
            code_of(&end)
        }
    };
    match ended.unwritten {
        None => Ok(code),
        Some(why) => Err(anyhow::anyhow!("cannot write what the command wrote: {why}").into()),
    }
}

/// The exit code for the end of a command, as shells have it.
fn code_of(end: &ShellEnd) -> u8 {
    match end {
        ShellEnd::Exited { code } => *code,
        ShellEnd::Killed { signal } => SIGNALLED.saturating_add(*signal),
        ShellEnd::NotStarted { absent: true, .. } => NOT_FOUND,
        ShellEnd::NotStarted { absent: false, .. } => CANNOT_START,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_command() {
        let not_started = |absent| ShellEnd::NotStarted { absent, why: String::new() };
        let check = |end, code| assert_eq!(code_of(&end), code, "{end:?}");
        check(ShellEnd::Exited { code: 0 }, 0);
        check(ShellEnd::Exited { code: 255 }, 255);
        check(ShellEnd::Killed { signal: 9 }, 137);
        check(ShellEnd::Killed { signal: 255 }, 255);
        check(not_started(true), 127);
        check(not_started(false), 126);
    }
}
