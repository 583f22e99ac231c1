//! How large a statement's tree can become, told from its text in one pass.
//!
//! PostgreSQL's grammar makes a tree as deep as its text is long (`1+1+1+...`, `a::b::c`, UNION after
//! UNION), and a few of the parser's own actions recurse over what they have made. So before a long
//! text is parsed its tokens are counted: no tree has more levels than the bound given here, and none
//! takes more memory.

/// The memory that one token's nodes take in a tree, in bytes, rounded up (33 to 75 measured).
const NODE: usize = 100;
/// What each statement of a text takes besides.
const STATEMENT: usize = 400;

/// A text's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of text.
    pub bytes: usize,
    pub tokens: usize,
    /// The longest run of characters that operators are made of.
    pub operator: usize,
    /// Semicolons.
    pub ends: usize,
    /// An upper bound for the levels of the tree, in tokens.
    pub depth: usize,
}

impl Size {
    /// An upper bound for the memory of text and tree, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes + self.tokens * NODE + self.ends * STATEMENT
    }
}

/// What stands between two brackets.
#[derive(Default)]
struct Level {
    /// Tokens since the last comma or semicolon: they may all stand above one another.
    run: usize,
    /// UNION, INTERSECT and EXCEPT since the last semicolon: each is a level of its own, and commas
    /// do not end it.
    sets: usize,
    /// The deepest run of this level that has ended, and the deepest bracket in the present one.
    deepest: usize,
    inner: usize,
}

impl Level {
    fn ends(&mut self) {
        self.deepest = self.deepest.max(self.run + self.inner);
        (self.run, self.inner) = (0, 0);
    }

    fn depth(&self) -> usize {
        self.sets + self.deepest.max(self.run + self.inner)
    }
}

/// Measures a text. As in PostgreSQL's scan.l a quoted string is one token, and a comment is none.
pub fn of(text: &[u8]) -> Size {
    let mut size = Size { bytes: text.len(), ..Size::default() };
    // The text outside of all brackets, then one for each bracket that is open.
    let mut levels = vec![Level::default()];
    let mut at = 0;
    // The last token was `E'...'`: a quote behind it goes on with it.
    let mut escapes = false;
    let mut operator = 0;
    while let Some(&byte) = text.get(at) {
        let rest = &text[at..];
        let skipped = blank_or_comment(rest);
        if skipped > 0 {
            at += skipped;
            operator = 0;
            continue;
        }
        size.tokens += 1;
        let prefixed = matches!(byte, b'e' | b'E') && rest.get(1) == Some(&b'\'');
        escapes = prefixed || escapes && byte == b'\'';
        operator = if is_operator(byte) { operator + 1 } else { 0 };
        size.operator = size.operator.max(operator);
        let len = token(rest, escapes);
        at += len;
        let inside = levels.len() > 1;
        let Some(level) = levels.last_mut() else { break };
        level.run += 1;
        match byte {
            b'(' | b'[' => levels.push(Level::default()),
            b')' | b']' if inside => {
                let closed = levels.pop().map_or(0, |l| l.depth());
                if let Some(level) = levels.last_mut() {
                    level.inner = level.inner.max(closed);
                }
            }
            b',' => level.ends(),
            b';' => {
                size.ends += 1;
                level.ends();
                level.deepest += level.sets;
                level.sets = 0;
            }
            b'u' | b'U' | b'i' | b'I' | b'e' | b'E' => {
                let word = &rest[..len];
                let is = |set: &str| word.eq_ignore_ascii_case(set.as_bytes());
                level.sets += usize::from(is("union") || is("intersect") || is("except"));
            }
            _ => {}
        }
    }
    // What is never closed is not parsed, but it is there while that is found out.
    size.depth = levels.iter().map(Level::depth).fold(0, usize::saturating_add);
    size
}

/// The bytes of white space or of a comment that a text begins with.
pub(super) fn blank_or_comment(text: &[u8]) -> usize {
    match text {
        [b, ..] if b.is_ascii_whitespace() || *b == b'\x0b' => 1,
        [b'-', b'-', ..] => {
            text.iter().position(|&b| b == b'\n' || b == b'\r').unwrap_or(text.len())
        }
        [b'/', b'*', ..] => {
            let (mut depth, mut at) = (0_usize, 0);
            while at < text.len() {
                match &text[at..] {
                    [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
                    [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
                if depth == 0 {
                    break;
                }
            }
            at
        }
        _ => 0,
    }
}

/// The bytes of the token that a text begins with. `escapes`: it is a string in which a backslash
/// takes the next byte along.
pub(super) fn token(text: &[u8], escapes: bool) -> usize {
    match text {
        [b'e' | b'E', b'\'', ..] => 1 + quoted(&text[1..], b'\'', true),
        [b'\'', ..] => quoted(text, b'\'', escapes),
        [b'"', ..] => quoted(text, b'"', false),
        [b'$', ..] => dollar_quoted(text).unwrap_or_else(|| word(text)),
        [b, ..] if is_word(*b) => word(text),
        _ => 1,
    }
}

pub fn is_operator(b: u8) -> bool {
    memchr::memchr(b, b"~!@#^&|`?+-*/%<>=").is_some()
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

fn word(text: &[u8]) -> usize {
    let rest = text.iter().skip(1).take_while(|b| is_word(**b) || **b == b'$').count();
    1 + rest
}

/// A doubled quote ends one string and begins another one here, which counts a token more.
fn quoted(text: &[u8], quote: u8, escapes: bool) -> usize {
    let mut at = 1;
    while let Some(&b) = text.get(at) {
        at += if escapes && b == b'\\' { 2 } else { 1 };
        if b == quote {
            break;
        }
    }
    at.min(text.len())
}

/// `$tag$ ... $tag$`; `None`: the text begins otherwise.
fn dollar_quoted(text: &[u8]) -> Option<usize> {
    let tag = text.iter().skip(1).take_while(|b| is_word(**b)).count();
    let numbered = text.get(1).is_some_and(u8::is_ascii_digit);
    if numbered || text.get(tag + 1) != Some(&b'$') {
        return None;
    }
    let (delimiter, body) = text.split_at(tag + 2);
    let end = memchr::memmem::find(body, delimiter);
    Some(end.map_or(text.len(), |at| delimiter.len() + at + delimiter.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> usize {
        of(text.as_bytes()).tokens
    }

    fn depth(text: &str) -> usize {
        of(text.as_bytes()).depth
    }

    #[test]
    fn a_string_or_a_name_is_one_token_and_a_comment_none() {
        assert_eq!(tokens("SELECT a, 1"), 4);
        assert_eq!(tokens("SELECT 'a, (b' -- , c\n /* ( /* , */ ( */"), 2);
        assert_eq!(tokens(r"SELECT E'\', 1, 2'"), 2);
        assert_eq!(tokens("SELECT E'a'\n'\\', 1, 2'"), 3, "the string goes on behind the new line");
        assert_eq!(tokens(r"SELECT e '\', 1"), 5, "a word before a string");
        assert_eq!(tokens("SELECT $$ 1, 2 $$, $a$ $$ ( $a$, $1"), 6);
        assert_eq!(tokens("\"a, b\" U&\"c\""), 4);
        assert_eq!(tokens("SELECT 'it''s'"), 3, "two parts");
    }

    #[test]
    fn operators_are_measured_where_they_are_no_comments() {
        let longest = |text: &str| of(text.as_bytes()).operator;
        assert_eq!(longest("a +- b <-> c"), 3);
        assert_eq!(longest("------ a\n'+++++' /* ++++ */ $$ ++++ $$ a*/b"), 2);
    }

    #[test]
    fn what_can_stand_above_one_another_is_counted() {
        let sum = vec!["1"; 1000].join("+");
        assert_eq!(depth(&sum), 1999);
        assert_eq!(depth(&format!("{sum}, {sum}; {sum}")), 2000, "side by side, the comma too");
        assert_eq!(depth(&format!("f({sum}, 1) + g({sum})")), 2000 + 5);
        let union = vec!["SELECT 1, 2"; 1000].join(" UNION ");
        assert!(depth(&union) >= 999, "{}", depth(&union));
        assert!(depth(&format!("({union}), 1")) >= 999);
        let rows = vec!["(1, 2)"; 1000].join(", ");
        assert!(depth(&rows) < 20, "{}", depth(&rows));
        assert!(depth(&"(".repeat(1000)) >= 1000);
    }
}
