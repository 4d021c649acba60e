//! Memory for tests: mappings at fixed addresses.
//!
//! Addresses are fixed, and guard areas without access lie on both sides, so
//! that the notifier events of a run are those of the run before, and that an
//! event for one page too many meets no other buffer. What the CPU does with
//! the pages is in [`crate::pages`]; this module knows nothing of devices.

#![expect(unsafe_code, reason = "maps memory")]

use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use hmm_protocol::Step;
use nix::sys::mman::{self, MRemapFlags, MapFlags, ProtFlags};

use crate::check::{OrFail, Result};
use crate::pages::{Pages, pointer};
use crate::pattern::PAGE_SIZE;
use crate::report::step;

/// How many pages most tests work on: 4 MiB, which is 16 of the chunks in
/// which `dmirror_migrate_to_device()` migrates.
pub(crate) const BUFFER_PAGES: usize = 1024;

/// How many pages of each side of a mapping must stay free of others.
const GUARD_PAGES: usize = 16;

/// Where a mapping lies. The area is far from everything that kernel and
/// loader place by themselves, and each place is aligned for huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// What the test is about.
    Buffer,
    /// What a device copies to or from.
    Mirror,
    /// What is there for its side effects only.
    Scratch,
    /// Where a buffer goes that moves.
    Moved,
    /// Hugetlb pages, which may be 1 GiB large.
    Huge,
}

impl Place {
    /// Its name in steps and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Place::Buffer | Place::Huge => "buffer",
            Place::Mirror => "mirror",
            Place::Scratch => "scratch",
            Place::Moved => "moved",
        }
    }

    /// The address of its first page.
    pub(crate) fn address(self) -> usize {
        match self {
            Place::Buffer => 0x10_0000_0000,
            Place::Mirror => 0x10_1000_0000,
            Place::Scratch => 0x10_2000_0000,
            Place::Moved => 0x10_3000_0000,
            Place::Huge => 0x20_0000_0000,
        }
    }
}

/// What the CPU may do with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    Write,
}

impl Access {
    /// Its name in steps.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Access::None => "none",
            Access::Read => "read",
            Access::Write => "write",
        }
    }

    /// As `mmap` and `mprotect` take it.
    pub(crate) fn flags(self) -> ProtFlags {
        match self {
            Access::None => ProtFlags::PROT_NONE,
            Access::Read => ProtFlags::PROT_READ,
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        }
    }
}

/// What is behind a mapping.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Backing<'a> {
    /// Anonymous memory of this process.
    Private,
    /// Anonymous memory that forked children share.
    Shared,
    /// Anonymous memory in hugetlb pages.
    Hugetlb,
    /// A file or a device, copied on write.
    PrivateFile(BorrowedFd<'a>),
    /// A file that is written through.
    SharedFile(BorrowedFd<'a>),
}

impl Backing<'_> {
    /// Its name in steps.
    fn name(&self) -> &'static str {
        match self {
            Backing::Private => "private",
            Backing::Shared => "shared",
            Backing::Hugetlb => "hugetlb",
            Backing::PrivateFile(_) => "private-file",
            Backing::SharedFile(_) => "shared-file",
        }
    }
}

/// A mapping with guards. It stays until the process ends, unless the test
/// unmaps it.
#[derive(Debug)]
pub(crate) struct Buffer {
    place: Place,
    pages: usize,
}

impl Buffer {
    /// Anonymous private memory, readable and writable: what most tests use.
    #[track_caller]
    pub(crate) fn private(pages: usize) -> Result<Buffer> {
        Buffer::map(Place::Buffer, pages, Access::Write, Backing::Private)
    }

    /// Maps `pages` pages at `place`.
    #[track_caller]
    pub(crate) fn map(
        place: Place,
        pages: usize,
        access: Access,
        backing: Backing<'_>,
    ) -> Result<Buffer> {
        Buffer::try_map(place, pages, access, backing)
            .or_fail(format_args!("map {pages} pages for the {}", place.name()))
    }

    /// The same, for a mapping whose failure the test wants to judge.
    ///
    /// # Errors
    /// The error of `mmap`.
    pub(crate) fn try_map(
        place: Place,
        pages: usize,
        access: Access,
        backing: Backing<'_>,
    ) -> nix::Result<Buffer> {
        let start = place.address();
        let end = start + pages * PAGE_SIZE;
        let pages_of_it = Pages::of(place, 0..pages).span();
        step(Step::new("map").of(pages_of_it).at(start as u64).note(backing.name()));
        map_at(start, pages, access.flags(), backing, MapFlags::empty())?;
        // The guards differ from any buffer in VM_NORESERVE, so that a buffer
        // without access does not become one VMA with them
        // (is_mergeable_vma() compares the flags).
        for guard in [start - GUARD_PAGES * PAGE_SIZE, end] {
            let flags = MapFlags::MAP_NORESERVE;
            map_at(guard, GUARD_PAGES, ProtFlags::PROT_NONE, Backing::Private, flags)?;
        }
        Ok(Buffer { place, pages })
    }

    /// All pages.
    pub(crate) fn all(&self) -> Pages {
        self.pages(0..self.pages)
    }

    /// The pages in `range`.
    pub(crate) fn pages(&self, range: Range<usize>) -> Pages {
        assert!(range.start < range.end && range.end <= self.pages, "{range:?} of {self:?}");
        Pages::of(self.place, range)
    }

    /// One page.
    pub(crate) fn page(&self, index: usize) -> Pages {
        self.pages(index..index + 1)
    }

    /// The first half of the pages.
    pub(crate) fn first_half(&self) -> Pages {
        self.pages(0..self.pages / 2)
    }

    /// The second half of the pages.
    pub(crate) fn second_half(&self) -> Pages {
        self.pages(self.pages / 2..self.pages)
    }

    /// Moves it, without its guards, to a place where nothing is.
    #[track_caller]
    pub(crate) fn move_to(self, place: Place) -> Result<Buffer> {
        let (from, to) = (self.all(), Buffer { place, pages: self.pages });
        let at = to.all().address();
        step(
            Step::new("mremap").of(to.all().span()).at(at as u64).note(format_args!("from {from}")),
        );
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        let size = from.bytes();
        // SAFETY: nobody has a reference into the pages, and nothing is mapped at
        // a place that this process has not used.
        unsafe { mman::mremap(pointer(from.address()), size, size, flags, Some(pointer(at))) }
            .or_fail(format_args!("move {from}"))?;
        Ok(to)
    }

    /// Unmaps whatever is left of it, and the guards, so that the next mapping
    /// can have the same place.
    #[track_caller]
    pub(crate) fn unmap(self) -> Result {
        self.all().unmap()?;
        let guard = GUARD_PAGES * PAGE_SIZE;
        let start = self.place.address();
        for at in [start - guard, start + self.pages * PAGE_SIZE] {
            // SAFETY: try_map() mapped this guard, and nobody looks into it.
            unsafe { mman::munmap(pointer(at), guard) }.or_fail("unmap a guard")?;
        }
        Ok(())
    }
}

fn map_at(
    start: usize,
    pages: usize,
    protection: ProtFlags,
    backing: Backing<'_>,
    extra: MapFlags,
) -> nix::Result<()> {
    let address = NonZeroUsize::new(start);
    let length = NonZeroUsize::new(pages * PAGE_SIZE).expect("a mapping has pages");
    let flags = extra
        | MapFlags::MAP_FIXED_NOREPLACE
        | match backing {
            Backing::Private | Backing::PrivateFile(_) => MapFlags::MAP_PRIVATE,
            Backing::Shared | Backing::SharedFile(_) => MapFlags::MAP_SHARED,
            Backing::Hugetlb => MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB,
        };
    // SAFETY: MAP_FIXED_NOREPLACE takes no address that is in use.
    let mapped = unsafe {
        match backing {
            Backing::PrivateFile(fd) | Backing::SharedFile(fd) => {
                mman::mmap(address, length, protection, flags, fd, 0)
            }
            _ => mman::mmap_anonymous(address, length, protection, flags),
        }
    }?;
    assert_eq!(
        mapped,
        pointer(start),
        "a kernel with MAP_FIXED_NOREPLACE (4.17) takes the address"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_overlap() {
        let reach = 0x1000_0000 - 2 * GUARD_PAGES * PAGE_SIZE;
        let mut starts = [Place::Buffer, Place::Mirror, Place::Scratch, Place::Moved, Place::Huge]
            .map(Place::address);
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= reach));
    }
}
