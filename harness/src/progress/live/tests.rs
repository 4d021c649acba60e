//! Tests of what is drawn, on as much of a terminal as that needs.

use super::super::story;
use super::*;
use crate::flow::Stage;

const AT: fn(u64) -> Duration = Duration::from_millis;
const LARGE: Size = Size { columns: 40, rows: 12 };

/// As much of a terminal as the view needs: rows that are written from a cursor,
/// which does not leave the last ones.
struct Terminal {
    size: Size,
    rows: Vec<String>,
    row: usize,
    column: usize,
}

impl Terminal {
    fn new(size: Size) -> Self {
        Terminal { size, rows: vec![String::new()], row: 0, column: 0 }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).expect("text");
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\r' => self.column = 0,
                '\n' => self.line_feed(),
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['), "{text:?}");
                    let mut number = String::new();
                    let end = chars.find(|c| {
                        number.extend(Some(*c).filter(char::is_ascii_digit));
                        !c.is_ascii_digit()
                    });
                    self.control(end, number.parse().unwrap_or(0));
                }
                c => {
                    if self.column == self.size.columns {
                        self.line_feed();
                    }
                    let row = &mut self.rows[self.row];
                    row.extend(std::iter::repeat_n(' ', self.column.saturating_sub(row.len())));
                    row.replace_range(
                        self.column..(self.column + 1).min(row.len()),
                        &c.to_string(),
                    );
                    self.column += 1;
                }
            }
        }
    }

    /// The terminal adds the carriage return.
    fn line_feed(&mut self) {
        (self.row, self.column) = (self.row + 1, 0);
        if self.row == self.rows.len() {
            self.rows.push(String::new());
        }
    }

    fn control(&mut self, what: Option<char>, n: usize) {
        let top = self.rows.len().saturating_sub(self.size.rows);
        match what {
            Some('A') => self.row = self.row.saturating_sub(n).max(top),
            Some('J') => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].truncate(self.column);
            }
            Some('K') => self.rows[self.row].truncate(self.column),
            Some('m') => {}
            other => panic!("{other:?} is nothing that every terminal knows"),
        }
    }

    fn text(&self) -> String {
        let seen: Vec<&str> = self.rows.iter().map(|row| row.trim_end()).collect();
        seen.join("\n")
    }
}

/// A picture, and the terminal on which it is seen.
struct Seen {
    picture: Picture<Vec<u8>>,
    terminal: Terminal,
}

impl Seen {
    fn new() -> Self {
        let picture = Picture::new(Vec::new(), true);
        Seen { picture, terminal: Terminal::new(LARGE) }
    }

    /// What is on the terminal, after what was written has come there.
    fn text(&mut self) -> String {
        self.terminal.feed(&std::mem::take(&mut self.picture.to));
        self.terminal.text()
    }

    fn line(&mut self, line: &str) {
        self.picture.view.take(Duration::ZERO, Shown::Line(line));
    }

    fn building() -> Self {
        let mut seen = Seen::new();
        let begun = story::begun(Stage::Build);
        seen.picture.view.take(Duration::ZERO, Shown::Event(&begun));
        seen.line("CC mm/hmm.o");
        seen.picture.look(AT(1000), Some(LARGE));
        seen
    }
}

#[test]
fn the_view_is_drawn_over_itself_and_below_what_is_said() {
    let mut seen = Seen::building();
    assert_eq!(seen.text(), "build    1 s\n  CC mm/hmm.o\n");
    seen.picture.look(AT(1100), Some(LARGE));
    assert!(seen.picture.to.is_empty(), "nothing has changed");
    seen.line("CC a.o");
    seen.picture.look(AT(2000), Some(LARGE));
    assert_eq!(seen.text(), "build    2 s\n  CC mm/hmm.o\n  CC a.o\n");
    // The terminal shows what a person types.
    seen.terminal.feed(b"^C");
    seen.picture.put("note     stopping\n", AT(2200), Some(LARGE));
    assert_eq!(seen.text(), "note     stopping\nbuild    2 s\n  CC mm/hmm.o\n  CC a.o\n");
    // Too early for another picture: it comes with the next look.
    seen.picture.put("note     two\n", AT(2210), Some(LARGE));
    assert_eq!(seen.text(), "note     stopping\nnote     two\n");
    seen.picture.look(AT(2310), Some(LARGE));
    assert!(seen.text().ends_with("two\nbuild    2 s\n  CC mm/hmm.o\n  CC a.o\n"));
}

#[test]
fn while_it_pauses_or_is_closed_nothing_is_drawn() {
    let mut seen = Seen::building();
    seen.picture.paused += 1;
    seen.picture.put("", AT(1200), Some(LARGE));
    assert_eq!(seen.text(), "");
    seen.terminal.feed(b"run this? [y/N] ");
    seen.picture.look(AT(1300), Some(LARGE));
    assert_eq!(seen.text(), "run this? [y/N]");
    seen.terminal.feed(b"y\n");
    seen.picture.paused -= 1;
    seen.picture.look(AT(1400), Some(LARGE));
    assert_eq!(seen.text(), "run this? [y/N] y\nbuild    1 s\n  CC mm/hmm.o\n");
    seen.picture.closed = true;
    seen.picture.put("", AT(1500), Some(LARGE));
    seen.picture.put("error: no\n", AT(2000), Some(LARGE));
    assert_eq!(seen.text(), "run this? [y/N] y\nerror: no\n");
}

#[test]
fn what_others_have_written_meanwhile_stays() {
    // Ctrl-Z, and some time later fg.
    let mut seen = Seen::building();
    seen.text();
    seen.terminal.feed(b"^Z\n[1]+ Stopped\n$ fg\n");
    seen.picture.look(AT(8900), Some(LARGE));
    assert!(seen.picture.to.is_empty() && seen.picture.stale, "SIGCONT is waited for");
    seen.picture.drawn.clear();
    seen.picture.look(AT(9000), Some(LARGE));
    let view = "build    1 s\n  CC mm/hmm.o\n^Z\n[1]+ Stopped\n$ fg\nbuild    9 s\n  CC mm/hmm.o\n";
    assert_eq!(seen.text(), view);
    // In the background only what is said is written.
    seen.picture.look(AT(9200), None);
    seen.terminal.feed(b"$ ls\n");
    seen.picture.look(AT(9300), None);
    seen.picture.put("note     one\n", AT(9400), None);
    assert_eq!(seen.text(), format!("{view}$ ls\nnote     one\n"));
}

#[test]
fn a_window_that_becomes_smaller_has_folded_what_was_drawn() {
    let mut seen = Seen::new();
    let begun = story::begun(Stage::Build);
    seen.picture.view.take(Duration::ZERO, Shown::Event(&begun));
    seen.line(&"x".repeat(100));
    seen.picture.look(AT(100), Some(LARGE));
    let wide = format!("build    0 s\n  {}\n", "x".repeat(37));
    assert_eq!(seen.text(), wide);
    let small = Size { columns: 20, rows: 4 };
    let folded = format!("build    0 s\n  {}\n{}\n", "x".repeat(18), "x".repeat(19));
    seen.terminal = Terminal::new(small);
    seen.terminal.feed(folded.as_bytes());
    seen.picture.look(AT(300), Some(small));
    assert_eq!(seen.text(), format!("build    0 s\n  {}\n", "x".repeat(17)));
}
