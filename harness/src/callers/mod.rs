//! Who calls `migrate_vma_setup()` in a C file, and whether the owner is set.
//!
//! The static half of a question in a review: is the owner in `struct
//! migrate_vma` always set? It is given the text of one file at a time and looks
//! at the function that calls and at its neighbours in the file, one call away.
//! It does no IO, asks no compiler and reads no header, so it knows neither
//! types nor macros; what these could change is said to be elsewhere, not
//! guessed. It must not know what the owner is called: that differs between
//! versions and series, and whoever asks says it.

mod c;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::ops::Range;

use self::c::{Function, Source, is_word};

/// The function that takes the struct (mm/migrate_device.c).
const SETUP: &str = "migrate_vma_setup";

/// A call of `migrate_vma_setup()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The file, as it was given.
    pub file: String,
    /// The line of the call, from 1.
    pub line: u32,
    /// The function that calls.
    pub function: String,
    /// What becomes of the owner before the call.
    pub owner: Owner,
}

/// What becomes of the owner before a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// It is set, perhaps under a condition only.
    Set {
        /// To this, at the first such place.
        expression: String,
        /// Where, from 1.
        line: u32,
    },
    /// It is set to NULL, in so many words.
    Null {
        /// Where, from 1.
        line: u32,
    },
    /// The struct is made here and its owner is not set.
    NotSet,
    /// The struct comes from where this file cannot tell: the expression that is
    /// passed, and what is known of it.
    Elsewhere(String),
}

impl Owner {
    /// The worse, the lower.
    fn rank(&self) -> u8 {
        match self {
            Owner::NotSet => 0,
            Owner::Null { .. } => 1,
            Owner::Elsewhere(_) => 2,
            Owner::Set { .. } => 3,
        }
    }
}

/// Whether it is worthwhile to look for callers in a text: quick, and never
/// wrongly false.
pub fn mentions(text: &str) -> bool {
    text.contains(SETUP)
}

/// Every call of `migrate_vma_setup()` in the text of a C file, in order. The
/// owner is whichever of `owner_members` is assigned.
pub fn callers(file: &str, text: &str, owner_members: &[&str]) -> Vec<Caller> {
    if !mentions(text) {
        return Vec::new();
    }
    let unit = Unit { c: Source::read(text), members: owner_members };
    let calls = |f| unit.c.calls(f, SETUP).map(move |at| (f, at));
    let caller = |(f, at): (&Function<'_>, usize)| Caller {
        file: file.to_owned(),
        line: unit.c.tokens[at].line,
        function: f.name.to_owned(),
        owner: unit.judge(f, at),
    };
    unit.c.functions.iter().flat_map(calls).map(caller).collect()
}

/// A struct, by an expression that points to it: `&path` or `path`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place<'a> {
    path: Vec<&'a str>,
    by_address: bool,
}

impl<'a> Place<'a> {
    /// The struct that a pointer points to.
    fn pointer(name: &'a str) -> Self {
        Place { path: vec![name], by_address: false }
    }

    /// What is found in this struct: itself if `rest` is empty.
    fn member(&self, rest: &[&'a str], by_address: bool) -> Self {
        if rest.is_empty() {
            return self.clone();
        }
        let step = if self.by_address { "." } else { "->" };
        Place { path: [&self.path, &[step][..], rest].concat(), by_address }
    }

    /// The structs whose memory it is part of, each with the rest of the path;
    /// first itself.
    fn around(&self) -> Vec<(Self, &[&'a str])> {
        let mut around = vec![(self.clone(), &[][..])];
        let mut by_address = self.by_address;
        for (at, step) in self.path.iter().enumerate().rev() {
            if by_address && matches!(*step, "." | "->") {
                by_address = *step == ".";
                let path = self.path[..at].to_vec();
                around.push((Place { path, by_address }, &self.path[at + 1..]));
            }
        }
        around
    }
}

/// What a token begins that concerns the owner.
struct Change {
    at: usize,
    owner: Owner,
    /// Whether nothing is left of what was before.
    final_word: bool,
}

struct Unit<'a> {
    c: Source<'a>,
    members: &'a [&'a str],
}

impl<'a> Unit<'a> {
    /// The owner at the call at `at`.
    fn judge(&self, f: &Function<'a>, at: usize) -> Owner {
        let arg = self.c.args(at).into_iter().next().unwrap_or_default();
        let said = self.c.render(arg.clone());
        let owner = match self.place(arg.clone()) {
            Some(place) => {
                self.owner_in(f, &place, at, true).or_else(|| self.owner_above(f, &place, at))
            }
            // A struct that is made on the spot: `&(struct migrate_vma){ }`.
            None if self.c.text(arg.start) == "&" => {
                arg.clone().find(|&at| self.c.text(at) == "{").map(|open| self.made(open, &[]))
            }
            None => None,
        };
        match owner {
            Some(Owner::Elsewhere(why)) => Owner::Elsewhere(format!("{said}, {why}")),
            Some(owner) => owner,
            None => Owner::Elsewhere(said),
        }
    }

    /// The owner as a function leaves it before `end`, if it has a say in it.
    fn owner_in(
        &self,
        f: &Function<'a>,
        place: &Place<'a>,
        end: usize,
        helpers: bool,
    ) -> Option<Owner> {
        let places = self.aliases(f, place, end);
        let changes = (f.body.start..end)
            .filter_map(|at| places.iter().find_map(|place| self.change(at, place, helpers)))
            .filter(|change| self.c.reaches(change.at, end));
        let mut owners: Vec<Owner> = Vec::new();
        for change in changes {
            if change.final_word && self.c.always(change.at, end) {
                owners.clear();
            }
            owners.push(change.owner);
        }
        // The first of the best: set under a condition is set.
        owners.into_iter().min_by_key(|owner| Reverse(owner.rank()))
    }

    /// The owner as the callers of a function in this file leave it, if the
    /// struct is an argument: the worst, as the question is whether it is
    /// always set.
    fn owner_above(&self, f: &Function<'a>, place: &Place<'a>, end: usize) -> Option<Owner> {
        let mut owners = Vec::new();
        for place in self.aliases(f, place, end) {
            let Some(number) = f.params.iter().position(|p| *p == place.path[0]) else { continue };
            for above in self.c.functions.iter().filter(|above| above.body != f.body) {
                for at in self.c.calls(above, f.name) {
                    let arg = self.c.args(at).into_iter().nth(number).unwrap_or_default();
                    let given = self.c.render(arg.clone());
                    let place = self.place(arg).and_then(|arg| match place.path[1..] {
                        [] if !place.by_address => Some(arg),
                        ["->", ref rest @ ..] => Some(arg.member(rest, place.by_address)),
                        _ => None,
                    });
                    let given = format!("which {}() gives as {given}", above.name);
                    owners.push(match place.and_then(|p| self.owner_in(above, &p, at, true)) {
                        None => Owner::Elsewhere(given),
                        Some(Owner::Elsewhere(why)) => Owner::Elsewhere(format!("{given}, {why}")),
                        Some(owner) => owner,
                    });
                }
            }
        }
        owners.into_iter().min_by_key(Owner::rank)
    }

    /// What the token at `at` begins, if it concerns the owner in `place`.
    fn change(&self, at: usize, place: &Place<'a>, helpers: bool) -> Option<Change> {
        if matches!(self.c.text(at - 1), "." | "->") {
            return None;
        }
        self.member_assigned(at, place)
            .or_else(|| self.struct_assigned(at, place))
            .map(|owner| Change { at, owner, final_word: true })
            .or_else(|| self.given_away(at, place, helpers))
    }

    /// `args.owner = x`, and the like through a pointer.
    fn member_assigned(&self, at: usize, place: &Place<'a>) -> Option<Owner> {
        let path = &place.path[..];
        let forms: &[(&[&str], &[&str])] = match place.by_address {
            true => &[(&[], &["."])],
            false => &[(&[], &["->"]), (&["(", "*"], &[")", "."])],
        };
        forms.iter().find_map(|(before, after)| {
            let start = [before, path, after].concat();
            let member = at + start.len();
            let owner = self.c.starts(at, &start) && self.members.contains(&self.c.text(member));
            (owner && self.c.text(member + 1) == "=").then(|| self.assigned(member, member + 2))
        })
    }

    /// The struct, or one around it, is made anew.
    fn struct_assigned(&self, at: usize, place: &Place<'a>) -> Option<Owner> {
        for (whole, rest) in place.around() {
            let after = at + whole.path.len();
            let named = self.c.starts(at, &whole.path);
            let assigned = named && self.c.text(after) == "=";
            if whole.by_address && assigned {
                return Some(self.made(after + 1, rest));
            }
            let declared = whole.by_address && named && after == at + 1 && self.c.declares(at);
            let allocated = !whole.by_address && assigned && allocates(self.c.text(after + 1));
            if declared || allocated {
                return Some(Owner::NotSet);
            }
            // Not `struct migrate_vma *args = x`, which declares a pointer.
            let begins = matches!(self.c.text(at - 1), ";" | "{" | "}" | ")" | ":");
            let pointed = self.c.text(at) == "*" && self.c.starts(at + 1, &whole.path);
            if !whole.by_address && begins && pointed && self.c.text(after + 1) == "=" {
                return Some(self.made(after + 2, rest));
            }
        }
        None
    }

    /// A function is given the struct, and may set the owner.
    fn given_away(&self, at: usize, place: &Place<'a>, helpers: bool) -> Option<Change> {
        let name = self.c.text(at);
        if !is_word(name) || self.c.text(at + 1) != "(" || leaves_alone(name) {
            return None;
        }
        let around = place.around();
        let helper = self.c.functions.iter().find(|f| helpers && f.name == name);
        self.c.args(at).into_iter().enumerate().find_map(|(number, arg)| {
            let given = self.place(arg)?;
            let (_, rest) = around.iter().find(|(whole, _)| *whole == given)?;
            if name == "memset" {
                return Some(Change { at, owner: Owner::NotSet, final_word: true });
            }
            let unknown = || Owner::Elsewhere(format!("after {name}()"));
            let owner = match helper {
                Some(helper) => {
                    let param = Place::pointer(helper.params.get(number)?);
                    let place = param.member(rest, place.by_address);
                    match self.owner_in(helper, &place, helper.body.end, false)? {
                        Owner::NotSet => return None,
                        Owner::Elsewhere(_) => unknown(),
                        owner => owner,
                    }
                }
                None if rest.is_empty() => unknown(),
                // A driver gives its own struct to everyone: that says nothing.
                None => return None,
            };
            Some(Change { at, owner, final_word: false })
        })
    }

    /// What a value makes of the owner in a struct; `rest` leads from what it is
    /// assigned to to that struct.
    fn made(&self, value: usize, rest: &[&str]) -> Owner {
        match self.c.text(value) {
            "{" => self.designated(value, rest),
            "(" if self.c.text(self.c.tokens[value].close + 1) == "{" => {
                self.designated(self.c.tokens[value].close + 1, rest)
            }
            _ => Owner::Elsewhere(format!("from {}", self.c.render(self.c.expression(value)))),
        }
    }

    /// What an initialiser makes of it.
    fn designated(&self, mut open: usize, rest: &[&str]) -> Owner {
        let mut rest: Vec<&str> = rest.iter().copied().filter(|step| is_word(step)).collect();
        'inside: loop {
            for piece in self.c.split(open + 1..self.c.tokens[open].close) {
                let is = piece.clone().find(|&at| self.c.text(at) == "=").unwrap_or(piece.end);
                let to = (piece.start..is).map(|at| self.c.text(at)).filter(|step| *step != ".");
                let to: Vec<&str> = to.collect();
                match (self.c.text(piece.start), to.split_last()) {
                    (".", Some((last, before))) => {
                        if before == rest && self.members.contains(last) {
                            return self.assigned(is - 1, is + 1);
                        }
                        if rest.starts_with(&to) && self.c.text(is + 1) == "{" {
                            rest.drain(..to.len());
                            open = is + 1;
                            continue 'inside;
                        }
                    }
                    ("0" | "{", _) => {}
                    // By position, or a macro that has the designators.
                    _ if rest.is_empty() => {
                        return Owner::Elsewhere(format!("from {{ {} }}", self.c.render(piece)));
                    }
                    _ => {}
                }
            }
            return Owner::NotSet;
        }
    }

    /// What an assignment makes of the owner: the member at `at` becomes the
    /// value at `value`.
    fn assigned(&self, at: usize, value: usize) -> Owner {
        let (expression, line) = (self.c.expression(value), self.c.tokens[at].line);
        // Of `a = b = NULL` the last counts.
        let last =
            expression.clone().rfind(|&at| self.c.text(at) == "=").map_or(value, |at| at + 1);
        let last = self.c.bare(last..expression.end);
        match self.c.text(last.start) {
            "NULL" | "0" if last.len() == 1 => Owner::Null { line },
            _ => Owner::Set { expression: self.c.render(expression), line },
        }
    }

    /// The struct that an expression points to.
    fn place(&self, range: Range<usize>) -> Option<Place<'a>> {
        let mut range = self.c.bare(range);
        let by_address = !range.is_empty() && self.c.text(range.start) == "&";
        range.start += usize::from(by_address);
        let mut at = range.start;
        while at < range.end {
            let first = at == range.start;
            match self.c.text(at) {
                "[" if !first => at = self.c.tokens[at].close + 1,
                "." | "->" if !first && is_word(self.c.text(at + 1)) => at += 2,
                word if first && is_word(word) => at += 1,
                _ => return None,
            }
        }
        let path: Vec<&str> = range.clone().map(|at| self.c.text(at)).collect();
        (at == range.end && !path.is_empty()).then_some(Place { path, by_address })
    }

    /// The struct under all names it has in a function before `end`.
    fn aliases(&self, f: &Function<'a>, place: &Place<'a>, end: usize) -> Vec<Place<'a>> {
        /// More than a readable function has.
        const MOST: usize = 8;
        let is_name =
            |at: usize| is_word(self.c.text(at)) && !matches!(self.c.text(at - 1), "." | "->");
        let pointers: Vec<(&'a str, Place<'a>)> = (f.body.start + 1..end)
            .filter(|&at| self.c.text(at) == "=" && is_name(at - 1))
            .filter_map(|at| Some((self.c.text(at - 1), self.place(self.c.expression(at + 1))?)))
            .collect();
        let mut places = vec![place.clone()];
        let mut next = 0;
        while let Some(place) = places.get(next).cloned().filter(|_| next < MOST) {
            for (whole, rest) in place.around() {
                for (name, value) in &pointers {
                    let name = Place::pointer(name);
                    let other = if *value == whole {
                        name
                    } else if name == whole {
                        value.clone()
                    } else {
                        continue;
                    };
                    let other = other.member(rest, place.by_address);
                    if !places.contains(&other) {
                        places.push(other);
                    }
                }
            }
            next += 1;
        }
        places
    }
}

/// Whether a name is that of the kernel's allocators, which know no owner:
/// `kzalloc`, `kvcalloc`, `devm_kmalloc_array`, `kzalloc_obj`.
fn allocates(name: &str) -> bool {
    let name = name.strip_prefix("devm_").unwrap_or(name);
    ["kz", "km", "kc", "kvz", "kvm", "kvc", "vz", "vm"]
        .iter()
        .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("alloc")))
}

/// Whether what looks like a call with this name leaves the owner alone though
/// it is not in the file.
fn leaves_alone(name: &str) -> bool {
    const WORDS: [&str; 10] = [
        "if",
        "while",
        "switch",
        "for",
        "return",
        "sizeof",
        "typeof",
        "container_of",
        "kfree",
        "kvfree",
    ];
    WORDS.contains(&name)
        || ["migrate_vma_", "trace_", "pr_"].iter().any(|prefix| name.starts_with(prefix))
}
