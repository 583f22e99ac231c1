//! One parsed statement's kind: which way it takes, and why another way would be wrong.

use crate::sql::tree::{Recurse, walk};
use hashbrown::HashMap;
use pg_raw_parse::{Node, nodes};

use super::constant::Literals;
use super::functions::Functions;
use super::node_bound::{Bound, bound, name_of};
use super::plan::{Control, Fold, KeySource, Kind, Merge};
use super::proof::{Compared, Found, Outcome, Prover};
use super::scope::{Named, Names};
use super::tables::tables;
use super::{hidden, traces, utility, whole_rows, writes};
use crate::wire::backend::Report;

/// What a statement is analysed against.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub names: Names<'a>,
    pub functions: &'a Functions,
    pub text: &'a [u8],
    /// The statement's own part of the text.
    pub span: (usize, usize),
    pub literals: &'a dyn Literals,
}

pub fn refused(what: impl Into<String>, hint: impl Into<String>) -> Kind {
    Kind::Refused(Box::new(Report::error("0A000", what).hint(hint)))
}

/// The kind of one statement and what it does to the session.
pub fn statement(node: Node<'_>, cx: Context<'_>) -> (Kind, Control) {
    match node {
        Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_) => match dml(node, cx) {
            Ok(kind) => (kind, traces::control(node, cx)),
            Err(report) => (Kind::Refused(report), Control::None),
        },
        Node::ExplainStmt(e)
            if !matches!(
                e.query(),
                Node::SelectStmt(_)
                    | Node::InsertStmt(_)
                    | Node::UpdateStmt(_)
                    | Node::DeleteStmt(_)
                    | Node::MergeStmt(_)
            ) =>
        {
            utility::statement(node, cx)
        }
        Node::ExplainStmt(e) => {
            let kind = match dml(e.query(), cx) {
                Ok(Kind::Every { .. }) => refused(
                    "EXPLAIN of a statement that goes to every node is not supported",
                    "Explain it on a node, or add an equality on the distribution column.",
                ),
                Ok(kind) => kind,
                Err(report) => Kind::Refused(report),
            };
            (kind, traces::of_query(e.query(), cx))
        }
        Node::DeclareCursorStmt(d) => {
            const CURSOR_OPT_HOLD: i32 = 0x20;
            let kind = match dml(d.query(), cx) {
                Ok(Kind::Every { .. }) => refused(
                    "a cursor over a statement that goes to every node is not supported",
                    "Add an equality on the distribution column, or fetch all rows at once.",
                ),
                Ok(kind) => kind,
                Err(report) => Kind::Refused(report),
            };
            let mut left = traces::of(d.query(), cx);
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
            (kind, traces::leaves(left))
        }
        Node::CopyStmt(c) => (copy(c, cx), traces::of_query(c.query(), cx)),
        other => utility::statement(other, cx),
    }
}

/// SELECT, INSERT, UPDATE, DELETE.
fn dml(node: Node<'_>, cx: Context<'_>) -> Outcome<Kind> {
    let mut compared = Compared::default();
    let mut kind = route(node, cx, &mut compared)?;
    if let Kind::Keys { keys, .. } = &mut kind {
        mark_repeated(node, keys, &compared);
    }
    Ok(kind)
}

/// Notes which parameters stand in other places too: their type may be decided there, unless each is
/// compared with a key column of one type.
fn mark_repeated(node: Node<'_>, keys: &mut [super::plan::Key], compared: &Compared) {
    let mut times: HashMap<i32, usize> = HashMap::new();
    walk::<()>(node, |n| {
        if let Node::ParamRef(p) = n {
            *times.entry(p.number).or_default() += 1;
        }
        Recurse::yes()
    });
    for source in keys.iter_mut().flat_map(|k| k.iter_mut()) {
        if let KeySource::Param { index, alone } = source {
            let number = i32::try_from(*index + 1).unwrap_or_default();
            let all = times.get(&number).copied().unwrap_or_default();
            *alone = all == 1 || compared.alike(number) == Some(all);
        }
    }
}

fn route(node: Node<'_>, cx: Context<'_>, compared: &mut Compared) -> Outcome<Kind> {
    let mut tables = tables(node, cx.names);
    if tables.too_deep {
        return Ok(refused("the statement is nested too deeply", "Split it."));
    }
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
        return Ok(only(name));
    }
    if let Some(kind) = tables.hidden.take() {
        return Ok(kind);
    }
    if !tables.distributed {
        return Ok(without_distributed(node, tables.local, cx));
    }
    match bound(node, cx) {
        Some(Bound::Refused(kind)) => return Ok(*kind),
        Some(Bound::Home(what)) => {
            return Ok(refused(
                format!("{what} cannot be used in a statement on a distributed table"),
                "It belongs to the home node. Compute its value first and pass it as a parameter.",
            ));
        }
        None => {}
    }
    if let Some(kind) = whole_rows::refused_in(node, cx) {
        return Ok(kind);
    }
    let mut prover = Prover::new(cx);
    match node {
        Node::SelectStmt(s) => {
            prover.select(s)?;
            let mut found = std::mem::take(&mut prover.found);
            *compared = std::mem::take(&mut found.compared);
            Ok(of_select(s, found, cx))
        }
        Node::InsertStmt(i) => Ok(writes::insert(i, cx, &tables)),
        Node::UpdateStmt(u) => {
            let Some(target) = u.relation() else { return Ok(Kind::Home) };
            prover.modify(node, target, u.from_clause().iter(), u.where_clause())?;
            let mut found = std::mem::take(&mut prover.found);
            *compared = std::mem::take(&mut found.compared);
            Ok(writes::update(u, target, found, cx))
        }
        Node::DeleteStmt(d) => {
            let Some(target) = d.relation() else { return Ok(Kind::Home) };
            prover.modify(node, target, d.using_clause().iter(), d.where_clause())?;
            let mut found = std::mem::take(&mut prover.found);
            *compared = std::mem::take(&mut found.compared);
            Ok(writes::proven(found, "DELETE"))
        }
        _ => Ok(refused(
            "MERGE on a distributed table is not supported",
            "Use INSERT ... ON CONFLICT.",
        )),
    }
}

/// ONLY of a distributed table: the parent holds no rows, which is not what the client means.
pub fn only(name: &str) -> Kind {
    refused(
        format!("ONLY of the distributed table \"{name}\" is not supported"),
        "Leave ONLY out: all rows are in the table's shards.",
    )
}

/// A statement on local tables, or on none.
fn without_distributed(node: Node<'_>, local: bool, cx: Context<'_>) -> Kind {
    let reads_only = matches!(node, Node::SelectStmt(_));
    let into = match node {
        Node::SelectStmt(s) => s.into_clause().and_then(|i| i.rel()),
        _ => None,
    };
    if let Some(name) = into.and_then(|rv| rv.relname())
        && cx.names.routes.any_table_named(name)
    {
        return refused(
            format!("\"{name}\" is the name of a distributed table"),
            "Choose another name, or create the table without INTO.",
        );
    }
    let into = into.is_some();
    match bound(node, cx) {
        Some(Bound::Refused(kind)) => *kind,
        None if !local && !into && reads_only => Kind::Any,
        _ => Kind::Home,
    }
}

/// `RELPERSISTENCE_TEMP`, or the schema of temporary tables.
pub fn is_temporary(rv: &nodes::RangeVar) -> bool {
    rv.relpersistence as u8 == b't' || rv.schemaname().is_some_and(|s| s.starts_with("pg_temp"))
}

/// Whether the statement's plan depends on the literals of a set_config().
pub fn calls_set_config(node: Node<'_>) -> bool {
    let may_call = matches!(
        node,
        Node::SelectStmt(_) | Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_)
    );
    may_call
        && walk(node, |n| match n {
            Node::FuncCall(f)
                if name_of(f).is_some_and(|(_, n)| matches!(n, "set_config" | "setval")) =>
            {
                std::ops::ControlFlow::Break(())
            }
            _ => Recurse::yes(),
        })
        .is_some()
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
    match &found.unproven {
        None => Kind::Keys { group, keys: found.keys.into() },
        Some(_) if found.levels == 1 && found.references == 1 => match merge_of(s, cx) {
            Ok(merge) => Kind::Every { group, merge },
            Err(kind) => *kind,
        },
        Some(table) => refused(
            format!("no equality fixes the distribution column of \"{table}\""),
            "Add `column = value` for the distribution column of each table, or join on it.",
        ),
    }
}

/// How the answers of all nodes to a plain SELECT become one, if they do so exactly.
fn merge_of(s: &nodes::SelectStmt, cx: Context<'_>) -> Result<Merge, Box<Kind>> {
    let no = |what: &str| {
        Err(Box::new(refused(
            format!("{what} over several nodes is not supported"),
            "Add an equality on the distribution column, or leave it out and do it in the application.",
        )))
    };
    if s.op != pg_raw_parse::raw::SetOperation::SETOP_NONE {
        return no("UNION, INTERSECT or EXCEPT");
    }
    let clauses: [(bool, &str); 9] = [
        (!s.distinct_clause().is_empty(), "DISTINCT"),
        (!s.group_clause().is_empty(), "GROUP BY"),
        (!matches!(s.having_clause(), Node::None), "HAVING"),
        (!s.window_clause().is_empty(), "WINDOW"),
        (!s.sort_clause().is_empty(), "ORDER BY"),
        (!matches!(s.limit_count(), Node::None), "LIMIT"),
        (!matches!(s.limit_offset(), Node::None), "OFFSET"),
        (!s.locking_clause().is_empty(), "a row lock"),
        (s.with_clause().is_some() || s.into_clause().is_some(), "WITH or INTO"),
    ];
    if let Some((_, what)) = clauses.iter().find(|(there, _)| *there) {
        return no(what);
    }
    if s.from_clause().len() != 1 || !matches!(s.from_clause().get(0), Some(Node::RangeVar(_))) {
        // What has no shard would be seen once per node.
        return no("a join");
    }
    let folds: Vec<Option<Fold>> = s.target_list().iter().map(|t| fold_of(t.val(), cx)).collect();
    let is_fold = !folds.is_empty() && folds.iter().all(Option::is_some);

    // Everything else in the statement must give the same on every node.
    let unsteady = walk(s.into(), |n| match n {
        Node::FuncCall(f) => {
            let name = name_of(f).map_or("?", |(_, n)| n);
            let aggregate = is_fold && matches!(name, "count" | "sum" | "min" | "max");
            if f.over().is_some() {
                std::ops::ControlFlow::Break("a window function".to_owned())
            } else if aggregate || cx.functions.is_steady(name) {
                Recurse::yes()
            } else {
                std::ops::ControlFlow::Break(format!("function {name}"))
            }
        }
        Node::SQLValueFunction(_) => {
            std::ops::ControlFlow::Break("CURRENT_DATE, CURRENT_USER and the like".to_owned())
        }
        Node::ColumnRef(c) => {
            let last = c.fields().iter().next_back().and_then(|f| f.as_str());
            match last {
                Some(name @ ("ctid" | "tableoid" | "xmin" | "xmax" | "cmin" | "cmax")) => {
                    std::ops::ControlFlow::Break(format!("system column {name}"))
                }
                _ => Recurse::yes(),
            }
        }
        Node::RangeTableSample(_) => std::ops::ControlFlow::Break("TABLESAMPLE".to_owned()),
        Node::JsonArrayAgg(_) | Node::JsonObjectAgg(_) => {
            std::ops::ControlFlow::Break("a JSON aggregate".to_owned())
        }
        _ => Recurse::yes(),
    });
    if let Some(what) = unsteady {
        return no(&what);
    }
    match folds.into_iter().collect::<Option<Vec<Fold>>>() {
        Some(folds) if is_fold => Ok(Merge::Fold(folds.into())),
        _ => Ok(Merge::Concat),
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

/// COPY FROM STDIN
pub fn copies_in(node: Node<'_>) -> bool {
    matches!(node, Node::CopyStmt(c) if c.is_from && !c.is_program && c.filename().is_none())
}

fn copy(c: &nodes::CopyStmt, cx: Context<'_>) -> Kind {
    let Some(rv) = c.relation() else {
        return match dml(c.query(), cx) {
            Ok(Kind::Every { .. }) => refused(
                "COPY of a query that goes to every node is not supported",
                "Add an equality on the distribution column, or use a plain SELECT.",
            ),
            Ok(kind) => kind,
            Err(report) => Kind::Refused(report),
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
