//! Rows of several tables of all nodes, in whose place they stand in one node's last statement.

use std::fmt::Write;

use super::relation::{Relation, has_types};
use super::{Column, malformed};
use crate::router::plan::{Collect, Piece};
use crate::wire::backend::Report;

#[derive(Debug)]
pub struct Collection {
    /// Each table's name and rows.
    tables: Vec<(String, Relation)>,
}

impl Collection {
    /// Of what the nodes send, which has these columns with these type modifiers.
    ///
    /// # Errors
    /// A type is not carried from node to node.
    pub fn new(collect: &Collect, columns: &[Column], modifiers: &[i32]) -> Result<Self, Report> {
        let numbered = usize::from(collect.tables.len() > 1);
        let mut rest = columns.get(numbered..).unwrap_or_default();
        let mut modifiers = modifiers.get(numbered..).unwrap_or_default();
        let mut tables = Vec::with_capacity(collect.tables.len());
        for table in &collect.tables {
            let (own, more) = rest.split_at_checked(table.columns).ok_or_else(malformed)?;
            let (of_own, of_more) =
                modifiers.split_at_checked(table.columns).ok_or_else(malformed)?;
            tables.push((table.name.clone(), Relation::new(own, Vec::new(), of_own)?));
            (rest, modifiers) = (more, of_more);
        }
        if rest.is_empty() { Ok(Self { tables }) } else { Err(malformed()) }
    }

    /// Whether another node's rows have these columns too.
    pub fn is_of(&self, columns: &[Column]) -> bool {
        let numbered = usize::from(self.tables.len() > 1);
        let own = self.tables.iter().flat_map(|(_, t)| t.columns());
        has_types(own, columns.get(numbered..).unwrap_or_default())
    }

    /// A row of any node.
    ///
    /// # Errors
    /// It is no row of these tables.
    pub fn row(&mut self, row: &[Option<&[u8]>]) -> Result<(), Report> {
        if let [(_, only)] = self.tables.as_mut_slice() {
            return only.row(row);
        }
        let (number, values) = row.split_first().ok_or_else(malformed)?;
        let number = number.and_then(|n| Some(u32::from_be_bytes(*n.first_chunk()?)));
        let mut rest = values;
        for (n, (_, table)) in (1..).zip(&mut self.tables) {
            let (own, more) = rest.split_at_checked(table.width()).ok_or_else(malformed)?;
            if Some(n) == number {
                return table.row(own);
            }
            rest = more;
        }
        Err(malformed())
    }

    pub fn bytes(&self) -> usize {
        self.tables.iter().map(|(_, t)| t.bytes).sum()
    }

    /// The table of which most has been kept, and how much that is.
    pub fn largest(&self) -> Option<(&str, usize)> {
        let largest = self.tables.iter().max_by_key(|(_, t)| t.bytes);
        largest.map(|(name, t)| (name.as_str(), t.bytes))
    }

    /// The last statement, whose own parameters are so many.
    pub fn statement(&self, collect: &Collect, mut parameters: usize) -> String {
        let rows: Vec<_> = self
            .tables
            .iter()
            .zip(&collect.tables)
            .map(|((_, rows), table)| {
                let first = parameters;
                parameters += rows.parameters();
                let nothing = &table.nothing;
                format!("({nothing} UNION ALL {})", rows.rows(first, nothing))
            })
            .collect();
        let mut text = String::new();
        for piece in &collect.last {
            let _ = match piece {
                Piece::Text(own) => text.write_str(own),
                Piece::Table(at) => text.write_str(rows.get(*at).map_or("", String::as_str)),
            };
        }
        text
    }

    /// The tables' rows.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.tables.iter().map(|(_, t)| t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::plan::Collected;

    fn collect(tables: &[(&str, usize)]) -> Collect {
        let table = |(name, columns): &(&str, usize)| Collected {
            name: (*name).into(),
            columns: *columns,
            nothing: format!("SELECT * FROM {name} WHERE false"),
        };
        let text = |t: &str| Piece::Text(t.into());
        Collect {
            tables: tables.iter().map(table).collect(),
            partial: String::new(),
            takes_parameters: false,
            last: [text("SELECT $1 FROM "), Piece::Table(1), text(" AS b, "), Piece::Table(0)]
                .into(),
            at_home: false,
            others: [].into(),
        }
    }

    fn columns(types: &[u32]) -> Vec<Column> {
        types.iter().map(|&type_oid| Column { type_oid, len: -1, binary: true }).collect()
    }

    #[test]
    fn rows_go_to_their_tables() {
        let collect = collect(&[("a", 2), ("b", 1)]);
        let told = columns(&[23, 23, 25, 20]);
        let mut c = Collection::new(&collect, &told, &[-1; 4]).unwrap();
        assert!(c.is_of(&told) && !c.is_of(&columns(&[23, 23, 25, 25])));
        let (one, two) = ([0, 0, 0, 1], [0, 0, 0, 2]);
        c.row(&[Some(&one), Some(b"1234"), Some(b"x"), None]).unwrap();
        c.row(&[Some(&two), None, None, Some(b"12345678")]).unwrap();
        c.row(&[Some(&two), None, None, None]).unwrap();
        assert_eq!(c.relations().map(|r| r.bytes).collect::<Vec<_>>(), [13, 16]);
        assert_eq!((c.bytes(), c.largest()), (29, Some(("b", 16))));
        for wrong in
            [&[Some(&[0, 0, 0, 3][..]), None, None, None][..], &[None; 4], &[], &[Some(&one)]]
        {
            assert!(c.row(wrong).is_err());
        }
        let wanted = "SELECT $1 FROM (SELECT * FROM b WHERE false UNION ALL SELECT * FROM ROWS FROM \
            (pg_catalog.unnest($4))) AS b, (SELECT * FROM a WHERE false UNION ALL SELECT * FROM \
            ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)))";
        assert_eq!(c.statement(&collect, 1), wanted);
        assert!(Collection::new(&collect, &columns(&[23, 23, 25]), &[-1; 3]).is_err());
        assert!(Collection::new(&collect, &columns(&[23, 23, 25, 20, 20]), &[-1; 5]).is_err());
    }

    #[test]
    fn rows_of_one_table_have_no_number() {
        let collect = collect(&[("a", 1)]);
        let mut c = Collection::new(&collect, &columns(&[25]), &[-1]).unwrap();
        c.row(&[Some(b"x")]).unwrap();
        assert_eq!(c.bytes(), 5);
    }
}
