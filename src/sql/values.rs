//! INSERT .. VALUES, item by item, and the same text with other items.
//!
//! The parser does not tell where an expression ends. In a text that PostgreSQL's grammar has taken as INSERT
//! .. VALUES, and of which it has told how many rows there are, the items are found token by token.

use std::collections::BTreeMap;
use std::ops::Range;

use super::rows::Rows;
use super::tokens::Tokens;

/// A text's list of columns and its rows.
#[derive(Debug)]
pub struct Values<'a> {
    text: &'a [u8],
    /// Where the list of columns ends, if there is one.
    list: Option<usize>,
    /// Where the word VALUES stands.
    start: usize,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    items: Vec<Range<usize>>,
    /// Its closing parenthesis.
    end: usize,
}

/// What is to stand in a text that did not.
#[derive(Debug, Default)]
pub struct Edit {
    /// The columns that the text gives, where it has no list of them.
    pub list: Option<String>,
    /// Columns behind those of the text.
    pub more: Vec<String>,
    /// Their items, for each row.
    pub behind: Vec<Vec<String>>,
    /// Items in place of others, by row and column.
    pub set: BTreeMap<(usize, usize), String>,
}

/// A name as it stands in a text, whatever it is.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl<'a> Values<'a> {
    /// `None`: the rows, so many, are not found.
    pub fn of(text: &'a [u8], rows: usize) -> Option<Self> {
        let rows = Rows::of(text, rows)?;
        let (list, start) = head(text, rows.spans().first()?.start)?;
        if has_values(text.get(rows.spans().last()?.end..)?) {
            // A table is called so, and what stands behind its name is no row.
            return None;
        }
        let rows = rows.spans().iter().map(|span| items(text, span)).collect::<Option<_>>()?;
        Some(Self { text, list, start, rows })
    }

    pub fn item(&self, row: usize, column: usize) -> Option<&'a [u8]> {
        self.text.get(self.rows.get(row)?.items.get(column)?.clone())
    }

    /// The text with other items.
    pub fn put(&self, edit: &Edit) -> Option<Vec<u8>> {
        let mut out =
            Out { text: self.text, whole: Vec::with_capacity(self.text.len() + 64), at: 0 };
        let more: String = edit.more.iter().map(|name| format!(", {name}")).collect();
        match (&edit.list, self.list) {
            (Some(given), None) => {
                out.put(self.start..self.start, &format!("({given}{more}) "))?;
            }
            (None, Some(end)) => out.put(end..end, &more)?,
            (None, None) if more.is_empty() => {}
            _ => return None,
        }
        for (n, row) in self.rows.iter().enumerate() {
            for ((_, column), words) in edit.set.range((n, 0)..(n + 1, 0)) {
                out.put(row.items.get(*column)?.clone(), words)?;
            }
            let behind = edit.behind.get(n).into_iter().flatten();
            let behind: String = behind.map(|words| format!(", {words}")).collect();
            out.put(row.end..row.end, &behind)?;
        }
        out.put(self.text.len()..self.text.len(), "")?;
        Some(out.whole)
    }
}

/// A text in which parts have been put in place of others, in their order.
struct Out<'a> {
    text: &'a [u8],
    whole: Vec<u8>,
    at: usize,
}

impl Out<'_> {
    fn put(&mut self, span: Range<usize>, words: &str) -> Option<()> {
        self.whole.extend_from_slice(self.text.get(self.at..span.start)?);
        self.whole.extend_from_slice(words.as_bytes());
        self.at = span.end;
        Some(())
    }
}

/// The items of the row that stands there.
fn items(text: &[u8], row: &Range<usize>) -> Option<Row> {
    let end = row.end.checked_sub(1)?;
    let mut found = Vec::new();
    let (mut depth, mut item): (usize, Option<Range<usize>>) = (0, None);
    for token in Tokens::at(text.get(..end)?, row.start + 1) {
        match text.get(token.start)? {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                found.push(item.take()?);
                continue;
            }
            _ => {}
        }
        let start = item.map_or(token.start, |i| i.start);
        item = Some(start..token.end);
    }
    found.push(item?);
    Some(Row { items: found, end })
}

/// Whether the word VALUES stands in the text outside of parentheses.
fn has_values(text: &[u8]) -> bool {
    let mut depth = 0_usize;
    Tokens::of(text).any(|token| {
        match text.get(token.start) {
            Some(b'(') => depth += 1,
            Some(b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && text.get(token).is_some_and(|t| t.eq_ignore_ascii_case(b"values"))
    })
}

/// Where the list of columns ends, if the text has one, and where VALUES stands, whose first row begins at
/// `start`.
fn head(text: &[u8], start: usize) -> Option<(Option<usize>, usize)> {
    let (mut depth, mut list) = (0_usize, None);
    let mut values = Vec::new();
    let is = |token: &Range<usize>, word: &str| {
        text.get(token.clone()).is_some_and(|t| t.eq_ignore_ascii_case(word.as_bytes()))
    };
    for token in Tokens::of(text.get(..start)?) {
        match text.get(token.start)? {
            b'(' => depth += 1,
            b')' => {
                depth = depth.checked_sub(1)?;
                list = Some(token.start);
            }
            _ if depth == 0 && is(&token, "values") => values.push(token.start),
            // OVERRIDING SYSTEM VALUE stands between the two.
            _ if depth == 0 && is(&token, "overriding") && list.is_none() => return None,
            _ => {}
        }
    }
    match values.as_slice() {
        [one] => Some((list, *one)),
        // A table is called so.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(text: &str, rows: usize, edit: &Edit) -> Option<String> {
        let put = Values::of(text.as_bytes(), rows)?.put(edit)?;
        Some(String::from_utf8(put).unwrap())
    }

    #[test]
    fn items_are_found_and_others_put_in_their_places() {
        let text = "INSERT INTO t AS x (a /* ) */, b) VALUES (f(1, 2), ','), ( -- (\n $1::int [1] , b) RETURNING a";
        let values = Values::of(text.as_bytes(), 2).unwrap();
        let item = |row, column| values.item(row, column).map(|i| std::str::from_utf8(i).unwrap());
        assert_eq!((item(0, 0), item(0, 1)), (Some("f(1, 2)"), Some("','")));
        assert_eq!((item(1, 0), item(1, 1), item(1, 2)), (Some("$1::int [1]"), Some("b"), None));
        let edit = Edit {
            more: vec!["\"c\"".into()],
            behind: vec![vec!["1".into()], vec!["2".into()]],
            set: [((0, 1), "X".into()), ((1, 0), "Y".into())].into(),
            ..Edit::default()
        };
        assert_eq!(
            put(text, 2, &edit).unwrap(),
            "INSERT INTO t AS x (a /* ) */, b, \"c\") VALUES (f(1, 2), X, 1), ( -- (\n Y , b, 2) RETURNING a"
        );
    }

    #[test]
    fn a_list_of_columns_is_put_in_front_of_values() {
        let edit = Edit {
            list: Some("\"a\"".into()),
            more: vec!["\"c\"".into()],
            behind: vec![vec!["now()".into()]],
            ..Edit::default()
        };
        let wanted = "INSERT INTO t (\"a\", \"c\") values (')', now())";
        assert_eq!(put("INSERT INTO t values (')')", 1, &edit).unwrap(), wanted);
        assert_eq!(put("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1)", 1, &edit), None);
        assert_eq!(put("INSERT INTO t (a) VALUES (1)", 1, &edit), None);
        assert_eq!(put("INSERT INTO values (a) VALUES (1)", 1, &Edit::default()), None);
    }
}
