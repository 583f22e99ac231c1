//! What a move is about: fixed when it is planned, read again when it is resumed.

use std::sync::Arc;

use super::error::StepError;
use super::machine::Kind;
use super::sql::{ident, qualified};
use crate::catalog::moves::MoveRow;
use crate::gate::Scope;
use crate::hash::KeyType;
use crate::topology::{GroupId, MoveId, Node, NodeId, RoutingTable, ShardId, TableId};

#[derive(Debug, Clone)]
pub struct Plan {
    pub id: MoveId,
    pub kind: Kind,
    pub rollback_of: Option<MoveId>,
    pub shard: ShardId,
    pub group: GroupId,
    pub modulus: u32,
    pub remainder: u32,
    pub key_types: Vec<KeyType>,
    /// Serves now.
    pub source: Arc<Node>,
    /// Serves afterwards.
    pub target: Arc<Node>,
    pub tables: Vec<PlanTable>,
}

/// A table of the group, and its leaf in this shard.
#[derive(Debug, Clone)]
pub struct PlanTable {
    pub id: TableId,
    pub schema: String,
    pub name: String,
    /// Quoted and qualified.
    pub parent: String,
    /// Quoted and qualified.
    pub leaf: String,
    pub key_columns: Vec<String>,
}

impl Plan {
    pub fn new(row: &MoveRow, routes: &RoutingTable) -> Result<Self, StepError> {
        let gone = |what: String| StepError::Refused(format!("{what} is not in the catalog"));
        let shard = routes.shard(row.shard).ok_or_else(|| gone(format!("shard {}", row.shard)))?;
        let group =
            routes.group(shard.group).ok_or_else(|| gone(format!("group {}", shard.group)))?;
        let node = |id: NodeId| routes.node(id).cloned().ok_or_else(|| gone(format!("node {id}")));
        let schema = schema_name(row.shard);
        let mut tables = Vec::with_capacity(row.tables.len());
        for &id in &row.tables {
            let dropped = || {
                let home = &routes.home().name;
                let why = format!("{home} has no table {id} of pgshunt.tables any more");
                StepError::Refused(why)
            };
            let t = routes.table(id).ok_or_else(dropped)?;
            tables.push(PlanTable {
                id,
                schema: t.schema.clone(),
                name: t.name.clone(),
                parent: qualified(&t.schema, &t.name),
                leaf: qualified(&schema, &t.name),
                key_columns: t.key_columns.clone(),
            });
        }
        Ok(Self {
            id: row.id,
            kind: if row.rollback_of.is_some() { Kind::Rollback } else { Kind::Forward },
            rollback_of: row.rollback_of,
            shard: row.shard,
            group: row.group,
            modulus: shard.modulus,
            remainder: shard.remainder,
            key_types: group.key_types.clone(),
            source: node(row.source)?,
            target: node(row.target)?,
            tables,
        })
    }

    /// The move whose objects are used: a rollback made none of its own.
    pub fn base(&self) -> MoveId {
        self.rollback_of.unwrap_or(self.id)
    }

    /// Publication, slot and subscription that bring changes the way the first move went.
    pub fn forward(&self) -> String {
        format!("pgshunt_move_{}_fwd", self.base())
    }

    /// The same for the way back.
    pub fn reverse(&self) -> String {
        format!("pgshunt_move_{}_rev", self.base())
    }

    /// What feeds this move's target.
    pub fn feed(&self) -> String {
        match self.kind {
            Kind::Forward => self.forward(),
            Kind::Rollback => self.reverse(),
        }
    }

    /// Which side writes the markers of this move.
    pub fn side(&self) -> &'static str {
        match self.kind {
            Kind::Forward => "forward",
            Kind::Rollback => "reverse",
        }
    }

    /// The marker table, a table per move: rows of older moves would break its copy.
    pub fn marker(&self) -> String {
        format!("pgshunt.marker_{}", self.base())
    }

    /// The shard's schema, unquoted.
    pub fn schema(&self) -> String {
        schema_name(self.shard)
    }

    pub fn quoted_schema(&self) -> String {
        ident(&self.schema())
    }

    pub fn scope(&self) -> Scope {
        Scope::Shard { group: self.group, shard: self.shard }
    }

    /// All leaves, for a publication or a LOCK.
    pub fn leaves(&self) -> String {
        self.tables.iter().map(|t| t.leaf.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The leaves, quoted and qualified.
    pub fn leaf_names(&self) -> Vec<&str> {
        self.tables.iter().map(|t| t.leaf.as_str()).collect()
    }

    /// The leaves' names, for `WHERE relname = ANY`.
    pub fn names(&self) -> Vec<String> {
        self.tables.iter().map(|t| t.name.clone()).collect()
    }

    /// Whether the group still is what it was when the move was planned.
    pub fn check_tables(&self, routes: &RoutingTable) -> Result<(), StepError> {
        let mut now: Vec<_> = routes.tables_of(self.group).map(|t| t.id).collect();
        let mut then: Vec<_> = self.tables.iter().map(|t| t.id).collect();
        now.sort_unstable();
        then.sort_unstable();
        if now == then {
            return Ok(());
        }
        Err(StepError::Refused("tables were created or dropped in the group meanwhile".into()))
    }
}

fn schema_name(shard: ShardId) -> String {
    format!("shard_{shard}")
}
