//! A comparison in words: for a terminal, a pull request, another program, and a
//! mailing list.

use std::fmt::Write as _;

use crate::markdown::code;
use crate::results::{About, Change, Comparison, Given, Results};
use crate::words::{clean, line};

/// As what it is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a terminal
    #[default]
    Text,
    /// For a pull request
    Markdown,
    /// For another program
    Json,
    /// For a reply on a mailing list: plain, 72 columns
    Mail,
}

/// How many columns a mail has.
const COLUMNS: usize = 72;

/// How many things of a kind are told; in JSON there are all of them.
const ITEMS: usize = 50;

/// Something to say, and what shows it.
struct Item {
    head: String,
    lines: Vec<String>,
}

/// What there is to say of a comparison beside it.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// Which two they are, behind the number of tests.
    pub of: String,
    /// What was tested in the second, and where, line by line.
    pub tested: Vec<String>,
    /// The commands that show it again.
    pub again: Vec<String>,
}

/// Tells a comparison.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn tell(found: &Comparison, words: &Words, format: Format) -> serde_json::Result<String> {
    let sections = sections(found);
    let tests = match found.compared {
        1 => "1 test".to_owned(),
        n => format!("{n} tests"),
    };
    let head = line(&format!("{tests} {}", words.of));
    let counts = counts(found);
    Ok(match format {
        Format::Text => plain(&head, &sections, &counts),
        Format::Markdown => markdown(&head, &sections, &counts),
        // A terminal may be what reads it.
        Format::Json => escaped(&serde_json::to_string_pretty(found)?) + "\n",
        Format::Mail => mail(&head, &sections, &counts, words),
    })
}

/// What is not as in the baseline, for the closing words of a run.
pub fn against_baseline(found: &Comparison) -> String {
    let mut text = String::new();
    for (title, items) in sections(found) {
        put(&mut text, format_args!("{title}, held against the baseline:"));
        indented(&mut text, &items);
    }
    put(&mut text, format_args!("against the baseline: {}", counts(found)));
    if !found.worse.is_empty() {
        let words = "if that is meant to be: `baseline update FILE` accepts it, and `allow:` in \
                     the plan names an event that may change";
        put(&mut text, format_args!("{words}"));
    }
    text
}

/// The same in Markdown.
pub fn against_baseline_in_markdown(found: &Comparison) -> String {
    markdown("held against the baseline", &sections(found), &counts(found))
}

/// What a run is called, in a few words.
pub fn name(results: &Results) -> String {
    let kernel = &results.kernel;
    let release = if kernel.release.is_empty() { "no kernel" } else { &kernel.release };
    match kernel.series.len() {
        0 => release.to_owned(),
        1 => format!("{release} with a patch"),
        n => format!("{release} with {n} patches"),
    }
}

/// The headings.
const GIVEN: &str = "not the same from the start";
const WORSE: &str = "worse";
const ALLOWED: &str = "changed as the plan allows";
const BETTER: &str = "better";
const UNSEEN: &str = "allowed by the plan, and not seen";
const OTHER: &str = "neither better nor worse";

type Sections = Vec<(&'static str, Vec<Item>)>;

fn sections(found: &Comparison) -> Sections {
    let sections = [
        (GIVEN, found.given.iter().map(given).collect()),
        (WORSE, items(&found.worse)),
        (ALLOWED, items(&found.allowed)),
        (UNSEEN, found.unseen.iter().map(|allowed| unseen(allowed)).collect()),
        (BETTER, items(&found.better)),
        (OTHER, items(&found.other)),
    ];
    let mut sections: Sections =
        sections.into_iter().filter(|(_, items): &(_, Vec<Item>)| !items.is_empty()).collect();
    for (_, items) in &mut sections {
        let more = items.len().saturating_sub(ITEMS);
        items.truncate(ITEMS);
        if more > 0 {
            items.push(Item { head: format!("and {more} more"), lines: Vec::new() });
        }
    }
    sections
}

fn counts(found: &Comparison) -> String {
    let allowed = match found.allowed.len() {
        0 => String::new(),
        n => format!("{n} allowed, "),
    };
    let [worse, better, other] =
        [&found.worse, &found.better, &found.other].map(|changes| changes.len());
    format!("{worse} worse, {allowed}{better} better, {other} neither")
}

fn items(changes: &[Change]) -> Vec<Item> {
    changes.iter().map(item).collect()
}

fn item(change: &Change) -> Item {
    let Change { about, evidence, .. } = change;
    let all = change.shown_by();
    let what = change.in_a_line();
    // What the kernel sends or says is the news; which tests show it comes behind.
    let (head, first) = match about {
        About::Trace => (format!("trace: {what}"), Some(format!("in {all}"))),
        About::Console => (format!("console: {what}"), Some(format!("in {all}"))),
        _ => (format!("{all}: {what}"), None),
    };
    let lines = first.into_iter().chain(evidence.iter().cloned());
    Item { head: line(&head), lines: lines.map(|text| line(&text)).collect() }
}

fn unseen(allowed: &str) -> Item {
    Item { head: line(allowed), lines: Vec::new() }
}

fn given(given: &Given) -> Item {
    let or_none = |text: &String| if text.is_empty() { "none".to_owned() } else { text.clone() };
    let (before, after) = (or_none(&given.before), or_none(&given.after));
    let head = line(&format!("{}: {before} -> {after}", given.what));
    Item { head, lines: Vec::new() }
}

fn plain(head: &str, sections: &[(&str, Vec<Item>)], counts: &str) -> String {
    let mut text = format!("{head}\n");
    for (title, items) in sections {
        put(&mut text, format_args!("{title}:"));
        indented(&mut text, items);
    }
    put(&mut text, format_args!("{counts}"));
    text
}

fn indented(text: &mut String, items: &[Item]) {
    for Item { head, lines } in items {
        put(text, format_args!("  {head}"));
        lines.iter().for_each(|more| put(text, format_args!("      {more}")));
    }
}

fn markdown(head: &str, sections: &[(&str, Vec<Item>)], counts: &str) -> String {
    let mut text = format!("**{counts}**: {}\n", code(head));
    for (title, items) in sections {
        put(&mut text, format_args!("\n### {title}\n"));
        for Item { head, lines } in items {
            put(&mut text, format_args!("- {}", code(head)));
            lines.iter().for_each(|more| put(&mut text, format_args!("  - {}", code(more))));
        }
    }
    text
}

fn mail(head: &str, sections: &[(&str, Vec<Item>)], counts: &str, words: &Words) -> String {
    let mut text = String::new();
    fold(&mut text, "", &format!("I ran {head}: {counts}."));
    for (title, items) in sections {
        put(&mut text, format_args!("\n{title}:"));
        for Item { head, lines } in items {
            fold(&mut text, "- ", head);
            lines.iter().for_each(|more| fold(&mut text, "    ", more));
        }
    }
    if !words.tested.is_empty() {
        put(&mut text, format_args!("\ntested:"));
        words.tested.iter().for_each(|more| fold(&mut text, "- ", &line(more)));
    }
    if !words.again.is_empty() {
        put(&mut text, format_args!("\nto see it again:"));
        // A command is to be pasted, so it stays on its line.
        words.again.iter().for_each(|command| put(&mut text, format_args!("    {command}")));
    }
    text
}

/// JSON in which nothing is a character that drives a terminal or hides: such ones
/// stand only within strings, where an escape means the same.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if c == '\n' || !clean(c.encode_utf8(&mut [0; 4])).is_empty() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                write!(out, "\\u{unit:04x}").expect("writing to a string");
            }
        }
    }
    out
}

/// Breaks a line between words so that it fits into a mail.
fn fold(text: &mut String, indent: &str, words: &str) {
    let mut row = indent.to_owned();
    let mut empty = true;
    for word in words.split(' ') {
        if !empty && row.chars().count() + 1 + word.chars().count() > COLUMNS {
            put(text, format_args!("{row}"));
            row = " ".repeat(indent.len());
            empty = true;
        }
        if !empty {
            row.push(' ');
        }
        row.push_str(word);
        empty = false;
    }
    put(text, format_args!("{row}"));
}

fn put(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{hostile_texts, run};

    fn found() -> Comparison {
        let change = |about, before: &str, after: &str, evidence: &[&str]| Change {
            tests: (0..8).map(|n| format!("hmm.test_{n}.private")).collect(),
            about,
            operation: (about == About::Trace).then(|| "to-device".to_owned()),
            before: before.into(),
            after: after.into(),
            evidence: evidence.iter().map(|line| (*line).to_owned()).collect(),
        };
        let trace = change(About::Trace, "MIGRATE", "CLEAR", &["- MIGRATE", "+ CLEAR"]);
        let said = change(
            About::Console,
            "in silence",
            "WARNING: `rm` \u{1b}[31m\n- # <b>",
            &["console.log:7: WARNING"],
        );
        let given =
            vec![Given { what: "series".into(), before: String::new(), after: "mm: x".into() }];
        Comparison {
            schema: super::super::SCHEMA.into(),
            given,
            worse: vec![trace, said],
            allowed: Vec::new(),
            unseen: Vec::new(),
            better: Vec::new(),
            other: Vec::new(),
            compared: 60,
        }
    }

    fn told(format: Format) -> String {
        let words = Words {
            of: format!("on {}, and on 6.12.1 with a patch", name(&run(Vec::new()))),
            tested: vec!["profile default".into()],
            again: vec!["hmm-harness run-kernel-tests --plan /runs/b/plan.yaml".into()],
        };
        tell(&found(), &words, format).expect("plain data")
    }

    #[test]
    fn regressions_come_first() {
        let text = told(Format::Text);
        assert_eq!(
            text.lines().take(6).collect::<Vec<_>>(),
            [
                "60 tests on 6.12.1, and on 6.12.1 with a patch",
                "not the same from the start:",
                "  series: none -> mm: x",
                "worse:",
                "  trace: to-device: MIGRATE -> CLEAR",
                "      in hmm.test_0.private, hmm.test_1.private, hmm.test_2.private, \
                 hmm.test_3.private, hmm.test_4.private, hmm.test_5.private and 2 more",
            ]
        );
        assert!(text.contains("      - MIGRATE\n      + CLEAR\n"), "{text}");
        assert!(text.ends_with("2 worse, 0 better, 0 neither\n"));
    }

    #[test]
    fn what_the_kernel_says_stays_text() {
        for format in [Format::Text, Format::Markdown, Format::Mail] {
            let text = told(format);
            assert!(!text.contains('\u{1b}') && !text.contains("\n- #"), "{text}");
        }
        assert!(told(Format::Markdown).contains("- ``console: WARNING: `rm` [31m - # <b>``\n"));
        let json: serde_json::Value = serde_json::from_str(&told(Format::Json)).expect("JSON");
        assert_eq!(json["worse"][1]["about"], "console");
        let mut found = found();
        found.worse[0].after = "\u{9b}\u{202e}\u{e0001}x".into();
        let text = tell(&found, &Words::default(), Format::Json).expect("plain data");
        assert!(text.contains(r"\u009b\u202e\udb40\udc01x"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["worse"][0]["after"], found.worse[0].after);
    }

    #[test]
    fn what_a_guest_says_has_one_line_in_every_format() {
        let mut found = found();
        found.worse.truncate(1);
        found.worse[0].about = About::Failure;
        for text in hostile_texts() {
            found.worse[0].after.clone_from(&text);
            found.worse[0].evidence = vec![format!("seen: {text}")];
            found.given[0].after.clone_from(&text);
            let words = Words { of: format!("of {text}"), ..Words::default() };
            for (format, start) in
                [(Format::Text, "      "), (Format::Markdown, "  - `"), (Format::Mail, "    ")]
            {
                let told = tell(&found, &words, format).expect("plain data");
                assert!(
                    !told.contains(['\u{1b}', '\r', '\u{85}', '\u{2028}', '\u{202e}', '\u{ffff}'])
                );
                let line = told.lines().find(|line| line.starts_with(start));
                assert!(line.is_some(), "{told}");
                let other = |line: &str| line.starts_with("ok ") || line.starts_with("::");
                assert!(!told.lines().any(other), "{told}");
            }
        }
    }

    #[test]
    fn a_mail_fits() {
        let text = told(Format::Mail);
        let prose = text.lines().filter(|line| !line.contains("--plan"));
        assert!(prose.clone().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.contains("--plan /runs/b/plan.yaml\n"));
    }
}
