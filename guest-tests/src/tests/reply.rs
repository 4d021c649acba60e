//! What the driver answers, and what a test demands of an answer.
//!
//! An answer knows what was asked, so that a failure says it. This module
//! calls no driver.

use std::rc::Rc;

use hmm_protocol::Abi;
use nix::errno::Errno;

use crate::check::{Result, check_eq, differs};
use crate::pages::Pages;

/// What an ioctl that succeeded says of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    /// How many pages it copied, migrated or looked at.
    pub(crate) cpages: u64,
    /// How many times the device had to fault: 0 means that all pages were in
    /// the device's page table (`dmirror_read()` counts the calls of
    /// `dmirror_fault()`).
    pub(crate) faults: u64,
}

/// How an ioctl went.
#[derive(Debug)]
#[must_use = "an ioctl's answer is to be checked"]
pub(crate) struct Reply {
    name: &'static str,
    pages: Pages,
    /// The driver's own words: it gives counts only when it succeeds.
    pub(crate) result: std::result::Result<Done, Errno>,
}

impl Reply {
    /// What the driver said when `name` was asked for `pages`.
    pub(crate) fn new(
        name: &'static str,
        pages: Pages,
        result: std::result::Result<Done, Errno>,
    ) -> Reply {
        Reply { name, pages, result }
    }

    /// It must have succeeded.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Result<Done> {
        let Reply { name, pages, result } = self;
        match result {
            Ok(done) => Ok(done),
            Err(error) => Err(differs(
                format_args!("{error:?}"),
                "success",
                format_args!("{name} of {pages} must succeed"),
            )),
        }
    }

    /// It must have succeeded with every page that it was given.
    #[track_caller]
    pub(crate) fn complete(self) -> Result<Done> {
        let (what, pages) = (self.name, self.pages);
        let done = self.succeeded()?;
        let count = pages.count() as u64;
        check_eq(done.cpages, count, format_args!("cpages of {what} of {pages}"))?;
        Ok(done)
    }

    /// The same, and the device must have faulted `faults` times.
    #[track_caller]
    pub(crate) fn complete_with_faults(self, faults: u64) -> Result {
        let (what, pages) = (self.name, self.pages);
        let done = self.complete()?;
        check_eq(done.faults, faults, format_args!("device faults of {what} of {pages}"))
    }

    /// It must have failed with `error`.
    #[track_caller]
    pub(crate) fn refused(self, error: Errno) -> Result {
        let Reply { name, pages, result } = self;
        match result {
            Err(seen) if seen == error => Ok(()),
            Err(seen) => Err(differs(
                format_args!("{seen:?}"),
                format_args!("{error:?}"),
                format_args!("{name} of {pages} must fail"),
            )),
            Ok(done) => Err(differs(
                format_args!("success, {} pages", done.cpages),
                format_args!("{error:?}"),
                format_args!("{name} of {pages} must fail"),
            )),
        }
    }
}

/// What SNAPSHOT said of each page.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pages: Pages,
    seen: Vec<u8>,
    abi: Rc<Abi>,
}

impl Snapshot {
    /// One byte for each of `pages`.
    pub(crate) fn new(pages: Pages, seen: Vec<u8>, abi: Rc<Abi>) -> Snapshot {
        Snapshot { pages, seen, abi }
    }

    /// Every page must be `expected`, whether it is mapped as part of a huge
    /// page or not: that depends on how the guest is set up.
    #[track_caller]
    pub(crate) fn check_all(&self, expected: u8) -> Result {
        self.check(|_| expected, self.levels())
    }

    /// Every page must be `expected`, and mapped just so.
    #[track_caller]
    pub(crate) fn check_all_and_level(&self, expected: u8) -> Result {
        self.check(|_| expected, 0)
    }

    /// The pages must be as `expected` says, one by one, however they are
    /// mapped.
    #[track_caller]
    pub(crate) fn check_each(&self, expected: &[u8]) -> Result {
        check_eq(self.seen.len(), expected.len(), "the number of pages in the snapshot")?;
        self.check(|index| expected[index], self.levels())
    }

    /// What it says of the page at `index` of those it was asked for.
    pub(crate) fn page(&self, index: usize) -> u8 {
        self.seen[index]
    }

    /// Whether the page at `index` is mapped as part of a huge page.
    pub(crate) fn is_huge(&self, index: usize) -> bool {
        self.seen[index] & self.levels() != 0
    }

    /// The bits that say how a page is mapped; none before 5.9.
    fn levels(&self) -> u8 {
        ["PMD", "PUD"].iter().filter_map(|name| self.abi.prots.get(*name)).fold(0, |a, b| a | b)
    }

    #[track_caller]
    fn check(&self, expected: impl Fn(usize) -> u8, ignored: u8) -> Result {
        for (index, seen) in self.seen.iter().copied().enumerate() {
            let expected = expected(index);
            if (seen ^ expected) & !ignored != 0 {
                let page = self.pages.first() + index;
                return Err(differs(
                    protection_in_words(seen, &self.abi),
                    protection_in_words(expected, &self.abi),
                    format_args!("what SNAPSHOT says of page {page} of {}", self.pages),
                )
                .on_page(page));
            }
        }
        Ok(())
    }
}

/// The names of the values that `byte` is made of, the largest first, so that
/// REMOTE (0x30) is not taken for LOCAL (0x20) and ZERO (0x10).
fn protection_in_words(byte: u8, abi: &Abi) -> String {
    let mut values: Vec<(&str, u8)> =
        abi.prots.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    values.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
    let mut left = byte;
    let mut names = Vec::new();
    for (name, value) in values {
        let whole = value == u8::MAX;
        if (whole && left == value) || (!whole && value != 0 && left & value == value) {
            names.push(name);
            left &= !value;
        } else if byte == 0 && value == 0 {
            names.push(name);
        }
    }
    format!("{} ({byte:#04x})", names.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protections_are_told_apart() {
        let prots = [
            ("ERROR", 0xff),
            ("NONE", 0),
            ("READ", 1),
            ("WRITE", 2),
            ("PMD", 4),
            ("ZERO", 0x10),
            ("DEV_PRIVATE_LOCAL", 0x20),
            ("DEV_PRIVATE_REMOTE", 0x30),
        ];
        let prots = prots.map(|(name, value)| (name.to_owned(), value)).into();
        let abi = Abi { prots, ..Abi::default() };
        let words = |byte| protection_in_words(byte, &abi);
        assert_eq!(words(0x32), "DEV_PRIVATE_REMOTE|WRITE (0x32)");
        assert_eq!(words(0x22), "DEV_PRIVATE_LOCAL|WRITE (0x22)");
        assert_eq!(words(0x11), "ZERO|READ (0x11)");
        assert_eq!(words(0x06), "PMD|WRITE (0x06)");
        assert_eq!(words(0xff), "ERROR (0xff)");
        assert_eq!(words(0x00), "NONE (0x00)");
    }
}
