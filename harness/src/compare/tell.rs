//! A comparison in words: for a terminal, a pull request, another program, and a
//! mailing list.

use std::fmt::Write as _;

use super::{About, Change, Comparison, Given};
use crate::judge::Results;
use crate::report::{code, line};

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

/// How many tests of a change are named before the rest is counted.
const NAMED: usize = 6;

/// Something to say, and what shows it.
struct Item {
    head: String,
    lines: Vec<String>,
}

/// Tells a comparison of the judgements `a` and `b`. `again` are the commands that
/// make them again.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn tell(
    found: &Comparison,
    (a, b): (&Results, &Results),
    again: &[String],
    format: Format,
) -> serde_json::Result<String> {
    let sections = [
        ("worse", items(&found.worse)),
        ("better", items(&found.better)),
        ("not the same, and neither", items(&found.other)),
        ("not the same from the start", found.given.iter().map(given).collect()),
    ];
    let sections: Vec<(&str, Vec<Item>)> =
        sections.into_iter().filter(|(_, items)| !items.is_empty()).collect();
    let tests = match found.compared {
        1 => "1 test".to_owned(),
        n => format!("{n} tests"),
    };
    let head = format!("{tests} on {} and on {}", name(a), name(b));
    let counts = format!(
        "{} worse, {} better, {} neither",
        found.worse.len(),
        found.better.len(),
        found.other.len()
    );
    Ok(match format {
        Format::Text => plain(&head, &sections, &counts),
        Format::Markdown => markdown(&head, &sections, &counts),
        Format::Json => serde_json::to_string_pretty(found)? + "\n",
        Format::Mail => mail(&head, &sections, &counts, again),
    })
}

/// What a judgement is about, in a few words.
fn name(results: &Results) -> String {
    let kernel = &results.kernel;
    let release = if kernel.release.is_empty() { "no kernel" } else { &kernel.release };
    match kernel.series.len() {
        0 => release.to_owned(),
        1 => format!("{release} with a patch"),
        n => format!("{release} with {n} patches"),
    }
}

fn items(changes: &[Change]) -> Vec<Item> {
    changes.iter().map(item).collect()
}

fn item(change: &Change) -> Item {
    let Change { tests, about, before, after, evidence } = change;
    let all = || match tests.len() {
        0 => "outside any test".to_owned(),
        n => {
            let named = tests[..n.min(NAMED)].join(", ");
            let rest = n.saturating_sub(NAMED);
            if rest == 0 { named } else { format!("{named} and {rest} more") }
        }
    };
    let (head, mut lines) = match about {
        // What the kernel sends is the news; which tests show it comes behind.
        About::Trace => (format!("trace: {}", evidence.join("; ")), Vec::new()),
        About::Console if after == "in silence" => (format!("console: no more {before}"), vec![]),
        About::Console => (format!("console: {after}"), evidence.clone()),
        About::Verdict => (format!("{}: {before} -> {after}", all()), evidence.clone()),
        About::Failure => (format!("{}: fails {after}", all()), evidence.clone()),
        About::Capture => (format!("{}: its trace is {after}", all()), evidence.clone()),
    };
    if matches!(about, About::Trace | About::Console) {
        lines.insert(0, format!("in {}", all()));
    }
    Item { head: line(&head), lines: lines.iter().map(|text| line(text)).collect() }
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
        for Item { head, lines } in items {
            put(&mut text, format_args!("  {head}"));
            lines.iter().for_each(|more| put(&mut text, format_args!("      {more}")));
        }
    }
    put(&mut text, format_args!("{counts}"));
    text
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

fn mail(head: &str, sections: &[(&str, Vec<Item>)], counts: &str, again: &[String]) -> String {
    let mut text = String::new();
    fold(&mut text, "", &format!("I ran {head}: {counts}."));
    for (title, items) in sections {
        put(&mut text, format_args!("\n{title}:"));
        for Item { head, lines } in items {
            fold(&mut text, "- ", head);
            lines.iter().for_each(|more| fold(&mut text, "    ", more));
        }
    }
    if !again.is_empty() {
        put(&mut text, format_args!("\nto see it again:"));
        // A command is to be pasted, so it stays on its line.
        again.iter().for_each(|command| put(&mut text, format_args!("    {command}")));
    }
    text
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
            before: before.into(),
            after: after.into(),
            evidence: evidence.iter().map(|line| (*line).to_owned()).collect(),
        };
        let trace = change(About::Trace, "one trace", "another", &["to-device: MIGRATE -> CLEAR"]);
        let said = change(
            About::Console,
            "in silence",
            "WARNING: `rm` \u{1b}[31m\n- # <b>",
            &["console.log:7: WARNING"],
        );
        let given = vec![Given { what: "series", before: String::new(), after: "mm: x".into() }];
        Comparison {
            schema: super::super::SCHEMA,
            given,
            worse: vec![trace, said],
            better: Vec::new(),
            other: Vec::new(),
            compared: 60,
        }
    }

    fn told(format: Format) -> String {
        let results = run(Vec::new());
        let again = ["hmm-harness run-kernel-tests --plan /runs/b/plan.yaml".to_owned()];
        tell(&found(), (&results, &results), &again, format).expect("plain data")
    }

    #[test]
    fn regressions_come_first() {
        let text = told(Format::Text);
        assert_eq!(
            text.lines().take(4).collect::<Vec<_>>(),
            [
                "60 tests on 6.12.1 and on 6.12.1",
                "worse:",
                "  trace: to-device: MIGRATE -> CLEAR",
                "      in hmm.test_0.private, hmm.test_1.private, hmm.test_2.private, \
                 hmm.test_3.private, hmm.test_4.private, hmm.test_5.private and 2 more",
            ]
        );
        assert!(text.contains("  series: none -> mm: x\n"), "{text}");
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
    }

    #[test]
    fn what_a_guest_says_has_one_line_in_every_format() {
        let mut found = found();
        found.worse.truncate(1);
        found.worse[0].about = About::Failure;
        for text in hostile_texts() {
            found.worse[0].after.clone_from(&text);
            found.worse[0].evidence = vec![text];
            let results = run(Vec::new());
            for (format, start) in
                [(Format::Text, "      "), (Format::Markdown, "  - `"), (Format::Mail, "    ")]
            {
                let told = tell(&found, (&results, &results), &[], format).expect("plain data");
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
