//! Where a query runs: which way it takes, and why another way would be wrong.

use pg_raw_parse::raw::SetOperation;
use pg_raw_parse::{Node, nodes};

use super::context::{Context, is_temporary, refused, refused_only};
use super::facts::Relation;
use super::functions::name_of;
use super::node_bound::{Bound, bound};
use super::plan::{Fold, Key, KeySource, Kind, Merge};
use super::proof::{Breaks, Compared, Found, Gives, Outcome, Prover};
use super::scope::Named;
use super::steady::{Steady, unsteady};
use super::tables::Tables;
use super::{collect, combine, reference, rewrite, whole_rows, writes};
use crate::sql::tree::{Recurse, walk};
use crate::wire::backend::Report;

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
    if let Some(kind) = without_shards(node, &tables, cx) {
        return Ok(kind);
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
        Node::SelectStmt(s) => Ok(match proven(s, cx, compared).unwrap_or_else(Kind::Refused) {
            Kind::Refused(why) => collected(*why, cx),
            kind => kind,
        }),
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

/// Of a statement that changes a reference table, or uses no distributed one; `None`: it is neither.
fn without_shards(node: Node<'_>, tables: &Tables, cx: Context<'_>) -> Option<Kind> {
    if let Some(table) = &tables.changed {
        return Some(reference::change(node, table, tables, cx));
    }
    if !tables.distributed {
        let local = tables.local || tables.reference && reference::is_of_home(cx);
        return Some(without_distributed(node, local, cx));
    }
    (tables.reference && cx.facts.locks_rows).then(reference::refused_lock)
}

/// Where a query runs that is refused for `why`, as long as its rows stay where they are.
fn collected(why: Report, cx: Context<'_>) -> Kind {
    match collect::collected(cx) {
        Ok((group, collect)) => Kind::Every { group, merge: Merge::Collect(collect.into()) },
        Err(what) => {
            let detail = format!("Nor are its rows collected on one node: {what}.");
            Kind::Refused(Box::new(Report { detail: Some(detail), ..why }))
        }
    }
}

/// Where a query's rows of distributed tables are, each of one node's.
fn proven(s: &nodes::SelectStmt, cx: Context<'_>, compared: &mut Compared) -> Outcome<Kind> {
    let mut prover = Prover::new(cx);
    prover.select(s)?;
    let mut found = std::mem::take(&mut prover.found);
    *compared = std::mem::take(&mut found.compared);
    Ok(of_select(s, found, cx))
}

/// Why a query's rows are collected on one node: what its parts on several would lack.
pub fn why_collected(query: Node<'_>, cx: Context<'_>) -> String {
    let Node::SelectStmt(s) = query else { return "it is no SELECT".to_owned() };
    match proven(s, cx, &mut Compared::default()) {
        Ok(Kind::Refused(why)) | Err(why) => why.message,
        Ok(_) => String::new(),
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
        Some(breaks) => nested(s, cx).unwrap_or_else(|| Err(breaks.to_string())),
        None => merge_of(s, gives, cx),
    };
    merge.map_or_else(over_nodes, |merge| Kind::Every { group, merge })
}

/// How a query is answered that has rows of several nodes from one query in its FROM, and from nothing
/// else; `None`: it is none.
fn nested(s: &nodes::SelectStmt, cx: Context<'_>) -> Option<Result<Merge, String>> {
    let one =
        s.from_clause().len() == 1 && s.with_clause().is_none() && s.op == SetOperation::SETOP_NONE;
    let Some(Node::RangeSubselect(r)) = s.from_clause().get(0).filter(|_| one) else { return None };
    let Node::SelectStmt(sub) = r.subquery() else { return None };
    let distributed = |r: &&Relation<'_>| matches!(r.named, Named::Distributed(_));
    let all = cx.facts.relations.iter().filter(distributed).count();
    let mut inner = Prover::by_rows(cx);
    let gives = inner.select(sub).ok()?;
    let Found { unproven: None, mixed, references, .. } = inner.found else { return None };
    if references != all || cx.facts.locks_rows {
        return None;
    }
    if let Some(what) = unsteady(Steady::Everywhere, cx) {
        return Some(Err(what));
    }
    let inner = match (mixed, gives) {
        (Some(_), _) => match nested(sub, cx)? {
            Ok(Merge::Combine(inner)) => Ok((*inner).clone()),
            Ok(_) => return None,
            Err(what) => Err(what),
        },
        (None, Gives::Mixed(_) | Gives::Rows(_)) => combine::combined(sub, cx),
        (None, Gives::Constant(_)) => return None,
    };
    let whole = inner.and_then(|inner| combine::around(s, inner));
    Some(whole.map(|c| Merge::Combine(c.into())))
}

/// Why a read of several nodes does not go to each as it is.
pub fn why_not_as_it_is(query: Node<'_>, cx: Context<'_>) -> String {
    let Node::SelectStmt(s) = query else { return "it is no SELECT".to_owned() };
    let mut prover = Prover::by_rows(cx);
    match (prover.select(s), prover.found.mixed) {
        (_, Some(breaks)) | (Ok(Gives::Mixed(breaks)), None) => breaks.to_string(),
        _ if !s.sort_clause().is_empty() => "ORDER BY".to_owned(),
        _ => "LIMIT or OFFSET".to_owned(),
    }
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
    let by_all = || match cx.facts.locks_rows {
        true => Err("a row lock beside what one node computes".to_owned()),
        false => combine::combined(s, cx).map(|c| Merge::Combine(c.into())),
    };
    let sorts = !s.sort_clause().is_empty();
    match gives {
        Gives::Rows(_) if limits || sorts => {
            let ordered = || rewrite::ordered(s, cx).map(|o| Merge::Ordered(o.into()));
            match is_compared(s, cx) {
                true => ordered().or_else(|_| by_all()),
                // PostgreSQL knows the order of such values.
                false => by_all().or_else(|what| ordered().map_err(|_| what)),
            }
        }
        Gives::Rows(_) => Ok(Merge::Concat),
        Gives::Mixed(Breaks::Aggregate) if !limits && !sorts && is_plain(s) => {
            let folds = s.target_list().iter().map(|t| fold_of(t.val(), s, cx));
            match folds.collect::<Option<Vec<_>>>() {
                Some(folds) => Ok(Merge::Fold(folds.into())),
                None => by_all(),
            }
        }
        Gives::Mixed(
            breaks @ (Breaks::Aggregate
            | Breaks::GroupBy
            | Breaks::GroupingSets
            | Breaks::Distinct
            | Breaks::Window
            | Breaks::SetOperation),
        ) => by_all().map_err(|what| if what.is_empty() { breaks.to_string() } else { what }),
        Gives::Mixed(breaks) => Err(breaks.to_string()),
        Gives::Constant(_) => Err(Breaks::NoTable.to_string()),
    }
}

/// One row of aggregates, of which nothing is made.
fn is_plain(s: &nodes::SelectStmt) -> bool {
    s.distinct_clause().is_empty() && matches!(s.having_clause(), Node::None)
}

/// How an aggregate is folded: those that give integers from columns of integers, whatever the format.
fn fold_of(target: Node<'_>, s: &nodes::SelectStmt, cx: Context<'_>) -> Option<Fold> {
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
        "count" => Some(Fold::Sum),
        "sum" if of_integers(f, s, cx, &[INT2, INT4]) => Some(Fold::Sum),
        "min" if of_integers(f, s, cx, &[INT2, INT4, INT8]) => Some(Fold::Min),
        "max" if of_integers(f, s, cx, &[INT2, INT4, INT8]) => Some(Fold::Max),
        _ => None,
    }
}

const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;

/// Types whose order is known here, whatever the database (`merge::order`).
const COMPARED: [u32; 17] =
    [16, 17, 18, 19, INT8, INT2, INT4, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1700, 2950];

/// Whether all that the rows are sorted by is of types whose order is known here.
fn is_compared(s: &nodes::SelectStmt, cx: Context<'_>) -> bool {
    s.sort_clause().iter().all(|by| match rewrite::sorted_by(by.node(), s) {
        Ok(Node::ColumnRef(c)) => are_of(c, s, cx, &COMPARED),
        Ok(Node::FuncCall(f)) => matches!(name_of(f), Some((_, "count"))),
        _ => false,
    })
}

/// Whether the argument is a column of one of these types.
fn of_integers(f: &nodes::FuncCall, s: &nodes::SelectStmt, cx: Context<'_>, types: &[u32]) -> bool {
    matches!(f.args().get(0), Some(Node::ColumnRef(c)) if are_of(c, s, cx, types))
}

/// Whether a column is of one of these types, whichever table's it is.
fn are_of(c: &nodes::ColumnRef, s: &nodes::SelectStmt, cx: Context<'_>, types: &[u32]) -> bool {
    let name = c.fields().iter().next_back().and_then(Node::as_str);
    // Only of tables the types are known.
    let mut tables = s.with_clause().is_none();
    for item in s.from_clause().iter() {
        tables &= matches!(item, Node::RangeVar(_) | Node::JoinExpr(_));
        walk::<()>(item, |n| {
            let renames = matches!(n, Node::Alias(a) if !a.colnames().is_empty());
            tables &= !renames && !matches!(n, Node::RangeSubselect(_) | Node::RangeFunction(_));
            Recurse::yes()
        });
    }
    let columns = cx.facts.relations.iter().flat_map(|r| match &r.named {
        Named::Distributed(t) | Named::Reference(t) => &t.columns[..],
        _ => &[],
    });
    let mut named = columns.filter(|c| Some(c.name.as_str()) == name).peekable();
    tables && named.peek().is_some() && named.all(|c| types.contains(&c.type_oid))
}
