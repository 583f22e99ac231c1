//! What `pgshunt.settle` tells of a table, row by row.

use crate::topology::{ChangedTable, ColumnRow, GroupId, NewTable};
use crate::wire::backend;

/// A part of a table, as `pgshunt.settle` tells it.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// `n`: its schema, `t`: its name, `o`: its owner, `c`: a column, `k`: a distribution column, `i`: an index,
    /// `s`: a sequence, `g`: others have rights on it, `h`: the session's `pgshunt.shard_count`.
    kind: u8,
    name: String,
    type_oid: u32,
}

impl Told {
    /// Of the body of a DataRow.
    pub fn of_row(body: &[u8]) -> Option<Self> {
        let row = backend::data_row(body)?;
        let [Some(kind), Some(name), Some(type_oid)] = row[..] else { return None };
        Some(Self {
            kind: *kind.first()?,
            name: String::from_utf8_lossy(name).into_owned(),
            type_oid: std::str::from_utf8(type_oid).ok()?.parse().ok()?,
        })
    }
}

fn all(told: &[Told], kind: u8) -> impl Iterator<Item = String> {
    told.iter().filter(move |t| t.kind == kind).map(|t| t.name.clone())
}

fn columns(told: &[Told]) -> Vec<ColumnRow> {
    let column = |t: &Told| ColumnRow { name: t.name.clone(), type_oid: t.type_oid };
    told.iter().filter(|t| t.kind == b'c').map(column).collect()
}

/// The table that is told, if it is there.
pub(super) fn table(group: GroupId, told: &[Told]) -> Option<ChangedTable> {
    Some(ChangedTable {
        group,
        schema: all(told, b'n').next()?,
        name: all(told, b't').next()?,
        key_columns: all(told, b'k').collect(),
        columns: columns(told),
        indexes: all(told, b'i').collect(),
        sequences: all(told, b's').collect(),
    })
}

/// The same of one that has just been made.
pub(super) fn new_table(told: &[Told]) -> Option<NewTable> {
    Some(NewTable {
        schema: all(told, b'n').next()?,
        name: all(told, b't').next()?,
        owner: all(told, b'o').next()?,
        key_columns: all(told, b'k').collect(),
        columns: columns(told),
        shard_count: all(told, b'h').next(),
        is_granted: all(told, b'g').next().is_some(),
    })
}
