//! What a DDL statement asks for, read off PostgreSQL's own grammar.
//!
//! Total and exact: a form that is not known to mean the same on every node is refused here, with a
//! reason, before any node hears of it.

use pg_raw_parse::Node;
use pg_raw_parse::nodes::{
    self, AlterTableType as Alter, ConstrType, DropBehavior, ObjectType, PartitionStrategy,
};

use super::DdlError;
use super::access_change::AccessChange;
use super::declaration::{self, Partition};
pub use super::naming::{Name, broken};
use super::naming::{list_name, name_of, type_name};
use super::role_change::RoleChange;
use crate::router::{Conversion, converted, only_restarts};
use crate::sql::tree::{self, Unparsed};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    CreateTable {
        table: Name,
    },
    /// A table of the home node's, called like a distributed one.
    CreateLocal,
    /// A table with its rows is to become one of another kind.
    Convert {
        table: Name,
        to: Conversion,
    },
    /// CREATE TABLE ... PARTITION OF
    Partition(Partition),
    /// ALTER TABLE ... ATTACH PARTITION
    Attach(Partition),
    /// ALTER SEQUENCE ... RESTART, and nothing else.
    RestartSequence {
        sequence: Name,
    },
    DropTable {
        tables: Vec<Name>,
        cascade: bool,
    },
    Truncate {
        tables: Vec<Name>,
        restart_sequences: bool,
        cascade: bool,
    },
    /// `at`: where the table's name begins in the text.
    CreateIndex {
        table: Name,
        at: usize,
    },
    DropIndex {
        indexes: Vec<Name>,
        cascade: bool,
        concurrently: bool,
    },
    AlterTable {
        table: Name,
        alteration: Alteration,
    },
    Roles(RoleChange),
    Access(AccessChange),
}

impl Statement {
    /// Its command tag.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::CreateTable { .. } | Self::CreateLocal | Self::Partition(_) => "CREATE TABLE",
            Self::Convert { .. } => "SELECT 1",
            Self::RestartSequence { .. } => "ALTER SEQUENCE",
            Self::DropTable { .. } => "DROP TABLE",
            Self::Truncate { .. } => "TRUNCATE TABLE",
            Self::CreateIndex { .. } => "CREATE INDEX",
            Self::DropIndex { .. } => "DROP INDEX",
            Self::AlterTable { .. } | Self::Attach(_) => "ALTER TABLE",
            Self::Roles(change) => change.tag(),
            Self::Access(change) => change.tag,
        }
    }
}

/// What else ALTER TABLE says that its outcome does not show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alteration {
    /// It adds a constraint with an index, which PostgreSQL wants to make in the schemas of the leaves.
    pub makes_index: bool,
    /// DROP COLUMN ... CASCADE
    pub cascade: bool,
}

pub fn parse(sql: &str) -> Result<Statement, DdlError> {
    let parsed = tree::parse(sql).map_err(|e| match e {
        Unparsed::Syntax(words) => DdlError::new("42601", words),
        Unparsed::TooDeep => DdlError::new("54001", e.to_string()),
    })?;
    let mut statements = parsed.stmts();
    let (Some(first), None) = (statements.next(), statements.next()) else {
        return Err(DdlError::unsupported("DDL on distributed tables must be a query of its own")
            .hint("Send the statements one by one."));
    };
    if let Some(change) = RoleChange::parse(first) {
        return change.map(Statement::Roles);
    }
    if let Some(change) = AccessChange::parse(first) {
        return change.map(Statement::Access);
    }
    match first {
        Node::CreateStmt(s) => create_table(s),
        Node::SelectStmt(s) => {
            let (to, schema, name) = converted(s).ok_or_else(broken)?.ok_or_else(|| {
                DdlError::new("42602", "invalid name syntax")
                    .hint("create_reference_table('schema.table'), create_distributed_table('schema.table', 'column')")
            })?;
            Ok(Statement::Convert { table: Name { schema, name }, to })
        }
        Node::DropStmt(s) => drop(s),
        Node::TruncateStmt(s) => Ok(Statement::Truncate {
            tables: range_vars(s.relations())?,
            restart_sequences: s.restart_seqs,
            cascade: s.behavior == DropBehavior::DROP_CASCADE,
        }),
        Node::IndexStmt(s) => create_index(s, sql),
        Node::AlterTableStmt(s) => alter_table(s),
        Node::RenameStmt(s) => rename(s),
        Node::AlterSeqStmt(s) if only_restarts(s) => {
            let sequence = name_of(s.sequence().ok_or_else(broken)?)?;
            Ok(Statement::RestartSequence { sequence })
        }
        _ => Err(DdlError::unsupported("this statement is not supported on distributed tables")),
    }
}

fn create_table(s: &nodes::CreateStmt) -> Result<Statement, DdlError> {
    let refused = |what: &str| {
        DdlError::unsupported(format!("a distributed table cannot be created {what}"))
            .hint("Leave PARTITION BY HASH away to create the table on the home node only.")
    };
    let relation = s.relation().ok_or_else(broken)?;
    if s.partbound().is_some() {
        return declaration::of_create(s).map(Statement::Partition);
    }
    let Some(spec) = s.partspec() else { return Ok(Statement::CreateLocal) };
    if spec.strategy != PartitionStrategy::PARTITION_STRATEGY_HASH {
        return Err(refused("by LIST or RANGE"));
    }
    match relation.relpersistence as u8 {
        b'p' => {}
        b't' => return Err(refused("as a temporary table")),
        _ => return Err(refused("unlogged, since it could never be moved")),
    }
    if !s.inh_relations().is_empty() {
        return Err(refused("with INHERITS"));
    }
    if s.of_typename().is_some() {
        return Err(refused("OF a type"));
    }
    if s.tablespacename().is_some() {
        return Err(refused("in a tablespace"));
    }
    let mut columns = Vec::new();
    for element in s.table_elts() {
        match element {
            Node::ColumnDef(c) => columns.push(c),
            Node::Constraint(c) => constraint(c)?,
            Node::TableLikeClause(_) => return Err(refused("with LIKE")),
            _ => return Err(broken()),
        }
    }
    for column in columns {
        for c in column.constraints() {
            if let Node::Constraint(c) = c {
                constraint(c)?;
            }
        }
    }
    s.constraints().iter().try_for_each(constraint)?;
    Ok(Statement::CreateTable { table: name_of(relation)? })
}

fn constraint(c: &nodes::Constraint) -> Result<(), DdlError> {
    if c.contype == ConstrType::CONSTR_FOREIGN {
        return Err(DdlError::unsupported(
            "a foreign key of a distributed table can refer to a reference table only, without ON DELETE and ON \
             UPDATE actions",
        )
        .detail("The rows of other tables may be on another node.")
        .hint("SELECT create_reference_table('the other table'), or leave the REFERENCES clause away."));
    }
    if c.indexspace().is_some() {
        return Err(DdlError::unsupported(
            "an index of a distributed table cannot have a tablespace",
        ));
    }
    Ok(())
}

fn drop(s: &nodes::DropStmt) -> Result<Statement, DdlError> {
    let names = s.objects().iter().map(list_name).collect::<Result<Vec<_>, _>>()?;
    let cascade = s.behavior == DropBehavior::DROP_CASCADE;
    match s.remove_type {
        ObjectType::OBJECT_TABLE => Ok(Statement::DropTable { tables: names, cascade }),
        ObjectType::OBJECT_INDEX => {
            Ok(Statement::DropIndex { indexes: names, cascade, concurrently: s.concurrent })
        }
        _ => Err(DdlError::unsupported("this kind of DROP is not supported on distributed tables")),
    }
}

fn create_index(s: &nodes::IndexStmt, sql: &str) -> Result<Statement, DdlError> {
    let relation = s.relation().ok_or_else(broken)?;
    if s.concurrent {
        return Err(DdlError::unsupported(
            "cannot create an index on a distributed table concurrently",
        )
        .hint("Leave CONCURRENTLY away; writes to the table wait until the index is built."));
    }
    if !relation.inh {
        return Err(DdlError::unsupported(
            "CREATE INDEX ON ONLY is not supported on distributed tables",
        ));
    }
    if s.table_space().is_some() {
        return Err(DdlError::unsupported(
            "an index of a distributed table cannot have a tablespace",
        ));
    }
    let at = usize::try_from(relation.location).map_err(|_| broken())?;
    if !can_be_only(sql, at) {
        return Err(DdlError::unsupported(
            "the table of an index is named without an asterisk here",
        ));
    }
    Ok(Statement::CreateIndex { table: name_of(relation)?, at })
}

/// Whether ONLY can be put before the table's name.
fn can_be_only(sql: &str, at: usize) -> bool {
    let (Some(before), Some(rest)) = (sql.get(..at), sql.get(at..)) else { return false };
    let only = format!("{before}ONLY {rest}");
    let Ok(parsed) = tree::parse(&only) else { return false };
    let first = parsed.stmts().next();
    matches!(first, Some(Node::IndexStmt(s)) if s.relation().is_some_and(|r| !r.inh))
}

fn alter_table(s: &nodes::AlterTableStmt) -> Result<Statement, DdlError> {
    let relation = s.relation().ok_or_else(broken)?;
    if let Some(attach) = declaration::of_alter(relation, s.cmds()) {
        return attach.map(Statement::Attach);
    }
    if s.objtype != ObjectType::OBJECT_TABLE || !relation.inh {
        return Err(DdlError::unsupported(
            "this form of ALTER is not supported on distributed tables",
        ));
    }
    let mut alteration = Alteration::default();
    for command in s.cmds() {
        let Node::AlterTableCmd(c) = command else { return Err(broken()) };
        match c.subtype {
            Alter::AT_AddColumn => {
                let Node::ColumnDef(column) = c.def() else { return Err(broken()) };
                add_column(column)?;
            }
            Alter::AT_AddConstraint => {
                let Node::Constraint(new) = c.def() else { return Err(broken()) };
                let key = [ConstrType::CONSTR_PRIMARY, ConstrType::CONSTR_UNIQUE];
                if !key.contains(&new.contype) {
                    constraint(new)?;
                    return Err(DdlError::unsupported(
                        "only PRIMARY KEY and UNIQUE can be added to a distributed table",
                    )
                    .hint("Declare other constraints in CREATE TABLE."));
                }
                constraint(new)?;
                alteration.makes_index = true;
            }
            Alter::AT_DropColumn => {
                alteration.cascade |= c.behavior == DropBehavior::DROP_CASCADE;
            }
            Alter::AT_ColumnDefault | Alter::AT_SetNotNull | Alter::AT_DropNotNull => {}
            _ => {
                return Err(DdlError::unsupported(
                    "this form of ALTER TABLE is not supported on distributed tables",
                )
                .hint(
                    "Supported: ADD COLUMN, DROP COLUMN, RENAME COLUMN, ALTER COLUMN SET or DROP \
                     DEFAULT or NOT NULL, ADD PRIMARY KEY, ADD UNIQUE.",
                ));
            }
        }
    }
    Ok(Statement::AlterTable { table: name_of(relation)?, alteration })
}

fn add_column(column: &nodes::ColumnDef) -> Result<(), DdlError> {
    let ty = column.type_name().ok_or_else(broken)?;
    const SERIALS: [&str; 6] =
        ["serial", "serial4", "bigserial", "serial8", "smallserial", "serial2"];
    let name = type_name(ty)?;
    if name.schema.is_none() && SERIALS.contains(&name.name.as_str()) {
        return Err(DdlError::unsupported(
            "a serial column cannot be added to a distributed table",
        )
        .hint("Declare it in CREATE TABLE."));
    }
    for c in column.constraints() {
        let Node::Constraint(c) = c else { continue };
        let kinds =
            [ConstrType::CONSTR_NULL, ConstrType::CONSTR_NOTNULL, ConstrType::CONSTR_DEFAULT];
        if !kinds.contains(&c.contype) {
            constraint(c)?;
            return Err(DdlError::unsupported(
                "a column added to a distributed table can only have DEFAULT, NULL and NOT NULL",
            ));
        }
    }
    Ok(())
}

fn rename(s: &nodes::RenameStmt) -> Result<Statement, DdlError> {
    if s.rename_type != ObjectType::OBJECT_COLUMN || s.relation_type != ObjectType::OBJECT_TABLE {
        return Err(DdlError::unsupported("only columns of distributed tables can be renamed"));
    }
    let relation = s.relation().filter(|r| r.inh).ok_or_else(broken)?;
    Ok(Statement::AlterTable { table: name_of(relation)?, alteration: Alteration::default() })
}

fn range_vars(list: &pg_raw_parse::list::NodeList) -> Result<Vec<Name>, DdlError> {
    list.iter()
        .map(|n| match n {
            Node::RangeVar(r) if r.inh => name_of(r),
            Node::RangeVar(_) => {
                Err(DdlError::unsupported("ONLY is not supported on distributed tables"))
            }
            _ => Err(broken()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(schema: Option<&str>, name: &str) -> Name {
        Name { schema: schema.map(Into::into), name: name.into() }
    }

    fn refused(sql: &str) -> String {
        let e = parse(sql).expect_err(sql);
        assert_eq!(e.sqlstate, "0A000", "{sql}: {e:?}");
        e.message
    }

    #[test]
    fn the_statements_that_go_to_all_nodes() {
        assert_eq!(
            parse(
                "CREATE TABLE IF NOT EXISTS app.\"T\" (id int PRIMARY KEY) PARTITION BY HASH (id);"
            ),
            Ok(Statement::CreateTable { table: name(Some("app"), "T") })
        );
        assert_eq!(
            parse("drop table if exists a, s.b cascade"),
            Ok(Statement::DropTable {
                tables: vec![name(None, "a"), name(Some("s"), "b")],
                cascade: true
            })
        );
        assert_eq!(
            parse("TRUNCATE a RESTART IDENTITY"),
            Ok(Statement::Truncate {
                tables: vec![name(None, "a")],
                restart_sequences: true,
                cascade: false
            })
        );
        assert_eq!(
            parse("CREATE UNIQUE INDEX ON t (a, id)"),
            Ok(Statement::CreateIndex { table: name(None, "t"), at: 23 })
        );
        for (sql, makes_index, cascade) in [
            ("ALTER TABLE t ADD a int NOT NULL DEFAULT -1, DROP b CASCADE", false, true),
            ("ALTER TABLE t DROP b, ADD PRIMARY KEY (a)", true, false),
            ("ALTER TABLE t ADD a text DEFAULT f()", false, false),
        ] {
            let alteration = Alteration { makes_index, cascade };
            let table = name(None, "t");
            assert_eq!(parse(sql), Ok(Statement::AlterTable { table, alteration }), "{sql}");
        }
        assert!(parse("ALTER TABLE t RENAME a TO b").is_ok());
    }

    #[test]
    fn what_is_not_known_to_be_safe_is_refused() {
        for sql in [
            "CREATE TABLE t (id int) PARTITION BY RANGE (id)",
            "CREATE TEMP TABLE t (id int) PARTITION BY HASH (id)",
            "CREATE UNLOGGED TABLE t (id int) PARTITION BY HASH (id)",
            "CREATE TABLE t (id int REFERENCES o) PARTITION BY HASH (id)",
            "CREATE TABLE t (id int, FOREIGN KEY (id) REFERENCES o (id)) PARTITION BY HASH (id)",
            "CREATE TABLE t (LIKE o) PARTITION BY HASH (id)",
            "CREATE TABLE t PARTITION OF o FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY HASH (id)",
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "CREATE INDEX i ON ONLY t (a)",
            "CREATE INDEX i ON t * (a)",
            "ALTER TABLE t ALTER a TYPE bigint",
            "ALTER TABLE t ADD a serial",
            "ALTER TABLE t ADD a int CHECK (a > f())",
            "ALTER TABLE t ADD CHECK (a > 0)",
            "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES o",
            "ALTER TABLE t OWNER TO bob, DROP COLUMN a",
            "ALTER TABLE t RENAME TO u",
            "ALTER TABLE ONLY t DROP COLUMN a",
            "TRUNCATE ONLY t",
            "DROP VIEW t",
            "CREATE TABLE t (id int) PARTITION BY HASH (id); DROP TABLE t",
            "SELECT 1",
        ] {
            refused(sql);
        }
        assert_eq!(parse("CREATE TABLE (").unwrap_err().sqlstate, "42601");
    }
}
