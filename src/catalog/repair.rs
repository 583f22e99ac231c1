//! Placements that have been lost are found again on the nodes.
//!
//! Who serves a shard is a fact of the node where its leaves are attached; the catalog's placement is a
//! copy of that fact. A catalog that names no serving node for a shard, or two, is mended by the
//! fact, so that a bug or a hand in the catalog does not keep all the others from being served.

use tokio_postgres::Client;

use super::{CatalogError, moves, raise_epoch};
use crate::backend::control::Connector;
use crate::topology::{BuildError, Node, NodeId, RoutingTable, Rows, ShardId};

/// What came of the catalog's rows.
pub enum Built {
    Table(RoutingTable),
    /// A placement was mended; the rows are to be read anew.
    Mended,
}

/// Builds the routing table, or mends the first shard that has no serving placement or two.
pub async fn build(
    connector: &Connector,
    client: &mut Client,
    rows: &Rows,
) -> Result<Built, CatalogError> {
    let error = match RoutingTable::build(rows) {
        Ok(table) => return Ok(Built::Table(table)),
        Err(error) => error,
    };
    let (BuildError::NotServed(shard) | BuildError::ServedTwice(shard)) = error else {
        return Err(error.into());
    };
    let Some(node) = serving(connector, client, rows, shard).await? else {
        return Err(error.into());
    };
    tracing::warn!(shard = shard.0, node = node.0, "a placement is mended by what the nodes say");
    let tx = client.transaction().await?;
    let epoch = raise_epoch(&tx).await?;
    tx.execute(
        "DELETE FROM pgshunt.placements \
         WHERE shard_id = $1 AND node_id <> $2 AND role = 'primary' AND state = 'active'",
        &[&shard.0, &node.0],
    )
    .await?;
    tx.execute(
        "INSERT INTO pgshunt.placements (shard_id, node_id, state, since) \
         VALUES ($1, $2, 'active', $3) ON CONFLICT (shard_id, node_id) \
         DO UPDATE SET role = 'primary', state = 'active', since = EXCLUDED.since",
        &[&shard.0, &node.0, &epoch.0],
    )
    .await?;
    tx.commit().await?;
    Ok(Built::Mended)
}

/// The node that serves a shard. While a move has not switched it is the move's source: what its
/// journal says is asked by the move's own recovery.
async fn serving(
    connector: &Connector,
    client: &Client,
    rows: &Rows,
    shard: ShardId,
) -> Result<Option<NodeId>, CatalogError> {
    let open = moves::unfinished(client).await?;
    let mut open = open.iter().filter(|m| m.shard == shard);
    if let Some(m) = open.find(|m| m.state == "ready" || m.state == "cutover") {
        return Ok(Some(m.source));
    }
    let mut found = None;
    for node in &rows.nodes {
        if has_it_attached(connector, node, shard).await? && found.replace(node.id).is_some() {
            return Ok(None);
        }
    }
    Ok(found)
}

async fn has_it_attached(
    connector: &Connector,
    node: &Node,
    shard: ShardId,
) -> Result<bool, CatalogError> {
    let client = connector.connect(node).await?;
    let leaves = client
        .query_opt(
            "SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relispartition AND NOT i.inhdetachpending LIMIT 1",
            &[&format!("shard_{shard}")],
        )
        .await?;
    Ok(leaves.is_some())
}
