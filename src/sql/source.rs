//! INSERT .. SELECT whose rows are computed before they are inserted: its query, and the text with VALUES in
//! the query's place.
//!
//! A value stands there as a constant of the type that the query gives it, so that PostgreSQL puts it into its
//! column as it would have. A quoted constant of the query itself, which has no type yet, stays one without.

use std::fmt::Write;
use std::ops::Range;

use super::answer::{Answer, name, put};
use super::tokens::Tokens;

/// What is known of an INSERT .. SELECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The types of the columns that it fills.
    pub columns: Vec<u32>,
    /// What the query gives each of them, as far as that may have no type.
    pub open: Vec<Open>,
    pub conflict: bool,
    pub returning: bool,
}

/// Whether what a query gives a column has a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    Typed,
    /// A quoted constant, or NULL.
    Constant,
    /// The parameter of this number, as it is.
    Parameter(usize),
}

impl Open {
    /// `declared`: the types of parameters, big-endian.
    fn is_open(self, declared: &[u8]) -> bool {
        match self {
            Self::Typed => false,
            Self::Constant => true,
            Self::Parameter(n) => {
                let at = 4 * n.saturating_sub(1);
                declared.get(at..at + 4).is_none_or(|oid| *oid == [0; 4])
            }
        }
    }
}

impl Source {
    /// The query; `None`: it is not found.
    pub fn question(&self, text: &[u8]) -> Option<String> {
        let (query, _) = self.parts(text)?;
        std::str::from_utf8(text.get(query)?).ok().map(str::to_owned)
    }

    /// The INSERT with these rows; `None`: a value cannot be written so that it stays what it is.
    pub fn answered(&self, text: &[u8], answer: &Answer<'_>) -> Option<Vec<u8>> {
        let Answer { types, rows, written, declared } = *answer;
        let (query, tail) = self.parts(text)?;
        let width = types.len();
        if width > self.columns.len() {
            return None;
        }
        let names = (0..width)
            .map(|n| match self.open.get(n) {
                Some(open) if open.is_open(declared) => Some(None),
                _ => name(*types.get(n)?, *self.columns.get(n)?, written),
            })
            .collect::<Option<Vec<_>>>()?;
        let mut all = String::new();
        for row in rows {
            all.push_str(if all.is_empty() { "VALUES (" } else { "), (" });
            for (n, (value, name)) in row.iter().zip(&names).enumerate() {
                all.push_str(if n > 0 { ", " } else { "" });
                put(&mut all, value.1.as_deref(), *name);
            }
        }
        if rows.is_empty() {
            let nothing = vec!["NULL"; width].join(", ");
            let _ = write!(all, "SELECT {nothing} WHERE false");
        } else {
            all.push(')');
        }
        let tail = text.get(tail)?;
        Some([text.get(..query.start)?, all.as_bytes(), b" ", tail].concat())
    }

    /// Where the query stands, and what comes behind it.
    fn parts(&self, text: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
        let tokens: Vec<Range<usize>> = Tokens::of(text).collect();
        let is = |at: usize, word: &str| {
            tokens.get(at).is_some_and(|t| text[t.clone()].eq_ignore_ascii_case(word.as_bytes()))
        };
        if !(is(0, "insert") && is(1, "into")) {
            return None;
        }
        let begins = |at| ["select", "with", "values", "table", "("].iter().any(|w| is(at, w));
        // The table's name, with its schema.
        let mut at = 3;
        while is(at, ".") {
            at += 2;
        }
        // Behind the name of the table, and of its list of columns.
        while !begins(at) || is(at, "(") && !begins(at + 1) {
            at = if is(at, "(") { closing(text, &tokens, at)? + 1 } else { at + 1 };
            tokens.get(at)?;
        }
        let start = tokens.get(at)?.start;
        let mut end = text.len();
        let (mut depth, mut found) = (0_usize, false);
        for (n, token) in tokens.iter().enumerate().skip(at) {
            match text.get(token.start)? {
                b'(' => depth += 1,
                b')' => depth = depth.checked_sub(1)?,
                b';' if depth == 0 => {
                    end = if found { end } else { token.start };
                    return self.bounds(text, start, end, token.start);
                }
                _ if depth > 0 || found => {}
                _ if self.conflict && is(n, "on") && is(n + 1, "conflict") => {
                    (end, found) = (token.start, true);
                }
                _ if self.returning && !self.conflict && is(n, "returning") => {
                    (end, found) = (token.start, true);
                }
                _ => {}
            }
        }
        if found != (self.conflict || self.returning) {
            return None;
        }
        self.bounds(text, start, end, text.len())
    }

    fn bounds(
        &self,
        text: &[u8],
        start: usize,
        end: usize,
        last: usize,
    ) -> Option<(Range<usize>, Range<usize>)> {
        (start < end && end <= last && last <= text.len()).then_some((start..end, end..last))
    }
}

/// The parenthesis that closes this one.
fn closing(text: &[u8], tokens: &[Range<usize>], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match text.get(token.start)? {
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Value, Written};
    use super::*;

    fn answer<'a>(types: &'a [u32], rows: &'a [Vec<Value>], written: Written) -> Answer<'a> {
        Answer { types, rows, written, declared: &[] }
    }

    fn source(conflict: bool, returning: bool) -> Source {
        Source {
            columns: vec![23, 25, 701],
            open: vec![Open::Typed, Open::Constant],
            conflict,
            returning,
        }
    }

    #[test]
    fn the_query_is_found_and_values_stand_in_its_place() {
        for (head, query, tail, conflict, returning) in [
            ("INSERT INTO t ", "SELECT 1, 'x'", "", false, false),
            ("insert into a.t AS x (b, c) ", "(select 1)", "", false, false),
            (
                "INSERT INTO t (SELECT_, c) ",
                "WITH w AS (SELECT 1) SELECT * FROM w ",
                "RETURNING a",
                false,
                true,
            ),
            (
                "INSERT INTO t(a) OVERRIDING SYSTEM VALUE ",
                "SELECT f('RETURNING') FROM u JOIN v ON true ",
                "ON CONFLICT (a) DO NOTHING RETURNING a",
                true,
                true,
            ),
            ("INSERT INTO \"select\" ", "TABLE t", " ; ", false, false),
        ] {
            let text = format!("{head}{query}{tail}");
            let source = source(conflict, returning);
            let question = source.question(text.as_bytes());
            assert_eq!(question.as_deref().map(str::trim), Some(query.trim()), "{text}");
            let rows = vec![
                vec![(20, Some("1".to_owned())), (25, Some("it's".to_owned()))],
                vec![(20, None), (25, Some("\\".to_owned()))],
            ];
            let whole =
                source.answered(text.as_bytes(), &answer(&[20, 25], &rows, Written::default()));
            let wanted = format!(
                "{head}VALUES ('1'::pg_catalog.int8, 'it''s'), (NULL::pg_catalog.int8, E'\\\\') {}",
                tail.trim_start_matches(" ; ")
            );
            assert_eq!(String::from_utf8(whole.unwrap()).unwrap(), wanted, "{text}");
        }
        let text = b"INSERT INTO t SELECT 1 WHERE false RETURNING a";
        let nothing = answer(&[23, 25], &[], Written::default());
        let none = source(false, true).answered(text, &nothing).unwrap();
        assert_eq!(none, b"INSERT INTO t SELECT NULL, NULL WHERE false RETURNING a");
    }

    #[test]
    fn what_would_not_stay_what_it_is_is_not_written() {
        let text = b"INSERT INTO t SELECT 1";
        let write = |ty: u32, column: u32, written| {
            let source = Source { columns: vec![column], ..source(false, false) };
            let rows = [vec![(ty, Some("v".to_owned()))]];
            let whole = source.answered(text, &answer(&[ty], &rows, written))?;
            Some(String::from_utf8(whole[21..].to_vec()).unwrap())
        };
        let all = Written { iso: true, exact: true };
        assert_eq!(write(701, 701, Written::default()), None);
        assert_eq!(write(701, 701, all).as_deref(), Some("('v') "));
        assert_eq!(write(1184, 1114, all).as_deref(), Some("('v'::pg_catalog.timestamptz) "));
        assert_eq!(write(1184, 1114, Written::default()), None);
        assert_eq!(write(16_400, 16_400, all), None, "a type of CREATE TYPE");
        assert_eq!(
            source(false, false).answered(text, &answer(&[23; 4], &[], all)),
            None,
            "too many"
        );
        let given = [Open::Parameter(1), Open::Parameter(2), Open::Parameter(3)];
        let declared = [0, 0, 0, 0, 0, 0, 0, 23];
        assert_eq!(given.map(|g| g.is_open(&declared)), [true, false, true]);
    }
}
