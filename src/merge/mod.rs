//! Merging the answers of several nodes into the one a single PostgreSQL would have given.
//!
//! [`fold`] combines partial aggregates as the combine functions of `pg_aggregate` do. What it
//! cannot combine exactly it does not combine: the statement is refused before a row is sent.

mod answer;
mod carried;
mod collection;
mod copied;
mod gathered;
mod modifier;
mod order;
mod relation;
mod rows;
mod sorted;
mod written;

use carried::FIRST_OWN;

use crate::router::plan::Fold;
use crate::wire::backend::Report;

pub use answer::{Answer, Hold};
pub use copied::{DECIDING, Share};
pub use gathered::{Gather, Gathered};
pub use sorted::{MOST, Window};
pub use written::Written;

/// A column of a RowDescription, as far as merging needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub type_oid: u32,
    /// `typlen`: -1 is of any length.
    pub len: i16,
    pub binary: bool,
}

impl Column {
    /// Whether a value of the other's is one of this column, as the client reads it. Types that somebody has
    /// made have another number on each node, which also stands in arrays and rows of them in binary format.
    fn is_alike(&self, other: &Self) -> bool {
        let own = |c: &Self| c.type_oid >= FIRST_OWN;
        let named_alike = own(self) && own(other) && (!self.binary || self.len > 0);
        (self.len, self.binary) == (other.len, other.binary)
            && (self.type_oid == other.type_oid || named_alike)
    }
}

/// Whether two nodes' columns are those of one statement.
fn are_alike(a: &[Column], b: &[Column]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_alike(b))
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error("an aggregate over {} cannot be merged from several nodes", type_name(*.0))]
    Type(u32),
    #[error("rows of several nodes cannot be ordered by {}", type_name(*.0))]
    Order(u32),
    /// The rows of one node are not in the order that pgshunt knows.
    #[error("a node has another order of rows")]
    Unsorted,
    #[error("a node sent a value that is not of type {}", type_name(*.0))]
    Malformed(u32),
    #[error("{0} out of range")]
    OutOfRange(&'static str),
}

impl MergeError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Type(_) | Self::Order(_) | Self::Unsorted => "0A000",
            Self::Malformed(_) => "08P01",
            Self::OutOfRange(_) => "22003",
        }
    }
}

pub fn malformed() -> Report {
    Report::error("08P01", "a node's answer is malformed")
}

pub fn differ() -> Report {
    Report::error("0A000", "the nodes answer with different column types")
        .hint("Arrays and rows of types made by CREATE TYPE name those by other numbers on each node: ask for them as text.")
}

/// A built-in type as PostgreSQL's messages name it; of others the number is all that is known.
fn type_name(oid: u32) -> String {
    let name = match oid {
        16 => "boolean",
        17 => "bytea",
        18 => "\"char\"",
        19 => "name",
        INT8 => "bigint",
        INT2 => "smallint",
        INT4 => "integer",
        25 => "text",
        OID => "oid",
        114 => "json",
        790 => "money",
        869 => "inet",
        FLOAT4 => "real",
        FLOAT8 => "double precision",
        1042 => "character",
        1043 => "character varying",
        1082 => "date",
        1083 => "time without time zone",
        1114 => "timestamp without time zone",
        1184 => "timestamp with time zone",
        1186 => "interval",
        1266 => "time with time zone",
        1560 => "bit",
        NUMERIC => "numeric",
        2950 => "uuid",
        3802 => "jsonb",
        _ => return format!("the type with OID {oid}"),
    };
    name.to_owned()
}

const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const OID: u32 = 26;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const NUMERIC: u32 = 1700;

/// Columns of a RowDescription body.
pub fn columns(body: &[u8]) -> Option<Vec<Column>> {
    let mut r = crate::wire::frontend::Reader(body);
    let n = usize::try_from(r.i16().ok()?).ok()?;
    let mut columns = Vec::with_capacity(n);
    for _ in 0..n {
        r.cstr().ok()?;
        r.bytes(6).ok()?;
        let type_oid = r.i32().ok()? as u32;
        let len = r.i16().ok()?;
        r.bytes(4).ok()?;
        let binary = r.i16().ok()? == 1;
        columns.push(Column { type_oid, len, binary });
    }
    Some(columns)
}

/// The columns' names of a RowDescription body.
pub fn names(body: &[u8]) -> Vec<String> {
    let mut r = crate::wire::frontend::Reader(body);
    let count = r.i16().ok().and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
    let mut name = || {
        let name = r.cstr().ok().map(|name| String::from_utf8_lossy(name).into_owned());
        r.bytes(18).ok().and(name)
    };
    (0..count).map_while(|_| name()).collect()
}

/// Combines two partial results of one aggregate. NULL is what an empty input gives, and loses.
pub fn fold(
    how: Fold,
    column: Column,
    a: Option<Vec<u8>>,
    b: Option<&[u8]>,
) -> Result<Option<Vec<u8>>, MergeError> {
    let oid = column.type_oid;
    if !matches!(oid, INT2 | INT4 | INT8) {
        return Err(MergeError::Type(oid));
    }
    let (a, b) = match (a, b) {
        (a, None) => return Ok(a),
        (None, Some(b)) => return Ok(Some(b.to_vec())),
        (Some(a), Some(b)) => (a, b),
    };
    let bad = || MergeError::Malformed(oid);
    let x = integer(&a, column.binary).ok_or_else(bad)?;
    let y = integer(b, column.binary).ok_or_else(bad)?;
    Ok(Some(match how {
        Fold::Sum => {
            let sum = x.checked_add(y).ok_or(MergeError::OutOfRange("bigint"))?;
            match column.binary {
                true => sum.to_be_bytes().to_vec(),
                false => sum.to_string().into_bytes(),
            }
        }
        Fold::Min if y < x => b.to_vec(),
        Fold::Max if y > x => b.to_vec(),
        Fold::Min | Fold::Max => a,
    }))
}

fn integer(bytes: &[u8], binary: bool) -> Option<i64> {
    if !binary {
        return std::str::from_utf8(bytes).ok()?.parse().ok();
    }
    match *bytes {
        [a, b] => Some(i16::from_be_bytes([a, b]).into()),
        [a, b, c, d] => Some(i32::from_be_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(how: Fold, type_oid: u32, a: &str, b: &str) -> String {
        let column = Column { type_oid, len: -1, binary: false };
        let merged = fold(how, column, Some(a.into()), Some(b.as_bytes())).unwrap().unwrap();
        String::from_utf8(merged).unwrap()
    }

    #[test]
    fn integers() {
        assert_eq!(text(Fold::Sum, INT8, "40", "2"), "42");
        assert_eq!(text(Fold::Min, INT4, "-5", "3"), "-5");
        assert_eq!(text(Fold::Max, INT4, "9", "10"), "10");
        let big = Column { type_oid: INT8, len: -1, binary: false };
        let max = i64::MAX.to_string().into_bytes();
        assert!(fold(Fold::Sum, big, Some(max), Some(b"1")).is_err());
        assert!(fold(Fold::Sum, big, Some(b"x".to_vec()), Some(b"1")).is_err());
        let other = Column { type_oid: 25, len: -1, binary: false };
        assert_eq!(fold(Fold::Max, other, None, None), Err(MergeError::Type(25)));
    }

    #[test]
    fn null_is_the_result_of_no_rows() {
        let c = Column { type_oid: INT4, len: -1, binary: false };
        assert_eq!(fold(Fold::Sum, c, None, Some(b"1")).unwrap(), Some(b"1".to_vec()));
        assert_eq!(fold(Fold::Max, c, Some(b"1".to_vec()), None).unwrap(), Some(b"1".to_vec()));
        assert_eq!(fold(Fold::Max, c, None, None).unwrap(), None);
    }

    #[test]
    fn binary_counts() {
        let c = Column { type_oid: INT8, len: -1, binary: true };
        let one = 1i64.to_be_bytes();
        let sum = fold(Fold::Sum, c, Some(one.to_vec()), Some(&one)).unwrap();
        assert_eq!(sum, Some(2i64.to_be_bytes().to_vec()));
    }
}
