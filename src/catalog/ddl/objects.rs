//! Who may do what with schemas, the database, parameters, and what every server comes with: read from
//! the home node and made so elsewhere, as `access` does it for tables.

use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};
use tokio_postgres::Client;

use super::DdlError;
use super::access::{Access, FIRST_OWN, NOTHING, READ, THIS_DATABASE, acl};
use super::roles::copy_roles;

/// An object with one list of grants and an owner.
struct Kind {
    catalog: &'static str,
    /// Of the row `o`.
    owner: &'static str,
    acl: &'static str,
    /// `None`: shared by all databases, so it belongs to none.
    database: Option<&'static str>,
}

const SCHEMA: Kind = Kind {
    catalog: "pg_namespace",
    owner: "o.nspowner",
    acl: "nspacl",
    database: Some(THIS_DATABASE),
};
const DATABASE: Kind =
    Kind { catalog: "pg_database", owner: "o.datdba", acl: "datacl", database: None };
const FUNCTION: Kind =
    Kind { catalog: "pg_proc", owner: "o.proowner", acl: "proacl", database: Some(THIS_DATABASE) };
/// A parameter is nobody's: it counts as the first superuser's.
const PARAMETER: Kind =
    Kind { catalog: "pg_parameter_acl", owner: "10::oid", acl: "paracl", database: None };

impl Kind {
    /// Gives the object, whose row `condition` finds as `o`, these grants. `name` is what REVOKE calls
    /// it, and its owner.
    fn grants(&self, condition: &str, name: (&str, &str), grants: Option<&str>) -> Vec<String> {
        let mut sql = self.list(condition, grants);
        if grants == Some(NOTHING) {
            sql.push(format!("REVOKE ALL ON {} FROM {}, PUBLIC", name.0, ident(name.1)));
        }
        sql
    }

    fn list(&self, condition: &str, grants: Option<&str>) -> Vec<String> {
        let Self { catalog, owner, acl: column, .. } = self;
        let database = self.database.unwrap_or("0::oid");
        vec![
            format!("UPDATE {catalog} o SET {column} = {} WHERE {condition}", acl(grants)),
            format!(
                "DELETE FROM pg_shdepend d USING {catalog} o WHERE {condition} \
                 AND d.classid = '{catalog}'::regclass AND d.objid = o.oid AND d.deptype = 'a' \
                 AND d.dbid = {database}"
            ),
            format!(
                "INSERT INTO pg_shdepend \
                   (dbid, classid, objid, objsubid, refclassid, refobjid, deptype) \
                 SELECT DISTINCT {database}, '{catalog}'::regclass, o.oid, 0, \
                   'pg_authid'::regclass, r.role, 'a'::\"char\" \
                 FROM {catalog} o, LATERAL aclexplode(o.{column}) g, \
                   LATERAL (VALUES (g.grantee), (g.grantor)) r (role) \
                 WHERE {condition} AND r.role <> {owner} AND r.role >= {FIRST_OWN}"
            ),
        ]
    }

    /// Owner, grants and everyone named, of the object that `condition` finds.
    async fn read(
        &self,
        client: &Client,
        condition: &str,
    ) -> Result<Option<(String, Option<String>, Vec<String>)>, DdlError> {
        let Self { catalog, owner, acl: column, .. } = self;
        let sql = format!(
            "SELECT pg_get_userbyid({owner})::text, o.{column}::text, \
               ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.oid = {owner} OR r.oid IN (\
                 SELECT unnest(ARRAY[g.grantee, g.grantor]) FROM aclexplode(o.{column}) g)) \
             FROM {catalog} o WHERE {condition}"
        );
        let row = client.query_opt(&sql, &[]).await?;
        row.map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?))).transpose()
    }
}

/// Gives a schema of the home node the same owner and grants on `node`. It is made if need be.
pub(in crate::catalog) async fn bring_schema(
    home: &Client,
    node: &Client,
    schema: &str,
) -> Result<(), DdlError> {
    let condition = format!("o.nspname = {}", literal(schema));
    let Some((owner, grants, roles)) = SCHEMA.read(home, &condition).await? else {
        return Err(DdlError::new("3F000", format!("schema \"{schema}\" does not exist")));
    };
    copy_roles(home, node, &roles).await?;
    let found = SCHEMA.read(node, &condition).await?;
    let mut sql = Vec::new();
    match &found {
        None => {
            sql.push(format!("CREATE SCHEMA {} AUTHORIZATION {}", ident(schema), ident(&owner)));
        }
        Some((there, ..)) if *there != owner => {
            sql.push(format!("ALTER SCHEMA {} OWNER TO {}", ident(schema), ident(&owner)));
        }
        Some((_, there, _)) if *there == grants => return Ok(()),
        Some(_) => {}
    }
    let name = format!("SCHEMA {}", ident(schema));
    sql.extend(SCHEMA.grants(&condition, (&name, &owner), grants.as_deref()));
    Ok(node.batch_execute(&sql.join("; ")).await?)
}

/// Does [`bring_schema`] for those of both nodes that have come to differ.
pub(super) async fn align_schemas(home: &Client, node: &Client) -> Result<(), DdlError> {
    const SCHEMAS: &str = "\
        SELECT nspname::text, pg_get_userbyid(nspowner)::text, nspacl::text FROM pg_namespace \
        WHERE nspname !~ '^(pg_|shard_[0-9]+$)' AND nspname NOT IN ('pgshunt', 'information_schema')";
    let read = async |client: &Client| -> Result<Vec<(String, String, Option<String>)>, DdlError> {
        let rows = client.query(SCHEMAS, &[]).await?;
        rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?))).collect()
    };
    let (wanted, there) = (read(home).await?, read(node).await?);
    let on_both = |w: &&(String, String, Option<String>)| there.iter().any(|t| t.0 == w.0);
    for (schema, ..) in wanted.iter().filter(on_both).filter(|w| !there.contains(w)) {
        bring_schema(home, node, schema).await?;
    }
    Ok(())
}

/// Makes the enums of the home node on a new one, as the service role's own until [`give_enums`]: so nobody else can
/// have anything to do with them before the tables that use them are made.
pub(in crate::catalog) async fn bring_enums(home: &Client, node: &Client) -> Result<(), DdlError> {
    for row in home.query(ENUMS, &[]).await? {
        let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let labels: Vec<String> = row.try_get(3)?;
        bring_schema(home, node, &schema).await?;
        let called = format!("{}.{}", ident(&schema), ident(&name));
        let labels: Vec<String> = labels.iter().map(|l| literal(l)).collect();
        let sql = format!("CREATE TYPE {called} AS ENUM ({})", labels.join(", "));
        node.batch_execute(&sql).await?;
    }
    Ok(())
}

/// Gives them their owners.
pub(in crate::catalog) async fn give_enums(home: &Client, node: &Client) -> Result<(), DdlError> {
    for row in home.query(ENUMS, &[]).await? {
        let (schema, name, owner): (String, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let called = format!("{}.{}", ident(&schema), ident(&name));
        node.batch_execute(&format!("ALTER TYPE {called} OWNER TO {}", ident(&owner))).await?;
    }
    Ok(())
}

/// Schema, name, owner, labels. What an extension has made comes with it.
const ENUMS: &str = "\
SELECT n.nspname::text, t.typname::text, pg_get_userbyid(t.typowner)::text,
  ARRAY(SELECT enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY enumsortorder)
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype = 'e' AND n.nspname !~ '^pg_' AND NOT EXISTS (SELECT FROM pg_depend d
  WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
ORDER BY t.oid";

/// Which objects of a kind are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::catalog) enum Which {
    /// Those that the transaction at hand has changed on the home node.
    Changed,
    All,
}

impl Which {
    /// Whether the row of a catalog is one of them.
    fn condition(self, row: &str) -> String {
        match self {
            Self::Changed => format!("{row}.xmin = pg_current_xact_id()::xid"),
            Self::All => "true".into(),
        }
    }
}

/// Does [`bring_schema`] for schemas that are on both nodes. Those that every server comes with are
/// left to [`bring_built_in`].
pub(in crate::catalog) async fn bring_schemas(
    home: &Client,
    node: &Client,
    which: Which,
) -> Result<(), DdlError> {
    let schemas = format!(
        "SELECT nspname::text FROM pg_namespace s WHERE nspname !~ '^(pg_|shard_[0-9]+$)' \
         AND nspname NOT IN ('pgshunt', 'information_schema') AND {}",
        which.condition("s")
    );
    for row in home.query(&schemas, &[]).await? {
        let schema: String = row.try_get(0)?;
        let there = "SELECT FROM pg_namespace WHERE nspname::text = $1";
        if node.query_opt(there, &[&schema]).await?.is_some() {
            bring_schema(home, node, &schema).await?;
        }
    }
    Ok(())
}

/// Gives the cluster's database the same owner and grants on `node`.
pub(in crate::catalog) async fn bring_database(
    home: &Client,
    node: &Client,
    which: Which,
) -> Result<(), DdlError> {
    let condition = "o.datname = current_database()";
    let chosen =
        format!("SELECT FROM pg_database o WHERE {condition} AND {}", which.condition("o"));
    if home.query_opt(&chosen, &[]).await?.is_none() {
        return Ok(());
    }
    let read = async |client| DATABASE.read(client, condition).await;
    let (Some((owner, grants, roles)), Some((there, granted, _))) =
        (read(home).await?, read(node).await?)
    else {
        return Err(DdlError::new("XX000", "a session has no database"));
    };
    copy_roles(home, node, &roles).await?;
    let name: String = node.query_one("SELECT current_database()::text", &[]).await?.try_get(0)?;
    let name = format!("DATABASE {}", ident(&name));
    let mut sql = Vec::new();
    if there != owner {
        sql.push(format!("ALTER {name} OWNER TO {}", ident(&owner)));
    } else if granted == grants {
        return Ok(());
    }
    sql.extend(DATABASE.grants(condition, (&name, &owner), grants.as_deref()));
    Ok(node.batch_execute(&sql.join("; ")).await?)
}

/// Gives the functions, tables and schemas PostgreSQL comes with the grants they have at home: those
/// whose grants are not what initdb made them, or that have just been changed. (Types of its own
/// matter where tables and functions are made, which is at home.)
pub(in crate::catalog) async fn bring_built_in(
    home: &Client,
    node: &Client,
    which: Which,
) -> Result<(), DdlError> {
    let chosen = |catalog: &str, acl: &str| match which {
        Which::Changed => which.condition("o"),
        Which::All => format!(
            "o.{acl} IS DISTINCT FROM (SELECT i.initprivs FROM pg_init_privs i \
             WHERE i.classoid = '{catalog}'::regclass AND i.objoid = o.oid AND i.objsubid = 0)"
        ),
    };
    let mut sql = Vec::new();
    let functions = format!(
        "SELECT oid::regprocedure::text FROM pg_proc o WHERE oid < {FIRST_OWN} AND {}",
        chosen("pg_proc", "proacl")
    );
    for row in home.query(&functions, &[]).await? {
        let function: String = row.try_get(0)?;
        let condition = format!("o.oid = to_regprocedure({})", literal(&function));
        let Some((owner, grants, roles)) = FUNCTION.read(home, &condition).await? else { continue };
        copy_roles(home, node, &roles).await?;
        let name = format!("ROUTINE {function}");
        sql.extend(FUNCTION.grants(&condition, (&name, &owner), grants.as_deref()));
    }
    let schemas = format!(
        "SELECT nspname::text FROM pg_namespace o WHERE oid < {FIRST_OWN} AND nspname <> 'public' \
         AND {}",
        chosen("pg_namespace", "nspacl")
    );
    for row in home.query(&schemas, &[]).await? {
        bring_schema(home, node, row.try_get(0)?).await?;
    }
    let columns = match which {
        Which::Changed => which.condition("a"),
        Which::All => "a.attacl IS DISTINCT FROM (SELECT i.initprivs FROM pg_init_privs i \
             WHERE i.classoid = 'pg_class'::regclass AND i.objoid = a.attrelid AND i.objsubid = a.attnum)"
            .into(),
    };
    let relations = format!(
        "{READ} JOIN pg_class o ON o.oid = c.oid WHERE o.oid < {FIRST_OWN} \
         AND o.relkind IN ('r', 'v', 'S') AND ({} OR EXISTS (\
           SELECT FROM pg_attribute a WHERE a.attrelid = o.oid AND {columns}))",
        chosen("pg_class", "relacl")
    );
    for row in home.query(&relations, &[]).await? {
        let wanted = Access::from_row(&row)?;
        // Another version has other views.
        let Some(there) = Access::of(node, &wanted.relation).await? else { continue };
        if !there.has_grants_of(&wanted) {
            copy_roles(home, node, &wanted.roles).await?;
            sql.extend(wanted.grants(&wanted.relation));
        }
    }
    Ok(node.batch_execute(&sql.join("; ")).await?)
}

/// Gives roles on `node` the rights to set parameters that they have at home. PostgreSQL knows such
/// rights from version 15 on.
pub(in crate::catalog) async fn bring_parameters(
    home: &Client,
    node: &Client,
) -> Result<(), DdlError> {
    const KNOWN: &str = "SELECT FROM pg_class WHERE oid = to_regclass('pg_parameter_acl')";
    const ALL: &str = "SELECT parname, paracl::text FROM pg_parameter_acl \
        WHERE cardinality(paracl) > 0 ORDER BY parname";
    for client in [home, node] {
        if client.query_opt(KNOWN, &[]).await?.is_none() {
            return Ok(());
        }
    }
    let read = async |client: &Client| -> Result<Vec<(String, String)>, DdlError> {
        let rows = client.query(ALL, &[]).await?;
        rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?))).collect()
    };
    let (wanted, there) = (read(home).await?, read(node).await?);
    let named = |all: &[(String, String)], name: &str| all.iter().any(|(n, _)| n == name);
    let condition = |name: &str| format!("o.parname = {}", literal(name));
    let mut sql = Vec::new();
    for (name, _) in there.iter().filter(|(name, _)| !named(&wanted, name)) {
        sql.push(format!(
            "DELETE FROM pg_shdepend d USING pg_parameter_acl o WHERE {} AND d.dbid = 0::oid \
             AND d.classid = 'pg_parameter_acl'::regclass AND d.objid = o.oid",
            condition(name)
        ));
        sql.push(format!("DELETE FROM pg_parameter_acl o WHERE {}", condition(name)));
    }
    for (name, grants) in wanted.iter().filter(|w| !there.contains(w)) {
        if let Some((_, _, roles)) = PARAMETER.read(home, &condition(name)).await? {
            copy_roles(home, node, &roles).await?;
        }
        if !named(&there, name) {
            // Makes the row.
            let quoted = name.split('.').map(ident).collect::<Vec<_>>().join(".");
            sql.push(format!("GRANT SET ON PARAMETER {quoted} TO PUBLIC"));
        }
        sql.extend(PARAMETER.list(&condition(name), Some(grants)));
    }
    Ok(node.batch_execute(&sql.join("; ")).await?)
}
