//! Parameters set by the two ways that are no SET: the function set_config(), and UPDATE of pg_settings,
//! whose rule calls it.

use pg_raw_parse::raw::{A_Expr_Kind, SetOperation};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::context::{Context, refused};
use super::facts::{is_local, is_pg_settings};
use super::plan::Kind;
use super::reading::{READING, reads_alike};

/// The parameter that this call sets, if the text tells; `within` is the query.
pub fn parameter(f: &nodes::FuncCall, within: Option<Node<'_>>) -> Option<String> {
    let name = f.args().get(0)?;
    match text(name) {
        Some(name) => Some(name.to_ascii_lowercase()),
        None if is_column(name, "name") => named_in_where(within?).map(str::to_ascii_lowercase),
        None => None,
    }
}

/// Why this call is not carried out. What it sets for the session is asked of the server afterwards
/// (`session::check`), and until then no name is sure; what it sets for the transaction is not.
pub fn refused_call(f: &nodes::FuncCall, cx: Context<'_>) -> Option<Kind> {
    let distributed = cx.distributes();
    let value = || f.args().get(1).and_then(text);
    let refuses = match parameter(f, cx.facts.query).as_deref() {
        Some("session_replication_role") => !cx.names.schema.is_plain(),
        Some("search_path") => distributed && is_local(f),
        Some(name) if READING.contains(&name) => {
            distributed && is_local(f) && !value().is_some_and(|v| reads_alike(name, v))
        }
        Some(_) => false,
        None => distributed,
    };
    refuses.then(|| {
        refused(
            "set_config() of this parameter is not supported",
            "Use SET for search_path; pgshunt reads statements in UTF8 and with standard_conforming_strings.",
        )
    })
}

/// Why UPDATE of pg_settings is not carried out: which parameters it sets only the server knows.
pub fn refused_update(cx: Context<'_>) -> Option<Kind> {
    (cx.facts.updates_settings && cx.distributes()).then(|| {
        refused("UPDATE of pg_settings is not supported beside distributed tables", "Use SET.")
    })
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
