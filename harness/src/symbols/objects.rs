//! The objects of a build directory, and which of them a function is from.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _, SymbolKind};

use super::vmlinux::{Function, is_code};

/// What lies in a build directory and never becomes part of `vmlinux`.
const OTHERS: [&str; 2] = ["scripts", "tools"];

/// An object of the build.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Built {
    /// Its path below the build directory.
    pub(super) path: PathBuf,
    /// Its size in bytes: the larger it is, the longer its compilation takes.
    pub(super) size: usize,
    /// Of the names that were asked for, those it has code of, with its size.
    defines: HashMap<String, u64>,
}

/// Reads the symbols of every object of a build. One that cannot be read has
/// none.
///
/// # Errors
/// When a directory cannot be read.
pub(super) fn scan(obj: &Path, names: &HashSet<&str>) -> std::io::Result<Vec<Built>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(obj)? {
        let folder = folder?;
        let name = folder.file_name();
        // Of the entry itself: `source` is a link out of here. The objects at
        // the top are made from all the others.
        if folder.file_type()?.is_dir() && !OTHERS.iter().any(|other| name == *other) {
            walk(obj, &folder.path(), names, &mut found)?;
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(
    obj: &Path,
    folder: &Path,
    names: &HashSet<&str>,
    found: &mut Vec<Built>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(obj, &path, names, found)?;
        } else if path.extension().is_some_and(|e| e == "o")
            && let Ok(data) = fs::read(&path)
            && let Ok(path) = path.strip_prefix(obj)
        {
            let defines = defines(&data, names).unwrap_or_default();
            if !defines.is_empty() {
                found.push(Built { path: path.to_owned(), size: data.len(), defines });
            }
        }
    }
    Ok(())
}

/// Which of some names an object has code of.
fn defines(data: &[u8], names: &HashSet<&str>) -> Result<HashMap<String, u64>, object::Error> {
    let file: ElfFile64 = ElfFile64::parse(data)?;
    let mut found = HashMap::new();
    for symbol in file.symbols().filter(|s| s.kind() != SymbolKind::Section) {
        if let Ok(name) = symbol.name()
            && names.contains(name)
            && is_code(&file, &symbol)
        {
            found.insert(name.to_owned(), symbol.size());
        }
    }
    Ok(found)
}

/// The objects that a function may be from, as indices, the likeliest first.
///
/// The build may be of another tree meanwhile: then the function may have
/// another size there. If it is not there at all, its neighbours tell.
pub(super) fn rank(function: &Function, neighbours: &[&str], built: &[Built]) -> Vec<usize> {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let source = function.source.map(Path::new).and_then(stem);
    let known = built.iter().any(|object| object.defines.contains_key(function.name));
    let mut ranked: Vec<_> = built
        .iter()
        .enumerate()
        .filter_map(|(n, object)| {
            let size = object.defines.get(function.name);
            let near = neighbours.iter().filter(|name| object.defines.contains_key(**name)).count();
            if known && size.is_none() || near == 0 && size.is_none() {
                return None;
            }
            let named_so = source.is_some() && source == stem(&object.path);
            Some(((named_so, near, size == Some(&function.size)), n))
        })
        .collect();
    ranked.sort_by_key(|(likeness, n)| (Reverse(*likeness), *n));
    ranked.into_iter().map(|(_, n)| n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(path: &str, defines: &[(&str, u64)]) -> Built {
        let defines = defines.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        Built { path: path.into(), size: 0, defines }
    }

    fn check(source: Option<&str>, neighbours: &[&str], objects: &[Built], expect: &[&str]) {
        let function = Function { name: "f", address: 0, size: 16, source };
        let ranked = rank(&function, neighbours, objects);
        let paths: Vec<_> = ranked.iter().map(|n| objects[*n].path.to_string_lossy()).collect();
        assert_eq!(paths, expect);
    }

    #[test]
    fn the_neighbours_tell_functions_of_one_name_apart() {
        let objects = [
            built("fs/a.o", &[("f", 16), ("x", 1)]),
            built("mm/b.o", &[("f", 16), ("g", 1), ("h", 1)]),
            built("mm/c.o", &[("y", 1)]),
        ];
        check(None, &["g", "h", "x"], &objects, &["mm/b.o", "fs/a.o"]);
        check(None, &["x"], &objects, &["fs/a.o", "mm/b.o"]);
        check(None, &[], &objects, &["fs/a.o", "mm/b.o"]);
    }

    #[test]
    fn so_do_the_name_of_the_source_and_the_size() {
        let objects = [
            built("fs/a.o", &[("f", 16), ("x", 1)]),
            built("mm/b.o", &[("f", 16)]),
            built("mm/c.o", &[("f", 32)]),
        ];
        check(Some("b.c"), &["x"], &objects, &["mm/b.o", "fs/a.o", "mm/c.o"]);
        check(Some("d.c"), &[], &objects, &["fs/a.o", "mm/b.o", "mm/c.o"]);
    }

    #[test]
    fn a_function_that_the_last_build_did_not_have_is_where_its_neighbours_are() {
        let objects = [built("fs/a.o", &[("x", 1)]), built("mm/b.o", &[("g", 1), ("h", 1)])];
        check(None, &["g", "h", "x"], &objects, &["mm/b.o", "fs/a.o"]);
        check(None, &["other"], &objects, &[]);
    }

    #[test]
    fn the_objects_of_a_build_are_found_and_broken_ones_passed_over() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let put = |name: &str, data: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
            fs::write(path, data).expect("writable");
        };
        let myself = fs::read("/proc/self/exe").expect("readable");
        put("mm/a.o", &myself);
        put("scripts/a.o", &myself);
        put("vmlinux.o", &myself);
        put("mm/broken.o", b"\x7fELF");
        put("mm/a.c", b"");
        let found = scan(dir.path(), &HashSet::from(["main", "no such name"])).expect("readable");
        let paths: Vec<_> = found.iter().map(|built| built.path.as_path()).collect();
        assert_eq!(paths, [Path::new("mm/a.o")]);
    }
}
