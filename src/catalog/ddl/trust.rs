//! What a table of a role that is no superuser may call: what PostgreSQL came with, and what belongs to a
//! superuser.
//!
//! Defaults, generated columns, constraints, index expressions, policies and types are made on the other
//! nodes, and on the leaves, by the service role. PostgreSQL computes parts of them while it makes them
//! (it folds immutable functions of constants, and reads literals by their type's own functions), so
//! nothing that another role has written may stand in them. What a node came with leaves no trace in
//! `pg_depend`; all else does.

use futures_util::future::try_join_all;
use tokio_postgres::Client;

use super::acting::Who;
use super::{DdlError, Everywhere};

/// Something a table needs that PostgreSQL did not come with, as every node can look it up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    kind: String,
    names: Vec<String>,
    arguments: Vec<String>,
    /// As messages call it.
    called: String,
}

/// What the tables need, and who made it.
#[derive(Debug, Default)]
pub(super) struct Needs(Vec<Need>);

impl Needs {
    /// Of the table as it is at home now.
    ///
    /// # Errors
    /// The client is no superuser, and the table calls what another such role has written.
    pub async fn of(home: &Client, who: &Who, table: u32) -> Result<Self, DdlError> {
        if who.superuser {
            return Ok(Self::default());
        }
        let sql = format!(
            "{PARTS} SELECT a.type, a.object_names, a.object_args, \
               concat(a.type, ' ', (pg_identify_object(d.refclassid, d.refobjid, 0)).identity), {TRUSTED} \
             FROM needed d, pg_identify_object_as_address(d.refclassid, d.refobjid, 0) a"
        );
        let mut needs = Vec::new();
        for row in home.query(&sql, &[&table]).await? {
            let need = Need {
                kind: row.try_get(0)?,
                names: row.try_get(1)?,
                arguments: row.try_get(2)?,
                called: row.try_get(3)?,
            };
            if !row.try_get::<_, bool>(4)? {
                return Err(need.refused());
            }
            needs.push(need);
        }
        Ok(Self(needs))
    }

    /// Looks at what bears these names on the other nodes, before anything calls it there.
    pub async fn check_elsewhere(&self, all: &Everywhere) -> Result<(), DdlError> {
        try_join_all(all.others.iter().map(async |peer| {
            for need in &self.0 {
                let sql = format!(
                    "SELECT {TRUSTED} FROM pg_get_object_address($1, $2, $3) \
                     AS d (refclassid, refobjid, sub)"
                );
                let row = peer
                    .client
                    .query_one(&sql, &[&need.kind, &need.names, &need.arguments])
                    .await
                    .map_err(|e| peer.blame(e).only_at_home())?;
                if !row.try_get::<_, bool>(0)? {
                    return Err(need.refused().on_node(&peer.node.name));
                }
            }
            Ok(())
        }))
        .await?;
        Ok(())
    }
}

impl Need {
    fn refused(&self) -> DdlError {
        DdlError::unsupported(format!("a distributed table cannot use {}", self.called))
            .detail("It is a user's own, and would be evaluated with pgshunt's rights.")
            .hint("Use what PostgreSQL comes with, or what belongs to a superuser on all nodes.")
    }
}

/// Whether `d.refobjid` belongs to a superuser.
pub(super) const TRUSTED: &str = "\
coalesce((SELECT r.rolsuper FROM pg_roles r WHERE r.oid = CASE d.refclassid
  WHEN 'pg_proc'::regclass THEN (SELECT proowner FROM pg_proc WHERE oid = d.refobjid)
  WHEN 'pg_type'::regclass THEN (SELECT typowner FROM pg_type WHERE oid = d.refobjid)
  WHEN 'pg_operator'::regclass THEN (SELECT oprowner FROM pg_operator WHERE oid = d.refobjid)
  WHEN 'pg_opclass'::regclass THEN (SELECT opcowner FROM pg_opclass WHERE oid = d.refobjid)
  WHEN 'pg_opfamily'::regclass THEN (SELECT opfowner FROM pg_opfamily WHERE oid = d.refobjid)
  WHEN 'pg_collation'::regclass THEN (SELECT collowner FROM pg_collation WHERE oid = d.refobjid)
  END), false)";

/// Whether `d.refobjid` is an enum, or an array of one, that no plain role has written a cast for: who has made it has
/// written names, and nothing that runs. Only for what is asked on a node of a statement that the client's own role
/// has carried out there: of a text that pgshunt prints and reads with its own rights nobody knows which casts it
/// would find elsewhere.
pub(super) const NAMES_ONLY: &str = "\
d.refclassid = 'pg_type'::regclass AND EXISTS (SELECT FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem
  WHERE t.oid = d.refobjid AND (t.typtype = 'e' OR e.typtype = 'e' AND t.typinput = 'array_in'::regproc)
    AND NOT EXISTS (SELECT FROM pg_cast w JOIN pg_proc f ON f.oid = w.castfunc JOIN pg_roles r ON r.oid = f.proowner
      WHERE (w.castsource IN (t.oid, e.oid) OR w.casttarget IN (t.oid, e.oid)) AND NOT r.rolsuper))";

/// Indexes, defaults, constraints and policies depend on what they call, and so does the table itself.
pub(super) const PARTS: &str = "\
WITH parts (classid, objid) AS (
  SELECT 'pg_class'::regclass::oid, $1::oid
  UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = $1
  UNION SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = $1
  UNION SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = $1
  UNION SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid = $1),
needed AS (
  SELECT DISTINCT d.refclassid, d.refobjid FROM parts p JOIN pg_depend d USING (classid, objid)
  WHERE d.refclassid NOT IN ('pg_class'::regclass, 'pg_namespace'::regclass, 'pg_constraint'::regclass,
    'pg_am'::regclass))";
