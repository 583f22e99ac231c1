//! What a statement may leave behind on the connection that carries it out, and what may end that.
//!
//! The text shows the functions it calls and not what they do. Which of them leave something is
//! found out on the connection itself when the transaction has ended (`session::check`).

use std::collections::BTreeSet;
use std::sync::Arc;

use pg_raw_parse::Node;

use super::context::{Context, is_temporary};
use super::facts::{Call, is_local};
use super::functions::{binds, frees, pins, reads_by_name};
use super::plan::{Control, Traces};
use super::set_config::parameter;

/// What SELECT, INSERT, UPDATE, DELETE or MERGE does to the session.
pub fn control(cx: Context<'_>) -> Control {
    match of_query(cx) {
        Control::None if !matches!(cx.facts.query, Some(Node::SelectStmt(_))) => Control::None,
        Control::None if !cx.facts.computes && cx.facts.calls.is_empty() => Control::Pure,
        Control::None if !cx.facts.computes => Control::Local,
        control => control,
    }
}

/// What the query does to the session that stands in another statement, or the call of CALL.
pub fn of_query(cx: Context<'_>) -> Control {
    find(cx).control()
}

/// The traces of such a query.
pub fn of(cx: Context<'_>) -> Traces {
    find(cx).traces()
}

/// DO, and EXECUTE of the statement of this name: the text tells the parameters that may be set.
pub fn of_code(cx: Context<'_>, executes: Option<&str>) -> Control {
    let text = cx.own_text();
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

fn find(cx: Context<'_>) -> Found {
    let facts = cx.facts;
    let mut found = Found::default();
    found.traces.code = facts.updates_settings || facts.executes;
    if facts.executes {
        found.traces.parameters = dotted(cx.own_text());
    }
    if facts.into.is_some_and(is_temporary) {
        found.traces.pin = Some("a temporary table");
    }
    found.traces.prepared = facts.relations.iter().any(|r| {
        r.node.relname() == Some("pg_prepared_statements")
            && r.node.schemaname().is_none_or(|s| s == "pg_catalog")
    });
    facts.calls.iter().for_each(|call| found.call(call, cx));
    found
}

impl Found {
    fn call(&mut self, call: &Call<'_>, cx: Context<'_>) {
        let (f, Some(name)) = (call.node, call.name) else { return };
        if let Some(why) = binds(name, f.args().len()) {
            self.bind.get_or_insert(why);
        }
        // Another one of each name for each connection.
        self.traces.code |= call.schema.is_some_and(|s| s.starts_with("pg_temp"));
        if !call.is_builtin {
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
            match parameter(f, cx.facts.query) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parameters_are_found_in_code() {
        let text = b"DO $$ BEGIN SET app.tenant = 'a.b'; PERFORM 1.5, x .y; END $$";
        assert_eq!(dotted(text), ["a.b", "app.tenant"]);
    }
}
