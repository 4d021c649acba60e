//! The grammar of a fragment, and how several become one set of requests.
//!
//! A line is empty, a comment, `CONFIG_X=value`, or `# CONFIG_X is not set`,
//! which is the same as `CONFIG_X=n`. Values are `y`, `n`, a number, or a
//! string in quotes; there is no `m`, since no module is ever built. Two
//! comments mean something when they stand directly before a request:
//!
//! ```text
//! # override: why this one wins over an earlier request
//! # since: 5.13
//! # until: 6.10
//! ```
//!
//! The last two say of which kernels it is requested: from the first on, and
//! before the second.
//!
//! Nothing here does IO.

use std::fmt;

use crate::stop::Problem;

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The fragment's file name: `hmm.config`.
    pub file: String,
    /// Its line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel-configs/{}:{}", self.file, self.line)
    }
}

/// What a symbol is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `y`
    Yes,
    /// `n`, or that the symbol does not exist at all.
    No,
    /// A number, as it was written: `20`, `0x1000`. Compared as a number.
    Number(String),
    /// A string, as it was written between its quotes.
    Text(String),
}

impl Value {
    /// The value that `text` says, `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "y" => return Some(Value::Yes),
            "n" => return Some(Value::No),
            _ => {}
        }
        if let Some(inner) = text.strip_prefix('"') {
            let inner = inner.strip_suffix('"')?;
            let escaped = inner.replace(r"\\", "").replace(r#"\""#, "");
            return (!escaped.contains(['"', '\\'])).then(|| Value::Text(inner.to_owned()));
        }
        number(text).map(|_| Value::Number(text.to_owned()))
    }

    /// Whether two values are the same, numbers by what they count.
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => number(a) == number(b),
            _ => self == other,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Yes => f.write_str("y"),
            Value::No => f.write_str("n"),
            Value::Number(text) => f.write_str(text),
            Value::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// One request of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The symbol without its `CONFIG_`.
    pub symbol: String,
    /// What it is to be.
    pub value: Value,
    /// Where it is requested.
    pub at: Place,
    /// Why it wins over an earlier request for the same symbol, if it may.
    pub overrides: Option<String>,
    /// The first kernel (major, minor) that it is requested of, if not of all.
    pub since: Option<(u32, u32)>,
    /// The first kernel (major, minor) that it is no longer requested of.
    pub until: Option<(u32, u32)>,
}

impl Request {
    /// The line that asks for it.
    pub fn line(&self) -> String {
        format!("CONFIG_{}={}", self.symbol, self.value)
    }

    /// Whether some kernel could be asked for both.
    fn overlaps(&self, other: &Request) -> bool {
        let before = |a: &Request, b: &Request| {
            a.until.zip(b.since).is_some_and(|(until, since)| until <= since)
        };
        !before(self, other) && !before(other, self)
    }

    /// Whether it is requested of a kernel of this version.
    pub fn applies_to(&self, version: (u32, u32, u32)) -> bool {
        let version = (version.0, version.1);
        self.since.is_none_or(|since| version >= since)
            && self.until.is_none_or(|until| version < until)
    }
}

/// The requests of a fragment, in their order.
///
/// # Errors
/// Every line that is no part of the grammar, with its column.
pub fn parse_fragment(name: &str, text: &str) -> Result<Vec<Request>, Vec<Problem>> {
    let mut requests = Vec::new();
    let mut problems = Vec::new();
    let mut pending = Directives::default();
    for (n, line) in text.lines().enumerate() {
        let place = Place { file: name.to_owned(), line: n + 1 };
        let parsed = match parse_line(line) {
            Ok(parsed) => parsed,
            Err((column, what, hint)) => {
                pending = Directives::default();
                problems.push(Problem::new(format!("{place}:{column}"), what).hint(hint));
                continue;
            }
        };
        match parsed {
            Line::Override(reason) => {
                pending.seen_at(&place);
                pending.overrides = Some(reason);
            }
            Line::Since(version) => {
                pending.seen_at(&place);
                pending.since = Some(version);
            }
            Line::Until(version) => {
                pending.seen_at(&place);
                pending.until = Some(version);
            }
            Line::Request(symbol, value) => {
                let Directives { overrides, since, until, .. } = std::mem::take(&mut pending);
                requests.push(Request { symbol, value, at: place, overrides, since, until });
            }
            Line::Other => problems.extend(std::mem::take(&mut pending).dangling()),
        }
    }
    problems.extend(pending.dangling());
    if problems.is_empty() { Ok(requests) } else { Err(problems) }
}

/// The requests of several fragments as one set, in the order of their first
/// appearance. A symbol has one request, or several for kernels that do not
/// overlap.
///
/// # Errors
/// Symbols that are requested with two values of the same kernel, where the
/// later request is not marked as an override: each names both places.
pub fn merge(requests: impl IntoIterator<Item = Request>) -> Result<Vec<Request>, Vec<Problem>> {
    let mut merged: Vec<Request> = Vec::new();
    let mut problems = Vec::new();
    for request in requests {
        let earlier =
            merged.iter_mut().find(|e| e.symbol == request.symbol && e.overlaps(&request));
        let Some(earlier) = earlier else {
            merged.push(request);
            continue;
        };
        if request.overrides.is_some() {
            *earlier = request;
        } else if !earlier.value.same(&request.value) {
            problems.push(
                Problem::new(
                    format!("{}:1", request.at),
                    format!("{} contradicts {} at {}", request.line(), earlier.line(), earlier.at),
                )
                .hint("write `# override: reason` directly before the one that is to win"),
            );
        } else {
            // Both want the same, so it is wanted of the kernels of both.
            earlier.since = earlier.since.min(request.since);
            earlier.until = earlier.until.zip(request.until).map(|(a, b)| a.max(b));
        }
    }
    if problems.is_empty() { Ok(merged) } else { Err(problems) }
}

/// What a line is.
enum Line {
    Request(String, Value),
    Override(String),
    Since((u32, u32)),
    Until((u32, u32)),
    /// Empty, or a comment for people.
    Other,
}

/// Column, what is wrong, and what would be right.
type Wrong = (usize, String, &'static str);

const FORMS: &str = "a line is CONFIG_X=value, `# CONFIG_X is not set`, or a comment";

fn parse_line(line: &str) -> Result<Line, Wrong> {
    let column_of = |part: &str| part.as_ptr() as usize - line.as_ptr() as usize + 1;
    let trimmed = line.trim_end();
    if trimmed.is_empty() {
        return Ok(Line::Other);
    }
    if let Some(comment) = trimmed.strip_prefix('#') {
        let comment = comment.trim_start();
        if let Some(reason) = comment.strip_prefix("override:") {
            let reason = reason.trim();
            if reason.is_empty() {
                return Err((
                    trimmed.len() + 1,
                    "an override without a reason".to_owned(),
                    "say why it wins: `# override: reason`",
                ));
            }
            return Ok(Line::Override(reason.to_owned()));
        }
        for word in ["since:", "until:"] {
            let Some(version) = comment.strip_prefix(word).map(str::trim) else { continue };
            let Some(bound) = major_minor(version) else {
                return Err((
                    column_of(version),
                    format!("`{version}` is no kernel version"),
                    "write major and minor: 5.13",
                ));
            };
            let since = word == "since:";
            return Ok(if since { Line::Since(bound) } else { Line::Until(bound) });
        }
        let unset = comment.strip_suffix(" is not set").and_then(|c| c.strip_prefix("CONFIG_"));
        return match unset {
            Some(symbol) if is_symbol(symbol) => Ok(Line::Request(symbol.to_owned(), Value::No)),
            _ => Ok(Line::Other),
        };
    }
    let Some((name, value)) = trimmed.split_once('=') else {
        return Err((1, format!("`{trimmed}` is no request"), FORMS));
    };
    let Some(symbol) = name.strip_prefix("CONFIG_").filter(|s| is_symbol(s)) else {
        return Err((1, format!("`{name}` is no CONFIG_ symbol"), FORMS));
    };
    if value == "m" {
        return Err((
            column_of(value),
            format!("CONFIG_{symbol}=m asks for a module, and none is ever built"),
            "ask for y or n",
        ));
    }
    match Value::parse(value) {
        Some(value) => Ok(Line::Request(symbol.to_owned(), value)),
        None => Err((
            column_of(value),
            format!("`{value}` is no value of a symbol"),
            "a value is y, n, a number, or a string in double quotes",
        )),
    }
}

/// Comments that wait for the request they belong to.
#[derive(Default)]
struct Directives {
    overrides: Option<String>,
    since: Option<(u32, u32)>,
    until: Option<(u32, u32)>,
    at: Option<Place>,
}

impl Directives {
    fn seen_at(&mut self, place: &Place) {
        self.at.get_or_insert_with(|| place.clone());
    }

    /// A problem, if there are any: no request followed.
    fn dangling(self) -> Option<Problem> {
        let place = self.at?;
        Some(
            Problem::new(format!("{place}:1"), "belongs to no request")
                .hint("it must stand directly before the request"),
        )
    }
}

fn is_symbol(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn major_minor(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A number as kconfig writes it, decimal or `0x`.
fn number(text: &str) -> Option<i128> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            i128::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None if text.starts_with('+') => None,
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Request>, Vec<Problem>> {
        parse_fragment("x.config", text)
    }

    #[test]
    fn requests_are_read() {
        let check = |line: &str, symbol: &str, value: Value| {
            let requests = parse(line).expect(line);
            assert_eq!((requests[0].symbol.as_str(), &requests[0].value), (symbol, &value));
            assert_eq!(requests.len(), 1);
        };
        check("CONFIG_TEST_HMM=y", "TEST_HMM", Value::Yes);
        check("CONFIG_64BIT=y   ", "64BIT", Value::Yes);
        check("CONFIG_OOPS=n", "OOPS", Value::No);
        check("# CONFIG_OOPS is not set", "OOPS", Value::No);
        check("CONFIG_N=20", "N", Value::Number("20".into()));
        check("CONFIG_N=-1", "N", Value::Number("-1".into()));
        check("CONFIG_N=0x1F", "N", Value::Number("0x1F".into()));
        check("CONFIG_S=\"a b\"", "S", Value::Text("a b".into()));
        check("CONFIG_S=\"a \\\"b\\\"\"", "S", Value::Text("a \\\"b\\\"".into()));
    }

    #[test]
    fn everything_wrong_is_said_at_once_with_its_place() {
        let text = "# fine\nTEST_HMM=y\nCONFIG_A=maybe\nCONFIG_B=m\n CONFIG_C=y\nCONFIG_D\n\
                    # override:\n# since: soon\nCONFIG_E=\"open\nCONFIG_F=0xg\n";
        let problems = parse(text).expect_err("most of it is wrong");
        let seen: Vec<&str> = problems.iter().map(|p| p.at.as_str()).collect();
        let at = |s: &str| format!("kernel-configs/x.config:{s}");
        let expect: Vec<String> =
            ["2:1", "3:10", "4:10", "5:1", "6:1", "7:12", "8:10", "9:10", "10:10"]
                .into_iter()
                .map(at)
                .collect();
        assert_eq!(seen, expect);
        assert!(problems.iter().all(|p| p.hint.is_some()));
    }

    #[test]
    fn a_directive_belongs_to_the_next_line() {
        let requests =
            parse("# override: because\n# since: 5.14\nCONFIG_A=y\nCONFIG_B=y\n").expect("good");
        assert_eq!(requests[0].overrides.as_deref(), Some("because"));
        assert_eq!(requests[0].since, Some((5, 14)));
        assert!(requests[0].applies_to((6, 0, 0)) && !requests[0].applies_to((5, 13, 9)));
        assert_eq!((&requests[1].overrides, requests[1].since), (&None, None));
        for text in ["# override: because\n\nCONFIG_A=y\n", "# since: 6.1\n"] {
            let problems = parse(text).expect_err(text);
            assert_eq!(problems[0].at, "kernel-configs/x.config:1:1");
        }
    }

    #[test]
    fn two_values_are_right_for_different_kernels() {
        let text = "# until: 6.10\nCONFIG_MODULES=y\n# since: 6.10\nCONFIG_MODULES=n\n\
                    # since: 6.0\nCONFIG_A=y\nCONFIG_A=y\n";
        let merged = merge(parse(text).expect("good")).expect("they do not overlap");
        let of = |version| -> Vec<String> {
            merged.iter().filter(|r| r.applies_to(version)).map(Request::line).collect()
        };
        assert_eq!(of((6, 9, 1)), ["CONFIG_MODULES=y", "CONFIG_A=y"]);
        assert_eq!(of((6, 10, 0)), ["CONFIG_MODULES=n", "CONFIG_A=y"]);
        assert_eq!(of((5, 8, 0)), ["CONFIG_MODULES=y", "CONFIG_A=y"]);
    }

    #[test]
    fn two_values_need_an_override() {
        let one = parse("CONFIG_A=y\nCONFIG_N=16\n").expect("good");
        let two = parse_fragment("z.config", "CONFIG_N=0x10\nCONFIG_A=n\n").expect("good");
        let problems = merge(one.clone().into_iter().chain(two)).expect_err("A contradicts");
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].at, "kernel-configs/z.config:2:1");
        assert!(problems[0].what.contains("x.config:1"), "{}", problems[0].what);

        let two = parse_fragment("z.config", "# override: why\nCONFIG_A=n\n").expect("good");
        let merged = merge(one.into_iter().chain(two)).expect("marked");
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0].value, Value::No);
    }
}
