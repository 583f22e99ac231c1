//! What moves need on every node.

use tokio_postgres::{Client, Error};

use crate::catalog::reserved::must_be_ours;

/// Creates schema `pgshunt` on a node with the journal, the fences, their trigger's function and a
/// type that the leaves' CHECKs name.
/// Doing it again changes nothing.
///
/// # Errors
/// Also if the schema is somebody else's.
pub async fn ensure_node_schema(client: &Client) -> Result<(), Error> {
    let ours = must_be_ours(&["pgshunt".into()]);
    client.batch_execute(&ours).await?;
    let there = client
        .query_one(
            "SELECT to_regclass('pgshunt.move_journal') IS NOT NULL
                AND to_regclass('pgshunt.fences') IS NOT NULL
                AND to_regtype('pgshunt.contradiction') IS NOT NULL
                AND to_regprocedure('pgshunt.fence()') IS NOT NULL",
            &[],
        )
        .await?;
    if there.get(0) {
        return Ok(());
    }
    // IF NOT EXISTS does not bear two sessions at once; the lock does. One simple query is one
    // transaction.
    client
        .batch_execute(&format!(
            "SELECT pg_advisory_xact_lock(hashtextextended('pgshunt.node', 0));\n{}\n{ours}",
            include_str!("node.sql")
        ))
        .await
}
