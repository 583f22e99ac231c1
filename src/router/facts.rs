//! What a query is made of, collected by one walk over its tree. Whatever is decided about the query reads
//! from here; only [`super::proof`] looks at the tree again, for what stands above what.

use std::collections::{BTreeMap, BTreeSet};

use pg_raw_parse::raw::SQLValueFunctionOp;
use pg_raw_parse::{ConstValue, Node, nodes};

use super::functions::{Functions, name_of};
use super::scope::{Named, Names};
use crate::sql::times::{is_of_statement, is_time};
use crate::sql::tree::children;

/// A call of a function by its name.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub node: &'a nodes::FuncCall,
    pub schema: Option<&'a str>,
    /// `None`: more names than a function can have.
    pub name: Option<&'a str>,
    /// It is one the server came with, and no other of that name can be meant.
    pub is_builtin: bool,
}

impl<'a> Call<'a> {
    /// The name, if the function is one the server came with.
    pub fn builtin(&self) -> Option<&'a str> {
        self.name.filter(|_| self.is_builtin)
    }
}

/// A table or view that the query names. A WITH query's name is none.
pub struct Relation<'a> {
    pub node: &'a nodes::RangeVar,
    pub named: Named,
    /// INSERT, UPDATE, DELETE or MERGE changes it.
    pub is_target: bool,
}

/// What one query is made of, its WITH queries and sub-selects included.
#[derive(Default)]
pub struct Facts<'a> {
    /// The query itself.
    pub query: Option<Node<'a>>,
    pub calls: Vec<Call<'a>>,
    pub relations: Vec<Relation<'a>>,
    pub types: Vec<&'a nodes::TypeName>,
    pub columns: Vec<&'a nodes::ColumnRef>,
    /// Columns whose `t.*` stands for the columns of t one by one.
    pub expanded: Vec<&'a nodes::ColumnRef>,
    /// Columns that something other than a row is made of at once.
    pub converted: Vec<&'a nodes::ColumnRef>,
    /// In how many places each parameter stands.
    pub parameters: BTreeMap<i32, usize>,
    /// The table that SELECT INTO makes.
    pub into: Option<&'a nodes::RangeVar>,
    /// It has an INSERT, UPDATE, DELETE or MERGE.
    pub changes_rows: bool,
    /// It is, or has in it, a SELECT or VALUES.
    pub has_selects: bool,
    /// It has a FOR UPDATE, FOR SHARE or the like.
    pub locks_rows: bool,
    /// It has an UPDATE of pg_settings, whose rule sets parameters.
    pub updates_settings: bool,
    /// It runs what PREPARE has prepared.
    pub executes: bool,
    /// The first thing in it that each node would answer for itself, besides functions and columns.
    pub own_answer: Option<&'static str>,
    /// There is more in it than constants and set_config(..., true).
    pub computes: bool,
    pub times: TimeCalls,
}

/// The calls in a query whose value is a time of the transaction or the statement (`sql::times`).
#[derive(Default)]
pub struct TimeCalls {
    /// Where they stand in the text.
    pub places: BTreeSet<i32>,
    /// One tells the statement's time.
    pub of_statement: bool,
    /// A column of the result, or of a sub-select, is called like one.
    pub named: bool,
    /// One stands in FROM, where no constant can.
    pub in_from: bool,
}

impl<'a> Facts<'a> {
    /// The facts of the query that a statement is, or has: EXPLAIN, DECLARE CURSOR, COPY, CREATE TABLE AS.
    pub fn of_statement(node: Node<'a>, names: Names<'_>, functions: &Functions) -> Self {
        match query_of(node) {
            Some(query) => Self::of(query, names, functions),
            None => Self::default(),
        }
    }

    /// The facts of a query, or of the call that CALL carries out.
    pub fn of(query: Node<'a>, names: Names<'_>, functions: &Functions) -> Self {
        let found = Self { query: Some(query), ..Self::default() };
        if matches!(query, Node::ExecuteStmt(_)) {
            return Self { executes: true, ..found };
        }
        let mut walk = Walk { names, functions, with: Vec::new(), steps: Vec::new(), found };
        walk.run(query);
        walk.found
    }

    /// Functions that the server did not come with may be called, or that have more names than one can.
    pub fn calls_others(&self) -> bool {
        self.calls.iter().any(|c| !c.is_builtin)
    }

    pub fn calls(&self, names: &[&str]) -> bool {
        self.calls.iter().any(|c| c.name.is_some_and(|n| names.contains(&n)))
    }
}

/// The query of a statement that has one, which may be CREATE TABLE AS within EXPLAIN.
fn query_of(mut node: Node<'_>) -> Option<Node<'_>> {
    loop {
        node = match node {
            Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_)
            | Node::ExecuteStmt(_)
            | Node::FuncCall(_) => return Some(node),
            Node::ExplainStmt(e) => e.query(),
            Node::DeclareCursorStmt(d) => d.query(),
            Node::CopyStmt(c) => c.query(),
            Node::CreateTableAsStmt(c) => c.query(),
            Node::CallStmt(c) => Node::FuncCall(c.funccall()?),
            _ => return None,
        }
    }
}

/// The WITH clause of a statement.
pub fn with_of(node: Node<'_>) -> Option<&nodes::WithClause> {
    match node {
        Node::SelectStmt(s) => s.with_clause(),
        Node::InsertStmt(s) => s.with_clause(),
        Node::UpdateStmt(s) => s.with_clause(),
        Node::DeleteStmt(s) => s.with_clause(),
        Node::MergeStmt(s) => s.with_clause(),
        _ => None,
    }
}

fn target_of(node: Node<'_>) -> Option<&nodes::RangeVar> {
    match node {
        Node::InsertStmt(s) => s.relation(),
        Node::UpdateStmt(s) => s.relation(),
        Node::DeleteStmt(s) => s.relation(),
        Node::MergeStmt(s) => s.relation(),
        _ => None,
    }
}

/// What the walk does next.
enum Step<'a> {
    Visit(Node<'a>),
    /// From here on this name is a WITH query's.
    Name(&'a str),
    /// The statement ends whose WITH queries are those behind so many others.
    Forget(usize),
}

/// A WITH query hides a table of its name only in the statement it belongs to, and there not in the
/// WITH queries before it (nor in itself, unless RECURSIVE). A target is never a WITH query.
struct Walk<'a, 'n> {
    names: Names<'n>,
    functions: &'n Functions,
    /// The names of the WITH queries that can be seen.
    with: Vec<&'a str>,
    /// On top what comes next. A tree is as deep as its text is long, so nothing recurses.
    steps: Vec<Step<'a>>,
    found: Facts<'a>,
}

impl<'a> Walk<'a, '_> {
    fn run(&mut self, query: Node<'a>) {
        self.steps.push(Step::Visit(query));
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Name(name) => self.with.push(name),
                Step::Forget(before) => self.with.truncate(before),
                Step::Visit(node) => {
                    self.visit(node);
                    self.descend(node);
                }
            }
        }
    }

    fn descend(&mut self, node: Node<'a>) {
        match node {
            // It names what FROM has named already.
            Node::LockingClause(_) => return,
            // Its table is a new one.
            Node::IntoClause(_) => return,
            _ => {}
        }
        let with = with_of(node);
        if with.is_some() {
            self.steps.push(Step::Forget(self.with.len()));
        }
        let before = self.steps.len();
        let target = target_of(node);
        let is_target = |child: Node<'a>| matches!((child, target), (Node::RangeVar(a), Some(b)) if std::ptr::eq(a, b));
        let steps = &mut self.steps;
        children(node, |child| {
            if !matches!(child, Node::WithClause(_)) && !is_target(child) {
                steps.push(Step::Visit(child));
            }
        });
        self.steps[before..].reverse();
        let Some(with) = with else { return };
        if with.recursive {
            self.with.extend(with.ctes().iter().filter_map(|c| c.ctename()));
        }
        for cte in with.ctes().iter().rev() {
            if let (false, Some(name)) = (with.recursive, cte.ctename()) {
                self.steps.push(Step::Name(name));
            }
            self.steps.push(Step::Visit(Node::CommonTableExpr(cte)));
        }
    }

    fn visit(&mut self, node: Node<'a>) {
        let found = &mut self.found;
        found.computes |= computes(node);
        match node {
            Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => {
                found.changes_rows = true;
                if let Some(target) = target_of(node) {
                    found.updates_settings |=
                        matches!(node, Node::UpdateStmt(_)) && is_pg_settings(target);
                    self.relation(target, true);
                }
            }
            Node::SelectStmt(s) => {
                found.has_selects = true;
                let into = s.into_clause().and_then(|i| i.rel());
                found.into = found.into.or(into);
            }
            Node::RangeVar(rv) => self.relation(rv, false),
            Node::FuncCall(f) => self.call(f),
            Node::TypeName(t) => found.types.push(t),
            Node::ColumnRef(c) => found.columns.push(c),
            Node::ResTarget(t) => {
                found.expanded.extend(column(t.val()));
                found.times.named |= t.name().is_none() && is_named_like_time(t.val());
            }
            Node::RangeFunction(f) => found.times.in_from |= calls_time(f),
            Node::SQLValueFunction(f) if tells_time(f.op) => {
                found.times.places.insert(f.location);
            }
            Node::RowExpr(r) => found.expanded.extend(r.args().iter().filter_map(column)),
            Node::NullTest(t) => found.converted.extend(column(t.arg())),
            Node::A_Indirection(i) => found.converted.extend(column(i.arg())),
            Node::TypeCast(t) => {
                let name = t.type_name().and_then(|t| t.names().iter().next_back()?.sval());
                if matches!(name, Some("text" | "varchar")) {
                    found.converted.extend(column(t.arg()));
                }
            }
            Node::ParamRef(p) => *found.parameters.entry(p.number).or_default() += 1,
            Node::LockingClause(_) => found.locks_rows = true,
            _ => found.own_answer = found.own_answer.or(own_answer(node)),
        }
    }

    fn relation(&mut self, rv: &'a nodes::RangeVar, is_target: bool) {
        let is_with = !is_target
            && rv.schemaname().is_none()
            && rv.relname().is_some_and(|name| self.with.contains(&name));
        if !is_with {
            let named = self.names.look_up(rv);
            self.found.relations.push(Relation { node: rv, named, is_target });
        }
    }

    fn call(&mut self, f: &'a nodes::FuncCall) {
        let (schema, name) = match name_of(f) {
            Some((schema, name)) => (schema, Some(name)),
            None => (None, None),
        };
        let is_builtin = schema.is_none_or(|s| s == "pg_catalog")
            && name.is_some_and(|n| self.functions.is_builtin(n));
        if name.is_some_and(|n| CONVERTING.contains(&n) && self.functions.is_builtin(n)) {
            self.found.converted.extend(f.args().iter().filter_map(column));
        }
        if is_builtin && is_time_call(f) {
            let times = &mut self.found.times;
            times.places.insert(f.location);
            times.of_statement |= name.is_some_and(is_of_statement);
        }
        self.found.calls.push(Call { node: f, schema, name, is_builtin });
    }
}

fn column(node: Node<'_>) -> Option<&nodes::ColumnRef> {
    match node {
        Node::ColumnRef(c) => Some(c),
        _ => None,
    }
}

/// Built-in functions that make of a row what has no type of its own.
const CONVERTING: [&str; 14] = [
    "count",
    "row_to_json",
    "to_json",
    "to_jsonb",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "json_build_array",
    "jsonb_build_array",
    "json_build_object",
    "jsonb_build_object",
    "concat",
    "format",
];

/// What there is in a query that is no constant.
fn computes(node: Node<'_>) -> bool {
    match node {
        Node::FuncCall(f) => {
            let named = matches!(name_of(f), Some((None | Some("pg_catalog"), "set_config")));
            !(named && is_local(f))
        }
        Node::SelectStmt(_)
        | Node::NodeList(_)
        | Node::ResTarget(_)
        | Node::A_Const(_)
        | Node::Boolean(_)
        | Node::Integer(_)
        | Node::Float(_)
        | Node::String(_) => false,
        _ => true,
    }
}

/// What each node would answer for itself.
fn own_answer(node: Node<'_>) -> Option<&'static str> {
    match node {
        Node::SQLValueFunction(f) if f.op == SQLValueFunctionOp::SVFOP_CURRENT_SCHEMA => {
            Some("CURRENT_SCHEMA")
        }
        Node::RangeTableSample(_) => Some("TABLESAMPLE"),
        Node::CurrentOfExpr(_) => Some("WHERE CURRENT OF"),
        Node::JsonArrayAgg(_) | Node::JsonObjectAgg(_) => Some("a JSON aggregate"),
        _ => None,
    }
}

/// CURRENT_DATE, LOCALTIME and the like. The others tell the session's roles and its database, on every node
/// alike.
fn tells_time(op: SQLValueFunctionOp::Type) -> bool {
    use SQLValueFunctionOp as Op;
    matches!(
        op,
        Op::SVFOP_CURRENT_DATE
            | Op::SVFOP_CURRENT_TIME
            | Op::SVFOP_CURRENT_TIME_N
            | Op::SVFOP_CURRENT_TIMESTAMP
            | Op::SVFOP_CURRENT_TIMESTAMP_N
            | Op::SVFOP_LOCALTIME
            | Op::SVFOP_LOCALTIME_N
            | Op::SVFOP_LOCALTIMESTAMP
            | Op::SVFOP_LOCALTIMESTAMP_N
    )
}

/// Whether a function is called that tells the time, if it is PostgreSQL's own.
pub fn is_time_call(f: &nodes::FuncCall) -> bool {
    f.args().is_empty() && !f.agg_star && name_of(f).is_some_and(|(_, name)| is_time(name))
}

/// Whether a column without a name of its own gets that of a call that tells the time (`FigureColname`).
fn is_named_like_time(mut value: Node<'_>) -> bool {
    loop {
        value = match value {
            Node::TypeCast(c) => c.arg(),
            Node::CollateClause(c) => c.arg(),
            Node::A_Indirection(i) => i.arg(),
            Node::CaseExpr(c) => c.defresult(),
            Node::FuncCall(f) => return is_time_call(f),
            Node::SQLValueFunction(f) => return tells_time(f.op),
            _ => return false,
        }
    }
}

/// Whether a function in FROM tells the time.
fn calls_time(f: &nodes::RangeFunction) -> bool {
    let is_time = |n: Node<'_>| match n {
        Node::FuncCall(f) => is_time_call(f),
        Node::SQLValueFunction(f) => tells_time(f.op),
        _ => false,
    };
    f.functions().iter().any(|item| match item {
        Node::NodeList(item) => item.get(0).is_some_and(is_time),
        item => is_time(item),
    })
}

/// Whether a call of set_config() says that the value is for the transaction.
pub fn is_local(f: &nodes::FuncCall) -> bool {
    matches!(f.args().get(2), Some(Node::A_Const(c))
        if matches!(c.val(), Some(ConstValue::Boolean(true))))
}

pub fn is_pg_settings(rv: &nodes::RangeVar) -> bool {
    rv.relname() == Some("pg_settings") && rv.schemaname().is_none_or(|s| s == "pg_catalog")
}
