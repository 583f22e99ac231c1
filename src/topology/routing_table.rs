//! The routing table: which node serves which shard of which table, at one epoch.
//!
//! [`RoutingTable::build`] takes the catalog's rows and either gives a table in which every
//! remainder of every group is served by exactly one active primary placement, or says what is
//! wrong with the rows. There is no half-valid table.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::around::Around;
use super::hidden::Hidden;
use super::schema::{ColumnRow, DistributedTable, Schema, SchemaFacts};
use super::{Epoch, GroupId, NodeId, ShardId, TableId};
use crate::hash::KeyType;

/// A node as the catalog describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    /// Unique name an operator uses: `MOVE SHARD 1 TO node3`.
    pub name: String,
    pub host: String,
    pub port: u16,
    /// The home node holds the catalog and the local tables.
    pub is_home: bool,
}

/// A row of `pgshunt.colocation_groups`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    pub id: GroupId,
    pub key_types: Vec<KeyType>,
    pub shard_count: u32,
}

/// A row of `pgshunt.tables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    pub id: TableId,
    pub group: GroupId,
    pub schema: String,
    pub name: String,
    pub key_columns: Vec<String>,
    pub columns: Vec<ColumnRow>,
}

/// A row of `pgshunt.shards`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRow {
    pub id: ShardId,
    pub group: GroupId,
    pub modulus: u32,
    pub remainder: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementRole {
    Primary,
    Replica,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementState {
    /// Serves.
    Active,
    /// Being filled by a move.
    Copying,
    /// Complete, not serving.
    Inactive,
    /// Served once, kept current for `ROLLBACK MOVE`, dropped by the move's cleaning.
    Retired,
}

/// A row of `pgshunt.placements`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementRow {
    pub shard: ShardId,
    pub node: NodeId,
    pub role: PlacementRole,
    pub state: PlacementState,
    /// The epoch at which this placement began to serve.
    pub since: Epoch,
}

/// All rows a routing table is built from, read in one catalog snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub epoch: i64,
    pub nodes: Vec<Node>,
    pub groups: Vec<GroupRow>,
    pub tables: Vec<TableRow>,
    pub shards: Vec<ShardRow>,
    pub placements: Vec<PlacementRow>,
    /// What leads to distributed tables under other names.
    pub hidden: Hidden,
    pub around: Around,
}

/// A shard together with the node that serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub id: ShardId,
    pub group: GroupId,
    pub modulus: u32,
    pub remainder: u32,
    /// The node of the active primary placement.
    pub node: NodeId,
    /// The epoch at which that placement began to serve.
    pub since: Epoch,
}

/// A colocation group with its shards by remainder.
#[derive(Debug, Clone)]
pub struct Group {
    pub id: GroupId,
    pub key_types: Vec<KeyType>,
    /// Index = remainder; length = modulus. Empty: its tables are reference tables.
    pub shards: Vec<Shard>,
}

impl Group {
    /// Its tables are reference tables, which every node has in full.
    pub fn is_reference(&self) -> bool {
        self.shards.is_empty()
    }

    /// The shard that holds rows whose partition hash is `row_hash`
    /// (`compute_partition_hash_value` in PostgreSQL's partbounds.c, modulo the shard count).
    pub fn shard_of_hash(&self, row_hash: u64) -> &Shard {
        let remainder = row_hash % self.shards.len() as u64;
        &self.shards[remainder as usize]
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    #[error("the catalog names no home node")]
    NoHome,
    #[error("the catalog names {0} home nodes; exactly one is needed")]
    SeveralHomes(usize),
    #[error("{what} {id} refers to {missing}, which is not in the catalog")]
    Dangling { what: &'static str, id: i64, missing: String },
    #[error("shard {shard}: modulus {modulus} is not the shard count {count} of its group")]
    Modulus { shard: ShardId, modulus: u32, count: u32 },
    #[error("group {group}: remainder {remainder} is not covered by any shard")]
    Uncovered { group: GroupId, remainder: u32 },
    #[error("group {group}: remainder {remainder} is covered twice")]
    CoveredTwice { group: GroupId, remainder: u32 },
    #[error("shard {0} has no active primary placement")]
    NotServed(ShardId),
    #[error("shard {0} has more than one active primary placement")]
    ServedTwice(ShardId),
    #[error("table {0}: {1} key columns for a group of {2}")]
    KeyColumns(String, usize, usize),
}

/// Which node serves what, at one epoch. Immutable.
#[derive(Debug, Clone)]
pub struct RoutingTable {
    pub epoch: Epoch,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    home: NodeId,
    groups: BTreeMap<GroupId, Group>,
    shards: BTreeMap<ShardId, (GroupId, u32)>,
    schema: Arc<Schema>,
    /// The same nodes without a table; `None` in that one itself.
    plain: Option<Arc<RoutingTable>>,
}

impl RoutingTable {
    /// Builds the table, or says which row contradicts which.
    pub fn build(rows: &Rows) -> Result<Self, BuildError> {
        let nodes: BTreeMap<_, _> =
            rows.nodes.iter().map(|n| (n.id, Arc::new(n.clone()))).collect();
        let homes: Vec<_> = rows.nodes.iter().filter(|n| n.is_home).collect();
        let home = match homes.as_slice() {
            [one] => one.id,
            [] => return Err(BuildError::NoHome),
            more => return Err(BuildError::SeveralHomes(more.len())),
        };

        let serving = serving_placements(rows, &nodes)?;
        let mut groups = BTreeMap::new();
        let mut shards = BTreeMap::new();
        for row in &rows.groups {
            let group = build_group(row, rows, &serving)?;
            for s in &group.shards {
                shards.insert(s.id, (group.id, s.remainder));
            }
            groups.insert(row.id, group);
        }
        if let Some(stray) = rows.shards.iter().find(|s| !groups.contains_key(&s.group)) {
            return Err(BuildError::Dangling {
                what: "shard",
                id: stray.id.0.into(),
                missing: format!("group {}", stray.group),
            });
        }

        let schema = SchemaFacts {
            plain: false,
            several_nodes: nodes.len() > 1,
            tables: build_tables(rows, &groups)?,
            key_types: groups.iter().map(|(id, g)| (*id, g.key_types.clone())).collect(),
            shards: shards.iter().map(|(id, (group, _))| (*id, *group)).collect(),
            hidden: rows.hidden.clone(),
            around: rows.around.clone(),
        };
        let epoch = Epoch(rows.epoch);
        let schema = Arc::new(Schema::new(schema));
        let table = Self { epoch, nodes, home, groups, shards, schema, plain: None };
        Ok(table.with_plain())
    }

    fn with_plain(mut self) -> Self {
        self.plain = Some(Arc::new(Self {
            epoch: self.epoch,
            nodes: self.nodes.clone(),
            home: self.home,
            groups: BTreeMap::new(),
            shards: BTreeMap::new(),
            schema: Arc::new(self.schema.plain()),
            plain: None,
        }));
        self
    }

    /// This table, with the schema of the one before it if that says the same: plans stay what they are.
    #[must_use]
    pub(super) fn behind(self, before: &Self) -> Self {
        if Arc::ptr_eq(&self.schema, &before.schema)
            || !self.schema.says_the_same_as(&before.schema)
        {
            return self;
        }
        Self { schema: before.schema.clone(), ..self }.with_plain()
    }

    /// This table with another schema.
    #[must_use]
    pub(super) fn with_schema(&self, schema: SchemaFacts) -> Self {
        Self { schema: Arc::new(Schema::new(schema)), ..self.clone() }.with_plain()
    }

    /// What plans are made from.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// What sessions of the other databases see: the cluster's tables are not theirs, and nothing of
    /// theirs is distributed.
    pub fn plain(self: &Arc<Self>) -> &Arc<Self> {
        self.plain.as_ref().unwrap_or(self)
    }

    pub fn home(&self) -> &Arc<Node> {
        &self.nodes[&self.home]
    }

    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    pub fn node_by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.values().find(|n| n.name == name)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(&id)
    }

    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        let (group, remainder) = self.shards.get(&id)?;
        self.groups[group].shards.get(*remainder as usize)
    }

    pub fn tables(&self) -> impl Iterator<Item = &Arc<DistributedTable>> {
        self.schema.tables()
    }

    pub fn table(&self, id: TableId) -> Option<&Arc<DistributedTable>> {
        self.schema.table(id)
    }

    /// A table by its exact (already folded) schema and name.
    pub fn table_by_name(&self, schema: &str, name: &str) -> Option<&Arc<DistributedTable>> {
        self.schema.table_by_name(schema, name)
    }

    pub fn tables_of(&self, group: GroupId) -> impl Iterator<Item = &Arc<DistributedTable>> {
        self.schema.tables_of(group)
    }

    /// This table after one shard went to another node, which was all that `epoch` changed. Lets a
    /// cutover publish what it has just committed without reading the catalog while traffic waits.
    /// `None` if the shard is unknown or `epoch` is not the next one, so that more has changed.
    #[must_use]
    pub fn with_moved(&self, shard: ShardId, node: NodeId, epoch: Epoch) -> Option<Self> {
        if epoch.0 != self.epoch.0 + 1 || !self.nodes.contains_key(&node) {
            return None;
        }
        let (group, remainder) = self.shards.get(&shard)?;
        let mut next = self.clone();
        let moved = next.groups.get_mut(group)?.shards.get_mut(*remainder as usize)?;
        moved.node = node;
        moved.since = epoch;
        next.epoch = epoch;
        Some(next.with_plain())
    }

    /// The nodes that serve at least one shard of the group, ascending and without repeats; all nodes for
    /// reference tables, the home node first.
    pub fn nodes_of(&self, group: GroupId) -> Vec<NodeId> {
        if self.groups.get(&group).is_some_and(Group::is_reference) {
            let others = self.nodes.keys().filter(|n| **n != self.home);
            return std::iter::once(&self.home).chain(others).copied().collect();
        }
        let mut nodes: Vec<_> = self
            .groups
            .get(&group)
            .map(|g| g.shards.iter().map(|s| s.node).collect())
            .unwrap_or_default();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

fn build_tables(
    rows: &Rows,
    groups: &BTreeMap<GroupId, Group>,
) -> Result<BTreeMap<TableId, Arc<DistributedTable>>, BuildError> {
    let mut tables = BTreeMap::new();
    for row in &rows.tables {
        let group = groups.get(&row.group).ok_or_else(|| BuildError::Dangling {
            what: "table",
            id: row.id.0.into(),
            missing: format!("group {}", row.group),
        })?;
        let (given, wanted) = (row.key_columns.len(), group.key_types.len());
        if given != wanted {
            return Err(BuildError::KeyColumns(row.name.clone(), given, wanted));
        }
        tables.insert(
            row.id,
            Arc::new(DistributedTable {
                id: row.id,
                group: row.group,
                schema: row.schema.clone(),
                name: row.name.clone(),
                key_columns: row.key_columns.clone(),
                columns: row.columns.clone(),
            }),
        );
    }
    Ok(tables)
}

fn serving_placements(
    rows: &Rows,
    nodes: &BTreeMap<NodeId, Arc<Node>>,
) -> Result<BTreeMap<ShardId, (NodeId, Epoch)>, BuildError> {
    let mut serving = BTreeMap::new();
    for p in &rows.placements {
        if !nodes.contains_key(&p.node) {
            return Err(BuildError::Dangling {
                what: "placement of shard",
                id: p.shard.0.into(),
                missing: format!("node {}", p.node),
            });
        }
        if p.role == PlacementRole::Primary
            && p.state == PlacementState::Active
            && serving.insert(p.shard, (p.node, p.since)).is_some()
        {
            return Err(BuildError::ServedTwice(p.shard));
        }
    }
    Ok(serving)
}

fn build_group(
    row: &GroupRow,
    rows: &Rows,
    serving: &BTreeMap<ShardId, (NodeId, Epoch)>,
) -> Result<Group, BuildError> {
    let mut by_remainder: Vec<Option<Shard>> = vec![None; row.shard_count as usize];
    for s in rows.shards.iter().filter(|s| s.group == row.id) {
        if s.modulus != row.shard_count || s.remainder >= s.modulus {
            return Err(BuildError::Modulus {
                shard: s.id,
                modulus: s.modulus,
                count: row.shard_count,
            });
        }
        let &(node, since) = serving.get(&s.id).ok_or(BuildError::NotServed(s.id))?;
        let slot = &mut by_remainder[s.remainder as usize];
        if slot.is_some() {
            return Err(BuildError::CoveredTwice { group: row.id, remainder: s.remainder });
        }
        *slot = Some(Shard {
            id: s.id,
            group: s.group,
            modulus: s.modulus,
            remainder: s.remainder,
            node,
            since,
        });
    }
    let shards = by_remainder
        .into_iter()
        .enumerate()
        .map(|(r, s)| s.ok_or(BuildError::Uncovered { group: row.id, remainder: r as u32 }))
        .collect::<Result<_, _>>()?;
    Ok(Group { id: row.id, key_types: row.key_types.clone(), shards })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let node = |id: i32, is_home| Node {
            id: NodeId(id),
            name: format!("node{id}"),
            host: "127.0.0.1".into(),
            port: 5432,
            is_home,
        };
        let placement = |shard, node| PlacementRow {
            shard: ShardId(shard),
            node: NodeId(node),
            role: PlacementRole::Primary,
            state: PlacementState::Active,
            since: Epoch(1),
        };
        let shard =
            |id, remainder| ShardRow { id: ShardId(id), group: GroupId(1), modulus: 2, remainder };
        Rows {
            hidden: Hidden::default(),
            around: Around::default(),
            epoch: 1,
            nodes: vec![node(1, true), node(2, false)],
            groups: vec![GroupRow {
                id: GroupId(1),
                key_types: vec![KeyType::Int4],
                shard_count: 2,
            }],
            tables: vec![TableRow {
                id: TableId(1),
                group: GroupId(1),
                schema: "public".into(),
                name: "t".into(),
                key_columns: vec!["id".into()],
                columns: vec![ColumnRow { name: "id".into(), type_oid: 23 }],
            }],
            shards: vec![shard(1, 0), shard(2, 1)],
            placements: vec![placement(1, 1), placement(2, 2)],
        }
    }

    #[test]
    fn valid_rows_build() {
        let t = RoutingTable::build(&rows()).unwrap();
        assert_eq!(t.shard(ShardId(2)).unwrap().node, NodeId(2));
        assert_eq!(t.table_by_name("public", "t").unwrap().id, TableId(1));
        assert!(t.table_by_name("other", "t").is_none());
        assert_eq!(t.nodes_of(GroupId(1)), [NodeId(1), NodeId(2)]);
    }

    #[test]
    fn every_remainder_is_served_exactly_once() {
        let mut r = rows();
        r.shards.pop();
        assert_eq!(
            RoutingTable::build(&r).unwrap_err(),
            BuildError::Uncovered { group: GroupId(1), remainder: 1 }
        );
        let mut r = rows();
        r.placements.pop();
        assert_eq!(RoutingTable::build(&r).unwrap_err(), BuildError::NotServed(ShardId(2)));
        let mut r = rows();
        let mut twice = r.placements[0].clone();
        twice.node = NodeId(2);
        r.placements.push(twice);
        assert_eq!(RoutingTable::build(&r).unwrap_err(), BuildError::ServedTwice(ShardId(1)));
    }

    #[test]
    fn a_moved_shard_is_the_only_difference_and_the_next_epoch_the_only_one_possible() {
        let t = RoutingTable::build(&rows()).unwrap();
        let next = t.with_moved(ShardId(2), NodeId(1), Epoch(2)).unwrap();
        assert_eq!((next.epoch, next.nodes_of(GroupId(1))), (Epoch(2), vec![NodeId(1)]));
        assert_eq!(next.shard(ShardId(2)).unwrap().since, Epoch(2));
        assert_eq!(next.shard(ShardId(1)).unwrap().since, Epoch(1));
        assert!(t.with_moved(ShardId(2), NodeId(1), Epoch(3)).is_none(), "more has changed");
        assert!(t.with_moved(ShardId(9), NodeId(1), Epoch(2)).is_none());
    }
}
