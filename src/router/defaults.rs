//! Columns that an INSERT leaves to defaults which tell the time.
//!
//! Each node would compute them for its own rows, by its own clock. So where an INSERT's rows lie on several
//! nodes, or on another than the transaction's clock, the expressions are written into its text, and told the
//! time as its own calls are. A default is written so only if all it calls is PostgreSQL's own, and gives the
//! same on every node but for the time.

use pg_raw_parse::raw::OverridingKind;
use pg_raw_parse::{Node, nodes};

use super::computed::given;
use super::context::Context;
use super::facts::{Facts, is_time_call};
use super::node_bound::is_shared_type;
use super::scope::Named;
use crate::sql::defaults::Defaults;
use crate::sql::tree;
use crate::sql::values::quoted;

pub struct Left {
    pub defaults: Defaults,
    /// One tells the statement's time.
    pub of_statement: bool,
}

/// What an INSERT .. VALUES leaves to defaults that tell the time, if anything.
pub fn left_to(node: Node<'_>, cx: Context<'_>) -> Option<Left> {
    let Node::InsertStmt(i) = node else { return None };
    let Node::SelectStmt(source) = i.select_stmt() else { return None };
    let Named::Distributed(table) = cx.names.look_up(i.relation()?) else { return None };
    let rows = source.values_lists();
    let Some(Node::NodeList(first)) = rows.get(0) else { return None };
    let given = given(i, &table, first.len())?;
    let mut left = Left {
        defaults: Defaults {
            rows: rows.len(),
            list: i
                .cols()
                .is_empty()
                .then(|| given.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", ")),
            more: Vec::new(),
            words: Vec::new(),
        },
        of_statement: false,
    };
    for (column, expression) in cx.names.schema.timed_defaults(&table) {
        let Some(of_statement) = is_known(expression, cx) else { continue };
        match given.iter().position(|c| *c == column) {
            None => left.defaults.more.push((quoted(column), expression.to_owned())),
            Some(at) if is_left(source, at) => {
                left.defaults.words.push((at, expression.to_owned()));
            }
            Some(_) => continue,
        }
        left.of_statement |= of_statement;
    }
    let Defaults { more, words, .. } = &left.defaults;
    let plain = i.override_ != OverridingKind::OVERRIDING_USER_VALUE && i.with_clause().is_none();
    (plain && !(more.is_empty() && words.is_empty())).then_some(left)
}

/// Whether a row has DEFAULT there.
fn is_left(source: &nodes::SelectStmt, at: usize) -> bool {
    source.values_lists().iter().any(|row| match row {
        Node::NodeList(row) => matches!(row.get(at), Some(Node::SetToDefault(_))),
        _ => false,
    })
}

/// Whether a default may be written into a text of the client's, and if so, whether it tells the statement's
/// time.
fn is_known(expression: &str, cx: Context<'_>) -> Option<bool> {
    if !cx.finds_own_names() {
        return None;
    }
    let tree = tree::parse(&format!("SELECT {expression}")).ok()?;
    let query = tree.stmts().next()?;
    let facts = Facts::of(query, cx.names, cx.functions);
    let known = facts.calls.iter().all(|call| {
        call.builtin().is_some_and(|n| is_time_call(call.node) || cx.functions.is_steady(n))
    });
    let plain = facts.columns.is_empty()
        && facts.relations.is_empty()
        && facts.own_answer.is_none()
        && facts.types.iter().all(|t| is_shared_type(t));
    (known && plain && !facts.times.places.is_empty()).then_some(facts.times.of_statement)
}
