//! What is proven of a query's rows.
//!
//! By values ([`Goal::Values`]): the query sees only rows of given keys. A key equality counts only as a
//! conjunct that must hold for every row of its table reference: in WHERE, in the ON of an inner join, or
//! in the ON of an outer join for the tables on its nullable side (a row there that fails the condition
//! is not seen). Equalities between key columns carry a proof from one table to the other, and from an
//! outer query into a sub-select; so does `key IN (SELECT key ...)`.
//!
//! By rows ([`Goal::Rows`]): each of the query's rows is made of rows of one key, so that what the nodes
//! answer makes up the answer. One table of each FROM stands for the key, and the same equalities carry
//! it to all others ([`rows`]).

mod items;
mod rows;
mod settle;

use crate::sql::tree::{Recurse, walk};
use hashbrown::{HashMap, HashSet};
use pg_raw_parse::{Node, nodes};

use super::constant::Literals;
use super::context::Context;
use super::facts::with_of;
use super::functions::Functions;
use super::plan::Key;
use super::scope::{Level, Names};
use crate::hash::KeyType;
use crate::topology::GroupId;
use crate::wire::backend::Report;

pub use rows::{Breaks, Gives};
use settle::{Equalities, Member, Proven};

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
    /// What in a part of the query mixes rows of several keys.
    pub mixed: Option<Breaks>,
    /// References to distributed tables, on all levels.
    pub references: usize,
    pub local: Option<String>,
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

/// What is to be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Each table reference sees rows of one key only, whose values are known.
    Values,
    /// Each row of the answer is made of rows of one key, whatever that is.
    Rows,
}

pub struct Prover<'a> {
    pub names: Names<'a>,
    functions: &'a Functions,
    pub text: &'a [u8],
    pub literals: &'a dyn Literals,
    pub found: Found,
    goal: Goal,
    /// The WITH queries that can be seen, and what each gives.
    ctes: Vec<(String, Gives)>,
    /// Sub-selects of whose columns some are compared with key columns by IN.
    members: HashMap<*const nodes::SelectStmt, Vec<Member>>,
}

/// What tables a sub-select sees of the level it stands in.
#[derive(Clone, Copy)]
enum Sees {
    Level,
    /// Some of them.
    Part,
    /// None, but those of the level around.
    Outer,
}

impl<'a> Prover<'a> {
    /// One that looks for the keys' values.
    pub fn new(cx: Context<'a>) -> Self {
        let Context { names, functions, text, literals, .. } = cx;
        Self {
            names,
            functions,
            text,
            literals,
            found: Found::default(),
            goal: Goal::Values,
            ctes: Vec::new(),
            members: HashMap::new(),
        }
    }

    /// One that looks whether each row is of one key.
    pub fn by_rows(cx: Context<'a>) -> Self {
        Self { goal: Goal::Rows, ..Self::new(cx) }
    }

    /// Analyses a SELECT with all its levels.
    pub fn select(&mut self, s: &'a nodes::SelectStmt) -> Outcome<Gives> {
        match self.goal {
            Goal::Values => self.level(s, None, &[], 0),
            Goal::Rows => self.query(s, 0),
        }
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
        let all = level.all();
        self.conjuncts(condition, &level, &all, &mut equalities, None, 0);
        if self.goal == Goal::Rows {
            // The target, of whose rows each is changed where it is.
            equalities.anchor = Some(0);
        }
        let proven = self.settle(&level, equalities, &[]);
        self.sub_selects(whole, &level, &[proven], 0)?;
        self.ctes.truncate(named);
        Ok(())
    }

    /// Analyses one SELECT that is no set operation, or, by values, any: of a set operation each side is a
    /// sub-select then.
    fn level(
        &mut self,
        s: &'a nodes::SelectStmt,
        outer: Option<&Level<'_>>,
        outer_proven: &[Proven],
        depth: usize,
    ) -> Outcome<Gives> {
        if depth > MAX_DEPTH {
            return refuse("the statement is nested too deeply", "Split it.");
        }
        if s.into_clause().is_some() {
            // SELECT INTO creates a table where it runs.
            self.found.unproven.get_or_insert_with(|| "SELECT INTO".to_owned());
        }
        let references = self.found.references;
        let named = self.with(s.into(), outer, outer_proven, depth)?;
        let mut level = Level::new(outer);
        let mut equalities = Equalities::default();
        for item in s.from_clause().iter() {
            self.table_item(item, &mut level, &mut equalities, depth)?;
        }
        let all = level.all();
        self.conjuncts(s.where_clause(), &level, &all, &mut equalities, None, depth);
        self.is_member(s, &level, &mut equalities);
        if self.goal == Goal::Rows && outer.is_none() {
            equalities.anchor = level.anchor();
        }
        let proven = self.settle(&level, equalities, outer_proven);
        let mut all = vec![proven];
        all.extend_from_slice(outer_proven);
        self.sub_selects(s.into(), &level, &all, depth)?;
        self.ctes.truncate(named);
        Ok(match self.goal {
            Goal::Values => Gives::Constant(None),
            Goal::Rows if outer.is_some() => {
                self.keeps_aggregates(s, &level);
                Gives::Constant(None)
            }
            Goal::Rows if level.tables.is_empty() && self.found.references == references => {
                Gives::Constant(rows::outputs(s, &level, &[]).map(rows::names_of))
            }
            Goal::Rows => self.answer(s, &level, &all[0]),
        })
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
            self.ctes.extend(names.map(|name| (name.to_owned(), Gives::Constant(None))));
        }
        for cte in with.ctes().iter() {
            let Node::SelectStmt(s) = cte.ctequery() else { return writes_in_with() };
            let references = self.found.references;
            let gives = match outer {
                None if self.goal == Goal::Rows && !with.recursive => self.derived(s, depth + 1)?,
                _ => self.level(s, outer, outer_proven, depth + 1)?,
            };
            if with.recursive && self.goal == Goal::Rows && self.found.references > references {
                self.found.mixed.get_or_insert(Breaks::Recursive);
            }
            if let (false, Some(name)) = (with.recursive, cte.ctename()) {
                let renamed = rows::renamed(gives, cte.aliascolnames());
                self.ctes.push((name.to_owned(), renamed));
            }
        }
        Ok(named)
    }

    /// Goes into every sub-select of a statement but its WITH queries, and those that FROM has led to.
    fn sub_selects(
        &mut self,
        whole: Node<'a>,
        level: &Level<'_>,
        proven: &[Proven],
        depth: usize,
    ) -> Outcome<()> {
        let from_is_known = self.goal == Goal::Rows && level.outer.is_none();
        let mut subs = Vec::new();
        let mut writes = false;
        walk::<()>(whole, |n| match n {
            Node::WithClause(_) => Recurse::no(),
            Node::SelectStmt(s) => {
                subs.push((s, Sees::Level));
                Recurse::no()
            }
            Node::RangeSubselect(r) if from_is_known && !r.lateral => Recurse::no(),
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
