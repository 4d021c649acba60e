//! Mirrors: where a device copies what it reads, and whence what it writes.
//!
//! A mirror is as large as what it mirrors, whatever an ioctl copies, and it
//! forgets before each ioctl, so that nothing old passes for an answer.

use std::cell::Cell;

use crate::buffer::{Access, Backing, Buffer, Place};
use crate::check::Result;
use crate::pages::{Pages, compare, load, store};
use crate::pattern::{PAGE_SIZE, Pattern, WORDS_PER_PAGE};

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
        assert!(
            pages.count() <= self.buffer.all().count(),
            "{pages} do not fit in {:?}",
            self.buffer
        );
        self.stands_for.set(pages.first());
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
        store(self.of(pages), pages.first() * WORDS_PER_PAGE, pattern);
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
        let first = pages.first() - self.stands_for.get();
        self.buffer.pages(first..first + pages.count())
    }
}
