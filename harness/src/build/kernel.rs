//! From a configuration to a kernel of the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use hmm_protocol::wire::Abi;
use serde::{Deserialize, Serialize};

use super::elf;
use super::lane::Lane;
use super::make::{VARIABLES, make};
use crate::abi;
use crate::config::Configured;
use crate::context::Context;
use crate::flow::Stage;
use crate::stop::{Fault, Stop};
use crate::store::digest;

/// Changes when what an entry holds does, so that old ones are not used.
const FORMAT: &str = "kernel 1";

/// A kernel of the store, ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What it was built from.
    pub configured: Configured,
    /// Its key in the store.
    pub key: String,
    /// Where its files are: `vmlinux`, `System.map`, `config`, `abi.json`,
    /// `kernel.json`.
    pub dir: PathBuf,
    /// `uname -r` (`include/config/kernel.release` of the build).
    pub release: String,
    /// The numbers that tests need from the tree.
    pub abi: Abi,
    /// Digest of what a boot loads, build id masked: kernels with the same
    /// one behave the same.
    pub loaded_sha256: String,
    /// How many objects this run compiled or assembled for it.
    pub objects: usize,
    /// Whether it was in the store already.
    pub reused: bool,
}

impl Kernel {
    /// The image that QEMU enters by PVH.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The addresses of its symbols, as `nm` lists them.
    pub fn system_map(&self) -> PathBuf {
        self.dir.join("System.map")
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }
}

/// `kernel.json`: what is known of an entry without opening its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    release: String,
    tree: String,
    config_sha256: String,
    toolchain: String,
    loaded_sha256: String,
    /// Where the driver's array of devices is, from which the names of owners
    /// come (`dmirror_devices` in lib/test_hmm.c).
    dmirror_devices: Option<elf::SymbolPlace>,
}

/// Builds the kernel, or finds it in the store. `build.log` goes to `log_dir`.
///
/// # Errors
/// [`Stop::Kernel`] when it does not compile or link, with the first error;
/// [`Stop::Machine`] when a tool, memory or space is missing;
/// [`Stop::Interrupted`].
pub async fn kernel(ctx: &Context, configured: Configured, log_dir: &Path) -> Result<Kernel, Stop> {
    let mut parts =
        vec![FORMAT, &configured.source.tree.0, &configured.config_sha256, &configured.toolchain];
    for (name, value) in VARIABLES {
        parts.extend([*name, *value]);
    }
    let key = digest(parts.into_iter().map(str::as_bytes));
    let name = format!("kernels/{key}");
    if let Some(entry) = read(&ctx.store.path(&name)) {
        return Ok(entry.of(configured, key, ctx.store.path(&name)));
    }

    let lane = Lane::open(ctx, &configured).await?;
    // Whoever held the lane may have built the same kernel.
    if let Some(entry) = read(&ctx.store.path(&name)) {
        return Ok(entry.of(configured, key, ctx.store.path(&name)));
    }
    lane.move_to(ctx, &configured.source).await?;
    let started = Instant::now();
    let objects = make(ctx, &lane, &configured, log_dir).await?;
    let abi = abi::read(ctx, &lane.src(), &lane.obj()).await?;
    let dir = publish(ctx, &lane, &configured, &name, &abi)?;
    ctx.log.progress(
        Stage::Build,
        format!("{objects} objects in {:.1} s", started.elapsed().as_secs_f64()),
    );
    let Read { entry, abi } = read(&dir).context("the kernel that was just built is gone")?;
    let mut kernel = Read { entry, abi }.of(configured, key, dir);
    (kernel.reused, kernel.objects) = (false, objects);
    Ok(kernel)
}

/// What an entry of the store says of itself.
struct Read {
    entry: Entry,
    abi: Abi,
}

impl Read {
    fn of(self, configured: Configured, key: String, dir: PathBuf) -> Kernel {
        Kernel {
            configured,
            key,
            dir,
            release: self.entry.release,
            abi: self.abi,
            loaded_sha256: self.entry.loaded_sha256,
            objects: 0,
            reused: true,
        }
    }
}

/// Reads an entry; one that cannot be read is none, and is made again.
fn read(dir: &Path) -> Option<Read> {
    let json = |name: &str| fs::read(dir.join(name)).ok();
    let entry = serde_json::from_slice(&json("kernel.json")?).ok()?;
    let abi = serde_json::from_slice(&json("abi.json")?).ok()?;
    dir.join("vmlinux").is_file().then_some(Read { entry, abi })
}

/// Puts what the lane has built into the store.
fn publish(
    ctx: &Context,
    lane: &Lane,
    configured: &Configured,
    name: &str,
    abi: &Abi,
) -> Result<PathBuf, Stop> {
    let obj = lane.obj();
    let image = fs::read(obj.join("vmlinux")).context("make built no vmlinux")?;
    let broken = |why: &str| {
        Stop::Kernel(Fault::new(format!("vmlinux is not as expected: {why}")).at(Stage::Build))
    };
    let loaded = elf::loaded(&image).ok_or_else(|| broken("it is no 64-bit ELF program"))?;
    if !loaded.pvh {
        return Err(broken("it has no PVH entry note, without which QEMU cannot start it"));
    }
    let release = fs::read_to_string(obj.join("include/config/kernel.release"))
        .context("the build did not say its release")?;
    let entry = Entry {
        release: release.trim().to_owned(),
        tree: configured.source.tree.0.clone(),
        config_sha256: configured.config_sha256.clone(),
        toolchain: configured.toolchain.clone(),
        loaded_sha256: loaded.sha256,
        dmirror_devices: elf::symbol(&image, "dmirror_devices"),
    };
    ctx.store.publish(name, |dir| {
        let write = || -> anyhow::Result<()> {
            fs::write(dir.join("vmlinux"), &image)?;
            fs::copy(obj.join("System.map"), dir.join("System.map"))?;
            fs::write(dir.join("config"), &configured.config)?;
            fs::write(dir.join("abi.json"), serde_json::to_vec_pretty(abi)?)?;
            fs::write(dir.join("kernel.json"), serde_json::to_vec_pretty(&entry)?)?;
            Ok(())
        };
        write().context("cannot write the kernel to the store").map_err(Stop::from)
    })
}
