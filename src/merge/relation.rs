//! Rows of all nodes, as parameters of one node's last statement.
//!
//! A column of a DataRow in binary format is its length and its bytes, and so is an element of an array in
//! binary format. So rows become arrays, one for each column, by being put together the other way round,
//! and `unnest` makes rows of them again. What their types and collations are the last statement has from
//! the nodes' own statement, which stands in it and is not carried out (`LIMIT 0`).

use std::fmt::Write;

use super::modifier::type_with;
use super::{Column, malformed, type_name};
use crate::router::plan::{Combine, GAP, RELATION, STAR, SUM};
use crate::wire::backend::Report;

#[derive(Debug)]
pub struct Relation {
    types: Vec<u32>,
    /// Of each column the type as a cast names it, where it has more than its number says.
    exact: Vec<Option<String>>,
    names: Vec<String>,
    arrays: Vec<Array>,
    rows: u32,
    /// What has been kept of its rows.
    pub bytes: usize,
}

#[derive(Debug, Default, Clone)]
struct Array {
    /// Lengths and bytes of the elements.
    elements: Vec<u8>,
    has_null: bool,
}

impl Relation {
    /// Of columns with these names and type modifiers.
    ///
    /// # Errors
    /// A type is not carried from node to node.
    pub fn new(columns: &[Column], names: Vec<String>, modifiers: &[i32]) -> Result<Self, Report> {
        let types: Vec<u32> = columns.iter().map(|c| c.type_oid).collect();
        if let Some(oid) = types.iter().find(|oid| array_of(**oid).is_none()) {
            let what = format!("{} is not carried from several nodes to one", type_name(*oid));
            return Err(Report::error("0A000", what)
                .hint("Cast it to text, or add an equality on the distribution column."));
        }
        let arrays = vec![Array::default(); types.len()];
        let exact = types.iter().zip(modifiers).map(|(oid, m)| type_with(*oid, *m)).collect();
        Ok(Self { types, exact, names, arrays, rows: 0, bytes: 0 })
    }

    /// The types of its columns.
    pub fn columns(&self) -> impl Iterator<Item = u32> {
        self.types.iter().copied()
    }

    /// How many columns it has.
    pub fn width(&self) -> usize {
        self.types.len()
    }

    /// A row of any node.
    ///
    /// # Errors
    /// It has another number of columns.
    pub fn row(&mut self, row: &[Option<&[u8]>]) -> Result<(), Report> {
        if row.len() != self.arrays.len() {
            return Err(malformed());
        }
        for (array, value) in self.arrays.iter_mut().zip(row) {
            let len = value.map_or(-1, |v| i32::try_from(v.len()).unwrap_or(i32::MAX));
            array.elements.extend_from_slice(&len.to_be_bytes());
            array.elements.extend_from_slice(value.unwrap_or_default());
            array.has_null |= value.is_none();
            self.bytes += 4 + value.map_or(0, <[u8]>::len);
        }
        self.rows += 1;
        Ok(())
    }

    /// Its rows in SQL, with its first parameter behind so many others.
    pub fn rows(&self, parameters: usize) -> String {
        let array = |n| format!("pg_catalog.unnest(${})", parameters + n);
        let arrays: Vec<_> = (1..=self.types.len()).map(array).collect();
        let rows = format!("ROWS FROM ({})", arrays.join(", "));
        if self.exact.iter().all(Option::is_none) {
            return format!("SELECT * FROM {rows}");
        }
        let column = |(n, exact): (usize, &Option<String>)| match exact {
            Some(ty) => format!("u{n}::{ty}"),
            None => format!("u{n}"),
        };
        let columns: Vec<_> = (1..).zip(&self.exact).map(column).collect();
        let names: Vec<_> = (1..=self.types.len()).map(|n| format!("u{n}")).collect();
        format!("SELECT {} FROM {rows} AS u({})", columns.join(", "), names.join(", "))
    }

    /// The last statement, whose own parameters are so many.
    pub fn statement(&self, combine: &Combine, parameters: usize) -> String {
        let (total, fixed) = (self.types.len(), combine.fixed);
        let star = total.saturating_sub(fixed);
        let all = (1..=star).map(|n| format!("s{n}"));
        let all = all.chain((1..=fixed).map(|n| format!("f{n}")));
        let all = all.collect::<Vec<_>>().join(", ");
        let relation = format!(
            "((SELECT * FROM ({}) AS t LIMIT 0) UNION ALL {}) AS p({all})",
            combine.partial,
            self.rows(parameters)
        );
        let mut text = String::with_capacity(combine.last.len() + relation.len());
        let name = |gap: &'static str| gap.strip_prefix(GAP).unwrap_or(gap);
        for (n, piece) in combine.last.split(GAP).enumerate() {
            if n == 0 {
                text.push_str(piece);
            } else if let Some(behind) = piece.strip_prefix(name(RELATION)) {
                text.push_str(&relation);
                text.push_str(behind);
            } else if let Some(behind) = piece.strip_prefix(name(STAR)) {
                let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
                let named = (1..=star).zip(&self.names);
                let stars = named.map(|(n, name)| format!("p.s{n} AS {}", quoted(name)));
                text.push_str(&stars.collect::<Vec<_>>().join(", "));
                text.push_str(behind);
            } else if let Some(numbered) = piece.strip_prefix(name(SUM)) {
                let behind = numbered.trim_start_matches(|c: char| c.is_ascii_digit());
                let number = numbered.strip_suffix(behind).unwrap_or_default();
                let at: usize = number.parse().unwrap_or_default();
                // The sum of int4 is int8, and the sum of those is to be no other.
                let int8 = self.types.get(star + at.saturating_sub(1)) == Some(&20);
                let cast = if int8 { "::bigint" } else { "" };
                let _ = write!(text, "pg_catalog.sum(p.f{at}){cast}{behind}");
            } else {
                text.push_str(GAP);
                text.push_str(piece);
            }
        }
        text
    }

    /// The types of its parameters.
    pub fn types(&self) -> impl Iterator<Item = u32> {
        self.types.iter().map(|oid| array_of(*oid).unwrap_or_default())
    }

    /// The values of its parameters, in binary format.
    pub fn values(&self) -> impl Iterator<Item = Vec<u8>> {
        self.arrays.iter().zip(&self.types).map(|(array, oid)| {
            let mut value = Vec::with_capacity(20 + array.elements.len());
            let dimensions = u32::from(self.rows > 0);
            for number in [dimensions, u32::from(array.has_null), *oid] {
                value.extend_from_slice(&number.to_be_bytes());
            }
            if self.rows > 0 {
                value.extend_from_slice(&self.rows.to_be_bytes());
                value.extend_from_slice(&1u32.to_be_bytes());
            }
            value.extend_from_slice(&array.elements);
            value
        })
    }
}

/// The array type of a built-in type; `None`: values of the type are not carried.
fn array_of(oid: u32) -> Option<u32> {
    let known = ARRAYS.binary_search_by_key(&oid, |a| a.0).ok()?;
    ARRAYS.get(known).map(|a| a.1)
}

/// Types and their array types, as `pg_type.dat` numbers them.
const ARRAYS: [(u32, u32); 55] = [
    (16, 1000),
    (17, 1001),
    (18, 1002),
    (19, 1003),
    (20, 1016),
    (21, 1005),
    (23, 1007),
    (25, 1009),
    (26, 1028),
    (28, 1011),
    (114, 199),
    (142, 143),
    (600, 1017),
    (601, 1018),
    (602, 1019),
    (603, 1020),
    (604, 1027),
    (628, 629),
    (650, 651),
    (700, 1021),
    (701, 1022),
    (718, 719),
    (774, 775),
    (790, 791),
    (829, 1040),
    (869, 1041),
    (1042, 1014),
    (1043, 1015),
    (1082, 1182),
    (1083, 1183),
    (1114, 1115),
    (1184, 1185),
    (1186, 1187),
    (1266, 1270),
    (1560, 1561),
    (1562, 1563),
    (1700, 1231),
    (2950, 2951),
    (3220, 3221),
    (3614, 3643),
    (3615, 3645),
    (3802, 3807),
    (3904, 3905),
    (3906, 3907),
    (3908, 3909),
    (3910, 3911),
    (3912, 3913),
    (3926, 3927),
    (4072, 4073),
    (4451, 6150),
    (4532, 6151),
    (4533, 6152),
    (4534, 6153),
    (4535, 6155),
    (5069, 271),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(types: &[u32]) -> Relation {
        let column = |oid: &u32| Column { type_oid: *oid, binary: true };
        let names = (0..types.len()).map(|n| format!("c\"{n}")).collect();
        let modifiers = vec![-1; types.len()];
        Relation::new(&types.iter().map(column).collect::<Vec<_>>(), names, &modifiers).unwrap()
    }

    #[test]
    fn rows_become_arrays() {
        let mut r = relation(&[23, 25]);
        assert_eq!(r.values().next().unwrap(), [[0; 8], [0, 0, 0, 23, 0, 0, 0, 0]].concat()[..12]);
        for row in [[Some(&[0, 0, 0, 7][..]), Some(b"a")], [Some(&[0, 0, 0, 8]), None]] {
            r.row(&row).unwrap();
        }
        assert_eq!(r.bytes, 2 * (4 + 4) + (4 + 1) + 4);
        assert!(r.row(&[None]).is_err(), "another number of columns");
        let values: Vec<_> = r.values().collect();
        let head = |null, oid| [0, 0, 0, 1, 0, 0, 0, null, 0, 0, 0, oid, 0, 0, 0, 2, 0, 0, 0, 1];
        assert_eq!(
            values[0],
            [&head(0, 23)[..], &[0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 8]].concat()
        );
        assert_eq!(values[1], [&head(1, 25)[..], &[0, 0, 0, 1, b'a', 255, 255, 255, 255]].concat());
        assert_eq!(r.types().collect::<Vec<_>>(), [1007, 1009]);
        let record = Column { type_oid: 2249, binary: true };
        assert!(Relation::new(&[record], vec![String::new()], &[-1]).is_err());
    }

    #[test]
    fn the_last_statement_has_its_gaps_filled() {
        let combine = Combine {
            partial: "SELECT *, sum(a) AS f1 FROM t".into(),
            fixed: 2,
            last: format!("SELECT {STAR}, {SUM}1, {SUM}2 FROM {RELATION} WHERE p.f1 = 'pgs_x'"),
            cursor: None,
        };
        let text = relation(&[23, 20, 1700]).statement(&combine, 1);
        let wanted = "SELECT p.s1 AS \"c\"\"0\", pg_catalog.sum(p.f1)::bigint, pg_catalog.sum(p.f2) FROM \
            ((SELECT * FROM (SELECT *, sum(a) AS f1 FROM t) AS t LIMIT 0) UNION ALL \
            SELECT * FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), \
            pg_catalog.unnest($4))) AS p(s1, f1, f2) WHERE p.f1 = 'pgs_x'";
        assert_eq!(text, wanted);
        assert!(ARRAYS.is_sorted());
    }
}
