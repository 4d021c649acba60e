//! C without a compiler: the tokens of a file, its functions, and which statements
//! come before which.
//!
//! It knows neither types nor macros, nor what is looked for. It takes any text
//! and never panics.

use std::ops::Range;

/// A token of C; comments, directives and what is under `#if 0` have none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: u32,
    /// The braces around it; a brace is not around itself.
    depth: usize,
    /// Whether a blank or a comment is before it.
    spaced: bool,
    /// The index of the bracket that closes this one.
    pub(super) close: usize,
}

/// A function's definition.
#[derive(Debug, Default)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) params: Vec<&'a str>,
    /// The tokens between its braces.
    pub(super) body: Range<usize>,
}

/// A C file, as far as it is understood.
pub(super) struct Source<'a> {
    pub(super) tokens: Vec<Token<'a>>,
    pub(super) functions: Vec<Function<'a>>,
}

impl<'a> Source<'a> {
    pub(super) fn read(text: &'a str) -> Self {
        let tokens = tokens(text);
        Source { functions: functions(&tokens), tokens }
    }

    /// Whether what happens at `at` can matter at `end`: not if that is in
    /// another branch of the same `if` or `switch`, or if the function returns
    /// in between.
    pub(super) fn reaches(&self, at: usize, end: usize) -> bool {
        let label = |at: usize| matches!(self.text(at), "case" | "default");
        let mut depth = self.tokens[at].depth;
        for next in at + 1..end {
            let left = self.text(next) == "}" && self.tokens[next].depth < depth;
            depth = depth.min(self.tokens[next].depth);
            let beside = label(next) && self.tokens[next].depth == depth;
            if !left && !beside {
                continue;
            }
            let ended = self.text(self.statement(next - 1));
            let label = label(next + usize::from(left));
            if ended == "return" || label && matches!(ended, "break" | "goto") {
                return false;
            }
            let mut after = (next..end).filter(|&at| self.tokens[at].depth == depth);
            if left
                && after.all(|at| match self.text(at) {
                    "}" => self.text(at + 1) == "else",
                    text => text != ";",
                })
            {
                return false;
            }
        }
        true
    }

    /// Whether what happens at `at` always happens on the way to `end`, as far
    /// as blocks tell.
    pub(super) fn always(&self, at: usize, end: usize) -> bool {
        let depth = self.tokens[at].depth;
        let condition = |at: usize| matches!(self.text(at), "if" | "else" | "for" | "while" | "?");
        self.tokens[at..end].iter().all(|token| token.depth >= depth)
            && !(self.statement(at)..at).any(condition)
    }

    /// Where the statement begins of which the token at `at` is a part; of a
    /// semicolon, the statement that it ends.
    fn statement(&self, at: usize) -> usize {
        let mut closed = 0;
        for before in (0..at).rev() {
            match self.text(before) {
                "{" | "}" => return before + 1,
                ";" | ":" if closed == 0 => return before + 1,
                ")" => closed += 1,
                "(" => closed = usize::saturating_sub(closed, 1),
                _ => {}
            }
        }
        0
    }

    /// Whether the name at `at` is that of a struct declared without a value.
    pub(super) fn declares(&self, at: usize) -> bool {
        matches!(self.text(at + 1), ";" | ",")
            && self.text(at - 1) != "*"
            && matches!(self.text(self.statement(at)), "struct" | "const" | "static")
    }

    /// The calls of `name` in a function.
    pub(super) fn calls(&self, f: &Function<'a>, name: &str) -> impl Iterator<Item = usize> {
        f.body.clone().filter(move |&at| {
            self.text(at) == name
                && self.text(at + 1) == "("
                && !matches!(self.text(at - 1), "." | "->")
        })
    }

    /// The arguments of the call at `at`.
    pub(super) fn args(&self, at: usize) -> Vec<Range<usize>> {
        self.split(at + 2..self.tokens[at + 1].close)
    }

    /// The parts between commas that are not empty.
    pub(super) fn split(&self, range: Range<usize>) -> Vec<Range<usize>> {
        split(&self.tokens, range)
    }

    /// An expression without casts and without parentheses around it.
    pub(super) fn bare(&self, mut range: Range<usize>) -> Range<usize> {
        while !range.is_empty() && self.text(range.start) == "(" {
            let close = self.tokens[range.start].close;
            range = match close + 1 == range.end {
                true => range.start + 1..close,
                false => close + 1..range.end,
            };
        }
        range
    }

    /// The expression that begins at `start`.
    pub(super) fn expression(&self, start: usize) -> Range<usize> {
        let mut at = start;
        while !matches!(self.text(at), "" | ";" | "," | ")" | "}" | "]") {
            at = next(&self.tokens, at);
        }
        start..at.min(self.tokens.len())
    }

    /// An expression in one line.
    pub(super) fn render(&self, range: Range<usize>) -> String {
        let mut out = String::new();
        for token in &self.tokens[range] {
            if token.spaced && !out.is_empty() {
                out.push(' ');
            }
            out.push_str(token.text);
        }
        out
    }

    pub(super) fn starts(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| self.text(at + n) == *word)
    }

    /// The token at `at`; nothing is a token beyond the end.
    pub(super) fn text(&self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", |token| token.text)
    }
}

/// The functions that are defined at the outermost level.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<Function<'a>> {
    let mut functions = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < tokens.len() {
        let Token { text, depth, .. } = tokens[at];
        if depth == 0 && text == "{" {
            let end = (at + 1..tokens.len()).find(|&end| tokens[end].depth == 0);
            let end = end.unwrap_or(tokens.len());
            let function = header(tokens, start..at);
            functions.extend(function.map(|f| Function { body: at + 1..end, ..f }));
            // Under `#else` the same function may begin again, without a brace
            // that ends the first.
            (start, at) = (end, end);
            if at < tokens.len() && tokens[at].text != "}" {
                continue;
            }
        }
        if depth == 0 && matches!(text, ";" | "{" | "}") {
            start = at + 1;
        }
        at += 1;
    }
    functions
}

/// The name and the parameters of a function, from what is before its body;
/// `None` if that begins something else.
fn header<'a>(tokens: &[Token<'a>], range: Range<usize>) -> Option<Function<'a>> {
    const ATTRIBUTES: [&str; 7] = [
        "__attribute__",
        "__printf",
        "__scanf",
        "__aligned",
        "__section",
        "__acquires",
        "__releases",
    ];
    let mut chosen: Option<(usize, usize)> = None;
    let mut at = range.start;
    while at < range.end {
        let (text, open) = (tokens[at].text, at + 1);
        if text == "=" {
            return None;
        }
        if is_word(text) && open < range.end && tokens[open].text == "(" {
            let close = tokens[open].close;
            // Types between two such groups: the first was an attribute, or a
            // macro of its own.
            let typed = |(_, end): (usize, usize)| {
                tokens[end..at].iter().any(|t| is_word(t.text) && !t.text.starts_with("__"))
            };
            if close >= range.end {
                return None;
            }
            if !ATTRIBUTES.contains(&text) && chosen.is_none_or(typed) {
                chosen = Some((at, close));
            }
        }
        at = next(tokens, at);
    }
    let (name, close) = chosen?;
    let params = split(tokens, name + 2..close).into_iter().filter_map(|param| {
        let words = tokens[param].iter().take_while(|t| t.text != "[").map(|t| t.text);
        words.filter(|text| is_word(text)).last()
    });
    let params: Vec<&str> = params.collect();
    let name = match tokens[name].text {
        // `SYSCALL_DEFINE3(name, ...)` and its like.
        text if !text.contains(|c: char| c.is_ascii_lowercase()) => params.first()?,
        text => text,
    };
    Some(Function { name, params, body: 0..0 })
}

/// The index after a token, or after the bracket that it opens.
fn next(tokens: &[Token<'_>], at: usize) -> usize {
    match tokens[at].text {
        "(" | "[" | "{" => tokens[at].close.max(at) + 1,
        _ => at + 1,
    }
}

fn split(tokens: &[Token<'_>], range: Range<usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let end = range.end.min(tokens.len());
    let (mut start, mut at) = (range.start, range.start);
    while at < end {
        if tokens[at].text == "," {
            parts.push(start..at);
            start = at + 1;
        }
        at = next(tokens, at);
    }
    parts.push(start..end);
    parts.retain(|part| !part.is_empty());
    parts
}

pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The tokens of a text.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token<'_>> = Vec::new();
    // For each `#if`: the depth there, and whether its text is dead.
    let mut conditions: Vec<(usize, bool)> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let (mut at, mut line, mut depth, mut spaced, mut fresh) = (0, 1, 0, false, true);
    while at < text.len() {
        let rest = &text[at..];
        let (kind, length) = lexeme(rest, fresh);
        let lexeme = &rest[..length];
        match kind {
            Kind::Blank => {
                spaced = true;
                fresh |= lexeme.contains('\n');
            }
            Kind::Directive => directive(lexeme, &mut conditions, &mut depth),
            Kind::Token => {
                fresh = false;
                if conditions.iter().all(|(_, dead)| !dead) {
                    if lexeme == "}" {
                        // In the first column it ends a function, whatever
                        // macros and conditions did to the braces before it.
                        let outermost = text[..at].is_empty() || text[..at].ends_with('\n');
                        depth = if outermost { 0 } else { usize::saturating_sub(depth, 1) };
                    }
                    let token = Token { text: lexeme, line, depth, spaced, close: usize::MAX };
                    pair(&mut tokens, &mut open, token);
                    depth += usize::from(lexeme == "{");
                    spaced = false;
                }
            }
        }
        line += lexeme.matches('\n').count() as u32;
        at += length;
    }
    let end = tokens.len();
    for token in &mut tokens {
        token.close = token.close.min(end);
    }
    tokens
}

/// Appends a token; one that closes a bracket is told to the one that opens it.
fn pair<'a>(tokens: &mut Vec<Token<'a>>, open: &mut Vec<usize>, token: Token<'a>) {
    let opening = match token.text {
        ")" => "(",
        "]" => "[",
        "}" => "{",
        _ => "",
    };
    if matches!(token.text, "(" | "[" | "{") {
        open.push(tokens.len());
    } else if !opening.is_empty() {
        // Brackets that nothing closes end with the block, and no sooner.
        let same = open.iter().rposition(|&at| tokens[at].text == opening);
        let block = open.iter().rposition(|&at| tokens[at].text == "{");
        if let Some(same) = same.filter(|same| Some(*same) >= block) {
            tokens[open[same]].close = tokens.len();
            open.truncate(same);
        }
    }
    tokens.push(token);
}

/// Of two branches only the last counts for the depth, as each may open or
/// close the same block.
fn directive(text: &str, conditions: &mut Vec<(usize, bool)>, depth: &mut usize) {
    let mut words = text[1..].split_whitespace();
    let (word, value) = (words.next().unwrap_or(""), words.next());
    match word {
        "if" | "ifdef" | "ifndef" => {
            conditions.push((*depth, word == "if" && value == Some("0")));
        }
        "endif" => drop(conditions.pop()),
        _ if word.starts_with("el") => {
            if let Some((before, dead)) = conditions.last_mut() {
                (*depth, *dead) = (*before, false);
            }
        }
        _ => {}
    }
}

enum Kind {
    Blank,
    Directive,
    Token,
}

/// What a text that is not empty begins with, and its length. A directive is
/// only where it is the first on its line.
fn lexeme(text: &str, fresh: bool) -> (Kind, usize) {
    const OPERATORS: [&str; 21] = [
        "<<=", ">>=", "->", "==", "!=", "<=", ">=", "&&", "||", "+=", "-=", "*=", "/=", "%=", "&=",
        "|=", "^=", "<<", ">>", "++", "--",
    ];
    let line = || text.find('\n').unwrap_or(text.len());
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
    let first = text.chars().next().unwrap_or(' ');
    match first {
        '/' if text.starts_with("/*") => {
            (Kind::Blank, text[2..].find("*/").map_or(text.len(), |end| end + 4))
        }
        '/' if text.starts_with("//") => (Kind::Blank, line()),
        '\\' if text[1..].starts_with('\n') => (Kind::Blank, 2),
        '\\' if text[1..].starts_with("\r\n") => (Kind::Blank, 3),
        c if c.is_ascii_whitespace() => (Kind::Blank, 1),
        '#' if fresh => {
            let mut at = 1;
            // Neither a comment nor a continued line ends it.
            while at < text.len() && !text[at..].starts_with('\n') {
                at += lexeme(&text[at..], false).1;
            }
            (Kind::Directive, at)
        }
        '"' | '\'' => (Kind::Token, literal(text, first)),
        c if word(c) => (Kind::Token, text.find(|c| !word(c)).unwrap_or(text.len())),
        c => {
            let operator = OPERATORS.iter().find(|operator| text.starts_with(**operator));
            (Kind::Token, operator.map_or(c.len_utf8(), |operator| operator.len()))
        }
    }
}

/// The length of the literal that a text begins with. One that is not closed
/// ends with its line, so that an apostrophe in dead text does no harm.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\n' => return at,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}
