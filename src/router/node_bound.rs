//! What ties a statement to the home node: functions and types that the nodes do not share.
//!
//! A function the server came with, and that reads and changes nothing but its arguments, may run
//! beside a shard. A sequence, an advisory lock or a large object is one thing only on one node, and
//! so is everything that CREATE FUNCTION and CREATE TYPE have made: those live on the home node.

use pg_raw_parse::{ConstValue, Node, nodes};

use super::context::{Context, refused};
use super::facts::Call;
use super::functions::reads_by_name;
use super::objects::written;
use super::plan::Kind;
use super::{hidden, set_config};

/// What a statement cannot leave the home node with.
pub enum Bound {
    /// It must run there, for this.
    Home(String),
    /// It cannot run at all.
    Refused(Box<Kind>),
}

/// The first thing that binds the query, a refusal before all else.
pub fn bound(cx: Context<'_>) -> Option<Bound> {
    if let Some(kind) = set_config::refused_update(cx) {
        return Some(Bound::Refused(Box::new(kind)));
    }
    let mut home = None;
    for call in &cx.facts.calls {
        match function(call, cx) {
            Some(Bound::Home(what)) => {
                home.get_or_insert(what);
            }
            Some(refused) => return Some(refused),
            None => {}
        }
    }
    home.or_else(|| cx.facts.types.iter().find_map(|t| of_type(t))).map(Bound::Home)
}

/// How a function call binds the query.
fn function(call: &Call<'_>, cx: Context<'_>) -> Option<Bound> {
    let no = |kind: Kind| Some(Bound::Refused(Box::new(kind)));
    let f = call.node;
    let Some(name) = call.name else {
        return Some(Bound::Home("a function of so many names".to_owned()));
    };
    if !call.is_builtin {
        return match hidden::function(name, cx.names) {
            Some(kind) => no(kind),
            None => Some(Bound::Home(format!("function {name}"))),
        };
    }
    match name {
        "set_config" => set_config::refused_call(f, cx).and_then(no),
        "setval" if moves_a_slot(f, cx) => no(refused(
            "the sequence of a distributed table cannot be set",
            "Each node draws its own values from it, so that they never collide. ALTER SEQUENCE ... RESTART WITH \
             raises it on all of them.",
        )),
        _ if reads_by_name(name, f.args().len()) && cx.distributes() => no(refused(
            format!("function {name} would read distributed tables on one node only"),
            "Query the table itself.",
        )),
        _ if cx.functions.is_free(name) => None,
        _ => Some(Bound::Home(format!("function {name}"))),
    }
}

/// Whether a setval() may name the sequence of a distributed table, of which each node has a slot.
fn moves_a_slot(f: &nodes::FuncCall, cx: Context<'_>) -> bool {
    let mut arg = f.args().get(0);
    while let Some(Node::TypeCast(t)) = arg {
        arg = Some(t.arg());
    }
    let text = match arg {
        Some(Node::A_Const(c)) => match c.val() {
            Some(ConstValue::String(s)) => Some(s),
            _ => None,
        },
        _ => None,
    };
    let mut sequences = cx.names.schema.sequences();
    // A number is one that the sequence has in the catalog.
    let text = text.filter(|t| !t.trim().bytes().all(|b| b.is_ascii_digit()));
    match text.and_then(|t| written(t.to_owned())) {
        Some(w) => cx.names.is_among(w.schema.as_deref(), &w.name, sequences),
        None => sequences.next().is_some(),
    }
}

/// Whether a type is the server's own, and its values mean the same on every node.
pub fn is_shared_type(t: &nodes::TypeName) -> bool {
    of_type(t).is_none()
}

/// A type that is not the same on every node, or whose input reads a node's catalog.
fn of_type(t: &nodes::TypeName) -> Option<String> {
    let names: Vec<&str> = t.names().iter().filter_map(|n| n.sval()).collect();
    let name = match names.as_slice() {
        [one] | ["pg_catalog", one] => *one,
        [.., last] => return Some(format!("type {last}")),
        [] => return None,
    };
    let shared = BUILTIN_TYPES.contains(&name.trim_start_matches('_')) && !t.pct_type;
    (!shared).then(|| format!("type {name}"))
}

/// Types whose values mean the same on every node. The reg* types are not among them.
const BUILTIN_TYPES: &[&str] = &[
    "bit",
    "bool",
    "box",
    "bpchar",
    "bytea",
    "char",
    "cidr",
    "circle",
    "date",
    "daterange",
    "datemultirange",
    "float4",
    "float8",
    "inet",
    "int2",
    "int2vector",
    "int4",
    "int4range",
    "int4multirange",
    "int8",
    "int8range",
    "int8multirange",
    "interval",
    "json",
    "jsonb",
    "jsonpath",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "nummultirange",
    "numrange",
    "oid",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "record",
    "refcursor",
    "text",
    "tid",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsmultirange",
    "tsquery",
    "tsrange",
    "tstzmultirange",
    "tstzrange",
    "tsvector",
    "unknown",
    "uuid",
    "varbit",
    "varchar",
    "xid",
    "xid8",
    "xml",
];
