//! Migration to one device and back.
//!
//! Two things are easy to overlook in these tests. A device reads its own
//! pages through the entries of its own page table alone, so a READ without a
//! fault shows that an entry has survived; and a private page of the device
//! whose entry is lost must not be read by that device at all, since
//! `dmirror_do_fault()` would store the page that has no memory behind it. So
//! after anything that invalidates entries, the CPU brings pages home first.

use hmm_protocol::Device;
use nix::errno::Errno;

use crate::access::TIMES;
use crate::buffer::{Access, BUFFER_PAGES, Backing, Buffer, Place};
use crate::check::Result;
use crate::mirror::Mirror;
use crate::rig::Rig;

/// Anonymous memory migrates to the device with its data, is there for the
/// device to read and write without a fault, and the CPU sees what the device
/// wrote.
pub(crate) fn migrate(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let writable = rig.prot("WRITE")?;
    let (cpus, devices) = (rig.pattern(), rig.pattern());
    buffer.all().fill(cpus);

    device.to_device(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), cpus, "what the device has after the migration")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.local()? | writable)?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(0)?;
    mirror.check(buffer.all(), cpus, "what the device reads of its pages")?;

    mirror.fill(buffer.all(), devices);
    device.write(buffer.all(), &mirror)?.complete_with_faults(0)?;
    buffer.all().check(devices, "the CPU's view of what the device wrote to its pages")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.touched(writable)?)
}

/// The CPU takes half of the pages back; when all migrate again, the half that
/// stayed must still be the device's own.
///
/// That is what MMU_NOTIFY_MIGRATE and its owner are for: the driver's
/// `dmirror_interval_invalidate()` keeps its entries, for it migrates itself.
/// With any other event it drops them, and `dmirror_migrate_to_device()` ends
/// with ENOENT at the first page that was on the device before.
pub(crate) fn migrate_fault(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let writable = rig.prot("WRITE")?;
    let on_device = rig.local()? | writable;
    let data = rig.pattern();
    buffer.all().fill(data);

    device.to_device(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), data, "what the device has after the first migration")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(on_device)?;

    buffer.first_half().check(data, "the CPU's view of the half it takes back")?;
    if rig.kind() == Device::Coherent {
        // The CPU's access left the pages where they are, so they are sent.
        device.to_system(buffer.first_half(), &mirror)?.complete()?;
    }
    device.snapshot(buffer.first_half(), &mirror)?.check_all(writable)?;
    device.snapshot(buffer.second_half(), &mirror)?.check_all(on_device)?;

    device.to_device(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), data, "what the device has after the second migration")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(on_device)?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(0)?;
    mirror.check(buffer.all(), data, "what the device reads of its pages")?;
    buffer.all().check(data, "the CPU's view of what migrated twice")
}

/// Releasing the device's memory brings every page home without the CPU's
/// touching it, and out of the device's page table.
pub(crate) fn migrate_release(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let writable = rig.prot("WRITE")?;
    let (cpus, devices) = (rig.pattern(), rig.pattern());
    buffer.all().fill(cpus);

    device.to_device(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), cpus, "what the device has after the migration")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.local()? | writable)?;
    // The pages that the CPU filled are free now, and may be those that the
    // device's come home to; only data that they never held shows a copy.
    mirror.fill(buffer.all(), devices);
    device.write(buffer.all(), &mirror)?.complete_with_faults(0)?;

    device.release(buffer.all(), &mirror)?.succeeded()?;
    device.snapshot(buffer.all(), &mirror)?.check_all(writable)?;
    buffer.all().check(devices, "the CPU's view after the device's memory was released")?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), devices, "what the device reads after the release")
}

/// Shared memory does not migrate, whether it is populated or not.
pub(crate) fn migrate_shared(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::map(Place::Buffer, BUFFER_PAGES, Access::Write, Backing::Shared)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let data = rig.pattern();

    // migrate_vma_collect_hole() leaves holes of shared memory alone.
    device.to_device(buffer.all(), &mirror)?.refused(Errno::ENOENT)?;
    mirror.check_untouched()?;

    // __migrate_device_pages() gives pages back that are not anonymous.
    buffer.all().fill(data);
    device.to_device(buffer.all(), &mirror)?.refused(Errno::ENOENT)?;
    mirror.check_untouched()?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.prot("WRITE")?)?;
    buffer.all().check(data, "the CPU's view of what did not migrate")
}

/// Memory migrates back and forth, at the same address each time.
pub(crate) fn migrate_multiple(rig: &Rig) -> Result {
    let device = rig.device();
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let writable = rig.prot("WRITE")?;
    for round in 0..TIMES {
        let buffer = Buffer::private(BUFFER_PAGES)?;
        let (cpus, devices) = (rig.pattern(), rig.pattern());
        buffer.all().fill(cpus);

        device.to_device(buffer.all(), &mirror)?.complete()?;
        mirror.check(buffer.all(), cpus, "what the device has after the migration")?;
        mirror.fill(buffer.all(), devices);
        device.write(buffer.all(), &mirror)?.complete_with_faults(0)?;

        // The CPU cannot bring coherent pages home; private ones come by
        // themselves, and every other time they are sent as well.
        let sent = rig.kind() == Device::Coherent || (round % 2 == 1 && device.has_to_system());
        if sent {
            device.to_system(buffer.all(), &mirror)?.complete()?;
            device.snapshot(buffer.all(), &mirror)?.check_all(writable)?;
        }
        buffer.all().check(devices, "the CPU's view of what came back")?;
        device.snapshot(buffer.all(), &mirror)?.check_all(writable)?;
        buffer.unmap()?;
    }
    Ok(())
}
