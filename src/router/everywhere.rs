//! What becomes of a utility statement that reaches what is on all nodes: DDL, which pgshunt carries out on
//! all of them, or a refusal.

use pg_raw_parse::Node;
use pg_raw_parse::raw::{
    AlterTableType as Alter, DropBehavior, ObjectType, PublicationObjSpecType, ReindexObjectType,
};

use super::context::{Context, is_temporary, refused, refused_only};
use super::named::{Reached, reached};
use super::objects::only_restarts;
use super::plan::{Ddl, Kind};
use super::scope::Named;
use super::{ddl, maintain, shared};
use crate::topology::leaf_schema;

/// Where the statement runs; `None`: it is about the home node's own.
pub fn place(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    if let Node::TruncateStmt(s) = node
        && let Some(name) = s.relations().iter().find_map(|n| only_of_distributed(n, cx))
    {
        return Some(refused_only(&name));
    }
    let found = takes_names(node, cx).or_else(|| reaches_unnamed(node, cx));
    found.or_else(|| shared::of(node, cx)).or_else(|| of_reached(node, cx))
}

/// The distributed table that `ONLY` is said of.
fn only_of_distributed(n: Node<'_>, cx: Context<'_>) -> Option<String> {
    let Node::RangeVar(rv) = n else { return None };
    match cx.names.look_up(rv) {
        Named::Distributed(table) if !rv.inh => Some(table.name.clone()),
        _ => None,
    }
}

/// What a statement is that names something on all nodes; `None`: it is the home node's.
fn of_reached(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    Some(match reached(node, cx) {
        Reached::Nothing => return None,
        // What an object is for is asked of the home node.
        Reached::Table(_) | Reached::Index(_) | Reached::Sequence(_)
            if matches!(node, Node::CommentStmt(_)) =>
        {
            return None;
        }
        Reached::Sequence(_) if matches!(node, Node::AlterSeqStmt(s) if only_restarts(s)) => {
            Kind::Ddl(Ddl::Alone)
        }
        Reached::Table(table) => match (maintain::of(node, cx), ddl::of(node, cx)) {
            (Some(kind), _) => kind,
            (None, Some(ddl)) => Kind::Ddl(ddl),
            (None, None) => refused(
                format!("this statement on the distributed table \"{table}\" is not supported"),
                advice(node),
            ),
        },
        Reached::Reference(_) if matches!(node, Node::CommentStmt(_)) => return None,
        // Owner, row security and policies are brought from the home node.
        Reached::Reference(_) if is_access(node) => Kind::Ddl(Ddl::Alone),
        Reached::Reference(table) => {
            match (maintain::of(node, cx), ddl::of(node, cx).and_then(Ddl::on_each)) {
                (Some(kind), _) => kind,
                (None, Some(ddl)) => Kind::Ddl(ddl),
                (None, None) => refused(
                    format!("this statement on the reference table \"{table}\" is not supported"),
                    advice(node),
                ),
            }
        }
        Reached::Index(index) => match (maintain::of(node, cx), ddl::drop_index(node, cx)) {
            (Some(kind), _) => kind,
            (None, Some(ddl)) => Kind::Ddl(ddl),
            (None, None) => refused(
                format!(
                    "this statement on \"{index}\", an index of a distributed table, is not supported"
                ),
                advice(node),
            ),
        },
        Reached::Sequence(sequence) => refused(
            format!(
                "this statement on \"{sequence}\", the sequence of a distributed table, is not supported"
            ),
            "Each node draws its own values from it, so that they never collide. ALTER SEQUENCE ... RESTART \
             reaches all nodes.",
        ),
        Reached::Ours(schema) => ours(&schema),
        Reached::Unclear(name) => refused(
            format!("cannot tell which table \"{name}\" means"),
            "The session has its own search_path, temporary tables or encoding, or there are tables of this \
             name in several schemas: write the schema before the table's name.",
        ),
    })
}

/// Whether a statement on a table says who may do what with it, and nothing else.
fn is_access(node: Node<'_>) -> bool {
    let access = |c: Node<'_>| {
        matches!(c, Node::AlterTableCmd(c) if matches!(
            c.subtype,
            Alter::AT_ChangeOwner
                | Alter::AT_EnableRowSecurity
                | Alter::AT_DisableRowSecurity
                | Alter::AT_ForceRowSecurity
                | Alter::AT_NoForceRowSecurity
        ))
    };
    match node {
        Node::AlterTableStmt(s) => s.cmds().iter().all(access),
        Node::DropStmt(d) => d.remove_type == ObjectType::OBJECT_POLICY,
        _ => false,
    }
}

/// What else can be done. Only what leaves rows and definitions alone may be done on one node after another.
fn advice(node: Node<'_>) -> &'static str {
    match node {
        Node::ViewStmt(_)
        | Node::CreateTableAsStmt(_)
        | Node::RefreshMatViewStmt(_)
        | Node::RuleStmt(_)
        | Node::CreateTrigStmt(_)
        | Node::CreateFunctionStmt(_)
        | Node::DoStmt(_)
        | Node::CallStmt(_)
        | Node::PrepareStmt(_) => {
            "It would see the rows of one node only. Send queries on the table as statements of their own."
        }
        Node::LockStmt(_) => {
            "It would lock the home node's part only. SELECT ... FOR UPDATE locks rows."
        }
        _ => "It would change the home node only.",
    }
}

/// What would make a relation that is called like a distributed table, which a search_path may find first.
fn takes_names(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    let cluster = cx.names.schema;
    if cluster.is_plain() {
        return None;
    }
    let new = match node {
        Node::CreateStmt(s) => s.relation(),
        Node::ViewStmt(s) => s.view(),
        Node::CreateTableAsStmt(s) => s.into().and_then(|i| i.rel()),
        _ => None,
    };
    if let Some(new) = new
        && let Some(name) = new.relname()
        && cluster.any_table_named(name)
        && !is_temporary(new)
    {
        // It is in the way, and PostgreSQL says so.
        if new.schemaname().is_some_and(|s| cluster.table_by_name(s, name).is_some()) {
            return Some(Kind::Home);
        }
        // Made by a statement that tells the router.
        return Some(match node {
            Node::CreateStmt(_) => Kind::Ddl(Ddl::Alone),
            _ => namesake(name),
        });
    }
    match node {
        Node::CreateSchemaStmt(s) => {
            let taken = s.schema_elts().iter().find_map(|e| takes_names(e, cx))?;
            Some(match taken {
                Kind::Ddl(_) => refused(
                    "CREATE SCHEMA would make a table that is called like a distributed one",
                    "Create the table by a statement of its own.",
                ),
                kind => kind,
            })
        }
        Node::RenameStmt(r) if r.relation().is_some() => match r.rename_type {
            ObjectType::OBJECT_TABLE
            | ObjectType::OBJECT_VIEW
            | ObjectType::OBJECT_MATVIEW
            | ObjectType::OBJECT_FOREIGN_TABLE => {
                r.newname().filter(|name| cluster.any_table_named(name)).map(namesake)
            }
            _ => None,
        },
        Node::AlterObjectSchemaStmt(a)
            if a.newschema().is_some_and(|s| leaf_schema(s).is_some() || s == "pgshunt") =>
        {
            Some(ours(a.newschema().unwrap_or_default()))
        }
        Node::AlterObjectSchemaStmt(a) => {
            let name = a.relation().and_then(|r| r.relname())?;
            let local = matches!(cx.names.look_up(a.relation()?), Named::Local);
            (local && cluster.any_table_named(name)).then(|| namesake(name))
        }
        _ => None,
    }
}

fn ours(schema: &str) -> Kind {
    refused(
        format!("schema \"{schema}\" belongs to pgshunt"),
        "What is in it follows the distributed tables: change those.",
    )
}

fn namesake(name: &str) -> Kind {
    refused(format!("\"{name}\" is the name of a distributed table"), "Choose another name.")
}

/// Statements that reach distributed tables without naming one.
pub fn reaches_unnamed(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    let cluster = cx.names.schema;
    cluster.tables().next()?;
    let holds = |schema: &str| cluster.tables().any(|t| t.schema == schema);
    let no = |what: &str, hint: &str| Some(refused(what, hint));
    match node {
        Node::VacuumStmt(v) if v.rels().is_empty() => maintain::of(node, cx),
        Node::ClusterStmt(c) if c.relation().is_none() => maintain::of(node, cx),
        Node::ReindexStmt(r) if r.kind == ReindexObjectType::REINDEX_OBJECT_SCHEMA => {
            r.name().is_some_and(holds).then(|| {
                refused(
                    "REINDEX of a schema with distributed tables is not supported",
                    "Their shards are in schemas of their own. Name the tables, or the database.",
                )
            })
        }
        Node::ReindexStmt(r) if r.relation().is_none() => maintain::of(node, cx),
        Node::CreatePublicationStmt(p)
            if p.for_all_tables || p.pubobjects().iter().any(|o| publishes(o, holds)) =>
        {
            no(
                "a publication of distributed tables would publish the home node's rows only",
                "Publish tables of the home node by their names.",
            )
        }
        Node::AlterPublicationStmt(p)
            if p.for_all_tables || p.pubobjects().iter().any(|o| publishes(o, holds)) =>
        {
            no(
                "a publication of distributed tables would publish the home node's rows only",
                "Publish tables of the home node by their names.",
            )
        }
        Node::DropStmt(d)
            if d.behavior == DropBehavior::DROP_CASCADE
                && cluster.needs_others()
                && !is_relation(d.remove_type) =>
        {
            no(
                "DROP ... CASCADE might reach distributed tables on the home node only",
                "Some of them use functions or types of yours. Leave CASCADE away, and drop what depends on it first.",
            )
        }
        _ => None,
    }
}

/// TABLES IN SCHEMA of one that holds distributed tables, or of the current one.
fn publishes(object: Node<'_>, holds: impl Fn(&str) -> bool) -> bool {
    let Node::PublicationObjSpec(o) = object else { return false };
    match o.pubobjtype {
        PublicationObjSpecType::PUBLICATIONOBJ_TABLES_IN_SCHEMA => o.name().is_none_or(holds),
        PublicationObjSpecType::PUBLICATIONOBJ_TABLES_IN_CUR_SCHEMA => true,
        _ => false,
    }
}

fn is_relation(kind: ObjectType::Type) -> bool {
    matches!(
        kind,
        ObjectType::OBJECT_TABLE
            | ObjectType::OBJECT_VIEW
            | ObjectType::OBJECT_MATVIEW
            | ObjectType::OBJECT_INDEX
            | ObjectType::OBJECT_SEQUENCE
            | ObjectType::OBJECT_TRIGGER
            | ObjectType::OBJECT_RULE
            | ObjectType::OBJECT_POLICY
    )
}
