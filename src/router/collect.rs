//! *Collect*: the rows that a statement can need go to one node, and it carries out the client's own
//! statement over them.
//!
//! What is in no other rung's power is so: joins on other columns, local tables beside distributed ones,
//! NOT IN, FULL JOIN, windows over rows, recursion. The text stays the client's; in the place of a
//! distributed table stand the rows that all nodes have sent of it, under the table's name. They come by
//! one query of each node, so that they are of one snapshot there.

use pg_raw_parse::{Node, nodes};

use super::context::Context;
use super::filters::{self, Filter, quoted};
use super::functions::reads_by_name;
use super::mention::{Mentions, Tied, name_of};
use super::plan::{Collect, Collected, Piece};
use super::rewrite::{Refused, no};
use super::scope::Named;
use crate::sql::name::end_of_table;
use crate::sql::tree::{Recurse, walk};
use crate::topology::{DistributedTable, GroupId};

/// Tables of more columns together are not collected: a query has at most 1,664.
const MOST_COLUMNS: usize = 1_600;

/// A distributed table of the statement, and its columns that are sent.
struct Table<'a> {
    table: &'a DistributedTable,
    columns: Vec<&'a str>,
    filter: Option<Filter>,
}

/// How the rows of a query on distributed tables are collected; and the colocation group of the first.
pub fn collected(cx: Context<'_>) -> Refused<(GroupId, Collect)> {
    let Some(query @ Node::SelectStmt(_)) = cx.facts.query else { return no("this statement") };
    refuses(query, cx)?;
    let mentions = Mentions::of(query, cx.facts).map_err(|tied| match tied {
        Tied::Schema(table) => format!("a column named with the schema of \"{table}\""),
        Tied::Command => "TABLE as a query".to_owned(),
    })?;
    // Operators and casts that somebody has made are there as well.
    let at_home = cx.names.schema.has_own_operators()
        || cx.facts.relations.iter().any(|r| matches!(r.named, Named::Local));
    // Parameters of undeclared types are asked for on any node.
    let mut filters = filters::filters(query, cx, !at_home);
    let mut tables: Vec<Table<'_>> = Vec::new();
    for r in &cx.facts.relations {
        let Named::Distributed(table) = &r.named else { continue };
        if tables.iter().any(|t| t.table.id == table.id) {
            continue;
        }
        let references = || {
            let same = |n: &Named| matches!(n, Named::Distributed(t) if t.id == table.id);
            cx.facts.relations.iter().filter(move |r| same(&r.named))
        };
        let read = |name: &&str| references().any(|r| mentions.has(r, name));
        let columns = table.columns.iter().map(|c| c.name.as_str()).filter(read).collect();
        tables.push(Table { table, columns, filter: filters.remove(&table.id) });
    }
    if tables.iter().map(|t| t.columns.len()).sum::<usize>() > MOST_COLUMNS {
        return no("so many columns");
    }
    let mut groups: Vec<GroupId> = tables.iter().map(|t| t.table.group).collect();
    let Some(&first) = groups.first() else { return no("no distributed table") };
    groups.sort_unstable();
    groups.dedup();
    groups.retain(|g| *g != first);
    let collect = Collect {
        partial: partial(&tables),
        takes_parameters: tables
            .iter()
            .filter_map(|t| t.filter.as_ref())
            .any(|f| f.takes_parameters),
        last: pieces(&tables, cx)?.into(),
        tables: tables.iter().map(Table::collected).collect(),
        at_home,
        others: groups.into(),
    };
    Ok((first, collect))
}

/// What cannot be carried out over rows that have left their table.
fn refuses(query: Node<'_>, cx: Context<'_>) -> Refused<()> {
    let facts = cx.facts;
    if facts.locks_rows {
        return no("a row lock beside what one node computes");
    }
    if facts.changes_rows || facts.into.is_some() || facts.executes {
        return no("a query that writes");
    }
    // A constant in its place would be no function.
    if facts.times.in_from {
        return no("the time in FROM");
    }
    for call in &facts.calls {
        let Some(name) = call.builtin() else { return no("a function of one's own") };
        let once = cx.functions.is_steady(name) || is_of_the_statement(name);
        if !once || reads_by_name(name, call.node.args().len()) {
            return Err(format!("function {name}"));
        }
    }
    for column in &facts.columns {
        let name = column.fields().iter().next_back().and_then(Node::as_str);
        if let Some(name @ ("ctid" | "tableoid" | "xmin" | "xmax" | "cmin" | "cmax")) = name {
            return Err(format!("system column {name}"));
        }
    }
    let of_the_table = |n: Node<'_>| match n {
        Node::RangeTableSample(_) => Some("TABLESAMPLE"),
        Node::CurrentOfExpr(_) => Some("WHERE CURRENT OF"),
        _ => None,
    };
    let found = walk(query, |n| match of_the_table(n) {
        Some(what) => std::ops::ControlFlow::Break(what),
        None => Recurse::yes(),
    });
    found.map_or(Ok(()), no)
}

/// What one node may be asked for once: the time, or a value that is another one each time.
fn is_of_the_statement(name: &str) -> bool {
    matches!(
        name,
        "now"
            | "transaction_timestamp"
            | "statement_timestamp"
            | "clock_timestamp"
            | "timeofday"
            | "age"
            | "random"
            | "random_normal"
            | "gen_random_uuid"
            | "uuidv4"
            | "uuidv7"
    )
}

impl Table<'_> {
    fn name(&self) -> String {
        format!("{}.{}", quoted(&self.table.schema), quoted(&self.table.name))
    }

    /// The columns by name; of a table of which none is read something must be sent, too.
    fn list(&self) -> Vec<String> {
        match self.columns.is_empty() {
            true => vec!["1".to_owned()],
            false => self.columns.iter().map(|c| quoted(c)).collect(),
        }
    }

    fn collected(&self) -> Collected {
        let (list, name) = (self.list(), self.name());
        Collected {
            name: self.table.name.clone(),
            columns: list.len(),
            nothing: format!("SELECT {} FROM {name} WHERE false", list.join(", ")),
        }
    }

    fn rows(&self, list: &[String]) -> String {
        let filter = self.filter.as_ref().map(|f| format!(" WHERE {}", f.text)).unwrap_or_default();
        format!("SELECT {} FROM {}{filter}", list.join(", "), self.name())
    }

    /// NULL of each column's type, beside rows that have the type from elsewhere.
    fn nulls(&self) -> Vec<String> {
        /// The first OID that the server gives to what is made in a database.
        const FIRST_OWN: u32 = 16_384;
        /// Types with a length, a precision or a scale, which a mere NULL would take from a column.
        const WITH_MODIFIER: [u32; 10] =
            [1042, 1043, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700];
        let typed = |oid: u32| oid >= FIRST_OWN || WITH_MODIFIER.contains(&oid);
        let null = |column: &str| {
            let known = self.table.columns.iter().find(|c| c.name == column);
            match known.is_some_and(|c| typed(c.type_oid)) {
                // A domain may have no NULL, but none of its values is made so.
                true => {
                    format!("(SELECT {} FROM {} WHERE false)", quoted(column), self.name())
                }
                false => "NULL".to_owned(),
            }
        };
        match self.columns.is_empty() {
            true => vec!["NULL".to_owned()],
            false => self.columns.iter().map(|c| null(c)).collect(),
        }
    }
}

/// The query of the rows of all these tables.
fn partial(tables: &[Table<'_>]) -> String {
    if let [only] = tables {
        return only.rows(&only.list());
    }
    let numbered = || (1..).zip(tables);
    let types: Vec<String> = numbered()
        .flat_map(|(n, t)| (1..=t.list().len()).map(move |c| format!("t{n}.c{c}")))
        .collect();
    let nothing = numbered().map(|(n, t)| {
        let columns: Vec<_> = (1..=t.list().len()).map(|c| format!("c{c}")).collect();
        format!("({}) AS t{n}({})", t.collected().nothing, columns.join(", "))
    });
    let nothing: Vec<_> = nothing.collect();
    let head = format!("SELECT 0, {} FROM {}", types.join(", "), nothing.join(", "));
    let arm = |n: usize| {
        let own = |(at, t): (usize, &Table<'_>)| if at == n { t.list() } else { t.nulls() };
        let list: Vec<_> = std::iter::once(n.to_string()).chain(numbered().flat_map(own)).collect();
        tables.get(n - 1).map(|t| t.rows(&list)).unwrap_or_default()
    };
    let arms = (1..=tables.len()).map(arm);
    std::iter::once(head).chain(arms).collect::<Vec<_>>().join(" UNION ALL ")
}

/// The client's text, cut where it names one of these tables.
fn pieces(tables: &[Table<'_>], cx: Context<'_>) -> Refused<Vec<Piece>> {
    let mut places = Vec::new();
    for r in &cx.facts.relations {
        let Named::Distributed(table) = &r.named else { continue };
        let Some(at) = tables.iter().position(|t| t.table.id == table.id) else { continue };
        let Some(span) = span(r.node, cx) else {
            return Err(format!("the name of \"{}\" as it is written", table.name));
        };
        let alias = match r.node.alias() {
            Some(_) => String::new(),
            None => format!(" AS {}", quoted(name_of(r))),
        };
        places.push((span, at, alias));
    }
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut done = cx.span.0.min(cx.text.len());
    let end = cx.span.1.min(cx.text.len());
    let piece = |from: usize, to: usize| {
        let text = cx.text.get(from..to).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    let mut behind = String::new();
    for ((from, to), at, alias) in places {
        pieces.push(Piece::Text(behind + &piece(done, from)));
        pieces.push(Piece::Table(at));
        (done, behind) = (to, alias);
    }
    pieces.push(Piece::Text(behind + &piece(done, end)));
    Ok(pieces)
}

/// Where a table's name stands in the text.
fn span(rv: &nodes::RangeVar, cx: Context<'_>) -> Option<(usize, usize)> {
    let at = usize::try_from(rv.location).ok()?;
    let parts =
        1 + usize::from(rv.schemaname().is_some()) + usize::from(rv.catalogname().is_some());
    Some((at, end_of_table(cx.text, at, parts)?))
}
