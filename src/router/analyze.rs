//! One parsed statement: each kind to the module that knows it.

use pg_raw_parse::{Node, nodes};

use super::context::{Context, refused};
use super::plan::{Control, Kind};
use super::scope::Named;
use super::{hidden, query, route, traces, utility};

/// The kind of one statement and what it does to the session.
pub fn statement(node: Node<'_>, cx: Context<'_>) -> (Kind, Control) {
    match node {
        Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_) => (query::place(node, cx), traces::control(cx)),
        Node::ExplainStmt(e) => explain(e, cx),
        Node::DeclareCursorStmt(d) => declare(d, cx),
        Node::CopyStmt(c) => (copy(c, cx), traces::of_query(cx)),
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

fn declare(d: &nodes::DeclareCursorStmt, cx: Context<'_>) -> (Kind, Control) {
    const CURSOR_OPT_HOLD: i32 = 0x20;
    let mut left = traces::of(cx);
    if left.prepared {
        // It is read by FETCH, and may be so in parts.
        let kind = refused(
            "a cursor over pg_prepared_statements is not supported",
            "Fetch all rows at once.",
        );
        return (kind, Control::None);
    }
    if d.options & CURSOR_OPT_HOLD != 0 {
        left.pin = Some("a cursor WITH HOLD");
    }
    let kind = query::place_of_part(
        d.query(),
        cx,
        "a cursor over a statement",
        "Add an equality on the distribution column, or fetch all rows at once.",
    );
    (kind, traces::leaves(left))
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

/// COPY FROM STDIN
pub fn copies_in(node: Node<'_>) -> bool {
    matches!(node, Node::CopyStmt(c) if c.is_from && !c.is_program && c.filename().is_none())
}

fn copy(c: &nodes::CopyStmt, cx: Context<'_>) -> Kind {
    let Some(rv) = c.relation() else {
        let kind = query::place_of_part(
            c.query(),
            cx,
            "COPY of a query",
            "Add an equality on the distribution column, or use a plain SELECT.",
        );
        return match kind {
            // Files and programs are the home node's.
            Kind::Any if c.is_program || c.filename().is_some() => Kind::Home,
            kind => kind,
        };
    };
    match cx.names.look_up(rv) {
        Named::Local => hidden::relation(rv.relname().unwrap_or_default(), c.is_from, cx.names)
            .unwrap_or(Kind::Home),
        Named::Leaf(shard) => Kind::Leaf(shard),
        Named::Distributed(t) => refused(
            format!("COPY of the distributed table \"{}\" is not supported", t.name),
            "COPY one shard by its own table, shard_<id>.<table> (SHOW SHARDS lists them), or use INSERT.",
        ),
        Named::Unclear(name) => refused(
            format!("cannot tell which table \"{name}\" means"),
            "Write the schema before the table's name.",
        ),
    }
}
