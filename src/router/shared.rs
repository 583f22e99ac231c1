//! What tables may use and every node has: schemas, enums, extensions.
//!
//! Such a statement is carried out by each node, as the client, within one transaction: on the home node first, whose
//! answer is the client's. What there was on the home node alone before stays there: the others are told to make what
//! is not there, and to change or drop what is. (docs/decisions/2026-12-01-what-is-made-on-all-nodes.md)

use pg_raw_parse::raw::{DropBehavior, ObjectType, RoleSpecType};
use pg_raw_parse::{Node, nodes};
use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};

use super::context::Context;
use super::ddl::stay;
use super::plan::{Ddl, Kind, OnEach};
use crate::topology::leaf_schema;

/// What the other nodes are sent.
enum Others {
    /// The client's own text.
    Same,
    Sent(String),
    /// The client's text, if this is true there.
    If(String),
}

/// How a statement about such an object is carried out; `None`: it is about none, or the home node's own.
pub fn of(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    if cx.names.schema.is_plain() || !cx.has_several_nodes() {
        return None;
    }
    let others = match node {
        Node::CreateEnumStmt(s) => {
            let name: Option<Vec<&str>> = s.type_name().iter().map(|n| n.sval()).collect();
            is_kept(&name?).then_some(Others::Same)?
        }
        Node::AlterEnumStmt(s) => if_type(s.type_name().iter().map(|n| n.sval()))?,
        Node::CreateSchemaStmt(s) => create_schema(s)?,
        Node::CreateExtensionStmt(s) => {
            let name = literal(s.extname()?);
            Others::If(format!(
                "NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = {name})"
            ))
        }
        Node::AlterExtensionStmt(s) => {
            let name = literal(s.extname()?);
            Others::If(format!(
                "EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = {name})"
            ))
        }
        Node::RenameStmt(s) => match s.rename_type {
            ObjectType::OBJECT_TYPE => {
                if_type(s.object().as_node_list()?.iter().map(Node::as_str))?
            }
            ObjectType::OBJECT_SCHEMA => Others::If(there("regnamespace", &ident(s.subname()?))),
            _ => return None,
        },
        Node::AlterObjectSchemaStmt(s) if s.object_type == ObjectType::OBJECT_TYPE => {
            if_type(s.object().as_node_list()?.iter().map(Node::as_str))?
        }
        Node::AlterOwnerStmt(s) if s.object_type == ObjectType::OBJECT_TYPE => {
            if_type(s.object().as_node_list()?.iter().map(Node::as_str))?
        }
        Node::DropStmt(s) => drop(s)?,
        _ => return None,
    };
    let each = match others {
        Others::Same => stay(Vec::new(), cx),
        Others::Sent(text) => OnEach { others: Some(text), ..stay(Vec::new(), cx) },
        Others::If(condition) => {
            let own = String::from_utf8_lossy(cx.own_text()).into_owned();
            let code = format!("BEGIN IF {condition} THEN\n{own}\n; END IF; END");
            let text = format!("DO LANGUAGE plpgsql {}", literal(&code));
            OnEach { others: Some(text), ..stay(Vec::new(), cx) }
        }
    };
    Some(Kind::Ddl(Ddl::Each(each.into())))
}

/// It is not the session's own.
fn is_kept(name: &[&str]) -> bool {
    match name {
        [schema, _] => !schema.starts_with("pg_temp"),
        [_] => true,
        _ => false,
    }
}

fn quoted(name: &[&str]) -> String {
    name.iter().map(|part| ident(part)).collect::<Vec<_>>().join(".")
}

/// `kind`: regtype and the like.
fn there(kind: &str, name: &str) -> String {
    format!("pg_catalog.to_{kind}({}) IS NOT NULL", literal(name))
}

fn if_type<'a>(name: impl Iterator<Item = Option<&'a str>>) -> Option<Others> {
    let name: Vec<&str> = name.collect::<Option<_>>()?;
    is_kept(&name).then(|| Others::If(there("regtype", &quoted(&name))))
}

fn create_schema(s: &nodes::CreateSchemaStmt) -> Option<Others> {
    let role = match s.authrole() {
        Some(role) if role.roletype == RoleSpecType::ROLESPEC_CSTRING => Some(role.rolename()?),
        // CURRENT_USER and the like are the same role on every node.
        Some(_) => return None,
        None => None,
    };
    if !s.schema_elts().is_empty() {
        return None;
    }
    let owner = role.map(|r| format!(" AUTHORIZATION {}", ident(r))).unwrap_or_default();
    // What is pgshunt's own is refused where it is used.
    let ours = |name: &&str| *name == "pgshunt" || leaf_schema(name).is_some();
    let name = s.schemaname().or(role).filter(|name| !ours(name))?;
    Some(Others::Sent(format!("CREATE SCHEMA IF NOT EXISTS {}{owner}", ident(name))))
}

fn drop(s: &nodes::DropStmt) -> Option<Others> {
    let (what, names): (&str, Vec<String>) = match s.remove_type {
        ObjectType::OBJECT_TYPE => {
            let name = |n: Node<'_>| {
                let Node::TypeName(t) = n else { return None };
                let parts: Vec<&str> = t.names().iter().map(|p| p.sval()).collect::<Option<_>>()?;
                is_kept(&parts).then(|| quoted(&parts))
            };
            ("TYPE", s.objects().iter().map(name).collect::<Option<_>>()?)
        }
        ObjectType::OBJECT_SCHEMA | ObjectType::OBJECT_EXTENSION => {
            let names = s.objects().iter().map(|n| n.as_str().map(ident));
            let is_schema = s.remove_type == ObjectType::OBJECT_SCHEMA;
            (if is_schema { "SCHEMA" } else { "EXTENSION" }, names.collect::<Option<_>>()?)
        }
        _ => return None,
    };
    let how = if s.behavior == DropBehavior::DROP_CASCADE { " CASCADE" } else { "" };
    Some(Others::Sent(format!("DROP {what} IF EXISTS {}{how}", names.join(", "))))
}
