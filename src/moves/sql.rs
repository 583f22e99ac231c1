//! Quoting.

pub use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};

/// `"schema"."name"`.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}
