//! Asks the compiler of the tree under test what its headers mean.
//!
//! What a series may change is never written down here: numbers, offsets and
//! sizes are what the tree's own compiler says, with the flags that the driver
//! was compiled with. The answers are read from assembler text, as the kernel's
//! own asm-offsets are: nothing of the tree is ever run.

pub(crate) mod layout;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};

use crate::context::Context;
use crate::kbuild::compiler;
use crate::proc::Cmd;
use crate::stop::Stop;

/// What kbuild saved of the compilation of the driver.
const COMMAND: &str = "lib/.test_hmm.o.cmd";

/// What is to be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// What kind of answer it is, in one word.
    pub(crate) kind: &'static str,
    /// Whose answer it is, in one word.
    pub(crate) name: String,
    /// A constant expression of C.
    pub(crate) value: String,
    /// A macro without which there is no answer.
    pub(crate) ifdef: Option<String>,
}

impl Question {
    /// A question that must have an answer.
    pub(crate) fn new(
        kind: &'static str,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        Question { kind, name: name.into(), value: value.into(), ifdef: None }
    }
}

/// What the compiler said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) value: u64,
}

/// Why there are no answers.
#[derive(Debug)]
pub(crate) enum Silence {
    /// The tree does not compile so: the compiler's first lines.
    Tree(Vec<String>),
    /// Something else stops the run.
    Stop(Stop),
}

/// Asks about what the text `includes` brings in, in the build directory `obj`
/// in which the tree was just built.
///
/// # Errors
/// [`Silence`].
pub(crate) async fn ask(
    ctx: &Context,
    obj: &Path,
    includes: &str,
    questions: &[Question],
) -> Result<Vec<Answer>, Silence> {
    let file = obj.join(COMMAND);
    let saved = fs::read_to_string(&file)
        .map_err(|_| Silence::Tree(vec!["it was built without lib/test_hmm.c".into()]))?;
    let stop = |error: anyhow::Error| Silence::Stop(error.into());
    let words = compiler(&saved)
        .with_context(|| format!("cannot understand {}", file.display()))
        .map_err(stop)?;
    let work = tempfile::tempdir().context("cannot make a temporary directory").map_err(stop)?;
    let (source, listing) = (work.path().join("ask.c"), work.path().join("ask.s"));
    fs::write(&source, program(includes, questions)).context("cannot write ask.c").map_err(stop)?;
    let command = Cmd::new(&words[0]).args(&words[1..]).args(["-w", "-S", "-o"]);
    let ended = command
        .arg(&listing)
        .arg(&source)
        .dir(obj)
        .run(&ctx.interrupt, |_| {})
        .await
        .map_err(Silence::Stop)?;
    if !ended.success() {
        return Err(Silence::Tree(ended.tail.into_iter().take(8).collect()));
    }
    let text = fs::read_to_string(&listing)
        .context("the compiler wrote no assembler text")
        .map_err(stop)?;
    answers(&text).map_err(|line| stop(anyhow!("the compiler's answer {line:?}")))
}

/// A program whose assembler text says the values.
fn program(includes: &str, questions: &[Question]) -> String {
    let mut c = format!("#include <linux/stddef.h>\n{includes}");
    c.push_str(
        "#define SAY(kind, name, value) \\\n\
         \tasm volatile(\"\\n.ascii \\\"->\" kind \" \" name \" %0\\\"\" \\\n\
         \t\t     : : \"i\" ((unsigned long)(value)))\n\
         void hmm_harness_ask(void);\nvoid hmm_harness_ask(void)\n{\n",
    );
    for Question { kind, name, value, ifdef } in questions {
        let say = format!("\tSAY(\"{kind}\", \"{name}\", {value});\n");
        match ifdef {
            Some(name) => write!(c, "#ifdef {name}\n{say}#endif\n"),
            None => write!(c, "{say}"),
        }
        .expect("writing to a string");
    }
    c.push_str("}\n");
    c
}

/// Reads the answers from the assembler text, or returns the line that is none.
fn answers(listing: &str) -> Result<Vec<Answer>, &str> {
    let mut answers = Vec::new();
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
        answers.push(Answer {
            kind: kind.to_owned(),
            name: name.to_owned(),
            value: value.cast_unsigned(),
        });
    }
    Ok(answers)
}

/// A text of C without `/* */` and `//`.
pub(crate) fn without_comments(text: &str) -> String {
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

/// What stands between the braces of a struct or enum in a text without
/// comments.
pub(crate) fn body<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    text.match_indices(tag).find_map(|(at, _)| {
        let before = text[..at].trim_end();
        if !(before.ends_with("struct") || before.ends_with("enum")) {
            return None;
        }
        let rest = text[at + tag.len()..].trim_start().strip_prefix('{')?;
        let mut depth = 0_u32;
        let end = rest.find(|c| {
            depth += u32::from(c == '{');
            let is_end = c == '}' && depth == 0;
            depth -= u32::from(c == '}' && depth > 0);
            is_end
        })?;
        Some(&rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_from_assembler_text() {
        let listing = "#APP\n# 9 \"ask.c\" 1\n\n.ascii \"->size cmd $40\"\n# 0 \"\" 2\n\
                       .ascii \"->ioctl READ $3223865344\"\n.ascii \"other\"\n";
        let said = answers(listing).expect("well formed");
        assert_eq!(said.len(), 2);
        assert_eq!(
            said[1],
            Answer { kind: "ioctl".into(), name: "READ".into(), value: 0xc028_4800 }
        );
        assert_eq!(answers(".ascii \"->prot ERROR %rax\""), Err(".ascii \"->prot ERROR %rax\""));
    }

    #[test]
    fn the_program_asks_every_question() {
        let questions = [
            Question::new("size", "cmd", "sizeof(struct cmd)"),
            Question { ifdef: Some("X_READ".into()), ..Question::new("ioctl", "READ", "X_READ") },
        ];
        let c = program("#include \"/s/a.h\"\n", &questions);
        for part in [
            "#include \"/s/a.h\"",
            "SAY(\"size\", \"cmd\", sizeof(struct cmd));",
            "#ifdef X_READ\n\tSAY(\"ioctl\", \"READ\", X_READ);\n#endif",
        ] {
            assert!(c.contains(part), "{part} in\n{c}");
        }
    }

    #[test]
    fn a_body_is_that_of_the_definition() {
        let text = "struct a *f(struct a x);\nstruct a {\n int b;\n};\nenum e { A, B };";
        assert_eq!(body(text, "a").map(str::trim), Some("int b;"));
        assert_eq!(body(text, "e").map(str::trim), Some("A, B"));
        assert_eq!(body(text, "z"), None);
        let nested = "struct s { union { int a; struct { int b; }; }; int c; }; struct t {";
        assert_eq!(body(nested, "s"), Some(" union { int a; struct { int b; }; }; int c; "));
        assert_eq!(body(nested, "t"), None);
    }
}
