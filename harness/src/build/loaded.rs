//! What of a kernel's image is loaded: where that is equal, the kernels are,
//! whatever they were built from.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSegment as _, ReadCache, elf};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of the segments of an ELF image that are loaded, and of where. The
/// build id is left out: it is a digest of all, debug information included.
///
/// # Errors
/// When it cannot be read or is no such image.
pub(super) fn sha256(image: &Path) -> Result<String> {
    let what = || image.display().to_string();
    let cache = ReadCache::new(File::open(image).with_context(what)?);
    let elf = ElfFile64::<Endianness, _>::parse(&cache).with_context(what)?;
    let id = build_id(&elf)?;
    let mut file = File::open(image).with_context(what)?;
    let mut hash = Sha256::new();
    for segment in elf.segments() {
        let (offset, length) = segment.file_range();
        for number in [segment.address(), segment.size(), length] {
            hash.update(number.to_le_bytes());
        }
        add(&mut file, offset..offset + length, &id, &mut hash).with_context(what)?;
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Where the build id is in the file; nowhere, if there is none.
fn build_id<'data>(
    elf: &ElfFile64<'data, Endianness, &'data ReadCache<File>>,
) -> Result<Range<u64>> {
    let Some(id) = elf.build_id().context("the notes of an image")? else { return Ok(0..0) };
    let endian = elf.endian();
    for header in elf.elf_program_headers() {
        if header.p_type(endian) != elf::PT_NOTE {
            continue;
        }
        let notes = header.data(endian, elf.data()).ok().context("the notes of an image")?;
        if let Some(at) = notes.windows(id.len()).position(|bytes| bytes == id) {
            let start = header.p_offset(endian) + at as u64;
            return Ok(start..start + id.len() as u64);
        }
    }
    Ok(0..0)
}

/// Adds a part of a file to a digest, without what is left out.
fn add(
    file: &mut File,
    part: Range<u64>,
    without: &Range<u64>,
    hash: &mut Sha256,
) -> io::Result<()> {
    let cut = |at: u64| at.clamp(part.start, part.end);
    for range in [part.start..cut(without.start), cut(without.end)..part.end] {
        file.seek(SeekFrom::Start(range.start))?;
        let mut rest = file.take(range.end - range.start);
        let mut bytes = vec![0; 64 << 10];
        loop {
            match rest.read(&mut bytes)? {
                0 => break,
                read => hash.update(&bytes[..read]),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The digest of a part of ten bytes, without some of them.
    fn digest(part: Range<u64>, without: Range<u64>) -> Vec<u8> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"0123456789").expect("writable");
        let mut hash = Sha256::new();
        add(&mut file, part, &without, &mut hash).expect("readable");
        hash.finalize().to_vec()
    }

    #[test]
    fn what_is_left_out_is_only_what_lies_in_the_part() {
        for (part, without, rest) in [
            (2..8, 0..0, "234567"),
            (2..8, 3..5, "2567"),
            (2..8, 0..4, "4567"),
            (2..8, 6..10, "2345"),
            (2..8, 0..2, "234567"),
            (2..8, 8..10, "234567"),
            (2..8, 0..10, ""),
        ] {
            assert_eq!(digest(part, without.clone()), Sha256::digest(rest).to_vec(), "{without:?}");
        }
    }

    #[test]
    fn this_program_is_the_same_as_itself() {
        let own = std::env::current_exe().expect("it runs");
        let one = sha256(&own).expect("an image");
        assert_eq!(one.len(), 64);
        assert_eq!(sha256(&own).ok(), Some(one));
        assert!(sha256(Path::new("/dev/null")).is_err());
    }
}
