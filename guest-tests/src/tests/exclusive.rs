//! Exclusive access: the device has a page for itself, until the CPU or a
//! change of the mapping takes it away.

use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;

use crate::buffer::{Access, BUFFER_PAGES, Buffer};
use crate::check::{Result, check};
use crate::child::Child;
use crate::mirror::Mirror;
use crate::pages::Pages;
use crate::rig::Rig;

/// How often EXCLUSIVE may say EBUSY before that is a failure.
const ATTEMPTS: usize = 8;

/// A CPU access takes exclusive access away from the device.
pub(crate) fn exclusive(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let data = rig.pattern();
    buffer.all().fill(data);

    make_exclusive(rig, buffer.all(), &mirror)?;
    mirror.check(buffer.all(), data, "what the device reads of its exclusive pages")?;
    device.check_each_exclusive(buffer.all(), &mirror, true)?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.prot("NONE")?)?;

    // The first page of the second half is nobody's business here:
    // dmirror_do_update() erases one entry more than it is told to.
    let half = BUFFER_PAGES / 2;
    buffer.first_half().check(data, "the CPU's view of exclusive pages")?;
    // A read restores the mapping as it was, which is writable
    // (restore_exclusive_pte()).
    device.snapshot(buffer.first_half(), &mirror)?.check_all(rig.prot("WRITE")?)?;
    device.check_each_exclusive(buffer.first_half(), &mirror, false)?;
    device.check_each_exclusive(buffer.pages(half + 1..BUFFER_PAGES), &mirror, true)?;

    buffer.all().increment(data, "the CPU's view of pages that are or were exclusive")?;
    device.check_exclusive(buffer.all(), &mirror)?.succeeded()?;
    let incremented = data.incremented();
    buffer.all().check(incremented, "the CPU's view of what it incremented")?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), incremented, "what the device reads of what the CPU incremented")
}

/// Exclusive access does not outlive mprotect.
pub(crate) fn exclusive_mprotect(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let (before, after) = (rig.pattern(), rig.pattern());
    buffer.all().fill(before);

    make_exclusive(rig, buffer.all(), &mirror)?;
    mirror.check(buffer.all(), before, "what the device reads of its exclusive pages")?;
    device.check_each_exclusive(buffer.all(), &mirror, true)?;

    buffer.all().protect(Access::Read)?;
    device.check_exclusive(buffer.all(), &mirror)?.succeeded()?;
    mirror.fill(buffer.all(), after);
    device.write(buffer.all(), &mirror)?.refused(Errno::EPERM)?;
    buffer.all().check(before, "the CPU's view after a write that was refused")?;
    device.snapshot(buffer.all(), &mirror)?.check_all(rig.prot("READ")?)?;

    buffer.all().protect(Access::Write)?;
    mirror.fill(buffer.all(), after);
    device.write(buffer.all(), &mirror)?.complete_with_faults(1)?;
    buffer.all().check(after, "the CPU's view of what the device wrote once it was allowed to")
}

/// Exclusive pages are copied on write after a fork, whoever writes first: the
/// parent in the first half, the child in the second.
pub(crate) fn exclusive_cow(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let mirror = Mirror::new(BUFFER_PAGES)?;
    let data = rig.pattern();
    let incremented = data.incremented();
    buffer.all().fill(data);

    make_exclusive(rig, buffer.all(), &mirror)?;
    mirror.check(buffer.all(), data, "what the device reads of its exclusive pages")?;
    device.check_each_exclusive(buffer.all(), &mirror, true)?;

    let mut child = Child::fork(|parent| {
        parent.wait()?;
        buffer.all().increment(data, "the child's view of what it inherited")?;
        buffer.all().check(incremented, "the child's view of what it incremented")?;
        parent.reached()?;
        parent.wait()?;
        buffer.all().check(incremented, "the child's view after the parent incremented")
    })?;
    // copy_nonpresent_pte() makes the pages present for both.
    device.check_exclusive(buffer.all(), &mirror)?.succeeded()?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), data, "what the parent's device reads after the fork")?;

    buffer.first_half().increment(data, "the parent's view after the fork")?;
    child.go_on()?;
    child.wait_until_reached()?;
    buffer.second_half().increment(data, "the parent's view after the child incremented")?;
    child.go_on()?;
    child.wait()?;

    buffer.all().check(incremented, "the parent's view of what it incremented")?;
    // What the parent copied is no longer what the device had mapped
    // (wp_page_copy()), so the device faults.
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), incremented, "what the parent's device reads in the end")
}

/// Makes `pages` exclusive.
///
/// EBUSY is a legal answer: `make_device_exclusive_range()` only tries to lock
/// each folio and leaves out the one that somebody else has locked, whereupon
/// `dmirror_exclusive()` maps fewer pages than it was asked to, and gives up.
/// Trying again is legal too: the walk faults pages in that are exclusive
/// already, which takes them out of the device's page table, and starts over.
/// But a lock is held for a moment only, so this ends.
#[track_caller]
fn make_exclusive(rig: &Rig, pages: Pages, mirror: &Mirror) -> Result {
    for _ in 0..ATTEMPTS {
        let reply = rig.device().exclusive(pages, mirror)?;
        if !matches!(reply.result, Err(Errno::EBUSY)) {
            return reply.complete().map(drop);
        }
        sleep(Duration::from_millis(2));
    }
    check(false, format_args!("EXCLUSIVE of {pages} said EBUSY {ATTEMPTS} times"))
}
