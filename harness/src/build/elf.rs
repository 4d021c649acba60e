//! The little of ELF that is needed of a `vmlinux`: what a boot loads, whether
//! PVH can enter it, where a symbol is. Takes bytes; an image that is not as
//! the format says is `None` and never a panic.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_SYMTAB: u32 = 2;
const NT_GNU_BUILD_ID: u32 = 3;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (include/xen/interface/elfnote.h): the 32-bit
/// entry that QEMU looks for.
const XEN_PHYS32_ENTRY: u32 = 18;

/// What a boot loads of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// SHA-256 of the loaded segments with their addresses, the build id
    /// masked.
    pub sha256: String,
    /// Whether it has the PVH entry note.
    pub pvh: bool,
}

/// Where a symbol is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolPlace {
    /// Its virtual address, as linked.
    pub address: u64,
    /// Its size, in bytes.
    pub size: u64,
}

/// What a boot loads of `image`, `None` if it is no 64-bit little-endian ELF.
pub fn loaded(image: &[u8]) -> Option<Loaded> {
    let headers = headers(image)?;
    let mut masked = image.to_vec();
    let mut pvh = false;
    for header in headers.iter().filter(|h| h.kind == PT_NOTE) {
        for note in notes(image, header.offset, header.size)? {
            pvh |= note.kind == XEN_PHYS32_ENTRY && note.name == b"Xen\0";
            if note.kind == NT_GNU_BUILD_ID && note.name == b"GNU\0" {
                masked.get_mut(note.from..note.to)?.fill(0);
            }
        }
    }
    let mut hash = Sha256::new();
    for header in headers.iter().filter(|h| h.kind == PT_LOAD) {
        hash.update(header.address.to_le_bytes());
        hash.update(header.memory.to_le_bytes());
        hash.update(slice(&masked, header.offset, header.size)?);
    }
    let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Some(Loaded { sha256, pvh })
}

/// Where the symbol `name` is in the symbol table of `image`.
pub fn symbol(image: &[u8], name: &str) -> Option<SymbolPlace> {
    is_elf64(image)?;
    let (at, size, count) = (u64_at(image, 40)?, u16_at(image, 58)?, u16_at(image, 60)?);
    let section = |n: u64| at.checked_add(n.checked_mul(u64::from(size))?);
    for n in 0..u64::from(count) {
        let head = section(n)?;
        if u32_at(image, head + 4)? != SHT_SYMTAB {
            continue;
        }
        let names = section(u64::from(u32_at(image, head + 40)?))?;
        let names = slice(image, u64_at(image, names + 24)?, u64_at(image, names + 32)?)?;
        let table = slice(image, u64_at(image, head + 24)?, u64_at(image, head + 32)?)?;
        for entry in table.chunks_exact(24) {
            let start = usize::try_from(u32_at(entry, 0)?).ok()?;
            let rest = names.get(start..)?;
            if rest.strip_prefix(name.as_bytes()).is_some_and(|r| r.first() == Some(&0)) {
                return Some(SymbolPlace { address: u64_at(entry, 8)?, size: u64_at(entry, 16)? });
            }
        }
    }
    None
}

/// A program header.
struct Header {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
    memory: u64,
}

fn is_elf64(image: &[u8]) -> Option<()> {
    image.starts_with(b"\x7fELF\x02\x01").then_some(())
}

fn headers(image: &[u8]) -> Option<Vec<Header>> {
    is_elf64(image)?;
    let (at, size, count) = (u64_at(image, 32)?, u16_at(image, 54)?, u16_at(image, 56)?);
    let header = |n: u64| {
        let head = at.checked_add(n * u64::from(size))?;
        Some(Header {
            kind: u32_at(image, head)?,
            offset: u64_at(image, head + 8)?,
            address: u64_at(image, head + 24)?,
            size: u64_at(image, head + 32)?,
            memory: u64_at(image, head + 40)?,
        })
    };
    (0..u64::from(count)).map(header).collect()
}

/// A note: its description lies at `from..to` of the image.
struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    from: usize,
    to: usize,
}

fn notes(image: &[u8], offset: u64, size: u64) -> Option<Vec<Note<'_>>> {
    let (mut at, end) = (offset, offset.checked_add(size)?);
    let mut found = Vec::new();
    while at + 12 <= end {
        let name_size = u64::from(u32_at(image, at)?);
        let size = u64::from(u32_at(image, at + 4)?);
        let kind = u32_at(image, at + 8)?;
        let from = at + 12 + name_size.next_multiple_of(4);
        let to = from + size;
        found.push(Note {
            kind,
            name: slice(image, at + 12, name_size)?,
            from: usize::try_from(from).ok()?,
            to: usize::try_from(to).ok()?,
        });
        at = to.next_multiple_of(4);
    }
    Some(found)
}

fn slice(bytes: &[u8], at: u64, size: u64) -> Option<&[u8]> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..at.checked_add(usize::try_from(size).ok()?)?)
}

fn u16_at(bytes: &[u8], at: u64) -> Option<u16> {
    Some(u16::from_le_bytes(slice(bytes, at, 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: u64) -> Option<u32> {
    Some(u32::from_le_bytes(slice(bytes, at, 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: u64) -> Option<u64> {
    Some(u64::from_le_bytes(slice(bytes, at, 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with one loaded segment, which holds a build id and the entry
    /// note, and one byte of code.
    fn image(build_id: u8, code: u8, entry: u32) -> Vec<u8> {
        let note = |name: &[u8; 4], kind: u32, what: &[u8; 4]| {
            [&4u32.to_le_bytes()[..], &4u32.to_le_bytes(), &kind.to_le_bytes(), name, what].concat()
        };
        let notes =
            [note(b"GNU\0", NT_GNU_BUILD_ID, &[build_id; 4]), note(b"Xen\0", entry, &[0; 4])]
                .concat();
        let mut elf = vec![0u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        let header = |kind: u32, size: usize| {
            let mut header = vec![0u8; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8] = 64 + 2 * 56;
            header[32] = u8::try_from(size).expect("small");
            header
        };
        elf.extend(header(PT_LOAD, notes.len() + 1));
        elf.extend(header(PT_NOTE, notes.len()));
        elf.extend(notes);
        elf.push(code);
        elf
    }

    #[test]
    fn the_build_id_is_masked_and_the_code_is_not() {
        let of = |id, code| loaded(&image(id, code, XEN_PHYS32_ENTRY)).expect("well-formed");
        assert_eq!(of(1, 7), of(2, 7));
        assert_ne!(of(1, 7), of(1, 8));
        assert!(of(1, 7).pvh);
        assert!(!loaded(&image(1, 7, 1)).expect("well-formed").pvh);
    }

    #[test]
    fn torn_images_are_none() {
        let whole = image(1, 7, XEN_PHYS32_ENTRY);
        for length in 0..whole.len() {
            assert_eq!(loaded(&whole[..length]), None, "{length} bytes");
            assert_eq!(symbol(&whole[..length], "x"), None);
        }
    }
}
