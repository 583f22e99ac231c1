//! One parsed statement: each kind to the module that knows it.

use pg_raw_parse::{Node, nodes};

use super::context::Context;
use super::plan::{Control, Ddl, Kind};
use super::{copying, cursor, mark, query, route, traces, utility};

/// The kind of one statement and what it does to the session.
pub fn statement(node: Node<'_>, cx: Context<'_>) -> (Kind, Control) {
    match node {
        Node::SelectStmt(s) if !cx.names.schema.is_plain() && mark::converted(s).is_some() => {
            (Kind::Ddl(Ddl::Alone), Control::None)
        }
        Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_) => (query::place(node, cx), traces::control(cx)),
        Node::ExplainStmt(e) => explain(e, cx),
        Node::DeclareCursorStmt(d) => cursor::declare(d, cx),
        Node::CopyStmt(c) => (copying::place(c, cx), traces::of_query(cx)),
        other => utility::statement(other, cx),
    }
}

fn explain(e: &nodes::ExplainStmt, cx: Context<'_>) -> (Kind, Control) {
    if let Some(route) = route::explained(e, cx) {
        return route;
    }
    let query = e.query();
    if !is_query(query) {
        return utility::statement(Node::ExplainStmt(e), cx);
    }
    let kind = query::place_of_part(
        query,
        cx,
        "EXPLAIN of a statement",
        "Explain it on a node, or add an equality on the distribution column.",
    );
    (kind, traces::of_query(cx))
}

/// SELECT, INSERT, UPDATE, DELETE or MERGE.
fn is_query(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_)
    )
}
