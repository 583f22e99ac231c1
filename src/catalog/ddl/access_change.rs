//! Statements about who may do what: GRANT and REVOKE, owners, row security, REASSIGN and DROP OWNED.
//!
//! The home node runs the client's text, on whatever it names: tables of the home node and
//! distributed ones, one by one or all of a schema. What the transaction has changed there is told by
//! its number on the catalogs' rows, and the other nodes are given the same (`access`). What is on
//! the home node only needs nothing more. Default privileges are the home node's alone: tables are
//! made there first, by the client's role, and the others get what came of it.

use futures_util::future::try_join_all;
use pg_raw_parse::Node;
use pg_raw_parse::nodes::{self, AlterTableType as Alter, ObjectType};
use tokio_postgres::Client;

use super::access;
use super::objects::{self, Which};
use super::role_change::{Spec, specs};
use super::statement::broken;
use super::trust::Needs;
use super::{DdlError, Everywhere, Who, no_move};
use crate::topology::DistributedTable;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessChange {
    pub what: What,
    pub tag: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The objects it names: their grants, owners, policies or row security.
    Named,
    /// DROP POLICY: nothing is left that would tell what it was of.
    Policy,
    /// REASSIGN OWNED, DROP OWNED: all that belongs to these, and was granted to them.
    Owned { roles: Vec<Spec> },
}

impl AccessChange {
    /// `None`: the statement is about something else.
    pub fn parse(node: Node<'_>) -> Option<Result<Self, DdlError>> {
        let tagged = |tag| move |what| Self { what, tag };
        Some(match node {
            Node::GrantStmt(g) => {
                Ok(tagged(if g.is_grant { "GRANT" } else { "REVOKE" })(What::Named))
            }
            Node::AlterOwnerStmt(a) => owner(a).map(|tag| tagged(tag)(What::Named)),
            Node::ReassignOwnedStmt(r) => {
                specs(r.roles()).map(|roles| What::Owned { roles }).map(tagged("REASSIGN OWNED"))
            }
            Node::DropOwnedStmt(d) => {
                specs(d.roles()).map(|roles| What::Owned { roles }).map(tagged("DROP OWNED"))
            }
            Node::CreatePolicyStmt(_) => Ok(tagged("CREATE POLICY")(What::Named)),
            Node::AlterPolicyStmt(_) => Ok(tagged("ALTER POLICY")(What::Named)),
            Node::RenameStmt(r) if r.rename_type == ObjectType::OBJECT_POLICY => {
                Ok(tagged("ALTER POLICY")(What::Named))
            }
            Node::DropStmt(d) if d.remove_type == ObjectType::OBJECT_POLICY => {
                Ok(tagged("DROP POLICY")(What::Policy))
            }
            Node::AlterTableStmt(a) => match alters_access(a) {
                Ok(false) => return None,
                Ok(true) => Ok(tagged("ALTER TABLE")(What::Named)),
                Err(e) => Err(e),
            },
            _ => return None,
        })
    }
}

fn owner(a: &nodes::AlterOwnerStmt) -> Result<&'static str, DdlError> {
    match a.object_type {
        ObjectType::OBJECT_SCHEMA => Ok("ALTER SCHEMA"),
        ObjectType::OBJECT_DATABASE => Ok("ALTER DATABASE"),
        _ => Err(broken()),
    }
}

/// Whether ALTER TABLE is about the owner and row security, and nothing else.
fn alters_access(a: &nodes::AlterTableStmt) -> Result<bool, DdlError> {
    let is_access = |c: Node<'_>| match c {
        Node::AlterTableCmd(c) => matches!(
            c.subtype,
            Alter::AT_ChangeOwner
                | Alter::AT_EnableRowSecurity
                | Alter::AT_DisableRowSecurity
                | Alter::AT_ForceRowSecurity
                | Alter::AT_NoForceRowSecurity
        ),
        _ => false,
    };
    let about = a.cmds().iter().filter(|c| is_access(*c)).count();
    if about == 0 || a.objtype != ObjectType::OBJECT_TABLE {
        return Ok(false);
    }
    if about < a.cmds().len() {
        return Err(DdlError::unsupported(
            "the owner and row security of a distributed table are changed by statements of their own",
        )
        .hint("Send the other changes in another ALTER TABLE."));
    }
    if a.relation().is_some_and(|r| !r.inh) {
        return Err(DdlError::unsupported("ONLY is not supported on distributed tables"));
    }
    Ok(true)
}

/// Carries the statement out on all nodes, up to the commit.
pub(super) async fn run(
    all: Everywhere,
    by: super::Client<'_>,
    change: &AccessChange,
) -> Result<Everywhere, DdlError> {
    let owned = match &change.what {
        What::Owned { roles } => {
            not_ours(&all, by.who, roles).await?;
            true
        }
        _ => false,
    };
    let all = all.run_text(by.request, by.who).await?;

    let routes = all.routes.clone();
    let home = &*all.home.client;
    nothing_else(home, owned).await?;
    for table in routes.tables() {
        let told = change.what == What::Named;
        if is_changed(home, table).await? || !told && access::differs(&all, table).await? {
            no_move(&all.home, table.group, "UPDATE").await?;
            access::can_be_anywhere(home, table).await?;
            needs_nobody(&all, by.who, table).await?;
            access::follow(&all, &table.schema, &table.name).await?;
        }
    }
    // What has lost a grant or a policy by the end of a role need not look changed.
    let which = if owned { Which::All } else { Which::Changed };
    try_join_all(all.others.iter().map(async |peer| {
        let done = async {
            objects::bring_schemas(home, &peer.client, which).await?;
            objects::bring_database(home, &peer.client, which).await?;
            objects::bring_parameters(home, &peer.client).await?;
            objects::bring_built_in(home, &peer.client, Which::Changed).await
        };
        done.await.map_err(|e| e.on_node(&peer.node.name))
    }))
    .await?;
    Ok(all)
}

/// Policies are made on the leaves and elsewhere by the service role.
async fn needs_nobody(
    all: &Everywhere,
    who: &Who,
    table: &DistributedTable,
) -> Result<(), DdlError> {
    let sql = "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname::text = $1 AND c.relname::text = $2";
    let row = all.home.client.query_one(sql, &[&table.schema, &table.name]).await?;
    let needs = Needs::of(&all.home.client, who, row.try_get(0)?).await?;
    needs.check_elsewhere(all).await
}

/// pgshunt's own tables and shards belong to the service role, and stay with it.
async fn not_ours(all: &Everywhere, who: &Who, roles: &[Spec]) -> Result<(), DdlError> {
    let service: String =
        all.home.client.query_one("SELECT session_user::text", &[]).await?.try_get(0)?;
    if roles.iter().all(|r| r.name(who) != service) {
        return Ok(());
    }
    Err(DdlError::unsupported(format!("\"{service}\" is pgshunt's own role on the nodes"))
        .hint("The shards belong to it. Name other roles."))
}

/// Whether the statement has changed the table's grants, owner, policies or row security. A table
/// that is gone was dropped by it.
async fn is_changed(home: &Client, table: &DistributedTable) -> Result<bool, DdlError> {
    let row = home
        .query_opt(
            "SELECT c.xmin = mine.id OR EXISTS (SELECT FROM pg_attribute a \
                 WHERE a.attrelid = c.oid AND a.xmin = mine.id) \
               OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.xmin = mine.id) \
               OR EXISTS (SELECT FROM pg_class s JOIN pg_depend d ON d.objid = s.oid \
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
                   AND d.refobjid = c.oid AND d.deptype IN ('a', 'i') AND s.relkind = 'S' \
                   AND s.xmin = mine.id) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, \
               (SELECT pg_current_xact_id()::xid AS id) mine \
             WHERE n.nspname::text = $1 AND c.relname::text = $2",
            &[&table.schema, &table.name],
        )
        .await?;
    match row {
        Some(row) => Ok(row.try_get(0)?),
        None => Err(DdlError::unsupported(format!(
            "the distributed table \"{}\" would be dropped",
            table.name
        ))
        .hint("DROP TABLE it first, or REASSIGN OWNED to another role.")),
    }
}

/// Refuses what would change a shard by itself, or pgshunt's own tables, or give a table of the home
/// node a policy that reads a distributed one.
async fn nothing_else(home: &Client, owned: bool) -> Result<(), DdlError> {
    const OURS: &str = "\
        SELECT nspname::text FROM pg_namespace n, (SELECT pg_current_xact_id()::xid AS id) mine \
        WHERE (nspname ~ '^shard_[0-9]+$' OR nspname = 'pgshunt') AND (n.xmin = mine.id OR NOT $1 \
          AND EXISTS (SELECT FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid \
            AND a.xmin = mine.id WHERE c.relnamespace = n.oid AND mine.id IN (c.xmin, a.xmin))) LIMIT 1";
    const POLICY: &str = "\
        SELECT p.polname::text FROM pg_policy p JOIN pg_depend d ON d.objid = p.oid \
          AND d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass \
          AND d.refobjid <> p.polrelid \
        JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace \
        JOIN pgshunt.tables t ON t.schema_name = n.nspname AND t.table_name = c.relname \
        WHERE p.xmin = pg_current_xact_id()::xid LIMIT 1";
    if let Some(row) = home.query_opt(OURS, &[&owned]).await? {
        let schema: String = row.try_get(0)?;
        return Err(DdlError::unsupported(format!("schema \"{schema}\" belongs to pgshunt"))
            .hint("Shards have the owner and the grants of their table: change those."));
    }
    if let Some(row) = home.query_opt(POLICY, &[]).await? {
        let policy: String = row.try_get(0)?;
        return Err(DdlError::unsupported(format!(
            "policy \"{policy}\" would read the home node's part of a distributed table"
        ))
        .hint("Compare with current_user, current_setting() or pg_has_role() instead."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sql: &str) -> Option<Result<AccessChange, DdlError>> {
        let parsed = crate::sql::tree::parse(sql).expect(sql);
        AccessChange::parse(parsed.stmts().next().expect(sql))
    }

    #[test]
    fn all_forms_are_read() {
        let name = |name: &str| Spec::Name(name.into());
        for (sql, what, tag) in [
            ("GRANT SELECT (a), UPDATE ON t, s.u TO a, PUBLIC", What::Named, "GRANT"),
            ("REVOKE ALL ON ALL TABLES IN SCHEMA s FROM a CASCADE", What::Named, "REVOKE"),
            ("GRANT CREATE ON SCHEMA s TO a WITH GRANT OPTION", What::Named, "GRANT"),
            ("GRANT CONNECT ON DATABASE d TO a", What::Named, "GRANT"),
            ("GRANT SET ON PARAMETER work_mem TO a, CURRENT_USER", What::Named, "GRANT"),
            ("ALTER SCHEMA s OWNER TO a", What::Named, "ALTER SCHEMA"),
            ("ALTER DATABASE d OWNER TO a", What::Named, "ALTER DATABASE"),
            (
                "REASSIGN OWNED BY a, SESSION_USER TO b",
                What::Owned { roles: vec![name("a"), Spec::SessionUser] },
                "REASSIGN OWNED",
            ),
            ("DROP OWNED BY a CASCADE", What::Owned { roles: vec![name("a")] }, "DROP OWNED"),
            ("CREATE POLICY p ON s.t USING (a = 1)", What::Named, "CREATE POLICY"),
            ("ALTER POLICY p ON t TO a", What::Named, "ALTER POLICY"),
            ("ALTER POLICY p ON t RENAME TO q", What::Named, "ALTER POLICY"),
            ("DROP POLICY IF EXISTS p ON s.t", What::Policy, "DROP POLICY"),
            ("ALTER TABLE t OWNER TO a, ENABLE ROW LEVEL SECURITY", What::Named, "ALTER TABLE"),
        ] {
            assert_eq!(parse(sql), Some(Ok(AccessChange { what, tag })), "{sql}");
        }
        for sql in ["GRANT a TO b", "ALTER TABLE t ADD a int", "DROP TABLE t", "SELECT 1"] {
            assert_eq!(parse(sql), None, "{sql}");
        }
        for sql in [
            "ALTER TABLE t OWNER TO a, ADD b int",
            "ALTER TABLE ONLY t ENABLE ROW LEVEL SECURITY",
            "ALTER FUNCTION f() OWNER TO a",
        ] {
            let e = parse(sql).expect(sql).expect_err(sql);
            assert_eq!(e.sqlstate, "0A000", "{sql}");
        }
    }
}
