//! INSERT, UPDATE and DELETE on a distributed table.

use pg_raw_parse::raw::OverridingKind;
use pg_raw_parse::{Node, nodes};

use super::constant::constant;
use super::context::{Context, refused};
use super::plan::{Key, KeySource, Kind};
use super::proof::Found;
use super::scope::Named;
use super::tables::Tables;
use crate::topology::DistributedTable;

/// INSERT ... VALUES: a key per row.
pub fn insert(i: &nodes::InsertStmt, cx: Context<'_>, tables: &Tables) -> Kind {
    let Some(rv) = i.relation() else { return Kind::Home };
    let table = match cx.names.look_up(rv) {
        Named::Distributed(t) => t,
        Named::Leaf(_) | Named::Local | Named::Unclear(_) => {
            return refused(
                "INSERT into a local table from a distributed one is not supported",
                "Read the rows first and insert them then.",
            );
        }
    };
    let plain = "Write INSERT ... VALUES with a constant or parameter for the distribution column.";
    if i.override_ == OverridingKind::OVERRIDING_USER_VALUE {
        // What it gives for an identity column, the key perhaps, is not what is stored.
        return refused(
            "INSERT ... OVERRIDING USER VALUE on a distributed table is not supported",
            "Leave the identity column out of the statement.",
        );
    }
    if i.with_clause().is_some() || tables.references > 1 || tables.local {
        return refused("INSERT with a query on a distributed table is not supported", plain);
    }
    let Node::SelectStmt(source) = i.select_stmt() else {
        return refused("INSERT ... DEFAULT VALUES leaves the distribution column open", plain);
    };
    if source.values_lists().is_empty() {
        return refused("INSERT ... SELECT into a distributed table is not supported", plain);
    }
    if let Some(c) = i.on_conflict_clause()
        && let Some(kind) = sets_key(c.target_list().iter(), &table)
    {
        return kind;
    }
    let Some(positions) = key_positions(i, &table) else {
        return refused(
            format!("INSERT gives no value for a distribution column of \"{}\"", table.name),
            plain,
        );
    };
    let Some(types) = cx.names.schema.key_types(table.group) else { return Kind::Home };
    let mut keys: Vec<Key> = Vec::with_capacity(source.values_lists().len());
    for row in source.values_lists().iter() {
        let Node::NodeList(row) = row else {
            return refused("INSERT with this form of VALUES is not supported", plain);
        };
        let key: Option<Vec<KeySource>> = positions
            .iter()
            .zip(types)
            .map(|(&at, &ty)| constant(row.get(at)?, ty, cx.text, cx.literals))
            .collect();
        match key {
            Some(key) => keys.push(key.into()),
            None => {
                return refused(
                    "INSERT computes the value of a distribution column",
                    "Give it as a constant or parameter.",
                );
            }
        }
    }
    Kind::Keys { group: table.group, keys: keys.into() }
}

/// Where in a row the distribution columns stand.
fn key_positions(i: &nodes::InsertStmt, table: &DistributedTable) -> Option<Vec<usize>> {
    let named: Vec<&str> = i
        .cols()
        .iter()
        .filter_map(|c| match c {
            Node::ResTarget(t) => t.name(),
            _ => None,
        })
        .collect();
    table
        .key_columns
        .iter()
        .map(|key| {
            if named.is_empty() {
                table.columns.iter().position(|c| c.name == *key)
            } else {
                named.iter().position(|n| n == key)
            }
        })
        .collect()
}

pub fn update(
    u: &nodes::UpdateStmt,
    target: &nodes::RangeVar,
    found: Found,
    cx: Context<'_>,
) -> Kind {
    let Named::Distributed(table) = cx.names.look_up(target) else {
        return refused(
            "UPDATE of a local table from a distributed one is not supported",
            "Read the values first and update then.",
        );
    };
    if let Some(kind) = sets_key(u.target_list().iter(), &table) {
        return kind;
    }
    proven(found, "UPDATE")
}

/// A row whose key changes belongs elsewhere.
fn sets_key<'a>(
    mut targets: impl Iterator<Item = &'a nodes::ResTarget>,
    table: &DistributedTable,
) -> Option<Kind> {
    let key = targets.find_map(|t| {
        let name = t.name()?;
        table.key_columns.iter().find(|k| *k == name)
    })?;
    Some(refused(
        format!("the distribution column \"{key}\" cannot be changed"),
        "Delete the row and insert it with its new value.",
    ))
}

pub fn proven(found: Found, what: &str) -> Kind {
    if let Some(local) = &found.local {
        return refused(
            format!(
                "{what} of a distributed table with the local table \"{local}\" is not supported"
            ),
            "Read the local table first and pass the values as parameters.",
        );
    }
    match (found.group, &found.unproven) {
        (Some(group), None) => Kind::Keys { group, keys: found.keys.into() },
        (None, _) => Kind::Home,
        (Some(_), Some(table)) => refused(
            format!(
                "{what} without an equality on the distribution column of \"{table}\" is not supported"
            ),
            "Add `column = value` for the distribution column, one statement per value.",
        ),
    }
}
