//! What becomes of a child whose keeper, or whose keeper's master, is killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A keeper of a shell that writes its process id to `file` and then ignores
/// what it can.
#[expect(clippy::disallowed_methods, reason = "the keeper is what is tested")]
fn keeper(file: &Path) -> (Child, Pid) {
    let script = format!("trap '' TERM; echo $$ >{}; exec sleep 300", file.display());
    let keeper = std::process::Command::new(env!("CARGO_BIN_EXE_hmm-harness"))
        .args(["__keep", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        match pid {
            Some(pid) => return (keeper, Pid::from_raw(pid)),
            None => assert!(Instant::now() < deadline, "the child never began"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is gone, or dead and not yet collected.
fn is_gone(pid: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => true,
        Ok(stat) => stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']),
    }
}

fn wait_until_gone(pid: Pid) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_gone(pid) {
        assert!(Instant::now() < deadline, "{pid} is left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_child_ends_with_the_master_of_its_keeper() {
    let dir = tempfile::tempdir().unwrap();
    let (mut keeper, child) = keeper(&dir.path().join("pid"));
    assert!(!is_gone(child));
    drop(keeper.stdin.take());
    keeper.wait().unwrap();
    assert!(is_gone(child), "a keeper is gone last");
}

#[test]
fn a_child_ends_with_its_keeper() {
    let dir = tempfile::tempdir().unwrap();
    let (mut keeper, child) = keeper(&dir.path().join("pid"));
    kill(Pid::from_raw(i32::try_from(keeper.id()).unwrap()), Signal::SIGKILL).unwrap();
    keeper.wait().unwrap();
    wait_until_gone(child);
}
