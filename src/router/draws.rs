//! What a statement may draw from sequences, and whether it asks for what was drawn.
//!
//! A plain read draws nothing unless it calls what may. Of anything that writes rows it is assumed:
//! defaults, triggers and functions are not looked into.

use pg_raw_parse::Node;

use super::context::Context;
use super::facts::Facts;
use super::traces::mentions_last_value;

pub fn may_draw(node: Node<'_>, facts: &Facts<'_>) -> bool {
    match node {
        Node::SelectStmt(_) | Node::DeclareCursorStmt(_) => query_draws(facts),
        Node::ExplainStmt(e) => may_draw(e.query(), facts),
        Node::CopyStmt(c) => c.is_from || query_draws(facts),
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

fn query_draws(facts: &Facts<'_>) -> bool {
    facts.changes_rows || facts.calls_others() || facts.calls(&["nextval", "setval"])
}

/// Whether it calls `currval()` or `lastval()`, or has code that names them.
pub fn asks(node: Node<'_>, cx: Context<'_>) -> bool {
    match node {
        Node::DoStmt(_) | Node::CallStmt(_) | Node::PrepareStmt(_) | Node::CreateTableAsStmt(_) => {
            mentions_last_value(cx.own_text())
        }
        _ => cx.facts.calls.iter().any(|c| matches!(c.builtin(), Some("currval" | "lastval"))),
    }
}
