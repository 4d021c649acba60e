//! What a traced test does before it begins: it proves that what is captured is
//! what the kernel sends, by operations whose events are known, and it sees to
//! it that the same test sends the same events each time.

#![expect(unsafe_code, reason = "maps memory")]

use std::num::NonZeroUsize;

use hmm_protocol::Step;
use hmm_protocol::trace::{CALIBRATION, CALIBRATIONS};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{self, MapFlags, MmapAdvise, ProtFlags};
use nix::unistd::Pid;

use crate::check::{OrFail, Result};
use crate::pages::pointer;
use crate::pattern::PAGE_SIZE;
use crate::report::step;

/// Stays on the first processor, and so do the children. A page that another
/// processor has in one of its batches for the LRU lists has one reference more,
/// and is copied after a fork where it could have been kept
/// (`wp_can_reuse_anon_folio()` drains the batches of its own processor only).
pub(crate) fn stay_on_one_processor() -> Result {
    let mut one = CpuSet::new();
    one.set(0).or_fail("name the first processor")?;
    sched_setaffinity(Pid::from_raw(0), &one).or_fail("stay on the first processor")
}

/// Does what [`CALIBRATIONS`] says, with a device open: without one the kernel
/// sends nothing.
pub(crate) fn calibrate() -> Result {
    let address = usize::try_from(CALIBRATION).or_fail("use the page")?;
    let at = pointer(address);
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let length = NonZeroUsize::new(PAGE_SIZE).expect("a page has bytes");
    // SAFETY: MAP_FIXED_NOREPLACE takes no address that is in use, and no Rust
    // object lives in the page, which is written once before its rights change.
    unsafe {
        mman::mmap_anonymous(NonZeroUsize::new(address), length, access, flags)
            .or_fail("map the page")?;
        at.cast::<u64>().write(1);
    }
    for (op, _) in CALIBRATIONS {
        step(Step::new(op));
        // SAFETY: as above.
        let done = unsafe {
            match op {
                "calibrate-protect" => mman::mprotect(at, PAGE_SIZE, ProtFlags::PROT_READ),
                "calibrate-discard" => mman::madvise(at, PAGE_SIZE, MmapAdvise::MADV_DONTNEED),
                _ => mman::munmap(at, PAGE_SIZE),
            }
        };
        done.or_fail(op)?;
    }
    // What the test does before its first step is no part of the last operation.
    step(Step::new("begin"));
    Ok(())
}
