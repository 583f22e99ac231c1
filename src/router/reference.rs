//! Reference tables: every node has them in full, and with the same rows.
//!
//! A query on them is any node's. One that uses them beside distributed tables runs where those are, as long as
//! the nodes cannot take different rows of them: LIMIT, windows and aggregates that see rows in an order may
//! differ from node to node (`unordered`). A change is carried out by all nodes in one transaction, with
//! other changes of the table kept away (`pgshunt.hold`), if each node must come to the same rows: whatever
//! a node would compute for itself (now(), a sequence, what another table holds) is refused.

use std::collections::HashSet;
use std::sync::Arc;

use pg_raw_parse::Node;
use postgres_protocol::escape::escape_identifier as ident;

use super::context::{Context, refused};
use super::facts::{Facts, is_time_call};
use super::node_bound::{Bound, bound, is_shared_type};
use super::plan::{Alike, Kind, Merge, Reference};
use super::scope::Named;
use super::steady::{Steady, unsteady};
use super::tables::Tables;
use super::whole_rows;
use crate::sql::tree::{self, Recurse, walk};
use crate::topology::DistributedTable;

/// What is made in a database has numbers from here on, which differ from node to node.
const FIRST_OWN: u32 = 16_384;

pub fn of(table: &DistributedTable) -> Reference {
    /// date, time, timestamp, timestamptz and timetz.
    const TIMES: [u32; 5] = [1082, 1083, 1114, 1184, 1266];
    Reference {
        quoted: format!("{}.{}", ident(&table.schema), ident(&table.name)),
        has_times: table.columns.iter().any(|c| TIMES.contains(&c.type_oid)),
    }
}

/// Whether a query on reference tables alone is the home node's: it locks rows, or tells numbers of its types,
/// which clients know as the home node has them.
pub fn is_of_home(cx: Context<'_>) -> bool {
    let own_types = |named: &Named| match named {
        Named::Reference(table) => table.columns.iter().any(|c| c.type_oid >= FIRST_OWN),
        _ => false,
    };
    cx.facts.locks_rows
        || cx.facts.relations.iter().any(|r| own_types(&r.named))
        || whole_rows::refused_in(cx).is_some()
}

/// Rows of a reference table are locked on the home node, and a statement on distributed ones runs elsewhere.
pub fn refused_lock() -> Kind {
    refused(
        "a row lock beside a reference table is not supported",
        "Lock the rows of the distributed table by a statement on it alone.",
    )
}

/// INSERT, UPDATE or DELETE of a reference table.
pub fn change(
    node: Node<'_>,
    table: &Arc<DistributedTable>,
    tables: &Tables,
    cx: Context<'_>,
) -> Kind {
    match bound(cx) {
        Some(Bound::Refused(kind)) => return *kind,
        Some(Bound::Home(what)) => return no(table, &what),
        None => {}
    }
    let returns = match node {
        Node::InsertStmt(s) => s.returning_clause().is_some(),
        Node::UpdateStmt(s) => s.returning_clause().is_some(),
        Node::DeleteStmt(s) => s.returning_clause().is_some(),
        Node::MergeStmt(_) => return no(table, "MERGE"),
        _ => return no(table, "a WITH query that writes"),
    };
    if cx.facts.relations.iter().filter(|r| r.is_target).count() != 1 {
        return no(table, "a WITH query that writes");
    }
    if tables.distributed || tables.local {
        return refused(
            format!(
                "a change of the reference table \"{}\" by rows of another table is not supported",
                table.name
            ),
            "Read the rows first and pass their values as parameters.",
        );
    }
    if let Some(kind) = whole_rows::refused_in(cx) {
        return kind;
    }
    let picks = match node {
        // Which of several rows is taken is each node's own choice.
        Node::UpdateStmt(u) if !u.from_clause().is_empty() => Some("UPDATE ... FROM"),
        Node::InsertStmt(i) => match i.select_stmt() {
            Node::SelectStmt(s)
                if s.values_lists().is_empty() && i.on_conflict_clause().is_some() =>
            {
                Some("INSERT ... SELECT with ON CONFLICT")
            }
            _ => None,
        },
        _ => None,
    };
    // Every copy must have one value, also where a row is changed through another node's clock.
    let timed = || {
        let call = cx.facts.calls.iter().find(|c| c.is_builtin && is_time_call(c.node));
        let named = call.and_then(|c| c.name).map(|name| format!("function {name}"));
        let times = !cx.facts.times.places.is_empty();
        named.or_else(|| times.then(|| "CURRENT_DATE and the like".to_owned()))
    };
    let unlike = picks.map(str::to_owned).or_else(timed);
    if let Some(what) = unlike.or_else(|| unsteady(Steady::Everywhere, cx)) {
        return no(table, &what);
    }
    let given = given(node, table);
    if let Some(kind) = refused_change(table, |column| given.contains(column), cx) {
        return kind;
    }
    let alike = Alike { returns, table: of(table) };
    Kind::Every { group: table.group, merge: Merge::Alike(Arc::new(alike)) }
}

fn no(table: &DistributedTable, what: &str) -> Kind {
    refused(
        format!("a change of the reference table \"{}\" with {what} is not supported", table.name),
        "Each node would have its own value. Compute it first and pass it as a parameter.",
    )
}

/// The columns to which a statement gives values of its own.
fn given<'a>(node: Node<'a>, table: &'a DistributedTable) -> HashSet<&'a str> {
    let mut defaults = false;
    walk::<()>(node, |n| {
        defaults |= matches!(n, Node::SetToDefault(_));
        Recurse::yes()
    });
    let all = || table.columns.iter().map(|c| c.name.as_str());
    match node {
        _ if defaults => HashSet::new(),
        Node::InsertStmt(i) => {
            let named: Vec<&str> = i
                .cols()
                .iter()
                .filter_map(|c| match c {
                    Node::ResTarget(t) => t.name(),
                    _ => None,
                })
                .collect();
            let width = match i.select_stmt() {
                Node::SelectStmt(s) => match s.values_lists().get(0) {
                    Some(Node::NodeList(row)) => row.len(),
                    _ => s.target_list().len(),
                },
                _ => 0,
            };
            match named.is_empty() {
                // Those behind have their defaults; what a star stands for is not looked at.
                true => all().take(width).collect(),
                false => named.into_iter().collect(),
            }
        }
        // No row gets a default.
        _ => all().collect(),
    }
}

/// Why the table cannot be changed by a statement that gives values to these columns, if so.
pub fn refused_change(
    table: &DistributedTable,
    given: impl Fn(&str) -> bool,
    cx: Context<'_>,
) -> Option<Kind> {
    let schema = cx.names.schema;
    if schema.has_policies(&table.schema, &table.name) {
        return Some(no(table, "row security policies"));
    }
    let unsure = |c: &&crate::topology::ColumnRow| {
        // A domain may have a default of its own.
        let mut own = schema.defaults(table).filter(|(column, _)| *column == c.name);
        match own.next() {
            Some((_, expression)) => !is_alike(expression, cx),
            None => c.type_oid >= FIRST_OWN,
        }
    };
    let column = table.columns.iter().filter(|c| !given(&c.name)).find(unsure)?;
    Some(refused(
        format!(
            "a change of the reference table \"{}\" with the default of column \"{}\" is not supported",
            table.name, column.name
        ),
        "Each node would have its own value. Give the column a value in the statement.",
    ))
}

/// Whether an expression of an INSERT gives the same on every node.
pub fn gives_alike(expression: Node<'_>, cx: Context<'_>) -> bool {
    let facts = Facts::of(expression, cx.names, cx.functions);
    let steady = |name: Option<&str>| name.is_some_and(|n| cx.functions.is_steady(n));
    facts.own_answer.is_none()
        && facts.times.places.is_empty()
        && facts.calls.iter().all(|call| steady(call.builtin()))
}

/// Whether a default is the same on every node.
pub fn is_alike(expression: &str, cx: Context<'_>) -> bool {
    let Ok(parsed) = tree::parse(&format!("SELECT {expression}")) else { return false };
    let Some(query) = parsed.stmts().next() else { return false };
    let facts = Facts::of(query, cx.names, cx.functions);
    let steady = |name: Option<&str>| name.is_some_and(|n| cx.functions.is_steady(n));
    facts.own_answer.is_none()
        && facts.times.places.is_empty()
        && super::ddl::reads_alike(query)
        && facts.calls.iter().all(|call| steady(call.builtin()))
        && facts.relations.is_empty()
        && facts.types.iter().all(|t| is_shared_type(t))
}
