//! What a command answers, before it is bytes.

use pgwire::messages::data::{FieldDescription, NoData, RowDescription};

use crate::wire::backend::{Report, Severity};
use crate::wire::message;

/// A column's type, as PostgreSQL numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Text,
    Int4,
    Int8,
    Numeric,
}

impl Type {
    fn oid(self) -> u32 {
        match self {
            Self::Text => 25,
            Self::Int4 => 23,
            Self::Int8 => 20,
            Self::Numeric => 1700,
        }
    }

    fn len(self) -> i16 {
        match self {
            Self::Text | Self::Numeric => -1,
            Self::Int4 => 4,
            Self::Int8 => 8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub ty: Type,
}

/// A column whose type is text unless told otherwise.
pub const fn text(name: &'static str) -> Column {
    Column { name, ty: Type::Text }
}
pub const fn int4(name: &'static str) -> Column {
    Column { name, ty: Type::Int4 }
}
pub const fn int8(name: &'static str) -> Column {
    Column { name, ty: Type::Int8 }
}
pub const fn numeric(name: &'static str) -> Column {
    Column { name, ty: Type::Numeric }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Text(String),
    Int(i64),
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Self::Text(s.to_owned())
    }
}
impl From<String> for Value {
    fn from(s: String) -> Self {
        Self::Text(s)
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}
macro_rules! from_int {
    ($($int:ty),*) => {$(
        impl From<$int> for Value {
            fn from(n: $int) -> Self {
                Self::Int(i64::try_from(n).unwrap_or(i64::MAX))
            }
        }
    )*};
}
from_int!(i32, i64, u16, u32, u64, usize, u128);

/// One part of an answer, in the order the client sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Columns(Vec<Column>),
    Row(Vec<Value>),
    /// A NOTICE.
    Notice(Report),
    /// The end of a command that went well.
    Tag(String),
    /// The end of one that did not.
    Error(Report),
}

impl Item {
    pub fn notice(message: impl Into<String>) -> Self {
        Self::Notice(notice(message))
    }
}

pub fn notice(message: impl Into<String>) -> Report {
    Report { severity: Severity::Notice, ..Report::error("00000", message) }
}

/// RowDescription. `binary` says for each column how its values will come.
pub fn put_row_description(out: &mut Vec<u8>, columns: &[Column], binary: impl Fn(usize) -> bool) {
    let field = |(i, c): (usize, &Column)| {
        let name = c.name.to_owned();
        FieldDescription::new(name, 0, 0, c.ty.oid(), c.ty.len(), -1, i16::from(binary(i)))
    };
    message::put(out, &RowDescription::new(columns.iter().enumerate().map(field).collect()));
}

/// Whether a column comes in binary, by the result formats of a Bind: none, one for all, or one for each.
pub fn is_binary(formats: &[i16]) -> impl Fn(usize) -> bool + '_ {
    move |i| match formats {
        [] => false,
        [all] => *all == 1,
        each => each.get(i) == Some(&1),
    }
}

/// RowDescription, or NoData of a command without rows.
pub fn describe(out: &mut Vec<u8>, columns: &[Column], formats: &[i16]) {
    if columns.is_empty() {
        message::put(out, &NoData::new());
    } else {
        put_row_description(out, columns, is_binary(formats));
    }
}

/// DataRow.
pub fn put_row(
    out: &mut Vec<u8>,
    columns: &[Column],
    row: &[Value],
    binary: impl Fn(usize) -> bool,
) {
    let values: Vec<Option<Vec<u8>>> = columns
        .iter()
        .zip(row)
        .enumerate()
        .map(|(i, (column, value))| encode(value, column.ty, binary(i)))
        .collect();
    crate::wire::backend::put_data_row(out, values.iter().map(|v| v.as_deref()));
}

fn encode(value: &Value, ty: Type, binary: bool) -> Option<Vec<u8>> {
    match (value, ty, binary) {
        (Value::Null, _, _) => None,
        (Value::Text(t), _, _) => Some(t.clone().into_bytes()),
        (Value::Int(n), _, false) | (Value::Int(n), Type::Text, true) => {
            Some(n.to_string().into_bytes())
        }
        (Value::Int(n), Type::Int4, true) => {
            let n = i32::try_from(*n).unwrap_or(if *n < 0 { i32::MIN } else { i32::MAX });
            Some(n.to_be_bytes().to_vec())
        }
        (Value::Int(n), Type::Int8, true) => Some(n.to_be_bytes().to_vec()),
        (Value::Int(n), Type::Numeric, true) => Some(binary_numeric(*n)),
    }
}

/// PostgreSQL's numeric: digits of base 10,000, most significant first.
fn binary_numeric(n: i64) -> Vec<u8> {
    const NEGATIVE: u16 = 0x4000;
    let mut digits = Vec::new();
    let mut rest = n.unsigned_abs();
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let sign = if n < 0 { NEGATIVE } else { 0 };
    let weight = digits.len().saturating_sub(1) as u16;
    let mut out = Vec::new();
    for word in [digits.len() as u16, weight, sign, 0].into_iter().chain(digits.into_iter().rev()) {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_numerics() {
        assert_eq!(binary_numeric(0), [0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(binary_numeric(-3), [0, 1, 0, 0, 0x40, 0, 0, 0, 0, 3]);
        assert_eq!(binary_numeric(12_345), [0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 9, 41]);
    }

    #[test]
    fn values_follow_their_columns_type() {
        assert_eq!(encode(&Value::Int(7), Type::Int4, true), Some(vec![0, 0, 0, 7]));
        assert_eq!(
            encode(&Value::Int(i64::MAX), Type::Int4, true),
            Some(vec![0x7f, 255, 255, 255])
        );
        assert_eq!(encode(&Value::Int(7), Type::Int8, false), Some(b"7".to_vec()));
        assert_eq!(encode(&Value::Null, Type::Text, true), None);
    }
}
