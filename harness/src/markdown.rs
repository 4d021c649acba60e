//! Text that stays text in Markdown, wherever it comes from: patches, tools, guests.

use crate::words::line;

/// How many characters of a text stand in a line.
const MOST: usize = 300;

/// Text as a code span of Markdown, in which nothing means anything: it ends at as
/// many backticks as it begins with, which are more than the text has in a row.
pub(crate) fn code(text: &str) -> String {
    let text = cut(line(text));
    if text.trim().is_empty() {
        return String::new();
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    // The spaces are taken off again, and keep backticks apart.
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// Lines as a code block of Markdown, likewise.
pub(crate) fn fenced(lines: &[String]) -> String {
    let longest = lines.iter().map(|line| longest_run(line)).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}", lines.join("\n"))
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// As much of a text as stands in a line.
pub(crate) fn cut(text: String) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
