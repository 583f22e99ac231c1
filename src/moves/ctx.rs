//! What the steps of one move work with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::error::StepError;
use super::link::Link;
use super::plan::Plan;
use super::progress::Progress;
use crate::backend::control::Connector;
use crate::catalog::Store;
use crate::catalog::moves;
use crate::config;
use crate::gate::Gates;
use crate::topology::{MoveId, Node, NodeId};

/// What the console asks of a running move. Level-triggered: it stays asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    None,
    Cancel,
    /// FINISH MOVE: soaking ends now.
    Finish,
    /// ROLLBACK MOVE: stop soaking and leave everything as it is.
    HandOver,
}

/// Any key; it only has to differ from other users' of two-key advisory locks.
const LOCK_CLASS: i32 = 0x7067_7368;

pub struct Ctx {
    pub plan: Plan,
    pub store: Arc<Store>,
    pub gates: Gates,
    pub config: config::Moves,
    /// Holds the advisory lock: while this connection lives, the move is ours.
    pub home: Link,
    pub source: Link,
    pub target: Link,
    pub progress: watch::Sender<Progress>,
    pub signal: watch::Receiver<Signal>,
    /// DETACHes whose second phase waits in the background.
    pub detaching: Vec<JoinHandle<Result<(), StepError>>>,
    /// How long the soaking has lasted already, by the catalog.
    pub soaked: Duration,
    pub soaking_since: Option<Instant>,
}

impl Ctx {
    pub fn connector(&self) -> &Arc<Connector> {
        self.store.connector()
    }

    pub async fn open_link(&self, node: &Arc<Node>) -> Result<Link, StepError> {
        Link::open(self.store.connector(), node, self.plan.id).await
    }

    /// Renews whatever connection was lost; with the one to home, the lock.
    pub async fn ensure_links(&mut self) -> Result<(), StepError> {
        self.ensure_home().await?;
        let connector = self.store.connector().clone();
        self.source.ensure(&connector, self.plan.id).await?;
        self.target.ensure(&connector, self.plan.id).await
    }

    pub async fn ensure_home(&mut self) -> Result<(), StepError> {
        if self.home.is_closed() {
            let (node, connector) = (self.home.node.clone(), self.store.connector().clone());
            self.home = lock_home(&connector, &node, self.plan.id, self.plan.rollback_of).await?;
        }
        Ok(())
    }

    /// After a step was dropped half-way: whatever it left running on the nodes ends, and the
    /// connections are fresh.
    pub async fn renew_links(&mut self) -> Result<(), StepError> {
        let (id, connector) = (self.plan.id, self.store.connector().clone());
        for link in [&mut self.source, &mut self.target] {
            let fresh = Link::open(&connector, &link.node.clone(), id).await?;
            // Home may be one of the two: its session holds the lock.
            fresh.end_others(id, &self.home).await?;
            *link = fresh;
        }
        Ok(())
    }

    pub fn link_to(&self, node: NodeId) -> Option<&Link> {
        [&self.source, &self.target].into_iter().find(|l| l.node.id == node)
    }

    pub fn show(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// Promises the removal of something that is about to be made on `node`.
    pub async fn promise(&self, node: NodeId, kind: &str, name: &str) -> Result<(), StepError> {
        let base = self.plan.base();
        self.home.told(
            "promising a cleanup",
            moves::promise(&self.home.client, base, node, kind, name).await,
        )
    }
}

/// Connects to home and takes the move's advisory lock (a rollback's also that of the move it
/// takes back).
pub async fn lock_home(
    connector: &Connector,
    home: &Arc<Node>,
    id: MoveId,
    rollback_of: Option<MoveId>,
) -> Result<Link, StepError> {
    let link = Link::open(connector, home, id).await?;
    for id in [Some(id), rollback_of].into_iter().flatten() {
        lock(&link, id).await?;
    }
    Ok(link)
}

/// This process has the catalog to itself (`catalog::owner`), so whoever holds the lock is a session
/// of a predecessor, or an old one of ours, whose end the server has not noticed.
async fn lock(link: &Link, id: MoveId) -> Result<(), StepError> {
    const TRIES: u32 = 50;
    let (doing, key) = ("locking the move", id.0 as i32);
    for tried in 0..TRIES {
        let got: bool = link
            .one(doing, "SELECT pg_try_advisory_lock($1, $2)", &[&LOCK_CLASS, &key])
            .await?
            .get(0);
        if got {
            return Ok(());
        }
        if tried == TRIES / 2 {
            link.query(
                doing,
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
                 AND classid = $1::int::oid AND objid = $2::int::oid AND objsubid = 2
                 AND pid <> pg_backend_pid()",
                &[&LOCK_CLASS, &key],
            )
            .await?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(StepError::LockLost)
}
