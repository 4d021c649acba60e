//! What a page should hold, word by word.
//!
//! Every word of every page of a pattern is another value, so that pages that
//! changed places, and words within a page, show. A test takes a new pattern
//! for each write, so that what an earlier write left behind shows as well.

/// The size of a page, in bytes. `main` refuses to run where it is another.
pub(crate) const PAGE_SIZE: usize = 4096;

/// How many words a page has. They are of 64 bits, because most of a test's
/// time goes into writing and comparing them one by one.
pub(crate) const WORDS_PER_PAGE: usize = PAGE_SIZE / size_of::<u64>();

/// A sequence of words, as long as one likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pattern {
    first: u64,
    step: u64,
}

impl Pattern {
    /// What memory holds that nobody wrote.
    pub(crate) const ZEROS: Pattern = Pattern { first: 0, step: 0 };

    /// What a mirror holds before a device writes to it.
    pub(crate) const POISON: Pattern = Pattern { first: 0x5aa5_c33c_0ff0_9669, step: 0 };

    /// Counts up from `first`.
    pub(crate) fn from(first: u64) -> Pattern {
        Pattern { first, step: 1 }
    }

    /// The same with every word one higher.
    pub(crate) fn incremented(self) -> Pattern {
        Pattern { first: self.first.wrapping_add(1), ..self }
    }

    /// The word at `index`, counted from the start of the buffer.
    pub(crate) fn word(self, index: usize) -> u64 {
        // Only differences matter, so wrapping round is all right.
        self.first.wrapping_add(self.step.wrapping_mul(index as u64))
    }

    /// The bytes of `pages` pages from the start of the buffer.
    pub(crate) fn bytes(self, pages: usize) -> Vec<u8> {
        let mut bytes = vec![0; pages * PAGE_SIZE];
        for (index, word) in bytes.chunks_exact_mut(size_of::<u64>()).enumerate() {
            word.copy_from_slice(&self.word(index).to_ne_bytes());
        }
        bytes
    }
}

/// Numbers that differ from test to test and from process to process, for
/// patterns and for delays (SplitMix64 by Steele, Lea and Flood).
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    /// A sequence that depends on everything it is fed with.
    pub(crate) fn from(seed: u64, salt: &[u8]) -> Numbers {
        // FNV-1a, which is enough to keep two tests' patterns apart.
        let hash = salt.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Numbers(seed ^ hash)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_words_of_a_pattern_are_equal_within_a_buffer() {
        let pattern = Pattern::from(u64::MAX - 5);
        let seen: std::collections::BTreeSet<u64> =
            (0..4 * WORDS_PER_PAGE).map(|index| pattern.word(index)).collect();
        assert_eq!(seen.len(), 4 * WORDS_PER_PAGE);
    }

    #[test]
    fn bytes_are_the_words_in_memory_order() {
        let bytes = Pattern::from(7).bytes(1);
        assert_eq!(bytes.len(), PAGE_SIZE);
        assert_eq!(bytes[8..16], 8_u64.to_ne_bytes());
    }

    #[test]
    fn numbers_depend_on_seed_and_salt() {
        let first = |seed, salt: &[u8]| Numbers::from(seed, salt).next();
        assert_eq!(first(1, b"a"), first(1, b"a"));
        assert_ne!(first(1, b"a"), first(2, b"a"));
        assert_ne!(first(1, b"a"), first(1, b"b"));
    }
}
