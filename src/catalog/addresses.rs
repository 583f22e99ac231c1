//! Where the nodes are: the catalog says it, and the configuration may say something newer.
//!
//! The configuration makes the catalog once; later its addresses are what an operator has changed when a
//! server has moved. At each start the catalog follows it, node by node and by name, as far as the server
//! at the new address proves to be that node: the home node by holding the catalog, another one by the
//! schemas of the shards it serves.

use tokio_postgres::Client;

use super::store::CatalogError;
use crate::backend::control::Connector;
use crate::config::ClusterNode;
use crate::topology::{Node, PlacementState, Rows};

/// What is to be said about a node that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Differs {
    /// The catalog knows no node of the name.
    Unknown,
    /// It has it at another address.
    Elsewhere(String),
}

/// How the catalog's rows differ from what the configuration says of a node.
pub fn differs(rows: &Rows, said: &ClusterNode) -> Option<Differs> {
    let Some(known) = rows.nodes.iter().find(|n| n.name == said.name) else {
        return Some(Differs::Unknown);
    };
    let same = known.host == said.host && known.port == said.port;
    (!same).then(|| Differs::Elsewhere(format!("{}:{}", known.host, known.port)))
}

/// Of the shards that the node of this name serves by the catalog, one whose schema the server lacks.
pub async fn lacks(
    server: &Client,
    rows: &Rows,
    name: &str,
) -> Result<Option<String>, tokio_postgres::Error> {
    let Some(node) = rows.nodes.iter().find(|n| n.name == name) else { return Ok(None) };
    let serves = rows.placements.iter();
    let serves = serves.filter(|p| p.node == node.id && p.state == PlacementState::Active);
    let schemas: Vec<String> = serves.map(|p| format!("shard_{}", p.shard)).collect();
    let sql = "SELECT s FROM pg_catalog.unnest($1::text[]) s \
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = s) LIMIT 1";
    Ok(server.query_opt(sql, &[&schemas]).await?.map(|r| r.get(0)))
}

/// Brings the catalog's addresses up to date. True: some have changed.
pub(super) async fn follow(
    connector: &Connector,
    home: &mut Client,
    rows: &Rows,
    said: &[ClusterNode],
) -> Result<bool, CatalogError> {
    let mut changed = false;
    for node in said {
        let was = match differs(rows, node) {
            None => continue,
            Some(Differs::Unknown) => {
                tracing::warn!(
                    node = node.name,
                    "the configuration names a node that the cluster does not have: ADD NODE makes it one"
                );
                continue;
            }
            Some(Differs::Elsewhere(was)) => was,
        };
        let known = rows.nodes.iter().find(|n| n.name == node.name);
        let Some(known) = known else { continue };
        if let Err(why) = is_it(connector, known, node, rows).await {
            tracing::warn!(
                node = node.name, %was, now = format!("{}:{}", node.host, node.port), why,
                "the configuration has another address for a node, which is not used"
            );
            continue;
        }
        let tx = home.transaction().await?;
        tx.execute(
            "UPDATE pgshunt.nodes SET host = $1, port = $2 WHERE node_id = $3",
            &[&node.host, &i32::from(node.port), &known.id.0],
        )
        .await?;
        super::raise_epoch(&tx).await?;
        tx.commit().await?;
        tracing::info!(
            node = node.name, %was, now = format!("{}:{}", node.host, node.port),
            "a node has another address now"
        );
        changed = true;
    }
    Ok(changed)
}

/// Whether the server at the address that the configuration says is this node.
async fn is_it(
    connector: &Connector,
    known: &Node,
    said: &ClusterNode,
    rows: &Rows,
) -> Result<(), String> {
    if known.is_home {
        // The catalog has just been read there.
        return Ok(());
    }
    let there = Node { host: said.host.clone(), port: said.port, ..known.clone() };
    let server = connector.connect(&there).await.map_err(|e| e.to_string())?;
    match lacks(&server, rows, &known.name).await {
        Ok(None) => Ok(()),
        Ok(Some(schema)) => Err(format!("the server there has no schema {schema}")),
        Err(e) => Err(e.to_string()),
    }
}
