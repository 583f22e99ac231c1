//! An INSERT .. VALUES of which some items are computed before it is carried out: the query for their values,
//! and the text with those.

use super::answer::{self, Value, Written};
use super::values::{Edit, Values};

/// What is to be computed of an INSERT's rows before they can be sent to their nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computed {
    pub rows: usize,
    /// The columns that it gives, quoted; `None`: the text has their list.
    pub list: Option<String>,
    pub columns: Vec<Column>,
    pub of: Of,
}

/// What the columns are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Distribution columns, by whose values the rows have their places.
    Keys,
    /// Columns of a reference table, which are to be the same on all nodes.
    Copies,
}

/// A column of which a row has no constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Where in a row it stands; `None`: nowhere.
    pub at: Option<usize>,
    /// What DEFAULT is.
    pub default: Option<String>,
}

impl Computed {
    /// A query for the values, a row for each of the INSERT's; `None`: it cannot be put.
    pub fn question(&self, text: &[u8]) -> Option<String> {
        let values = Values::of(text, self.rows)?;
        let expression = |row: usize, column: &Column| {
            let item = match column.at {
                Some(at) => Some(values.item(row, at)?),
                None => None,
            };
            match item {
                Some(item) if !item.eq_ignore_ascii_case(b"default") => {
                    std::str::from_utf8(item).ok().map(str::to_owned)
                }
                _ => column.default.clone(),
            }
        };
        let rows = (0..self.rows).map(|row| {
            let row = self.columns.iter().map(|c| expression(row, c));
            // A comment may end an item.
            Some(format!("({}\n)", row.collect::<Option<Vec<_>>>()?.join("\n, ")))
        });
        Some(format!("VALUES {}", rows.collect::<Option<Vec<_>>>()?.join(", ")))
    }

    /// The INSERT with these values; `None`: one is of a type that such a column cannot have, or there are
    /// not as many as rows.
    pub fn answered(&self, text: &[u8], told: &[Vec<Value>], written: Written) -> Option<Vec<u8>> {
        let values = Values::of(text, self.rows)?;
        let mut edit = Edit { behind: vec![Vec::new(); self.rows], ..Edit::default() };
        edit.more =
            self.columns.iter().filter(|c| c.at.is_none()).map(|c| c.name.clone()).collect();
        edit.list = self.list.clone().filter(|_| !edit.more.is_empty());
        if told.len() != self.rows {
            return None;
        }
        for (n, row) in told.iter().enumerate() {
            for (column, value) in self.columns.iter().zip(row) {
                let constant = self.constant(value, written)?;
                match column.at {
                    Some(at) => {
                        edit.set.insert((n, at), constant);
                    }
                    None => edit.behind[n].push(constant),
                }
            }
        }
        values.put(&edit)
    }

    /// A value as it stands in a text, if such a column may have it.
    fn constant(&self, (type_oid, value): &Value, written: Written) -> Option<String> {
        let name = match self.of {
            Of::Keys => answer::name(*type_oid, 0, Written::default())
                .filter(|_| KEYS.contains(type_oid))?,
            Of::Copies => answer::name(*type_oid, 0, written)?,
        };
        let mut text = String::new();
        answer::put(&mut text, value.as_deref(), name.filter(|_| value.is_some()));
        Some(text)
    }
}

/// int8, int2, int4, text, varchar and uuid.
const KEYS: [u32; 6] = [20, 21, 23, 25, 1043, 2950];

#[cfg(test)]
mod tests {
    use super::super::values::quoted;
    use super::*;

    #[test]
    fn values_stand_in_place_of_what_was_asked() {
        let column = |name: &str, at, default: Option<&str>| Column {
            name: quoted(name),
            at,
            default: default.map(str::to_owned),
        };
        let computed = Computed {
            rows: 2,
            list: None,
            columns: vec![column("a", Some(1), Some("d()")), column("k", None, Some("k()"))],
            of: Of::Keys,
        };
        let text = b"INSERT INTO t (v, a) VALUES (1, DEFAULT), ($1, f(2)) RETURNING a";
        assert_eq!(computed.question(text).unwrap(), "VALUES (d()\n, k()\n), (f(2)\n, k()\n)");
        let told = [
            vec![(23, Some("7".to_owned())), (25, Some("it's".to_owned()))],
            vec![(20, None), (25, Some("\\".to_owned()))],
        ];
        assert_eq!(
            String::from_utf8(computed.answered(text, &told, Written::default()).unwrap()).unwrap(),
            "INSERT INTO t (v, a, \"k\") VALUES (1, '7'::pg_catalog.int4, 'it''s'::pg_catalog.text), \
             ($1, NULL, E'\\\\'::pg_catalog.text) RETURNING a"
        );
        assert_eq!(computed.answered(text, &told[..1], Written::default()), None);
        let other = [vec![(1700, Some("7".to_owned())), (25, None)], told[1].clone()];
        assert_eq!(computed.answered(text, &other, Written::default()), None);
        let copies = Computed { of: Of::Copies, ..computed };
        assert!(copies.answered(text, &other, Written::default()).is_some());
        let timed = [vec![(1184, Some("x".to_owned())), (25, None)], told[1].clone()];
        assert_eq!(copies.answered(text, &timed, Written::default()), None);
        assert!(copies.answered(text, &timed, Written { iso: true, exact: false }).is_some());
    }
}
