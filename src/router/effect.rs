//! What a statement does to rows, as far as that can be proven.
//!
//! A statement reads only if all it calls is known: functions that the server came with and that are not
//! volatile, tables of whose columns, policies and operators nobody has made a function. What a local
//! relation is (a view, perhaps, over a function) is not known here. A function that is declared IMMUTABLE
//! or STABLE by the server itself is believed.

use pg_raw_parse::raw::TransactionStmtKind;
use pg_raw_parse::{Node, nodes};

use super::context::Context;
use super::functions::reads_by_name;
use super::node_bound::is_shared_type;
use super::plan::Effect;
use super::scope::Named;
use crate::topology::DistributedTable;

/// The effect of one statement, whose query's facts the context has.
pub fn of(node: Node<'_>, cx: Context<'_>) -> Effect {
    match node {
        Node::SelectStmt(_) | Node::DeclareCursorStmt(_) => of_select(cx),
        Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_)
        | Node::TruncateStmt(_)
        | Node::CreateTableAsStmt(_)
        | Node::RefreshMatViewStmt(_) => Effect::Writes,
        // With ANALYZE or without: planning, too, may call what is not volatile.
        Node::ExplainStmt(e) if super::route::is_asked(e) => Effect::Reads,
        Node::ExplainStmt(e) if of(e.query(), cx) == Effect::Reads => Effect::Reads,
        Node::CopyStmt(c) => of_copy(c, cx),
        Node::LockStmt(_) => Effect::Locks,
        Node::TransactionStmt(t) => of_transaction(t),
        // It is the session that they change.
        Node::VariableSetStmt(_)
        | Node::VariableShowStmt(_)
        | Node::DeallocateStmt(_)
        // What a cursor's query may do is DECLARE's.
        | Node::FetchStmt(_)
        | Node::ClosePortalStmt(_) => Effect::Reads,
        _ => Effect::Unknown,
    }
}

/// COMMIT does nothing of its own: what is deferred was begun by a statement that wrote.
fn of_transaction(t: &nodes::TransactionStmt) -> Effect {
    match t.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN
        | TransactionStmtKind::TRANS_STMT_START
        | TransactionStmtKind::TRANS_STMT_COMMIT
        | TransactionStmtKind::TRANS_STMT_ROLLBACK
        | TransactionStmtKind::TRANS_STMT_SAVEPOINT
        | TransactionStmtKind::TRANS_STMT_RELEASE
        | TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => Effect::Reads,
        _ => Effect::Unknown,
    }
}

fn of_copy(c: &nodes::CopyStmt, cx: Context<'_>) -> Effect {
    if c.is_from {
        return Effect::Writes;
    }
    if c.is_program || c.filename().is_some() {
        return Effect::Unknown;
    }
    match c.relation() {
        None => of_select(cx),
        Some(rv) if is_known(rv, &cx.names.look_up(rv), cx) => Effect::Reads,
        Some(_) => Effect::Unknown,
    }
}

/// The effect of a query of which only its facts are looked at: SELECT, or one that stands in another
/// statement.
fn of_select(cx: Context<'_>) -> Effect {
    let facts = cx.facts;
    if facts.changes_rows || facts.into.is_some() {
        Effect::Writes
    } else if !calls_known_only(cx) {
        Effect::Unknown
    } else if facts.locks_rows {
        Effect::Locks
    } else {
        Effect::Reads
    }
}

fn calls_known_only(cx: Context<'_>) -> bool {
    let facts = cx.facts;
    if !facts.computes && facts.calls.is_empty() {
        return true;
    }
    // Where nothing is distributed a function may have been made of the name of PostgreSQL's own.
    let names_are_sure = cx.distributes() && !cx.names.foreign_text;
    names_are_sure
        && !cx.names.schema.has_own_operators()
        && facts.calls.iter().all(|call| {
            let arguments = call.node.args().len();
            call.builtin()
                .is_some_and(|n| cx.functions.is_stable(n) && !reads_by_name(n, arguments))
        })
        && (facts.types.is_empty() || finds_catalog_first(cx))
        && facts.types.iter().all(|t| is_shared_type(t))
        && facts.relations.iter().all(|r| is_known(r.node, &r.named, cx))
}

/// Whether a type's name without a schema is PostgreSQL's own before anybody's.
fn finds_catalog_first(cx: Context<'_>) -> bool {
    let later = |path: &[String]| path.iter().skip(1).any(|s| s == "pg_catalog");
    !cx.names.temporary && cx.names.path.is_some_and(|path| !later(path))
}

/// Whether reading a relation calls nothing that somebody has made.
fn is_known(rv: &nodes::RangeVar, named: &Named, cx: Context<'_>) -> bool {
    match named {
        Named::Distributed(table) | Named::Reference(table) => is_plain(table, cx),
        Named::Leaf(shard) => {
            let schema = cx.names.schema;
            let named = schema.tables_named(rv.relname().unwrap_or_default());
            let group = schema.group_of(*shard);
            // Several schemas may have one of the name.
            named.filter(|t| Some(t.group) == group).all(|t| is_plain(t, cx))
        }
        Named::Local => matches!(rv.schemaname(), Some("pg_catalog" | "information_schema")),
        Named::Unclear(_) => false,
    }
}

/// Whether a table has the server's own types only, and no policies.
fn is_plain(table: &DistributedTable, cx: Context<'_>) -> bool {
    /// The first OID that the server gives to what is made in a database.
    const FIRST_OWN: u32 = 16_384;
    table.columns.iter().all(|c| c.type_oid < FIRST_OWN)
        && !cx.names.schema.has_policies(&table.schema, &table.name)
}
