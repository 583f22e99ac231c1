//! What the home node knows of roles and functions: who may log in, and what the server came with.

use super::{CatalogError, Store};
use crate::auth::Verifier;
use crate::router::{Function, Functions};

/// A role that may log in, as `pg_authid` has it.
#[derive(Debug, Clone)]
pub struct Role {
    /// `None`: no password, or not a SCRAM one.
    pub verifier: Option<Verifier>,
    pub superuser: bool,
}

impl Store {
    /// The role, if it exists, may log in and is still valid.
    pub async fn role(&self, name: &str) -> Result<Option<Role>, CatalogError> {
        let client = self.home_client().await?;
        let row = client
            .lock()
            .await
            .query_opt(
                "SELECT rolpassword, rolsuper FROM pg_catalog.pg_authid WHERE rolname = $1 \
                 AND rolcanlogin AND (rolvaliduntil IS NULL OR rolvaliduntil > now())",
                &[&name],
            )
            .await?;
        Ok(row.map(|r| Role {
            verifier: r.get::<_, Option<String>>(0).and_then(|text| text.parse().ok()),
            superuser: r.get(1),
        }))
    }

    /// The functions the server came with. A name that a function of somebody's has too is not among
    /// them: which of the two is called depends on its arguments.
    pub async fn functions(&self) -> Result<Functions, CatalogError> {
        let client = self.home_client().await?;
        let rows = client
            .lock()
            .await
            .query(
                "SELECT proname, bool_and(provolatile <> 'v'), \
                   bool_and(NOT proretset AND prokind = 'f') \
                 FROM pg_catalog.pg_proc GROUP BY proname HAVING bool_and(\
                   pronamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace))",
                &[],
            )
            .await?;
        Ok(Functions::new(rows.iter().map(|r| Function {
            name: r.get(0),
            stable: r.get(1),
            plain: r.get(2),
        })))
    }
}
