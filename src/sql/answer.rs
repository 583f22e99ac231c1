//! Values that a node has computed, as constants in another text.
//!
//! A value is a constant of the type that the node gave it, so that PostgreSQL puts it into its column as it would
//! have put the value itself.

use std::fmt::Write;

/// A value: its type's number, and its text or NULL.
pub type Value = (u32, Option<String>);

/// What a node has computed.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub types: &'a [u32],
    pub rows: &'a [Vec<Value>],
    pub written: Written,
    /// The types that the client has declared for its parameters, big-endian.
    pub declared: &'a [u8],
}

/// Types whose text means the same whatever the session's settings, by number.
const NAMES: [(u32, &str); 21] = [
    (16, "bool"),
    (17, "bytea"),
    (19, "name"),
    (20, "int8"),
    (21, "int2"),
    (23, "int4"),
    (25, "text"),
    (26, "oid"),
    (114, "json"),
    (869, "inet"),
    (650, "cidr"),
    (829, "macaddr"),
    (1042, "bpchar"),
    (1043, "varchar"),
    (1083, "time"),
    (1266, "timetz"),
    (1560, "bit"),
    (1562, "varbit"),
    (1700, "numeric"),
    (2950, "uuid"),
    (3802, "jsonb"),
];

/// Types whose text depends on DateStyle and the like.
const STYLED: [(u32, &str); 3] = [(1082, "date"), (1114, "timestamp"), (1184, "timestamptz")];

const FLOATS: [(u32, &str); 2] = [(700, "float4"), (701, "float8")];

/// How the node wrote the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Dates in ISO style.
    pub iso: bool,
    /// Floating-point numbers with all their digits.
    pub exact: bool,
}

/// What a value of a type is called in the text; `Some(None)`: nothing, since its column is of that type.
pub(super) fn name(ty: u32, column: u32, written: Written) -> Option<Option<&'static str>> {
    let find = |all: &[(u32, &'static str)]| all.iter().find(|(n, _)| *n == ty).map(|(_, n)| *n);
    let known = find(&NAMES)
        .or_else(|| find(&STYLED).filter(|_| written.iso))
        .or_else(|| find(&FLOATS).filter(|_| written.exact));
    known.map(|name| (ty != column).then_some(name))
}

/// Writes a value as a constant.
pub(super) fn put(text: &mut String, value: Option<&str>, name: Option<&str>) {
    match value {
        None => text.push_str("NULL"),
        Some(value) if value.contains('\\') => {
            let _ = write!(text, "E'{}'", value.replace('\\', "\\\\").replace('\'', "''"));
        }
        Some(value) => {
            let _ = write!(text, "'{}'", value.replace('\'', "''"));
        }
    }
    if let Some(name) = name {
        let _ = write!(text, "::pg_catalog.{name}");
    }
}
