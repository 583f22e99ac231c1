//! What `pgshunt.settle` tells of a table, row by row.

use crate::topology::{ChangedTable, ColumnRow, GroupId};
use crate::wire::backend;

/// A part of a table, as `pgshunt.settle` tells it.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// `n`: its schema, `t`: its name, `c`: a column, `k`: a distribution column, `i`: an index, `s`: a sequence.
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

/// The table that is told, if it is there.
pub(super) fn table(group: GroupId, told: &[Told]) -> Option<ChangedTable> {
    let all = |kind: u8| told.iter().filter(move |t| t.kind == kind).map(|t| t.name.clone());
    let column = |t: &Told| ColumnRow { name: t.name.clone(), type_oid: t.type_oid };
    Some(ChangedTable {
        group,
        schema: all(b'n').next()?,
        name: all(b't').next()?,
        key_columns: all(b'k').collect(),
        columns: told.iter().filter(|t| t.kind == b'c').map(column).collect(),
        indexes: all(b'i').collect(),
        sequences: all(b's').collect(),
    })
}
