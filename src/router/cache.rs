//! The planner: plans from the cache, or made and put there. One per worker, without locks.

use std::sync::Arc;

use hashbrown::HashMap;
use pg_raw_parse::Node;

use super::analyze::{self, Context};
use super::constant::{Literals as AtLocation, Slot};
use super::functions::Functions;
use super::place::{Given, Values};
use super::plan::{Control, Kind, Plan, Statement};
use super::scope::{Names, Speech};
use super::{draws, tables, traces, utility};
use crate::sql::lexer::{Comments, Lexer, Literal, LiteralClass};
use crate::topology::{Epoch, RoutingTable};
use crate::wire::backend::Report;

/// Plans kept per worker; past it the cache starts anew.
const MAX_PLANS: usize = 10_000;
/// The PostgreSQL whose grammar `pg_raw_parse` has.
const GRAMMAR_MAJOR: u32 = 18;
/// Longer texts are planned each time.
const MAX_CACHED_TEXT: usize = 16 << 10;

type Cache = HashMap<Vec<u8>, Arc<Plan>, foldhash::fast::RandomState>;

/// Makes plans, and keeps them.
#[derive(Debug, Default)]
pub struct Planner {
    functions: Functions,
    lexer: Lexer,
    key: Vec<u8>,
    /// By shape, for simple queries.
    shapes: Cache,
    /// By text, for prepared statements.
    texts: Cache,
    epoch: Option<Epoch>,
    pub parsed: u64,
    /// Plans that were in the cache.
    pub found: u64,
}

/// A plan, and the literals its keys refer to.
pub struct Planned<'a> {
    pub plan: Arc<Plan>,
    pub literals: Literals<'a>,
    /// Set when the plan's offsets are those of the normalised text.
    lexer: Option<&'a Lexer>,
}

impl Planned<'_> {
    /// Where the plan's n-th statement is in the text.
    pub fn span(&self, n: usize) -> (usize, usize) {
        let (start, end) = self.plan.statements.get(n).map_or((0, 0), |s| s.span);
        match self.lexer {
            Some(lexer) => (lexer.source_offset(start), lexer.source_offset(end)),
            None => (start, end),
        }
    }
}

/// The literals of a text, by index.
pub struct Literals<'a> {
    text: &'a [u8],
    spans: &'a [Literal],
}

impl Values for Literals<'_> {
    fn param(&self, _: usize) -> Option<Given<'_>> {
        None
    }

    fn literal(&self, index: usize) -> Option<Given<'_>> {
        let literal = self.spans.get(index)?;
        match literal.class {
            LiteralClass::Integer => self.text.get(literal.range()).map(Given::Digits),
            LiteralClass::String => literal.text(self.text).map(Given::Text),
            LiteralClass::Number => None,
        }
    }
}

/// Ties the parser's constants to the lexer's literals.
struct Lexed<'a>(&'a Lexer, &'a [u8]);

impl AtLocation for Lexed<'_> {
    fn at(&self, location: usize) -> Slot {
        match self.0.constant_at(self.1, location) {
            // A number that is no integer is numeric, and compares by numeric's rules.
            Some((index, negative))
                if self
                    .0
                    .literals()
                    .get(index)
                    .is_some_and(|l| l.class != LiteralClass::Number) =>
            {
                Slot::Literal(index, negative)
            }
            _ => Slot::Unknown,
        }
    }
}

/// A text that is planned for itself alone.
struct Unlexed;

impl AtLocation for Unlexed {
    fn at(&self, _: usize) -> Slot {
        Slot::Fixed
    }
}

impl Planner {
    pub fn new(functions: Functions) -> Self {
        Self { functions, ..Self::default() }
    }

    fn fresh(&mut self, routes: &RoutingTable) {
        if self.epoch != Some(routes.epoch) {
            self.epoch = Some(routes.epoch);
            self.shapes.clear();
            self.texts.clear();
        }
    }

    /// The plan of a simple query's text.
    pub fn plan<'a>(
        &'a mut self,
        text: &'a [u8],
        routes: &RoutingTable,
        speech: Speech<'_>,
    ) -> Planned<'a> {
        self.fresh(routes);
        let cached = text.len() <= MAX_CACHED_TEXT
            && !speech.foreign_text
            && self.lexer.normalise(text, Comments::Strip).is_some()
            && !self.lexer.several_statements()
            && self.lexer.literals().iter().all(|l| is_plain(*l, text));
        if cached {
            key(&mut self.key, self.lexer.text(), routes, speech);
            if let Some(plan) = self.shapes.get(self.key.as_slice()) {
                self.found += 1;
                let literals = Literals { text, spans: self.lexer.literals() };
                return Planned { plan: plan.clone(), literals, lexer: Some(&self.lexer) };
            }
        }
        self.parsed += 1;
        let lexed = Lexed(&self.lexer, text);
        let literals: &dyn AtLocation = if cached { &lexed } else { &Unlexed };
        let (mut plan, by_shape) = make(text, routes, &self.functions, speech, literals);
        let shaped = cached && by_shape;
        if let (true, [only]) = (shaped, plan.statements.as_mut_slice()) {
            // The next text of this shape has its tokens elsewhere.
            only.span = (0, self.lexer.text().len());
        }
        let plan = Arc::new(plan);
        if shaped {
            if self.shapes.len() >= MAX_PLANS {
                self.shapes.clear();
            }
            self.shapes.insert(self.key.clone(), plan.clone());
        }
        let spans = if cached { self.lexer.literals() } else { &[] };
        let lexer = shaped.then_some(&self.lexer);
        Planned { plan, literals: Literals { text, spans }, lexer }
    }

    /// The plan of a prepared statement's text: its literals are part of it.
    pub fn plan_text(
        &mut self,
        text: &[u8],
        routes: &RoutingTable,
        speech: Speech<'_>,
    ) -> Arc<Plan> {
        self.fresh(routes);
        key(&mut self.key, text, routes, speech);
        if let Some(plan) = self.texts.get(self.key.as_slice()) {
            self.found += 1;
            return plan.clone();
        }
        self.parsed += 1;
        let (plan, _) = make(text, routes, &self.functions, speech, &Unlexed);
        let plan = Arc::new(plan);
        if text.len() <= MAX_CACHED_TEXT {
            if self.texts.len() >= MAX_PLANS {
                self.texts.clear();
            }
            self.texts.insert(self.key.clone(), plan.clone());
        }
        plan
    }
}

/// Not `E'...'`, whose value may need backslashes worked out.
fn is_plain(literal: Literal, text: &[u8]) -> bool {
    literal.class != LiteralClass::String || text.get(literal.range().start) == Some(&b'\'')
}

fn key(out: &mut Vec<u8>, text: &[u8], routes: &RoutingTable, speech: Speech<'_>) {
    out.clear();
    out.extend_from_slice(text);
    if let Some(path) = speech.path {
        // NUL cannot stand in a text, so the parts cannot run into each other.
        out.push(0);
        out.extend_from_slice(path.as_bytes());
    }
    let flags = [speech.temporary, speech.foreign_text, routes.is_plain()];
    out.push(flags.into_iter().fold(0, |all, flag| all << 1 | u8::from(flag)));
}

/// Plans a text. The flag tells whether another text of the same shape has the same plan.
fn make(
    text: &[u8],
    routes: &RoutingTable,
    functions: &Functions,
    speech: Speech<'_>,
    literals: &dyn AtLocation,
) -> (Plan, bool) {
    // The C parser reports errors by value; a panic here would be one of its wrapper's limits
    // (the walker's stack), and no reason to take the worker's other clients down.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        parse_and_plan(text, routes, functions, speech, literals)
    }))
    .unwrap_or_else(|_| {
        let report = Report::error("54001", "the statement is too complex to be routed")
            .hint("Split it, or simplify its nesting.");
        (Plan::refused(report), false)
    })
}

fn parse_and_plan(
    text: &[u8],
    routes: &RoutingTable,
    functions: &Functions,
    speech: Speech<'_>,
    literals: &dyn AtLocation,
) -> (Plan, bool) {
    let home = |text: &[u8]| Plan {
        kind: Kind::Home,
        statements: vec![Statement { control: Control::None, span: (0, text.len()) }],
        tables: Box::default(),
        draws: true,
        asks: traces::mentions_last_value(text),
        copies_in: false,
    };
    let Ok(utf8) = std::str::from_utf8(text) else {
        // Another client encoding: nothing is proven, so nothing distributed may be meant.
        return (not_utf8(text, routes, home), false);
    };
    let Ok(tree) = pg_raw_parse::parse(utf8) else {
        // The server words syntax errors. A newer one may know more than our grammar.
        let newer = functions.server_major() > GRAMMAR_MAJOR;
        let plan = match utility::names_a_table(text, routes).filter(|_| newer) {
            Some(table) => Plan::refused(
                Report::error("0A000", format!("this statement on \"{table}\" is not understood"))
                    .hint("pgshunt knows the grammar of PostgreSQL 18."),
            ),
            None => home(text),
        };
        return (plan, false);
    };
    let mut plan = Plan::nothing();
    let mut used = Vec::new();
    let mut by_shape = tree.len() == 1;
    let path = match speech.path {
        None => Some(super::path::DEFAULT.map(str::to_owned).to_vec()),
        Some(text) => super::path::schemas(text),
    };
    let mut names = Names {
        routes,
        path: path.as_deref(),
        temporary: speech.temporary,
        foreign_text: speech.foreign_text,
    };
    for raw in tree.iter() {
        let start = usize::try_from(raw.stmt_location).unwrap_or(0);
        let end = match usize::try_from(raw.stmt_len) {
            Ok(0) | Err(_) => text.len(),
            Ok(len) => (start + len).min(text.len()),
        };
        let cx = Context { names, functions, text, span: (start, end), literals };
        let node = raw.stmt();
        by_shape &= matches!(
            node,
            Node::SelectStmt(_)
                | Node::InsertStmt(_)
                | Node::UpdateStmt(_)
                | Node::DeleteStmt(_)
                | Node::TransactionStmt(_)
        );
        let (kind, control) = analyze::statement(node, cx);
        by_shape &= !analyze::calls_set_config(node);
        tables::used(node, &mut used);
        plan.draws |= draws::may_draw(node, cx);
        plan.asks |= draws::asks(node, cx);
        plan.copies_in |= analyze::copies_in(node);
        match &control {
            // What comes behind it in this text finds its tables by another path.
            Control::Set(_)
            | Control::Reset(_)
            | Control::LocalPath
            | Control::ResetLocal(_)
            | Control::ResetAll
            | Control::DiscardAll => {
                names.path = None;
            }
            Control::Pin(_) | Control::Bind(_) => names.temporary = true,
            Control::Leaves(traces) if control.changes_reading() => {
                names.temporary |= traces.pin.is_some();
                names.path = None;
            }
            _ => {}
        }
        plan.kind = if plan.statements.is_empty() { kind } else { join(plan.kind, kind) };
        plan.statements.push(Statement { control, span: (start, end) });
    }
    plan.tables = used.into();
    (plan, by_shape)
}

fn not_utf8(text: &[u8], routes: &RoutingTable, home: impl Fn(&[u8]) -> Plan) -> Plan {
    if routes.tables().next().is_none() {
        return home(text);
    }
    Plan::refused(
        Report::error("0A000", "statements in this client encoding cannot be routed")
            .hint("Set client_encoding to UTF8."),
    )
}

/// The kind of several statements in one text: they must share one place.
fn join(a: Kind, b: Kind) -> Kind {
    match (a, b) {
        (Kind::Refused(r), _) | (_, Kind::Refused(r)) => Kind::Refused(r),
        (Kind::Any, k) | (k, Kind::Any) if !matches!(k, Kind::Every { .. } | Kind::Ddl) => k,
        (Kind::Home, Kind::Home) => Kind::Home,
        (Kind::Leaf(a), Kind::Leaf(b)) if a == b => Kind::Leaf(a),
        (Kind::Keys { group, keys: a }, Kind::Keys { group: g, keys: b }) if group == g => {
            let keys: Vec<_> = a.into_iter().chain(b).collect();
            Kind::Keys { group, keys: keys.into() }
        }
        _ => analyze::refused(
            "the statements of this text go to different places",
            "Send them one by one.",
        ),
    }
}
