//! What a device can read and write of memory that stays where it is:
//! populated or not, protected or not, shared with a child or not.

use nix::errno::Errno;

use crate::buffer::{Access, BUFFER_PAGES, Backing, Buffer, Place};
use crate::check::Result;
use crate::child::Child;
use crate::mirror::Mirror;
use crate::pattern::Pattern;
use crate::rig::Rig;

/// How often the tests with "multiple" in their name do it.
pub(crate) const TIMES: usize = 10;

/// The device opens and closes, also while other files of it are open.
pub(crate) fn open_close(rig: &Rig) -> Result {
    let first = rig.open_again()?;
    let second = rig.open_again()?;
    first.close()?;
    second.close()
}

/// The device reads anonymous memory: a hole, the zero page, and data.
pub(crate) fn anon_read(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let (hole, zero_page) = (buffer.page(0), buffer.page(1));
    let empty = buffer.pages(0..2);
    let filled = buffer.pages(2..BUFFER_PAGES);
    let data = rig.pattern();
    filled.fill(data);
    buffer.all().protect(Access::Read)?;
    // A read fault on anonymous memory maps the zero page
    // (do_anonymous_page()).
    zero_page.check(Pattern::ZEROS, "the CPU's view of a page that nobody wrote")?;

    // The second read finds every page in the device's page table.
    for faults in [1, 0] {
        device.read(buffer.all(), &mirror)?.complete_with_faults(faults)?;
        mirror.check(empty, Pattern::ZEROS, "what the device read of empty pages")?;
        mirror.check(filled, data, "what the device read")?;
    }

    // The device's fault mapped the zero page in the hole as the CPU's would.
    // Where every mapping is huge if it can be, there is no zero page to see.
    let seen = device.snapshot(buffer.all(), &mirror)?;
    let mut expected = vec![rig.prot("READ")?; BUFFER_PAGES];
    if !seen.is_huge(0) {
        expected[..empty.count()].fill(rig.prot("ZERO")? | rig.prot("READ")?);
    }
    seen.check_each(&expected)?;
    hole.check(Pattern::ZEROS, "the CPU's view of the hole after the device read it")?;
    filled.check(data, "the CPU's view after the device read")
}

/// The device cannot read what the process may not, and can once it may.
pub(crate) fn anon_read_prot(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let data = rig.pattern();
    buffer.all().fill(data);
    buffer.all().protect(Access::None)?;

    device.read(buffer.all(), &mirror)?.refused(Errno::EFAULT)?;
    mirror.check_untouched()?;

    buffer.all().protect(Access::Read)?;
    buffer.all().check(data, "the CPU's view after a read that was refused")?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), data, "what the device read once it was allowed to")
}

/// The device writes memory that was never touched.
pub(crate) fn anon_write(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let data = rig.pattern();

    mirror.fill(buffer.all(), data);
    device.write(buffer.all(), &mirror)?.complete_with_faults(1)?;
    buffer.all().check(data, "the CPU's view of what the device wrote")?;

    device.snapshot(buffer.all(), &mirror)?.check_all(rig.prot("WRITE")?)?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(0)?;
    mirror.check(buffer.all(), data, "what the device read of what it wrote")
}

/// The device cannot write read-only memory until it is writable.
pub(crate) fn anon_write_prot(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::map(Place::Buffer, BUFFER_PAGES, Access::Read, Backing::Private)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let first = buffer.page(0);
    let data = rig.pattern();

    // The device has the zero page in its table: present, but not writable.
    device.read(first, &mirror)?.complete_with_faults(1)?;
    mirror.check(first, Pattern::ZEROS, "what the device read of the zero page")?;

    mirror.fill(buffer.all(), data);
    device.write(buffer.all(), &mirror)?.refused(Errno::EPERM)?;
    buffer.all().check(Pattern::ZEROS, "the CPU's view after a write that was refused")?;

    buffer.all().protect(Access::Write)?;
    device.write(buffer.all(), &mirror)?.complete_with_faults(1)?;
    buffer.all().check(data, "the CPU's view of what the device wrote")
}

/// The device of a forked child writes the child's copy only.
pub(crate) fn anon_write_child(rig: &Rig) -> Result {
    write_in_child(rig, Backing::Private)
}

/// The device of a forked child writes memory that parent and child share.
pub(crate) fn anon_write_child_shared(rig: &Rig) -> Result {
    write_in_child(rig, Backing::Shared)
}

fn write_in_child(rig: &Rig, backing: Backing<'_>) -> Result {
    let device = rig.device();
    let buffer = Buffer::map(Place::Buffer, BUFFER_PAGES, Access::Write, backing)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let (parents, childs) = (rig.pattern(), rig.pattern());
    buffer.all().fill(parents);
    mirror.fill(buffer.all(), childs);

    let child = Child::fork(|_| {
        buffer.all().check(parents, "the child's view of what it inherited")?;
        mirror.check(buffer.all(), childs, "the child's view of the mirror it inherited")?;
        // The parent's file mirrors the parent's address space, so the child
        // needs one of its own.
        let own = rig.open_again()?;
        own.write(buffer.all(), &mirror)?.complete_with_faults(1)?;
        buffer.all().check(childs, "the child's view of what its device wrote")?;
        own.close()
    })?;
    child.wait()?;

    let expected = if matches!(backing, Backing::Shared) { childs } else { parents };
    buffer.all().check(expected, "the parent's view after the child's device wrote")?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), expected, "what the parent's device reads after that")
}

/// The device reads fresh memory, which is at the same address each time.
pub(crate) fn anon_read_multiple(rig: &Rig) -> Result {
    let device = rig.device();
    let mirror = Mirror::new(BUFFER_PAGES)?;
    for _ in 0..TIMES {
        let buffer = Buffer::private(BUFFER_PAGES)?;
        let data = rig.pattern();
        buffer.all().fill(data);
        // A fault, because unmapping the buffer before took the pages out of
        // the device's page table.
        device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
        mirror.check(buffer.all(), data, "what the device read")?;
        buffer.all().check(data, "the CPU's view after the device read")?;
        buffer.unmap()?;
    }
    Ok(())
}
