//! Rows of all nodes, as parameters of one node's last statement.
//!
//! A column of a DataRow in binary format is its length and its bytes, and so is an element of an array in
//! binary format. So rows become arrays, one for each column ([`Carried`]), by being put together the other
//! way round, and `unnest` makes rows of them again. What their types and collations are the last statement
//! has from the nodes' own statement, which stands in it and is not carried out.

use std::fmt::Write;

use super::carried::{Carried, FIRST_OWN};
use super::{Column, malformed};
use crate::router::plan::{Combine, GAP, RELATION, STAR, SUM};
use crate::wire::backend::Report;

/// So many parameters the rows of one statement may be, where each value is one; the protocol counts to 65,535.
const MOST_PARAMETERS: usize = 60_000;

#[derive(Debug)]
pub struct Relation {
    columns: Vec<Carried>,
    names: Vec<String>,
    rows: u32,
    /// How many values are a parameter each.
    each: usize,
    /// What has been kept of its rows.
    pub bytes: usize,
}

impl Relation {
    /// Of columns with these names and type modifiers.
    ///
    /// # Errors
    /// A type is not carried from node to node.
    pub fn new(columns: &[Column], names: Vec<String>, modifiers: &[i32]) -> Result<Self, Report> {
        let columns = columns.iter().zip(modifiers).map(|(c, m)| Carried::new(*c, *m));
        let columns = columns.collect::<Result<_, _>>()?;
        Ok(Self { columns, names, rows: 0, each: 0, bytes: 0 })
    }

    /// The types of its columns.
    pub fn columns(&self) -> impl Iterator<Item = u32> {
        self.columns.iter().map(|c| c.oid)
    }

    /// One is of a type that somebody has made.
    pub fn has_own(&self) -> bool {
        self.columns.iter().any(Carried::is_own)
    }

    /// How many columns it has.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// How many parameters it takes.
    pub fn parameters(&self) -> usize {
        self.columns.iter().map(Carried::parameters).sum()
    }

    /// A row of any node.
    ///
    /// # Errors
    /// It has another number of columns, or there are too many values that are a parameter each.
    pub fn row(&mut self, row: &[Option<&[u8]>]) -> Result<(), Report> {
        if row.len() != self.columns.len() {
            return Err(malformed());
        }
        for (column, value) in self.columns.iter_mut().zip(row) {
            self.bytes += column.push(*value);
            self.each += usize::from(column.is_each() && value.is_some());
        }
        self.rows += 1;
        if self.each > MOST_PARAMETERS {
            let what =
                "too many values of several nodes are arrays, rows, or of a type of CREATE TYPE";
            return Err(Report::error("54000", what)
                .detail(format!("One statement may move {MOST_PARAMETERS} of them."))
                .hint("Let the statement read fewer rows, or cast such columns to text."));
        }
        Ok(())
    }

    /// Its rows in SQL, with its first parameter behind so many others. `nothing`: a query of no rows that has
    /// its columns.
    pub fn rows(&self, parameters: usize, nothing: &str) -> String {
        let numbered = || (1..).zip(&self.columns);
        let all: Vec<String> = (1..=self.width()).map(|n| format!("n{n}")).collect();
        let all = all.join(", ");
        let same = |n: usize| format!("SELECT n{n} FROM ({nothing}) AS nothing({all})");
        let mut next = parameters;
        let mut unnested = Vec::new();
        for (n, column) in numbered().filter(|(_, c)| !c.is_each()) {
            next += 1;
            unnested.push((format!("u{n}"), column.unnest(next, &same(n))));
        }
        let each: Vec<(usize, &Carried)> = numbered().filter(|(_, c)| c.is_each()).collect();
        let (names, arrays): (Vec<_>, Vec<_>) = unnested.into_iter().unzip();
        let (names, arrays) = (names.join(", "), arrays.join(", "));
        let column = |(n, c): (usize, &Carried)| match &c.exact {
            Some(ty) => format!("u{n}::{ty}"),
            None => format!("u{n}"),
        };
        let columns = numbered().map(column).collect::<Vec<_>>().join(", ");
        if each.is_empty() {
            return match self.columns.iter().all(|c| c.exact.is_none()) {
                true => format!("SELECT * FROM ROWS FROM ({arrays})"),
                false => format!("SELECT {columns} FROM ROWS FROM ({arrays}) AS u({names})"),
            };
        }
        let values = values(&each, next, same);
        match names.is_empty() {
            true => format!("SELECT {columns} FROM {values} WHERE v.r > 0"),
            false => format!(
                "SELECT {columns} FROM ROWS FROM ({arrays}) WITH ORDINALITY AS u({names}, r) JOIN {values} USING (r)"
            ),
        }
    }

    /// The last statement, whose own parameters are so many.
    pub fn statement(&self, combine: &Combine, parameters: usize) -> String {
        let (total, fixed) = (self.width(), combine.fixed);
        let star = total.saturating_sub(fixed);
        let all = (1..=star).map(|n| format!("s{n}"));
        let all = all.chain((1..=fixed).map(|n| format!("f{n}")));
        let all = all.collect::<Vec<_>>().join(", ");
        let nothing = format!("SELECT * FROM ({}) AS t LIMIT 0", combine.partial);
        let rows = self.rows(parameters, &nothing);
        let relation = format!("(({nothing}) UNION ALL {rows}) AS p({all})");
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
                let int8 =
                    self.columns.get(star + at.saturating_sub(1)).is_some_and(|c| c.oid == 20);
                let cast = if int8 { "::bigint" } else { "" };
                let _ = write!(text, "pg_catalog.sum(p.f{at}){cast}{behind}");
            } else {
                text.push_str(GAP);
                text.push_str(piece);
            }
        }
        text
    }

    /// Its parameters in their order: columns of one, and then those whose values are one each.
    fn in_order(&self) -> impl Iterator<Item = &Carried> {
        let of = |each| self.columns.iter().filter(move |c| c.is_each() == each);
        of(false).chain(of(true))
    }

    /// The types of its parameters; 0: it is told by what stands beside them.
    pub fn types(&self) -> impl Iterator<Item = u32> {
        self.in_order().flat_map(Carried::types)
    }

    /// The values of its parameters, in binary format.
    pub fn values(&self) -> impl Iterator<Item = Vec<u8>> {
        self.in_order().flat_map(|c| c.values(self.rows))
    }
}

/// Whether another node's columns are of these types, as far as numbers tell: those of types that somebody has
/// made are other ones on each node.
pub fn has_types(types: impl Iterator<Item = u32>, columns: &[Column]) -> bool {
    let number = |oid: u32| oid.min(FIRST_OWN);
    types.map(number).eq(columns.iter().map(|c| number(c.type_oid)))
}

/// The rows' numbers, and the columns of which each value is a parameter, behind so many others. What their
/// types are the first row tells, which is none of the rows: `same` gives a query of a column's type.
fn values(
    each: &[(usize, &Carried)],
    mut parameters: usize,
    same: impl Fn(usize) -> String,
) -> String {
    let first: Vec<String> = each.iter().map(|(n, _)| format!("({})", same(*n))).collect();
    let mut text = format!("(VALUES (0::bigint, {})", first.join(", "));
    let mut columns: Vec<_> = Vec::with_capacity(each.len());
    for (_, column) in each {
        let before = parameters;
        parameters += column.parameters();
        columns.push((column.each(), before));
    }
    let mut row = 1u64;
    loop {
        let mut values = String::new();
        for (there, number) in &mut columns {
            match there.next() {
                Some(true) => {
                    *number += 1;
                    let _ = write!(values, ", ${number}");
                }
                Some(false) => values.push_str(", NULL"),
                None => {
                    let names: Vec<String> = each.iter().map(|(n, _)| format!("u{n}")).collect();
                    let _ = write!(text, ") AS v(r, {})", names.join(", "));
                    return text;
                }
            }
        }
        let _ = write!(text, ", ({row}{values})");
        row += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(types: &[u32]) -> Relation {
        let column = |oid: &u32| Column { type_oid: *oid, binary: true, len: -1 };
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
    }

    #[test]
    fn what_has_no_array_of_it_stands_in_a_list() {
        let mut r = relation(&[23, 1007]);
        for row in [[Some(&b"aaaa"[..]), Some(b"x")], [None, None], [None, Some(b"y")]] {
            r.row(&row).unwrap();
        }
        let wanted = "SELECT u1, u2 FROM ROWS FROM (pg_catalog.unnest($2)) WITH ORDINALITY AS u(u1, r) \
            JOIN (VALUES (0::bigint, (SELECT n2 FROM (SELECT 1, 2 LIMIT 0) AS nothing(n1, n2))), \
            (1, $3), (2, NULL), (3, $4)) AS v(r, u2) USING (r)";
        assert_eq!(r.rows(1, "SELECT 1, 2 LIMIT 0"), wanted);
        assert_eq!(r.types().collect::<Vec<_>>(), [1007, 1007, 1007]);
        assert_eq!(r.values().skip(1).collect::<Vec<_>>(), [b"x", b"y"]);
        assert_eq!(r.parameters(), 3);
        let alone = relation(&[1007]);
        let wanted = "SELECT u1 FROM (VALUES (0::bigint, (SELECT n1 FROM (x) AS nothing(n1)))) AS v(r, u1) \
            WHERE v.r > 0";
        assert_eq!(alone.rows(0, "x"), wanted);
    }
}
