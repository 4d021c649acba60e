//! What the store holds, and how it is kept from growing without end.
//!
//! A store shrinks only while nobody else uses it: every command that does holds
//! it (`Store::share`), and whoever wants to remove something asks to have it alone
//! (`Store::alone`). So nothing that is removed can be in use, and an entry needs
//! no lock of its own. What goes first is what was not used for the longest time,
//! which each user of an entry notes (`Store::touch`).

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use walkdir::WalkDir;

use crate::build;
use crate::git::Git;
use crate::interrupt::Interrupt;
use crate::snapshot;
use crate::stop::{Problem, Stop};
use crate::store::{Draft, Store};

/// The variable that says how large the store may grow.
pub const VARIABLE: &str = "HMM_HARNESS_CACHE_SIZE";

/// How large it may grow where the variable says nothing: some ten lanes of the
/// default profile, or hundreds of kernels of one lane.
const BOUND: ByteSize = ByteSize::gib(20);

/// Directories whose members are entries of their own.
const PARTS: [(&str, &str); 6] = [
    ("kernels", "kernel"),
    ("lanes", "lane"),
    ("snapshots", "guest"),
    ("images", "image"),
    ("copies", "index"),
    ("torture", "torture"),
];

/// How much of what git says of damage is told.
const WORDS: usize = 20;

/// Everything that names a git object, and the objects: it makes sense as a whole
/// only, and every run uses it.
const SOURCES: [&str; 3] = ["trees.git", "debian", "series"];

/// Something that can be removed by itself, and is made again when it is needed.
#[derive(Debug)]
pub struct Entry {
    /// What it is, in one word.
    pub kind: &'static str,
    /// Its name, for a person.
    pub name: String,
    /// Its files.
    paths: Vec<PathBuf>,
    /// What it takes on the disk.
    pub size: ByteSize,
    /// When it was last used.
    pub used: SystemTime,
}

/// How large the store may grow.
///
/// # Errors
/// [`Stop::Usage`] when the variable does not say a size.
pub fn bound() -> Result<ByteSize, Stop> {
    let Some(said) = std::env::var_os(VARIABLE).filter(|said| !said.is_empty()) else {
        return Ok(BOUND);
    };
    let said = said.to_string_lossy();
    said.parse().map_err(|why| {
        Stop::usage(Problem::new(VARIABLE, why).hint("say it like 20GiB, or 500MiB"))
    })
}

/// All entries, the one that was not used for the longest time first.
///
/// # Errors
/// When the store cannot be read.
pub fn entries(store: &Store) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (part, kind) in PARTS {
        // What lies elsewhere is another store's.
        let dir = store.path(part);
        if dir.is_symlink() {
            continue;
        }
        for path in members(&dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let about = match part {
                "kernels" => build::about(&path),
                "snapshots" => snapshot::about(&path),
                _ => None,
            };
            let short: String = name.chars().take(12).collect();
            let name = about.map_or(short.clone(), |about| format!("{short} {about}"));
            let used = used(&path);
            entries.push(Entry { kind, name, size: size(&path), paths: vec![path], used });
        }
    }
    entries.sort_by(|a, b| (a.used, &a.name).cmp(&(b.used, &b.name)));
    let own = |path: &PathBuf| path.is_dir() && !path.is_symlink();
    let paths: Vec<PathBuf> =
        SOURCES.map(|part| store.path(part)).into_iter().filter(own).collect();
    if !paths.is_empty() {
        let size = ByteSize(paths.iter().map(|path| size(path).0).sum());
        let used = paths.iter().map(|path| used(path)).max().unwrap_or(SystemTime::UNIX_EPOCH);
        let used = entries.last().map_or(used, |youngest| used.max(youngest.used));
        let name = "trees of kernels and series".to_owned();
        entries.push(Entry { kind: "sources", name, paths, size, used });
    }
    Ok(entries)
}

/// What was removed, until it is dropped: then it is gone.
#[derive(Debug)]
pub struct Removed {
    /// How many entries.
    pub entries: usize,
    /// What they took.
    pub size: ByteSize,
    /// What the others take.
    pub left: ByteSize,
    /// Kept for what dropping it does.
    _trash: Option<Draft>,
}

/// Removes what was not used for the longest time, until the store is no larger
/// than `bound`, and what a prune that was killed has left. `None` if somebody else
/// uses the store now.
///
/// # Errors
/// When the store cannot be read or written.
pub fn prune(store: &Store, bound: ByteSize) -> Result<Option<Removed>> {
    // Before others have to wait: it takes long where the disk is cold.
    let entries = entries(store)?;
    let Some(_alone) = store.alone()? else { return Ok(None) };
    let mut left: u64 = entries.iter().map(|entry| entry.size.0).sum();
    // Away at once, so that whoever comes next finds an entry whole or not at all,
    // and need not wait until the last of its files is gone. A full disk may have no
    // room for that.
    let trash = store.draft("trash").ok();
    let mut removed = Removed { entries: 0, size: ByteSize(0), left: ByteSize(0), _trash: None };
    for entry in entries {
        if left <= bound.0 {
            break;
        }
        for path in &entry.paths {
            let place = trash.as_ref().and_then(|trash| path_in(trash.path(), store, path));
            let gone = match place {
                Some(place) => std::fs::rename(path, place),
                None => remove(path),
            };
            match gone {
                // Before the store was ours alone, somebody else has removed it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                gone => gone.with_context(|| format!("cannot remove {}", path.display()))?,
            }
        }
        left -= entry.size.0;
        removed.entries += 1;
        removed.size += entry.size;
    }
    removed.left = ByteSize(left);
    removed._trash = trash;
    store.forget_growth();
    Ok(Some(removed))
}

/// Where something of the store goes in a directory: every place has a name of its
/// own.
fn path_in(dir: &Path, store: &Store, path: &Path) -> Option<PathBuf> {
    let name = path.strip_prefix(store.path("")).ok()?.to_string_lossy().replace('/', "-");
    Some(dir.join(name))
}

fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path))
}

/// Keeps a store that has grown since the last time within its bound, if nobody
/// else uses it. Says what it did, if it did something.
///
/// # Errors
/// When it cannot be read or written.
pub fn tidy() -> Result<Option<String>, Stop> {
    let Some(store) = Store::of_user_if_grown()? else { return Ok(None) };
    let bound = bound()?;
    let removed = prune(&store, bound)?.filter(|removed| removed.entries > 0);
    Ok(removed.map(|removed| {
        format!("the store had grown beyond {bound}: {} not used for the longest", removed.told())
    }))
}

impl Removed {
    /// What was removed, for a person.
    pub fn told(&self) -> String {
        let entries = if self.entries == 1 { "entry" } else { "entries" };
        format!("removed {} {entries} of {}", self.entries, self.size)
    }
}

/// What is wrong in the store, each with what it is about.
///
/// # Errors
/// When the store cannot be read, or the user stops us.
pub async fn faults(store: &Store, interrupt: &Interrupt) -> Result<Vec<String>, Stop> {
    let mut faults = Vec::new();
    for (part, fault) in [
        ("kernels", build::fault as fn(&Path) -> Option<&'static str>),
        ("snapshots", snapshot::fault),
    ] {
        let found = members(&store.path(part))?
            .into_iter()
            .filter_map(|path| Some(format!("{}: {}", path.display(), fault(&path)?)));
        faults.extend(found);
    }
    if store.path("trees.git").is_dir() {
        let mut words = vec!["git fsck finds it damaged".to_owned()];
        let fsck = Git::of(store)?.long(&["fsck", "--full", "--no-dangling", "--no-progress"]);
        let ended = fsck
            .run(interrupt, |line| {
                if words.len() < WORDS && !line.starts_with("notice: ") {
                    words.push(line.to_owned());
                }
            })
            .await?;
        if !ended.success() {
            let place = store.path("trees.git");
            faults.extend(words.into_iter().map(|line| format!("{}: {line}", place.display())));
        }
    }
    Ok(faults)
}

/// The entries in a directory. What is hidden is still being written.
fn members(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = match std::fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let mut paths = Vec::new();
    for entry in list {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// When an entry was last used, as [`Store::touch`] notes it.
fn used(path: &Path) -> SystemTime {
    let noted = path.metadata().and_then(|about| about.modified());
    noted.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What a file or directory takes on the disk. What goes away meanwhile takes
/// nothing.
fn size(path: &Path) -> ByteSize {
    use std::os::unix::fs::MetadataExt as _;
    /// The unit of `st_blocks` (stat(2)).
    const BLOCK: u64 = 512;
    let files = WalkDir::new(path)
        .follow_root_links(false)
        .into_iter()
        .flatten()
        .flat_map(|entry| entry.metadata());
    ByteSize(files.map(|about| about.blocks() * BLOCK).sum())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// A store with kernels of 1 MiB each, `k0` the one that was used last.
    fn store(kernels: u64) -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().expect("a temporary directory");
        let store = Store::at(home.path()).expect("writable");
        for n in 0..kernels {
            let dir = store.dir(&format!("kernels/k{n}")).expect("writable");
            fs::write(dir.join("vmlinux"), vec![1; 1 << 20]).expect("writable");
            let then = SystemTime::now() - Duration::from_secs(60 * n);
            fs::File::open(&dir).and_then(|dir| dir.set_modified(then)).expect("ours");
        }
        (home, store)
    }

    fn kernels(store: &Store) -> Vec<String> {
        let members = members(&store.path("kernels")).expect("readable");
        members.iter().map(|path| path.file_name().expect("named").display().to_string()).collect()
    }

    #[test]
    fn what_was_not_used_for_the_longest_goes_first() {
        let (_home, store) = store(4);
        store.touch("kernels/k3");
        let removed = prune(&store, ByteSize::kib(2500)).expect("writable").expect("alone");
        assert_eq!(removed.entries, 2);
        assert_eq!(kernels(&store), ["k0", "k3"]);
        assert!(removed.left <= ByteSize::kib(2500));
        drop(removed);
        assert!(members(&store.path("trash")).expect("readable").is_empty());
    }

    #[test]
    fn sources_go_last_and_what_fits_stays() {
        let (_home, store) = store(2);
        let trees = store.dir("trees.git").expect("writable");
        fs::write(trees.join("pack"), vec![1; 1 << 20]).expect("writable");
        let removed = prune(&store, ByteSize::mib(20)).expect("writable").expect("alone");
        assert_eq!((removed.entries, kernels(&store).len()), (0, 2));
        prune(&store, ByteSize::kib(1500)).expect("writable").expect("alone");
        assert!(kernels(&store).is_empty());
        assert!(trees.is_dir());
        prune(&store, ByteSize(0)).expect("writable").expect("alone");
        assert!(!trees.exists());
    }

    #[test]
    fn nothing_is_removed_from_under_somebody() {
        let (_home, store) = store(1);
        let held = store.share(|| ()).expect("lockable");
        assert!(prune(&store, ByteSize(0)).expect("readable").is_none());
        assert_eq!(kernels(&store), ["k0"]);
        drop(held);
        assert!(prune(&store, ByteSize(0)).expect("readable").is_some());
        assert!(kernels(&store).is_empty());
    }
}
