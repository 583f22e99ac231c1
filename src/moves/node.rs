//! What moves need on every node.

use tokio_postgres::{Client, Error};

/// Creates schema `pgshunt` on a node with the journal, the fences, their trigger's function and a
/// type that the leaves' CHECKs name.
/// Doing it again changes nothing.
pub async fn ensure_node_schema(client: &Client) -> Result<(), Error> {
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
        .batch_execute(concat!(
            "SELECT pg_advisory_xact_lock(hashtextextended('pgshunt.node', 0));\n",
            include_str!("node.sql")
        ))
        .await
}
