//! Deadlocks over several nodes.
//!
//! A node finds the circles of its own locks. A circle that leads through two nodes neither of them
//! sees, so pgshunt looks: it knows which server processes are one client's transaction, and asks the
//! nodes who waits for whom. What it finds twice in a row it ends: the client that came last is told
//! 40P01, as by PostgreSQL. Nobody looks while fewer than two transactions hold connections to several
//! nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashMap;
use tokio_postgres::Client;

use crate::catalog::Store;
use crate::commit::waits::{Waiter, circle, victim};
use crate::topology::NodeId;

/// How often it is looked; PostgreSQL waits as long before it looks for a deadlock of its own.
const EVERY: Duration = Duration::from_secs(1);

/// Who waits, and for whom, by their process ids.
const WAITS: &str = "SELECT DISTINCT l.pid, b.pid FROM pg_locks l, \
     LATERAL unnest(pg_blocking_pids(l.pid)) AS b (pid) WHERE NOT l.granted AND l.pid IS NOT NULL";

/// A transaction that holds connections to several nodes.
struct Held {
    processes: Vec<(NodeId, i32)>,
    /// Its statement is cancelled because of a deadlock.
    chosen: Arc<AtomicBool>,
}

/// All of them.
#[derive(Default)]
pub struct Deadlocks(Mutex<HashMap<u64, Held>>);

impl Deadlocks {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Held>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The client holds these connections; with fewer than two it is in no circle over several nodes.
    pub(super) fn note(
        &self,
        client: u64,
        processes: Vec<(NodeId, i32)>,
        chosen: &Arc<AtomicBool>,
    ) {
        if processes.len() > 1 {
            self.lock().insert(client, Held { processes, chosen: chosen.clone() });
        } else {
            self.lock().remove(&client);
        }
    }

    /// Whose each of these processes is.
    fn owners(&self) -> HashMap<(NodeId, i32), u64> {
        let all = self.lock();
        all.iter().flat_map(|(id, held)| held.processes.iter().map(|p| (*p, *id))).collect()
    }

    fn choose(&self, client: u64) {
        if let Some(held) = self.lock().get(&client) {
            held.chosen.store(true, Ordering::Relaxed);
        }
    }
}

/// Looks for circles until dropped.
pub async fn watch(deadlocks: Arc<Deadlocks>, store: Arc<Store>) {
    let mut nodes: BTreeMap<NodeId, Client> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let owners = deadlocks.owners();
        let clients: BTreeSet<u64> = owners.values().copied().collect();
        if clients.len() < 2 {
            (nodes, seen) = (BTreeMap::new(), BTreeSet::new());
            continue;
        }
        let mut waits = BTreeMap::<Waiter, BTreeSet<Waiter>>::new();
        // Where each client waits: there its statement can be cancelled.
        let mut at = HashMap::new();
        let ids: BTreeSet<NodeId> = owners.keys().map(|(node, _)| *node).collect();
        for id in ids {
            let Some(found) = look(&mut nodes, &store, id).await else { continue };
            let who = |pid| match owners.get(&(id, pid)) {
                Some(client) => Waiter::Client(*client),
                None => Waiter::Process(id, pid),
            };
            for (waits_here, blocks) in found {
                if let Waiter::Client(client) = who(waits_here) {
                    at.insert(client, (id, waits_here));
                }
                waits.entry(who(waits_here)).or_default().insert(who(blocks));
            }
        }
        let found = circle(&waits).unwrap_or_default();
        let again = !found.is_empty() && found == seen;
        seen = found;
        let Some(client) = victim(&seen).filter(|_| again) else { continue };
        let Some((node, pid)) = at.get(&client) else { continue };
        tracing::info!(client, ?seen, "a deadlock over several nodes is ended");
        deadlocks.choose(client);
        if let Some(node) = nodes.get(node)
            && let Err(error) = node.execute("SELECT pg_cancel_backend($1)", &[pid]).await
        {
            tracing::warn!(%error, "its statement could not be cancelled");
        }
        seen = BTreeSet::new();
    }
}

/// Who waits for whom on a node; `None`: it cannot be asked.
async fn look(
    nodes: &mut BTreeMap<NodeId, Client>,
    store: &Store,
    id: NodeId,
) -> Option<Vec<(i32, i32)>> {
    if let std::collections::btree_map::Entry::Vacant(free) = nodes.entry(id) {
        let node = store.routes().load().node(id)?.clone();
        match store.connector().connect(&node).await {
            Ok(client) => free.insert(client),
            Err(error) => {
                tracing::debug!(node = %node.name, %error, "it cannot be asked who waits there");
                return None;
            }
        };
    }
    let rows = match nodes.get(&id)?.query(WAITS, &[]).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::debug!(%error, "who waits for whom");
            nodes.remove(&id);
            return None;
        }
    };
    Some(rows.iter().filter_map(|r| Some((r.try_get(0).ok()?, r.try_get(1).ok()?))).collect())
}
