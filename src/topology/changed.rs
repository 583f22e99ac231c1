//! The routing table as a transaction sees it that has changed distributed tables and not committed yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::routing_table::RoutingTable;
use super::schema::{ColumnRow, DistributedTable};
use super::{GroupId, TableId};

/// A distributed table as its transaction has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedTable {
    pub group: GroupId,
    pub schema: String,
    pub name: String,
    pub key_columns: Vec<String>,
    pub columns: Vec<ColumnRow>,
    /// Names of what it has in its own schema.
    pub indexes: Vec<String>,
    pub sequences: Vec<String>,
}

/// A distributed table that a transaction has made on the home node, and that has no shards yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTable {
    pub schema: String,
    pub name: String,
    pub owner: String,
    pub key_columns: Vec<String>,
    pub columns: Vec<ColumnRow>,
    /// `pgshunt.shard_count`, if the session has set it.
    pub shard_count: Option<String>,
    /// Others have rights on it, by its owner's default privileges.
    pub is_granted: bool,
}

impl RoutingTable {
    /// This table with these in place of those of the same id, and without those that are `None`. Names of
    /// indexes that have gone are kept: a statement that uses one is refused by all nodes.
    #[must_use]
    pub fn with_changed(&self, changed: &BTreeMap<TableId, Option<ChangedTable>>) -> Self {
        let mut facts = self.schema().facts().clone();
        let mut indexes = facts.around.indexes.to_vec();
        let mut sequences = facts.around.sequences.to_vec();
        for (&id, changed) in changed {
            let Some(t) = changed else {
                facts.tables.remove(&id);
                continue;
            };
            let table = DistributedTable {
                id,
                group: t.group,
                schema: t.schema.clone(),
                name: t.name.clone(),
                key_columns: t.key_columns.clone(),
                columns: t.columns.clone(),
            };
            facts.tables.insert(id, Arc::new(table));
            indexes.extend(t.indexes.iter().map(|i| (t.schema.clone(), i.clone())));
            sequences.extend(t.sequences.iter().map(|s| (t.schema.clone(), s.clone())));
        }
        // What a reference table's defaults are now is not looked at: they count as unknown.
        let unknown = changed.values().flatten().filter(|t| t.key_columns.is_empty());
        let unknown = unknown.flat_map(|t| {
            let default = |c: &ColumnRow| {
                (t.schema.clone(), t.name.clone(), c.name.clone(), "unknown()".to_owned())
            };
            t.columns.iter().map(default)
        });
        let defaults = unknown.chain(facts.around.defaults.iter().cloned()).collect();
        facts.around.defaults = defaults;
        facts.around.indexes = indexes.into();
        facts.around.sequences = sequences.into();
        // What it uses now is not looked at.
        facts.around.needs_others = true;
        self.with_schema(facts)
    }
}
