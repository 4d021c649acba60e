//! The driver's interface as the tree under test has it.
//!
//! A series may add, remove or renumber an ioctl, or move a member of its
//! argument, so neither names nor numbers are written down here: the names
//! come from the tree's own `lib/test_hmm_uapi.h`, and its own compiler says what
//! they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::anyhow;
use hmm_protocol::wire::Abi;

use crate::ask::{Answer, Question, Silence, ask, body, without_comments};
use crate::context::Context;
use crate::flow::Stage;
use crate::stop::{Fault, Stop};

/// The header, since 5.8.
const HEADER: &str = "lib/test_hmm_uapi.h";
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
    let includes = format!("#include \"{}\"\n", src.join(HEADER).display());
    let answers = match ask(ctx, obj, &includes, &questions(&names)).await {
        Ok(answers) => answers,
        Err(Silence::Stop(stop)) => return Err(stop),
        Err(Silence::Tree(lines)) => {
            return Err(Stop::Kernel(
                Fault::new(format!("{HEADER} does not compile on its own"))
                    .at(Stage::Build)
                    .details(lines),
            ));
        }
    };
    let abi = values(answers);
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
    let body = body(text, STRUCT)?;
    let name = |declaration: &str| {
        let declared = declaration.split('[').next()?.trim_end();
        let word = declared.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next()?;
        (!word.is_empty()).then(|| word.to_owned())
    };
    let declarations = body.split(';').filter(|d| !d.trim().is_empty() && !d.contains(':'));
    Some(declarations.flat_map(|d| d.split(',')).filter_map(name).collect())
}

/// What is asked about the names. What a preprocessor condition took out of the
/// header has no answer.
fn questions(names: &Names) -> Vec<Question> {
    let mut questions = vec![Question::new("size", STRUCT, format!("sizeof(struct {STRUCT})"))];
    questions.extend(names.members.iter().map(|member| {
        Question::new("offset", member, format!("offsetof(struct {STRUCT}, {member})"))
    }));
    questions
        .extend(names.prots.iter().map(|prot| Question::new("prot", &prot[PROT.len()..], prot)));
    questions.extend(names.ioctls.iter().map(|ioctl| Question {
        ifdef: Some(ioctl.clone()),
        ..Question::new("ioctl", &ioctl[PREFIX.len()..], ioctl)
    }));
    questions
}

/// What the answers come to.
fn values(answers: Vec<Answer>) -> Abi {
    let mut abi = Abi::default();
    for Answer { kind, name, value } in answers {
        match kind.as_str() {
            "size" => abi.cmd_size = value,
            "offset" => drop(abi.cmd_offsets.insert(name, value)),
            "ioctl" => drop(abi.ioctls.insert(name, value)),
            // Snapshots hold one byte for each page.
            _ => drop(abi.prots.insert(name, u8::try_from(value).unwrap_or(u8::MAX))),
        }
    }
    abi
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
    fn every_name_is_asked_about() {
        let questions = questions(&names(OLD));
        for (kind, name, value, ifdef) in [
            ("size", STRUCT, "sizeof(struct hmm_dmirror_cmd)", None),
            ("offset", "faults", "offsetof(struct hmm_dmirror_cmd, faults)", None),
            ("ioctl", "MIGRATE", "HMM_DMIRROR_MIGRATE", Some("HMM_DMIRROR_MIGRATE".to_owned())),
            ("prot", "NONE", "HMM_DMIRROR_PROT_NONE", None),
        ] {
            let wanted = Question { ifdef, ..Question::new(kind, name, value) };
            assert!(questions.contains(&wanted), "{wanted:?}");
        }
    }
}
