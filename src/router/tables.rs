//! Which tables a query names, taken together.

use std::sync::Arc;

use pg_raw_parse::Node;

use super::facts::Facts;
use super::hidden;
use super::plan::Kind;
use super::scope::{Named, Names};
use crate::topology::{DistributedTable, ShardId};

/// What tables a query names.
#[derive(Debug, Default)]
pub struct Tables {
    pub distributed: bool,
    /// References to distributed tables.
    pub references: usize,
    pub local: bool,
    /// It names a reference table.
    pub reference: bool,
    /// The reference table that it changes.
    pub changed: Option<Arc<DistributedTable>>,
    pub leaf: Option<ShardId>,
    pub several_leaves: bool,
    pub unclear: Option<String>,
    /// A distributed table that is asked for without its shards (ONLY).
    pub only: Option<String>,
    /// A relation leads to a distributed table.
    pub hidden: Option<Kind>,
}

impl Tables {
    pub fn of(facts: &Facts<'_>, names: Names<'_>) -> Self {
        let mut t = Self::default();
        for relation in &facts.relations {
            match &relation.named {
                Named::Distributed(table) => {
                    if !relation.node.inh {
                        t.only = Some(table.name.clone());
                    }
                    t.distributed = true;
                    t.references += 1;
                }
                Named::Reference(table) => {
                    t.reference = true;
                    if relation.is_target {
                        t.changed = Some(table.clone());
                    }
                }
                Named::Leaf(shard) => {
                    t.several_leaves |= t.leaf.is_some_and(|s| s != *shard);
                    t.leaf = Some(*shard);
                }
                Named::Local => {
                    t.local = true;
                    let name = relation.node.relname().unwrap_or_default();
                    if t.hidden.is_none() {
                        t.hidden = hidden::relation(name, relation.is_target, names);
                    }
                }
                Named::Unclear(name) => t.unclear = Some(name.clone()),
            }
        }
        t
    }
}

/// Adds the names of the tables and views that a statement reads or changes, whatever they are, and as
/// often as it names them.
pub fn used(node: Node<'_>, facts: &Facts<'_>, found: &mut Vec<String>) {
    let mut add = |name: Option<&str>| found.extend(name.map(str::to_owned));
    match node {
        Node::CopyStmt(c) => add(c.relation().and_then(|rv| rv.relname())),
        Node::RefreshMatViewStmt(r) => add(r.relation().and_then(|rv| rv.relname())),
        Node::TruncateStmt(t) => t.relations().iter().for_each(|n| {
            if let Node::RangeVar(rv) = n {
                add(rv.relname());
            }
        }),
        _ => {}
    }
    facts.relations.iter().for_each(|r| add(r.node.relname()));
}
