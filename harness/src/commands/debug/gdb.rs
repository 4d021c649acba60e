//! The command lines with which gdb reads a kernel, running or dumped.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::build::Debugger;
use crate::proc::Cmd;

/// The program.
const GDB: &str = "gdb";

/// gdb on a machine that listens at `socket`; `more` is what the user gives it.
pub(super) fn live(image: &Path, has: &Debugger, socket: &Path, more: &[OsString]) -> Cmd {
    let mut target = OsString::from("target remote ");
    target.push(socket);
    reading(image, has)
        // While the memory is written down nothing is answered.
        .args(["-ex", "set remotetimeout 120", "-ex"])
        .arg(target)
        .args(more)
}

/// gdb on a guest's memory.
pub(super) fn dumped(image: &Path, has: &Debugger, core: &Path) -> Cmd {
    reading(image, has).arg(core)
}

/// gdb with an image and what there is beside it.
fn reading(image: &Path, has: &Debugger) -> Cmd {
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
        let (image, socket) = (Path::new("/k/vmlinux"), Path::new("/tmp/s/gdb"));
        let plain = live(image, &Debugger::default(), socket, &[]).pasteable();
        assert_eq!(
            plain,
            "gdb -q /k/vmlinux -ex 'set remotetimeout 120' -ex 'target remote /tmp/s/gdb'"
        );
        let all = Debugger {
            debug_info: true,
            sources: Some(("/lane/src".into(), "/k/src".into())),
            commands: Some("/k".into()),
        };
        let more = ["-batch", "-ex", "bt"].map(OsString::from);
        assert_eq!(
            live(image, &all, socket, &more).pasteable(),
            "gdb -q -iex 'add-auto-load-safe-path /k' \
             -iex 'set substitute-path /lane/src /k/src' /k/vmlinux \
             -ex 'set remotetimeout 120' -ex 'target remote /tmp/s/gdb' -batch -ex bt"
        );
        let core = dumped(image, &Debugger::default(), Path::new("/run/debug/vmcore")).pasteable();
        assert_eq!(core, "gdb -q /k/vmlinux /run/debug/vmcore");
    }
}
