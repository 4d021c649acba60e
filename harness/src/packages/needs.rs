//! The table of programs and files, and the search for them.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::proc::environment;

/// A thing that the machine must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// What it is called: a program's name, or what a file is.
    pub name: &'static str,
    /// How it is looked for.
    look: Look,
    /// The Debian package it comes in.
    pub package: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// A program of this name in PATH.
    Path,
    /// One of these files.
    Files(&'static [&'static str]),
}

/// A [`Need`] that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What is missing.
    pub need: Need,
}

/// What `check` needs besides, for programs of others that read its results: the half of
/// Python's venv that Debian has in packages of its own.
pub const VENV: Need = Need {
    name: "python3 with venv",
    look: Look::Files(&["/usr/share/python-wheels"]),
    package: "python3-venv",
    purpose: "others read the results",
};

/// What only `debug` needs.
pub const GDB: Need =
    Need { name: "gdb", look: Look::Path, package: "gdb", purpose: "debugs the kernel" };

/// Everything the machine must have. What every Debian has in any case (a
/// shell, sed, awk, find, cmp, tar, perl-base) is not listed. A kernel of our
/// profiles needs no cpio, kmod, python, rsync and no headers of OpenSSL.
pub fn needs() -> &'static [Need] {
    const fn program(name: &'static str, package: &'static str, purpose: &'static str) -> Need {
        Need { name, look: Look::Path, package, purpose }
    }
    const fn file(
        name: &'static str,
        files: &'static [&'static str],
        package: &'static str,
        purpose: &'static str,
    ) -> Need {
        Need { name, look: Look::Files(files), package, purpose }
    }
    const NEEDS: &[Need] = &[
        program("qemu-system-x86_64", "qemu-system-x86", "runs the kernel"),
        file(
            "QEMU's firmware",
            &[
                "/usr/share/seabios/bios-256k.bin",
                "/usr/share/qemu/bios-256k.bin",
                "/usr/local/share/qemu/bios-256k.bin",
            ],
            "seabios",
            "starts the guest",
        ),
        file(
            "QEMU's PVH loader",
            &["/usr/share/qemu/pvh.bin", "/usr/local/share/qemu/pvh.bin"],
            "qemu-system-data",
            "starts a vmlinux without a boot loader",
        ),
        program("git", "git", "keeps the trees"),
        program("make", "make", "builds the kernel"),
        program("gcc", "gcc", "compiles the kernel"),
        program("ld", "binutils", "links the kernel"),
        file(
            "the C library's headers",
            &["/usr/include/stdio.h"],
            "libc6-dev",
            "the kernel's own build tools",
        ),
        program("flex", "flex", "kconfig"),
        program("bison", "bison", "kconfig"),
        program("bc", "bc", "kernel/time/timeconst.bc"),
        file(
            "libelf's headers",
            &["/usr/include/gelf.h", "/usr/local/include/gelf.h"],
            "libelf-dev",
            "objtool",
        ),
        program("xz", "xz-utils", "unpacks a source package"),
        program("dpkg-deb", "dpkg", "opens a source package"),
        program("apt-get", "apt", "fetches a source package"),
    ];
    NEEDS
}

/// What `check` needs beside [`needs`].
const NEEDS_OF_CHECK: &[Need] = &[Need {
    name: "chromium",
    look: Look::Path,
    package: "chromium",
    purpose: "opens report.html",
}];

/// What of [`needs`] is not there.
pub fn missing() -> Vec<Missing> {
    absent(needs())
}

/// What is not there of that which `check` needs beside [`needs`].
pub fn missing_for_check() -> Vec<Missing> {
    absent(NEEDS_OF_CHECK)
}

fn absent(needs: &[Need]) -> Vec<Missing> {
    let absent = needs.iter().filter(|need| need.found().is_none());
    absent.map(|need| Missing { need: *need }).collect()
}

impl Need {
    /// Where it is, if it is there.
    pub fn found(&self) -> Option<PathBuf> {
        match self.look {
            Look::Path => program(self.name),
            Look::Files(files) => files.iter().map(PathBuf::from).find(|path| path.exists()),
        }
    }
}

/// A program in the PATH that our children get.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = environment().into_iter().find(|(variable, _)| variable == "PATH")?.1;
    in_path(name, &path)
}

fn in_path(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_an_executable_file_in_the_path() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let put = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").expect("writable");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
            path
        };
        let gcc = put("gcc", 0o755);
        put("notes", 0o644);
        std::fs::create_dir(dir.path().join("make")).expect("writable");
        let path = std::env::join_paths(["/nowhere".as_ref(), dir.path()]).expect("no colons");
        assert_eq!(in_path("gcc", &path), Some(gcc));
        assert_eq!(in_path("notes", &path), None);
        assert_eq!(in_path("make", &path), None);
    }

    #[test]
    fn every_need_says_what_it_is_for() {
        for need in needs().iter().chain(NEEDS_OF_CHECK) {
            assert!(!need.package.is_empty() && !need.purpose.is_empty(), "{need:?}");
        }
    }
}
