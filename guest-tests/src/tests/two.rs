//! Two devices and the same pages: each must leave alone what is the other's.

use hmm_protocol::Device;
use nix::errno::Errno;

use crate::buffer::{Access, Backing, Buffer, Place};
use crate::check::Result;
use crate::mirror::Mirror;
use crate::pattern::Pattern;
use crate::rig::Rig;

/// Holes, protections and another device's pages in one range: what cannot
/// migrate is refused, what can migrates with its data and its protection.
pub(crate) fn migrate_mixed(rig: &Rig) -> Result {
    const PAGES: usize = 6;
    let (first, second) = rig.devices();
    // The zero page among them must arrive as zeros in pages that are not.
    rig.dirty_free_pages(second)?;
    let buffer = Buffer::map(Place::Buffer, PAGES, Access::None, Backing::Private)?;
    let mirror = Mirror::new(PAGES)?;
    let (read, write) = (rig.prot("READ")?, rig.prot("WRITE")?);
    let data = rig.pattern();

    // dmirror_migrate_to_device() wants a mapping that can be read, and one
    // for every page.
    second.to_device(buffer.all(), &mirror)?.refused(Errno::EINVAL)?;
    buffer.page(1).unmap()?;
    second.to_device(buffer.pages(0..3), &mirror)?.refused(Errno::EINVAL)?;
    mirror.check_untouched()?;

    let (zero_page, read_only) = (buffer.page(2), buffer.page(3));
    let (read_write, rest) = (buffer.pages(4..PAGES), buffer.pages(2..PAGES));
    zero_page.protect(Access::Read)?;
    zero_page.check(Pattern::ZEROS, "the CPU's view of a page that nobody wrote")?;
    read_only.protect(Access::Write)?;
    read_only.fill(data);
    read_only.protect(Access::Read)?;
    read_write.protect(Access::Write)?;
    read_write.fill(data);

    second.to_device(rest, &mirror)?.complete()?;
    mirror.check(zero_page, Pattern::ZEROS, "what the device has of the zero page")?;
    mirror.check(buffer.pages(3..PAGES), data, "what the device has after the migration")?;

    // The last page is not the first device's to take.
    let last = buffer.page(PAGES - 1);
    first.to_device(last, &mirror)?.refused(Errno::ENOENT)?;
    mirror.check_untouched()?;

    // Nor has the attempt moved anything. (SNAPSHOT and not READ: the attempt
    // did take the page out of the second device's page table.)
    let (error, local) = (rig.prot("ERROR")?, rig.local()?);
    second.snapshot(buffer.all(), &mirror)?.check_each(&[
        error,
        error,
        local | read,
        local | read,
        local | write,
        local | write,
    ])?;
    first.snapshot(buffer.all(), &mirror)?.check_each(&[
        error,
        error,
        rig.remote(read)?,
        rig.remote(read)?,
        rig.remote(write)?,
        rig.remote(write)?,
    ])?;

    zero_page.check(Pattern::ZEROS, "the CPU's view of the zero page that migrated")?;
    buffer.pages(3..PAGES).check(data, "the CPU's view of what had migrated")?;
    second.snapshot(rest, &mirror)?.check_each(&[
        rig.touched(read)?,
        rig.touched(read)?,
        rig.touched(write)?,
        rig.touched(write)?,
    ])
}

/// Two devices map the same pages; one takes them, and the other must notice.
pub(crate) fn double_map(rig: &Rig) -> Result {
    const PAGES: usize = 6;
    let (first, second) = rig.devices();
    let buffer = Buffer::private(PAGES)?;
    let mirror = Mirror::new(PAGES)?;
    let read = rig.prot("READ")?;
    let data = rig.pattern();
    buffer.all().fill(data);
    buffer.all().protect(Access::Read)?;

    for device in [first, second] {
        device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
        mirror.check(buffer.all(), data, "what the device reads of shared pages")?;
    }
    // Neither has taken the other's entries away.
    for device in [first, second] {
        device.read(buffer.all(), &mirror)?.complete_with_faults(0)?;
        mirror.check(buffer.all(), data, "what the device reads again")?;
    }

    // A device could not fault in what lies on another one before 8a295dbbaf72
    // ("mm/hmm: fault non-owner device private entries").
    if !rig.kernel_since(5, 19)? {
        return buffer.all().check(data, "the CPU's view in the end");
    }
    second.to_device(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), data, "what the second device has after the migration")?;
    second.snapshot(buffer.all(), &mirror)?.check_all(rig.local()? | read)?;

    // The first device's entries are stale, so they must be gone: it faults.
    first.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), data, "what the first device reads of the second's pages")?;

    // Private pages had to come home for that (hmm_vma_handle_pte()), and out
    // of the second device's page table; coherent ones could be read in place.
    let (seen_by_first, seen_by_second, faults) = match rig.kind() {
        Device::Private => (read, read, 1),
        Device::Coherent => (rig.remote(read)?, rig.local()? | read, 0),
    };
    first.snapshot(buffer.all(), &mirror)?.check_all(seen_by_first)?;
    second.snapshot(buffer.all(), &mirror)?.check_all(seen_by_second)?;
    second.read(buffer.all(), &mirror)?.complete_with_faults(faults)?;
    mirror.check(buffer.all(), data, "what the second device reads in the end")?;
    buffer.all().check(data, "the CPU's view in the end")
}
