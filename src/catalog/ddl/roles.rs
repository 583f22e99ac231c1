//! Roles as the home node has them, made so on another node.
//!
//! A role is copied with its password's verifier, so whoever can log in at home can log in
//! everywhere, with the roles it is a member of, and with its defaults for parameters.

use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};
use tokio_postgres::Client;

use super::DdlError;

/// What of a role is made as it is at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// With the password.
    Attributes,
    /// ALTER ROLE ... SET, for all databases and for the cluster's.
    Defaults,
    Memberships,
}

/// Which of them.
pub(super) enum Memberships {
    /// Those of the roles, in others and of others in them.
    Of(Vec<String>),
    /// Those of the second in the first.
    Between(Vec<String>, Vec<String>),
    /// Those of the roles in others.
    In(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    group: String,
    member: String,
    /// The options, as GRANT takes them.
    how: String,
    /// `None`: it was dropped since.
    grantor: Option<String>,
}

/// Makes the roles named, and all they are members of, on `node` if they are not there. A role that
/// is there already is left alone.
pub(super) async fn copy_roles(
    home: &Client,
    node: &Client,
    roles: &[String],
) -> Result<(), DdlError> {
    let rows = home.query(ROLES, &[&roles]).await?;
    let found: Vec<String> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    if let Some(missing) = roles.iter().find(|r| !found.contains(r)) {
        return Err(DdlError::new("42704", format!("role \"{missing}\" does not exist")));
    }
    let there = present(node, &found).await?;
    let mut lacked = Vec::new();
    for row in rows {
        let name: String = row.try_get(0)?;
        if !there.contains(&name) {
            node.batch_execute(&format!("CREATE ROLE {}", ident(&name))).await?;
            lacked.push(name);
        }
    }
    if lacked.is_empty() {
        return Ok(());
    }
    attributes(home, node, &lacked).await?;
    defaults(home, node, &lacked).await?;
    memberships(home, node, &Memberships::In(lacked)).await
}

/// Makes these parts of the roles on `node` what they are at home, and the roles if need be.
pub(super) async fn bring(
    home: &Client,
    node: &Client,
    roles: &[String],
    parts: &[Part],
) -> Result<(), DdlError> {
    copy_roles(home, node, roles).await?;
    for part in parts {
        match part {
            Part::Attributes => attributes(home, node, roles).await?,
            Part::Defaults => defaults(home, node, roles).await?,
            Part::Memberships => {
                bring_memberships(home, node, &Memberships::Of(roles.to_vec())).await?;
            }
        }
    }
    Ok(())
}

/// Makes the memberships on `node` what they are at home, and the roles they join if need be.
pub(super) async fn bring_memberships(
    home: &Client,
    node: &Client,
    which: &Memberships,
) -> Result<(), DdlError> {
    let mut joined: Vec<String> = Vec::new();
    if let Memberships::Between(groups, members) = which {
        joined.extend(groups.iter().chain(members).cloned());
    }
    for m in read_memberships(home, which).await? {
        joined.extend([m.group, m.member]);
    }
    joined.sort_unstable();
    joined.dedup();
    copy_roles(home, node, &joined).await?;
    memberships(home, node, which).await
}

/// Makes the roles on `node` that it lacks. Whoever can log in at home may read what PUBLIC may.
pub(super) async fn copy_all(home: &Client, node: &Client) -> Result<(), DdlError> {
    let rows = home
        .query("SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg(_|shunt_move_)'", &[])
        .await?;
    let all: Vec<String> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    copy_roles(home, node, &all).await
}

/// Makes all roles of the home node on a new one, with their passwords, memberships and defaults. The
/// service role keeps what it logs in with if it has no password at home. Roles that a move's subscription
/// logs in as belong to one node.
pub(in crate::catalog) async fn bring_all(home: &Client, node: &Client) -> Result<(), DdlError> {
    const ALL: &str = "\
        SELECT rolname::text FROM pg_authid WHERE rolname !~ '^pg(_|shunt_move_)' \
          AND (rolname <> session_user OR rolpassword IS NOT NULL) ORDER BY oid";
    let rows = home.query(ALL, &[]).await?;
    let all: Vec<String> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    bring(home, node, &all, &[Part::Attributes, Part::Defaults, Part::Memberships]).await?;
    bring_defaults_of_all(home, node).await
}

async fn present(node: &Client, roles: &[String]) -> Result<Vec<String>, DdlError> {
    node.query("SELECT rolname::text FROM pg_roles WHERE rolname::text = ANY($1)", &[&roles])
        .await?
        .iter()
        .map(|r| r.try_get(0).map_err(DdlError::from))
        .collect()
}

/// A verifier given as a password is kept as it is.
async fn attributes(home: &Client, node: &Client, roles: &[String]) -> Result<(), DdlError> {
    let mut sql = Vec::new();
    for row in home.query(ATTRIBUTES, &[&roles]).await? {
        let (name, attributes): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let password: Option<String> = row.try_get(2)?;
        let valid_until: Option<String> = row.try_get(3)?;
        let password = password.map_or_else(|| "NULL".into(), |p| literal(&p));
        let mut alter = format!("ALTER ROLE {} {attributes} PASSWORD {password}", ident(&name));
        let limited = node
            .query_opt(
                "SELECT FROM pg_roles WHERE rolname::text = $1 AND rolvaliduntil IS NOT NULL",
                &[&name],
            )
            .await?
            .is_some();
        // It cannot be taken away again, only become infinite.
        if let Some(until) = valid_until.or_else(|| limited.then(|| "infinity".into())) {
            alter += &format!(" VALID UNTIL {}", literal(&until));
        }
        sql.push(alter);
    }
    node.batch_execute(&sql.join("; ")).await?;
    Ok(())
}

async fn defaults(home: &Client, node: &Client, roles: &[String]) -> Result<(), DdlError> {
    for role in roles {
        set_defaults(home, node, Some(role)).await?;
    }
    Ok(())
}

/// ALTER ROLE ALL SET.
pub(super) async fn bring_defaults_of_all(home: &Client, node: &Client) -> Result<(), DdlError> {
    set_defaults(home, node, None).await
}

/// The rows themselves: their values are not always what SET takes (lists of names are kept quoted),
/// and the home node has judged them.
async fn set_defaults(home: &Client, node: &Client, role: Option<&str>) -> Result<(), DdlError> {
    let rows = home.query(DEFAULTS, &[&role]).await?;
    node.execute(FORGET_DEFAULTS, &[&role]).await?;
    for row in rows {
        let (of_database, config): (bool, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
        node.execute(PUT_DEFAULTS, &[&role, &of_database, &config]).await?;
    }
    Ok(())
}

async fn read_memberships(node: &Client, which: &Memberships) -> Result<Vec<Membership>, DdlError> {
    let (condition, a, b): (_, &[String], &[String]) = match which {
        Memberships::Of(roles) => {
            ("(g.rolname::text = ANY($1) OR m.rolname::text = ANY($2))", roles, roles)
        }
        Memberships::Between(groups, members) => {
            ("g.rolname::text = ANY($1) AND m.rolname::text = ANY($2)", groups, members)
        }
        Memberships::In(roles) => {
            ("m.rolname::text = ANY($1) AND m.rolname::text = ANY($2)", roles, roles)
        }
    };
    let mut found = Vec::new();
    for row in node.query(&format!("{MEMBERSHIPS} WHERE {condition}"), &[&a, &b]).await? {
        found.push(Membership {
            group: row.try_get(0)?,
            member: row.try_get(1)?,
            how: row.try_get(2)?,
            grantor: row.try_get(3)?,
        });
    }
    Ok(found)
}

async fn memberships(home: &Client, node: &Client, which: &Memberships) -> Result<(), DdlError> {
    let mut wanted = read_memberships(home, which).await?;
    let grantors: Vec<String> = wanted.iter().filter_map(|m| m.grantor.clone()).collect();
    let grantors = present(node, &grantors).await?;
    for m in &mut wanted {
        m.grantor.take_if(|g| !grantors.contains(g));
    }
    let there = read_memberships(node, which).await?;
    let same = |a: &Membership, wanted: &Membership| {
        (&a.group, &a.member, &a.how) == (&wanted.group, &wanted.member, &wanted.how)
            && (wanted.grantor.is_none() || a.grantor == wanted.grantor)
    };
    let by = |m: &Membership| {
        m.grantor.as_ref().map(|g| format!(" GRANTED BY {}", ident(g))).unwrap_or_default()
    };
    let mut sql = Vec::new();
    for m in there.iter().filter(|m| !wanted.iter().any(|w| same(m, w))) {
        sql.push(format!("REVOKE {} FROM {}{} CASCADE", ident(&m.group), ident(&m.member), by(m)));
    }
    for w in wanted.iter().filter(|w| !there.iter().any(|m| same(m, w))) {
        sql.push(format!("GRANT {} TO {}{}{}", ident(&w.group), ident(&w.member), w.how, by(w)));
    }
    node.batch_execute(&sql.join("; ")).await?;
    Ok(())
}

const ROLES: &str = "\
WITH RECURSIVE wanted AS (
  SELECT oid FROM pg_roles WHERE rolname::text = ANY($1)
  UNION SELECT m.roleid FROM wanted w JOIN pg_auth_members m ON m.member = w.oid)
SELECT a.rolname::text FROM pg_roles a JOIN wanted USING (oid) ORDER BY a.oid";

const ATTRIBUTES: &str = "\
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
FROM pg_authid a WHERE a.rolname::text = ANY($1)";

/// Of one role, or of all. The flag tells those of the cluster's database.
const DEFAULTS: &str = "\
SELECT setdatabase <> 0, setconfig FROM pg_db_role_setting
WHERE setrole = CASE WHEN $1::text IS NULL THEN 0::oid
    ELSE (SELECT oid FROM pg_roles WHERE rolname::text = $1) END
  AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))";

const FORGET_DEFAULTS: &str = "\
DELETE FROM pg_db_role_setting
WHERE setrole = CASE WHEN $1::text IS NULL THEN 0::oid
    ELSE (SELECT oid FROM pg_roles WHERE rolname::text = $1) END
  AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))";

const PUT_DEFAULTS: &str = "\
INSERT INTO pg_db_role_setting (setdatabase, setrole, setconfig) VALUES (
  CASE WHEN $2 THEN (SELECT oid FROM pg_database WHERE datname = current_database())
    ELSE 0::oid END,
  CASE WHEN $1::text IS NULL THEN 0::oid
    ELSE (SELECT oid FROM pg_roles WHERE rolname::text = $1) END,
  $3)";

/// PostgreSQL 16 has more options than the one.
const MEMBERSHIPS: &str = "\
SELECT g.rolname::text, m.rolname::text,
  CASE WHEN to_jsonb(a) ? 'set_option'
    THEN format(' WITH ADMIN %s, INHERIT %s, SET %s', a.admin_option::text,
      to_jsonb(a) ->> 'inherit_option', to_jsonb(a) ->> 'set_option')
    WHEN a.admin_option THEN ' WITH ADMIN OPTION' ELSE '' END,
  w.rolname::text
FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
  LEFT JOIN pg_roles w ON w.oid = a.grantor";
