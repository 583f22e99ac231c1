//! Who may do what with a table: read from the home node and made so elsewhere.
//!
//! GRANT records who granted, and takes a superuser for the owner; so a list of grants is not given
//! by GRANTs but copied as it stands, together with what it says about roles in `pg_shdepend`, from
//! which PostgreSQL knows that a role cannot be dropped. Both are written as a superuser may write
//! them. Owners and policies are set by their own statements.
//!
//! A leaf has its parent's owner, grants, row security and policies: who addresses a shard by its
//! leaf's name sees and may do there what the table allows.

use futures_util::future::try_join_all;
use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};
use tokio_postgres::{Client, Row};

use super::roles::copy_roles;
use super::{DdlError, Everywhere};
use crate::topology::DistributedTable;

/// Grants, owner and row security of a relation on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Quoted and qualified.
    pub relation: String,
    is_sequence: bool,
    owner: String,
    /// `relacl`, as it is printed; `None`: nothing was ever granted or revoked.
    acl: Option<String>,
    /// Columns with grants of their own.
    columns: Vec<(String, String)>,
    row_security: bool,
    forced: bool,
    /// Names of the policies, and what stands behind `CREATE POLICY name ON table`.
    policies: Vec<(String, String)>,
    /// Everyone named by any of this.
    pub(super) roles: Vec<String>,
}

/// What a distributed table and the sequences it owns are to have on every node.
#[derive(Debug, Clone)]
struct Wanted {
    /// Quoted and qualified, the same on all nodes.
    parent: String,
    table: Access,
    sequences: Vec<Access>,
}

impl Access {
    /// Of a table by its quoted and qualified name, if there is one. Needs `search_path = pg_catalog`.
    pub async fn of(client: &Client, table: &str) -> Result<Option<Self>, tokio_postgres::Error> {
        let sql = format!("{READ} WHERE c.oid = to_regclass($1)");
        let row = client.query_opt(&sql, &[&table]).await?;
        row.map(|r| Self::from_row(&r)).transpose()
    }

    pub(super) fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let pairs = |a: Vec<String>, b: Vec<String>| a.into_iter().zip(b).collect();
        Ok(Self {
            relation: row.try_get(0)?,
            is_sequence: row.try_get(1)?,
            owner: row.try_get(2)?,
            acl: row.try_get(3)?,
            row_security: row.try_get(4)?,
            forced: row.try_get(5)?,
            columns: pairs(row.try_get(6)?, row.try_get(7)?),
            policies: pairs(row.try_get(8)?, row.try_get(9)?),
            roles: row.try_get(10)?,
        })
    }

    pub(super) fn has_grants_of(&self, other: &Self) -> bool {
        (&self.acl, &self.columns) == (&other.acl, &other.columns)
    }

    /// What gives `relation` all this. `found` is what it has; `None`: it was just made.
    pub fn statements(&self, relation: &str, found: Option<&Self>) -> Vec<String> {
        let mut sql = Vec::new();
        let mut acl_is_other = found.is_none_or(|f| !f.has_grants_of(self));
        // The sequence of a column belongs to whom the table belongs.
        if !self.is_sequence && found.is_none_or(|f| f.owner != self.owner) {
            sql.push(format!("ALTER TABLE {relation} OWNER TO {}", ident(&self.owner)));
            acl_is_other = true;
        }
        for (name, definition) in found.map(|f| f.policies.as_slice()).unwrap_or_default() {
            if !self.policies.contains(&(name.clone(), definition.clone())) {
                sql.push(format!("DROP POLICY {} ON {relation}", ident(name)));
            }
        }
        for policy @ (name, definition) in &self.policies {
            if !found.is_some_and(|f| f.policies.contains(policy)) {
                sql.push(format!("CREATE POLICY {} ON {relation} {definition}", ident(name)));
            }
        }
        if self.row_security != found.is_some_and(|f| f.row_security) {
            let how = if self.row_security { "ENABLE" } else { "DISABLE" };
            sql.push(format!("ALTER TABLE {relation} {how} ROW LEVEL SECURITY"));
        }
        if self.forced != found.is_some_and(|f| f.forced) {
            let how = if self.forced { "FORCE" } else { "NO FORCE" };
            sql.push(format!("ALTER TABLE {relation} {how} ROW LEVEL SECURITY"));
        }
        if acl_is_other {
            sql.extend(self.grants(relation));
        }
        sql
    }

    /// The grants alone.
    pub(super) fn grants(&self, relation: &str) -> Vec<String> {
        let oid = format!("{}::regclass", literal(relation));
        let kind = if self.is_sequence { "SEQUENCE" } else { "TABLE" };
        let mut sql = vec![
            format!(
                "UPDATE pg_attribute SET attacl = NULL WHERE attrelid = {oid} AND attacl IS NOT NULL"
            ),
            format!("UPDATE pg_class SET relacl = {} WHERE oid = {oid}", acl(self.acl.as_deref())),
        ];
        if self.acl.as_deref() == Some(NOTHING) {
            sql.push(format!("REVOKE ALL ON {kind} {relation} FROM {}", ident(&self.owner)));
        }
        for (column, grants) in &self.columns {
            sql.push(format!(
                "UPDATE pg_attribute SET attacl = {} WHERE attrelid = {oid} AND attname = {}",
                acl(Some(grants)),
                literal(column)
            ));
        }
        sql.push(format!(
            "DELETE FROM pg_shdepend WHERE classid = 'pg_class'::regclass AND objid = {oid} \
             AND deptype = 'a' AND dbid = {THIS_DATABASE}"
        ));
        sql.push(format!(
            "INSERT INTO pg_shdepend \
               (dbid, classid, objid, objsubid, refclassid, refobjid, deptype) \
             SELECT DISTINCT {THIS_DATABASE}, 'pg_class'::regclass, c.oid, g.sub, \
               'pg_authid'::regclass, r.role, 'a'::\"char\" \
             FROM pg_class c, LATERAL (\
                 SELECT 0 AS sub, a.* FROM aclexplode(c.relacl) a \
                 UNION ALL SELECT t.attnum, a.* FROM pg_attribute t, aclexplode(t.attacl) a \
                 WHERE t.attrelid = c.oid) g, \
               LATERAL (VALUES (g.grantee), (g.grantor)) r (role) \
             WHERE c.oid = {oid} AND r.role <> c.relowner AND r.role >= {FIRST_OWN}"
        ));
        sql
    }
}

impl Wanted {
    /// What the home node has, and the others shall.
    async fn read(home: &Client, schema: &str, table: &str) -> Result<Self, DdlError> {
        let parent = format!("{}.{}", ident(schema), ident(table));
        let table = Access::of(home, &parent).await?.ok_or_else(|| missing(&parent))?;
        let sql = format!("{READ} WHERE c.oid IN ({SEQUENCES})");
        let rows = home.query(&sql, &[&parent]).await?;
        let sequences = rows.iter().map(Access::from_row).collect::<Result<_, _>>()?;
        Ok(Self { parent, table, sequences })
    }

    fn roles(&self) -> Vec<String> {
        let all = std::iter::once(&self.table).chain(&self.sequences);
        let mut roles: Vec<String> = all.flat_map(|a| a.roles.clone()).collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }
}

/// What gives a node's parent, its leaves there and its sequences what they are to have.
async fn due(node: &Client, wanted: &Wanted) -> Result<Vec<String>, DdlError> {
    let sql = format!(
        "{READ} WHERE c.oid = to_regclass($1) OR c.oid IN ({SEQUENCES}) OR c.oid IN (\
           SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass($1))"
    );
    let rows = node.query(&sql, &[&wanted.parent]).await?;
    let found: Vec<Access> = rows.iter().map(Access::from_row).collect::<Result<_, _>>()?;
    if !found.iter().any(|f| f.relation == wanted.parent) {
        return Err(missing(&wanted.parent));
    }
    let mut sql = Vec::new();
    for there in &found {
        let to = match there.is_sequence {
            false => Some(&wanted.table),
            true => wanted.sequences.iter().find(|s| s.relation == there.relation),
        };
        sql.extend(to.map(|to| to.statements(&there.relation, Some(there))).unwrap_or_default());
    }
    Ok(sql)
}

/// Gives a node's parent, its leaves there and its sequences what the home node's have.
pub(in crate::catalog) async fn bring(
    home: &Client,
    node: &Client,
    schema: &str,
    table: &str,
) -> Result<(), DdlError> {
    let wanted = Wanted::read(home, schema, table).await?;
    copy_roles(home, node, &wanted.roles()).await?;
    let sql = due(node, &wanted).await?;
    node.batch_execute(&sql.join("; ")).await.map_err(|e| DdlError::from(e).only_at_home())
}

/// Does [`bring`] on all nodes: the home node's leaves follow their parent too.
pub(super) async fn follow(all: &Everywhere, schema: &str, table: &str) -> Result<(), DdlError> {
    let home = &*all.home.client;
    let peers = all.peers().map(async |peer| {
        let done = bring(home, &peer.client, schema, table).await;
        done.map_err(|e| e.on_node(&peer.node.name))
    });
    try_join_all(peers).await?;
    Ok(())
}

/// Whether any node has something else than the home node's parent.
pub(super) async fn differs(all: &Everywhere, table: &DistributedTable) -> Result<bool, DdlError> {
    let wanted = Wanted::read(&all.home.client, &table.schema, &table.name).await?;
    let due = try_join_all(all.peers().map(|peer| due(&peer.client, &wanted))).await?;
    Ok(due.iter().any(|sql| !sql.is_empty()))
}

/// Refuses policies whose meaning depends on where they are evaluated.
pub(super) async fn can_be_anywhere(
    home: &Client,
    table: &DistributedTable,
) -> Result<(), DdlError> {
    let parent = format!("{}.{}", ident(&table.schema), ident(&table.name));
    let row = home
        .query_opt(
            "SELECT polname::text FROM pg_policy WHERE polrelid = to_regclass($1) \
               AND concat(polqual::text, polwithcheck::text) ~ '\\{SUBLINK' LIMIT 1",
            &[&parent],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    let policy: String = row.try_get(0)?;
    Err(DdlError::unsupported(format!(
        "policy \"{policy}\" of the distributed table \"{}\" has a sub-select",
        table.name
    ))
    .detail("It would read what the node at hand has of the other table.")
    .hint("Compare with current_user, current_setting() or pg_has_role() instead."))
}

/// What a list looks like from which everything was revoked. Read in again, it would be another kind of
/// array than PostgreSQL's lists, which fails them: such a list is made by REVOKE.
pub(super) const NOTHING: &str = "{}";

/// A list of grants in SQL; NULL for that of an object as it was made.
pub(super) fn acl(grants: Option<&str>) -> String {
    let grants = grants.filter(|g| *g != NOTHING);
    grants.map_or_else(|| "NULL".into(), |g| format!("{}::aclitem[]", literal(g)))
}

fn missing(table: &str) -> DdlError {
    DdlError::new("42P01", format!("relation {table} does not exist"))
}

/// What initdb makes has smaller numbers. Roles among it are never recorded as being needed.
pub(super) const FIRST_OWN: u32 = 16384;

pub(super) const THIS_DATABASE: &str =
    "(SELECT oid FROM pg_database WHERE datname = current_database())";

/// The sequences of a table's columns.
const SEQUENCES: &str = "\
SELECT d.objid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = to_regclass($1) AND d.deptype IN ('a', 'i')";

/// One row for [`Access::from_row`] per relation `c`.
pub(super) const READ: &str = r#"
SELECT concat('"', replace(n.nspname, '"', '""'), '"."', replace(c.relname, '"', '""'), '"'),
  c.relkind = 'S', pg_get_userbyid(c.relowner)::text, c.relacl::text, c.relrowsecurity, c.relforcerowsecurity,
  ARRAY(SELECT attname::text FROM pg_attribute
    WHERE attrelid = c.oid AND attacl IS NOT NULL AND NOT attisdropped ORDER BY attnum),
  ARRAY(SELECT attacl::text FROM pg_attribute
    WHERE attrelid = c.oid AND attacl IS NOT NULL AND NOT attisdropped ORDER BY attnum),
  ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid ORDER BY polname),
  ARRAY(SELECT concat('AS ', CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
      ' FOR ', CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
        WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
      ' TO ', (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END,
        ', ' ORDER BY nth) FROM unnest(polroles) WITH ORDINALITY AS u (r, nth)),
      ' USING (' || pg_get_expr(polqual, polrelid) || ')',
      ' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')')
    FROM pg_policy WHERE polrelid = c.oid ORDER BY polname),
  ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.oid = c.relowner OR r.oid IN (
    SELECT unnest(ARRAY[a.grantee, a.grantor]) FROM aclexplode(c.relacl) a
    UNION SELECT unnest(ARRAY[a.grantee, a.grantor]) FROM pg_attribute t, aclexplode(t.attacl) a
      WHERE t.attrelid = c.oid
    UNION SELECT unnest(polroles) FROM pg_policy WHERE polrelid = c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"#;
