//! What a statement may draw from sequences, and whether it asks for what was drawn.
//!
//! A plain read draws nothing unless it calls what may. Of anything that writes rows it is assumed:
//! defaults, triggers and functions are not looked into.

use std::ops::ControlFlow;

use crate::sql::tree::{Recurse, walk};
use pg_raw_parse::{Node, nodes};

use super::analyze::Context;
use super::node_bound::name_of;
use super::traces::mentions_last_value;

pub fn may_draw(node: Node<'_>, cx: Context<'_>) -> bool {
    match node {
        Node::SelectStmt(_) => query_draws(node, cx),
        Node::ExplainStmt(e) => may_draw(e.query(), cx),
        Node::DeclareCursorStmt(d) => query_draws(d.query(), cx),
        Node::CopyStmt(c) => c.is_from || query_draws(c.query(), cx),
        Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_)
        | Node::TruncateStmt(_)
        | Node::CreateTableAsStmt(_)
        | Node::RefreshMatViewStmt(_)
        | Node::ExecuteStmt(_)
        | Node::CallStmt(_)
        | Node::DoStmt(_) => true,
        // A new column's default. What must stand outside of all transactions has none.
        Node::AlterTableStmt(a) => !a.cmds().iter().any(is_concurrent),
        _ => false,
    }
}

/// ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY
fn is_concurrent(command: Node<'_>) -> bool {
    let Node::AlterTableCmd(command) = command else { return false };
    matches!(command.def(), Node::PartitionCmd(p) if p.concurrent)
}

fn query_draws(query: Node<'_>, cx: Context<'_>) -> bool {
    if matches!(query, Node::None) {
        return false;
    }
    let found = walk(query, |n| match n {
        Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => {
            ControlFlow::Break(())
        }
        Node::FuncCall(f) => match builtin(f, cx) {
            Some(name) if !matches!(name, "nextval" | "setval") => Recurse::yes(),
            _ => ControlFlow::Break(()),
        },
        _ => Recurse::yes(),
    });
    found.is_some()
}

fn builtin<'a>(f: &'a nodes::FuncCall, cx: Context<'_>) -> Option<&'a str> {
    let (schema, name) = name_of(f)?;
    let known = schema.is_none_or(|s| s == "pg_catalog") && cx.functions.is_builtin(name);
    known.then_some(name)
}

/// Whether it calls `currval()` or `lastval()`, or has code that names them.
pub fn asks(node: Node<'_>, cx: Context<'_>) -> bool {
    match node {
        Node::DoStmt(_) | Node::CallStmt(_) | Node::PrepareStmt(_) | Node::CreateTableAsStmt(_) => {
            mentions_last_value(cx.text.get(cx.span.0..cx.span.1).unwrap_or(cx.text))
        }
        Node::ExplainStmt(e) => asks(e.query(), cx),
        Node::DeclareCursorStmt(d) => query_asks(d.query(), cx),
        Node::CopyStmt(c) => query_asks(c.query(), cx),
        Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_) => query_asks(node, cx),
        _ => false,
    }
}

fn query_asks(query: Node<'_>, cx: Context<'_>) -> bool {
    if matches!(query, Node::None) {
        return false;
    }
    let found = walk(query, |n| match n {
        Node::FuncCall(f) if matches!(builtin(f, cx), Some("currval" | "lastval")) => {
            ControlFlow::Break(())
        }
        _ => Recurse::yes(),
    });
    found.is_some()
}
