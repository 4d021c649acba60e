//! Small kernels in small repositories.

use std::fs;
use std::path::{Path, PathBuf};

use hmm_harness::context::Context;
use hmm_harness::events::Log;
use hmm_harness::interrupt::Interrupt;
use hmm_harness::proc;
use hmm_harness::source::{Source, SourceTree, fetch};
use hmm_harness::stop::Stop;
use hmm_harness::store::Store;
use xshell::{Shell, cmd};

/// A directory with a store and a kernel in it.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ctx: Context,
}

impl Home {
    pub(crate) fn new() -> Self {
        proc::keeper_is(Path::new(env!("CARGO_BIN_EXE_hmm-harness")));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(&dir.path().join("store")).unwrap();
        let ctx = Context::new(store, Log::new(|_| ()), Interrupt::never()).unwrap();
        Home { dir, ctx }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A kernel's files in a new directory.
    pub(crate) fn kernel(&self, name: &str) -> PathBuf {
        let top = self.path(name);
        write(&top, "Makefile", "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 3\nall:\n");
        write(&top, "Kconfig", "mainmenu \"x\"\n");
        let lines: String = (1..=30).map(|n| format!("int line_{n};\n")).collect();
        write(&top, "mm/a.c", &lines);
        write(&top, "mm/b.c", "int b;\n");
        write(&top, "lib/test_hmm.c", "int hmm;\n");
        write(&top, ".gitignore", ".*\n*.o\n/vmlinux\n");
        top
    }

    /// The same in a git repository, committed.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        let top = self.kernel(name);
        git(&top, &["init", "-q", "-b", "main"]);
        git(&top, &["add", "-f", "."]);
        git(&top, &["commit", "-q", "-m", "base"]);
        top
    }

    pub(crate) async fn fetch(&self, text: &str) -> Result<SourceTree, Stop> {
        let source = Source::parse(text, self.dir.path()).unwrap();
        fetch(&self.ctx, &source, false).await
    }
}

pub(crate) fn write(top: &Path, name: &str, text: &str) {
    let path = top.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Runs git as the caller of the harness would.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    let shell = Shell::new().unwrap();
    shell.change_dir(dir);
    let config = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"];
    cmd!(shell, "git {config...} {args...}")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .quiet()
        .ignore_stderr()
        .read()
        .unwrap()
}
