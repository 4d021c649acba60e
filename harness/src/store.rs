//! Where trees, lanes, kernels and downloads are kept between runs.
//!
//! Every entry is made under another name and renamed when it is whole, so
//! nothing half-written is ever seen.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use crate::events::Log;
use crate::interrupt::Interrupt;
use crate::stop::Stop;

/// How the names of drafts begin: of what is being written, or was when its
/// writer died.
const DRAFT: &str = ".new-";

/// The mark of a store that has grown since somebody looked how large it is.
const GROWN: &str = "grown";

/// How long another writer may keep us from making a draft.
const SOON: Duration = Duration::from_secs(5);

/// The store: a directory of ours.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store of this user: `HMM_HARNESS_CACHE`, or `hmm-harness` in the
    /// XDG cache directory.
    ///
    /// # Errors
    /// When no home is known, or the directory cannot be made.
    pub fn of_user() -> Result<Self> {
        Self::at(&Self::root_of_user()?)
    }

    fn root_of_user() -> Result<PathBuf> {
        let named = std::env::var_os("HMM_HARNESS_CACHE").filter(|dir| !dir.is_empty());
        match named {
            Some(dir) => Ok(PathBuf::from(dir)),
            None => Ok(xdg("XDG_CACHE_HOME", ".cache")?.join("hmm-harness")),
        }
    }

    /// The store of this user if it is there and has grown since
    /// [`Store::forget_growth`].
    ///
    /// # Errors
    /// When no home is known.
    pub fn of_user_if_grown() -> Result<Option<Self>> {
        let root = Self::root_of_user()?;
        root.join(GROWN).exists().then(|| Self::at(&root)).transpose()
    }

    /// A store in `root`, made if it is missing.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)
            .with_context(|| format!("cannot make the store {}", root.display()))?;
        Ok(Store { root: root.canonicalize().context("the store")? })
    }

    /// A directory of the store, made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// A path in the store, which need not exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Uses the store until what is returned is dropped: nothing is removed from it
    /// as long. `waiting` is called if it has to be waited for, which takes seconds.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn share(&self, waiting: impl FnOnce()) -> Result<Flock<File>> {
        let path = self.users()?;
        let held = match hold(&path, FlockArg::LockSharedNonblock) {
            Err(error) if error.downcast_ref() == Some(&nix::errno::Errno::EWOULDBLOCK) => {
                waiting();
                hold(&path, FlockArg::LockShared)
            }
            held => held,
        };
        held.with_context(|| format!("cannot lock {}", path.display()))
    }

    /// Has the store alone until what is returned is dropped; `None` if somebody
    /// uses it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn alone(&self) -> Result<Option<Flock<File>>> {
        let path = self.users()?;
        match hold(&path, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(held)),
            Err(error) if error.downcast_ref() == Some(&nix::errno::Errno::EWOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// The file that users of the store lock.
    fn users(&self) -> Result<PathBuf> {
        let path = self.dir("locks")?.join("users");
        let made = File::options().create(true).append(true).open(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Notes that an entry was used now. Where that cannot be noted it is removed
    /// earlier than others.
    pub fn touch(&self, name: &str) {
        let _ = File::open(self.path(name)).and_then(|it| it.set_modified(SystemTime::now()));
    }

    /// Notes that the store has grown by something of size. Where that cannot be
    /// noted it is looked at another time.
    pub fn note_growth(&self) {
        let _ = fs::write(self.path(GROWN), "");
    }

    /// It has been seen how large the store is.
    pub fn forget_growth(&self) {
        // If it stays it is looked at again.
        let _ = fs::remove_file(self.path(GROWN));
    }

    /// Locks a part of the store for this process until the lock is dropped.
    /// If another run holds it, says so and waits.
    ///
    /// # Errors
    /// [`Stop::Machine`] when the lock file cannot be made,
    /// [`Stop::Interrupted`] when the user stops us while we wait.
    pub async fn lock(
        &self,
        what: &str,
        log: &Log,
        interrupt: &Interrupt,
    ) -> Result<Flock<File>, Stop> {
        let name: String =
            what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = self.dir("locks")?.join(name);
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
            Err((_, error)) => {
                return Err(anyhow::Error::new(error)
                    .context(format!("cannot lock {}", path.display()))
                    .into());
            }
        };
        log.note(format!("waiting for another run that uses the store's {what}"));
        let waiting =
            tokio::task::spawn_blocking(move || Flock::lock(file, FlockArg::LockExclusive));
        tokio::select! {
            lock = waiting => Ok(lock
                .context("waiting for a lock")?
                .map_err(|(_, error)| error)
                .with_context(|| format!("cannot lock {}", path.display()))?),
            () = interrupt.wait() => Err(Stop::Interrupted),
        }
    }

    /// The text of a small file of the store, `None` if there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes a small file of the store, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        let parent = path.parent().expect("files lie below the root");
        (|| -> Result<()> {
            fs::create_dir_all(parent)?;
            let file = tempfile::Builder::new().prefix(DRAFT).tempfile_in(parent)?;
            fs::write(file.path(), text)?;
            file.persist(&path)?;
            Ok(())
        })()
        .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes the entry `name` by `make`, which fills an empty directory, and
    /// shows it only when it is whole. An entry's name says what is in it, so
    /// one that another run has put there meanwhile is as good and stays.
    ///
    /// # Errors
    /// Whatever `make` says, or when files cannot be written.
    pub fn publish<E: From<anyhow::Error>>(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let parent = Path::new(name).parent().expect("entries lie below the root");
        let draft = self.draft(&parent.to_string_lossy())?;
        make(draft.path())?;
        Ok(self.adopt(name, draft)?)
    }

    /// An empty directory beside the entries of `part`, to be filled and
    /// [adopted](Store::adopt). It is removed if it is not, by whoever makes the
    /// next draft if its writer was killed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn draft(&self, part: &str) -> Result<Draft> {
        let parent = self.dir(part)?;
        let make = || -> Result<Draft> {
            // While drafts are swept none is made: one that is not held yet looks
            // like one that nobody holds any more.
            let _sweeping = hold_soon(&parent)?;
            for entry in fs::read_dir(&parent)?.flatten() {
                let path = entry.path();
                let name = entry.file_name();
                if name.to_string_lossy().starts_with(DRAFT)
                    && path.is_dir()
                    && hold(&path, FlockArg::LockExclusiveNonblock).is_ok()
                {
                    // What cannot be removed now is removed another time.
                    let _ = fs::remove_dir_all(&path);
                }
            }
            let dir = tempfile::Builder::new().prefix(DRAFT).tempdir_in(&parent)?;
            let held = hold(dir.path(), FlockArg::LockExclusiveNonblock)?;
            Ok(Draft { dir, _held: held })
        };
        make().with_context(|| format!("cannot write to {}", parent.display()))
    }

    /// Shows a draft that is whole as the entry `name`.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn adopt(&self, name: &str, draft: Draft) -> Result<PathBuf> {
        let place = self.path(name);
        match fs::rename(draft.path(), &place) {
            Ok(()) => {
                drop(draft.dir.keep());
                self.note_growth();
            }
            Err(_) if place.is_dir() => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot write {}", place.display()));
            }
        }
        Ok(place)
    }
}

/// An entry of the store while it is written. Its lock says that its writer
/// lives.
#[derive(Debug)]
pub struct Draft {
    dir: tempfile::TempDir,
    /// Kept for what dropping it does.
    _held: Flock<File>,
}

impl Draft {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Holds a directory that others hold for moments only.
fn hold_soon(dir: &Path) -> Result<Flock<File>> {
    let deadline = Instant::now() + SOON;
    loop {
        match hold(dir, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(held),
            Err(error) if error.downcast_ref() != Some(&nix::errno::Errno::EWOULDBLOCK) => {
                return Err(error);
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context("somebody keeps it locked"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn hold(dir: &Path, how: FlockArg) -> Result<Flock<File>> {
    Ok(Flock::lock(File::open(dir)?, how).map_err(|(_, error)| error)?)
}

/// An XDG base directory: the variable, or the default below the home.
///
/// # Errors
/// When neither the variable nor a home is set.
pub fn xdg(variable: &str, default: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(variable).filter(|d| Path::new(d).is_absolute()) {
        return Ok(dir.into());
    }
    let home =
        std::env::var_os("HOME").with_context(|| format!("neither {variable} nor HOME is set"))?;
    Ok(Path::new(&home).join(default))
}

/// The SHA-256 of a file, as hex.
///
/// # Errors
/// When it cannot be read.
pub fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

/// The SHA-256 of some parts, as hex. Each part's length goes in, so that
/// moving a byte from one to the next changes it.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("{:x}", hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_of_the_dead_are_swept_and_those_of_the_living_are_not() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let store = Store::at(home.path()).expect("writable");
        let ours = store.draft("things").expect("writable");
        let dead = store.path("things/.new-dead");
        fs::create_dir(&dead).expect("writable");
        fs::write(dead.join("half"), "of it").expect("writable");
        let entry = store.path("things/entry");
        fs::create_dir(&entry).expect("writable");
        store.draft("things").expect("writable");
        assert!(ours.path().is_dir());
        assert!(entry.is_dir());
        assert!(!dead.exists());
    }
}
