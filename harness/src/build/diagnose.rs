//! What a failed build says: the first error, and whose fault it is.
//!
//! Nothing here does IO.

/// Who has to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// The tree does not build.
    Kernel,
    /// The machine lacks something.
    Machine {
        /// What to do about it.
        hint: &'static str,
    },
}

/// The error of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The line that says it.
    pub what: String,
    /// The lines around it.
    pub details: Vec<String>,
    /// Who has to mend it.
    pub whose: Whose,
}

const SPACE: &str = "free some space, or point HMM_HARNESS_CACHE at a disk that has it";
const MEMORY: &str = "free some memory: a build needs about 1 GiB for each core";
const PACKAGES: &str = "hmm-harness doctor";

/// Words of a line that make it the machine's fault, wherever it stands. They
/// are looked for first: a full disk also looks like an error of the compiler.
const MACHINE: &[(&str, &str)] = &[
    ("No space left on device", SPACE),
    ("Disk quota exceeded", SPACE),
    ("Killed signal terminated program", MEMORY),
    ("virtual memory exhausted", MEMORY),
    ("Cannot allocate memory", MEMORY),
    ("memory exhausted", MEMORY),
    ("out of memory allocating", MEMORY),
    ("command not found", PACKAGES),
    ("gelf.h: No such file", PACKAGES),
    ("libelf.h: No such file", PACKAGES),
    ("openssl/", PACKAGES),
    ("cannot find -lelf", PACKAGES),
    ("cannot execute 'cc1'", PACKAGES),
];

/// Words of a line that are an error of the tree.
const KERNEL: &[&str] = &[
    ": error: ",
    ": fatal error: ",
    ": Error: ",
    ": undefined reference to ",
    ": multiple definition of ",
    ": internal compiler error: ",
    "error: objtool",
    "relocation truncated to fit",
    "ld: error: ",
    "No rule to make target",
    "ERROR: modpost",
    "FAILED unresolved symbol",
];

/// A linker's errors begin like this, and so do its warnings.
const LINKER: &str = "ld: ";

/// What make says of a target whose command has failed, whatever that said.
const TARGET: &str = "*** [";

/// What make says of a makefile.
const MAKE: &str = "*** ";

/// How many lines before and after the error are shown.
const BEFORE: usize = 6;
const AFTER: usize = 8;

/// Finds the first error in the output of make.
pub fn diagnose(text: &str) -> Diagnosis {
    let lines: Vec<&str> = text.lines().collect();
    for (word, hint) in MACHINE {
        if let Some(at) = lines.iter().position(|l| is_machine(l, word)) {
            return at_line(&lines, at, Whose::Machine { hint });
        }
    }
    // A shell that does not find a program: `/bin/sh: 1: flex: not found`.
    let shell = |l: &&str| l.starts_with("/bin/sh: ") && l.ends_with(": not found");
    if let Some(at) = lines.iter().position(shell) {
        return at_line(&lines, at, Whose::Machine { hint: PACKAGES });
    }
    let first = |is: &dyn Fn(&str) -> bool| lines.iter().position(|line| is(line));
    let tree = |line: &str| KERNEL.iter().any(|word| line.contains(word));
    let linker = |line: &str| {
        line.contains(LINKER) && !["warning:", "NOTE:"].iter().any(|word| line.contains(word))
    };
    if let Some(at) = first(&tree).or_else(|| first(&linker)) {
        return at_line(&lines, at, Whose::Kernel);
    }
    if let Some(at) = first(&|line| line.contains(TARGET)) {
        return at_target(&lines, at);
    }
    match first(&|line| line.contains(MAKE)) {
        Some(at) => at_line(&lines, at, Whose::Kernel),
        None => Diagnosis {
            what: "make failed and did not say why".to_owned(),
            details: lines.iter().rev().take(AFTER).rev().map(|l| (*l).to_owned()).collect(),
            whose: Whose::Kernel,
        },
    }
}

/// `openssl/` and the like only count in an error about a header.
fn is_machine(line: &str, word: &str) -> bool {
    line.contains(word) && (!word.ends_with('/') || line.contains("No such file"))
}

fn at_line(lines: &[&str], at: usize, whose: Whose) -> Diagnosis {
    let before = lines[at.saturating_sub(BEFORE)..at].iter().rev().take_while(|l| leads(l)).count();
    let after = lines[at + 1..].iter().take(AFTER).take_while(|l| follows(l)).count();
    Diagnosis {
        what: lines[at].trim().to_owned(),
        details: lines[at - before..=at + after].iter().map(|l| (*l).to_owned()).collect(),
        whose,
    }
}

/// The target of make's line `at`: its command's last words are the best there are.
fn at_target(lines: &[&str], at: usize) -> Diagnosis {
    let said = lines[at.saturating_sub(BEFORE)..at].iter().rev();
    let said = said.take_while(|line| !starts_target(line) && !line.starts_with("make")).count();
    Diagnosis {
        what: lines[at - said.min(1)].trim().to_owned(),
        details: lines[at - said..=at].iter().map(|l| (*l).to_owned()).collect(),
        whose: Whose::Kernel,
    }
}

/// Whether a line introduces the error after it.
fn leads(line: &str) -> bool {
    line.starts_with("In file included from")
        || line.starts_with("                 from ")
        || line.contains(": In function ")
        || line.contains(": At top level:")
        || line.contains(": in function `")
        || line.contains(": note: ")
}

/// Whether a line belongs to the error before it: not a new target, nor make's
/// own last words, nor another error.
fn follows(line: &str) -> bool {
    !starts_target(line) && !line.starts_with("make") && !KERNEL.iter().any(|w| line.contains(w))
}

/// Whether a line says that make begins with a target: `  CC      mm/hmm.o`.
fn starts_target(line: &str) -> bool {
    line.starts_with("  ")
        && line
            .split_whitespace()
            .next()
            .is_some_and(|w| w.len() <= 8 && w.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, what: &str, details: usize, whose: &Whose) {
        let found = diagnose(text);
        assert_eq!((found.what.as_str(), &found.whose), (what, whose));
        assert_eq!(found.details.len(), details, "{:#?}", found.details);
    }

    #[test]
    fn a_program_that_fails_with_a_warning_is_quoted() {
        check(
            "ld: warning: a.o: missing .note.GNU-stack section implies executable stack\n\
             ld: NOTE: This behaviour is deprecated\n  AS      arch/x86/entry/thunk_64.o\n\
             a/thunk_64.o: warning: objtool: missing symbol table\n\
             make[3]: *** [scripts/Makefile.build:361: a/thunk_64.o] Error 1\n\
             make: *** [Makefile:185: __sub-make] Error 2\n",
            "a/thunk_64.o: warning: objtool: missing symbol table",
            2,
            &Whose::Kernel,
        );
    }

    #[test]
    fn the_first_compiler_error_with_its_lines() {
        check(
            "  CC      mm/a.o\nmm/a.c: In function 'f':\nmm/a.c:7:9: error: 'x' undeclared\n    \
             7 |   x = 1;\n      |   ^\n  CC      mm/b.o\nmm/b.c:1:1: error: other\n\
             make[3]: *** [scripts/Makefile.build:229: mm/a.o] Error 1\n",
            "mm/a.c:7:9: error: 'x' undeclared",
            4,
            &Whose::Kernel,
        );
    }

    #[test]
    fn a_missing_symbol_a_missing_file_a_missing_rule() {
        check(
            "  LD      vmlinux\nld: mm/a.o: in function `f':\na.c:(.text+0x1): undefined reference \
             to `g'\nmake[2]: *** [vmlinux] Error 1\n",
            "a.c:(.text+0x1): undefined reference to `g'",
            2,
            &Whose::Kernel,
        );
        check(
            "In file included from mm/a.c:3:\ninclude/a.h:1:10: fatal error: no.h: No such file or \
             directory\n    1 | #include <no.h>\n      |          ^~~~~~\ncompilation \
             terminated.\n",
            "include/a.h:1:10: fatal error: no.h: No such file or directory",
            5,
            &Whose::Kernel,
        );
        check(
            "make[3]: *** No rule to make target 'mm/a.o', needed by 'mm/built-in.a'.  Stop.\n",
            "make[3]: *** No rule to make target 'mm/a.o', needed by 'mm/built-in.a'.  Stop.",
            1,
            &Whose::Kernel,
        );
        check(
            "Makefile:700: *** missing separator.  Stop.\n",
            "Makefile:700: *** missing separator.  Stop.",
            1,
            &Whose::Kernel,
        );
        check(
            "make: *** [Makefile:224: __sub-make] Error 2",
            "make: *** [Makefile:224: __sub-make] Error 2",
            1,
            &Whose::Kernel,
        );
    }

    #[test]
    fn the_machine_comes_first() {
        check(
            "mm/a.c:1:1: error: x\nmm/b.c:9: fatal error: error writing to b.s: No space left on \
             device\n",
            "mm/b.c:9: fatal error: error writing to b.s: No space left on device",
            1,
            &Whose::Machine { hint: SPACE },
        );
        check(
            "gcc: fatal error: Killed signal terminated program cc1\n",
            "gcc: fatal error: Killed signal terminated program cc1",
            1,
            &Whose::Machine { hint: MEMORY },
        );
        check(
            "/bin/sh: 1: flex: not found\n",
            "/bin/sh: 1: flex: not found",
            1,
            &Whose::Machine { hint: PACKAGES },
        );
    }
}
