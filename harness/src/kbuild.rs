//! What kbuild keeps of a compilation, so that it can be done again.
//!
//! Beside `name.o` lies `.name.o.cmd`, text for make to read again: the command
//! (`savedcmd_name.o`, in older kernels `cmd_name.o`), the source (`source_name.o`)
//! and all that it included. Nothing here does IO.

/// The compiler's part of a command that kbuild saved, ready for other input
/// and output: without what names those, and what writes dependencies.
pub(crate) fn compiler(saved: &str) -> Option<Vec<String>> {
    let command = value(saved, &["savedcmd_", "cmd_"])?;
    // As scripts/Kbuild.include writes it for make to read again (make-cmd).
    let command = command.replace("$(pound)", "#").replace("\\#", "#").replace("$$", "$");
    let mut words = shell_words(&command)?.into_iter();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        let is_input = word.ends_with(".c") && !word.starts_with('-');
        match word.as_str() {
            "-o" => drop(words.next()?),
            "-c" => {}
            // Its argument is a header, and stays.
            "-include" => kept.extend([word, words.next()?]),
            _ if is_input || word.starts_with("-Wp,-M") => {}
            _ => kept.push(word),
        }
    }
    (!kept.is_empty()).then_some(kept)
}

/// The file that was compiled, as the command named it: absolute, or relative
/// to the build directory where the build itself had made it. `None` where the
/// object was put together from others.
pub(crate) fn source(saved: &str) -> Option<&str> {
    value(saved, &["source_"])
}

/// The files from which an object was made: its source, and all that it included.
/// Named as in [`source`].
pub(crate) fn inputs(saved: &str) -> impl Iterator<Item = &str> {
    let included = saved.lines().skip_while(|line| !line.starts_with("deps_")).skip(1);
    let included = included.take_while(|line| !line.trim().is_empty());
    let included = included.map(|line| line.trim_end_matches('\\').trim());
    // What is not a name is a symbol of the configuration, on which it depends.
    source(saved).into_iter().chain(included.filter(|name| !name.starts_with('$')))
}

/// What the first variable with one of these prefixes is set to.
fn value<'a>(saved: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    let line = saved.lines().find(|l| prefixes.iter().any(|p| l.starts_with(p)))?;
    Some(line.split_once(" := ")?.1.trim_end())
}

/// The words of the first command of a shell's line.
fn shell_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ';' | '&' | '|' => break,
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => word.push(chars.next()?),
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_command_becomes_a_compiler() {
        let saved = "savedcmd_lib/test_hmm.o := gcc -Wp,-MMD,lib/.test_hmm.o.d -nostdinc -I/s/include \
                     -include /s/include/linux/kconfig.h -DKBUILD_MODNAME='\"test_hmm\"' \
                     -DX=\\\"x\\\" -DP=$(pound) -c -o lib/test_hmm.o /s/lib/test_hmm.c   ; \
                     ./tools/objtool/objtool --orc lib/test_hmm.o\n\nsource_lib/test_hmm.o := x\n";
        let expect = [
            "gcc",
            "-nostdinc",
            "-I/s/include",
            "-include",
            "/s/include/linux/kconfig.h",
            "-DKBUILD_MODNAME=\"test_hmm\"",
            "-DX=\"x\"",
            "-DP=#",
        ];
        assert_eq!(compiler(saved).expect("well-formed"), expect);
        let old = "cmd_lib/test_hmm.o := gcc -Wp,-MD,lib/.test_hmm.o.d -O2 -c -o a.o /s/a.c\n";
        assert_eq!(compiler(old).expect("well-formed"), ["gcc", "-O2"]);
        assert_eq!(source(saved), Some("x"));
        assert_eq!(source(old), None);
        assert_eq!(compiler("cmd_x := gcc 'open"), None);
        assert_eq!(compiler(""), None);
    }
}
