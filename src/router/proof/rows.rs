//! Whether each row of a query's answer is made of rows of one key.
//!
//! Such a query may be sent to every node as it is: rows of one key are on one node, so each row of the
//! answer comes from exactly one of them. One table reference of FROM stands for the key, the anchor; it
//! must have a row for each row of the level. All others, in FROM and in sub-selects, must be tied to it
//! by their whole keys. A sub-select in FROM, or a WITH query, is a table of its own that has a key if its
//! columns tell; what takes rows together (GROUP BY, DISTINCT, windows, set operations) must do so by it.

use std::fmt;
use std::sync::Arc;

use pg_raw_parse::list::NodeList;
use pg_raw_parse::raw::SetOperation;
use pg_raw_parse::{ConstValue, Node, nodes};

use super::settle::{Equalities, Equality, Known, Proven};
use super::{MAX_DEPTH, Outcome, Prover, refuse};
use crate::router::functions::{Functions, name_of};
use crate::router::scope::{Level, TableRef};
use crate::sql::tree::{Recurse, walk};
use crate::topology::{ColumnRow, DistributedTable, TableId};

/// What takes rows of several keys together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaks {
    Aggregate,
    GroupBy,
    GroupingSets,
    Distinct,
    Window,
    SetOperation,
    Limit,
    Recursive,
    /// It has rows of no table, which each node would have.
    NoTable,
    OuterAggregate,
}

impl fmt::Display for Breaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aggregate => "an aggregate in a sub-select or an expression",
            Self::GroupBy => "GROUP BY without the distribution column",
            Self::GroupingSets => "GROUPING SETS",
            Self::Distinct => "DISTINCT without the distribution column",
            Self::Window => "a window function whose PARTITION BY lacks the distribution column",
            Self::SetOperation => {
                "UNION, INTERSECT or EXCEPT without the distribution column on both sides"
            }
            Self::Limit => "LIMIT or OFFSET in a sub-select",
            Self::Recursive => "WITH RECURSIVE",
            Self::NoTable => "a query with rows that are no table's",
            Self::OuterAggregate => "an aggregate of an outer query in a sub-select",
        })
    }
}

/// A column of a query's answer: its name, and which part of the key it is for certain.
pub type Output = (String, Option<usize>);

/// What a query gives, seen over all nodes. Of its columns `None` is known where there may be others than
/// its text names.
#[derive(Debug, Clone)]
pub enum Gives {
    /// The same rows on every node.
    Constant(Option<Vec<String>>),
    /// Rows that are of one key each.
    Rows(Option<Vec<Output>>),
    /// Rows that are made of rows of several keys.
    Mixed(Breaks),
}

pub fn names_of(outputs: Vec<Output>) -> Vec<String> {
    outputs.into_iter().map(|(name, _)| name).collect()
}

/// The same under other names for its first columns.
pub fn renamed(gives: Gives, names: &NodeList) -> Gives {
    let names = || names.iter().map(|n| n.as_str().unwrap_or_default().to_owned());
    match gives {
        Gives::Constant(Some(mut columns)) => {
            columns.iter_mut().zip(names()).for_each(|(c, name)| *c = name);
            Gives::Constant(Some(columns))
        }
        Gives::Rows(Some(mut outputs)) => {
            outputs.iter_mut().zip(names()).for_each(|(o, name)| o.0 = name);
            Gives::Rows(Some(outputs))
        }
        other => other,
    }
}

impl<'a> Prover<'a> {
    /// A SELECT or set operation that sees nothing around it.
    pub(super) fn query(&mut self, s: &'a nodes::SelectStmt, depth: usize) -> Outcome<Gives> {
        if s.op == SetOperation::SETOP_NONE {
            return self.level(s, None, &[], depth);
        }
        if depth > MAX_DEPTH {
            return refuse("the statement is nested too deeply", "Split it.");
        }
        let named = self.with(s.into(), None, &[], depth)?;
        let (Some(left), Some(right)) = (s.larg(), s.rarg()) else {
            return Ok(Gives::Mixed(Breaks::SetOperation));
        };
        let (left, right) = (self.derived(left, depth + 1)?, self.derived(right, depth + 1)?);
        self.ctes.truncate(named);
        let keeps_all = s.op == SetOperation::SETOP_UNION && s.all;
        Ok(match (left, right) {
            (Gives::Mixed(breaks), _) | (_, Gives::Mixed(breaks)) => Gives::Mixed(breaks),
            (Gives::Constant(columns), Gives::Constant(_)) => Gives::Constant(columns),
            (Gives::Constant(_), _) | (_, Gives::Constant(_)) => Gives::Mixed(Breaks::NoTable),
            (Gives::Rows(left), Gives::Rows(right)) => {
                let same = |((name, a), (_, b)): (Output, Output)| (name, a.filter(|_| a == b));
                let both = left.zip(right).filter(|(l, r)| l.len() == r.len());
                let outputs: Option<Vec<Output>> =
                    both.map(|(l, r)| l.into_iter().zip(r).map(same).collect());
                let by_key = outputs.as_ref().is_some_and(|o| {
                    self.are_all_parts(&o.iter().map(|o| o.1).collect::<Vec<_>>())
                });
                match keeps_all || by_key {
                    true => Gives::Rows(outputs),
                    false => Gives::Mixed(Breaks::SetOperation),
                }
            }
        })
    }

    /// A query that stands in another one's FROM, WITH or set operation.
    pub(super) fn derived(&mut self, s: &'a nodes::SelectStmt, depth: usize) -> Outcome<Gives> {
        let mut gives = self.query(s, depth)?;
        let limits = !matches!((s.limit_count(), s.limit_offset()), (Node::None, Node::None));
        if limits && !matches!(gives, Gives::Constant(_)) {
            gives = Gives::Mixed(Breaks::Limit);
        }
        if let Gives::Mixed(breaks) = gives {
            self.found.mixed.get_or_insert(breaks);
        }
        Ok(gives)
    }

    /// Puts a query among the tables of a level, under its alias or else its name.
    pub(super) fn push_query(
        &self,
        gives: Gives,
        name: &str,
        alias: Option<&nodes::Alias>,
        level: &mut Level<'_>,
    ) {
        let gives = match alias {
            Some(alias) => renamed(gives, alias.colnames()),
            None => gives,
        };
        let name = alias.and_then(|a| a.aliasname()).unwrap_or(name).to_owned();
        let outputs = match gives {
            Gives::Constant(Some(columns)) => return level.others.push((name, columns)),
            Gives::Constant(None) | Gives::Mixed(_) => {
                level.opaque = true;
                return;
            }
            Gives::Rows(outputs) => outputs,
        };
        let Some(group) = self.found.group else { return };
        level.opaque |= outputs.is_none();
        let outputs = outputs.unwrap_or_default();
        let key = |part| outputs.iter().find(|o| o.1 == Some(part)).map(|o| o.0.clone());
        let column = |o: &Output| ColumnRow { name: o.0.clone(), type_oid: 0 };
        let table = DistributedTable {
            id: TableId(0),
            group,
            schema: String::new(),
            name: name.clone(),
            // A part that is no column cannot be named.
            key_columns: (0..self.parts()).map(|part| key(part).unwrap_or_default()).collect(),
            columns: outputs.iter().map(column).collect(),
        };
        level.tables.push(TableRef {
            table: Arc::new(table),
            name,
            aliased: true,
            renamed: false,
            hidden: false,
            nullable: false,
        });
    }

    /// How many columns the key has.
    fn parts(&self) -> usize {
        let types = self.found.group.and_then(|g| self.names.schema.key_types(g));
        types.map_or(1, <[_]>::len)
    }

    fn are_all_parts(&self, known: &[Option<usize>]) -> bool {
        (0..self.parts()).all(|part| known.contains(&Some(part)))
    }

    /// What a level gives whose tables are all tied to its anchor.
    pub(super) fn answer(
        &self,
        s: &nodes::SelectStmt,
        level: &Level<'_>,
        proven: &Proven,
    ) -> Gives {
        if level.tables.is_empty() {
            return Gives::Mixed(Breaks::NoTable);
        }
        let outputs = outputs(s, level, proven);
        match self.mixes(s, level, proven, outputs.as_deref()) {
            Some(breaks) => Gives::Mixed(breaks),
            None => Gives::Rows(outputs),
        }
    }

    /// What takes rows of several keys together, if anything of this level does.
    fn mixes(
        &self,
        s: &nodes::SelectStmt,
        level: &Level<'_>,
        proven: &Proven,
        outputs: Option<&[Output]>,
    ) -> Option<Breaks> {
        let has_key = |list: &NodeList| {
            let parts = list.iter().map(|n| part_of(meant(n, s, level)?, level, proven));
            self.are_all_parts(&parts.collect::<Vec<_>>())
        };
        let group = s.group_clause();
        if group.iter().any(|n| matches!(n, Node::GroupingSet(_))) {
            return Some(Breaks::GroupingSets);
        }
        let windows = windows(s);
        if group.is_empty() {
            let having = !matches!(s.having_clause(), Node::None);
            if having || !aggregates(s, self.functions).is_empty() {
                return Some(Breaks::Aggregate);
            }
        } else if !has_key(group) {
            return Some(Breaks::GroupBy);
        }
        let distinct = s.distinct_clause();
        let by_outputs = || {
            let parts: Vec<_> = outputs.into_iter().flatten().map(|o| o.1).collect();
            self.are_all_parts(&parts)
        };
        let is_distinct = match distinct.get(0) {
            None => true,
            Some(Node::None) => by_outputs(),
            Some(_) => has_key(distinct),
        };
        if !is_distinct {
            return Some(Breaks::Distinct);
        }
        let has_key = |w: &&nodes::WindowDef| partition(w, s).is_some_and(has_key);
        (!windows.iter().all(has_key)).then_some(Breaks::Window)
    }

    /// A sub-select that is tied to the outer query: its aggregates must be its own.
    pub(super) fn keeps_aggregates(&mut self, s: &nodes::SelectStmt, level: &Level<'_>) {
        let own = |f: &&nodes::FuncCall| {
            let mut columns = Vec::new();
            walk::<()>((*f).into(), |n| match n {
                Node::SelectStmt(_) => Recurse::no(),
                Node::ColumnRef(c) => {
                    columns.push(c);
                    Recurse::no()
                }
                _ => Recurse::yes(),
            });
            columns.is_empty() || columns.into_iter().any(|c| is_of(c, level))
        };
        if !aggregates(s, self.functions).iter().all(own) {
            self.found.mixed.get_or_insert(Breaks::OuterAggregate);
        }
    }

    /// Of a sub-select that stands in IN only the rows matter whose columns are what they are compared
    /// with, if they can be told apart before anything is done with them.
    pub(super) fn is_member(
        &mut self,
        s: &nodes::SelectStmt,
        level: &Level<'_>,
        equalities: &mut Equalities,
    ) {
        let Some(members) = self.members.remove(&std::ptr::from_ref(s)) else { return };
        let column = |n: Node<'_>| match n {
            Node::ColumnRef(c) => level.key_column(c, &level.all()).filter(|c| c.0 == 0),
            _ => None,
        };
        let group = s.group_clause();
        let cut = !matches!((s.limit_count(), s.limit_offset()), (Node::None, Node::None));
        let on = matches!(s.distinct_clause().get(0), Some(n) if !matches!(n, Node::None));
        let takes_all = group.is_empty()
            && (!matches!(s.having_clause(), Node::None)
                || !aggregates(s, self.functions).is_empty());
        if cut || on || takes_all || !windows(s).is_empty() {
            return;
        }
        for member in members {
            let own = s.target_list().get(member.target).and_then(|t| column(t.val()));
            let Some(own) = own else { continue };
            let grouped = group.is_empty() || group.iter().any(|n| column(n) == Some(own));
            if grouped {
                let (up, at, key) = member.column;
                equalities.all.push((Equality::Same(own, (up + 1, at, key)), None));
            }
        }
    }
}

/// The columns of a level's answer; `None`: they cannot be told from the text.
pub(super) fn outputs(
    s: &nodes::SelectStmt,
    level: &Level<'_>,
    proven: &[Vec<Option<Known>>],
) -> Option<Vec<Output>> {
    let of_table = |at: usize| {
        let t = &level.tables[at];
        let known = move |name: &str| {
            let key = t.table.key_columns.iter().position(|k| k == name)?;
            part_at(at, key, level, proven)
        };
        t.table.columns.iter().map(move |c| (c.name.clone(), known(&c.name)))
    };
    let mut outputs = Vec::new();
    for target in s.target_list().iter() {
        let Node::ColumnRef(c) = target.val() else {
            outputs.push((target.name().unwrap_or_default().to_owned(), None));
            continue;
        };
        let fields = c.fields();
        let last = fields.iter().next_back();
        if !matches!(last, Some(Node::A_Star(_))) {
            let name = target.name().or(last.and_then(Node::as_str)).unwrap_or_default();
            outputs.push((name.to_owned(), part_of(target.val(), level, proven)));
            continue;
        }
        let renamed = level.tables.iter().any(|t| t.renamed);
        match (fields.len(), fields.get(0).and_then(Node::as_str)) {
            _ if renamed => return None,
            (1, _) if level.opaque || !level.others.is_empty() || merges_columns(s) => return None,
            (1, _) => outputs.extend(level.all().flat_map(of_table)),
            (2, Some(name)) => {
                let named = |t: &TableRef| t.name == name && !t.hidden;
                let at = level.tables.iter().position(named)?;
                outputs.extend(of_table(at));
            }
            _ => return None,
        }
    }
    Some(outputs)
}

/// Which part of the key an expression is, in each row.
fn part_of(n: Node<'_>, level: &Level<'_>, proven: &[Vec<Option<Known>>]) -> Option<usize> {
    let Node::ColumnRef(c) = n else { return None };
    match level.key_column(c, &level.all())? {
        (0, at, key) => part_at(at, key, level, proven),
        _ => None,
    }
}

/// Where a table may have no row its columns are NULL on every node.
fn part_at(
    at: usize,
    key: usize,
    level: &Level<'_>,
    proven: &[Vec<Option<Known>>],
) -> Option<usize> {
    match proven.get(at)?.get(key)? {
        Some(Known::Part(part)) if !level.tables[at].nullable => Some(*part),
        _ => None,
    }
}

/// What an item of GROUP BY or DISTINCT ON means: a column of the level, or one of the answer by its
/// number or its name.
fn meant<'n>(n: Node<'n>, s: &'n nodes::SelectStmt, level: &Level<'_>) -> Option<Node<'n>> {
    let targets = s.target_list();
    match n {
        Node::A_Const(c) => match c.val() {
            Some(ConstValue::Integer(n)) => {
                let at = usize::try_from(n).ok()?.checked_sub(1)?;
                // A star before it would move it.
                let star = |t: &nodes::ResTarget| is_star(t.val());
                let plain = !targets.iter().take(at).any(star);
                targets.get(at).filter(|_| plain).map(|t| t.val())
            }
            _ => None,
        },
        Node::ColumnRef(c) if level.key_column(c, &level.all()).is_none() => {
            let name = c.fields().get(0).filter(|_| c.fields().len() == 1)?.as_str()?;
            let input = level.opaque
                || level.tables.iter().any(|t| t.table.columns.iter().any(|c| c.name == name))
                || level.others.iter().any(|(_, columns)| columns.iter().any(|c| c == name));
            let mut named = targets.iter().filter(|t| t.name() == Some(name));
            let target = named.next().filter(|_| !input)?;
            named.next().is_none().then(|| target.val())
        }
        n => Some(n),
    }
}

fn is_star(n: Node<'_>) -> bool {
    matches!(n, Node::ColumnRef(c) if matches!(c.fields().iter().next_back(), Some(Node::A_Star(_))))
}

/// Whether a column reference is one of this level's own for certain.
fn is_of(c: &nodes::ColumnRef, level: &Level<'_>) -> bool {
    let fields = c.fields();
    let field = |at: usize| fields.get(at).and_then(Node::as_str).unwrap_or_default();
    let column = |t: &TableRef, name: &str| t.table.columns.iter().any(|c| c.name == name);
    match fields.len() {
        1 => {
            level.tables.iter().any(|t| !t.renamed && column(t, field(0)))
                || level.others.iter().any(|(_, columns)| columns.iter().any(|c| c == field(0)))
        }
        n => {
            let name = field(n - 2);
            level.tables.iter().any(|t| t.name == name)
                || level.others.iter().any(|(other, _)| other == name)
        }
    }
}

/// Goes over a SELECT's own expressions, and not into its sub-selects.
fn own<'a>(s: &'a nodes::SelectStmt, mut see: impl FnMut(Node<'a>)) {
    walk::<()>(s.into(), |n| match n {
        Node::WithClause(_) | Node::SelectStmt(_) | Node::RangeSubselect(_) => Recurse::no(),
        n => {
            see(n);
            Recurse::yes()
        }
    });
}

/// The calls of aggregates, but those over a window.
fn aggregates<'a>(s: &'a nodes::SelectStmt, functions: &Functions) -> Vec<&'a nodes::FuncCall> {
    let mut found = Vec::new();
    own(s, |n| match n {
        Node::FuncCall(f) if f.over().is_none() => {
            found.extend(name_of(f).filter(|(_, name)| functions.is_aggregate(name)).map(|_| f));
        }
        _ => {}
    });
    found
}

/// The windows that functions are computed over.
fn windows(s: &nodes::SelectStmt) -> Vec<&nodes::WindowDef> {
    let mut found = Vec::new();
    own(s, |n| {
        if let Node::FuncCall(f) = n {
            found.extend(f.over());
        }
    });
    found
}

/// By what a window parts the rows; `None`: by what it does is not clear.
fn partition<'a>(mut w: &'a nodes::WindowDef, s: &'a nodes::SelectStmt) -> Option<&'a NodeList> {
    // A window refers to one before it.
    for _ in 0..=s.window_clause().len() {
        let refers = w.refname().or(w.name().filter(|_| w.partition_clause().is_empty()));
        let Some(name) = refers else { return Some(w.partition_clause()) };
        let named = s.window_clause().iter().find_map(|n| match n {
            Node::WindowDef(d) if d.name() == Some(name) && !std::ptr::eq(d, w) => Some(d),
            _ => None,
        });
        match named {
            Some(named) => w = named,
            None => return Some(w.partition_clause()),
        }
    }
    None
}

/// A join makes one column of two.
fn merges_columns(s: &nodes::SelectStmt) -> bool {
    let mut merges = false;
    own(s, |n| {
        if let Node::JoinExpr(j) = n {
            merges |= j.is_natural || !j.using_clause().is_empty();
        }
    });
    merges
}
