//! Guests that were saved at the moment when they were in order, from which
//! later ones start without booting.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::store::{Draft, Store, digest_of};

/// How many are kept, the most recently used ones: each is as large as what its
/// guest has written to its memory, some 70 MiB.
const KEPT: usize = 12;

/// The file with the state of the machine, as QEMU's migration writes it.
pub const STATE: &str = "state";

/// What is known of it.
const FACTS: &str = "facts.json";

/// What the guest had printed by then.
pub const CONSOLE: &str = "console.log";

/// What is known of the guest, and must be true of every copy of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// The id of its boot.
    pub boot_id: String,
    /// Its clock shortly before it was saved, in microseconds since its boot.
    pub uptime_us: u64,
}

/// `facts.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// The key under which it was saved.
    key: String,
    /// The SHA-256 of its state: nothing else would notice a bit that has
    /// changed in the memory of a guest.
    state_sha256: String,
    #[serde(flatten)]
    facts: Facts,
}

/// A saved guest.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its entry in the store.
    dir: PathBuf,
    /// What is known of it.
    pub facts: Facts,
}

impl Snapshot {
    /// The one with this key, `None` if there is none that is what it was when
    /// it was saved.
    pub fn find(store: &Store, key: &str) -> Option<Self> {
        let dir = store.path(&place(key));
        let entry = entry(&dir)?;
        if entry.key != key || digest_of(&dir.join(STATE)).ok()? != entry.state_sha256 {
            return None;
        }
        store.touch(&place(key));
        Some(Snapshot { dir, facts: entry.facts })
    }

    /// Its state, to be read.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open(&self) -> Result<File> {
        let path = self.dir.join(STATE);
        File::open(&path).with_context(|| path.display().to_string())
    }

    /// What the guest had printed when it was saved.
    ///
    /// # Errors
    /// When it is gone.
    pub fn console(&self) -> Result<Vec<u8>> {
        let path = self.dir.join(CONSOLE);
        fs::read(&path).with_context(|| path.display().to_string())
    }

    /// Throws it away, unless another one has taken its place. Whoever reads it
    /// at this moment reads on.
    pub fn discard(&self) {
        if entry(&self.dir).is_none_or(|now| now.facts.boot_id == self.facts.boot_id) {
            remove(&self.dir);
        }
    }

    /// Puts a guest into the store that was saved into `draft`, and forgets those
    /// that were not used for the longest time. If another run has put one there
    /// meanwhile, that one is returned.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(store: &Store, key: &str, draft: Draft, facts: Facts) -> Result<Self> {
        let state_sha256 = digest_of(&draft.path().join(STATE)).context("the saved state")?;
        let entry = Entry { key: key.to_owned(), state_sha256, facts };
        fs::write(draft.path().join(FACTS), serde_json::to_vec_pretty(&entry)?)
            .context("cannot write to the store")?;
        if Self::find(store, key).is_none() {
            // Something that is not whole is in the way, or nothing.
            remove(&store.path(&place(key)));
        }
        store.adopt(&place(key), draft)?;
        forget_the_oldest(&store.path("snapshots"));
        Self::find(store, key).context("the saved guest is gone at once")
    }
}

/// Where a guest is saved before it is known to be whole.
///
/// # Errors
/// When the store cannot be written.
pub fn draft(store: &Store) -> Result<Draft> {
    store.draft("snapshots")
}

/// What is wrong with an entry of the store, if anything is.
pub fn fault(dir: &Path) -> Option<&'static str> {
    let Some(entry) = entry(dir) else { return Some("it says nothing of its guest") };
    if dir.file_name().is_none_or(|name| *name != *entry.key) {
        return Some("it is another guest's");
    }
    match digest_of(&dir.join(STATE)) {
        Err(_) => Some("it has no state"),
        Ok(digest) if digest != entry.state_sha256 => Some("its state is not what was saved"),
        Ok(_) => None,
    }
}

/// Which guest an entry of the store holds, as far as it says so.
pub(crate) fn about(dir: &Path) -> Option<String> {
    Some(entry(dir)?.facts.release)
}

/// What an entry says of its guest.
fn entry(dir: &Path) -> Option<Entry> {
    serde_json::from_slice(&fs::read(dir.join(FACTS)).ok()?).ok()
}

/// Removes an entry, or what is in its place. What cannot be removed is found
/// again and doubted again.
fn remove(place: &Path) {
    let _ = fs::remove_dir_all(place).or_else(|_| fs::remove_file(place));
}

fn place(key: &str) -> String {
    format!("snapshots/{key}")
}

fn forget_the_oldest(dir: &Path) {
    let mut entries: Vec<(SystemTime, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        // Drafts are hidden; whoever writes them removes them.
        .filter(|path| path.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')))
        .filter_map(|path| {
            let used = fs::metadata(&path).and_then(|about| about.modified());
            Some((used.ok()?, path))
        })
        .collect();
    entries.sort();
    let surplus = entries.len().saturating_sub(KEPT);
    for (_, path) in entries.into_iter().take(surplus) {
        // Another run may forget the same one.
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(store: &Store, key: &str) -> Snapshot {
        let draft = super::draft(store).expect("writable");
        fs::write(draft.path().join(STATE), key).expect("writable");
        fs::write(draft.path().join(CONSOLE), "boots").expect("writable");
        let facts = Facts { release: "6.12.0".into(), boot_id: "b".into(), uptime_us: 1 };
        Snapshot::publish(store, key, draft, facts).expect("writable")
    }

    fn age(snapshot: &Snapshot, seconds: u64) {
        let then = SystemTime::now() - std::time::Duration::from_secs(seconds);
        File::open(&snapshot.dir).and_then(|dir| dir.set_modified(then)).expect("ours");
    }

    #[test]
    fn what_was_saved_is_found_and_what_was_cut_short_is_not() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let store = Store::at(home.path()).expect("writable");
        assert!(Snapshot::find(&store, "k").is_none());
        let snapshot = saved(&store, "k");
        let found = Snapshot::find(&store, "k").expect("it was saved");
        assert_eq!(found.facts, snapshot.facts);
        assert_eq!(found.console().expect("it was saved"), b"boots");
        fs::rename(store.path("snapshots/k"), store.path("snapshots/l")).expect("writable");
        assert!(Snapshot::find(&store, "l").is_none(), "it is another kernel's");
        fs::rename(store.path("snapshots/l"), store.path("snapshots/k")).expect("writable");
        assert_eq!(fault(&snapshot.dir), None);
        fs::write(snapshot.dir.join(STATE), "x").expect("writable");
        assert!(Snapshot::find(&store, "k").is_none(), "as long, and another one");
        assert_eq!(fault(&snapshot.dir), Some("its state is not what was saved"));
    }

    #[test]
    fn what_is_in_the_way_is_replaced() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let store = Store::at(home.path()).expect("writable");
        store.dir("snapshots").expect("writable");
        fs::write(store.path("snapshots/k"), "a file").expect("writable");
        saved(&store, "k");
        assert!(Snapshot::find(&store, "k").is_some());
    }

    #[test]
    fn the_least_recently_used_are_forgotten() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let store = Store::at(home.path()).expect("writable");
        for n in 0..KEPT as u64 {
            age(&saved(&store, &format!("k{n}")), 1000 - n);
        }
        assert!(Snapshot::find(&store, "k0").is_some(), "this makes it the youngest");
        saved(&store, "one more");
        assert!(Snapshot::find(&store, "k0").is_some());
        assert!(Snapshot::find(&store, "k1").is_none());
        assert!(Snapshot::find(&store, "k2").is_some());
    }
}
