//! Statements that would reach a distributed table by what they use: a view, a function, code.
//!
//! Such a thing sees the rows of the node it runs on. Code that puts its SQL together may reach anything;
//! a session that knows better says so: `SET pgshunt.dynamic_sql = 'local'`.

use pg_raw_parse::Node;
use pg_raw_parse::raw::ObjectType::{self, *};

use super::context::{Context, refused};
use super::functions::name_of;
use super::plan::Kind;
use super::scope::Names;
use crate::topology::hidden::{Reach, runs_text, words};

const BY_NAME: &str = "Name the table in the statement itself: what reaches it otherwise sees the rows of one node only.";
const DYNAMIC: &str = "It would see the rows of one node only. If it uses no distributed table, SET pgshunt.dynamic_sql = 'local'.";

/// Why a relation cannot be used; `changes`: it is the target.
pub fn relation(name: &str, changes: bool, names: Names<'_>) -> Option<Kind> {
    names.schema.tables().next()?;
    let reach = names.schema.hidden().relation(name, changes)?;
    told(&format!("\"{name}\""), reach, names)
}

/// Why a function cannot be called.
pub fn function(name: &str, names: Names<'_>) -> Option<Kind> {
    names.schema.tables().next()?;
    told(&format!("function {name}"), names.schema.hidden().function(name)?, names)
}

fn told(what: &str, reach: &Reach, names: Names<'_>) -> Option<Kind> {
    match reach {
        Reach::Dynamic if names.local_code => None,
        Reach::Dynamic => Some(refused(
            format!(
                "{what} runs SQL that is put together, which is not supported beside distributed tables"
            ),
            DYNAMIC,
        )),
        Reach::Table(table) => Some(refused(
            format!("{what} leads to the distributed table \"{table}\", which is not supported"),
            BY_NAME,
        )),
    }
}

fn names_what_is_run(kind: ObjectType::Type) -> bool {
    matches!(
        kind,
        OBJECT_TABLE
            | OBJECT_VIEW
            | OBJECT_MATVIEW
            | OBJECT_FUNCTION
            | OBJECT_PROCEDURE
            | OBJECT_ROUTINE
    )
}

/// Why a utility statement cannot be carried out, for what it runs or would keep to be run.
pub fn code(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    cx.names.schema.tables().next()?;
    match node {
        Node::CallStmt(c) => return function(name_of(c.funccall()?)?.1, cx.names),
        Node::RefreshMatViewStmt(r) => return relation(r.relation()?.relname()?, false, cx.names),
        // It is known by its name.
        Node::RenameStmt(r) if names_what_is_run(r.rename_type) => {}
        Node::PrepareStmt(_)
        | Node::CreateTableAsStmt(_)
        | Node::ViewStmt(_)
        | Node::RuleStmt(_)
        | Node::CreateTrigStmt(_)
        | Node::CreatePolicyStmt(_)
        | Node::CreateFunctionStmt(_)
        | Node::DoStmt(_) => {}
        _ => return None,
    }
    let words = words(&String::from_utf8_lossy(cx.own_text()));
    let is_code = matches!(node, Node::CreateFunctionStmt(_) | Node::DoStmt(_));
    if is_code && runs_text(&words) && !cx.names.local_code {
        return Some(refused(
            "code with SQL that is put together is not supported beside distributed tables",
            DYNAMIC,
        ));
    }
    words.iter().find_map(|w| relation(w, true, cx.names).or_else(|| function(w, cx.names)))
}
