//! A small disk that can be filled: a tmpfs in a mount namespace of its own,
//! which needs no root where users may have namespaces.
//!
//! A sleeping process keeps the namespace. Through its entry in `/proc` the
//! files on the disk are seen from outside, before and after whoever is put
//! into the namespace has lived.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin};

use crate::interrupt::Interrupt;
use crate::proc::{Cmd, Lines};
use crate::stop::Stop;

/// How long the disk may take to appear.
const MOUNT: Duration = Duration::from_secs(10);

/// What takes all the room.
const FILLER: &str = "filler";

/// Mounts a disk of $1 KiB at $2, says under which process it can be found, and
/// stays until it is ended. Nobody who is killed leaves it for longer than a
/// day.
const HOLD: &str =
    r#"mount -t tmpfs -o "size=$1k,mode=0700" torture "$2" && echo "$$" && exec sleep 86400"#;

/// A disk.
pub(super) struct Disk {
    holder: Child,
    keeper_end: Option<ChildStdin>,
    pid: String,
    as_user: bool,
    at: PathBuf,
}

impl Disk {
    /// Makes one of `kib` KiB at the empty directory `at`, for whoever is made to
    /// [enter](Disk::enter).
    ///
    /// # Errors
    /// [`Stop::Machine`] when this machine does not let us.
    pub(super) async fn mount(at: &Path, kib: u64, interrupt: &Interrupt) -> Result<Self, Stop> {
        let as_user = !nix::unistd::geteuid().is_root();
        let mut cmd = Cmd::new("unshare").arg("--mount");
        if as_user {
            cmd = cmd.args(["--user", "--map-root-user"]);
        }
        let cmd = cmd.args(["sh", "-c", HOLD, "sh"]).arg(kib.to_string()).arg(at);
        let mut holder = cmd.spawn(Vec::new())?;
        let keeper_end = holder.stdin.take();
        let mut out = Lines::new(holder.stdout.take().expect("piped by spawn"));
        let mut err = Lines::new(holder.stderr.take().expect("piped by spawn"));
        let said = tokio::select! {
            said = out.next() => said.context("the holder of a disk")?,
            () = tokio::time::sleep(MOUNT) => None,
            () = interrupt.wait() => return Err(Stop::Interrupted),
        };
        let Some(pid) = said else {
            drop(keeper_end);
            let why = err.next().await.ok().flatten().unwrap_or_else(|| "nobody says why".into());
            return Err(anyhow::anyhow!("no disk of our own can be mounted: {why}").into());
        };
        Ok(Disk { holder, keeper_end, pid, as_user, at: at.to_owned() })
    }

    /// A path on the disk, as it can be used from outside the namespace.
    pub(super) fn seen(&self, path: &str) -> PathBuf {
        let at = self.at.strip_prefix("/").unwrap_or(&self.at);
        Path::new("/proc").join(&self.pid).join("root").join(at).join(path)
    }

    /// The keeper of the process that keeps the disk.
    pub(super) fn keeper(&self) -> Option<Pid> {
        self.holder.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }

    /// Puts a command into the namespace.
    pub(super) fn enter(&self, cmd: Cmd) -> Cmd {
        if self.as_user {
            cmd.by([
                "nsenter",
                "--target",
                &self.pid,
                "--mount",
                "--user",
                "--preserve-credentials",
            ])
        } else {
            cmd.by(["nsenter", "--target", &self.pid, "--mount"])
        }
    }

    /// Leaves no room on it.
    ///
    /// # Errors
    /// When it cannot be written for another reason.
    pub(super) fn fill(&self) -> Result<()> {
        let path = self.seen(FILLER);
        let mut file = File::create(&path).with_context(|| path.display().to_string())?;
        let zeros = vec![0u8; 64 * 1024];
        let mut step = zeros.len();
        while step > 0 {
            match file.write(&zeros[..step]) {
                Ok(1..) => {}
                Ok(0) => step /= 2,
                Err(error) if error.kind() == ErrorKind::StorageFull => step /= 2,
                Err(error) => bail!("{}: {error}", path.display()),
            }
        }
        Ok(())
    }

    /// Makes room on it again.
    ///
    /// # Errors
    /// When it was not filled.
    pub(super) fn free(&self) -> Result<()> {
        let path = self.seen(FILLER);
        fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    /// Makes the disk go, when the last process in its namespace is gone.
    pub(super) async fn unmount(mut self) -> Result<()> {
        drop(self.keeper_end.take());
        self.holder.wait().await.context("the holder of a disk")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_enters_by_another() {
        let cmd = Cmd::new("harness").arg("x").by(["nsenter", "--mount"]).by(["nice"]);
        assert_eq!(cmd.pasteable(), "nice nsenter --mount harness x");
    }
}
