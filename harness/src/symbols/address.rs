//! Addresses as a kernel prints them, and where in its reports they stand.
//!
//! Nothing here does IO.

use serde::{Deserialize, Serialize};

/// What an address says of the CPU. A report does not mark it: it depends on
/// where in the report the address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The CPU was at this instruction.
    At,
    /// A call returns to here, and the instruction before is meant: this one
    /// may belong to another line, or even to another function.
    After,
}

/// An address to be resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// As the kernel prints it: `dmirror_fops_unlocked_ioctl+0x106/0x4c0`.
    pub address: String,
    /// What it says of the CPU.
    pub place: Place,
}

impl Wanted {
    /// The address of the instruction that the CPU was at.
    pub fn at(address: impl Into<String>) -> Self {
        Wanted { address: address.into(), place: Place::At }
    }

    /// The address that a call returns to.
    pub fn after(address: impl Into<String>) -> Self {
        Wanted { address: address.into(), place: Place::After }
    }
}

/// An address in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address<'a> {
    pub(super) symbol: &'a str,
    /// In bytes from the symbol.
    pub(super) offset: u64,
    /// From the symbol to the next one, as kallsyms sees them.
    pub(super) size: u64,
}

/// Takes an address apart; `None` if it is none. The offset may be the size
/// itself: where a call that does not return is the last instruction, its
/// return address is the next symbol.
pub(super) fn parse(text: &str) -> Option<Address<'_>> {
    let (symbol, numbers) = text.trim().rsplit_once('+')?;
    let (offset, size) = numbers.split_once('/')?;
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (offset, size) = (number(offset)?, number(size)?);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let sound = !symbol.is_empty() && symbol.chars().all(plain) && offset <= size;
    sound.then_some(Address { symbol, offset, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_three_parts() {
        let check = |text: &str, symbol, offset, size| {
            assert_eq!(parse(text), Some(Address { symbol, offset, size }), "{text}");
        };
        check(
            "dmirror_fops_unlocked_ioctl+0x106/0x4c0",
            "dmirror_fops_unlocked_ioctl",
            0x106,
            0x4c0,
        );
        check(" hmm_range_fault.cold+0x0/0x1a", "hmm_range_fault.cold", 0, 0x1a);
        check("do_exit+0x20/0x20", "do_exit", 0x20, 0x20);
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "",
            "f",
            "f+0x1",
            "f+1/2",
            "+0x1/0x2",
            "f+0x3/0x2",
            "f+0x1/0xg",
            "f+0x1/0x11111111111111111",
            "0x7ffff7fbd79b",
            "f g+0x1/0x2",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
