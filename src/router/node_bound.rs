//! What ties a statement to the home node: functions and types that the nodes do not share.
//!
//! A function the server came with, and that reads and changes nothing but its arguments, may run
//! beside a shard. A sequence, an advisory lock or a large object is one thing only on one node, and
//! so is everything that CREATE FUNCTION and CREATE TYPE have made: those live on the home node.

use std::ops::ControlFlow;

use crate::sql::tree::{Recurse, walk};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::analyze::{Context, refused};
use super::objects::written;
use super::plan::Kind;
use super::set_config;

/// What a statement cannot leave the home node with.
pub enum Bound {
    /// It must run there, for this.
    Home(String),
    /// It cannot run at all.
    Refused(Box<Kind>),
}

/// The first thing that binds the statement, a refusal before all else.
pub fn bound(node: Node<'_>, cx: Context<'_>) -> Option<Bound> {
    let mut home = None;
    if set_config::updates_settings(node)
        && let Some(bound) = set_config::bound_by_update(cx)
    {
        return Some(bound);
    }
    let refused = walk(node, |n| {
        let found = match n {
            Node::FuncCall(f) => function(f, node, cx),
            n if set_config::updates_settings(n) => set_config::bound_by_update(cx),
            Node::TypeName(t) => of_type(t).map(Bound::Home),
            Node::CollateClause(c) if c.collname().len() > 1 => None,
            _ => None,
        };
        match found {
            Some(Bound::Refused(kind)) => return ControlFlow::Break(kind),
            Some(Bound::Home(what)) => {
                home.get_or_insert(what);
            }
            None => {}
        }
        Recurse::yes()
    });
    refused.map(Bound::Refused).or_else(|| home.map(Bound::Home))
}

/// Schema and name of a function call.
pub fn name_of(f: &nodes::FuncCall) -> Option<(Option<&str>, &str)> {
    let parts = f.funcname();
    match parts.len() {
        1 => Some((None, parts.get(0)?.as_str()?)),
        2 => match (parts.get(0)?, parts.get(1)?) {
            (Node::String(s), Node::String(n)) => Some((s.sval(), n.sval()?)),
            _ => None,
        },
        _ => None,
    }
}

/// How a function call binds the statement it is `within`.
fn function(f: &nodes::FuncCall, within: Node<'_>, cx: Context<'_>) -> Option<Bound> {
    let no = |what: &str, hint: &str| Some(Bound::Refused(Box::new(refused(what, hint))));
    let name = match name_of(f) {
        Some((schema, name))
            if schema.is_none_or(|s| s == "pg_catalog") && cx.functions.is_builtin(name) =>
        {
            name
        }
        Some((_, name)) => {
            let hidden = super::hidden::function(name, cx.names);
            let home = || Bound::Home(format!("function {name}"));
            return Some(hidden.map_or_else(home, |kind| Bound::Refused(Box::new(kind))));
        }
        None => return Some(Bound::Home("a function of another database".to_owned())),
    };
    let distributed = cx.names.routes.tables().next().is_some();
    match name {
        "set_config" => set_config::bound(f, within, cx),
        "setval" if moves_a_slot(f, cx) => no(
            "the sequence of a distributed table cannot be set",
            "Each node draws its own values from it, so that they never collide. ALTER SEQUENCE ... RESTART WITH \
             raises it on all of them.",
        ),
        _ if distributed && reads_by_name(name, f.args().len()) => no(
            &format!("function {name} would read distributed tables on one node only"),
            "Query the table itself.",
        ),
        _ if cx.functions.is_free(name) => None,
        _ => Some(Bound::Home(format!("function {name}"))),
    }
}

/// Built-in functions that read a table or run a query whose name or text they are given.
pub fn reads_by_name(name: &str, arguments: usize) -> bool {
    ["query_to_xml", "table_to_xml", "schema_to_xml", "database_to_xml", "cursor_to_xml", "ts_stat"]
        .iter()
        .any(|p| name.starts_with(p))
        || name == "ts_rewrite" && arguments == 2
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
    let mut sequences = cx.names.routes.sequences();
    // A number is one that the sequence has in the catalog.
    let text = text.filter(|t| !t.trim().bytes().all(|b| b.is_ascii_digit()));
    match text.and_then(|t| written(t.to_owned())) {
        Some(w) => cx.names.is_among(w.schema.as_deref(), &w.name, sequences),
        None => sequences.next().is_some(),
    }
}

/// The session's parameters that say what its texts mean.
pub const READING: [&str; 4] =
    ["search_path", "standard_conforming_strings", "client_encoding", "session_replication_role"];

/// Whether a default for this parameter would change what texts mean without the session's doing.
pub fn changes_reading(name: &str) -> bool {
    READING.contains(&name) || name == "role"
}

/// Whether texts under this setting mean what they mean to the planner.
pub fn reads_alike(name: &str, value: &str) -> bool {
    match name.to_ascii_lowercase().as_str() {
        "client_encoding" => {
            let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
            matches!(plain.to_ascii_lowercase().as_str(), "utf8" | "unicode" | "sqlascii")
        }
        // As parse_bool: any beginning of these words.
        "standard_conforming_strings" => {
            let value = value.trim().to_ascii_lowercase();
            value == "on"
                || value == "1"
                || !value.is_empty() && ("true".starts_with(&value) || "yes".starts_with(&value))
        }
        _ => true,
    }
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
