//! DDL that each node carries out within the client's transaction, as a statement of the client's own.
//!
//! The nodes have the same parents, so the same text means the same on all of them, unless it has a value
//! that each would compute for itself: such a text is not among these. What PostgreSQL does not let the
//! owner of a table do in the schemas of the shards is left to `pgshunt.settle` (`catalog::ddl::reserve`),
//! which is called behind the text: an index is made of the parent ONLY, and completed there.

use std::ops::ControlFlow;

use pg_raw_parse::raw::{AlterTableType as Alter, ConstrType, DropBehavior, ObjectType};
use pg_raw_parse::{ConstValue, Node, nodes};
use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};

use super::built_in::is_built_in;
use super::context::Context;
use super::functions::name_of;
use super::mark::MARK;
use super::plan::{Ddl, OnEach, Outcome, Shards};
use super::scope::{Named, leaf_schema};
use crate::sql::tree::{self, Recurse, walk};
use crate::topology::{DistributedTable, GroupId};

/// How a statement that names something on all nodes is carried out, if it is DDL.
pub fn of(node: Node<'_>, cx: Context<'_>) -> Option<Ddl> {
    match node {
        Node::AlterTableStmt(s) => Some(alter_table(s, cx)),
        Node::RenameStmt(s) => Some(rename(s, cx)),
        Node::TruncateStmt(s) => Some(truncate(s, cx)),
        // A declaration: `catalog::ddl::partition`.
        Node::CreateStmt(s) if s.partbound().is_some() => Some(Ddl::Alone),
        Node::LockStmt(s) => lock(s, cx),
        Node::IndexStmt(s) => {
            let own = s.relation().and_then(|r| one(r, cx)).is_some_and(|t| has_own_types(&t));
            Some(create_index(s, cx).map_or(Ddl::Alone, |e| either(e, own)))
        }
        Node::DropStmt(d) if d.remove_type == ObjectType::OBJECT_TABLE => Some(drop_tables(d, cx)),
        Node::DropStmt(d) if d.remove_type == ObjectType::OBJECT_POLICY => Some(Ddl::Alone),
        _ => None,
    }
}

/// `only`: `catalog::ddl` does not know it, or would evaluate with pgshunt's rights what a plain role may have made.
fn either(each: OnEach, only: bool) -> Ddl {
    if only { Ddl::Each(each.into()) } else { Ddl::Either(each.into()) }
}

/// A column of it has a type that not every server comes with.
fn has_own_types(table: &DistributedTable) -> bool {
    /// `FirstNormalObjectId` of PostgreSQL's access/transam.h.
    const FIRST_OWN: u32 = 16_384;
    table.columns.iter().any(|c| c.type_oid >= FIRST_OWN)
}

/// The text as it is; the shards of these groups stay where they are.
pub fn stay(groups: Vec<GroupId>, cx: Context<'_>) -> OnEach {
    OnEach {
        texts: vec![String::from_utf8_lossy(cx.own_text()).into_owned()],
        own: 0,
        only: None,
        others: None,
        shards: Shards::Stay(groups.into()),
        outcome: Outcome::Same,
    }
}

/// Tables of the home node's own among them are locked there only.
fn lock(s: &nodes::LockStmt, cx: Context<'_>) -> Option<Ddl> {
    const MODES: [&str; 8] = [
        "ACCESS SHARE",
        "ROW SHARE",
        "ROW EXCLUSIVE",
        "SHARE UPDATE EXCLUSIVE",
        "SHARE",
        "SHARE ROW EXCLUSIVE",
        "EXCLUSIVE",
        "ACCESS EXCLUSIVE",
    ];
    /// What is stronger keeps a shard from being attached to a node whose leaf would not be locked.
    const LETS_SHARDS_MOVE: i32 = 3;
    let mut tables = Vec::new();
    let mut mixed = false;
    for n in s.relations() {
        let Node::RangeVar(rv) = n else { return None };
        match cx.names.look_up(rv) {
            Named::Distributed(table) if rv.inh => tables.push(table),
            Named::Local => mixed = true,
            _ => return None,
        }
    }
    let group = match groups(&tables)[..] {
        [group] => group,
        [group, ..] if s.mode <= LETS_SHARDS_MOVE => group,
        _ => return None,
    };
    let names: Vec<String> = tables.iter().map(quoted).collect();
    let mode = MODES.get(usize::try_from(s.mode - 1).ok()?)?;
    let nowait = if s.nowait { " NOWAIT" } else { "" };
    let others = mixed.then(|| format!("LOCK TABLE {} IN {mode} MODE{nowait}", names.join(", ")));
    Some(Ddl::Each(OnEach { shards: Shards::Used(group), others, ..stay(Vec::new(), cx) }.into()))
}

impl OnEach {
    /// With pgshunt's own look at what came of it, on each node.
    fn settled(mut self, table: &DistributedTable) -> Self {
        let name = format!("{}.{}", ident(&table.schema), ident(&table.name));
        self.texts.push(format!("SELECT * FROM pgshunt.settle({})", literal(&name)));
        self.outcome = Outcome::Changed(table.id, table.group);
        self
    }
}

/// Tables of the home node's own among them are emptied there only.
fn truncate(s: &nodes::TruncateStmt, cx: Context<'_>) -> Ddl {
    let mut tables = Vec::new();
    let mut mixed = false;
    for n in s.relations() {
        let Node::RangeVar(rv) = n else { return Ddl::Alone };
        match cx.names.look_up(rv) {
            Named::Distributed(table) | Named::Reference(table) if rv.inh => tables.push(table),
            Named::Local => mixed = true,
            _ => return Ddl::Alone,
        }
    }
    let names: Vec<String> = tables.iter().map(quoted).collect();
    let restart = if s.restart_seqs { " RESTART IDENTITY" } else { "" };
    let how = if s.behavior == DropBehavior::DROP_CASCADE { " CASCADE" } else { "" };
    let others = mixed.then(|| format!("TRUNCATE TABLE {}{restart}{how}", names.join(", ")));
    Ddl::Either(OnEach { others, ..stay(groups(&tables), cx) }.into())
}

fn quoted(table: &std::sync::Arc<DistributedTable>) -> String {
    format!("{}.{}", ident(&table.schema), ident(&table.name))
}

fn one(rv: &nodes::RangeVar, cx: Context<'_>) -> Option<std::sync::Arc<DistributedTable>> {
    match cx.names.look_up(rv) {
        Named::Distributed(table) | Named::Reference(table) => Some(table),
        _ => None,
    }
}

fn groups(tables: &[std::sync::Arc<DistributedTable>]) -> Vec<GroupId> {
    let mut groups: Vec<GroupId> = tables.iter().map(|t| t.group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// The text with ONLY before the table's name, if that is what the grammar makes of it, and how many characters
/// stand before it.
fn with_only(relation: &nodes::RangeVar, cx: Context<'_>) -> Option<(String, usize)> {
    let text = std::str::from_utf8(cx.text).ok()?;
    let at = usize::try_from(relation.location).ok()?;
    let (from, to) = cx.span;
    let before = text.get(from..at)?;
    let text = format!("{before}ONLY {}", text.get(at..to)?);
    let parsed = tree::parse(&text).ok()?;
    let relation = match parsed.stmts().next()? {
        Node::IndexStmt(s) => s.relation()?,
        Node::AlterTableStmt(s) => s.relation()?,
        _ => return None,
    };
    (!relation.inh).then(|| (text, before.chars().count()))
}

fn create_index(s: &nodes::IndexStmt, cx: Context<'_>) -> Option<OnEach> {
    let relation = s.relation().filter(|r| r.inh && !s.concurrent && s.table_space().is_none())?;
    let table = one(relation, cx)?;
    let params = s.index_params().iter();
    let alike = params.map(|p| p.expr()).chain([s.where_clause()]).all(|e| reads_alike(e));
    let (text, before) = with_only(relation, cx).filter(|_| alike)?;
    let group = vec![table.group];
    let each = OnEach { texts: vec![text], only: Some(before), ..stay(group, cx) };
    Some(each.settled(&table))
}

fn drop_tables(d: &nodes::DropStmt, cx: Context<'_>) -> Ddl {
    let table = |n: Node<'_>| {
        let parts: Vec<&str> = n.as_node_list()?.iter().map(Node::as_str).collect::<Option<_>>()?;
        let named = match parts[..] {
            [name] => cx.names.look_up_name(None, name),
            [schema, name] => cx.names.look_up_name(Some(schema), name),
            _ => return None,
        };
        match named {
            Named::Distributed(table) | Named::Reference(table) => Some(table),
            _ => None,
        }
    };
    let Some(tables) = d.objects().iter().map(table).collect::<Option<Vec<_>>>() else {
        return Ddl::Alone;
    };
    let outcome = Outcome::Dropped(tables.iter().map(|t| t.id).collect());
    Ddl::Either(OnEach { outcome, ..stay(groups(&tables), cx) }.into())
}

/// How CREATE TABLE .. PARTITION BY HASH is carried out.
pub fn create_table(s: &nodes::CreateStmt, cx: Context<'_>) -> Ddl {
    let own = |n: Node<'_>| {
        let Node::ColumnDef(c) = n else { return false };
        c.type_name().is_none_or(|t| !is_built_in(t))
    };
    match create_within(s, cx) {
        // `catalog::ddl` knows no foreign keys.
        Some(each) => either(each, has_foreign_keys(s) || s.table_elts().iter().any(own)),
        None => Ddl::Alone,
    }
}

/// How CREATE TABLE of a reference table is carried out, if it can be.
pub fn create_reference(s: &nodes::CreateStmt, cx: Context<'_>) -> Option<Ddl> {
    let mut each = create_within(s, cx)?;
    // It has no shards to be made: all nodes have it then.
    each.outcome = Outcome::Made { shards: each.texts.last()?.clone() };
    Some(Ddl::Each(each.into()))
}

fn create_within(s: &nodes::CreateStmt, cx: Context<'_>) -> Option<OnEach> {
    let relation = s.relation().filter(|r| r.relpersistence as u8 == b'p')?;
    let plain = s.partbound().is_none()
        && s.inh_relations().is_empty()
        && s.of_typename().is_none()
        && s.tablespacename().is_none();
    let ours = |s: &str| s == "pgshunt" || leaf_schema(s).is_some();
    if !plain || cx.names.temporary || relation.schemaname().is_some_and(ours) {
        return None;
    }
    let fits = |c: Node<'_>| {
        let Node::Constraint(c) = c else { return false };
        (c.contype != ConstrType::CONSTR_FOREIGN || refers_alike(c, cx))
            && c.indexspace().is_none()
            && reads_alike(c.raw_expr())
            && !draws(c.raw_expr())
    };
    for element in s.table_elts() {
        match element {
            Node::ColumnDef(c) if c.constraints().iter().all(fits) => {}
            Node::Constraint(_) if fits(element) => {}
            _ => return None,
        }
    }
    let name = relation.relname()?;
    let name = match relation.schemaname() {
        Some(schema) => format!("{}.{}", ident(schema), ident(name)),
        None => ident(name),
    };
    let mut each = stay(Vec::new(), cx);
    each.texts.push(format!("SELECT * FROM pgshunt.settle({})", literal(&name)));
    each.outcome =
        Outcome::Made { shards: format!("SELECT pgshunt.make_shards({})", literal(&name)) };
    Some(each)
}

fn has_foreign_keys(s: &nodes::CreateStmt) -> bool {
    let foreign =
        |n: Node<'_>| matches!(n, Node::Constraint(c) if c.contype == ConstrType::CONSTR_FOREIGN);
    s.table_elts().iter().any(|e| match e {
        Node::ColumnDef(c) => c.constraints().iter().any(foreign),
        e => foreign(e),
    })
}

/// A foreign key that each node can check by what it has: it refers to a reference table. An action would reach
/// the copies of a shard that moves.
fn refers_alike(c: &nodes::Constraint, cx: Context<'_>) -> bool {
    let reference = |rv: &nodes::RangeVar| matches!(cx.names.look_up(rv), Named::Reference(_));
    let checks = |action: u8| matches!(action, b'a' | b'r' | 0);
    c.pktable().is_some_and(reference)
        && checks(c.fk_upd_action as u8)
        && checks(c.fk_del_action as u8)
}

/// It draws from a sequence that it names, which the other nodes may not have.
fn draws(expression: Node<'_>) -> bool {
    !all_of(expression, |n| match n {
        Node::FuncCall(f) => name_of(f).is_none_or(|(_, name)| name != "nextval"),
        _ => true,
    })
}

/// How an index of a distributed table is dropped, if that is what the statement does.
pub fn drop_index(node: Node<'_>, cx: Context<'_>) -> Option<Ddl> {
    let Node::DropStmt(d) = node else { return None };
    if d.remove_type != ObjectType::OBJECT_INDEX {
        return None;
    }
    let cluster = cx.names.schema;
    let known = |n: Node<'_>| {
        let parts: Option<Vec<&str>> =
            n.as_node_list().and_then(|l| l.iter().map(Node::as_str).collect());
        match parts.as_deref() {
            Some([name]) => cx.names.is_among(None, name, cluster.indexes()),
            Some([schema, name]) => cx.names.is_among(Some(schema), name, cluster.indexes()),
            _ => false,
        }
    };
    if d.concurrent || !d.objects().iter().all(known) {
        return Some(Ddl::Alone);
    }
    let mut groups: Vec<GroupId> = cluster.tables().map(|t| t.group).collect();
    groups.sort_unstable();
    groups.dedup();
    Some(Ddl::Either(stay(groups, cx).into()))
}

fn rename(s: &nodes::RenameStmt, cx: Context<'_>) -> Ddl {
    let of_table = s.relation_type == ObjectType::OBJECT_TABLE
        || s.rename_type == ObjectType::OBJECT_TABCONSTRAINT;
    let table = s.relation().filter(|r| r.inh && of_table).and_then(|r| one(r, cx));
    let Some(table) = table else { return Ddl::Alone };
    match s.rename_type {
        ObjectType::OBJECT_COLUMN => {
            either(stay(vec![table.group], cx).settled(&table), has_own_types(&table))
        }
        ObjectType::OBJECT_TABCONSTRAINT if s.subname() == Some(MARK) => Ddl::Alone,
        ObjectType::OBJECT_TABCONSTRAINT => {
            Ddl::Each(stay(vec![table.group], cx).settled(&table).into())
        }
        _ => Ddl::Alone,
    }
}

/// One command of ALTER TABLE, as the nodes can carry it out.
#[derive(Default)]
struct Commands {
    /// Only within a transaction: `catalog::ddl` does not know it.
    new: bool,
    /// A key is added: its columns, if they become NOT NULL by that.
    key: Option<Vec<String>>,
}

fn alter_table(s: &nodes::AlterTableStmt, cx: Context<'_>) -> Ddl {
    let relation = s.relation().filter(|_| s.objtype == ObjectType::OBJECT_TABLE);
    let Some((relation, table)) = relation.and_then(|r| Some((r, one(r, cx)?))) else {
        return Ddl::Alone;
    };
    // A reference table has no parts that ONLY could leave out.
    if !relation.inh && !table.is_reference() {
        return Ddl::Alone;
    }
    let mut all = Commands::default();
    for command in s.cmds() {
        let Node::AlterTableCmd(c) = command else { return Ddl::Alone };
        if add_command(c, cx, &mut all).is_none() {
            return Ddl::Alone;
        }
    }
    let mut each = stay(vec![table.group], cx);
    if let Some(columns) = &all.key {
        // One that is added beside others cannot be added to the parent ONLY.
        let only = match table.is_reference() {
            true => Some((each.texts[0].clone(), None)),
            false => with_only(relation, cx).map(|(text, before)| (text, Some(before))),
        };
        let only = only.filter(|_| s.cmds().len() == 1);
        let Some((text, before)) = only else { return Ddl::Alone };
        (each.texts, each.only) = (vec![text], before);
        if !columns.is_empty() {
            let name = format!("{}.{}", ident(&table.schema), ident(&table.name));
            let each_one = |c: &String| format!("ALTER COLUMN {} SET NOT NULL", ident(c));
            let all: Vec<String> = columns.iter().map(each_one).collect();
            each.texts.insert(0, format!("ALTER TABLE {name} {}", all.join(", ")));
            each.own = 1;
        }
    }
    either(each.settled(&table), all.new || has_own_types(&table))
}

/// `None`: it is left to `catalog::ddl`, which refuses what it does not know.
fn add_command(c: &nodes::AlterTableCmd, cx: Context<'_>, all: &mut Commands) -> Option<()> {
    match c.subtype {
        Alter::AT_AddColumn => {
            let Node::ColumnDef(column) = c.def() else { return None };
            all.new |= add_column(column, cx)?;
        }
        Alter::AT_AlterColumnType => {
            let Node::ColumnDef(column) = c.def() else { return None };
            if !computes_alike(column.raw_default(), cx) {
                return None;
            }
            all.new = true;
        }
        Alter::AT_ColumnDefault if !reads_alike(c.def()) => return None,
        Alter::AT_ColumnDefault
        | Alter::AT_DropColumn
        | Alter::AT_SetNotNull
        | Alter::AT_DropNotNull => {}
        Alter::AT_AddConstraint => {
            let Node::Constraint(new) = c.def() else { return None };
            if new.indexspace().is_some() || new.indexname().is_some() {
                return None;
            }
            match new.contype {
                ConstrType::CONSTR_CHECK => {
                    all.new = true;
                    return reads_alike(new.raw_expr()).then_some(());
                }
                ConstrType::CONSTR_FOREIGN if refers_alike(new, cx) => all.new = true,
                ConstrType::CONSTR_UNIQUE => all.key = Some(Vec::new()),
                ConstrType::CONSTR_PRIMARY => {
                    let keys = new.keys().iter().filter_map(Node::as_str).map(str::to_owned);
                    all.key = Some(keys.collect());
                }
                _ => return None,
            }
        }
        Alter::AT_DropConstraint if c.name() == Some(MARK) => return None,
        Alter::AT_ValidateConstraint
        | Alter::AT_DropConstraint
        | Alter::AT_SetStatistics
        | Alter::AT_SetStorage
        | Alter::AT_SetCompression
        | Alter::AT_SetOptions
        | Alter::AT_ResetOptions => all.new = true,
        _ => return None,
    }
    Some(())
}

/// `None`: it is not the same on every node. Whether `catalog::ddl` does not know it.
fn add_column(column: &nodes::ColumnDef, cx: Context<'_>) -> Option<bool> {
    const SERIALS: [&str; 6] =
        ["serial", "serial4", "bigserial", "serial8", "smallserial", "serial2"];
    let ty = column.type_name()?;
    if ty.names().iter().filter_map(|n| n.sval()).any(|n| SERIALS.contains(&n)) {
        return None;
    }
    let mut new = !is_built_in(ty);
    for c in column.constraints() {
        let Node::Constraint(c) = c else { return None };
        match c.contype {
            ConstrType::CONSTR_NULL | ConstrType::CONSTR_NOTNULL => {}
            ConstrType::CONSTR_DEFAULT if computes_alike(c.raw_expr(), cx) => {}
            ConstrType::CONSTR_CHECK | ConstrType::CONSTR_GENERATED
                if reads_alike(c.raw_expr()) =>
            {
                new = true;
            }
            _ => return None,
        }
    }
    Some(new)
}

/// Whether an expression is read alike on every node: no literal of it means the moment.
pub fn reads_alike(expression: Node<'_>) -> bool {
    let moment = |n: Node<'_>| {
        let Node::A_Const(c) = n else { return false };
        let Some(ConstValue::String(s)) = c.val() else { return false };
        let words = ["now", "today", "tomorrow", "yesterday"];
        words.iter().any(|w| s.to_ascii_lowercase().contains(w))
    };
    all_of(expression, |n| !moment(n))
}

/// Whether what it gives for the rows that are there is the same whichever node computes it, or is each
/// row's own.
fn computes_alike(expression: Node<'_>, cx: Context<'_>) -> bool {
    const EACH_ROWS: [&str; 5] =
        ["gen_random_uuid", "random", "clock_timestamp", "uuidv4", "uuidv7"];
    reads_alike(expression)
        && all_of(expression, |n| match n {
            Node::FuncCall(f) => name_of(f).is_some_and(|(schema, name)| {
                schema.is_none_or(|s| s == "pg_catalog")
                    && cx.functions.is_builtin(name)
                    && (cx.functions.is_steady(name) || EACH_ROWS.contains(&name))
            }),
            Node::SQLValueFunction(_) | Node::SubLink(_) => false,
            _ => true,
        })
}

fn all_of<'a>(expression: Node<'a>, fits: impl Fn(Node<'a>) -> bool) -> bool {
    let found = |n| if fits(n) { Recurse::yes() } else { ControlFlow::Break(()) };
    matches!(expression, Node::None) || fits(expression) && walk(expression, found).is_none()
}
