//! From a configuration to a kernel of the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use hmm_protocol::wire::Abi;
use serde::{Deserialize, Serialize};

use super::debugger::{self, Debugger};
use super::lane::Lane;
use super::loaded;
use super::make::{VARIABLES, make};
use crate::abi;
use crate::ask;
use crate::config::Configured;
use crate::context::Context;
use crate::flow::Stage;
use crate::layout;
use crate::stop::Stop;
use crate::store::{digest, digest_of};

/// Changes when what an entry holds does, so that old ones are not used.
const FORMAT: &str = "kernel 4";

/// The image, in a build and in the store.
const VMLINUX: &str = "vmlinux";

/// A kernel of the store, ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What it was built from.
    pub configured: Configured,
    /// Where its files are: `vmlinux`, `System.map`, `config`, `abi.json`,
    /// `layout.json`, `kernel.json`.
    pub dir: PathBuf,
    /// `uname -r` (`include/config/kernel.release` of the build).
    pub release: String,
    /// The numbers that tests need from the tree.
    pub abi: Abi,
    /// Where the notifier's facts lie.
    pub layout: layout::Known,
    /// Whether it was in the store already.
    pub reused: bool,
}

impl Kernel {
    /// Names what it was made of: equal keys, equal kernels.
    pub fn key(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The image that QEMU enters by PVH.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join(VMLINUX)
    }

    /// What a debugger finds beside the image.
    pub fn debugger(&self) -> Debugger {
        Debugger::beside(&self.dir, &self.configured.config)
    }

    /// Names what makes a difference to its tests: what of the image is loaded, and
    /// what is read from the tree to understand it. Where it is equal, so are the
    /// kernels. The store remembers it.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn loaded_sha256(&self, ctx: &Context) -> Result<String, Stop> {
        let entry = format!("loaded/{}", self.key());
        if let Some(digest) = ctx.store.read(&entry)? {
            return Ok(digest);
        }
        let image = loaded::sha256(&self.vmlinux())?;
        let layout = serde_json::to_vec(&self.layout).context("the layout")?;
        let abi = serde_json::to_vec(&self.abi).context("the driver's numbers")?;
        let digest = digest([image.as_bytes(), &layout, &abi]);
        ctx.store.write(&entry, &digest)?;
        Ok(digest)
    }
}

/// `kernel.json`: what is known of an entry without opening its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    release: String,
    tree: String,
    config_sha256: String,
    toolchain: String,
    /// Of the image: nothing else would notice a bit that has changed in it.
    vmlinux_sha256: String,
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
        ctx.store.touch(&name);
        return Ok(entry.of(configured, ctx.store.path(&name)));
    }

    let lane = Lane::open(ctx, &configured).await?;
    // Whoever held the lane may have built the same kernel.
    if let Some(entry) = read(&ctx.store.path(&name)) {
        return Ok(entry.of(configured, ctx.store.path(&name)));
    }
    // Also where nothing comes of it: a lane is the largest thing of the store.
    ctx.store.note_growth();
    lane.move_to(ctx, &configured.source).await?;
    let started = Instant::now();
    let objects = make(ctx, &lane, &configured, log_dir).await?;
    let abi = abi::read(ctx, &lane.src(), &lane.obj()).await?;
    let layout = ask::layout::read(ctx, &lane.src(), &lane.obj()).await?;
    let dir = publish(ctx, &lane, &configured, &name, &abi, &layout)?;
    ctx.log.progress(
        Stage::Build,
        format!("{objects} objects in {:.1} s", started.elapsed().as_secs_f64()),
    );
    let entry = read(&dir).context("the kernel that was just built is gone")?;
    Ok(Kernel { reused: false, ..entry.of(configured, dir) })
}

/// What an entry of the store says of itself.
struct Read {
    entry: Entry,
    abi: Abi,
    layout: layout::Known,
}

impl Read {
    fn of(self, configured: Configured, dir: PathBuf) -> Kernel {
        let Read { entry, abi, layout } = self;
        Kernel { configured, dir, release: entry.release, abi, layout, reused: true }
    }
}

/// Reads an entry; one that cannot be read is none, and is made again.
fn read(dir: &Path) -> Option<Read> {
    examine(dir).ok()
}

/// What is wrong with an entry of the store, if anything is.
pub(crate) fn fault(dir: &Path) -> Option<&'static str> {
    examine(dir).err()
}

/// Which kernel an entry of the store holds, as far as it says so.
pub(crate) fn about(dir: &Path) -> Option<String> {
    Some(part::<Entry>(dir, "kernel.json")?.release)
}

fn examine(dir: &Path) -> Result<Read, &'static str> {
    let entry: Entry = part(dir, "kernel.json").ok_or("it does not say which kernel it is")?;
    let abi = part(dir, "abi.json").ok_or("it has no abi.json that can be read")?;
    let layout = part(dir, "layout.json").ok_or("it has no layout.json that can be read")?;
    match digest_of(&dir.join(VMLINUX)) {
        Err(_) => Err("it has no vmlinux"),
        Ok(digest) if digest != entry.vmlinux_sha256 => Err("its vmlinux is not what was built"),
        Ok(_) => Ok(Read { entry, abi, layout }),
    }
}

fn part<T: for<'a> Deserialize<'a>>(dir: &Path, name: &str) -> Option<T> {
    serde_json::from_slice(&fs::read(dir.join(name)).ok()?).ok()
}

/// Puts what the lane has built into the store.
fn publish(
    ctx: &Context,
    lane: &Lane,
    configured: &Configured,
    name: &str,
    abi: &Abi,
    layout: &layout::Known,
) -> Result<PathBuf, Stop> {
    let obj = lane.obj();
    let release = fs::read_to_string(obj.join("include/config/kernel.release"))
        .context("the build did not say its release")?;
    let entry = Entry {
        release: release.trim().to_owned(),
        tree: configured.source.tree.0.clone(),
        config_sha256: configured.config_sha256.clone(),
        toolchain: configured.toolchain.clone(),
        vmlinux_sha256: digest_of(&obj.join(VMLINUX)).context("the kernel that was just built")?,
    };
    let place = ctx.store.path(name);
    if place.exists() {
        // It could not be read, or this would not have been built.
        fs::remove_dir_all(&place)
            .or_else(|_| fs::remove_file(&place))
            .context("cannot remove a damaged kernel")?;
    }
    ctx.store.publish(name, |dir| {
        let write = || -> anyhow::Result<()> {
            // gdb wonders about sources that are newer than the image.
            debugger::keep(lane, &configured.config, dir)?;
            for file in [VMLINUX, "System.map"] {
                fs::copy(obj.join(file), dir.join(file))?;
            }
            fs::write(dir.join("config"), &configured.config)?;
            fs::write(dir.join("abi.json"), serde_json::to_vec_pretty(abi)?)?;
            fs::write(dir.join("layout.json"), serde_json::to_vec_pretty(layout)?)?;
            fs::write(dir.join("kernel.json"), serde_json::to_vec_pretty(&entry)?)?;
            Ok(())
        };
        write().context("cannot write the kernel to the store").map_err(Stop::from)
    })
}
