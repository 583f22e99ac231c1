//! The words by which a table becomes a reference table.

use pg_raw_parse::raw::{ConstrType, SetOperation};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::context::Context;
use super::functions::name_of;
use super::objects::written;

/// The constraint that makes a table a reference table, `CHECK (true)`: it survives a dump, and means nothing
/// to PostgreSQL.
pub const MARK: &str = "pgshunt_reference";

/// Whether CREATE TABLE says that the table is to be a reference table.
pub fn is_marked(s: &nodes::CreateStmt) -> bool {
    let marks = |n: Node<'_>| {
        matches!(n, Node::Constraint(c)
            if c.contype == ConstrType::CONSTR_CHECK && c.conname() == Some(MARK))
    };
    s.table_elts().iter().any(|e| match e {
        Node::ColumnDef(c) => c.constraints().iter().any(marks),
        e => marks(e),
    })
}

/// Whether ALTER TABLE would give the mark to a table.
pub fn marks(s: &nodes::AlterTableStmt, cx: Context<'_>) -> bool {
    !cx.names.schema.is_plain()
        && s.cmds().iter().any(|c| {
            let Node::AlterTableCmd(c) = c else { return false };
            matches!(c.def(), Node::Constraint(c) if c.conname() == Some(MARK))
        })
}

/// The table that `SELECT create_reference_table('t')` names, if that is what the statement is; within, `None`
/// is no name.
pub fn named(s: &nodes::SelectStmt) -> Option<Option<(Option<String>, String)>> {
    let alone = s.from_clause().is_empty()
        && s.target_list().len() == 1
        && s.with_clause().is_none()
        && s.op == SetOperation::SETOP_NONE
        && matches!(s.where_clause(), Node::None);
    let Some(Node::FuncCall(f)) = s.target_list().get(0).filter(|_| alone).map(|t| t.val()) else {
        return None;
    };
    if !matches!(name_of(f), Some((None | Some("pgshunt"), "create_reference_table"))) {
        return None;
    }
    let mut argument = f.args().get(0).filter(|_| f.args().len() == 1)?;
    while let Node::TypeCast(t) = argument {
        argument = t.arg();
    }
    let Node::A_Const(c) = argument else { return None };
    let Some(ConstValue::String(text)) = c.val() else { return None };
    Some(written(text.to_owned()).map(|w| (w.schema, w.name)))
}
