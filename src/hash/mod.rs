//! PostgreSQL's own hash partitioning, so that the proxy and every node agree on a row's shard.
//!
//! The nodes check it: each leaf's partition constraint is `satisfies_hash_partition()`, and
//! `tests/it/hash.rs` compares thousands of values of every type with a live server.

mod decimal;
mod key;
mod lookup3;
mod moment;
mod number;

pub use key::{KeyError, KeyValue, row_hash};

#[cfg(target_endian = "big")]
compile_error!(
    "PostgreSQL's hashes differ on big-endian machines; pgshunt computes the little-endian ones"
);

/// A type that may be (part of) a distribution key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    Int2,
    Int4,
    Int8,
    Text,
    Varchar,
    Uuid,
    Bpchar,
    Name,
    /// The type `"char"`, of one byte.
    Char,
    Bytea,
    Bool,
    Oid,
    Numeric,
    Date,
    Timestamp,
    Timestamptz,
}

/// Each key type with its `pg_type.oid` and the name that `format_type()` prints.
const KEY_TYPES: [(KeyType, u32, &str); 16] = [
    (KeyType::Int2, 21, "smallint"),
    (KeyType::Int4, 23, "integer"),
    (KeyType::Int8, 20, "bigint"),
    (KeyType::Text, 25, "text"),
    (KeyType::Varchar, 1043, "character varying"),
    (KeyType::Uuid, 2950, "uuid"),
    (KeyType::Bpchar, 1042, "character"),
    (KeyType::Name, 19, "name"),
    (KeyType::Char, 18, "\"char\""),
    (KeyType::Bytea, 17, "bytea"),
    (KeyType::Bool, 16, "boolean"),
    (KeyType::Oid, 26, "oid"),
    (KeyType::Numeric, 1700, "numeric"),
    (KeyType::Date, 1082, "date"),
    (KeyType::Timestamp, 1114, "timestamp without time zone"),
    (KeyType::Timestamptz, 1184, "timestamp with time zone"),
];

impl KeyType {
    /// Which types these are, for the hint of a refusal.
    pub const HINT: &str = "Distribution columns are of type smallint, integer, bigint, numeric, oid, text, varchar, \
         char(n), name, \"char\", bytea, uuid, boolean, date, timestamp or timestamptz.";

    /// The key type of a `pg_type.oid`, if rows may be distributed by it.
    pub fn from_oid(oid: u32) -> Option<Self> {
        KEY_TYPES.iter().find(|t| t.1 == oid).map(|t| t.0)
    }

    /// The name the catalog stores, as `format_type()` prints it.
    pub fn name(self) -> &'static str {
        KEY_TYPES.iter().find(|t| t.0 == self).map_or("", |t| t.2)
    }

    /// The inverse of [`KeyType::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        KEY_TYPES.iter().find(|t| t.2 == name).map(|t| t.0)
    }

    /// Whether a column of this type that is declared with a precision stores another value than it is given.
    pub fn is_rounded(self) -> bool {
        matches!(self, Self::Numeric | Self::Timestamp | Self::Timestamptz)
    }

    /// Whether columns of both types compare with each other by value, and hash alike.
    pub fn compares_with(self, other: Self) -> bool {
        self.family() == other.family()
    }
}
