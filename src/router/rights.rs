//! Which statements about who may do what reach all nodes.
//!
//! Parents, leaves and sequences of distributed tables, their schemas, the database, and what every
//! server comes with are on all nodes: what is granted on those is granted everywhere, by a
//! statement of its own (`catalog::ddl`). What CREATE makes otherwise is on the home node alone, and
//! so are its grants, which may stand in a transaction. ALTER DEFAULT PRIVILEGES is about what will be
//! made, and that is made at home first. Of types it counts only who may use them in a definition.

#![expect(unsafe_code, reason = "two lists of the parser are one type that it has no name for")]

use pg_raw_parse::list::{CastNodeList, NodeList};
use pg_raw_parse::raw::{GrantTargetType, ObjectType};
use pg_raw_parse::{Node, nodes};

use super::context::{Context, refused};
use super::plan::{Ddl, Kind};
use super::scope::{Named, leaf_schema};
use crate::sql::tree;

/// Where the statement runs; `None`: it is about something else.
pub fn place(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    match node {
        Node::GrantStmt(g) => Some(grant(g, cx)),
        Node::AlterDefaultPrivilegesStmt(_) => Some(Kind::Home),
        Node::AlterOwnerStmt(a) => match a.object_type {
            ObjectType::OBJECT_SCHEMA => Some(schemas(a.object().as_str().into_iter(), cx)),
            ObjectType::OBJECT_DATABASE => Some(everywhere(cx.has_several_nodes())),
            _ => None,
        },
        Node::ReassignOwnedStmt(_) | Node::DropOwnedStmt(_) => {
            // Of another database nothing is on the other nodes.
            Some(everywhere(
                !cx.names.schema.is_plain() && (cx.has_several_nodes() || cx.distributes()),
            ))
        }
        Node::AlterDatabaseSetStmt(_) => Some(everywhere(cx.has_several_nodes())),
        Node::CreatePolicyStmt(p) => policy(p.table(), cx),
        Node::AlterPolicyStmt(p) => policy(p.table(), cx),
        _ => None,
    }
}

fn everywhere(it_is: bool) -> Kind {
    if it_is { Kind::Ddl(Ddl::Alone) } else { Kind::Home }
}

fn grant(g: &nodes::GrantStmt, cx: Context<'_>) -> Kind {
    let by_name = g.targtype == GrantTargetType::ACL_TARGET_OBJECT;
    match g.objtype {
        ObjectType::OBJECT_TABLE | ObjectType::OBJECT_SEQUENCE if by_name => relations(g, cx),
        ObjectType::OBJECT_TABLE | ObjectType::OBJECT_SEQUENCE | ObjectType::OBJECT_SCHEMA => {
            schemas(list(g.objects()).iter().filter_map(Node::as_str), cx)
        }
        ObjectType::OBJECT_FUNCTION | ObjectType::OBJECT_PROCEDURE | ObjectType::OBJECT_ROUTINE => {
            let built_in = |n: Node<'_>| match n {
                Node::ObjectWithArgs(f) => {
                    let mut name = f.objname().iter().filter_map(Node::as_str);
                    match (name.next(), name.next()) {
                        (Some(schema), Some(_)) => is_system(schema),
                        (Some(name), None) => cx.functions.is_builtin(name),
                        _ => false,
                    }
                }
                // ALL FUNCTIONS IN SCHEMA
                other => other.as_str().is_some_and(is_system),
            };
            let cluster = cx.names.schema;
            let ours = cx.has_several_nodes() && !cluster.is_plain();
            everywhere(ours && list(g.objects()).iter().any(built_in))
        }
        // All databases of a server share these.
        ObjectType::OBJECT_DATABASE | ObjectType::OBJECT_PARAMETER_ACL => {
            everywhere(cx.has_several_nodes())
        }
        _ => Kind::Home,
    }
}

/// The objects of a GRANT. Their nodes' type depends on the kind of object.
fn list(objects: &CastNodeList<nodes::RangeVar>) -> &NodeList {
    // SAFETY: a `CastNodeList` is `repr(transparent)` over the `NodeList` it was made from, and says
    // nothing but what its elements are believed to be, which is not so here.
    unsafe { &*std::ptr::from_ref(objects).cast::<NodeList>() }
}

fn relations(g: &nodes::GrantStmt, cx: Context<'_>) -> Kind {
    let cluster = cx.names.schema;
    let mut all = false;
    for n in list(g.objects()).iter() {
        let Node::RangeVar(table) = n else { return Kind::Ddl(Ddl::Alone) };
        let name = table.relname().unwrap_or_default();
        let schema = table.schemaname();
        if schema.is_some_and(|s| s.starts_with("pg_temp")) {
            continue;
        }
        if schema.is_some_and(|s| leaf_schema(s).is_some()) && !cluster.is_plain() {
            return of_a_shard();
        }
        let may_be_distributed = match cx.names.look_up(table) {
            Named::Distributed(_) | Named::Reference(_) | Named::Leaf(_) | Named::Unclear(_) => {
                true
            }
            Named::Local => cx.names.is_among(schema, name, cluster.sequences()),
        };
        if may_be_distributed && cx.names.temporary && schema.is_none() {
            return refused(
                format!("cannot tell which table \"{name}\" means"),
                "The session may have temporary tables: write the schema before the table's name.",
            );
        }
        let system = schema.map_or_else(|| name.starts_with("pg_"), is_system);
        all |= may_be_distributed || system && cx.has_several_nodes() && !cluster.is_plain();
    }
    everywhere(all)
}

/// What is about these schemas, or about all that is in them.
fn schemas<'a>(names: impl Iterator<Item = &'a str>, cx: Context<'_>) -> Kind {
    let cluster = cx.names.schema;
    if cluster.is_plain() {
        return Kind::Home;
    }
    let mut all = false;
    for name in names {
        if leaf_schema(name).is_some() {
            return of_a_shard();
        }
        all |=
            cluster.tables().any(|t| t.schema == name) || is_system(name) && cx.has_several_nodes();
    }
    everywhere(all)
}

fn is_system(schema: &str) -> bool {
    schema == "pg_catalog" || schema == "information_schema"
}

fn of_a_shard() -> Kind {
    refused(
        "a shard cannot have grants of its own",
        "Shards have the owner and the grants of their table: change those.",
    )
}

/// A policy of a distributed table; one of another may name a distributed table.
fn policy(table: Option<&nodes::RangeVar>, cx: Context<'_>) -> Option<Kind> {
    match cx.names.look_up(table?) {
        Named::Distributed(_) | Named::Reference(_) => Some(Kind::Ddl(Ddl::Alone)),
        Named::Unclear(_) if !cx.names.temporary => Some(Kind::Ddl(Ddl::Alone)),
        Named::Leaf(_) => Some(of_a_shard()),
        Named::Unclear(_) | Named::Local => None,
    }
}

/// Code whose text has a statement on roles or rights that is for all nodes, or one put together from
/// parts, in a string perhaps. What can be read, and is about the home node only, is not meant.
pub fn are_told_of(cx: Context<'_>) -> bool {
    let text = cx.own_text();
    let words = words(text);
    let is = |at: usize, of: &[&str]| {
        let word = words.get(at).map(|(_, word)| *word);
        word.is_some_and(|w| of.iter().any(|o| o.as_bytes().eq_ignore_ascii_case(w)))
    };
    let mut looked_at = 0;
    for (at, (begins, _)) in words.iter().enumerate() {
        if is(at, &["reassign", "drop"]) && is(at + 1, &["owned"])
            || is(at, &["alter"]) && is(at + 1, &["database"])
            || is(at, &["create", "alter", "drop"])
                && is(at + 1, &["role", "user", "group"])
                && !is(at + 2, &["mapping"])
        {
            return true;
        }
        if is(at, &["grant", "revoke"]) && *begins >= looked_at {
            let rest = &text[*begins..];
            let end = rest.iter().position(|&b| b == b';' || b == b'\'').unwrap_or(rest.len());
            if grants_everywhere(&rest[..end], cx) {
                return true;
            }
            // None begins within it: there is no TO or FROM that it would have.
            looked_at = begins + end;
        }
    }
    false
}

/// Whether a text that nobody reads may be about roles or their rights.
pub fn names_roles(text: &[u8]) -> bool {
    let named = ["role", "user", "group", "grant", "revoke", "owned", "database", "tablespace"];
    words(text)
        .iter()
        .any(|(_, word)| named.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(word)))
}

/// Where each word begins, and the word.
fn words(text: &[u8]) -> Vec<(usize, &[u8])> {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
    let mut at = 0;
    let mut words = Vec::new();
    for word in text.split(|b| !is_word(b)) {
        if !word.is_empty() {
            words.push((at, word));
        }
        at += word.len() + 1;
    }
    words
}

/// Whether what begins with GRANT or REVOKE is more than a word, and not known to be for one node only.
fn grants_everywhere(text: &[u8], cx: Context<'_>) -> bool {
    let Ok(sql) = std::str::from_utf8(text) else { return true };
    if let Ok(parsed) = tree::parse(sql)
        && let Some(statement) = parsed.stmts().next()
    {
        return match statement {
            Node::GrantStmt(g) => !matches!(grant(g, cx), Kind::Home),
            _ => true,
        };
    }
    let whom = |word: &[u8]| word.eq_ignore_ascii_case(b"to") || word.eq_ignore_ascii_case(b"from");
    words(text).into_iter().any(|(_, word)| whom(word))
}
