//! Where the name of a table ends in a text that the parser has taken.

use super::size::{blank_or_comment, token};

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
}
