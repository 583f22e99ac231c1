//! Everything that is not SELECT, INSERT, UPDATE, DELETE or COPY.
//!
//! A statement that names a distributed table is DDL that pgshunt carries out on all nodes, or is refused
//! (`everywhere`); it is never run on one node alone.

use pg_raw_parse::raw::{
    DiscardMode, ObjectType, PartitionStrategy, TransactionStmtKind, VariableSetKind,
};
use pg_raw_parse::{ConstValue, Node, nodes};

use super::context::{Context, is_temporary, refused};
use super::plan::{Control, Ddl, Kind, PREPARE, Traces};
use super::reading::{changes_reading, reads_alike};
use super::{ddl, everywhere, hidden, mark, rights, shared, traces};
use crate::topology::leaf_schema;

pub fn statement(node: Node<'_>, cx: Context<'_>) -> (Kind, Control) {
    match node {
        Node::TransactionStmt(t) => transaction(t),
        Node::VariableSetStmt(s) => variable_set(s, cx),
        Node::VariableShowStmt(_) => (Kind::Any, Control::Pure),
        Node::DeallocateStmt(d) => {
            let name = if d.isall { None } else { d.name().map(str::to_owned) };
            (Kind::Any, Control::Deallocate(name))
        }
        Node::DiscardStmt(d) if d.target == DiscardMode::DISCARD_ALL => {
            (Kind::Any, Control::DiscardAll)
        }
        Node::DiscardStmt(d) if d.target == DiscardMode::DISCARD_SEQUENCES => {
            (Kind::Any, Control::DiscardSequences)
        }
        Node::DiscardStmt(_) => (Kind::Any, Control::Frees),
        Node::ClosePortalStmt(c) => (Kind::Any, Control::Close(c.portalname().map(Into::into))),
        Node::FetchStmt(f) => {
            (Kind::Any, Control::Fetch(f.portalname().unwrap_or_default().to_owned()))
        }
        Node::ConstraintsSetStmt(_) => (Kind::Any, Control::Local),
        Node::ListenStmt(l) => (Kind::Any, listen(l, cx)),
        Node::UnlistenStmt(u) => (Kind::Any, Control::Unlisten(u.conditionname().map(Into::into))),
        // Who listens does so at home.
        Node::NotifyStmt(_) => {
            (Kind::Home, traces::leaves(Traces { notifies: true, ..Traces::default() }))
        }
        Node::LoadStmt(_) => (Kind::Home, Control::Bind("LOAD")),
        _ => by_objects(node, cx),
    }
}

fn listen(l: &nodes::ListenStmt, cx: Context<'_>) -> Control {
    let channel = l.conditionname().unwrap_or_default().to_owned();
    let at = first_word(cx.text, cx.span.0);
    match cx.text.get(at..at + 6) {
        Some(word) if word.eq_ignore_ascii_case(b"listen") => Control::Listen { channel, at },
        // The grammar knows no other spelling.
        _ => Control::Pin("LISTEN"),
    }
}

/// Where the first word is, behind white space and comments.
pub fn first_word(text: &[u8], mut at: usize) -> usize {
    loop {
        let rest = text.get(at..).unwrap_or_default();
        match rest {
            [b, ..] if b.is_ascii_whitespace() || matches!(b, b';' | b'\x0b') => at += 1,
            [b'-', b'-', ..] => {
                at += rest.iter().position(|&b| b == b'\n' || b == b'\r').unwrap_or(rest.len());
            }
            [b'/', b'*', ..] => {
                let mut depth = 0;
                let mut n = 0;
                while n < rest.len() {
                    match &rest[n..] {
                        [b'/', b'*', ..] => (depth, n) = (depth + 1, n + 2),
                        [b'*', b'/', ..] => (depth, n) = (depth - 1, n + 2),
                        _ => n += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
                at += n;
            }
            _ => return at,
        }
    }
}

fn transaction(t: &nodes::TransactionStmt) -> (Kind, Control) {
    let savepoint = || t.savepoint_name().unwrap_or_default().to_owned();
    let control = match t.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN | TransactionStmtKind::TRANS_STMT_START => {
            Control::Begin
        }
        TransactionStmtKind::TRANS_STMT_COMMIT if t.chain => Control::CommitAndChain,
        TransactionStmtKind::TRANS_STMT_COMMIT => Control::Commit,
        TransactionStmtKind::TRANS_STMT_ROLLBACK if t.chain => Control::RollbackAndChain,
        TransactionStmtKind::TRANS_STMT_ROLLBACK => Control::Rollback,
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => Control::Savepoint(savepoint()),
        TransactionStmtKind::TRANS_STMT_RELEASE => Control::Release(savepoint()),
        TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => Control::RollbackTo(savepoint()),
        TransactionStmtKind::TRANS_STMT_PREPARE => Control::PrepareTransaction,
        // Prepared transactions are the home node's. One may have made tables and functions.
        TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED => {
            return (Kind::Home, Control::ChangesFunctions);
        }
        TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => return (Kind::Home, Control::None),
        _ => Control::None,
    };
    (Kind::Any, control)
}

fn variable_set(s: &nodes::VariableSetStmt, cx: Context<'_>) -> (Kind, Control) {
    let name = s.name().unwrap_or_default().to_ascii_lowercase();
    let no = |what: &str, hint: &str| (refused(what, hint), Control::None);
    let sets = !cx.names.schema.is_plain()
        && s.kind != VariableSetKind::VAR_RESET
        && s.kind != VariableSetKind::VAR_SET_DEFAULT;
    if name == "session_replication_role" && sets {
        // It would step over the fence of a move.
        return no(
            "session_replication_role cannot be set through pgshunt",
            "Connect to the node directly for this.",
        );
    }
    if sets && !s.args().iter().filter_map(constant_text).all(|value| reads_alike(&name, &value)) {
        return no(
            &format!("this value of {name} is not supported"),
            "pgshunt reads statements in UTF8 and with standard_conforming_strings = on.",
        );
    }
    let control = match s.kind {
        // Its value is not kept: it begins a sequence, which the end of a transaction leaves alone.
        VariableSetKind::VAR_SET_VALUE if name == "seed" => Control::Bind("setseed()"),
        VariableSetKind::VAR_SET_DEFAULT if s.is_local => Control::ResetLocal(name),
        _ if s.is_local && name == "search_path" => Control::LocalPath,
        _ if s.is_local => Control::Local,
        // These are the transaction's own, however they are set.
        VariableSetKind::VAR_SET_VALUE
        | VariableSetKind::VAR_SET_DEFAULT
        | VariableSetKind::VAR_RESET
            if matches!(
                name.as_str(),
                "transaction_isolation" | "transaction_read_only" | "transaction_deferrable"
            ) =>
        {
            Control::Local
        }
        VariableSetKind::VAR_SET_VALUE => Control::Set(name),
        VariableSetKind::VAR_SET_DEFAULT | VariableSetKind::VAR_RESET => Control::Reset(name),
        VariableSetKind::VAR_SET_MULTI if name == "session characteristics" => {
            characteristics(s).unwrap_or(Control::Bind("SET SESSION CHARACTERISTICS"))
        }
        VariableSetKind::VAR_SET_MULTI => Control::Local,
        VariableSetKind::VAR_RESET_ALL => Control::ResetAll,
        _ => Control::Bind("SET ... FROM CURRENT"),
    };
    (Kind::Any, control)
}

/// SET SESSION CHARACTERISTICS as one SET for each parameter.
fn characteristics(s: &nodes::VariableSetStmt) -> Option<Control> {
    let each = s.args().iter().map(|arg| {
        let Node::DefElem(d) = arg else { return None };
        let Node::A_Const(c) = d.arg() else { return None };
        let value = match c.val()? {
            ConstValue::String(v) => format!("'{v}'"),
            ConstValue::Integer(v) => if v != 0 { "on" } else { "off" }.to_owned(),
            _ => return None,
        };
        let name = format!("default_{}", d.defname()?);
        let sql = format!("SET {name} = {value}");
        Some((name, sql))
    });
    each.collect::<Option<Box<[_]>>>().map(Control::SetEach)
}

fn constant_text(n: Node<'_>) -> Option<String> {
    let Node::A_Const(c) = n else { return None };
    Some(match c.val()? {
        ConstValue::String(s) | ConstValue::Float(s) => s.to_owned(),
        ConstValue::Integer(i) => i.to_string(),
        _ => return None,
    })
}

/// What would make names, functions or grants differ from what the planner takes them for.
fn undermines(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    cx.names.schema.tables().next()?;
    let holds = |schema: &str| {
        let mut tables = cx.names.schema.tables().map(|t| t.schema.as_str());
        let mut namesakes = cx.names.schema.namesakes().map(|(s, _)| s);
        tables.any(|s| s == schema) || namesakes.any(|s| s == schema)
    };
    let set = match node {
        Node::AlterRoleSetStmt(s) => s.setstmt(),
        Node::AlterDatabaseSetStmt(s) => s.setstmt(),
        Node::AlterSystemStmt(s) => s.setstmt(),
        _ => None,
    };
    if let Some(name) = set.and_then(|s| s.name()).map(str::to_ascii_lowercase)
        && changes_reading(&name)
    {
        return Some(refused(
            format!("a default for {name} is not supported beside distributed tables"),
            "Let each session SET it.",
        ));
    }
    let function = match node {
        Node::CreateFunctionStmt(f) => f.funcname().iter().filter_map(Node::as_str).next_back(),
        Node::DefineStmt(d) if d.kind == ObjectType::OBJECT_AGGREGATE => {
            d.defnames().iter().filter_map(|n| n.sval()).next_back()
        }
        Node::RenameStmt(r)
            if matches!(
                r.rename_type,
                ObjectType::OBJECT_FUNCTION
                    | ObjectType::OBJECT_PROCEDURE
                    | ObjectType::OBJECT_ROUTINE
                    | ObjectType::OBJECT_AGGREGATE
            ) =>
        {
            r.newname()
        }
        _ => None,
    };
    if let Some(name) = function.filter(|name| cx.functions.is_builtin(name)) {
        return Some(refused(
            format!(
                "a function of the name of PostgreSQL's own {name} is not supported beside distributed tables"
            ),
            "pgshunt could not tell the two apart. Give it another name.",
        ));
    }
    match node {
        Node::RenameStmt(r)
            if r.rename_type == ObjectType::OBJECT_SCHEMA
                && r.subname()
                    .is_some_and(|s| holds(s) || leaf_schema(s).is_some() || s == "pgshunt") =>
        {
            Some(refused("a schema that holds distributed tables cannot be renamed", "Leave it."))
        }
        _ => None,
    }
}

/// The database that such a statement wants to be alone with.
fn vacated(node: Node<'_>) -> Option<String> {
    let name = match node {
        Node::DropdbStmt(d) => d.dbname(),
        Node::AlterDatabaseStmt(a) => a.dbname(),
        Node::RenameStmt(r) if r.rename_type == ObjectType::OBJECT_DATABASE => r.subname(),
        Node::CreatedbStmt(c) => {
            let template = c.options().iter().find(|d| d.defname() == Some("template"));
            match template.map_or(Node::None, |d| d.arg()) {
                Node::String(s) => s.sval(),
                Node::TypeName(t) => t.names().iter().next_back()?.sval(),
                // It is not said, or is to be the default.
                _ => Some("template1"),
            }
        }
        _ => None,
    };
    name.map(str::to_owned)
}

/// A statement whose objects decide: it is carried out on all nodes, at home, or not at all.
fn by_objects(node: Node<'_>, cx: Context<'_>) -> (Kind, Control) {
    match place(node, cx) {
        Some(kind) => (kind, Control::None),
        None => (Kind::Home, at_home(node, cx)),
    }
}

/// Where the statement runs; `None`: at home, with all that it does there.
fn place(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    if let Some(kind) = undermines(node, cx) {
        return Some(kind);
    }
    if changes_roles(node) && cx.has_several_nodes() {
        // All databases of a server have the same roles.
        return Some(Kind::Ddl(Ddl::Alone));
    }
    if let Some(kind) = rights::place(node, cx) {
        return Some(kind);
    }
    if matches!(node, Node::DoStmt(_)) && cx.has_several_nodes() && rights::are_told_of(cx) {
        return Some(refused(
            "a statement on roles or their rights inside of DO would change the home node only",
            "Send it as a statement of its own, which reaches all nodes.",
        ));
    }
    if let Some(kind) = hidden::code(node, cx) {
        return Some(kind);
    }
    match node {
        Node::CreateStmt(c) if c.relation().is_some_and(is_temporary) => None,
        Node::CreateStmt(c) if is_hashed(c) && !cx.names.schema.is_plain() => {
            Some(Kind::Ddl(ddl::create_table(c, cx)))
        }
        Node::CreateStmt(c) if mark::is_marked(c) && !cx.names.schema.is_plain() => {
            Some(ddl::create_reference(c, cx).map_or_else(refused_reference, Kind::Ddl))
        }
        Node::AlterTableStmt(a) if mark::marks(a, cx) => Some(refused(
            "a table does not become a reference table by this constraint",
            "SELECT create_reference_table('its name').",
        )),
        Node::DropStmt(d) if d.remove_type == ObjectType::OBJECT_SCHEMA => Some(drop_schema(d, cx)),
        _ => everywhere::place(node, cx),
    }
}

fn refused_reference() -> Kind {
    refused(
        "a reference table of this form cannot be created",
        "Create a plain table, and then SELECT create_reference_table('its name').",
    )
}

/// PARTITION BY HASH
fn is_hashed(c: &nodes::CreateStmt) -> bool {
    let by = |p: &nodes::PartitionSpec| p.strategy;
    c.partspec().map(by) == Some(PartitionStrategy::PARTITION_STRATEGY_HASH)
}

/// What a statement does to the session that runs at home.
fn at_home(node: Node<'_>, cx: Context<'_>) -> Control {
    match node {
        Node::CreateStmt(c) if c.relation().is_some_and(is_temporary) => {
            Control::Pin("a temporary table")
        }
        Node::CreateTableAsStmt(c) => traces::leaves(create_table_as(c, cx)),
        Node::ExplainStmt(e) => explain(e, cx),
        Node::CallStmt(_) => traces::of_query(cx),
        Node::DoStmt(_) => traces::of_code(cx, None),
        Node::ExecuteStmt(e) => traces::of_code(cx, e.name()),
        Node::ViewStmt(v) if v.view().is_some_and(is_temporary) => Control::Pin("a temporary view"),
        Node::CreateSeqStmt(s) if s.sequence().is_some_and(is_temporary) => {
            Control::Pin("a temporary sequence")
        }
        Node::PrepareStmt(_) => Control::Pin(PREPARE),
        Node::DropdbStmt(_)
        | Node::CreatedbStmt(_)
        | Node::AlterDatabaseStmt(_)
        | Node::RenameStmt(_)
            if let Some(database) = vacated(node) =>
        {
            Control::Vacate(database)
        }
        Node::DropStmt(_) if names_temporary(cx) => Control::Frees,
        _ if names_temporary(cx) => Control::Pin("a temporary object"),
        _ if changes_functions(node) => Control::ChangesFunctions,
        _ if changes_tables(node) => Control::ChangesTables,
        // Of a temporary one, perhaps.
        Node::DropStmt(_) => Control::Frees,
        _ => Control::None,
    }
}

fn create_table_as(c: &nodes::CreateTableAsStmt, cx: Context<'_>) -> Traces {
    let mut left = traces::of(cx);
    if c.into().and_then(|i| i.rel()).is_some_and(is_temporary) {
        left.pin = Some("a temporary table");
    }
    left
}

/// EXPLAIN of what is no query. With ANALYZE it is carried out.
fn explain(e: &nodes::ExplainStmt, cx: Context<'_>) -> Control {
    match e.query() {
        Node::CreateTableAsStmt(c) => traces::leaves(create_table_as(c, cx)),
        Node::ExecuteStmt(e) => traces::of_code(cx, e.name()),
        _ => traces::of_query(cx),
    }
}

/// `pg_temp` stands for the schema of the server connection's temporary objects, of all kinds.
fn names_temporary(cx: Context<'_>) -> bool {
    cx.own_text().windows(7).any(|w| w.eq_ignore_ascii_case(b"pg_temp"))
}

fn changes_roles(node: Node<'_>) -> bool {
    match node {
        Node::CreateRoleStmt(_)
        | Node::AlterRoleStmt(_)
        | Node::AlterRoleSetStmt(_)
        | Node::DropRoleStmt(_)
        | Node::GrantRoleStmt(_) => true,
        Node::RenameStmt(r) => r.rename_type == ObjectType::OBJECT_ROLE,
        _ => false,
    }
}

fn changes_functions(node: Node<'_>) -> bool {
    let routine = |o: ObjectType::Type| {
        matches!(
            o,
            ObjectType::OBJECT_FUNCTION
                | ObjectType::OBJECT_PROCEDURE
                | ObjectType::OBJECT_ROUTINE
                | ObjectType::OBJECT_AGGREGATE
        )
    };
    match node {
        Node::CreateFunctionStmt(_)
        | Node::AlterFunctionStmt(_)
        | Node::CreateExtensionStmt(_)
        | Node::AlterExtensionStmt(_)
        | Node::DefineStmt(_) => true,
        Node::RenameStmt(r) => routine(r.rename_type),
        Node::DropStmt(d) => routine(d.remove_type),
        Node::AlterObjectSchemaStmt(a) => routine(a.object_type),
        _ => false,
    }
}

/// Whether functions may stand behind tables after it that did not before.
fn changes_tables(node: Node<'_>) -> bool {
    match node {
        Node::CreateTrigStmt(_)
        | Node::RuleStmt(_)
        | Node::ViewStmt(_)
        | Node::AlterTableStmt(_)
        | Node::CreateStmt(_)
        | Node::IndexStmt(_)
        | Node::CreateSchemaStmt(_)
        | Node::RenameStmt(_) => true,
        Node::CreateTableAsStmt(c) => c.objtype == ObjectType::OBJECT_MATVIEW,
        _ => false,
    }
}

fn drop_schema(d: &nodes::DropStmt, cx: Context<'_>) -> Kind {
    let named = |n: Node<'_>| n.as_str().map(str::to_owned);
    let holds = d.objects().iter().filter_map(named).find(|schema| {
        !cx.names.schema.is_plain()
            && (cx.names.schema.tables().any(|t| t.schema == *schema)
                || leaf_schema(schema).is_some()
                || schema == "pgshunt")
    });
    match holds {
        Some(schema) => refused(
            format!("schema \"{schema}\" holds distributed tables"),
            "Drop the tables first.",
        ),
        None => {
            let unnamed = everywhere::reaches_unnamed(Node::DropStmt(d), cx);
            unnamed.or_else(|| shared::of(Node::DropStmt(d), cx)).unwrap_or(Kind::Home)
        }
    }
}
