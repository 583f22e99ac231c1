//! Where the rows of VALUES stand in a text, and its parameters.
//!
//! The parser does not tell where a row ends. Of a text that it has taken, and of which it has told how many
//! rows there are, they are found token by token.

use std::ops::Range;

use super::tokens::Tokens;

/// The rows of an INSERT, each from its opening parenthesis to behind the closing one.
#[derive(Debug, Default)]
pub struct Rows {
    spans: Vec<Range<usize>>,
    /// Where each `$n` stands, and n.
    params: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Elsewhere,
    /// VALUES, or a comma behind a row.
    Wants,
    /// Within the row that begins there.
    Within(usize),
    Behind,
}

impl Rows {
    /// The rows of the text's VALUES, which are so many; `None`: they are not found.
    pub fn of(text: &[u8], count: usize) -> Option<Self> {
        let mut found = Self::default();
        let mut depth = 0_usize;
        let mut state = State::Elsewhere;
        for span in Tokens::of(text) {
            let word = &text[span.clone()];
            let byte = word.first().copied()?;
            found.params.extend(parameter(word).map(|n| (span.start, n)));
            let whole = found.spans.len() == count;
            state = match (byte, state) {
                (b'(', State::Wants) if depth == 0 => State::Within(span.start),
                (b')', State::Within(start)) if depth == 1 => {
                    found.spans.push(start..span.end);
                    State::Behind
                }
                (_, state) if depth > 0 => state,
                (b',', State::Behind) => State::Wants,
                _ if !whole && word.eq_ignore_ascii_case(b"values") => {
                    found.spans.clear();
                    State::Wants
                }
                _ => State::Elsewhere,
            };
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth = depth.checked_sub(1)?,
                _ => {}
            }
        }
        (found.spans.len() == count).then_some(found)
    }

    pub fn spans(&self) -> &[Range<usize>] {
        &self.spans
    }

    /// The text with these of its rows only.
    pub fn slice(&self, text: &[u8], rows: &[usize]) -> Vec<u8> {
        let (Some(first), Some(last)) = (self.spans.first(), self.spans.last()) else {
            return text.to_vec();
        };
        let mut slice = text[..first.start].to_vec();
        for (n, row) in rows.iter().enumerate() {
            if n > 0 {
                slice.extend_from_slice(b", ");
            }
            slice.extend(self.spans.get(*row).map_or(&[][..], |span| &text[span.clone()]));
        }
        slice.extend_from_slice(&text[last.end..]);
        slice
    }

    /// The numbers of the parameters in the text with these of its rows only, as often as they stand there.
    pub fn params<'a>(&'a self, rows: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
        let all = match (self.spans.first(), self.spans.last()) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => 0..0,
        };
        // Both are in the order of the text.
        let mut spans = rows.iter().filter_map(|row| self.spans.get(*row)).peekable();
        let stands = move |at: usize| {
            while spans.next_if(|span| span.end <= at).is_some() {}
            !all.contains(&at) || spans.peek().is_some_and(|span| span.contains(&at))
        };
        let mut stands = stands;
        self.params.iter().filter(move |(at, _)| stands(*at)).map(|(_, n)| *n)
    }
}

/// The number of `$n`.
fn parameter(word: &[u8]) -> Option<usize> {
    let digits = word.strip_prefix(b"$")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(text: &str, count: usize) -> Option<Vec<String>> {
        let rows = Rows::of(text.as_bytes(), count)?;
        let slice = |n| String::from_utf8(rows.slice(text.as_bytes(), &[n])).unwrap();
        Some((0..count).map(slice).collect())
    }

    #[test]
    fn rows_are_cut_at_their_parentheses() {
        let of = |text: &str| slices(text, 2).map(|s| s.join(" | "));
        assert_eq!(
            of("INSERT INTO t (a, b) VALUES (1, f(2)), ('),(', $1) ON CONFLICT (a) DO NOTHING")
                .as_deref(),
            Some(
                "INSERT INTO t (a, b) VALUES (1, f(2)) ON CONFLICT (a) DO NOTHING | \
                 INSERT INTO t (a, b) VALUES ('),(', $1) ON CONFLICT (a) DO NOTHING"
            )
        );
        assert_eq!(
            of("insert into values(values) /* values (1) */ values -- (\n(E'\\')', ARRAY[(1),(2)]),($a$),($a$)").as_deref(),
            Some(
                "insert into values(values) /* values (1) */ values -- (\n(E'\\')', ARRAY[(1),(2)]) | \
                 insert into values(values) /* values (1) */ values -- (\n($a$),($a$)"
            )
        );
        assert_eq!(of("INSERT INTO t VALUES (1)"), None);
        assert_eq!(of("INSERT INTO t VALUES (1), (2), (3)"), None);
        assert_eq!(of("INSERT INTO t VALUES ((1), (2))"), None);
        assert_eq!(of("INSERT INTO t VALUES (1)), (2)"), None);
    }

    #[test]
    fn parameters_are_those_of_the_rows_and_of_what_stands_around() {
        let text = b"INSERT INTO t VALUES ($1, $2), ($3, '$9'), ($2, $5) RETURNING a + $6";
        let rows = Rows::of(text, 3).unwrap();
        let of = |which: &[usize]| rows.params(which).collect::<Vec<_>>();
        assert_eq!(of(&[0, 2]), [1, 2, 2, 5, 6]);
        assert_eq!(of(&[1]), [3, 6]);
    }
}
