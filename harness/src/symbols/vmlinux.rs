//! The kernel's own symbols: which function an address of a report is in.
//!
//! `vmlinux` has a symbol table, built with debug info or without. Nothing here
//! does IO.

use std::collections::HashMap;

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};

use super::address::Address;

/// How many functions on each side tell which object a function is from.
const NEIGHBOURS: usize = 6;

/// A kernel and its symbols.
pub(super) struct Vmlinux<'d> {
    file: ElfFile64<'d>,
    /// Those of code, by address.
    symbols: Vec<Symbol<'d>>,
    /// Those of System.map, by name: address, and distance to the next one.
    printed: HashMap<&'d str, Vec<(u64, u64)>>,
}

/// A symbol of code.
#[derive(Debug, Clone, Copy)]
struct Symbol<'d> {
    name: &'d str,
    address: u64,
    size: u64,
    /// The source it came from, without its directories; only known of static
    /// functions.
    source: Option<&'d str>,
}

/// A function of the kernel that an address may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function<'d> {
    pub(super) name: &'d str,
    pub(super) address: u64,
    /// In bytes, without what fills the gap to the next one.
    pub(super) size: u64,
    /// The source it came from, without its directories, if that is known.
    pub(super) source: Option<&'d str>,
}

impl<'d> Vmlinux<'d> {
    /// Reads the symbols of a `vmlinux` and of its `System.map`.
    ///
    /// # Errors
    /// When `vmlinux` is none.
    pub(super) fn read(vmlinux: &'d [u8], map: &'d str) -> Result<Self, object::Error> {
        let file = ElfFile64::parse(vmlinux)?;
        let mut symbols = Vec::new();
        let mut source = None;
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or_default();
            match symbol.kind() {
                SymbolKind::File => source = Some(name),
                SymbolKind::Section => {}
                _ if name.is_empty() || !is_code(&file, &symbol) => {}
                _ => symbols.push(Symbol {
                    name,
                    address: symbol.address(),
                    size: symbol.size(),
                    source: source.filter(|_| symbol.is_local()),
                }),
            }
        }
        symbols.sort_by_key(|s| s.address);
        Ok(Vmlinux { file, symbols, printed: printed(map) })
    }

    /// The functions that an address may be in: those of its name, of which the
    /// kernel prints this size. Several, if static functions share both.
    ///
    /// # Errors
    /// Why there is none, as a phrase.
    pub(super) fn functions(&self, address: &Address) -> Result<Vec<Function<'d>>, String> {
        let Some((&name, named)) = self.printed.get_key_value(address.symbol) else {
            return Err("unknown symbol".to_owned());
        };
        let sized = named.iter().filter(|(_, size)| *size == address.size);
        let found: Vec<_> = sized.filter_map(|(at, _)| self.function(name, *at)).collect();
        if found.is_empty() {
            return Err(format!("no function of {:#x} bytes in this kernel", address.size));
        }
        Ok(found)
    }

    fn function(&self, name: &'d str, address: u64) -> Option<Function<'d>> {
        let at = self.symbols.partition_point(|s| s.address < address);
        let same = self.symbols[at..].iter().take_while(|s| s.address == address);
        let Symbol { size, source, .. } = *{ same }.find(|s| s.name == name)?;
        Some(Function { name, address, size, source })
    }

    /// The names around a function. The linker keeps what an object has of a
    /// section together, so they mostly are of the same object.
    pub(super) fn neighbours(&self, function: &Function) -> Vec<&'d str> {
        let start = self.symbols.partition_point(|s| s.address < function.address);
        let end = self.symbols.partition_point(|s| s.address <= function.address);
        let before = self.symbols[..start].iter().rev().take(NEIGHBOURS);
        let after = self.symbols[end..].iter().take(NEIGHBOURS);
        before.chain(after).map(|s| s.name).collect()
    }

    /// The bytes of a function.
    pub(super) fn code(&self, function: &Function) -> Option<&'d [u8]> {
        self.file
            .sections()
            .find_map(|section| section.data_range(function.address, function.size).ok().flatten())
    }
}

/// Whether a symbol stands for a place in code.
pub(super) fn is_code<'d>(file: &ElfFile64<'d>, symbol: &impl object::ObjectSymbol<'d>) -> bool {
    let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
    section.is_some_and(|section| section.kind() == SectionKind::Text)
}

/// What kallsyms says of each name: its address, and the distance to the next
/// symbol at another address, which is the size that a report has
/// (`get_symbol_pos()`). System.map lists the same symbols.
fn printed(map: &str) -> HashMap<&str, Vec<(u64, u64)>> {
    let symbols = by_address(map);
    let mut printed: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    let mut next = None;
    for (n, &(address, name)) in symbols.iter().enumerate().rev() {
        if let Some(&(after, _)) = symbols.get(n + 1)
            && after != address
        {
            next = Some(after);
        }
        let size = next.map_or(0, |next| next - address);
        printed.entry(name).or_default().push((address, size));
    }
    printed
}

/// The symbols of a System.map with their addresses, which rise.
fn by_address(map: &str) -> Vec<(u64, &str)> {
    let mut symbols: Vec<(u64, &str)> = map
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (address, _kind, name) = (words.next()?, words.next()?, words.next()?);
            Some((u64::from_str_radix(address, 16).ok()?, name))
        })
        .collect();
    symbols.sort_by_key(|(address, _)| *address);
    symbols
}

/// An address as the kernel of this System.map prints it; nothing if it lies
/// before or behind all symbols.
pub(super) fn print(map: &str, address: u64) -> Option<String> {
    let symbols = by_address(map);
    let behind = symbols.partition_point(|(at, _)| *at <= address);
    let (start, name) = *symbols[..behind].last()?;
    let (end, _) = *symbols.get(behind)?;
    Some(format!("{name}+{:#x}/{:#x}", address - start, end - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_reaches_to_the_next_symbol_at_another_address() {
        let map = "\
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000010 t f
ffffffff81000040 t g
ffffffff81000050 t f
not a line of it
ffffffff81000090 T _etext
";
        let printed = printed(map);
        assert_eq!(printed["_text"], [(0xffff_ffff_8100_0000, 0x10)]);
        assert_eq!(printed["_stext"], [(0xffff_ffff_8100_0000, 0x10)]);
        let f = [(0xffff_ffff_8100_0050, 0x40), (0xffff_ffff_8100_0010, 0x30)];
        assert_eq!(printed["f"], f);
        assert_eq!(printed["_etext"], [(0xffff_ffff_8100_0090, 0)]);
        assert_eq!(printed.len(), 5);
    }
}
