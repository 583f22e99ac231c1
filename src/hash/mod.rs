//! PostgreSQL's own hash partitioning, so that the proxy and every node agree on a row's shard.
//!
//! The nodes check it: each leaf's partition constraint is `satisfies_hash_partition()`, and
//! `tests/it/hash.rs` compares thousands of values of every type with a live server.

mod key;
mod lookup3;
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
}

impl KeyType {
    /// The key type of a `pg_type.oid`, if rows may be distributed by it.
    pub fn from_oid(oid: u32) -> Option<Self> {
        Some(match oid {
            21 => Self::Int2,
            23 => Self::Int4,
            20 => Self::Int8,
            25 => Self::Text,
            1043 => Self::Varchar,
            2950 => Self::Uuid,
            _ => return None,
        })
    }

    /// The name the catalog stores, as `format_type()` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Text => "text",
            Self::Varchar => "character varying",
            Self::Uuid => "uuid",
        }
    }

    /// The inverse of [`KeyType::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Int2, Self::Int4, Self::Int8, Self::Text, Self::Varchar, Self::Uuid]
            .into_iter()
            .find(|t| t.name() == name)
    }
}
