//! The guest's root file system: an initramfs with the agent in it, and the
//! orders by which the agent puts the rest together.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use hmm_protocol::wire::{Attach, Mount, Prepare, Setting};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::embedded;
use crate::stop::Stop;
use crate::store::digest;

/// Which description of `images/` the guest's root follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// The host's own files, read-only over 9p.
    #[default]
    Virtme,
    /// Everything sealed into the initramfs.
    Initramfs,
}

impl Rootfs {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Rootfs::Virtme => "virtme",
            Rootfs::Initramfs => "initramfs",
        }
    }
}

/// A directory of the host that the guest can mount, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The 9p mount tag.
    pub tag: String,
    /// The directory.
    pub path: PathBuf,
}

/// What a VM needs beside its kernel.
#[derive(Debug, Clone)]
pub struct Image {
    /// The initramfs, uncompressed: the kernel unpacks it faster than it would
    /// decompress it.
    pub initrd: PathBuf,
    /// Says what is in it: where two are equal, so are the guests that boot
    /// from it.
    pub initrd_key: String,
    /// Directories of the host.
    pub exports: Vec<Export>,
    /// What the agent is to do before anything of the host is there.
    pub prepare: Prepare,
    /// What it is to do with the host's files.
    pub attach: Attach,
    /// Which description it came from.
    pub rootfs: Rootfs,
}

/// `images/guest.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestDescription {
    mounts: Vec<Mount>,
    settings: Vec<Setting>,
}

/// `images/virtme.yaml`, `images/initramfs.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootDescription {
    mounts: Vec<Mount>,
    host: Vec<String>,
    payload: String,
}

/// Options of every 9p mount: the host's files do not change under a run, so
/// the guest may cache them; large messages, since each is a VM exit.
const NINE_P: &str = "trans=virtio,version=9p2000.L,msize=262144,cache=loose";

/// The file name of the test binary, wherever it is put.
const TESTS: &str = "hmm-tests";

/// Where the test binary lies in a sealed initramfs.
const SEALED_PAYLOAD: &str = "/payload";

/// Puts the initramfs into the store and works out the agent's orders.
///
/// # Errors
/// When the store cannot be written.
pub fn assemble(ctx: &Context, rootfs: Rootfs) -> Result<Image, Stop> {
    let guest: GuestDescription = description("images/guest.yaml")?;
    let root: RootDescription = description(&format!("images/{}.yaml", rootfs.as_str()))?;
    let sealed = rootfs == Rootfs::Initramfs;

    let mut files = vec![("init", embedded::AGENT)];
    if sealed {
        files.push(("payload/hmm-tests", embedded::TESTS));
    }
    let initrd_key = digest(files.iter().flat_map(|(name, content)| [name.as_bytes(), content]));
    let key = digest([embedded::TESTS, initrd_key.as_bytes()]);
    let name = format!("images/{}", &key[..20]);
    let place = ctx.store.path(&name);
    let parts =
        [("initramfs.cpio", archive(&files)?), ("payload/hmm-tests", embedded::TESTS.to_vec())];
    let is_there = |(file, bytes): &(&str, Vec<u8>)| {
        fs::read(place.join(file)).is_ok_and(|found| found == *bytes)
    };
    if !parts.iter().all(is_there) {
        // Another run that has just made it finds the same bytes in it.
        let _ = fs::remove_dir_all(&place).or_else(|_| fs::remove_file(&place));
        ctx.store.publish::<anyhow::Error>(&name, |dir| {
            fs::create_dir(dir.join("payload")).context("cannot write an image to the store")?;
            for (file, bytes) in &parts {
                let path = place.join(file);
                fs::write(dir.join(file), bytes)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(())
        })?;
    }

    ctx.store.touch(&name);
    let mut prepare =
        Prepare { mounts: root.mounts, settings: guest.settings, ..Prepare::default() };
    prepare.mounts.extend(guest.mounts);
    let mut attach = Attach { tests: format!("{}/{TESTS}", root.payload), ..Attach::default() };
    let mut exports = Vec::new();
    for path in &root.host {
        match fs::read_link(path) {
            Ok(target) => prepare.links.push((path.clone(), target.to_string_lossy().into_owned())),
            Err(_) if Path::new(path).is_dir() => {
                let tag = format!("host{}", path.replace('/', "."));
                attach.mounts.push(nine_p(path, &tag));
                exports.push(Export { tag, path: path.into() });
            }
            Err(_) => {}
        }
    }
    if sealed {
        prepare.mounts.push(Mount {
            at: root.payload.clone(),
            kind: "bind".into(),
            source: SEALED_PAYLOAD.into(),
            ..Mount::default()
        });
    } else {
        attach.mounts.push(nine_p(&root.payload, "payload"));
        exports.push(Export { tag: "payload".into(), path: place.join("payload") });
    }
    Ok(Image { initrd: place.join("initramfs.cpio"), initrd_key, exports, prepare, attach, rootfs })
}

fn nine_p(at: &str, tag: &str) -> Mount {
    Mount {
        at: at.into(),
        kind: "9p".into(),
        source: tag.into(),
        options: NINE_P.into(),
        read_only: true,
        optional: false,
    }
}

fn description<T: for<'a> Deserialize<'a>>(path: &str) -> Result<T> {
    let text = embedded::text(path).with_context(|| format!("{path} is not in this binary"))?;
    serde_yaml::from_str(text).with_context(|| path.to_owned())
}

/// An archive in the format that the kernel unpacks
/// (Documentation/driver-api/early-userspace/buffer-format.rst), with the
/// directories of its files, and the device nodes that PID 1 gets its standard
/// descriptors from.
fn archive(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    const DIRECTORY: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    const CHARACTER_DEVICE: u32 = 0o020_600;
    let mut bytes = Vec::new();
    let mut add = |builder: cpio::newc::Builder, mode: u32, content: &[u8]| -> Result<()> {
        let size = u32::try_from(content.len()).context("a file of the image is too large")?;
        let mut entry = builder.mode(mode).write(&mut bytes, size);
        std::io::Write::write_all(&mut entry, content)?;
        entry.finish()?;
        Ok(())
    };
    let mut number = 0;
    let mut entry = |name: &str| {
        number += 1;
        cpio::newc::Builder::new(name).ino(number).nlink(1)
    };
    for directory in ["dev", "payload"] {
        add(entry(directory), DIRECTORY, &[])?;
    }
    add(entry("dev/console").rdev_major(5).rdev_minor(1), CHARACTER_DEVICE, &[])?;
    for (name, content) in files {
        add(entry(name), PROGRAM, content)?;
    }
    cpio::newc::trailer(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptions_are_well_formed() {
        description::<GuestDescription>("images/guest.yaml").expect("guest");
        for rootfs in ["virtme", "initramfs"] {
            let root: RootDescription =
                description(&format!("images/{rootfs}.yaml")).expect(rootfs);
            assert_eq!(root.mounts.first().map(|m| m.at.as_str()), Some("/"));
        }
    }

    #[test]
    fn the_archive_holds_the_agent_as_init() {
        let bytes = archive(&[("init", b"#!agent")]).expect("small");
        let mut names = Vec::new();
        let mut rest = bytes.as_slice();
        loop {
            let reader = cpio::newc::Reader::new(rest).expect("well formed");
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().file_size()));
            rest = reader.finish().expect("well formed");
        }
        assert!(names.contains(&("init".to_owned(), 7)));
    }
}
