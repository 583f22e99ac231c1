//! What plans are made from: tables, columns, and what is around them. Where the shards are is no part of
//! it, so a plan outlives their moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::around::{Around, pairs};
use super::hidden::Hidden;
use super::{GroupId, ShardId, TableId};
use crate::hash::KeyType;

/// A column of a distributed table, in attribute order, as the planner needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnRow {
    pub name: String,
    /// `pg_type.oid` of the column's type; only built-in types keep their OID across nodes.
    pub type_oid: u32,
}

/// A distributed table as statements see it; or a reference table, which has no distribution columns and whose
/// group has no shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributedTable {
    pub id: TableId,
    pub group: GroupId,
    pub schema: String,
    pub name: String,
    /// Distribution columns, in partition-key order.
    pub key_columns: Vec<String>,
    pub columns: Vec<ColumnRow>,
}

impl DistributedTable {
    /// It is a reference table, which every node has in full.
    pub fn is_reference(&self) -> bool {
        self.key_columns.is_empty()
    }
}

/// Equal for two schemas only if every text has the same plan by either.
#[derive(Debug, Clone)]
pub struct SchemaEpoch(Arc<()>);

impl PartialEq for SchemaEpoch {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SchemaEpoch {}

/// What the router knows of the cluster's tables. Immutable.
#[derive(Debug, Clone)]
pub struct Schema {
    epoch: SchemaEpoch,
    facts: SchemaFacts,
    /// The tables by their names, whatever the schema.
    by_name: BTreeMap<String, Vec<Arc<DistributedTable>>>,
}

/// What a schema says. Two that say the same are one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SchemaFacts {
    /// It is another database's, in which nothing is distributed.
    pub plain: bool,
    pub several_nodes: bool,
    pub tables: BTreeMap<TableId, Arc<DistributedTable>>,
    pub key_types: BTreeMap<GroupId, Vec<KeyType>>,
    pub shards: BTreeMap<ShardId, GroupId>,
    pub hidden: Hidden,
    pub around: Around,
}

impl Schema {
    pub(super) fn new(facts: SchemaFacts) -> Self {
        Self::of_epoch(facts, SchemaEpoch(Arc::new(())))
    }

    fn of_epoch(facts: SchemaFacts, epoch: SchemaEpoch) -> Self {
        let mut by_name: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for table in facts.tables.values() {
            by_name.entry(table.name.clone()).or_default().push(table.clone());
        }
        Self { epoch, facts, by_name }
    }

    pub(super) fn facts(&self) -> &SchemaFacts {
        &self.facts
    }

    /// What sessions of the other databases go by, of the same epoch.
    pub(super) fn plain(&self) -> Self {
        let several_nodes = self.facts.several_nodes;
        let facts = SchemaFacts { plain: true, several_nodes, ..SchemaFacts::default() };
        Self::of_epoch(facts, self.epoch.clone())
    }

    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        self.facts == other.facts
    }

    /// Changes whenever anything does that a plan may depend on.
    pub fn epoch(&self) -> &SchemaEpoch {
        &self.epoch
    }

    /// Whether it is that of another database, in which nothing is distributed.
    pub fn is_plain(&self) -> bool {
        self.facts.plain
    }

    /// Whether there are other nodes than the home node.
    pub fn has_several_nodes(&self) -> bool {
        self.facts.several_nodes
    }

    pub fn tables(&self) -> impl Iterator<Item = &Arc<DistributedTable>> {
        self.facts.tables.values()
    }

    /// Whether any table is distributed.
    pub fn distributes(&self) -> bool {
        !self.facts.tables.is_empty()
    }

    pub fn table(&self, id: TableId) -> Option<&Arc<DistributedTable>> {
        self.facts.tables.get(&id)
    }

    /// A table by its exact (already folded) schema and name.
    pub fn table_by_name(&self, schema: &str, name: &str) -> Option<&Arc<DistributedTable>> {
        self.tables_named(name).find(|t| t.schema == schema)
    }

    /// The distributed tables of this name, in whatever schemas.
    pub fn tables_named(&self, name: &str) -> impl Iterator<Item = &Arc<DistributedTable>> {
        self.by_name.get(name).into_iter().flatten()
    }

    /// Whether any distributed table bears this name in whatever schema.
    pub fn any_table_named(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn tables_of(&self, group: GroupId) -> impl Iterator<Item = &Arc<DistributedTable>> {
        self.facts.tables.values().filter(move |t| t.group == group)
    }

    /// The types of a group's distribution columns.
    pub fn key_types(&self, group: GroupId) -> Option<&[KeyType]> {
        self.facts.key_types.get(&group).map(Vec::as_slice)
    }

    /// The colocation group of a shard.
    pub fn group_of(&self, shard: ShardId) -> Option<GroupId> {
        self.facts.shards.get(&shard).copied()
    }

    /// What leads to distributed tables under other names.
    pub fn hidden(&self) -> &Hidden {
        &self.facts.hidden
    }

    /// Schema and name of the sequences that distributed tables own.
    pub fn sequences(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.facts.around.sequences)
    }

    /// Schema and name of the indexes of distributed tables.
    pub fn indexes(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.facts.around.indexes)
    }

    /// Schema and name of what is the home node's alone and called like a distributed table.
    pub fn namesakes(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.facts.around.namesakes)
    }

    /// Whether `"$user"` may mean this schema.
    pub fn is_roles_schema(&self, schema: &str) -> bool {
        self.facts.around.roles_schemas.iter().any(|s| s == schema)
    }

    /// Whether a distributed table uses what PostgreSQL did not come with.
    pub fn needs_others(&self) -> bool {
        self.facts.around.needs_others
    }

    /// Whether a distributed table has row security policies.
    pub fn has_policies(&self, schema: &str, name: &str) -> bool {
        pairs(&self.facts.around.with_policies).any(|p| p == (schema, name))
    }

    /// The columns of a reference table that have a default, and its expression.
    pub fn defaults<'a>(
        &'a self,
        table: &'a DistributedTable,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let of_table = |(schema, name, _, _): &&(String, String, String, String)| {
            *schema == table.schema && *name == table.name
        };
        let all = self.facts.around.defaults.iter().filter(of_table);
        all.map(|(_, _, column, expression)| (column.as_str(), expression.as_str()))
    }

    /// Whether a column of a distributed table is computed from others.
    pub fn is_generated(&self, schema: &str, table: &str, column: &str) -> bool {
        self.facts.around.generated.iter().any(|(s, t, c)| s == schema && t == table && c == column)
    }

    /// Whether a distributed table has a trigger that fires once for a statement that inserts.
    pub fn has_statement_triggers(&self, schema: &str, name: &str) -> bool {
        pairs(&self.facts.around.with_statement_triggers).any(|p| p == (schema, name))
    }

    /// What a row gets in a distribution column that its INSERT does not name.
    pub fn key_default(&self, table: &DistributedTable, column: &str) -> Option<&str> {
        let mut all = self.facts.around.key_defaults.iter();
        let of =
            all.find(|d| d.schema == table.schema && d.table == table.name && d.column == column);
        of.map(|d| d.expression.as_str())
    }

    /// The columns of a table whose defaults tell the time, and those.
    pub fn timed_defaults<'a>(
        &'a self,
        table: &'a DistributedTable,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.facts.around.timed_defaults.iter();
        all.filter(|d| d.schema == table.schema && d.table == table.name)
            .map(|d| (d.column.as_str(), d.expression.as_str()))
    }

    /// Whether operators or casts may do more than compute.
    pub fn has_own_operators(&self) -> bool {
        self.facts.around.own_operators
    }
}
