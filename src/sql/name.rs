//! Where the name of a table ends in a text that the parser has taken.

use std::ops::Range;

use super::size::{blank_or_comment, token};
use super::tokens::Tokens;

/// The byte behind a table's name that begins at `at` and has so many parts, with the `*` that may follow
/// it; `None`: no such name stands there.
pub fn end_of_table(text: &[u8], at: usize, parts: usize) -> Option<usize> {
    let mut end = at;
    for part in 0..parts {
        if part > 0 {
            end = behind_blanks(text, end);
            end = (text.get(end) == Some(&b'.')).then(|| behind_blanks(text, end + 1))?;
        }
        end = end_of_word(text, end)?;
    }
    let star = behind_blanks(text, end);
    Some(if text.get(star) == Some(&b'*') { star + 1 } else { end })
}

/// What stands within the first parentheses of a text that the parser has taken.
pub fn within_parentheses(text: &[u8]) -> Option<Range<usize>> {
    let mut open: Option<usize> = None;
    let mut depth = 0usize;
    for token in Tokens::of(text) {
        match text.get(token.clone())? {
            b"(" => {
                open.get_or_insert(token.end);
                depth += 1;
            }
            b")" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(open?..token.start);
                }
            }
            _ => {}
        }
    }
    None
}

fn behind_blanks(text: &[u8], mut at: usize) -> usize {
    loop {
        let skipped = blank_or_comment(text.get(at..).unwrap_or_default());
        if skipped == 0 {
            return at;
        }
        at += skipped;
    }
}

/// `U&"..."` is read by its value, which no byte of it need have: such a name is not looked for.
fn end_of_word(text: &[u8], mut at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    if matches!(rest, [b'u' | b'U', b'&', b'"', ..]) {
        return None;
    }
    match rest.first()? {
        // A doubled quote stands for one, and is two tokens.
        b'"' => {
            while text.get(at) == Some(&b'"') {
                at += token(text.get(at..)?, false);
            }
            Some(at)
        }
        b if b.is_ascii_alphabetic() || *b == b'_' || *b >= 0x80 => Some(at + token(rest, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_behind_its_last_part() {
        for (text, at, parts, name) in [
            ("FROM t WHERE", 5, 1, "t"),
            ("FROM t", 5, 1, "t"),
            ("FROM public . t x", 5, 2, "public . t"),
            ("FROM a./* no */\"b\"\"c\" x", 5, 2, "a./* no */\"b\"\"c\""),
            ("FROM \"a.b\",c", 5, 1, "\"a.b\""),
            ("FROM t * x", 5, 1, "t *"),
            ("FROM größe,u", 5, 1, "größe"),
        ] {
            let end = end_of_table(text.as_bytes(), at, parts);
            assert_eq!(end, Some(at + name.len()), "{text}");
        }
        for (text, at, parts) in [("FROM t", 5, 2), ("FROM U&\"t\"", 5, 1), ("FROM (t)", 5, 1)] {
            assert_eq!(end_of_table(text.as_bytes(), at, parts), None, "{text}");
        }
        assert_eq!(end_of_table(b"FROM", 9, 1), None);
    }

    #[test]
    fn parentheses_are_those_of_the_text_and_of_no_literal() {
        let within = |text: &str| {
            let found = within_parentheses(text.as_bytes());
            found.and_then(|range| text.get(range).map(str::to_owned))
        };
        let text =
            "COPY /* ( */ (SELECT ')', f(x), $$)$$, \")\" FROM t -- )\n) TO STDOUT (FORMAT csv)";
        let wanted = "SELECT ')', f(x), $$)$$, \")\" FROM t -- )\n";
        assert_eq!(within(text).as_deref(), Some(wanted));
        assert_eq!(within("COPY t TO STDOUT"), None);
        assert_eq!(within("(a"), None);
    }
}
