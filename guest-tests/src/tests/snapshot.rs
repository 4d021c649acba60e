//! What a device sees of a page without asking for it.

use std::os::fd::AsFd;

use crate::buffer::{Access, Backing, Buffer, Place};
use crate::check::Result;
use crate::mirror::Mirror;
use crate::pattern::Pattern;
use crate::rig::Rig;

/// A mapping with pages of the driver's own (VM_MIXEDMAP) can be mirrored.
pub(crate) fn mixedmap(rig: &Rig) -> Result {
    let device = rig.device();
    let backing = Backing::PrivateFile(device.as_fd());
    let buffer = Buffer::map(Place::Buffer, 1, Access::Write, backing)?;
    let mirror = Mirror::new(1)?;

    // dmirror_fops_mmap() inserts a page of zeros; read-only, for the mapping
    // is private.
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.prot("READ")?)?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), Pattern::ZEROS, "what the device reads of the driver's page")?;
    buffer.all().check(Pattern::ZEROS, "the CPU's view of the driver's page")
}

/// A snapshot tells every kind of page apart, for either device.
pub(crate) fn snapshot(rig: &Rig) -> Result {
    const PAGES: usize = 7;
    let (first, second) = rig.devices();
    // The pages that migrate are holes, and must arrive as zeros.
    rig.dirty_free_pages(first)?;
    rig.dirty_free_pages(second)?;
    let buffer = Buffer::map(Place::Buffer, PAGES, Access::None, Backing::Private)?;
    let mirror = Mirror::new(PAGES)?;
    let (read, write) = (rig.prot("READ")?, rig.prot("WRITE")?);
    let data = rig.pattern();

    buffer.page(1).unmap()?;
    let (zero_page, read_only, read_write) = (buffer.page(2), buffer.page(3), buffer.page(4));
    let (firsts, seconds) = (buffer.page(5), buffer.page(6));
    zero_page.protect(Access::Read)?;
    zero_page.check(Pattern::ZEROS, "the CPU's view of a page that nobody wrote")?;
    read_only.protect(Access::Write)?;
    read_only.fill(data);
    read_only.protect(Access::Read)?;
    buffer.pages(4..PAGES).protect(Access::Write)?;
    read_write.fill(data);
    for (device, page) in [(first, firsts), (second, seconds)] {
        device.to_device(page, &mirror)?.complete()?;
        mirror.check(page, Pattern::ZEROS, "what the device has of a page that nobody wrote")?;
    }

    let error = rig.prot("ERROR")?;
    let common = [error, error, rig.prot("ZERO")? | read, read, write];
    let (local, remote) = (rig.local()? | write, rig.remote(write)?);
    for (device, of_firsts, of_seconds) in [(first, local, remote), (second, remote, local)] {
        let expected = [&common[..], &[of_firsts, of_seconds]].concat();
        device.snapshot(buffer.all(), &mirror)?.check_each(&expected)?;
    }

    // Only data that no page of the system has held shows that it is copied.
    let devices = rig.pattern();
    for (device, page) in [(first, firsts), (second, seconds)] {
        mirror.fill(page, devices);
        device.write(page, &mirror)?.complete_with_faults(0)?;
    }
    zero_page.check(Pattern::ZEROS, "the CPU's view of the zero page")?;
    buffer.pages(3..5).check(data, "the CPU's view of pages that stayed")?;
    buffer.pages(5..PAGES).check(devices, "the CPU's view of what the devices wrote")
}
