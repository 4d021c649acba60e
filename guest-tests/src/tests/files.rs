//! Files in memory: what a device reads and writes of a mapping, and that
//! what a process made its own of one migrates.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::libc;

use crate::buffer::{Access, BUFFER_PAGES, Backing, Buffer, Place};
use crate::check::{OrFail, Result, differs};
use crate::mirror::Mirror;
use crate::pattern::{PAGE_SIZE, Pattern};
use crate::rig::Rig;

/// Where the files without a name are: a tmpfs, which the agent mounts.
const DIRECTORY: &str = "/tmp";

/// The device reads a shared mapping of a file.
pub(crate) fn file_read(rig: &Rig) -> Result {
    let device = rig.device();
    let file = nameless_file()?;
    let data = rig.pattern();
    file.write_all_at(&data.bytes(BUFFER_PAGES), 0).or_fail("write the file")?;
    let backing = Backing::SharedFile(file.as_fd());
    let buffer = Buffer::map(Place::Buffer, BUFFER_PAGES, Access::Read, backing)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;

    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), data, "what the device read of the file")?;
    buffer.all().check(data, "the CPU's view of the file")?;
    check_file(&file, data, "the file after the device read it")
}

/// The device writes a shared mapping of a file, and the file has it.
pub(crate) fn file_write(rig: &Rig) -> Result {
    let device = rig.device();
    let file = nameless_file()?;
    let data = rig.pattern();
    let backing = Backing::SharedFile(file.as_fd());
    let buffer = Buffer::map(Place::Buffer, BUFFER_PAGES, Access::Write, backing)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;

    mirror.fill(buffer.all(), data);
    device.write(buffer.all(), &mirror)?.complete_with_faults(1)?;
    buffer.all().check(data, "the CPU's view of what the device wrote")?;
    check_file(&file, data, "the file after the device wrote")
}

/// The private copies of a file's pages are anonymous memory, and migrate;
/// the file stays as it is.
pub(crate) fn migrate_file_private(rig: &Rig) -> Result {
    let device = rig.device();
    let file = nameless_file()?;
    let backing = Backing::PrivateFile(file.as_fd());
    let buffer = Buffer::map(Place::Buffer, BUFFER_PAGES, Access::Write, backing)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let writable = rig.prot("WRITE")?;
    let data = rig.pattern();
    buffer.all().fill(data);

    device.to_device(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), data, "what the device has after the migration")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.local()? | writable)?;

    buffer.all().check(data, "the CPU's view of what had migrated")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.touched(writable)?)?;
    check_file(&file, Pattern::ZEROS, "the file after its private copies migrated")
}

/// A file of [`BUFFER_PAGES`] pages that is gone with its last descriptor.
#[track_caller]
fn nameless_file() -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE | libc::O_EXCL)
        .open(DIRECTORY)
        .or_fail(format_args!("make a nameless file in {DIRECTORY}"))?;
    file.set_len((BUFFER_PAGES * PAGE_SIZE) as u64).or_fail("lengthen the file")?;
    Ok(file)
}

#[track_caller]
fn check_file(file: &File, expected: Pattern, what: &str) -> Result {
    let mut seen = vec![0; BUFFER_PAGES * PAGE_SIZE];
    file.read_exact_at(&mut seen, 0).or_fail("read the file")?;
    let expected = expected.bytes(BUFFER_PAGES);
    let mut pages = seen.chunks(PAGE_SIZE).zip(expected.chunks(PAGE_SIZE)).enumerate();
    let Some((page, (seen, expected))) = pages.find(|(_, (seen, right))| seen != right) else {
        return Ok(());
    };
    let mut bytes = seen.iter().zip(expected).enumerate();
    let (at, (seen, expected)) =
        bytes.find(|(_, (seen, right))| seen != right).expect("the pages differ");
    let message = format!("{what}: byte {at} of page {page}");
    Err(differs(seen, expected, message).on_page(page))
}
