//! *Combine*: each node computes what it can of a query, and one node makes the answer of all their rows.
//!
//! Where every aggregate has a partial form (`sum` of sums, `sum` of counts) the nodes group, and the last
//! statement groups their groups ([`Mode::Groups`]). Else the nodes send what the query's expressions are
//! made of, row by row, and the last statement is the client's own over those ([`Mode::Rows`]). In both it
//! is the client's SELECT in which each expression that a node has computed is a column of theirs.
//!
//! The last statement is a text with gaps, which are filled when the columns' types are known
//! ([`crate::router::plan::Combine`]).

use std::collections::BTreeMap;

use pg_raw_parse::nodes::{SelectStmt, SelectStmtMut};
use pg_raw_parse::raw::{LimitOption, SetOperation};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::context::Context;
use super::functions::name_of;
use super::plan::{Combine, Count, GAP, RELATION, STAR, SUM};
use super::rewrite::{Refused, count, is_star, name_of_output, no, sorted_by, sum};
use super::scope::Named;
use crate::sql::tree::{Recurse, walk};
use crate::sql::write::{self, Memory, Put};

/// What the nodes compute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Groups, and partial aggregates.
    Groups,
    /// What expressions are made of.
    Rows,
}

/// How one node makes the answer of what all of them send.
pub fn combined(s: &SelectStmt, cx: Context<'_>) -> Refused<Combine> {
    if !write::is_flat(cx.own_text()) {
        return no("so deep a statement");
    }
    let gap = GAP.as_bytes();
    if cx.own_text().windows(gap.len()).any(|w| w.eq_ignore_ascii_case(gap)) {
        return no("a statement with a name that begins with pgs_");
    }
    if s.op != SetOperation::SETOP_NONE {
        return of_set_operation(s);
    }
    let by_groups = Builder::new(s, cx, Mode::Groups).build(s);
    by_groups.or_else(|_| Builder::new(s, cx, Mode::Rows).build(s))
}

/// A query of a query in FROM, which alone reads of several nodes: the last statement is the outer one over
/// the inner one's last.
pub fn around(s: &SelectStmt, inner: Combine) -> Refused<Combine> {
    const INNER: &str = "pgs_inner";
    let Some(Node::RangeSubselect(r)) = s.from_clause().get(0) else { return no("a join") };
    let outer = write::select(s, |mem, copy| {
        let mut table = mem.make_range_var(None, Some(INNER));
        table.as_mut().set_alias(mem.make_unique(r.alias()));
        copy.set_from_clause(mem.make_list(&[table.uncast()]));
        Some(())
    });
    match outer.as_deref().and_then(|text| text.split_once(INNER)) {
        Some((before, behind)) => {
            Ok(Combine { last: format!("{before}({}){behind}", inner.last), ..inner })
        }
        None => no("this statement"),
    }
}

/// UNION: what each node finds different, and then what all of them do.
fn of_set_operation(s: &SelectStmt) -> Refused<Combine> {
    if s.op != SetOperation::SETOP_UNION {
        return no("INTERSECT or EXCEPT without the distribution column on both sides");
    }
    let mut first = s;
    while let Some(left) = first.larg() {
        first = left;
    }
    let mut order = Vec::new();
    for by in s.sort_clause().iter() {
        let Some(at) = output(by.node(), first)? else {
            return no("ORDER BY of an expression over a set operation");
        };
        order.push(at);
    }
    let skeleton = write::select(s, |mem, copy| {
        copy.set_op(SetOperation::SETOP_NONE);
        copy.set_larg(mem.make_unique(None::<&SelectStmt>));
        copy.set_rarg(mem.make_unique(None::<&SelectStmt>));
        copy.set_with_clause(mem.make_unique(None::<&nodes::WithClause>));
        copy.set_target_list(mem.make_list(&[write::target(mem, STAR)?]));
        let relation = mem.make_range_var(None, Some(RELATION));
        copy.set_from_clause(mem.make_list(&[relation.uncast()]));
        if !s.all {
            copy.set_distinct_clause(mem.make_list(&[mem.none()]));
        }
        number_outputs(copy, &order.iter().map(|at| Some(*at)).collect::<Vec<_>>(), mem)
    });
    let partial = write::select(s, |mem, copy| {
        unordered(copy, mem);
        Some(())
    });
    match (partial, skeleton) {
        (Some(partial), Some(last)) => Ok(Combine { partial, fixed: 0, last, cursor: None }),
        _ => no("this set operation"),
    }
}

/// Without ORDER BY, LIMIT and OFFSET.
fn unordered<'mem>(copy: &mut SelectStmtMut<'mem, '_>, mem: Memory<'mem>) {
    copy.set_sort_clause(mem.cast_empty());
    copy.set_limit_count(mem.none());
    copy.set_limit_offset(mem.none());
    copy.set_limit_option(LimitOption::LIMIT_OPTION_DEFAULT);
}

/// Puts the number of the column in the place of each item of ORDER BY that means one.
fn number_outputs<'mem>(
    copy: &mut SelectStmtMut<'mem, '_>,
    outputs: &[Option<usize>],
    mem: Memory<'mem>,
) -> Option<()> {
    let mut sort = copy.sort_clause_mut();
    for (at, output) in outputs.iter().enumerate() {
        let Some(number) = output else { continue };
        let mut by = mem.make_unique(sort.get(at)?);
        by.as_mut().set_node(write::value(mem, &number.to_string())?);
        sort.set(at, by);
    }
    Some(())
}

/// Columns of the answer keep the names that they have by what they are.
fn name_outputs<'mem>(mem: Memory<'mem>, copy: &mut SelectStmtMut<'mem, '_>) {
    for at in 0..copy.target_list().len() {
        let Some(target) = copy.target_list().get(at) else { continue };
        let name =
            name_of_output(target).filter(|_| target.name().is_none() && !is_star(target.val()));
        let Some(name) = name.map(str::to_owned) else { continue };
        let named = mem.make_res_target(Some(&name), mem.empty(), mem.make_unique(target.val()));
        copy.target_list_mut().set(at, named);
    }
}

/// Which column of the answer an item of ORDER BY or DISTINCT ON means: by number or by name.
fn output(n: Node<'_>, s: &SelectStmt) -> Refused<Option<usize>> {
    let targets = s.target_list();
    let star_before = |at: usize| targets.iter().take(at).any(|t| is_star(t.val()));
    match n {
        Node::A_Const(c) => match c.val() {
            Some(ConstValue::Integer(n)) => {
                let at = usize::try_from(n).unwrap_or_default();
                Ok(Some(at))
            }
            _ => Ok(None),
        },
        Node::ColumnRef(c) if c.fields().len() == 1 => {
            let name = c.fields().get(0).and_then(Node::as_str);
            let at = targets.iter().position(|t| name.is_some() && name_of_output(t) == name);
            match at {
                Some(at) if star_before(at) => no("ORDER BY a column behind a star"),
                Some(at) => Ok(Some(at + 1)),
                None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

struct Builder<'a> {
    cx: Context<'a>,
    mode: Mode,
    /// What the nodes compute, as `p.f1` and so on: by its text.
    columns: Vec<String>,
    known: BTreeMap<String, usize>,
    /// The expressions of GROUP BY.
    groups: Vec<String>,
    /// What aggregates with DISTINCT are over: groups of the nodes besides.
    distinct: Vec<usize>,
    star: Option<String>,
    /// Aggregates or GROUP BY: what stands outside of aggregates is a group's.
    grouped: bool,
    /// The only table's columns go by their names alone.
    alone: bool,
    failed: Option<String>,
}

impl<'a> Builder<'a> {
    fn new(s: &SelectStmt, cx: Context<'a>, mode: Mode) -> Self {
        let alone =
            s.from_clause().len() == 1 && matches!(s.from_clause().get(0), Some(Node::RangeVar(_)));
        Self {
            cx,
            mode,
            columns: Vec::new(),
            known: BTreeMap::new(),
            groups: Vec::new(),
            distinct: Vec::new(),
            star: None,
            grouped: false,
            alone,
            failed: None,
        }
    }

    fn build(mut self, s: &SelectStmt) -> Refused<Combine> {
        let sets = s.group_clause().iter().any(|n| matches!(n, Node::GroupingSet(_)));
        let aggregates = self.has(s.into(), |b, f| f.over().is_none() && b.is_aggregate(f));
        self.grouped =
            aggregates || !s.group_clause().is_empty() || !matches!(s.having_clause(), Node::None);
        if self.mode == Mode::Groups && (sets || !self.grouped) {
            return no("groups");
        }
        self.take_groups(s)?;
        let sorted: Vec<_> =
            s.sort_clause().iter().map(|by| output(by.node(), s)).collect::<Refused<_>>()?;
        let distinct: Vec<_> =
            s.distinct_clause().iter().map(|n| output(n, s)).collect::<Refused<_>>()?;
        let last = write::select(s, |mem, copy| self.last(mem, copy, &sorted, &distinct));
        if let Some(what) = self.failed.take() {
            return Err(what);
        }
        let Some(last) = last else { return no("this statement") };
        if self.columns.is_empty() && self.star.is_none() {
            self.column("1".to_owned());
        }
        let Some(partial) = self.partial(s) else { return no("this statement") };
        Ok(Combine { partial, fixed: self.columns.len(), last, cursor: None })
    }

    /// Whether a function call of this sort stands in the query itself.
    fn has(&self, n: Node<'_>, is: impl Fn(&Self, &nodes::FuncCall) -> bool) -> bool {
        let mut found = false;
        walk::<()>(n, |n| match n {
            Node::SelectStmt(_) | Node::WithClause(_) | Node::RangeSubselect(_) => Recurse::no(),
            Node::FuncCall(f) => {
                found |= is(self, f);
                Recurse::yes()
            }
            _ => Recurse::yes(),
        });
        found
    }

    fn is_aggregate(&self, f: &nodes::FuncCall) -> bool {
        name_of(f).is_some_and(|(_, name)| self.cx.functions.is_aggregate(name))
    }

    /// The columns that GROUP BY means, which the nodes send first.
    fn take_groups(&mut self, s: &SelectStmt) -> Refused<()> {
        let mut items: Vec<Node<'_>> = Vec::new();
        for n in s.group_clause().iter() {
            match n {
                Node::GroupingSet(_) => walk::<()>(n, |n| match n {
                    Node::GroupingSet(_) | Node::NodeList(_) => Recurse::yes(),
                    n => {
                        items.push(n);
                        Recurse::no()
                    }
                }),
                n => {
                    items.push(n);
                    None
                }
            };
        }
        for n in items {
            let meant = match n {
                Node::A_Const(c) => match c.val() {
                    Some(ConstValue::Integer(n)) => {
                        let at = usize::try_from(n).ok().and_then(|n| n.checked_sub(1));
                        let target = at.and_then(|at| s.target_list().get(at));
                        target.map_or(Node::A_Const(c), |t| t.val())
                    }
                    _ => n,
                },
                Node::ColumnRef(c) => self.alias(c, s)?.unwrap_or(n),
                n => n,
            };
            let text = self.text(meant).filter(|_| !matches!(meant, Node::RowExpr(_)));
            let Some(text) = text else { return no("GROUP BY of this expression") };
            if matches!(meant, Node::A_Const(_)) {
                // By a constant there is no group of no rows, and a node would send one.
                match self.mode {
                    Mode::Groups => return no("GROUP BY a constant"),
                    Mode::Rows => continue,
                }
            }
            self.groups.push(text.clone());
            let column = self.column(text);
            // The name by which GROUP BY means it.
            if let Some(name) = self.text(n).filter(|_| !matches!(n, Node::A_Const(_))) {
                self.known.entry(name.clone()).or_insert(column);
                self.groups.push(name);
            }
        }
        Ok(())
    }

    /// What a name in GROUP BY stands for, if it is no column of a table but of the answer.
    fn alias<'s>(&self, c: &nodes::ColumnRef, s: &'s SelectStmt) -> Refused<Option<Node<'s>>> {
        let name = c.fields().get(0).filter(|_| c.fields().len() == 1).and_then(Node::as_str);
        let Some(name) = name else { return Ok(None) };
        let mut named = s.target_list().iter().filter(|t| t.name() == Some(name));
        let Some(target) = named.next() else { return Ok(None) };
        let mut of_tables = true;
        let mut is_column = false;
        for item in s.from_clause().iter() {
            // Whose columns are not known here.
            of_tables &= matches!(item, Node::RangeVar(_) | Node::JoinExpr(_));
            walk::<()>(item, |n| {
                of_tables &= !matches!(n, Node::RangeSubselect(_) | Node::RangeFunction(_));
                Recurse::yes()
            });
        }
        for relation in &self.cx.facts.relations {
            match &relation.named {
                Named::Distributed(t) | Named::Reference(t) => {
                    is_column |= t.columns.iter().any(|c| c.name == name)
                }
                _ => of_tables = false,
            }
        }
        match (of_tables && s.with_clause().is_none(), is_column) {
            (_, true) => Ok(None),
            (true, false) => Ok(Some(target.val())),
            (false, false) => no("GROUP BY a name that may be a column's or the answer's"),
        }
    }

    /// An expression's text, by which it is found again.
    fn text(&self, n: Node<'_>) -> Option<String> {
        match n {
            Node::ColumnRef(c) if self.alone && !is_star(n) => {
                let name = c.fields().iter().next_back()?.as_str()?;
                Some(format!("\"{}\"", name.replace('"', "\"\"")))
            }
            n => write::expression(n),
        }
    }

    /// The number of the column that is this expression.
    fn column(&mut self, text: String) -> usize {
        let next = self.columns.len() + 1;
        *self.known.entry(text).or_insert_with_key(|text| {
            self.columns.push(text.clone());
            next
        })
    }

    /// The last statement: the client's over the relation.
    fn last<'mem>(
        &mut self,
        mem: Memory<'mem>,
        copy: &mut SelectStmtMut<'mem, '_>,
        sorted: &[Option<usize>],
        distinct: &[Option<usize>],
    ) -> Option<()> {
        number_outputs(copy, sorted, mem)?;
        for (at, output) in distinct.iter().enumerate() {
            if let Some(number) = output {
                copy.distinct_clause_mut().set(at, write::value(mem, &number.to_string())?);
            }
        }
        name_outputs(mem, copy);
        copy.set_where_clause(mem.none());
        copy.set_with_clause(mem.make_unique(None::<&nodes::WithClause>));
        let relation = mem.make_range_var(None, Some(RELATION));
        copy.set_from_clause(mem.make_list(&[relation.uncast()]));
        write::put_into(mem, copy, &mut |n| self.outer(n))
    }

    /// What becomes of an expression outside of all aggregates.
    fn outer(&mut self, n: Node<'_>) -> Put {
        if !self.grouped {
            return self.shipped(n);
        }
        let known = self.text(n).filter(|text| self.groups.contains(text));
        if let Some(text) = known {
            return self.put_column(text);
        }
        match n {
            Node::FuncCall(f) if f.over().is_none() && self.is_aggregate(f) => {
                let made = match self.mode {
                    Mode::Groups => self.partial_aggregate(f),
                    Mode::Rows => self.whole_aggregate(f),
                };
                match made {
                    Ok(text) => Put::Text(text),
                    Err(what) => self.fails(what),
                }
            }
            Node::ColumnRef(_) => self.fails("a column that GROUP BY implies".to_owned()),
            Node::SubLink(_) if reads(n) => {
                self.fails("a sub-select beside GROUP BY or an aggregate".to_owned())
            }
            Node::SubLink(_) => Put::Keep,
            Node::GroupingFunc(_) if self.mode == Mode::Groups => self.fails(String::new()),
            _ => Put::Deeper,
        }
    }

    fn fails(&mut self, what: String) -> Put {
        self.failed.get_or_insert(what);
        Put::Keep
    }

    /// What becomes of an expression that the nodes compute for each row: all of it, or what stands
    /// below aggregates and window functions.
    fn shipped(&mut self, n: Node<'_>) -> Put {
        if is_star(n) {
            let Some(text) = write::expression(n).filter(|_| self.star.is_none()) else {
                return self.fails("several stars".to_owned());
            };
            self.star = Some(text);
            return Put::Text(STAR.to_owned());
        }
        let takes_several = |b: &Self, f: &nodes::FuncCall| f.over().is_some() || b.is_aggregate(f);
        let above = matches!(n, Node::FuncCall(f) if takes_several(self, f));
        if above || self.has(n, takes_several) {
            return Put::Deeper;
        }
        if !reads(n) {
            return Put::Keep;
        }
        match self.text(n) {
            Some(text) => self.put_column(text),
            None => self.fails("an expression of this kind".to_owned()),
        }
    }

    fn put_column(&mut self, text: String) -> Put {
        Put::Text(format!("p.f{}", self.column(text)))
    }

    /// The client's own aggregate over what the nodes send row by row.
    fn whole_aggregate(&mut self, f: &nodes::FuncCall) -> Refused<String> {
        let mut first = true;
        let made = write::rewritten(f.into(), &mut |n| match std::mem::take(&mut first) {
            true => Put::Deeper,
            false => self.shipped(n),
        });
        made.ok_or_else(|| "an aggregate of this kind".to_owned())
    }

    /// What the nodes compute of an aggregate, and what makes the whole of it. Each is what
    /// `pg_aggregate.aggcombinefn` does, in SQL.
    fn partial_aggregate(&mut self, f: &nodes::FuncCall) -> Refused<String> {
        let (Some((_, name)), true) = (name_of(f), f.agg_order().is_empty() && !f.agg_within_group)
        else {
            return no("an ordered aggregate");
        };
        let filter = match f.agg_filter() {
            Node::None => String::new(),
            n => {
                let condition = write::expression(n).ok_or("FILTER")?;
                format!(" FILTER (WHERE {condition})")
            }
        };
        let argument = match (f.agg_star, f.args().len(), f.args().get(0)) {
            (true, ..) => "*".to_owned(),
            (false, 1, Some(n)) if !is_star(n) => self.text(n).ok_or("an aggregate")?,
            _ => return no("an aggregate of several arguments"),
        };
        if f.agg_distinct {
            if !filter.is_empty() || !matches!(name, "count" | "sum" | "avg" | "min" | "max") {
                return no("DISTINCT in an aggregate");
            }
            let at = self.column(argument);
            self.distinct.push(at);
            return Ok(format!("pg_catalog.{name}(DISTINCT p.f{at})"));
        }
        let mut part = |call: String| self.column(format!("{call}{filter}"));
        Ok(match name {
            "count" => {
                let at = part(format!("pg_catalog.count({argument})"));
                format!("coalesce(pg_catalog.sum(p.f{at}), 0)::bigint")
            }
            "sum" => format!("{SUM}{}", part(format!("pg_catalog.sum({argument})"))),
            // Times one it is a sum of double precision for real, too, as avg(real) has it.
            "avg" => {
                let sum = part(format!("pg_catalog.sum(({argument}) * 1)"));
                let count = part(format!("pg_catalog.count({argument})"));
                format!("(pg_catalog.sum(p.f{sum}) / nullif(pg_catalog.sum(p.f{count}), 0))")
            }
            "min" | "max" | "bool_and" | "bool_or" | "every" | "bit_and" | "bit_or" | "bit_xor" => {
                let at = part(format!("pg_catalog.{name}({argument})"));
                format!("pg_catalog.{name}(p.f{at})")
            }
            _ => return no("an aggregate without a partial form"),
        })
    }

    /// Of rows of which only so many are wanted each node sends as many, by the same order.
    fn first_rows<'mem>(
        &self,
        s: &SelectStmt,
        mem: Memory<'mem>,
        copy: &mut SelectStmtMut<'mem, '_>,
    ) -> Option<()> {
        let limit = count(s.limit_count(), "LIMIT").ok().flatten();
        let offset = count(s.limit_offset(), "OFFSET");
        let (Some(limit), Ok(offset)) = (limit, offset) else { return Some(()) };
        let mut sort = Vec::new();
        for by in s.sort_clause().iter() {
            let Ok(meant) = sorted_by(by.node(), s) else { return Some(()) };
            let mut by = mem.make_unique(by);
            by.as_mut().set_node(mem.make_unique(meant));
            sort.push(by);
        }
        copy.set_sort_clause(mem.make_list(&sort));
        let most = sum(&limit, &offset.unwrap_or(Count::Number(0)));
        copy.set_limit_count(write::value(mem, &most)?);
        copy.set_limit_option(s.limit_option);
        Some(())
    }

    /// What each node is sent.
    fn partial(&self, s: &SelectStmt) -> Option<String> {
        let over = |_: &Self, f: &nodes::FuncCall| f.over().is_some();
        let groups = self.mode == Mode::Groups;
        write::select(s, |mem, copy| {
            unordered(copy, mem);
            let mut targets = Vec::new();
            if let Some(star) = &self.star {
                targets.push(write::target(mem, star)?);
            }
            for (n, text) in (1..).zip(&self.columns) {
                targets.push(write::target(mem, &format!("{text} AS f{n}"))?);
            }
            copy.set_target_list(mem.make_list(&targets));
            let mut by: Vec<usize> = match groups {
                true => self.groups.iter().filter_map(|g| self.known.get(g).copied()).collect(),
                false => Vec::new(),
            };
            by.extend(&self.distinct);
            by.sort_unstable();
            by.dedup();
            let by = by.into_iter().map(|n| write::value(mem, &n.to_string()));
            copy.set_group_clause(mem.make_list(&by.collect::<Option<Vec<_>>>()?));
            copy.set_having_clause(mem.none());
            copy.set_window_clause(mem.empty());
            if !self.grouped && s.distinct_clause().is_empty() && !self.has(s.into(), over) {
                self.first_rows(s, mem, copy)?;
            }
            // What is to be different in the end a node can send once.
            let plain = matches!(s.distinct_clause().get(0), Some(Node::None));
            if !plain || self.grouped || self.has(s.into(), over) {
                copy.set_distinct_clause(mem.empty());
            }
            Some(())
        })
    }
}

/// Whether an expression depends on rows.
fn reads(n: Node<'_>) -> bool {
    let depends = |n: Node<'_>| matches!(n, Node::ColumnRef(_) | Node::RangeVar(_));
    depends(n)
        || walk(n, |n| match depends(n) {
            true => std::ops::ControlFlow::Break(()),
            false => Recurse::yes(),
        })
        .is_some()
}
