//! The words by which a table becomes a reference table, a distributed or a local one.

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

/// What becomes of a table by a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversion {
    /// `create_reference_table('t')`
    Reference,
    /// `create_distributed_table('t', 'key, ..')`
    Distributed { key: Vec<String> },
    /// `undistribute_table('t')`
    Local,
}

impl Conversion {
    pub fn function(&self) -> &'static str {
        match self {
            Self::Reference => "create_reference_table",
            Self::Distributed { .. } => "create_distributed_table",
            Self::Local => "undistribute_table",
        }
    }
}

/// A conversion, and the schema and name of the table that is named.
pub type Converted = (Conversion, Option<String>, String);

/// The conversion of a table that a SELECT is, if it is one and nothing else; within, `None`: what it names is no
/// name.
pub fn converted(s: &nodes::SelectStmt) -> Option<Option<Converted>> {
    let alone = s.from_clause().is_empty()
        && s.target_list().len() == 1
        && s.with_clause().is_none()
        && s.op == SetOperation::SETOP_NONE
        && matches!(s.where_clause(), Node::None);
    let Some(Node::FuncCall(f)) = s.target_list().get(0).filter(|_| alone).map(|t| t.val()) else {
        return None;
    };
    let Some((None | Some("pgshunt"), function)) = name_of(f) else { return None };
    let given: Option<Vec<&str>> = f.args().iter().map(constant_text).collect();
    let given = given?;
    let (conversion, table) = match (function, given.as_slice()) {
        ("create_reference_table", [table]) => (Some(Conversion::Reference), table),
        ("undistribute_table", [table]) => (Some(Conversion::Local), table),
        ("create_distributed_table", [table, key]) => {
            let column = |c: &str| written(c.to_owned()).filter(|w| w.schema.is_none());
            let key: Option<Vec<String>> = key.split(',').map(|c| Some(column(c)?.name)).collect();
            (key.map(|key| Conversion::Distributed { key }), table)
        }
        _ => return None,
    };
    let named = |c: Conversion| written((*table).to_owned()).map(|w| (c, w.schema, w.name));
    Some(conversion.and_then(named))
}

fn constant_text(mut argument: Node<'_>) -> Option<&str> {
    while let Node::TypeCast(t) = argument {
        argument = t.arg();
    }
    let Node::A_Const(c) = argument else { return None };
    match c.val() {
        Some(ConstValue::String(text)) => Some(text),
        _ => None,
    }
}
