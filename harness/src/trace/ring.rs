//! Records from the pages of the kernel's ring buffer.
//!
//! A page is a time stamp, the length of its events, and the events, whose
//! headers are a word of five bits of kind or length and 27 bits of time
//! (`struct buffer_data_page` in kernel/trace/ring_buffer.c, `struct
//! ring_buffer_event` in include/linux/ring_buffer.h; the same from 5.8 to 7.2).
//! Nothing of it is believed: lengths are checked, and what does not fit is an
//! error of that page.

use std::ops::Range;

/// Bits of the length that say that events are missing before the page
/// (`RB_MISSED_EVENTS`, `RB_MISSED_STORED`).
const MISSED: u64 = 1 << 31;
const MISSED_STORED: u64 = 1 << 30;

/// What stands before the events of a page.
const HEADER: usize = 16;

/// What may stand behind the events: how many are missing before them.
const BEHIND: usize = 8;

/// The smallest event (`RB_EVNT_MIN_SIZE`).
const SMALLEST: usize = 8;

/// How many bits of time are in a header; more stand in a word of their own.
const TIME_BITS: u32 = 27;

/// Kinds of headers (`enum ring_buffer_type`). Smaller ones are lengths in words.
const PADDING: u32 = 29;
const TIME_EXTEND: u32 = 30;
const TIME_STAMP: u32 = 31;

/// A record, and when the kernel wrote it by the clock of the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The trace's clock.
    pub time: u64,
    /// Where in the page it is, from `common_type` on.
    pub at: Range<usize>,
}

/// A page that was taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// Its records, in order.
    pub records: Vec<Record>,
    /// Whether the kernel says that records are missing before the first.
    pub missed: bool,
    /// Whether one of them was given up.
    pub given_up: bool,
    /// How much was left of the kernel's page for a record that had no room there.
    pub left: Option<usize>,
}

impl Page {
    /// How much room the first record takes.
    pub(super) fn first(&self) -> Option<usize> {
        self.records.first().map(|record| record.at.end.next_multiple_of(4) - HEADER)
    }
}

/// Takes a page apart.
///
/// # Errors
/// What does not fit, as a phrase.
pub(super) fn page(bytes: &[u8]) -> Result<Page, String> {
    let word =
        |at: usize| -> Option<u64> { Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)) };
    let (Some(mut time), Some(commit)) = (word(0), word(8)) else {
        return Err("a page without its header".into());
    };
    let length = usize::try_from(commit & !(MISSED | MISSED_STORED)).unwrap_or(usize::MAX);
    let end = HEADER.saturating_add(length);
    let events = bytes.get(HEADER..end).filter(|_| bytes.len() - end <= BEHIND);
    let Some(events) = events else {
        return Err(format!("a page of {} bytes that says it has {length}", bytes.len()));
    };
    let (mut given_up, mut left) = (false, None);
    let mut records = Vec::with_capacity(events.len() / 64);
    let mut rest = events;
    while let Some((header, after)) = rest.split_first_chunk::<4>() {
        let header = u32::from_le_bytes(*header);
        let (kind, delta) = (header & 0x1f, u64::from(header >> 5));
        let array = after.first_chunk::<4>().map(|word| u32::from_le_bytes(*word));
        let cut = || "an event that is longer than its page".to_owned();
        match kind {
            // What is left of a page, where no event has room.
            PADDING if delta == 0 && rest.len() <= SMALLEST => rest = &[],
            PADDING if delta == 0 => return Err("padding before the end of a page".into()),
            // The rest of a page, which takes no time (`rb_reset_tail()`), or the
            // place of an event that was given up (`rb_event_discard()`).
            PADDING => {
                let length = array.ok_or_else(cut)? as usize;
                if length < 4 || !length.is_multiple_of(4) {
                    return Err(format!("padding of {length} bytes"));
                }
                time = time.wrapping_add(if delta == 1 { 0 } else { delta });
                rest = after.get(length..).ok_or_else(cut)?;
                if rest.is_empty() && delta == 1 {
                    left = Some(4 + length);
                } else {
                    given_up = true;
                }
            }
            TIME_EXTEND | TIME_STAMP => {
                let high = u64::from(array.ok_or_else(cut)?) << TIME_BITS;
                let whole = high.wrapping_add(delta);
                time = if kind == TIME_EXTEND { time.wrapping_add(whole) } else { whole };
                rest = after.get(4..).ok_or_else(cut)?;
            }
            _ => {
                time = time.wrapping_add(delta);
                // A length of 0 stands for one in the word that follows, which it
                // counts as well.
                let (data, next) = match kind {
                    0 => {
                        let length = array.ok_or_else(cut)? as usize;
                        if length < 4 {
                            return Err(format!("an event of {length} bytes"));
                        }
                        let data = after.get(4..length).ok_or_else(cut)?;
                        (data, after.get(length.next_multiple_of(4)..).ok_or_else(cut)?)
                    }
                    words => after.split_at_checked(words as usize * 4).ok_or_else(cut)?,
                };
                // `after` is what is left of the page behind the header.
                let start = end - after.len() + if kind == 0 { 4 } else { 0 };
                records.push(Record { time, at: start..start + data.len() });
                rest = next;
            }
        }
    }
    if !rest.is_empty() {
        return Err("half a header at the end of a page".into());
    }
    Ok(Page { records, missed: commit & MISSED != 0, given_up, left })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A page with these records, each so long after the one before it.
    pub(in crate::trace) fn written(time: u64, records: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut events = Vec::new();
        for (delta, data) in records {
            let mut delta = *delta;
            if delta >> TIME_BITS != 0 {
                let low = u32::try_from(delta & ((1 << TIME_BITS) - 1)).expect("27 bits");
                events.extend((TIME_EXTEND | low << 5).to_le_bytes());
                events.extend(u32::try_from(delta >> TIME_BITS).expect("short").to_le_bytes());
                delta = 0;
            }
            let delta = u32::try_from(delta).expect("27 bits") << 5;
            let words = u32::try_from(data.len().div_ceil(4)).expect("short");
            if (1..=28).contains(&words) && data.len() % 4 == 0 {
                events.extend((words | delta).to_le_bytes());
            } else {
                events.extend(delta.to_le_bytes());
                events.extend(u32::try_from(data.len() + 4).expect("short").to_le_bytes());
            }
            events.extend(data);
            events.resize(events.len().next_multiple_of(4), 0);
        }
        let mut page = time.to_le_bytes().to_vec();
        page.extend((events.len() as u64).to_le_bytes());
        page.extend(events);
        page
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            time in 0u64..1 << 50,
            records in prop::collection::vec(
                (0u64..1 << 40, prop::collection::vec(any::<u8>(), 4..200)), 0..12),
        ) {
            let bytes = written(time, &records);
            let page = page(&bytes).expect("well formed");
            prop_assert!(!page.missed);
            let mut now = time;
            prop_assert_eq!(page.records.len(), records.len());
            for (record, (delta, data)) in page.records.iter().zip(&records) {
                now += delta;
                prop_assert_eq!(record.time, now);
                prop_assert_eq!(&bytes[record.at.clone()], data.as_slice());
            }
        }

        #[test]
        fn hostile_pages_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = page(&bytes);
            let mut bytes = bytes;
            // One whose length fits is looked into.
            if bytes.len() >= HEADER {
                let length = (bytes.len() - HEADER) as u64;
                bytes[8..16].copy_from_slice(&length.to_le_bytes());
                let _ = page(&bytes);
            }
        }
    }

    #[test]
    fn the_kernel_says_what_is_missing() {
        let mut bytes = written(5, &[(1, vec![1; 8])]);
        let commit = (bytes.len() - HEADER) as u64;
        bytes[8..16].copy_from_slice(&(commit | MISSED | MISSED_STORED).to_le_bytes());
        assert!(page(&bytes).expect("well formed").missed);
        bytes.truncate(20);
        assert!(page(&bytes).is_err());
    }

    #[test]
    fn what_is_left_of_a_page_is_padding() {
        // One event, padding, and another event.
        let page_with = |padding: &[u32]| {
            let mut bytes = written(5, &[(1, vec![1; 8])]);
            bytes.extend(padding.iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend(&written(0, &[(2, vec![2; 8])])[HEADER..]);
            let length = (bytes.len() - HEADER) as u64;
            bytes[8..16].copy_from_slice(&length.to_le_bytes());
            let page = page(&bytes)?;
            let times = page.records.iter().map(|record| record.time).collect::<Vec<_>>();
            Ok::<_, String>((times, page.given_up, page.left))
        };
        assert_eq!(page_with(&[]), Ok((vec![6, 8], false, None)));
        // An event that was given up after three ticks, and one that took none.
        assert_eq!(page_with(&[PADDING | 3 << 5, 8, 0]), Ok((vec![6, 11], true, None)));
        assert_eq!(page_with(&[PADDING | 1 << 5, 4]), Ok((vec![6, 8], true, None)));
        // The rest of the page.
        assert_eq!(page_with(&[PADDING | 1 << 5, 16]), Ok((vec![6], false, Some(20))));
        assert_eq!(page_with(&[PADDING]), Err("padding before the end of a page".into()));
        assert_eq!(page_with(&[PADDING | 1 << 5, 5]), Err("padding of 5 bytes".into()));
        assert_eq!(page_with(&[PADDING | 1 << 5, 0]), Err("padding of 0 bytes".into()));
    }
}
