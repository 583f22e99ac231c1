//! The proof that a query sees only rows of given keys.
//!
//! A key equality counts only as a conjunct that must hold for every row of its table reference:
//! in WHERE, in the ON of an inner join, or in the ON of an outer join for the tables on its
//! nullable side (a row there that fails the condition is not seen). Equalities between key columns
//! carry a proof from one table to the other, and from an outer query into a sub-select.

use std::ops::Range;

use crate::sql::tree::{Recurse, walk};
use hashbrown::{HashMap, HashSet};
use pg_raw_parse::raw::{A_Expr_Kind, BoolExprType, JoinType};
use pg_raw_parse::{Node, nodes};

use super::constant::{Literals, constant};
use super::context::Context;
use super::facts::with_of;
use super::functions::Functions;
use super::plan::{Key, KeySource};
use super::scope::{Column, Level, Named, Names, TableRef, columns_of};
use crate::hash::KeyType;
use crate::topology::GroupId;
use crate::wire::backend::Report;

/// Deeper statements are not analysed.
const MAX_DEPTH: usize = 64;

/// What the analysis of a query found.
#[derive(Debug, Default)]
pub struct Found {
    /// A proven key per table reference.
    pub keys: Vec<Key>,
    pub group: Option<GroupId>,
    /// A table reference without a proof, by name.
    pub unproven: Option<String>,
    /// References to distributed tables, on all levels.
    pub references: usize,
    pub local: Option<String>,
    pub levels: usize,
    pub compared: Compared,
}

/// Parameters that are compared with key columns, as they are: number, place in the text, and the
/// column's type. PostgreSQL takes that type for a parameter that has none.
#[derive(Debug, Default)]
pub struct Compared(HashMap<i32, HashMap<i32, KeyType>>);

impl Compared {
    /// In how many places a parameter is compared with key columns, if they are all of one type.
    pub fn alike(&self, number: i32) -> Option<usize> {
        let places = self.0.get(&number)?;
        let mut types = places.values();
        let first = types.next()?;
        types.all(|ty| ty == first).then_some(places.len())
    }
}

pub type Outcome<T> = Result<T, Box<Report>>;

fn refuse<T>(what: &str, hint: &str) -> Outcome<T> {
    Err(Box::new(Report::error("0A000", what.to_owned()).hint(hint.to_owned())))
}

pub struct Prover<'a> {
    pub names: Names<'a>,
    functions: &'a Functions,
    pub text: &'a [u8],
    pub literals: &'a dyn Literals,
    pub found: Found,
    ctes: Vec<String>,
}

/// An equality that holds: a key column with a constant, or with another key column.
enum Equality {
    Is(Column, KeySource),
    Same(Column, Column),
}

/// What is known of each table's key columns, at one level.
type Proven = Vec<Vec<Option<KeySource>>>;

/// What tables a sub-select sees of the level it stands in.
#[derive(Clone, Copy)]
enum Sees {
    Level,
    /// Some of them.
    Part,
    /// None, but those of the level around.
    Outer,
}

#[derive(Default)]
struct Equalities {
    all: Vec<(Equality, Option<Range<usize>>)>,
    /// Number, place in the text and type of the parameters among them.
    compared: Vec<(i32, i32, KeyType)>,
}

impl<'a> Prover<'a> {
    pub fn new(cx: Context<'a>) -> Self {
        let Context { names, functions, text, literals, .. } = cx;
        Self { names, functions, text, literals, found: Found::default(), ctes: Vec::new() }
    }

    /// Analyses a SELECT with all its levels.
    pub fn select(&mut self, s: &'a nodes::SelectStmt) -> Outcome<()> {
        self.level(s, None, &[], 0)
    }

    /// Analyses UPDATE or DELETE: the target, the other FROM items, WHERE, and all sub-selects.
    pub fn modify(
        &mut self,
        whole: Node<'a>,
        target: &'a nodes::RangeVar,
        from: impl Iterator<Item = Node<'a>>,
        condition: Node<'a>,
    ) -> Outcome<()> {
        let mut level = Level::new(None);
        let mut equalities = Equalities::default();
        // Before the WITH queries have their names: the target is none of them.
        self.table(target, &mut level)?;
        let named = self.with(whole, None, &[], 0)?;
        for item in from {
            self.table_item(item, &mut level, &mut equalities, 0)?;
        }
        let all = 0..level.tables.len();
        self.conjuncts(condition, &level, &all, &mut equalities, None, 0);
        let proven = self.settle(&level, &equalities, &[]);
        self.sub_selects(whole, &level, &[proven], 0)?;
        self.ctes.truncate(named);
        Ok(())
    }

    fn level(
        &mut self,
        s: &'a nodes::SelectStmt,
        outer: Option<&Level<'_>>,
        outer_proven: &[Proven],
        depth: usize,
    ) -> Outcome<()> {
        if depth > MAX_DEPTH {
            return refuse("the statement is nested too deeply", "Split it.");
        }
        self.found.levels += 1;
        if s.into_clause().is_some() {
            // SELECT INTO creates a table where it runs.
            self.found.unproven.get_or_insert_with(|| "SELECT INTO".to_owned());
        }
        let named = self.with(s.into(), outer, outer_proven, depth)?;
        let mut level = Level::new(outer);
        let mut equalities = Equalities::default();
        for item in s.from_clause().iter() {
            self.table_item(item, &mut level, &mut equalities, depth)?;
        }
        let all = 0..level.tables.len();
        self.conjuncts(s.where_clause(), &level, &all, &mut equalities, None, depth);
        let proven = self.settle(&level, &equalities, outer_proven);
        let mut all = vec![proven];
        all.extend_from_slice(outer_proven);
        self.sub_selects(s.into(), &level, &all, depth)?;
        self.ctes.truncate(named);
        Ok(())
    }

    /// Analyses the WITH queries of a statement, which see what is around it and not its own tables,
    /// and gives them their names. Returns how many names there were before.
    fn with(
        &mut self,
        statement: Node<'a>,
        outer: Option<&Level<'_>>,
        outer_proven: &[Proven],
        depth: usize,
    ) -> Outcome<usize> {
        let named = self.ctes.len();
        let Some(with) = with_of(statement) else { return Ok(named) };
        let names = with.ctes().iter().filter_map(|c| c.ctename());
        if with.recursive {
            self.ctes.extend(names.map(str::to_owned));
        }
        for cte in with.ctes().iter() {
            match cte.ctequery() {
                Node::SelectStmt(s) => self.level(s, outer, outer_proven, depth + 1)?,
                _ => return writes_in_with(),
            }
            if !with.recursive {
                self.ctes.extend(cte.ctename().map(str::to_owned));
            }
        }
        Ok(named)
    }

    /// Goes into every sub-select of a statement but its WITH queries.
    fn sub_selects(
        &mut self,
        whole: Node<'a>,
        level: &Level<'_>,
        proven: &[Proven],
        depth: usize,
    ) -> Outcome<()> {
        let mut subs = Vec::new();
        let mut writes = false;
        walk::<()>(whole, |n| match n {
            Node::WithClause(_) => Recurse::no(),
            Node::SelectStmt(s) => {
                subs.push((s, Sees::Level));
                Recurse::no()
            }
            // Without LATERAL it sees only what is around this level. With it, and in ON, it sees
            // some tables of this level and not others.
            Node::RangeSubselect(r) => {
                if let Node::SelectStmt(s) = r.subquery() {
                    subs.push((s, if r.lateral { Sees::Part } else { Sees::Outer }));
                }
                Recurse::no()
            }
            Node::JoinExpr(j) => {
                subs.extend(selects_in(j.quals()).into_iter().map(|s| (s, Sees::Part)));
                Recurse::yes()
            }
            Node::RangeFunction(_) | Node::RangeTableFunc(_) | Node::JsonTable(_) => {
                subs.extend(selects_in(n).into_iter().map(|s| (s, Sees::Part)));
                Recurse::no()
            }
            Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => {
                writes = true;
                Recurse::no()
            }
            _ => Recurse::yes(),
        });
        if writes {
            return writes_in_with();
        }
        // Those of ON conditions are met twice; how they were met first decides.
        let mut seen: HashSet<*const nodes::SelectStmt> = HashSet::with_capacity(subs.len());
        for (s, sees) in subs {
            if !seen.insert(s) {
                continue;
            }
            match (sees, level.outer) {
                (Sees::Outer, outer) => {
                    self.level(s, outer, proven.get(1..).unwrap_or_default(), depth + 1)?;
                }
                // Nothing around that a name could mean instead: PostgreSQL would say so.
                (Sees::Level, _) | (Sees::Part, None) => {
                    self.level(s, Some(level), proven, depth + 1)?;
                }
                (Sees::Part, Some(_)) => {
                    let unknown = Level { opaque: true, ..Level::new(None) };
                    self.level(s, Some(&unknown), &[], depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn table(&mut self, rv: &nodes::RangeVar, level: &mut Level<'_>) -> Outcome<()> {
        let name = rv.relname().unwrap_or_default();
        if rv.schemaname().is_none() && self.ctes.iter().any(|c| c == name) {
            level.opaque = true;
            return Ok(());
        }
        match self.names.look_up(rv) {
            Named::Distributed(table) => {
                if self.found.group.is_some_and(|g| g != table.group) {
                    return refuse(
                        "the statement uses distributed tables of different colocation groups",
                        "Distribute the tables by the same key types and shard count, or query them separately.",
                    );
                }
                self.found.group = Some(table.group);
                self.found.references += 1;
                let alias = rv.alias();
                level.tables.push(TableRef {
                    name: alias.and_then(|a| a.aliasname()).unwrap_or(&table.name).to_owned(),
                    aliased: alias.is_some(),
                    renamed: alias.is_some_and(|a| !a.colnames().is_empty()),
                    hidden: false,
                    table,
                });
            }
            Named::Leaf(_) | Named::Local => {
                self.found.local.get_or_insert_with(|| name.to_owned());
                level.opaque = true;
            }
            Named::Unclear(name) => {
                return refuse(
                    &format!("cannot tell which table \"{name}\" means"),
                    "The session has its own search_path or temporary tables: write the schema before the table's name.",
                );
            }
        }
        Ok(())
    }

    fn table_item(
        &mut self,
        item: Node<'a>,
        level: &mut Level<'_>,
        equalities: &mut Equalities,
        depth: usize,
    ) -> Outcome<()> {
        if depth > MAX_DEPTH {
            return refuse("the statement is nested too deeply", "Split it.");
        }
        match item {
            Node::RangeVar(rv) => self.table(rv, level),
            Node::JoinExpr(j) => {
                if j.alias().is_some() || j.is_natural {
                    // An alias hides the tables inside; NATURAL merges columns we do not follow.
                    level.opaque = true;
                }
                let start = level.tables.len();
                self.table_item(j.larg(), level, equalities, depth + 1)?;
                let middle = level.tables.len();
                self.table_item(j.rarg(), level, equalities, depth + 1)?;
                let end = level.tables.len();
                let proves = match j.jointype {
                    JoinType::JOIN_INNER => Some(None),
                    JoinType::JOIN_LEFT => Some(Some(middle..end)),
                    JoinType::JOIN_RIGHT => Some(Some(start..middle)),
                    // Of a FULL JOIN neither side is filtered by the condition.
                    _ => None,
                };
                if let Some(proves) = proves {
                    self.using(j, start..middle, middle..end, level, equalities, proves.clone());
                    self.conjuncts(j.quals(), level, &(start..end), equalities, proves, depth + 1);
                }
                if j.alias().is_some() {
                    level.tables[start..end].iter_mut().for_each(|t| t.hidden = true);
                }
                Ok(())
            }
            Node::RangeFunction(f) => {
                match columns_of(f, self.functions) {
                    Some(other) => level.others.push(other),
                    None => level.opaque = true,
                }
                Ok(())
            }
            Node::RangeSubselect(_) | Node::RangeTableFunc(_) => {
                level.opaque = true;
                Ok(())
            }
            _ => {
                level.opaque = true;
                let mut table = false;
                walk::<()>(item, |n| {
                    table |= matches!(n, Node::RangeVar(_));
                    Recurse::yes()
                });
                if table {
                    self.found.unproven.get_or_insert_with(|| "a sampled table".to_owned());
                    self.found.local.get_or_insert_with(|| "a sampled table".to_owned());
                }
                Ok(())
            }
        }
    }

    fn using(
        &self,
        j: &nodes::JoinExpr,
        left: Range<usize>,
        right: Range<usize>,
        level: &mut Level<'_>,
        equalities: &mut Equalities,
        proves: Option<Range<usize>>,
    ) {
        for column in j.using_clause().iter().filter_map(|s| s.sval()) {
            let key = |range: &Range<usize>| {
                let mut having = range.clone().filter(|&at| {
                    let t = &level.tables[at];
                    !t.renamed && t.table.columns.iter().any(|c| c.name == column)
                });
                let at = having.next()?;
                let key = level.tables[at].table.key_columns.iter().position(|k| k == column)?;
                having.next().is_none().then_some((0, at, key))
            };
            if let (Some(a), Some(b)) = (key(&left), key(&right)) {
                equalities.all.push((Equality::Same(a, b), proves.clone()));
                if proves.is_none() {
                    level.merged.push(column.to_owned());
                }
            }
        }
    }

    /// Collects the equalities among the conjuncts of a condition.
    fn conjuncts(
        &self,
        condition: Node<'a>,
        level: &Level<'_>,
        sees: &Range<usize>,
        equalities: &mut Equalities,
        proves: Option<Range<usize>>,
        depth: usize,
    ) {
        if depth > MAX_DEPTH {
            return;
        }
        match condition {
            Node::BoolExpr(b) if b.boolop == BoolExprType::AND_EXPR => {
                for arg in b.args().iter() {
                    self.conjuncts(arg, level, sees, equalities, proves.clone(), depth + 1);
                }
            }
            Node::A_Expr(e) if e.kind == A_Expr_Kind::AEXPR_OP && is_equals(e) => {
                let column = |n: Node<'_>| match n {
                    Node::ColumnRef(c) => level.key_column(c, sees),
                    _ => None,
                };
                match (column(e.lexpr()), column(e.rexpr())) {
                    (Some(a), Some(b)) => equalities.all.push((Equality::Same(a, b), proves)),
                    (Some(c), None) => {
                        self.constant_equality(c, e.rexpr(), level, equalities, proves)
                    }
                    (None, Some(c)) => {
                        self.constant_equality(c, e.lexpr(), level, equalities, proves)
                    }
                    (None, None) => {}
                }
            }
            _ => {}
        }
    }

    fn constant_equality(
        &self,
        column: Column,
        value: Node<'a>,
        level: &Level<'_>,
        equalities: &mut Equalities,
        proves: Option<Range<usize>>,
    ) {
        let (0, at, key) = column else { return };
        let table = &level.tables[at].table;
        let Some(types) = self.names.schema.key_types(table.group) else { return };
        let Some(&ty) = types.get(key) else { return };
        if let Node::ParamRef(p) = value {
            equalities.compared.push((p.number, p.location, ty));
        }
        if let Some(source) = constant(value, ty, self.text, self.literals) {
            equalities.all.push((Equality::Is(column, source), proves));
        }
    }

    /// Carries the equalities to where they lead, and notes each table's key or that it has none.
    fn settle(&mut self, level: &Level<'_>, equalities: &Equalities, outer: &[Proven]) -> Proven {
        let mut proven: Proven =
            level.tables.iter().map(|t| vec![None; t.table.key_columns.len()]).collect();
        let may = |proves: &Option<Range<usize>>, at: usize| {
            proves.as_ref().is_none_or(|r| r.contains(&at))
        };
        loop {
            let mut changed = false;
            for (equality, proves) in &equalities.all {
                let known = |(up, at, key): Column| {
                    let side = if up == 0 { &proven } else { outer.get(up - 1)? };
                    side.get(at)?.get(key)?.clone()
                };
                let lessons = match equality {
                    Equality::Is(c, source) => [Some((*c, source.clone())), None],
                    Equality::Same(a, b) => {
                        [known(*a).map(|s| (*b, s)), known(*b).map(|s| (*a, s))]
                    }
                };
                for ((up, at, key), source) in lessons.into_iter().flatten() {
                    if up == 0 && may(proves, at) && proven[at][key].is_none() {
                        proven[at][key] = Some(source);
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        for &(number, place, ty) in &equalities.compared {
            self.found.compared.0.entry(number).or_default().insert(place, ty);
        }
        for (t, keys) in level.tables.iter().zip(&proven) {
            match keys.iter().cloned().collect::<Option<Vec<_>>>() {
                Some(key) => self.found.keys.push(key.into()),
                None => {
                    self.found.unproven.get_or_insert_with(|| t.name.clone());
                }
            }
        }
        proven
    }
}

fn writes_in_with<T>() -> Outcome<T> {
    refuse(
        "a WITH query that writes is not supported beside a distributed table",
        "Run the statements one after the other in a transaction.",
    )
}

/// The outermost sub-selects in an expression.
fn selects_in<'a>(expression: Node<'a>) -> Vec<&'a nodes::SelectStmt> {
    let mut found = Vec::new();
    if matches!(expression, Node::None) {
        return found;
    }
    walk::<()>(expression, |n| match n {
        Node::SelectStmt(s) => {
            found.push(s);
            Recurse::no()
        }
        _ => Recurse::yes(),
    });
    found
}

fn is_equals(e: &nodes::A_Expr) -> bool {
    let name = e.name();
    let last = name.iter().next_back().and_then(|n| n.as_str());
    let schema = if name.len() > 1 { name.iter().next().and_then(|n| n.as_str()) } else { None };
    last == Some("=") && schema.is_none_or(|s| s == "pg_catalog")
}
