//! Addresses as pages of the buffers that a test has mapped.

use std::collections::BTreeMap;

use super::row::Row;

pub(super) const PAGE: u64 = 4096;

/// How many buffers can have names. An honest test has a handful.
const MOST: usize = 1 << 12;

/// The buffers that have names, by where they begin. None lies over another.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers {
    pieces: BTreeMap<u64, Piece>,
    full: bool,
}

/// What of a buffer no later one was mapped over.
#[derive(Debug, Clone)]
struct Piece {
    name: String,
    /// Where the buffer's first page is, or was.
    base: u64,
    /// The first address behind the piece.
    behind: u64,
}

impl Buffers {
    /// Takes over what a `step` row maps.
    pub(super) fn learn(&mut self, row: &Row) {
        let Some(step) = &row.doing else { return };
        let (Some(base), Some(span)) = (step.address, &step.pages) else { return };
        let behind = base.saturating_add(span.pages.saturating_mul(PAGE));
        while let Some((at, piece)) = self.over(base, behind) {
            let piece = piece.clone();
            self.pieces.remove(&at);
            if at < base {
                self.insert(at, Piece { behind: base, ..piece.clone() });
            }
            if behind < piece.behind {
                self.insert(behind, piece);
            }
        }
        if base < behind {
            self.insert(base, Piece { name: span.buffer.clone(), base, behind });
        }
    }

    fn insert(&mut self, at: u64, piece: Piece) {
        self.full |= self.pieces.len() >= MOST;
        if !self.full {
            self.pieces.insert(at, piece);
        }
    }

    /// Whether there were more than can have names.
    pub(super) fn full(&self) -> bool {
        self.full
    }

    /// The first piece that lies in a range, and where it begins.
    fn over(&self, start: u64, end: u64) -> Option<(u64, &Piece)> {
        let before = self.pieces.range(..=start).next_back();
        let first = before.filter(|(_, piece)| start < piece.behind);
        let (at, piece) = first.or_else(|| self.pieces.range(start..).next())?;
        (*at < end).then_some((*at, piece))
    }

    /// A single buffer of so many pages.
    #[cfg(test)]
    pub(super) fn one(name: &str, base: u64, pages: u64) -> Buffers {
        let piece = Piece { name: name.to_owned(), base, behind: base + pages * PAGE };
        Buffers { pieces: BTreeMap::from([(base, piece)]), full: false }
    }

    /// The first buffer that a range touches: where it begins, and its name.
    fn touched(&self, start: u64, end: u64) -> Option<(u64, &str)> {
        self.over(start, end).map(|(_, piece)| (piece.base, piece.name.as_str()))
    }

    /// The name of the first buffer that a range touches.
    pub(super) fn name(&self, (start, end): (u64, u64)) -> Option<&str> {
        self.touched(start, end).map(|(_, name)| name)
    }

    /// Whether a range touches any of them.
    pub(super) fn touch(&self, (start, end): (u64, u64)) -> bool {
        self.touched(start, end).is_some()
    }

    /// Whether a range is all that there is.
    pub(super) fn is_everything((start, end): (u64, u64)) -> bool {
        start == 0 && end >= u64::MAX - PAGE
    }

    /// A range as pages of the first buffer that it touches: its name, the first
    /// page, and the one behind the last. Pages that are touched in part count.
    pub(super) fn pages(&self, (start, end): (u64, u64)) -> Option<(&str, i64, i64)> {
        let (base, name) = self.touched(start, end)?;
        let page = |address: u64, up: i128| {
            let bytes = i128::from(address) - i128::from(base) + up * i128::from(PAGE - 1);
            i64::try_from(bytes.div_euclid(i128::from(PAGE))).unwrap_or(i64::MAX)
        };
        Some((name, page(start, 0), page(end, 1)))
    }

    /// A range in words: `buffer[0..64)`, with pages before and behind the buffer
    /// counted on; `everything`; or its addresses.
    pub(super) fn place(&self, (start, end): (u64, u64)) -> String {
        let whole = Buffers::is_everything((start, end));
        let aligned = start % PAGE == 0 && end % PAGE == 0;
        match self.touched(start, end) {
            _ if whole => "everything".into(),
            Some((base, name)) if aligned => {
                let page =
                    |address: u64| (i128::from(address) - i128::from(base)) / i128::from(PAGE);
                format!("{name}[{}..{})", page(start), page(end))
            }
            _ => format!("[{start:#x}..{end:#x})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmm_protocol::trace::{Span, Step};

    fn mapped(buffers: &[(u64, &str, u64)]) -> Buffers {
        let mut known = Buffers::default();
        for (address, name, pages) in buffers {
            let pages = Span { buffer: (*name).to_owned(), first: 0, pages: *pages };
            let row = serde_json::json!({
                "seq": 0, "cpu": 0, "tid": 1, "tgid": 1, "role": "test", "probe": "step",
                "step": 1, "doing": Step::new("map").of(pages).at(*address),
            });
            known.learn(&serde_json::from_value(row).expect("a row"));
        }
        known
    }

    #[test]
    fn what_is_mapped_later_lies_over_what_was_there() {
        let buffers = mapped(&[(0x10000, "old", 16), (0x14000, "new", 4), (0x30000, "none", 0)]);
        for (range, place) in [
            ((0x13000, 0x14000), "old[3..4)"),
            ((0x14000, 0x15000), "new[0..1)"),
            ((0x18000, 0x19000), "old[8..9)"),
            ((0x17000, 0x19000), "new[3..5)"),
            ((0x30000, 0x31000), "[0x30000..0x31000)"),
        ] {
            assert_eq!(buffers.place(range), place);
        }
    }

    #[test]
    fn there_is_an_end_of_names() {
        let many: Vec<_> = (0..2 * MOST as u64).map(|n| (n * PAGE, "page", 1)).collect();
        let buffers = mapped(&many);
        assert!(buffers.full() && buffers.touch((0, PAGE)));
        assert!(!mapped(&many[..MOST]).full());
        assert!(!mapped(&vec![(0, "again", 8); 2 * MOST]).full());
    }

    #[test]
    fn a_range_is_told_by_the_buffer_that_it_touches() {
        let buffers = mapped(&[(0x10000, "buffer", 16), (0x40000, "mirror", 2)]);
        for (range, place) in [
            ((0x10000, 0x12000), "buffer[0..2)"),
            ((0x1f000, 0x21000), "buffer[15..17)"),
            ((0xf000, 0x11000), "buffer[-1..1)"),
            ((0x41000, 0x42000), "mirror[1..2)"),
            ((0, u64::MAX), "everything"),
            ((0, u64::MAX - 0xfff), "everything"),
            ((0x20000, 0x21000), "[0x20000..0x21000)"),
            ((0x10010, 0x12000), "[0x10010..0x12000)"),
        ] {
            assert_eq!(buffers.place(range), place);
        }
        assert_eq!(buffers.pages((0xf000, 0x11000)), Some(("buffer", -1, 1)));
        assert_eq!(buffers.pages((0x10010, 0x12001)), Some(("buffer", 0, 3)));
        assert_eq!(buffers.pages((0x20000, 0x21000)), None);
        assert!(!buffers.touch((0x20000, 0x21000)));
        assert!(buffers.touch((0x1ffff, 0x20000)));
    }
}
