//! An object that was compiled with debug info: its code, and its lines.
//!
//! The object is not linked: all its sections are at address 0, and what its
//! debug info says of addresses and of other debug info is still to be filled
//! in. Both are done here, in memory. Nothing here does IO.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use addr2line::gimli::{self, EndianSlice, LittleEndian, RelocateReader, SectionId};
use anyhow::{Context as _, Result};
use object::read::elf::ElfFile64;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget,
    SectionIndex, SectionKind, SymbolKind, elf,
};

use super::Frame;
use super::code::{Hole, same};
use super::vmlinux::is_code;

/// An object with debug info.
pub(super) struct Compiled<'d> {
    file: ElfFile64<'d>,
}

/// Where a function is in an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    section: SectionIndex,
    address: u64,
}

impl<'d> Compiled<'d> {
    /// Opens an object.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn read(data: &'d [u8]) -> Result<Self> {
        Ok(Compiled { file: ElfFile64::parse(data)? })
    }

    /// Finds the function of a name whose code is the kernel's.
    ///
    /// # Errors
    /// Why there is none, as a phrase.
    pub(super) fn find(&self, name: &str, kernel: &[u8]) -> Result<Found, &'static str> {
        let mut why = "its object does not define it in this tree";
        for symbol in self.file.symbols() {
            let is_it = symbol.kind() != SymbolKind::Section && symbol.name() == Ok(name);
            if !is_it || !is_code(&self.file, &symbol) {
                continue;
            }
            why = "code differs";
            let Some(section) = symbol.section_index() else { continue };
            let found = Found { section, address: symbol.address() };
            if self.is_same(&found, kernel) == Some(true) {
                return Ok(found);
            }
        }
        Err(why)
    }

    /// Whether the bytes from a place on are the kernel's.
    fn is_same(&self, found: &Found, kernel: &[u8]) -> Option<bool> {
        let section = self.file.section_by_index(found.section).ok()?;
        let size = u64::try_from(kernel.len()).ok()?;
        let code = section.data_range(found.address, size).ok()??;
        let within = |at: u64| {
            let at = at.checked_sub(found.address).filter(|at| *at < size)?;
            usize::try_from(at).ok()
        };
        let holes: Vec<Hole> = section
            .relocations()
            .filter_map(|(at, relocation)| {
                let size = usize::from(relocation.size() / 8);
                let relaxed = matches!(
                    relocation.flags(),
                    RelocationFlags::Elf {
                        r_type: elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX
                    }
                );
                Some(Hole { at: within(at)?, size, relaxed })
            })
            .collect();
        let branches: Vec<usize> = self.branches(found.section).filter_map(within).collect();
        Some(same(code, &holes, &branches, kernel))
    }

    /// The jump labels in a section. The first member of each entry of their
    /// table, of 16 bytes, is where one is (`struct jump_entry`).
    fn branches(&self, section: SectionIndex) -> impl Iterator<Item = u64> {
        let table = self.file.section_by_name("__jump_table");
        table.into_iter().flat_map(|table| table.relocations()).filter_map(
            move |(at, relocation)| {
                let (target, address) = self.target(relocation.target())?;
                let code = at % 16 == 0 && target == section;
                code.then(|| address.wrapping_add_signed(relocation.addend()))
            },
        )
    }

    /// The section and the address in it that a relocation is about.
    fn target(&self, target: RelocationTarget) -> Option<(SectionIndex, u64)> {
        match target {
            RelocationTarget::Symbol(index) => {
                let symbol = self.file.symbol_by_index(index).ok()?;
                Some((symbol.section_index()?, symbol.address()))
            }
            RelocationTarget::Section(index) => Some((index, 0)),
            _ => None,
        }
    }

    /// The frames of the instruction at `offset` from a function, the innermost
    /// first. The names of files are as the compiler was given them.
    ///
    /// # Errors
    /// When the debug info cannot be read.
    pub(super) fn frames(&self, found: &Found, offset: u64) -> Result<Vec<Frame>> {
        let mut sections = HashMap::new();
        for id in addr2line_sections() {
            sections.insert(id.name(), self.debug_section(id)?);
        }
        let nothing = Filled::default();
        let dwarf = gimli::Dwarf::load(|id| -> Result<_, gimli::Error> {
            let (data, filled) = match sections.get(id.name()) {
                Some((data, filled)) => (data.as_ref(), filled),
                None => (&[][..], &nothing),
            };
            Ok(RelocateReader::new(EndianSlice::new(data, LittleEndian), filled))
        })?;
        let context = addr2line::Context::from_dwarf(dwarf)?;
        let probe = base(found.section) + found.address + offset;
        let mut iterator = context.find_frames(probe).skip_all_loads()?;
        let mut frames = Vec::new();
        while let Some(frame) = iterator.next()? {
            let (Some(function), Some(location)) = (frame.function, frame.location) else {
                continue;
            };
            frames.push(Frame {
                function: function.raw_name()?.into_owned(),
                file: location.file.unwrap_or("??").to_owned(),
                line: location.line.unwrap_or(0),
            });
        }
        Ok(frames)
    }

    /// The bytes of a section of debug info, and what is to be filled in.
    fn debug_section(&self, id: SectionId) -> Result<(Cow<'d, [u8]>, Filled)> {
        let Some(section) = self.file.section_by_name(id.name()) else {
            return Ok((Cow::Borrowed(&[]), Filled::default()));
        };
        let mut filled = HashMap::new();
        for (at, relocation) in section.relocations() {
            let Some((target, address)) = self.target(relocation.target()) else { continue };
            let code = self.file.section_by_index(target)?.kind() == SectionKind::Text;
            let address = address.wrapping_add_signed(relocation.addend());
            let value = if code { address.wrapping_add(base(target)) } else { address };
            filled.insert(usize::try_from(at)?, value);
        }
        let data = section.uncompressed_data().with_context(|| format!("section {}", id.name()))?;
        Ok((data, Filled(filled)))
    }
}

/// The sections that tell functions and lines.
fn addr2line_sections() -> [SectionId; 10] {
    [
        SectionId::DebugAbbrev,
        SectionId::DebugAddr,
        SectionId::DebugAranges,
        SectionId::DebugInfo,
        SectionId::DebugLine,
        SectionId::DebugLineStr,
        SectionId::DebugRanges,
        SectionId::DebugRngLists,
        SectionId::DebugStr,
        SectionId::DebugStrOffsets,
    ]
}

/// Where a section of code is taken to be: each somewhere else, far enough
/// apart for any object.
fn base(section: SectionIndex) -> u64 {
    (section.0 as u64) << 32
}

/// What the linker would fill in, by its offset in the section.
#[derive(Debug, Default)]
struct Filled(HashMap<usize, u64>);

impl gimli::Relocate for &Filled {
    fn relocate_address(&self, offset: usize, value: u64) -> gimli::Result<u64> {
        Ok(self.0.get(&offset).copied().unwrap_or(value))
    }

    fn relocate_offset(&self, offset: usize, value: usize) -> gimli::Result<usize> {
        match self.0.get(&offset) {
            Some(filled) => usize::try_from(*filled).map_err(|_| gimli::Error::UnsupportedOffset),
            None => Ok(value),
        }
    }
}

/// A file's name relative to the tree, from what the compiler was given: the
/// sources and the files that the build itself makes lie in two directories.
pub(super) fn below(file: &str, src: &Path, obj: &Path) -> String {
    let mut path = PathBuf::new();
    for part in Path::new(file).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    let relative = path.strip_prefix(src).or_else(|_| path.strip_prefix(obj)).unwrap_or(&path);
    relative.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_relative_to_the_tree() {
        let check = |file: &str, expect: &str| {
            assert_eq!(below(file, Path::new("/l/src"), Path::new("/l/obj")), expect, "{file}");
        };
        check("/l/src/lib/test_hmm.c", "lib/test_hmm.c");
        check("/l/src/drivers/a/../b/c.h", "drivers/b/c.h");
        check("/l/obj/./arch/x86/include/generated/asm/x.h", "arch/x86/include/generated/asm/x.h");
        check("/usr/include/x.h", "/usr/include/x.h");
        check("??", "??");
    }
}
