//! Guests that were saved at the moment when they were in order, from which
//! later ones start without booting.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::store::{Draft, Store};

/// How many are kept, the most recently used ones: each is as large as what its
/// guest has written to its memory, some 70 MiB.
const KEPT: usize = 12;

/// The file with the state of the machine, as QEMU's migration writes it.
pub const STATE: &str = "state";

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
    /// The length of its state, in bytes.
    pub state_bytes: u64,
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
    /// The one with this key, `None` if there is none that is whole.
    pub fn find(store: &Store, key: &str) -> Option<Self> {
        let dir = store.path(&place(key));
        let facts = facts(&dir)?;
        let state = File::open(dir.join(STATE)).ok()?;
        // A disk that lost power may have kept the name and not the bytes.
        let whole = state.metadata().ok()?.len() == facts.state_bytes;
        // It was used now. Where that cannot be noted it is forgotten earlier.
        let _ = state.set_modified(SystemTime::now());
        whole.then_some(Snapshot { dir, facts })
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
        if facts(&self.dir).is_none_or(|now| now.boot_id == self.facts.boot_id) {
            // What cannot be removed is found again and doubted again.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    /// Puts a guest into the store that was saved into `draft`, and forgets those
    /// that were not used for the longest time. If another run has put one there
    /// meanwhile, that one is returned.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(store: &Store, key: &str, draft: Draft, facts: Facts) -> Result<Self> {
        fs::write(draft.path().join("facts.json"), serde_json::to_vec_pretty(&facts)?)
            .context("cannot write to the store")?;
        if Self::find(store, key).is_none() {
            // Something that is not whole is in the way, or nothing.
            let _ = fs::remove_dir_all(store.path(&place(key)));
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

/// What an entry says of its guest.
fn facts(dir: &Path) -> Option<Facts> {
    serde_json::from_slice(&fs::read(dir.join("facts.json")).ok()?).ok()
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
            let used = fs::metadata(path.join(STATE)).and_then(|about| about.modified());
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
        let facts = Facts {
            release: "6.12.0".into(),
            boot_id: "b".into(),
            uptime_us: 1,
            state_bytes: key.len() as u64,
        };
        Snapshot::publish(store, key, draft, facts).expect("writable")
    }

    fn age(snapshot: &Snapshot, seconds: u64) {
        let then = SystemTime::now() - std::time::Duration::from_secs(seconds);
        let state = File::options().append(true).open(snapshot.dir.join(STATE)).expect("there");
        state.set_modified(then).expect("ours");
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
        fs::write(snapshot.dir.join(STATE), "").expect("writable");
        assert!(Snapshot::find(&store, "k").is_none());
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
