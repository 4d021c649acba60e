//! Lines of the live view: pieces of text, each with what it means. How wide a
//! piece is on a screen is known here, and nowhere else.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

use crate::words::clean;

/// The most characters that are kept of a piece: no screen is as wide.
const LONGEST: usize = 512;

/// What a piece of text means. The words say it too, for whoever sees no colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    /// A detail.
    Dim,
    Good,
    Bad,
}

impl Style {
    /// What begins it on a terminal (ECMA-48, SGR).
    fn begin(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Dim => "\x1b[2m",
            Style::Good => "\x1b[32m",
            Style::Bad => "\x1b[31m",
        }
    }
}

/// A line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    pieces: Vec<(Style, String)>,
    /// Whether nothing of it may be missing, whatever the width.
    whole: bool,
}

impl Line {
    /// A line of which nothing is left out, whatever its length: for what must be
    /// read.
    pub(super) fn whole(style: Style, text: &str) -> Line {
        Line { pieces: vec![(style, clean(text))], whole: true }
    }

    /// The same with a piece more, all of it on one line and of bounded length.
    #[must_use]
    pub(super) fn with(mut self, style: Style, text: &str) -> Line {
        let mut piece = String::new();
        for (column, c) in text.chars().take(LONGEST).enumerate() {
            match c {
                '\t' => piece.extend(std::iter::repeat_n(' ', 8 - column % 8)),
                '\n' => piece.push(' '),
                c => piece.push(c),
            }
        }
        self.pieces.push((style, clean(&piece)));
        self
    }

    /// How many columns it takes.
    pub(super) fn width(&self) -> usize {
        self.pieces.iter().flat_map(|(_, text)| text.chars()).map(columns).sum()
    }

    /// The line as it stays on a screen of so many columns: cut, or whole.
    #[must_use]
    pub(super) fn staying(self, width: usize) -> Line {
        if self.whole { self } else { self.cut(width) }
    }

    /// As much of it as fits into so many columns.
    #[must_use]
    pub(super) fn cut(mut self, width: usize) -> Line {
        let mut left = width;
        for (_, text) in &mut self.pieces {
            let end = text.char_indices().find_map(|(at, c)| {
                let over = columns(c) > left;
                left = if over { 0 } else { left - columns(c) };
                over.then_some(at)
            });
            text.truncate(end.unwrap_or(text.len()));
        }
        self
    }

    /// The text as a terminal is given it.
    pub(super) fn paint(&self, colour: bool) -> String {
        let mut painted = String::new();
        for (style, text) in &self.pieces {
            let begin = if colour && !text.is_empty() { style.begin() } else { "" };
            let end = if begin.is_empty() { "" } else { "\x1b[0m" };
            write!(painted, "{begin}{text}{end}").expect("a string takes everything");
        }
        painted.truncate(painted.trim_end_matches(' ').len());
        painted
    }
}

/// How many columns a character takes. Some terminals show several as one; then it
/// is fewer.
fn columns(c: char) -> usize {
    c.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_what_is_seen_of_it() {
        let check = |text: &str, width: usize, expect: &str| {
            let line = Line::default().with(Style::Dim, text).cut(width);
            assert_eq!(line.paint(false), expect, "{text}");
            assert!(line.width() <= width, "{text}");
        };
        check("hmm.migrate", 20, "hmm.migrate");
        check("hmm.migrate", 3, "hmm");
        // Two columns each; and one that takes none.
        check("\u{4e2d}\u{6587}\u{5b57}", 5, "\u{4e2d}\u{6587}");
        check("e\u{301}e\u{301}e", 2, "e\u{301}e\u{301}");
        check("ab\u{4e2d}c", 3, "ab");
        check("a\tb\nc", 20, "a       b c");
        check("\u{1b}[2J\u{202e}x\u{9b}1m", 20, "[2Jx1m");
        check("", 0, "");
    }

    #[test]
    fn pieces_are_cut_together_and_colours_end() {
        let line = Line::default().with(Style::Bad, "FAILED").with(Style::Dim, " hmm.migrate");
        assert_eq!(line.clone().cut(9).paint(true), "\x1b[31mFAILED\x1b[0m\x1b[2m hm\x1b[0m");
        assert_eq!(line.cut(4).paint(true), "\x1b[31mFAIL\x1b[0m");
    }

    #[test]
    fn what_must_be_read_is_not_cut() {
        let line = Line::whole(Style::Bad, "hmm.migrate").with(Style::Dim, " (0.1 s)");
        assert_eq!(line.staying(5).paint(false), "hmm.migrate (0.1 s)");
        assert_eq!(Line::default().with(Style::Bad, "build").staying(3).paint(false), "bui");
    }

    #[test]
    fn the_longest_line_is_bounded() {
        let line = Line::default().with(Style::Plain, &"x".repeat(1 << 20));
        assert_eq!(line.width(), LONGEST);
    }
}
