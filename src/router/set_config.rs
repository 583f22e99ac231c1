//! Parameters set by the two ways that are no SET: the function set_config(), and UPDATE of pg_settings,
//! whose rule calls it.

use pg_raw_parse::raw::{A_Expr_Kind, SetOperation};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::analyze::{Context, refused};
use super::node_bound::{Bound, READING, reads_alike};

/// The parameter that this call sets, if the text tells; `within` is the statement.
pub fn parameter(f: &nodes::FuncCall, within: Node<'_>) -> Option<String> {
    let name = f.args().get(0)?;
    match text(name) {
        Some(name) => Some(name.to_ascii_lowercase()),
        None if is_column(name, "name") => named_in_where(within).map(str::to_ascii_lowercase),
        None => None,
    }
}

pub fn is_local(f: &nodes::FuncCall) -> bool {
    matches!(f.args().get(2), Some(Node::A_Const(c))
        if matches!(c.val(), Some(ConstValue::Boolean(true))))
}

/// Why this call is not carried out. What it sets for the session is asked of the server afterwards
/// (`session::check`), and until then no name is sure; what it sets for the transaction is not.
pub fn bound(f: &nodes::FuncCall, within: Node<'_>, cx: Context<'_>) -> Option<Bound> {
    let distributed = cx.names.routes.tables().next().is_some();
    let value = || f.args().get(1).and_then(text);
    let refuses = match parameter(f, within).as_deref() {
        Some("session_replication_role") => !cx.names.routes.is_plain(),
        Some("search_path") => distributed && is_local(f),
        Some(name) if READING.contains(&name) => {
            distributed && is_local(f) && !value().is_some_and(|v| reads_alike(name, v))
        }
        Some(_) => false,
        None => distributed,
    };
    refuses.then(|| {
        Bound::Refused(Box::new(refused(
            "set_config() of this parameter is not supported",
            "Use SET for search_path; pgshunt reads statements in UTF8 and with standard_conforming_strings.",
        )))
    })
}

/// Whether the statement, or a part of it, is UPDATE of pg_settings.
pub fn updates_settings(node: Node<'_>) -> bool {
    let Node::UpdateStmt(u) = node else { return false };
    u.relation().is_some_and(is_pg_settings)
}

/// Why that is not carried out: which parameters it sets only the server knows.
pub fn bound_by_update(cx: Context<'_>) -> Option<Bound> {
    cx.names.routes.tables().next()?;
    Some(Bound::Refused(Box::new(refused(
        "UPDATE of pg_settings is not supported beside distributed tables",
        "Use SET.",
    ))))
}

fn is_pg_settings(rv: &nodes::RangeVar) -> bool {
    rv.relname() == Some("pg_settings") && rv.schemaname().is_none_or(|s| s == "pg_catalog")
}

/// The constant of `FROM pg_settings WHERE name = '...'`: pg_dump sets so what not every server knows.
fn named_in_where(node: Node<'_>) -> Option<&str> {
    let Node::SelectStmt(s) = node else { return None };
    let Some(Node::RangeVar(rv)) = s.from_clause().get(0) else { return None };
    let plain = s.op == SetOperation::SETOP_NONE && s.with_clause().is_none();
    let (true, 1, true) = (plain, s.from_clause().len(), is_pg_settings(rv)) else { return None };
    let Node::A_Expr(e) = s.where_clause() else { return None };
    let equals = e.kind == A_Expr_Kind::AEXPR_OP
        && e.name().len() == 1
        && e.name().iter().all(|n| n.as_str() == Some("="));
    if equals && is_column(e.lexpr(), "name") { text(e.rexpr()) } else { None }
}

fn is_column(node: Node<'_>, name: &str) -> bool {
    let Node::ColumnRef(c) = node else { return false };
    c.fields().len() == 1 && c.fields().get(0).and_then(|f| f.as_str()) == Some(name)
}

fn text(node: Node<'_>) -> Option<&str> {
    let Node::A_Const(c) = node else { return None };
    match c.val()? {
        ConstValue::String(s) => Some(s),
        _ => None,
    }
}
