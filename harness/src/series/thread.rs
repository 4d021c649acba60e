//! Which mails of a thread are the series, and in which order. Pure.
//!
//! An archive gives a thread as it came: replies between the patches, the
//! versions before, the patches as they arrived. What a subject says of itself
//! decides.

use std::collections::BTreeMap;
use std::fmt;

/// What stands before a subject's own words: `[PATCH v2 3/5]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    /// `Re:`.
    pub(super) reply: bool,
    /// Whether it says that it is a patch.
    pub(super) patch: bool,
    /// Which version, from 1.
    pub(super) version: u32,
    /// Which of how many.
    pub(super) number: Option<(u32, u32)>,
}

impl Tag {
    /// Reads a subject, and returns its own words beside the tag.
    pub(super) fn read(subject: &str) -> (Tag, &str) {
        let mut tag = Tag { reply: false, patch: false, version: 1, number: None };
        let mut rest = subject.trim();
        loop {
            let colon = rest.split_once(':').map(|(word, rest)| (word.to_lowercase(), rest));
            if let Some((word, after)) = colon
                && ["re", "aw", "fwd", "fw"].contains(&word.as_str())
            {
                (tag.reply, rest) = (true, after.trim_start());
            } else if let Some((words, after)) =
                rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            {
                words.split([' ', ',', '\t']).for_each(|word| tag.word(word));
                rest = after.trim_start();
            } else {
                return (tag, rest);
            }
        }
    }

    fn word(&mut self, word: &str) {
        let word = word.to_lowercase();
        self.patch |= word.starts_with("patch");
        let version = word.strip_prefix("patch").unwrap_or(&word);
        let version = version.trim_start_matches('-').strip_prefix('v');
        if let Some(version) = version.and_then(|version| version.parse().ok()) {
            self.version = version;
        }
        let number =
            word.split_once('/').and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
        self.number = number.or(self.number);
    }

    /// Whether it is a cover letter, or no part of a series at all.
    pub(super) fn is_talk(&self) -> bool {
        self.reply
            || self.number.is_some_and(|(n, _)| n == 0)
            || !(self.patch || self.number.is_some())
    }
}

/// A mail of a thread: what its subject says, and what tells two apart.
pub(super) trait Mail {
    /// What stands before its subject.
    fn tag(&self) -> &Tag;
    /// Its subject's own words.
    fn title(&self) -> &str;
    /// Its diff; empty if it has none.
    fn diff(&self) -> &[u8];
}

/// What was chosen.
#[derive(Debug)]
pub(super) struct Picked<M> {
    /// The series, in its order.
    pub(super) series: Vec<M>,
    /// What has a diff too and is no part of it, in words.
    pub(super) left_out: Vec<String>,
}

/// Chooses the series of a thread: its newest version, by number.
///
/// # Errors
/// What is missing or there twice, as a phrase.
pub(super) fn pick<M: Mail>(mails: Vec<M>) -> Result<Picked<M>, String> {
    let tagged = mails.iter().any(|mail| !mail.tag().is_talk());
    let mut left_out = Vec::new();
    let (mut numbered, mut plain) = (Vec::new(), Vec::new());
    for mail in mails {
        let (tag, diff) = (mail.tag(), !mail.diff().is_empty());
        if tag.reply || tag.number.is_some_and(|(n, _)| n == 0) {
            continue;
        }
        if tag.number.is_some() {
            numbered.push(mail);
        } else if diff && (tag.patch || !tagged) {
            plain.push(mail);
        } else if diff {
            left_out.push(format!("\"{}\", which does not say that it is a patch", mail.title()));
        } else if tag.patch {
            return Err(format!("\"{}\" says that it is a patch and has no diff", mail.title()));
        }
    }
    if numbered.is_empty() {
        let series = newest_of_each(plain, &mut left_out);
        return Ok(Picked { series, left_out });
    }
    for mail in plain {
        left_out.push(format!("\"{}\", which has no number", mail.title()));
    }
    // One patch of a series alone is what somebody has chosen.
    if numbered.len() == 1 && left_out.is_empty() && !numbered[0].diff().is_empty() {
        return Ok(Picked { series: numbered, left_out });
    }
    let series = newest(numbered, &mut left_out)?;
    Ok(Picked { series, left_out })
}

/// Patches without numbers: the newest of those that are called the same.
fn newest_of_each<M: Mail>(mails: Vec<M>, left_out: &mut Vec<String>) -> Vec<M> {
    let mut newest: BTreeMap<String, u32> = BTreeMap::new();
    for mail in &mails {
        let version = newest.entry(mail.title().to_owned()).or_default();
        *version = (*version).max(mail.tag().version);
    }
    let (all, older): (Vec<M>, Vec<M>) =
        mails.into_iter().partition(|mail| newest.get(mail.title()) == Some(&mail.tag().version));
    left_out.extend(older.iter().map(|m| format!("v{} of \"{}\"", m.tag().version, m.title())));
    // One that came by two ways, or was sent again.
    let mut series: Vec<M> = Vec::new();
    for mail in all {
        let same = |other: &M| core(other.diff()) == core(mail.diff());
        if !series.iter().any(|other| other.title() == mail.title() && same(other)) {
            series.push(mail);
        }
    }
    series
}

/// What of a mail is the diff: without the notes before it, and what a list or a
/// mailer has put behind it.
fn core(diff: &[u8]) -> &[u8] {
    let find = |what: &[u8]| diff.windows(what.len()).position(|bytes| bytes == what);
    let start = find(b"\ndiff --git ").unwrap_or(0);
    let end = find(b"\n-- \n").unwrap_or(diff.len());
    diff.get(start..end).unwrap_or(diff)
}

/// The newest version of a series, whole and in its order.
fn newest<M: Mail>(mails: Vec<M>, left_out: &mut Vec<String>) -> Result<Vec<M>, String> {
    let last = mails.iter().map(|mail| mail.tag().version).max().unwrap_or(1);
    let mut older: BTreeMap<u32, usize> = BTreeMap::new();
    // Several series of one version, as far as their sizes or a second first patch
    // tell them apart, in the order in which they begin.
    let mut series: Vec<(u32, BTreeMap<u32, M>)> = Vec::new();
    for mail in mails {
        let tag = mail.tag();
        let Some((number, count)) = tag.number else { continue };
        if tag.version < last {
            *older.entry(tag.version).or_default() += 1;
            continue;
        }
        // It may have come by two ways.
        let same = |of: &BTreeMap<u32, M>| {
            of.get(&number).is_some_and(|other| core(other.diff()) == core(mail.diff()))
        };
        let its = |(size, _): &&mut (u32, BTreeMap<u32, M>)| *size == count;
        if series.iter().any(|(size, of)| *size == count && same(of)) {
            continue;
        }
        match series.iter_mut().rev().find(its) {
            Some((_, of)) if !of.contains_key(&number) => drop(of.insert(number, mail)),
            Some((_, of)) if number != 1 || of.len() < count as usize => {
                let which = Which { version: last, number, count };
                return Err(format!("two mails say that they are {which}, and differ"));
            }
            _ => series.push((count, BTreeMap::from([(number, mail)]))),
        }
    }
    left_out.extend(older.iter().map(|(version, n)| {
        let s = if *n == 1 { "" } else { "es" };
        format!("v{version} ({n} patch{s})")
    }));
    for (count, of) in &series {
        let lacks = |n: &u32| of.get(n).is_none_or(|mail| mail.diff().is_empty());
        if let Some(number) = (1..=*count).find(lacks) {
            let which = Which { version: last, number, count: *count };
            let how = if of.contains_key(&number) { "has no diff" } else { "is missing" };
            return Err(format!("{which} {how}"));
        }
        if let Some(number) = of.keys().find(|number| *number > count) {
            let which = Which { version: last, number: *number, count: *count };
            return Err(format!("{which} cannot be"));
        }
    }
    Ok(series.into_iter().flat_map(|(_, of)| of.into_values()).collect())
}

struct Which {
    version: u32,
    number: u32,
    count: u32,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Which { version, number, count } = self;
        write!(f, "patch {number}/{count}")?;
        if *version > 1 { write!(f, " of v{version}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone)]
    struct Letter {
        tag: Tag,
        title: String,
        diff: &'static str,
    }

    impl Mail for Letter {
        fn tag(&self) -> &Tag {
            &self.tag
        }
        fn title(&self) -> &str {
            &self.title
        }
        fn diff(&self) -> &[u8] {
            self.diff.as_bytes()
        }
    }

    fn letters(subjects: &[&str]) -> Vec<Letter> {
        let letter = |subject: &&str| {
            let (subject, diff) = subject.split_once(" | ").unwrap_or((subject, "+"));
            let (tag, title) = Tag::read(subject);
            let diff = String::from(diff).leak();
            Letter { tag, title: title.to_owned(), diff }
        };
        subjects.iter().map(letter).collect()
    }

    fn picked(subjects: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        let picked = pick(letters(subjects))?;
        Ok((picked.series.into_iter().map(|letter| letter.title).collect(), picked.left_out))
    }

    #[test]
    fn subjects_are_read() {
        let check = |subject: &str, version, number, title: &str| {
            let (tag, rest) = Tag::read(subject);
            assert_eq!((tag.version, tag.number, rest), (version, number, title), "{subject}");
            assert!(tag.patch && !tag.reply, "{subject}");
        };
        check("[PATCH] mm: one", 1, None, "mm: one");
        check("[PATCH v2 3/5] mm: [x] three", 2, Some((3, 5)), "mm: [x] three");
        check("[RFC PATCH v10 03/12] a", 10, Some((3, 12)), "a");
        check("[PATCHv3 1/2] a", 3, Some((1, 2)), "a");
        check("[PATCH-v3 1/2 RESEND] a", 3, Some((1, 2)), "a");
        check("[linux-mm] [PATCH V4,1/2] a", 4, Some((1, 2)), "a");
        check("[PATCH 0/3] all", 1, Some((0, 3)), "all");
        let (tag, rest) = Tag::read("Re: [PATCH v2 3/5] mm: re: three");
        assert!(tag.reply);
        assert_eq!(rest, "mm: re: three");
        let (tag, rest) = Tag::read("mm: no tag");
        assert!(tag.is_talk());
        assert_eq!(rest, "mm: no tag");
        assert!(Tag::read("[ANNOUNCE] x").0.is_talk());
    }

    #[test]
    fn a_thread_is_put_in_order() {
        let (series, left_out) = picked(&[
            "[PATCH 0/2] cover | ",
            "[PATCH 2/2] old two",
            "[PATCH 1/2] old one",
            "Re: [PATCH 1/2] old one | quoted",
            "[PATCH v2 3/3] three",
            "[PATCH v2 0/3] cover | ",
            "[PATCH v2 1/3] one",
            "[PATCH] a fix on top",
            "what I had in mind | +",
            "a question | ",
            "[PATCH v2 2/3] two",
            "[PATCH v2 2/3] two",
        ])
        .expect("a series");
        assert_eq!(series, ["one", "two", "three"]);
        assert_eq!(
            left_out,
            [
                "\"what I had in mind\", which does not say that it is a patch",
                "\"a fix on top\", which has no number",
                "v1 (2 patches)",
            ]
        );
    }

    #[test]
    fn patches_without_numbers_come_as_they_came() {
        let series = |subjects: &[&str]| picked(subjects).expect("a series");
        assert_eq!(series(&["[PATCH] b", "[PATCH] a"]), (vec!["b".into(), "a".into()], vec![]));
        assert_eq!(
            series(&["[PATCH] a", "[PATCH v2] a", "Re: [PATCH] a | "]),
            (vec!["a".into()], vec!["v1 of \"a\"".into()])
        );
        let again =
            ["[PATCH] a | x\ndiff --git a\n-- \n2", "[PATCH RESEND] a | y\ndiff --git a\n-- \n3"];
        assert_eq!(series(&again).0, ["a"], "only the notes are others");
        assert_eq!(series(&["no tag", "nor here"]).0, ["no tag", "nor here"]);
        assert_eq!(series(&["[PATCH 0/2] cover | "]).0, [""; 0]);
        assert_eq!(series(&["[PATCH v2 3/5] three", "Re: three | "]).0, ["three"]);
    }

    #[test]
    fn several_series_in_one_file_stay_in_order() {
        let all = ["[PATCH 1/2] a", "[PATCH 2/2] b", "[PATCH 1/2] c | -", "[PATCH 2/2] d | -"];
        assert_eq!(picked(&all).expect("two series").0, ["a", "b", "c", "d"]);
        let again = ["[PATCH 1/2] a", "[PATCH 2/2] b | -", "[PATCH 1/2] a", "[PATCH 2/2] b | -"];
        assert_eq!(picked(&again).expect("one series").0, ["a", "b"]);
        let all = [
            "[PATCH 2/2] b | -",
            "[PATCH 3/3] e",
            "[PATCH 1/2] a",
            "[PATCH 1/3] c",
            "[PATCH 2/3] d",
        ];
        assert_eq!(picked(&all).expect("two series").0, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn half_a_series_is_none() {
        let check = |subjects: &[&str], why: &str| {
            assert_eq!(picked(subjects).expect_err("it is not whole"), why);
        };
        check(&["[PATCH 1/3] a", "[PATCH 3/3] c"], "patch 2/3 is missing");
        check(
            &["[PATCH 1/2] a", "[PATCH 2/2] b", "[PATCH v2 1/2] a"],
            "patch 2/2 of v2 is missing",
        );
        check(&["[PATCH 1/2] a | ", "[PATCH 2/2] b"], "patch 1/2 has no diff");
        check(&["[PATCH] a | "], "\"a\" says that it is a patch and has no diff");
        let differ = ["[PATCH 1/2] a | +", "[PATCH 1/2] a | -", "[PATCH 2/2] b"];
        check(&differ, "two mails say that they are patch 1/2, and differ");
        check(&["[PATCH 1/1] a", "[PATCH 2/1] b"], "patch 2/1 cannot be");
    }
}
