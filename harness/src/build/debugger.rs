//! What a debugger needs of a build beside its image: the sources that were
//! compiled, and the kernel's own commands for gdb.
//!
//! A lane goes on to other trees, and what it shows then belongs to another
//! image. So a kernel with debug info takes its sources with it into the store.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use walkdir::WalkDir;

use super::lane::Lane;
use crate::kbuild;

/// The sources, in a kernel of the store.
const SOURCES: &str = "src";

/// Where they were when they were compiled, as the debug info names them.
const COMPILED_AT: &str = "src.at";

/// What gdb loads when it opens the image beside which it lies, if it is let
/// (scripts/gdb/vmlinux-gdb.py); its parts are in [`PARTS`].
const COMMANDS: &str = "vmlinux-gdb.py";
const PARTS: &str = "scripts/gdb/linux";

/// What a debugger finds beside the image of a kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Debugger {
    /// Whether the image has debug info.
    pub debug_info: bool,
    /// Where its sources were compiled, and where they are.
    pub sources: Option<(PathBuf, PathBuf)>,
    /// The directory in which the kernel's own commands are.
    pub commands: Option<PathBuf>,
}

impl Debugger {
    /// What there is in `dir`, a kernel of the store with this configuration.
    pub(super) fn beside(dir: &Path, config: &str) -> Self {
        let at = fs::read_to_string(dir.join(COMPILED_AT)).ok();
        Debugger {
            debug_info: has_debug_info(config),
            sources: at.map(|at| (at.into(), dir.join(SOURCES))),
            commands: dir.join(COMMANDS).is_file().then(|| dir.to_owned()),
        }
    }
}

/// Whether a configuration asks for debug info.
pub(super) fn has_debug_info(config: &str) -> bool {
    is_set(config, "CONFIG_DEBUG_INFO")
}

/// Whether a configuration asks for the kernel's commands for gdb.
pub(super) fn has_scripts(config: &str) -> bool {
    is_set(config, "CONFIG_GDB_SCRIPTS")
}

fn is_set(config: &str, symbol: &str) -> bool {
    config.lines().any(|line| line.strip_prefix(symbol) == Some("=y"))
}

/// Puts what a debugger needs of the kernel that the lane has built into `dir`.
///
/// # Errors
/// When it cannot be read or written.
pub(super) fn keep(lane: &Lane, config: &str, dir: &Path) -> Result<()> {
    let (src, obj) = (lane.src(), lane.obj());
    if has_debug_info(config) {
        for file in sources(&src, &obj)? {
            copy(&src.join(&file), &dir.join(SOURCES).join(&file))?;
        }
        fs::write(dir.join(COMPILED_AT), src.as_os_str().as_encoded_bytes())?;
    }
    if has_scripts(config) {
        // Links to the lane's source, which does not stay what it is.
        copy(&obj.join(COMMANDS), &dir.join(COMMANDS))?;
        let parts = obj.join(PARTS);
        for entry in fs::read_dir(&parts).with_context(|| parts.display().to_string())? {
            let name = entry?.file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "py") {
                copy(&parts.join(&name), &dir.join(PARTS).join(&name))?;
            }
        }
    }
    Ok(())
}

/// The files of the source directory from which the objects of a build were made,
/// relative to it.
fn sources(src: &Path, obj: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in WalkDir::new(obj) {
        let path = entry.context("cannot read the build directory")?.into_path();
        if !path.to_string_lossy().ends_with(".o.cmd") {
            continue;
        }
        let saved = fs::read(&path).with_context(|| path.display().to_string())?;
        let saved = String::from_utf8_lossy(&saved);
        let of_the_tree = kbuild::inputs(&saved).filter_map(|file| {
            let file = Path::new(file).strip_prefix(src).ok()?;
            // A way out of the tree and back into it is another file's name.
            let plain = |part| matches!(part, std::path::Component::Normal(_));
            file.components().all(plain).then(|| file.to_owned())
        });
        files.extend(of_the_tree);
    }
    // What was compiled once may be no part of this tree any more.
    files.retain(|file| src.join(file).is_file());
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file lies in a directory")?;
    fs::create_dir_all(parent)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_is_kept_and_nothing_of_elsewhere() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = |name: &str| dir.path().join(name);
        let (src, obj) = (path("src"), path("obj"));
        for file in ["src/mm/hmm.c", "src/include/linux/hmm.h", "obj/mm/.hmm.o.cmd", "other.h"] {
            fs::create_dir_all(path(file).parent().expect("in a directory")).expect("writable");
            fs::write(path(file), "").expect("writable");
        }
        let src_of = |file: &str| src.join(file).display().to_string();
        let saved = format!(
            "savedcmd_mm/hmm.o := gcc -c -o mm/hmm.o {0}\n\nsource_mm/hmm.o := {0}\n\n\
             deps_mm/hmm.o := \\\n    $(wildcard include/config/X) \\\n  {1} \\\n  \
             {2} \\\n  {3} \\\n  include/generated/autoconf.h \\\n\n\
             mm/hmm.o: $(deps_mm/hmm.o)\n",
            src_of("mm/hmm.c"),
            src_of("include/linux/hmm.h"),
            src_of("mm/gone.h"),
            src_of("../other.h"),
        );
        fs::write(path("obj/mm/.hmm.o.cmd"), saved).expect("writable");
        let found = sources(&src, &obj).expect("readable");
        let expect = ["include/linux/hmm.h", "mm/hmm.c"].map(PathBuf::from);
        assert_eq!(found, BTreeSet::from(expect));
    }

    #[test]
    fn a_kernel_without_debug_info_says_so() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let none = Debugger::beside(dir.path(), "# CONFIG_DEBUG_INFO is not set\n");
        assert_eq!(none, Debugger::default());
        fs::write(dir.path().join(COMPILED_AT), "/lane/src").expect("writable");
        fs::write(dir.path().join(COMMANDS), "").expect("writable");
        let all = Debugger::beside(dir.path(), "CONFIG_DEBUG_INFO=y\nCONFIG_DEBUG_INFO_X=n\n");
        assert!(all.debug_info);
        assert_eq!(all.sources, Some(("/lane/src".into(), dir.path().join("src"))));
        assert_eq!(all.commands.as_deref(), Some(dir.path()));
    }
}
