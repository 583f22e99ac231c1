//! INSERT whose rows have no place yet: the distribution key is no constant in VALUES (an expression, DEFAULT, or
//! nothing at all), or the rows are those of a query.
//!
//! Where a row belongs is known when its key is. So the key's expressions, or the query, are asked for first, on one
//! node and as the client, and the values stand in the text in their places: that is an INSERT like any other.

use pg_raw_parse::raw::{OverridingKind, SetOperation};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::context::Context;
use super::facts::Facts;
use super::functions::name_of;
use super::reference;
use super::scope::Named;
use crate::sql::computed::{Column, Computed, Of};
use crate::sql::source::{Open, Source};
use crate::sql::values::quoted;
use crate::sql::wanted::Wanted;
use crate::topology::DistributedTable;

/// What is to be computed of a statement before it can be carried out, if that is an INSERT which lacks
/// nothing else.
pub fn of(node: Node<'_>, cx: Context<'_>) -> Option<Wanted> {
    let Node::InsertStmt(i) = node else { return None };
    let Node::SelectStmt(source) = i.select_stmt() else { return None };
    if i.with_clause().is_some() || cx.names.foreign_text {
        return None;
    }
    let table = match cx.names.look_up(i.relation()?) {
        Named::Distributed(table) => table,
        Named::Reference(table) => return copies_of(i, source, &table, cx).map(Wanted::Keys),
        Named::Leaf(_) | Named::Local | Named::Unclear(_) => return None,
    };
    match source.values_lists().is_empty() {
        true => rows_of(i, source, &table).map(Wanted::Rows),
        false => keys_of(i, source, &table, cx).map(Wanted::Keys),
    }
}

/// The rows of an INSERT's query.
fn rows_of(
    i: &nodes::InsertStmt,
    source: &nodes::SelectStmt,
    table: &DistributedTable,
) -> Option<Source> {
    if i.override_ == OverridingKind::OVERRIDING_USER_VALUE || source.into_clause().is_some() {
        return None;
    }
    let given = given(i, table, table.columns.len())?;
    let type_of = |name: &&str| table.columns.iter().find(|c| c.name == **name).map(|c| c.type_oid);
    let open = match source.op {
        SetOperation::SETOP_NONE => open_columns(source)?,
        _ => Vec::new(),
    };
    Some(Source {
        columns: given.iter().map(type_of).collect::<Option<_>>()?,
        open,
        conflict: i.on_conflict_clause().is_some(),
        returning: i.returning_clause().is_some(),
    })
}

/// What of a query's columns may have no type; `None`: which columns those are is not known.
fn open_columns(source: &nodes::SelectStmt) -> Option<Vec<Open>> {
    let mut open = Vec::new();
    let mut stars = false;
    for target in source.target_list().iter() {
        let value = target.val();
        let is = match value {
            Node::A_Const(c) if c.isnull => Open::Constant,
            Node::A_Const(c) if matches!(c.val(), Some(ConstValue::String(_))) => Open::Constant,
            Node::ParamRef(p) => Open::Parameter(usize::try_from(p.number).ok()?),
            _ => Open::Typed,
        };
        if stars && is != Open::Typed {
            return None;
        }
        stars |= is_star(value);
        open.push(is);
    }
    Some(open)
}

fn is_star(value: Node<'_>) -> bool {
    match value {
        Node::ColumnRef(c) => matches!(c.fields().iter().next_back(), Some(Node::A_Star(_))),
        Node::A_Indirection(i) => {
            matches!(i.indirection().iter().next_back(), Some(Node::A_Star(_)))
        }
        _ => false,
    }
}

/// How many values each row of VALUES has; `None`: they differ.
fn width(source: &nodes::SelectStmt) -> Option<usize> {
    let mut widths = source.values_lists().iter().map(|row| match row {
        Node::NodeList(row) => Some(row.len()),
        _ => None,
    });
    let first = widths.next()??;
    widths.all(|width| width == Some(first)).then_some(first)
}

/// The distribution columns of an INSERT's VALUES.
fn keys_of(
    i: &nodes::InsertStmt,
    source: &nodes::SelectStmt,
    table: &DistributedTable,
    cx: Context<'_>,
) -> Option<Computed> {
    if i.override_ == OverridingKind::OVERRIDING_USER_VALUE {
        return None;
    }
    let rows = source.values_lists();
    let given = given(i, table, width(source)?)?;
    let types = cx.names.schema.key_types(table.group)?;
    let mut columns = Vec::new();
    for (key, &ty) in table.key_columns.iter().zip(types) {
        let at = given.iter().position(|c| c == key);
        let items = || rows.iter().filter_map(|r| item(r, at?));
        let is_constant = |n| super::constant::constant(n, ty, cx.text, cx.literals).is_some();
        if at.is_some() && items().all(is_constant) {
            continue;
        }
        let left = at.is_none() || items().any(|n| matches!(n, Node::SetToDefault(_)));
        let default = cx.names.schema.key_default(table, key).map(str::to_owned);
        let lacks = left && (default.is_none() || !cx.finds_own_names());
        if lacks || !items().all(|n| may_be_asked(n, cx)) {
            return None;
        }
        columns.push(Column { name: quoted(key), at, default });
    }
    let list = given.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", ");
    let list = i.cols().is_empty().then_some(list);
    (!columns.is_empty()).then(|| Computed { rows: rows.len(), list, columns, of: Of::Keys })
}

/// The columns of a reference table's INSERT that each node would compute for itself.
fn copies_of(
    i: &nodes::InsertStmt,
    source: &nodes::SelectStmt,
    table: &DistributedTable,
    cx: Context<'_>,
) -> Option<Computed> {
    if i.override_ != OverridingKind::OVERRIDING_NOT_SET {
        return None;
    }
    let rows = source.values_lists();
    let given = given(i, table, width(source)?)?;
    let mut columns = Vec::new();
    for column in &table.columns {
        let at = given.iter().position(|c| *c == column.name);
        let items: Vec<Node<'_>> =
            at.map_or_else(Vec::new, |at| rows.iter().filter_map(|r| item(r, at)).collect());
        let is_default = |n: &&Node<'_>| matches!(n, Node::SetToDefault(_));
        let defaults = items.iter().filter(is_default).count();
        let left = at.is_none() || defaults > 0;
        let default = cx.names.schema.defaults(table).find(|(c, _)| *c == column.name);
        let default = default.map(|(_, e)| e).filter(|e| !reference::is_alike(e, cx));
        let differs =
            items.iter().filter(|n| !is_default(n)).any(|n| !reference::gives_alike(*n, cx));
        if !(differs || left && default.is_some()) {
            continue;
        }
        // Of several expressions PostgreSQL would choose one type, and round some values, perhaps.
        let of_one_type = rows.len() == 1 || defaults == items.len() || are_one_call(&items);
        let lacks = left && (default.is_none_or(|d| d == ALWAYS) || !cx.finds_own_names());
        if lacks || !of_one_type || !items.iter().all(|n| may_be_asked(*n, cx)) {
            return None;
        }
        let default = default.map(str::to_owned);
        columns.push(Column { name: quoted(&column.name), at, default });
    }
    let list = given.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", ");
    let list = i.cols().is_empty().then_some(list);
    (!columns.is_empty()).then(|| Computed { rows: rows.len(), list, columns, of: Of::Copies })
}

/// The default of a column that is GENERATED ALWAYS AS IDENTITY, to which no value can be given (`Around`).
const ALWAYS: &str = "pg_catalog.nextval()";

/// All call the same function without arguments.
fn are_one_call(items: &[Node<'_>]) -> bool {
    let called = |n: &Node<'_>| match n {
        Node::FuncCall(f) if f.args().is_empty() => name_of(f).map(|(_, name)| name.to_owned()),
        Node::SQLValueFunction(f) => Some(f.op.to_string()),
        _ => None,
    };
    let first = items.first().and_then(called);
    first.is_some() && items.iter().all(|n| called(n) == first)
}

fn item(row: Node<'_>, at: usize) -> Option<Node<'_>> {
    match row {
        Node::NodeList(row) => row.get(at),
        _ => None,
    }
}

/// The columns that an INSERT gives, in the order of its values.
pub fn given<'a>(
    i: &'a nodes::InsertStmt,
    table: &'a DistributedTable,
    width: usize,
) -> Option<Vec<&'a str>> {
    if i.cols().is_empty() {
        return Some(table.columns.iter().take(width).map(|c| c.name.as_str()).collect());
    }
    let name = |c: Node<'a>| match c {
        Node::ResTarget(t) => t.name(),
        _ => None,
    };
    i.cols().iter().map(name).collect()
}

/// Whether an expression can stand in a query of its own. What it calls is looked at there.
fn may_be_asked(expression: Node<'_>, cx: Context<'_>) -> bool {
    let facts = Facts::of(expression, cx.names, cx.functions);
    facts.relations.is_empty()
        && facts.columns.is_empty()
        && !facts.has_selects
        && !facts.calls.iter().any(|c| c.name.is_none_or(|n| cx.functions.returns_set(n)))
}
