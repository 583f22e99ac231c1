//! What a statement is analysed against, and the words of a refusal.

use pg_raw_parse::nodes;

use super::constant::Literals;
use super::facts::Facts;
use super::functions::Functions;
use super::plan::Kind;
use super::scope::Names;
use crate::wire::backend::Report;

/// What a statement is analysed against.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub names: Names<'a>,
    pub functions: &'a Functions,
    /// Of the statement's query, if it is one or has one.
    pub facts: &'a Facts<'a>,
    /// The whole text, in which it may be one statement of several.
    pub text: &'a [u8],
    /// The statement's own part of the text.
    pub span: (usize, usize),
    pub literals: &'a dyn Literals,
}

impl<'a> Context<'a> {
    /// The statement's own part of the text.
    pub fn own_text(&self) -> &'a [u8] {
        self.text.get(self.span.0..self.span.1).unwrap_or(self.text)
    }

    /// Whether there are other nodes than the home node.
    pub fn has_several_nodes(&self) -> bool {
        self.names.schema.has_several_nodes()
    }

    /// Whether a name that PostgreSQL writes without a schema, since it is its own, is found as its own in the
    /// client's text.
    pub fn finds_own_names(&self) -> bool {
        let later = |path: &[String]| path.iter().any(|s| s == "pg_catalog");
        !self.names.temporary && !self.names.foreign_text && !self.names.path.is_none_or(later)
    }

    /// Whether any table is distributed.
    pub fn distributes(&self) -> bool {
        self.names.schema.distributes()
    }
}

pub fn refused(what: impl Into<String>, hint: impl Into<String>) -> Kind {
    Kind::Refused(Box::new(Report::error("0A000", what).hint(hint)))
}

/// ONLY of a distributed table: the parent holds no rows, which is not what the client means.
pub fn refused_only(name: &str) -> Kind {
    refused(
        format!("ONLY of the distributed table \"{name}\" is not supported"),
        "Leave ONLY out: all rows are in the table's shards.",
    )
}

/// `RELPERSISTENCE_TEMP`, or the schema of temporary tables.
pub fn is_temporary(rv: &nodes::RangeVar) -> bool {
    rv.relpersistence as u8 == b't' || rv.schemaname().is_some_and(|s| s.starts_with("pg_temp"))
}
