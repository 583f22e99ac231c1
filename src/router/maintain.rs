//! VACUUM, ANALYZE, CLUSTER and REINDEX of what is on all nodes: each node carries the client's text out for itself.
//!
//! They change neither rows nor definitions, so there is nothing that the nodes would have to decide together; one
//! that fails keeps nobody from what the others have done. The parents, their indexes and the database are called
//! alike on all nodes. What would leave an index behind that is on one node only is refused (CONCURRENTLY).

use pg_raw_parse::raw::ReindexObjectType as Of;
use pg_raw_parse::{Node, nodes};

use super::context::{Context, refused, refused_only};
use super::plan::{Ddl, Kind, Maintain};
use super::scope::Named;

/// How such a statement reaches all nodes; `None`: it is none, or is about the home node's own.
pub fn of(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    match node {
        Node::VacuumStmt(v) => vacuum(v, cx),
        Node::ClusterStmt(c) => {
            let only_in = Some("CLUSTER");
            c.relation().is_none_or(|r| is_distributed(r, cx)).then(|| on_all(only_in, cx))
        }
        Node::ReindexStmt(r) => reindex(r, cx),
        _ => None,
    }
}

/// `alone`: as PostgreSQL calls the statement when it refuses it in a transaction block.
fn on_all(alone: Option<&'static str>, cx: Context<'_>) -> Kind {
    let text = String::from_utf8_lossy(cx.own_text()).into_owned();
    Kind::Ddl(Ddl::Maintain(Box::new(Maintain { text, alone })))
}

fn is_distributed(relation: &nodes::RangeVar, cx: Context<'_>) -> bool {
    matches!(cx.names.look_up(relation), Named::Distributed(_) | Named::Reference(_))
}

fn vacuum(v: &nodes::VacuumStmt, cx: Context<'_>) -> Option<Kind> {
    let what = if v.is_vacuumcmd { "VACUUM" } else { "ANALYZE" };
    let alone = v.is_vacuumcmd.then_some("VACUUM");
    let named = || v.rels().iter().filter_map(|r| r.relation());
    let (ours, others): (Vec<_>, Vec<_>) = named().partition(|r| is_distributed(r, cx));
    if ours.is_empty() && !v.rels().is_empty() {
        return None;
    }
    if let Some(only) = ours.iter().find(|r| !r.inh) {
        return Some(refused_only(only.relname().unwrap_or_default()));
    }
    if !others.is_empty() {
        return Some(refused(
            format!("{what} of distributed tables and of the home node's own in one statement"),
            "Send a statement for each kind: only the home node has its own tables.",
        ));
    }
    Some(on_all(alone, cx))
}

fn reindex(r: &nodes::ReindexStmt, cx: Context<'_>) -> Option<Kind> {
    let alone = match r.kind {
        Of::REINDEX_OBJECT_TABLE => "REINDEX TABLE",
        Of::REINDEX_OBJECT_INDEX => "REINDEX INDEX",
        Of::REINDEX_OBJECT_DATABASE => "REINDEX DATABASE",
        Of::REINDEX_OBJECT_SYSTEM => "REINDEX SYSTEM",
        // A table's shards are in schemas of their own.
        _ => return None,
    };
    let known = |index: &nodes::RangeVar| {
        let name = index.relname().unwrap_or_default();
        cx.names.is_among(index.schemaname(), name, cx.names.schema.indexes())
    };
    let reaches = match r.relation() {
        None => true,
        Some(index) if r.kind == Of::REINDEX_OBJECT_INDEX => known(index),
        Some(table) => is_distributed(table, cx),
    };
    if !reaches {
        return None;
    }
    if r.params().iter().any(|p| p.defname() == Some("concurrently")) {
        return Some(refused(
            "REINDEX CONCURRENTLY of what is on all nodes is not supported",
            "Where it fails it would leave an invalid index in a shard. Leave CONCURRENTLY away.",
        ));
    }
    Some(on_all(Some(alone), cx))
}
