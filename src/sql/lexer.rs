//! The normaliser of the plan cache: one pass over a statement's text that takes the literals out.
//!
//! Two statements with the same normalised text have the same tokens apart from the values of
//! their literals, so a plan made for one tells for the other where it goes: that is what makes the
//! PostgreSQL parser run once per statement *shape*. The text is otherwise kept as written; a run
//! of blanks (and, if asked for, comments) becomes one blank, each literal one byte that occurs
//! nowhere else.
//!
//! The lexer follows PostgreSQL's scan.l where it goes at all. It refuses rare lexical forms
//! instead of following them; such a statement goes to the parser uncached, so refusing is
//! always right and only ever slow. It assumes `standard_conforming_strings = on` and an encoding
//! in which bytes below 0x80 are ASCII everywhere (UTF8): in other sessions do not ask it.

use std::borrow::Cow;
use std::ops::Range;

/// What kind of literal; also its placeholder in the normalised text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LiteralClass {
    /// Digits only. PostgreSQL takes it for integer, bigint or numeric, by its size.
    Integer = 1,
    /// Any other number.
    Number = 2,
    /// `'...'` or `E'...'`.
    String = 3,
}

/// A literal of the source text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    pub class: LiteralClass,
    start: u32,
    end: u32,
}

impl Literal {
    /// Where it is in the source, quotes and `E` included. PostgreSQL's parser gives the same start.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// A number's characters, or what a string's text says. `None` when that needs backslash
    /// escapes to be worked out: a plan that needs the value is then not the cache's to use.
    pub fn text<'a>(&self, source: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let raw = source.get(self.range())?;
        match self.class {
            LiteralClass::Integer | LiteralClass::Number => Some(Cow::Borrowed(raw)),
            LiteralClass::String => {
                let escapes = raw.first() != Some(&b'\'');
                let raw = if escapes { raw.get(1..)? } else { raw };
                let inner = raw.strip_prefix(b"'")?.strip_suffix(b"'")?;
                if escapes && memchr::memchr(b'\\', inner).is_some() {
                    return None;
                }
                if memchr::memchr(b'\'', inner).is_none() {
                    return Some(Cow::Borrowed(inner));
                }
                let mut text = Vec::with_capacity(inner.len());
                let mut bytes = inner.iter();
                while let Some(byte) = bytes.next() {
                    text.push(*byte);
                    // A quote within is always doubled.
                    if *byte == b'\'' {
                        bytes.next();
                    }
                }
                Some(Cow::Owned(text))
            }
        }
    }
}

/// What to do with comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comments {
    Refuse,
    /// Take them for blanks, as PostgreSQL does: some frameworks put a new one on every query.
    Strip,
}

/// From here on (until the next jump) source offset - normalised offset is constant.
#[derive(Debug, Clone, Copy)]
struct Jump {
    normalised: u32,
    source: u32,
}

/// A reusable lexer: when warm it allocates nothing.
#[derive(Debug, Default)]
pub struct Lexer {
    text: Vec<u8>,
    literals: Vec<Literal>,
    jumps: Vec<Jump>,
    several: bool,
}

impl Lexer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Normalises a statement, or refuses; afterwards the other methods tell about it.
    pub fn normalise(&mut self, source: &[u8], comments: Comments) -> Option<()> {
        self.clear();
        let done = if u32::try_from(source.len()).is_ok() {
            // No token is longer in the normalised text than in the source.
            self.text.reserve(source.len());
            Pass {
                source,
                at: 0,
                from: 0,
                until: 0,
                comments,
                blank: false,
                ended: false,
                after_string: false,
                out: self,
            }
            .run()
        } else {
            None
        };
        if done.is_none() {
            self.clear();
        }
        done
    }

    fn clear(&mut self) {
        self.text.clear();
        self.literals.clear();
        self.jumps.clear();
        self.several = false;
    }

    /// The normalised text: the plan cache's key.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The literals, in the order of the text.
    pub fn literals(&self) -> &[Literal] {
        &self.literals
    }

    /// Whether a `;` has something behind it other than blanks and further `;`.
    pub fn several_statements(&self) -> bool {
        self.several
    }

    /// Where a byte of the normalised text is in the source just normalised. A plan keeps
    /// offsets of the normalised text, as they are the same for every statement of its shape.
    pub fn source_offset(&self, normalised: usize) -> usize {
        let before = self.jumps.partition_point(|jump| jump.normalised as usize <= normalised);
        match before.checked_sub(1).and_then(|i| self.jumps.get(i)) {
            Some(jump) => jump.source as usize + (normalised - jump.normalised as usize),
            None => normalised,
        }
    }

    /// The inverse for the start of a token, such as a location the parser gives. `None` inside of
    /// what was left out.
    pub fn normalised_offset(&self, source: usize) -> Option<usize> {
        let before = self.jumps.partition_point(|jump| jump.source as usize <= source);
        let (from, at) = match before.checked_sub(1).and_then(|i| self.jumps.get(i)) {
            Some(jump) => (jump.source as usize, jump.normalised as usize),
            None => (0, 0),
        };
        let normalised = at + (source - from);
        let until = self.jumps.get(before).map_or(self.text.len(), |jump| jump.normalised as usize);
        (normalised < until).then_some(normalised)
    }

    /// The literal that starts at a source offset.
    pub fn literal_at(&self, source: usize) -> Option<usize> {
        self.literals.binary_search_by_key(&source, |literal| literal.start as usize).ok()
    }

    /// The literal of a constant in the parser's tree, and whether it is negated. The parser
    /// folds the minus signs (and parentheses) before a number into the constant, and says it
    /// starts at the first.
    pub fn constant_at(&self, text: &[u8], location: usize) -> Option<(usize, bool)> {
        let mut negative = false;
        for at in location..text.len() {
            match text.get(at)? {
                b'-' => negative = !negative,
                b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' | b'(' if at > location => {}
                _ => return self.literal_at(at).map(|literal| (literal, negative)),
            }
        }
        None
    }
}

/// What a byte begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    Refused,
    Blank,
    /// A letter, `_` or a byte of a non-ASCII character.
    Word,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Minus,
    Slash,
    Dot,
    Semicolon,
    /// Any other byte of operators and punctuation: it stands for itself.
    Plain,
}

const BEGINS: [Begins; 256] = {
    let mut table = [Begins::Refused; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = match b as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => Begins::Blank,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Begins::Word,
            b'0'..=b'9' => Begins::Digit,
            b'\'' => Begins::Quote,
            b'"' => Begins::DoubleQuote,
            b'$' => Begins::Dollar,
            b'-' => Begins::Minus,
            b'/' => Begins::Slash,
            b'.' => Begins::Dot,
            b';' => Begins::Semicolon,
            b',' | b'(' | b')' | b'[' | b']' | b':' | b'+' | b'*' | b'%' | b'^' | b'<' | b'>'
            | b'=' | b'~' | b'!' | b'@' | b'#' | b'&' | b'|' | b'`' | b'?' => Begins::Plain,
            // Control bytes, `\`, `{`, `}`: no token of PostgreSQL's begins so.
            _ => Begins::Refused,
        };
        b += 1;
    }
    table
};

/// Bytes a word goes on with.
const IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = matches!(BEGINS[b], Begins::Word | Begins::Digit | Begins::Dollar);
        b += 1;
    }
    table
};

struct Pass<'a, 'b> {
    source: &'a [u8],
    at: usize,
    /// The run of the source, up to the end of the last token, that is put out as it is when something
    /// else must be.
    from: usize,
    until: usize,
    comments: Comments,
    /// Blanks were passed since the last token.
    blank: bool,
    /// A `;` was passed.
    ended: bool,
    /// The last token was a string: PostgreSQL may join the next to it.
    after_string: bool,
    out: &'b mut Lexer,
}

impl Pass<'_, '_> {
    fn run(mut self) -> Option<()> {
        while let Some(byte) = self.peek(0) {
            match BEGINS[usize::from(byte)] {
                Begins::Refused => return None,
                Begins::Blank => self.blanks(),
                Begins::Minus if self.peek(1) == Some(b'-') => self.line_comment()?,
                Begins::Slash if self.peek(1) == Some(b'*') => self.block_comment()?,
                Begins::Plain | Begins::Minus | Begins::Slash => self.copy(self.at + 1),
                // `.5` and `1..2` are read in ways of their own.
                Begins::Dot if self.digit(1) || self.peek(1) == Some(b'.') => return None,
                Begins::Dot => self.copy(self.at + 1),
                Begins::Semicolon => {
                    self.copy(self.at + 1);
                    self.ended = true;
                }
                Begins::Word => self.word()?,
                Begins::Digit => self.number()?,
                Begins::Quote => {
                    // `'a'` newline `'b'` is one string.
                    if self.after_string {
                        return None;
                    }
                    let end = self.plain_string_end(self.at + 1)?;
                    self.literal(LiteralClass::String, end);
                }
                Begins::DoubleQuote => {
                    let end = self.quoted_name_end(self.at + 1)?;
                    self.copy(end);
                }
                Begins::Dollar => self.parameter()?,
            }
        }
        self.put_run();
        Some(())
    }

    /// Puts the run out; another one begins behind it.
    fn put_run(&mut self) {
        let run = self.source.get(self.from..self.until).unwrap_or_default();
        self.out.text.extend_from_slice(run);
        self.from = self.until;
    }

    #[inline]
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.get(self.at + ahead).copied()
    }

    fn digit(&self, ahead: usize) -> bool {
        self.peek(ahead).is_some_and(|b| b.is_ascii_digit())
    }

    /// What every token does before it is put out.
    #[inline]
    fn token(&mut self) {
        if self.blank {
            self.blank = false;
            let first = self.until == self.from && self.out.text.is_empty();
            // One blank for one blank: the run goes on.
            if first || self.source.get(self.until..self.at) != Some(b" ") {
                self.put_run();
                if !first {
                    self.out.text.push(b' ');
                }
                let normalised = self.out.text.len();
                if self.out.source_offset_now(normalised) != self.at {
                    self.out.jump(normalised, self.at);
                }
                self.from = self.at;
            }
        }
        self.after_string = false;
        if self.ended && self.peek(0) != Some(b';') {
            self.out.several = true;
        }
    }

    /// Puts out the source up to `end` as it is.
    #[inline]
    fn copy(&mut self, end: usize) {
        self.token();
        self.at = end;
        self.until = end;
    }

    /// Puts out a placeholder for the source up to `end`.
    #[inline]
    fn literal(&mut self, class: LiteralClass, end: usize) {
        self.token();
        // Up to here, with the blank before it.
        self.until = self.at;
        self.put_run();
        self.out.text.push(class as u8);
        // The source is no longer than u32 counts.
        let (start, stop) = (self.at as u32, end as u32);
        self.out.literals.push(Literal { class, start, end: stop });
        if end - self.at > 1 {
            self.out.jump(self.out.text.len(), end);
        }
        self.after_string = class == LiteralClass::String;
        self.at = end;
        (self.from, self.until) = (end, end);
    }

    fn blanks(&mut self) {
        self.blank = true;
        while self.peek(0).is_some_and(|b| BEGINS[usize::from(b)] == Begins::Blank) {
            self.at += 1;
        }
    }

    fn line_comment(&mut self) -> Option<()> {
        if self.comments == Comments::Refuse {
            return None;
        }
        self.blank = true;
        let rest = self.source.get(self.at..)?;
        let len = memchr::memchr3(b'\n', b'\r', 0, rest).unwrap_or(rest.len());
        self.at += len;
        // A zero byte ends a text for PostgreSQL.
        (rest.get(len) != Some(&0)).then_some(())
    }

    fn block_comment(&mut self) -> Option<()> {
        if self.comments == Comments::Refuse {
            return None;
        }
        self.blank = true;
        let mut depth = 0usize;
        loop {
            match (self.peek(0)?, self.peek(1)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Some(());
                    }
                }
                (0, _) => return None,
                _ => self.at += 1,
            }
        }
    }

    fn word(&mut self) -> Option<()> {
        let mut len = 1;
        while self.peek(len).is_some_and(|b| IN_WORD[usize::from(b)]) {
            len += 1;
        }
        if len == 1 {
            // A letter before a quote makes another kind of string or name.
            match (self.peek(0)?, self.peek(1), self.peek(2)) {
                (b'e' | b'E', Some(b'\''), _) => {
                    let end = self.escape_string_end(self.at + 2)?;
                    self.literal(LiteralClass::String, end);
                    return Some(());
                }
                (b'b' | b'B' | b'x' | b'X' | b'n' | b'N', Some(b'\''), _) => return None,
                (b'u' | b'U', Some(b'&'), Some(b'\'' | b'"')) => return None,
                _ => {}
            }
        }
        self.copy(self.at + len);
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let digits = |from: usize| {
            let rest = self.source.get(from..).unwrap_or_default();
            from + rest.iter().take_while(|b| b.is_ascii_digit()).count()
        };
        let byte = |at: usize| self.source.get(at).copied();
        let mut class = LiteralClass::Integer;
        let mut end = digits(self.at);
        if byte(end) == Some(b'.') {
            class = LiteralClass::Number;
            end = digits(end + 1);
        }
        if matches!(byte(end), Some(b'e' | b'E')) {
            class = LiteralClass::Number;
            let sign = usize::from(matches!(byte(end + 1), Some(b'+' | b'-')));
            let exponent = end + 1 + sign;
            end = digits(exponent);
            if end == exponent {
                return None;
            }
        }
        match byte(end) {
            // Servers differ in what they make of 1abc, 0x1F, 1_000, 1..2.
            Some(b'.') => None,
            Some(b) if IN_WORD[usize::from(b)] => None,
            Some(_) | None => {
                self.literal(class, end);
                Some(())
            }
        }
    }

    fn parameter(&mut self) -> Option<()> {
        let mut len = 1;
        while self.digit(len) {
            len += 1;
        }
        // Else a dollar quote, or `$1abc`.
        if len == 1 || self.peek(len).is_some_and(|b| IN_WORD[usize::from(b)]) {
            return None;
        }
        self.copy(self.at + len);
        Some(())
    }

    /// The end of a `'...'` whose inside starts at `at`.
    fn plain_string_end(&self, mut at: usize) -> Option<usize> {
        loop {
            let rest = self.source.get(at..)?;
            at += memchr::memchr2(b'\'', 0, rest)? + 1;
            match (self.source.get(at - 1)?, self.source.get(at)) {
                (0, _) => return None,
                (_, Some(b'\'')) => at += 1,
                (_, Some(_) | None) => return Some(at),
            }
        }
    }

    /// The same for `E'...'`, where a backslash takes the next byte with it.
    fn escape_string_end(&self, mut at: usize) -> Option<usize> {
        loop {
            let rest = self.source.get(at..)?;
            at += memchr::memchr3(b'\'', b'\\', 0, rest)? + 1;
            match (self.source.get(at - 1)?, self.source.get(at)) {
                (0, _) | (_, Some(0)) => return None,
                (b'\\', _) => at += 1,
                (_, Some(b'\'')) => at += 1,
                (_, Some(_) | None) => return Some(at),
            }
        }
    }

    /// The end of a `"..."` whose inside starts at `at`. Control bytes are refused: the
    /// placeholders are such.
    fn quoted_name_end(&self, mut at: usize) -> Option<usize> {
        loop {
            match (self.source.get(at)?, self.source.get(at + 1)) {
                (b'"', Some(b'"')) => at += 2,
                (b'"', _) => return Some(at + 1),
                (0..=0x1f, _) => return None,
                _ => at += 1,
            }
        }
    }
}

impl Lexer {
    fn jump(&mut self, normalised: usize, source: usize) {
        self.jumps.push(Jump { normalised: normalised as u32, source: source as u32 });
    }

    /// [`Lexer::source_offset`] while the last jump is the one that counts.
    #[inline]
    fn source_offset_now(&self, normalised: usize) -> usize {
        match self.jumps.last() {
            Some(jump) => jump.source as usize + (normalised - jump.normalised as usize),
            None => normalised,
        }
    }
}

#[cfg(test)]
mod tests;
