//! What the home node knows of roles and functions: who may log in, and what the server came with.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::{Client, Row};

use super::{CatalogError, Store};
use crate::auth::StoredSecret;
use crate::router::{Function, Functions};

/// A role as `pg_authid` has it.
#[derive(Debug, Clone)]
pub struct Role {
    pub oid: u32,
    /// What a server process takes from its login and keeps: the role's attributes and parameters, and
    /// what the databases set and allow. The password is not among it.
    pub standing: String,
    /// `None`: no password, or one that is not valid any more.
    pub secret: Option<StoredSecret>,
    pub can_login: bool,
    /// The roles it is a member of, directly or not, and itself.
    pub groups: Vec<String>,
    /// The databases it has no CONNECT for. A server connection that is there already would let it in.
    pub barred: Vec<String>,
}

/// Reads roles on a connection of its own: logins must not wait for a transaction of the catalog.
pub struct RoleReader {
    store: Arc<Store>,
    client: Option<Client>,
}

/// What the home node answered.
pub struct Roles {
    /// Those that exist.
    pub found: HashMap<String, Role>,
    /// How often new passwords are hashed there.
    pub iterations: Option<u32>,
    /// Whether they are hashed by md5.
    pub new_are_md5: bool,
}

/// A password past its VALID UNTIL is as none, as in PostgreSQL; the role may still come in without.
const READ_ROLES: &str = "\
SELECT r.rolname,
  CASE WHEN r.rolvaliduntil IS NULL OR r.rolvaliduntil > now() THEN r.rolpassword END,
  s.iterations, s.encryption, r.rolcanlogin,
  ARRAY(WITH RECURSIVE m(oid) AS (SELECT r.oid UNION
      SELECT a.roleid FROM pg_catalog.pg_auth_members a JOIN m ON a.member = m.oid)
    SELECT g.rolname::text FROM m, pg_catalog.pg_authid g WHERE g.oid = m.oid),
  ARRAY(SELECT d.datname::text FROM pg_catalog.pg_database d
    WHERE NOT pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')),
  r.oid,
  pg_catalog.concat_ws(' ', r.oid, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb,
    r.rolcanlogin, r.rolreplication, r.rolbypassrls, r.rolconnlimit,
    (SELECT pg_catalog.array_agg(s::text ORDER BY s.setdatabase, s.setrole)
      FROM pg_catalog.pg_db_role_setting s WHERE s.setrole IN (0, r.oid)),
    (SELECT pg_catalog.array_agg(
        pg_catalog.concat_ws(' ', d.datname, d.datallowconn, d.datconnlimit) ORDER BY d.oid)
      FROM pg_catalog.pg_database d WHERE NOT d.datallowconn OR d.datconnlimit <> -1))
FROM (SELECT current_setting('scram_iterations', true) AS iterations,
    current_setting('password_encryption') AS encryption) s
LEFT JOIN pg_catalog.pg_authid r ON r.rolname = ANY($1::text[])";

impl RoleReader {
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, client: None }
    }

    /// The roles of these names. After an error the next call connects anew.
    pub async fn read(&mut self, names: &[String]) -> Result<Roles, CatalogError> {
        let client = match self.client.take().filter(|c| !c.is_closed()) {
            Some(client) => client,
            None => {
                let routes = self.store.routes().load();
                self.store.connector().connect(routes.home()).await?
            }
        };
        let rows = client.query(READ_ROLES, &[&names]).await?;
        self.client = Some(client);
        let iterations = rows.first().and_then(|r| r.get::<_, Option<String>>(2)?.parse().ok());
        let new_are_md5 = rows.first().is_some_and(|r| r.get::<_, String>(3) == "md5");
        let role = |r: &Row| {
            let name: String = r.get::<_, Option<_>>(0)?;
            let stored: Option<String> = r.get(1);
            let secret = stored.as_deref().and_then(StoredSecret::of_role);
            let (can_login, groups, barred) = (r.get(4), r.get(5), r.get(6));
            let (oid, standing) = (r.get(7), r.get(8));
            Some((name, Role { oid, standing, secret, can_login, groups, barred }))
        };
        Ok(Roles { found: rows.iter().filter_map(role).collect(), iterations, new_are_md5 })
    }
}

impl Store {
    /// The functions the server came with. A name that a function of somebody's has too is not among
    /// them: which of the two is called depends on its arguments.
    pub async fn functions(&self) -> Result<Functions, CatalogError> {
        let client = self.home_client().await?;
        let rows = client
            .lock()
            .await
            .query(
                "SELECT proname, bool_and(provolatile <> 'v'), \
                   bool_or(prokind = 'a'), bool_or(proretset) \
                 FROM pg_catalog.pg_proc GROUP BY proname HAVING bool_and(\
                   pronamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace))",
                &[],
            )
            .await?;
        let all = Functions::new(rows.iter().map(|r| Function {
            name: r.get(0),
            stable: r.get(1),
            aggregate: r.get(2),
            set: r.get(3),
        }));
        let version: String = client
            .lock()
            .await
            .query_one("SELECT pg_catalog.current_setting('server_version_num')", &[])
            .await?
            .get(0);
        Ok(all.of_server(version.parse::<u32>().unwrap_or(0) / 10_000))
    }
}
