//! Text that stays text in a page, wherever it comes from: patches, tools, guests.

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A line of text: what has a meaning in HTML is written so that it has none,
/// control characters are left out, and what would turn the direction of writing is
/// named instead.
pub(crate) fn escape(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).fold(String::with_capacity(text.len()), put)
}

/// The same of several lines, which stay lines.
pub(crate) fn escape_lines(text: &str) -> String {
    let stays = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().filter(stays).fold(String::with_capacity(text.len()), put)
}

/// Text of at most `most` bytes, and how much more there was.
pub(crate) fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let between = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (kept, rest) = text.split_at(between);
    format!("{kept} ... and {} more bytes", rest.len())
}

/// A value as JSON that can stand in a `script` of a page.
///
/// # Errors
/// When it cannot be written as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).context("a value in a page")?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // These occur in strings alone.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c if turns(c) => out.push_str(&named(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn put(mut out: String, c: char) -> String {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#39;"),
        c if turns(c) => out.push_str(&named(c)),
        c => out.push(c),
    }
    out
}

/// Whether a character changes the direction of those around it (Unicode's
/// `Bidi_Control`).
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn named(c: char) -> String {
    format!("[U+{:04X}]", u32::from(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_text() {
        assert_eq!(escape("<b a=\"1\">&\u{1b}\n</b>"), "&lt;b a=&quot;1&quot;&gt;&amp;&lt;/b&gt;");
        assert_eq!(escape_lines("a\tb\r\n<!--'\0"), "a\tb\n&lt;!--&#39;");
        assert_eq!(escape("ab\u{202e}cd\u{2066}"), "ab[U+202E]cd[U+2066]");
    }

    #[test]
    fn json_cannot_end_the_script_that_it_stands_in() {
        let text = "</script><!-- ]]> & \u{2028}\u{2029} \u{202e} \0 \"q\" \\";
        let json = json(&[text]).expect("plain data");
        assert!(
            !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\u{202e}', '\0']),
            "{json}"
        );
        let back: Vec<String> = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(back, [text.replace('\u{202e}', "[U+202E]")]);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(clip("short", 5), "short");
        assert_eq!(clip("ab\u{e4}c", 3), "ab ... and 3 more bytes");
        let long = clip(&"x".repeat(1 << 20), 100);
        assert!(long.len() < 200, "{long}");
    }
}
