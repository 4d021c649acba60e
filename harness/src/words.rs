//! Times, and text that may be a guest's, as this program writes them.

use std::time::Duration;

/// A duration as this program writes it.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// Text from the guest, fit for a terminal and for every format: without control
/// characters but newlines, without what makes text look like other text, and
/// without what XML cannot hold.
pub fn clean(text: &str) -> String {
    text.chars().filter(|c| !(c.is_control() || is_unseen(*c)) || *c == '\n').collect()
}

/// How many characters of a line are told.
const LINE: usize = 2_000;

/// Text of which some may be the guest's, as one line of a bounded length without
/// control characters.
pub fn line(text: &str) -> String {
    let mut line = clean(text).replace('\n', " ");
    if let Some((end, _)) = line.char_indices().nth(LINE) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

/// Whether a character is not seen itself, but turns the direction of others, hides
/// between them or breaks their line; or is none at all, as U+FFFE and U+FFFF.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let check = |ms: u64, text: &str| assert_eq!(seconds(Duration::from_millis(ms)), text);
        check(40, "0.0 s");
        check(1_250, "1.2 s");
        check(245_000, "4 min 05 s");
    }

    #[test]
    fn what_the_guest_says_cannot_drive_a_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\rc\nd"), "a[2Jbc\nd");
        assert_eq!(clean("a\u{200b}b\u{2028}c\u{ffff}d\u{fffe}"), "abcd");
        // C1 controls, which some terminals take for an escape and a letter.
        let c1: String = ('\u{80}'..='\u{9f}').collect();
        assert_eq!(clean(&format!("a{c1}\u{7f}b")), "ab");
        let bidi: String = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').collect();
        assert_eq!(clean(&format!("ok {bidi}\u{200f}\u{61c}DELIAF")), "ok DELIAF");
        assert_eq!(clean("m\u{fc}nchen \u{4e2d} e\u{301}"), "m\u{fc}nchen \u{4e2d} e\u{301}");
    }
}
