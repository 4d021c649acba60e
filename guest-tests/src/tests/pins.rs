//! Pages on a device that others want: the kernel's own users of
//! get_user_pages, and a process that writes to what it shares since a fork.

use hmm_protocol::Device;

use crate::buffer::Buffer;
use crate::check::Result;
use crate::child::Child;
use crate::gup::{GupTest, How};
use crate::mirror::Mirror;
use crate::rig::Rig;

/// How many pages these tests work on.
const PAGES: usize = 4;

/// get_user_pages and pins on migrated pages: private ones always come home,
/// coherent ones when they are pinned for long.
pub(crate) fn hmm_gup_test(rig: &Rig) -> Result {
    let device = rig.device();
    let gup = GupTest::open()?;
    let buffer = Buffer::private(PAGES)?;
    let mirror = Mirror::new(PAGES)?;
    let home = rig.prot("WRITE")?;
    let on_device = rig.local()? | home;
    let data = rig.pattern();
    buffer.all().fill(data);

    device.to_device(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), data, "what the device has after the migration")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(on_device)?;

    gup.take(buffer.page(0), How::Get)?;
    gup.take(buffer.page(1), How::GetFast)?;
    gup.take(buffer.page(2), How::PinFastLongterm)?;
    gup.take(buffer.page(3), How::PinLongterm)?;

    // migrate_longterm_unpinnable_folios() moves coherent pages out of the way
    // of a pin that may last.
    let expected = match rig.kind() {
        Device::Private => [home; PAGES],
        Device::Coherent => [on_device, on_device, home, home],
    };
    device.snapshot(buffer.all(), &mirror)?.check_each(&expected)?;
    buffer.all().check(data, "the CPU's view of pages that were taken")?;
    device.read(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), data, "what the device reads of pages that were taken")
}

/// A write after a fork copies a page that lives on the device; the child
/// keeps what it inherited.
pub(crate) fn hmm_cow_in_device(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(PAGES)?;
    let mirror = Mirror::new(PAGES)?;
    let writable = rig.prot("WRITE")?;
    let (before, after) = (rig.pattern(), rig.pattern());
    buffer.all().fill(before);

    device.to_device(buffer.all(), &mirror)?.complete()?;
    mirror.check(buffer.all(), before, "what the device has after the migration")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.local()? | writable)?;

    let mut child = Child::fork(|parent| {
        parent.wait()?;
        buffer.all().check(before, "the child's view after the parent wrote")?;
        parent.reached()?;
        parent.wait()
    })?;
    // Now read-only for both: copy_nonpresent_pte(), copy_present_ptes().
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.local()? | rig.prot("READ")?)?;

    buffer.all().fill(after);
    child.go_on()?;
    child.wait_until_reached()?;
    child.kill()?;

    // The copies are in system memory, wherever the original was.
    device.snapshot(buffer.all(), &mirror)?.check_all(writable)?;
    buffer.all().check(after, "the parent's view of what it wrote")?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), after, "what the device reads of what the parent wrote")
}
