//! The machine at a glance: every need, the space, the memory.

use std::fs;
use std::path::Path;

use super::needs::needs;
use crate::git;
use crate::store::Store;

/// What a first run with the default source takes on disk, in bytes: the
/// packed tree, one lane with its objects, the source package while it is
/// unpacked.
const FIRST_RUN: u64 = 4 << 30;

/// The least memory, in bytes: 2 GiB for the guest, the rest for QEMU and a
/// compiler on each core.
const MEMORY: u64 = 3 << 30;

/// The first git that leaves the user's own configuration alone when it is
/// asked to (`GIT_CONFIG_GLOBAL`).
const GIT: (u32, u32) = (2, 32);

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What: `gcc`, `space in the store`.
    pub what: String,
    /// What it is for.
    pub purpose: String,
    /// How it is.
    pub state: State,
}

/// How a thing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Good, and what was found.
    Good(String),
    /// Not good: no run is possible.
    Bad {
        /// What is wrong.
        why: String,
        /// What mends it.
        mend: String,
    },
}

impl Finding {
    fn new(what: &str, purpose: &str, state: State) -> Self {
        Finding { what: what.to_owned(), purpose: purpose.to_owned(), state }
    }

    /// Whether a run is possible as far as this goes.
    pub fn is_good(&self) -> bool {
        !matches!(self.state, State::Bad { .. })
    }
}

/// Looks at everything. Nothing is changed; what cannot be found out is not
/// good.
pub fn survey(store: &Store) -> Vec<Finding> {
    let mut findings: Vec<Finding> = needs()
        .iter()
        .map(|need| {
            let state = match need.found() {
                Some(path) => State::Good(path.display().to_string()),
                None => State::Bad {
                    why: "missing".to_owned(),
                    mend: format!("apt-get install --no-install-recommends {}", need.package),
                },
            };
            Finding::new(need.name, need.purpose, state)
        })
        .collect();
    findings.push(Finding::new("git's version", "leaves your git settings alone", git_version()));
    findings.push(Finding::new("space in the store", "trees and kernels", space(&store.path(""))));
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    findings.push(Finding::new("memory", "the guest and the compiler", memory(&meminfo)));
    findings
}

fn git_version() -> State {
    let asked = xshell::Shell::new()
        .and_then(|shell| git::built(xshell::cmd!(shell, "git --version")).read());
    let mend = "apt-get install --no-install-recommends git".to_owned();
    match asked {
        Ok(text) => match git_number(&text) {
            Some(version) if version >= GIT => State::Good(text),
            _ => State::Bad { why: format!("`{text}`, and {}.{} is needed", GIT.0, GIT.1), mend },
        },
        Err(error) => State::Bad { why: error.to_string(), mend },
    }
}

/// Major and minor of `git version 2.39.5`.
fn git_number(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix("git version ")?.split(['.', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn space(dir: &Path) -> State {
    let mend = "free some, or point HMM_HARNESS_CACHE at a disk that has it".to_owned();
    let about = match nix::sys::statvfs::statvfs(dir) {
        Ok(about) => about,
        Err(error) => return State::Bad { why: format!("{}: {error}", dir.display()), mend },
    };
    let free = about.blocks_available() * about.fragment_size();
    let text = format!("{} free in {}", gib(free), dir.display());
    // A store that has a lane already needs far less for the next run.
    if free >= FIRST_RUN || dir.join("lanes").exists() {
        State::Good(text)
    } else {
        State::Bad { why: format!("{text}, and a first run needs {}", gib(FIRST_RUN)), mend }
    }
}

/// Judges the text of `/proc/meminfo`.
fn memory(meminfo: &str) -> State {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .map(|kib: u64| kib << 10);
    match total {
        Some(total) if total >= MEMORY => State::Good(gib(total)),
        Some(total) => State::Bad {
            why: format!("{}, and {} is needed", gib(total), gib(MEMORY)),
            mend: "a machine with more memory".to_owned(),
        },
        None => State::Bad {
            why: "/proc/meminfo does not say how much".to_owned(),
            mend: "mount /proc".to_owned(),
        },
    }
}

fn gib(bytes: u64) -> String {
    let tenths = (bytes >> 20) * 10 / 1024;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_git() {
        assert_eq!(git_number("git version 2.39.5"), Some((2, 39)));
        assert_eq!(git_number("git version 2.50.1 (Apple Git-155)"), Some((2, 50)));
        assert_eq!(git_number("hub version 1"), None);
    }

    #[test]
    fn memory_is_judged_by_its_total() {
        assert_eq!(memory("MemTotal:        8388608 kB\n"), State::Good("8.0 GiB".into()));
        assert!(matches!(memory("MemTotal:  2097152 kB\nMemFree: 1 kB\n"), State::Bad { .. }));
        assert!(matches!(memory(""), State::Bad { .. }));
    }
}
