//! Names in one query level: which table reference a column belongs to.

use std::ops::Range;
use std::sync::Arc;

use pg_raw_parse::{Node, nodes};

use super::functions::{Functions, name_of};
pub use crate::topology::leaf_schema;
use crate::topology::{DistributedTable, Schema, ShardId};

/// What a table name means to the router.
#[derive(Debug, Clone)]
pub enum Named {
    Distributed(Arc<DistributedTable>),
    /// A reference table, which every node has in full.
    Reference(Arc<DistributedTable>),
    /// A leaf, addressed by its shard's schema.
    Leaf(ShardId),
    Local,
    /// Could be a distributed table or one that hides it.
    Unclear(String),
}

impl Named {
    fn of(table: &Arc<DistributedTable>) -> Self {
        match table.is_reference() {
            true => Self::Reference(table.clone()),
            false => Self::Distributed(table.clone()),
        }
    }
}

/// How names are looked up in this session.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub schema: &'a Schema,
    /// The schemas in which a name without one is looked up; `None`: not known.
    pub path: Option<&'a [String]>,
    /// The session may have temporary tables, which hide others.
    pub temporary: bool,
    /// The session's texts do not mean to PostgreSQL what they mean to us: another encoding, or
    /// backslashes in plain literals.
    pub foreign_text: bool,
    /// The session says of code that puts its SQL together that it uses no distributed table.
    pub local_code: bool,
    pub sees: Sees,
}

/// What the catalogs show to a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sees {
    /// Its tables, and nothing that they consist of.
    #[default]
    Tables,
    /// The same, distributed ones as plain ones: for pg_dump.
    Dump,
    /// All that is there.
    Shards,
}

/// What a session's past says about names and literals. A plan holds only under the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speech<'a> {
    /// What put the search_path in force, if it is not the default.
    pub path: Option<&'a str>,
    pub temporary: bool,
    pub foreign_text: bool,
    pub local_code: bool,
    pub sees: Sees,
}

impl Names<'_> {
    pub fn look_up(&self, rv: &nodes::RangeVar) -> Named {
        let Some(name) = rv.relname() else { return Named::Local };
        self.look_up_name(rv.schemaname(), name)
    }

    pub fn look_up_name(&self, schema: Option<&str>, name: &str) -> Named {
        if self.foreign_text && self.schema.any_table_named(name) {
            return Named::Unclear(name.to_owned());
        }
        match schema {
            Some(schema) => {
                if let Some(shard) = leaf_schema(schema) {
                    let group = self.schema.group_of(shard);
                    let has = |g| self.schema.tables_named(name).any(|t| t.group == g);
                    return if group.is_some_and(has) { Named::Leaf(shard) } else { Named::Local };
                }
                match self.schema.table_by_name(schema, name) {
                    Some(t) => Named::of(t),
                    None => Named::Local,
                }
            }
            None if !self.schema.any_table_named(name) => Named::Local,
            None if self.temporary => Named::Unclear(name.to_owned()),
            None => match self.path {
                Some(path) => self.first_in(path, name),
                None => Named::Unclear(name.to_owned()),
            },
        }
    }

    /// The first table of this name on the path. Nothing that is not distributed may come before it: what
    /// else has the name of a distributed table is known (CREATE TABLE sees to that), but not whether
    /// it is there still.
    fn first_in(&self, path: &[String], name: &str) -> Named {
        let users = || self.named(name).any(|s| self.schema.is_roles_schema(s));
        let reaches = |schema: &String| match schema.as_str() {
            "$user" => users(),
            s => leaf_schema(s).is_some() || self.schema.table_by_name(s, name).is_some(),
        };
        if !path.iter().any(reaches) {
            return Named::Local;
        }
        for schema in path {
            let hides = match schema.as_str() {
                // Whose schema that is, is not known here.
                "$user" => users(),
                schema => {
                    leaf_schema(schema).is_some()
                        || self.schema.namesakes().any(|n| n == (schema, name))
                }
            };
            if hides {
                return Named::Unclear(name.to_owned());
            }
            if let Some(t) = self.schema.table_by_name(schema, name) {
                return Named::of(t);
            }
        }
        Named::Local
    }

    /// The schemas that hold a relation of this name, a distributed table or another.
    fn named(&self, name: &str) -> impl Iterator<Item = &str> {
        let others = self.schema.namesakes().filter(move |(_, n)| *n == name);
        let tables = self.schema.tables_named(name).map(|t| t.schema.as_str());
        tables.chain(others.map(|(schema, _)| schema))
    }

    /// Whether a name without a schema may be looked up in this one.
    pub fn sees(&self, schema: &str) -> bool {
        self.path.is_none_or(|path| {
            path.iter().any(|p| p == schema || p == "$user" && self.schema.is_roles_schema(schema))
        })
    }

    /// Whether a relation so written may be one of these.
    pub fn is_among<'s>(
        &self,
        schema: Option<&str>,
        name: &str,
        mut all: impl Iterator<Item = (&'s str, &'s str)>,
    ) -> bool {
        all.any(|(s, n)| n == name && schema.map_or_else(|| self.sees(s), |written| written == s))
    }
}

/// A reference to a distributed table in a FROM clause.
#[derive(Debug)]
pub struct TableRef {
    pub table: Arc<DistributedTable>,
    /// What columns are qualified with.
    pub name: String,
    /// It has an alias, so its schema's name no longer leads to it.
    pub aliased: bool,
    /// `AS t (a, b)`: its columns no longer have their names.
    pub renamed: bool,
    /// Within a join that has an alias: its own name means something else.
    pub hidden: bool,
    /// On the side of an outer join that may have no row.
    pub nullable: bool,
}

/// The name and the columns of a function in FROM, when it is one of PostgreSQL's that give sets of
/// single values.
pub fn columns_of(
    f: &nodes::RangeFunction,
    functions: &Functions,
) -> Option<(String, Vec<String>)> {
    const SINGLE: [&str; 3] = ["generate_series", "generate_subscripts", "regexp_split_to_table"];
    let Node::NodeList(item) = f.functions().get(0)? else { return None };
    let Node::FuncCall(call) = item.get(0)? else { return None };
    let (schema, name) = name_of(call)?;
    let known = SINGLE.contains(&name)
        && functions.is_builtin(name)
        && schema.is_none_or(|s| s == "pg_catalog")
        && !f.is_rowsfrom
        && f.functions().len() == 1
        && f.coldeflist().is_empty();
    if !known {
        return None;
    }
    let alias = f.alias().and_then(|a| a.aliasname()).unwrap_or(name);
    let mut columns = vec![alias.to_owned()];
    for (at, given) in f.alias().into_iter().flat_map(|a| a.colnames().iter()).enumerate() {
        let given = given.as_str()?.to_owned();
        match columns.get_mut(at) {
            Some(column) => *column = given,
            None => columns.push(given),
        }
    }
    if f.ordinality && columns.len() == 1 {
        columns.push("ordinality".to_owned());
    }
    Some((alias.to_owned(), columns))
}

/// One query level.
#[derive(Debug)]
pub struct Level<'a> {
    pub tables: Vec<TableRef>,
    /// There are other FROM items, whose columns are not known.
    pub opaque: bool,
    /// Functions in FROM whose columns are known: the name they go by, and the columns.
    pub others: Vec<(String, Vec<String>)>,
    /// Columns merged by an inner JOIN ... USING.
    pub merged: Vec<String>,
    pub outer: Option<&'a Level<'a>>,
}

impl<'a> Level<'a> {
    pub fn new(outer: Option<&'a Level<'a>>) -> Self {
        Self { tables: Vec::new(), opaque: false, others: Vec::new(), merged: Vec::new(), outer }
    }
}

/// A key column of a table reference: how many levels up, which table, which key column.
pub type Column = (usize, usize, usize);

impl Level<'_> {
    /// The key column that a column reference certainly names. `sees`: the tables of this level that
    /// are visible where it stands (all in WHERE, those of the join in ON).
    pub fn key_column(&self, c: &nodes::ColumnRef, sees: &Range<usize>) -> Option<Column> {
        let mut parts = Vec::with_capacity(3);
        for f in c.fields().iter() {
            let Node::String(s) = f else { return None };
            parts.push(s.sval()?);
        }
        match parts.as_slice() {
            [column] => self.unqualified(column, sees, 0),
            [table, column] => self.qualified(None, table, column, sees, 0),
            [schema, table, column] => self.qualified(Some(schema), table, column, sees, 0),
            _ => None,
        }
    }

    /// All tables of this level.
    pub fn all(&self) -> Range<usize> {
        0..self.tables.len()
    }

    /// A table of which every row of this level has one.
    pub fn anchor(&self) -> Option<usize> {
        self.tables.iter().position(|t| !t.nullable)
    }

    fn qualified(
        &self,
        schema: Option<&str>,
        name: &str,
        column: &str,
        sees: &Range<usize>,
        up: usize,
    ) -> Option<Column> {
        let mut found = self.tables.iter().enumerate().filter(|(at, t)| {
            sees.contains(at)
                && !t.hidden
                && t.name == name
                && schema.is_none_or(|s| t.table.schema == s && !t.aliased)
        });
        match (found.next(), found.next()) {
            (Some((at, t)), None) if !t.renamed => {
                let key = t.table.key_columns.iter().position(|k| k == column)?;
                Some((up, at, key))
            }
            (None, _) if !self.opaque && self.others.iter().all(|(other, _)| other != name) => {
                self.outer.and_then(|o| o.qualified(schema, name, column, &o.all(), up + 1))
            }
            _ => None,
        }
    }

    fn unqualified(&self, column: &str, sees: &Range<usize>, up: usize) -> Option<Column> {
        let hidden = self.others.iter().any(|(_, columns)| columns.iter().any(|c| c == column));
        if self.opaque || hidden || self.tables.iter().any(|t| t.renamed) {
            return None;
        }
        let mut having = self.tables.iter().enumerate().filter(|(at, t)| {
            sees.contains(at) && t.table.columns.iter().any(|c| c.name == column)
        });
        match (having.next(), having.next()) {
            (Some((at, t)), second) => {
                if second.is_some() && !self.merged.iter().any(|m| m == column) {
                    return None;
                }
                let key = t.table.key_columns.iter().position(|k| k == column)?;
                Some((up, at, key))
            }
            (None, _) => self.outer.and_then(|o| o.unqualified(column, &o.all(), up + 1)),
        }
    }
}
