//! Roles and schemas that must be on a node before a table can be: copied from the home node.
//!
//! A role is copied with its password's verifier, so whoever can log in at home can log in
//! everywhere, and with the roles it is a member of. A role that is there already is left alone.

use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};
use tokio_postgres::{Client, GenericClient};

use super::{DdlError, Grant};
use crate::catalog::Store;

/// The roles named, and all they are members of, as statements that each create one; then their
/// memberships.
struct Wanted {
    roles: Vec<(String, String)>,
    /// (group, member, with admin option).
    memberships: Vec<(String, String, bool)>,
}

/// Makes a role of the home node on every other node that lacks it. Returns those nodes' names.
pub async fn ensure_role_on_nodes(store: &Store, role: &str) -> Result<Vec<String>, DdlError> {
    let wanted = {
        let home = store.home_client().await?;
        let home = home.lock().await;
        read(&*home, &[role.to_owned()]).await?
    };
    let mut made = Vec::new();
    for node in store.routes().load().nodes().filter(|n| !n.is_home) {
        let on_node = |e: DdlError| e.on_node(&node.name);
        let mut client = store.connector().connect(node).await?;
        let tx = client.transaction().await.map_err(|e| on_node(e.into()))?;
        if write(&tx, &wanted).await.map_err(on_node)? {
            made.push(node.name.clone());
        }
        tx.commit().await.map_err(|e| on_node(e.into()))?;
    }
    Ok(made)
}

/// Makes the roles named on `node`, in its open transaction, as they are on `home`.
pub(super) async fn copy_roles(
    home: &Client,
    node: &Client,
    roles: &[String],
) -> Result<(), DdlError> {
    let wanted = read(home, roles).await?;
    write(node, &wanted).await?;
    Ok(())
}

async fn read<C: GenericClient + Sync>(home: &C, roles: &[String]) -> Result<Wanted, DdlError> {
    let rows = home.query(ROLES, &[&roles]).await?;
    let found: Vec<String> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    if let Some(missing) = roles.iter().find(|r| !found.contains(r)) {
        return Err(DdlError::new("42704", format!("role \"{missing}\" does not exist")));
    }
    let mut wanted = Wanted { roles: Vec::new(), memberships: Vec::new() };
    for row in rows {
        let name: String = row.try_get(0)?;
        let attributes: String = row.try_get(1)?;
        let password: Option<String> = row.try_get(2)?;
        let valid_until: Option<String> = row.try_get(3)?;
        let mut sql = format!("CREATE ROLE {} {attributes}", ident(&name));
        if let Some(p) = password {
            sql += &format!(" PASSWORD {}", literal(&p));
        }
        if let Some(v) = valid_until {
            sql += &format!(" VALID UNTIL {}", literal(&v));
        }
        wanted.roles.push((name, sql));
    }
    for row in home.query(MEMBERSHIPS, &[&found]).await? {
        wanted.memberships.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    }
    Ok(wanted)
}

async fn write<C: GenericClient + Sync>(node: &C, wanted: &Wanted) -> Result<bool, DdlError> {
    let names: Vec<&str> = wanted.roles.iter().map(|(name, _)| name.as_str()).collect();
    let there: Vec<String> = node
        .query("SELECT rolname::text FROM pg_roles WHERE rolname::text = ANY($1)", &[&names])
        .await?
        .iter()
        .map(|r| r.try_get(0))
        .collect::<Result<_, _>>()?;
    let mut sql = Vec::new();
    let mut lacked = Vec::new();
    for (name, create) in &wanted.roles {
        if !there.contains(name) {
            sql.push(create.clone());
            lacked.push(name);
        }
    }
    for (group, member, admin) in &wanted.memberships {
        if lacked.contains(&member) {
            let admin = if *admin { " WITH ADMIN OPTION" } else { "" };
            sql.push(format!("GRANT {} TO {}{admin}", ident(group), ident(member)));
        }
    }
    if !sql.is_empty() {
        node.batch_execute(&sql.join("; ")).await?;
    }
    Ok(!lacked.is_empty())
}

/// Makes a schema of the home node on `node` if it is not there, with its owner and grants.
pub(super) async fn copy_schema(
    home: &Client,
    node: &Client,
    schema: &str,
) -> Result<(), DdlError> {
    let there = node
        .query_opt("SELECT FROM pg_namespace WHERE nspname::text = $1", &[&schema])
        .await?
        .is_some();
    if there {
        return Ok(());
    }
    let owner: String = home
        .query_one(
            "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname::text = $1",
            &[&schema],
        )
        .await?
        .try_get(0)?;
    let mut grants = Vec::new();
    for row in home.query(SCHEMA_GRANTS, &[&schema]).await? {
        grants.push(Grant {
            privilege: row.try_get(0)?,
            grantee: row.try_get(1)?,
            grantable: row.try_get(2)?,
        });
    }
    let mut roles: Vec<String> = grants.iter().filter_map(|g| g.grantee.clone()).collect();
    roles.push(owner.clone());
    copy_roles(home, node, &roles).await?;
    let schema = ident(schema);
    let mut sql = vec![format!("CREATE SCHEMA {schema} AUTHORIZATION {}", ident(&owner))];
    sql.extend(grants.iter().map(|g| g.on("SCHEMA", &schema)));
    node.batch_execute(&sql.join("; ")).await?;
    Ok(())
}

const ROLES: &str = "\
WITH RECURSIVE wanted AS (
  SELECT oid FROM pg_roles WHERE rolname::text = ANY($1)
  UNION SELECT m.roleid FROM wanted w JOIN pg_auth_members m ON m.member = w.oid)
SELECT a.rolname::text,
  concat_ws(' ', CASE WHEN a.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
    CASE WHEN a.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
    CASE WHEN a.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
    CASE WHEN a.rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
    CASE WHEN a.rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
    CASE WHEN a.rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
    CASE WHEN a.rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END,
    'CONNECTION LIMIT ' || a.rolconnlimit),
  a.rolpassword, a.rolvaliduntil::text
FROM pg_authid a JOIN wanted USING (oid) ORDER BY a.oid";

const MEMBERSHIPS: &str = "\
SELECT g.rolname::text, m.rolname::text, bool_or(a.admin_option)
FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
WHERE m.rolname::text = ANY($1) GROUP BY 1, 2";

const SCHEMA_GRANTS: &str = "\
SELECT a.privilege_type::text, r.rolname::text, a.is_grantable
FROM pg_namespace n, LATERAL aclexplode(n.nspacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE n.nspname::text = $1 AND a.grantee <> n.nspowner";
