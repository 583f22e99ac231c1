//! Merging the answers of several nodes into the one a single PostgreSQL would have given.
//!
//! [`fold`] combines partial aggregates as the combine functions of `pg_aggregate` do. What it
//! cannot combine exactly it does not combine: the statement is refused before a row is sent.

mod answer;
mod decimal;
mod float;
mod order;
mod rows;
mod sorted;

use std::cmp::Ordering;

use crate::router::plan::Fold;
use crate::wire::backend::Report;

pub use answer::Answer;
pub use sorted::{MOST, Window};

/// A column of a RowDescription, as far as merging needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub type_oid: u32,
    pub binary: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error("an aggregate over {} cannot be merged from several nodes", type_name(*.0))]
    Type(u32),
    #[error("an aggregate of type {} in binary format cannot be merged from several nodes", type_name(*.0))]
    Binary(u32),
    /// The order of addition decides about the last digits.
    #[error(
        "a sum of floating-point numbers depends on their order, which several nodes do not have"
    )]
    FloatSum,
    /// Equal values that print differently: which of them is least depends on the rows' order.
    #[error("which of several equal values is least or greatest depends on the order of the rows")]
    Tie,
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
            Self::Type(_)
            | Self::Binary(_)
            | Self::FloatSum
            | Self::Tie
            | Self::Order(_)
            | Self::Unsorted => "0A000",
            Self::Malformed(_) => "08P01",
            Self::OutOfRange(_) => "22003",
        }
    }
}

fn malformed() -> Report {
    Report::error("08P01", "a node's answer is malformed")
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
        r.bytes(6).ok()?;
        let binary = r.i16().ok()? == 1;
        columns.push(Column { type_oid, binary });
    }
    Some(columns)
}

/// Combines two partial results of one aggregate. NULL is what an empty input gives, and loses.
pub fn fold(
    how: Fold,
    column: Column,
    a: Option<Vec<u8>>,
    b: Option<&[u8]>,
) -> Result<Option<Vec<u8>>, MergeError> {
    let oid = column.type_oid;
    if !matches!(oid, INT2 | INT4 | INT8 | OID | FLOAT4 | FLOAT8 | NUMERIC) {
        return Err(MergeError::Type(oid));
    }
    if oid == NUMERIC && column.binary {
        return Err(MergeError::Binary(oid));
    }
    if how == Fold::Sum && matches!(oid, FLOAT4 | FLOAT8) {
        return Err(MergeError::FloatSum);
    }
    let (a, b) = match (a, b) {
        (a, None) => return Ok(a),
        (None, Some(b)) => return Ok(Some(b.to_vec())),
        (Some(a), Some(b)) => (a, b),
    };
    let pick = |order: Ordering, a: Vec<u8>, b: &[u8]| match (how, order) {
        (_, Ordering::Equal) if a != b => Err(MergeError::Tie),
        (Fold::Min, Ordering::Greater) | (Fold::Max, Ordering::Less) => Ok(b.to_vec()),
        _ => Ok(a),
    };
    let bad = || MergeError::Malformed(oid);
    let merged = match oid {
        NUMERIC => {
            let (x, y) = (decimal::Decimal::parse(&a), decimal::Decimal::parse(b));
            let (x, y) = (x.ok_or_else(bad)?, y.ok_or_else(bad)?);
            match how {
                Fold::Sum => x.add(&y).to_string().into_bytes(),
                Fold::Min | Fold::Max => pick(x.cmp(&y), a, b)?,
            }
        }
        FLOAT4 | FLOAT8 => {
            let single = oid == FLOAT4;
            let x = float::read(&a, single, column.binary).ok_or_else(bad)?;
            let y = float::read(b, single, column.binary).ok_or_else(bad)?;
            pick(float::order(x, y), a, b)?
        }
        _ => {
            let x = integer(&a, column.binary).ok_or_else(bad)?;
            let y = integer(b, column.binary).ok_or_else(bad)?;
            match how {
                Fold::Sum => {
                    let sum = x.checked_add(y).ok_or(MergeError::OutOfRange("bigint"))?;
                    if column.binary {
                        sum.to_be_bytes().to_vec()
                    } else {
                        sum.to_string().into_bytes()
                    }
                }
                Fold::Min | Fold::Max => pick(x.cmp(&y), a, b)?,
            }
        }
    };
    Ok(Some(merged))
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
        let column = Column { type_oid, binary: false };
        let merged = fold(how, column, Some(a.into()), Some(b.as_bytes())).unwrap().unwrap();
        String::from_utf8(merged).unwrap()
    }

    #[test]
    fn sums() {
        assert_eq!(text(Fold::Sum, INT8, "40", "2"), "42");
        assert_eq!(text(Fold::Sum, NUMERIC, "-1.50", "0.5"), "-1.00");
        assert_eq!(text(Fold::Sum, NUMERIC, "99999999999999999999", "1"), "100000000000000000000");
        let big = Column { type_oid: INT8, binary: false };
        let max = i64::MAX.to_string().into_bytes();
        assert!(fold(Fold::Sum, big, Some(max), Some(b"1")).is_err());
    }

    #[test]
    fn least_and_greatest() {
        assert_eq!(text(Fold::Min, INT4, "-5", "3"), "-5");
        assert_eq!(text(Fold::Max, NUMERIC, "9.99", "10"), "10");
        assert_eq!(text(Fold::Max, NUMERIC, "NaN", "10"), "NaN");
        assert_eq!(text(Fold::Max, FLOAT8, "NaN", "Infinity"), "NaN", "NaN is greatest");
        assert_eq!(text(Fold::Min, FLOAT8, "-Infinity", "0"), "-Infinity");
    }

    #[test]
    fn null_is_the_result_of_no_rows() {
        let c = Column { type_oid: INT4, binary: false };
        assert_eq!(fold(Fold::Sum, c, None, Some(b"1")).unwrap(), Some(b"1".to_vec()));
        assert_eq!(fold(Fold::Max, c, Some(b"1".to_vec()), None).unwrap(), Some(b"1".to_vec()));
        assert_eq!(fold(Fold::Max, c, None, None).unwrap(), None);
    }

    #[test]
    fn what_does_not_merge_exactly_is_refused() {
        let c = |type_oid, binary| Column { type_oid, binary };
        assert_eq!(
            fold(Fold::Max, c(25, false), None, None).unwrap_err(),
            MergeError::Type(25),
            "text needs the collation"
        );
        assert!(fold(Fold::Sum, c(NUMERIC, true), None, None).is_err());
        assert_eq!(fold(Fold::Sum, c(FLOAT8, false), None, None), Err(MergeError::FloatSum));
        let tie = |oid, a: &str, b: &str| {
            fold(Fold::Max, c(oid, false), Some(a.into()), Some(b.as_bytes()))
        };
        assert_eq!(tie(NUMERIC, "1.0", "1.00"), Err(MergeError::Tie));
        assert_eq!(tie(FLOAT8, "0", "-0"), Err(MergeError::Tie));
        assert!(fold(Fold::Sum, c(INT8, false), Some(b"x".to_vec()), Some(b"1")).is_err());
    }

    #[test]
    fn binary_counts() {
        let c = Column { type_oid: INT8, binary: true };
        let one = 1i64.to_be_bytes();
        let sum = fold(Fold::Sum, c, Some(one.to_vec()), Some(&one)).unwrap();
        assert_eq!(sum, Some(2i64.to_be_bytes().to_vec()));
    }
}
