//! Memory that devices look at: mappings at fixed addresses, what the CPU does
//! with them, and the mirrors that devices copy to and from.
//!
//! Addresses are fixed, and unmapped guard areas lie on both sides, so that
//! the notifier events of a run are those of the run before, and that an event
//! for one page too many meets no other buffer. This module knows nothing of
//! devices.

#![expect(unsafe_code, reason = "maps memory and accesses it by address")]

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{self, MapFlags, MmapAdvise, ProtFlags};

use crate::check::{OrFail, Result, differs};
use crate::pattern::{PAGE_SIZE, Pattern, WORDS_PER_PAGE};
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
    /// Hugetlb pages, which may be 1 GiB large.
    Huge,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Buffer | Place::Huge => "buffer",
            Place::Mirror => "mirror",
            Place::Scratch => "scratch",
        }
    }

    fn address(self) -> usize {
        match self {
            Place::Buffer => 0x10_0000_0000,
            Place::Mirror => 0x10_1000_0000,
            Place::Scratch => 0x10_2000_0000,
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
    fn flags(self) -> ProtFlags {
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
        step(format_args!("map {} at {start:#x}, {pages} pages", place.name()));
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
        Pages { place: self.place, first: range.start, count: range.len() }
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

/// A run of a buffer's pages, and what the CPU can do with it.
///
/// A test may take the CPU's right to access the pages and then access them
/// all the same: that ends the process by a signal, which the agent reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages {
    place: Place,
    first: usize,
    count: usize,
}

impl Pages {
    /// The address of the first byte.
    pub(crate) fn address(self) -> usize {
        self.place.address() + self.first * PAGE_SIZE
    }

    /// How many pages these are.
    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// The index in the buffer of the first page.
    pub(crate) fn first(self) -> usize {
        self.first
    }

    /// Each page for itself.
    pub(crate) fn each(self) -> impl Iterator<Item = Pages> {
        (self.first..self.first + self.count).map(move |first| Pages { first, count: 1, ..self })
    }

    /// The CPU writes `pattern` to every word.
    pub(crate) fn fill(self, pattern: Pattern) {
        step(format_args!("cpu-write {self}"));
        store(self, self.first * WORDS_PER_PAGE, pattern);
    }

    /// The CPU reads every word, and each must be the pattern's; `what` says
    /// whose doing they are.
    #[track_caller]
    pub(crate) fn check(self, pattern: Pattern, what: &str) -> Result {
        step(format_args!("cpu-read {self}"));
        compare(self, self, pattern, what)
    }

    /// The CPU reads every word, which must be the pattern's, and adds one.
    #[track_caller]
    pub(crate) fn increment(self, pattern: Pattern, what: &str) -> Result {
        step(format_args!("cpu-increment {self}"));
        for page in self.each() {
            compare(page, page, pattern, what)?;
            store(page, page.first * WORDS_PER_PAGE, pattern.incremented());
        }
        Ok(())
    }

    /// Changes what the CPU may do.
    #[track_caller]
    pub(crate) fn protect(self, access: Access) -> Result {
        step(format_args!("protect {self} {access:?}"));
        // SAFETY: no Rust object lives in these pages.
        unsafe { mman::mprotect(pointer(self.address()), self.bytes(), access.flags()) }
            .or_fail(format_args!("mprotect {self} to {access:?}"))
    }

    /// Unmaps the pages.
    #[track_caller]
    pub(crate) fn unmap(self) -> Result {
        self.unmap_quietly().or_fail(format_args!("unmap {self}"))
    }

    /// The same without a step, for a thread that races with another's steps.
    ///
    /// # Errors
    /// The error of `munmap`.
    pub(crate) fn unmap_quietly(self) -> nix::Result<()> {
        // SAFETY: no Rust object lives in these pages.
        unsafe { mman::munmap(pointer(self.address()), self.bytes()) }
    }

    /// Asks for transparent huge pages.
    ///
    /// # Errors
    /// The error of `madvise`: EINVAL where the kernel has none.
    pub(crate) fn want_huge_pages(self) -> nix::Result<()> {
        // SAFETY: this advice changes nothing of what the pages hold.
        unsafe { mman::madvise(pointer(self.address()), self.bytes(), MmapAdvise::MADV_HUGEPAGE) }
    }

    /// How many bytes these are.
    pub(crate) fn bytes(self) -> usize {
        self.count * PAGE_SIZE
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}..{})", self.place.name(), self.first, self.first + self.count)
    }
}

/// Where a device copies what it reads, and whence what it writes. Its pages
/// are in place before any ioctl, so that the driver's copying does not fault.
#[derive(Debug)]
pub(crate) struct Mirror {
    buffer: Buffer,
    /// The page of the mirrored buffer that the first page here stands for.
    stands_for: Cell<usize>,
    /// How many pages from the start may hold something else than poison.
    used: Cell<usize>,
}

impl Mirror {
    /// A mirror for up to `pages` pages.
    #[track_caller]
    pub(crate) fn new(pages: usize) -> Result<Mirror> {
        let buffer = Buffer::map(Place::Mirror, pages, Access::Write, Backing::Private)?;
        let mirror = Mirror { buffer, stands_for: Cell::new(0), used: Cell::new(pages) };
        mirror.forget();
        Ok(mirror)
    }

    /// Makes this the mirror of `pages`, to whose first `bytes` bytes an ioctl
    /// copies, and gives the address to copy to.
    pub(crate) fn aim_at(&self, pages: Pages, bytes: usize) -> usize {
        assert!(pages.count <= self.buffer.pages, "{pages} do not fit in {:?}", self.buffer);
        self.stands_for.set(pages.first);
        self.used.set(self.used.get().max(bytes.div_ceil(PAGE_SIZE)));
        self.buffer.all().address()
    }

    /// Overwrites what a device left here, so that nothing old can pass for
    /// the answer of the next ioctl.
    pub(crate) fn forget(&self) {
        if self.used.get() > 0 {
            store(self.buffer.pages(0..self.used.get()), 0, Pattern::POISON);
            self.used.set(0);
        }
    }

    /// Puts here what a device is to write to `pages`.
    pub(crate) fn fill(&self, pages: Pages, pattern: Pattern) {
        self.aim_at(pages, pages.bytes());
        store(self.of(pages), pages.first * WORDS_PER_PAGE, pattern);
    }

    /// What the device read from `pages`, which the last ioctl was about, must
    /// be the pattern's words.
    #[track_caller]
    pub(crate) fn check(&self, pages: Pages, pattern: Pattern, what: &str) -> Result {
        compare(self.of(pages), pages, pattern, what)
    }

    /// No device may have written here since [`Mirror::forget`].
    #[track_caller]
    pub(crate) fn check_untouched(&self) -> Result {
        let all = self.buffer.all();
        compare(all, all, Pattern::POISON, "the mirror of an ioctl that failed")
    }

    /// The first `count` bytes.
    pub(crate) fn bytes(&self, count: usize) -> Vec<u8> {
        let words = count.div_ceil(size_of::<u64>());
        let mut bytes: Vec<u8> =
            (0..words).flat_map(|index| load(self.buffer.all(), index).to_ne_bytes()).collect();
        bytes.truncate(count);
        bytes
    }

    /// Unmaps it, so that the next mirror can have its place.
    #[track_caller]
    pub(crate) fn unmap(self) -> Result {
        self.buffer.unmap()
    }

    fn of(&self, pages: Pages) -> Pages {
        let first = pages.first - self.stands_for.get();
        self.buffer.pages(first..first + pages.count)
    }
}

/// Compares the words at `at` with those that `pattern` has for `of`, and
/// names the first that is wrong.
#[track_caller]
fn compare(at: Pages, of: Pages, pattern: Pattern, what: &str) -> Result {
    let mut wrong_pages = 0;
    let mut first_wrong = None;
    for (page, there) in at.each().enumerate() {
        let index = (of.first + page) * WORDS_PER_PAGE;
        let wrong = (0..WORDS_PER_PAGE).find_map(|word| {
            let (seen, expected) = (load(there, word), pattern.word(index + word));
            (seen != expected).then_some((word, seen, expected))
        });
        if let Some(wrong) = wrong {
            wrong_pages += 1;
            first_wrong = first_wrong.or(Some((of.first + page, wrong)));
        }
    }
    let Some((page, (word, seen, expected))) = first_wrong else { return Ok(()) };
    let message = format!(
        "{what}: word {word} of page {page} (of the {} pages {of}, {wrong_pages} are wrong)",
        of.count
    );
    Err(differs(format_args!("{seen:#018x}"), format_args!("{expected:#018x}"), message)
        .on_page(page))
}

fn load(pages: Pages, word: usize) -> u64 {
    let at = pointer(pages.address()).cast::<u64>();
    // SAFETY: the word lies within a mapping of this module's, in which no
    // Rust object lives; volatile, because the kernel changes it at any time.
    unsafe { at.add(word).read_volatile() }
}

fn store(pages: Pages, index: usize, pattern: Pattern) {
    let at = pointer(pages.address()).cast::<u64>();
    for word in 0..pages.count * WORDS_PER_PAGE {
        // SAFETY: as in load().
        unsafe { at.add(word).write_volatile(pattern.word(index + word)) };
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

fn pointer(address: usize) -> NonNull<c_void> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("a place is not at zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_overlap() {
        let reach = 0x1000_0000 - 2 * GUARD_PAGES * PAGE_SIZE;
        let mut starts =
            [Place::Buffer, Place::Mirror, Place::Scratch, Place::Huge].map(Place::address);
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= reach));
    }
}
