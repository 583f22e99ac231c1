//! Where a query runs: which way it takes, and why another way would be wrong.

use pg_raw_parse::{Node, nodes};

use super::context::{Context, is_temporary, refused, refused_only};
use super::functions::name_of;
use super::node_bound::{Bound, bound};
use super::plan::{Fold, Key, KeySource, Kind, Merge};
use super::proof::{Breaks, Compared, Found, Gives, Outcome, Prover};
use super::steady::{Steady, unsteady};
use super::tables::Tables;
use super::{rewrite, whole_rows, writes};

/// Where SELECT, INSERT, UPDATE, DELETE or MERGE runs, whose facts the context has.
pub fn place(node: Node<'_>, cx: Context<'_>) -> Kind {
    let mut compared = Compared::default();
    let mut kind = match route(node, cx, &mut compared) {
        Ok(kind) => kind,
        Err(report) => return Kind::Refused(report),
    };
    if let Kind::Keys { keys, .. } = &mut kind {
        mark_repeated(keys, &compared, cx);
    }
    kind
}

/// Where a query runs of which another statement is made, which cannot go to every node: `what` it is.
pub fn place_of_part(node: Node<'_>, cx: Context<'_>, what: &str, instead: &str) -> Kind {
    match place(node, cx) {
        Kind::Every { .. } => {
            refused(format!("{what} that goes to every node is not supported"), instead)
        }
        kind => kind,
    }
}

/// Notes which parameters stand in other places too: their type may be decided there, unless each is
/// compared with a key column of one type.
fn mark_repeated(keys: &mut [Key], compared: &Compared, cx: Context<'_>) {
    for source in keys.iter_mut().flat_map(|k| k.iter_mut()) {
        if let KeySource::Param { index, alone } = source {
            let number = i32::try_from(*index + 1).unwrap_or_default();
            let all = cx.facts.parameters.get(&number).copied().unwrap_or_default();
            *alone = all == 1 || compared.alike(number) == Some(all);
        }
    }
}

fn route(node: Node<'_>, cx: Context<'_>, compared: &mut Compared) -> Outcome<Kind> {
    let mut tables = Tables::of(cx.facts, cx.names);
    if let Some(name) = tables.unclear {
        return Ok(refused(
            format!("cannot tell which table \"{name}\" means"),
            "The session has its own search_path, temporary tables or encoding, or there are tables of this name in \
             several schemas: write the schema before the table's name, and use UTF8.",
        ));
    }
    if let Some(shard) = tables.leaf {
        return Ok(if tables.distributed || tables.local || tables.several_leaves {
            refused(
                "a shard's own table cannot be used beside other tables",
                "Address the distributed table instead.",
            )
        } else {
            Kind::Leaf(shard)
        });
    }
    if let Some(name) = &tables.only {
        return Ok(refused_only(name));
    }
    if let Some(kind) = tables.hidden.take() {
        return Ok(kind);
    }
    if !tables.distributed {
        return Ok(without_distributed(node, tables.local, cx));
    }
    match bound(cx) {
        Some(Bound::Refused(kind)) => return Ok(*kind),
        Some(Bound::Home(what)) => {
            return Ok(refused(
                format!("{what} cannot be used in a statement on a distributed table"),
                "It belongs to the home node. Compute its value first and pass it as a parameter.",
            ));
        }
        None => {}
    }
    if let Some(kind) = whole_rows::refused_in(cx) {
        return Ok(kind);
    }
    match node {
        Node::SelectStmt(s) => {
            let mut prover = Prover::new(cx);
            prover.select(s)?;
            let mut found = std::mem::take(&mut prover.found);
            *compared = std::mem::take(&mut found.compared);
            Ok(of_select(s, found, cx))
        }
        Node::InsertStmt(i) => Ok(writes::insert(i, cx, &tables)),
        Node::UpdateStmt(u) => {
            let Some(target) = u.relation() else { return Ok(Kind::Home) };
            let change = writes::Change {
                node,
                target,
                others: u.from_clause(),
                condition: u.where_clause(),
                returns: u.returning_clause().is_some(),
                what: "UPDATE",
            };
            writes::refused_update(u, target, cx).map_or_else(|| change.place(cx, compared), Ok)
        }
        Node::DeleteStmt(d) => {
            let Some(target) = d.relation() else { return Ok(Kind::Home) };
            let change = writes::Change {
                node,
                target,
                others: d.using_clause(),
                condition: d.where_clause(),
                returns: d.returning_clause().is_some(),
                what: "DELETE",
            };
            change.place(cx, compared)
        }
        _ => Ok(refused(
            "MERGE on a distributed table is not supported",
            "Use INSERT ... ON CONFLICT.",
        )),
    }
}

/// A statement on local tables, or on none.
fn without_distributed(node: Node<'_>, local: bool, cx: Context<'_>) -> Kind {
    let into = cx.facts.into;
    let lasting = into.filter(|rv| !is_temporary(rv));
    if let Some(name) = lasting.and_then(|rv| rv.relname())
        && cx.names.schema.any_table_named(name)
    {
        return refused(
            format!("\"{name}\" is the name of a distributed table"),
            "Choose another name, or create the table without INTO.",
        );
    }
    let reads_only = matches!(node, Node::SelectStmt(_)) && into.is_none();
    match bound(cx) {
        Some(Bound::Refused(kind)) => *kind,
        None if !local && reads_only => Kind::Any,
        _ => Kind::Home,
    }
}

fn of_select(s: &nodes::SelectStmt, found: Found, cx: Context<'_>) -> Kind {
    if let Some(local) = &found.local {
        return refused(
            format!(
                "a distributed table and the local table \"{local}\" cannot be used in one statement"
            ),
            "The local table is on the home node only. Query them separately.",
        );
    }
    let Some(group) = found.group else { return Kind::Home };
    if found.unproven.is_none() {
        return Kind::Keys { group, keys: found.keys.into() };
    }
    if cx.facts.into.is_some() {
        return over_nodes("SELECT INTO".to_owned());
    }
    let mut by_rows = Prover::by_rows(cx);
    let gives = match by_rows.select(s) {
        Ok(gives) => gives,
        Err(report) => return Kind::Refused(report),
    };
    let Found { unproven, mixed, .. } = by_rows.found;
    if let Some(table) = unproven {
        return refused(
            format!("no equality fixes the distribution column of \"{table}\""),
            "Add `column = value` for the distribution column of each table, or join on it.",
        );
    }
    let merge = match mixed {
        Some(breaks) => Err(breaks.to_string()),
        None => merge_of(s, gives, cx),
    };
    merge.map_or_else(over_nodes, |merge| Kind::Every { group, merge })
}

fn over_nodes(what: String) -> Kind {
    refused(
        format!("{what} over several nodes is not supported"),
        "Add an equality on the distribution column, or leave it out and do it in the application.",
    )
}

/// How the answers of all nodes become one, if they do so exactly; or what keeps them from it.
fn merge_of(s: &nodes::SelectStmt, gives: Gives, cx: Context<'_>) -> Result<Merge, String> {
    let limits = !matches!((s.limit_count(), s.limit_offset()), (Node::None, Node::None));
    if cx.facts.locks_rows && limits {
        // Each node would lock as many.
        return Err("a row lock with LIMIT".to_owned());
    }
    if let Some(what) = unsteady(Steady::Everywhere, cx) {
        return Err(what);
    }
    match gives {
        Gives::Rows(_) if limits || !s.sort_clause().is_empty() => {
            rewrite::ordered(s, cx).map(|o| Merge::Ordered(o.into()))
        }
        Gives::Rows(_) => Ok(Merge::Concat),
        Gives::Mixed(Breaks::Aggregate) if limits => Err("LIMIT of an aggregate".to_owned()),
        Gives::Mixed(Breaks::Aggregate) if is_plain(s) => {
            let folds: Option<Vec<Fold>> =
                s.target_list().iter().map(|t| fold_of(t.val(), cx)).collect();
            let folds = folds.filter(|f| !f.is_empty());
            folds.map(|f| Merge::Fold(f.into())).ok_or_else(|| not_folded(s, cx))
        }
        Gives::Mixed(breaks) => Err(breaks.to_string()),
        Gives::Constant(_) => Err(Breaks::NoTable.to_string()),
    }
}

/// One row of aggregates, of which nothing is made.
fn is_plain(s: &nodes::SelectStmt) -> bool {
    s.distinct_clause().is_empty()
        && s.sort_clause().is_empty()
        && matches!(s.having_clause(), Node::None)
}

/// The aggregate that stands in the way.
fn not_folded(s: &nodes::SelectStmt, cx: Context<'_>) -> String {
    let calls = || cx.facts.calls.iter().filter_map(|c| c.name);
    let of_target = |t: &nodes::ResTarget| fold_of(t.val(), cx).is_none();
    let aggregate = calls().filter(|n| cx.functions.is_aggregate(n));
    let folds = |n: &&str| matches!(*n, "count" | "sum" | "min" | "max");
    let found = aggregate.clone().find(|n| !folds(n)).or_else(|| aggregate.clone().next());
    match found.filter(|_| s.target_list().iter().any(of_target)) {
        Some(name) => format!("an expression with {name}()"),
        None => Breaks::Aggregate.to_string(),
    }
}

fn fold_of(target: Node<'_>, cx: Context<'_>) -> Option<Fold> {
    let Node::FuncCall(f) = target else { return None };
    let (schema, name) = name_of(f)?;
    let plain = schema.is_none_or(|s| s == "pg_catalog")
        && !f.agg_distinct
        && f.agg_order().is_empty()
        && f.over().is_none()
        && !f.agg_within_group
        && cx.functions.is_builtin(name);
    if !plain {
        return None;
    }
    match name {
        "count" | "sum" => Some(Fold::Sum),
        "min" => Some(Fold::Min),
        "max" => Some(Fold::Max),
        _ => None,
    }
}
