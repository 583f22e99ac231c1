//! Clients' transactions over several nodes that a crash, or a lost connection, has left prepared.
//!
//! The name of each tells which node's transaction decides about it ([`crate::commit::Gid`]). That node is
//! asked what became of that transaction, and the prepared one ends alike. A decider's own that stands
//! prepared for long has lost its session, and is rolled back: then that is the decision, and a session
//! that comes too late finds it made. Nobody has to own this: whoever does it, and however often, does the
//! same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{CatalogError, Store};
use crate::commit::{Gid, PREFIX};
use crate::topology::{Node, NodeId};

/// A session decides within moments of having prepared its participants.
const PATIENCE: &str = "5 s";

/// What [`recover`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    pub committed: usize,
    pub rolled_back: usize,
    /// Left for later: undecided, or one of the nodes cannot be reached.
    pub left: usize,
}

/// Looks at once, every so often, and whenever a session says that it has left something
/// ([`Store::leftovers`]), until dropped; for as long as something is left, again and again.
pub async fn keep_recovering(store: Arc<Store>, every: Duration) {
    const AGAIN: Duration = Duration::from_secs(1);
    let mut looks = true;
    loop {
        let done = recover(&store).await;
        looks |= done.committed + done.rolled_back > 0;
        if looks && done.left == 0 {
            // They may have made distributed tables, or dropped some.
            match super::ddl::forget_lost(&store).await {
                Ok(over) => looks = !over,
                Err(error) => {
                    tracing::warn!(%error, "lost entries of tables are not looked for yet")
                }
            }
        }
        if done.committed + done.rolled_back > 0 {
            tracing::info!(?done, "recovered transactions");
            // They may have changed distributed tables.
            if let Err(error) = store.reload().await {
                tracing::warn!(%error, "the routing table could not be read after a recovery");
            }
        }
        let pause = if done.left > 0 || looks { AGAIN } else { every };
        // Who comes too late to be heard by this look is heard by the next.
        let _ = tokio::time::timeout(pause, store.leftovers().notified()).await;
    }
}

/// Connections to the nodes that have been asked.
struct Nodes<'a> {
    store: &'a Store,
    known: BTreeMap<NodeId, Arc<Client>>,
}

impl Nodes<'_> {
    async fn connect(&mut self, node: &Node) -> Result<Arc<Client>, CatalogError> {
        if let Some(known) = self.known.get(&node.id) {
            return Ok(known.clone());
        }
        let client = Arc::new(self.store.connector().connect(node).await?);
        self.known.insert(node.id, client.clone());
        Ok(client)
    }

    /// Whether the deciding transaction has committed; `None`: it is still in progress.
    async fn outcome(&mut self, gid: &Gid) -> Result<Option<bool>, CatalogError> {
        let routes = self.store.routes().load();
        let Some(node) = routes.node(gid.decider) else { return Ok(None) };
        let client = self.connect(node).await?;
        let row = client
            .query_one("SELECT pg_xact_status($1::text::xid8)", &[&gid.xid.to_string()])
            .await?;
        let status: Option<String> = row.try_get(0)?;
        Ok(match status.as_deref() {
            Some("committed") => Some(true),
            Some("aborted") => Some(false),
            _ => None,
        })
    }
}

/// Ends what was left prepared on the nodes that can be reached; the others are left for the next time.
pub async fn recover(store: &Store) -> Recovered {
    let mut nodes = Nodes { store, known: BTreeMap::new() };
    let mut done = Recovered::default();
    let routes = store.routes().load();
    let lost = store.sights().lost();
    for node in routes.nodes() {
        let before = done.left;
        if let Err(error) = recover_node(&mut nodes, node, &mut done).await {
            tracing::warn!(node = %node.name, %error, "transactions are not recovered there yet");
            done.left += 1;
        }
        if done.left == before {
            store.sights().recovered(node.id, &lost);
        }
    }
    done
}

async fn recover_node(
    nodes: &mut Nodes<'_>,
    node: &Node,
    done: &mut Recovered,
) -> Result<(), CatalogError> {
    let client = nodes.connect(node).await?;
    let left = client
        .query(
            "SELECT gid, prepared < clock_timestamp() - $2::text::interval FROM pg_prepared_xacts \
             WHERE starts_with(gid, $1) AND database = current_database()",
            &[&PREFIX, &PATIENCE],
        )
        .await?;
    for row in left {
        let name: String = row.try_get(0)?;
        let Ok(gid) = name.parse::<Gid>() else { continue };
        let outcome = match gid.is_deciders() {
            true => Ok(row.try_get::<_, bool>(1)?.then_some(false)),
            false => nodes.outcome(&gid).await,
        };
        let committed = match outcome {
            Ok(Some(committed)) => committed,
            Ok(None) => {
                done.left += 1;
                continue;
            }
            Err(error) => {
                tracing::warn!(node = %node.name, %gid, %error, "its decider cannot be asked");
                done.left += 1;
                continue;
            }
        };
        let verb = if committed { "COMMIT" } else { "ROLLBACK" };
        match client.batch_execute(&format!("{verb} PREPARED '{gid}'")).await {
            Ok(()) => tracing::info!(node = %node.name, %gid, verb, "ended a prepared transaction"),
            // Its session was faster.
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_OBJECT) => continue,
            Err(e) => return Err(e.into()),
        }
        *(if committed { &mut done.committed } else { &mut done.rolled_back }) += 1;
    }
    Ok(())
}
