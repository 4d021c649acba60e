//! The one door through which child processes start.
//!
//! Each runs under a [keeper](crate::keeper), with an environment built here
//! and never the inherited one, with its output drained line by line and
//! bounded, and ends when the user interrupts us. Short questions to git go
//! through [`crate::git`] instead.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use command_fds::{CommandFdExt as _, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::interrupt::Interrupt;
use crate::keeper;
use crate::stop::Stop;

/// The longest line that is kept, in bytes; the rest of a longer one is cut.
const MAX_LINE: usize = 16 * 1024;

/// The program that serves as keeper, where it is not this one.
static KEEPER: OnceLock<PathBuf> = OnceLock::new();

/// Names the program that serves as keeper: for tests of the library, whose
/// own program does not know the word. Only the first call counts.
pub fn keeper_is(program: &Path) {
    KEEPER.get_or_init(|| program.to_owned());
}

/// The environment that children get: where programs are, a home, a language
/// whose messages can be parsed. Nothing else of ours leaks into a build.
pub fn environment() -> Vec<(OsString, OsString)> {
    let inherited = |name: &str, default: &str| {
        (name.into(), std::env::var_os(name).unwrap_or_else(|| default.into()))
    };
    vec![
        inherited("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        inherited("HOME", "/"),
        ("LC_ALL".into(), "C".into()),
    ]
}

/// A command to be run.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; 128 plus the signal, if one ended it.
    pub code: i32,
    /// The last lines it wrote, at most a hundred.
    pub tail: Vec<String>,
}

impl Ended {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

impl Cmd {
    /// A command without arguments, in the environment of [`environment`].
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Cmd { program: program.as_ref().into(), args: Vec::new(), env: environment(), dir: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().into()));
        self
    }

    /// Adds a variable to the built environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Runs it in a directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().into());
        self
    }

    /// Hands the command, as words, to another one: `sh -c ...`.
    #[must_use]
    pub fn by<const N: usize>(mut self, words: [&str; N]) -> Self {
        let old = std::mem::take(&mut self.program);
        self.args.splice(0..0, words.map(OsString::from).into_iter().chain([old]));
        self.program = self.args.remove(0);
        self
    }

    /// The command as a person would paste it into a shell.
    pub fn pasteable(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|w| quote(&w.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }

    /// Starts it under a keeper, with `fds` as descriptors 3, 4, ... and its
    /// output in pipes.
    ///
    /// # Errors
    /// When the keeper cannot be started.
    pub fn spawn(&self, fds: Vec<OwnedFd>) -> Result<Child> {
        let keeper = KEEPER.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path);
        let mut command = Command::new(keeper);
        command.arg(keeper::WORD).arg(&self.program).args(&self.args);
        command.env_clear().envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(false);
        let mappings =
            (3..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        command.fd_mappings(mappings).context("two descriptors for one number")?;
        command.spawn().with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Starts it without a keeper, in a process group of its own, with all its
    /// output in a file: for another harness, whose children must be ended by
    /// their own keepers and not by one of ours.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_unkept(&self, output: File) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        command.env_clear().envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let also = output.try_clone().context("the output of a child")?;
        command.stdin(Stdio::null()).stdout(output).stderr(also);
        command.process_group(0).kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Starts it where we are ourselves: at our terminal, in our process group, in the
    /// environment that the user has there. It is for a program that the user works
    /// with, and is killed when we are.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_at_terminal(&self) -> Result<Child> {
        let us = KEEPER.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path);
        let mut command = Command::new(us);
        command.arg(keeper::CHILD_WORD).arg(std::process::id().to_string());
        command.arg(&self.program).args(&self.args).kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Runs it to its end and gives every line of its output to `on_line`.
    ///
    /// # Errors
    /// [`Stop::Interrupted`] when the user stops us; the group is gone then.
    /// [`Stop::Machine`] when it cannot be started.
    pub async fn run(
        &self,
        interrupt: &Interrupt,
        on_line: impl FnMut(&str),
    ) -> Result<Ended, Stop> {
        self.run_with(Vec::new(), interrupt, on_line).await
    }

    /// The same with `fds` as descriptors 3, 4, ...
    ///
    /// # Errors
    /// As [`Cmd::run`].
    pub async fn run_with(
        &self,
        fds: Vec<OwnedFd>,
        interrupt: &Interrupt,
        mut on_line: impl FnMut(&str),
    ) -> Result<Ended, Stop> {
        let mut child = self.spawn(fds)?;
        let keeper_end = child.stdin.take();
        let mut out = Lines::new(child.stdout.take().expect("piped above"));
        let mut err = Lines::new(child.stderr.take().expect("piped above"));
        let mut tail = std::collections::VecDeque::new();
        let mut keep = |line: String| {
            on_line(&line);
            if tail.len() == 100 {
                tail.pop_front();
            }
            tail.push_back(line);
        };
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            tokio::select! {
                line = out.next(), if out_open => match line.context("reading the output of a child")? {
                    Some(line) => keep(line),
                    None => out_open = false,
                },
                line = err.next(), if err_open => match line.context("reading the output of a child")? {
                    Some(line) => keep(line),
                    None => err_open = false,
                },
                () = interrupt.wait() => {
                    drop(keeper_end);
                    gone(&mut child).await.context("waiting for a child")?;
                    return Err(Stop::Interrupted);
                }
            }
        }
        let status = child.wait().await.context("waiting for a child")?;
        drop(keeper_end);
        let code = status.code().unwrap_or(i32::from(u8::MAX));
        if code == i32::from(keeper::CANNOT_START) && tail.len() == 1 {
            return Err(anyhow::anyhow!("cannot start {}", tail[0]).into());
        }
        Ok(Ended { code, tail: tail.into() })
    }
}

/// Asks a child to end, and kills it if it does not: one that has the terminal must
/// have the time to leave it in order.
///
/// # Errors
/// When it cannot be waited for.
pub async fn end_gently(child: &mut Child) -> std::io::Result<()> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // One that ended in between is what was wanted.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    match tokio::time::timeout(keeper::GRACE, child.wait()).await {
        Ok(status) => status.map(drop),
        Err(_) => child.kill().await,
    }
}

/// Waits for a keeper that has been left, and kills one that does not do what is
/// left to it: its child dies with it.
///
/// # Errors
/// When it cannot be waited for.
pub async fn gone(keeper: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    match tokio::time::timeout(keeper::GRACE * 2, keeper.wait()).await {
        Ok(status) => status,
        Err(_) => {
            keeper.start_kill()?;
            keeper.wait().await
        }
    }
}

/// Splits bytes into lines of bounded length, whatever bytes they are.
pub struct Lines<R> {
    from: BufReader<R>,
    pending: Vec<u8>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of `from`.
    pub fn new(from: R) -> Self {
        Lines { from: BufReader::new(from), pending: Vec::new(), ended: false }
    }

    /// The next line without its end, `None` at the end of the stream. Safe to
    /// cancel: nothing that was read is lost.
    ///
    /// # Errors
    /// When reading fails.
    pub async fn next(&mut self) -> std::io::Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| matches!(b, b'\n' | b'\r')) {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.truncate(end);
                if !line.is_empty() {
                    return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
                }
                continue;
            }
            if self.pending.len() > MAX_LINE || (self.ended && !self.pending.is_empty()) {
                let line = std::mem::take(&mut self.pending);
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.ended {
                return Ok(None);
            }
            let mut chunk = [0u8; 4096];
            let n = self.from.read(&mut chunk).await?;
            self.ended = n == 0;
            self.pending.extend_from_slice(&chunk[..n]);
        }
    }
}

/// A word as a POSIX shell needs it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        let check = |word: &str, expect: &str| assert_eq!(quote(word), expect);
        check("vmlinux", "vmlinux");
        check("memmap=512M$0x50000000", "'memmap=512M$0x50000000'");
        check("it's", r"'it'\''s'");
        check("", "''");
    }

    #[tokio::test]
    async fn lines_are_bounded_and_lossy() {
        let bytes = [b"one\n\xfftwo\r\n".as_slice(), &[b'x'; MAX_LINE * 3], b"\nlast"].concat();
        let mut lines = Lines::new(bytes.as_slice());
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await.expect("reading from memory") {
            seen.push(line);
        }
        assert_eq!(seen[0], "one");
        assert_eq!(seen[1], "\u{fffd}two");
        assert!(seen[2].len() <= MAX_LINE + 4096);
        assert_eq!(seen.last().map(String::as_str), Some("last"));
    }
}
