//! The run that is injured: this program again, in a process of its own; and the
//! processes that belong to it, whoever is their parent by now.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::process::Child;
use tokio::time::{Duration, Instant};

use super::disk::Disk;
use crate::keeper;
use crate::proc::Cmd;

/// A word in the arguments of every QEMU that runs a guest, and of no other.
const GUEST: &str = "hmm.agent";

/// How often we look whether a process is there or gone.
const LOOK: Duration = Duration::from_millis(5);

/// How a run ended, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// With this exit code.
    Exit(u8),
    /// By this signal.
    Signal(i32),
    /// Not at all, so that we ended it.
    Hung,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exit(code) => write!(f, "exit {code}"),
            End::Signal(number) => write!(f, "signal {number}"),
            End::Hung => f.write_str("hung"),
        }
    }
}

/// Where a victim lives.
pub(super) struct Place<'a> {
    /// The program.
    pub(super) program: &'a Path,
    /// A directory of its own: the home of all its processes, by which they are
    /// found.
    pub(super) home: &'a Path,
    /// Its store.
    pub(super) store: &'a Path,
    /// The disk on which it works, if it has one of its own.
    pub(super) disk: Option<&'a Disk>,
}

/// A run in a process of its own.
pub(super) struct Victim {
    child: Child,
    pid: Pid,
    began: Instant,
}

impl Victim {
    /// Starts it. Its output goes to `output.txt` in its home.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(place: &Place<'_>, words: &[String]) -> Result<Self> {
        let output = place.home.join("output.txt");
        let output = File::create(&output).with_context(|| output.display().to_string())?;
        // Should we be killed ourselves, it is killed too.
        let ours = std::process::id().to_string();
        let cmd = Cmd::new(place.program).args([keeper::CHILD_WORD, &ours]);
        let cmd = cmd.arg(place.program).args(words);
        let cmd = match place.disk {
            Some(disk) => disk.enter(cmd),
            None => cmd,
        };
        let cmd = cmd.env("HMM_HARNESS_CACHE", place.store).env("HOME", place.home);
        let child = cmd.dir(place.home).spawn_unkept(output)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = Pid::from_raw(pid.context("the run was over before it began")?);
        Ok(Victim { child, pid, began: Instant::now() })
    }

    /// When it was started.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Waits for its end, until `deadline`; `None` when that has passed.
    pub(super) async fn wait_until(&mut self, deadline: Instant) -> Result<Option<End>> {
        match tokio::time::timeout_at(deadline, self.child.wait()).await {
            Err(_) => Ok(None),
            Ok(status) => {
                let status = status.context("waiting for a run")?;
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                let signal = End::Signal(status.signal().unwrap_or_default());
                Ok(Some(code.map_or(signal, End::Exit)))
            }
        }
    }

    /// Whether it has ended.
    pub(super) fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal. Returns whether it was there to get it.
    pub(super) fn signal(&mut self, signal: Signal) -> bool {
        !self.is_over() && kill(self.pid, signal).is_ok()
    }
}

/// A process as `/proc` shows it.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    words: Vec<String>,
}

impl Process {
    /// Whether it is a QEMU that runs a guest.
    pub(super) fn is_qemu(&self) -> bool {
        self.words.first().is_some_and(|word| word.contains("qemu-system")) && self.has_guest()
    }

    /// Whether it is the keeper of one.
    pub(super) fn is_keeper(&self) -> bool {
        self.words.get(1).is_some_and(|word| word == keeper::WORD) && self.has_guest()
    }

    fn has_guest(&self) -> bool {
        self.words.iter().any(|word| word.contains(GUEST))
    }

    /// Sends it a signal. Returns whether it was there to get it.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        kill(self.pid, signal).is_ok()
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: String = self.words.join(" ").chars().take(160).collect();
        write!(f, "process {}: {words}", self.pid)
    }
}

/// The processes in whose arguments or environment the path `home` stands. This
/// one is never among them, and neither is who has ended and waits to be told.
pub(super) fn processes_of(home: &Path) -> Vec<Process> {
    let marker = home.as_os_str().as_encoded_bytes();
    let ours = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse() else { continue };
        if name == ours {
            continue;
        }
        // Whoever went in between, or is somebody else's, has nothing to read.
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let args = read("cmdline");
        if contains(&args, marker) || contains(&read("environ"), marker) {
            let words = args.split(|b| *b == 0).filter(|word| !word.is_empty());
            let words = words.map(|w| OsString::from_vec(w.to_vec()).to_string_lossy().into());
            found.push(Process { pid: Pid::from_raw(pid), words: words.collect() });
        }
    }
    found
}

/// Whether a path stands in the zero-separated words of a process: it, or one
/// below it, and not one that begins with the same letters.
fn contains(words: &[u8], path: &[u8]) -> bool {
    let ends = |rest: &[u8]| rest.first().is_none_or(|b| !b.is_ascii_alphanumeric());
    words
        .windows(path.len())
        .enumerate()
        .any(|(at, window)| window == path && ends(&words[at + path.len()..]))
}

/// Sends a signal to one of the processes of `home` that are `wanted`: as soon as
/// there is one, while the victim lives. Returns whether one was found.
pub(super) async fn hit(
    victim: &mut Victim,
    home: &Path,
    wanted: fn(&Process) -> bool,
    which: u64,
    signal: Signal,
    until: Instant,
) -> bool {
    while Instant::now() < until && !victim.is_over() {
        let mut there = processes_of(home);
        there.retain(wanted);
        if !there.is_empty() {
            let index = usize::try_from(which % there.len() as u64).unwrap_or_default();
            if there[index].signal(signal) {
                return true;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    false
}

/// What is left of the processes of `home`, but for `except`, when `grace` has
/// passed; ends it.
pub(super) async fn left_over(home: &Path, except: Option<Pid>, grace: Duration) -> Vec<String> {
    let deadline = Instant::now() + grace;
    loop {
        let mut left = processes_of(home);
        left.retain(|process| Some(process.pid) != except);
        if left.is_empty() {
            return Vec::new();
        }
        if Instant::now() >= deadline {
            for process in &left {
                process.signal(Signal::SIGKILL);
            }
            return left.iter().map(ToString::to_string).collect();
        }
        tokio::time::sleep(4 * LOOK).await;
    }
}

/// A file of what a victim left, or nothing if it is not there.
pub(super) fn text_of(path: PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_whole() {
        let check = |words: &str, path: &str, expect: bool| {
            assert_eq!(contains(words.as_bytes(), path.as_bytes()), expect, "{path} in {words}");
        };
        check("HOME=/t/1\0PATH=/bin", "/t/1", true);
        check("HOME=/t/1", "/t/1", true);
        check("-initrd\0/t/1/initramfs.cpio", "/t/1", true);
        check("HOME=/t/12\0", "/t/1", false);
        check("", "/t/1", false);
    }
}
