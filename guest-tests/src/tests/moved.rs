//! Memory that changes its address.

use nix::errno::Errno;

use crate::buffer::{Buffer, Place};
use crate::check::Result;
use crate::mirror::Mirror;
use crate::rig::Rig;

/// The device follows memory that moves to another address: it finds nothing
/// any more where that was, and has to look anew where it is.
///
/// move_page_tables() announces that the range at the old address is unmapped,
/// and takes the entries away before anything is told of the rest of the way.
pub(crate) fn mremap(rig: &Rig) -> Result {
    const PAGES: usize = 64;
    let device = rig.device();
    let buffer = Buffer::private(PAGES)?;
    let mirror = Mirror::new(PAGES)?;
    let data = rig.pattern();
    buffer.all().fill(data);
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    let before = buffer.all();

    let buffer = buffer.move_to(Place::Moved)?;
    device.read(before, &mirror)?.refused(Errno::EFAULT)?;
    mirror.check_untouched()?;
    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), data, "what the device reads at the new address")?;
    buffer.all().check(data, "the CPU's view at the new address")
}
