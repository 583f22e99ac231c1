//! Shards that stay where they are while a client's transaction changes their tables.
//!
//! The transaction runs on the client's own connections. What it needs besides is held for it by a
//! transaction of pgshunt's on the home node: other DDL of pgshunt's, a node that is to be added, and moves
//! of these groups wait for its end. With that the routing table is read anew, whatever became of
//! the client. Several clients may hold one group.

use std::sync::Arc;

use futures_util::future::try_join_all;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::everywhere::lock_shared;
use super::{DdlError, Peer, no_move, trust};
use crate::catalog::reserved::must_be_ours;
use crate::catalog::{Store, raise_epoch};
use crate::topology::{GroupId, Node};

/// What is held for one transaction; dropped, it ends.
#[derive(Debug, Clone)]
pub struct Stay(mpsc::Sender<Asked>);

#[derive(Debug)]
enum Asked {
    Hold(Vec<GroupId>, oneshot::Sender<Result<(), DdlError>>),
    /// It is told when the routing table is the newest.
    End(oneshot::Sender<()>),
}

impl Stay {
    /// Begins to hold something. Waits for DDL that is under way; every node must be reachable.
    pub async fn begin(store: &Arc<Store>) -> Result<Self, DdlError> {
        let _permit = store.permit().await?;
        let home = Peer::begin(store, store.routes().load().home().clone()).await?;
        lock_shared(&home).await?;
        let routes = store.reload().await?;
        try_join_all(routes.nodes().map(|n| make_ready(store, n))).await?;
        let (ask, asked) = mpsc::channel(1);
        tokio::spawn(hold(store.clone(), home, asked));
        Ok(Self(ask))
    }

    /// Holds the shards of these groups where they are, too.
    pub async fn hold(&self, groups: Vec<GroupId>) -> Result<(), DdlError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.0.send(Asked::Hold(groups, answer)).await;
        let gone = || DdlError::new("08006", "the home node broke off");
        sent.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The client's transaction has ended: returns when everybody goes by what it has changed.
    pub async fn end(self) {
        let (told, ended) = oneshot::channel();
        if self.0.send(Asked::End(told)).await.is_ok() {
            drop(self);
            let _ = ended.await;
        }
    }
}

async fn hold(store: Arc<Store>, home: Peer, mut asked: mpsc::Receiver<Asked>) {
    let mut told = None;
    while let Some(next) = asked.recv().await {
        match next {
            Asked::Hold(groups, answer) => {
                let _ = answer.send(hold_groups(&home, &groups).await);
            }
            Asked::End(ended) => {
                told = Some(ended);
                break;
            }
        }
    }
    let published = async {
        raise_epoch(&*home.client).await?;
        home.run("COMMIT").await?;
        store.reload().await?;
        Ok::<_, DdlError>(())
    };
    if let Err(error) = published.await {
        tracing::warn!(%error, "the routing table could not be read after a transaction with DDL");
    }
    if let Some(told) = told {
        let _ = told.send(());
    }
}

async fn hold_groups(home: &Peer, groups: &[GroupId]) -> Result<(), DdlError> {
    home.run("SAVEPOINT held").await?;
    for group in groups {
        if let Err(e) = no_move(home, *group, "SHARE").await {
            home.run("ROLLBACK TO SAVEPOINT held; RELEASE SAVEPOINT held").await?;
            return Err(e);
        }
    }
    home.run("RELEASE SAVEPOINT held").await
}

/// Makes `pgshunt.settle` on a node, as this version has it.
async fn make_ready(store: &Store, node: &Arc<Node>) -> Result<(), DdlError> {
    const SAYS: &str =
        "SELECT obj_description(to_regprocedure('pgshunt.settle(text)'), 'pg_proc') = $1";
    let function = include_str!("settle.sql")
        .replace("{parts}", trust::PARTS.trim_start_matches("WITH "))
        .replace("{trusted}", trust::TRUSTED)
        .replace("$1", "parent");
    let version: String = Sha256::digest(&function).iter().map(|b| format!("{b:02x}")).collect();
    let client = store.connector().connect(node).await?;
    let known: Option<bool> = client.query_one(SAYS, &[&version]).await?.try_get(0)?;
    if known == Some(true) {
        return Ok(());
    }
    let ours = must_be_ours(&["pgshunt".into()]);
    let sql = format!(
        "SELECT pg_advisory_xact_lock(hashtextextended('pgshunt.node', 0)); \
         CREATE SCHEMA IF NOT EXISTS pgshunt; {ours}; GRANT USAGE ON SCHEMA pgshunt TO PUBLIC; {function}; \
         COMMENT ON FUNCTION pgshunt.settle(text) IS '{version}'"
    );
    client.batch_execute(&sql).await.map_err(|e| DdlError::from(e).on_node(&node.name))
}
