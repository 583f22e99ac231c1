//! Which rows of its tables a query can need, by its conditions on one table alone.
//!
//! A row of a table that fails a conjunct of WHERE makes no row of that level, if the table is not on the
//! side of an outer join that may have no row; and a row that fails a conjunct of ON joins nothing, if that
//! side is the one which may lack a row. So each node need not send it. A condition is only taken if it
//! means the same on each node and in the last statement: columns of the table, constants, parameters, and
//! what the server came with.

use hashbrown::{HashMap, HashSet};
use pg_raw_parse::raw::{BoolExprType, JoinType};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::context::Context;
use super::mention::name_of;
use super::scope::Named;
use crate::sql::tree::{Recurse, walk};
use crate::sql::write::{self, Put};
use crate::topology::TableId;

/// Deeper joins and conditions are not looked at.
const MAX_DEPTH: usize = 64;
/// Nor are longer texts, in bytes, and those with more tables.
const MAX_TEXT: usize = 64 << 10;
const MAX_TABLES: usize = 100;

/// A condition on the rows of one table, in which its columns stand alone.
#[derive(Debug, Clone)]
pub struct Filter {
    pub text: String,
    pub takes_parameters: bool,
}

/// What each node may leave out of a table, for the tables of which it may leave out anything.
pub fn filters(query: Node<'_>, cx: Context<'_>, parameters: bool) -> HashMap<TableId, Filter> {
    let text = cx.own_text();
    let large = text.len() > MAX_TEXT || cx.facts.relations.len() > MAX_TABLES;
    if large || cx.names.schema.has_own_operators() || !write::is_flat(text) {
        return HashMap::new();
    }
    let tables = cx.facts.relations.iter().filter_map(|r| {
        let Named::Distributed(table) = &r.named else { return None };
        let renames = r.node.alias().is_some_and(|a| !a.colnames().is_empty());
        let columns = table.columns.iter().filter(|_| !renames).map(|c| c.name.as_str());
        Some((std::ptr::from_ref(r.node), Table { name: name_of(r), columns: columns.collect() }))
    });
    let steady = cx.facts.calls.iter().filter(|call| {
        let steady = |name| {
            let functions = cx.functions;
            functions.is_steady(name)
                && !functions.is_aggregate(name)
                && !functions.returns_set(name)
        };
        call.builtin().is_some_and(steady)
    });
    let mut finder = Finder {
        cx,
        parameters,
        tables: tables.collect(),
        steady: steady.map(|call| std::ptr::from_ref(call.node)).collect(),
        found: HashMap::new(),
    };
    finder.level(query);
    walk::<()>(query, |n| {
        finder.level(n);
        Recurse::yes()
    });
    finder.by_table()
}

/// A reference to a distributed table: what it goes by, and the columns that have their own names there.
struct Table<'a> {
    name: &'a str,
    columns: HashSet<&'a str>,
}

struct Finder<'a> {
    cx: Context<'a>,
    parameters: bool,
    tables: HashMap<*const nodes::RangeVar, Table<'a>>,
    /// Calls that give the same on every node.
    steady: HashSet<*const nodes::FuncCall>,
    /// The conditions on each reference to a distributed table.
    found: HashMap<*const nodes::RangeVar, Vec<Filter>>,
}

/// Tables below an item of FROM of which each row has its own condition.
type Side<'a> = Vec<&'a nodes::RangeVar>;

impl<'a> Finder<'a> {
    /// The conditions of one query level.
    fn level(&mut self, n: Node<'a>) {
        let Node::SelectStmt(s) = n else { return };
        let mut shown = Vec::new();
        for item in s.from_clause().iter() {
            shown.extend(self.item(item, s, 0));
        }
        self.conjuncts(s.where_clause(), &shown, s, 0);
    }

    /// The tables of an item that are on no side which may have no row.
    fn item(&mut self, item: Node<'a>, s: &'a nodes::SelectStmt, depth: usize) -> Side<'a> {
        match item {
            Node::RangeVar(rv) => vec![rv],
            Node::JoinExpr(j) if depth < MAX_DEPTH => {
                let mut left = self.item(j.larg(), s, depth + 1);
                let right = self.item(j.rarg(), s, depth + 1);
                let shown = match j.jointype {
                    JoinType::JOIN_INNER => {
                        left.extend(right);
                        self.conjuncts(j.quals(), &left, s, 0);
                        left
                    }
                    JoinType::JOIN_LEFT => {
                        self.conjuncts(j.quals(), &right, s, 0);
                        left
                    }
                    JoinType::JOIN_RIGHT => {
                        self.conjuncts(j.quals(), &left, s, 0);
                        right
                    }
                    _ => Vec::new(),
                };
                // Within it the tables' names mean something else.
                if j.alias().is_some() { Vec::new() } else { shown }
            }
            _ => Vec::new(),
        }
    }

    fn conjuncts(
        &mut self,
        n: Node<'a>,
        shown: &[&'a nodes::RangeVar],
        s: &'a nodes::SelectStmt,
        depth: usize,
    ) {
        for (rv, filter) in self.of_conjuncts(n, shown, s, depth) {
            self.found.entry(rv).or_default().push(filter);
        }
    }

    /// The conditions on one table each, all of which hold where `n` does.
    fn of_conjuncts(
        &self,
        n: Node<'a>,
        shown: &[&'a nodes::RangeVar],
        s: &'a nodes::SelectStmt,
        depth: usize,
    ) -> Vec<(&'a nodes::RangeVar, Filter)> {
        match n {
            Node::None => Vec::new(),
            Node::BoolExpr(b) if b.boolop == BoolExprType::AND_EXPR && depth < MAX_DEPTH => {
                let of = |arg| self.of_conjuncts(arg, shown, s, depth + 1);
                b.args().iter().flat_map(of).collect()
            }
            n => match (self.of_one(n, shown, s), n) {
                (Some(found), _) => vec![found],
                (None, Node::BoolExpr(b))
                    if b.boolop == BoolExprType::OR_EXPR && depth < MAX_DEPTH =>
                {
                    self.of_each_arm(b, shown, s, depth)
                }
                (None, _) => Vec::new(),
            },
        }
    }

    /// What each arm of an OR says of a table, if all of them say something: one of that must hold.
    fn of_each_arm(
        &self,
        or: &'a nodes::BoolExpr,
        shown: &[&'a nodes::RangeVar],
        s: &'a nodes::SelectStmt,
        depth: usize,
    ) -> Vec<(&'a nodes::RangeVar, Filter)> {
        let arms = or.args().iter().map(|arm| self.of_conjuncts(arm, shown, s, depth + 1));
        let arms: Vec<_> = arms.collect();
        let of_table = |rv: &'a nodes::RangeVar| {
            let each = arms.iter().map(|arm| {
                let own = arm.iter().filter(|(of, _)| std::ptr::eq(*of, rv));
                let own: Vec<_> = own.map(|(_, filter)| filter.clone()).collect();
                (!own.is_empty()).then(|| all_of(&own, " AND "))
            });
            let each: Option<Vec<_>> = each.collect();
            each.map(|each| (rv, all_of(&each, " OR ")))
        };
        shown.iter().filter_map(|rv| of_table(rv)).collect()
    }

    /// The table that a condition is on, if that is one of these and no other.
    fn of_one(
        &self,
        n: Node<'a>,
        shown: &[&'a nodes::RangeVar],
        s: &'a nodes::SelectStmt,
    ) -> Option<(&'a nodes::RangeVar, Filter)> {
        let mut on: Option<&nodes::RangeVar> = None;
        let mut takes_parameters = false;
        let mut sound = true;
        let mut see = |n: Node<'a>| {
            match n {
                Node::ColumnRef(c) => {
                    let table = self.table_of(c, shown, s);
                    sound &= match (table, on) {
                        (Some(table), Some(before)) => std::ptr::eq(table, before),
                        (table, None) => table.is_some(),
                        (None, Some(_)) => false,
                    };
                    on = on.or(table);
                }
                Node::ParamRef(_) => takes_parameters = true,
                n => sound &= self.is_plain(n),
            }
            sound
        };
        if see(n) {
            walk(n, |n| if see(n) { Recurse::yes() } else { std::ops::ControlFlow::Break(()) });
        }
        if !sound || takes_parameters && !self.parameters {
            return None;
        }
        let text = write::rewritten(n, &mut |n| match n {
            Node::ColumnRef(c) => {
                let name = c.fields().iter().next_back().and_then(Node::as_str);
                Put::Text(quoted(name.unwrap_or_default()))
            }
            _ => Put::Deeper,
        })?;
        Some((on?, Filter { text, takes_parameters }))
    }

    /// The table among these that a column is of, whatever else there is in the level.
    fn table_of(
        &self,
        c: &nodes::ColumnRef,
        shown: &[&'a nodes::RangeVar],
        s: &nodes::SelectStmt,
    ) -> Option<&'a nodes::RangeVar> {
        let fields = c.fields();
        let field = |at: usize| fields.get(at).and_then(Node::as_str);
        let (table, column) = match (fields.len(), field(0), field(1)) {
            (1, Some(column), _) => (None, column),
            (2, Some(table), Some(column)) => (Some(table), column),
            _ => return None,
        };
        let has = |rv: &&nodes::RangeVar| {
            let known = self.tables.get(&std::ptr::from_ref(*rv));
            known.is_some_and(|t| {
                t.columns.contains(column) && table.is_none_or(|table| t.name == table)
            })
        };
        let mut all = shown.iter().copied().filter(has);
        let found = all.next()?;
        // Of two it is a mistake, or one that a join has made of both.
        let merged = || joins(s).iter().any(|j| merges(j, column));
        (all.next().is_none() && (table.is_some() || !merged())).then_some(found)
    }

    /// What gives the same on every node, and has nothing to do with other rows.
    fn is_plain(&self, n: Node<'_>) -> bool {
        match n {
            Node::A_Const(c) => !is_of_the_moment(c),
            Node::FuncCall(f) => {
                let steady = self.steady.contains(&std::ptr::from_ref(f));
                steady && f.over().is_none() && !f.agg_star && !f.agg_distinct
            }
            Node::A_Expr(_)
            | Node::BoolExpr(_)
            | Node::NullTest(_)
            | Node::BooleanTest(_)
            | Node::TypeCast(_)
            | Node::TypeName(_)
            | Node::CoalesceExpr(_)
            | Node::MinMaxExpr(_)
            | Node::CaseExpr(_)
            | Node::CaseWhen(_)
            | Node::A_ArrayExpr(_)
            | Node::CollateClause(_)
            | Node::NodeList(_)
            | Node::String(_)
            | Node::Integer(_)
            | Node::Float(_)
            | Node::Boolean(_)
            | Node::None => true,
            _ => false,
        }
    }

    /// A table that is read in several places sends what any of them can need.
    fn by_table(mut self) -> HashMap<TableId, Filter> {
        let mut tables: HashMap<TableId, Option<Filter>> = HashMap::new();
        for r in &self.cx.facts.relations {
            let Named::Distributed(table) = &r.named else { continue };
            let own = self.found.remove(&std::ptr::from_ref(r.node));
            let own = own.map(|all| all_of(&all, " AND "));
            let before = tables.remove(&table.id);
            let now = match (before, own) {
                (None, own) => own,
                (Some(Some(a)), Some(b)) => Some(all_of(&[a, b], " OR ")),
                (Some(_), _) => None,
            };
            tables.insert(table.id, now);
        }
        tables.into_iter().filter_map(|(id, filter)| Some((id, filter?))).collect()
    }
}

fn all_of(filters: &[Filter], op: &str) -> Filter {
    let texts: Vec<_> = filters.iter().map(|f| format!("({})", f.text)).collect();
    let takes_parameters = filters.iter().any(|f| f.takes_parameters);
    Filter { text: texts.join(op), takes_parameters }
}

/// The joins of a level.
fn joins(s: &nodes::SelectStmt) -> Vec<&nodes::JoinExpr> {
    let mut found = Vec::new();
    let mut items: Vec<Node<'_>> = s.from_clause().iter().collect();
    while let Some(item) = items.pop() {
        if let Node::JoinExpr(j) = item {
            found.push(j);
            items.extend([j.larg(), j.rarg()]);
        }
    }
    found
}

fn merges(j: &nodes::JoinExpr, column: &str) -> bool {
    j.is_natural || j.using_clause().iter().any(|s| s.sval() == Some(column))
}

/// A text that stands for the time at which it is read.
fn is_of_the_moment(c: &nodes::A_Const) -> bool {
    let Some(ConstValue::String(text)) = c.val() else { return false };
    let lower = text.to_ascii_lowercase();
    ["now", "today", "tomorrow", "yesterday"].iter().any(|word| lower.contains(word))
}

pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
