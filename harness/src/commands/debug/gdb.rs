//! The command lines with which gdb reads a kernel, running or dumped.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::build::Debugger;
use crate::proc::Cmd;

/// The program.
const GDB: &str = "gdb";

/// What teaches gdb to unwind where it has nothing to go by.
pub(super) const UNWINDER: &str = include_str!("orc.py");

/// A kernel, as gdb needs it.
pub(super) struct Subject {
    /// Its image.
    pub(super) image: PathBuf,
    /// What there is beside it.
    pub(super) has: Debugger,
    /// A file with [`UNWINDER`].
    pub(super) unwinder: PathBuf,
}

/// gdb on a machine that listens at `socket`; `more` is what the user gives it.
pub(super) fn live(kernel: &Subject, socket: &Path, more: &[OsString]) -> Cmd {
    let mut target = OsString::from("target remote ");
    target.push(socket);
    reading(kernel)
        // While the memory is written down nothing is answered.
        .args(["-ex", "set remotetimeout 120", "-ex"])
        .arg(target)
        .arg("-x")
        .arg(&kernel.unwinder)
        .args(more)
}

/// gdb on a guest's memory.
pub(super) fn dumped(kernel: &Subject, core: &Path) -> Cmd {
    reading(kernel).arg(core).arg("-x").arg(&kernel.unwinder)
}

/// gdb with an image and what there is beside it. The tables of the unwinder are in
/// the guest's memory, so that it comes last.
fn reading(Subject { image, has, .. }: &Subject) -> Cmd {
    let mut gdb = Cmd::new(GDB).arg("-q");
    if let Some(dir) = &has.commands {
        // Before the image is opened: that is when it looks for them.
        gdb = gdb.arg("-iex").arg(words("add-auto-load-safe-path", &[dir]));
    }
    if let Some((at, here)) = &has.sources {
        gdb = gdb.arg("-iex").arg(words("set substitute-path", &[at, here]));
    }
    gdb.arg(image)
}

fn words(command: &str, paths: &[&Path]) -> OsString {
    let mut line = OsString::from(command);
    for path in paths {
        line.push(OsStr::new(" "));
        line.push(path);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gdb_is_told_what_there_is() {
        let socket = Path::new("/tmp/s/gdb");
        let with = |has: Debugger| Subject {
            image: "/k/vmlinux".into(),
            has,
            unwinder: "/r/orc.py".into(),
        };
        let plain = live(&with(Debugger::default()), socket, &[]).pasteable();
        assert_eq!(
            plain,
            "gdb -q /k/vmlinux -ex 'set remotetimeout 120' \
             -ex 'target remote /tmp/s/gdb' -x /r/orc.py"
        );
        let all = Debugger {
            debug_info: true,
            sources: Some(("/lane/src".into(), "/k/src".into())),
            commands: Some("/k".into()),
        };
        let more = ["-batch", "-ex", "bt"].map(OsString::from);
        assert_eq!(
            live(&with(all), socket, &more).pasteable(),
            "gdb -q -iex 'add-auto-load-safe-path /k' \
             -iex 'set substitute-path /lane/src /k/src' /k/vmlinux \
             -ex 'set remotetimeout 120' -ex 'target remote /tmp/s/gdb' -x /r/orc.py -batch -ex bt"
        );
        let core = dumped(&with(Debugger::default()), Path::new("/r/vmcore")).pasteable();
        assert_eq!(core, "gdb -q /k/vmlinux /r/vmcore -x /r/orc.py");
    }
}
