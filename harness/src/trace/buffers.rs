//! Addresses as pages of the buffers that a test has mapped.

use std::collections::BTreeMap;

use super::row::Row;

const PAGE: u64 = 4096;

/// The buffers that have names, by where they begin.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(BTreeMap<u64, (String, u64)>);

impl Buffers {
    /// Takes over what a `step` row maps.
    pub(super) fn learn(&mut self, row: &Row) {
        let Some(step) = &row.doing else { return };
        if let (Some(address), Some(span)) = (step.address, &step.pages) {
            self.0.insert(address, (span.buffer.clone(), span.pages));
        }
    }

    /// The first buffer that a range touches: where it begins, and its name.
    fn touched(&self, start: u64, end: u64) -> Option<(u64, &str)> {
        self.0.iter().find_map(|(base, (name, pages))| {
            let behind = base.saturating_add(pages.saturating_mul(PAGE));
            (start < behind && *base < end).then_some((*base, name.as_str()))
        })
    }

    /// Whether a range touches any of them.
    pub(super) fn touch(&self, (start, end): (u64, u64)) -> bool {
        self.touched(start, end).is_some()
    }

    /// A range in words: `buffer[0..64)`, with pages before and behind the buffer
    /// counted on; `everything`; or its addresses.
    pub(super) fn place(&self, (start, end): (u64, u64)) -> String {
        let whole = start == 0 && end >= u64::MAX - PAGE;
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

    #[test]
    fn a_range_is_told_by_the_buffer_that_it_touches() {
        let buffers = Buffers(BTreeMap::from([
            (0x10000, ("buffer".to_owned(), 16)),
            (0x40000, ("mirror".to_owned(), 2)),
        ]));
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
        assert!(!buffers.touch((0x20000, 0x21000)));
        assert!(buffers.touch((0x1ffff, 0x20000)));
    }
}
