//! Names in one query level: which table reference a column belongs to.

use std::sync::Arc;

use pg_raw_parse::{Node, nodes};

use crate::topology::{DistributedTable, RoutingTable, ShardId};

/// What a table name means to the router.
#[derive(Debug, Clone)]
pub enum Named {
    Distributed(Arc<DistributedTable>),
    /// A leaf, addressed by its shard's schema.
    Leaf(ShardId),
    Local,
    /// Could be a distributed table or one that hides it.
    Unclear(String),
}

/// How names are looked up in this session.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub routes: &'a RoutingTable,
    /// The session has not changed its search_path from `"$user", public`.
    pub default_path: bool,
    /// The session may have temporary tables, which hide others.
    pub temporary: bool,
}

impl Names<'_> {
    pub fn look_up(&self, rv: &nodes::RangeVar) -> Named {
        let Some(name) = rv.relname() else { return Named::Local };
        match rv.schemaname() {
            Some(schema) => {
                if let Some(shard) = leaf_schema(schema) {
                    return match self.routes.shard(shard) {
                        Some(s) if self.routes.tables_of(s.group).any(|t| t.name == name) => {
                            Named::Leaf(shard)
                        }
                        _ => Named::Local,
                    };
                }
                match self.routes.table_by_name(schema, name) {
                    Some(t) => Named::Distributed(t.clone()),
                    None => Named::Local,
                }
            }
            None if !self.routes.any_table_named(name) => Named::Local,
            None if self.default_path && !self.temporary => {
                match self.routes.table_by_name("public", name) {
                    Some(t) => Named::Distributed(t.clone()),
                    None => Named::Local,
                }
            }
            None => Named::Unclear(name.to_owned()),
        }
    }
}

/// `shard_7` is the schema of shard 7's leaves.
pub fn leaf_schema(schema: &str) -> Option<ShardId> {
    let digits = schema.strip_prefix("shard_")?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok().map(ShardId) } else { None }
}

/// A reference to a distributed table in a FROM clause.
#[derive(Debug)]
pub struct TableRef {
    pub table: Arc<DistributedTable>,
    /// What columns are qualified with.
    pub name: String,
    /// `AS t (a, b)`: its columns no longer have their names.
    pub renamed: bool,
}

/// One query level.
#[derive(Debug)]
pub struct Level<'a> {
    pub tables: Vec<TableRef>,
    /// There are other FROM items, whose columns are not known.
    pub opaque: bool,
    /// Columns merged by an inner JOIN ... USING.
    pub merged: Vec<String>,
    pub outer: Option<&'a Level<'a>>,
}

/// A key column of a table reference: how many levels up, which table, which key column.
pub type Column = (usize, usize, usize);

impl Level<'_> {
    /// The key column a column reference names, if it certainly names one.
    pub fn key_column(&self, c: &nodes::ColumnRef) -> Option<Column> {
        let mut parts = Vec::with_capacity(3);
        for f in c.fields().iter() {
            let Node::String(s) = f else { return None };
            parts.push(s.sval()?);
        }
        match parts.as_slice() {
            [column] => self.unqualified(column, 0),
            [table, column] => self.qualified(None, table, column, 0),
            [schema, table, column] => self.qualified(Some(schema), table, column, 0),
            _ => None,
        }
    }

    fn qualified(
        &self,
        schema: Option<&str>,
        name: &str,
        column: &str,
        up: usize,
    ) -> Option<Column> {
        let mut found = self
            .tables
            .iter()
            .enumerate()
            .filter(|(_, t)| t.name == name && schema.is_none_or(|s| t.table.schema == s));
        match (found.next(), found.next()) {
            (Some((at, t)), None) if !t.renamed => {
                let key = t.table.key_columns.iter().position(|k| k == column)?;
                Some((up, at, key))
            }
            (None, _) if !self.opaque => {
                self.outer.and_then(|o| o.qualified(schema, name, column, up + 1))
            }
            _ => None,
        }
    }

    fn unqualified(&self, column: &str, up: usize) -> Option<Column> {
        if self.opaque || self.tables.iter().any(|t| t.renamed) {
            return None;
        }
        let mut having = self
            .tables
            .iter()
            .enumerate()
            .filter(|(_, t)| t.table.columns.iter().any(|c| c.name == column));
        match (having.next(), having.next()) {
            (Some((at, t)), second) => {
                if second.is_some() && !self.merged.iter().any(|m| m == column) {
                    return None;
                }
                let key = t.table.key_columns.iter().position(|k| k == column)?;
                Some((up, at, key))
            }
            (None, _) => self.outer.and_then(|o| o.unqualified(column, up + 1)),
        }
    }
}
