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
    let mut proven = Vec::new();
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
        match is_it(connector, known, node, rows).await {
            Ok(()) => proven.push(Change { known, said: node, was }),
            Err(why) => Change { known, said: node, was }.is_not_made(&why),
        }
    }
    let changes = possible(&rows.nodes, proven);
    if changes.is_empty() {
        return Ok(false);
    }
    let tx = home.transaction().await?;
    // Nodes may have changed places: first none of them has an address, so that none has another's.
    let moving: Vec<i32> = changes.iter().map(|c| c.known.id.0).collect();
    tx.execute(
        "UPDATE pgshunt.nodes SET host = '', port = node_id WHERE node_id = ANY ($1)",
        &[&moving],
    )
    .await?;
    for Change { known, said, .. } in &changes {
        tx.execute(
            "UPDATE pgshunt.nodes SET host = $1, port = $2 WHERE node_id = $3",
            &[&said.host, &i32::from(said.port), &known.id.0],
        )
        .await?;
    }
    super::raise_epoch(&tx).await?;
    tx.commit().await?;
    for Change { said, was, .. } in &changes {
        tracing::info!(
            node = said.name, %was, now = format!("{}:{}", said.host, said.port),
            "a node has another address now"
        );
    }
    Ok(true)
}

/// Another address for a node.
struct Change<'a> {
    known: &'a Node,
    said: &'a ClusterNode,
    /// Where the catalog has it.
    was: String,
}

impl Change<'_> {
    fn is_not_made(&self, why: &str) {
        tracing::warn!(
            node = self.said.name, was = %self.was,
            now = format!("{}:{}", self.said.host, self.said.port), why,
            "the configuration has another address for a node, which is not used"
        );
    }
}

/// Those of the changes that leave each node an address of its own.
fn possible<'a>(nodes: &[Node], mut changes: Vec<Change<'a>>) -> Vec<Change<'a>> {
    // One that is not made keeps its address from others, so they are looked at again.
    loop {
        let taken = changes.iter().position(|c| {
            let here = |host: &str, port: u16| c.said.host == host && c.said.port == port;
            let moves = |id| changes.iter().find(|other| other.known.id == id);
            nodes.iter().filter(|n| n.id != c.known.id).any(|n| match moves(n.id) {
                Some(other) => here(&other.said.host, other.said.port),
                None => here(&n.host, n.port),
            })
        });
        match taken {
            Some(at) => changes.remove(at).is_not_made("another node has that address"),
            None => return changes,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::NodeId;

    /// The names of the nodes that get another address.
    fn moved(said: &[(&str, u16)]) -> Vec<String> {
        let node = |id, name: &str, port| Node {
            id: NodeId(id),
            name: name.into(),
            host: "h".into(),
            port,
            is_home: id == 1,
        };
        let nodes = [node(1, "a", 1), node(2, "b", 2), node(3, "c", 3)];
        let said: Vec<_> = said
            .iter()
            .map(|(name, port)| ClusterNode {
                name: (*name).to_owned(),
                host: "h".to_owned(),
                port: *port,
            })
            .collect();
        let changes = said.iter().map(|s| Change {
            known: nodes.iter().find(|n| n.name == s.name).unwrap(),
            said: s,
            was: String::new(),
        });
        let left = possible(&nodes, changes.collect());
        left.iter().map(|c| c.said.name.clone()).collect()
    }

    #[test]
    fn nodes_may_change_places_and_never_share_one() {
        assert_eq!(moved(&[("b", 3), ("c", 2)]), ["b", "c"]);
        assert_eq!(moved(&[("a", 2), ("b", 3), ("c", 1)]), ["a", "b", "c"], "in a circle");
        assert_eq!(moved(&[("b", 3)]), Vec::<String>::new(), "c stays there");
        assert_eq!(moved(&[("a", 2), ("b", 3)]), Vec::<String>::new(), "nor does b leave then");
        assert_eq!(moved(&[("b", 4), ("c", 4)]), ["c"], "one of the two");
    }
}
