//! What a round left on the disk: its run directory, and its store.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::verdict::{Proof, Written};
use crate::image::{self, Rootfs};
use crate::judge;
use crate::results::Results;
use crate::snapshot;
use crate::{collect, context::Context, rundir, store::Store};

/// The parts of a store that a run of a warm kernel writes: those that a victim
/// has of its own.
pub(super) const OWN: [&str; 3] = ["images", "snapshots", "kvm"];

/// How the names of drafts in a store begin.
const DRAFT: &str = ".new-";

/// How many drafts of dead writers may lie in one part of a store: whoever makes
/// the next one sweeps.
const DRAFTS: usize = 1;

/// A run directory, read.
pub(super) struct Left {
    /// `results.json`.
    pub(super) results: Written,
    /// What the directory is judged to be, or why it cannot be; `None` where no
    /// run had begun.
    pub(super) again: Option<Result<Results, String>>,
    /// What its events prove.
    pub(super) proof: Proof,
    /// What is wrong with the directory itself.
    pub(super) faults: Vec<String>,
}

/// Reads a run directory, as `judge` does, and what was written by the run
/// itself.
pub(super) fn run_directory(dir: &Path) -> Left {
    let results = match fs::read(dir.join("results.json")) {
        Err(_) => Written::Absent,
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(results) => Written::Whole(Box::new(results)),
            Err(error) => Written::Broken(error.to_string()),
        },
    };
    let mut proof = Proof::default();
    let again = dir.join("events.jsonl").exists().then(|| {
        let evidence = collect::evidence(dir).map_err(|error| format!("{error:#}"))?;
        proof = Proof::of(&evidence.records);
        Ok(judge::judge(&evidence))
    });
    // Whoever goes on working names the same directory again.
    let taken =
        rundir::check_out(dir).map(|problem| format!("no run can follow: {}", problem.what));
    Left { results, again, proof, faults: taken.into_iter().collect() }
}

/// What a store must hold, if it holds anything.
pub(super) struct Reference {
    /// A store that nobody has injured.
    root: PathBuf,
}

impl Reference {
    /// Makes the images in the empty directory `root`, by ourselves; what only a
    /// run can make, it copies from `store`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn make(ctx: &Context, root: &Path, store: &Path) -> Result<Self> {
        let ctx = Context::new(Store::at(root)?, ctx.log.clone(), ctx.interrupt.clone())?;
        for rootfs in [Rootfs::Virtme, Rootfs::Initramfs] {
            image::assemble(&ctx, rootfs).map_err(|stop| anyhow::anyhow!("{stop}"))?;
        }
        let kvm = ctx.store.dir("kvm")?;
        for path in entries(&store.join("kvm")) {
            let name = path.file_name().context("an entry has a name")?;
            fs::copy(&path, kvm.join(name)).with_context(|| path.display().to_string())?;
        }
        Ok(Reference { root: root.to_owned() })
    }

    /// Everything that is wrong with a store.
    pub(super) fn faults(&self, store: &Path) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |path: &Path, wrong: Option<String>| {
            let shown = path.strip_prefix(store).unwrap_or(path).display();
            faults.extend(wrong.map(|wrong| format!("broken in the store: {shown}: {wrong}")));
        };
        for part in OWN {
            let dir = store.join(part);
            let (drafts, shown): (Vec<_>, Vec<_>) =
                entries(&dir).into_iter().partition(|path| is_draft(path));
            if drafts.len() > DRAFTS {
                check(&dir, Some(format!("{} drafts of dead writers lie about", drafts.len())));
            }
            for entry in shown {
                let wrong = match part {
                    "images" => self.image(store, &entry),
                    "snapshots" => snapshot(&entry),
                    _ => self.answer(store, &entry),
                };
                check(&entry, wrong);
            }
        }
        faults
    }

    /// What is wrong with an image.
    fn image(&self, store: &Path, entry: &Path) -> Option<String> {
        let ours = self.root.join(entry.strip_prefix(store).ok()?);
        for file in ["initramfs.cpio", "payload/hmm-tests"] {
            let right = fs::read(ours.join(file)).ok();
            match fs::read(entry.join(file)) {
                Err(error) => return Some(format!("{file}: {error}")),
                Ok(bytes) if Some(&bytes) != right.as_ref() => {
                    return Some(format!("{file} is not what it should be"));
                }
                Ok(_) => {}
            }
        }
        None
    }

    /// What is wrong with the remembered answer about KVM: nobody's kernel has
    /// changed, so neither has the answer. How it is worded may differ.
    fn answer(&self, store: &Path, entry: &Path) -> Option<String> {
        let ours = self.root.join(entry.strip_prefix(store).ok()?);
        let right = fs::read(ours).ok()?;
        let answer = fs::read(entry).ok()?;
        (answer.is_empty() != right.is_empty()).then(|| "the answer about KVM has changed".into())
    }
}

/// What is wrong with a saved guest.
fn snapshot(entry: &Path) -> Option<String> {
    if let Some(fault) = snapshot::fault(entry) {
        return Some(fault.to_owned());
    }
    let console = entry.join(snapshot::CONSOLE);
    (!console.is_file()).then(|| format!("it has no {}", snapshot::CONSOLE))
}

/// Throws away what a store holds and a run can make again; drafts stay, since
/// it is for runs to sweep them.
///
/// # Errors
/// When something cannot be removed.
pub(super) fn forget(store: &Path) -> Result<()> {
    for path in OWN.iter().flat_map(|part| entries(&store.join(part))) {
        if is_draft(&path) {
            continue;
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn is_draft(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DRAFT))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest_of;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    #[test]
    fn what_is_half_written_is_found_and_forgotten() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let reference = Reference { root: home.path().join("reference") };
        let store = home.path().join("store");
        for root in [&reference.root, &store] {
            write(root, "images/a/initramfs.cpio", "archive");
            write(root, "images/a/payload/hmm-tests", "program");
            write(root, "kvm/k", "no KVM");
        }
        write(&store, "snapshots/s/state", "abc");
        let state_sha256 = digest_of(&store.join("snapshots/s/state")).expect("written");
        let facts = serde_json::json!({ "key": "s", "state_sha256": state_sha256,
            "release": "6.12", "boot_id": "b", "uptime_us": 1 });
        write(&store, "snapshots/s/facts.json", &facts.to_string());
        write(&store, "snapshots/s/console.log", "");
        write(&store, "snapshots/.new-1/state", "");
        assert_eq!(reference.faults(&store), [""; 0]);

        write(&store, "images/a/initramfs.cpio", "arch");
        write(&store, "snapshots/s/state", "ab");
        write(&store, "snapshots/.new-2/state", "");
        write(&store, "kvm/k", "");
        let faults = reference.faults(&store);
        assert_eq!(faults.len(), 4, "{faults:#?}");
        for (fault, words) in
            faults.iter().zip(["images/a", "2 drafts", "not what was saved", "kvm/k"])
        {
            assert!(fault.contains(words), "{words} in {fault}");
        }

        forget(&store).expect("writable");
        assert!(!store.join("images/a").exists() && !store.join("kvm/k").exists());
        assert!(store.join("snapshots/.new-1").exists(), "runs sweep it");
    }
}
