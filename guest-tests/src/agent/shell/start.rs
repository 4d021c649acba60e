//! The command's process, on a terminal or with three pipes.
#![expect(unsafe_code, reason = "calls ioctl, and prepares the child between fork and exec")]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use hmm_protocol::wire::{Shell, Window};
use nix::fcntl::OFlag;
use nix::libc;
use nix::pty::{posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, setsid};

/// What is started where no command is named: the first that is there.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// What a shell's redirections need and no kernel makes.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

mod number {
    use nix::libc;

    // TIOCSCTTY and TIOCSWINSZ (include/uapi/asm-generic/ioctls.h).
    nix::ioctl_write_int_bad!(set_controlling, libc::TIOCSCTTY);
    nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);
}

/// A command that runs, and the agent's ends of what it reads and writes.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) input: File,
    pub(super) output: File,
    /// Nothing where it has a terminal, to which everything is written.
    pub(super) errors: Option<File>,
    pub(super) terminal: Option<File>,
}

/// Starts the command.
#[expect(clippy::disallowed_methods, reason = "the agent is the door to processes in the guest")]
pub(super) fn start(order: &Shell) -> std::io::Result<Started> {
    let shell = || SHELLS.into_iter().find(|shell| Path::new(shell).exists()).unwrap_or(SHELLS[1]);
    let (program, args) = match order.argv.split_first() {
        Some((program, args)) => (program.as_str(), args),
        None => (shell(), &[][..]),
    };
    let cwd = Path::new(&order.cwd);
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(order.env.iter().map(|(name, value)| (name, value)))
        .current_dir(if cwd.is_dir() { cwd } else { Path::new("/") });
    let terminal = order.terminal.map(open_terminal).transpose()?;
    let on_terminal = terminal.is_some();
    // SAFETY: what the closure calls is safe after a fork: system calls about the
    // calling process, with nothing allocated and no lock taken.
    unsafe { command.pre_exec(move || lead(on_terminal)) };
    match terminal {
        Some((ours, theirs)) => {
            let also = || theirs.try_clone().map(Stdio::from);
            let child = command.stdin(also()?).stdout(also()?).stderr(theirs).spawn()?;
            let pid = pid_of(child.id());
            let (input, output) = (ours.try_clone()?, ours.try_clone()?);
            Ok(Started { pid, input, output, errors: None, terminal: Some(ours) })
        }
        None => {
            let pipe = Stdio::piped;
            let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn()?;
            let taken = "piped above";
            let input = OwnedFd::from(child.stdin.take().expect(taken)).into();
            let output = OwnedFd::from(child.stdout.take().expect(taken)).into();
            let errors = OwnedFd::from(child.stderr.take().expect(taken)).into();
            let pid = pid_of(child.id());
            Ok(Started { pid, input, output, errors: Some(errors), terminal: None })
        }
    }
}

/// Whether a command did not start because there is none of its name. That there is no
/// interpreter for it is the same error.
pub(super) fn is_absent(order: &Shell, error: &std::io::Error) -> bool {
    let Some(program) = order.argv.first() else { return false };
    let path = order.env.iter().find(|(name, _)| name == "PATH");
    let is_in = |dir: &str| Path::new(&order.cwd).join(dir).join(program).is_file();
    let is_there = match program.contains('/') {
        true => is_in(""),
        false => path.is_some_and(|(_, path)| path.split(':').any(is_in)),
    };
    error.kind() == std::io::ErrorKind::NotFound && !is_there
}

/// In the child: makes it the leader of a session, whose terminal standard input is
/// if there is one, with no signal blocked.
fn lead(on_terminal: bool) -> std::io::Result<()> {
    setsid()?;
    SigSet::empty().thread_set_mask()?;
    if on_terminal {
        // SAFETY: standard input is open, and the request takes a number.
        unsafe { number::set_controlling(0, 0) }?;
    }
    Ok(())
}

/// A new terminal of this size: our side of it, and the command's.
fn open_terminal(window: Window) -> std::io::Result<(File, File)> {
    let ours = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    unlockpt(&ours)?;
    let theirs = OpenOptions::new().read(true).write(true).open(ptsname_r(&ours)?)?;
    let ours = File::from(OwnedFd::from(ours));
    set_size(&ours, window);
    Ok((ours, theirs))
}

/// Gives a terminal another size. One that has no size works all the same.
pub(super) fn set_size(terminal: &File, window: Window) {
    let size =
        libc::winsize { ws_row: window.rows, ws_col: window.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and the kernel only reads the structure.
    let _ = unsafe { number::set_size(terminal.as_raw_fd(), &size) };
}

/// Makes the links of `/dev` that udev makes elsewhere. Those that cannot be made
/// are there already.
pub(super) fn make_links() {
    for (link, target) in LINKS {
        let _ = std::os::unix::fs::symlink(target, link);
    }
}

fn pid_of(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("process ids fit in 32 bits"))
}
