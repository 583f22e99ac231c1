//! A text becomes a plan: parsed, each statement analysed, and all of them sent one way.

use pg_raw_parse::Node;

use super::constant::Literals;
use super::context::Context;
use super::facts::Facts;
use super::functions::Functions;
use super::plan::{Control, Effect, Key, KeySource, Kind, Plan, Statement, TimesTold};
use super::scope::{Names, Speech};
use super::{
    among, analyze, catalogs, copying, draws, effect, named, rights, signals, tables, traces,
};
use crate::sql::tree::{self, Unparsed};
use crate::topology::Schema;
use crate::wire::backend::Report;

/// The PostgreSQL whose grammar `pg_raw_parse` has.
const GRAMMAR_MAJOR: u32 = 18;

/// Plans a text. The flag tells whether another text of the same shape has the same plan.
pub(super) fn make(
    text: &[u8],
    schema: &Schema,
    functions: &Functions,
    speech: Speech<'_>,
    literals: &dyn Literals,
) -> (Plan, bool) {
    // The C parser reports errors by value; a panic here would be one of its wrapper's limits
    // (the walker's stack), and no reason to take the worker's other clients down.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        parse_and_plan(text, schema, functions, speech, literals)
    }))
    .unwrap_or_else(|_| {
        let report = Report::error("54001", "the statement is too complex to be routed")
            .hint("Split it, or simplify its nesting.");
        (Plan::refused(report), false)
    })
}

fn parse_and_plan(
    text: &[u8],
    schema: &Schema,
    functions: &Functions,
    speech: Speech<'_>,
    literals: &dyn Literals,
) -> (Plan, bool) {
    let Ok(utf8) = std::str::from_utf8(text) else {
        // Another client encoding: nothing is proven, so nothing distributed may be meant.
        return (not_utf8(text, schema), false);
    };
    let tree = match tree::parse(utf8) {
        Ok(tree) => tree,
        Err(Unparsed::TooDeep) => return (unread(text, schema, too_deep()), false),
        Err(Unparsed::Syntax(_)) => return (not_understood(text, schema, functions), false),
    };
    let path = match speech.path {
        None => Some(super::path::DEFAULT.map(str::to_owned).to_vec()),
        Some(text) => super::path::schemas(text),
    };
    let names = Names {
        schema,
        path: path.as_deref(),
        temporary: speech.temporary,
        foreign_text: speech.foreign_text,
        local_code: speech.local_code,
        sees: speech.sees,
    };
    let mut making = Making {
        text,
        functions,
        literals,
        names,
        plan: Plan { effect: Effect::Reads, ..Plan::nothing() },
        by_shape: tree.len() == 1,
        used: Vec::new(),
        signalled: Vec::new(),
        keys: Vec::new(),
        is_open: false,
    };
    for raw in tree.iter() {
        let start = usize::try_from(raw.stmt_location).unwrap_or(0);
        let end = match usize::try_from(raw.stmt_len) {
            Ok(0) | Err(_) => text.len(),
            Ok(len) => (start + len).min(text.len()),
        };
        making.add(raw.stmt(), (start, end));
    }
    making.end()
}

/// The plan of a text, of which some statements have been analysed.
struct Making<'a> {
    text: &'a [u8],
    functions: &'a Functions,
    literals: &'a dyn Literals,
    /// As the statements so far leave them.
    names: Names<'a>,
    plan: Plan,
    by_shape: bool,
    used: Vec<String>,
    signalled: Vec<KeySource>,
    /// The keys of the statements behind the first.
    keys: Vec<Key>,
    /// What the next statement means is known only when those before it have been carried out.
    is_open: bool,
}

impl Making<'_> {
    /// The next statement, which is this part of the text.
    fn add(&mut self, node: Node<'_>, span: (usize, usize)) {
        let Self { text, functions, literals, names, .. } = *self;
        let facts = Facts::of_statement(node, names, functions);
        let cx = Context { names, functions, facts: &facts, text, span, literals };
        let (kind, control) = analyze::statement(node, cx);
        // What set_config() and setval() do is said by their literals.
        self.by_shape &= has_shape(node) && !facts.calls(&["set_config", "setval"]);
        tables::used(node, &facts, &mut self.used);
        self.signalled.extend(signals::signalled(cx));
        let local = matches!(kind, Kind::Home | Kind::Any);
        let instead = if local { catalogs::instead(cx) } else { Vec::new() };
        self.by_shape &= instead.is_empty();
        let plan = &mut self.plan;
        plan.instead.extend(instead);
        plan.draws |= draws::may_draw(node, &facts);
        plan.asks |= draws::asks(node, cx);
        plan.effect = plan.effect.max(effect::of(node, cx));
        plan.copies_in |= copying::copies_in(node);
        let first = plan.statements.is_empty();
        let before = std::mem::replace(&mut plan.kind, Kind::Any);
        let several = if first && matches!(kind, Kind::Keys { .. }) { node } else { Node::None };
        plan.rows = super::writes::several_rows(several, cx);
        let alone = first && matches!(kind, Kind::Refused(_));
        plan.computed = alone.then(|| super::computed::of(node, cx)).flatten().map(Into::into);
        plan.among = if first { among::of(node, &kind, cx).map(Into::into) } else { None };
        plan.times = add_times(plan.times.take(), times_told(node, cx));
        let is_open = self.is_open;
        self.is_open |= matches!(kind, Kind::Ddl(_));
        plan.kind = match kind {
            kind if first => kind,
            Kind::Refused(_) if is_open => Kind::Apart,
            kind => join(before, kind, &mut self.keys),
        };
        self.read_behind(&control);
        self.plan.statements.push(Statement { control, span });
    }

    /// What comes behind a statement in this text may find its tables by another path.
    fn read_behind(&mut self, control: &Control) {
        match control {
            Control::Set(_)
            | Control::Reset(_)
            | Control::LocalPath
            | Control::ResetLocal(_)
            | Control::ResetAll
            | Control::DiscardAll => self.names.path = None,
            Control::Pin(_) | Control::Bind(_) => self.names.temporary = true,
            Control::Leaves(traces) if control.changes_reading() => {
                self.names.temporary |= traces.pin.is_some();
                self.names.path = None;
            }
            _ => return,
        }
        self.is_open = true;
    }

    fn end(mut self) -> (Plan, bool) {
        if let Kind::Keys { keys: all, .. } = &mut self.plan.kind {
            *all = std::mem::take(all).into_iter().chain(self.keys).collect();
        }
        self.used.sort_unstable();
        self.used.dedup();
        let (tables, signals) = (self.used.into(), self.signalled.into());
        let by_shape = self.by_shape && self.plan.is_of_shape();
        (Plan { tables, signals, ..self.plan }, by_shape)
    }
}

/// The calls in a statement that tell the time when it is carried out. What PREPARE or CREATE VIEW keeps is
/// carried out later.
fn times_told(node: Node<'_>, cx: Context<'_>) -> Option<TimesTold> {
    let now = matches!(
        node,
        Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_)
            | Node::DeclareCursorStmt(_)
    ) || matches!(node, Node::CopyStmt(c) if !c.is_from);
    let times = &cx.facts.times;
    let left = super::defaults::left_to(node, cx);
    (now && (!times.places.is_empty() || left.is_some())).then(|| TimesTold {
        calls: times.places.len(),
        of_statement: times.of_statement || left.as_ref().is_some_and(|l| l.of_statement),
        named: times.named,
        defaults: left.map(|l| l.defaults.into()),
    })
}

/// Those of several statements in one text.
fn add_times(a: Option<TimesTold>, b: Option<TimesTold>) -> Option<TimesTold> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (a, b) => return a.or(b),
    };
    Some(TimesTold {
        calls: a.calls + b.calls,
        of_statement: a.of_statement || b.of_statement,
        named: a.named || b.named,
        defaults: None,
    })
}

/// Whether texts that differ in their literals only may have one plan.
fn has_shape(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::TransactionStmt(_)
    )
}

/// A text of which PostgreSQL itself is to say what is wrong with it.
fn home(text: &[u8]) -> Plan {
    Plan {
        kind: Kind::Home,
        statements: vec![Statement { control: Control::None, span: (0, text.len()) }],
        draws: true,
        asks: traces::mentions_last_value(text),
        ..Plan::nothing()
    }
}

/// The server words syntax errors. A newer one may know more than our grammar.
fn not_understood(text: &[u8], schema: &Schema, functions: &Functions) -> Plan {
    let newer = functions.server_major() > GRAMMAR_MAJOR;
    match named::names_a_table(text, schema).filter(|_| newer) {
        Some(table) => Plan::refused(
            Report::error("0A000", format!("this statement on \"{table}\" is not understood"))
                .hint("pgshunt knows the grammar of PostgreSQL 18."),
        ),
        None => home(text),
    }
}

fn not_utf8(text: &[u8], schema: &Schema) -> Plan {
    if !schema.distributes() {
        return home(text);
    }
    Plan::refused(
        Report::error("0A000", "statements in this client encoding cannot be routed")
            .hint("Set client_encoding to UTF8."),
    )
}

/// The plan of a text that is not read, for `reason`. Where nothing is distributed PostgreSQL itself
/// decides about it, and the session keeps the connection, whatever the text leaves there; but not
/// where it may be about what other nodes have too.
pub(super) fn unread(text: &[u8], schema: &Schema, reason: Report) -> Plan {
    let shared = schema.has_several_nodes() && rights::names_roles(text);
    if !schema.is_plain() || shared {
        return Plan::refused(reason);
    }
    let control = Control::Bind("a statement too large to be read by pgshunt");
    Plan {
        kind: Kind::Home,
        statements: vec![Statement { control, span: (0, text.len()) }],
        draws: true,
        asks: traces::mentions_last_value(text),
        copies_in: true,
        ..Plan::nothing()
    }
}

fn too_deep() -> Report {
    Report::error("54001", "stack depth limit exceeded")
        .hint("Split the statement, or use a list or an array in place of so many operators.")
}

/// The kind of several statements in one text: they share one place, or are carried out one after the
/// other. The keys of those behind the first are put into `keys`.
fn join(a: Kind, b: Kind, keys: &mut Vec<Key>) -> Kind {
    match (a, b) {
        (Kind::Refused(r), _) | (_, Kind::Refused(r)) => Kind::Refused(r),
        (Kind::Any, k) | (k, Kind::Any) if !matches!(k, Kind::Every { .. } | Kind::Ddl(_)) => k,
        (Kind::Home, Kind::Home) => Kind::Home,
        (Kind::Leaf(a), Kind::Leaf(b)) if a == b => Kind::Leaf(a),
        (Kind::Keys { group, keys: first }, Kind::Keys { group: g, keys: more }) if group == g => {
            keys.extend(more);
            Kind::Keys { group, keys: first }
        }
        _ => Kind::Apart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Node, NodeId, RoutingTable, Rows};

    #[test]
    fn of_a_text_that_is_not_read_nothing_is_known() {
        let home = Node {
            id: NodeId(1),
            name: "node1".into(),
            host: "127.0.0.1".into(),
            port: 5432,
            is_home: true,
        };
        let rows = Rows { nodes: vec![home], ..Rows::default() };
        let routes = std::sync::Arc::new(RoutingTable::build(&rows).unwrap());
        for routes in [&routes, routes.plain()] {
            let plan = unread(b"SELECT 1", routes.schema(), too_deep());
            assert_eq!(plan.effect, Effect::Unknown, "{plan:?}");
        }
    }
}
