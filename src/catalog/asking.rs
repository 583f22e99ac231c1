//! Whose clients ask for the values that they have drawn from sequences, kept for the next process: it
//! follows them from its start (`session::sequences`).

use std::collections::HashSet;

use super::store::{CatalogError, Store};

impl Store {
    /// Databases and roles, as earlier processes have noted them.
    pub async fn asking(&self) -> Result<HashSet<(String, String)>, CatalogError> {
        let client = self.home_client().await?;
        let sql = "SELECT database_name, role_name FROM pgshunt.asking";
        let rows = client.lock().await.query(sql, &[]).await?;
        Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
    }

    /// Adds these, and drops those whose database or role is gone.
    pub async fn note_asking(&self, whose: &[(String, String)]) -> Result<(), CatalogError> {
        let _permit = self.permit().await?;
        let (databases, roles): (Vec<&str>, Vec<&str>) =
            whose.iter().map(|(database, role)| (database.as_str(), role.as_str())).unzip();
        let client = self.home_client().await?;
        let mut client = client.lock().await;
        let tx = client.transaction().await?;
        tx.execute(
            "INSERT INTO pgshunt.asking
             SELECT * FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]))
             ON CONFLICT DO NOTHING",
            &[&databases, &roles],
        )
        .await?;
        tx.execute(
            "DELETE FROM pgshunt.asking a WHERE
               NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = a.database_name)
               OR NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = a.role_name)",
            &[],
        )
        .await?;
        Ok(tx.commit().await?)
    }
}
