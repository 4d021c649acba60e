//! What kconfig reads and writes: file names, `.config` lines, declarations.
//!
//! Nothing here does IO.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::fragment::{Request, Value};

/// Whether `make tinyconfig` and `make allnoconfig` for x86 can read this file
/// of a tree: the Makefiles, the helpers they build and call, and everything
/// named `Kconfig*`. Those of other architectures are among them, since
/// `crypto/Kconfig` and `drivers/firmware/Kconfig` include some in every case.
pub fn is_read_by_kconfig(path: &str) -> bool {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    match dir {
        "" => name == "Makefile" || name.starts_with("Kconfig"),
        "arch/x86" => name.starts_with("Makefile") || name.starts_with("Kconfig"),
        "arch/x86/configs" | "kernel/configs" | "scripts" => true,
        _ => dir.starts_with("scripts/") || name.starts_with("Kconfig"),
    }
}

/// The lines of a `.config`, as values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved(BTreeMap<String, Value>);

impl Resolved {
    /// Reads a `.config`. A line that kconfig would not have written is taken
    /// as a string.
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            if let Some(symbol) = line.strip_prefix("# CONFIG_") {
                return Some((symbol.strip_suffix(" is not set")?.to_owned(), Value::No));
            }
            let (symbol, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            let value = Value::parse(value).unwrap_or_else(|| Value::Text(value.to_owned()));
            Some((symbol.to_owned(), value))
        };
        Resolved(text.lines().filter_map(line).collect())
    }

    /// What a symbol is, `None` if there is no line for it.
    pub fn get(&self, symbol: &str) -> Option<&Value> {
        self.0.get(symbol)
    }

    /// The text for `KCONFIG_ALLCONFIG` that has these lines where they are
    /// not `n`, and then the requests: a request comes last, since the last
    /// member of a choice that is set wins it.
    pub fn with(&self, requests: &[Request]) -> String {
        let mut text = String::new();
        let requested = |symbol: &str| requests.iter().any(|r| r.symbol == symbol);
        for (symbol, value) in &self.0 {
            if *value != Value::No && !requested(symbol) {
                writeln!(text, "CONFIG_{symbol}={value}").expect("writing to a string");
            }
        }
        for request in requests {
            writeln!(text, "{}", request.line()).expect("writing to a string");
        }
        text
    }
}

/// A request that the resolved configuration does not contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// What was requested.
    pub request: Request,
    /// What it became, `None` if there is no line for it.
    pub became: Option<Value>,
}

/// The requests that are not contained in `resolved`.
pub fn misses(requests: &[Request], resolved: &Resolved) -> Vec<Miss> {
    let miss = |request: &Request| {
        let became = resolved.get(&request.symbol);
        let met = match became {
            Some(value) => value.same(&request.value),
            None => request.value == Value::No,
        };
        (!met).then(|| Miss { request: request.clone(), became: became.cloned() })
    };
    requests.iter().filter_map(miss).collect()
}

/// The `depends on` lines of a symbol's declarations in one Kconfig file:
/// line number, text. `None` if the file does not declare it.
///
/// An empty answer is a declaration without conditions of its own; those of
/// the menus around it are not looked for.
pub fn declaration(symbol: &str, text: &str) -> Option<Vec<(usize, String)>> {
    let mut found: Option<Vec<(usize, String)>> = None;
    let mut inside = false;
    let mut continued = false;
    for (n, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or("");
        if continued {
            if let (true, Some(lines)) = (inside, &mut found) {
                lines.push((n + 1, line.trim().to_owned()));
            }
        } else if matches!(first, "config" | "menuconfig") {
            inside = words.next() == Some(symbol);
            if inside {
                found.get_or_insert_default();
            }
        } else if !line.starts_with([' ', '\t']) && !first.is_empty() && !first.starts_with('#') {
            inside = false;
        } else if inside && first == "depends" {
            found.get_or_insert_default().push((n + 1, line.trim().to_owned()));
        }
        continued = inside && line.ends_with('\\') && (continued || first == "depends");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_fragment;

    #[test]
    fn no_code_is_read() {
        let check = |path: &str, expect: bool| {
            assert_eq!(is_read_by_kconfig(path), expect, "{path}");
        };
        check("Makefile", true);
        check("Kconfig", true);
        check("mm/Kconfig.debug", true);
        check("arch/Kconfig", true);
        check("arch/x86/Kconfig.cpu", true);
        check("arch/x86/Makefile_32.cpu", true);
        check("arch/x86/configs/tiny.config", true);
        check("arch/x86/kvm/Kconfig", true);
        check("scripts/kconfig/conf.c", true);
        check("kernel/configs/tiny.config", true);
        check("arch/arm/crypto/Kconfig", true);
        check("arch/arm/Makefile", false);
        check("arch/x86/kernel/Makefile", false);
        check("mm/Makefile", false);
        check("mm/migrate_device.c", false);
        check("Documentation/kbuild/kconfig.rst", false);
    }

    #[test]
    fn contained_is_by_value_and_absent_is_n() {
        let resolved = Resolved::parse(
            "#\n# Linux/x86\n#\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=0x10\nCONFIG_S=\"\"\n",
        );
        let wanted = "CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=n\nCONFIG_N=16\nCONFIG_S=\"\"\n";
        let requests = parse_fragment("x", wanted).expect("good");
        assert_eq!(misses(&requests, &resolved), []);

        let wanted = "CONFIG_A=n\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_N=17\n";
        let requests = parse_fragment("x", wanted).expect("good");
        let became: Vec<Option<Value>> =
            misses(&requests, &resolved).into_iter().map(|m| m.became).collect();
        let number = Value::Number("0x10".into());
        assert_eq!(became, [Some(Value::Yes), Some(Value::No), None, Some(number)]);
    }

    #[test]
    fn requests_come_last_and_win() {
        let tiny = Resolved::parse("CONFIG_A=y\nCONFIG_S=\"x\"\n# CONFIG_B is not set\n");
        let requests = parse_fragment("x", "CONFIG_A=n\nCONFIG_C=y\n").expect("good");
        assert_eq!(tiny.with(&requests), "CONFIG_S=\"x\"\nCONFIG_A=n\nCONFIG_C=y\n");
    }

    #[test]
    fn conditions_are_quoted_with_their_lines() {
        let text = "config OTHER\n\tbool\n\tdepends on X\n\n# between\nconfig DEVICE_PRIVATE\n\
                    \tbool \"memory\"\n\tdepends on ZONE_DEVICE && \\\n\t\t   MMU\n\tdepends on Y\n\
                    \thelp\n\t  It depends on much.\n\nmenu \"more\"\n\tdepends on Z\n";
        let lines = |s: &str| declaration(s, text);
        let expect: Vec<(usize, String)> = vec![
            (8, "depends on ZONE_DEVICE && \\".into()),
            (9, "MMU".into()),
            (10, "depends on Y".into()),
        ];
        assert_eq!(lines("DEVICE_PRIVATE"), Some(expect));
        assert_eq!(lines("OTHER"), Some(vec![(3, "depends on X".into())]));
        assert_eq!(lines("DEVICE"), None);
    }
}
