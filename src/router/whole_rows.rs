//! Values whose type or number is another one on each node.
//!
//! A table's row type has its number on each node, and a client that is told one looks it up at home.
//! So a row of a distributed table as one value is passed on only where it becomes something else first.

use std::collections::{BTreeMap, BTreeSet};

use pg_raw_parse::{Node, nodes};

use super::context::{Context, refused};
use super::facts::Facts;
use super::plan::Kind;
use super::scope::Named;

/// Why a query on distributed tables cannot be carried out for such a value in it.
pub fn refused_in(cx: Context<'_>) -> Option<Kind> {
    let tables = tables(cx.facts);
    let suspicious: Vec<_> =
        cx.facts.columns.iter().filter_map(|c| Some((*c, meant(c, &tables)?))).collect();
    if suspicious.is_empty() {
        return None;
    }
    let (columns, places) = (names_of_columns(cx.facts), Places::of(cx.facts));
    suspicious.into_iter().find_map(|(column, meant)| {
        let name = match meant {
            Meant::NodesNumber => {
                return Some(refused(
                    "system column tableoid of a distributed table is not supported",
                    "It is another number on each node.",
                ));
            }
            Meant::ColumnOrRow(name) if columns.contains(name) => return None,
            Meant::Columns(_) if places.expanded.contains(&at(column)) => return None,
            Meant::ColumnOrRow(name) | Meant::Columns(name) | Meant::Row(name) => name,
        };
        (!places.converted.contains(&at(column))).then(|| {
            refused(
                format!("a row of the distributed table \"{name}\" as one value is not supported"),
                "Its type has another number on each node. Name the columns, or use row_to_json().",
            )
        })
    })
}

/// What a reference to a column may mean besides a column.
enum Meant<'a> {
    /// `tableoid`
    NodesNumber,
    /// `t`: the table's row, unless there is a column of the name.
    ColumnOrRow(&'a str),
    /// `t.*`: its columns one by one in some places, and in others the row.
    Columns(&'a str),
    /// `schema.t`
    Row(&'a str),
}

/// The distributed tables by the names they go by, and the schemas of those without an alias.
type Tables<'a> = BTreeMap<&'a str, Option<&'a str>>;

fn tables<'a>(facts: &'a Facts<'_>) -> Tables<'a> {
    let distributed = facts.relations.iter().filter_map(|r| match &r.named {
        Named::Distributed(table) | Named::Reference(table) => Some((r.node, table)),
        _ => None,
    });
    let named = distributed.map(|(rv, table)| match rv.alias() {
        Some(alias) => (alias.aliasname().unwrap_or_default(), None),
        None => (table.name.as_str(), Some(table.schema.as_str())),
    });
    named.collect()
}

fn meant<'a>(c: &'a nodes::ColumnRef, tables: &Tables<'_>) -> Option<Meant<'a>> {
    let fields = c.fields();
    let part = |back: usize| fields.get(fields.len().checked_sub(back)?);
    let name = |back: usize| part(back).and_then(Node::as_str);
    let table = |back: usize| name(back).filter(|n| tables.contains_key(n));
    if name(1) == Some("tableoid") {
        return Some(Meant::NodesNumber);
    }
    match (fields.len(), part(1)) {
        (1, _) => table(1).map(Meant::ColumnOrRow),
        (_, Some(Node::A_Star(_))) => table(2).map(Meant::Columns),
        (2, _) => {
            let row = table(1)?;
            let schema = name(2)?;
            (*tables.get(row)? == Some(schema)).then_some(Meant::Row(row))
        }
        _ => None,
    }
}

/// The columns of all distributed tables, and the names that aliases give to columns.
fn names_of_columns<'a>(facts: &'a Facts<'_>) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for relation in &facts.relations {
        if let Named::Distributed(table) | Named::Reference(table) = &relation.named {
            names.extend(table.columns.iter().map(|c| c.name.as_str()));
            let alias = relation.node.alias().into_iter();
            names.extend(alias.flat_map(|a| a.colnames().iter()).filter_map(Node::as_str));
        }
    }
    names
}

/// Where a row becomes something else, and where `t.*` stands for the columns one by one.
struct Places {
    converted: BTreeSet<*const nodes::ColumnRef>,
    expanded: BTreeSet<*const nodes::ColumnRef>,
}

impl Places {
    fn of(facts: &Facts<'_>) -> Self {
        let all = |columns: &[&nodes::ColumnRef]| columns.iter().map(|c| at(c)).collect();
        Self { converted: all(&facts.converted), expanded: all(&facts.expanded) }
    }
}

fn at(column: &nodes::ColumnRef) -> *const nodes::ColumnRef {
    column
}
