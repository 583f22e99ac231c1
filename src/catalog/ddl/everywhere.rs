//! One transaction on all nodes, ended on all of them or on none.
//!
//! ```text
//!   home     BEGIN  lock ........................ decision row  COMMIT ──► decided
//!   others   BEGIN  ........ PREPARE TRANSACTION                            COMMIT PREPARED
//! ```
//!
//! The home node's commit is the decision: its transaction carries a row of `pgshunt.decisions` that
//! names the others' prepared transactions. A crash before it leaves prepared transactions without
//! a row, a crash after it leaves them with one, and [`recover`] ends either kind. It asks under the
//! same advisory lock that the transaction holds up to its commit, so it never judges one that is
//! still being decided, by this process or another.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use rand::Rng;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{DdlError, Notice};
use crate::backend::control::Notices;
use crate::backend::settings;
use crate::catalog::Store;
use crate::failpoint;
use crate::topology::{Node, RoutingTable};

/// What every global transaction identifier of DDL begins with.
const GID_PREFIX: &str = "pgshunt_ddl_";

/// A client's open transaction and its DDL may wait for each other through two nodes, where no node
/// sees the deadlock. So DDL gives up first.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a refused statement's answer waits for the nodes to have undone it.
const UNDO_PATIENCE: Duration = Duration::from_secs(5);

/// A session on one node, inside a transaction, as the service role.
pub struct Peer {
    pub node: Arc<Node>,
    pub client: Arc<Client>,
    notices: Notices,
}

impl Peer {
    pub(super) async fn begin(store: &Store, node: Arc<Node>) -> Result<Self, DdlError> {
        let (client, notices) = store.connector().connect_noticing(&node).await.map_err(|e| {
            DdlError::from(e).hint("DDL goes to all nodes, so all must be reachable.")
        })?;
        let peer = Self { node, client: Arc::new(client), notices };
        peer.run(&format!("BEGIN; SET LOCAL lock_timeout = {}", LOCK_TIMEOUT.as_millis())).await?;
        Ok(peer)
    }

    /// The service role's again, after it has acted for a client: it prints names and constants so that
    /// every node reads them alike.
    pub(super) async fn back(&self) -> Result<(), DdlError> {
        let (back, lock) = (settings::back(), LOCK_TIMEOUT.as_millis());
        self.run(&format!("{back}; SET LOCAL lock_timeout = {lock}")).await
    }

    /// Runs statements of ours; an error names the node.
    pub async fn run(&self, sql: &str) -> Result<(), DdlError> {
        self.client.batch_execute(sql).await.map_err(|e| self.blame(e))
    }

    pub fn blame(&self, e: tokio_postgres::Error) -> DdlError {
        DdlError::from(e).on_node(&self.node.name)
    }

    pub async fn set(&self, name: &str, value: &str) -> Result<(), DdlError> {
        self.client.execute("SELECT pg_catalog.set_config($1, $2, true)", &[&name, &value]).await?;
        Ok(())
    }

    /// What the node had to say since the last call.
    pub(super) fn notices(&mut self) -> Vec<Notice> {
        let (said, left_out) = self.notices.take();
        let mut notices: Vec<Notice> = said.into_iter().map(Notice::from).collect();
        if left_out > 0 {
            notices.push(Notice {
                severity: "NOTICE".into(),
                sqlstate: "00000".into(),
                message: format!("{left_out} more notices of this statement are left out"),
                detail: None,
                hint: None,
            });
        }
        notices
    }
}

/// An open transaction on every node. Dropped, it is undone everywhere.
pub struct Everywhere {
    pub home: Peer,
    pub others: Vec<Peer>,
    pub routes: Arc<RoutingTable>,
    /// What the client is to be told besides.
    pub(super) warnings: Vec<Notice>,
    gid: String,
}

impl Everywhere {
    /// Waits for other DDL to end, then begins on all nodes of the newest catalog.
    pub async fn begin(store: &Store) -> Result<Self, DdlError> {
        let home = Peer::begin(store, store.routes().load().home().clone()).await?;
        lock(&home).await?;
        let routes = store.reload().await?;
        let others = routes.nodes().filter(|n| !n.is_home).cloned();
        let others = try_join_all(others.map(|n| Peer::begin(store, n))).await?;
        let gid = format!("{GID_PREFIX}{:016x}", rand::rng().random::<u64>());
        Ok(Self { home, others, routes, warnings: Vec::new(), gid })
    }

    /// What [`roll_back`] needs when this is gone.
    pub(super) fn sessions(&self) -> Vec<Arc<Client>> {
        self.peers().map(|p| p.client.clone()).collect()
    }

    /// Adds a node that is not in the catalog yet.
    pub async fn join(&mut self, store: &Store, node: Arc<Node>) -> Result<&Peer, DdlError> {
        self.others.push(Peer::begin(store, node).await?);
        self.others.last().ok_or_else(|| DdlError::new("XX000", "a node was just added"))
    }

    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        std::iter::once(&self.home).chain(&self.others)
    }

    /// Ends the transaction on all nodes. The nodes that could not be told of the decision are
    /// named; [`recover`] tells them later.
    ///
    /// Runs as a task of its own: a client that goes away shall not leave it half done.
    pub async fn commit(self) -> Result<Vec<String>, DdlError> {
        match tokio::spawn(self.end()).await {
            Ok(result) => result,
            Err(e) => Err(DdlError::new("XX000", format!("committing DDL: {e}"))),
        }
    }

    async fn end(self) -> Result<Vec<String>, DdlError> {
        let Self { home, others, gid, .. } = self;
        if others.is_empty() {
            home.run("COMMIT").await?;
            return Ok(Vec::new());
        }
        failpoint::hit("ddl_before_prepare");
        let prepare = format!("PREPARE TRANSACTION '{gid}'");
        let prepared = join_all(others.iter().map(|p| p.run(&prepare))).await;
        failpoint::hit("ddl_after_prepare");
        let decided = match prepared.into_iter().collect::<Result<Vec<()>, _>>() {
            Ok(_) => decide(&home, &gid).await,
            Err(e) => Err(Undecided::No(e)),
        };
        match decided {
            Ok(()) => {
                failpoint::hit("ddl_after_decision");
                let unaware = finish(&others, &format!("COMMIT PREPARED '{gid}'")).await;
                if unaware.is_empty() {
                    let forget = format!("DELETE FROM pgshunt.decisions WHERE gid = '{gid}'");
                    // Left behind, the row does no harm: recovery deletes it.
                    if let Err(error) = home.run(&forget).await {
                        tracing::debug!(%error, %gid, "decision row left for recovery");
                    }
                }
                Ok(unaware)
            }
            Err(Undecided::No(e)) => {
                finish(&others, &format!("ROLLBACK PREPARED '{gid}'")).await;
                Err(e)
            }
            // The commit may have happened: recovery will look, we must not guess.
            Err(Undecided::Unknown(e)) => Err(DdlError::new(
                "08007",
                "the home node broke off while the statement was committed",
            )
            .detail(e.message)
            .hint("It is either done on all nodes or on none; look before you repeat it.")),
        }
    }
}

/// Waits until the nodes have undone the transaction of a refused statement, so that the client's next one
/// does not meet it. Who takes longer undoes it when it finds the connection closed.
pub(super) async fn roll_back(sessions: Vec<Arc<Client>>) {
    let all = join_all(sessions.iter().map(|s| s.batch_execute("ROLLBACK")));
    if tokio::time::timeout(UNDO_PATIENCE, all).await.is_err() {
        tracing::debug!("a node takes long to undo a refused statement");
    }
}

enum Undecided {
    No(DdlError),
    Unknown(DdlError),
}

async fn decide(home: &Peer, gid: &str) -> Result<(), Undecided> {
    home.run(&format!("INSERT INTO pgshunt.decisions (gid) VALUES ('{gid}')"))
        .await
        .map_err(Undecided::No)?;
    failpoint::hit("ddl_before_decision");
    home.client.batch_execute("COMMIT").await.map_err(|e| match e.as_db_error() {
        Some(_) => Undecided::No(e.into()),
        None => Undecided::Unknown(e.into()),
    })
}

/// Runs the closing statement on all; returns the nodes on which it did not succeed.
async fn finish(peers: &[Peer], sql: &str) -> Vec<String> {
    let results = join_all(peers.iter().map(|p| p.client.batch_execute(sql))).await;
    peers
        .iter()
        .zip(results)
        .filter_map(|(peer, result)| {
            let error = result.err()?;
            // Not there: never prepared, or a recovery was faster.
            if error.code() == Some(&SqlState::UNDEFINED_OBJECT) {
                return None;
            }
            tracing::warn!(node = %peer.node.name, %error, sql, "left to recovery");
            Some(peer.node.name.clone())
        })
        .collect()
}

async fn lock(home: &Peer) -> Result<(), DdlError> {
    lock_by(home, "pg_advisory_xact_lock").await
}

/// Beside others that do the same, but not beside who changes all nodes or their number.
pub(super) async fn lock_shared(home: &Peer) -> Result<(), DdlError> {
    lock_by(home, "pg_advisory_xact_lock_shared").await
}

async fn lock_by(home: &Peer, function: &str) -> Result<(), DdlError> {
    let sql = format!("SELECT {function}(hashtextextended('pgshunt.ddl', 0))");
    home.run(&sql).await.map_err(|e| match e.sqlstate.as_str() {
        "55P03" => DdlError::new("55P03", "another DDL statement on the cluster is running")
            .hint("Try again when it has ended."),
        _ => e,
    })
}

/// What [`recover`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    pub committed: usize,
    pub rolled_back: usize,
    /// Nodes that could not be asked: recover again later.
    pub unreachable: Vec<String>,
}

/// Ends the prepared transactions that a crash, or a lost connection, left behind: each as
/// `pgshunt.decisions` says, and undone if it says nothing.
pub async fn recover(store: &Store) -> Result<Recovered, DdlError> {
    let home = Peer::begin(store, store.routes().load().home().clone()).await?;
    lock(&home).await?;
    let routes = store.reload().await?;
    let mut done = Recovered::default();
    for node in routes.nodes().filter(|n| !n.is_home) {
        match recover_node(store, &home, node).await {
            Ok((committed, rolled_back)) => {
                done.committed += committed;
                done.rolled_back += rolled_back;
            }
            Err(error) => {
                tracing::warn!(node = %node.name, %error, "DDL is not recovered there yet");
                done.unreachable.push(node.name.clone());
            }
        }
    }
    if done.unreachable.is_empty() {
        // Only decisions seen under the lock: all of them are carried out now.
        home.client
            .execute("DELETE FROM pgshunt.decisions WHERE starts_with(gid, $1)", &[&GID_PREFIX])
            .await?;
    }
    home.run("COMMIT").await?;
    Ok(done)
}

/// Ends what was left on one node; returns how many were committed and rolled back. `home` holds
/// the lock.
pub async fn recover_node(
    store: &Store,
    home: &Peer,
    node: &Node,
) -> Result<(usize, usize), DdlError> {
    let (mut committed, mut rolled_back) = (0, 0);
    let client = store.connector().connect(node).await?;
    let left = client
        .query(
            "SELECT gid FROM pg_prepared_xacts \
             WHERE starts_with(gid, $1) AND database = current_database()",
            &[&GID_PREFIX],
        )
        .await?;
    for row in left {
        let gid: String = row.try_get(0)?;
        let decided = home
            .client
            .query_opt("SELECT 1 FROM pgshunt.decisions WHERE gid = $1", &[&gid])
            .await?
            .is_some();
        let verb = if decided { "COMMIT" } else { "ROLLBACK" };
        let quoted = postgres_protocol::escape::escape_literal(&gid);
        match client.batch_execute(&format!("{verb} PREPARED {quoted}")).await {
            Ok(()) => tracing::info!(node = %node.name, %gid, verb, "ended a prepared transaction"),
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_OBJECT) => continue,
            Err(e) => return Err(e.into()),
        }
        *(if decided { &mut committed } else { &mut rolled_back }) += 1;
    }
    Ok((committed, rolled_back))
}
