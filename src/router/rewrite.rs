//! Statements in the words in which each node gets them, so that their answers can be put together.
//!
//! *Ordered*: each node sorts its own rows, and sends with each the values it has sorted by, as one more
//! column: `record_send(ROW(...))`, in which types and values stand in binary, whatever the formats of
//! the client's columns are. It sends as many rows as the whole answer can need of it.

use pg_raw_parse::raw::{LimitOption, SortByDir, SortByNulls};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::context::Context;
use super::plan::{Count, Ordered, SortKey};
use crate::sql::write;

/// The name of the column that a row is sorted by.
const KEYS: &str = "pgs_keys";

/// What keeps a statement from being rewritten, if something does.
pub type Refused<T> = Result<T, String>;

pub fn no<T>(what: &str) -> Refused<T> {
    Err(what.to_owned())
}

/// How rows that the nodes have come to one answer with an order, a limit or an offset.
pub fn ordered(s: &nodes::SelectStmt, cx: Context<'_>) -> Refused<Ordered> {
    let ties = s.limit_option == LimitOption::LIMIT_OPTION_WITH_TIES;
    let (limit, offset) = (count(s.limit_count(), "LIMIT")?, count(s.limit_offset(), "OFFSET")?);
    let keys = s.sort_clause().iter().map(sort_key).collect::<Refused<Vec<_>>>()?;
    if keys.is_empty() && offset.is_none() {
        return Ok(Ordered { text: None, keys: [].into(), limit, offset, ties });
    }
    if !keys.is_empty() && !s.distinct_clause().is_empty() {
        return no("DISTINCT with ORDER BY");
    }
    if !keys.is_empty() && s.op != pg_raw_parse::raw::SetOperation::SETOP_NONE {
        return no("a set operation with ORDER BY");
    }
    if !write::is_flat(cx.own_text()) {
        return no("ORDER BY or OFFSET in so deep a statement");
    }
    let text = |n| write::expression(n).ok_or_else(|| "ORDER BY of this expression".to_owned());
    let sorted = s.sort_clause().iter().map(|by| sorted_by(by.node(), s).and_then(text));
    let sorted = sorted.collect::<Refused<Vec<_>>>()?;
    let text = write::select(s, |mem, copy| {
        if !sorted.is_empty() {
            let row = format!("pg_catalog.record_send(ROW({})) AS {KEYS}", sorted.join(", "));
            copy.target_list_mut().push(mem, write::target(mem, &row)?);
        }
        if let Some(skip) = &offset {
            copy.set_limit_offset(mem.none());
            if let Some(most) = &limit {
                copy.set_limit_count(write::value(mem, &sum(most, skip))?);
            }
        }
        Some(())
    });
    match text {
        Some(text) => Ok(Ordered { text: Some(text), keys: keys.into(), limit, offset, ties }),
        None => no("ORDER BY or OFFSET of this statement"),
    }
}

/// How many rows LIMIT or OFFSET says; `None`: it says nothing.
pub fn count(n: Node<'_>, what: &str) -> Refused<Option<Count>> {
    let mut inner = n;
    while let Node::TypeCast(c) = inner {
        inner = c.arg();
    }
    match inner {
        Node::None => Ok(None),
        Node::A_Const(c) => match c.val() {
            None => Ok(None),
            Some(ConstValue::Integer(n)) => Ok(Some(Count::Number(n.into()))),
            Some(ConstValue::Float(f)) if f.parse::<i64>().is_ok() => {
                Ok(Some(Count::Number(f.parse().unwrap_or(i64::MAX))))
            }
            _ => no(&format!("{what} of such a value")),
        },
        Node::ParamRef(p) if matches!(n, Node::ParamRef(_)) => {
            let index = usize::try_from(p.number).ok().and_then(|n| n.checked_sub(1));
            index.map_or_else(|| no(what), |index| Ok(Some(Count::Param(index))))
        }
        _ => no(&format!("{what} of an expression")),
    }
}

/// The rows that a node must send so that so many can be left out. What is negative the nodes refuse.
pub fn sum(limit: &Count, offset: &Count) -> String {
    match (limit, offset) {
        (Count::Number(n), _) if *n < 0 => n.to_string(),
        (_, Count::Number(n)) if *n < 0 => n.to_string(),
        (Count::Number(n), Count::Number(m)) => n.saturating_add(*m).to_string(),
        _ => {
            let term = |c: &Count| match c {
                Count::Number(n) => format!("{n}::numeric"),
                Count::Param(index) => format!("${}::bigint::numeric", index + 1),
            };
            // The least of a number and NULL is the number: LIMIT NULL is none.
            format!("least({} + coalesce({}, 0), {})::bigint", term(limit), term(offset), i64::MAX)
        }
    }
}

fn sort_key(by: &nodes::SortBy) -> Refused<SortKey> {
    let descending = match by.sortby_dir {
        SortByDir::SORTBY_USING => return no("ORDER BY USING"),
        dir => dir == SortByDir::SORTBY_DESC,
    };
    let nulls_first = match by.sortby_nulls {
        SortByNulls::SORTBY_NULLS_FIRST => true,
        SortByNulls::SORTBY_NULLS_LAST => false,
        _ => descending,
    };
    Ok(SortKey { descending, nulls_first })
}

/// The expression that an item of ORDER BY stands for: one of the answer's columns by its number or its
/// name before all else.
pub fn sorted_by<'n>(n: Node<'n>, s: &'n nodes::SelectStmt) -> Refused<Node<'n>> {
    let targets = s.target_list();
    Ok(match n {
        Node::A_Const(c) => match c.val() {
            Some(ConstValue::Integer(n)) => {
                let at = usize::try_from(n).ok().and_then(|n| n.checked_sub(1));
                let before = targets.iter().take(at.unwrap_or_default() + 1);
                if before.clone().any(|t| is_star(t.val())) {
                    return no("ORDER BY the number of a column behind a star");
                }
                match at.and_then(|at| targets.get(at)) {
                    Some(target) => target.val(),
                    None => return no("ORDER BY a column that there is not"),
                }
            }
            _ => Node::A_Const(c),
        },
        Node::ColumnRef(c) if c.fields().len() == 1 => {
            let name = c.fields().get(0).and_then(Node::as_str);
            let named = targets.iter().find(|t| name.is_some() && name_of_output(t) == name);
            let of_some = |t: &nodes::ResTarget| {
                matches!(t.val(), Node::ColumnRef(c) if c.fields().len() > 1) && is_star(t.val())
            };
            let alone = s.from_clause().len() == 1
                && !matches!(s.from_clause().get(0), Some(Node::JoinExpr(_)));
            if named.is_none() && !alone && targets.iter().any(of_some) {
                return no("ORDER BY a column of a star without its table's name");
            }
            named.map_or(n, |t| t.val())
        }
        n => n,
    })
}

pub fn is_star(n: Node<'_>) -> bool {
    matches!(n, Node::ColumnRef(c) if matches!(c.fields().iter().next_back(), Some(Node::A_Star(_))))
}

/// The name of a column of the answer, as far as ORDER BY may mean it.
pub fn name_of_output(target: &nodes::ResTarget) -> Option<&str> {
    target.name().or_else(|| figured(target.val()))
}

/// As `FigureColname`, for the usual expressions.
fn figured(n: Node<'_>) -> Option<&str> {
    match n {
        Node::ColumnRef(c) => c.fields().iter().next_back().and_then(Node::as_str),
        Node::FuncCall(f) => f.funcname().iter().next_back().and_then(Node::as_str),
        Node::CoalesceExpr(_) => Some("coalesce"),
        Node::TypeCast(c) => figured(c.arg())
            .or_else(|| c.type_name().and_then(|t| t.names().iter().next_back()?.sval())),
        Node::CollateClause(c) => figured(c.arg()),
        Node::CaseExpr(_) => Some("case"),
        _ => None,
    }
}
