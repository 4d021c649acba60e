//! The driver's interface as the tree under test has it.
//!
//! A series may add, remove or renumber an ioctl, or move a member of its
//! argument, so neither names nor numbers are written down here: the names
//! come from the tree's own `lib/test_hmm_uapi.h`, and its own compiler, with
//! the flags that the driver was compiled with, says what they are. The values
//! are read from assembler text, as the kernel's own asm-offsets are: nothing
//! of the tree is ever run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use hmm_protocol::wire::Abi;

use crate::context::Context;
use crate::flow::Stage;
use crate::kbuild::compiler;
use crate::proc::Cmd;
use crate::stop::{Fault, Stop};

/// The header, since 5.8.
const HEADER: &str = "lib/test_hmm_uapi.h";
/// What kbuild saved of the compilation of the driver.
const COMMAND: &str = "lib/.test_hmm.o.cmd";
const PREFIX: &str = "HMM_DMIRROR_";
const PROT: &str = "HMM_DMIRROR_PROT_";
const STRUCT: &str = "hmm_dmirror_cmd";

/// Reads the interface from a source directory and the build directory in
/// which it was just built.
///
/// # Errors
/// [`Stop::Kernel`] when the tree has no such driver, or its header does not
/// have what the tests need.
pub async fn read(ctx: &Context, src: &Path, obj: &Path) -> Result<Abi, Stop> {
    let lacks = |what: &str| {
        Stop::Kernel(
            Fault::new(format!("this kernel cannot be tested: {what}"))
                .at(Stage::Build)
                .hint("lib/test_hmm.c is in mainline since 5.8"),
        )
    };
    let text = fs::read(src.join(HEADER)).map_err(|_| lacks(&format!("it has no {HEADER}")))?;
    let names = names(&String::from_utf8_lossy(&text));
    if names.ioctls.is_empty() || names.members.is_empty() {
        return Err(lacks(&format!("{HEADER} declares no struct {STRUCT} or no ioctl")));
    }
    let saved = fs::read_to_string(obj.join(COMMAND))
        .map_err(|_| lacks("it was built without lib/test_hmm.c"))?;
    let words = compiler(&saved)
        .with_context(|| format!("cannot understand {}", obj.join(COMMAND).display()))?;

    let work = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (source, listing) = (work.path().join("abi.c"), work.path().join("abi.s"));
    fs::write(&source, program(&names, &src.join(HEADER))).context("cannot write abi.c")?;
    let command = Cmd::new(&words[0]).args(&words[1..]).args(["-w", "-S", "-o"]);
    let ended = command.arg(&listing).arg(&source).dir(obj).run(&ctx.interrupt, |_| {}).await?;
    if !ended.success() {
        return Err(Stop::Kernel(
            Fault::new(format!("{HEADER} does not compile on its own"))
                .at(Stage::Build)
                .details(ended.tail.into_iter().take(8)),
        ));
    }
    let listing = fs::read_to_string(&listing).context("the compiler wrote no assembler text")?;
    let abi = values(&listing).map_err(|line| anyhow!("the compiler's answer {line:?}"))?;
    let answered = abi.cmd_size > 0
        && abi.cmd_offsets.len() == names.members.len()
        && abi.prots.len() == names.prots.len();
    if !answered {
        return Err(anyhow!("the compiler did not answer all that was asked of {HEADER}").into());
    }
    Ok(abi)
}

/// The names that a header has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    /// Macros that are ioctl numbers.
    ioctls: BTreeSet<String>,
    /// Macros or enumerators of what a snapshot says of a page.
    prots: BTreeSet<String>,
    /// The members of the ioctls' argument.
    members: BTreeSet<String>,
}

/// Finds the names in the header's text.
fn names(header: &str) -> Names {
    let text = without_comments(header);
    let mut names = Names::default();
    for line in text.lines() {
        let Some(define) = line.trim_start().strip_prefix('#') else { continue };
        let Some(define) = define.trim_start().strip_prefix("define") else { continue };
        let mut words = define.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        if name.starts_with(PREFIX) && value.starts_with("_IO") {
            names.ioctls.insert(name.to_owned());
        }
    }
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    names.prots =
        words.filter(|w| w.len() > PROT.len() && w.starts_with(PROT)).map(str::to_owned).collect();
    names.members = members(&text).unwrap_or_default();
    names
}

/// The names of the members of the struct. Bit-fields have no offset and are
/// left out.
fn members(text: &str) -> Option<BTreeSet<String>> {
    let bodies = text.match_indices(STRUCT).filter_map(|(at, _)| {
        text[at + STRUCT.len()..].trim_start().strip_prefix('{')?.split_once('}')
    });
    let (body, _) = { bodies }.next()?;
    let name = |declaration: &str| {
        let declared = declaration.split('[').next()?.trim_end();
        let word = declared.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next()?;
        (!word.is_empty()).then(|| word.to_owned())
    };
    let declarations = body.split(';').filter(|d| !d.trim().is_empty() && !d.contains(':'));
    Some(declarations.flat_map(|d| d.split(',')).filter_map(name).collect())
}

/// A text without `/* */` and `//`.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/*").into_iter().chain(rest.find("//")).min() {
        out.push_str(&rest[..at]);
        let block = rest[at..].starts_with("/*");
        let end = if block { "*/" } else { "\n" };
        let Some(length) = rest[at + 2..].find(end) else { return out };
        // A comment counts as a space; the end of a line stays one.
        out.push(' ');
        rest = &rest[at + 2 + length + if block { 2 } else { 0 }..];
    }
    out.push_str(rest);
    out
}

/// A program whose assembler text says the values. What a preprocessor
/// condition took out of the header is left out here too.
fn program(names: &Names, header: &Path) -> String {
    let mut c = format!("#include <linux/stddef.h>\n#include \"{}\"\n", header.display());
    c.push_str(
        "#define SAY(kind, name, value) \\\n\
         \tasm volatile(\"\\n.ascii \\\"->\" kind \" \" name \" %0\\\"\" \\\n\
         \t\t     : : \"i\" ((unsigned long)(value)))\n\
         void hmm_harness_abi(void);\nvoid hmm_harness_abi(void)\n{\n",
    );
    let mut say = |kind: &str, name: &str, value: &str| {
        writeln!(c, "\tSAY(\"{kind}\", \"{name}\", {value});").expect("writing to a string");
    };
    say("size", STRUCT, &format!("sizeof(struct {STRUCT})"));
    for member in &names.members {
        say("offset", member, &format!("offsetof(struct {STRUCT}, {member})"));
    }
    for prot in &names.prots {
        say("prot", &prot[PROT.len()..], prot);
    }
    for ioctl in &names.ioctls {
        writeln!(c, "#ifdef {ioctl}").expect("writing to a string");
        let short = &ioctl[PREFIX.len()..];
        writeln!(c, "\tSAY(\"ioctl\", \"{short}\", {ioctl});\n#endif")
            .expect("writing to a string");
    }
    c.push_str("}\n");
    c
}

/// Reads the values from the assembler text, or returns the line that has none.
fn values(listing: &str) -> Result<Abi, &str> {
    let mut abi = Abi::default();
    for line in listing.lines() {
        let Some((_, said)) = line.split_once(".ascii \"->") else { continue };
        let mut words = said.trim_end_matches('"').split_whitespace();
        let (Some(kind), Some(name), Some(value)) = (words.next(), words.next(), words.next())
        else {
            return Err(line);
        };
        // An immediate operand: `$24` on x86.
        let Ok(value) = value.trim_start_matches(['$', '#']).parse::<i64>() else {
            return Err(line);
        };
        let value = value.cast_unsigned();
        match kind {
            "size" => abi.cmd_size = value,
            "offset" => insert(&mut abi.cmd_offsets, name, value),
            "ioctl" => insert(&mut abi.ioctls, name, value),
            "prot" => {
                // Snapshots hold one byte for each page.
                abi.prots.insert(name.to_owned(), u8::try_from(value).unwrap_or(u8::MAX));
            }
            _ => return Err(line),
        }
    }
    Ok(abi)
}

fn insert(map: &mut BTreeMap<String, u64>, name: &str, value: u64) {
    map.insert(name.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the manner of 5.8, in words of our own.
    const OLD: &str = "\
/* What HMM_DMIRROR_PROT_NOTHING says here does not count. */
struct hmm_dmirror_cmd {
	__u64 addr; // struct hmm_dmirror_cmd { __u64 wrong; }
	__u64		ptr;
	__u64 npages,
	      cpages;
	__u64 faults;	/* how many */
	__u8 spare[4];
	__u32 bit:1;
};

#define HMM_DMIRROR_READ	_IOWR('H', 0x00, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_WRITE	_IOWR('H', 0x01, struct hmm_dmirror_cmd)
#  define HMM_DMIRROR_MIGRATE	_IOWR('H', 0x02, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_SNAPSHOT	_IOWR('H', 0x03, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_RELEASE	_IO('H', 0x04)
#define HMM_DMIRROR_PAGES	4
enum {
	HMM_DMIRROR_PROT_ERROR = 0xFF,
	HMM_DMIRROR_PROT_NONE,
	HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL = 0x20
};
";

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn names_come_from_the_header_and_not_from_its_comments() {
        let names = names(OLD);
        let ioctls = ["READ", "WRITE", "MIGRATE", "SNAPSHOT", "RELEASE"];
        assert_eq!(names.ioctls, ioctls.iter().map(|n| format!("{PREFIX}{n}")).collect());
        let prots = ["ERROR", "NONE", "DEV_PRIVATE_LOCAL"];
        assert_eq!(names.prots, prots.iter().map(|n| format!("{PROT}{n}")).collect());
        let members = ["addr", "ptr", "npages", "cpages", "faults", "spare"];
        assert_eq!(names.members, set(&members));
    }

    #[test]
    fn values_are_read_from_assembler_text() {
        let listing = "#APP\n# 9 \"abi.c\" 1\n\n.ascii \"->size hmm_dmirror_cmd $40\"\n# 0 \"\" 2\n\
                       .ascii \"->offset ptr $8\"\n.ascii \"->ioctl READ $3223865344\"\n\
                       .ascii \"->prot ERROR $255\"\n.ascii \"other\"\n";
        let abi = values(listing).expect("well formed");
        assert_eq!(values(".ascii \"->prot ERROR %rax\""), Err(".ascii \"->prot ERROR %rax\""));
        assert_eq!(abi.cmd_size, 40);
        assert_eq!(abi.cmd_offsets["ptr"], 8);
        assert_eq!(abi.ioctls["READ"], 0xc028_4800);
        assert_eq!(abi.prots["ERROR"], 255);
    }

    #[test]
    fn the_program_asks_for_every_name() {
        let c = program(&names(OLD), Path::new("/s/lib/test_hmm_uapi.h"));
        for part in [
            "#include \"/s/lib/test_hmm_uapi.h\"",
            "SAY(\"size\", \"hmm_dmirror_cmd\", sizeof(struct hmm_dmirror_cmd));",
            "SAY(\"offset\", \"faults\", offsetof(struct hmm_dmirror_cmd, faults));",
            "#ifdef HMM_DMIRROR_MIGRATE\n\tSAY(\"ioctl\", \"MIGRATE\", HMM_DMIRROR_MIGRATE);\n#endif",
            "SAY(\"prot\", \"NONE\", HMM_DMIRROR_PROT_NONE);",
        ] {
            assert!(c.contains(part), "{part} in\n{c}");
        }
    }
}
