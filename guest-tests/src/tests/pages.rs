//! A run of a mapping's pages, and what the CPU does with it: writing,
//! reading, changing its rights.
//!
//! What is read is compared at once, and the first word that is wrong is
//! named. Everything that can make the kernel emit a notifier event says so as
//! a step before.

#![expect(unsafe_code, reason = "accesses memory by address")]

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;

use hmm_protocol::{Span, Step};
use nix::libc::c_void;
use nix::sys::mman::{self, MmapAdvise};

use crate::buffer::{Access, Place};
use crate::check::{OrFail, Result, differs, failed};
use crate::pattern::{PAGE_SIZE, Pattern, WORDS_PER_PAGE};
use crate::report::step;

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
    /// The pages in `range` of the mapping at `place`, which has them.
    pub(crate) fn of(place: Place, range: Range<usize>) -> Pages {
        Pages { place, first: range.start, count: range.len() }
    }

    /// The address of the first byte.
    pub(crate) fn address(self) -> usize {
        self.place.address() + self.first * PAGE_SIZE
    }

    /// The same, for steps and traces.
    pub(crate) fn span(self) -> Span {
        let Pages { place, first, count } = self;
        Span { buffer: place.name().to_owned(), first: first as u64, pages: count as u64 }
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
        step(Step::new("cpu-write").of(self.span()));
        store(self, self.first * WORDS_PER_PAGE, pattern);
    }

    /// The CPU reads every word, and each must be the pattern's; `what` says
    /// whose doing they are.
    #[track_caller]
    pub(crate) fn check(self, pattern: Pattern, what: &str) -> Result {
        step(Step::new("cpu-read").of(self.span()));
        compare(self, self, pattern, what)
    }

    /// The CPU reads every word, which must be the pattern's, and adds one.
    #[track_caller]
    pub(crate) fn increment(self, pattern: Pattern, what: &str) -> Result {
        step(Step::new("cpu-increment").of(self.span()));
        for page in self.each() {
            compare(page, page, pattern, what)?;
            store(page, page.first * WORDS_PER_PAGE, pattern.incremented());
        }
        Ok(())
    }

    /// Changes what the CPU may do.
    #[track_caller]
    pub(crate) fn protect(self, access: Access) -> Result {
        step(Step::new("protect").of(self.span()).note(access.name()));
        // SAFETY: no Rust object lives in these pages.
        unsafe { mman::mprotect(pointer(self.address()), self.bytes(), access.flags()) }
            .or_fail(format_args!("mprotect {self} to {access:?}"))
    }

    /// Unmaps the pages.
    #[track_caller]
    pub(crate) fn unmap(self) -> Result {
        step(Step::new("unmap").of(self.span()));
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
        write!(f, "{}", self.span())
    }
}

/// Compares the words at `at` with those that `pattern` has for `of`, and
/// names the first that is wrong.
#[track_caller]
pub(crate) fn compare(at: Pages, of: Pages, pattern: Pattern, what: &str) -> Result {
    let mut wrong_pages = 0;
    let mut first_wrong = None;
    for (page, there) in at.each().enumerate() {
        let index = (of.first + page) * WORDS_PER_PAGE;
        // Most of a test's time is spent here: no branch for each word.
        let difference = (0..WORDS_PER_PAGE).fold(0, |difference, word| {
            difference | (load(there, word) ^ pattern.word(index + word))
        });
        if difference != 0 {
            wrong_pages += 1;
            first_wrong = first_wrong.or(Some((page, there)));
        }
    }
    let Some((page, there)) = first_wrong else { return Ok(()) };
    let index = (of.first + page) * WORDS_PER_PAGE;
    let page = of.first + page;
    let mut words =
        (0..WORDS_PER_PAGE).map(|word| (word, load(there, word), pattern.word(index + word)));
    let Some((word, seen, expected)) = words.find(|(_, seen, right)| seen != right) else {
        let message = format!("{what}: page {page} of {of} was wrong, and right at the next look");
        return Err(failed(message).on_page(page));
    };
    let message = format!(
        "{what}: word {word} of page {page} (of the {} pages {of}, {wrong_pages} are wrong)",
        of.count
    );
    Err(differs(format_args!("{seen:#018x}"), format_args!("{expected:#018x}"), message)
        .on_page(page))
}

/// The word at `word` of `pages`.
pub(crate) fn load(pages: Pages, word: usize) -> u64 {
    let at = pointer(pages.address()).cast::<u64>();
    // SAFETY: the word lies within a mapping of this module's, in which no
    // Rust object lives. The kernel changes it in system calls and in faults
    // only, so that an ordinary access sees what is there.
    unsafe { at.add(word).read() }
}

/// Writes to every word of `pages` what `pattern` has from `index` on.
pub(crate) fn store(pages: Pages, index: usize, pattern: Pattern) {
    let at = pointer(pages.address()).cast::<u64>();
    for word in 0..pages.count * WORDS_PER_PAGE {
        // SAFETY: as in load().
        unsafe { at.add(word).write(pattern.word(index + word)) };
    }
}

/// The address as a pointer.
pub(crate) fn pointer(address: usize) -> NonNull<c_void> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("a place is not at zero")
}
