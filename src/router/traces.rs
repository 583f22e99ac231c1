//! What a statement may leave behind on the connection that carries it out, and what may end that.
//!
//! The text shows the functions it calls and not what they do. Which of them leave something is
//! found out on the connection itself when the transaction has ended (`session::check`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::sql::tree::{Recurse, walk};
use pg_raw_parse::{Node, nodes};

use super::analyze::{Context, is_temporary};
use super::functions::{binds, frees, pins};
use super::node_bound::{name_of, reads_by_name};
use super::plan::{Control, Traces};
use super::set_config::{is_local, parameter, updates_settings};

/// What SELECT, INSERT, UPDATE, DELETE or MERGE does to the session.
pub fn control(node: Node<'_>, cx: Context<'_>) -> Control {
    let mut found = Found::default();
    found.walk(node, cx);
    let into = match node {
        Node::SelectStmt(s) => s.into_clause().and_then(|i| i.rel()),
        _ => None,
    };
    if into.is_some_and(is_temporary) {
        found.traces.pin = Some("a temporary table");
    }
    match found.control() {
        Control::None => of_constant(node),
        control => control,
    }
}

/// What a query does to the session that stands in another statement.
pub fn of_query(query: Node<'_>, cx: Context<'_>) -> Control {
    let mut found = Found::default();
    found.walk(query, cx);
    found.control()
}

/// The traces of such a query.
pub fn of(query: Node<'_>, cx: Context<'_>) -> Traces {
    let mut found = Found::default();
    found.walk(query, cx);
    found.traces()
}

/// CALL. A walk does not visit what it starts from.
pub fn of_call(f: &nodes::FuncCall, cx: Context<'_>) -> Control {
    let mut found = Found::default();
    found.call(f, Node::None, cx);
    found.walk(Node::FuncCall(f), cx);
    found.control()
}

/// DO, and EXECUTE of the statement of this name: the text tells the parameters that may be set.
pub fn of_code(cx: Context<'_>, executes: Option<&str>) -> Control {
    let text = cx.text.get(cx.span.0..cx.span.1).unwrap_or(cx.text);
    if mentions(text, b"setseed") {
        return Control::Bind("setseed()");
    }
    let executes = executes.map(str::to_owned);
    let prepared = mentions_prepared(text);
    leaves(Traces { code: true, parameters: dotted(text), prepared, executes, ..Traces::default() })
}

/// Whether a text may ask which statements the session has prepared.
pub fn mentions_prepared(text: &[u8]) -> bool {
    mentions(text, b"pg_prepared_statement")
}

/// Whether a text may ask for what the session has drawn from a sequence.
pub fn mentions_last_value(text: &[u8]) -> bool {
    mentions(text, b"currval") || mentions(text, b"lastval")
}

fn mentions(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word))
}

pub fn leaves(traces: Traces) -> Control {
    if traces.is_empty() { Control::None } else { Control::Leaves(Arc::new(traces)) }
}

#[derive(Default)]
struct Found {
    traces: Traces,
    /// Those for `traces`, each once.
    functions: BTreeSet<String>,
    bind: Option<&'static str>,
    frees: bool,
}

impl Found {
    fn walk(&mut self, node: Node<'_>, cx: Context<'_>) {
        match node {
            Node::None => return,
            // CREATE TABLE AS EXECUTE. The walker does not know the node.
            Node::ExecuteStmt(_) => {
                self.traces.code = true;
                let text = cx.text.get(cx.span.0..cx.span.1).unwrap_or(cx.text);
                self.traces.parameters.extend(dotted(text));
                return;
            }
            _ => {}
        }
        self.traces.code |= updates_settings(node);
        walk::<()>(node, |n| {
            match n {
                Node::FuncCall(f) => self.call(f, node, cx),
                Node::UpdateStmt(_) => self.traces.code |= updates_settings(n),
                Node::RangeVar(rv) => {
                    self.traces.prepared |= rv.relname() == Some("pg_prepared_statements")
                        && rv.schemaname().is_none_or(|s| s == "pg_catalog");
                }
                _ => {}
            }
            Recurse::yes()
        });
    }

    fn call(&mut self, f: &nodes::FuncCall, within: Node<'_>, cx: Context<'_>) {
        let Some((schema, name)) = name_of(f) else { return };
        if let Some(why) = binds(name, f.args().len()) {
            self.bind.get_or_insert(why);
        }
        // Another one of each name for each connection.
        self.traces.code |= schema.is_some_and(|s| s.starts_with("pg_temp"));
        if schema.is_some_and(|s| s != "pg_catalog") || !cx.functions.is_builtin(name) {
            self.functions.insert(name.to_owned());
            return;
        }
        self.frees |= frees(name);
        self.traces.notifies |= name == "pg_notify";
        self.traces.channels |= name == "pg_listening_channels";
        self.traces.prepared |= name == "pg_prepared_statement";
        if let Some(why) = pins(name) {
            self.traces.pin.get_or_insert(why);
        }
        // It runs the text it is given, or the cursor.
        self.traces.code |= reads_by_name(name, f.args().len());
        if name == "set_config" {
            match parameter(f, within) {
                // Nothing takes it back: what is drawn from there on is the session's.
                Some(parameter) if parameter == "seed" => self.bind = Some("setseed()"),
                _ if is_local(f) => {}
                Some(parameter) => self.traces.parameters.push(parameter),
                // Which one it is only the server knows.
                None => self.bind = Some("set_config()"),
            }
        }
    }

    fn traces(self) -> Traces {
        Traces { functions: self.functions.into_iter().collect(), ..self.traces }
    }

    fn control(self) -> Control {
        if let Some(why) = self.bind {
            return Control::Bind(why);
        }
        let frees = self.frees;
        match leaves(self.traces()) {
            Control::None if frees => Control::Frees,
            control => control,
        }
    }
}

/// All `word.word` of a text, any of which may be a parameter's name.
fn dotted(text: &[u8]) -> Vec<String> {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'$' || *b == b'.';
    let mut found: Vec<String> = text
        .split(|b| !is_word(b))
        .filter(|w| w.contains(&b'.') && w.first().is_some_and(|b| !b.is_ascii_digit()))
        .map(|w| String::from_utf8_lossy(w).trim_matches('.').to_ascii_lowercase())
        .filter(|w| w.contains('.'))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// What a SELECT of nothing but constants, or of `set_config(..., true)`, does.
fn of_constant(node: Node<'_>) -> Control {
    let mut local = false;
    let other = walk(node, |n| match n {
        Node::FuncCall(f) if is_call_of_set_config(f) => {
            local = true;
            Recurse::yes()
        }
        Node::SelectStmt(_)
        | Node::NodeList(_)
        | Node::ResTarget(_)
        | Node::A_Const(_)
        | Node::Boolean(_)
        | Node::Integer(_)
        | Node::Float(_)
        | Node::String(_) => Recurse::yes(),
        _ => ControlFlow::Break(()),
    });
    match other {
        Some(()) => Control::None,
        None if local => Control::Local,
        None => Control::Pure,
    }
}

fn is_call_of_set_config(f: &nodes::FuncCall) -> bool {
    matches!(name_of(f), Some((None | Some("pg_catalog"), "set_config"))) && is_local(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parameters_are_found_in_code() {
        let text = b"DO $$ BEGIN SET app.tenant = 'a.b'; PERFORM 1.5, x .y; END $$";
        assert_eq!(dotted(text), ["a.b", "app.tenant"]);
    }
}
