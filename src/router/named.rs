//! What of the cluster's own a utility statement reaches.

use pg_raw_parse::raw::AlterTableType as Alter;
use pg_raw_parse::{Node, nodes};

use super::context::Context;
use super::facts::Facts;
use super::objects::{self, Written};
use super::scope::{Named, Names};
use super::tables::Tables;
use crate::topology::{Schema, leaf_schema};

/// The first thing found that is more than the home node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    Nothing,
    /// A distributed table, by its name.
    Table(String),
    /// A reference table.
    Reference(String),
    /// An index of one.
    Index(String),
    /// A sequence of one.
    Sequence(String),
    /// A schema of pgshunt's own.
    Ours(String),
    /// It could be a distributed table or one that hides it.
    Unclear(String),
}

pub fn reached(node: Node<'_>, cx: Context<'_>) -> Reached {
    let names = cx.names;
    if names.schema.is_plain() {
        return Reached::Nothing;
    }
    let found = objects::of(node);
    for written in &found.relations {
        match of_relation(written, names) {
            Reached::Nothing => {}
            Reached::Reference(_) if refers(node, names) => {}
            reached => return reached,
        }
    }
    for query in found.queries {
        let tables = Tables::of(&Facts::of(query, names, cx.functions), names);
        if let Some(name) = tables.unclear {
            return Reached::Unclear(name);
        }
        if let Some(shard) = tables.leaf {
            return Reached::Ours(format!("shard_{shard}"));
        }
        if tables.distributed || tables.reference {
            let text = cx.own_text();
            let name = in_code(text, names, &[]).or_else(|| names_a_table(text, names.schema));
            return Reached::Table(name.unwrap_or_default());
        }
    }
    if found.by_words {
        let text = cx.own_text();
        return in_code(text, names, &parameters(node)).map_or(Reached::Nothing, Reached::Table);
    }
    Reached::Nothing
}

/// The statement makes a local table, or gives one a constraint: what it says of a reference table is a foreign
/// key, which the home node can check by what it has.
fn refers(node: Node<'_>, names: Names<'_>) -> bool {
    let local = |rv: Option<&nodes::RangeVar>| {
        rv.is_some_and(|rv| matches!(names.look_up(rv), Named::Local))
    };
    match node {
        Node::CreateStmt(s) => s.inh_relations().is_empty() && local(s.relation()),
        Node::AlterTableStmt(s) => {
            let adds = |c: Node<'_>| {
                matches!(c, Node::AlterTableCmd(c)
                    if matches!(c.subtype, Alter::AT_AddConstraint | Alter::AT_AddColumn))
            };
            local(s.relation()) && s.cmds().iter().all(adds)
        }
        _ => false,
    }
}

fn of_relation(written: &Written, names: Names<'_>) -> Reached {
    let (schema, name) = (written.schema.as_deref(), written.name.as_str());
    match schema {
        Some(s) if s.starts_with("pg_temp") => return Reached::Nothing,
        Some(s) if s == "pgshunt" || leaf_schema(s).is_some() => {
            return Reached::Ours(s.to_owned());
        }
        None if names.path.is_some_and(|p| p.iter().any(|s| leaf_schema(s).is_some())) => {
            return Reached::Unclear(name.to_owned());
        }
        _ => {}
    }
    match names.look_up_name(schema, name) {
        Named::Distributed(table) => return Reached::Table(table.name.clone()),
        Named::Reference(table) => return Reached::Reference(table.name.clone()),
        Named::Leaf(shard) => return Reached::Ours(format!("shard_{shard}")),
        Named::Unclear(name) => return Reached::Unclear(name),
        Named::Local => {}
    }
    let of = if names.is_among(schema, name, names.schema.sequences()) {
        Reached::Sequence
    } else if names.is_among(schema, name, names.schema.indexes()) {
        Reached::Index
    } else {
        return Reached::Nothing;
    };
    let hidden = schema.is_none() && names.temporary;
    if hidden { Reached::Unclear(name.to_owned()) } else { of(name.to_owned()) }
}

/// The first distributed table, or sequence of one, that code names where the session would find it.
fn in_code(text: &[u8], names: Names<'_>, parameters: &[&str]) -> Option<String> {
    let cluster = names.schema;
    let tables = cluster.tables().map(|t| (t.schema.as_str(), t.name.as_str()));
    let escaped = has_escapes(text);
    tables
        .chain(cluster.sequences())
        .find(|(schema, name)| {
            let seen = names.sees(schema);
            let parameter = parameters.iter().any(|p| p.eq_ignore_ascii_case(name));
            escaped && seen
                || is_said(text, name, |before| match qualifier(before) {
                    Some(of) => same(of, schema),
                    None => seen && (!parameter || is_place_of_table(before)),
                })
        })
        .map(|(_, name)| name.to_owned())
}

/// The first distributed table whose name stands in the text as a word.
pub fn names_a_table(text: &[u8], cluster: &Schema) -> Option<String> {
    let escaped = has_escapes(text);
    let table = cluster.tables().find(|t| escaped || is_said(text, &t.name, |_| true))?;
    Some(table.name.clone())
}

/// `U&"..."` and `U&'...'` may spell any name with escapes.
fn has_escapes(text: &[u8]) -> bool {
    text.windows(3).any(|w| {
        w[0].eq_ignore_ascii_case(&b'u') && w[1] == b'&' && (w[2] == b'"' || w[2] == b'\'')
    })
}

fn same(written: &[u8], schema: &str) -> bool {
    written.eq_ignore_ascii_case(schema.replace('"', "\"\"").as_bytes())
}

/// Whether the name stands in the text as a word, behind what is right.
fn is_said(text: &[u8], name: &str, right: impl Fn(&[u8]) -> bool) -> bool {
    /// A longer identifier is cut to this (`NAMEDATALEN - 1`).
    const LONGEST: usize = 63;
    // Between quotes, a quote is written twice.
    let word = name.replace('"', "\"\"");
    let word = word.as_bytes();
    if word.is_empty() {
        return false;
    }
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80;
    let ends = |at: usize| text.get(at).is_none_or(|&b| !is_word(b));
    text.windows(word.len()).enumerate().any(|(at, w)| {
        w.eq_ignore_ascii_case(word)
            && (at == 0 || !is_word(text[at - 1]))
            && (name.len() >= LONGEST - 3 || ends(at + word.len()))
            && right(&text[..at])
    })
}

/// The word before a dot at the end of the text, without its quotes.
fn qualifier(before: &[u8]) -> Option<&[u8]> {
    let before = before.strip_suffix(b"\"").unwrap_or(before).trim_ascii_end();
    let before = before.strip_suffix(b".")?.trim_ascii_end();
    if let Some(quoted) = before.strip_suffix(b"\"") {
        let from = quoted.iter().rposition(|&b| b == b'"').map_or(0, |at| at + 1);
        return Some(&quoted[from..]);
    }
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'$' || *b >= 0x80;
    let from = before.iter().rposition(|b| !is_word(b)).map_or(0, |at| at + 1);
    Some(&before[from..])
}

/// Whether what comes next is a table's name, and cannot be a parameter's.
fn is_place_of_table(before: &[u8]) -> bool {
    let before = before.strip_suffix(b"\"").unwrap_or(before).trim_ascii_end();
    let from = before.iter().rposition(|b| !b.is_ascii_alphabetic()).map_or(0, |at| at + 1);
    let words =
        ["from", "join", "into", "update", "table", "only", "using", "truncate", "lock", "copy"];
    words.iter().any(|w| before[from..].eq_ignore_ascii_case(w.as_bytes()))
}

/// The names of a function's parameters, which its code uses as if they were columns.
fn parameters(node: Node<'_>) -> Vec<&str> {
    let Node::CreateFunctionStmt(f) = node else { return Vec::new() };
    f.parameters().iter().filter_map(|p| p.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_parts_of_others_and_from_what_is_qualified_otherwise() {
        let said = |text: &str, name: &str| {
            is_said(text.as_bytes(), name, |before| {
                qualifier(before).is_none_or(|of| same(of, "app"))
            })
        };
        for text in ["SELECT 1 FROM d", "d", "(D)", "app.d", "\"app\".\"d\"", "App . d", "x.y; d"] {
            assert!(said(text, "d"), "{text}");
        }
        for text in ["dd", "d_", "hers.d", "x.d", "\"my app\".d", "", "1d", "\"hers\" . \"d\""] {
            assert!(!said(text, "d"), "{text}");
        }
        assert!(said("SELECT FROM \"q\"\"\"", "q\""));
        assert!(!said("SELECT FROM \"q\"", "q\""));
        assert!(!said("CREATE TABLE x (a text DEFAULT '\"')", "q\""));
    }
}
